"""Training runs (state, step, loop, checkpoints) and sampling jobs from their folders."""

from ddx.training.latent_job import interpolate, reconstruct
from ddx.training.loop import Outcome, train
from ddx.training.sampling_job import sample

__all__ = ["Outcome", "interpolate", "reconstruct", "sample", "train"]
