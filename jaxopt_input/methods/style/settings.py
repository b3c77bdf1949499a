"""The settings of a texture or a style transfer: losses, layers, weights, optimizer, and the authors' presets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxopt_input.errors import InputError
from jaxopt_input.methods.presets import check_choice, check_counts, check_range, choose
from jaxopt_input.models.model import Model
from jaxopt_input.names import PARAMETERIZATIONS, STYLE_LOSSES, STYLE_STARTS

Weight = Callable[[int, int], float]  # from (positions, channels) of a layer's map

GATYS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CAFFE = 255 * 0.225  # pixels of 0 to 255 against pixels of unit variance: an estimate of what it does to activations


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a style is transferred or a texture made; `stylize` and `texture` take every field by name.

    The loss is content_weight · content + Σ_layers Σ_losses weight · style + tv_weight · total variation. In
    "relative" units each term is divided by its value where the layer is silent, so that weights mean the same for
    every network, layer and loss. In "published" units, which presets of published methods use, terms are the losses
    of `jaxopt_input.losses`, each weighted by what its authors' formula makes of it.

    Attributes:
        losses: names in `names.STYLE_LOSSES`, or (name, weight) pairs.
        style_layers: the layers of the style; those of `default_layers` that fit the style images if None.
        style_weights: one per layer, or one for all.
        content_layers: the layers of the content, likewise.
        content_weight: of the content against the style.
        tv_weight: of the total variation.
        units: "relative" or "published".
        style_unit, content_unit: in published units, what a weight of 1 is: from the positions and channels of a map.
        tv_unit: what a weight of 1 is of Σ (dx² + dy²); None is the mean over pixels and colors.
        feature_scale: in published units, the authors' activations divided by this network's.
        optimizer: "lbfgs" or "adam".
        history: pairs that L-BFGS keeps; half or a quarter of them where memory is short.
        learning_rate: of Adam.
        average: decay of the average of Adam's iterates that is the result; 0 takes the best iterate.
        parameterization: of the image, by name: "pixels" are clipped, "pixels-sigmoid" and "fourier" bounded smoothly,
            which suits line searches.
        steps: evaluations at each scale.
        first_steps: evaluations at the first of several scales; as `steps` if 0.
        smallest: longer side of the first scale; 0 for a single scale. Each scale is √2 times the one before.
        initial: "content", "style", "noise" (normal, in the style's mean color and contrast) or "gray" (faint noise).
        style_scale: longer side of the style images against the result's; they are never enlarged.
        match_histogram: whether the result takes the color histogram of the style at the end.

    Raises:
        InputError: for an unknown name, offering the nearest, or a value out of range.
    """

    losses: Sequence[Any] = ("gram",)
    style_layers: tuple[str, ...] | None = None
    style_weights: Sequence[float] = (1.0,)
    content_layers: tuple[str, ...] | None = None
    content_weight: float = 0.05
    tv_weight: float = 1.0
    units: str = "relative"
    style_unit: Weight = lambda positions, channels: 1.0
    content_unit: Weight = lambda positions, channels: 1.0
    tv_unit: float | None = None
    feature_scale: float = 1.0
    optimizer: str = "lbfgs"
    history: int = 20
    learning_rate: float = 0.02
    average: float = 0.0
    parameterization: str = "pixels"
    steps: int = 200
    first_steps: int = 0
    smallest: int = 0
    initial: str = "content"
    style_scale: float = 1.0
    match_histogram: bool = False

    def __post_init__(self) -> None:
        pairs = tuple(pair if isinstance(pair, tuple) else (pair, 1.0) for pair in self.losses)
        object.__setattr__(self, "losses", pairs)
        if not pairs:
            raise InputError(f"no style loss: name at least one of {', '.join(STYLE_LOSSES)}")
        for name, _ in pairs:
            check_choice("style loss", name, STYLE_LOSSES)
        check_choice("units", self.units, ("relative", "published"))
        check_choice("optimizer", self.optimizer, ("lbfgs", "adam"))
        check_choice("parameterization", self.parameterization, PARAMETERIZATIONS)
        check_choice("initial", self.initial, STYLE_STARTS)
        check_counts(self, first_steps=0, smallest=0, history=1, steps=1)
        check_range(self, ("content_weight", "tv_weight", "average"), 0)
        check_range(self, ("feature_scale", "learning_rate", "style_scale"), 0, above=True)
        if any(weight < 0 for weight in self.style_weights) or any(weight < 0 for _, weight in pairs):
            raise InputError(f"weights of the style must be at least 0, not {list(self.style_weights)}, {list(pairs)}")


_published = functools.partial(
    Settings, style_layers=GATYS, content_layers=("relu4_2",), units="published", tv_weight=0.0, steps=1000
)


def _li(loss: str, unit: Weight) -> Settings:
    """Li's code: Σ (F − P)², its style losses by the gradients that it writes down, a Laplacian's eighth as TV."""
    return _published(
        losses=(loss,),
        style_weights=(5.0,),
        content_weight=1.0,
        tv_weight=1e-2,
        style_unit=unit,
        content_unit=lambda positions, channels: positions * channels,
        tv_unit=255**2 / 16,
        feature_scale=CAFFE,
        initial="gray",
    )


PRESETS: dict[str, Settings] = {
    "default": Settings(),
    "gatys2015-texture": _published(
        style_layers=("relu1_1", "pool1", "pool2", "pool3", "pool4"),
        style_weights=(1e9,),
        content_layers=None,
        content_weight=0.0,
        steps=2000,
        initial="noise",
        match_histogram=True,
    ),
    "gatys2016": _published(
        style_weights=(0.2,),
        content_weight=1e-3,
        content_unit=lambda positions, channels: positions * channels / 2,  # ½ Σ (F − P)²
        initial="noise",
    ),
    "gatys2016-code": _published(
        style_weights=(1e3,),
        content_weight=1.0,
        style_unit=lambda positions, channels: 4 / channels**2,  # mean (ΔG/M)² = 4 E, weighted 1/N²
        feature_scale=CAFFE,
        steps=500,
    ),
    "johnson": _published(
        style_weights=(100.0,),
        content_weight=5.0,
        tv_weight=1e-3,
        style_unit=lambda positions, channels: 4 / channels**2,  # mean (ΔG/NM)² = 4 E / N²
        tv_unit=255**2 / 2,  # its gradient is that of ½ Σ (dx² + dy²), pixels of 0 to 255
        feature_scale=CAFFE,
        initial="gray",
    ),
    "li2017-linear": _li("mmd-linear", lambda positions, channels: 1e3 * positions / channels),
    "li2017-poly": _li("mmd-polynomial", lambda positions, channels: 0.1 * positions / (4 * channels**2)),
    "li2017-gaussian": _li("mmd-gaussian", lambda positions, channels: 3e14 / (4 * channels)),
    "li2017-bn": _li("batch-norm", lambda positions, channels: 1e3 * positions / 2),
    "crowsonkb": _published(
        losses=("wasserstein",),
        style_weights=tuple(weight / 341 for weight in (256.0, 64.0, 16.0, 4.0, 1.0)),
        content_weight=0.015,
        tv_weight=2.0,
        optimizer="adam",
        average=0.99,
        steps=500,
        first_steps=1000,
        smallest=128,
    ),
}
"""The published settings; `settings_of` says whose they are."""

TEXTURE = dataclasses.replace(PRESETS["default"], content_weight=0.0, tv_weight=2.0, steps=300, initial="noise")


def settings_of(preset: str | Settings, **changes: Any) -> Settings:
    """The settings of a preset, with other values of some fields.

    - "default": Gram losses in relative units on one layer of each size of map, L-BFGS, from the content.
    - "gatys2015-texture": Gatys' texture synthesis, for `vgg19-normalized`; from noise, the histogram matched last.
    - "gatys2016": the paper's formula, α/β = 10⁻³, for `vgg19-normalized`, from noise.
    - "gatys2016-code": the authors' PyTorch code, from the content, for `vgg19`.
    - "johnson": neural-style's defaults, for `vgg19`; they start nearly gray.
    - "li2017-linear", "-poly", "-gaussian", "-bn": the weights of Li's code, for `vgg19-average`; by L-BFGS instead of
      their gradient descent. Their Gaussian kernel is exp(−d²/mean d²), ours exp(−d²/(2 mean d²)).
    - "crowsonkb": Wasserstein distances, Adam with an average, scales from 128 on, for `vgg19`; the total variation is
      of the four neighbors (theirs: of eight).

    Where authors used Caffe's VGG-19 on pixels of 0 to 255, `feature_scale` (57) stands for the larger activations of
    their network: an estimate from the scale of its input.

    Args:
        preset: one of `PRESETS`, or `Settings`.
        changes: fields of `Settings`; None leaves the preset's own value. A change of losses or layers takes weights of
            its own.

    Raises:
        InputError: as `choose` and `Settings`, and for other losses than a published preset's weights are made for.

    Source:
        Gatys et al. (2015, 2016) and PytorchNeuralStyleTransfer; Johnson, neural-style (2015); Li et al. (2017) and
        Neural-Style-MMD; Crowson, style-transfer-pytorch (2021).

    Example:
        >>> settings_of("crowsonkb", steps=100).steps
        100
    """
    settings = choose(PRESETS, preset)
    if changes.get("losses") is not None and settings.units == "published":
        raise InputError("a published preset has the loss that its weights are made for: leave one of the two out")
    return choose(PRESETS, settings, **changes)


def layer_weights(settings: Settings, layers: Sequence[str]) -> list[float]:
    """The weight of each style layer, or an `InputError` for another number of weights than of layers.

    Example:
        >>> layer_weights(Settings(style_weights=(0.2,)), ["a", "b"])
        [0.2, 0.2]
    """
    weights = list(settings.style_weights)
    if len(weights) == 1:
        weights *= len(layers)
    if len(weights) != len(layers):
        raise InputError(f"{len(weights)} style weights for {len(layers)} layers ({', '.join(layers)}): give one each")
    return weights


def default_layers(model: Model, image_shape: tuple[int, int, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The style's and the content's layers for any network and image: of each size of map the layer in the middle.

    The content's is that of the smallest size but one. For VGG they are relu1_1 or relu1_2, …, and relu4_2, near those
    that Gatys chose.

    Raises:
        InputError: for a network without maps.

    Example:
        >>> import jaxopt_input as joi
        >>> default_layers(joi.load("tin100"), (64, 64, 3))
        (('conv1', 'block3', 'block4', 'block5'), ('block4',))
    """
    layers = model.layers(image_shape)
    maps = {tap: shape[:2] for tap, shape in layers.items() if len(shape) == 3 and min(shape[:2]) > 1}
    outer = {tap: sides for tap, sides in maps.items() if "/" not in tap} or maps
    sizes: dict[tuple[int, ...], list[str]] = {}
    for tap, sides in outer.items():
        sizes.setdefault(sides, []).append(tap)
    middle = tuple(taps[(len(taps) - 1) // 2] for taps in sizes.values())[:5]
    if not middle:
        raise InputError(f"{model.info.name} has no layer with positions, which a style needs")
    return middle, middle[-2:][:1]
