"""Walks that start from a noised image and not from noise (SDEdit, Meng et al. 2022).

An image x_0, perhaps a rough drawing, is taken to x_t of q(x_t | x_0) at a time t, and a walk leads from there to the
data. What t hides is drawn anew: near T everything, near 0 nothing. For one time and given noise it is

    ddx.sample(denoise, key, ddx.q_sample(process, x_0, t, noise), times)       times = (t, ..., 0)
"""

from ddx.diffusion.arrays import Images, Key, Trajectory
from ddx.diffusion.forward.gaussian import q_sample
from ddx.diffusion.forward.process import Process
from ddx.diffusion.random import fold_in, white_noise
from ddx.diffusion.reverse.walk import INITIAL


def times_from(times: Trajectory, t: float) -> Trajectory:
    """The times of a walk that starts at t, in 0..T, and then visits those of a trajectory that are below t."""
    return (t, *(s for s in times if s < t))


def noised_image(process: Process, keys: Key, x_0: Images, t: float) -> Images:
    """x_t of images, with the noise that `initial_noise` draws from the same keys: without signal at T it is that x_T.

    Args:
      process: the process.
      keys: (B,).
      x_0: (B, H, W, C) images.
      t: the time.

    Returns:
      (B, H, W, C) like x_0.

    Raises:
      ValueError: x_0 are not floating-point numbers, or t is not a time of the process.
    """
    return q_sample(process, x_0, t, white_noise(fold_in(keys, INITIAL), x_0.shape[1:], x_0.dtype))
