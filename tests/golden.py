"""Outputs of the reference implementations (tests/data/*.npz) and what is needed to compare with them.

The references count steps from 0: index i is the time t = i + 1 here. PyTorch's images are NCHW. Every network in them
is `fake_model`, fed the index i. `_f64` entries are the reference's formulas in float64, `_f32` its own float32
arithmetic.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import ddx

DATA = pathlib.Path(__file__).parent / "data"


@functools.cache
def load(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@functools.cache
def process(schedule):
    """'linear1000', 'cosine4000', ...: a schedule's name and T."""
    name = schedule.rstrip("0123456789")
    return ddx.ddpm(int(schedule[len(name) :]), name)


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def fake_model(variance="", time_unit=1000.0):
    """The references' stand-in network: linear in x and t; `variance` adds the second half of the channels."""

    def model_fn(x, model_time):
        t = model_time.astype(x.dtype)[:, None, None, None] / time_unit
        out = 0.7 * x + 0.2 * t - 0.05
        if variance not in ("learned", "range"):
            return out
        extra = 0.3 * x - 0.1 * t + 0.05 - (4.0 if variance == "learned" else 0.0)
        return jnp.concatenate([out, extra], axis=-1)

    return model_fn


def precision(key):
    """(context, dtype, tolerances) in which an entry ending in _f32 or _f64 is to be compared."""
    if key.endswith("_f64"):
        return jax.enable_x64(True), np.float64, {"rtol": 1e-8, "atol": 1e-12}
    return jax.enable_x64(False), np.float32, {"rtol": 2e-5, "atol": 2e-6}


def images(x, dtype):
    """An array of a golden file as float images; uint8 is scaled to [-1, 1]."""
    return jnp.asarray(x.astype(dtype) / 127.5 - 1 if x.dtype == np.uint8 else x.astype(dtype))
