"""FMN: gradient steps within a ball whose radius seeks the boundary; L0, L1, L2 and L∞."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import Kind, attack, count, number
from jaxopt_input.attacks.nearest import Nearest, cosine, farthest, nothing_yet
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import flat, where

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from jaxopt_input.attacks.problem import Images


def keep_largest(change: Images, count: Float[Array, " L"]) -> Images:
    """Of each row the so many numbers of largest absolute value, the others zero: the projection onto an L0 ball."""
    x = flat(change)
    rank = jnp.argsort(jnp.argsort(-jnp.abs(x), -1), -1)
    return jnp.where(rank < count[:, None], x, 0.0).reshape(change.shape)


def _count(radius: Any, gamma: Any, success: Bool[Array, " L"], best: Nearest) -> Float[Array, " L"]:
    """How many numbers may change next: fewer after a success, else more."""
    less = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - gamma))), best.distance)
    more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + gamma)))
    return jnp.maximum(jnp.where(success, less, more), 0.0)


def _length(radius: Any, gamma: Any, success: Bool[Array, " L"], best: Nearest, boundary: Any) -> Float[Array, " L"]:
    """The radius of the next ball: less after a success, else more; as far as the boundary before the first."""
    # A part γ beyond: a boundary that is met exactly is not crossed, and a linear network's would be met each time.
    less = jnp.minimum(radius * (1 - gamma), best.distance)
    return jnp.where(success, less, jnp.where(best.exists, radius * (1 + gamma), boundary * (1 + gamma)))


def _linear_distance(distance: Any, value: Any, gradient: Images, norm: str) -> Float[Array, " L"]:
    """How far from the original the boundary would be if the network were linear."""
    slope = geometry.norm(gradient, geometry.DUAL[norm])
    return distance + jnp.abs(value) / jnp.maximum(slope, 1e-12)


def _gamma(name: str, value: Any) -> np.ndarray:
    return checks.number(name, value, 0, 0.999, open_low=True) / np.array([1, 50], np.float32)


GAMMA: Any = Kind(0.05, _gamma, "ArrayLike", traced=True)  # the first γ and the last


@attack("l2", "l0", "l1", "linf", loss="margin")
def fmn(
    problem: Problem,
    *,
    steps: int = count(100),
    step: jax.Array = number(1.0, open_low=True),
    gamma: jax.Array = GAMMA,
) -> Found:
    """Fast minimum-norm: the nearest adversarial image in L0, L1, L2 or L∞.

    A gradient step, then a projection into a ball around the original: γ smaller after a success, γ larger else, and
    before the first success as large as a linear network would need. Step and γ shrink along a cosine, to a hundredth
    and a fiftieth.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        norm: "l0", "l1", "l2" or "linf"; l0 counts numbers.
        steps: how many.
        step: the first step's length in L2.
        gamma: the first γ, above 0 and below 1.
        loss: as in `fgsm`; the radius before the first success is in the units of "margin".

    Source:
        Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints (2021), algorithm 1; the
        radius before the first success is γ larger than theirs.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.fmn(jax.random.key(0), model, image, [0], norm="linf")
        >>> bool(0.025 < result.distance["linf"][0] < 1.05 * 0.025)
        True
    """
    clean, norm = problem.clean, problem.norm
    active = ~problem.done()
    most = farthest(clean, norm)

    def advance(i: jax.Array, carry: Any) -> Any:
        best, x, radius = carry
        value, gradient, logits = problem.gradient(x, draw=i)
        success = problem.success(logits)
        distance = geometry.norm(x - clean, norm)
        best = best.after(problem, x, success & active, problem.distance(x, norm))
        part = cosine(gamma[0], gamma[1], i, steps)
        if norm == "l0":
            radius = _count(radius, part, success, best)
        else:
            radius = _length(radius, part, success, best, _linear_distance(distance, value, gradient, norm))
        radius = jnp.minimum(radius, most)
        size = cosine(step, step / 100, i, steps)
        moved = x + size * geometry.unit(gradient, "l2")
        if norm == "l0":
            moved = jnp.clip(clean + keep_largest(moved - clean, radius), 0.0, 1.0)
        else:
            moved = geometry.clip_to_ball(moved, clean, radius, norm)
        return best, where(active, moved, x), radius

    radius = jnp.ones(len(active), jnp.float32) if norm == "l0" else most
    best, *_ = jax.lax.fori_loop(0, steps, advance, (nothing_yet(problem), clean, radius))
    return Found(best.image, steps * active, steps * active)
