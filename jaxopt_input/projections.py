"""Projections: θ → θ after each update, onto a set that the image must not leave.

A projection is a pytree: its radius, bounds and reference are traced leaves, each with a target axis if need be.
θ is one start's; under `images.pixels()` it is the image itself. The geometry is Optax's (`optax.projections`). A plain
function θ → θ is a projection too; one of your own with numbers that are traced, each with a target axis if need be:

    >>> @traced
    ... class AtLeast(Projection):
    ...     least: jax.Array = leaf(rank=0)
    ...     def __call__(self, theta):
    ...         return jnp.maximum(theta, self.least)
    >>> AtLeast(jnp.float32(0.5))(jnp.array([0.25, 0.75])).tolist()
    [0.5, 0.75]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxopt_input.checks import finite_numbers, hashable_function, one_of, output_shapes, require
from jaxopt_input.errors import InputError
from jaxopt_input.names import BALLS
from jaxopt_input.targets import Numbers, canonical, count, leaf, traced

NORMS = BALLS


class Projection:
    """θ → θ, onto a set; the base class of all projections. Use the builders of `jaxopt_input.projections`."""

    def __call__(self, theta: Any) -> Any:
        """The point of the set that is nearest to θ of one start."""
        raise TypeError(f"{type(self).__name__} does not define a projection: derive from Projection, define __call__")


@traced
class Function(Projection):
    """A plain function as a projection: `as_projection` makes it."""

    function: Callable[[Any], Any]

    def __call__(self, theta: Any) -> Any:
        return self.function(theta)


def as_projection(projection: Projection | Callable[[Any], Any] | None) -> Projection | None:
    """What a caller gives as a projection, as one.

    Args:
        projection: a `Projection`; a function θ → θ, which is static: another function object compiles anew; or None.

    Raises:
        InputError: for anything else.

    Example:
        >>> as_projection(jnp.abs)(jnp.array([-1.0])).tolist()
        [1.0]
    """
    if projection is None or (isinstance(projection, Projection) and dataclasses.is_dataclass(projection)):
        return projection
    if hashable_function(projection, 1):
        return Function(projection)
    raise InputError(f"a projection is of jaxopt_input.projections or a function of θ, not {projection!r}")


def check_projection(projection: Projection | None, theta: Any) -> None:
    """Raise an `InputError` where what a projection returns is not of the shape and type of θ.

    Args:
        projection: of one target, or None.
        theta: of one start: arrays, or their shapes.

    Example:
        >>> check_projection(as_projection(lambda theta: theta.mean()), jax.ShapeDtypeStruct((4, 4, 3), jnp.float32))
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: a projection returns θ itself, moved: of shape (4, 4, 3), not ()
    """
    if projection is None:
        return
    moved = output_shapes("a projection returns θ itself, moved; this one fails on it", projection, theta)
    for what, of in (("shape", jnp.shape), ("type", lambda x: str(x.dtype))):
        before, after = (jax.tree.map(of, tree) for tree in (theta, moved))
        if before != after:
            raise InputError(f"a projection returns θ itself, moved: of {what} {before}, not {after}")


@traced
class Box(Projection):
    """Every number of θ within bounds: `box` makes it."""

    lower: ArrayLike = leaf(rank=0)
    upper: ArrayLike = leaf(rank=0)

    def __call__(self, theta: Any) -> Any:
        return jax.tree.map(lambda x: jnp.clip(x, self.lower, self.upper), theta)


def box(lower: Numbers = 0.0, upper: Numbers = 1.0) -> Box:
    """Every number of θ within [lower, upper].

    Args:
        lower, upper: the bounds, each a number or one per target.

    Raises:
        InputError: if a lower bound exceeds the upper one.

    Example:
        >>> box(0.25)(jnp.array([0.0, 0.5, 2.0])).tolist()
        [0.25, 0.5, 1.0]
    """
    low, high = canonical(lower, 0, jnp.float32, "lower"), canonical(upper, 0, jnp.float32, "upper")
    bounds = Box(low, high)
    count(bounds)  # refuses target axes that differ
    if not isinstance(low, jax.core.Tracer):
        require(f"a box needs lower ≤ upper, not {lower!r} and {upper!r}", high, lambda bound: low <= bound)
    return bounds


def _into_l1_ball(theta: Any, radius: Any) -> Any:
    """Optax's projection onto an L1 ball, in the dtype of θ: with JAX_ENABLE_X64 Optax's own goes over to float64."""
    sphere = optax.projections.projection_l1_sphere(theta, radius)
    inside = optax.tree.norm(theta, ord=1) <= radius
    return jax.tree.map(lambda x, y: jnp.where(inside, x, y.astype(x.dtype)), theta, sphere)


@traced
class Ball(Projection):
    """Images within a distance of a reference: `ball` makes it."""

    norm: str
    radius: ArrayLike = leaf(rank=0)
    reference: jax.Array = leaf(rank=3)

    def __call__(self, theta: Any) -> Any:
        shape, of_image = self.reference.shape, getattr(theta, "shape", None)
        if shape != of_image:
            theirs = of_image or "no single array here"
            raise InputError(
                f"a ball is around a reference of θ's shape, {theirs}, not around one of {shape}: give one that "
                "has it, and optimize images.pixels()"
            )
        project = {
            "linf": optax.projections.projection_linf_ball,
            "l2": optax.projections.projection_l2_ball,
            "l1": _into_l1_ball,
        }[self.norm]
        return self.reference + project(theta - self.reference, self.radius)


def ball(norm: str, radius: Numbers, reference: Numbers) -> Ball:
    """Every image within a distance of a reference image. For `images.pixels()`.

    Args:
        norm: "linf", "l2" or "l1".
        radius: the largest distance, a number or one per target.
        reference: `[H, W, C]`, or `[targets, H, W, C]`.

    Raises:
        InputError: for another norm or a negative radius.

    Source:
        Duchi et al., Efficient projections onto the l1-ball (2008), for "l1".

    Example:
        >>> ball("linf", 0.1, jnp.full((1, 1, 2), 0.5))(jnp.array([[[0.2, 0.55]]])).round(3).tolist()
        [[[0.4000000059604645, 0.550000011920929]]]
    """
    return Ball(
        one_of("a ball's norm", norm, NORMS), _radius(radius), finite_numbers("the reference of a ball", reference, 3)
    )


@traced
class Sphere(Projection):
    """θ at a distance from a center: `sphere` makes it."""

    radius: ArrayLike = leaf(rank=0)
    center: ArrayLike = leaf(rank=0)

    def __call__(self, theta: Any) -> Any:
        centered = jax.tree.map(lambda x: x - self.center, theta)
        norm = optax.tree.norm(centered)
        factor = self.radius / jnp.where(norm > 0, norm, 1.0)
        return jax.tree.map(lambda x: self.center + factor * x, centered)


def sphere(radius: Numbers, center: Numbers = 0.5) -> Sphere:
    """‖θ − center‖₂ = radius.

    Args:
        radius: the norm, a number or one per target.
        center: subtracted from every number of θ.

    Raises:
        InputError: for a negative radius.

    Source:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network (2009), section 3.2.

    Example:
        >>> sphere(5.0, 0.0)(jnp.array([0.6, 0.8])).tolist()
        [3.0, 4.0]
    """
    return Sphere(_radius(radius), finite_numbers("the center", center))


@traced
class PixelBall(Projection):
    """Colors within a distance of gray: `pixel_ball` makes it."""

    radius: ArrayLike = leaf(rank=0)
    center: ArrayLike = leaf(rank=0)

    def __call__(self, theta: Any) -> Any:
        centered = theta - self.center
        norm = jnp.linalg.norm(centered, axis=-1, keepdims=True)
        return self.center + centered * jnp.minimum(self.radius / jnp.where(norm > 0, norm, 1.0), 1.0)


def pixel_ball(radius: Numbers, center: Numbers = 0.5) -> PixelBall:
    """Every pixel's color within a Euclidean distance of gray: a bound on contrast. For `images.pixels()`.

    Args:
        radius: the largest distance, a number or one per target.
        center: the gray.

    Raises:
        InputError: for a negative radius.

    Source:
        Mahendran & Vedaldi, Visualizing Deep Convolutional Neural Networks Using Natural Pre-images (2016), section
        3.2.

    Example:
        >>> pixel_ball(0.25, 0.0)(jnp.array([[[0.3, 0.4], [0.1, 0.1]]])).round(3).tolist()
        [[[0.15000000596046448, 0.20000000298023224], [0.10000000149011612, 0.10000000149011612]]]
    """
    return PixelBall(_radius(radius), finite_numbers("the center", center))


def _radius(radius: Numbers) -> ArrayLike:
    array = finite_numbers("the radius", radius)
    require(f"a radius is at least 0, not {radius!r}", array, lambda value: value >= 0)
    return array
