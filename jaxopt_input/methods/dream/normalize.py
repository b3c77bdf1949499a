"""How DeepDream scales a gradient before it steps along it: by mean abs, by standard deviation, or band by band."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
FLOOR = 1e-10  # of a scale, where the largest number of the gradient is 1
NAMES = ("mean-abs", "std", "laplacian")


def normalize(gradient: jax.Array, by: str, bands: int = 4) -> jax.Array:
    """A gradient brought to a fixed scale; zero stays zero.

    Args:
        gradient: `[H, W, C]`.
        by: "mean-abs", "std" (the standard deviation over all numbers), or "laplacian": each band of its Laplacian
            pyramid divided by its root mean square, so that low frequencies rise and high ones do not drown them.
        bands: how often the pyramid splits: `bands` bands and the low-pass rest.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015): mean abs; the TensorFlow tutorials of 2016 (`lap_normalize`) and
        2019 (std).

    Example:
        >>> import jax.numpy as jnp
        >>> normalize(jnp.array([[[2.0], [-6.0]]]), "mean-abs").ravel().tolist()
        [0.5, -1.5]
    """
    # Dividing by the largest number first keeps the squares of tiny gradients from underflowing.
    peak = jnp.max(jnp.abs(gradient))
    gradient = gradient / jnp.where(peak > 0, peak, 1)
    if by == "laplacian":
        return merge([band / _floor(jnp.sqrt(jnp.mean(jnp.square(band)))) for band in split(gradient, bands)])
    return gradient / _floor(jnp.mean(jnp.abs(gradient)) if by == "mean-abs" else jnp.std(gradient))


def _floor(scale: jax.Array) -> jax.Array:
    return jnp.maximum(scale, FLOOR)


def split(image: jax.Array, bands: int) -> list[jax.Array]:
    """The Laplacian pyramid `[H, W, C]`, `[H/2, W/2, C]`, …, the low-pass rest last.

    Source:
        Burt & Adelson, The Laplacian Pyramid as a Compact Image Code (1983), with its 5-tap binomial filter.

    Example:
        >>> [band.shape for band in split(jnp.ones((8, 6, 3)), 2)]
        [(8, 6, 3), (4, 3, 3), (2, 2, 3)]
    """
    levels = []
    for _ in range(bands):
        low = _down(image)
        levels.append(image - _up(low, image))
        image = low
    return [*levels, image]


def merge(levels: list[jax.Array]) -> jax.Array:
    """The image of a Laplacian pyramid: the inverse of `split`."""
    *bands, image = levels
    for band in reversed(bands):
        image = band + _up(image, band)
    return image


def _down(image: jax.Array) -> jax.Array:
    """Blurred and halved, each side rounded up; zero beyond the border."""
    planes = jnp.moveaxis(image, -1, 0)[..., None]
    rows = jnp.asarray(BINOMIAL, image.dtype).reshape(5, 1, 1, 1)
    for kernel, strides in ((rows, (2, 1)), (rows.swapaxes(0, 1), (1, 2))):
        planes = jax.lax.conv_general_dilated(
            planes, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return jnp.moveaxis(planes[..., 0], 0, -1)


def _up(low: jax.Array, like: jax.Array) -> jax.Array:
    """Doubled to the shape of `like`: four times the adjoint of `_down`."""
    adjoint: Callable[[jax.Array], tuple[jax.Array]] = jax.linear_transpose(_down, like)
    return 4 * adjoint(low)[0]
