"""C&W: the nearest adversarial image in L2, by Adam on the arctanh of the image and a search over c."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count, number
from jaxopt_input.attacks.nearest import lead, over_factors
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import rows, where

ENOUGH = 0.9999  # a search along one c ends where a tenth of its steps lowered the loss by less


@attack("l2", to_boundary=True)
def carlini_wagner(
    problem: Problem,
    *,
    steps: int = count(1000),
    searches: int = count(9),
    learning_rate: jax.Array = number(0.01, open_low=True),
    confidence: jax.Array = number(0.0),
    c: jax.Array = number(1e-3, open_low=True),
) -> Found:
    """Carlini & Wagner's attack in L2: min ‖δ‖² + c · max(z_y − max_{i≠y} z_i + κ, 0), of x + δ = (tanh w + 1) / 2.

    c is ten times as large until it succeeds, then bisected; each search over the image ends early where its loss
    stays.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        steps: of Adam, at most, for each c.
        searches: how many c.
        learning_rate: of Adam.
        confidence: κ, what the other class (or the target) must lead by.
        c: the first.

    Source:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks (2017), section V; the geometric mean in
        the search is ours, theirs the arithmetic one.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3, 2),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.carlini_wagner(jax.random.key(0), model, image, [0], steps=200, c=1.0)
        >>> bool(0.1414 < result.distance["l2"][0] < 1.05 * 0.1414)
        True
    """
    clean, done = problem.clean, problem.done()
    objective = lead(problem, confidence)
    adam = optax.adam(learning_rate)
    origin = jnp.arctanh((2 * clean - 1) * 0.999999)
    patience = max(steps // 10, 1)
    highest = jnp.full(len(done), jnp.inf, jnp.float32)

    def attempt(best: Any, c: jax.Array, gradients: jax.Array) -> Any:
        def unfinished(carry: Any) -> jax.Array:
            return (carry[0] < steps) & jnp.any(carry[-2])

        def advance(carry: Any) -> Any:
            i, best, w, state, reached, least, going, gradients = carry
            x = (jnp.tanh(w) + 1) / 2
            lost, gradient, logits = problem.gradient(x, objective, i)
            success = problem.success(logits) & (lost <= 0) & going
            best = best.after(problem, x, success, problem.distance(x, "l2"))
            total = jnp.square(geometry.norm(x - clean, "l2")) + c * lost
            gradients = gradients + going
            stuck = (i % patience == 0) & (total > ENOUGH * least)
            least = jnp.where(i % patience == 0, total, least)
            still = going & ~stuck
            slope = (2 * (x - clean) + rows(c, x) * gradient) * (1 - jnp.square(jnp.tanh(w))) / 2
            updates, state = adam.update(slope, state)
            return i + 1, best, where(still, w + updates, w), state, reached | success, least, still, gradients

        start = (jnp.int32(0), best, origin, adam.init(origin), done, highest, ~done, gradients)
        _, best, _, _, reached, _, _, gradients = jax.lax.while_loop(unfinished, advance, start)
        return best, reached, gradients

    return over_factors(problem, c, searches, attempt)
