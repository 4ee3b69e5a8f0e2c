"""What the public functions of this folder take: images and noise are floating-point arrays, times are numbers.

Images of a file are whole grey levels. Used as they are they would be truncated or overflow without a word (a uint8
keeps no noise), and their range is another one, so integers and booleans are refused rather than promoted.
"""

from typing import Any

import jax
import jax.numpy as jnp


def check_floats(**arrays: Any) -> None:
    """Refuse, with a ValueError that names it, what is no array of floating-point numbers."""
    for name, x in arrays.items():
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name} must be floats in one array, such as k / 127.5 - 1 for a grey level k of an image; got"
                f" {type(x).__name__ if dtype is None else dtype}. Convert it first"
            )


def computing_dtype(x: Any) -> Any:
    """The type to compute in for arrays like x: float32 at least, float64 where JAX has it."""
    return jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32)
