"""Transfer: adversarial examples made for each of several networks, fed to all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks.control import controls
from jaxopt_input.attacks.examine import classes_of, logits_of
from jaxopt_input.attacks.result import AttackResult, has_class
from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model
from jaxopt_input.targets import register

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import ArrayLike

Attack = Callable[[jax.Array, Model, np.ndarray, np.ndarray], AttackResult]


@functools.partial(register, static=("names", "warnings"))
@dataclasses.dataclass(frozen=True)
class Transfer:
    """Error rates of K networks; a pytree, whose arrays are its leaves.

    Only images that all of them classify rightly count, so that every error is the change's.

    Attributes:
        names: of the networks.
        error: `[K, K]`, made for the row's network, fed to the column's.
        noise: `[K, K]`, Gaussian noise with the RMS of the row's changes, image by image, fed to the column's.
        signs: `[K, K]`, random signs with the L∞ norm of the row's changes, image by image, fed to the column's.
        rms: `[K]`, the mean RMS of each row's changes, after clipping.
        success: `[K]`, the share of counted images that each attack succeeded on, before any amplification.
        counted: how many images.
        clean: `[K]`, the error rates on all originals.
        evaluations: runs of a network on a single image, gradients or not, to attack and to judge.
        warnings: what each row's attack warns of, such as signs of gradient masking: its error may be underrated.
    """

    names: tuple[str, ...]
    error: Float[np.ndarray, "K K"]
    noise: Float[np.ndarray, "K K"]
    signs: Float[np.ndarray, "K K"]
    rms: Float[np.ndarray, " K"]
    success: Float[np.ndarray, " K"]
    counted: int
    clean: Float[np.ndarray, " K"]
    evaluations: int
    warnings: tuple[tuple[str, ...], ...]


def transfer(
    key: jax.Array,
    models: Mapping[str, Model],
    images: ArrayLike,
    labels: ArrayLike,
    attack: Attack,
    *,
    rms: float | None = None,
) -> Transfer:
    """Make adversarial examples of some images for each network, and feed them to all.

    Args:
        key: a JAX key.
        models: at least two networks for the same images and classes, by name.
        images: `[N, H, W, C]` in [0, 1].
        labels: `[N]` true classes.
        attack: `(key, model, images, labels) -> AttackResult`, such as
            `functools.partial(attacks.pgd, epsilon=8 / 255)`.
        rms: amplify each change to this RMS before it is clipped; None leaves it.

    Raises:
        InputError: for fewer than two networks, or some without logits or that differ in image size or classes, an RMS
            that is not positive, or where no image is classified rightly by all.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 4.2, tables 2 to 4.

    Example:
        >>> import functools, jax, jax.numpy as jnp, jaxopt_input as joi
        >>> def apply(p, x, taps):
        ...     return {"logits": x.mean((1, 2)) @ p}
        >>> models = {name: joi.from_function(apply, s * jnp.eye(3), image_shape=(4, 4, 3), taps=("logits",))
        ...           for name, s in (("a", 1.0), ("b", 2.0))}
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> pgd = functools.partial(joi.attacks.pgd, epsilon=0.1)
        >>> joi.attacks.transfer(jax.random.key(0), models, image, [0], pgd).error.tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    if len(models) < 2:
        raise InputError(f"transfer needs at least two networks, not {len(models)}")
    first = next(iter(models.values()))
    images = checks.batch(images, first)
    total = classes_of(first)
    for name, model in models.items():
        if model.info.image_shape != images.shape[1:]:
            sizes = ["x".join(map(str, shape)) for shape in (model.info.image_shape, images.shape[1:])]
            raise InputError(f"{name} takes images of {sizes[0]}, not {sizes[1]}: transfer needs networks of one size")
        if classes_of(model) != total:
            raise InputError(f"{name} has other classes than {first.info.name}: transfer needs the same")
    labels = checks.classes("label", labels, len(images), first, total)
    amplitude = None if rms is None else checks.below_range("rms", checks.number("rms", rms, open_low=True), "rms")
    wrong = np.stack([_predict(model, images) != labels for model in models.values()])
    right = np.flatnonzero(~wrong.any(0))
    if not len(right):
        raise InputError("no image is classified rightly by all networks: there is nothing to compare")
    images, labels, clean = images[right], labels[right], wrong.mean(1)
    key = checks.typed_key(key)

    rows, signs = [], []
    evaluations = wrong.size + 3 * len(models) ** 2 * len(right)
    for model in models.values():
        result = attack(key, model, images, labels)
        broken = ~(np.asarray(result.finite) & np.isfinite(result.image).all((1, 2, 3)))
        change = np.where(broken[:, None, None, None], 0.0, result.image - images)
        size = _rms(change)
        if amplitude is not None:
            change = change * (amplitude / np.where(size > 0, size, 1.0))[:, None, None, None]
        made = np.clip(images + change, 0, 1)
        size = _rms(made - images)
        fed = made, *controls(key, images, made).values()
        rates = [[(_predict(other, x) != labels).mean() for other in models.values()] for x in fed]
        rows.append((*rates, size.mean(), result.success.mean()))
        signs.append((*result.warnings, *_lost(model, broken)))
        evaluations += int(np.sum(result.gradients) + np.sum(result.forwards))
    error, noise, random, lengths, success = (np.array(column) for column in zip(*rows, strict=True))
    counts = len(right), clean, evaluations, tuple(signs)
    return Transfer(tuple(models), error, noise, random, lengths, success, *counts)


def _rms(change: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, " N"]:
    return np.asarray(np.sqrt(np.square(change.astype(np.float64)).mean((1, 2, 3))))


def _lost(model: Model, broken: Bool[np.ndarray, " N"]) -> list[str]:
    """A line where an attack met numbers that are not finite."""
    if not broken.any():
        return []
    lost = f"{broken.sum()} of {len(broken)} images made for {model.info.name} met numbers that are not finite"
    return [f"{lost}, and the originals stand for them: try another method or loss"]


def _predict(model: Model, images: Float[np.ndarray, "N H W C"]) -> Int[np.ndarray, " N"]:
    """The classes of images, −1 where the logits have no largest one."""
    logits = logits_of(model, images.astype(np.float32))
    return np.where(has_class(logits), logits.argmax(-1), -1)
