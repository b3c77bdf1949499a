"""Controls of an attack: random changes as large as those that it made. What they cause as well is no merit of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.kernels.threefry import written_out

if TYPE_CHECKING:
    from jaxtyping import Float

# The purposes of their keys.
GAUSSIAN, SIGNS = 2**31 - 4, 2**31 - 6


def controls(
    key: jax.Array, images: Float[np.ndarray, "N H W C"], made: Float[np.ndarray, "N H W C"]
) -> dict[str, Float[np.ndarray, "N H W C"]]:
    """Images with random changes, clipped to [0, 1], each as large as what was made of it.

    Args:
        key: a typed JAX key.
        images: the originals.
        made: what an attack made of them.

    Returns:
        "gaussian", normal noise of the same RMS, and "signs", the same L∞ norm up or down at random in each number.

    Example:
        >>> images = np.full((1, 2, 2, 3), 0.5, np.float32)
        >>> random = controls(jax.random.key(0), images, images + np.float32(0.25))
        >>> np.unique(random["signs"]).tolist(), random["gaussian"].shape
        ([0.25, 0.75], (1, 2, 2, 3))
    """
    key, change, axes = written_out(key), made.astype(np.float64) - images, (1, 2, 3)
    normal = np.asarray(jax.random.normal(jax.random.fold_in(key, GAUSSIAN), images.shape, jnp.float32))
    normal = normal / np.sqrt(np.square(normal).mean(axes, keepdims=True))
    signs = np.asarray(jax.random.bernoulli(jax.random.fold_in(key, SIGNS), jnp.float32(0.5), images.shape)) * 2 - 1
    lengths = np.sqrt(np.square(change).mean(axes, keepdims=True)), np.abs(change).max(axes, keepdims=True)
    noise = dict(zip(("gaussian", "signs"), (lengths[0] * normal, lengths[1] * signs), strict=True))
    return {name: np.clip(images + x, 0, 1).astype(np.float32) for name, x in noise.items()}
