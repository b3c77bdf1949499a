"""Presets of `visualize`: the parameterization, transform, optimizer, penalty and steps of a published method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from types import EllipsisType
from typing import Any

import numpy as np

from jaxopt_input import images, losses, optimizers, projections, transforms
from jaxopt_input.engine.target import Wanted, singles
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization, as_parameterization
from jaxopt_input.images.parameterization import Shape
from jaxopt_input.losses import Loss
from jaxopt_input.methods.presets import check_choice, choose
from jaxopt_input.optimizers import Optimizer, as_optimizer
from jaxopt_input.optimizers.named import Rate
from jaxopt_input.projections import Projection
from jaxopt_input.transforms import Transform, View, as_transform


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a published method chooses together.

    Attributes:
        image, transform, optimizer, projection, steps: as in `minimize`.
        regularizer: a loss that is added.
        objective: how a class is excited, one of `names.CLASS_OBJECTIVES`.
        center: whether a channel is excited at the center of its map, instead of in the mean.
        majority: whether the image is kept at which the unit first was the most active one of its layer.
        alpha: whether the images have an importance mask, as `methods.visualize.importance` makes it.
    """

    image: Parameterization
    transform: Transform | None
    optimizer: Optimizer
    steps: int
    projection: Projection | None = None
    regularizer: Loss | None = None
    objective: str = "default"
    center: bool = False
    majority: bool = False
    alpha: bool = False

    @property
    def parts(self) -> dict[str, Any]:
        """What of it `minimize` takes."""
        return {name: getattr(self, name) for name in ("image", "transform", "optimizer", "projection", "steps")}


CONTRAST = 0.25  # the standard deviation of a natural image, in [0, 1]
SIMONYAN_DECAY = 100.0  # λ times the number of values: λ‖x‖² is this times the mean square
STEPS = 64  # later ones add to a class image what only the network itself sees
ZOOMS = [round(0.35 + 0.05 * n, 2) for n in range(18)]  # from a third of the size to a fifth more
PLAIN = Preset(images.pixels(), None, optimizers.adam(0.02), 256, objective="logit")


def _class(shape: Shape) -> Preset:
    side = min(shape[:2])
    views = transforms.compose(
        transforms.pad(12),
        transforms.jitter(side // 7),
        transforms.scale(ZOOMS),
        transforms.rotate(range(-10, 11)),
        transforms.jitter(side // 14),
        transforms.crop(12),
    )
    return Preset(images.fourier(sd=0.04, decay=1.4, chroma=0.8), views, optimizers.adam(0.05), STEPS)


def _erhan(shape: Shape) -> Preset:
    radius = CONTRAST * float(np.sqrt(np.prod(shape)))
    return dataclasses.replace(PLAIN, projection=projections.sphere(radius))


def _simonyan(shape: Shape) -> Preset:
    return dataclasses.replace(PLAIN, regularizer=SIMONYAN_DECAY / float(np.prod(shape)) * losses.l2_decay())


def _yosinski(steps: int, **numbers: Any) -> Preset:
    rule = optimizers.yosinski(**numbers, least_gradient=1.0)  # that of AlexNet's units and SqueezeNet's, about
    return Preset(images.pixels(sd=10 / 255), None, rule, steps, objective="logit", center=True, majority=True)


def _maco(shape: Shape) -> Preset:
    crops = transforms.compose(
        transforms.jitter(max(shape[:2]) // 4), transforms.scale([1 + n / 16 for n in range(9)]), transforms.noise(0.05)
    )
    return Preset(images.maco(), crops, optimizers.optimizer("nadam", 1.0), 256, objective="logit", alpha=True)


PRESETS: dict[str, Preset | Callable[[Shape], Preset]] = {
    "default": Preset(images.fourier(), transforms.lucid(), optimizers.adam(0.05), STEPS),
    "class": _class,
    "erhan": _erhan,
    "simonyan": _simonyan,
    # One update fewer than his iterations: the last of them only looks.
    "yosinski-1": _yosinski(499, learning_rate=100.0, desired_progress=2.0, blur_sigma=0.5, norm_percentile=50.0),
    "yosinski-2": _yosinski(749, learning_rate=100.0, decay=0.3, norm_percentile=20.0),
    "yosinski-3": _yosinski(999, learning_rate=100.0, decay=1e-4, blur_sigma=1.0),
    "yosinski-4": _yosinski(999, learning_rate=1e8, desired_progress=2.0, blur_sigma=0.5, contribution_percentile=90.0),
    "lucid": Preset(images.fourier(sd=0.01), transforms.lucid(), optimizers.adam(0.05), 512, objective="logit"),
    "maco": _maco,
    "cppn": Preset(images.cppn(), None, optimizers.adam(0.005), 512, objective="logit"),
    "plain": PLAIN,
}


def by_targets(name: str | Preset, wanted: Iterable[Wanted]) -> str | Preset:
    """The preset that a name stands for: "class" for "default" where all targets are classes; else the name itself.

    Example:
        >>> from jaxopt_input.engine.target import Target
        >>> by_targets("default", [Target("class", "logits", 3)]), by_targets("default", [Target("layer", "block3")])
        ('class', 'default')
    """
    kinds = {single.kind for target in wanted for single in singles(target)}
    return "class" if name == "default" and kinds == {"class"} else name


def preset(
    name: str | Preset,
    image_shape: Shape,
    *,
    transform: Transform | View | str | EllipsisType | None = ...,
    learning_rate: Rate | None = None,
    **changes: Any,
) -> Preset:
    """The settings of a preset for images of a shape, with other values of some fields.

    - "default": Lucid's, from coefficients of a larger spread, 64 steps; for classes, "class".
    - "class": classes that other networks recognize as well: random sizes from a third up, so that shapes count and not
      the patterns of one scale; a Fourier image whose low frequencies move farther and whose colors move less; Adam at
      0.05 for 64 steps, as more steps add what only the network itself sees; the logit and log-probability.
    - "erhan": pixels on the sphere around gray that has the norm of natural images.
    - "simonyan": pixels; the logit − λ‖x − ½‖².
    - "yosinski-1" to "yosinski-4": the four settings of his table; "-3" made most of his pictures. A channel is
      excited at the center of its map. The image of the last step, of the highest activation, and the first at which
      the unit was the most active of its layer (his "majority") are kept. His rates suit AlexNet at 227x227, and
      SqueezeNet's units; where the gradient of noise has a norm below 1, they are larger by the same factor.
    - "lucid": a Fourier image in decorrelated colors, random transforms, Adam at 0.05 for 512 steps.
    - "maco": the phase of a spectrum of fixed magnitude, random crops with noise, one per step (they take 32),
      NAdam at 1.0, 256 steps, an importance mask.
    - "cppn": a network from coordinates to color, no transforms, Adam at 0.005, 512 steps.
    - "plain": pixels and nothing else, which shows why priors are needed.

    The papers of "erhan" and "simonyan" give no rate nor λ: Adam at 0.02 and λ = 100 / (H · W · C) are this package's.

    Args:
        name: one of `PRESETS`, or a `Preset`.
        image_shape: (height, width, channels).
        transform: in place of the preset's own; None is none.
        learning_rate: of the optimizer, in place of its own.
        changes: other fields of `Preset`; None leaves the preset's own value.

    Raises:
        InputError: for an unknown preset, field or part, offering the nearest names; a rate for what has none.

    Source:
        Erhan et al. (2009), section 3.2; Simonyan et al. (2014), equation 1; Yosinski et al. (2015), table 1, and
        deep-visualization-toolbox, doc/running-optimize-image.md; Lucid (2018); Fel et al. (2023).

    Example:
        >>> preset("yosinski-3", (8, 8, 3)).steps
        999
    """
    chosen = choose(PRESETS, name, image_shape, **changes)
    rule = as_optimizer(chosen.optimizer)
    return dataclasses.replace(
        chosen,
        image=as_parameterization(chosen.image),
        transform=chosen.transform if isinstance(transform, EllipsisType) else as_transform(transform),
        optimizer=rule if learning_rate is None else rule.at_rate(learning_rate),
    )


def regularizer(text: str) -> Loss:
    """A penalty by text: "NAME=WEIGHT", "NAME^EXPONENT=WEIGHT", or "NAME:LAYER=WEIGHT" for one of a layer.

    NAME is one of `names.IMAGE_REGULARIZERS`, or, of a layer, of `names.LAYER_REGULARIZERS`. Those of `_POWERS` take an
    exponent, the α or β of `losses`.

    Raises:
        InputError: for an unknown name, a missing or needless layer or exponent, or a weight that is no number.

    Example:
        >>> regularizer("diversity:block3=10").taps
        ('block3',)
        >>> float(regularizer("total-variation^1=2")({}, np.array([[[0.0], [3.0]], [[4.0], [3.0]]])))
        12.0
    """
    head, _, number = text.partition("=")
    head, power, exponent = head.partition("^")
    name, colon, layer = head.partition(":")
    check_choice("regularizer", name, [*_OF_IMAGE, *_OF_LAYER])
    try:
        weight, exponents = float(number), [float(exponent)] if power else []
    except ValueError:
        raise InputError(f"a regularizer is NAME=WEIGHT or NAME:LAYER=WEIGHT, not {text!r}") from None
    if not np.isfinite([weight, *exponents]).all() or min(exponents, default=1.0) <= 0:
        raise InputError(f"a regularizer's weight is finite and its exponent positive, not as in {text!r}")
    if power and name not in _POWERS:
        raise InputError(f"{name} has no exponent: only {', '.join(_POWERS)} take one")
    if name in _OF_LAYER:
        if not layer:
            raise InputError(f"{name} compares a layer: write {name}:LAYER={number}")
        return weight * _OF_LAYER[name](layer)
    if colon:
        raise InputError(f"{name} is of the image: leave the layer out of {text!r}")
    return weight * _OF_IMAGE[name](*exponents)


_POWERS: dict[str, Callable[..., Loss]] = {
    "alpha-norm": losses.alpha_norm,
    "pixel-norm": losses.pixel_norm,
    "total-variation": losses.total_variation,
}
_OF_IMAGE: dict[str, Callable[..., Loss]] = {
    "l2": losses.l2_decay,
    **_POWERS,
    "total-variation-l1": losses.total_variation_l1,
}
_OF_LAYER: dict[str, Callable[[str], Loss]] = {"diversity": losses.diversity, "alignment": losses.alignment}
