"""The gradient of an image too large for memory, tile by tile.

The image is a torus here: tiles at its border continue on the other side. An axis is cut into cores of at most the tile
size; a tile is a core with a margin on each side. The outer half of a margin, where the tile's border disturbs the
gradient most, is thrown away; around the cut between two cores, over the width of a margin, the two tiles' gradients
fade into one another. All tiles have one static shape and run one after another in one `lax.scan`: memory is that of
one tile.

Measured on SqueezeNet (1024x768, tiles of 512, `fire8`): the energy of the gradient at the cuts is 2 to 7 % of that
elsewhere without margins, and within 2 % of it with margins of 64. Where cores are no multiple of the network's stride,
the fade loses a third of the energy: hence `GRID`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

GRID = 32  # cores are multiples of it: the stride of the deepest layers of common networks


@dataclasses.dataclass(frozen=True)
class Axis:
    """How an axis of an image is cut: static, one compilation each.

    Attributes:
        size: of the image.
        count: the number of tiles.
        core: the distance between tiles; the last core is what remains.
        margin: on each side of a core; 0 for a single tile, which is the image itself.
    """

    size: int
    count: int
    core: int
    margin: int

    @property
    def extent(self) -> int:
        """The size of a tile."""
        return self.core + 2 * self.margin

    @property
    def padding(self) -> tuple[int, int]:
        """What to add before and after the image, so that every tile is a slice."""
        return self.margin, self.count * self.core - self.size + self.margin

    def windows(self) -> np.ndarray:
        """`[count, extent]`: the weights of each tile's gradient; on the torus they add up to 1."""
        last = self.size - (self.count - 1) * self.core
        cores = np.array([self.core] * (self.count - 1) + [last])[:, None]
        inwards = np.arange(self.extent) + 0.5 - self.margin  # from where the core begins
        return (self._ramp(inwards) - self._ramp(inwards - cores)).astype(np.float32)

    def _ramp(self, inwards: np.ndarray) -> np.ndarray:
        return np.clip(inwards / self.margin + 0.5, 0, 1) if self.margin else (inwards > 0).astype(float)


def cut(size: int, tile: int, overlap: int) -> Axis:
    """The fewest tiles, of at most `tile` pixels without their margins, that cover an axis, as equal as may be.

    Args:
        size: of the image, in pixels.
        tile: the largest core, in pixels; from `GRID` up it is rounded down to a multiple of it.
        overlap: the margin on each side, in pixels, where there is more than one tile.

    Example:
        >>> cut(500, 512, 64).count, cut(2048, 512, 64)
        (1, Axis(size=2048, count=4, core=512, margin=64))
    """
    if size <= tile:
        return Axis(size, 1, size, 0)
    grid = GRID if tile >= GRID else 1
    equal = -(-size // -(-size // (tile // grid * grid)))
    core = -(-equal // grid) * grid
    return Axis(size, -(-size // core), core, overlap)


def value_and_gradient(
    function: Callable[[jax.Array], jax.Array], image: jax.Array, rows: Axis, columns: Axis
) -> tuple[jax.Array, jax.Array]:
    """The mean of a function over an image's tiles, and the sum of its gradients, faded at the cuts.

    Args:
        function: from a tile `[h, w, C]` to a number.
        image: `[H, W, C]`.
        rows, columns: the cuts, from `cut`.

    Returns:
        A number and `[H, W, C]`. With a single tile, exactly the function's value and gradient.

    Example:
        >>> image = jnp.arange(30.0).reshape(6, 5, 1)
        >>> value, gradient = value_and_gradient(lambda x: (x**2).sum(), image, cut(6, 4, 1), cut(5, 8, 1))
        >>> bool(jnp.allclose(gradient, 2 * image))
        True
    """
    evaluate = jax.value_and_grad(function)
    if rows.count == columns.count == 1:
        return evaluate(image)
    padded = jnp.pad(image, (rows.padding, columns.padding, (0, 0)), mode="wrap")
    shape = (rows.extent, columns.extent, image.shape[-1])
    down, across = jnp.asarray(rows.windows()), jnp.asarray(columns.windows())

    def add_tile(total: jax.Array, tile: jax.Array) -> tuple[jax.Array, jax.Array]:
        row, column = tile // columns.count, tile % columns.count
        at = (row * rows.core, column * columns.core, jnp.int32(0))
        value, gradient = evaluate(jax.lax.dynamic_slice(padded, at, shape))
        window = down[row][:, None, None] * across[column][:, None]
        added = jax.lax.dynamic_slice(total, at, shape) + window * gradient
        return jax.lax.dynamic_update_slice(total, added, at), value

    tiles = jnp.arange(rows.count * columns.count, dtype=jnp.int32)
    total, values = jax.lax.scan(add_tile, jnp.zeros_like(padded), tiles)
    return values.mean(), _fold(_fold(total, rows).swapaxes(0, 1), columns).swapaxes(0, 1)


def _fold(padded: jax.Array, axis: Axis) -> jax.Array:
    """The first axis without its padding, what lay in the margins added where it belongs on the torus."""
    margin, end = axis.margin, axis.margin + axis.size
    inner = padded[margin:end]
    inner = inner.at[axis.size - margin :].add(padded[:margin])
    return inner.at[:margin].add(padded[end : end + margin])  # windows are 0 further out
