"""Losses of activations: unit, channel, layer, direction, class. All return the quantity; negate it to maximize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import check_index
from jaxopt_input.errors import InputError
from jaxopt_input.losses.define import Kind, index, number, of_layer, of_logits, vector

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from jaxopt_input.losses.define import Activation, Index, Logits, Number, Scalar


@of_layer("{layer}:{channel}", channel=index)
def channel(activation: Activation, channel: Index) -> Scalar:
    """The mean of one channel over all positions, mean_yx A[y, x, channel].

    Args:
        layer: the tap.
        channel: its index, or an integer array of one index per target.

    Raises:
        InputError: if the index is no integer; against a model, also for an unknown layer or channel.

    Source:
        Olah, Mordvintsev & Schubert, Feature Visualization (2017), "channel objective".

    Example:
        >>> float(channel("a", 1)({"a": jnp.array([[[0.0, 2.0]], [[0.0, 4.0]]])}, None))
        3.0
    """
    # Averaging first and indexing the short vector keeps the gather (and its gradient) off the map.
    return activation.mean(tuple(range(activation.ndim - 1)))[channel]


def _on_map(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    if np.shape(value)[-1] != 2:
        raise InputError(f"a position is (row, column), not {value!r}")
    if len(shape) != 3:
        raise InputError(f"{where} has no positions: leave the position out")
    for axis, side in enumerate(("row", "column")):
        check_index(side, value[..., axis], shape[axis], where)


def _coordinates(value: Any) -> str:
    return ",".join(str(int(coordinate)) for coordinate in value)


position = Kind(1, jnp.int32, check=_on_map, text=_coordinates, missing="center")


@of_layer("{layer}:{channel}@{position}", channel=index, position=position)
def unit(activation: Activation, channel: Index, position: Int[Array, " 2"] | None = None) -> Scalar:
    """The activation of one unit, A[row, column, channel].

    Args:
        layer: the tap; a layer without positions has one unit per channel.
        channel: the index of the channel, or one per target.
        position: (row, column), or `[targets, 2]`; the center (height // 2, width // 2) if None.

    Raises:
        InputError: for indices that are no integers; against a model, also for those that do not exist.

    Source:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network (2009); Yosinski et al. (2015) take the
        center of the map.

    Example:
        >>> float(unit("a", 0, (1, 0))({"a": jnp.array([[[1.0]], [[5.0]]])}, None))
        5.0
    """
    if activation.ndim == 1:
        return activation[channel]
    if position is None:
        height, width, _ = activation.shape
        return activation[height // 2, width // 2][channel]
    return activation[position[0], position[1]][channel]


@of_layer("{layer}")
def layer(activation: Activation) -> Scalar:
    """The mean square of a layer over positions and channels: what DeepDream maximizes.

    Args:
        layer: the tap.

    Raises:
        InputError: against a model, for an unknown layer.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015), as the mean instead of half the sum.

    Example:
        >>> float(layer("a")({"a": jnp.array([[[1.0, 3.0]]])}, None))
        5.0
    """
    return jnp.mean(jnp.square(activation))


@of_layer("{layer}:direction-{vector}", vector=vector, power=number)
def direction(activation: Activation, vector: Float[Array, " channels"], power: Number = 0.0) -> Scalar:
    """The activation along a direction of feature space: mean over positions of dot · max(0.1, cos)^power.

    Args:
        layer: the tap.
        vector: `[channels]`, or `[targets, channels]`.
        power: exponent of the cosine; 0 is the dot product, Lucid uses 2 where the angle is to count.

    Raises:
        InputError: against a model, for an unknown layer or a vector of another length.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 3; Lucid (2018),
        `objectives.direction`.

    Example:
        >>> float(direction("a", [1.0, 1.0])({"a": jnp.array([[[1.0, 3.0]]])}, None))
        4.0
    """
    dot = activation @ vector
    square = jnp.sum(jnp.square(activation), -1)
    length = jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)  # the root's gradient at 0 is infinite
    cosine = dot / ((length + 1e-4) * (jnp.linalg.norm(vector) + 1e-4))
    return jnp.mean(dot * jnp.maximum(cosine, 0.1) ** power)


class_index = Kind(0, jnp.int32, "class", check=index.check, text=index.text)


@of_logits("class:{index}", index=class_index)
def class_logit(logits: Logits, index: Index) -> Scalar:
    """The logit of a class, before the softmax.

    Args:
        index: the class, or one per target (`model.info.class_index` finds it by name).

    Raises:
        InputError: if it is no integer; against a model, also if there is no such class.

    Source:
        Simonyan, Vedaldi & Zisserman, Deep Inside Convolutional Networks (2014), section 2.

    Example:
        >>> float(class_logit(1)({"logits": jnp.array([0.5, 2.5])}, None))
        2.5
    """
    return logits[index]


@of_logits("class:{index}", index=class_index)
def class_log_probability(logits: Logits, index: Index) -> Scalar:
    """The logarithm of a class's probability: minus the cross-entropy.

    Args:
        index: the class, or one per target.

    Raises:
        InputError: as `class_logit`.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 4, for their loss.

    Example:
        >>> round(float(class_log_probability(1)({"logits": jnp.array([2.0, 2.0])}, None)), 4)
        -0.6931
    """
    return jax.nn.log_softmax(logits)[index]


@of_logits("class:{index}", index=class_index)
def class_probability(logits: Logits, index: Index) -> Scalar:
    """The probability of a class: the softmax of the logits.

    Args:
        index: the class, or one per target.

    Raises:
        InputError: as `class_logit`.

    Source:
        Nguyen, Yosinski & Clune, Deep Neural Networks are Easily Fooled (2015), maximize it; Simonyan et al. (2014)
        say why the logit makes better pictures: the softmax rises as well where other classes fall.

    Example:
        >>> float(class_probability(1)({"logits": jnp.array([2.0, 2.0])}, None))
        0.5
    """
    return jax.nn.softmax(logits)[index]
