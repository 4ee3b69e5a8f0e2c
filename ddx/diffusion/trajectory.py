"""The times that a sampler visits: a strictly decreasing tuple that ends in 0, known on the host.

Skipping is choosing times: a step from t to any s < t has its own exact coefficients, so there is no respaced process.
"""

from collections.abc import Callable

import numpy as np


def _full(num_steps: int, num_visits: int) -> range:
    if num_visits != num_steps:
        raise ValueError(
            f"spacing 'full' visits all {num_steps} times; got {num_visits}: leave it out or use spacing='uniform'"
        )
    return range(num_steps, 0, -1)


def _uniform(num_steps: int, num_visits: int) -> range:
    # DDIM's stride is T // K from t = 1 on; it visits more than K times unless K divides T.
    return range(1, num_steps + 1, num_steps // num_visits)[::-1]


SPACINGS: dict[str, Callable[[int, int], range]] = {"full": _full, "uniform": _uniform}


def trajectory(
    num_steps: int, num_visits: int | None = None, spacing: str | tuple[int, ...] = "uniform"
) -> tuple[int, ...]:
    """The times to visit, from noise to data.

    Args:
      num_steps: T of the process.
      num_visits: the number of network evaluations K, 1 <= K <= T; None for all T.
      spacing: "full"; "uniform" (DDIM appendix D.2: t = 1, 1 + c, 1 + 2c, ... with c = T // K, which are more than K
        times unless K divides T); or an explicit tuple of times, with or without the final 0.

    Returns:
      A strictly decreasing tuple of ints that ends in 0.

    Raises:
      ValueError: the spacing is unknown, K is out of range, or explicit times do not decrease strictly within [0, T].
    """
    if not isinstance(spacing, str):
        times = tuple(int(t) for t in spacing)
        times = times if times and times[-1] == 0 else (*times, 0)
        if len(times) < 2 or times[0] > num_steps or np.any(np.diff(times) >= 0):
            raise ValueError(f"times {tuple(spacing)} must decrease strictly from at most T = {num_steps} to 0")
        return times
    if spacing not in SPACINGS:
        raise ValueError(
            f"spacing {spacing!r} is unknown; choose one of: {', '.join(SPACINGS)}, or give the times themselves"
        )
    num_visits = num_steps if num_visits is None else num_visits
    if not 1 <= num_visits <= num_steps:
        raise ValueError(
            f"the number of sampling steps must lie in 1..{num_steps} (T of the process); got {num_visits}"
        )
    return (*SPACINGS[spacing](num_steps, num_visits), 0)
