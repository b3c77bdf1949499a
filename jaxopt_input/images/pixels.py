"""The image as its pixels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from jaxopt_input.checks import Shape, as_shape, check_images, finite
from jaxopt_input.errors import InputError
from jaxopt_input.images.color import from_rgb, logit, to_rgb
from jaxopt_input.images.parameterization import Parameterization

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Pixels(Parameterization):
    """The image itself, within bounds: `pixels` makes it."""

    bound_by: Literal["clip", "sigmoid"] = "clip"
    decorrelate: bool = False
    sd: float = 0.01

    def init(self, key: jax.Array, batch: int) -> Float[Array, "*batch H W C"]:
        noise = self.sd * jax.random.normal(key, (batch, *self.bound()), jnp.float32)
        return noise if self.bound_by == "sigmoid" else self.project(from_rgb(0.5 + noise, self.decorrelate))

    def decode(self, theta: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
        image = to_rgb(theta, self.decorrelate)
        if self.bound_by == "sigmoid":
            return jax.nn.sigmoid(image)
        # `project` keeps θ in range up to rounding: clip the value, and let the gradient pass at the bounds.
        return image + jax.lax.stop_gradient(jnp.clip(image, 0, 1) - image)

    def encode(self, image: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
        image = jnp.asarray(check_images(image))
        return from_rgb(logit(image) if self.bound_by == "sigmoid" else image, self.decorrelate)

    def project(self, theta: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
        if self.bound_by == "sigmoid":
            return theta
        return from_rgb(jnp.clip(to_rgb(theta, self.decorrelate), 0, 1), self.decorrelate)


def pixels(
    shape: Shape | None = None,
    *,
    bound: Literal["clip", "sigmoid"] = "clip",
    decorrelate: bool = False,
    sd: float = 0.01,
) -> Pixels:
    """θ is the image itself (`clip`), or what a sigmoid turns into it.

    Args:
        shape: (height, width, channels); the model's if None.
        bound: "clip" clips after each update; "sigmoid" needs no clipping and suits line searches.
        decorrelate: θ in decorrelated colors (where the image has three channels).
        sd: standard deviation of the initial noise around gray, in the units of θ.

    Raises:
        InputError: for an unknown bound, or an `sd` that is negative or not finite.

    Example:
        >>> image = pixels((4, 4, 3)).init(jax.random.key(0), batch=2)
        >>> image.shape, bool((abs(image - 0.5) < 0.05).all())
        ((2, 4, 4, 3), True)
    """
    if bound not in ("clip", "sigmoid"):
        raise InputError(f"pixels are bounded by 'clip' or 'sigmoid', not {bound!r}")
    return Pixels(shape and as_shape(shape), bound, decorrelate, finite("the standard deviation sd", sd, 0))
