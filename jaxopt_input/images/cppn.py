"""The image as a compositional pattern-producing network: a small network from coordinates to color."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import Shape, as_shape, count
from jaxopt_input.errors import InputError
from jaxopt_input.images.parameterization import Parameterization

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Theta = tuple[tuple[jax.Array, jax.Array], ...]  # (weights [..., in, out], biases [..., 1, out]) of each layer


@dataclasses.dataclass(frozen=True)
class CPPN(Parameterization):
    """A network from coordinates to color: `cppn` makes it."""

    layers: int = 8
    units: int = 24

    def init(self, key: jax.Array, batch: int) -> Theta:
        channels = self.bound()[2]
        inputs = [2] + [2 * self.units] * self.layers
        outputs = [self.units] * self.layers + [channels]
        theta = []
        for n, (fan_in, out) in enumerate(zip(inputs, outputs, strict=True)):
            for_weights, for_biases = jax.random.split(jax.random.fold_in(key, n))
            weights = jax.random.truncated_normal(for_weights, -2, 2, (batch, fan_in, out), jnp.float32) / (
                0.8796 * fan_in**0.5
            )
            weights = weights if n < self.layers else jnp.zeros_like(weights)
            theta.append((weights, 0.1 * jax.random.normal(for_biases, (batch, 1, out), jnp.float32)))
        return tuple(theta)

    def decode(self, theta: Theta) -> Float[Array, "*batch H W C"]:
        height, width, channels = self.bound()
        reach = 3**0.5 / max(height, width)  # the longer side spans −√3 to √3: a standard deviation of 1
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        hidden = jnp.asarray(np.stack([(2 * x - width + 1) * reach, (2 * y - height + 1) * reach], -1), jnp.float32)
        for weights, biases in theta[:-1]:
            angle = jnp.arctan(hidden @ weights + biases)
            hidden = jnp.concatenate([angle / 0.67, jnp.square(angle) / 0.6], -1)
        weights, biases = theta[-1]
        color = jax.nn.sigmoid(hidden @ weights + biases)
        return color.reshape(*color.shape[:-2], height, width, channels)

    def encode(self, image: Float[Array, "*batch H W C"]) -> NoReturn:
        raise InputError("no CPPN is known for a given image: start from random weights, or use images.fourier()")


def cppn(shape: Shape | None = None, *, layers: int = 8, units: int = 24) -> CPPN:
    """θ is the weights of a network from a pixel's coordinates to its color: smooth images of any resolution.

    The hidden activation is concat(atan(x) / 0.67, atan(x)² / 0.6), the last a sigmoid. The last weights start at zero,
    so that every image begins as one color.

    Args:
        shape: (height, width, channels); the model's if None.
        layers: hidden layers, at least 1.
        units: of each, before the activation doubles them.

    Returns:
        A parameterization; θ is a tuple of (weights, biases). It cannot `encode` an image.

    Raises:
        InputError: for a number of layers or units below 1.

    Source:
        Stanley, Compositional pattern producing networks (2007); Lucid (2018), `optvis.param.cppn`, whose images are
        square: here the longer side spans its range.

    Example:
        >>> p = cppn((8, 6, 3))
        >>> p.decode(p.init(jax.random.key(0), 2)).shape
        (2, 8, 6, 3)
    """
    return CPPN(shape and as_shape(shape), count("layers", layers), count("units", units))
