"""EAD: C&W with an elastic net, so that few numbers change; by shrinkage steps and a search over c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp

from jaxopt_input import checks, losses
from jaxopt_input.attacks.carlini_wagner import next_factor
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

    Images = Float[Array, "L H W C"]


def shrink(x: Images, clean: Images, beta: jax.Array) -> Images:
    """Each number β nearer to the original, at it where it is nearer than that already; within [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> shrink(jnp.array([0.5625, 0.875, 0.125]), jnp.full(3, 0.5), jnp.float32(0.125)).tolist()
        [0.5, 0.75, 0.25]
    """
    change = x - clean
    return jnp.clip(clean + jnp.sign(change) * jnp.maximum(jnp.abs(change) - beta, 0.0), 0.0, 1.0)


def by_shrinkage(problem: Problem, numbers: Numbers, *, steps: int, searches: int, decision: str) -> Found:
    """The method: for each c of a search, FISTA on the elastic net."""
    clean, n = problem.clean, len(problem.label)
    beta = numbers["beta"]
    active = ~problem.done()

    def objective(label: Any, target: Any) -> losses.Loss:
        chosen = target if problem.targeted else label
        return losses.carlini_wagner(chosen, numbers["confidence"], targeted=problem.targeted)

    def measure(x: jax.Array) -> jax.Array:
        length = problem.distance(x, "l1")
        if decision == "l1":
            return length
        return jnp.square(problem.distance(x, "l2")) + beta * length

    def search(_: Any, carry: Any) -> Any:
        best, c, low, high, gradients = carry

        def step(i: jax.Array, carry: Any) -> Any:
            best, x, y, reached, gradients = carry
            # One run of the network serves both: the gradient at y, and the judgment of y.
            lost, gradient, logits = problem.gradient(y, objective, i)
            success = problem.success(logits) & (lost <= 0) & active
            best = best.after(problem, y, success, measure(y))
            rate = numbers["learning_rate"] * jnp.sqrt(1 - i.astype(jnp.float32) / steps)
            slope = 2 * (y - clean) + rows(c, y) * gradient
            after = shrink(y - rate * slope, clean, beta)  # by β itself, as the authors do, not by rate · β
            ahead = jnp.clip(after + i.astype(jnp.float32) / (i + 3).astype(jnp.float32) * (after - x), 0.0, 1.0)
            return best, after, where(active, ahead, y), reached | success, gradients + active

        start = (best, clean, clean, ~active, gradients)
        best, _, _, reached, gradients = jax.lax.fori_loop(0, steps, step, start)
        low, high = jnp.where(reached, low, c), jnp.where(reached, c, high)
        return best, next_factor(c, low, high), low, high, gradients

    nothing = jnp.zeros(n, jnp.int32)
    c = jnp.full(n, numbers["c"], jnp.float32)
    carry = (nothing_yet(problem), c, jnp.zeros_like(c), jnp.full_like(c, jnp.inf), nothing)
    best, *_, gradients = jax.lax.fori_loop(0, searches, search, carry)
    return Found(best.image, gradients, gradients, nothing)


def ead(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    steps: int = 100,
    searches: int = 9,
    learning_rate: ArrayLike = 0.01,
    beta: ArrayLike = 1e-3,
    confidence: ArrayLike = 0.0,
    c: ArrayLike = 1e-3,
    decision: str = "l1",
    **options: Unpack[Options],
) -> AttackResult:
    """The elastic-net attack: min ‖δ‖² + β ‖δ‖₁ + c · max(z_y − max_{i≠y} z_i + κ, 0), by FISTA within the box.

    Args:
        key, model, images, labels: as in `run`.
        steps: for each c.
        searches: how many c.
        learning_rate: the first step; it falls to zero along a square root.
        beta: β, the weight of L1.
        confidence: κ, what the other class (or the target) must lead by.
        c: the first.
        decision: which success is kept: the least "l1", or the least elastic net, "en".
        options: what every attack takes, as in `Options`.

    Raises:
        InputError: as `run`.

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
    refuse_beyond_boundary(options.get("criterion"), "ead")
    numbers = {
        "learning_rate": checks.number("learning_rate", learning_rate, open_low=True),
        "beta": checks.number("beta", beta),
        "confidence": checks.number("confidence", confidence),
        "c": checks.number("c", c, open_low=True),
    }
    targeted = options.get("target") is not None
    aim = Objective(losses.margin, "target", -1.0) if targeted else Objective(losses.margin, "label", 1.0)
    method = configured(
        by_shrinkage, steps=checks.count("steps", steps), searches=checks.count("searches", searches),
        decision=checks.one_of("decision", decision, ("l1", "en")),
    )  # fmt: skip
    return run(method, key, model, images, labels, norm="l1", numbers=numbers, objective=aim, draws=False, **options)
