"""Losses of DeepDream beyond `layer` and `channel`: the mean, one channel's squares, and guidance by another image."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.activation import Channel, _OfLayer
from jaxopt_input.losses.algebra import Activations, Shapes, check_layer
from jaxopt_input.targets import canonical, leaf, traced

ROWS = 1024  # positions matched at once: what bounds the memory of a guide


@traced
class LayerMean(_OfLayer):
    """See `layer_mean`."""

    layer: str

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.mean(self.read(activations))

    def name(self) -> str:
        return self.layer


def layer_mean(layer: str) -> LayerMean:
    """The mean of a layer over positions and channels.

    Args:
        layer: the tap.

    Raises:
        InputError: against a model, for an unknown layer.

    Source:
        TensorFlow tutorial "DeepDream" (2019), `calc_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(layer_mean("a")({"a": jnp.array([[[1.0, 3.0]]])}, None))
        2.0
    """
    return LayerMean(layer)


@traced
class ChannelSquare(Channel):
    """See `channel_square`."""

    layer: str
    channel: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        activation = self.read(activations)
        return jnp.square(activation).mean(tuple(range(activation.ndim - 1)))[self.channel]


def channel_square(layer: str, channel: Any) -> ChannelSquare:
    """The mean square of one channel over all positions: a sum of several, weighted, controls a dream by channel.

    Args:
        layer: the tap.
        channel: its index, or an integer array of one index a target.

    Raises:
        InputError: as `channel`.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015), as the mean instead of half the sum, of one channel.

    Example:
        >>> import jax.numpy as jnp
        >>> float(channel_square("a", 1)({"a": jnp.array([[[0.0, 2.0]], [[0.0, 4.0]]])}, None))
        10.0
    """
    return ChannelSquare(layer, canonical(channel, 0, jnp.int32, "channel"))


@traced
class Guided(_OfLayer):
    """See `guided`."""

    layer: str
    features: Any = leaf(rank=2)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        own = self.read(activations)
        own = own.reshape(-1, own.shape[-1])
        best = jax.lax.map(
            lambda one: jnp.argmax(self.features @ one), jax.lax.stop_gradient(own), batch_size=min(ROWS, len(own))
        )
        return jnp.sum(own * self.features[best]) / len(own)

    def check(self, shapes: Shapes) -> None:
        shape = check_layer(self.layer, shapes)
        if len(shape) != 3:
            raise InputError(f"layer {self.layer} has no positions, which guidance matches: name a layer before it")
        if self.features.shape[-1] != shape[-1]:
            raise InputError(
                f"the guide has {self.features.shape[-1]} channels, layer {self.layer} has {shape[-1]}: "
                "take the guide's features from the same layer"
            )

    def name(self) -> str:
        return f"{self.layer}:guide-{hashlib.sha256(np.asarray(self.features).tobytes()).hexdigest()[:8]}"


def guided(layer: str, features: Any) -> Guided:
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
        >>> import jax.numpy as jnp
        >>> guide = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> float(guided("a", guide)({"a": jnp.array([[[3.0, 1.0], [1.0, 1.0]]])}, None))  # 3 · 1 and 1 · 2
        2.5
    """
    return Guided(layer, canonical(features, 2, jnp.float32, "the guide's features"))
