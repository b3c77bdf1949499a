"""What an image parameterization is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError

Shape = tuple[int, int, int]


def as_shape(shape: Any) -> Shape:
    """(height, width, channels) as integers, or an `InputError`."""
    if len(shape) != 3 or min(shape) < 1 or any(n != int(n) for n in shape):
        raise InputError(f"an image shape is (height, width, channels), each at least 1, not {tuple(shape)}")
    height, width, channels = shape
    return int(height), int(width), int(channels)


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """θ ↔ image: the coordinates in which an image is optimized. Hashable; equal when built alike.

    Attributes:
        shape: (height, width, channels) of the image; None takes the model's (see `bind`).

    As a pytree it is static as a whole.
    """

    shape: Shape | None = None

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_static(cls)

    def bind(self, shape: Shape) -> Self:
        """This parameterization for images of `shape`, unless it has a shape of its own."""
        return self if self.shape else dataclasses.replace(self, shape=as_shape(shape))

    def bound(self) -> Shape:
        """The shape, or an `InputError` where there is none yet."""
        if self.shape is None:
            raise InputError(f"{type(self).__name__} has no image shape: give it shape=(height, width, channels)")
        return self.shape

    def init(self, key: jax.Array, batch: int) -> Any:
        """Random θ of `batch` images: a pytree of float32 arrays with a leading axis of that length."""
        raise TypeError(f"{type(self).__name__} does not define init")

    def decode(self, theta: Any) -> jax.Array:
        """The image `[..., H, W, C]` in [0, 1] of θ, for any leading axes."""
        raise TypeError(f"{type(self).__name__} does not define decode")

    def encode(self, image: jax.Array) -> Any:
        """θ of a given image `[..., H, W, C]` in [0, 1], so that `decode` returns it to 1e-3."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    @property
    def couples(self) -> bool:
        """Whether the starts of a target share a part of θ: see `couple`."""
        return False

    def couple(self, theta: Any, mean: Callable[[jax.Array], jax.Array]) -> Any:
        """θ, or its gradient, of several starts, what they share replaced by its mean over them."""
        return theta

    def project(self, theta: Any) -> Any:
        """θ moved back to where it denotes an image: called after each update; the identity for most."""
        return theta


def check_images(image: Any) -> Any:
    """An image or batch as float32, or an `InputError` for another rank, type or range."""
    if isinstance(image, jax.core.Tracer):
        return image.astype(jnp.float32)
    array = np.asarray(image)
    if array.ndim < 3 or not array.size:
        raise InputError(f"an image is [H, W, C] or [N, H, W, C], not of shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"an image is float32 in [0, 1], not {array.dtype}: divide 8-bit images by 255")
    if not (array.min() >= 0 and array.max() <= 1):  # also where a number is NaN
        raise InputError(f"an image is in [0, 1], not in [{array.min():.3g}, {array.max():.3g}]")
    return np.asarray(array, np.float32)
