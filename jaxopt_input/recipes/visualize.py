"""Activation maximization by the name of a target: `visualize(model, "class:dumbbell", starts=9)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.images import Parameterization, fourier
from jaxopt_input.losses import Loss
from jaxopt_input.losses.algebra import check_index
from jaxopt_input.model import Model
from jaxopt_input.optimize import Solution, minimize
from jaxopt_input.transforms import Transform, lucid


@dataclasses.dataclass(frozen=True)
class Target:
    """What an image is to excite.

    Attributes:
        kind: "class", "layer", "channel" or "unit".
        layer: the tap.
        index: of the class or channel; 0 for a layer.
        position: (row, column) of a unit, else ().
    """

    kind: str
    layer: str
    index: int = 0
    position: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.kind == "class":
            return f"class:{self.index}"
        if self.kind == "layer":
            return self.layer
        return f"{self.layer}:{self.index}" + (f"@{self.position[0]},{self.position[1]}" if self.position else "")


def parse(text: str, model: Model, image_shape: tuple[int, int, int] | None = None) -> list[Target]:
    """The targets that a text denotes, checked against a model.

    Args:
        text: "LAYER", "LAYER:CHANNEL", "LAYER:CHANNEL@centre", "LAYER:CHANNEL@Y,X", "class:NAME", "class:INDEX" or
            "class:WNID"; "*" in place of a channel or class denotes all of them.
        model: whose layers and classes are meant.
        image_shape: of the image, which the map sizes depend on; the model's own if None.

    Raises:
        InputError: for a layer, channel, position or class that does not exist; the nearest names are offered.

    Example:
        >>> import jaxopt_input as joi
        >>> [str(target) for target in parse("block3:7@centre", joi.load("tin100"))]
        ['block3:7@8,8']
    """
    layer, colon, rest = text.strip().partition(":")
    shapes = model.layers(image_shape)
    if layer == "class" and colon:
        if "logits" not in shapes:
            raise InputError(f"{model.info.name} has no layer 'logits', which class targets need")
        classes = shapes["logits"][-1]
        if rest == "*":
            return [Target("class", "logits", index) for index in range(classes)]
        if not model.info.labels and rest.isdigit() and int(rest) < classes:
            return [Target("class", "logits", int(rest))]
        return [Target("class", "logits", model.info.class_index(rest))]
    if layer not in shapes:
        raise unknown("layer", layer, [*shapes, "class"], "classes are written class:NAME")
    if not colon:
        return [Target("layer", layer)]
    shape = shapes[layer]
    channel, at, where = rest.partition("@")
    if channel != "*" and not channel.isdigit():
        raise InputError(f"in target {text!r}, {channel!r} is no channel: give 0 to {shape[-1] - 1}, or *")
    if channel != "*":
        check_index("channel", int(channel), shape[-1], f"layer {layer}")
    position = _position(where, shape, text) if at else ()
    channels = range(shape[-1]) if channel == "*" else [int(channel)]
    return [Target("unit" if at else "channel", layer, index, position) for index in channels]


def _position(where: str, shape: tuple[int, ...], text: str) -> tuple[int, ...]:
    if len(shape) != 3:
        raise InputError(f"in target {text!r}, the layer has no positions: leave {'@' + where!r} out")
    height, width, _ = shape
    if where in ("centre", "center"):
        return height // 2, width // 2
    numbers = where.split(",")
    if len(numbers) != 2 or not all(n.strip().isdigit() for n in numbers):
        raise InputError(f"in target {text!r}, a position is @centre or @ROW,COLUMN")
    row, column = map(int, numbers)
    if row >= height or column >= width:
        raise InputError(f"in target {text!r}, the position is outside the map of {height} rows and {width} columns")
    return row, column


def objective(targets: Sequence[Target]) -> Loss:
    """The loss of targets of one kind and layer, one target axis: the negative of what is to be excited.

    A class is excited by its logit (Simonyan 2014) plus its log-probability: nothing as long as the class is the most
    probable one, and a push away from a sibling that answers to the same picture (husky and malamute) where it is not.

    Example:
        >>> objective([Target("channel", "block3", 5), Target("channel", "block3", 7)]).taps
        ('block3',)
    """
    first, index = targets[0], np.array([target.index for target in targets], np.int32)
    if first.kind == "class":
        return -(losses.class_logit(index) + losses.class_log_probability(index))
    if first.kind == "channel":
        return -losses.channel(first.layer, index)
    if first.kind == "unit":
        return -losses.unit(first.layer, index, np.array([target.position for target in targets], np.int32))
    return -losses.layer(first.layer)


def visualize(
    model: Model,
    target: str | Sequence[str],
    *,
    starts: int = 1,
    steps: int = 256,
    size: int | tuple[int, int] | None = None,
    image: Parameterization | None = None,
    transform: Transform | None = lucid(),  # noqa: B008 - immutable
    regularizer: Loss | None = None,
    key: jax.Array | None = None,
    **options: Any,
) -> Solution:
    """Images that excite a class, a layer, a channel or a unit the most, from several random starts each.

    Targets of one kind and layer share one compiled program. The defaults are Lucid's: a Fourier image with
    decorrelated colours, random transforms, Adam at 0.05.

    Args:
        model: the network.
        target: as in `parse`, or several.
        starts: random starts of each target.
        steps: updates.
        size: of the image, a side or (height, width); the model's own if None.
        image: the image parameterization; a Fourier image if None.
        transform: see `minimize`.
        regularizer: a loss to add, such as `1e-3 * losses.total_variation()`.
        key: a JAX key; `jax.random.key(0)` if None.
        options: further arguments of `minimize`, such as `optimizer`, `dtype`, `snapshots`.

    Returns:
        A `Solution`, the targets in the order asked for.

    Raises:
        InputError: as `parse` and `minimize`.

    Source:
        Olah, Mordvintsev & Schubert, Feature Visualization (2017).

    Example:
        >>> import jaxopt_input as joi
        >>> solution = visualize(joi.load("tin100"), "class:dumbbell", starts=2, steps=4)
        >>> solution.best_image.shape
        (2, 64, 64, 3)
    """
    image = (image or fourier()).bind(_sized(model, size))
    return solve(
        [t for text in ([target] if isinstance(target, str) else target) for t in parse(text, model, image.bound())],
        model,
        starts=starts,
        steps=steps,
        image=image,
        transform=transform,
        regularizer=regularizer,
        key=jax.random.key(0) if key is None else key,
        **options,
    )


def solve(
    wanted: Sequence[Target], model: Model, *, starts: int, steps: int, regularizer: Loss | None = None, **options: Any
) -> Solution:
    """`minimize` for parsed targets: one call for each kind and layer, put back into the order asked for."""
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        raise InputError("no target: name at least one, such as class:3 or LAYER:CHANNEL")
    groups: dict[tuple[str, str], list[int]] = {}
    for place, target in enumerate(wanted):
        groups.setdefault((target.kind, target.layer), []).append(place)
    progress, solutions = options.pop("on_progress", None), []
    for number, places in enumerate(groups.values()):
        loss = objective([wanted[place] for place in places])
        solutions.append(
            minimize(
                loss if regularizer is None else loss + regularizer,
                model,
                starts=starts,
                steps=steps,
                on_progress=progress and _part_of(progress, number, len(groups)),
                **options,
            )
        )
    if len(solutions) == 1:
        return solutions[0]
    order = np.argsort(np.concatenate([np.repeat(places, starts) for places in groups.values()]), kind="stable")
    return _reordered(solutions, order)


def _part_of(progress: Any, number: int, parts: int) -> Any:
    return lambda done, total, loss: progress(number * total + done, parts * total, loss)


def _reordered(solutions: Sequence[Solution], order: np.ndarray) -> Solution:
    """Several solutions as one, its lanes in another order."""

    def join(axis: int, *parts: Any) -> jax.Array:
        return jnp.asarray(np.take(np.concatenate([np.asarray(part) for part in parts], axis), order, axis))

    joined: dict[str, Any] = {}
    for field in dataclasses.fields(Solution):
        parts = [getattr(solution, field.name) for solution in solutions]
        if field.name == "names":
            flat = [name for part in parts for name in part]
            joined["names"] = tuple(flat[n] for n in order)
        elif field.name == "check_steps":
            joined["check_steps"] = parts[0]
        else:
            axis = 1 if field.name == "snapshots" else 0
            joined[field.name] = jax.tree.map(lambda *xs, axis=axis: join(axis, *xs), *parts)
    return Solution(**joined)


def _sized(model: Model, size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """The image shape that a size asks of a model."""
    height, width, channels = model.info.image_shape
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise InputError(f"the size must be at least 1, not {size!r}")
    return int(height), int(width), channels
