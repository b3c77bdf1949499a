"""The images of a data set that excite units and directions the most and the least, in one pass over the set.

A unit is the direction e_i of its layer's space, so that units and other directions are ranked alike: one product of
the layer's activation with a matrix of unit vectors. What is kept is the running k best of each, never the set.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import Shape, check_index
from jaxopt_input.data import Dataset
from jaxopt_input.engine.lanes import Resources, resources, top
from jaxopt_input.engine.memory import image_bytes, images_within
from jaxopt_input.errors import InputError
from jaxopt_input.losses.algebra import check_layer
from jaxopt_input.methods.presets import check_choice
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.names import POOLS

_BUDGET = 2**28  # bytes of the largest array of one step


class Ranked(NamedTuple):
    """The k images at one end of a ranking, for each of D directions, the most extreme first.

    Attributes:
        value: `[D, k]` float32, their scores.
        index: `[D, k]` int, their places in the data set.
        position: `[D, k, …]` int, where in the layer's map the score lies: its largest place, the first of several.
            Nothing (`[D, k, 0]`) for layers without positions and for the mean over them.
    """

    value: Any
    index: Any
    position: Any


class Ranking(NamedTuple):
    """Both ends of a ranking of images, as `rank` makes it."""

    largest: Ranked
    smallest: Ranked


def rank(
    model: Model,
    dataset: Dataset,
    probes: Mapping[str, Any],
    *,
    k: int | None = None,
    pool: str = "max",
    on: Resources | None = None,
) -> dict[str, Ranking]:
    """For each layer the k images with the largest and the k with the smallest score of each of its directions.

    The score of image x for the direction v is ⟨φ(x), v⟩, φ being the layer's activation, pooled over positions. The
    set is read once, whatever the number of directions and layers; memory does not grow with its length. Of equal
    scores the earlier image comes first; an image whose score is not finite is passed over.

    Args:
        model: the network.
        dataset: images of a shape that it takes.
        probes: for each layer, its directions `[D, channels]`: `basis` makes those of units.
        k: images kept at each end, at most as many as the set has; 9 if None, or all where there are fewer.
        pool: "max" is the largest product over positions (what Yosinski's patches are chosen by), "mean" the product
            of the mean over positions. Layers without positions have nothing to pool.
        on: the resources: `chunk` is the images per step, at most 64 if None; the first of the devices is used.
            Progress is called as (images done, images in all).

    Raises:
        InputError: for an unknown layer, one without channels, directions of another length, a set that is empty,
            smaller than k or of another image shape, or fewer than k images with finite scores.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 3; Yosinski et al., Understanding
        Neural Networks Through Deep Visualization (2015), for the patches.

    Example:
        >>> import tempfile, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> folder = tempfile.mkdtemp()
        >>> for n in range(5):
        ...     joi.data.save_png(f"{folder}/{n}.png", np.full((4, 4, 3), n / 5))
        >>> ranking = rank(model, joi.data.load(folder, model), {"logits": basis(3)}, k=2)["logits"]
        >>> ranking.largest.index[0].tolist(), ranking.smallest.index[0].tolist()
        ([4, 3], [0, 1])
    """
    shapes = model.layers(dataset.image_shape)
    vectors = {layer: _checked(layer, probe, shapes) for layer, probe in probes.items()}
    if not vectors:
        raise InputError("no layer to rank images by: name at least one")
    check_choice("pooling", pool, POOLS)
    if not len(dataset):
        raise InputError(f"the data set {dataset.name} is empty")
    k = min(9, len(dataset)) if k is None else k
    if not 1 <= k <= len(dataset):
        raise InputError(f"k must be from 1 to the {len(dataset)} images of {dataset.name}, not {k}")
    on = resources(on)
    batch = min(on.chunk or _most(model, dataset.image_shape, vectors, on), len(dataset))
    device = on.local[0]
    params, directions = jax.device_put((model.params, vectors), device)
    state = jax.device_put({layer: _empty(len(v), k) for layer, v in vectors.items()}, device)
    done = 0
    for images, _, _ in dataset.batches(batch):
        padded = np.zeros((batch, *images.shape[1:]), np.float32)  # one shape, one compilation
        padded[: len(images)] = images
        before = state
        state = _step(model.apply, pool, params, directions, state, padded, np.int32(done), np.int32(len(images)))
        jax.block_until_ready(before)  # one step ahead at most: otherwise images would queue up
        done += len(images)
        if on.progress:
            on.progress(done, len(dataset))
    rankings = {}
    for layer, ends in jax.device_get(state).items():
        if not all(np.isfinite(end.value).all() for end in ends):
            raise InputError(f"layer {layer} is finite for fewer than {k} images of {dataset.name}: nothing to rank")
        rankings[layer] = Ranking(*(_unravelled(end, shapes[layer][:-1], pool) for end in ends))
    return rankings


def basis(channels: int, chosen: Any = None) -> np.ndarray:
    """The directions of units: rows of the identity.

    Args:
        channels: how many the layer has.
        chosen: some of them; all if None.

    Returns:
        `[len(chosen), channels]` float32.

    Raises:
        InputError: for a channel that does not exist.

    Example:
        >>> basis(3, [2]).tolist()
        [[0.0, 0.0, 1.0]]
    """
    wanted = np.arange(channels) if chosen is None else np.asarray(chosen, int).reshape(-1)
    check_index("channel", wanted, channels, "the layer")
    return np.eye(channels, dtype=np.float32)[wanted]


def random_directions(key: jax.Array, count: int, channels: int) -> np.ndarray:
    """`[count, channels]` float32 directions drawn evenly from the unit sphere.

    Raises:
        InputError: for a count below 1.

    Example:
        >>> v = random_directions(jax.random.key(0), 2, 5)
        >>> v.shape, np.linalg.norm(v, axis=1).round(5).tolist()
        ((2, 5), [1.0, 1.0])
    """
    if count < 1:
        raise InputError(f"the number of directions must be at least 1, not {count}")
    normal = np.asarray(jax.random.normal(key, (count, channels)))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _checked(layer: str, probe: Any, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """A layer's directions as `[D, channels]` float32."""
    shape = check_layer(layer, shapes)
    if not shape:
        raise InputError(f"layer {layer} has no channels: it is one number per image")
    vectors = np.asarray(probe, np.float32)
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != shape[-1]:
        raise InputError(
            f"directions of shape {vectors.shape} for layer {layer}, which takes [directions, {shape[-1]}]"
        )
    return vectors


def _most(model: Model, image_shape: Shape, vectors: Mapping[str, np.ndarray], on: Resources) -> int:
    """Images per step, at most."""
    shapes = model.layers(image_shape)
    widest = max(math.prod(shapes[layer][:-1]) * len(directions) for layer, directions in vectors.items())
    batch = int(np.clip(_BUDGET // (4 * widest), 1, 64))
    if on.memory is None:
        return batch
    each = image_bytes(model, tuple(vectors), image_shape, image_shape, 0)
    return min(batch, images_within(int(on.memory), each, model))


def _empty(directions: int, k: int) -> Ranking:
    """The ranking of no images: every score −∞ (largest) or ∞ (smallest)."""
    where = np.zeros((directions, k), np.int32)
    ends = [Ranked(np.full((directions, k), worst, np.float32), where, where) for worst in (-np.inf, np.inf)]
    return Ranking(*ends)


@functools.partial(jax.jit, static_argnames=("apply", "pool"))
def _step(
    apply: Apply,
    pool: str,
    params: Any,
    directions: dict[str, jax.Array],
    state: dict[str, Ranking],
    images: jax.Array,
    first: jax.Array,
    count: jax.Array,
) -> dict[str, Ranking]:
    """The rankings after one more batch, whose images from `count` on are padding."""
    activations = apply(params, images, tuple(directions))
    index = first + jnp.arange(len(images), dtype=jnp.int32)
    real = jnp.arange(len(images)) < count
    out = {}
    for layer, vectors in directions.items():
        score, position = _scores(activations[layer], vectors, pool)
        counts = real & jnp.isfinite(score)
        here = jnp.broadcast_to(index, score.shape)
        largest, smallest = state[layer]
        high = Ranked(*top(largest, (jnp.where(counts, score, -jnp.inf), here, position)))
        low = Ranked(*top(_negated(smallest), (jnp.where(counts, -score, -jnp.inf), here, position)))
        out[layer] = Ranking(high, _negated(low))
    return out


def _scores(activation: jax.Array, vectors: jax.Array, pool: str) -> tuple[jax.Array, jax.Array]:
    """`[D, N]` scores of N activations `[N, …, C]`, and the flat positions where they lie."""
    flat = activation.astype(jnp.float32).reshape(len(activation), -1, activation.shape[-1])
    flat = flat.mean(1, keepdims=True) if pool == "mean" else flat
    products = jnp.einsum("npc,dc->dnp", flat, vectors, precision="highest")
    return products.max(-1), products.argmax(-1).astype(jnp.int32)


def _negated(ranked: Ranked) -> Ranked:
    return ranked._replace(value=-ranked.value)


def _unravelled(end: Ranked, positions: tuple[int, ...], pool: str) -> Ranked:
    """Flat positions as coordinates of the map, none where there are no positions or their mean was taken."""
    if pool == "mean" or not positions:
        coordinates = np.zeros((*end.position.shape, 0), int)
    else:
        coordinates = np.stack(np.unravel_index(end.position, positions), -1)
    return end._replace(position=coordinates)
