"""C&W: the nearest adversarial image in L2, by Adam on the arctanh of the image and a search over c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxopt_input import checks, losses
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.criteria import refuse_beyond_boundary
from jaxopt_input.attacks.nearest import nothing_yet
from jaxopt_input.attacks.objectives import Objective
from jaxopt_input.attacks.problem import Found, Numbers, Problem, configured
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.engine.lanes import rows, where
from jaxopt_input.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Array, Float
    from numpy.typing import ArrayLike

ENOUGH = 0.9999  # a search along one c ends where a tenth of its steps lowered the loss by less


def next_factor(c: Float[Array, " L"], low: Float[Array, " L"], high: Float[Array, " L"]) -> Float[Array, " L"]:
    """The next c of a search: ten times as large until one succeeds, ten times as small until one fails, then between.

    Between is the geometric mean: c spans decades.
    """
    between = jnp.sqrt(low * jnp.where(jnp.isfinite(high), high, 1.0))
    return jnp.where(jnp.isinf(high), c * 10, jnp.where(low > 0, between, c / 10))


def over_arctanh(problem: Problem, numbers: Numbers, *, steps: int, searches: int) -> Found:
    """The method: for each c of a search, Adam on w, the arctanh of the image."""
    clean, n = problem.clean, len(problem.label)
    adam = optax.adam(numbers["learning_rate"])
    origin = jnp.arctanh((2 * clean - 1) * 0.999999)
    patience = max(steps // 10, 1)
    done = problem.done()

    def objective(label: Any, target: Any) -> losses.Loss:
        chosen = target if problem.targeted else label
        return losses.carlini_wagner(chosen, numbers["confidence"], targeted=problem.targeted)

    def search(_: Any, carry: Any) -> Any:
        best, c, low, high, gradients = carry

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

        highest = jnp.full(n, jnp.inf, jnp.float32)
        start = (jnp.int32(0), best, origin, adam.init(origin), done, highest, ~done, gradients)
        _, best, _, _, reached, _, _, gradients = jax.lax.while_loop(unfinished, advance, start)
        low, high = jnp.where(reached, low, c), jnp.where(reached, c, high)
        return best, next_factor(c, low, high), low, high, gradients

    nothing = jnp.zeros(n, jnp.int32)
    c = jnp.full(n, numbers["c"], jnp.float32)
    carry = (nothing_yet(problem), c, jnp.zeros_like(c), jnp.full_like(c, jnp.inf), nothing)
    best, _, _, _, gradients = jax.lax.fori_loop(0, searches, search, carry)
    return Found(best.image, gradients, gradients, nothing)


def carlini_wagner(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    steps: int = 1000,
    searches: int = 9,
    learning_rate: ArrayLike = 0.01,
    confidence: ArrayLike = 0.0,
    c: ArrayLike = 1e-3,
    **options: Unpack[Options],
) -> AttackResult:
    """Carlini & Wagner's attack in L2: min ‖δ‖² + c · max(z_y − max_{i≠y} z_i + κ, 0), of x + δ = (tanh w + 1) / 2.

    c is ten times as large until it succeeds, then bisected; each search over the image ends early where its loss
    stays.

    Args:
        key, model, images, labels: as in `run`.
        steps: of Adam, at most, for each c.
        searches: how many c.
        learning_rate: of Adam.
        confidence: κ, what the other class (or the target) must lead by.
        c: the first.
        options: what every attack takes, as in `Options`.

    Raises:
        InputError: as `run`.

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
    refuse_beyond_boundary(options.get("criterion"), "carlini_wagner")
    numbers = {
        "learning_rate": checks.number("learning_rate", learning_rate, open_low=True),
        "confidence": checks.number("confidence", confidence),
        "c": checks.number("c", c, open_low=True),
    }
    if options.get("target") is None:
        aim = Objective(losses.carlini_wagner, "label", -1.0)
    else:
        aim = Objective(losses.margin, "target", -1.0)
    method = configured(over_arctanh, steps=checks.count("steps", steps), searches=checks.count("searches", searches))
    return run(method, key, model, images, labels, norm="l2", numbers=numbers, objective=aim, draws=False, **options)
