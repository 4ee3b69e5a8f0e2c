"""What every network takes: images, times, and perhaps labels and keys for dropout."""

import jax


def check_inputs(
    x: jax.Array, t: jax.Array, label: jax.Array | None, num_classes: int, dropout_keys: jax.Array | None
) -> None:
    """Refuse inputs that do not belong to one batch of images, or labels that a network does not know.

    Raises:
      ValueError: x is not (B, H, W, C), t, label or dropout_keys not (B,), or a label is missing or unknown.
    """
    if x.ndim != 4 or t.shape != x.shape[:1]:
        raise ValueError(f"expected images (B, H, W, C) and times (B,); got shapes {x.shape} and {t.shape}")
    if (label is None) != (num_classes == 0) or (label is not None and label.shape != t.shape):
        wanted = "labels (B,)" if num_classes else "no labels"
        raise ValueError(f"a network of {num_classes} classes takes {wanted}; got {given(label)}")
    if dropout_keys is not None and dropout_keys.shape != t.shape:
        raise ValueError(
            f"dropout takes a key for each image, (B,), such as jax.random.split(key, B); got {given(dropout_keys)}"
        )


def given(array: jax.Array | None) -> str:
    """Such as 'shape (4,)', of what a message speaks of."""
    return "none" if array is None else f"shape {array.shape}"
