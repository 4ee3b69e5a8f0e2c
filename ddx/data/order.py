"""Which examples a training step sees: a pure function of (seed, step).

The data set is visited as an endless stream of epochs, each a fresh permutation of all N examples:

    index(p) = permutation(seed, p // N)[p % N]        p = 0, 1, 2, ...

Step k (0-based) takes the positions p = k B ... (k + 1) B - 1. Nothing is carried from step to step, so a run that
resumes at step k costs the same as one that starts there, and sees the same examples.
"""

import functools

import numpy as np


def batch_indices(seed: int, step: int, num_examples: int, batch_size: int) -> np.ndarray:
    """The examples of one step, every example exactly once an epoch.

    A batch may straddle epochs, and may be larger than the data set; no example is dropped at an epoch's end.

    Args:
        seed: names the order, 0 <= seed < 2**64.
        step: 0-based.
        num_examples: N, at least 1.
        batch_size: B.

    Returns:
        (B,) int64, each in [0, N).
    """
    first = int(step) * batch_size
    epochs, places = np.divmod(np.arange(first, first + batch_size, dtype=np.int64), num_examples)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(int(seed), int(epoch), num_examples)[places[here]]
    return indices


# A batch needs one or two; four serve two data sets that are read in turn. A million examples take 0.1 s.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """(N,) int64.

    Sorts raw words of Philox instead of calling `Generator.permutation`, because numpy promises only of the former that
    every release gives the same: a run that is resumed under a newer numpy keeps its order.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
