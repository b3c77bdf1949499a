"""A universal perturbation: one small change that misleads a network on most images."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks.criteria import misclassified
from jaxopt_input.attacks.deepfool import deepfool
from jaxopt_input.attacks.examine import check_logits, classes_of, transformed
from jaxopt_input.attacks.problem import Found, Lanes, Numbers, Problem
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.errors import InputError
from jaxopt_input.kernels.threefry import written_out
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.projections import NORMS, ball
from jaxopt_input.targets import register
from jaxopt_input.transforms import Transform, View, as_transform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int
    from numpy.typing import ArrayLike

    from jaxopt_input.attacks.problem import Images

CHUNK = 32  # images that are judged at once
LANES = 2**31 - 5  # the purpose of the keys of the images


@functools.partial(register, static=("norm",))
@dataclasses.dataclass(frozen=True)
class UniversalPerturbation:
    """One change for many images, and whom it fools; a pytree, whose arrays are its leaves.

    Attributes:
        perturbation: `[H, W, C]`, to be added to an image, which is then clipped to [0, 1].
        fooled: `[N]` bool: whether an image's class changes with it.
        clean: `[N]` int32, the classes predicted for the images.
        prediction: `[N]` int32, those with the perturbation.
        rate: `[epochs + 1]`, the share that is fooled before and after each pass; NaN after the last that was needed.
        norm: of its budget.

    Under a random transform, classes are those of the mean logits, each image's over the same draws.
    """

    perturbation: Float[Array, "H W C"]
    fooled: Bool[Array, " N"]
    clean: Int[Array, " N"]
    prediction: Int[Array, " N"]
    rate: Float[Array, " passes"]
    norm: str


def universal(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    *,
    epsilon: ArrayLike = 10 / 255,
    norm: str = "linf",
    rate: ArrayLike = 0.8,
    epochs: int = 10,
    steps: int = 10,
    overshoot: ArrayLike = 0.02,
    candidates: int = 10,
    transform: Transform | View | str | None = None,
    samples: int = 1,
) -> UniversalPerturbation:
    """One change within ε that makes a network change its mind on most images.

    Image by image, in random order: where the change so far does not fool the network, what DeepFool adds to it there
    joins it, and the sum is projected into the ball; pass after pass, until the share `rate` is fooled.

    Args:
        key: a JAX key: the order of the images, and the draws of the transform.
        model: the network.
        images: `[N, H, W, C]` in [0, 1].
        epsilon: ξ, the budget.
        norm: "linf", "l2" or "l1".
        rate: 1 − δ, the share that is enough.
        epochs: passes over the images, at most.
        steps: of DeepFool on each image, at most; what has not fooled the network then is left out.
        overshoot, candidates: as in `deepfool`.
        transform, samples: as in `run`.

    Raises:
        InputError: for images outside [0, 1], arguments out of range, or probabilities as logits.

    Source:
        Moosavi-Dezfooli et al., Universal adversarial perturbations (2017), algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> images = jnp.full((3, 4, 4, 3), 0.5).at[..., 0].set(jnp.array([0.51, 0.52, 0.53])[:, None, None])
        >>> change = joi.attacks.universal(jax.random.key(0), model, images, epsilon=0.05)
        >>> change.fooled.tolist(), bool(abs(change.perturbation).max() <= 0.05 + 1e-6)
        ([True, True, True], True)
    """
    images = checks.batch(images, model)
    checks.one_of("norm", norm, NORMS)
    classes_of(model, images.shape[1:])
    numbers = {
        "epsilon": checks.below_range("epsilon", checks.number("epsilon", epsilon, open_low=True), norm),
        "rate": checks.number("rate", rate, 0, 1, open_low=True),
        "overshoot": checks.number("overshoot", overshoot),
    }
    transform = as_transform(transform)
    static: dict[str, Any] = {
        "epochs": checks.count("epochs", epochs),
        "steps": checks.count("steps", steps),
        "candidates": checks.count("candidates", candidates),
        "transform": transform,
        "samples": checks.samples(samples, transform),
    }
    key = written_out(checks.typed_key(key))
    traced = transformed(model.params, key, images, numbers)
    if not traced:
        check_logits(model, images)
    outcome = _search(model.params, key, images, numbers, apply=model.apply, norm=norm, **static)
    if not traced:
        outcome = jax.device_get(outcome)
    rate = (jnp if traced else np).where(outcome.rate < 0, np.float32(np.nan), outcome.rate)
    return dataclasses.replace(outcome, rate=rate)


def universal_attack(
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    norm: str = "linf",
    epochs: int = 10,
    **options: Unpack[Options],
) -> AttackResult:
    """The same change of all images, by `universal`, judged as any other attack.

    Args:
        key, model, images, labels: as in `run`, and so are the errors.
        epsilon, norm, epochs: as in `universal`.
        options: as in `Options`, without `target` and `restarts`.

    Returns:
        An `AttackResult`; `raw` less the original is the change, before the image is clipped.

    Raises:
        InputError: for several budgets or a target.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> images = jnp.full((3, 4, 4, 3), 0.5).at[..., 0].add(0.02)
        >>> result = joi.attacks.universal_attack(jax.random.key(0), model, images, 0, epsilon=0.05)
        >>> float(result.accuracy["robust"]), bool(abs(result.raw - images)[1:].max() <= 0.05 + 1e-6)
        (0.0, True)
    """
    if options.get("target") is not None:
        raise InputError("a universal perturbation leaves the classes that the network sees: give no target")
    if np.ndim(epsilon):
        raise InputError("a universal perturbation is sought within one budget: give a single epsilon")
    views: dict[str, Any] = {name: options[name] for name in ("transform", "samples") if name in options}
    change = universal(key, model, images, epsilon=epsilon, norm=norm, epochs=epochs, **views)
    common: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "stop": False, "draws": False, **options}
    return run(_added, key, model, images, labels, numbers={"perturbation": change.perturbation}, **common)


def _added(problem: Problem, numbers: Numbers) -> Found:
    return Found(problem.clean + numbers["perturbation"][None])


@functools.partial(jax.jit, static_argnames=("apply", "norm", "epochs", "steps", "candidates", "transform", "samples"))
def _search(
    params: Any,
    key: jax.Array,
    images: Images,
    numbers: Numbers,
    *,
    apply: Apply,
    norm: str,
    epochs: int,
    steps: int,
    candidates: int,
    transform: Transform | None,
    samples: int,
) -> UniversalPerturbation:
    n = len(images)
    zero = jnp.zeros(images.shape[1:], jnp.float32)
    base = jax.random.fold_in(key, LANES)
    keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(n, dtype=jnp.int32))

    def problem_of(image: jax.Array, change: jax.Array, label: jax.Array, key: jax.Array) -> Problem:
        """One lane: an image with the change so far."""
        begin = jnp.clip(image + change, 0.0, 1.0)[None]
        rows = (begin, label[None], label[None], jnp.full(1, jnp.inf, jnp.float32), key[None])
        lanes = Lanes(*rows, jnp.zeros((1, 0), jnp.float32), jnp.zeros(1, jnp.uint32), None)
        problem = Problem(
            lanes=lanes,
            apply=functools.partial(apply, params),
            criterion=misclassified(),
            norm="l2",
            targeted=False,
            rounded=False,
            transform=transform,
            samples=samples,
        )
        return dataclasses.replace(problem, lanes=lanes._replace(logits=problem.judged(begin)))

    def classes(change: jax.Array) -> jax.Array:
        def predict(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            image, key = row
            return jnp.argmax(problem_of(image, change, jnp.int32(0), key).lanes.logits[0]).astype(jnp.int32)

        return jax.lax.map(predict, (images, keys), batch_size=max(1, min(CHUNK // samples, n)))

    clean = classes(zero)

    def visit(change: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        problem = problem_of(images[which], change, clean[which], keys[which])
        nearest = deepfool.method(problem, steps=steps, overshoot=numbers["overshoot"], candidates=candidates)
        reached = jnp.asarray(nearest.steps)[0] < steps
        longer = change + jnp.where(reached, nearest.image[0] - problem.clean[0], 0.0)
        return ball(norm, numbers["epsilon"], zero)(longer), None

    def unfinished(carry: Any) -> jax.Array:
        epoch, _, rates = carry
        return (epoch < epochs) & (rates[epoch] < numbers["rate"])

    def over(carry: Any) -> Any:
        epoch, change, rates = carry
        order = jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(n, dtype=jnp.int32))
        change, _ = jax.lax.scan(visit, change, order)
        return epoch + 1, change, rates.at[epoch + 1].set(jnp.mean(classes(change) != clean, dtype=jnp.float32))

    rates = jnp.full(epochs + 1, -1, jnp.float32).at[0].set(0.0)  # −1 where there was no such pass
    _, change, rates = jax.lax.while_loop(unfinished, over, (jnp.int32(0), zero, rates))
    prediction = classes(change)
    return UniversalPerturbation(change, prediction != clean, clean, prediction, rates, norm)
