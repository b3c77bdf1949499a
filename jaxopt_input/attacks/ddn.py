"""DDN: the direction from the gradient, the norm by steps of a few percent, decoupled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp

from jaxopt_input import checks
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.nearest import cosine, farthest, nothing_yet
from jaxopt_input.attacks.objectives import Builder, Objective, objective
from jaxopt_input.attacks.problem import Found, Numbers, Problem, configured
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.engine.lanes import rows, where
from jaxopt_input.models.model import Model

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def decoupled(problem: Problem, numbers: Numbers, *, objective: Objective, steps: int) -> Found:
    """The method: a direction from the gradient, a length of its own."""
    clean = problem.clean
    most = farthest(clean, "l2")
    active = ~problem.done()

    def advance(i: jax.Array, carry: Any) -> Any:
        best, x, size, gradients = carry
        _, gradient, logits = problem.gradient(x, objective, i)
        success = problem.success(logits)
        best = best.after(problem, x, success & active, problem.distance(x, "l2"))
        step = cosine(numbers["first"], numbers["last"], i, steps)
        change = x - clean + step * geometry.unit(gradient, "l2")
        size = jnp.minimum(size * jnp.where(success, 1 - numbers["gamma"], 1 + numbers["gamma"]), most)
        moved = jnp.clip(clean + rows(size, change) * geometry.unit(change, "l2"), 0.0, 1.0)
        return best, where(active, moved, x), size, gradients + active

    nothing = jnp.zeros(len(active), jnp.int32)
    size = jnp.full(len(active), numbers["initial"])
    carry = (nothing_yet(problem), clean, size, nothing)
    best, x, _, gradients = jax.lax.fori_loop(0, steps, advance, carry)
    last = problem.success(problem.logits(x, steps)) & active
    best = best.after(problem, x, last, problem.distance(x, "l2"))
    return Found(best.image, gradients, gradients, nothing + active)


def ddn(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    steps: int = 100,
    gamma: ArrayLike = 0.05,
    initial: ArrayLike = 1.0,
    loss: str | Builder = "cross_entropy",
    **options: Unpack[Options],
) -> AttackResult:
    """Decoupled direction and norm: the nearest adversarial image in L2.

    Each step moves along the gradient and then sets the length of the change: γ shorter after a success, γ longer
    else; the step shrinks from 1 to 0.01 along a cosine.

    Args:
        key, model, images, labels: as in `run`.
        steps: how many.
        gamma: γ, above 0 and below 1.
        initial: the first length.
        loss: as in `fgsm`.
        options: what every attack takes, as in `Options`.

    Raises:
        InputError: as `run`.

    Source:
        Rony et al., Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses
        (2019), algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3, 2),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.ddn(jax.random.key(0), model, image, [0])
        >>> bool(0.1414 < result.distance["l2"][0] < 1.05 * 0.1414)  # 0.025 down and 0.025 up, at 16 pixels each
        True
    """
    aim = objective(loss, options.get("target") is not None)
    numbers: dict[str, ArrayLike] = {
        "gamma": checks.number("gamma", gamma, 0, 0.999, open_low=True),
        "initial": checks.number("initial", initial, open_low=True),
        "first": 1.0,
        "last": 0.01,
    }
    method = configured(decoupled, objective=aim, steps=checks.count("steps", steps))
    return run(method, key, model, images, labels, norm="l2", numbers=numbers, objective=aim, draws=False, **options)
