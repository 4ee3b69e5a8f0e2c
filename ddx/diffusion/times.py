"""Times, and table entries at times: t = 0 is the data, t = 1 .. T are the noise levels.

Times that are known on the host (Python numbers, NumPy arrays, concrete JAX arrays) are checked, and what is computed
from them is float64 NumPy. What depends on traced times is computed in the graph, and is NaN where the host would raise
an error.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Times


def is_host(*times: Times) -> bool:
    """Whether all times are known now, so that their coefficients can be computed in float64.

    Args:
      times: numbers or arrays of any shape.

    Returns:
      False if any of them is traced.
    """
    return not any(isinstance(t, jax.core.Tracer) for t in times)


_ROUNDED = 1 + 1e-6  # a traced T may be a little above T: it was computed in float32


def checked(t: Times, num_steps: int, *others: Times) -> tuple[Any, Array]:
    """Check real times, and choose where to compute with them.

    Args:
      t: real times, () or (B,).
      num_steps: T.
      others: the other times of the same computation; if one of them is traced, t becomes an array of the graph too.

    Returns:
      The namespace to compute in, NumPy or JAX, and t as an array of that namespace; a traced t is NaN outside [0, T].

    Raises:
      ValueError: a time is not a number, or all are known on the host and t is outside [0, T].
    """
    if not is_host(t, *others):
        t = jnp.asarray(_numbers(t), jnp.result_type(float))
        t = jnp.where((t > num_steps) & (t <= num_steps * _ROUNDED), num_steps, t)
        return jnp, jnp.where((t >= 0) & (t <= num_steps), t, jnp.nan)
    t = np.asarray(_numbers(t), np.float64)
    if not np.all((t >= 0) & (t <= num_steps)):
        raise _out_of_range(t, num_steps)
    return np, t


def whole(t: Times) -> Array:
    """Times ready for arithmetic: integers get a type that holds t - 1 and T - t, real numbers stay as they are.

    Args:
      t: times, () or (B,).

    Returns:
      An array like t.

    Raises:
      ValueError: the times are not numbers.
    """
    t = _numbers(t)
    if isinstance(t, jax.Array):
        return t.astype(jnp.int32) if jnp.issubdtype(t.dtype, jnp.integer) else t
    t = np.asarray(t)
    return t.astype(np.int64) if t.dtype.kind in "iu" else t


def look_up(table: np.ndarray, t: Times) -> Array:
    """The entries of a table at integer times.

    Args:
      table: (T + 1,), one entry for each of the times 0..T.
      t: integer times, () or (B,).

    Returns:
      An array like t. A traced time outside [0, T] gives NaN, never the entry of another time.

    Raises:
      ValueError: a time known on the host is not an integer in [0, T], or traced times are not of an integer type.
    """
    if not is_host(t):
        return _entries(jnp.asarray(table), t)
    return table[_index(t, len(table) - 1)]


def change(table: np.ndarray, s: Times, t: Times) -> Array:
    """The difference of two entries of a table, table[t] - table[s], without rounding the entries first.

    Args:
      table: (T + 1,) float64, one entry for each of the times 0..T.
      s: integer times, () or (B,).
      t: integer times, () or (B,).

    Returns:
      An array like s and t; NaN for traced times outside [0, T].

    Raises:
      ValueError: a time known on the host is not an integer in [0, T], or traced times are not of an integer type.
    """
    if is_host(s, t):
        return table[_index(t, len(table) - 1)] - table[_index(s, len(table) - 1)]
    # A sum of two floats holds an entry almost exactly, so that neighbouring entries subtract precisely.
    high = table.astype(jnp.result_type(float))
    low = np.where(np.isfinite(table), table - np.where(np.isfinite(table), high, 0.0), 0.0).astype(high.dtype)
    high_t, high_s, low_t, low_s = (_entries(jnp.asarray(part), i) for part in (high, low) for i in (t, s))
    return (high_t - high_s) + (low_t - low_s)


def _entries(table: jax.Array, t: Times) -> jax.Array:
    t = jnp.asarray(_numbers(t))
    if not jnp.issubdtype(t.dtype, jnp.integer):
        raise ValueError(f"times in the graph must be integers; got {t.dtype}: this process has the times 0..T")
    return table.at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _index(t: Times, num_steps: int) -> np.ndarray:
    index = np.asarray(_numbers(t))
    if index.dtype.kind not in "iu" and not np.all(index == np.round(index)):
        raise ValueError(f"time {t} is not an integer; this process has the times 0..{num_steps}")
    if np.any(index < 0) or np.any(index > num_steps):
        raise _out_of_range(t, num_steps)
    return index.astype(np.int64)


def _numbers(t: Times) -> Any:
    """Return the times, and refuse any that are not numbers: a bool would index a table like a mask."""
    dtype = getattr(t, "dtype", None) or np.asarray(t).dtype
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(f"times must be numbers; got {t!r}")
    return t


def _out_of_range(t: Times, num_steps: int) -> ValueError:
    return ValueError(f"time {t} is out of range; this process has the times 0 (data) to {num_steps} (noise)")
