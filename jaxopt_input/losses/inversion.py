"""Losses that compare a layer's activation, position by position, with that of a picture: inversion and content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.define import Kind, array, of_layer
from jaxopt_input.targets import canonical

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float

    from jaxopt_input.losses.define import Map, Scalar


def _as_map(activation: Float[Array, ...]) -> Map:
    """A layer without positions has one."""
    return activation if activation.ndim == 3 else activation[None, None]


def _of_the_same_size(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    shape = shape if len(shape) == 3 else (1, 1, *shape)
    if np.shape(value)[-3:] != shape:
        raise InputError(
            f"the activation to match has shape {np.shape(value)[-3:]}, {where} has {shape}: take it from an "
            "image of the size that is optimized"
        )


picture = Kind(3, noun="the activation to match", check=_of_the_same_size)


def _content(target: ArrayLike) -> dict[str, Any]:
    """`[H, W, C]`, or `[targets, H, W, C]`, of an activation with or without positions."""
    values = np.asarray(target)
    values = values[..., None, None, :] if values.ndim in (1, 2) else values
    return {"target": canonical(values, 3, jnp.float32, "the activation to match")}


def _weighted(target: ArrayLike, weight: ArrayLike | None = None) -> Mapping[str, Any]:
    """The activation as a map, and the weights at its size."""
    goal = _content(target)["target"]
    factors = np.ones((1, 1, 1), np.float32) if weight is None else np.asarray(weight, np.float32)
    try:
        weights = np.array(np.broadcast_to(factors, np.shape(goal)[-3:]))
    except ValueError as error:
        raise InputError(f"weights of shape {factors.shape} do not fit features of {np.shape(goal)[-3:]}") from error
    if not (np.square(goal) * weights).sum((-3, -2, -1)).all():
        raise InputError("the activation to match is zero where it counts: nothing to invert")
    return {"target": goal, "weight": weights}


@of_layer("{layer}:inversion", prepare=_weighted, target=picture, weight=array(3))
def feature_distance(activation: Float[Array, ...], target: Map, weight: Map) -> Scalar:
    """‖Φ(x) − Φ₀‖² / ‖Φ₀‖²: how far a layer's activation is from that of a picture, relative to its norm.

    Args:
        layer: the tap.
        target: Φ₀ of an image of the size that is optimized: `[H, W, C]`, or `[C]` of a layer without positions, or
            one per target.
        weight: of each square in both norms, of a shape that broadcasts to Φ₀'s: 1 where the features are to be
            matched and 0 elsewhere, to invert a region or a group of channels alone; all of them if None.

    Raises:
        InputError: for an activation that is zero where it counts; against a model, also for an unknown layer or
            another shape.

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), section 2.

    Example:
        >>> phi = jnp.array([[[3.0, 4.0]]])
        >>> float(feature_distance("a", phi)({"a": 2 * phi}, None))
        1.0
    """
    difference = jnp.square(_as_map(activation) - target)
    return jnp.sum(weight * difference) / jnp.sum(weight * jnp.square(target))


@of_layer("{layer}:content", prepare=_content, target=picture)
def content(activation: Float[Array, ...], target: Map) -> Scalar:
    """The mean squared difference of a layer's activation from that of a picture: what style transfer keeps.

    Args:
        layer: the tap.
        target: `[H, W, C]` of the content image at the size that is optimized, or one per target.

    Raises:
        InputError: against a model, for an unknown layer or another shape.

    Source:
        Gatys, Ecker & Bethge, Image Style Transfer Using Convolutional Neural Networks (2016), equation 1, as the mean
        instead of half the sum, as in the authors' PyTorch code.

    Example:
        >>> float(content("a", jnp.ones((1, 1, 2)))({"a": jnp.array([[[1.0, 3.0]]])}, None))
        2.0
    """
    return jnp.mean(jnp.square(_as_map(activation) - target))
