"""FMN: gradient steps within a ball whose radius seeks the boundary; L0, L1, L2 and L∞."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.geometry import where
from jaxopt_input.attacks.nearest import cosine, farthest, nothing_yet
from jaxopt_input.attacks.objectives import Builder, Objective, objective
from jaxopt_input.attacks.problem import Found, Numbers, Problem
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import count, number, one_of

FMN_NORMS = ("l0", "l1", "l2", "linf")


def keep_largest(change: jax.Array, count: jax.Array) -> jax.Array:
    """Of each row the so many numbers of largest absolute value, the others zero: the projection onto an L0 ball."""
    x = geometry.flat(change)
    rank = jnp.argsort(jnp.argsort(-jnp.abs(x), -1), -1)
    return jnp.where(rank < count[:, None], x, 0.0).reshape(change.shape)


@dataclasses.dataclass(frozen=True)
class FMN:
    """A method: see `fmn`."""

    objective: Objective
    norm: str
    steps: int

    def __call__(self, problem: Problem, numbers: Numbers) -> Found:
        clean = problem.clean
        active = ~problem.done()
        most = farthest(clean, self.norm)

        def step(i: jax.Array, carry: Any) -> Any:
            best, x, radius, gradients = carry
            value, gradient, logits = problem.gradient(x, self.objective, i)
            success = problem.success(logits)
            distance = geometry.norm(x - clean, self.norm)
            best = best.after(problem, x, success & active, problem.distance(x, self.norm))
            gamma = cosine(numbers["gamma"], numbers["gamma_last"], i, self.steps)
            radius = jnp.minimum(self._radius(radius, gamma, success, best, distance, value, gradient), most)
            size = cosine(numbers["step"], numbers["step"] / 100, i, self.steps)
            moved = x + size * geometry.unit(gradient, "l2")
            if self.norm == "l0":
                moved = jnp.clip(clean + keep_largest(moved - clean, radius), 0.0, 1.0)
            else:
                moved = geometry.clip_to_ball(moved, clean, radius, self.norm)
            return best, where(active, moved, x), radius, gradients + active

        nothing = jnp.zeros(len(active), jnp.int32)
        radius = jnp.ones(len(active)) if self.norm == "l0" else most
        carry = (nothing_yet(problem), clean, radius, nothing)
        best, _, _, gradients = jax.lax.fori_loop(0, self.steps, step, carry)
        return Found(best.image, gradients, gradients, nothing)

    def _radius(
        self, radius: Any, gamma: Any, success: Any, best: Any, distance: Any, value: Any, gradient: Any
    ) -> jax.Array:
        """The radius of the next ball: less after a success; else more, or as far as the boundary seems, at first."""
        if self.norm == "l0":
            less = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - gamma))), best.distance)
            more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + gamma)))
            return jnp.maximum(jnp.where(success, less, more), 0.0)
        slope = geometry.norm(gradient, geometry.DUAL[self.norm])
        # A part γ beyond: a boundary that is met exactly is not crossed, and a linear network's would be met each time.
        boundary = (distance + jnp.abs(value) / jnp.maximum(slope, 1e-12)) * (1 + gamma)
        less = jnp.minimum(radius * (1 - gamma), best.distance)
        return jnp.where(success, less, jnp.where(best.found, radius * (1 + gamma), boundary))


def fmn(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    norm: str = "l2",
    steps: int = 100,
    step: float = 1.0,
    gamma: float = 0.05,
    loss: str | Builder = "margin",
    **options: Unpack[Options],
) -> AttackResult:
    """Fast minimum-norm: the nearest adversarial image in L0, L1, L2 or L∞.

    A gradient step, then a projection into a ball around the original: γ smaller after a success, γ larger else, and
    before the first success as large as a linear network would need. Step and γ shrink along a cosine, to a hundredth
    and a fiftieth.

    Args:
        key, model, images, labels: as `run`.
        norm: "l0", "l1", "l2" or "linf"; l0 counts numbers.
        steps: how many.
        step: the first step's length in L2.
        gamma: the first γ, above 0 and below 1.
        loss: as `fgsm`; the radius before the first success is in the units of "margin".
        options: see `Options`.

    Raises:
        InputError: as `run`.

    Source:
        Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints (2021), algorithm 1; the
        radius before the first success is γ larger than theirs.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> found = joi.attacks.fmn(jax.random.key(0), model, image, [0], norm="linf")
        >>> bool(0.025 < found.distance["linf"][0] < 1.05 * 0.025)
        True
    """
    aim = objective(loss, options.get("target") is not None)
    numbers = {
        "step": number("step", step, open_low=True),
        "gamma": number("gamma", gamma, 0, 0.999, open_low=True),
        "gamma_last": number("gamma", gamma, 0, 0.999) / 50,
    }
    method = FMN(aim, one_of("norm", norm, FMN_NORMS), count("steps", steps))
    return run(method, key, model, images, labels, norm=norm, numbers=numbers, objective=aim, draws=False, **options)
