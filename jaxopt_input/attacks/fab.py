"""FAB-T: along the boundary towards the original, class by class; L2 and L∞."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.deepfool import differences, rivals
from jaxopt_input.attacks.define import attack, count, number
from jaxopt_input.attacks.nearest import Nearest, nothing_yet
from jaxopt_input.attacks.problem import START, Found, Problem
from jaxopt_input.engine.lanes import dot, rows, where

if TYPE_CHECKING:
    from jaxopt_input.attacks.problem import Images

EXTRAPOLATION, BACKWARD, MOST_BIAS = 1.05, 0.9, 0.1  # η, β and α_max of the authors


def begin(problem: Problem, best: Nearest, reach: jax.Array, turn: jax.Array) -> Images:
    """The original; in further restarts anywhere within half of the reach, or of the nearest success."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, turn))(problem.keys(START))
    noise = geometry.random_in_ball(keys, problem.clean.shape[1:], problem.norm)
    away = jnp.clip(problem.clean + 0.5 * rows(jnp.minimum(best.distance, reach), noise) * noise, 0.0, 1.0)
    return where(problem.lanes.restart == 0, problem.clean, away)


@attack("linf", "l2", to_boundary=True, draws="steps")
def fab(
    problem: Problem,
    *,
    steps: int = count(100),
    candidates: int = count(9),
    reach: jax.Array = number(0.3, open_low=True),
) -> Found:
    """FAB-T, the fast adaptive boundary attack towards one class after another: the nearest adversarial image.

    Each step projects the iterate and the original onto the boundary of the network made linear, within the box, goes
    a little beyond, mixes the two, and after a success moves back towards the original.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        norm: "l2" or "linf".
        steps: for each class.
        candidates: how many of the likeliest other classes are tried; with a target it alone is.
        reach: restarts after the first begin at random within half of this distance of the original.

    Source:
        Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack (2020), algorithm 1,
        in the targeted form of their AutoAttack (2020).

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.fab(jax.random.key(0), model, image, [0], steps=10)
        >>> bool(0.025 < result.distance["linf"][0] < 1.05 * 0.025)
        True
    """
    clean, norm = problem.clean, problem.norm
    active = ~problem.done()
    classes = rivals(problem, candidates)

    def step(i: jax.Array, carry: tuple[Nearest, jax.Array]) -> tuple[Nearest, jax.Array]:
        best, x = carry
        turn = i // steps
        x = jnp.where(i % steps == 0, begin(problem, best, reach, turn), x)
        chosen = jax.lax.dynamic_slice_in_dim(classes, turn, 1, axis=1)
        lead, gradient, _ = differences(problem, x, chosen, i)
        normal = gradient[0]
        here = geometry.to_hyperplane(x, normal, -lead[0], norm)
        there = geometry.to_hyperplane(clean, normal, -(lead[0] + dot(normal, clean - x)), norm)
        a, b = (jnp.maximum(geometry.norm(d, norm), 1e-8) for d in (here, there))
        bias = rows(jnp.minimum(a / (a + b), MOST_BIAS), x)
        x = jnp.clip((x + EXTRAPOLATION * here) * (1 - bias) + (clean + EXTRAPOLATION * there) * bias, 0.0, 1.0)
        success = problem.success(problem.logits(x, i)) & active
        best = best.after(problem, x, success, problem.distance(x, norm))
        return best, where(success, clean + (x - clean) * BACKWARD, x)

    total = steps * classes.shape[1]
    best, _ = jax.lax.fori_loop(0, total, step, (nothing_yet(problem), clean))
    return Found(best.image, total * active, total * active, total * active)
