"""Fooling images: what a network is sure of and people see nothing in, by gradient ascent. `evolution` needs none."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks, losses, optimizers
from jaxopt_input.attacks.examine import check_logits, classes_of, logits_of, transformed
from jaxopt_input.attacks.geometry import to_8bit
from jaxopt_input.engine.lanes import Resources
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.errors import InputError
from jaxopt_input.images import pixels
from jaxopt_input.models.model import Model
from jaxopt_input.targets import register

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import ArrayLike

    Array = np.ndarray

# Of the first image's pixels around gray; a level of it, for at even gray a network may have no gradient.
DEVIATION = {"noise": 0.25, "gray": 1 / 255}


@functools.partial(register, static=())
@dataclasses.dataclass(frozen=True)
class Fooling:
    """Images made for N classes; a pytree, whose arrays are its leaves.

    Attributes:
        image: `[N, H, W, C]` float32 in [0, 1], rounded to 8 bits.
        label: `[N]` int32, the class that each was made for.
        probability: `[N]`, that of this class, after rounding; NaN where the network says none.
        history: `[steps + 1, N]`, the probability of this class before each step, or generation, and after the last:
            of the iterates, not rounded, for gradient ascent; of the elites, rounded, for evolution; NaN where the
            network says none.
        evaluations: runs of the network on a single image, gradients or not; those that tell whether its logits are
            probabilities are left out.
        finite: `[N]` bool, False where the probability is not finite, or, for gradient ascent, log p or its gradient
            was not at some step; the best finite image is kept then.
        dead: `[N]` bool, True where the gradient was zero at every step, and the probability is not 1; evolution, which
            needs none, has no such.
    """

    image: Float[Array, "N H W C"]
    label: Int[Array, " N"]
    probability: Float[Array, " N"]
    history: Float[Array, "steps N"]
    evaluations: int
    finite: Bool[Array, " N"]
    dead: Bool[Array, " N"]

    def take(self, classes: Any) -> Fooling:
        """The part that belongs to some of the N classes: indices, a slice, or a mask. The evaluations are of all."""
        each = {name: getattr(self, name)[classes] for name in ("image", "label", "probability", "finite", "dead")}
        return dataclasses.replace(self, **each, history=self.history[:, classes])


def fool(
    key: jax.Array,
    model: Model,
    classes: ArrayLike | None = None,
    *,
    init: str = "gray",
    steps: int = 100,
    learning_rate: float = 1e5,
    progress: float = 1.0,
    decay: float = 1e-3,
    on: Resources | None = None,
) -> Fooling:
    """Raise the probability of each class from noise or gray, by gradient ascent with L2 decay.

    Ascends log p, whose gradient is that of p divided by p: the same direction, and not lost where p is tiny. Nothing
    asks for a natural image, and small steps find changes that people do not see. The iterate with the highest
    probability is kept, rounded to 8 bits and judged again.

    Args:
        key: a JAX key.
        model: the network.
        classes: an index, or several; all classes if None.
        init: "gray", with noise of one level in 255, or "noise", normal around gray with σ = 1/4.
        steps: how many.
        learning_rate: of pixels from 0 to 255, at most.
        progress: a step is no longer than raises log p by about this.
        decay: the share of its distance from gray that each pixel loses at each step, from 0 to 1.
        on: the resources; progress is called as (steps done, steps in all, mean of −log p).

    Raises:
        InputError: for classes that do not exist, arguments out of range, or probabilities as logits.

    Source:
        Nguyen, Yosinski & Clune, Deep Neural Networks are Easily Fooled (2015), section 3.4, with the update of
        `optimizers.yosinski`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": 40 * x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(2, 2, 3), taps=("logits",))
        >>> fooling = joi.attacks.fool(jax.random.key(0), model, [0, 2], steps=20)
        >>> fooling.image.shape, bool((fooling.probability > 0.99).all())
        ((2, 2, 2, 3), True)
    """
    label = some_classes(classes, model)
    sd = DEVIATION[checks.one_of("init", init, tuple(DEVIATION))]
    steps = checks.count("steps", steps)
    optimizer = optimizers.yosinski(learning_rate, desired_progress=progress, decay=decay)
    traced = transformed(model.params, key)
    if not traced:
        check_logits(model)
    loss = -losses.class_log_probability(label)
    solution = minimize(loss, model, image=pixels(sd=sd), optimizer=optimizer, steps=steps, key=key, on=on)
    xp: Any = jnp if traced else np
    names = ("best_image", "loss", "evaluations", "finite", "dead")
    best, history, evaluations, finite, dead = (xp.asarray(getattr(solution, name)) for name in names)
    image = xp.asarray(to_8bit(best, best))  # as a PNG would hold it, judged again
    probability = xp.asarray(jax.nn.softmax(logits_of(model, image)))[np.arange(len(label)), label]
    count = evaluations.sum() + len(label)
    return Fooling(
        image,
        label,
        probability,
        xp.exp(-history).T,
        count if traced else int(count),
        finite & xp.isfinite(probability),
        dead & (probability < 1),
    )


def some_classes(classes: ArrayLike | None, model: Model) -> Int[np.ndarray, " N"]:
    """The classes a caller asks for, none twice; all if None."""
    total = classes_of(model)
    chosen = np.arange(total, dtype=np.int32) if classes is None else np.atleast_1d(classes)
    label = checks.classes("class", chosen, len(chosen), model, total)
    if len(np.unique(label)) < len(label):
        raise InputError(f"each class is made once: some of {label.tolist()} are there twice")
    return label


def check_judge(judge: Model, model: Model) -> None:
    """Raise an `InputError` unless a network judges the images of another one, and knows as many classes."""
    shapes = [network.info.image_shape for network in (judge, model)]
    if shapes[0] != shapes[1]:
        sizes = ["x".join(map(str, shape)) for shape in shapes]
        raise InputError(f"{judge.info.name} takes images of {sizes[0]}, not of {sizes[1]}: it cannot judge them")
    totals = classes_of(judge), classes_of(model)
    if totals[0] != totals[1]:
        raise InputError(f"{judge.info.name} knows {totals[0]} classes, {model.info.name} {totals[1]}: give another")
