"""Losses that compare a layer's activation, position by position, with one given: inversion and content."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.activation import _OfLayer
from jaxopt_input.losses.algebra import Activations, Shapes, check_layer
from jaxopt_input.targets import canonical, leaf, traced


def _as_map(activation: jax.Array) -> jax.Array:
    """`[H, W, C]`; a layer without positions has one."""
    return activation if activation.ndim == 3 else activation[None, None]


def _check_map(layer: str, given: Any, shapes: Shapes) -> None:
    shape = check_layer(layer, shapes)
    shape = shape if len(shape) == 3 else (1, 1, *shape)
    if np.shape(given)[-3:] != shape:
        raise InputError(
            f"the activation to match has shape {np.shape(given)[-3:]}, layer {layer} has {shape}: take it from an "
            "image of the size that is optimized"
        )


@traced
class FeatureDistance(_OfLayer):
    """See `feature_distance`."""

    layer: str
    activation: Any = leaf(rank=3)
    weight: Any = leaf(rank=3)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        difference = jnp.square(_as_map(self.read(activations)) - self.activation)
        return jnp.sum(self.weight * difference) / jnp.sum(self.weight * jnp.square(self.activation))

    def check(self, shapes: Shapes) -> None:
        _check_map(self.layer, self.activation, shapes)

    def name(self) -> str:
        return f"{self.layer}:inversion"


def feature_distance(layer: str, activation: Any, weight: Any = None) -> FeatureDistance:
    """‖Φ(x) − Φ₀‖² / ‖Φ₀‖²: how far a layer's activation is from a given one, relative to its norm.

    Args:
        layer: the tap.
        activation: Φ₀ of an image of the size that is optimized: `[H, W, C]`, or `[C]` of a layer without positions,
            or one a target.
        weight: of each square in both norms, of a shape that broadcasts to Φ₀'s: 1 where the features are to be
            matched and 0 elsewhere, to invert a region or a group of channels alone; all of them if None.

    Raises:
        InputError: for an activation that is zero where it counts; against a model, also for an unknown layer or
            another shape.

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), section 2.

    Example:
        >>> import jax.numpy as jnp
        >>> phi = jnp.array([[[3.0, 4.0]]])
        >>> float(feature_distance("a", phi)({"a": 2 * phi}, None))
        1.0
    """
    given = np.asarray(activation)
    given = given[..., None, None, :] if given.ndim in (1, 2) else given
    target = canonical(given, 3, jnp.float32, "the activation to match")
    ones = np.ones((1, 1, 1), np.float32) if weight is None else np.asarray(weight, np.float32)
    try:
        weights = np.array(np.broadcast_to(ones, np.shape(target)[-3:]))
    except ValueError as error:
        raise InputError(f"weights of shape {ones.shape} do not fit features of {np.shape(target)[-3:]}") from error
    if not (np.square(target) * weights).sum((-3, -2, -1)).all():
        raise InputError(f"the activation to match at {layer} is zero where it counts: nothing to invert")
    return FeatureDistance(layer, target, weights)


@traced
class Content(_OfLayer):
    """See `content`."""

    layer: str
    activation: Any = leaf(rank=3)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(_as_map(self.read(activations)) - self.activation))

    def check(self, shapes: Shapes) -> None:
        _check_map(self.layer, self.activation, shapes)

    def name(self) -> str:
        return f"{self.layer}:content"


def content(layer: str, activation: Any) -> Content:
    """The mean squared difference of a layer's activation from a given one: what style transfer keeps.

    Args:
        layer: the tap.
        activation: `[H, W, C]` of the content image at the size that is optimized, or one a target.

    Raises:
        InputError: against a model, for an unknown layer or another shape.

    Source:
        Gatys, Ecker & Bethge, Image Style Transfer Using Convolutional Neural Networks (2016), equation 1, as the mean
        instead of half the sum, as in the authors' PyTorch code.

    Example:
        >>> import jax.numpy as jnp
        >>> float(content("a", jnp.ones((1, 1, 2)))({"a": jnp.array([[[1.0, 3.0]]])}, None))
        2.0
    """
    given = np.asarray(activation)
    given = given[..., None, None, :] if given.ndim in (1, 2) else given
    return Content(layer, canonical(given, 3, jnp.float32, "the activation to match"))
