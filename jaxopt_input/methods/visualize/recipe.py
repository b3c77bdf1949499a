"""Activation maximization by the name of a target: `visualize(model, "class:dumbbell", starts=9)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.engine.minimize import Solution, minimize
from jaxopt_input.engine.target import Target, Wanted, expand, grouped, objective, parse, shortfall
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization
from jaxopt_input.images.parameterization import Shape, check_images
from jaxopt_input.losses import Loss
from jaxopt_input.methods.visualize import settings as presets
from jaxopt_input.methods.visualize.importance import importance_steps
from jaxopt_input.models.model import Model
from jaxopt_input.models.redirect import redirect_relu
from jaxopt_input.optimizers.named import Optimizer
from jaxopt_input.projections import Projection
from jaxopt_input.transforms import Transform

__all__ = ["Target", "parse", "solve", "visualize"]

REDIRECTED_STEPS = 16  # Lucid's


def visualize(
    model: Model,
    target: str | Sequence[str],
    *,
    starts: int = 1,
    steps: int | None = None,
    size: int | tuple[int, int] | None = None,
    preset: str = "default",
    image: Parameterization | None = None,
    transform: Transform | EllipsisType | None = ...,
    optimizer: Any = None,
    learning_rate: Any = None,
    projection: Projection | None = None,
    regularizer: Loss | None = None,
    class_objective: str | None = None,
    like: Any = None,
    redirected: bool = False,
    key: jax.Array | None = None,
    **options: Any,
) -> Solution:
    """Images that excite a class, a layer, a channel or a unit the most, from several random starts each.

    Targets of one kind and layer share one compiled program. What is not given is that of the preset; the default one
    is near Lucid's: a Fourier image with decorrelated colors, random transforms, Adam at 0.05.

    Args:
        model: the network.
        target: as in `engine.target.expand`, or several.
        starts: random starts of each target.
        steps: updates.
        size: of the image, a side or (height, width); the model's own if None.
        preset: a published method by name, see `methods.visualize.settings.preset`.
        image: the image parameterization.
        transform: see `minimize`; None is no transform.
        optimizer, projection: see `minimize`.
        learning_rate: of the optimizer, in place of its own.
        regularizer: a loss to add, such as `1e-3 * losses.total_variation()`.
        class_objective: "logit", "probability", "log-probability" or "default", see `engine.target.objective`.
        like: an image `[H, W, C]` in [0, 1] of the size asked for: a LAYER target is then its caricature.
        redirected: let the gradient through ReLUs that are dead in the first 16 steps, see `redirect_relu`.
        key: a JAX key; `jax.random.key(0)` if None.
        options: further arguments of `minimize`, such as `dtype`, `snapshots`.

    Returns:
        A `Solution`, the targets in the order asked for, by their canonical names.

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
    shape = image.shape if image is not None and image.shape else sized(model, size)
    chosen = presets.preset(preset, shape)
    image = (image or chosen.image).bind(shape)
    layers = model.layers(shape)
    wanted = [one for text in ([target] if isinstance(target, str) else target) for one in expand(text, model, shape)]
    if chosen.center:
        wanted = [one.central(layers) for one in wanted]
    steps = chosen.steps if steps is None else steps
    optimizer = chosen.optimizer if optimizer is None else optimizer
    if learning_rate is not None:
        if not isinstance(optimizer, Optimizer):
            raise InputError("a learning rate goes with an optimizer of jaxopt_input.optimizers")
        optimizer = optimizer.at_rate(learning_rate)
    if chosen.alpha:
        options.setdefault("snapshots", importance_steps(steps))
    return solve(
        wanted,
        model,
        starts=starts,
        steps=steps,
        image=image,
        transform=chosen.transform if isinstance(transform, EllipsisType) else transform,
        optimizer=optimizer,
        projection=chosen.projection if projection is None else projection,
        regularizer=chosen.regularizer if regularizer is None else regularizer,
        kind=chosen.objective if class_objective is None else class_objective,
        like=_seen(model, like, shape, wanted),
        majority=chosen.majority,
        warm_up=(redirect_relu(model), REDIRECTED_STEPS) if redirected else None,
        key=jax.random.key(0) if key is None else key,
        **options,
    )


def _seen(model: Model, like: Any, shape: Shape, wanted: Sequence[Wanted]) -> dict[str, np.ndarray] | None:
    """What the layers among the targets see in an image: `{layer: [H, W, C]}`."""
    if like is None:
        return None
    given = np.asarray(check_images(like))
    if given.shape != shape:
        raise InputError(f"the image to be like has shape {given.shape}, the images have {shape}: resize it")
    layers = tuple({one.layer for one in wanted if isinstance(one, Target) and one.kind == "layer"})
    if not layers:
        raise InputError("a caricature is of a whole layer: give a LAYER without channel as target")
    found = jax.jit(model.apply, static_argnums=2)(model.params, given[None], layers)
    return {layer: np.asarray(activation[0], np.float32) for layer, activation in found.items()}


def solve(
    wanted: Sequence[Wanted],
    model: Model,
    *,
    starts: int,
    steps: int,
    regularizer: Loss | None = None,
    kind: str = "default",
    like: Mapping[str, Any] | None = None,
    majority: bool = False,
    **options: Any,
) -> Solution:
    """`minimize` for parsed targets: one call for each kind and layer, put back into the order asked for."""
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        raise InputError("no target: name at least one, such as class:3 or LAYER:CHANNEL")
    groups = grouped(wanted)
    progress, solutions = options.pop("on_progress", None), []
    for number, places in enumerate(groups.values()):
        loss = objective([wanted[place] for place in places], kind, like)
        solution = minimize(
            loss if regularizer is None else loss + regularizer,
            model,
            starts=starts,
            steps=steps,
            milestone=shortfall([wanted[place] for place in places]) if majority else None,
            on_progress=progress and _part_of(progress, number, len(groups)),
            **options,
        )
        names = tuple(str(wanted[place]) for place in places for _ in range(starts))
        solutions.append(dataclasses.replace(solution, names=names))
    if len(solutions) == 1:
        return solutions[0]
    order = np.argsort(np.concatenate([np.repeat(places, starts) for places in groups.values()]), kind="stable")
    return reordered(solutions, order)


def _part_of(progress: Any, number: int, parts: int) -> Any:
    return lambda done, total, loss: progress(number * total + done, parts * total, loss)


def reordered(solutions: Sequence[Solution], order: np.ndarray) -> Solution:
    """Several solutions as one, its lanes in another order."""

    def join(axis: int, *parts: Any) -> jax.Array:
        return jnp.asarray(np.take(np.concatenate([np.asarray(part) for part in parts], axis), order, axis))

    joined: dict[str, Any] = {}
    for field in dataclasses.fields(Solution):
        parts = [getattr(solution, field.name) for solution in solutions]
        if field.name == "optimizer_state" or any(part is None for part in parts):  # what only some of them have
            continue
        if field.name == "names":
            flat = [name for part in parts for name in part]
            joined["names"] = tuple(flat[n] for n in order)
        elif field.name == "check_steps":
            joined["check_steps"] = parts[0]
        else:
            axis = 1 if field.name == "snapshots" else 0
            joined[field.name] = jax.tree.map(lambda *xs, axis=axis: join(axis, *xs), *parts)
    return Solution(**joined)


def by_program(texts: Sequence[str], model: Model, shape: Shape) -> list[list[str]]:
    """Texts of targets in lists of those that share one compiled program.

    Example:
        >>> import jaxopt_input as joi
        >>> by_program(["class:3", "block3:5", "class:*"], joi.load("tin100"), (64, 64, 3))
        [['class:3', 'class:*'], ['block3:5']]
    """
    programs: dict[tuple[object, ...], list[str]] = {}
    for text in dict.fromkeys(texts):
        programs.setdefault(expand(text, model, shape)[0].program, []).append(text)
    return list(programs.values())


def joined(parts: Sequence[Solution], texts: Sequence[str], model: Model, shape: Shape) -> tuple[Solution, list[int]]:
    """Solutions of several programs as one, its targets in the order of their texts; and which lane each one was."""
    layers = model.layers(shape)
    places: dict[str, int] = {}
    for text in texts:
        for target in expand(text, model, shape):
            for name in (str(target), str(target.central(layers))):
                places.setdefault(name, len(places))
    names = [name for part in parts for name in part.names]
    order = sorted(range(len(names)), key=lambda lane: places.get(names[lane], lane))
    return (parts[0] if len(parts) == 1 else reordered(parts, np.array(order))), order


def sized(model: Model, size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """The image shape that a size asks of a model."""
    height, width, channels = model.info.image_shape
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise InputError(f"the size must be at least 1, not {size!r}")
    return int(height), int(width), channels
