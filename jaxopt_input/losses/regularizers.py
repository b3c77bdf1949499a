"""Losses of the image alone: L2 decay, α-norms, total variation. Sums over pixels and colors, as published."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.losses.algebra import Activations, Loss
from jaxopt_input.targets import canonical, leaf, traced


@traced
class AlphaNorm(Loss):
    """See `alpha_norm`."""

    alpha: Any = leaf(rank=0)
    center: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.sum(_power(jnp.square(image - self.center), self.alpha / 2))


def alpha_norm(alpha: Any = 6.0, center: Any = 0.5) -> AlphaNorm:
    """Σ |x − center|^α over pixels and colors.

    Args:
        alpha: the exponent; a large one acts as a soft bound on the range.
        center: what the image decays to, in [0, 1].

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), section 2 (α = 6).

    Example:
        >>> import jax.numpy as jnp
        >>> float(alpha_norm(2.0)({}, jnp.array([[[1.0, 0.0, 0.5]]])))
        0.5
    """
    return AlphaNorm(canonical(alpha, 0, jnp.float32, "alpha"), canonical(center, 0, jnp.float32, "center"))


@traced
class PixelNorm(Loss):
    """See `pixel_norm`."""

    alpha: Any = leaf(rank=0)
    center: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.sum(_power(jnp.sum(jnp.square(image - self.center), -1), self.alpha / 2))


def pixel_norm(alpha: Any = 6.0, center: Any = 0.5) -> PixelNorm:
    """Σ ‖x − center‖^α over pixels, ‖·‖ being the Euclidean norm of a pixel's colors.

    Args:
        alpha: the exponent; a large one acts as a soft bound on the norm.
        center: what the image decays to, in [0, 1].

    Source:
        Mahendran & Vedaldi, Visualizing Deep Convolutional Neural Networks Using Natural Pre-images (2016), section
        3.2 (α = 6), where the α-norm of their first paper, over colors as well, became one of pixels.

    Example:
        >>> import jax.numpy as jnp
        >>> float(pixel_norm(4.0)({}, jnp.array([[[1.0, 0.0, 0.5]]])))
        0.25
    """
    return PixelNorm(canonical(alpha, 0, jnp.float32, "alpha"), canonical(center, 0, jnp.float32, "center"))


def l2_decay(center: Any = 0.5) -> AlphaNorm:
    """Σ (x − center)² over pixels and colors.

    Args:
        center: what the image decays to, in [0, 1].

    Source:
        Simonyan, Vedaldi & Zisserman, Deep Inside Convolutional Networks (2014), equation 1, with the zero-centered
        image that their network takes.

    Example:
        >>> import jax.numpy as jnp
        >>> float(l2_decay()({}, jnp.full((2, 2, 1), 1.0)))
        1.0
    """
    return alpha_norm(2.0, center)


@traced
class TotalVariation(Loss):
    """See `total_variation`."""

    beta: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        dy, dx = _differences(image)
        return jnp.sum(_power(jnp.square(dx) + jnp.square(dy), self.beta / 2))


def total_variation(beta: Any = 2.0) -> TotalVariation:
    """Σ (dx² + dy²)^(β/2) over pixels and colors, forward differences, 0 across the border.

    Args:
        beta: the exponent; 1 is the isotropic total variation, 2 the squared one without the spikes of 1.

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), section 2.

    Example:
        >>> import jax.numpy as jnp
        >>> float(total_variation(1.0)({}, jnp.array([[[0.0], [3.0]], [[4.0], [3.0]]])))
        6.0
    """
    return TotalVariation(canonical(beta, 0, jnp.float32, "beta"))


@traced
class TotalVariationL1(Loss):
    """See `total_variation_l1`."""

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.abs(image[1:] - image[:-1]).sum() + jnp.abs(image[:, 1:] - image[:, :-1]).sum()


def total_variation_l1() -> TotalVariationL1:
    """Σ |dx| + |dy| over pixels and colors: the anisotropic total variation.

    Source:
        Rudin, Osher & Fatemi (1992), in the anisotropic form of neural-style (Johnson, 2015).

    Example:
        >>> import jax.numpy as jnp
        >>> float(total_variation_l1()({}, jnp.array([[[0.0], [3.0]], [[4.0], [3.0]]])))
        8.0
    """
    return TotalVariationL1()


def _differences(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Forward differences along rows and columns, `[H, W, C]` each, 0 in the last row or column."""
    return (
        jnp.pad(image[1:] - image[:-1], ((0, 1), (0, 0), (0, 0))),
        jnp.pad(image[:, 1:] - image[:, :-1], ((0, 0), (0, 1), (0, 0))),
    )


def _power(square: jax.Array, exponent: jax.Array) -> jax.Array:
    """square ** exponent, with the gradient 0 at 0, where an exponent below 1 would make it infinite."""
    return jnp.where(square > 0, jnp.where(square > 0, square, 1.0) ** exponent, 0.0)
