"""The times that a sampler visits: a strictly decreasing tuple that ends in 0, known on the host.

To skip steps is to choose times: a step from t to any s < t has its own exact coefficients, so there is no respaced
process. The papers and their code choose times in many ways, and scores depend on the choice:

| spacing | times (T steps, K visits) | source |
| --- | --- | --- |
| full | all | DDPM |
| uniform | 1, 1 + c, 1 + 2c, ... with c = T // K: more than K unless K divides T | DDIM's code |
| quad | 1 + floor of the squares of K evenly spaced numbers from 0 to sqrt(0.8 T) | DDIM's code, CIFAR-10 |
| even | K evenly spaced numbers from 1 to T, rounded half to even | Analytic-DPM's code |
| leading | 1, 1 + c, ..., 1 + (K - 1) c with c = T // K: T only if K = T | diffusers |
| trailing | T, T - T / K, ..., T / K, rounded: always T | Lin et al. 2024 |
| linspace | K evenly spaced numbers from 1 to T, rounded; for K = 1, T | diffusers |
| dpm_leading, dpm_linspace | K + 1 times as above, without 1 | diffusers, for DPM-Solver |
| leading+1, dpm_leading+1 | the same times, and 1 later, or any other number | diffusers' steps_offset |
| power2, power3, ... | 1 + (T - 1)(1 - (1 - y)^(1/p)), y evenly spaced in [0, 1]: denser near 0 | Analytic-DPM's code |
| sections | K evenly spaced numbers from 1 to T, rounded half to even before 1 is added | Improved DDPM's code |
| nll | the times of sections and all times up to T // K: more than K | Improved DDPM's strided bounds |
| "250", "10,20,30" | that many evenly spaced times in each of 1, 3, ... equal sections of 1..T | Improved DDPM's code |
| ddim50 | 1, 1 + c, ... with the smallest c that gives exactly 50 | Improved DDPM's code |
| times:1000,500,1 | these times | |
| karras | sigma / alpha at the K levels is the 7th power of evenly spaced numbers: denser near 0 | Karras et al. 2022 |
| logsnr | K levels from 1 to T, evenly spaced in log-SNR | Lu et al. 2022 |

The last two depend on the schedule. They take the nearest levels, every level once, both 1 and T among them. Where
sigma / alpha is above 80, EDM's largest, next to nothing is left of the data: at T it counts as 80 at most.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # config files, which import this module, do without JAX
    from ddx.diffusion.forward.schedules import NoiseSchedule


def _full(num_steps: int, num_visits: int) -> Iterable[int]:
    if num_visits != num_steps:
        raise ValueError(
            f"spacing 'full' visits all {num_steps} times; got {num_visits}: leave it out or use spacing='uniform'"
        )
    return range(1, num_steps + 1)


def _uniform(num_steps: int, num_visits: int) -> Iterable[int]:
    return range(1, num_steps + 1, num_steps // num_visits)


def _quad(num_steps: int, num_visits: int) -> Iterable[int]:
    return 1 + (np.linspace(0, np.sqrt(0.8 * num_steps), num_visits) ** 2).astype(int)


def _even(num_steps: int, num_visits: int) -> Iterable[int]:
    # Analytic-DPM's code adds up the stride and rounds with Python's round(); linspace would break ties differently.
    if num_visits == 1:
        return [num_steps]
    stride = (num_steps - 1) / (num_visits - 1)
    return [round(t) for t in np.cumsum([1.0] + [stride] * (num_visits - 1)).tolist()]


def _leading(num_steps: int, num_visits: int) -> Iterable[int]:
    return 1 + np.arange(num_visits) * (num_steps // num_visits)


def _trailing(num_steps: int, num_visits: int) -> Iterable[int]:
    return np.round(np.arange(num_steps, 0, -num_steps / num_visits)[:num_visits]).astype(int)


def _linspace(num_steps: int, num_visits: int) -> Iterable[int]:
    if num_visits == 1:
        return [num_steps]
    return 1 + np.round(np.linspace(0, num_steps - 1, num_visits)).astype(int)


def _without_first(spacing: Callable[[int, int], Iterable[int]]) -> Callable[[int, int], Iterable[int]]:
    return lambda num_steps, num_visits: list(spacing(num_steps, num_visits + 1))[1:]


def _later(num_steps: int, times: Iterable[int], offset: int) -> Iterable[int]:
    later = [t + offset for t in times]
    if max(later) > num_steps:
        raise ValueError(f"an offset of {offset} leads to the time {max(later)}, above T = {num_steps}; use less")
    return later


# The spacings with which the papers made their tables.
PAPERS = {
    "ddpm": "full",
    "ddim_cifar10": "quad",
    "ddim_celeba64": "uniform",
    "ddim_lsun": "uniform",
    "iddpm": "sections",
    "analytic_dpm": "even",
}


def _power(num_steps: int, num_visits: int, power: float) -> Iterable[int]:
    y = 1 - np.linspace(1, 0, num_visits) ** (1 / power) if num_visits > 1 else np.ones(1)
    return _distinct(np.round(1 + (num_steps - 1) * y).astype(int))


def _distinct(times: np.ndarray) -> np.ndarray:
    """Ascending times of which rounding has repeated some, which move up: t_i becomes max(t_i, t_{i-1} + 1)."""
    return np.maximum.accumulate(times - np.arange(len(times))) + np.arange(len(times))


def _sections(num_steps: int, counts: list[int]) -> Iterable[int]:
    start = 1
    for i, count in enumerate(counts):
        size = num_steps // len(counts) + (i < num_steps % len(counts))
        if count > size:
            raise ValueError(f"cannot divide section of {size} steps into {count}; use fewer")
        stride = (size - 1) / max(1, count - 1)
        yield from (start + round(x) for x in np.cumsum([0.0] + [stride] * (count - 1))[:count].tolist())
        start += size


def _nll(num_steps: int, num_visits: int) -> Iterable[int]:
    # The bound's terms are largest near the data, so no time may be left out there.
    return {*_sections(num_steps, [num_visits]), *range(1, num_steps // num_visits + 1)}


SPACINGS: dict[str, Callable[[int, int], Iterable[int]]] = {
    "full": _full,
    "uniform": _uniform,
    "quad": _quad,
    "even": _even,
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
    "dpm_leading": _without_first(_leading),
    "dpm_linspace": _without_first(_linspace),
    "sections": lambda num_steps, num_visits: _sections(num_steps, [num_visits]),
    "nll": _nll,
}


def _karras(first: float, last: float, num_visits: int) -> np.ndarray:
    # Their eq. 5 with rho = 7.
    return 7.0 * np.log(np.linspace(np.exp(first / 7.0), np.exp(last / 7.0), num_visits))


_MOST_NOISE = np.log(80.0)

# The spacings of K numbers log(sigma / alpha), from the first level's to the last one's.
NOISE_SPACINGS: dict[str, Callable[[float, float, int], np.ndarray]] = {"karras": _karras, "logsnr": np.linspace}


def _by_noise(spacing: str, schedule: "NoiseSchedule", num_visits: int) -> Iterable[int]:
    num_steps = schedule.num_steps
    log_sigma = -0.5 * np.asarray(schedule.at(np.arange(1, num_steps + 1)).logsnr)
    if not np.all(np.diff(log_sigma) > 0):
        raise ValueError(f"spacing {spacing!r} needs noise that grows with t, and IHDM's does not; use 'uniform'")
    if num_visits == 1 or num_steps == 1:
        return [num_steps]
    wanted = NOISE_SPACINGS[spacing](log_sigma[0], min(log_sigma[-1], _MOST_NOISE), num_visits)
    times = 1 + np.searchsorted(0.5 * (log_sigma[:-1] + log_sigma[1:]), wanted)
    times[-1] = num_steps
    return np.minimum(_distinct(times), num_steps - np.arange(num_visits)[::-1])


def _integer_stride(num_steps: int, num_visits: int) -> Iterable[int]:
    for stride in range(1, num_steps):
        if len(range(0, num_steps, stride)) == num_visits:
            return range(1, num_steps + 1, stride)
    raise ValueError(f"no integer stride through {num_steps} steps visits exactly {num_visits}; try 'uniform'")


_NUMBERS = r"\d{1,9}(,\d{1,9})*"  # none is above T


def counts_itself(spacing: str) -> bool:
    """Whether a spacing fixes how many times it visits: "250", "10,20,30", "ddim50", "times:1000,500,1".

    Args:
      spacing: the spacing, as in the module's table.

    Returns:
      True if no number of visits need be given.
    """
    return bool(re.fullmatch(rf"{_NUMBERS}|ddim\d{{1,9}}|times:.*", spacing, re.DOTALL))


def trajectory(
    num_steps: int,
    num_visits: int | None = None,
    spacing: str | tuple[int, ...] = "uniform",
    schedule: "NoiseSchedule | None" = None,
) -> tuple[int, ...]:
    """The times to visit, in descending order.

    Args:
      num_steps: T of the process.
      num_visits: the number of network evaluations K, 1 <= K <= T; None for all T, or for a spacing that fixes K.
      spacing: a name from the module's table, the name of a paper's tables (one of `PAPERS`), or an explicit tuple of
        times, with or without the final 0.
      schedule: the process's, `process.schedule`, on which "karras" and "logsnr" depend; others ignore it.

    Returns:
      A strictly decreasing tuple of ints that ends in 0. Times that a spacing repeats (quad does for large K) are
      visited once, since a step from t to t changes nothing; a warning says how many were dropped.

    Raises:
      ValueError: the spacing is unknown or impossible, K is out of range or not what the spacing fixes, or explicit
        times do not decrease strictly within [0, T]; or "karras" or "logsnr" has no schedule, or one whose log-SNR does
        not decrease.
    """
    if isinstance(spacing, bytes) or not isinstance(spacing, Iterable):
        raise ValueError(f"spacing {spacing!r} must be a name or a tuple of times")
    if num_visits is not None and np.asarray(num_visits).dtype.kind not in "iu":
        raise ValueError(f"the number of sampling steps must be an integer; got {num_visits!r}")
    if not isinstance(spacing, str):
        if any(int(t) != t for t in spacing):
            raise ValueError(f"times {tuple(spacing)} must be integers")
        times = _explicit(num_steps, tuple(int(t) for t in spacing))
    elif counts_itself(spacing):
        times = _counted(num_steps, spacing)
    else:
        num_visits = num_steps if num_visits is None else num_visits
        if not 1 <= num_visits <= num_steps:
            raise ValueError(
                f"the number of sampling steps must lie in 1..{num_steps} (T of the process); got {num_visits}"
            )
        if spacing not in NOISE_SPACINGS:
            return _descending(_named(num_steps, num_visits, spacing), spacing)
        if schedule is None or schedule.num_steps != num_steps:
            raise ValueError(f"spacing {spacing!r} needs the schedule of {num_steps} steps: pass process.schedule")
        return _descending(_by_noise(spacing, schedule, num_visits), spacing)
    if num_visits not in (None, len(times) - 1):
        raise ValueError(f"spacing {spacing!r} visits {len(times) - 1} times, not {num_visits}; leave the number out")
    return times


def _named(num_steps: int, num_visits: int, spacing: str) -> Iterable[int]:
    spacing = PAPERS.get(spacing, spacing)
    power = re.fullmatch(r"power(\d{1,3}(?:\.\d{1,9})?)", spacing)
    if power and 1 <= float(power[1]) <= 100:
        return _power(num_steps, num_visits, float(power[1]))
    offset = re.fullmatch(r"((?:dpm_)?leading)\+(\d{1,9})", spacing)
    if offset:
        return _later(num_steps, SPACINGS[offset[1]](num_steps, num_visits), int(offset[2]))
    if spacing not in SPACINGS:
        raise ValueError(
            f"spacing {spacing!r} is unknown; choose one of: {', '.join((*SPACINGS, *NOISE_SPACINGS))}, leading+1,"
            f" power2 (or any power from 1 to 100), 250, 10,20,30, ddim50, times:1000,500,1, {', '.join(PAPERS)}"
        )
    return SPACINGS[spacing](num_steps, num_visits)


def _counted(num_steps: int, spacing: str) -> tuple[int, ...]:
    if spacing.startswith("times:"):
        listed = spacing.removeprefix("times:")
        if not re.fullmatch(_NUMBERS, listed):
            raise ValueError(f"spacing {spacing!r} must list times, such as times:1000,500,1")
        return _explicit(num_steps, tuple(map(int, listed.split(","))))
    if spacing.startswith("ddim"):
        return _descending(_integer_stride(num_steps, int(spacing.removeprefix("ddim"))), spacing)
    return _descending(_sections(num_steps, [int(count) for count in spacing.split(",")]), spacing)


def _explicit(num_steps: int, times: tuple[int, ...]) -> tuple[int, ...]:
    visited = times if times and times[-1] == 0 else (*times, 0)
    if len(visited) < 2 or visited[0] > num_steps or np.any(np.diff(visited) >= 0):
        raise ValueError(f"times {times} must decrease strictly from at most T = {num_steps} to 0")
    return visited


def _descending(times: Iterable[int], spacing: str) -> tuple[int, ...]:
    listed = [int(t) for t in times]
    if not listed:
        raise ValueError(f"spacing {spacing!r} visits no time; use one that visits at least one")
    distinct = sorted(set(listed), reverse=True)
    if len(distinct) < len(listed):
        warnings.warn(
            f"spacing {spacing!r} visits {len(distinct)} times and not {len(listed)}: it repeats"
            f" {len(listed) - len(distinct)}, which are dropped, for a repeated step changes nothing",
            stacklevel=3,
        )
    return (*distinct, 0)
