"""What a dream is asked for: its targets as a loss, its settings, and the authors' presets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.engine.target import Joint, Target, expand
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.images.parameterization import check_images
from jaxopt_input.losses import Loss
from jaxopt_input.methods.dream import normalize as normalize
from jaxopt_input.models.model import Apply, Model


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a dream is made; every field may be given to `dream` by name.

    Attributes:
        target: layers to excite where the model has them all and no target is given.
        objective: "l2", the mean square of a layer's or channel's activation, or "mean", its mean. Half the sum of
            squares is the same thing here: the gradient is normalized.
        octaves: their exponents, one a size `octave_scale ** exponent` times the image's; as an argument of `dream`,
            a number n stands for 1 - n to 0. Where the last is not 0, the result is brought back to the image's size.
        octave_scale: the ratio of two octaves' sides, above 1.
        iterations: steps in each octave.
        step: of one iteration, for images in [0, 1], times the normalized gradient.
        jitter: the largest random shift each way in pixels, by roll, drawn anew at each iteration. Where there are
            several tiles it is at least half a tile.
        normalize: one of "mean-abs", "std" and "laplacian"; see `methods.dream.normalize`.
        bands: of the Laplacian pyramid.
        clip: to [0, 1] after each step; the result always is.
        carry: "detail" adds what an octave changed, enlarged, to the next one's base; "image" enlarges the image.
        tile: the largest side, in pixels, of what the network sees at once, less its margins.
        overlap: the margin of a tile on each side, in pixels; see `methods.dream.tiles`.
    """

    target: tuple[str, ...] = ()
    objective: str = "l2"
    octaves: Sequence[int] = (-3, -2, -1, 0)
    octave_scale: float = 1.4
    iterations: int = 10
    step: float = 1.5 / 255
    jitter: int = 32
    normalize: str = "mean-abs"
    bands: int = 4
    clip: bool = True
    carry: str = "detail"
    tile: int = 512
    overlap: int = 64


PRESETS = {
    "caffe2015": Settings(target=("inception4c",)),
    "tf-plain": Settings(target=("inception4c",), jitter=256, clip=False),
    "tf-lap": Settings(
        objective="mean", octaves=(-2, -1, 0), step=1 / 255, jitter=256, normalize="laplacian", bands=4, clip=False
    ),
    "tf2": Settings(
        target=("mixed3", "mixed5"),
        objective="mean",
        octaves=(-2, -1, 0, 1, 2),
        octave_scale=1.3,
        iterations=50,
        step=0.01 / 2,
        jitter=0,
        normalize="std",
        carry="image",
    ),
}
"""The authors' settings: DeepDream's notebook for Caffe (2015); of TensorFlow's first tutorial (2016) the plain
rendering and the one normalized by Laplacian bands; TensorFlow's second tutorial (2019)."""


def settle(preset: str | Settings, changes: Mapping[str, Any]) -> Settings:
    """A preset with some of its settings changed, checked.

    Raises:
        InputError: for an unknown preset or setting, offering the nearest names, or a value out of range.

    Example:
        >>> settle("caffe2015", {"octaves": 3}).octaves
        (-2, -1, 0)
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        preset = PRESETS[preset]
    fields = [field.name for field in dataclasses.fields(Settings)]
    if strange := [name for name in changes if name not in fields]:
        raise unknown("setting", strange[0], fields)
    s = dataclasses.replace(preset, **changes)
    exponents = range(1 - s.octaves, 1) if isinstance(s.octaves, int) else s.octaves
    whole = isinstance(exponents, Sequence) and all(isinstance(e, int) for e in exponents)
    if not whole or not exponents or list(exponents) != sorted(set(exponents)):
        raise InputError(f"octaves are a number from 1 up, or increasing exponents, not {s.octaves!r}")
    s = dataclasses.replace(s, octaves=tuple(exponents))
    if s.normalize not in normalize.NAMES:
        raise unknown("normalization", s.normalize, normalize.NAMES)
    if s.carry not in ("detail", "image"):
        raise unknown("way to carry", s.carry, ("detail", "image"))
    for name, least in (("iterations", 1), ("jitter", 0), ("bands", 0), ("tile", 1), ("overlap", 0)):
        if not isinstance(getattr(s, name), Integral) or getattr(s, name) < least:
            raise InputError(f"{name} must be a whole number, at least {least}, not {getattr(s, name)!r}")
    for name, beyond in (("octave_scale", 1), ("step", 0)):
        if not isinstance(getattr(s, name), Real) or not beyond < getattr(s, name) < float("inf"):
            raise InputError(f"{name} must be a number above {beyond}, not {getattr(s, name)!r}")
    if s.overlap > s.tile:
        raise InputError(f"the overlap ({s.overlap}) must not be larger than the tile ({s.tile})")
    return s


def octave_shapes(height: int, width: int, settings: Settings) -> list[tuple[int, int]]:
    """The (height, width) of each octave: the image's times `octave_scale` to the exponent, rounded to the nearest.

    Example:
        >>> octave_shapes(140, 280, settle("caffe2015", {"octaves": 2}))
        [(100, 200), (140, 280)]
    """
    factors = [settings.octave_scale**exponent for exponent in settings.octaves]
    return [(int(height * factor + 0.5), int(width * factor + 0.5)) for factor in factors]


def wanted(target: str | Sequence[str], model: Model) -> list[Target]:
    """The terms, each with its weight, of what a dream is to excite.

    Args:
        target: "LAYER", "LAYER:CHANNEL" or "class:NAME", weighted and added up as in "0.5*fire6:3+fire6:17"; several
            texts are added up as well. Weighted channels of a layer are the way to control a dream by channel.
        model: whose layers and classes are meant.

    Raises:
        InputError: for an unknown layer, channel or class (the nearest names are offered), or a single unit.

    Example:
        >>> import jaxopt_input as joi
        >>> [str(term) for term in wanted(["2*block3:7+-block3:8", "class:dumbbell"], joi.load("tin100"))]
        ['2*block3:7', '-block3:8', 'class:60']
    """
    texts = [target] if isinstance(target, str) else list(target)
    if not texts:
        raise InputError("no target: name at least one, such as LAYER, LAYER:CHANNEL or class:NAME")
    terms: list[Target] = []
    for text in texts:
        found = expand(text, model)
        parts = list(found[0].terms) if isinstance(found[0], Joint) else found
        if len(found) > 1 or any(not isinstance(part, Target) or part.kind == "unit" for part in parts):
            raise InputError(f"a dream excites layers, channels and classes, each by name, not {text!r}")
        terms += parts  # type: ignore[arg-type]
    return terms


def objective(targets: Sequence[Target], model: Model, kind: str = "l2", guide: Any = None) -> Loss:
    """The loss of a dream: minus the weighted sum of what is to be excited.

    Args:
        targets: from `wanted`. A class counts by its logit.
        model: whose layers and classes are meant.
        kind: "l2" or "mean"; see `Settings`.
        guide: an image `[h, w, C]` in [0, 1]; layers are then to resemble it, position by position, and targets must
            be whole layers.

    Raises:
        InputError: for an unknown kind, or a guide that the layer or network does not suit.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> joi.losses.names(objective(wanted("block3:7+0.5*block2", model), model))
        ('block3:7+block2',)
    """
    if kind not in ("l2", "mean"):
        raise unknown("objective", kind, ("l2", "mean"))
    terms = [_excited(one, kind) for one in targets] if guide is None else _guided(targets, model, guide)
    return functools.reduce(lambda a, b: a + b, [term * -one.weight for term, one in zip(terms, targets, strict=True)])


def _excited(target: Target, kind: str) -> Loss:
    if target.kind == "class":
        return losses.class_logit(target.index)
    if target.kind == "channel":
        build = losses.channel_square if kind == "l2" else losses.channel
        return build(target.layer, target.index)
    return losses.layer(target.layer) if kind == "l2" else losses.layer_mean(target.layer)


def _guided(targets: Sequence[Target], model: Model, guide: Any) -> list[Loss]:
    guide = as_image(guide, model, "the guide")
    if other := [str(target) for target in targets if target.kind != "layer"]:
        raise InputError(f"a guide matches the features of whole layers, not {other[0]!r}: name the layer alone")
    layers = tuple(dict.fromkeys(target.layer for target in targets))
    try:
        shapes = restricted(model, layers).layers(guide.shape)
    except InputError as error:
        raise InputError(f"the guide: {error}; take a larger one") from error
    if flat := [layer for layer in layers if len(shapes[layer]) != 3]:
        raise InputError(f"layer {flat[0]} has no positions, which a guide needs: name a layer before it")
    features = _features(model.apply, layers, model.params, guide)
    return [losses.guided(t.layer, features[t.layer].reshape(-1, features[t.layer].shape[-1])) for t in targets]


@functools.partial(jax.jit, static_argnames=("apply", "layers"))
def _features(apply: Apply, layers: tuple[str, ...], params: Any, image: jax.Array) -> dict[str, jax.Array]:
    return {tap: value[0].astype(jnp.float32) for tap, value in apply(params, image[None], layers).items()}


def restricted(model: Model, taps: tuple[str, ...]) -> Model:
    """The model with these layers alone: deeper ones may be empty for a small image without harm."""
    return dataclasses.replace(model, info=dataclasses.replace(model.info, taps=taps))


def as_image(image: Any, model: Model, what: str) -> np.ndarray:
    """One float32 image with the model's number of channels, or an `InputError`."""
    image = check_images(image)
    channels = model.info.image_shape[2]
    if image.ndim != 3 or image.shape[2] != channels:
        raise InputError(f"{what} must be [height, width, {channels}] for {model.info.name}, not {image.shape}")
    return image


def or_default(target: Any, settings: Settings, model: Model) -> Any:
    if target is not None:
        return target
    if settings.target and set(settings.target) <= set(model.info.taps):
        return settings.target
    missing = f"{model.info.name} has no layer {' and '.join(settings.target)}" if settings.target else "no target"
    raise InputError(f"{missing}: name a target, such as {model.info.taps[len(model.info.taps) // 2]}")
