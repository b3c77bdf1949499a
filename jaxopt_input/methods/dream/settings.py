"""The settings of a dream and the authors' presets; its targets as a loss."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxopt_input import losses
from jaxopt_input.engine.target import Joint, Target, expand
from jaxopt_input.errors import InputError
from jaxopt_input.losses import Loss
from jaxopt_input.methods.photo import as_image
from jaxopt_input.methods.presets import check_choice, check_counts, check_range
from jaxopt_input.models.model import Model, restricted
from jaxopt_input.names import NORMALIZATIONS

OBJECTIVES = ("l2", "mean")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a dream is made; `dream` takes every field by name.

    Attributes:
        target: the layers to excite where no target is asked for and the model has all of them; else it is the map
            at two thirds of the model's depth, as theirs is in GoogLeNet.
        objective: "l2", the mean square of a layer's or channel's activation, or "mean", its mean. Half the sum of
            squares is the same thing here: the gradient is normalized.
        octaves: exponents, one per octave, whose size is `octave_scale ** exponent` times the photo's; a number n
            stands for 1 - n to 0. Where the last is not 0, the result is brought back to the photo's size.
        octave_scale: the ratio of two octaves' sides, above 1.
        iterations: steps in each octave.
        step: what one iteration adds, for images in [0, 1], times the normalized gradient.
        jitter: the largest random shift each way in pixels, by roll, drawn anew at each iteration. Where there are
            several tiles it is at least half a tile.
        normalize: how the gradient is scaled: "mean-abs", "std" or "laplacian", as in `methods.dream.normalize`.
        bands: of the Laplacian pyramid.
        clip: whether the image is clipped to [0, 1] after each step; the result always is.
        carry: "detail" adds what an octave changed, enlarged, to the next one's base; "image" enlarges the image.
        tile: the largest side, in pixels, of what the network sees at once, less its margins.
        overlap: the margin of a tile on each side, in pixels, as in `methods.dream.tiles`.

    Raises:
        InputError: for an unknown name, offering the nearest, or a value out of range.

    Example:
        >>> Settings(octaves=3).octaves
        (-2, -1, 0)
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

    def __post_init__(self) -> None:
        exponents = range(1 - self.octaves, 1) if isinstance(self.octaves, int) else self.octaves
        whole = isinstance(exponents, Sequence) and all(isinstance(exponent, int) for exponent in exponents)
        if not whole or not exponents or list(exponents) != sorted(set(exponents)):
            raise InputError(f"octaves are a number from 1 up, or increasing exponents, not {self.octaves!r}")
        object.__setattr__(self, "octaves", tuple(exponents))
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("normalization", self.normalize, NORMALIZATIONS)
        check_choice("way to carry", self.carry, ("detail", "image"))
        check_counts(self, iterations=1, jitter=0, bands=0, tile=1, overlap=0)
        check_range(self, ("octave_scale",), 1, above=True)
        check_range(self, ("step",), 0, above=True)
        if self.overlap > self.tile:
            raise InputError(f"the overlap ({self.overlap}) must not be larger than the tile ({self.tile})")


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


def octave_shapes(height: int, width: int, settings: Settings) -> list[tuple[int, int]]:
    """The (height, width) of each octave: the image's times `octave_scale` to the exponent, rounded to the nearest.

    Example:
        >>> octave_shapes(140, 280, Settings(octaves=2))
        [(100, 200), (140, 280)]
    """
    factors = [settings.octave_scale**exponent for exponent in settings.octaves]
    return [(int(height * factor + 0.5), int(width * factor + 0.5)) for factor in factors]


def default_layer(model: Model) -> str:
    """The layer that a dream excites in a model without the preset's layers: the map at two thirds of its depth.

    Raises:
        InputError: for a model without maps.

    Example:
        >>> import jaxopt_input as joi
        >>> default_layer(joi.load("tin100"))
        'block4'
    """
    maps = [tap for tap, shape in model.layers().items() if len(shape) == 3]
    outer = [tap for tap in maps if "/" not in tap] or maps
    if not outer:
        raise InputError(f"{model.info.name} has no layer with positions: name a target, such as class:0")
    return outer[2 * len(outer) // 3]


def wanted(target: str | Sequence[str] | None, model: Model, default: Sequence[str] = ()) -> list[Target]:
    """The terms, each with its weight, of what a dream is to excite.

    Args:
        target: "LAYER", "LAYER:CHANNEL" or "class:NAME", weighted and added up as in "0.5*fire6:3+fire6:17"; several
            texts are added up as well. Weighted channels of a layer are the way to control a dream by channel.
        model: whose layers and classes are meant.
        default: the layers that are meant where the target is None and the model has all of them; else it is
            `default_layer`.

    Raises:
        InputError: for an unknown layer, channel or class (the nearest names are offered), or a single unit.

    Example:
        >>> import jaxopt_input as joi
        >>> [str(term) for term in wanted(["2*block3:7+-block3:8", "class:dumbbell"], joi.load("tin100"))]
        ['2*block3:7', '-block3:8', 'class:60']
    """
    if target is None:
        target = default if default and set(default) <= set(model.info.taps) else default_layer(model)
    texts = [target] if isinstance(target, str) else list(target)
    if not texts:
        raise InputError("no target: name at least one, such as LAYER, LAYER:CHANNEL or class:NAME")
    terms: list[Target] = []
    for text in texts:
        parsed = expand(text, model)
        parts = list(parsed[0].terms) if isinstance(parsed[0], Joint) else parsed
        if len(parsed) > 1 or any(not isinstance(part, Target) or part.kind == "unit" for part in parts):
            raise InputError(f"a dream excites layers, channels and classes, each by name, not {text!r}")
        terms += parts  # type: ignore[arg-type]
    return terms


def objective(targets: Sequence[Target], model: Model, kind: str = "l2", guide: Any = None) -> Loss:
    """The loss of a dream: minus the weighted sum of what is to be excited.

    Args:
        targets: from `wanted`. A class counts by its logit.
        model: whose layers and classes are meant.
        kind: "l2" or "mean", as in `Settings`.
        guide: an image `[h, w, C]` in [0, 1]; layers are then to resemble it, position by position, and targets must
            be whole layers.

    Raises:
        InputError: for a guide that the layer or network does not suit.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> joi.losses.names(objective(wanted("block3:7+0.5*block2", model), model))
        ('block3:7+block2',)
    """
    terms = [_excited(target, kind) for target in targets] if guide is None else _guided(targets, model, guide)
    weighted = [term * -target.weight for term, target in zip(terms, targets, strict=True)]
    return functools.reduce(operator.add, weighted)


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
    model = restricted(model, layers)
    try:
        shapes = model.layers(guide.shape)
    except InputError as error:
        raise InputError(f"the guide: {error}; take a larger one") from error
    if flat := [layer for layer in layers if len(shapes[layer]) != 3]:
        raise InputError(f"layer {flat[0]} has no positions, which a guide needs: name a layer before it")
    activations = model.activations(guide[None], layers)
    features = {layer: np.asarray(x, np.float32).reshape(-1, x.shape[-1]) for layer, x in activations.items()}
    return [losses.guided(target.layer, features[target.layer]) for target in targets]
