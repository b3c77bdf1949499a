"""Square: random squares that are kept where they help; needs no gradient. L∞ and L2."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count, flag, number
from jaxopt_input.attacks.problem import START, Found, Problem, until_done
from jaxopt_input.engine.lanes import rows, where

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from jaxopt_input.attacks.problem import Images

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of p, in ten-thousandths of the queries


def sides(share: float, queries: int, shape: tuple[int, ...], norm: str, rescale: bool = True) -> np.ndarray:
    """`[queries]`: the side in pixels of each query's square; in L2 odd and at least 3.

    Unless it is rescaled to so many queries, the schedule is that of 10,000.

    Example:
        >>> sides(0.8, 5000, (32, 32, 3), "linf")[[0, 5, 25, 4999]]
        array([29, 29, 20,  1], dtype=int32)
    """
    height, width, _ = shape
    plan = []
    for query in range(1, queries):
        at = int(query / queries * 10000) if rescale else query
        halved = share / 2 ** sum(at > mark for mark in HALVINGS)
        side = max(round(math.sqrt(halved * height * width)), 1 if norm == "linf" else 3)
        if norm == "l2":
            side += side % 2 == 0
        plan.append(min(side, height, width))
    return np.array([plan[0] if plan else 1, *plan], np.int32)


def window(corner: Int[Array, "L 2"], side: jax.Array, shape: tuple[int, ...]) -> Bool[Array, "L H W"]:
    """Whether each pixel lies in the square of this side at each lane's corner."""
    row, column = (jnp.arange(n, dtype=jnp.int32)[None] for n in shape[:2])
    inside_row = (row >= corner[:, :1]) & (row < corner[:, :1] + side)
    inside_column = (column >= corner[:, 1:]) & (column < corner[:, 1:] + side)
    return inside_row[:, :, None] & inside_column[:, None, :]


def bumps(
    corner: Int[Array, "L 2"], side: jax.Array, turned: Bool[Array, " L"], shape: tuple[int, ...]
) -> Float[Array, "L H W"]:
    """In each lane's square two bumps of opposite sign, one above the other or, turned, beside; norm 1.

    A bump is the sum of all centered squares within its half, the k-th weighted 1/k².
    """
    row, column = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.int32) for n in shape[:2]), indexing="ij")
    down = row[None] - corner[:, :1, None]
    across = column[None] - corner[:, 1:, None]
    down, across = where(turned, (across, down), (down, across))
    upper = down < side // 2
    half = jnp.where(upper, side // 2, side - side // 2)
    from_top = jnp.where(upper, down, down - side // 2)
    # Chebyshev distance from the middle of a half as the authors count it: (⌊half / 2⌋, ⌊side / 2⌋).
    far = jnp.maximum(jnp.abs(from_top - half // 2), jnp.abs(across - side // 2))
    last = jnp.maximum(half // 2, side // 2) + 1
    table = jnp.cumsum(1 / jnp.arange(1, max(shape[:2]) + 2, dtype=jnp.float32) ** 2)
    table = jnp.concatenate([jnp.zeros(1, jnp.float32), table])  # table[k] = Σ_{j ≤ k} 1/j²
    height = jnp.where(
        far < last, table[jnp.clip(last, 0, len(table) - 1)] - table[jnp.clip(far, 0, len(table) - 1)], 0.0
    )
    inside = window(corner, side, shape)
    halves = (inside & upper, inside & ~upper)
    # Each half has norm 1 before the two are joined.
    parts = [geometry.unit(jnp.where(part, height, 0.0), "l2") for part in halves]
    return (parts[0] - parts[1]) / np.sqrt(np.float32(2))


def signs(keys: jax.Array, shape: tuple[int, ...]) -> Float[Array, "L ..."]:
    """`[L, *shape]`: ±1 at random."""
    return jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))(keys)


def _score(problem: Problem, x: Images, draw: jax.Array) -> tuple[Float[Array, " L"], Float[Array, "L classes"]]:
    """The value of each lane's loss, and the logits."""
    logits = problem.logits(x, draw)

    def each(label: jax.Array, target: jax.Array, z: jax.Array, image: jax.Array) -> jax.Array:
        return problem.objective(label, target)({"logits": z}, image)

    return jax.vmap(each)(problem.label, problem.target, logits, x), logits


def _begin(problem: Problem) -> Images:
    """Vertical stripes in L∞; a checker of bumps in L2."""
    keys, (height, width, colors) = problem.keys(START), problem.clean.shape[1:]
    if problem.norm == "linf":
        away = jnp.broadcast_to(signs(keys, (1, width, colors)), problem.clean.shape)
        return jnp.clip(problem.clean + rows(problem.epsilon, away) * away, 0.0, 1.0)
    side = max(min(height, width) // 5, 1)
    tiles_down, tiles_across = height // side, width // side
    corner = jnp.zeros((1, 2), jnp.int32)
    tile = bumps(corner, jnp.int32(side), jnp.zeros(1, bool), (side, side, 1))[0]
    sign = signs(keys, (tiles_down, tiles_across, colors))
    grid = jnp.einsum("lrcz,hw->lrhcwz", sign, tile).reshape(-1, tiles_down * side, tiles_across * side, colors)
    pad = ((0, 0), (0, height - tiles_down * side), (0, width - tiles_across * side), (0, 0))
    away = geometry.unit(jnp.pad(grid, pad), "l2")
    return jnp.clip(problem.clean + rows(problem.epsilon, away) * away, 0.0, 1.0)


def _propose(problem: Problem, x: Images, keys: jax.Array, side: jax.Array) -> Images:
    """Another image: one more square."""
    shape = x.shape[1:]
    limit = jnp.array(shape[:2], jnp.int32) - side + 1
    here, there, color, turn = jax.vmap(lambda key: jax.random.split(key, 4), out_axes=1)(keys)
    place = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, limit, jnp.int32))
    corner = place(here)
    inside = window(corner, side, shape)[..., None]
    sign = signs(color, (1, 1, shape[2]))
    if problem.norm == "linf":
        change = 2 * rows(problem.epsilon, x) * sign * inside
        return problem.into_ball(x + change, "linf")

    # Mass moves from a second square, and from what the budget has left, into the first, where it is shaped anew.
    change = x - problem.clean
    other = window(place(there), side, shape)[..., None]
    turned = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(0.5)))(turn)

    def per_color(values: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(values), (1, 2), keepdims=True))

    old = jnp.where(inside, change, 0.0)
    shaped = jnp.where(inside, bumps(corner, side, turned, shape)[..., None] * sign, 0.0)
    shaped = shaped + old / (1e-12 + per_color(old))
    both = geometry.norm(jnp.where(inside | other, change, 0.0), "l2")
    left = jnp.maximum(jnp.square(problem.epsilon) - jnp.square(geometry.norm(change, "l2")), 0.0)
    mass = jnp.sqrt(left / shape[2] + jnp.square(both))
    shaped = shaped / (1e-12 + per_color(shaped)) * rows(mass, x)
    change = jnp.where(inside, shaped, jnp.where(other, 0.0, change))
    moved = problem.clean + rows(problem.epsilon, x) * geometry.unit(change, "l2")
    return jnp.clip(moved, 0.0, 1.0)


@attack("linf", "l2", budget=True, loss="margin", stop=True, draws="steps")
def square(
    problem: Problem,
    *,
    queries: int = count(5000),
    share: float = number(0.8, high=1.0, open_low=True, static=True),
    rescale: bool = flag(True),
) -> Found:
    """The Square attack: a random search that changes a random square at a time and keeps what raises the loss.

    It sees the logits alone: where it finds what attacks by gradient do not, these are masked.

    Args:
        key, model, images, labels, epsilon, options: as in `run`, and so are the errors.
        norm: "linf" or "l2".
        queries: runs of the network.
        share: of the image's area that the first squares take, above 0 and at most 1; halved nine times on the way.
        loss: "margin", "cross_entropy", "dlr", or a loss builder of the logits.
        rescale: whether the squares' sides fall within so many queries as within 10,000; AutoAttack leaves them.
        stop: whether an image is done once it succeeds.

    Source:
        Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack via random search (2020),
        algorithms 1 to 3; the schedule as in their code. Squares lie elsewhere in each image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.square(jax.random.key(0), model, image, [0], epsilon=0.08, queries=200)
        >>> result.success.tolist(), result.gradients.tolist()
        ([True], [0])
    """
    plan = jnp.asarray(sides(share, queries, problem.clean.shape[1:], problem.norm, rescale))
    done = problem.done() & problem.stop
    nothing = jnp.zeros(len(done), jnp.int32)

    def advance(carry: Any) -> Any:
        i, done, x, best, spent = carry
        # The first query scores the start itself.
        tried = jnp.where(i == 0, x, _propose(problem, x, problem.keys(i), plan[i]))
        value, logits = _score(problem, tried, i)
        success = problem.confirmed(tried, problem.success(logits) & ~done)
        better = ((value > best) | success) & ~done
        spent = spent + ~done
        if problem.stop:
            done |= success
        return i + 1, done, where(better, tried, x), jnp.where(better, value, best), spent

    lowest = jnp.full(len(done), -jnp.inf, jnp.float32)
    _, _, x, _, spent = until_done(advance, len(plan), (done, _begin(problem), lowest, nothing))
    return Found(x, spent, forwards=spent)
