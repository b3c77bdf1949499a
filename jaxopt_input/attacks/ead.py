"""EAD: C&W with an elastic net, so that few numbers change; by shrinkage steps and a search over c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks.define import attack, choice, count, number
from jaxopt_input.attacks.nearest import lead, over_factors
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import rows, where

if TYPE_CHECKING:
    from jaxopt_input.attacks.problem import Images


def shrink(x: Images, clean: Images, beta: jax.Array) -> Images:
    """Each number β nearer to the original, at it where it is nearer than that already; within [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> shrink(jnp.array([0.5625, 0.875, 0.125]), jnp.full(3, 0.5), jnp.float32(0.125)).tolist()
        [0.5, 0.75, 0.25]
    """
    change = x - clean
    return jnp.clip(clean + jnp.sign(change) * jnp.maximum(jnp.abs(change) - beta, 0.0), 0.0, 1.0)


@attack("l1", to_boundary=True)
def ead(
    problem: Problem,
    *,
    steps: int = count(100),
    searches: int = count(9),
    learning_rate: jax.Array = number(0.01, open_low=True),
    beta: jax.Array = number(1e-3),
    confidence: jax.Array = number(0.0),
    c: jax.Array = number(1e-3, open_low=True),
    decision: str = choice("l1", "en"),
) -> Found:
    """The elastic-net attack: min ‖δ‖² + β ‖δ‖₁ + c · max(z_y − max_{i≠y} z_i + κ, 0), by FISTA within the box.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        steps: for each c.
        searches: how many c.
        learning_rate: the first step; it falls to zero along a square root.
        beta: β, the weight of L1.
        confidence: κ, what the other class (or the target) must lead by.
        c: the first.
        decision: which success is kept: the least "l1", or the least elastic net, "en".

    Source:
        Chen et al., EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples (2018), algorithm 1. The
        network is run at the extrapolated iterate alone, which is also the one that is judged.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.ead(jax.random.key(0), model, image, [0], c=10.0).success.tolist()
        [True]
    """
    clean, active = problem.clean, ~problem.done()
    objective = lead(problem, confidence)

    def measure(x: jax.Array) -> jax.Array:
        length = problem.distance(x, "l1")
        if decision == "l1":
            return length
        return jnp.square(problem.distance(x, "l2")) + beta * length

    def attempt(best: Any, c: jax.Array, gradients: jax.Array) -> Any:
        def step(i: jax.Array, carry: Any) -> Any:
            best, x, y, reached = carry
            # One run of the network serves both: the gradient at y, and the judgment of y.
            lost, gradient, logits = problem.gradient(y, objective, i)
            success = problem.success(logits) & (lost <= 0) & active
            best = best.after(problem, y, success, measure(y))
            rate = learning_rate * jnp.sqrt(1 - i.astype(jnp.float32) / steps)
            slope = 2 * (y - clean) + rows(c, y) * gradient
            after = shrink(y - rate * slope, clean, beta)  # by β itself, as the authors do, not by rate · β
            ahead = jnp.clip(after + i.astype(jnp.float32) / (i + 3).astype(jnp.float32) * (after - x), 0.0, 1.0)
            return best, after, where(active, ahead, y), reached | success

        best, _, _, reached = jax.lax.fori_loop(0, steps, step, (best, clean, clean, ~active))
        return best, reached, gradients + steps * active

    return over_factors(problem, c, searches, attempt)
