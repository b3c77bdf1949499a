"""Szegedy's attack: box-constrained L-BFGS on the distance and the loss, and a search over what weighs them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count, number
from jaxopt_input.attacks.nearest import next_factor, nothing_yet
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import dot, rows, where
from jaxopt_input.optimizers.search import Bracket, bracket, narrow

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from jaxopt_input.attacks.problem import Images

MEMORY = 10
MAX_TRIALS = 12  # of one line search
CLOSE = 1.03  # no further c is tried once a success and a failure are this near: the distance hardly changes with it


class _Search(NamedTuple):
    """L-BFGS of each lane at its own pace: every round of the loop is one trial of every lane.

    A lane whose line search has ended takes its next direction while others still try; none waits.
    """

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    direction: jax.Array
    bracket: Bracket
    kept: tuple[jax.Array, jax.Array, jax.Array]  # the best trial of this line search: image, value, gradient
    rule: Any
    trials: jax.Array
    begun: jax.Array
    settled: jax.Array


def _start(problem: Problem, done: Bool[Array, " L"]) -> _Search:
    """At the original, before its first evaluation."""
    x, zero = problem.clean, jnp.zeros(len(done), jnp.float32)
    still = jnp.zeros_like(x)
    rule = jax.vmap(optax.scale_by_lbfgs(memory_size=MEMORY).init)(x)
    first = jax.vmap(bracket)(zero, zero, zero)
    return _Search(x, zero, still, still, first, (x, zero, still), rule, jnp.zeros(len(done), jnp.int32), done, done)


def _evaluate(
    problem: Problem, x: Images, c: Float[Array, " L"], draw: jax.Array
) -> tuple[Float[Array, " L"], Images, Bool[Array, " L"], Float[Array, " L"]]:
    """‖r‖² + c · loss, its gradient, success, and the distance of what is judged.

    With rounding, success is judged on the rounded image; the line search sees the smooth loss of the image itself.
    """
    smooth = dataclasses.replace(problem, rounded=False)
    gain, gradient, logits = smooth.gradient(x, draw=draw)
    judged = problem.counted(x)
    if problem.rounded:
        logits = problem.logits(judged, draw)
    change = x - problem.clean
    value, slope = dot(change, change) - c * gain, 2 * change - rows(c, x) * gradient
    return value, slope, problem.success(logits), geometry.norm(judged - problem.clean, "l2")


def _advance(s: _Search, trial: jax.Array, value: jax.Array, gradient: jax.Array) -> _Search:
    """The searches after one more trial each; where a line search has ended, the next direction."""
    step = jnp.where(s.bracket.step > 0, s.bracket.step, 1.0)
    path = (trial - s.x) / rows(step, trial)
    b, decreased = jax.vmap(narrow)(s.bracket, (s.value, dot(s.gradient, path)), (value, dot(gradient, path)))
    kept = where(decreased | ~s.begun, (trial, value, gradient), s.kept)
    trials = s.trials + 1
    ended = ~s.begun | b.done | (trials >= MAX_TRIALS)
    failed = s.begun & ended & (b.low == 0)

    x, value, gradient = kept
    update = optax.scale_by_lbfgs(memory_size=MEMORY).update
    direction, rule = jax.vmap(update)(gradient, s.rule, x)
    direction = geometry.inwards(-direction, x)
    downhill = geometry.inwards(-gradient, x)
    descends = dot(direction, gradient) < 0
    direction = where(descends, direction, geometry.unit(downhill, "l2"))
    slope = dot(direction, gradient)
    following = _Search(
        x, value, gradient, direction, jax.vmap(bracket)(value, slope, jnp.ones_like(value)),
        kept, rule, jnp.zeros_like(trials), jnp.ones_like(s.begun), s.settled | failed | (slope >= 0),
    )  # fmt: skip
    return where(ended, following, s._replace(bracket=b, kept=kept, trials=trials))


@attack("l2", loss="cross_entropy")
def szegedy(
    problem: Problem,
    *,
    evaluations: int = count(40),
    searches: int = count(12),
    c: jax.Array = number(1e-2, open_low=True),
) -> Found:
    """Szegedy's attack: min ‖r‖² + c · loss(x + r, target) with x + r in [0, 1], for the c with the nearest success.

    L-BFGS with its line search, projected into the box; c is ten times as large until one succeeds, ten times as small
    until one fails, then bisected. The nearest success among all trials is kept. With `rounded` it is judged, in the
    search, on the image rounded to 8 bits.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        evaluations: gradients for each c, at most.
        searches: how many c, at most; an image is done once one that succeeds and one that fails are within 3 %.
        c: the first.
        loss: as in `fgsm`.

    Returns:
        An `AttackResult`; its distance "rms" is the distortion that the authors report.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 4.1; c is here on the loss, as in
        later codes, and the distance squared.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3, 2),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.szegedy(jax.random.key(0), model, image, [0], target=1)
        >>> bool(0.1414 < result.distance["l2"][0] < 1.05 * 0.1414)
        True
    """
    done = problem.done()

    def closed(low: jax.Array, high: jax.Array) -> jax.Array:
        return done | (high <= CLOSE * low)

    def unsettled(carry: Any) -> jax.Array:
        k, _, _, low, high, *_ = carry
        return (k < searches) & ~jnp.all(closed(low, high))

    def search(carry: Any) -> Any:
        k, best, c, low, high, gradients, forwards = carry
        over = closed(low, high)
        start = _start(problem, over)

        def unfinished(carry: Any) -> jax.Array:
            return (carry[0] < evaluations) & ~jnp.all(carry[1].settled)

        def advance(carry: Any) -> Any:
            i, s, best, reached, gradients, forwards = carry
            trial = jnp.clip(s.x + rows(s.bracket.step, s.x) * s.direction, 0.0, 1.0)
            value, gradient, success, distance = _evaluate(problem, trial, c, i)
            success &= ~s.settled
            best = best.after(problem, trial, success, distance)
            gradients = gradients + ~s.settled
            forwards = forwards + (~s.settled & problem.rounded)
            after = where(s.settled, s, _advance(s, trial, value, gradient))
            return i + 1, after, best, reached | success, gradients, forwards

        inner = (jnp.int32(0), start, best, done, gradients, forwards)
        _, _, best, reached, gradients, forwards = jax.lax.while_loop(unfinished, advance, inner)
        low, high = jnp.where(over | reached, low, c), jnp.where(~over & reached, c, high)
        return k + 1, best, next_factor(c, low, high), low, high, gradients, forwards

    nothing = jnp.zeros(len(done), jnp.int32)
    c = jnp.full(len(done), c, jnp.float32)
    carry = (jnp.int32(0), nothing_yet(problem), c, jnp.zeros_like(c), jnp.full_like(c, jnp.inf), nothing, nothing)
    _, best, _, _, _, gradients, forwards = jax.lax.while_loop(unsettled, search, carry)
    return Found(best.image, gradients, gradients, forwards)
