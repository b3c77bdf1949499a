"""DeepFool: again and again to the nearest boundary of the network made linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count, number
from jaxopt_input.attacks.problem import Found, Problem, until_done
from jaxopt_input.engine.lanes import rows, where

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from jaxopt_input.attacks.problem import Images


def rivals(problem: Problem, candidates: int) -> Int[Array, "L K"]:
    """The classes whose boundaries are tried: the target, or the likeliest others of the original."""
    if problem.targeted:
        return problem.target[:, None]
    classes = problem.lanes.logits.shape[-1]
    others = jnp.where(_is_class(problem.label, classes), -jnp.inf, problem.lanes.logits)
    return jax.lax.top_k(others, min(candidates, classes - 1))[1]


def _is_class(index: Int[Array, " L"], classes: int) -> Bool[Array, "L classes"]:
    return jnp.arange(classes, dtype=jnp.int32)[None] == index[:, None]


def differences(
    problem: Problem, x: Images, classes: Int[Array, "L K"], draw: int | jax.Array
) -> tuple[Float[Array, "K L"], Float[Array, "K L H W C"], Float[Array, "L classes"]]:
    """What each class's logit leads the label's by, its gradient, and the logits.

    A target must lead all the others: it is compared with the largest of them.
    """
    total = problem.lanes.logits.shape[-1]
    rival = problem.label
    if problem.targeted:
        others = jnp.where(_is_class(problem.target, total), -jnp.inf, problem.logits(x, draw))
        rival = jnp.argmax(others, -1)
    chosen, led = (jax.nn.one_hot(index, total, dtype=jnp.float32) for index in (classes.T, rival))
    weights = chosen - led[None]
    logits, gradients = problem.jacobian(x, weights, draw)
    leads = jnp.take_along_axis(logits, classes, -1) - jnp.take_along_axis(logits, rival[:, None], -1)
    return leads.T, gradients, logits


@attack("l2", "linf", to_boundary=True)
def deepfool(
    problem: Problem, *, steps: int = count(50), overshoot: jax.Array = number(0.02), candidates: int = count(10)
) -> Found:
    """DeepFool: steps to the nearest of the boundaries that the network, made linear at the iterate, has.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        norm: "l2" or "linf".
        steps: at most so many.
        overshoot: what each step goes beyond the boundary, as a part of its length.
        candidates: how many of the likeliest other classes are tried, one gradient each; with a target it alone is.

    Source:
        Moosavi-Dezfooli, Fawzi & Frossard, DeepFool: a simple and accurate method to fool deep neural networks (2016),
        algorithm 2 and equations 10 and 11.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.deepfool(jax.random.key(0), model, image, [0])
        >>> result.steps.tolist(), bool(0.1414 < result.distance["l2"][0] < 1.05 * 0.1414)
        ([1], True)
    """
    classes = rivals(problem, candidates)
    k, norm = classes.shape[1], problem.norm

    def advance(carry: Any) -> Any:
        i, done, x, taken, gradients = carry
        lead, gradient, logits = differences(problem, x, classes, i)
        gradients = gradients + jnp.where(done, 0, k)
        done |= problem.confirmed(x, problem.success(logits))
        slope = jax.vmap(lambda g: geometry.norm(g, geometry.DUAL[norm]))(gradient)
        distance = jnp.where(slope > 0, jnp.abs(lead) / jnp.where(slope > 0, slope, 1.0), jnp.inf)
        nearest = jnp.argmin(distance, 0)
        lane = jnp.arange(len(nearest), dtype=jnp.int32)
        # A boundary that is met exactly is not yet crossed.
        length = (distance[nearest, lane] + 1e-6) * (1 + overshoot)
        way = geometry.steepest(gradient[nearest, lane], norm)
        length = jnp.where(jnp.isfinite(length), length, 0.0)
        moved = jnp.clip(x + rows(length, x) * way, 0.0, 1.0)
        return i + 1, done, where(done, x, moved), taken + ~done, gradients

    nothing = jnp.zeros(len(problem.label), jnp.int32)
    carry = (problem.done(), problem.clean, nothing, nothing)
    _, _, x, taken, gradients = until_done(advance, steps, carry)
    return Found(x, taken, gradients)
