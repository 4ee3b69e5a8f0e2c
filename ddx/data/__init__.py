"""Data sets as uint8 arrays, read in an order that is a function of (seed, step) alone.

    dataset = load("digits", split="train")
    with batches(dataset, seed=0, batch_size=128, first_step=0, last_step=1000) as stream:
        for step, batch in stream:
            batch["image"]  # (128, 8, 8, 1) uint8
            batch["label"]  # (128,) int32

`ddx.data.augment` (scaling to [-1, 1], flips) is imported by its users: it is the only file here that needs jax.
"""

from ddx.data import order
from ddx.data.copies import Storage
from ddx.data.datasets import Dataset, load
from ddx.data.decode import Conversion
from ddx.data.given import given_images
from ddx.data.loader import Batches, batches
from ddx.data.objects import from_object
from ddx.data.order import batch_indices

__all__ = [
    "Batches",
    "Conversion",
    "Dataset",
    "Storage",
    "batch_indices",
    "batches",
    "from_object",
    "given_images",
    "load",
    "order",
]
