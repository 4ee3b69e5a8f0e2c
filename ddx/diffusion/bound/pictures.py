"""What DDIM's steps take from pictures: costs for the times of the best samples, beside those of the best bound.

For a coordinate of the data of variance C let theta_t be the angle, from 0 at the data to pi / 2 at pure noise, with

    sin^2 theta_t = mse_t / C        for Gaussian data: tan theta_t = sigma_t / (alpha_t sqrt(C))              (1)

where mse_t is the mean squared error of the estimate of x_0. Where the data are Gaussian, DDIM's step (eta = 0) from t
to s multiplies a deviation from the mean by (alpha_s alpha_t C + sigma_s sigma_t) / S_t^2, with S^2 = alpha^2 C +
sigma^2, and the exact flow by S_s / S_t. The ratio of the two is the cosine of theta_t - theta_s: what the step keeps
of the standard deviation. So the logarithms of what is kept add up exactly over a walk, and all have the same sign: no
step makes up for what another one lost. From an exact u_T a walk leads to samples whose Frechet (2-Wasserstein)
distance to the data is

    W^2 = sum over coordinates of C (1 - product over steps of cos(theta_t - theta_s))^2                       (2)

That is no sum over steps. But as 1 - (product of c) is at most the sum of (1 - c), and by the triangle inequality, W is
at most the sum over the steps of

    J(s, t) = sqrt(sum over coordinates of C (1 - cos(theta_t - theta_s))^2)                                   (3)

for which `ddx.optimal_trajectories` finds the cheapest times.
"""

import numpy as np

from ddx.diffusion.forward.process import Process


def picture_costs(mse: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """What steps of DDIM (eta = 0) add to the distance between samples and data, equation (3), for all pairs of times.

    Args:
      mse: (T + 1, H, W, C), the mean squared error of the estimate of x_0 at each time, in a basis in which the
        coordinates of the data are nearly uncorrelated, such as the DCT's; 0 at time 0 if the data have no noise there.
        An exact network's grows with t, so what a measurement lets fall is raised to the largest before it.
      spectrum: (H, W, C), the variance C of the data.

    Returns:
      (T + 1, T + 1), in units of the data, at [s, t] for the step from t to s < t, those to time 0 included; inf
      elsewhere.

    Raises:
      ValueError: the shapes do not fit, or an mse is NaN.
    """
    mse, spectrum = np.asarray(mse, np.float64), np.asarray(spectrum, np.float64)
    if np.isnan(mse).any():
        raise ValueError("there is no mse of some times; statistics that Analytic-DPM's code measured hold none")
    if mse.shape[1:] != spectrum.shape:
        raise ValueError(f"mse of shape {mse.shape} has one image a time, like spectrum, which is {spectrum.shape}")
    varies = spectrum > 0
    weight = spectrum[varies]
    sin2 = np.minimum(np.maximum.accumulate(mse[:, varies], axis=0) / weight, 1.0)
    theta = np.arcsin(np.sqrt(sin2))
    # (1 - cos x)^2 = 3 / 2 - 2 cos x + cos(2 x) / 2 makes matrix products of the sums. It costs half of the digits, so
    # that a cost of less than 1e-8 standard deviations of the data is rounding.
    squares = np.full((len(mse), len(mse)), 1.5 * weight.sum())
    for factor, n in ((-2.0, 1), (0.5, 2)):
        for wave in (np.cos(n * theta), np.sin(n * theta)):
            squares += (factor * weight * wave) @ wave.T
    return np.where(np.tri(len(mse), dtype=bool), np.inf, np.sqrt(np.maximum(squares, 0.0)))


def smoothed_mse(process: Process, mse: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Measured errors of x_0 without the noise of the measurement, which would otherwise choose the times.

    With Gaussian data of variance C the error is G_t = C sigma^2 / (alpha^2 C + sigma^2), which is that of the best
    linear estimate of any data. The ratio of mse_t to G_t varies slowly, so it is averaged over neighbouring times (a
    Hann window over an eighth of them) and taken to be at most 1.

    Args:
      process: the process.
      mse: (T, H, W, C), the mean squared error at the times 1..T, in the process's basis or, without a blur, the DCT's.
      spectrum: (H, W, C), the variance C of the data.

    Returns:
      (T + 1, H, W, C), at the times 0..T, for `picture_costs`.
    """
    num_steps = len(mse)
    m = process.marginal(np.arange(num_steps + 1), spectrum.shape[:2])
    noise = np.square(m.sigma)
    linear = spectrum * noise / np.maximum(np.square(m.alpha) * spectrum + noise, np.finfo(np.float64).tiny)
    ratio = np.divide(mse, linear[1:], out=np.ones_like(mse), where=linear[1:] > 0)
    half = num_steps // 16
    window = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(ratio, ((half, half), (0, 0), (0, 0), (0, 0)), mode="edge")
    smooth = sum(w * padded[i : i + num_steps] for i, w in enumerate(window / window.sum()))
    return linear * np.minimum(np.concatenate([smooth[:1], smooth]), 1.0)
