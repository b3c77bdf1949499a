"""Random transforms of the image before the network sees it: what a picture must survive.

A transform is `(key, image [H, W, C]) -> view`: differentiable, hashable, equal when built alike. A plain function of
that form is one too. Pad, crop, jitter, scale and rotate are affine; `compose` multiplies neighbors into one warp, so
that the image is interpolated once. Only `pad` and `crop` change the size, by amounts that chance has no part in: what
the others move in from outside is gray after a `pad`, and the repeated edge otherwise.

A transform of your own, and one whose pixels move by an affine map:

    >>> flipped = compose(jitter(2), lambda key, image: image[:, ::-1])
    >>> @dataclasses.dataclass(frozen=True)
    ... class Shear(Affine):
    ...     amount: float
    ...     def matrix(self, key):
    ...         return jnp.array([[1, self.amount * jax.random.uniform(key), 0], [0, 1, 0]])
    >>> 14 < Shear(0.5).reach(10) < 18  # pixels within 10 of the center come from within 15
    True
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import count, finite, hashable_function, output_shapes
from jaxopt_input.errors import InputError, lookup
from jaxopt_input.kernels.warp import affine_product, warp
from jaxopt_input.targets import Static

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

Key = jax.Array
View = Callable[[Key, jax.Array], jax.Array]
IDENTITY = np.eye(2, 3, dtype=np.float32)
REACH_DRAWS = 1024  # draws of an affine map of unknown spread, and by how much it is taken to exceed the largest:
REACH_MARGIN = 1.1


@dataclasses.dataclass(frozen=True, eq=False)
class Transform(Static):
    """`(key, image [H, W, C]) -> view`; the base class of all transforms."""

    def __call__(self, key: Key, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        raise TypeError(f"{type(self).__name__} does not define a transform: derive from Transform, define __call__")

    def reach(self, distance: float) -> float:
        """How far from the center of the image lies what the view shows within `distance` of its own center, at most.

        Args:
            distance: along each axis, in pixels.

        Returns:
            A bound over all draws, along each axis, in pixels; `distance` itself where no pixel moves.

        Raises:
            InputError: for a transform that does not say so.

        Example:
            >>> compose(pad(4), jitter(3), scale([0.5, 1]), crop(4)).reach(10)
            22.0
        """
        raise InputError(
            f"{self} does not say how far it moves pixels, which is needed here: derive it from "
            "jaxopt_input.transforms.Transform and define reach(distance)"
        )

    def unframed(self, scale: float) -> Transform:
        """This transform without its pads and crops, its jitter times `scale`: for an image that is smaller by as much.

        Example:
            >>> compose(pad(4), jitter(8), rotate([5]), crop(4)).unframed(0.5) == compose(jitter(4), rotate([5]))
            True
        """
        return self


@dataclasses.dataclass(frozen=True)
class Function(Transform):
    """A plain function as a transform: `as_transform` makes it."""

    function: View

    def __call__(self, key: Key, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        return self.function(key, image)


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Transform):
    """A transform that moves pixels by an affine map: a class of your own defines `matrix`."""

    def matrix(self, key: Key) -> Float[Array, "2 3"]:
        """`[2, 3]`: the point (x, y, 1) of the view, from its center in pixels, to the point (x, y) of the image."""
        raise TypeError(f"{type(self).__name__} does not define a matrix")

    def __call__(self, key: Key, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        return compose(self)(key, image)

    def reach(self, distance: float) -> float:
        """The bound of `Transform.reach`, from `REACH_DRAWS` draws of the matrix and a tenth more of what moves.

        Override it where rare draws go farther.
        """
        keys = jax.random.split(jax.random.key(0), REACH_DRAWS)
        draws = np.asarray(jax.vmap(self.matrix)(keys), np.float64)
        farthest = float((np.abs(draws[..., :2]).sum(-1) * distance + np.abs(draws[..., 2])).max())
        still = bool((draws == np.eye(2, 3)).all())
        return float(distance) if still else max(distance + REACH_MARGIN * (farthest - distance), 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn(Affine):
    """An affine map that two whole numbers choose, each below `outcomes` and each as likely."""

    @property
    def outcomes(self) -> int:
        """How many numbers there are."""
        raise TypeError(f"{type(self).__name__} does not say how many outcomes it has: define outcomes")

    def choice(self, draw: jax.Array) -> jax.Array:
        """The matrix that the numbers `[2]` choose; a map that takes one number takes the first."""
        raise TypeError(f"{type(self).__name__} does not say which map it draws: define choice")

    def matrix(self, key: Key) -> Float[Array, "2 3"]:
        return self.choice(_draws([self], key[None])[0])


@dataclasses.dataclass(frozen=True)
class Frame(Affine):
    """A border around the image, cut off where its width is negative: `pad` and `crop` make it."""

    width: int
    value: float | None

    def matrix(self, key: Key) -> Float[Array, "2 3"]:
        return jnp.asarray(IDENTITY)

    def reach(self, distance: float) -> float:
        return float(distance)

    def unframed(self, scale: float) -> Transform:
        return compose()


def pad(width: int, value: float = 0.5) -> Frame:
    """Surround the image with a gray border, so that later transforms bring gray into view.

    Args:
        width: of the border in pixels; the view is 2 · width larger along each axis, until a `crop`.
        value: the gray, in [0, 1].

    Raises:
        InputError: for a negative width or a value outside [0, 1].

    Source:
        Lucid (2018), `optvis.transform.pad`.

    Example:
        >>> view = pad(2)(jax.random.key(0), jnp.ones((4, 4, 3)))
        >>> view.shape, float(view[1, 1, 0]), float(view[2, 2, 0])
        ((8, 8, 3), 0.5, 1.0)
    """
    return Frame(count("the width of pad", width, 0), finite("the gray of pad", value, 0, 1))


def crop(width: int) -> Frame:
    """Cut a border off the image.

    Args:
        width: of the border in pixels; the view is 2 · width smaller along each axis.

    Raises:
        InputError: for a negative width; when applied, for an image that is not larger.

    Example:
        >>> crop(1)(jax.random.key(0), jnp.ones((4, 4, 3))).shape
        (2, 2, 3)
    """
    return Frame(-count("the width of crop", width, 0), None)


def _numbers(values: Sequence[float], what: str, example: str) -> tuple[float, ...]:
    """One finite number or more, or an `InputError`."""
    if isinstance(values, str) or not np.iterable(values) or not len(values):
        raise InputError(f"{what} takes a sequence of at least one number, such as {example}, not {values!r}")
    return tuple(finite(f"each number of {what}", value) for value in values)


@dataclasses.dataclass(frozen=True)
class Jitter(Drawn):
    """A random shift by whole pixels: `jitter` makes it."""

    pixels: int

    @property
    def outcomes(self) -> int:
        return self.pixels + 1

    def offset(self, draw: jax.Array) -> jax.Array:
        """(x, y) in whole pixels."""
        return draw - self.pixels // 2

    def choice(self, draw: jax.Array) -> jax.Array:
        return jnp.asarray(IDENTITY + self.offset(draw)[:, None] * np.array([[0, 0, 1]], np.float32))

    def reach(self, distance: float) -> float:
        return float(distance + (self.pixels + 1) // 2)

    def unframed(self, scale: float) -> Transform:
        return jitter(round(self.pixels * scale))


def jitter(pixels: int) -> Jitter:
    """Shift the image by whole pixels, each axis uniformly within a range of `pixels`: −pixels/2 … pixels/2.

    Args:
        pixels: the width of the range, at least 0; Lucid's jitter(8) moves by up to 4 either way, and so does this.

    Raises:
        InputError: for a negative or fractional range.

    Source:
        DeepDream (2015); Lucid (2018), `optvis.transform.jitter`.

    Example:
        >>> jitter(2)(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (8, 8, 3)
    """
    return Jitter(count("the pixels of jitter", pixels, 0))


@dataclasses.dataclass(frozen=True)
class Scale(Drawn):
    """An enlargement by one of some factors: `scale` makes it."""

    factors: tuple[float, ...]

    @property
    def outcomes(self) -> int:
        return len(self.factors)

    def choice(self, draw: jax.Array) -> jax.Array:
        return jnp.asarray(IDENTITY / np.array(self.factors, np.float32)[:, None, None])[draw[0]]

    def reach(self, distance: float) -> float:
        return distance / min(self.factors)


def scale(factors: Sequence[float]) -> Scale:
    """Enlarge the image about its center by one of the factors, each as likely.

    Args:
        factors: positive numbers; above 1 enlarges.

    Raises:
        InputError: for no factor, or one that is not positive and finite.

    Source:
        Lucid (2018), `optvis.transform.random_scale`.

    Example:
        >>> scale([0.9, 1.1])(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (8, 8, 3)
    """
    numbers = _numbers(factors, "scale", "[0.9, 1.1]")
    if min(numbers) <= 0:
        raise InputError(f"scale takes positive factors, not {list(factors)}")
    return Scale(numbers)


@dataclasses.dataclass(frozen=True)
class Rotate(Drawn):
    """A rotation by one of some angles: `rotate` makes it."""

    degrees: tuple[float, ...]

    @property
    def outcomes(self) -> int:
        return len(self.degrees)

    def choice(self, draw: jax.Array) -> jax.Array:
        angles = np.deg2rad(self.degrees)
        cos, sin, zero = np.cos(angles), np.sin(angles), 0 * angles
        matrices = np.stack([cos, -sin, zero, sin, cos, zero], axis=-1).reshape(-1, 2, 3)
        return jnp.asarray(matrices, jnp.float32)[draw[0]]

    def reach(self, distance: float) -> float:
        return distance * max(abs(math.cos(a)) + abs(math.sin(a)) for a in map(math.radians, self.degrees))


def rotate(degrees: Sequence[float]) -> Rotate:
    """Rotate the image about its center by one of the angles, each as likely; repeat one to make it likelier.

    Args:
        degrees: the angles, positive ones counter-clockwise as seen.

    Raises:
        InputError: for no angle, or one that is not finite.

    Source:
        Lucid (2018), `optvis.transform.random_rotate`.

    Example:
        >>> image = jnp.zeros((3, 3, 1)).at[0, 1].set(1)
        >>> rotate([90])(jax.random.key(0), image)[..., 0].round(3).tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return Rotate(_numbers(degrees, "rotate", "[-5, 0, 5]"))


@dataclasses.dataclass(frozen=True)
class Noise(Transform):
    """Noise added to the image: `noise` makes it."""

    sd: float

    def __call__(self, key: Key, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        normal, uniform = jax.random.split(key)
        spread = jax.random.normal(normal, image.shape, jnp.float32)
        spread = spread + jax.random.uniform(uniform, image.shape, jnp.float32, minval=-0.5, maxval=0.5)
        return image + self.sd * spread

    def reach(self, distance: float) -> float:
        return float(distance)


def noise(sd: float) -> Noise:
    """Add to every number of the image sd · (a normal number + a uniform one from −½ to ½), drawn at each step.

    Args:
        sd: of the noise, in the units of the image, at least 0.

    Raises:
        InputError: for a number that is negative or not finite.

    Source:
        Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization (2023);
        Horama, `common.optimization_step`.

    Example:
        >>> bool((noise(0.0)(jax.random.key(0), jnp.ones((4, 4, 3))) == 1).all())
        True
    """
    return Noise(finite("the standard deviation of noise", sd, 0))


@dataclasses.dataclass(frozen=True)
class Compose(Transform):
    """One transform after another: `compose` makes it."""

    parts: tuple[Transform, ...]

    def __call__(self, key: Key, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        affine: list[Affine] = []  # neighbors that end before the part at hand
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(self.parts), dtype=np.uint32))
        for k, part in enumerate(self.parts):
            if affine and (not isinstance(part, Affine) or (isinstance(part, Frame) and part.width > 0)):
                image = _warp_all(affine, keys[k - len(affine) : k], image)
                affine = []  # gray goes around what came before, not into it
            if isinstance(part, Affine):
                affine.append(part)
            else:
                image = part(keys[k], image)
        return _warp_all(affine, keys[len(self.parts) - len(affine) :], image) if affine else image

    def reach(self, distance: float) -> float:
        for part in reversed(self.parts):
            distance = part.reach(distance)
        return float(distance)

    def unframed(self, scale: float) -> Transform:
        return compose(*(part.unframed(scale) for part in self.parts))


def compose(*parts: Transform | View | str | None) -> Compose:
    """One transform after another; neighboring affine ones become one warp.

    Args:
        parts: transforms, functions `(key, image) -> view` or names, the first applied first; none at all is the
            identity.

    Raises:
        InputError: for something that is no transform.

    Example:
        >>> compose(pad(2), jitter(4), rotate([-5, 0, 5]), crop(2))(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (8, 8, 3)
    """
    flat: list[Transform] = []
    for part in map(as_transform, parts):
        if part is not None:
            flat += part.parts if isinstance(part, Compose) else [part]
    return Compose(tuple(flat))


def as_transform(transform: Transform | View | str | None) -> Transform | None:
    """What a caller gives as a transform, as one.

    Args:
        transform: a `Transform`; a function `(key, image [H, W, C]) -> view`, which is static: another function object
            compiles anew; a name; or None, no transform.

    Raises:
        InputError: for anything else, or an unknown name, offering the nearest.

    Example:
        >>> as_transform("none") is None, as_transform("lucid") == lucid()
        (True, True)
        >>> as_transform("lucit")
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: unknown transform 'lucit'; nearest: lucid
    """
    if transform is None or isinstance(transform, Transform):
        return transform
    if isinstance(transform, str):
        return by_name(transform)
    if hashable_function(transform, 2):
        return Function(transform)
    raise InputError(
        "a transform is of jaxopt_input.transforms, a function (key, image) -> view or one of "
        f"{', '.join(BY_NAME)}, not {transform!r}"
    )


def lucid() -> Compose:
    """Lucid's standard transforms: pad 12, jitter 8, scale 0.9 to 1.1, rotate −10° to 10°, jitter 4, crop 12.

    The crop, which Lucid lacks, gives the view the image's own size: any network takes it, at no extra cost.

    Source:
        Lucid (2018), `optvis.transform.standard_transforms`, with angle 0 six times as likely as each other.

    Example:
        >>> lucid() == lucid()
        True
    """
    return compose(
        pad(12),
        jitter(8),
        scale([1 + (i - 5) / 50 for i in range(11)]),
        rotate([*range(-10, 11), *5 * [0]]),
        jitter(4),
        crop(12),
    )


BY_NAME = {"lucid": lucid(), "jitter": compose(pad(4), jitter(8), crop(4)), "none": None}


def by_name(name: str) -> Transform | None:
    """A transform by name; None for "none".

    Raises:
        InputError: for an unknown name, offering the nearest.

    Example:
        >>> by_name("lucid") == lucid()
        True
    """
    return lookup("transform", name, BY_NAME)


def view_shape(transform: Transform | None, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of a transform's view of an image, found without computing it.

    Args:
        transform: or None, for the image itself.
        shape: (height, width, channels) of the image.

    Raises:
        InputError: where what the transform returns is no image.

    Example:
        >>> view_shape(pad(2), (8, 8, 3))
        (12, 12, 3)
    """
    if transform is None:
        return shape
    key = jax.eval_shape(lambda: jax.random.key(0))
    what = f"a transform returns a view [H, W, C]; {transform} fails on an image"
    view = output_shapes(what, transform, key, jax.ShapeDtypeStruct(shape, jnp.float32))
    if getattr(view, "ndim", None) != 3 or not jnp.issubdtype(view.dtype, jnp.floating):
        raise InputError(
            f"a transform returns a view [H, W, C] of real numbers; of an image {shape}, {transform} returns {view}"
        )
    height, width, channels = view.shape
    return height, width, channels


def _draws(parts: Sequence[Affine], keys: jax.Array) -> jax.Array:
    """`[parts, 2]` whole numbers below the outcomes of each part, by its own key; 0 for a part that draws none.

    They are drawn at once: each draw of its own would be four kernels more to compile.
    """
    most = np.array([part.outcomes if isinstance(part, Drawn) else 1 for part in parts], np.int32)
    return jax.vmap(lambda key, most: jax.random.randint(key, (2,), 0, most, jnp.int32))(keys, most)


def _warp_all(parts: Sequence[Affine], keys: jax.Array, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """The affine parts as one warp; as a shift, which needs no interpolation, where they are jitters alone."""
    frames = [part for part in parts if isinstance(part, Frame)]
    fill = next((frame.value for frame in frames if frame.value is not None), None)
    margin = sum(frame.width for frame in frames)
    height, width, channels = image.shape
    shape = (height + 2 * margin, width + 2 * margin, channels)
    if min(shape) < 1:
        raise InputError(f"a crop of {-margin} pixels on each side leaves nothing of an image of shape {image.shape}")
    moving = [part for part in parts if not isinstance(part, Frame)]
    draws = _draws(parts, keys) if any(isinstance(part, Drawn) for part in parts) else [None] * len(parts)
    if all(isinstance(part, Jitter) for part in moving):
        offsets = [part.offset(draw) for part, draw in zip(parts, draws, strict=True) if isinstance(part, Jitter)]
        reach = sum((part.pixels + 1) // 2 for part in parts if isinstance(part, Jitter))
        return _shift(image, sum(offsets, jnp.zeros(2, jnp.int32)), reach, margin, fill)
    matrices = [
        part.choice(draw) if isinstance(part, Drawn) else part.matrix(key)
        for part, key, draw in zip(parts, keys, draws, strict=True)
        if not isinstance(part, Frame)
    ]
    return warp(image, functools.reduce(affine_product, matrices), shape[:2], fill)


def _shift(
    image: Float[Array, "H W C"], offset: Int[Array, " xy"], reach: int, margin: int, fill: float | None
) -> Float[Array, "h w C"]:
    """The window displaced by `offset` (x, y), at most `reach` pixels, and larger by `margin` on every side."""
    border = max(reach + margin, 0)
    widths = ((border, border), (border, border), (0, 0))
    canvas = jnp.pad(image, widths, mode="edge") if fill is None else jnp.pad(image, widths, constant_values=fill)
    height, width, channels = image.shape
    x, y = border - margin + offset
    start = (y, x, jnp.zeros_like(x))
    return jax.lax.dynamic_slice(canvas, start, (height + 2 * margin, width + 2 * margin, channels))
