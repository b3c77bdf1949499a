"""The fast gradient sign method and its kin: steps up a loss within a ball. FGSM, BIM, PGD and MI-FGSM.

They differ in the number and size of their steps, in where they begin, and in MI-FGSM's momentum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.objectives import Builder, Objective, objective
from jaxopt_input.attacks.problem import NO_VALUE, START, Found, Numbers, Problem, configured
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.engine.lanes import rows, where
from jaxopt_input.models.model import Model
from jaxopt_input.projections import NORMS as BALLS

if TYPE_CHECKING:
    from jaxtyping import Array, Float
    from numpy.typing import ArrayLike

    Images = Float[Array, "L H W C"]


def ascend(
    problem: Problem,
    numbers: Numbers,
    *,
    objective: Objective,
    norm: str,
    steps: int,
    random_start: bool,
    momentum: bool,
    stop: bool,
) -> Found:
    """The method of all four: up the loss by steps of one size, each moved back into the ball and the box.

    Args:
        problem: the lanes.
        numbers: "step", the size of a step, plus "relative" times ε; "sparsity" in L1; "decay" of the momentum.
        objective: what is maximized.
        norm: "linf", "l2" or "l1".
        steps: how many.
        random_start: whether to begin anywhere in the ball, instead of at the original.
        momentum: whether steps follow a velocity v ← decay · v + g / ‖g‖₁ instead of the gradient g.
        stop: whether a lane is done once it succeeds.
    """
    size = numbers["step"] + numbers["relative"] * problem.epsilon
    x = begin(problem, norm, random_start)

    def unfinished(carry: Any) -> jax.Array:
        i, done, *_ = carry
        return (i < steps) & ~jnp.all(done)

    def advance(carry: Any) -> Any:
        i, done, x, velocity, taken, gradients, history = carry
        value, gradient, logits = problem.gradient(x, objective, i)
        history = history.at[:, i].set(jnp.where(done, NO_VALUE, value))
        gradients = gradients + ~done
        if stop:
            done |= problem.confirmed(x, problem.success(logits) & ~done)
        gradient = geometry.scaled(gradient)
        if momentum:
            velocity = geometry.unit(gradient, "l1") + numbers["decay"] * velocity
            gradient = velocity
        moved = problem.into_ball(x + rows(size, x) * unit_step(gradient, x, norm, numbers), norm)
        return i + 1, done, where(done, x, moved), velocity, taken + ~done, gradients, history

    lanes = len(size)
    nothing = jnp.zeros(lanes, jnp.int32)
    history = jnp.full((lanes, steps), NO_VALUE, jnp.float32)
    velocity = jnp.zeros_like(x) if momentum else ()
    carry = (jnp.int32(0), problem.done() & stop, x, velocity, nothing, nothing, history)
    _, _, x, _, taken, gradients, history = jax.lax.while_loop(unfinished, advance, carry)
    return Found(x, taken, gradients, nothing, {"loss": history})


def begin(problem: Problem, norm: str, random_start: bool) -> Images:
    """Where lanes begin: at the starts of the caller, anywhere in the ball, or at the originals."""
    if problem.lanes.start is not None:
        return problem.into_ball(problem.lanes.start, norm)
    if not random_start:
        return problem.clean
    noise = geometry.random_in_ball(problem.keys(START), problem.clean.shape[1:], norm)
    return problem.into_ball(problem.clean + rows(problem.epsilon, noise) * noise, norm)


def unit_step(gradient: Images, image: Images, norm: str, numbers: Numbers) -> Images:
    """The step of norm 1 along a gradient: sign(g) in L∞, g / ‖g‖₂ in L2, several numbers by equal amounts in L1.

    In L1 these are the numbers with the largest gradients, a share 1 − sparsity, among those that can still move.

    Source:
        Tramèr & Boneh, Adversarial Training and Robustness for Multiple Perturbations (2019), section 3 (SLIDE).
    """
    if norm != "l1":
        return geometry.steepest(gradient, norm)
    held = ((image <= 0) & (gradient < 0)) | ((image >= 1) & (gradient > 0))
    gradient = jnp.where(held, 0.0, gradient)
    size = jnp.abs(gradient)
    least = jax.vmap(lambda x: jnp.quantile(x, numbers["sparsity"]))(size)
    chosen = (size >= rows(least, size)) & (size > 0)
    count = jnp.sum(chosen, (1, 2, 3), dtype=jnp.int32)
    return jnp.sign(gradient) * chosen / rows(jnp.maximum(count, 1), size)


def _step_size(step: ArrayLike | None, relative: float) -> dict[str, Any]:
    """The traced numbers of a step: absolute where the caller says its size, else a part of ε."""
    if step is None:
        return {"step": np.float32(0), "relative": np.float32(relative)}
    return {"step": checks.number("step", step, open_low=True), "relative": np.float32(0)}


def fgsm(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    norm: str = "linf",
    loss: str | Builder = "cross_entropy",
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """The fast gradient sign method: x + ε · sign(∇ loss); in L2 along g / ‖g‖₂, in L1 along the largest numbers.

    Args:
        key, model, images, labels: as in `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf", "l2" or "l1".
        loss: "cross_entropy", "margin", "dlr", "carlini_wagner", or a loss builder.
        stop: whether images that are misclassified already are left alone.
        options: what every attack takes, as in `Options`.

    Raises:
        InputError: as `run`.

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
    aim = objective(loss, options.get("target") is not None)
    method = configured(
        ascend, objective=aim, norm=checks.one_of("norm", norm, BALLS), steps=1, random_start=False, momentum=False,
        stop=bool(stop),
    )  # fmt: skip
    numbers = {**_step_size(None, 1.0), "sparsity": 0.99}
    return run(
        method, key, model, images, labels,
        norm=norm, epsilon=checks.require_budget(epsilon), numbers=numbers, objective=aim, stop=stop, draws=False,
        **options,
    )  # fmt: skip


def bim(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    steps: int = 10,
    step: ArrayLike | None = None,
    loss: str | Builder = "cross_entropy",
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """The basic iterative method: FGSM in small steps from the original, within the L∞ ball.

    Args:
        key, model, images, labels: as in `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        steps: how many.
        step: the size of each, ε / 4 if None (the authors' 1/255 at ε = 4/255).
        loss: as in `fgsm`.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.
        options: what every attack takes, as in `Options`.

    Raises:
        InputError: as `run`.

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
    aim = objective(loss, options.get("target") is not None)
    method = configured(
        ascend, objective=aim, norm="linf", steps=checks.count("steps", steps), random_start=False, momentum=False,
        stop=bool(stop),
    )  # fmt: skip
    return run(
        method, key, model, images, labels,
        epsilon=checks.require_budget(epsilon), numbers=_step_size(step, 0.25), objective=aim, stop=stop, draws=False,
        **options,
    )  # fmt: skip


def pgd(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    norm: str = "linf",
    steps: int = 40,
    step: ArrayLike | None = None,
    random_start: bool = True,
    sparsity: ArrayLike = 0.99,
    loss: str | Builder = "cross_entropy",
    start: ArrayLike | None = None,
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """Projected gradient ascent on a loss, from random starts within the ball.

    Args:
        key, model, images, labels: as in `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf", "l2" or "l1".
        steps: how many.
        step: the size of each, ε / 4 if None (the authors' 2/255 at ε = 8/255).
        random_start: whether to begin anywhere in the ball, instead of at the original.
        sparsity: in L1, the share of numbers that a step leaves alone.
        loss: as in `fgsm`.
        start: `[N, H, W, C]`, images to begin from instead; they are moved into the ball.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.
        options: what every attack takes, as in `Options`; `restarts` are lanes of the same program.

    Raises:
        InputError: as `run`.

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
    aim = objective(loss, options.get("target") is not None)
    method = configured(
        ascend, objective=aim, norm=checks.one_of("norm", norm, BALLS), steps=checks.count("steps", steps),
        random_start=bool(random_start), momentum=False, stop=bool(stop),
    )  # fmt: skip
    numbers = {**_step_size(step, 0.25), "sparsity": checks.number("sparsity", sparsity, high=1.0)}
    return run(
        method, key, model, images, labels,
        norm=norm, epsilon=checks.require_budget(epsilon), numbers=numbers, objective=aim, stop=stop, start=start,
        draws=random_start and start is None, **options,
    )  # fmt: skip


def mi_fgsm(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    steps: int = 10,
    step: ArrayLike | None = None,
    decay: ArrayLike = 1.0,
    loss: str | Builder = "cross_entropy",
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """The momentum iterative method: x + step · sign(v), v ← decay · v + g / ‖g‖₁, within the L∞ ball.

    Its images transfer to other networks better than those of BIM.

    Args:
        key, model, images, labels: as in `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        steps: how many.
        step: the size of each, ε / steps if None.
        decay: of the velocity, from 0 (BIM) up.
        loss: as in `fgsm`.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.
        options: what every attack takes, as in `Options`.

    Raises:
        InputError: as `run`.

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
    aim = objective(loss, options.get("target") is not None)
    steps = checks.count("steps", steps)
    method = configured(
        ascend, objective=aim, norm="linf", steps=steps, random_start=False, momentum=True, stop=bool(stop)
    )
    numbers = {**_step_size(step, 1 / steps), "decay": checks.number("decay", decay)}
    return run(
        method, key, model, images, labels,
        epsilon=checks.require_budget(epsilon), numbers=numbers, objective=aim, stop=stop, draws=False,
        **options,
    )  # fmt: skip
