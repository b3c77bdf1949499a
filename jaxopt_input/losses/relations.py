"""Losses that relate images or units: diversity, alignment and interpolation among a target's starts, and others.

Those among starts run in a vmap over the starts of one target, whose axis is named "starts"; `minimize` provides it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.activation import Unit, _OfLayer, unit
from jaxopt_input.losses.algebra import Activations, Loss, Shapes, check_layer
from jaxopt_input.targets import canonical, child, leaf, traced

STARTS = "starts"
NEIGHBORS = 4  # how far Lucid's alignment reaches


@traced
class Diversity(_OfLayer):
    """See `diversity`."""

    layer: str

    @property
    def couples(self) -> bool:
        return True

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        activation = self.read(activations)
        features = activation.reshape(-1, activation.shape[-1])
        gram = jnp.matmul(features.T, features, precision=jax.lax.Precision.HIGHEST)
        gram = gram * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(gram)), 1e-10))
        all_grams = jax.lax.all_gather(gram, STARTS)
        starts = all_grams.shape[0]
        # A product with a vector: as a sum of products it was not always finite (jaxlib 0.10.2, CPU).
        cosine = jnp.matmul(all_grams.reshape(starts, -1), gram.ravel(), precision=jax.lax.Precision.HIGHEST)
        others = jnp.arange(starts) != jax.lax.axis_index(STARTS)
        return jnp.sum(jnp.where(others, cosine, 0.0)) / (starts - 1)


def diversity(layer: str) -> Diversity:
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
        >>> import jax, jax.numpy as jnp
        >>> activation = jnp.array([[[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[1.0, 0.0]]]])  # three starts
        >>> jax.vmap(diversity("a"), axis_name="starts")({"a": activation}, activation).tolist()
        [0.5, 0.0, 0.5]
    """
    return Diversity(layer)


@traced
class Alignment(_OfLayer):
    """See `alignment`."""

    layer: str
    decay: Any = leaf(rank=0)

    @property
    def couples(self) -> bool:
        return True

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        activation = self.read(activations)
        everyone = jax.lax.all_gather(activation, STARTS)
        starts, here = everyone.shape[0], jax.lax.axis_index(STARTS)
        total = jnp.zeros(())
        for distance in range(1, min(NEIGHBORS, starts - 1) + 1):
            for there in (here - distance, here + distance):
                exists = (there >= 0) & (there < starts)
                difference = activation - everyone[jnp.clip(there, 0, starts - 1)]
                total += jnp.where(exists, jnp.mean(jnp.square(difference)), 0.0) / self.decay**distance
        return total / 2


def alignment(layer: str, decay: Any = 2.0) -> Alignment:
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
        >>> import jax, jax.numpy as jnp
        >>> activation = jnp.array([0.0, 2.0, 2.0]).reshape(3, 1, 1, 1)  # three starts
        >>> jax.vmap(alignment("a"), axis_name="starts")({"a": activation}, activation).tolist()
        [1.5, 1.0, 0.5]
    """
    return Alignment(layer, canonical(decay, 0, jnp.float32, "the alignment's decay"))


@traced
class Interpolation(Loss):
    """See `interpolation`."""

    first: Loss = child()
    second: Loss = child()

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.first.taps + self.second.taps))

    @property
    def couples(self) -> bool:
        return True

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        steps = jax.lax.psum(1, STARTS) - 1
        part = jax.lax.axis_index(STARTS) / steps
        return (1 - part) * self.first(activations, image) + part * self.second(activations, image)

    def check(self, shapes: Shapes) -> None:
        self.first.check(shapes)
        self.second.check(shapes)

    def name(self) -> str:
        return f"{self.first.name()}~{self.second.name()}"


def interpolation(first: Loss, second: Loss) -> Interpolation:
    """From one loss to another across the starts of a target: start k of n has (1 − t) · first + t · second.

    t = k / (n − 1): the first start is the first loss alone, the last start the second. Together with
    `images.pyramid(shared_levels=3)` or `alignment` the pictures change step by step.

    Args:
        first, second: losses, such as `-channel("block3", 5)`.

    Raises:
        InputError: in `minimize`, with one start or with a line search, or if the starts do not fit one chunk.

    Source:
        Lucid (2018), `objectives.channel_interpolate`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxopt_input.losses import channel
        >>> activation = jnp.tile(jnp.array([2.0, 6.0]), (3, 1, 1, 1))  # three starts, two channels
        >>> loss = interpolation(channel("a", 0), channel("a", 1))
        >>> jax.vmap(loss, axis_name="starts")({"a": activation}, activation).tolist()
        [2.0, 4.0, 6.0]
    """
    for part in (first, second):
        if not isinstance(part, Loss):
            raise InputError(f"interpolation takes two losses, not {part!r}")
    return Interpolation(first, second)


@traced
class Shortfall(Unit):
    """See `shortfall`."""

    layer: str
    channel: Any = leaf(rank=0)
    position: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.max(self.read(activations)) - super().__call__(activations, image)


def shortfall(layer: str, channel: Any, position: Any = None) -> Shortfall:
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
        >>> import jax.numpy as jnp
        >>> float(shortfall("a", 0)({"a": jnp.array([1.0, 4.0])}, None))
        3.0
    """
    of = unit(layer, channel, position)
    return Shortfall(of.layer, of.channel, of.position)


@traced
class Caricature(_OfLayer):
    """See `caricature`."""

    layer: str
    activation: Any = leaf(rank=3)
    power: Any = leaf(rank=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        own, square = self.read(activations), jnp.sum(jnp.square(self.activation))
        own_square = jnp.sum(jnp.square(own))
        dot = jnp.sum(own * self.activation)
        # The root's gradient at 0 is infinite: an image without any activation has cosine 0.
        length = jnp.sqrt(jnp.where(own_square > 0, own_square, 1.0)) * (own_square > 0)
        cosine = dot / (length * jnp.sqrt(square) + 1e-6)
        return dot / jnp.sqrt(square + 1e-12) * jnp.maximum(cosine, 0.1) ** self.power

    def check(self, shapes: Shapes) -> None:
        shape = check_layer(self.layer, shapes)
        if self.activation.shape[-3:] != shape:
            raise InputError(
                f"a caricature in layer {self.layer} of shape {shape} needs an image's activation of that shape, not "
                f"{self.activation.shape[-3:]}: take an image of the same size"
            )

    def name(self) -> str:
        return f"{self.layer}:caricature-{hashlib.sha256(np.asarray(self.activation).tobytes()).hexdigest()[:8]}"


def caricature(layer: str, activation: Any, power: Any = 1.0) -> Caricature:
    """What a layer sees in a given image, overdone: ⟨a, â⟩ / ‖â‖ · max(0.1, cos)^power, â its activation there.

    Args:
        layer: the tap, one with positions.
        activation: `[H, W, C]` of the given image, or one a target.
        power: of the cosine between a and â over the whole map; 0 is the dot product, which drifts from the image.

    Returns:
        A loss; maximize it. Its value is in units of the layer's norm.

    Raises:
        InputError: for an activation that is all zero; against a model, for an unknown layer or another shape.

    Source:
        Olah, Mordvintsev & Schubert (2017); Lucid (2018), notebook "feature inversion and caricatures",
        `dot_compare`, here divided by ‖â‖.

    Example:
        >>> import jax.numpy as jnp
        >>> there = jnp.array([[[3.0, 4.0]]])
        >>> round(float(caricature("a", there)({"a": 2 * there}, None)), 3)
        10.0
    """
    value = canonical(activation, 3, jnp.float32, "the image's activation")
    if not isinstance(value, jax.core.Tracer) and not np.asarray(value).any((-3, -2, -1)).all():
        raise InputError(f"the image has no activation in layer {layer}: there is nothing to overdo")
    return Caricature(layer, value, canonical(power, 0, jnp.float32, "the cosine's power"))
