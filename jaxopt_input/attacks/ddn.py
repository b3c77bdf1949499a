"""DDN: the direction from the gradient, the norm by steps of a few percent, decoupled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count, number
from jaxopt_input.attacks.nearest import cosine, farthest, nothing_yet
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import rows, where

FIRST, LAST = 1.0, 0.01  # lengths of the step


@attack("l2", loss="cross_entropy")
def ddn(
    problem: Problem,
    *,
    steps: int = count(100),
    gamma: jax.Array = number(0.05, high=0.999, open_low=True),
    initial: jax.Array = number(1.0, open_low=True),
) -> Found:
    """Decoupled direction and norm: the nearest adversarial image in L2.

    Each step moves along the gradient and then sets the length of the change: γ shorter after a success, γ longer
    else; the step shrinks from 1 to 0.01 along a cosine.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        steps: how many.
        gamma: γ, above 0 and below 1.
        initial: the first length.
        loss: as in `fgsm`.

    Source:
        Rony et al., Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses
        (2019), algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3, 2),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.ddn(jax.random.key(0), model, image, [0])
        >>> bool(0.1414 < result.distance["l2"][0] < 1.05 * 0.1414)  # 0.025 down and 0.025 up, at 16 pixels each
        True
    """
    clean = problem.clean
    most = farthest(clean, "l2")
    active = ~problem.done()
    # Numbers of the program rather than constants, which XLA would fold into roundings of its own.
    first, last = jax.lax.optimization_barrier((jnp.float32(FIRST), jnp.float32(LAST)))

    def advance(i: jax.Array, carry: Any) -> Any:
        best, x, size = carry
        _, gradient, logits = problem.gradient(x, draw=i)
        success = problem.success(logits)
        best = best.after(problem, x, success & active, problem.distance(x, "l2"))
        step = cosine(first, last, i, steps)
        change = x - clean + step * geometry.unit(gradient, "l2")
        size = jnp.minimum(size * jnp.where(success, 1 - gamma, 1 + gamma), most)
        moved = jnp.clip(clean + rows(size, change) * geometry.unit(change, "l2"), 0.0, 1.0)
        return best, where(active, moved, x), size

    carry = (nothing_yet(problem), clean, jnp.full(len(active), initial))
    best, x, _ = jax.lax.fori_loop(0, steps, advance, carry)
    crossed = problem.success(problem.logits(x, steps)) & active
    best = best.after(problem, x, crossed, problem.distance(x, "l2"))
    return Found(best.image, steps * active, steps * active, active)
