"""What attacks that minimize a norm share: the nearest adversarial image so far, one per lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.attacks.geometry import norm
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import where

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from jaxopt_input.attacks.problem import Images


class Nearest(NamedTuple):
    """The nearest success of each lane.

    Attributes:
        image: `[L, H, W, C]`, the original where there is none yet.
        distance: `[L]`, infinite where there is none yet.
    """

    image: Images
    distance: Float[Array, " L"]

    @property
    def exists(self) -> Bool[Array, " L"]:
        """Whether there is any success yet."""
        return jnp.isfinite(self.distance)

    def after(
        self, problem: Problem, images: Images, success: Bool[Array, " L"], distance: Float[Array, " L"]
    ) -> Nearest:
        """The nearest among this and further images."""
        nearer = problem.confirmed(images, success & (distance < self.distance))
        return Nearest(where(nearer, images, self.image), jnp.where(nearer, distance, self.distance))


def nothing_yet(problem: Problem) -> Nearest:
    """Before the search: distance 0 where the original is a success already."""
    return Nearest(problem.clean, jnp.where(problem.done(), jnp.float32(0), jnp.inf))


def farthest(clean: Images, p: str) -> Float[Array, " L"]:
    """The distance to the farthest corner of the box."""
    return norm(jnp.maximum(clean, 1 - clean), p)


def cosine(first: jax.Array, last: jax.Array, i: jax.Array, steps: int) -> jax.Array:
    """From `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + jnp.cos(np.float32(np.pi) * i.astype(jnp.float32) / steps)) / 2


# ---- a search over what weighs distance and loss ---------------------------------------------------------------------


def next_factor(c: Float[Array, " L"], low: Float[Array, " L"], high: Float[Array, " L"]) -> Float[Array, " L"]:
    """The next c of a search: ten times as large until one succeeds, ten times as small until one fails, then between.

    Between is the geometric mean: c spans decades.
    """
    between = jnp.sqrt(low * jnp.where(jnp.isfinite(high), high, 1.0))
    return jnp.where(jnp.isinf(high), c * 10, jnp.where(low > 0, between, c / 10))


def over_factors(problem: Problem, c: jax.Array, searches: int, attempt: Callable[..., Any]) -> Found:
    """The nearest success over a search for c.

    Args:
        problem: the lanes.
        c: the first.
        searches: how many c.
        attempt: `(best, c, gradients) -> (best, reached, gradients)`: a search with one c per lane, and whether it
            reached a success.
    """

    def search(_: Any, carry: Any) -> Any:
        best, c, low, high, gradients = carry
        best, reached, gradients = attempt(best, c, gradients)
        low, high = jnp.where(reached, low, c), jnp.where(reached, c, high)
        return best, next_factor(c, low, high), low, high, gradients

    nothing = jnp.zeros(len(problem.label), jnp.int32)
    c = jnp.full(len(nothing), c, jnp.float32)
    carry = (nothing_yet(problem), c, jnp.zeros_like(c), jnp.full_like(c, jnp.inf), nothing)
    best, *_, gradients = jax.lax.fori_loop(0, searches, search, carry)
    return Found(best.image, gradients, gradients)


def lead(problem: Problem, confidence: jax.Array) -> Callable[[Any, Any], losses.Loss]:
    """C&W's loss of each lane's target, or of its label where it has none."""

    def objective(label: Any, target: Any) -> losses.Loss:
        return losses.carlini_wagner(target if problem.targeted else label, confidence, targeted=problem.targeted)

    return objective
