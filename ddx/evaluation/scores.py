"""The scores of a set of features against a reference, by the names of `--metrics=fd` and its further metrics."""

from typing import Any

import numpy as np

from ddx.evaluation.discrepancy import cmmd, kid
from ddx.evaluation.feature_sets import FeatureSet
from ddx.evaluation.frechet import extrapolated, fitted, frechet_distance
from ddx.evaluation.inception_score import inception_score
from ddx.evaluation.manifolds import manifolds
from ddx.evaluation.reference_job import Reference
from ddx.features import Extractor
from ddx.features.networks import NETWORKS, FeatureNetwork
from ddx.runtime.errors import ConfigError

FEW = 10_000
FEWER = f"of fewer than {FEW:,} images, so it compares with no published number"


def are_few(count: int, reference: Reference) -> bool:
    """Whether so many samples, or the examples of the reference, are too few for a number to compare."""
    return min(count, reference.num_examples or count) < FEW


def check_metrics(network: FeatureNetwork, asked: tuple[str, ...]) -> None:
    """Refuse, with a ConfigError, metrics that a network of features does not have."""
    if "is" in asked and not network.num_logits:
        able = ", ".join(name for name, other in NETWORKS.items() if other.num_logits)
        raise ConfigError(f"metric is: {network.name} tells no classes. Use --features of: {able}")
    if "fd_infinity" in asked and network.label == "CMMD":
        raise ConfigError("fd_infinity extrapolates a Fréchet distance, and CMMD is none. Leave it out")


# Images that a metric needs: samples, and of kid and pr examples of the reference too.
FEWEST = {"kid": 4, "pr": 7, "is": 10, "fd_infinity": 30}


def check_numbers(count: int, reference: Reference, network: FeatureNetwork, asked: tuple[str, ...] = ()) -> None:
    """Refuse, with a ConfigError, metrics that need more of so many samples, or of the reference."""
    if reference.features is None and network.label == "CMMD":
        raise ConfigError("CMMD needs features, and the reference has mu and sigma alone. Name images with --reference")
    for name in asked:
        of_features = name in ("kid", "pr")
        if of_features and reference.features is None:
            raise ConfigError(f"{name} needs features, and the reference has mu and sigma alone. Leave {name} out")
        found = min(count, len(reference.features)) if of_features and reference.features is not None else count
        if found < FEWEST.get(name, 0):
            raise ConfigError(f"{name} of {found} images means nothing. Give at least {FEWEST[name]}, or leave it out")


def told(result: dict[str, Any], of: str, reference: Reference, network: Extractor) -> str:
    """Scores as a line."""
    said = [f"{result['label']} {result['fd']:.4g}"]
    if "fd_infinity" in result:
        error = result["fd_infinity_standard_error"]
        said.append(f"of infinitely many {result['fd_infinity']:.4g} +- {error:.2g}")
    if "kid" in result:
        said.append(f"KID {result['kid']:.4g} +- {result['kid_standard_error']:.2g}")
    if "is" in result:
        of_network = "" if network.network.name == "inception" else f" of {network.network.name}"
        said.append(
            f"IS{of_network} {result['is']:.4g} ({result['is_10']:.4g} +- {result['is_10_std']:.2g} of ten splits)"
        )
    if "precision" in result:
        said.append(", ".join(f"{name} {result[name]:.3f}" for name in ("precision", "recall", "density", "coverage")))
    few = f"; {FEWER}" if result["few_samples"] else ""
    return f"{', '.join(said)} of {of} to {reference.name} ({network.network.name}, {network.protocol}{few})"


def scores(
    found: FeatureSet, reference: Reference, network: FeatureNetwork, metrics: tuple[str, ...], seed: int
) -> dict[str, float]:
    """Values of metrics by name."""
    values: dict[str, float] = {}
    features = found.features
    if "fd" in metrics:
        values["fd"] = distance_to(features, reference, network)
    if "kid" in metrics and reference.features is not None:
        kernel = kid(features, reference.features, seed)
        values |= {"kid": kernel.distance, "kid_standard_error": kernel.standard_error}
        values |= {"kid_subsets": kernel.subsets, "kid_subset_size": kernel.size}
    if "is" in metrics:
        values["is"] = inception_score(found.logits)[0]
        values["is_10"], values["is_10_std"] = inception_score(found.logits, splits=10)
    if "pr" in metrics and reference.features is not None:
        values |= manifolds(features, reference.features)._asdict()
    if "fd_infinity" in metrics:
        line = extrapolated(features, reference.gaussian, seed)
        values |= {"fd_infinity": line.distance, "fd_infinity_standard_error": line.standard_error}
    return values


def distance_to(features: np.ndarray, reference: Reference, network: FeatureNetwork) -> float:
    """The distance that a network's label names."""
    if network.label == "CMMD":
        assert reference.features is not None  # `check_numbers` has refused it
        return cmmd(features, reference.features)
    return frechet_distance(fitted(features), reference.gaussian)
