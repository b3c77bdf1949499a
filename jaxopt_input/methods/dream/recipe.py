"""DeepDream: a picture's own structures, enhanced octave by octave along a normalized gradient.

    image ─resize─► base of the octave + detail carried from the one before ─► image
    image ─roll(key)─► tiles ─► model ─► −loss ─► gradient ─roll back─► normalize ─► image + step · gradient ─► clip

Why this is not `minimize`: its gradient is gathered tile by tile and normalized over the whole image, while `minimize`
hands a batch of whole images to the model. All numbers are traced, one program per shape; the compiled part is one
step, as a step of a large image takes far longer than a call.

Images are in [0, 1], while the authors step in units of 0 to 255 (Caffe, TensorFlow 1) or −1 to 1 (TensorFlow 2): their
step sizes are divided by 255 and by 2.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.checks import typed_key
from jaxopt_input.data import read_image, to_uint8
from jaxopt_input.engine.lanes import Resources, resources
from jaxopt_input.engine.memory import amount, estimate
from jaxopt_input.engine.target import Joint
from jaxopt_input.errors import InputError
from jaxopt_input.losses import Loss
from jaxopt_input.methods.dream import normalize, tiles
from jaxopt_input.methods.dream.settings import PRESETS, Settings, objective, octave_shapes, wanted
from jaxopt_input.methods.photo import as_image, fit, resize
from jaxopt_input.methods.presets import check_choice, choose
from jaxopt_input.models.model import Apply, Model, cast, restricted

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Octave:
    """One octave of a dream.

    Attributes:
        image: `[h, w, C]` float32 in [0, 1], as it left the octave.
        loss: `[iterations]`, minus the objective before each step, the mean over the tiles.
        evaluations: how many gradients of a tile were taken.
        seconds: of this octave, compilation included.
    """

    image: np.ndarray
    loss: np.ndarray
    evaluations: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Dream:
    """What `dream` made.

    Attributes:
        image: `[H, W, C]` float32 in [0, 1], of the size given: the last iterate.
        octaves: in their order.
        target: what was excited, an `engine.target` value; the name of a loss that was given in place of targets.
        finite: False where a loss or gradient was not finite; such steps were left out.
        dead: whether the gradient was zero at every step.
        snapshots: 8-bit images `[h, w, C]` of their octave's size, in order.
    """

    image: np.ndarray
    octaves: tuple[Octave, ...]
    target: Any
    finite: bool
    dead: bool
    snapshots: tuple[np.ndarray, ...]

    @property
    def name(self) -> str:
        """The canonical name of what was excited."""
        return str(self.target)


def starting_image(source: str | os.PathLike[str], model: Model, size: int | None, key: jax.Array) -> np.ndarray:
    """The image of a file, in the model's number of channels, or noise.

    Args:
        source: a file that Pillow reads, or "noise".
        model: whose number of channels, and for noise whose size, it has.
        size: of the longer side in pixels; its own if None.
        key: of the noise.

    Raises:
        InputError: for a file that is missing or no image.

    Example:
        >>> import jaxopt_input as joi
        >>> starting_image("noise", joi.load("tin100"), 96, jax.random.key(0)).shape
        (96, 96, 3)
    """
    picture = None if str(source) == "noise" else read_image(source)
    sides = (model.info.image_shape if picture is None else picture.shape)[:2]
    shape = (*(sides if size is None else fit(sides, size)), model.info.image_shape[2])
    if picture is None:
        return noise(key, shape)
    return picture if picture.shape == shape else read_image(source, shape, fit="stretch")


def noise(key: jax.Array, shape: Shape) -> np.ndarray:
    """Gray of level 100 of 255 with noise of at most one level: what the tutorials dream on without a picture.

    Source:
        TensorFlow tutorial "DeepDreaming with TensorFlow" (2016), `img_noise`.

    Example:
        >>> noise(jax.random.key(0), (4, 4, 3)).shape
        (4, 4, 3)
    """
    return np.asarray((100 + jax.random.uniform(key, shape)) / 255, np.float32)


@dataclasses.dataclass(frozen=True)
class _Program:
    """All that is static in a step: one compilation each."""

    apply: Apply
    taps: tuple[str, ...]
    rows: tiles.Axis
    columns: tiles.Axis
    normalize: str
    bands: int
    clip: bool
    dtype: str


def dream(
    model: Model,
    image: Any,
    target: str | Sequence[str] | Loss | None = None,
    *,
    preset: str | Settings = "caffe2015",
    guide: Any = None,
    key: jax.Array | None = None,
    snapshot_every: int = 0,
    on: Resources | None = None,
    **settings: Any,
) -> Dream:
    """A picture in which what a layer, channel or class responds to is enhanced, from coarse to fine.

    Args:
        model: the network.
        image: `[H, W, C]` in [0, 1], of any size; `noise` makes one from nothing.
        target: as in `wanted`, or any loss, which is minimized; the preset's own layers if None.
        preset: one of `PRESETS`, or `Settings`.
        guide: an image to resemble in the target's layers; see `objective`.
        key: a JAX key, the only source of randomness; `jax.random.key(0)` if None.
        snapshot_every: keep each octave's image before its first step and after every so many; 0 keeps none.
        on: the resources: with `memory`, tiles are made smaller than the settings' until one fits; the first of the
            devices is used. Progress is called as (steps done, steps in all, loss) after each step.
        settings: fields of `Settings` that differ from the preset's.

    Returns:
        A `Dream`.

    Raises:
        InputError: before anything is compiled, as `wanted`, `objective` and `Settings` do, and for a preset whose
            layers the model lacks, an image of another number of channels, or octaves too small for the network.

    Source:
        Mordvintsev, Olah & Tyka, Inceptionism: Going Deeper into Neural Networks (2015), and their notebook.

    Example:
        >>> import jaxopt_input as joi
        >>> picture = noise(jax.random.key(0), (80, 64, 3))
        >>> done = dream(joi.load("tin100"), picture, "block2", octaves=1, iterations=2)
        >>> done.image.shape, bool(done.octaves[0].loss[1] < done.octaves[0].loss[0])
        ((80, 64, 3), True)
    """
    s, on = choose(PRESETS, preset, **settings), resources(on)
    device = on.local[0]
    key = typed_key(jax.random.key(0) if key is None else key)
    image = as_image(image, model, "the image")
    excited: Any
    if isinstance(target, Loss):
        if guide is not None:
            raise InputError("a loss takes the place of targets: put losses.guided into it instead of a guide")
        if losses.names(target)[1:]:
            raise InputError("a dream has one target: add losses up instead of giving an array of indices")
        terms, taps, excited = [], target.taps, losses.names(target)[0]
    else:
        terms = wanted(target, model, s.target)
        taps = tuple(dict.fromkeys(term.layer for term in terms))
        excited = terms[0] if len(terms) == 1 else Joint(tuple(terms))
    shapes = octave_shapes(image.shape[0], image.shape[1], s)
    checked = [_program(model, taps, shape, s, on.dtype) for shape in shapes]
    if on.memory is not None and (tile := _tile_within(int(on.memory), model, taps, shapes, s)) != s.tile:
        s = dataclasses.replace(s, tile=tile)
        checked = [_program(model, taps, shape, s, on.dtype) for shape in shapes]
    loss = target if isinstance(target, Loss) else objective(terms, model, s.objective, guide)
    for _, layers in checked:
        loss.check(layers)
    programs = [program for program, _ in checked]
    params, loss = jax.device_put((model.params, loss), device)
    key = jax.device_put(key, device)

    total, octaves, snapshots, peaks = s.iterations * len(shapes), [], [], []
    current = base = resize(image, shapes[0])
    for number, (shape, program) in enumerate(zip(shapes, programs, strict=True)):
        begin, done = time.perf_counter(), number * s.iterations
        if number:
            changed, base = current - base, resize(image, shape)
            current = base + resize(changed, shape) if s.carry == "detail" else resize(current, shape)
        if snapshot_every:
            snapshots.append(to_uint8(current))
        reach = np.array([_reach(axis, s.jitter) for axis in (program.rows, program.columns)], np.int32)
        state = jax.device_put(np.array(current), device)  # a copy, as each step takes its image's memory over
        values = []
        for i in range(s.iterations):
            where = np.array([number, i], np.uint32)
            state, value, peak = _step(program, params, loss, state, key, where, np.float32(s.step), reach)
            values.append(value)
            peaks.append(peak)
            if snapshot_every and (i + 1) % snapshot_every == 0:
                snapshots.append(to_uint8(state))
            if on.progress:
                on.progress(done + i + 1, total, float(value))
        current = np.array(state)
        evaluations = s.iterations * program.rows.count * program.columns.count
        seconds = time.perf_counter() - begin
        octaves.append(Octave(np.clip(current, 0, 1), np.array(values, np.float32), evaluations, seconds))
    largest = np.array(peaks, np.float32)
    return Dream(
        image=np.clip(resize(current, image.shape[:2]), 0, 1),
        octaves=tuple(octaves),
        target=excited,
        finite=bool(np.isfinite(largest).all()),
        dead=bool((largest == 0).all()),
        snapshots=tuple(snapshots),
    )


def _program(
    model: Model, taps: tuple[str, ...], shape: tuple[int, int], s: Settings, dtype: str
) -> tuple[_Program, dict[str, tuple[int, ...]]]:
    """The program of an octave and its layers' shapes, or an `InputError` where the network cannot take its tiles."""
    for tap in taps:
        check_choice("layer", tap, model.info.taps)
    rows, columns = (tiles.cut(size, s.tile, s.overlap) for size in shape)
    try:
        if min(shape) < 1:
            raise InputError("it is empty")
        layers = restricted(model, taps).layers((rows.extent, columns.extent, model.info.image_shape[2]))
    except InputError as error:
        raise InputError(
            f"octave {shape[0]}x{shape[1]}: {error}; take fewer octaves, a smaller octave scale or a larger image"
        ) from error
    return _Program(model.apply, taps, rows, columns, s.normalize, s.bands, s.clip, dtype), layers


def _tile_within(
    memory: int, model: Model, taps: tuple[str, ...], shapes: Sequence[tuple[int, int]], s: Settings
) -> int:
    """The largest tile, of those in the settings and halves of it, with which every octave fits a memory."""
    channels, least = model.info.image_shape[2], 0
    for tile in (s.tile >> halvings for halvings in range(5)):
        if tile < min(tiles.GRID, s.tile):
            break
        extents = [tuple(tiles.cut(side, tile, s.overlap).extent for side in shape) for shape in shapes]
        view, image = max(extents, key=math.prod), max(shapes, key=math.prod)
        taken = estimate(model, taps, (*view, channels)) + 16 * 4 * channels * math.prod(image)
        if taken <= memory:
            return tile
        least = min(least or taken, taken)
    raise InputError(
        f"a memory of {amount(memory)} is too little: this dream takes {math.ceil(least / 2**20)} MiB at least; give "
        "it that, or take a smaller image"
    )


def _reach(axis: tiles.Axis, jitter: int) -> int:
    """The largest shift along an axis: among several tiles, enough for a cut to fall anywhere."""
    return jitter if axis.count == 1 else max(jitter, -(-axis.core // 2))


@functools.partial(jax.jit, static_argnames="program", donate_argnames="image")
def _step(
    program: _Program,
    params: Any,
    loss: Loss,
    image: jax.Array,
    key: jax.Array,
    where: jax.Array,
    step: jax.Array,
    reach: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The image after one step, the loss before it, and the largest number of the gradient."""
    key = jax.random.fold_in(jax.random.fold_in(key, where[0]), where[1])
    shift = jax.random.randint(key, (2,), -reach, reach + 1)
    params = cast(params, program.dtype)

    def value(tile: jax.Array) -> jax.Array:
        activations = program.apply(params, tile[None].astype(program.dtype), program.taps)
        return loss({tap: a[0].astype(jnp.float32) for tap, a in activations.items()}, tile)

    rolled = jnp.roll(image, shift, (0, 1))
    before, gradient = tiles.value_and_gradient(value, rolled, program.rows, program.columns)
    gradient = jnp.roll(gradient, -shift, (0, 1))
    peak = jnp.max(jnp.abs(gradient)) + 0 * before  # not finite where either is not
    moved = image - step * normalize.normalize(gradient, program.normalize, program.bands)
    moved = jnp.clip(moved, 0, 1) if program.clip else moved
    return jnp.where(jnp.isfinite(peak), moved, image), before, peak


def zoom(
    model: Model, image: Any, target: Any = None, *, frames: int, scale: float = 0.05, key: jax.Array | None = None,
    on: Resources | None = None, **options: Any,
) -> Iterator[Dream]:  # fmt: skip
    """A sequence of dreams, each of the one before, enlarged about its center: the endless zoom.

    Args:
        model, image, target, on: as in `dream`.
        frames: how many.
        scale: what each frame loses of its extent, from 0 up to 1.
        key: a JAX key; each frame derives its own.
        options: further arguments of `dream`.

    Yields:
        One `Dream` per frame; the first is of the image itself.

    Source:
        Mordvintsev, Olah & Tyka, DeepDream (2015); here the center stays in place to the pixel's fraction.

    Example:
        >>> import jaxopt_input as joi
        >>> picture = noise(jax.random.key(0), (32, 32, 3))
        >>> films = zoom(joi.load("tin100"), picture, "block2", frames=2, octaves=1, iterations=1)
        >>> [frame.image.shape for frame in films]
        [(32, 32, 3), (32, 32, 3)]
    """
    if not 0 <= scale < 1:
        raise InputError(f"a zoom's scale is from 0 up to 1, not {scale!r}")
    key, on = jax.random.key(0) if key is None else key, resources(on)
    for frame in range(frames):
        done = dream(model, image, target, key=jax.random.fold_in(key, frame), on=on.part(frame, frames), **options)
        yield done
        image = np.clip(resize(done.image, done.image.shape[:2], margin=scale / 2), 0, 1)
