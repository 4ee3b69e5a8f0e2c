"""Distances on CIFAR-10's images, of which an independent program in PyTorch's float32 said what they are."""

import os

import numpy as np
import pytest

from ddx import data, features
from ddx.evaluation.feature_sets import Extraction
from ddx.evaluation.frechet import frechet_distance, gaussian, moments

pytestmark = [pytest.mark.cifar10, pytest.mark.timeout(3600)]


def noisy(images, sd):
    noise = np.random.default_rng(0).normal(0, sd, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def blurred(images):
    """Each pixel the mean of 2 x 2, around the edges."""
    return np.rint(sum(np.roll(images.astype(float), (i, j), (1, 2)) for i in (0, 1) for j in (0, 1)) / 4).astype(
        np.uint8
    )


def pale(images):
    return np.rint((images.astype(float) - 127.5) / 2 + 127.5).astype(np.uint8)


def test_distances_of_efficientnet_lite0_are_what_another_program_found():
    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("set TFDS_DATA_DIR to a folder with a prepared CIFAR-10")
    train, test = (data.load("cifar10", split=split).read(np.arange(1000))["image"] for split in ("train", "test"))
    extraction = Extraction(features.load("efficientnet_lite0"))

    def of(images):
        found = moments(extraction(images).features)
        return gaussian(found.mean, found.covariance)

    reference = of(train)
    images = {
        35.0: test,
        78: noisy(test, 4),
        120: noisy(test, 8),
        177: noisy(test, 16),
        47: blurred(test),
        50: pale(test),
    }
    found = {expected: frechet_distance(reference, of(changed)) for expected, changed in images.items()}
    np.testing.assert_allclose(list(found.values()), list(found), rtol=0.02)
