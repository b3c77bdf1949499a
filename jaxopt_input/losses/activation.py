"""Losses of activations: unit, channel, layer, direction, class. All return the quantity; negate it to maximize."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.algebra import Activations, Loss, Shapes, check_index, check_layer
from jaxopt_input.targets import canonical, leaf, traced


class _OfLayer(Loss):
    """A loss that reads one layer."""

    layer: str

    @property
    def taps(self) -> tuple[str, ...]:
        return (self.layer,)

    def read(self, activations: Activations) -> jax.Array:
        """The layer's activation, `[H, W, C]` or `[C]`."""
        return jnp.asarray(activations[self.layer])

    def check(self, shapes: Shapes) -> None:
        check_layer(self.layer, shapes)


@traced
class Channel(_OfLayer):
    """See `channel`."""

    layer: str
    channel: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        # Averaging first and indexing the short vector keeps the gather (and its gradient) off the map.
        activation = self.read(activations)
        return activation.mean(tuple(range(activation.ndim - 1)))[self.channel]

    def check(self, shapes: Shapes) -> None:
        check_index("channel", self.channel, check_layer(self.layer, shapes)[-1], f"layer {self.layer}")

    def name(self) -> str:
        return f"{self.layer}:{int(self.channel)}"


def channel(layer: str, channel: Any) -> Channel:
    """The mean of one channel over all positions.

    Args:
        layer: the tap.
        channel: its index, or an integer array of one index a target.

    Returns:
        A loss; its value is mean_yx A[y, x, channel], in units of the activation.

    Raises:
        InputError: if the index is no integer; against a model, also for an unknown layer or channel.

    Source:
        Olah, Mordvintsev & Schubert, Feature Visualization (2017), "channel objective".

    Example:
        >>> import jax.numpy as jnp
        >>> float(channel("a", 1)({"a": jnp.array([[[0.0, 2.0]], [[0.0, 4.0]]])}, None))
        3.0
    """
    return Channel(layer, canonical(channel, 0, jnp.int32, "channel"))


@traced
class Unit(_OfLayer):
    """See `unit`."""

    layer: str
    channel: Any = leaf(rank=0)
    position: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        activation = self.read(activations)
        if activation.ndim == 1:
            return activation[self.channel]
        if self.position is None:
            height, width, _ = activation.shape
            return activation[height // 2, width // 2][self.channel]
        return activation[self.position[0], self.position[1]][self.channel]

    def check(self, shapes: Shapes) -> None:
        shape = check_layer(self.layer, shapes)
        check_index("channel", self.channel, shape[-1], f"layer {self.layer}")
        if self.position is not None:
            if len(shape) != 3:
                raise InputError(f"layer {self.layer} has no positions: leave the position out")
            for axis, which in enumerate(("row", "column")):
                check_index(which, np.asarray(self.position)[..., axis], shape[axis], f"layer {self.layer}")

    def name(self) -> str:
        where = "center" if self.position is None else ",".join(str(int(n)) for n in self.position)
        return f"{self.layer}:{int(self.channel)}@{where}"


def unit(layer: str, channel: Any, position: Any = None) -> Unit:
    """The activation of one unit: one channel at one position.

    Args:
        layer: the tap; a layer without positions has one unit a channel.
        channel: the index of the channel, or one a target.
        position: (row, column), or `[targets, 2]`; the center (height // 2, width // 2) if None.

    Returns:
        A loss; its value is A[row, column, channel].

    Raises:
        InputError: for indices that are no integers; against a model, also for those that do not exist.

    Source:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network (2009); Yosinski et al. (2015) take the
        center of the map.

    Example:
        >>> import jax.numpy as jnp
        >>> float(unit("a", 0, (1, 0))({"a": jnp.array([[[1.0]], [[5.0]]])}, None))
        5.0
    """
    index = canonical(channel, 0, jnp.int32, "channel")
    where = None if position is None else canonical(position, 1, jnp.int32, "position")
    if where is not None and where.shape[-1] != 2:
        raise InputError(f"a position is (row, column), not {position!r}")
    return Unit(layer, index, where)


@traced
class Layer(_OfLayer):
    """See `layer`."""

    layer: str

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(self.read(activations)))

    def name(self) -> str:
        return self.layer


def layer(layer: str) -> Layer:
    """The mean square of a layer over positions and channels: what DeepDream maximizes.

    Args:
        layer: the tap.

    Raises:
        InputError: against a model, for an unknown layer.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015), as the mean instead of half the sum.

    Example:
        >>> import jax.numpy as jnp
        >>> float(layer("a")({"a": jnp.array([[[1.0, 3.0]]])}, None))
        5.0
    """
    return Layer(layer)


@traced
class Direction(_OfLayer):
    """See `direction`."""

    layer: str
    vector: Any = leaf(rank=1)
    power: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        activation = self.read(activations)
        dot = activation @ self.vector
        square = jnp.sum(jnp.square(activation), -1)
        length = jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)  # the root's gradient at 0 is infinite
        cosine = dot / ((length + 1e-4) * (jnp.linalg.norm(self.vector) + 1e-4))
        return jnp.mean(dot * jnp.maximum(cosine, 0.1) ** self.power)

    def check(self, shapes: Shapes) -> None:
        channels = check_layer(self.layer, shapes)[-1]
        if self.vector.shape[-1] != channels:
            raise InputError(
                f"direction of length {self.vector.shape[-1]} for layer {self.layer}, which has {channels} channels"
            )

    def name(self) -> str:
        return f"{self.layer}:direction-{hashlib.sha256(np.asarray(self.vector).tobytes()).hexdigest()[:8]}"


def direction(layer: str, vector: Any, power: Any = 0.0) -> Direction:
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
        >>> import jax.numpy as jnp
        >>> float(direction("a", [1.0, 1.0])({"a": jnp.array([[[1.0, 3.0]]])}, None))
        4.0
    """
    return Direction(
        layer,
        canonical(vector, 1, jnp.float32, "the direction's vector"),
        canonical(power, 0, jnp.float32, "the cosine's power"),
    )


@traced
class ClassLogit(_OfLayer):
    """See `class_logit`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return self.read(activations)[self.index]

    def check(self, shapes: Shapes) -> None:
        check_index("class", self.index, check_layer(self.layer, shapes)[-1], "the model")

    def name(self) -> str:
        return f"class:{int(self.index)}"


def class_logit(index: Any) -> ClassLogit:
    """The logit of a class, before the softmax.

    Args:
        index: the class, or one a target (`model.info.class_index` finds it by name).

    Raises:
        InputError: if it is no integer; against a model, also if there is no such class.

    Source:
        Simonyan, Vedaldi & Zisserman, Deep Inside Convolutional Networks (2014), section 2.

    Example:
        >>> import jax.numpy as jnp
        >>> float(class_logit(1)({"logits": jnp.array([0.5, 2.5])}, None))
        2.5
    """
    return ClassLogit(canonical(index, 0, jnp.int32, "class"))


@traced
class ClassLogProbability(ClassLogit):
    """See `class_log_probability`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(self.read(activations))[self.index]


def class_log_probability(index: Any) -> ClassLogProbability:
    """The logarithm of a class's probability: minus the cross-entropy.

    Args:
        index: the class, or one a target.

    Raises:
        InputError: as `class_logit`.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 4, for their loss.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(class_log_probability(1)({"logits": jnp.array([2.0, 2.0])}, None)), 4)
        -0.6931
    """
    return ClassLogProbability(canonical(index, 0, jnp.int32, "class"))


@traced
class ClassProbability(ClassLogit):
    """See `class_probability`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jax.nn.softmax(self.read(activations))[self.index]


def class_probability(index: Any) -> ClassProbability:
    """The probability of a class: the softmax of the logits.

    Args:
        index: the class, or one a target.

    Raises:
        InputError: as `class_logit`.

    Source:
        Nguyen, Yosinski & Clune, Deep Neural Networks are Easily Fooled (2015), maximize it; Simonyan et al. (2014)
        say why the logit makes better pictures: the softmax rises as well where other classes fall.

    Example:
        >>> import jax.numpy as jnp
        >>> float(class_probability(1)({"logits": jnp.array([2.0, 2.0])}, None))
        0.5
    """
    return ClassProbability(canonical(index, 0, jnp.int32, "class"))
