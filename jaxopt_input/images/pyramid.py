"""The image as a Laplacian pyramid: a sum of layers of halving resolution, the coarse ones shared if need be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxopt_input.checks import Shape, as_shape, check_images, count, finite
from jaxopt_input.errors import InputError
from jaxopt_input.images.color import from_rgb, logit, to_rgb
from jaxopt_input.images.parameterization import Parameterization

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Theta = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Pyramid(Parameterization):
    """A sum of layers of halving resolution: `pyramid` makes it."""

    levels: int = 4
    shared_levels: int = 0
    decorrelate: bool = True
    sd: float = 0.1

    @property
    def couples(self) -> bool:
        return self.shared_levels > 0

    def couple(self, theta: Theta, mean: Callable[[jax.Array], jax.Array]) -> Theta:
        own = self.levels - self.shared_levels
        return (*theta[:own], *map(mean, theta[own:]))

    def init(self, key: jax.Array, batch: int) -> Theta:
        return tuple(
            self.sd * jax.random.normal(jax.random.fold_in(key, level), self._shape(batch, level), jnp.float32)
            for level in range(self.levels)
        )

    def decode(self, theta: Theta) -> Float[Array, "*batch H W C"]:
        image = sum((_resize(layer, self._size(0)) for layer in theta[1:]), theta[0])
        return jax.nn.sigmoid(to_rgb(image, self.decorrelate))

    def encode(self, image: Float[Array, "*batch H W C"]) -> Theta:
        rest = from_rgb(logit(jnp.asarray(check_images(image))), self.decorrelate)
        layers: list[jax.Array] = []
        for level in range(self.levels - 1, 0, -1):
            layers.append(_resize(rest, self._size(level)))
            rest = rest - _resize(layers[-1], self._size(0))
        return (rest, *reversed(layers))

    def _shape(self, batch: int, level: int) -> tuple[int, ...]:
        return batch, *self._size(level), self.bound()[2]

    def _size(self, level: int) -> tuple[int, int]:
        height, width, _ = self.bound()
        return max(1, height >> level), max(1, width >> level)


def _resize(layer: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`[..., h, w, C]` at another size, bilinearly; averaged over what is left out where it shrinks."""
    return jax.image.resize(layer, (*layer.shape[:-3], *size, layer.shape[-1]), "bilinear")


def pyramid(
    shape: Shape | None = None,
    *,
    levels: int = 4,
    shared_levels: int = 0,
    decorrelate: bool = True,
    sd: float = 0.1,
) -> Pyramid:
    """θ is a pyramid of images, each half the size of the one before: image = σ(C · Σ_n resize(θ_n)).

    With shared levels the coarsest layers are one for all starts of a target: their images then differ in detail, and
    agree in layout. The starts of a target are then optimized together, so that they must fit one chunk.

    Args:
        shape: (height, width, channels); the model's if None.
        levels: how many layers, the finest of the image's size; at least 1.
        shared_levels: how many of them, the coarsest first, are shared among the starts of a target.
        decorrelate: θ in decorrelated colors (where the image has three channels): C is `color.to_rgb`.
        sd: standard deviation of the initial numbers of each layer; Lucid's is 0.01.

    Returns:
        A parameterization; θ is a tuple of `[..., max(1, H // 2**n), max(1, W // 2**n), C]` float32.

    Raises:
        InputError: for levels out of range, or an `sd` that is negative or not finite.

    Source:
        Lucid (2018), `optvis.param.spatial.laplacian_pyramid_image`; `recipes.image_interpolation_params` for the
        shared layers.

    Example:
        >>> p = pyramid((8, 6, 3), levels=3)
        >>> [layer.shape for layer in p.init(jax.random.key(0), 2)]
        [(2, 8, 6, 3), (2, 4, 3, 3), (2, 2, 1, 3)]
    """
    levels, shared_levels = count("levels", levels), count("shared_levels", shared_levels, 0)
    if shared_levels > levels:
        raise InputError(f"of a pyramid's {levels} levels, 0 to {levels} can be shared, not {shared_levels!r}")
    return Pyramid(
        shape and as_shape(shape), levels, shared_levels, bool(decorrelate), finite("the standard deviation sd", sd, 0)
    )
