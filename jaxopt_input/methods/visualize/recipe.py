"""Activation maximization by the name of a target: `visualize(model, "class:dumbbell", starts=9)`."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import jax
import numpy as np
import optax

from jaxopt_input.checks import Shape, check_images
from jaxopt_input.engine.lanes import Resources, resources
from jaxopt_input.engine.minimize import Watch, minimize
from jaxopt_input.engine.solution import Solution
from jaxopt_input.engine.target import Target, Wanted, expand, grouped, objective, shortfall
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization, as_parameterization
from jaxopt_input.losses import Loss
from jaxopt_input.methods.visualize import settings as presets
from jaxopt_input.methods.visualize.importance import importance_steps
from jaxopt_input.methods.visualize.settings import Preset
from jaxopt_input.models.model import Model
from jaxopt_input.models.redirect import redirect_relu
from jaxopt_input.optimizers import Optimizer
from jaxopt_input.transforms import Transform, View

REDIRECTED_STEPS = 16  # Lucid's


def visualize(
    model: Model,
    target: str | Sequence[str],
    *,
    starts: int = 1,
    steps: int | None = None,
    size: int | tuple[int, int] | None = None,
    preset: str | Preset = "default",
    image: Parameterization | str | None = None,
    transform: Transform | View | str | EllipsisType | None = ...,
    optimizer: Optimizer | optax.GradientTransformation | str | None = None,
    regularizer: Loss | None = None,
    like: Any = None,
    redirected: bool = False,
    key: jax.Array | None = None,
    on: Resources | None = None,
    **options: Any,
) -> Solution:
    """Images that excite a class, a layer, a channel or a unit the most, from several random starts each.

    Targets of one kind and layer share one compiled program. What is not given is that of the preset; the default one
    is near Lucid's: a Fourier image with decorrelated colors, random transforms, Adam at 0.05; for
    classes it is "class", made for pictures that other networks recognize as well.

    Args:
        model: the network.
        target: as in `engine.target.expand`, or several.
        starts: random starts of each target.
        steps: updates.
        size: of the image, a side or (height, width); the model's own if None.
        preset: a published method by name, of `methods.visualize.settings.preset`, or settings of one's own.
        image, transform, optimizer: as in `minimize`; None is no transform.
        regularizer: a loss to add, such as `1e-3 * losses.total_variation()`.
        like: an image `[H, W, C]` in [0, 1] of the size asked for: a LAYER target is then its caricature.
        redirected: let the gradient through ReLUs that are dead in the first 16 steps, by `redirect_relu`.
        key: a JAX key; `jax.random.key(0)` if None.
        on: the resources, such as `Resources(memory="4GiB")`.
        options: `learning_rate`, in place of the optimizer's own; `class_objective`, "logit", "probability",
            "log-probability" or "default", as in `engine.target.objective`; and further arguments of `minimize`, such
            as `projection`, `keep`, `snapshots`.

    Returns:
        A `Solution`, the targets in the order asked for, as parsed values.

    Raises:
        InputError: as `expand`, `preset` and `minimize`.

    Source:
        Olah, Mordvintsev & Schubert, Feature Visualization (2017).

    Example:
        >>> import jaxopt_input as joi
        >>> solution = visualize(joi.load("tin100"), "class:dumbbell", starts=2, steps=4)
        >>> solution.best_image.shape
        (2, 64, 64, 3)
    """
    shape = as_parameterization(image).shape or sized(model, size)
    changes: dict[str, Any] = {"image": image, "transform": transform, "optimizer": optimizer, "steps": steps}
    changes |= {name: options.pop(name, None) for name in ("learning_rate", "projection")}
    changes |= {"regularizer": regularizer, "objective": options.pop("class_objective", None)}

    def settings(group: Sequence[Wanted]) -> Preset:
        setting = presets.preset(presets.by_targets(preset, group), shape, **changes)
        return dataclasses.replace(setting, image=setting.image.bind(shape))

    texts = [target] if isinstance(target, str) or not np.iterable(target) else list(target)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"a target is a text such as 'class:3' or 'LAYER:CHANNEL', or a list of them, not {target!r}")
    wanted = [parsed for text in texts for parsed in expand(text, model, shape)]
    chosen = settings(wanted)
    if chosen.center:
        wanted = [parsed.central(model.layers(shape)) for parsed in wanted]
    if chosen.alpha:
        options.setdefault("snapshots", importance_steps(chosen.steps))
    options |= {"starts": starts, "key": jax.random.key(0) if key is None else key}
    maps = _maps(model, like, shape, wanted)
    network = redirect_relu(model, REDIRECTED_STEPS) if redirected else model
    return _solve(wanted, network, settings, maps, on, **options)


def _maps(model: Model, like: Any, shape: Shape, wanted: Sequence[Wanted]) -> dict[str, np.ndarray] | None:
    """The activations `[H, W, C]` of an image in the layers among the targets."""
    if like is None:
        return None
    photo = np.asarray(check_images(like))
    if photo.shape != shape:
        raise InputError(f"the image to be like has shape {photo.shape}, the images have {shape}: resize it")
    layers = {target.layer for target in wanted if isinstance(target, Target) and target.kind == "layer"}
    if not layers:
        raise InputError("a caricature is of a whole layer: give a LAYER without channel as target")
    activations = model.activations(photo[None], tuple(layers))
    return {layer: np.asarray(activation[0], np.float32) for layer, activation in activations.items()}


def _solve(
    wanted: Sequence[Wanted],
    model: Model,
    settings: Callable[[Sequence[Wanted]], Preset],
    maps: Mapping[str, Any] | None,
    on: Resources | None,
    watch: Watch | None = None,
    **options: Any,
) -> Solution:
    """`minimize` for parsed targets: one call for each kind and layer, with its settings, in the order asked for."""
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        raise InputError("no target: name at least one, such as class:3 or LAYER:CHANNEL")
    groups, on = grouped(wanted), resources(on)
    solutions, places_of = [], []
    for number, places in enumerate(groups.values()):
        group = [wanted[place] for place in places]
        chosen = settings(group)
        loss = objective(group, chosen.objective, maps)
        if chosen.regularizer is not None:
            loss = loss + chosen.regularizer
        if chosen.majority:
            watch = dataclasses.replace(watch or Watch(), milestone=shortfall(group))
        share = on.part(number, len(groups)).through(operator.methodcaller("named", group))
        solution = minimize(loss, model, watch=watch, on=share, **chosen.parts, **options)
        solutions.append(solution.named(group))
        places_of.append(np.asarray(places)[solution.target])
    order = np.argsort(np.concatenate(places_of), kind="stable")
    return solutions[0] if len(solutions) == 1 else Solution.concat(solutions).take(order)


def by_program(texts: Sequence[str], model: Model, shape: Shape) -> list[list[str]]:
    """Texts of targets in lists of those that share one compiled program.

    Example:
        >>> import jaxopt_input as joi
        >>> by_program(["class:3", "block3:5", "class:*"], joi.load("tin100"), (64, 64, 3))
        [['class:3', 'class:*'], ['block3:5']]
    """
    texts = list(dict.fromkeys(texts))
    programs = grouped([expand(text, model, shape)[0] for text in texts])
    return [[texts[place] for place in places] for places in programs.values()]


def joined(parts: Sequence[Solution], texts: Sequence[str], model: Model, shape: Shape) -> Solution:
    """Solutions of several programs as one, its targets in the order of their texts."""
    layers = model.layers(shape)
    places: dict[str, int] = {}
    for text in texts:
        for target in expand(text, model, shape):
            for name in (str(target), str(target.central(layers))):
                places.setdefault(name, len(places))
    whole = Solution.concat(parts)
    order = sorted(range(len(whole)), key=lambda lane: places.get(str(whole.targets[whole.target[lane]]), lane))
    return whole if len(parts) == 1 else whole.take(order)


def sized(model: Model, size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """The image shape that a size asks of a model."""
    height, width, channels = model.info.image_shape
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise InputError(f"the size must be at least 1, not {size!r}")
    return int(height), int(width), channels
