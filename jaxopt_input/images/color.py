"""Decorrelated color: coordinates in which the colors of natural images are uncorrelated and of equal variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.images.parameterization import at_rank

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Square root of the color covariance of ImageNet (Lucid, misc/io and optvis/param/color.py, 2018), divided by its
# largest column norm, so that a step of θ keeps the scale of a step of the image.
_SQRT_COVARIANCE = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
TO_RGB = (_SQRT_COVARIANCE / np.linalg.norm(_SQRT_COVARIANCE, axis=0).max()).T.astype(np.float32)
FROM_RGB = np.linalg.inv(TO_RGB.astype(np.float64)).astype(np.float32)


def to_rgb(color: Float[Array, "*batch C"], decorrelate: bool = True) -> Float[Array, "*batch C"]:
    """Red, green, blue of decorrelated colors: `[..., 3]` to `[..., 3]`, linear, no offset.

    What has another number of channels, or no decorrelated colors, stays as it is.

    Source:
        Lucid (2018), `optvis.param.color`.

    Example:
        >>> bool(jnp.allclose(from_rgb(to_rgb(jnp.array([0.1, 0.2, 0.3]))), jnp.array([0.1, 0.2, 0.3]), atol=1e-6))
        True
    """
    return _mix(color, TO_RGB) if decorrelate and color.shape[-1] == 3 else color


def from_rgb(rgb: Float[Array, "*batch C"], decorrelate: bool = True) -> Float[Array, "*batch C"]:
    """Decorrelated colors of red, green, blue: the inverse of `to_rgb`."""
    return _mix(rgb, FROM_RGB) if decorrelate and rgb.shape[-1] == 3 else rgb


def _mix(color: Float[Array, "*batch 3"], matrix: np.ndarray) -> Float[Array, "*batch 3"]:
    """The product with a 3x3 matrix, which as a sum becomes part of the loops around it; a matrix product would not."""
    parts = (color[..., k : k + 1] * at_rank(matrix[k], color.ndim) for k in range(3))
    return sum(parts, jnp.zeros((), color.dtype))


def logit(image: jax.Array) -> jax.Array:
    """The inverse of the sigmoid, with the ends pulled in by 5e-4 so that black and white stay finite."""
    image = jnp.clip(image, 5e-4, 1 - 5e-4)
    return jnp.log(image) - jnp.log1p(-image)
