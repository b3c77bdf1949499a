"""Images under affine maps, by bilinear interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Shaped


def warp(
    image: Float[Array, "H W C"],
    matrix: Float[Array, "2 3"],
    size: tuple[int, int] | None = None,
    fill: float | None = None,
) -> Float[Array, "h w C"]:
    """The image under an affine map, by bilinear interpolation; differentiable in the image.

    Args:
        image: `[H, W, C]`.
        matrix: `[2, 3]`, taking the point (x, y, 1) of the result to the point (x, y) of the image, both counted in
            pixels from the center.
        size: (height, width) of the result, the image's own if None.
        fill: what lies outside the image; the nearest edge pixel if None.

    Returns:
        `[*size, C]`.

    Example:
        >>> image = jnp.arange(4.0).reshape(1, 4, 1)
        >>> warp(image, jnp.array([[1.0, 0, 0.5], [0, 1, 0]]))[0, :, 0].tolist()
        [0.5, 1.5, 2.5, 3.0]
    """
    height, width, channels = image.shape
    new_height, new_width = size or (height, width)
    y, x = np.mgrid[:new_height, :new_width].reshape(2, 1, -1).astype(np.float32)
    x, y = x - np.float32((new_width - 1) / 2), y - np.float32((new_height - 1) / 2)
    source = matrix[:, :1] * x + matrix[:, 1:2] * y + matrix[:, 2:]
    margin = 0 if fill is None else 1  # one ring of the fill value: beyond it, the nearest edge pixel is fill as well
    canvas = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=fill or 0)
    rows, columns = canvas.shape[:2]
    column = jnp.clip(source[0] + (width - 1) / 2 + margin, 0, columns - 1)
    row = jnp.clip(source[1] + (height - 1) / 2 + margin, 0, rows - 1)
    left = jnp.clip(jnp.floor(column), 0, max(columns - 2, 0)).astype(jnp.int32)
    top = jnp.clip(jnp.floor(row), 0, max(rows - 2, 0)).astype(jnp.int32)
    right_part, bottom_part = (part[:, None] for part in (column - left, row - top))
    pixels = canvas.reshape(-1, channels)
    corner = top * columns + left
    across, down = min(columns - 1, 1), columns * min(rows - 1, 1)

    a, b, c, d = _corners(pixels, corner, across, down)
    upper = a * (1 - right_part) + b * right_part
    lower = c * (1 - right_part) + d * right_part
    return (upper * (1 - bottom_part) + lower * bottom_part).reshape(new_height, new_width, channels)


def affine_product(outer: Float[Array, "2 3"], inner: Float[Array, "2 3"]) -> Float[Array, "2 3"]:
    """The map of `inner`, then of `outer`.

    Example:
        >>> import jax.numpy as jnp
        >>> double, shift = jnp.array([[2.0, 0, 0], [0, 2, 0]]), jnp.array([[1.0, 0, 3], [0, 1, 5]])
        >>> affine_product(double, shift).tolist()
        [[2.0, 0.0, 6.0], [0.0, 2.0, 10.0]]
    """
    # Written out: matrix products this small would be kernels of their own, ten in a transform of four parts.
    inner = jnp.asarray(inner, jnp.float32)
    return outer[:, :1] * inner[:1] + outer[:, 1:2] * inner[1:] + outer * np.array([[0, 0, 1]], np.float32)


def _corners(
    pixels: Float[Array, "pixels C"], corner: Int[Array, " views"], across: int, down: int
) -> tuple[Float[Array, "views C"], ...]:
    """The pixels at each index `corner`, and at those one column on, one row on, and both."""
    if pixels.dtype != jnp.float32 or not across:
        return singly(pixels, corner, across, down)
    return jax.lax.platform_dependent(
        pixels,
        corner,
        cpu=lambda pixels, corner: in_pairs(pixels, corner, down),
        default=lambda pixels, corner: singly(pixels, corner, across, down),
    )


def singly(
    pixels: Float[Array, "pixels C"], corner: Int[Array, " views"], across: int, down: int
) -> tuple[Float[Array, "views C"], ...]:
    """Four gathers, one for each neighbor."""
    return tuple(_taken(pixels, corner + k) for k in (0, across, down, down + across))


def in_pairs(
    pixels: Float[Array, "pixels C"], corner: Int[Array, " views"], down: int
) -> tuple[Float[Array, "views C"], ...]:
    """Two neighbors as one complex number, and both rows in one gather: fewer to gather, and to scatter back."""
    pairs = jax.lax.complex(pixels[:-1], pixels[1:])
    upper, lower = _taken(pairs, corner[None] + np.array([[0], [down]], np.int32))
    return upper.real, upper.imag, lower.real, lower.imag


def _taken(numbers: Shaped[Array, "pixels C"], index: Int[Array, " views"]) -> Shaped[Array, "views C"]:
    return numbers.at[index].get(mode="promise_in_bounds")
