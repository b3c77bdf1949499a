"""What an image parameterization is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import Shape, as_shape, output_shapes
from jaxopt_input.errors import InputError
from jaxopt_input.targets import Static

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def at_rank(table: np.ndarray, rank: int) -> np.ndarray:
    """A table with leading axes of length 1 up to a rank: JAX may be set to refuse to add them by itself.

    Example:
        >>> at_rank(np.ones((4, 3)), 4).shape
        (1, 1, 4, 3)
    """
    return table.reshape(*[1] * (rank - table.ndim), *table.shape)


def check_parameterization(image: Parameterization) -> Any:
    """The shapes of θ of one start; an `InputError` where a parameterization does not do what it must.

    Args:
        image: bound to an image shape.

    Example:
        >>> from jaxopt_input import images
        >>> check_parameterization(images.pixels((4, 4, 3))).shape
        (4, 4, 3)
    """
    name, shape, batch = type(image).__name__, image.bound(), 2
    for method in ("init", "decode"):
        if getattr(type(image), method) is getattr(Parameterization, method):
            raise InputError(f"{name} does not define {method}: a parameterization needs init(key, batch), decode(θ)")
    what = f"{name}.init(key, batch) returns float32 arrays; this one fails"
    theta = output_shapes(what, lambda key: image.init(key, batch), jax.eval_shape(lambda: jax.random.key(0)))
    leaves = jax.tree.leaves(theta)
    if not leaves or any(x.shape[:1] != (batch,) or not jnp.issubdtype(x.dtype, jnp.floating) for x in leaves):
        raise InputError(
            f"{name}.init(key, {batch}) returns float32 arrays with a leading axis of {batch}, not {theta}"
        )
    picture = output_shapes(f"{name}.decode returns images; it fails on θ as init makes it", image.decode, theta)
    if getattr(picture, "shape", None) != (batch, *shape) or not jnp.issubdtype(picture.dtype, jnp.floating):
        raise InputError(f"{name}.decode returns images of shape {(batch, *shape)} for {batch} starts, not {picture}")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), theta)


@dataclasses.dataclass(frozen=True, eq=False)
class Parameterization(Static):
    """θ ↔ image: the coordinates in which an image is optimized.

    One of your own defines `init` and `decode`, and `encode` if it can start from a given image.

    Attributes:
        shape: (height, width, channels) of the image; None takes the model's, which `bind` does.

    Example:
        >>> class Gray(Parameterization):
        ...     def init(self, key, batch):
        ...         return jax.random.uniform(key, (batch, *self.bound()[:2], 1))
        ...     def decode(self, theta):
        ...         return jnp.repeat(jnp.clip(theta, 0, 1), 3, -1)
        >>> gray = Gray((4, 4, 3))
        >>> gray.decode(gray.init(jax.random.key(0), 2)).shape
        (2, 4, 4, 3)
    """

    shape: Shape | None = None

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

    def decode(self, theta: Any) -> Float[Array, "*batch H W C"]:
        """The image `[..., H, W, C]` in [0, 1] of θ, for any leading axes."""
        raise TypeError(f"{type(self).__name__} does not define decode")

    def encode(self, image: Float[Array, "*batch H W C"]) -> Any:
        """θ of an image `[..., H, W, C]` in [0, 1], so that `decode` returns it to 1e-3."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    @property
    def couples(self) -> bool:
        """Whether the starts of a target share a part of θ, which `couple` then replaces by its mean."""
        return False

    def couple(self, theta: Any, mean: Callable[[jax.Array], jax.Array]) -> Any:
        """θ, or its gradient, of several starts, what they share replaced by its mean over them."""
        return theta

    def project(self, theta: Any) -> Any:
        """θ moved back to where it denotes an image: called after each update; the identity for most."""
        return theta
