"""The times that training draws."""

from typing import Any

import jax


def uniform(keys: Any, num_steps: int) -> jax.Array:
    """Draw t ~ Uniform{1, ..., T} for each example (DDPM algorithm 1, line 3); (B,) int32 from keys of shape (B,)."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_steps + 1))(keys)
