"""Coloured noise: forward processes that add different amounts of noise to the frequencies of an image.

With weights w_k for the coordinates c = DCT(x) of the orthonormal cosine transform,

    q(c_t | c_0) = N(alpha_t c_0, sigma_t^2 w_k^2)                                                              (1)

at every frequency k, and the prior is N(0, w_k^2). In the coordinates u = c / w this is q(u_t | u_0) =
N(alpha_t u_0, sigma_t^2): the noise is white there, and steps, solvers, variances and the KL terms of the bound, which
no scaling changes, are those of every process. A network works in pixels all the same. Its eps is the coloured noise,
V (w eps) for the white eps of the coordinates, so that x_t = alpha x_0 + sigma eps in pixels as ever, y = p x_0 + q eps
for every prediction, and errors are squared in pixels: those of "x0" weigh all frequencies as without weights.

| weights | w_k | source |
| --- | --- | --- |
| equal SNR | the root of the data's variance at k, so all have the SNR alpha^2 / sigma^2 | Falck et al. 2025 |
| power law | max(r, r_1)^p, r the frequency and r_1 the lowest above 0 | Jiralerspong et al. 2025 |
| band | 1 for low <= r < high, a floor for others | Jiralerspong et al. 2025 |

The papers transform by Fourier; here it is the cosine transform, as for blurs, which has no jump between opposite edges
and is real. r = sqrt((i / H)^2 + (j / W)^2), between 0 and sqrt(2); 1 is the finest pattern along an edge of the image.
Power laws and bands are scaled to a mean of w^2 of 1, so that pixels get the noise of a white process on average; with
equal SNR x_T has the spectrum of the data.
"""

import dataclasses

import numpy as np

from ddx.diffusion.arrays import Array, Shape
from ddx.diffusion.forward.basis import DCT, PIXEL, WeightsOf, weighted_dct
from ddx.diffusion.forward.process import Process

_LARGEST_RATIO = 1e6  # of weights: beyond it float32 keeps nothing of the smaller


def coloured(process: Process, weights: Array | WeightsOf) -> Process:
    """The process with coloured noise, equation (1); a blur stays as it is, alpha_k = a d_k.

    Args:
      process: a process in pixels or in the DCT basis whose noise is white.
      weights: w, (H, W, 1) for all channels or (H, W, C), of images of this shape alone; or a function of the shape
        (H, W), such as `power_law` returns. Only the prior and the noise have their scale.

    Returns:
      A process in the basis u = DCT(x) / w. Weights that are all 1 give the white process in the DCT basis.

    Raises:
      ValueError: weights are no finite numbers above 0 of such a shape, or differ by more than 1e6; the noise is
        coloured already; or the data do not vanish at T (IHDM), so samples start from images.
    """
    if process.basis not in (PIXEL, DCT):
        raise ValueError("the noise of this process is coloured already; start from one of white noise")
    if process.schedule.at(process.num_steps).alpha == 1:
        raise ValueError("samples of this process do not start from noise, which cannot be coloured; use ddx.blurring")
    if callable(weights):
        return dataclasses.replace(process, basis=weighted_dct(weights))
    w = np.array(weights, np.float64)
    if w.ndim != 3 or not w.size or not np.all(np.isfinite(w) & (w > 0)):
        raise ValueError(f"weights must be finite numbers above 0 of shape (H, W, 1) or (H, W, C); got {w.shape}")
    if w.max() > _LARGEST_RATIO * w.min():
        raise ValueError(f"weights from {w.min():.3g} to {w.max():.3g} differ by more than 1e6; raise the smallest")
    w.flags.writeable = False

    def of(shape: Shape) -> np.ndarray:
        if tuple(shape) != w.shape[:2]:
            raise ValueError(f"the noise has weights for images of {w.shape[:2]}, not of {tuple(shape)}")
        return w

    return dataclasses.replace(process, basis=DCT if np.all(w == 1) else weighted_dct(of))


def equal_snr(spectrum: Array, low: float = -1.0) -> np.ndarray:
    """The weights with which every frequency of data has the same SNR (Falck et al. 2025): the root of its variance.

    Args:
      spectrum: C_k, the variances of the data's orthonormal DCT, (H, W, 1) or (H, W, C).
      low: the lowest value of the data. A variance counts as at least that of rounding to 256 grey levels, a twelfth of
        the square of a level: below it there are no data, and a frequency without noise could not be sampled.

    Returns:
      Weights like the spectrum, for `coloured`.
    """
    least = ((1.0 - low) / 255.0) ** 2 / 12.0
    return np.sqrt(np.maximum(np.asarray(spectrum, np.float64), least))


def power_law(power: float) -> WeightsOf:
    """Weights max(r, r_1)^power, scaled to a mean square of 1: below 0 most of the noise is coarse, above 0 fine.

    Args:
      power: the exponent; 0 is white noise.

    Returns:
      A function of the shape (H, W).
    """

    def weights(shape: Shape) -> np.ndarray:
        r = np.maximum(frequencies(shape), 1.0 / max(shape))
        return _of_mean_square_one(r**power)

    return weights


def band(low: float, high: float, floor: float = 0.1) -> WeightsOf:
    """Weights in the ratio 1 for the frequencies low <= r < high to `floor` for others, of mean square 1.

    Args:
      low: the lowest frequency of the band, at least 0.
      high: the end of the band, above low.
      floor: the weight of other frequencies, above 0: without noise a frequency could not be sampled.

    Returns:
      A function of the shape (H, W). It raises a ValueError for images that have no frequency in the band.

    Raises:
      ValueError: numbers are out of range.
    """
    if not (0 <= low < high and 0 < floor < np.inf):
        raise ValueError(f"a band needs 0 <= low < high and a floor above 0; got low={low}, high={high}, floor={floor}")

    def weights(shape: Shape) -> np.ndarray:
        r = frequencies(shape)
        inside = (low <= r) & (r < high)
        if not inside.any():
            raise ValueError(f"images of {tuple(shape)} have no frequency in the band {low}..{high}; widen it")
        return _of_mean_square_one(np.where(inside, 1.0, floor))

    return weights


def frequencies(shape: Shape) -> np.ndarray:
    """The r of every frequency of images of shape (H, W), (H, W, 1)."""
    rows, columns = ((np.arange(n) / n) ** 2 for n in shape)
    return np.sqrt(rows[:, None] + columns[None, :])[..., None]


def _of_mean_square_one(w: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = w / np.sqrt(np.mean(w**2))
    return scaled
