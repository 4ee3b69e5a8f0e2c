"""ddx: the denoising diffusion family as pure JAX functions.

The names below are the public interface; they load on first use, so that importing ddx costs nothing and touches no
device.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "ddx.run",
    "Run": "ddx.run",
    "train": "ddx.training.loop",
    "ddpm": "ddx.diffusion.papers.ddpm",
    "iddpm": "ddx.diffusion.papers.iddpm",
    "blurring": "ddx.diffusion.papers.blurring",
    "ihdm": "ddx.diffusion.papers.ihdm",
    "rectified_flow": "ddx.diffusion.papers.rectified_flow",
    "process_from_betas": "ddx.diffusion.forward.process",
    "in_dct_basis": "ddx.diffusion.forward.process",
    "coloured": "ddx.diffusion.forward.colour",
    "Process": "ddx.diffusion.forward.process",
    "Level": "ddx.diffusion.forward.process",
    "NoiseSchedule": "ddx.diffusion.forward.schedules",
    "q_sample": "ddx.diffusion.forward.gaussian",
    "q_transition": "ddx.diffusion.forward.gaussian",
    "q_posterior": "ddx.diffusion.forward.gaussian",
    "step_coefficients": "ddx.diffusion.forward.gaussian",
    "gaussian_kl": "ddx.diffusion.forward.gaussian",
    "prior_kl": "ddx.diffusion.forward.gaussian",
    "denoiser": "ddx.diffusion.estimate.denoiser",
    "from_pixels": "ddx.diffusion.estimate.denoiser",
    "clipping": "ddx.diffusion.estimate.denoiser",
    "DynamicThreshold": "ddx.diffusion.estimate.clipping",
    "classifier_free_guidance": "ddx.diffusion.estimate.guidance",
    "classifier_guidance": "ddx.diffusion.estimate.guidance",
    "hutchinson": "ddx.diffusion.estimate.slope",
    "Denoiser": "ddx.diffusion.estimate.denoiser",
    "Denoised": "ddx.diffusion.estimate.denoiser",
    "trajectory": "ddx.diffusion.reverse.trajectory",
    "plan": "ddx.diffusion.reverse.walk",
    "walk": "ddx.diffusion.reverse.walk",
    "sample": "ddx.diffusion.reverse.walk",
    "progressive": "ddx.diffusion.reverse.film",
    "Plan": "ddx.diffusion.reverse.rows",
    "Row": "ddx.diffusion.reverse.rows",
    "Step": "ddx.diffusion.reverse.rows",
    "Solver": "ddx.diffusion.reverse.protocol",
    "dpm_v3": "ddx.diffusion.reverse.dpm_v3",
    "ModelStatistics": "ddx.diffusion.reverse.dpm_v3",
    "VarianceFn": "ddx.diffusion.reverse.variance",
    "sn": "ddx.diffusion.reverse.variance",
    "npr": "ddx.diffusion.reverse.variance",
    "ocm": "ddx.diffusion.reverse.variance",
    "heuristic": "ddx.diffusion.reverse.variance",
    "encode": "ddx.diffusion.reverse.encode",
    "encodable": "ddx.diffusion.reverse.encode",
    "probability_flow": "ddx.diffusion.reverse.flow",
    "slerp": "ddx.diffusion.reverse.interpolate",
    "interpolate": "ddx.diffusion.reverse.interpolate",
    "interpolate_diffused": "ddx.diffusion.reverse.interpolate",
    "coarse_to_fine": "ddx.diffusion.reverse.interpolate",
    "share_latent": "ddx.diffusion.reverse.interpolate",
    "inpaint": "ddx.diffusion.reverse.inpaint",
    "simple_loss": "ddx.diffusion.objective.losses",
    "kl_loss": "ddx.diffusion.objective.losses",
    "hybrid_loss": "ddx.diffusion.objective.losses",
    "head_loss": "ddx.diffusion.objective.losses",
    "bits_per_dim": "ddx.diffusion.bound.terms",
    "rate_distortion": "ddx.diffusion.bound.terms",
    "estimate_statistics": "ddx.diffusion.bound.statistics",
    "estimate_model_statistics": "ddx.diffusion.bound.model_statistics",
    "analytic": "ddx.diffusion.bound.analytic",
    "step_costs": "ddx.diffusion.bound.optimal",
    "bound_costs": "ddx.diffusion.bound.optimal",
    "picture_costs": "ddx.diffusion.bound.pictures",
    "optimal_trajectories": "ddx.diffusion.bound.optimal",
    "blur": "ddx.diffusion.papers.ihdm",
    "heat_sampler": "ddx.diffusion.papers.ihdm",
    "heat_prior": "ddx.diffusion.papers.ihdm",
    "heat_bits_per_dim": "ddx.diffusion.papers.ihdm_bound",
    "interpolate_heat": "ddx.diffusion.papers.ihdm",
    "kde_centres": "ddx.diffusion.papers.ihdm_bound",
}
_MODULES = (
    "config",
    "data",
    "diffusion",
    "evaluation",
    "features",
    "interop",
    "models",
    "runs",
    "runtime",
    "sampling",
    "system",
    "training",
)

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from ddx import config as config
    from ddx import data as data
    from ddx import diffusion as diffusion
    from ddx import evaluation as evaluation
    from ddx import features as features
    from ddx import interop as interop
    from ddx import models as models
    from ddx import runs as runs
    from ddx import runtime as runtime
    from ddx import sampling as sampling
    from ddx import system as system
    from ddx import training as training
    from ddx.diffusion.bound.analytic import analytic as analytic
    from ddx.diffusion.bound.model_statistics import estimate_model_statistics as estimate_model_statistics
    from ddx.diffusion.bound.optimal import bound_costs as bound_costs
    from ddx.diffusion.bound.optimal import optimal_trajectories as optimal_trajectories
    from ddx.diffusion.bound.optimal import step_costs as step_costs
    from ddx.diffusion.bound.pictures import picture_costs as picture_costs
    from ddx.diffusion.bound.statistics import estimate_statistics as estimate_statistics
    from ddx.diffusion.bound.terms import bits_per_dim as bits_per_dim
    from ddx.diffusion.bound.terms import rate_distortion as rate_distortion
    from ddx.diffusion.estimate.clipping import DynamicThreshold as DynamicThreshold
    from ddx.diffusion.estimate.denoiser import Denoised as Denoised
    from ddx.diffusion.estimate.denoiser import Denoiser as Denoiser
    from ddx.diffusion.estimate.denoiser import clipping as clipping
    from ddx.diffusion.estimate.denoiser import denoiser as denoiser
    from ddx.diffusion.estimate.denoiser import from_pixels as from_pixels
    from ddx.diffusion.estimate.guidance import classifier_free_guidance as classifier_free_guidance
    from ddx.diffusion.estimate.guidance import classifier_guidance as classifier_guidance
    from ddx.diffusion.estimate.slope import hutchinson as hutchinson
    from ddx.diffusion.forward.colour import coloured as coloured
    from ddx.diffusion.forward.gaussian import gaussian_kl as gaussian_kl
    from ddx.diffusion.forward.gaussian import prior_kl as prior_kl
    from ddx.diffusion.forward.gaussian import q_posterior as q_posterior
    from ddx.diffusion.forward.gaussian import q_sample as q_sample
    from ddx.diffusion.forward.gaussian import q_transition as q_transition
    from ddx.diffusion.forward.gaussian import step_coefficients as step_coefficients
    from ddx.diffusion.forward.process import Level as Level
    from ddx.diffusion.forward.process import Process as Process
    from ddx.diffusion.forward.process import in_dct_basis as in_dct_basis
    from ddx.diffusion.forward.process import process_from_betas as process_from_betas
    from ddx.diffusion.forward.schedules import NoiseSchedule as NoiseSchedule
    from ddx.diffusion.objective.losses import head_loss as head_loss
    from ddx.diffusion.objective.losses import hybrid_loss as hybrid_loss
    from ddx.diffusion.objective.losses import kl_loss as kl_loss
    from ddx.diffusion.objective.losses import simple_loss as simple_loss
    from ddx.diffusion.papers.blurring import blurring as blurring
    from ddx.diffusion.papers.ddpm import ddpm as ddpm
    from ddx.diffusion.papers.iddpm import iddpm as iddpm
    from ddx.diffusion.papers.ihdm import blur as blur
    from ddx.diffusion.papers.ihdm import heat_prior as heat_prior
    from ddx.diffusion.papers.ihdm import heat_sampler as heat_sampler
    from ddx.diffusion.papers.ihdm import ihdm as ihdm
    from ddx.diffusion.papers.ihdm import interpolate_heat as interpolate_heat
    from ddx.diffusion.papers.ihdm_bound import heat_bits_per_dim as heat_bits_per_dim
    from ddx.diffusion.papers.ihdm_bound import kde_centres as kde_centres
    from ddx.diffusion.papers.rectified_flow import rectified_flow as rectified_flow
    from ddx.diffusion.reverse.dpm_v3 import ModelStatistics as ModelStatistics
    from ddx.diffusion.reverse.dpm_v3 import dpm_v3 as dpm_v3
    from ddx.diffusion.reverse.encode import encodable as encodable
    from ddx.diffusion.reverse.encode import encode as encode
    from ddx.diffusion.reverse.film import progressive as progressive
    from ddx.diffusion.reverse.flow import probability_flow as probability_flow
    from ddx.diffusion.reverse.inpaint import inpaint as inpaint
    from ddx.diffusion.reverse.interpolate import coarse_to_fine as coarse_to_fine
    from ddx.diffusion.reverse.interpolate import interpolate as interpolate
    from ddx.diffusion.reverse.interpolate import interpolate_diffused as interpolate_diffused
    from ddx.diffusion.reverse.interpolate import share_latent as share_latent
    from ddx.diffusion.reverse.interpolate import slerp as slerp
    from ddx.diffusion.reverse.protocol import Solver as Solver
    from ddx.diffusion.reverse.rows import Plan as Plan
    from ddx.diffusion.reverse.rows import Row as Row
    from ddx.diffusion.reverse.rows import Step as Step
    from ddx.diffusion.reverse.trajectory import trajectory as trajectory
    from ddx.diffusion.reverse.variance import VarianceFn as VarianceFn
    from ddx.diffusion.reverse.variance import heuristic as heuristic
    from ddx.diffusion.reverse.variance import npr as npr
    from ddx.diffusion.reverse.variance import ocm as ocm
    from ddx.diffusion.reverse.variance import sn as sn
    from ddx.diffusion.reverse.walk import plan as plan
    from ddx.diffusion.reverse.walk import sample as sample
    from ddx.diffusion.reverse.walk import walk as walk
    from ddx.run import Run as Run
    from ddx.run import load as load
    from ddx.training.loop import train as train


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"ddx.{name}")
    else:
        raise AttributeError(f"module 'ddx' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
