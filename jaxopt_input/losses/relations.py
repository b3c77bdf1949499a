"""Losses that relate images or units: diversity, alignment and interpolation among a target's starts, and others.

Those among starts run in a vmap over the starts of one target, whose axis is named "starts"; `minimize` provides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.activation import position, unit
from jaxopt_input.losses.algebra import STARTS, Combination, Function, Loss, Rule, as_loss
from jaxopt_input.losses.define import Kind, index, number, of_layer

if TYPE_CHECKING:
    from jaxtyping import Array, Int

    from jaxopt_input.losses.define import Activation, Index, Map, Number, Scalar

NEIGHBORS = 4  # how far Lucid's alignment reaches


@of_layer("", couples=True)
def diversity(activation: Activation) -> Scalar:
    """How alike the starts of a target are: the mean cosine between a start's Gram matrix and each other's.

    Minimize it, with a weight of about 1 to 100 on top of what is maximized, and the starts show different facets of
    one unit. Each start has a value of its own; Lucid's sum over the batch is that of all starts times (n − 1) / n.

    Args:
        layer: the tap whose channel correlations, Σ_positions a aᵀ, are compared.

    Returns:
        A loss; its value is from −1 to 1, 0 to 1 after a ReLU.

    Raises:
        InputError: against a model, for an unknown layer; in `minimize`, with one start, with a line search, or if the
            starts do not fit one chunk.

    Source:
        Olah, Mordvintsev & Schubert, Feature Visualization (2017), "diversity"; Lucid (2018), `objectives.diversity`.

    Example:
        >>> activation = jnp.array([[[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[1.0, 0.0]]]])  # three starts
        >>> jax.vmap(diversity("a"), axis_name="starts")({"a": activation}, activation).tolist()
        [0.5, 0.0, 0.5]
    """
    features = activation.reshape(-1, activation.shape[-1])
    gram = jnp.matmul(features.T, features, precision=jax.lax.Precision.HIGHEST)
    gram = gram * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(gram)), 1e-10))
    all_grams = jax.lax.all_gather(gram, STARTS)
    starts = all_grams.shape[0]
    # A product with a vector: as a sum of products it was not always finite (jaxlib 0.10.2, CPU).
    cosine = jnp.matmul(all_grams.reshape(starts, -1), gram.ravel(), precision=jax.lax.Precision.HIGHEST)
    others = jnp.arange(starts) != jax.lax.axis_index(STARTS)
    return jnp.sum(jnp.where(others, cosine, 0.0)) / (starts - 1)


@of_layer("", couples=True, decay=number)
def alignment(activation: Activation, decay: Number = 2.0) -> Scalar:
    """How far neighboring starts of a target lie apart in a layer: ½ Σ_d mean (a_k − a_{k±d})² / decay^d, d ≤ 4.

    Minimize it along an `interpolation`, and like things appear at like places. The values of all starts add up to
    minus Lucid's objective.

    Args:
        layer: the tap.
        decay: by which a neighbor one further away counts less.

    Raises:
        InputError: as `diversity`.

    Source:
        Lucid (2018), `objectives.alignment`.

    Example:
        >>> activation = jnp.array([0.0, 2.0, 2.0]).reshape(3, 1, 1, 1)  # three starts
        >>> jax.vmap(alignment("a"), axis_name="starts")({"a": activation}, activation).tolist()
        [1.5, 1.0, 0.5]
    """
    everyone = jax.lax.all_gather(activation, STARTS)
    starts, start = everyone.shape[0], jax.lax.axis_index(STARTS)
    total = jnp.zeros(())
    for distance in range(1, min(NEIGHBORS, starts - 1) + 1):
        for neighbor in (start - distance, start + distance):
            exists = (neighbor >= 0) & (neighbor < starts)
            difference = activation - everyone[jnp.clip(neighbor, 0, starts - 1)]
            total += jnp.where(exists, jnp.mean(jnp.square(difference)), 0.0) / decay**distance
    return total / 2


def _along_starts(values: Sequence[jax.Array], _: Sequence[jax.Array]) -> jax.Array:
    steps = jax.lax.psum(1, STARTS) - 1
    part = jax.lax.axis_index(STARTS) / steps
    return (1 - part) * values[0] + part * values[1]


INTERPOLATION = Rule(_along_starts, "~", couples=True)


def interpolation(first: Loss | Function, second: Loss | Function) -> Loss:
    """From one loss to another across the starts of a target: start k of n has (1 − t) · first + t · second.

    t = k / (n − 1): the first start is the first loss alone, the last start the second. Together with
    `images.pyramid(shared_levels=3)` or `alignment` the pictures change step by step.

    Args:
        first, second: losses, such as `-channel("block3", 5)`, or functions of (activations, image).

    Raises:
        InputError: in `minimize`, with one start or with a line search, or if the starts do not fit one chunk.

    Source:
        Lucid (2018), `objectives.channel_interpolate`.

    Example:
        >>> from jaxopt_input.losses import channel
        >>> activation = jnp.tile(jnp.array([2.0, 6.0]), (3, 1, 1, 1))  # three starts, two channels
        >>> loss = interpolation(channel("a", 0), channel("a", 1))
        >>> jax.vmap(loss, axis_name="starts")({"a": activation}, activation).tolist()
        [2.0, 4.0, 6.0]
    """
    return Combination(INTERPOLATION, (as_loss(first), as_loss(second)))


@of_layer("{layer}:{channel}@{position}", channel=index, position=position)
def shortfall(activation: Activation, channel: Index, position: Int[Array, " 2"] | None = None) -> Scalar:
    """By how much a unit falls short of the most active unit of its layer: 0 where it is that unit itself.

    As the `milestone` of `minimize`, it keeps the image at which the unit first is the most active one: what Yosinski
    calls majority.

    Args:
        layer, channel, position: as in `unit`.

    Raises:
        InputError: as `unit`.

    Source:
        Yosinski et al. (2015), deep-visualization-toolbox, `optimize/gradient_optimizer.py`, `FindResults.update`.

    Example:
        >>> float(shortfall("a", 0)({"a": jnp.array([1.0, 4.0])}, None))
        3.0
    """
    return jnp.max(activation) - unit.formula(activation, channel, position)


def _some_activation(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    if np.shape(value)[-3:] != shape:
        raise InputError(
            f"a caricature in {where} of shape {shape} needs an image's activation of that shape, not "
            f"{np.shape(value)[-3:]}: take an image of the same size"
        )
    if not np.asarray(value).any((-3, -2, -1)).all():
        raise InputError(f"the image has no activation in {where}: there is nothing to overdo")


@of_layer(
    "{layer}:caricature-{target}", target=Kind(3, noun="the image's activation", check=_some_activation), power=number
)
def caricature(activation: Map, target: Map, power: Number = 1.0) -> Scalar:
    """What a layer sees in a picture, overdone: ⟨a, â⟩ / ‖â‖ · max(0.1, cos)^power, â its activation there.

    Args:
        layer: the tap, one with positions.
        target: `[H, W, C]`, the activation of the picture, or one per target.
        power: of the cosine between a and â over the whole map; 0 is the dot product, which drifts from the image.

    Returns:
        A loss; maximize it. Its value is in units of the layer's norm.

    Raises:
        InputError: against a model, for an unknown layer, another shape, or an activation that is all zero.

    Source:
        Olah, Mordvintsev & Schubert (2017); Lucid (2018), notebook "feature inversion and caricatures",
        `dot_compare`, here divided by ‖â‖.

    Example:
        >>> there = jnp.array([[[3.0, 4.0]]])
        >>> round(float(caricature("a", there)({"a": 2 * there}, None)), 3)
        10.0
    """
    square, own_square = jnp.sum(jnp.square(target)), jnp.sum(jnp.square(activation))
    dot = jnp.sum(activation * target)
    # The root's gradient at 0 is infinite: an image without any activation has cosine 0.
    length = jnp.sqrt(jnp.where(own_square > 0, own_square, 1.0)) * (own_square > 0)
    cosine = dot / (length * jnp.sqrt(square) + 1e-6)
    return dot / jnp.sqrt(square + 1e-12) * jnp.maximum(cosine, 0.1) ** power
