"""The Inception Score (Salimans et al. 2016): exp E_x KL(p(class | x) || p(class)), of a network that tells classes."""

import itertools

import numpy as np


def inception_score(logits: np.ndarray, splits: int = 1) -> tuple[float, float]:
    """The mean over splits, in the order of the samples, and their standard deviation (0 of one split).

    Papers give ten splits of 5,000 samples, or one of all 50,000: the two differ, for p(class) is each split's own.

    Args:
      logits: (N, classes).
      splits: their number; the samples beyond a multiple of it join the last one.

    Returns:
      The mean and the standard deviation.
    """
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    bounds = [len(log_p) // splits * i for i in range(splits)] + [len(log_p)]
    scores = []
    for first, last in itertools.pairwise(bounds):
        part = log_p[first:last]
        marginal = np.log(np.exp(part).mean(0))
        scores.append(float(np.exp(np.sum(np.exp(part) * (part - marginal), axis=1).mean())))
    return float(np.mean(scores)), float(np.std(scores))
