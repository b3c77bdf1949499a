"""What attacks share that see the predicted class alone: an adversarial start, and bisection to the boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks.geometry import bisect
from jaxopt_input.attacks.nearest import Nearest, nothing_yet
from jaxopt_input.attacks.problem import START, Problem, until_done
from jaxopt_input.engine.lanes import rows, where

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int

    from jaxopt_input.attacks.problem import Images

TRIES = 50  # random images, until one is a success
BISECTIONS = 12


def judge(problem: Problem, x: Images, draw: int | jax.Array) -> Bool[Array, " L"]:
    """Whether images are a success: one query."""
    return problem.success(problem.logits(x, draw))


def to_boundary(problem: Problem, x: Images, draw: int | jax.Array) -> Images:
    """On the segment from the original to each success, a success close to the boundary: `BISECTIONS` queries."""

    def on_the_way(part: jax.Array) -> Images:
        return problem.clean + rows(part, x) * (x - problem.clean)

    whole = jnp.ones(len(x), jnp.float32)
    _, part = bisect(lambda part: ~judge(problem, on_the_way(part), draw), 0 * whole, whole, BISECTIONS)
    return on_the_way(part)


def _adversarial_start(problem: Problem) -> tuple[Images, Bool[Array, " L"], Int[Array, " L"]]:
    """An image of each lane far from the original, whether it is a success, and the queries: a start, or noise."""
    if problem.lanes.start is not None:
        first = problem.lanes.start
        return first, judge(problem, first, 0), jnp.ones(len(problem.label), jnp.int32)
    keys = problem.keys(START)

    def attempt(carry: Any) -> Any:
        i, success, x, queries = carry
        tried = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, i), x.shape[1:], jnp.float32))(keys)
        return i + 1, success | judge(problem, tried, i), where(success, x, tried), queries + ~success

    done = problem.done()
    carry = (done, problem.clean, jnp.zeros(len(done), jnp.int32))
    _, success, x, queries = until_done(attempt, TRIES, carry)
    return x, success, queries


def begin(problem: Problem) -> tuple[Images, Bool[Array, " L"], Nearest, Int[Array, " L"]]:
    """Where a search begins: at a success close to the boundary.

    Returns:
        An image of each lane, whether the lane takes part, the nearest success, and the number of queries until then.
    """
    x, success, queries = _adversarial_start(problem)
    active = success & ~problem.done()
    x = to_boundary(problem, x, 0)
    nearest = nothing_yet(problem).after(problem, x, active, problem.distance(x, "l2"))
    return x, active, nearest, queries + jnp.where(active, BISECTIONS, 0)
