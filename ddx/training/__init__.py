"""Training runs (state, step, loop, checkpoints), and what is done with their folders: sampling jobs above all."""

from ddx.training.latent_job import interpolate, reconstruct
from ddx.training.loop import Outcome, train
from ddx.training.measured import load_statistics
from ddx.training.sampling_job import sample

__all__ = ["Outcome", "interpolate", "load_statistics", "reconstruct", "sample", "train"]
