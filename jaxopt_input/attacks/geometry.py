"""Norms, balls, boxes and hyperplanes of a batch: every function takes and returns one row per lane.

A lane is one image under attack, with its own ε. Nothing here reads another lane's row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.engine.lanes import flat, rows, where
from jaxopt_input.projections import ball

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    Images = Float[Array, "L H W C"]

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
HALVINGS = 24  # of an interval, down to the precision of float32
NEWTON_STEPS = 24  # at most; of a concave piecewise function, nearly always under ten


def norm(x: Float[Array, "L ..."], p: str) -> Float[Array, " L"]:
    """`[L]`: the norm of each row; "l0" counts the numbers that are not zero, "rms" is l2 / √n (Szegedy's distortion).

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[[[3.0, 0.0], [-4.0, 0.0]]]])
        >>> [float(norm(x, p)[0]) for p in ("l0", "l1", "l2", "linf", "rms")]
        [2.0, 7.0, 5.0, 4.0, 2.5]
    """
    x = flat(x)
    if p == "l0":
        return jnp.sum(x != 0, -1, dtype=jnp.int32).astype(jnp.float32)
    if p == "l1":
        return jnp.sum(jnp.abs(x), -1)
    largest = jnp.max(jnp.abs(x), -1)
    if p == "linf":
        return largest
    # Squares of small numbers leave float32's range: divide by the largest first.
    scale = jnp.where(largest > 0, largest, 1.0)
    length = largest * jnp.sqrt(jnp.sum(jnp.square(x / scale[:, None]), -1))
    return length if p == "l2" else length / np.sqrt(x.shape[-1]).astype(np.float32)


def scaled(gradient: Float[Array, "L ..."]) -> Float[Array, "L ..."]:
    """Each row divided by its largest absolute value, zero where it is zero.

    Gradients of a saturated softmax reach 1e-30 and below; their squares and products would be zero in float32.
    """
    largest = norm(gradient, "linf")
    return gradient / rows(jnp.where(largest > 0, largest, 1.0), gradient)


def unit(x: Float[Array, "L ..."], p: str) -> Float[Array, "L ..."]:
    """Each row divided by its norm, zero where it is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> unit(jnp.array([[3e-30, 4e-30]]), "l2").round(3).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    x = scaled(x)
    length = norm(x, p)
    return x / rows(jnp.where(length > 0, length, 1.0), x)


def steepest(gradient: Float[Array, "L ..."], p: str) -> Float[Array, "L ..."]:
    """The direction of norm 1 along which a linear function rises most: sign(g) for L∞, g/‖g‖ for L2.

    For L1 it moves the number with the largest gradient.
    """
    if p == "linf":
        return jnp.sign(gradient)
    if p == "l2":
        return unit(gradient, "l2")
    x = flat(gradient)
    largest = jax.nn.one_hot(jnp.argmax(jnp.abs(x), -1), x.shape[-1], dtype=x.dtype)
    return (largest * jnp.sign(x)).reshape(gradient.shape)


def bisect(
    above: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array, halvings: int = HALVINGS
) -> tuple[jax.Array, jax.Array]:
    """The ends of each lane's interval after so many halvings; `above(middle)` says where it goes on above the middle.

    Example:
        >>> low, high = bisect(lambda x: x * x < 2, jnp.zeros(1), jnp.full(1, 2.0), halvings=2)
        >>> low.tolist(), high.tolist()
        ([1.0], [1.5])
    """

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        up = above(middle)
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    return jax.lax.fori_loop(0, halvings, halve, (low, high))


def inwards(direction: Images, image: Images) -> Images:
    """A direction without what would leave [0, 1] at once."""
    leaves = ((image <= 0) & (direction < 0)) | ((image >= 1) & (direction > 0))
    return jnp.where(leaves, 0.0, direction)


def clip_to_ball(image: Images, clean: Images, epsilon: Float[Array, " L"], p: str) -> Images:
    """The nearest images within ε of the clean ones, then within [0, 1], which takes none of them out of the ball.

    The norm p is "linf", "l2" or "l1".
    """
    inside = jax.vmap(lambda x, center, radius: ball(p, radius, center)(x))(image, clean, epsilon)
    return jnp.clip(inside, 0.0, 1.0)


def into_l1_ball_and_box(image: Images, clean: Images, epsilon: Float[Array, " L"]) -> Images:
    """The nearest images that lie both within ε of the clean ones in L1 and within [0, 1].

    Clipping after the ball, as `clip_to_ball` does, lands in both, but as a rule not at the nearest of them.

    Source:
        Croce & Hein, Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers (2021), proposition 2.1,
        for the solution: every change is cut by the same λ and by its room. Bisection finds λ, without sorting.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[[[0.5, 0.9]]]])  # 0.9 has room for 0.1
        >>> into_l1_ball_and_box(x + 1, x, jnp.array([0.4])).round(3).tolist()
        [[[[0.800000011920929, 1.0]]]]
    """
    change = flat(image - clean)
    size = jnp.abs(change)
    room = jnp.where(change > 0, 1 - flat(clean), flat(clean))

    def remainder(cut: jax.Array) -> jax.Array:
        return jnp.minimum(jnp.maximum(size - cut[:, None], 0.0), room)

    def length(cut: jax.Array) -> jax.Array:
        return jnp.sum(remainder(cut), -1)

    low, high = bisect(lambda cut: length(cut) > epsilon, jnp.zeros_like(epsilon), jnp.max(size, -1))
    longer, shorter = length(low), length(high)
    between = jnp.where(longer > shorter, (longer - epsilon) / jnp.where(longer > shorter, longer - shorter, 1.0), 1.0)
    cut = jnp.where(longer > epsilon, low + jnp.clip(between, 0.0, 1.0) * (high - low), 0.0)
    return clean + (jnp.sign(change) * remainder(cut)).reshape(image.shape)


def random_in_ball(keys: jax.Array, shape: tuple[int, ...], p: str) -> Float[Array, "L ..."]:
    """`[L, *shape]`: uniform in the unit ball of each lane.

    Source:
        Barthe et al., A probabilistic approach to the geometry of the l_p^n ball (2005), for L1 and L2: n draws of
        density exp(−|x|^p), divided by the p-th root of the sum of their p-th powers and one exponential draw.
    """

    def draw(key: jax.Array) -> jax.Array:
        key, other = jax.random.split(key)
        if p == "linf":
            return jax.random.uniform(key, shape, jnp.float32, minval=-1.0, maxval=1.0)
        extra = jax.random.exponential(other, (), jnp.float32)
        if p == "l2":
            x = jax.random.normal(key, shape, jnp.float32) / np.sqrt(np.float32(2))
            return x / jnp.sqrt(jnp.sum(jnp.square(x)) + extra)
        x = jax.random.laplace(key, shape, jnp.float32)
        return x / (jnp.sum(jnp.abs(x)) + extra)

    return jax.vmap(draw)(keys)


def to_hyperplane(image: Images, normal: Images, rise: Float[Array, " L"], p: str) -> Images:
    """The least change d with ⟨normal, d⟩ = rise that keeps the image within [0, 1].

    Where the box is too small for it, the change that comes nearest: every number that matters at its bound. The rise
    has either sign; p is "linf" or "l2".

    Source:
        Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack (2020), section
        3.1, for the problem. Here d_i = ± min(t·a_i, room_i) with a_i = 1 (L∞) or |w_i| (L2), and Newton's method
        finds t: Σ |w_i| min(t·a_i, room_i) is concave and piecewise linear in t, so that from below it ends at the
        root after finitely many steps, without sorting.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[[[0.5, 0.9]]]])
        >>> to_hyperplane(x, jnp.ones_like(x), jnp.array([0.3]), "linf").round(3).tolist()  # 0.9 has room for 0.1
        [[[[0.20000000298023224, 0.10000000149011612]]]]
    """
    x = flat(image)
    largest = norm(normal, "linf")
    scale = jnp.where(largest > 0, largest, 1.0)
    w = flat(normal) / scale[:, None]
    gap = jnp.abs(rise) / scale
    way = jnp.sign(w) * jnp.sign(rise)[:, None]  # where each number moves
    room = jnp.where(way > 0, 1 - x, x)
    weight = jnp.abs(w)
    speed = jnp.ones_like(w) if p == "linf" else weight

    def newton(_: int, t: jax.Array) -> jax.Array:
        free = t[:, None] * speed < room
        slope = jnp.sum(jnp.where(free, weight * speed, 0.0), -1)
        reached = jnp.sum(jnp.where(free, 0.0, weight * room), -1)  # what the others give at their bounds
        return jnp.where(slope > 0, (gap - reached) / jnp.where(slope > 0, slope, 1.0), t)

    t = jax.lax.fori_loop(0, NEWTON_STEPS, newton, jnp.zeros_like(gap))
    reachable = jnp.sum(weight * room, -1) > gap
    # Beyond what the box has room for, every number that matters goes to its bound.
    reach = jnp.where(reachable[:, None], t[:, None] * speed, room)
    change = way * jnp.minimum(jnp.where(speed > 0, reach, 0.0), room)
    return change.reshape(image.shape)


def to_8bit(image: Images, clean: Images, epsilon: Float[Array, " L"] | None = None, p: str = "linf") -> Images:
    """Images rounded to 8 bits, as a PNG would hold them: the very numbers that reading it gives.

    Where rounding to the nearest leaves the ball of radius ε, if any, in the norm p around the clean image, numbers are
    rounded towards that image instead: in L∞ those that leave it, otherwise those nearest to the middle of two levels,
    as many as it takes. The clean image, if it came from 8 bits itself, lies on the way.

    Example:
        >>> clean = jnp.zeros((1, 1, 1, 3))
        >>> image = jnp.array([[[[0.9, 0.6, 0.2]]]]) / 255
        >>> [(255 * to_8bit(image, clean, jnp.array([1.5]) / 255, p)).tolist()[0][0][0] for p in ("linf", "l1")]
        [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    levels = jnp.clip(image, 0.0, 1.0) * 255
    if epsilon is None:
        return _level(jnp.floor(levels + 0.5))
    rises = image > clean
    inner = jnp.where(rises, jnp.floor(levels + 1e-3), jnp.ceil(levels - 1e-3))
    way = jnp.where(rises, 1.0, -1.0)
    part = (levels - inner) * way  # of the way to the next level outwards

    def rounded(least: jax.Array) -> jax.Array:
        return _level(inner + jnp.where(part >= rows(least, part), way, 0.0))

    radius = epsilon * (1 + 1e-6)
    nearest = rounded(jnp.full_like(epsilon, 0.5))
    if p == "linf":
        return jnp.where(jnp.abs(nearest - clean) > rows(radius, image), _level(inner), nearest)

    def outside(images: Images) -> Bool[Array, " L"]:
        return norm(images - clean, p) > radius

    half, all_inwards = jnp.full_like(epsilon, 0.5), jnp.full_like(epsilon, 2.0)
    _, least = bisect(lambda least: outside(rounded(least)), half, all_inwards)
    return where(outside(nearest), rounded(least), nearest)


def _level(number: jax.Array) -> jax.Array:
    """Levels from 0 to 255 as numbers in [0, 1], from a table: compiled, a division by 255 may be a product."""
    return jnp.asarray(np.arange(256, dtype=np.float32) / 255)[jnp.clip(number, 0, 255).astype(jnp.int32)]
