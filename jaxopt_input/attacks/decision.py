"""What attacks share that see the predicted class alone: an adversarial start, and bisection to the boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks.problem import START, Problem
from jaxopt_input.engine.lanes import rows, where
from jaxopt_input.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    Images = Float[Array, "L H W C"]

TRIES = 50  # random images, until one is a success
BISECTIONS = 12


def judge(problem: Problem, x: Images, draw: int | jax.Array) -> Bool[Array, " L"]:
    """Whether images are a success: one query."""
    return problem.success(problem.logits(x, draw))


def adversarial_needed(target: Any, start: Any) -> None:
    """Raise an `InputError` for a target without images to begin from: noise as a rule is not of a particular class."""
    if target is not None and start is None:
        raise InputError("with a target this attack begins at images of that class: give them as start, or no target")


def adversarial_start(problem: Problem) -> tuple[Images, Bool[Array, " L"], Int[Array, " L"]]:
    """An image of each lane that is a success, far from the original: the caller's start, or uniform noise.

    Returns:
        The images, whether each is a success, and how many queries that took.
    """
    if problem.lanes.start is not None:
        first = problem.lanes.start
        return first, judge(problem, first, 0), jnp.ones(len(problem.label), jnp.int32)
    keys = problem.keys(START)

    def unfinished(carry: Any) -> jax.Array:
        return (carry[0] < TRIES) & ~jnp.all(carry[2])

    def attempt(carry: Any) -> Any:
        i, x, success, queries = carry
        tried = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, i), x.shape[1:], jnp.float32))(keys)
        return i + 1, where(success, x, tried), success | judge(problem, tried, i), queries + ~success

    done = problem.done()
    carry = (jnp.int32(0), problem.clean, done, jnp.zeros(len(done), jnp.int32))
    _, x, success, queries = jax.lax.while_loop(unfinished, attempt, carry)
    return x, success, queries


def to_boundary(problem: Problem, x: Images, draw: int | jax.Array) -> Images:
    """On the segment from the original to each success, a success close to the boundary: `BISECTIONS` queries."""

    def halve(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = carry
        middle = (low + high) / 2
        success = judge(problem, problem.clean + rows(middle, x) * (x - problem.clean), draw)
        return jnp.where(success, low, middle), jnp.where(success, middle, high)

    whole = jnp.ones(len(x), jnp.float32)
    _, high = jax.lax.fori_loop(0, BISECTIONS, halve, (0 * whole, whole))
    return problem.clean + rows(high, x) * (x - problem.clean)
