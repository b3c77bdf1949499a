"""Activation maps of images too large for memory, exact: the network runs on one tile after another.

Along an axis, tiles of one extent begin at multiples of a step, and the last one ends where the image does. Step and
extent are such that every tile lies on the layers' grid as the image does: strides divide the step, and the extent
leaves the same remainder as the image's size. So a unit whose receptive field lies inside a tile has the value that it
has in the image, and the padding and hanging windows of the image's own borders are those of the first and last tile.
Neighboring tiles overlap by so much that every unit has its field in one of them: that tile owns it.

The maps are assembled in place, in one scan. Its gradient is written by hand: a second scan runs each tile again, pulls
the gradient of the units that it owns back to its pixels, and adds that to the image's. Of the network's insides only
one tile's are ever in memory; what is as large as the image are the requested maps, their gradients, and the image's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxopt_input.checks import as_shape, count
from jaxopt_input.errors import InputError, lookup
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.models.receptive import ReceptiveField, receptive_field

TILE = 512
Index = jax.Array | int


@dataclasses.dataclass(frozen=True)
class Axis:
    """How one axis of an image is cut."""

    size: int  # of the image
    extent: int  # of every tile
    step: int  # from one tile to the next; the last one may lie nearer, to end where the image does

    @property
    def count(self) -> int:
        """The number of tiles."""
        return 1 + -(-(self.size - self.extent) // self.step)

    def start(self, tile: Index) -> jax.Array:
        """The first pixel of a tile."""
        return jnp.minimum(tile * self.step, self.size - self.extent)


@dataclasses.dataclass(frozen=True)
class Units:
    """A layer's units along one axis, and which tile owns which.

    A tile hands over all units from the first whose field lies inside it. Those at its end may be wrong: the tiles
    after it, whose own they are, are written later.
    """

    axis: Axis  # the cut
    stride: int  # in pixels
    first: int  # the first unit whose field does not begin before the tile; 0 where there is one tile
    count: int  # the number of units of the image

    @property
    def width(self) -> int:
        """How many units a tile hands over."""
        return self.count - (self.axis.size - self.axis.extent) // self.stride - self.first

    def local(self, tile: Index) -> jax.Array:
        """The first unit that a tile hands over, among its own."""
        return jnp.where(tile == 0, 0, self.first)

    def begin(self, tile: Index) -> jax.Array:
        """The same unit, among the image's."""
        return self.axis.start(tile) // self.stride + self.local(tile)

    def owned(self, tile: Index) -> jax.Array:
        """`[width]`: whether the tile owns each unit that it hands over."""
        last = tile == self.axis.count - 1
        end = jnp.where(last, self.count, self.begin(tile + 1))
        return self.begin(tile) + jnp.arange(self.width) < end


def _cut(size: int, fields: Sequence[tuple[int, int, int]], counts: Sequence[int], tile: int) -> tuple[Axis, list[int]]:
    """One axis, and the first whole unit of each layer: (size, stride, offset) of its field, and its number of units.

    A tile must reach to the end of the last field that it owns, so that its extent exceeds the step by at least
    first · stride + offset + size − stride; and what the first tile hands over must reach what the second one does.
    """
    grid = math.lcm(*(stride for _, stride, _ in fields))
    first, margin = [], 0
    for (length, stride, offset), units in zip(fields, counts, strict=True):
        first.append(max(0, -(offset // stride)))
        reach = first[-1] * stride
        margin = max(margin, reach + offset + length - stride, 2 * reach + size - units * stride)
    tiles = max(1, -(-(size - margin) // tile))
    step = -(-(size - margin) // tiles // grid) * grid
    extent = step + margin + (size - step - margin) % grid
    if tiles == 1 or extent >= size:
        return Axis(size, size, grid), [0] * len(first)  # one tile hands over everything
    return Axis(size, extent, step), first


@dataclasses.dataclass(frozen=True)
class Tiled:
    """A model's function, tile by tile; equal for equal functions cut alike."""

    apply: Apply  # the network's own function
    image_shape: tuple[int, int, int]  # (height, width, channels) of the images that it takes
    taps: tuple[str, ...]  # the layers that it computes
    units: tuple[tuple[Units, Units], ...]  # of each of them, the rows and columns

    @property
    def tile(self) -> tuple[int, int, int]:
        """(height, width, channels) of a tile."""
        rows, columns = self.units[0]
        return rows.axis.extent, columns.axis.extent, self.image_shape[2]

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        if image.shape[1:] != self.image_shape:
            raise InputError(f"tiles were cut for images of {self.image_shape}, not of {image.shape[1:]}: cut new ones")
        return _maps(self, tuple(taps), params, image)


def tiled(model: Model, taps: Sequence[str], image_shape: Sequence[int], tile: int = TILE) -> Model:
    """The model for large images, in little memory: the same activation maps and image gradients, tile by tile.

    Memory is that of the requested maps and their gradients, and of the network's insides for one tile. The network
    runs once more for the gradient, and what neighboring tiles share is computed by each. It must do the same at every
    place of the image, as convolutions and pooling do: an image of coordinates that it adds itself is not noticed.

    Args:
        model: the network.
        taps: the layers that the loss reads, each a map whose units see a part of the image; the model has no others.
        image_shape: (height, width, channels) of the images.
        tile: pixels from one tile to the next, at most, up to the layers' stride; tiles are larger by the margin that
            the layers' receptive fields need.

    Returns:
        A model for images of that shape, with the same parameters; the network as it is where one tile covers them.

    Raises:
        InputError: for an unknown layer, an image that the network cannot take, and a layer that cannot be computed
            from tiles: logits, means over the map, and what `receptive_field` does not know.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> large = tiled(model, ("block2", "block3"), (300, 200, 3), tile=128)
        >>> large.layers()
        {'block2': (150, 100, 32), 'block3': (75, 50, 96)}
        >>> image = jax.random.uniform(jax.random.key(0), (1, 300, 200, 3))
        >>> whole, parts = (m.activations(image, ["block3"])["block3"] for m in (model, large))
        >>> bool(jnp.allclose(whole, parts, atol=1e-4))
        True
    """
    shape, taps = as_shape(image_shape), tuple(dict.fromkeys(taps))
    if not taps:
        raise InputError("a tiled model needs at least one layer")
    tile = count("tile", tile)
    shapes = model.layers(shape)
    for tap in taps:
        lookup("layer", tap, shapes)
    info = dataclasses.replace(model.info, image_shape=shape, taps=taps)
    if max(shape[:2]) <= tile:
        return dataclasses.replace(model, info=info)

    fields = [_field(model, tap, shape) for tap in taps]
    cuts = []
    for axis in (0, 1):
        along = [(field.size[axis], field.stride[axis], field.offset[axis]) for field in fields]
        counts = [shapes[tap][axis] for tap in taps]
        cut, first = _cut(shape[axis], along, counts, tile)
        strides = [stride for _, stride, _ in along]
        cuts.append([Units(cut, *unit) for unit in zip(strides, first, counts, strict=True)])
    apply = Tiled(model.apply, shape, taps, tuple(zip(*cuts, strict=True)))
    if apply.tile == shape:
        return dataclasses.replace(model, info=info)
    _check(model, apply, fields)
    return Model(apply, model.params, info)


def _field(model: Model, tap: str, shape: tuple[int, int, int]) -> ReceptiveField:
    """The receptive field of a layer that can be computed from tiles."""
    remedy = f"it cannot be computed tile by tile: leave {tap} out, or take a tile as large as the image"
    try:
        field = receptive_field(model, tap, shape)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from error
    if 0 in field.stride:
        raise InputError(f"each unit of layer {tap} sees the whole image, so {remedy}")
    return field


def _check(model: Model, apply: Tiled, fields: Sequence[ReceptiveField]) -> None:
    """Refuse a network whose layers lie differently on a tile, such as by padding that depends on the size."""
    shapes = model.layers(apply.tile)
    for tap, units, field in zip(apply.taps, apply.units, fields, strict=True):
        expected = tuple(u.count - (u.axis.size - u.axis.extent) // u.stride for u in units)
        if shapes[tap][:2] != expected or receptive_field(model, tap, apply.tile) != field:
            raise InputError(
                f"layer {tap} lies differently on a tile of {apply.tile} than on an image of {apply.image_shape}: "
                "it cannot be computed tile by tile; take a tile as large as the image"
            )


# ---- compiled --------------------------------------------------------------------------------------------------------


def _tile(
    apply: Tiled, taps: tuple[str, ...], params: Any, image: jax.Array, row: Index, column: Index
) -> dict[str, Any]:
    """What one tile hands over of each layer."""
    place = dict(zip(apply.taps, apply.units, strict=True))
    maps = apply.apply(params, image, taps)

    def part(tap: str) -> jax.Array:
        rows, columns = place[tap]
        sizes = (len(image), rows.width, columns.width, maps[tap].shape[-1])
        return jax.lax.dynamic_slice(maps[tap], _corner(rows.local(row), columns.local(column)), sizes)

    return {tap: part(tap) for tap in taps}


def _tiles(apply: Tiled) -> tuple[jax.Array, jax.Array]:
    """The row and column of every tile, row by row: a later tile overwrites what is not an earlier one's own."""
    rows, columns = (units.axis.count for units in apply.units[0])
    number = jnp.arange(rows * columns, dtype=jnp.int32)
    return number // columns, number % columns


def _corner(row: Index, column: Index) -> tuple[jax.Array, ...]:
    """Where a part begins in a batch; of one type, as slices ask for."""
    return tuple(jnp.asarray(n, jnp.int32) for n in (0, row, column, 0))


def _at(apply: Tiled, row: Index, column: Index) -> tuple[jax.Array, ...]:
    """Where a tile begins in a batch of images."""
    rows, columns = apply.units[0]
    return _corner(rows.axis.start(row), columns.axis.start(column))


def _begin(units: tuple[Units, Units], row: Index, column: Index) -> tuple[jax.Array, ...]:
    """Where what a tile hands over begins in a batch of maps."""
    return _corner(units[0].begin(row), units[1].begin(column))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _maps(apply: Tiled, taps: tuple[str, ...], params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """The whole maps of the layers, `{tap: [N, h, w, C]}`."""
    place = dict(zip(apply.taps, apply.units, strict=True))
    size = (len(images), *apply.tile)

    def step(maps: dict[str, jax.Array], tile: tuple[jax.Array, jax.Array]) -> tuple[dict[str, jax.Array], None]:
        image = jax.lax.dynamic_slice(images, _at(apply, *tile), size)
        parts = _tile(apply, taps, params, image, *tile)
        return {
            tap: jax.lax.dynamic_update_slice(maps[tap], parts[tap], _begin(place[tap], *tile)) for tap in taps
        }, None

    image = jax.ShapeDtypeStruct(size, images.dtype)
    parts = jax.eval_shape(functools.partial(_tile, apply, taps), params, image, 0, 0)
    counts = {tap: tuple(units.count for units in place[tap]) for tap in taps}
    empty = {tap: jnp.zeros((size[0], *counts[tap], parts[tap].shape[-1]), parts[tap].dtype) for tap in taps}
    return jax.lax.scan(step, empty, _tiles(apply))[0]


def _forward(apply: Tiled, taps: tuple[str, ...], params: Any, images: Any) -> tuple[dict[str, jax.Array], Any]:
    if any(leaf.perturbed for leaf in jax.tree.leaves(params)):
        raise InputError(
            "a tiled model has a gradient with respect to the image alone: take that of the parameters untiled"
        )
    params = jax.tree.map(lambda leaf: leaf.value, params)
    return _maps(apply, taps, params, images.value), (params, images.value)


def _backward(apply: Tiled, taps: tuple[str, ...], residual: Any, cotangents: dict[str, Any]) -> tuple[None, jax.Array]:
    """The image's gradient: each tile again, from the gradient of the units that it owns."""
    params, images = residual
    place = dict(zip(apply.taps, apply.units, strict=True))
    read = tuple(tap for tap in taps if not isinstance(cotangents[tap], SymbolicZero))
    size = (len(images), *apply.tile)

    def owned(tap: str, tile: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows, columns = place[tap]
        sizes = (size[0], rows.width, columns.width, cotangents[tap].shape[-1])
        mask = rows.owned(tile[0])[:, None, None] & columns.owned(tile[1])[:, None]
        return jnp.where(mask, jax.lax.dynamic_slice(cotangents[tap], _begin(place[tap], *tile), sizes), 0)

    def step(total: jax.Array, tile: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        at = _at(apply, *tile)
        image = jax.lax.dynamic_slice(images, at, size)
        _, pull = jax.vjp(lambda image: _tile(apply, read, params, image, *tile), image)
        (gradient,) = pull({tap: owned(tap, tile) for tap in read})
        added = jax.lax.dynamic_slice(total, at, size) + gradient
        return jax.lax.dynamic_update_slice(total, added, at), None

    dtype = jnp.promote_types(images.dtype, jnp.float32)  # what tiles share is added up: not in bfloat16
    total = jax.lax.scan(step, jnp.zeros(images.shape, dtype), _tiles(apply))[0]
    return None, total.astype(images.dtype)


_maps.defvjp(_forward, _backward, symbolic_zeros=True)
