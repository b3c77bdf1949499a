"""APGD: ascent whose step shrinks by itself, on the cross-entropy, the DLR or the targeted DLR.

In L∞ and L2 the steps have momentum and halve; in L1 they are sparse, and as many numbers move as the best change has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count
from jaxopt_input.attacks.problem import NO_VALUE, START, Found, Problem
from jaxopt_input.engine.lanes import flat, rows, where
from jaxopt_input.projections import NORMS as BALLS

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from jaxopt_input.attacks.problem import Images

MOMENTUM, RISING = 0.75, 0.75
FIRST_SHARE, SPARSER = 0.2, 1.5  # of the numbers the first step moves; later steps move 1.5 times fewer than changed
SHORTER, LEAST, FEWER = 1.5, 10.0, 0.95


def checkpoints(steps: int) -> list[int]:
    """The numbers of steps after which the step size is checked: windows of ⌊.22 N⌋, each ⌊.03 N⌋ shorter, to ⌊.06 N⌋.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    # Integers, so that 0.03 * 100 is 3.
    window, least, less = (max(steps * share // 100, 1) for share in (22, 6, 3))
    marks, at = [], 0
    while at + window <= steps:
        at += window
        marks.append(at)
        window = max(window - less, least)
    return marks


# ---- what both forms share -------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """One row per lane; `x` is the iterate to be evaluated next, `own` what the form keeps besides."""

    done: Bool[Array, " L"]
    x: Images
    best: Images
    best_gradient: Images
    best_loss: Float[Array, " L"]
    adversarial: Images
    success: Bool[Array, " L"]
    size: Float[Array, " L"]
    own: Any
    steps: Int[Array, " L"]
    gradients: Int[Array, " L"]
    history: dict[str, Float[Array, "L steps"]]


def _climb(
    problem: Problem,
    steps: int,
    x: Images,
    size: Float[Array, " L"],
    own: Any,
    go: Callable[[jax.Array, _State, jax.Array, Images], _State],
) -> Found:
    """Steps from `x` up the loss.

    `go(i, state, loss, gradient)` takes the state with the best iterate so far, and returns it with the next `x`,
    `size` and `own`.
    """
    n = len(problem.label)
    nothing, done = jnp.zeros(n, jnp.int32), problem.done() & problem.stop
    history = {name: jnp.full((n, steps + 1), NO_VALUE, jnp.float32) for name in ("loss", "step_size")}
    lowest = jnp.full(n, -jnp.inf, jnp.float32)
    state = _State(done, x, x, jnp.zeros_like(x), lowest, x, done, size, own, nothing, nothing, history)

    def unfinished(carry: tuple[jax.Array, _State]) -> jax.Array:
        i, s = carry
        return (i <= steps) & ~jnp.all(s.done)

    def advance(carry: tuple[jax.Array, _State]) -> tuple[jax.Array, _State]:
        i, s = carry
        value, gradient, logits = problem.gradient(s.x, draw=i)
        success = problem.confirmed(s.x, problem.success(logits) & ~s.done)
        done = s.done | (success & problem.stop)
        better = value > s.best_loss
        best = where(better, (s.x, gradient, value), (s.best, s.best_gradient, s.best_loss))
        improved = s._replace(best=best[0], best_gradient=best[1], best_loss=best[2], history={})
        after = go(i, improved, value, gradient)
        # Lanes that were done before this evaluation stay as they are.
        written = {"loss": value, "step_size": after.size}
        return i + 1, where(s.done, s._replace(history={}), after)._replace(
            done=done,
            adversarial=where(success, s.x, s.adversarial),
            success=s.success | success,
            steps=s.steps + (~done & (i < steps)),
            gradients=s.gradients + ~s.done,
            history={k: s.history[k].at[:, i].set(jnp.where(s.done, NO_VALUE, v)) for k, v in written.items()},
        )

    _, s = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state))
    return Found(where(s.success, s.adversarial, s.best), s.steps, s.gradients, history=s.history)


# ---- L∞ and L2 -------------------------------------------------------------------------------------------------------


class _Rhythm(NamedTuple):
    """What decides on halving."""

    x_before: Images
    loss_before: Float[Array, " L"]
    rises: Float[Array, " L"]  # steps since the last check that raised the loss
    best_at_check: Float[Array, " L"]
    halved: Bool[Array, " L"]  # at the last check


def _with_momentum(problem: Problem, steps: int) -> Found:
    """The method in L∞ and L2."""
    norm, marks = problem.norm, checkpoints(steps)
    windows = np.zeros(steps + 1, np.float32)  # of the check after each step, 0 where there is none
    windows[marks] = np.diff([0, *marks])
    x, zero = _border(problem), jnp.zeros(len(problem.label), jnp.float32)

    def go(i: jax.Array, s: _State, loss: jax.Array, gradient: Images) -> _State:
        past: _Rhythm = s.own
        # The first step's loss is compared with 0, as in the authors' code, which reads the last entry of its zeros.
        rises = past.rises + ((loss > past.loss_before) & (i > 0))
        best_at_check = jnp.where(i == 0, loss, past.best_at_check)
        window = jnp.asarray(windows)[i]
        check = window > 0
        halve = check & ((rises <= RISING * window) | (~past.halved & (best_at_check >= s.best_loss)))
        size = jnp.where(halve, s.size / 2, s.size)

        # From the best iterate where the step was halved. Three quarters of the step, a quarter of the last one.
        x, gradient = where(halve, (s.best, s.best_gradient), (s.x, gradient))
        share = jnp.where(i > 0, jnp.float32(MOMENTUM), 1)
        reached = problem.into_ball(x + rows(size, x) * geometry.steepest(gradient, norm), norm)
        moved = problem.into_ball(x + share * (reached - x) + (1 - share) * (x - past.x_before), norm)
        rhythm = _Rhythm(
            x_before=x,
            loss_before=jnp.where(i > 0, loss, past.loss_before),
            rises=jnp.where(check, 0, rises),
            best_at_check=jnp.where(check, s.best_loss, best_at_check),
            halved=jnp.where(check, halve, past.halved),
        )
        return s._replace(x=moved, size=size, own=rhythm)

    begin = _Rhythm(x, zero, zero, zero, zero == 0)
    return _climb(problem, steps, x, 2 * problem.epsilon, begin, go)


def _border(problem: Problem) -> Images:
    """Where lanes begin: at the starts of the caller, or anywhere at the border of the ball."""
    if problem.lanes.start is not None:
        return problem.into_ball(problem.lanes.start, problem.norm)
    shape = problem.clean.shape[1:]

    def noise(key: jax.Array) -> jax.Array:
        if problem.norm == "linf":
            return jax.random.uniform(key, shape, jnp.float32, minval=-1.0)
        return jax.random.normal(key, shape, jnp.float32)

    away = geometry.unit(jax.vmap(noise)(problem.keys(START)), problem.norm)
    return jnp.clip(problem.clean + rows(problem.epsilon, away) * away, 0.0, 1.0)


# ---- L1 --------------------------------------------------------------------------------------------------------------


class _Sparsity(NamedTuple):
    """How many numbers move."""

    share: Float[Array, " L"]  # of the numbers, that a step moves
    changed: Float[Array, " L"]  # numbers of the best change, at the last check


def _sparse(problem: Problem, steps: int) -> Found:
    """The method in L1."""
    clean, epsilon = problem.clean, problem.epsilon
    inside = clean[0].size
    period = max(steps * 4 // 100, 1)

    def go(i: jax.Array, s: _State, _: jax.Array, gradient: Images) -> _State:
        check = (i > 0) & (i % period == 0)
        changed = geometry.norm(s.best - clean, "l0")
        again = check & (changed < FEWER * s.own.changed)  # sparser: from the best, with long steps
        size = jnp.where(again, epsilon, jnp.maximum(s.size / SHORTER, epsilon / LEAST))
        size = jnp.where(check, size, s.size)
        share = jnp.where(check, changed / inside / SPARSER, s.own.share)
        x, gradient = where(again, (s.best, s.best_gradient), (s.x, gradient))
        moved = geometry.into_l1_ball_and_box(x + rows(size, x) * largest(gradient, share), clean, epsilon)
        sparsity = _Sparsity(share, jnp.where(check, changed, s.own.changed))
        return s._replace(x=moved, size=size, own=sparsity)

    # Where to begin, the share of numbers of the first steps, and how many differ from the original's.
    if problem.lanes.start is not None:
        x = geometry.into_l1_ball_and_box(problem.lanes.start, clean, epsilon)
        changed = geometry.norm(x - clean, "l0")
        begin = _Sparsity(changed / inside / SPARSER, changed)
    else:
        noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], jnp.float32))(problem.keys(START))
        x = geometry.into_l1_ball_and_box(clean + noise, clean, epsilon)
        everywhere = jnp.ones(len(problem.label), jnp.float32)
        begin = _Sparsity(FIRST_SHARE * everywhere, inside * everywhere)
    return _climb(problem, steps, x, epsilon, begin, go)


def largest(gradient: Images, share: Float[Array, " L"]) -> Images:
    """The signs of this share of each row's numbers, those of largest absolute value, in all of L1 norm 1.

    Example:
        >>> largest(jnp.array([[3.0, -2.0, 1.0, 0.5]]), jnp.array([0.5])).tolist()
        [[0.5, -0.5, 0.0, 0.0]]
    """
    size = jnp.abs(flat(gradient))
    n = size.shape[-1]
    place = jnp.clip(((1 - share) * n).astype(jnp.int32), 0, n - 1)
    least = jnp.take_along_axis(jnp.sort(size, -1), place[:, None], 1)
    way = jnp.where(size >= least, jnp.sign(flat(gradient)), 0.0)
    return geometry.unit(way, "l1").reshape(gradient.shape)


# ---- the attack ------------------------------------------------------------------------------------------------------


@attack(*BALLS, budget=True, loss="cross_entropy", start="any", stop=True, draws="start")
def apgd(problem: Problem, *, steps: int = count(100)) -> Found:
    """Auto-PGD: ascent with momentum, whose step of 2 ε halves where the loss no longer rises, from the best iterate.

    The step halves at a checkpoint where fewer than three quarters of the steps since the last one raised the loss, or
    where neither the last check halved it nor the best loss has risen. In L1 a step of ε moves the numbers of largest
    gradient alone, 1.5 times fewer than the best change has; where that grew sparser since the last check the next step
    is long again, from the best iterate, and else 1.5 times shorter.

    Args:
        key, model, images, labels, epsilon, options: as in `run`, and so are the errors.
        norm: "linf", "l2" or "l1".
        steps: how many; N + 1 gradients.
        loss: "cross_entropy" (APGD-CE), "dlr" (APGD-DLR; with a target the targeted DLR), "margin", or a loss builder.
        start: `[N, H, W, C]`, images to begin from; None begins at random, at the border of the ball.
        stop: whether an image is done once it succeeds.

    Returns:
        An `AttackResult` whose `history` has "loss" and "step_size", `[N, steps + 1]`.

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
    return _sparse(problem, steps) if problem.norm == "l1" else _with_momentum(problem, steps)
