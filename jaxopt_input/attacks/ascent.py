"""Ascent on a loss within a ball: the loop of FGSM, BIM, PGD and MI-FGSM, which differ in their rules alone.

A rule is an Optax transformation from a gradient to a step of unit size, mapped over the lanes; the loop scales it,
moves the image into the ball and the box, and leaves lanes that are done as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_input import checks
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.objectives import Objective
from jaxopt_input.attacks.problem import Found, Numbers, Problem

START = 2**31 - 3  # the purpose of the keys of random starts; the steps have the small numbers

Rule = Callable[[Numbers], optax.GradientTransformation]


def _lane(function: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    """A stateless rule from a function of batches."""
    return optax.stateless(lambda gradient, params: function(gradient[None])[0])


def sign(numbers: Numbers) -> optax.GradientTransformation:
    """sign(g): steepest in L∞."""
    return _lane(jnp.sign)


def normalized(numbers: Numbers) -> optax.GradientTransformation:
    """g / ‖g‖₂: steepest in L2."""
    return _lane(lambda gradient: geometry.unit(gradient, "l2"))


def sparse(numbers: Numbers) -> optax.GradientTransformation:
    """Equal steps of the numbers with the largest gradients, in all of L1 norm 1; of numbers that can still move.

    Source:
        Tramèr & Boneh, Adversarial Training and Robustness for Multiple Perturbations (2019), section 3 (SLIDE).
    """

    def update(gradient: jax.Array, image: Any) -> jax.Array:
        gradient = jnp.where(((image <= 0) & (gradient < 0)) | ((image >= 1) & (gradient > 0)), 0.0, gradient)
        size = jnp.abs(gradient)
        chosen = (size >= jnp.quantile(size, numbers["sparsity"])) & (size > 0)
        return jnp.sign(gradient) * chosen / jnp.maximum(jnp.sum(chosen), 1)

    return optax.stateless(update)


def momentum(numbers: Numbers) -> optax.GradientTransformation:
    """The sign of a velocity v ← decay · v + g / ‖g‖₁."""
    normalize = _lane(lambda gradient: geometry.unit(gradient, "l1"))
    return optax.chain(normalize, optax.trace(numbers["decay"]), sign(numbers))


STEEPEST: dict[str, Rule] = {"linf": sign, "l2": normalized, "l1": sparse}


def step_size(step: Any, relative: float) -> dict[str, Any]:
    """The traced numbers of a step: absolute where one is given, else a part of ε."""
    given = step is not None
    return {
        "step": checks.number("step", step, open_low=True) if given else np.float32(0),
        "relative": np.float32(0 if given else relative),
    }


@dataclasses.dataclass(frozen=True)
class Ascent:
    """A method: so many steps of a rule up a loss.

    Attributes:
        objective: what is maximized.
        norm: of the ball: "linf", "l2" or "l1".
        rule: from gradients to steps of unit size.
        steps: how many.
        random_start: whether to begin anywhere in the ball, instead of at the original.
        stop: whether a lane is done once it succeeds.
    """

    objective: Objective
    norm: str
    rule: Rule
    steps: int
    random_start: bool
    stop: bool

    def __call__(self, problem: Problem, numbers: Numbers) -> Found:
        rule = self.rule(numbers)
        size = numbers["step"] + numbers["relative"] * problem.epsilon
        x = begin(problem, self.norm, self.random_start)

        def unfinished(carry: Any) -> jax.Array:
            i, done, *_ = carry
            return (i < self.steps) & ~jnp.all(done)

        def advance(carry: Any) -> Any:
            i, done, x, state, steps, gradients, history = carry
            value, gradient, logits = problem.gradient(x, self.objective, i)
            history = history.at[:, i].set(jnp.where(done, jnp.nan, value))
            gradients = gradients + ~done
            if self.stop:
                done |= problem.confirmed(x, problem.success(logits) & ~done)
            updates, state = jax.vmap(rule.update)(geometry.scaled(gradient), state, x)
            moved = problem.into_ball(x + geometry.rows(size, x) * updates, self.norm)
            return i + 1, done, geometry.where(done, x, moved), state, steps + ~done, gradients, history

        n = len(size)
        nothing = jnp.zeros(n, jnp.int32)
        history = jnp.full((n, self.steps), jnp.nan)
        done = problem.done() & self.stop
        carry = (jnp.int32(0), done, x, jax.vmap(rule.init)(x), nothing, nothing, history)
        _, _, x, _, steps, gradients, history = jax.lax.while_loop(unfinished, advance, carry)
        return Found(x, steps, gradients, nothing, {"loss": history})


def begin(problem: Problem, norm: str, random_start: bool) -> jax.Array:
    """Where a lane starts: where it is told to, anywhere in the ball, or at the original."""
    if problem.lanes.start is not None:
        return problem.into_ball(problem.lanes.start, norm)
    if not random_start:
        return problem.clean
    noise = geometry.random_in_ball(problem.keys(START), problem.clean.shape[1:], norm)
    return problem.into_ball(problem.clean + geometry.rows(problem.epsilon, noise) * noise, norm)
