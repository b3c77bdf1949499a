"""What attacks that minimize a norm share: the nearest adversarial image so far, one per lane."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks.geometry import norm
from jaxopt_input.attacks.problem import Problem
from jaxopt_input.engine.lanes import where

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    Images = Float[Array, "L H W C"]


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
