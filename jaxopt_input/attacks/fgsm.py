"""The fast gradient sign method and its kin: steps up a loss within a ball. FGSM, BIM, PGD and MI-FGSM.

They differ in the number and size of their steps, in where they begin, and in MI-FGSM's momentum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.define import attack, count, flag, number
from jaxopt_input.attacks.problem import NO_VALUE, START, Found, Problem, until_done
from jaxopt_input.engine.lanes import rows, where
from jaxopt_input.projections import NORMS as BALLS

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxopt_input.attacks.problem import Images


def _ascend(
    problem: Problem,
    x: Images,
    size: Float[Array, " L"],
    steps: int,
    *,
    decay: jax.Array | None = None,
    sparsity: float | jax.Array = 0.99,
) -> Found:
    """Up the loss by steps of one size, each moved back into the ball and the box; with `decay`, along a velocity."""
    momentum = decay is not None

    def advance(carry: Any) -> Any:
        i, done, x, velocity, taken, gradients, history = carry
        value, gradient, logits = problem.gradient(x, draw=i)
        history = history.at[:, i].set(jnp.where(done, NO_VALUE, value))
        gradients = gradients + ~done
        if problem.stop:
            done |= problem.confirmed(x, problem.success(logits) & ~done)
        gradient = geometry.scaled(gradient)
        if momentum:
            velocity = geometry.unit(gradient, "l1") + decay * velocity
            gradient = velocity
        moved = x + rows(size, x) * _unit_step(gradient, x, problem.norm, sparsity)
        moved = problem.into_ball(moved, problem.norm)
        return i + 1, done, where(done, x, moved), velocity, taken + ~done, gradients, history

    nothing = jnp.zeros(len(size), jnp.int32)
    history = jnp.full((len(size), steps), NO_VALUE, jnp.float32)
    carry = (problem.done() & problem.stop, x, jnp.zeros_like(x) if momentum else (), nothing, nothing, history)
    _, _, x, _, taken, gradients, history = until_done(advance, steps, carry)
    return Found(x, taken, gradients, history={"loss": history})


def _unit_step(gradient: Images, image: Images, norm: str, sparsity: float | jax.Array) -> Images:
    """The step of norm 1 along a gradient: the steepest in L∞ and L2, several numbers by equal amounts in L1.

    In L1 these are the numbers with the largest gradients, a share 1 − sparsity, among those that can still move.

    Source:
        Tramèr & Boneh, Adversarial Training and Robustness for Multiple Perturbations (2019), section 3 (SLIDE).
    """
    if norm != "l1":
        return geometry.steepest(gradient, norm)
    gradient = geometry.inwards(gradient, image)
    size = jnp.abs(gradient)
    least = jax.vmap(lambda x: jnp.quantile(x, sparsity))(size)
    chosen = (size >= rows(least, size)) & (size > 0)
    moving = jnp.sum(chosen, (1, 2, 3), dtype=jnp.int32)
    return jnp.sign(gradient) * chosen / rows(jnp.maximum(moving, 1), size)


def _size(problem: Problem, step: jax.Array, share: float) -> Float[Array, " L"]:
    """The size of each lane's steps: the caller's, or a part of ε where that is 0."""
    return jnp.where(step > 0, step, share * problem.epsilon)


@attack(*BALLS, budget=True, loss="cross_entropy", stop=True)
def fgsm(problem: Problem) -> Found:
    """The fast gradient sign method: x + ε · sign(∇ loss); in L2 along g / ‖g‖₂, in L1 along the largest numbers.

    Args:
        key, model, images, labels, epsilon, options: as in `run`, and so are the errors.
        norm: "linf", "l2" or "l1".
        loss: "cross_entropy", "margin", "dlr", "carlini_wagner", or a loss builder.
        stop: whether images that are misclassified already are left alone.

    Source:
        Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples (2015), section 4.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.fgsm(jax.random.key(0), model, image, [0], epsilon=[0.01, 0.1]).success.tolist()
        [[False], [True]]
    """
    return _ascend(problem, problem.clean, problem.epsilon, 1)


@attack("linf", budget=True, loss="cross_entropy", stop=True)
def bim(problem: Problem, *, steps: int = count(10), step: jax.Array = number(None, open_low=True)) -> Found:
    """The basic iterative method: FGSM in small steps from the original, within the L∞ ball.

    Args:
        key, model, images, labels, epsilon, options: as in `run`, and so are the errors.
        steps: how many.
        step: the size of each, ε / 4 if None (the authors' 1/255 at ε = 4/255).
        loss: as in `fgsm`.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.

    Source:
        Kurakin, Goodfellow & Bengio, Adversarial examples in the physical world (2017), section 2.2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.bim(jax.random.key(0), model, image, [0], epsilon=0.1).steps.tolist()
        [2]
    """
    return _ascend(problem, problem.clean, _size(problem, step, 0.25), steps)


@attack(*BALLS, budget=True, loss="cross_entropy", start="any", stop=True, draws="start")
def pgd(
    problem: Problem,
    *,
    steps: int = count(40),
    step: jax.Array = number(None, open_low=True),
    random_start: bool = flag(True),
    sparsity: jax.Array = number(0.99, high=1.0),
) -> Found:
    """Projected gradient ascent on a loss, from random starts within the ball.

    Args:
        key, model, images, labels, epsilon, options: as in `run`, and so are the errors.
        norm: "linf", "l2" or "l1".
        steps: how many.
        step: the size of each, ε / 4 if None (the authors' 2/255 at ε = 8/255).
        random_start: whether to begin anywhere in the ball, instead of at the original.
        sparsity: in L1, the share of numbers that a step leaves alone.
        loss, stop: as in `bim`.
        start: `[N, H, W, C]`, images to begin from instead; they are moved into the ball.

    Source:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (2018), section 2.1; Tramèr & Boneh
        (2019) for L1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.pgd(jax.random.key(0), model, image, [0], epsilon=2.0, norm="l1", target=2)
        >>> result.success.tolist(), result.prediction.tolist(), bool(result.distance["l1"][0] <= 2 + 1e-6)
        ([True], [2], True)
    """
    x = problem.clean
    if problem.lanes.start is not None:
        x = problem.into_ball(problem.lanes.start, problem.norm)
    elif random_start:
        noise = geometry.random_in_ball(problem.keys(START), x.shape[1:], problem.norm)
        x = problem.into_ball(x + rows(problem.epsilon, noise) * noise, problem.norm)
    return _ascend(problem, x, _size(problem, step, 0.25), steps, sparsity=sparsity)


@attack("linf", budget=True, loss="cross_entropy", stop=True)
def mi_fgsm(
    problem: Problem,
    *,
    steps: int = count(10),
    step: jax.Array = number(None, open_low=True),
    decay: jax.Array = number(1.0),
) -> Found:
    """The momentum iterative method: x + step · sign(v), v ← decay · v + g / ‖g‖₁, within the L∞ ball.

    Its images transfer to other networks better than those of BIM.

    Args:
        key, model, images, labels, epsilon, options: as in `run`, and so are the errors.
        steps, loss, stop: as in `bim`.
        step: the size of each, ε / steps if None.
        decay: of the velocity, from 0 (BIM) up.

    Source:
        Dong et al., Boosting Adversarial Attacks with Momentum (2018), algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.mi_fgsm(jax.random.key(0), model, image, [0], epsilon=0.1).steps.tolist()
        [3]
    """
    return _ascend(problem, problem.clean, _size(problem, step, 1 / steps), steps, decay=decay)
