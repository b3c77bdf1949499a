"""What attacks that minimize a norm share: the nearest adversarial image so far, a lane each."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_input.attacks.geometry import norm, where
from jaxopt_input.attacks.problem import Problem


class Nearest(NamedTuple):
    """The nearest success of each lane.

    Attributes:
        image: `[L, H, W, C]`, the original where there is none yet.
        distance: `[L]`, infinite where there is none yet.
    """

    image: jax.Array
    distance: jax.Array

    @property
    def found(self) -> jax.Array:
        """`[L]`: whether there is one."""
        return jnp.isfinite(self.distance)

    def after(self, problem: Problem, images: jax.Array, success: jax.Array, distance: jax.Array) -> Nearest:
        """The nearest among this and further images."""
        nearer = problem.confirmed(images, success & (distance < self.distance))
        return Nearest(where(nearer, images, self.image), jnp.where(nearer, distance, self.distance))


def nothing_yet(problem: Problem) -> Nearest:
    """Before the search: distance 0 where the original is a success already."""
    return Nearest(problem.clean, jnp.where(problem.done(), 0.0, jnp.inf))


def farthest(clean: jax.Array, p: str) -> jax.Array:
    """`[L]`: the distance to the farthest corner of the box."""
    return norm(jnp.maximum(clean, 1 - clean), p)


def cosine(first: jax.Array, last: jax.Array, i: jax.Array, steps: int) -> jax.Array:
    """From `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + jnp.cos(jnp.pi * i / steps)) / 2
