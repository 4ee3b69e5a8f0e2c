"""Evaluators by name: what `train.evaluate` scores a network with while it is trained.

An evaluator prepares once, for a network, a split of its run's data set and a number of examples, and returns a
function of the weights. A new one is a function in a file of its own, and its name here and in
`ddx.config.keys.EVALUATORS`.
"""

from collections.abc import Callable
from typing import Any

from ddx.evaluation.bound_job import bits_per_dim
from ddx.runs.trained import Trained

Evaluator = Callable[[Trained, str, int, int], Callable[[Any], dict[str, float]]]
"""evaluator(network, split, examples, seed) -> score(weights) -> numbers by name."""

EVALUATORS: dict[str, Evaluator] = {"bpd": bits_per_dim}
