"""Named schedules of betas: the T betas of a discrete process, in float64 on the host.

`betas[t - 1]` is the paper's beta_t of q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t), t = 1..T.

| name | beta_t | source |
| --- | --- | --- |
| linear | evenly from beta_1 to beta_T | DDPM section 4 |
| quad | the squares of evenly spaced numbers from sqrt(beta_1) to sqrt(beta_T) | DDPM's code |
| const | beta_T at every step | DDPM's code |
| warmup10, warmup50 | linear over the first 10 % or 50 % of the steps, then beta_T | DDPM's code |
| jsd | 1 / (T - t + 1), which ends in pure noise: alpha_T = 0 | Sohl-Dickstein et al. 2015, section 2.4.1 |
| sigmoid | a logistic curve over [-6, 6] between beta_1 and beta_T | DDIM's code |
| cosine | from alpha_bar = cos^2, clipped at 0.999 | Improved DDPM eq. 17 |
| vpsde | 1 - exp(- integral of 0.1 + 19.9 u from (t - 1) / T to t / T) | the VP SDE of Song et al. 2021, exact |

beta_1 = 1e-4 and beta_T = 0.02 hold at T = 1000. For other T they are scaled by 1000 / T, which keeps the sum of the
betas (Improved DDPM's code).

Any of them may be rescaled such that nothing is left of the data at T (Lin et al. 2024, algorithm 1). With x_t the
square root of alpha_bar_t,

    x'_t = (x_t - x_T) x_1 / (x_1 - x_T)                                                                        (1)

leaves the first level as it is and makes x'_T = 0.
"""

from collections.abc import Callable

import numpy as np

_BETA_1, _BETA_T = 1e-4, 0.02

# The power p of sin^p in Blurring Diffusion's blur, by name.
BLUR_POWERS = {"sin2": 2, "sin": 1}


def _ends(num_steps: int) -> tuple[float, float]:
    scale = 1000.0 / num_steps
    if _BETA_T * scale > 1.0:
        raise ValueError(
            f"num_steps={num_steps} makes beta_T = {_BETA_T * scale:g} > 1;"
            f" use num_steps >= {int(1000 * _BETA_T)} or schedule='cosine'"
        )
    return _BETA_1 * scale, _BETA_T * scale


def _linear(num_steps: int) -> np.ndarray:
    return np.linspace(*_ends(num_steps), num_steps)


def _quad(num_steps: int) -> np.ndarray:
    beta_1, beta_T = _ends(num_steps)
    return np.linspace(beta_1**0.5, beta_T**0.5, num_steps) ** 2


def _const(num_steps: int) -> np.ndarray:
    return np.full(num_steps, _ends(num_steps)[1])


def _warmup(fraction: float) -> Callable[[int], np.ndarray]:
    def betas(num_steps: int) -> np.ndarray:
        beta_1, beta_T = _ends(num_steps)
        rise = int(num_steps * fraction)
        return np.concatenate([np.linspace(beta_1, beta_T, rise), np.full(num_steps - rise, beta_T)])

    return betas


def _jsd(num_steps: int) -> np.ndarray:
    return 1.0 / np.arange(num_steps, 0, -1, dtype=np.float64)


def _sigmoid(num_steps: int) -> np.ndarray:
    beta_1, beta_T = _ends(num_steps)
    return beta_1 + (beta_T - beta_1) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, num_steps)))


def _cosine(num_steps: int) -> np.ndarray:
    # beta_t = 1 - f(t/T) / f((t-1)/T). alpha_bar is the product of 1 - beta_t after clipping, so alpha_T > 0.
    u = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - f[1:] / f[:-1], 0.999)


def _vpsde(num_steps: int) -> np.ndarray:
    u = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    return -np.expm1(-np.diff(0.1 * u + 0.5 * 19.9 * u**2))


SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": _linear,
    "quad": _quad,
    "const": _const,
    "warmup10": _warmup(0.1),
    "warmup50": _warmup(0.5),
    "jsd": _jsd,
    "sigmoid": _sigmoid,
    "cosine": _cosine,
    "vpsde": _vpsde,
}


def check_betas(betas: np.ndarray) -> None:
    """Refuse arrays that are not betas.

    Args:
      betas: (T,), in (0, 1); only the last may be 1 (x_T is then pure noise).

    Raises:
      ValueError: the shape is wrong or a beta is out of range.
    """
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"betas must have shape (T,) with T >= 1; got {betas.shape}")
    if not (np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1):
        raise ValueError(
            f"betas must lie in (0, 1) (the last one in (0, 1]); got values from {betas.min():g} to {betas.max():g}"
        )


def check_num_steps(num_steps: object) -> int:
    """Check T, and return it as an int.

    Args:
      num_steps: one number.

    Returns:
      T.

    Raises:
      ValueError: it is not an integer of at least 1.
    """
    number = np.asarray(num_steps)
    if number.shape != () or number.dtype.kind not in "iuf" or number != np.floor(number) or not 1 <= number < np.inf:
        raise ValueError(f"num_steps={num_steps!r} must be an integer, at least 1")
    return int(number)


def with_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescale betas such that nothing is left of the data at T, equation (1): the last beta becomes 1.

    Args:
      betas: (T,), in (0, 1); the last may be 1.

    Returns:
      (T,) float64, of which the first is as it was.

    Raises:
      ValueError: these are no betas, or T = 1: one level cannot stay as it is and lose its signal.
    """
    betas = np.asarray(betas, np.float64)
    check_betas(betas)
    if len(betas) == 1:
        raise ValueError("a single level cannot be rescaled to zero terminal SNR; use num_steps >= 2")
    # With the decrease d_t = x_{t-1} - x_t, x_{t-1} - x_T is the sum of all d from t on, without cancellation.
    root = np.sqrt(1.0 - betas)
    decrease = np.cumprod([1.0, *root[:-1]]) * betas / (1.0 + root)
    lost = decrease / np.cumsum(decrease[::-1])[::-1]  # 1 - x'_t / x'_{t-1}
    return np.concatenate([betas[:1], lost[1:] * (2.0 - lost[1:])])


def betas(schedule: str, num_steps: int, zero_terminal_snr: bool = False) -> np.ndarray:
    """The betas of a named schedule.

    Args:
      schedule: a name from the module's table.
      num_steps: T.
      zero_terminal_snr: rescale them such that nothing is left of the data at T (`with_zero_terminal_snr`).

    Returns:
      (T,) float64; `betas[t - 1]` is beta_t.

    Raises:
      ValueError: the name is unknown, T < 1, T is so small that a beta would exceed 1, or T = 1 is to be rescaled.
    """
    num_steps = check_num_steps(num_steps)
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is unknown; choose one of: {', '.join(SCHEDULES)}")
    values = SCHEDULES[schedule](num_steps)
    try:
        check_betas(values)
        values = with_zero_terminal_snr(values) if zero_terminal_snr else values
    except ValueError as error:
        raise ValueError(f"schedule={schedule!r} with num_steps={num_steps}: {error}; use more steps") from None
    return values
