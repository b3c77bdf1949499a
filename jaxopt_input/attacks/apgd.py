"""APGD: ascent with momentum whose step halves by itself, on the cross-entropy, the DLR or the targeted DLR."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.apgd_l1 import SparseAPGD, recorded
from jaxopt_input.attacks.ascent import START
from jaxopt_input.attacks.geometry import rows, where
from jaxopt_input.attacks.objectives import Builder, Objective, objective
from jaxopt_input.attacks.problem import Found, Method, Numbers, Problem
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import count, given, one_of

MOMENTUM, RISING = 0.75, 0.75


def checkpoints(steps: int) -> list[int]:
    """The numbers of steps after which the step size is checked: windows of ⌊.22 N⌋, each ⌊.03 N⌋ shorter, to ⌊.06 N⌋.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    # Integers, so that 0.03 * 100 is 3.
    window, least, less = (max(steps * share // 100, 1) for share in (22, 6, 3))
    found, at = [], 0
    while at + window <= steps:
        at += window
        found.append(at)
        window = max(window - less, least)
    return found


class _State(NamedTuple):
    """One row a lane; `x` is the iterate to be evaluated next."""

    done: jax.Array
    x: jax.Array
    x_before: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_loss: jax.Array
    adversarial: jax.Array
    found: jax.Array
    size: jax.Array
    loss_before: jax.Array
    rises: jax.Array  # steps since the last check that raised the loss
    best_at_check: jax.Array
    halved: jax.Array  # at the last check
    steps: jax.Array
    gradients: jax.Array
    history: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class APGD:
    """A method: see `apgd`."""

    objective: Objective
    norm: str
    steps: int
    stop: bool

    def __call__(self, problem: Problem, numbers: Numbers) -> Found:
        n, epsilon = len(problem.label), problem.epsilon
        checks = checkpoints(self.steps)
        window = np.zeros(self.steps + 1, np.float32)  # of the check after each step, 0 where there is none
        window[checks] = np.diff([0, *checks])
        zero, nothing = jnp.zeros(n), jnp.zeros(n, jnp.int32)
        x = self._begin(problem)
        history = {name: jnp.full((n, self.steps + 1), jnp.nan) for name in ("loss", "step_size")}
        done = problem.done() & self.stop
        best_gradient = jnp.zeros_like(x)
        # The first step's loss is compared with 0, as in the authors' code, which reads the last entry of its zeros.
        state = _State(
            done, x, x, x, best_gradient, zero - jnp.inf, x, done, 2 * epsilon, zero, zero, zero, zero == 0, nothing,
            nothing, history,
        )  # fmt: skip

        def unfinished(carry: tuple[jax.Array, _State]) -> jax.Array:
            i, s = carry
            return (i <= self.steps) & ~jnp.all(s.done)

        def advance(carry: tuple[jax.Array, _State]) -> tuple[jax.Array, _State]:
            i, s = carry
            value, gradient, logits = problem.gradient(s.x, self.objective, i)
            success = problem.confirmed(s.x, problem.success(logits) & ~s.done)
            done = s.done | (success & self.stop)
            better = value > s.best_loss
            best_loss = jnp.where(better, value, s.best_loss)
            best = where(better, s.x, s.best)
            best_gradient = where(better, gradient, s.best_gradient)
            rises = s.rises + ((value > s.loss_before) & (i > 0))
            best_at_check = jnp.where(i == 0, value, s.best_at_check)

            span = jnp.asarray(window)[i]
            check = span > 0
            halve = (rises <= RISING * span) | (~s.halved & (best_at_check >= best_loss))
            halve &= check
            size = jnp.where(halve, s.size / 2, s.size)
            x, gradient = where(halve, (best, best_gradient), (s.x, gradient))
            moved = self._step(problem, x, s.x_before, gradient, size, i)
            after = s._replace(
                x=moved,
                x_before=x,
                best=best,
                best_gradient=best_gradient,
                best_loss=best_loss,
                size=size,
                loss_before=jnp.where(i > 0, value, s.loss_before),
                rises=jnp.where(check, 0, rises),
                best_at_check=jnp.where(check, best_loss, best_at_check),
                halved=jnp.where(check, halve, s.halved),
            )
            return i + 1, recorded(s, after, i, {"loss": value, "step_size": size}, success, done, self.steps)

        _, s = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state))
        return Found(where(s.found, s.adversarial, s.best), s.steps, s.gradients, nothing, s.history)

    def _begin(self, problem: Problem) -> jax.Array:
        """Where to begin: as told, or at the border of the ball."""
        if problem.lanes.start is not None:
            return problem.into_ball(problem.lanes.start, self.norm)
        shape = problem.clean.shape[1:]

        def noise(key: jax.Array) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-1.0) if self.norm == "linf" else jax.random.normal(key, shape)

        away = geometry.unit(jax.vmap(noise)(problem.keys(START)), self.norm)
        return jnp.clip(problem.clean + rows(problem.epsilon, away) * away, 0.0, 1.0)

    def _step(
        self, problem: Problem, x: jax.Array, x_before: jax.Array, gradient: jax.Array, size: jax.Array, i: jax.Array
    ) -> jax.Array:
        """A step along the gradient, then three quarters of it with a quarter of the last one."""
        share = jnp.where(i > 0, MOMENTUM, 1.0)
        reached = problem.into_ball(x + rows(size, x) * geometry.steepest(gradient, self.norm), self.norm)
        return problem.into_ball(x + share * (reached - x) + (1 - share) * (x - x_before), self.norm)


def apgd(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    epsilon: Any,
    norm: str = "linf",
    steps: int = 100,
    loss: str | Builder = "cross_entropy",
    start: Any = None,
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """Auto-PGD: ascent with momentum, whose step of 2 ε halves where the loss no longer rises, from the best iterate.

    The step halves at a checkpoint where fewer than three quarters of the steps since the last one raised the loss, or
    where neither the last check halved it nor the best loss has risen. In L1 a step of ε moves the numbers of largest
    gradient alone, 1.5 times fewer than the best change has; where that grew sparser since the last check the next step
    is long again, from the best iterate, and else 1.5 times shorter.

    Args:
        key, model, images, labels: as `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf", "l2" or "l1".
        steps: how many; N + 1 gradients.
        loss: "cross_entropy" (APGD-CE), "dlr" (APGD-DLR; with a target the targeted DLR), "margin", or a loss builder.
        start: `[N, H, W, C]`, images to begin from; None begins at random, at the border of the ball.
        stop: whether an image is done once it succeeds.
        options: see `Options`.

    Returns:
        An `AttackResult` whose `history` has "loss" and "step_size", `[N, steps + 1]`.

    Raises:
        InputError: as `run`.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (2020), algorithm 1; Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers (2021), for L1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.apgd(jax.random.key(0), model, image, [0], epsilon=0.1, loss="dlr", steps=10).success.tolist()
        [True]
    """
    aim = objective(loss, options.get("target") is not None)
    steps = count("steps", steps)
    if one_of("norm", norm, ("linf", "l2", "l1")) == "l1":
        method: Method = SparseAPGD(aim, steps, bool(stop))
    else:
        method = APGD(aim, norm, steps, bool(stop))
    return run(
        method, key, model, images, labels,
        norm=norm, epsilon=given(epsilon), objective=aim, start=start, draws=start is None, stop=stop, **options,
    )  # fmt: skip
