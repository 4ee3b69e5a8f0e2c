"""ddx: the denoising diffusion family as pure JAX functions.

The names below are the public interface; they load on first use, so that importing ddx costs nothing and touches no
device.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ddpm": "ddx.diffusion.process",
    "iddpm": "ddx.diffusion.process",
    "blurring": "ddx.diffusion.process",
    "in_dct_basis": "ddx.diffusion.process",
    "analytic": "ddx.diffusion.analytic",
    "estimate_statistics": "ddx.diffusion.statistics",
    "sn": "ddx.diffusion.variance",
    "npr": "ddx.diffusion.variance",
    "heuristic": "ddx.diffusion.variance",
    "step_costs": "ddx.diffusion.optimal",
    "bound_costs": "ddx.diffusion.optimal",
    "optimal_trajectories": "ddx.diffusion.optimal",
    "ihdm": "ddx.diffusion.process",
    "process_from_betas": "ddx.diffusion.process",
    "q_sample": "ddx.diffusion.gaussian",
    "q_transition": "ddx.diffusion.gaussian",
    "q_posterior": "ddx.diffusion.gaussian",
    "step_coefficients": "ddx.diffusion.gaussian",
    "gaussian_kl": "ddx.diffusion.gaussian",
    "prior_kl": "ddx.diffusion.gaussian",
    "denoiser": "ddx.diffusion.prediction",
    "Denoised": "ddx.diffusion.prediction",
    "simple_loss": "ddx.diffusion.losses",
    "kl_loss": "ddx.diffusion.losses",
    "hybrid_loss": "ddx.diffusion.losses",
    "head_loss": "ddx.diffusion.losses",
    "bits_per_dim": "ddx.diffusion.likelihood",
    "rate_distortion": "ddx.diffusion.likelihood",
    "trajectory": "ddx.diffusion.trajectory",
    "sample": "ddx.diffusion.sampling",
    "progressive": "ddx.diffusion.sampling",
    "encode": "ddx.diffusion.encoding",
    "encodable": "ddx.diffusion.encoding",
    "Kernel": "ddx.diffusion.kernels",
    "blur": "ddx.diffusion.heat",
    "heat_sampler": "ddx.diffusion.heat",
    "heat_prior": "ddx.diffusion.heat",
    "heat_bits_per_dim": "ddx.diffusion.heat",
    "interpolate_heat": "ddx.diffusion.heat",
    "kde_centres": "ddx.diffusion.heat",
    "probability_flow": "ddx.diffusion.flow",
    "slerp": "ddx.diffusion.interpolation",
    "interpolate": "ddx.diffusion.interpolation",
    "interpolate_diffused": "ddx.diffusion.interpolation",
    "coarse_to_fine": "ddx.diffusion.interpolation",
    "share_latent": "ddx.diffusion.interpolation",
}
_MODULES = ("build", "config", "config_files", "data", "diffusion", "evaluation", "models", "parallel", "training")

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from ddx import build as build
    from ddx import config as config
    from ddx import config_files as config_files
    from ddx import data as data
    from ddx import diffusion as diffusion
    from ddx import evaluation as evaluation
    from ddx import models as models
    from ddx import parallel as parallel
    from ddx import training as training
    from ddx.diffusion.analytic import analytic as analytic
    from ddx.diffusion.encoding import encodable as encodable
    from ddx.diffusion.encoding import encode as encode
    from ddx.diffusion.flow import probability_flow as probability_flow
    from ddx.diffusion.gaussian import gaussian_kl as gaussian_kl
    from ddx.diffusion.gaussian import prior_kl as prior_kl
    from ddx.diffusion.gaussian import q_posterior as q_posterior
    from ddx.diffusion.gaussian import q_sample as q_sample
    from ddx.diffusion.gaussian import q_transition as q_transition
    from ddx.diffusion.gaussian import step_coefficients as step_coefficients
    from ddx.diffusion.heat import blur as blur
    from ddx.diffusion.heat import heat_bits_per_dim as heat_bits_per_dim
    from ddx.diffusion.heat import heat_prior as heat_prior
    from ddx.diffusion.heat import heat_sampler as heat_sampler
    from ddx.diffusion.heat import interpolate_heat as interpolate_heat
    from ddx.diffusion.heat import kde_centres as kde_centres
    from ddx.diffusion.interpolation import coarse_to_fine as coarse_to_fine
    from ddx.diffusion.interpolation import interpolate as interpolate
    from ddx.diffusion.interpolation import interpolate_diffused as interpolate_diffused
    from ddx.diffusion.interpolation import share_latent as share_latent
    from ddx.diffusion.interpolation import slerp as slerp
    from ddx.diffusion.kernels import Kernel as Kernel
    from ddx.diffusion.likelihood import bits_per_dim as bits_per_dim
    from ddx.diffusion.likelihood import rate_distortion as rate_distortion
    from ddx.diffusion.losses import head_loss as head_loss
    from ddx.diffusion.losses import hybrid_loss as hybrid_loss
    from ddx.diffusion.losses import kl_loss as kl_loss
    from ddx.diffusion.losses import simple_loss as simple_loss
    from ddx.diffusion.optimal import bound_costs as bound_costs
    from ddx.diffusion.optimal import optimal_trajectories as optimal_trajectories
    from ddx.diffusion.optimal import step_costs as step_costs
    from ddx.diffusion.prediction import Denoised as Denoised
    from ddx.diffusion.prediction import denoiser as denoiser
    from ddx.diffusion.process import blurring as blurring
    from ddx.diffusion.process import ddpm as ddpm
    from ddx.diffusion.process import iddpm as iddpm
    from ddx.diffusion.process import ihdm as ihdm
    from ddx.diffusion.process import in_dct_basis as in_dct_basis
    from ddx.diffusion.process import process_from_betas as process_from_betas
    from ddx.diffusion.sampling import progressive as progressive
    from ddx.diffusion.sampling import sample as sample
    from ddx.diffusion.statistics import estimate_statistics as estimate_statistics
    from ddx.diffusion.trajectory import trajectory as trajectory
    from ddx.diffusion.variance import heuristic as heuristic
    from ddx.diffusion.variance import npr as npr
    from ddx.diffusion.variance import sn as sn


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
