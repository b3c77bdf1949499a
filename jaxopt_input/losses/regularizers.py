"""Losses of the image alone: L2 decay, α-norms, total variation. Sums over pixels and colors, as published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxopt_input.losses.define import number, of_image

if TYPE_CHECKING:
    from jaxopt_input.losses.define import Image, Number, Scalar


@of_image(alpha=number, center=number)
def alpha_norm(image: Image, alpha: Number = 6.0, center: Number = 0.5) -> Scalar:
    """Σ |x − center|^α over pixels and colors.

    Args:
        alpha: the exponent; a large one acts as a soft bound on the range.
        center: what the image decays to, in [0, 1].

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), section 2 (α = 6).

    Example:
        >>> float(alpha_norm(2.0)({}, jnp.array([[[1.0, 0.0, 0.5]]])))
        0.5
    """
    return jnp.sum(_power(jnp.square(image - center), alpha / 2))


@of_image(alpha=number, center=number)
def pixel_norm(image: Image, alpha: Number = 6.0, center: Number = 0.5) -> Scalar:
    """Σ ‖x − center‖^α over pixels, ‖·‖ being the Euclidean norm of a pixel's colors.

    Args:
        alpha: the exponent; a large one acts as a soft bound on the norm.
        center: what the image decays to, in [0, 1].

    Source:
        Mahendran & Vedaldi, Visualizing Deep Convolutional Neural Networks Using Natural Pre-images (2016), section
        3.2 (α = 6), where the α-norm of their first paper, over colors as well, became one of pixels.

    Example:
        >>> float(pixel_norm(4.0)({}, jnp.array([[[1.0, 0.0, 0.5]]])))
        0.25
    """
    return jnp.sum(_power(jnp.sum(jnp.square(image - center), -1), alpha / 2))


@of_image(center=number)
def l2_decay(image: Image, center: Number = 0.5) -> Scalar:
    """Σ (x − center)² over pixels and colors.

    Args:
        center: what the image decays to, in [0, 1].

    Source:
        Simonyan, Vedaldi & Zisserman, Deep Inside Convolutional Networks (2014), equation 1, with the zero-centered
        image that their network takes.

    Example:
        >>> float(l2_decay()({}, jnp.full((2, 2, 1), 1.0)))
        1.0
    """
    return jnp.sum(jnp.square(image - center))


@of_image(beta=number)
def total_variation(image: Image, beta: Number = 2.0) -> Scalar:
    """Σ (dx² + dy²)^(β/2) over pixels and colors, forward differences, 0 across the border.

    Args:
        beta: the exponent; 1 is the isotropic total variation, 2 the squared one without the spikes of 1.

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), section 2.

    Example:
        >>> float(total_variation(1.0)({}, jnp.array([[[0.0], [3.0]], [[4.0], [3.0]]])))
        6.0
    """
    dy, dx = _differences(image)
    return jnp.sum(_power(jnp.square(dx) + jnp.square(dy), beta / 2))


@of_image()
def total_variation_l1(image: Image) -> Scalar:
    """Σ |dx| + |dy| over pixels and colors: the anisotropic total variation.

    Source:
        Rudin, Osher & Fatemi (1992), in the anisotropic form of neural-style (Johnson, 2015).

    Example:
        >>> float(total_variation_l1()({}, jnp.array([[[0.0], [3.0]], [[4.0], [3.0]]])))
        8.0
    """
    return jnp.abs(image[1:] - image[:-1]).sum() + jnp.abs(image[:, 1:] - image[:, :-1]).sum()


def _differences(
    image: Image,
) -> tuple[Image, Image]:
    """Forward differences along rows and columns, 0 in the last row or column."""
    return (
        jnp.pad(image[1:] - image[:-1], ((0, 1), (0, 0), (0, 0))),
        jnp.pad(image[:, 1:] - image[:, :-1], ((0, 0), (0, 1), (0, 0))),
    )


def _power(square: jax.Array, exponent: jax.Array | float) -> jax.Array:
    """square ** exponent, with the gradient 0 at 0, where an exponent below 1 would make it infinite."""
    return jnp.where(square > 0, jnp.where(square > 0, square, 1.0) ** exponent, 0.0)
