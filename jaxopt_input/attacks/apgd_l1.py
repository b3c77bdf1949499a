"""The L1 form of APGD: sparse steps whose number of numbers follows that of the best change."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.ascent import START
from jaxopt_input.attacks.geometry import rows, where
from jaxopt_input.attacks.objectives import Objective
from jaxopt_input.attacks.problem import Found, Numbers, Problem

FIRST_SHARE, SPARSER = 0.2, 1.5  # of the numbers the first step moves; later steps move 1.5 times fewer than changed
SHORTER, LEAST, FEWER = 1.5, 10.0, 0.95


class _State(NamedTuple):
    """One row a lane; `x` is the iterate to be evaluated next."""

    done: jax.Array
    x: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_loss: jax.Array
    adversarial: jax.Array
    found: jax.Array
    size: jax.Array
    share: jax.Array  # of the numbers, that a step moves
    changed: jax.Array  # numbers of the best change, at the last check
    steps: jax.Array
    gradients: jax.Array
    history: dict[str, jax.Array]


def largest(gradient: jax.Array, share: jax.Array) -> jax.Array:
    """The signs of this share of each row's numbers, those of largest absolute value, in all of L1 norm 1.

    Example:
        >>> largest(jnp.array([[3.0, -2.0, 1.0, 0.5]]), jnp.array([0.5])).tolist()
        [[0.5, -0.5, 0.0, 0.0]]
    """
    size = jnp.abs(geometry.flat(gradient))
    n = size.shape[-1]
    place = jnp.clip(((1 - share) * n).astype(jnp.int32), 0, n - 1)
    least = jnp.take_along_axis(jnp.sort(size, -1), place[:, None], 1)
    way = jnp.where(size >= least, jnp.sign(geometry.flat(gradient)), 0.0)
    return geometry.unit(way, "l1").reshape(gradient.shape)


def recorded(
    s: Any, after: Any, i: jax.Array, written: dict[str, jax.Array], success: jax.Array, done: jax.Array, steps: int
) -> Any:
    """The state after evaluation `i`, where lanes that were done before it stay as they are; of both forms of APGD."""
    merged = where(s.done, s._replace(history={}), after._replace(history={}))
    return merged._replace(
        done=done,
        adversarial=where(success, s.x, s.adversarial),
        found=s.found | success,
        steps=s.steps + (~done & (i < steps)),
        gradients=s.gradients + ~s.done,
        history={k: s.history[k].at[:, i].set(jnp.where(s.done, jnp.nan, v)) for k, v in written.items()},
    )


@dataclasses.dataclass(frozen=True)
class SparseAPGD:
    """A method: APGD within L1; see `apgd`."""

    objective: Objective
    steps: int
    stop: bool

    def __call__(self, problem: Problem, numbers: Numbers) -> Found:
        n, epsilon, clean = len(problem.label), problem.epsilon, problem.clean
        inside = clean[0].size
        window = max(self.steps * 4 // 100, 1)
        zero, nothing = jnp.zeros(n), jnp.zeros(n, jnp.int32)
        x, share, changed = self._begin(problem, inside)
        history = {name: jnp.full((n, self.steps + 1), jnp.nan) for name in ("loss", "step_size")}
        done = problem.done() & self.stop
        state = _State(
            done, x, x, jnp.zeros_like(x), zero - jnp.inf, x, done, epsilon, share, changed, nothing, nothing, history
        )

        def unfinished(carry: tuple[jax.Array, _State]) -> jax.Array:
            i, s = carry
            return (i <= self.steps) & ~jnp.all(s.done)

        def advance(carry: tuple[jax.Array, _State]) -> tuple[jax.Array, _State]:
            i, s = carry
            value, gradient, logits = problem.gradient(s.x, self.objective, i)
            success = problem.confirmed(s.x, problem.success(logits) & ~s.done)
            done = s.done | (success & self.stop)
            better = value > s.best_loss
            best = where(better, s.x, s.best)
            best_gradient = where(better, gradient, s.best_gradient)

            check = (i > 0) & (i % window == 0)
            changed = geometry.norm(best - clean, "l0")
            again = check & (changed < FEWER * s.changed)  # sparser: from the best, with long steps
            size = jnp.where(again, epsilon, jnp.maximum(s.size / SHORTER, epsilon / LEAST))
            size = jnp.where(check, size, s.size)
            share = jnp.where(check, changed / inside / SPARSER, s.share)
            x, gradient = where(again, (best, best_gradient), (s.x, gradient))
            moved = x + rows(size, x) * largest(gradient, share)
            after = s._replace(
                x=geometry.into_l1_ball_and_box(moved, clean, epsilon),
                best=best,
                best_gradient=best_gradient,
                best_loss=jnp.where(better, value, s.best_loss),
                size=size,
                share=share,
                changed=jnp.where(check, changed, s.changed),
            )
            return i + 1, recorded(s, after, i, {"loss": value, "step_size": size}, success, done, self.steps)

        _, s = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state))
        return Found(where(s.found, s.adversarial, s.best), s.steps, s.gradients, nothing, s.history)

    def _begin(self, problem: Problem, inside: int) -> tuple[jax.Array, ...]:
        """Where to begin, the share of numbers of the first steps, and how many differ from the original's."""
        clean, everywhere = problem.clean, jnp.ones(len(problem.label))
        if problem.lanes.start is not None:
            x = geometry.into_l1_ball_and_box(problem.lanes.start, clean, problem.epsilon)
            changed = geometry.norm(x - clean, "l0")
            return x, changed / inside / SPARSER, changed
        noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(problem.keys(START))
        x = geometry.into_l1_ball_and_box(clean + noise, clean, problem.epsilon)
        return x, FIRST_SHARE * everywhere, inside * everywhere
