"""Style transfer and texture synthesis: an image with the layer statistics of one image and the content of another.

    content, styles ─resize─► model ─► features ─► losses ─minimize─► image ─enlarge─► the next scale

Both are `minimize` on pixels, scale by scale; a texture is a transfer without content. What the losses compare with is
computed once per scale and handed over as arrays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxopt_input import images, optimizers
from jaxopt_input.checks import check_images, typed_key
from jaxopt_input.engine.lanes import Resources, resources
from jaxopt_input.engine.memory import free_bytes, tile_within
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.engine.solution import Solution
from jaxopt_input.errors import InputError
from jaxopt_input.losses import Loss
from jaxopt_input.methods.photo import as_image, fit, resize
from jaxopt_input.methods.presets import check_choice
from jaxopt_input.methods.style import recolor
from jaxopt_input.methods.style.settings import TEXTURE, Settings, default_layers, layer_weights, settings_of
from jaxopt_input.methods.style.terms import content_loss, style_loss, variation_loss
from jaxopt_input.models.model import Model, restricted
from jaxopt_input.models.receptive import receptive_field
from jaxopt_input.models.tiling import tiled
from jaxopt_input.names import STYLE_COLORS

GRAY = 1e-3  # the contrast of a start that is nearly gray
MOST = 4 << 30  # bytes of main memory that a run takes at most, unless more are asked for
SEARCH = 20  # images that a line search holds besides its history: measured at 2048x1536
LEAST_HISTORY = 5  # pairs of L-BFGS


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """A style, where it is more than an image.

    Attributes:
        photo: `[H, W, C]` in [0, 1], of any size.
        weight: against the other styles, at least 0; only the ratio of weights matters.
        mask: `[H, W]` in [0, 1] of the photo's size, what of it counts; all of it if None.
        region: `[H, W]` in [0, 1] of the content's size, where the result takes this style; everywhere if None.
    """

    photo: np.ndarray
    weight: float = 1.0
    mask: np.ndarray | None = None
    region: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """One scale of a transfer.

    Attributes:
        shape: (height, width) of the image.
        loss: `[starts, steps + 1]`, before each update and after the last.
        evaluations, restarts: `[starts]`, as in a `Solution`.
        terms: the last value of each part of the loss, "content", "style" or "style-1", …, "variation"; `[starts]`.
        memory: an estimate of the bytes that this scale took at most.
        tile: the side of the tiles in pixels that the network ran on; None where it ran on the whole image.
        seconds: of this scale, compilation included.
    """

    shape: tuple[int, int]
    loss: np.ndarray
    evaluations: np.ndarray
    restarts: np.ndarray
    terms: dict[str, np.ndarray]
    memory: int
    tile: int | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Stylized:
    """What `stylize` and `texture` made.

    Attributes:
        image: `[starts, H, W, C]` float32 in [0, 1].
        solution: of the last scale, before colors are given back.
        scales: from coarse to fine.
        settings: the layers filled in.
        snapshots: `[n, starts, h, w, C]` of each scale.
    """

    image: np.ndarray
    solution: Solution
    scales: tuple[Scale, ...]
    settings: Settings
    snapshots: tuple[np.ndarray, ...]


def stylize(
    model: Model,
    content: Any,
    styles: Any,
    *,
    preset: str | Settings = "default",
    size: int | None = 512,
    color: str = "style",
    initial: Any = None,
    starts: int = 1,
    key: jax.Array | None = None,
    frames: Callable[[int], Sequence[int]] | None = None,
    on: Resources | None = None,
    on_scale: Any = None,
    **settings: Any,
) -> Stylized:
    """The content of one image in the style of others.

    Args:
        model: the network.
        content: `[H, W, C]` in [0, 1], of any size.
        styles: an image `[H, W, C]` in [0, 1], or a `Style` with a weight and masks; or several of either.
        preset: one of `style.settings.PRESETS`, or `Settings`.
        size: of the result's longer side in pixels; the content's own if None.
        color: "style" takes the style's; "match" gives the style images the content's mean and covariance of colors
            first; "luminance" transfers the luminance alone and keeps the content's colors.
        initial: an image to start from, of any size, or "content", "style", "noise" or "gray"; the preset's if None.
        starts: how many results, from noise of their own; from an image all would be the same.
        key: a JAX key, the only source of randomness; `jax.random.key(0)` if None.
        frames: from the number of steps of a scale to those whose images are kept; None keeps none.
        on: the resources; without `memory` half of what is free, and at most 4 GiB of main memory. Where the image is
            too large for it, the network runs on tiles, with the same result to rounding. The first of the devices is
            used. Progress is called as (evaluations done, evaluations in all, loss).
        on_scale: called before each scale as (shape, bytes estimated, tile).
        settings: fields of `Settings` that differ from the preset's.

    Returns:
        A `Stylized`.

    Raises:
        InputError: before anything is compiled, for layers or weights that do not fit each other or the network, a
            style smaller than a layer's receptive field, masks of another size, and as `settings_of`.

    Source:
        Gatys, Ecker & Bethge, Image Style Transfer Using Convolutional Neural Networks (2016).

    Example:
        >>> import jaxopt_input as joi
        >>> rng = np.random.default_rng(0)
        >>> content, style = rng.uniform(size=(2, 64, 80, 3)).astype(np.float32)
        >>> done = stylize(joi.load("tin100"), content, style, size=64, steps=4, style_layers=("conv1", "block3"))
        >>> done.image.shape, bool(done.scales[0].loss[0, -1] < done.scales[0].loss[0, 0])
        ((1, 51, 64, 3), True)
    """
    if isinstance(initial, str):
        settings["initial"], initial = initial, None
    s = settings_of(preset, **settings)
    content = as_image(content, model, "the content")
    parsed = _styles(styles, model, content)
    check_choice("color", color, STYLE_COLORS)
    recolored = {"match": recolor.match_moments, "luminance": recolor.like_luminance}.get(color)
    if recolored:
        parsed = [dataclasses.replace(style, photo=recolored(style.photo, content)) for style in parsed]
    gray = recolor.luminance(content) if color == "luminance" else content
    shape = fit(content.shape, max(content.shape[:2]) if size is None else size)
    done = _run(model, s, shape, gray, parsed, initial, starts=starts, key=key, frames=frames, on=on, on_scale=on_scale)
    if color != "luminance":
        return done
    colors = resize(content, shape)
    return dataclasses.replace(done, image=np.stack([recolor.with_luminance(colors, image) for image in done.image]))


def texture(
    model: Model,
    styles: Any,
    *,
    preset: str | Settings = TEXTURE,
    size: int | tuple[int, int] = 256,
    key: jax.Array | None = None,
    **options: Any,
) -> Stylized:
    """An image that is a texture like another's, of any size, from noise.

    Args:
        model: the network.
        styles: as in `stylize`, without regions; the statistics of several are blended.
        preset: one of `style.settings.PRESETS`, or `Settings`; its content is left out.
        size: of the result, a side or (height, width). The style keeps its own resolution, unless `style_scale` is
            not 1.
        key: a JAX key; `jax.random.key(0)` if None.
        options: further arguments of `stylize`, or fields of `Settings`.

    Returns:
        A `Stylized`.

    Raises:
        InputError: as `stylize`.

    Source:
        Gatys, Ecker & Bethge, Texture Synthesis Using Convolutional Neural Networks (2015).

    Example:
        >>> import jaxopt_input as joi
        >>> style = np.random.default_rng(0).uniform(size=(64, 64, 3)).astype(np.float32)
        >>> texture(joi.load("tin100"), style, size=(32, 48), steps=4, style_layers=("conv1",)).image.shape
        (1, 32, 48, 3)
    """
    fields = {field.name for field in dataclasses.fields(Settings)}
    s = settings_of(preset, **{name: options.pop(name) for name in fields & options.keys()})
    s = dataclasses.replace(s, content_weight=0.0, initial="noise" if s.initial == "content" else s.initial)
    parsed = _styles(styles, model, None)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError(f"the size must be at least 1, not {size!r}")
    return _run(model, s, (int(height), int(width)), None, parsed, key=key, **options)


def _styles(styles: Any, model: Model, content: np.ndarray | None) -> list[Style]:
    """The styles with weights whose sum is 1, or an `InputError` for images, weights or masks that do not fit."""
    several = isinstance(styles, list | tuple) or (not isinstance(styles, Style) and np.ndim(styles) == 4)
    many = [x if isinstance(x, Style) else Style(x) for x in (styles if several else [styles])]
    if not many:
        raise InputError("no style image: give at least one")
    weights = [float(style.weight) for style in many]
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise InputError(f"weights of styles are at least 0 and not all 0, not {weights}")
    checked = []
    for style in many:
        photo = as_image(style.photo, model, "a style image")
        for what, mask, masked in (("a style mask", style.mask, photo), ("a content mask", style.region, content)):
            shape = None if masked is None else masked.shape[:2]
            if mask is not None and np.shape(mask) != shape:
                raise InputError(f"{what} has shape {np.shape(mask)}, its image {shape}: they must agree")
            if mask is not None:
                check_images(np.asarray(mask)[..., None])
        checked.append(dataclasses.replace(style, photo=photo, weight=style.weight / sum(weights)))
    return checked


@dataclasses.dataclass(frozen=True)
class _Job:
    """What does not change from scale to scale."""

    model: Model
    settings: Settings
    style_layers: tuple[str, ...]
    content_layers: tuple[str, ...]
    content: np.ndarray | None
    styles: list[Style]
    starts: int
    key: jax.Array
    on: Resources

    @property
    def layers(self) -> tuple[str, ...]:
        """Those of the style and of the content, none twice."""
        return tuple(dict.fromkeys((*self.style_layers, *self.content_layers)))

    def full(self, shape: tuple[int, int]) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return (*shape, self.model.info.image_shape[2])

    def style_shape(self, photo: np.ndarray, longest: int) -> tuple[int, int]:
        """(height, width) of a style image for a result of that longest side: never enlarged."""
        largest = max(photo.shape[:2])
        side = (largest if self.content is None else longest) * self.settings.style_scale
        return fit(photo.shape, min(largest, max(1, round(side))))


def _run(
    model: Model,
    s: Settings,
    shape: tuple[int, int],
    content: np.ndarray | None,
    styles: list[Style],
    initial: Any = None,
    *,
    starts: int = 1,
    key: jax.Array | None = None,
    frames: Callable[[int], Sequence[int]] | None = None,
    on: Resources | None = None,
    on_scale: Callable[[tuple[int, int], int, int | None], Any] | None = None,
) -> Stylized:
    """All scales, from coarse to fine, each from the one before with the optimizer's state."""
    key = typed_key(jax.random.key(0) if key is None else key)
    style_layers, content_layers = s.style_layers, s.content_layers if s.content_weight else ()
    named = bool(style_layers)
    if not style_layers or content_layers is None:  # layers that are named may be all that such an image has
        defaults = default_layers(model, (*shape, model.info.image_shape[2]))
        style_layers = style_layers or defaults[0]
        content_layers = defaults[1] if content_layers is None else content_layers
    on = dataclasses.replace(_with_memory(resources(on)), chunk=starts)
    job = _Job(model, s, tuple(style_layers), tuple(content_layers), content, styles, starts, key, on)
    if not named:  # of its own accord no layer that sees more than a style image holds
        fitting = tuple(layer for layer in job.style_layers if not _too_small(job, layer, shape))
        job = dataclasses.replace(job, style_layers=fitting or job.style_layers[:1])
    s = dataclasses.replace(s, style_layers=job.style_layers, content_layers=job.content_layers)
    job = dataclasses.replace(job, settings=s)
    _check(job, shape)
    shapes = _scales(shape, s.smallest)
    steps = [s.steps] * len(shapes)
    if s.first_steps and len(shapes) > 1:
        steps[0] = s.first_steps
    pictures = _first(job, None if initial is None else as_image(initial, model, "the initial image"), shapes[0])
    solution, scales, films = None, [], []
    for number, (sides, evaluations) in enumerate(zip(shapes, steps, strict=True)):
        before, pictures = pictures.shape[1:3], np.stack([np.clip(resize(x, sides), 0, 1) for x in pictures])
        begin = pictures if solution is None or s.optimizer != "adam" else _resized(solution, pictures, before, s)
        share = on.share(sum(steps[:number]), evaluations - 1, sum(steps))
        solution, scale = _scale(job, sides, evaluations, begin, share, frames, on_scale)
        pictures = _result(solution)
        scales.append(scale)
        films += [np.asarray(solution.snapshots)] if frames else []
    if s.match_histogram:
        pictures = np.stack([recolor.match_histogram(x, styles[0].photo) for x in pictures])
    assert solution is not None
    return Stylized(np.clip(pictures, 0, 1), solution, tuple(scales), s, tuple(films))


def _with_memory(on: Resources) -> Resources:
    """The first device of some resources, with a bound of its memory."""
    devices, memory = on.local[:1], on.memory
    if memory is None:
        memory = free_bytes(devices) // 2
        memory = min(memory, MOST) if devices[0].platform == "cpu" else memory
    return dataclasses.replace(on, devices=devices, memory=memory)


def _result(solution: Solution) -> np.ndarray:
    """The images that a scale makes: the average where there is one, else the best."""
    return np.asarray(solution.best_image if solution.average_image is None else solution.average_image)


def _scale(
    job: _Job,
    shape: tuple[int, int],
    evaluations: int,
    begin: np.ndarray | Solution,
    on: Resources,
    frames: Callable[[int], Sequence[int]] | None,
    on_scale: Any,
) -> tuple[Solution, Scale]:
    """One scale: from images `[starts, H, W, C]`, or from the solution of the scale before, resized."""
    began, s, full = time.perf_counter(), job.settings, job.full(shape)
    history, tile, estimate = _within(job, full, int(on.memory or 0) // job.starts)
    estimate *= job.starts
    if on_scale:
        on_scale(shape, estimate, tile)
    losses = _losses(job, shape, tile)
    optimizer = optimizers.lbfgs(history, max_evaluations=evaluations)
    if s.optimizer == "adam":
        optimizer = optimizers.adam(s.learning_rate, b2=0.99)
        optimizer = optimizers.averaged(optimizer, s.average) if s.average else optimizer
    model = _on_tiles(job.model, job.layers, full, tile)
    updates = evaluations - 1  # the last value counts as well
    solution = minimize(
        functools.reduce(operator.add, losses.values()),
        model,
        image=images.by_name(s.parameterization).bind(full),
        optimizer=optimizer,
        steps=updates,
        starts=job.starts,
        key=job.key,
        initial=begin,
        snapshots=frames(updates) if frames else (),
        on=on,
    )
    loss, counts, restarts = map(np.asarray, (solution.loss, solution.evaluations, solution.restarts))
    terms = _terms(losses, model, _result(solution))
    return solution, Scale(shape, loss, counts, restarts, terms, estimate, tile, time.perf_counter() - began)


def _check(job: _Job, shape: tuple[int, int]) -> None:
    """Raise an `InputError` for layers, weights or images that do not fit each other."""
    layer_weights(job.settings, job.style_layers)
    for layer in job.layers:
        check_choice("layer", layer, job.model.info.taps)
        if len(restricted(job.model, (layer,)).layers(job.full(shape))[layer]) != 3:
            raise InputError(f"layer {layer} has no positions: name a layer before it")
    for layer in job.style_layers:
        if problem := _too_small(job, layer, shape):
            raise InputError(problem)


def _too_small(job: _Job, layer: str, shape: tuple[int, int]) -> str:
    """What is wrong where a layer sees more at once than a style image holds, else nothing."""
    for number, style in enumerate(job.styles, 1):
        small = job.style_shape(style.photo, max(shape))
        field = _field(restricted(job.model, (layer,)), layer, job.full(small))
        if field and (field[0] > small[0] or field[1] > small[1]):
            return (
                f"style image {number} is {small[0]}x{small[1]} here, smaller than what {layer} sees at once "
                f"({field[0]}x{field[1]}): give a larger one, or name earlier layers"
            )
    return ""


def _field(model: Model, layer: str, shape: tuple[int, int, int]) -> tuple[int, int] | None:
    """The size of a layer's receptive field, None where it cannot be read from the model."""
    model.layers(shape)  # an image may be too small for the layer
    try:
        return receptive_field(model, layer, shape).size
    except InputError:
        return None


def _scales(shape: tuple[int, int], smallest: int) -> list[tuple[int, int]]:
    """The shapes from coarse to fine, each about √2 times the one before, the first at least `smallest`."""
    longest = max(shape)
    count = 1 if not 0 < smallest < longest else 1 + math.floor(2 * math.log2(longest / smallest) + 1e-9)
    return [fit(shape, round(longest / 2 ** (n / 2))) for n in reversed(range(1, count))] + [shape]


def _within(job: _Job, shape: tuple[int, int, int], memory: int) -> tuple[int, int | None, int]:
    """(history, tile, bytes) for an image: L-BFGS remembers less where its pairs of images alone would be too much."""
    model, most = restricted(job.model, job.layers), job.settings.history
    within = functools.partial(tile_within, model, job.layers, shape, memory)
    if job.settings.optimizer != "lbfgs":
        return most, *within(optimizer_copies=3)
    for history in (most, most // 2, most // 4):
        if history >= LEAST_HISTORY:
            with contextlib.suppress(InputError):
                return history, *within(optimizer_copies=2 * history + SEARCH)
    history = min(most, LEAST_HISTORY)
    return history, *within(optimizer_copies=2 * history + SEARCH)


def _on_tiles(model: Model, taps: tuple[str, ...], shape: tuple[int, int, int], tile: int | None) -> Model:
    """The model with these layers alone, on tiles if need be."""
    return restricted(model, taps) if tile is None else tiled(model, taps, shape, tile)


def _features(model: Model, image: np.ndarray, taps: tuple[str, ...], tile: int | None) -> dict[str, np.ndarray]:
    """`{layer: [h, w, C]}` of an image."""
    activations = _on_tiles(model, taps, image.shape, tile).activations(image[None], taps)
    return {layer: np.asarray(value[0], np.float32) for layer, value in activations.items()}


def _losses(job: _Job, shape: tuple[int, int], tile: int | None) -> dict[str, Loss]:
    """The parts of the loss at a scale, by name."""
    model, s = job.model, job.settings
    shapes = restricted(model, job.style_layers).layers(job.full(shape))
    weights = dict(zip(job.style_layers, layer_weights(s, job.style_layers), strict=True))
    parts: dict[str, Loss | None] = {}
    if job.content is not None and s.content_weight:
        parts["content"] = content_loss(_features(model, resize(job.content, shape), job.content_layers, tile), s)
    for number, style in enumerate(job.styles, 1):
        small = resize(style.photo, job.style_shape(style.photo, max(shape)))
        parts["style" if len(job.styles) == 1 else f"style-{number}"] = style_loss(
            _features(model, small, job.style_layers, tile),
            shapes,
            s,
            {layer: style.weight * weight for layer, weight in weights.items()},
            job.key,
            style.mask,
            style.region,
        )
    parts["variation"] = variation_loss(job.full(shape), s)
    return {name: part for name, part in parts.items() if part is not None}


def _first(job: _Job, photo: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """The images `[starts, H, W, C]` that the first scale starts from: a photo, or what the settings say."""
    kind, full = job.settings.initial, job.full(shape)
    if photo is None:
        photo = {"content": job.content, "style": job.styles[0].photo}.get(kind)
    if photo is not None:
        return np.repeat(np.clip(resize(photo, shape), 0, 1)[None], job.starts, 0)
    mean, spread = np.full(full[2], 0.5), np.full(full[2], GRAY)
    if kind == "noise":
        mean, spread = (np.mean([f(style.photo, (0, 1)) for style in job.styles], 0) for f in (np.mean, np.std))
    noise = [np.asarray(jax.random.normal(jax.random.fold_in(job.key, start), full)) for start in range(job.starts)]
    return np.clip(mean + spread * np.stack(noise), 0, 1).astype(np.float32)


def _resized(solution: Solution, pictures: np.ndarray, before: tuple[int, ...], s: Settings) -> Solution:
    """A solution to go on with at another size, from images `[starts, H, W, C]`: Adam's moments resized like them."""

    def moments(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return np.stack([resize(x, pictures.shape[1:3]) for x in array]) if array.shape[1:3] == before else array

    theta = jax.jit(images.by_name(s.parameterization).bind(pictures.shape[1:]).encode)(pictures)
    state = jax.tree.map(moments, solution.optimizer_state)
    return dataclasses.replace(solution, theta=theta, optimizer_state=state, check_steps=(0,))


@jax.jit
def _values(losses: dict[str, Loss], activations: dict[str, jax.Array], made: jax.Array) -> dict[str, jax.Array]:
    return {name: jax.vmap(loss)(activations, made) for name, loss in losses.items()}


def _terms(losses: dict[str, Loss], model: Model, made: np.ndarray) -> dict[str, np.ndarray]:
    """The value of each part of the loss for each image."""
    activations = model.activations(made, model.info.taps)
    return {name: np.asarray(value) for name, value in _values(losses, activations, made).items()}
