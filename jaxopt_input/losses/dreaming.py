"""Losses of DeepDream beyond `layer` and `channel`: the mean, one channel's squares, and guidance by another image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.define import Kind, index, of_layer

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxopt_input.losses.define import Activation, Index, Map, Scalar

ROWS = 1024  # positions matched at once: what bounds the memory of a guide


@of_layer("{layer}")
def layer_mean(activation: Activation) -> Scalar:
    """The mean of a layer over positions and channels.

    Args:
        layer: the tap.

    Raises:
        InputError: against a model, for an unknown layer.

    Source:
        TensorFlow tutorial "DeepDream" (2019), `calc_loss`.

    Example:
        >>> float(layer_mean("a")({"a": jnp.array([[[1.0, 3.0]]])}, None))
        2.0
    """
    return jnp.mean(activation)


@of_layer("{layer}:{channel}", channel=index)
def channel_square(activation: Activation, channel: Index) -> Scalar:
    """The mean square of one channel over all positions: a sum of several, weighted, controls a dream by channel.

    Args:
        layer: the tap.
        channel: its index, or an integer array of one index per target.

    Raises:
        InputError: as `channel`.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015), as the mean instead of half the sum, of one channel.

    Example:
        >>> float(channel_square("a", 1)({"a": jnp.array([[[0.0, 2.0]], [[0.0, 4.0]]])}, None))
        10.0
    """
    return jnp.square(activation).mean(tuple(range(activation.ndim - 1)))[channel]


def _of_a_map(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 3:
        raise InputError(f"{where} has no positions, which guidance matches: name a layer before it")
    if np.shape(value)[-1] != shape[-1]:
        raise InputError(
            f"the guide has {np.shape(value)[-1]} channels, {where} has {shape[-1]}: "
            "take the guide's features from the same layer"
        )


@of_layer("{layer}:guide-{features}", features=Kind(2, noun="the guide's features", check=_of_a_map))
def guided(activation: Map, features: Float[Array, "guide_positions channels"]) -> Scalar:
    """The mean over positions of the dot product with the guide's feature that matches best.

    Which feature matches best is decided anew at each evaluation and is not differentiated, so the gradient at a
    position is that feature, divided by the number of positions.

    Args:
        layer: the tap, with positions.
        features: the guide's activation at this layer, `[positions, channels]`, or `[targets, positions, channels]`.

    Raises:
        InputError: for another rank; against a model, for an unknown layer, one without positions, or one with
            another number of channels.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015), "Controlling dreams", as the mean instead of the sum.

    Example:
        >>> guide = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> float(guided("a", guide)({"a": jnp.array([[[3.0, 1.0], [1.0, 1.0]]])}, None))  # 3 · 1 and 1 · 2
        2.5
    """
    own = activation.reshape(-1, activation.shape[-1])
    best = jax.lax.map(
        lambda feature: jnp.argmax(features @ feature), jax.lax.stop_gradient(own), batch_size=min(ROWS, len(own))
    )
    return jnp.sum(own * features[best]) / len(own)
