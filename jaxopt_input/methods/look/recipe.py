"""What people look at first: the first layer's filters, the feature maps of an image, and its activation grid."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.engine.solution import Solution
from jaxopt_input.errors import InputError
from jaxopt_input.losses.algebra import check_layer
from jaxopt_input.methods.photo import as_image, window
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.models.receptive import ReceptiveField, receptive_field
from jaxopt_input.transforms import Transform, lucid

_GRAINS = (1, 4, 16, 4096)  # cells a side, at most, of the images that look for a place where a unit is active
_PER_GRAIN = 4
_AT_ONCE = 32


class Filters(NamedTuple):
    """A layer's filters, as `filters` makes them.

    Attributes:
        weights: `[channels, h, w, colors]` float32, in activation per unit of pixel value.
        dead: `[channels]` bool, True where no probe had a gradient; the weights are 0 there.
    """

    weights: np.ndarray
    dead: np.ndarray


def filters(model: Model, layer: str | None = None, *, key: jax.Array) -> Filters:
    """The filter of each unit of the first layer, as it acts on an image in [0, 1].

    It is the gradient of the unit's activation with respect to the pixels of its receptive field, at a random image
    and a place inside the borders where the unit is most active. That is exact, preprocessing included, for a linear
    map followed by a ReLU; after a smooth nonlinearity it is exact up to a factor, and after pooling it is the filter
    at one of the pooled places. Of a deeper layer it is the linear map at that image alone.

    Args:
        model: the network.
        layer: the tap; the model's first if None.
        key: a JAX key, of the probing images.

    Raises:
        InputError: for an unknown layer, one without channels, and one whose receptive field cannot be read.

    Source:
        Krizhevsky, Sutskever & Hinton, ImageNet Classification with Deep Convolutional Neural Networks (2012),
        figure 3, for the sheet.

    Example:
        >>> import jaxopt_input as joi
        >>> filters(joi.load("tin100"), key=jax.random.key(0)).weights.shape
        (32, 6, 6, 3)
    """
    layer = model.info.taps[0] if layer is None else layer
    shape = check_layer(layer, model.layers())
    if len(shape) not in (1, 3):
        raise InputError(f"layer {layer} of shape {shape} has no filters: it is neither a map nor a vector of units")
    probes = _probes(key, model.info.image_shape)
    activation = np.asarray(model.activations(probes, [layer])[layer], np.float32)
    if len(shape) == 1:
        weights = np.asarray(_gradients(model.apply, layer, model.params, probes, activation.argmax(0), None))
    else:
        field = receptive_field(model, layer)
        rows, columns = (_interior(field, axis, shape[axis], model.info.image_shape[axis]) for axis in (0, 1))
        interior = activation[:, rows][:, :, columns]
        image, row, column = np.unravel_index(interior.reshape(-1, shape[-1]).argmax(0), interior.shape[:3])
        where = np.stack([rows[row], columns[column]], 1)
        gradient = np.asarray(_gradients(model.apply, layer, model.params, probes, image, where))
        windows = zip(gradient, map(field.begin, where.tolist()), strict=True)
        weights = np.stack([window(pixels, begin, field.size) for pixels, begin in windows])
    return Filters(weights, np.asarray(~weights.any((1, 2, 3))))


def _interior(field: ReceptiveField, axis: int, count: int, side: int) -> np.ndarray:
    """The positions along an axis whose fields lie inside the image; the middle one where none does."""
    begin = field.offset[axis] + np.arange(count) * field.stride[axis]
    inside = np.flatnonzero((begin >= 0) & (begin + field.size[axis] <= side))
    return inside if len(inside) else np.array([count // 2])


def _probes(key: jax.Array, image_shape: tuple[int, int, int]) -> np.ndarray:
    """`[N, H, W, C]` random images, from flat colors to white noise."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    parts = []
    for grain in _GRAINS:
        rows, columns = (np.arange(side) * min(grain, side) // side for side in image_shape[:2])
        coarse = generator.random((_PER_GRAIN, rows[-1] + 1, columns[-1] + 1, image_shape[2]), np.float32)
        parts.append(coarse[:, rows][:, :, columns])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("apply", "layer"))
def _gradients(apply: Apply, layer: str, params: Any, probes: jax.Array, image: Any, where: Any) -> jax.Array:
    """`[channels, H, W, C]`: ∂(unit c)/∂image at probe `image[c]`, the unit at `where[c]` of its map."""
    channels = len(image)
    padded = -(-channels // _AT_ONCE) * _AT_ONCE
    chosen = jnp.arange(padded) % channels

    def chunk(units: jax.Array) -> jax.Array:
        def total(images: jax.Array) -> jax.Array:
            activation = apply(params, images, (layer,))[layer]
            index = (jnp.arange(_AT_ONCE), *(() if where is None else jnp.asarray(where)[units].T), units)
            return activation[index].sum()  # each image counts for its own unit alone

        return jax.grad(total)(probes[jnp.asarray(image)[units]])

    parts = jax.lax.map(chunk, chosen.reshape(-1, _AT_ONCE))
    return parts.reshape(padded, *parts.shape[2:])[:channels]


def feature_maps(model: Model, picture: Any, layers: str | Sequence[str]) -> dict[str, np.ndarray]:
    """The maps of layers for one image.

    Args:
        model: the network.
        picture: `[H, W, C]` in [0, 1].
        layers: one tap or several.

    Returns:
        `[h, w, channels]` float32 for each layer.

    Raises:
        InputError: for an unknown layer, one without maps, or an image that is none or that the network cannot take.

    Source:
        Zeiler & Fergus, Visualizing and Understanding Convolutional Networks (2014); Yosinski et al. (2015), for the
        sheet.

    Example:
        >>> import jaxopt_input as joi
        >>> feature_maps(joi.load("tin100"), np.zeros((64, 64, 3)), "block3")["block3"].shape
        (16, 16, 96)
    """
    wanted = (layers,) if isinstance(layers, str) else tuple(dict.fromkeys(layers))
    if not wanted:
        raise InputError("no layer to show the maps of: name at least one")
    image = as_image(picture, model, "an image")
    shapes = model.layers(image.shape)
    for layer in wanted:
        shape = check_layer(layer, shapes)
        if len(shape) != 3:
            raise InputError(f"layer {layer} has no maps: its shape is {shape}, not rows x columns x channels")
    activations = model.activations(image[None], wanted)
    return {layer: np.asarray(activations[layer][0], np.float32) for layer in wanted}


class Grid(NamedTuple):
    """An activation grid, as `activation_grid` makes it.

    Attributes:
        solution: the cells as targets, row by row.
        image: `[rows · h, columns · w, C]`, the best image of each cell's starts in its place.
        shape: (rows, columns) of cells.
        strength: `[rows, columns]`, the length of each cell's activation.
    """

    solution: Solution
    image: np.ndarray
    shape: tuple[int, int]
    strength: np.ndarray


def activation_grid(
    model: Model,
    layer: str,
    picture: Any,
    *,
    cells: int | None = 8,
    power: float = 2.0,
    steps: int = 128,
    transform: Transform | None = lucid(),  # noqa: B008 - immutable
    key: jax.Array,
    **options: Any,
) -> Grid:
    """What a layer sees at each place of an image: for each position, an icon that excites the same channels.

    Each icon maximizes the direction of its position's activation vector; all are targets of one `minimize`.

    Args:
        model: the network.
        layer: a tap with positions.
        picture: `[H, W, C]` in [0, 1].
        cells: rows and columns at most; a larger map is averaged down to them. None is one icon a position.
        power: of the cosine between activation and direction; 0 is the dot product.
        steps, transform, key: as in `minimize`.
        options: its further arguments, such as `image` (a parameterization with a size) or `on`.

    Raises:
        InputError: as `feature_maps` and `minimize`.

    Source:
        Olah et al., The Building Blocks of Interpretability (Distill, 2018).

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"map": x * p}, 1.0, image_shape=(6, 6, 3), taps=("map",))
        >>> grid = activation_grid(model, "map", np.ones((6, 6, 3)), cells=2, steps=1, image=joi.images.pixels(),
        ...                        transform=None, key=jax.random.key(0))
        >>> grid.image.shape, grid.shape
        ((12, 12, 3), (2, 2))
    """
    if cells is not None and cells < 1:
        raise InputError(f"an activation grid has at least 1 cell a side, not {cells}")
    activation = feature_maps(model, picture, layer)[layer]
    rows, columns = (n if cells is None else min(n, cells) for n in activation.shape[:2])
    bands = (np.array_split(band, columns, axis=1) for band in np.array_split(activation, rows, axis=0))
    vectors = np.stack([[block.mean((0, 1)) for block in band] for band in bands])
    loss = -losses.direction(layer, vectors.reshape(-1, vectors.shape[-1]), power)
    solution = minimize(loss, model, steps=steps, transform=transform, key=key, **options)
    icons = np.asarray(solution.best(1).best_image)
    icons = icons.reshape(rows, columns, *icons.shape[1:])
    height, width, colors = icons.shape[2:]
    image = icons.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, colors)
    return Grid(solution, image, (rows, columns), np.linalg.norm(vectors, axis=-1))


class NeuronGroups(NamedTuple):
    """A layer's activation of one image as a sum of groups, as `neuron_groups` makes it.

    Attributes:
        maps: `[rows, columns, groups]`, where each group is active.
        directions: `[groups, channels]`, which channels it consists of, each of length 1; strongest group first.
    """

    maps: np.ndarray
    directions: np.ndarray


def neuron_groups(model: Model, layer: str, picture: Any, groups: int = 6) -> NeuronGroups:
    """Channels that are active together, by non-negative factorization: activation ≈ maps · directions.

    Args:
        model: the network.
        layer: a tap with positions, after its ReLU.
        picture: `[H, W, C]` in [0, 1].
        groups: how many, at most the positions and the channels.

    Raises:
        InputError: as `feature_maps`, for activations that are negative, and for more groups than there can be.

    Source:
        Olah et al., The Building Blocks of Interpretability (Distill, 2018); scikit-learn's NMF.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"map": x * p}, 1.0, image_shape=(6, 6, 3), taps=("map",))
        >>> neuron_groups(model, "map", np.linspace(0, 1, 108).reshape(6, 6, 3), 2).directions.shape
        (2, 3)
    """
    from sklearn.decomposition import NMF

    activation = feature_maps(model, picture, layer)[layer]
    flat = activation.reshape(-1, activation.shape[-1])
    if not 1 <= groups <= min(flat.shape):
        raise InputError(f"groups must be from 1 to {min(flat.shape)} for layer {layer} of shape {activation.shape}")
    if flat.min() < 0:
        raise InputError(f"layer {layer} has negative activations, which have no groups: take a layer after its ReLU")
    if not flat.any():
        raise InputError(f"layer {layer} is zero everywhere for this image: it has no groups")
    factorization = NMF(groups, init="nndsvda", max_iter=1000, tol=1e-3, random_state=0)
    maps, directions = factorization.fit_transform(flat), factorization.components_
    length = np.linalg.norm(directions, axis=1)
    maps, directions = maps * length, directions / np.where(length > 0, length, 1)[:, None]
    order = np.argsort(-np.linalg.norm(maps, axis=0), kind="stable")
    return NeuronGroups(maps[:, order].reshape(*activation.shape[:2], groups), directions[order])


def group_icons(model: Model, layer: str, groups: NeuronGroups, **options: Any) -> Solution:
    """Images that excite the channels of each of a layer's groups together; `options` are those of `minimize`."""
    return minimize(-losses.direction(layer, groups.directions, 2.0), model, **options)
