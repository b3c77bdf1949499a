"""Inversion: images that a layer cannot tell from a photograph, or only part of its features, or several layers.

photograph ─► model ─► Φ₀ of every layer ─► one loss per rung of the ladder ─► minimize ─► Φ(x), error = ‖Φ(x)−Φ₀‖/‖Φ₀‖
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxopt_input import losses, optimizers
from jaxopt_input.data import to_uint8
from jaxopt_input.engine.lanes import Resources, resources
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.engine.solution import Solution
from jaxopt_input.engine.target import Between, Sum, Target, expand, singles
from jaxopt_input.errors import InputError
from jaxopt_input.images.parameterization import Shape
from jaxopt_input.losses import Loss
from jaxopt_input.methods.invert.parts import Region, positions_in, weight_of
from jaxopt_input.methods.invert.settings import Preset, preset
from jaxopt_input.methods.photo import as_image
from jaxopt_input.models.model import Model, restricted
from jaxopt_input.optimizers import is_line_search

FIELDS = {field.name for field in dataclasses.fields(Preset)}


@dataclasses.dataclass(frozen=True)
class Rung:
    """The images that match a layer, or several at once.

    Attributes:
        target: the layer, or the weighted sum of layers, such as "fire4" or "0.5*conv1+fire4".
        solution: of its starts.
        error: for each layer, `[starts]` float64: ‖Φ(x) − Φ₀‖ / ‖Φ₀‖ of `solution.best_image`, over the features that
            were to be matched.
        error_8bit: the same after rounding to 8 bits, as in a file.
        positions: for each layer, which of its positions were to be matched, (first row, first column, past the last
            row, past the last column); None where all were.
    """

    target: Sum
    solution: Solution
    error: dict[str, np.ndarray]
    error_8bit: dict[str, np.ndarray]
    positions: dict[str, Region] | None

    @property
    def name(self) -> str:
        """The canonical name of its target."""
        return str(self.target)

    @property
    def best(self) -> int:
        """The start of the least error, a mean over the layers."""
        return int(np.argmin(np.nan_to_num(np.mean(list(self.error.values()), axis=0), nan=np.inf)))


@dataclasses.dataclass(frozen=True)
class Inversion:
    """What `invert` makes.

    Attributes:
        photo: `[H, W, C]`, what was inverted.
        rungs: in the order asked for.
    """

    photo: np.ndarray
    rungs: tuple[Rung, ...]

    def solution(self) -> Solution:
        """All rungs as one `Solution`, less θ."""
        return Solution.concat([dataclasses.replace(rung.solution, theta=()) for rung in self.rungs])


def invert(
    model: Model,
    photo: Any,
    layers: str | Sequence[str],
    *,
    preset: str | Preset = "default",
    starts: int = 1,
    channels: tuple[int, int] | None = None,
    region: Region | None = None,
    learning_rate: Any = None,
    key: jax.Array | None = None,
    on: Resources | None = None,
    **options: Any,
) -> Inversion:
    """Images, from several random starts each, whose features in a layer are those of a photo.

    Another photo of the same size, and other weights of layers, do not recompile.

    Args:
        model: the network.
        photo: `[H, W, C]` in [0, 1], what to invert; its size is that of the results.
        layers: a layer, or several as a ladder of which each is matched for itself; "A+B" is one image that matches
            both, "0.5*A+B" weighs them, "all" stands for every tap.
        preset: a published method by name, of `methods.invert.settings.preset`, or a `Preset`.
        starts: random starts of each rung.
        channels: (first, past the last), a group of channels to match alone.
        region: (y0, x0, y1, x1), a rectangle of the photo in pixels, the last two past its end: the positions alone are
            matched whose receptive field has its center there. So one region suits all layers of a ladder.
        learning_rate: of the optimizer, in place of its own; of the first stage where a preset has several.
        key: a JAX key; `jax.random.key(0)` if None.
        on: the resources; `receive` is called with the solution of each rung.
        options: fields of `Preset` that differ from the preset's: `image`, such as `images.pixels()`, `optimizer`,
            `projection`, `regularizer`, `steps`; and further arguments of `minimize`, such as `snapshots`, `initial`.
            Presets of several stages share the steps out in the same proportion. Where they are the preset's own,
            L-BFGS takes as many evaluations of its line searches at most.

    Returns:
        An `Inversion`.

    Raises:
        InputError: for an unknown layer (the nearest are offered), one that is empty at the photo's size, a group or
            region that is empty or outside the layer, features that are zero or not finite, and as `preset` and
            `minimize`.

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015). Several layers at once,
        regions in pixels and the default settings are this package's.

    Example:
        >>> import jaxopt_input as joi
        >>> photo = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
        >>> inversion = invert(joi.load("tin100"), photo, ["conv1", "conv1+block2"], starts=2, steps=8)
        >>> [rung.name for rung in inversion.rungs], inversion.rungs[0].solution.best_image.shape
        (['conv1', 'conv1+block2'], (2, 32, 32, 3))
    """
    ladder = parse_ladder(layers, model)
    taps = tuple(dict.fromkeys(term.layer for rung in ladder for term in singles(rung)))
    photo = as_image(photo, model, "the photo")
    changes = {name: options.pop(name) for name in FIELDS & options.keys()} | {"learning_rate": learning_rate}
    chosen = {rung: _settled(preset, model, photo.shape, singles(rung), **changes) for rung in ladder}
    model = restricted(model, taps)  # deeper layers may be empty at this size
    shapes = model.layers(photo.shape)
    positions: dict[str, Region] = {}
    if region is not None:
        positions = {tap: positions_in(model, tap, region, photo.shape, shapes[tap]) for tap in taps}
    weights = {tap: weight_of(tap, shapes[tap], channels, positions.get(tap)) for tap in taps}
    target = features(model, photo, taps)
    distances = {rung: distance(singles(rung), target, weights) for rung in ladder}
    key, on = jax.random.key(0) if key is None else key, resources(on)
    done, total, rungs = 0, sum(settings.steps for settings in chosen.values()), []
    for rung, settings in chosen.items():
        loss = distances[rung]
        solution = _staged(
            loss if settings.regularizer is None else loss + settings.regularizer,
            restricted(model, loss.taps),
            settings,
            bounded=changes.get("steps") is None,
            on=dataclasses.replace(on.share(done, settings.steps, total), receive=None),
            image=settings.image.bind(photo.shape),
            projection=settings.projection,
            starts=starts,
            key=key,
            **options,
        )
        done, solution = done + settings.steps, solution.named([rung])
        if on.receive:
            on.receive(solution)
        rounded = to_uint8(solution.best_image) / np.float32(255)
        error, error_8bit = (
            _errors(model, pictures, taps, target, weights, loss.taps) for pictures in (solution.best_image, rounded)
        )
        where = {layer: positions[layer] for layer in loss.taps} if positions else None
        rungs.append(Rung(rung, solution, error, error_8bit, where))
    return Inversion(photo, tuple(rungs))


def parse_ladder(layers: str | Sequence[str], model: Model) -> list[Sum]:
    """The rungs of a ladder in the order asked for, none twice.

    Args:
        layers: as in `invert`.
        model: whose layers are meant.

    Raises:
        InputError: for an unknown layer, a weight that is not a positive number, or no layer at all.

    Example:
        >>> import jaxopt_input as joi
        >>> [str(rung) for rung in parse_ladder(["conv1", "2*conv1+block2"], joi.load("tin100"))]
        ['conv1', '2*conv1+block2']
    """
    ladder: list[Sum] = []
    for text in [layers] if isinstance(layers, str) else list(layers):
        for name in model.info.taps if text == "all" else (text,):
            for rung in expand(name, model):
                terms = singles(rung)
                if isinstance(rung, Between) or any(term.kind != "layer" for term in terms):
                    raise InputError(f"whole layers are inverted, as in 0.5*A+B, not {name!r}")
                if any(term.weight < 0 for term in terms):
                    raise InputError(f"the weight of a layer is a positive number, as in 0.5*A+B, not as in {name!r}")
                if len({term.layer for term in terms}) < len(terms):
                    raise InputError(f"{name!r} names a layer twice: give it a weight, as in 2*{terms[0].layer}")
                ladder.append(rung)
    if not ladder:
        raise InputError(f"no layer to invert: name at least one, such as {model.info.taps[0]}")
    return list(dict.fromkeys(ladder))


def distance(terms: Sequence[Target], target: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> Loss:
    """The mean of ‖Φ(x) − Φ₀‖²/‖Φ₀‖² over layers, each with its weight; one more layer leaves a penalty as strong.

    Args:
        terms: the layers.
        target: Φ₀ of each, `[H, W, C]` or `[C]`.
        weights: of each feature, as in `losses.feature_distance`.

    Example:
        >>> phi = np.array([[[3.0, 4.0]]], np.float32)
        >>> float(distance([Target("layer", "a")], {"a": phi}, {"a": np.ones_like(phi)})({"a": 2 * phi}, None))
        1.0
    """
    total = sum(term.weight for term in terms)
    parts = [
        term.weight / total * losses.feature_distance(term.layer, target[term.layer], weights[term.layer])
        for term in terms
    ]
    return functools.reduce(operator.add, parts)


def features(model: Model, image: np.ndarray, taps: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What layers see in one image, float32 without batch axis.

    Raises:
        InputError: where a number is not finite.

    Example:
        >>> import jaxopt_input as joi
        >>> features(joi.load("tin100"), np.zeros((32, 32, 3), np.float32), ("block4",))["block4"].shape
        (4, 4, 192)
    """
    activations = model.activations(image[None], taps)
    arrays = {tap: np.asarray(value[0], np.float32) for tap, value in activations.items()}
    if broken := [tap for tap in taps if not np.isfinite(arrays[tap]).all()]:
        raise InputError(f"what layer {broken[0]} sees in the image is not finite: nothing to invert there")
    return arrays


def relative_error(features: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """‖Φ(x) − Φ₀‖ / ‖Φ₀‖ over the features whose weight is 1, in float64.

    Example:
        >>> relative_error(np.array([3.0, 4.0]), np.array([0.0, 4.0]), np.array([1.0, 1.0]))
        0.75
    """
    ours, theirs = (np.asarray(x, np.float64).reshape(weight.shape) * weight for x in (features, target))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _errors(
    model: Model,
    pictures: Any,
    taps: tuple[str, ...],
    target: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    layers: Sequence[str],
) -> dict[str, np.ndarray]:
    """The error of each picture, `[N]` for each layer; one by one, by the program that the photo went through."""
    activations = [model.activations(np.asarray(picture)[None], taps) for picture in pictures]
    return {
        layer: np.array([relative_error(np.asarray(a[layer][0]), target[layer], weights[layer]) for a in activations])
        for layer in layers
    }


# ---- stages ----------------------------------------------------------------------------------------------------------


def _settled(name: str | Preset, model: Model, image_shape: Shape, terms: Sequence[Target], **changes: Any) -> Preset:
    """The preset for the deepest layer of a rung; its stride is how much smaller than the image its map is, or, for a
    layer without positions, the last map before it."""
    until = model.info.taps[: max(model.info.taps.index(term.layer) for term in terms) + 1]
    try:
        shapes = restricted(model, until).layers(image_shape)
    except InputError as error:
        raise InputError(f"{error}; take a larger image or a layer before it") from error
    maps = [shape for shape in shapes.values() if len(shape) == 3]
    stride = image_shape[0] / maps[-1][0] if maps else 1.0
    return preset(name, image_shape, len(until) / len(model.info.taps), stride, **changes)


def _staged(
    loss: Loss,
    model: Model,
    settings: Preset,
    *,
    bounded: bool,
    on: Resources,
    snapshots: Sequence[int] = (),
    initial: Any = None,
    **options: Any,
) -> Solution:
    """`minimize`, stage by stage, each from the last image of the one before."""
    rule, steps, before = settings.optimizer, settings.steps, 0
    if snapshots and not 0 <= min(snapshots) <= max(snapshots) <= steps:
        raise InputError(f"snapshots are steps from 0 to {steps}, not {list(snapshots)}")
    solution: Solution | None = None
    for stage, length in settings.parts(steps):
        last = before + length == steps
        if bounded and is_line_search(rule):
            rule = optimizers.lbfgs(rule.memory, max_evaluations=length + 1)
        slower = stage.factor != 1 and "learning_rate" in rule.hyperparameters
        part = minimize(
            loss,
            model,
            optimizer=rule.at_rate(stage.factor * rule.hyperparameters["learning_rate"]) if slower else rule,
            transform=stage.transform,
            steps=length,
            initial=initial if solution is None else np.clip(solution.image, 0, 1),
            snapshots=[s - before for s in snapshots if before <= s < before + length or (last and s == steps)],
            on=on.share(before, length, steps),
            **options,
        )
        solution = part if solution is None else solution.then(part)
        before += length
    assert solution is not None
    return solution
