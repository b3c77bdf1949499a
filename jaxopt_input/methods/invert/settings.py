"""Presets of `invert`: what a published method optimizes, penalizes and how it moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxopt_input import images, losses, optimizers, projections, transforms
from jaxopt_input.checks import count
from jaxopt_input.images import Parameterization, as_parameterization
from jaxopt_input.images.parameterization import Shape
from jaxopt_input.losses import Loss
from jaxopt_input.methods.presets import choose
from jaxopt_input.optimizers import Optimizer, as_optimizer
from jaxopt_input.projections import Projection
from jaxopt_input.transforms import Transform

DEFAULT_STEPS = 499  # and the evaluation before the first
DEEPEST_WEIGHT = 1.0  # of the mean over pixels of dx² + dy², at a network's last layer
LEVELS = 255.0  # of the authors' pixels; those of this package lie in [0, 1]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A share of the steps at a factor of the learning rate; it begins anew, without momentum, from the last image."""

    share: float = 1.0
    factor: float = 1.0
    transform: Transform | None = None


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a published method chooses together.

    Attributes:
        image, optimizer, projection, steps: as in `minimize`.
        regularizer: a loss that is added.
        stages: in their order.
    """

    image: Parameterization
    optimizer: Optimizer
    steps: int
    regularizer: Loss | None = None
    projection: Projection | None = None
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", count("steps", self.steps))

    def parts(self, steps: int) -> Iterator[tuple[Stage, int]]:
        """Each stage with its number of steps, `steps` in all; a stage that would have none is left out.

        Example:
            >>> [count for _, count in preset("mahendran2015", (8, 8, 3), 0.5, 4.0).parts(20)]
            [5, 10, 5]
        """
        before, share = 0, 0.0
        for stage in self.stages:
            share += stage.share
            until = round(share * steps)
            if until > before:
                yield stage, until - before
            before = until


def _default(shape: Shape, depth: float, stride: float) -> Preset:
    # What a penalty costs in error is felt where the error is small: a thousandth of the weight at the first layer.
    weight = DEEPEST_WEIGHT * 1000 ** (depth - 1) / (shape[0] * shape[1])
    image = images.fourier(decay=0.5 + 0.5 * depth**2)  # 1 is that of natural images
    return Preset(image, optimizers.lbfgs(10), DEFAULT_STEPS, weight * losses.total_variation(2.0))


SIGMA_2015 = 27098.0  # their x0_sigma: the mean norm of natural images of 227x227x3 less their mean, in levels
LAMBDA_V = ((0.3, 0.5), (0.6, 5.0), (1.0, 50.0))  # up to which part of their 20 layers each weight was taken


def sigma_2015(shape: Shape) -> float:
    """The norm of natural images of a shape, in levels: theirs, by the square root of the number of values.

    Example:
        >>> sigma_2015((227, 227, 3))
        27098.0
    """
    return SIGMA_2015 * float(np.sqrt(np.prod(shape) / (227 * 227 * 3)))


def _mahendran2015(shape: Shape, depth: float, stride: float) -> Preset:
    sigma = sigma_2015(shape)
    scale = LEVELS / sigma  # z = x / σ of an image in [0, 1] less gray
    weight = next(weight for until, weight in LAMBDA_V if depth <= until)
    penalty = weight * scale**2 * losses.total_variation(2.0)
    # λ_α Σz⁶ with λ_α = 4e-10 σ⁴, which is 2.16e8 at 227x227x3.
    penalty += 4e-10 * sigma**4 * scale**6 * losses.alpha_norm(6.0)
    return Preset(
        images.pixels(sd=float(1 / (scale * np.sqrt(np.prod(shape))))),
        optimizers.sgd(0.004 / scale**2, momentum=0.9),
        400,
        penalty,
        stages=(Stage(0.25, 1.0), Stage(0.5, 0.1), Stage(0.25, 0.01)),
    )


CONTRAST_2016, BOUND_2016 = 80.0, 160.0  # their x0_sigma and x0_max: norms of a pixel, in levels
OBJECTIVE_2016 = 100.0  # their C, of 1, 20, 100 and 300, which weighs the features: here it divides the penalties


def _mahendran2016(shape: Shape, depth: float, stride: float) -> Preset:
    pixels = shape[0] * shape[1]
    penalty = (LEVELS / CONTRAST_2016) ** 6 / pixels * losses.pixel_norm(6.0)
    penalty += (6.5 * LEVELS / CONTRAST_2016) ** 2 / pixels * losses.total_variation(2.0)
    penalty /= OBJECTIVE_2016
    shifts = max(1, int(stride / 4 + 0.5))  # how many there are along each axis
    return Preset(
        images.pixels(sd=CONTRAST_2016 / 0.9 / 3 / LEVELS),
        optimizers.mahendran(0.05 * CONTRAST_2016**2 / 6 * pixels * OBJECTIVE_2016),
        350,
        penalty,
        projections.pixel_ball(BOUND_2016 / LEVELS),
        (Stage(6 / 7, 1.0, transforms.jitter(shifts - 1) if shifts > 1 else None), Stage(1 / 7, 0.1)),
    )


PRESETS: dict[str, Callable[[Shape, float, float], Preset]] = {
    "default": _default,
    "mahendran2015": _mahendran2015,
    "mahendran2016": _mahendran2016,
}


def preset(
    name: str | Preset, image_shape: Shape, depth: float, stride: float, learning_rate: Any = None, **changes: Any
) -> Preset:
    """The settings of a preset for images of a shape and a layer, with other values of some fields.

    - "default": a Fourier image, L-BFGS, and total variation. Shallow layers keep fine detail, deep ones do not: the
      spectrum falls as frequency^(½ + ½ depth²), and the weight is 1000^(depth − 1) of the mean over pixels of
      dx² + dy².
    - "mahendran2015": E = ‖Φ(x) − Φ₀‖²/‖Φ₀‖² + λ_α Σ|z|⁶ + λ_V Σ(dx² + dy²) of z = x/σ, x being centered pixels of 0 to
      255 and σ the norm of natural images; momentum .9 at .004 for 100 steps, a tenth of that for 200 and a hundredth
      for 100; from noise of norm σ. λ_V is .5, 5 and 50 in the first 6, the next 6 and the last 8 of their 20 layers,
      and here in the same parts of a network's taps.
    - "mahendran2016": the norm of a pixel's colors takes the place of the colors in the α-norm, and is at most 160;
      weights 80⁻⁶ and (6.5/80)², both by the number of pixels, against 100 times the distance (of their C = 1, 20, 100
      and 300); `optimizers.mahendran`; 300 steps under a random shift by up to a quarter of the layer's stride, then 50
      without at a tenth of the rate; from faint noise.

    Where these deviate from the authors' code: images are clipped to [0, 1] after each step (theirs were not bounded,
    or by pixel norm alone); pixels are centered at gray instead of the mean of ImageNet; a shift repeats the edge
    (theirs cuts out of an image larger by the shift); noise is Gaussian also where theirs is uniform, of the same
    variance. Both papers show the last image, `solution.image`.

    Args:
        name: one of `PRESETS`, or a `Preset`.
        image_shape: (height, width, channels).
        depth: of the layer, its place among the taps by their number, above 0 up to 1.
        stride: of the layer's positions, in pixels.
        learning_rate: of the optimizer, in place of its own; of the first stage where there are several.
        changes: fields of `Preset`; None leaves the preset's own value. Another image leaves out its projection.

    Raises:
        InputError: for an unknown preset or field, offering the nearest names.

    Source:
        Mahendran & Vedaldi, Understanding Deep Image Representations by Inverting Them (2015), and deep-goggle,
        `core/invert_nn.m`, `experiments/experiment_cnn.m`; Visualizing Deep Convolutional Neural Networks Using Natural
        Pre-images (2016), and nnpreimage, `core/`, `layers/`, `experiments/get_preimage_opts.m`.

    Example:
        >>> preset("mahendran2016", (8, 8, 3), 0.5, 16.0).stages[0].transform
        Jitter(pixels=3)
    """
    settings = choose(PRESETS, name, image_shape, depth, stride, **changes)
    rule, image = as_optimizer(settings.optimizer), as_parameterization(settings.image)
    if changes.get("image") is not None and changes.get("projection") is None:
        settings = dataclasses.replace(settings, projection=None)  # it suits the preset's own θ
    rule = rule if learning_rate is None else rule.at_rate(learning_rate)
    return dataclasses.replace(settings, image=image, optimizer=rule)
