"""Units on their receptive fields: each picture holds the pixels that one unit sees, and no others.

A unit whose field lies inside the image never meets a network's padding, since what is padded has a field that reaches
outside: on the smallest image that holds a field, a unit is the same function of its pixels as one in the middle of
the largest. So the network runs on that small image, the *view*. Where a transform moves it about, the picture is
larger than the view by as far as the transform reaches: the network sees nothing but what is being optimized.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxopt_input import losses
from jaxopt_input.engine.lanes import Resources, layout, resources
from jaxopt_input.engine.memory import free_bytes
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.engine.solution import Solution
from jaxopt_input.engine.target import Target, expand, parse
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization, as_parameterization
from jaxopt_input.images.parameterization import Shape
from jaxopt_input.losses import Loss
from jaxopt_input.methods.photo import window
from jaxopt_input.models.model import Model
from jaxopt_input.models.receptive import Pair, ReceptiveField, receptive_field
from jaxopt_input.models.redirect import redirect_relu
from jaxopt_input.transforms import Transform, View, as_transform, compose, crop, lucid

IMAGES = ("image", "best_image", "snapshots", "milestone_image", "average_image")  # of a solution


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where a unit's picture is optimized.

    Attributes:
        field: the layer's receptive field, at the size of the view.
        view: (height, width, channels) of what the network sees; the unit is the one at the center of its map.
        image: the shape of what is optimized, the view and what the transform may bring into it.
        corner: the first row and column of the unit's field in the image, inside it.
        size: rows and columns of the field, as far as they are inside the image.
        transform: from the image to the view.
    """

    field: ReceptiveField
    view: Shape
    image: Shape
    corner: Pair
    size: Pair
    transform: Transform | None

    def cut(self, images: Any) -> np.ndarray:
        """The field's pixels of images `[..., H, W, C]`."""
        (top, left), (height, width) = self.corner, self.size
        return np.asarray(images)[..., top : top + height, left : left + width, :]


def canvas(model: Model, layer: str, transform: Transform | View | str | None = None) -> Canvas:
    """The smallest canvas for the units of a layer.

    Args:
        model: the network.
        layer: the tap; it must have positions.
        transform: what the view is to survive. Its jitter is scaled down by as much as the view is smaller than the
            model's image; its pads are left out, since the canvas goes on where they would bring in gray.

    Returns:
        Where the field exceeds the model's image, or the network takes no smaller one, the model's image with the
        transform as it is, and the unit at the center of the map.

    Raises:
        InputError: as `receptive_field`, for a layer without positions, and for a transform that does not say how far
            it reaches, such as a plain function, where the canvas depends on it.

    Example:
        >>> import jaxopt_input as joi
        >>> place = canvas(joi.load("tin100"), "block3", joi.transforms.jitter(4))
        >>> place.field.size, place.view, place.image
        ((28, 28), (28, 28, 3), (36, 36, 3))
    """
    full, transform = model.info.image_shape, as_transform(transform)
    field = receptive_field(model, layer)
    if len(model.layers()[layer]) != 3:
        raise InputError(f"layer {layer} has no positions: its units see the whole image, so leave the field out")
    view = _smallest_view(model, layer, field)
    if view is not None:
        moves = compose(transform).unframed(max(view[:2]) / max(full[:2]))
        field, begin = _at_center(model, layer, view)
        margin = _margin(moves, view, begin, field)
        image = view[0] + 2 * margin, view[1] + 2 * margin, view[2]
        corner = begin[0] + margin, begin[1] + margin
        if _begin(model, layer, image) == corner:  # the untransformed image is judged by the same unit
            views = None if moves == compose() else compose(moves, crop(margin))
            return Canvas(field, view, image, corner, field.size, views)
    field, begin = _at_center(model, layer, full)
    top, left = (max(b, 0) for b in begin)
    bottom, right = (min(b + n, side) for b, n, side in zip(begin, field.size, full[:2], strict=True))
    return Canvas(field, full, full, (top, left), (bottom - top, right - left), transform)


def _at_center(model: Model, layer: str, shape: Shape) -> tuple[ReceptiveField, Pair]:
    """The receptive field in an image of this shape, and where that of the unit at the center of the map begins."""
    field = receptive_field(model, layer, shape)
    height, width, _ = model.layers(shape)[layer]
    return field, field.begin((height // 2, width // 2))


def _begin(model: Model, layer: str, shape: Shape) -> Pair | None:
    """Where the central unit's field begins; None where the network cannot take an image of this shape."""
    try:
        return _at_center(model, layer, shape)[1]
    except InputError:
        return None


def _smallest_view(model: Model, layer: str, field: ReceptiveField) -> Shape | None:
    """The smallest image whose central unit sees no padding; None unless it is smaller than the model's own."""
    height, width, channels = model.info.image_shape
    if field.size[0] > height or field.size[1] > width or 0 in field.stride:
        return None

    def view(by: int) -> Shape:
        return min(field.size[0] + by, height), min(field.size[1] + by, width), channels

    def taken(by: int) -> bool:
        return _begin(model, layer, view(by)) is not None

    room = max(height - field.size[0], width - field.size[1])
    shape = view(0 if taken(0) else bisect.bisect_left(range(room), True, key=taken))  # all sizes from some size up
    while shape[:2] < (height, width) and (begin := _begin(model, layer, shape)):
        beyond = [max(b + n - side, -b, 0) for b, n, side in zip(begin, field.size, shape[:2], strict=True)]
        if not any(beyond):
            return shape
        shape = min(shape[0] + beyond[0], height), min(shape[1] + beyond[1], width), channels
    return None


def _margin(moves: Transform, view: Shape, begin: Pair, field: ReceptiveField) -> int:
    """How much larger than the view the image is, on every side: whole strides, so that its units lie like the view's.

    As far as the moves take the pixel of the field that is farthest from the center.
    """
    center = [(side - 1) / 2 for side in view[:2]]
    farthest = [max(c - b, b + n - 1 - c) for b, n, c in zip(begin, field.size, center, strict=True)]
    beyond = max(moves.reach(max(farthest)) - min(center), 0)
    stride = math.lcm(*field.stride)
    return math.ceil(beyond / stride) * stride


def visualize_units(
    model: Model,
    target: str | Sequence[str],
    *,
    starts: int = 1,
    steps: int = 256,
    image: Parameterization | str | None = None,
    transform: Transform | View | str | None = lucid(),  # noqa: B008 - immutable
    regularizer: Loss | None = None,
    redirected: bool = True,
    key: jax.Array | None = None,
    on: Resources | None = None,
    **options: Any,
) -> Solution:
    """Images that excite units the most, each on the unit's receptive field alone.

    All units run in one compiled program, chunk by chunk; what is kept of each is its field.

    Args:
        model: the network.
        target: LAYER:CHANNEL or LAYER:* for all of a layer, or several of one layer.
        starts, steps, image, regularizer, key: as in `visualize`.
        transform: as in `canvas`.
        redirected: let the gradient through ReLUs where they block all of it, by `redirect_relu`; most units of a
            layer that ends in a ReLU are dead at the start.
        on: the resources; half of the memory that is free if it says nothing of it.
        options: further arguments of `minimize`.

    Returns:
        A `Solution` of images of the field's size, the targets named "LAYER:CHANNEL@field", without `theta`.

    Raises:
        InputError: as `parse`, `canvas` and `minimize`; for targets that are no units of one layer; for a memory that
            does not hold one image.

    Source:
        Yosinski et al., Understanding Neural Networks Through Deep Visualization (2015), crop to the field.

    Example:
        >>> import jaxopt_input as joi
        >>> solution = visualize_units(joi.load("mnist"), "block2:*", image="pixels", transform=None, steps=2)
        >>> solution.best_image.shape, solution.names[3]
        ((32, 14, 14, 1), 'block2:3@field')
    """
    units = _units(model, [target] if isinstance(target, str) else target)
    layer, channels = units[0].layer, [unit.index for unit in units]
    place = canvas(model, layer, transform)
    model = _redirected(model) if redirected else model
    image = dataclasses.replace(as_parameterization(image), shape=place.image)
    on = resources(on)
    if on.memory is None:
        on = dataclasses.replace(on, memory=free_bytes(on.local) // 2)
    at_once = min(max(layout((len(channels), starts), on).at_once // starts, 1), len(channels))
    begins = range(0, len(channels), at_once)
    parts = []
    for number, begin in enumerate(begins):
        some = channels[begin : begin + at_once]
        loss = -losses.unit(layer, some + some[-1:] * (at_once - len(some)))  # always as many: one compilation
        solution = minimize(
            loss if regularizer is None else loss + regularizer,
            model,
            image=image,
            transform=place.transform,
            steps=steps,
            starts=starts,
            key=jax.random.key(0) if key is None else key,
            on=on.part(number, len(begins)),
            **options,
        )
        real = solution.take(solution.target < len(some))
        parts.append(_cropped(real, place.cut).named([Target("field", layer, channel) for channel in some]))
    return Solution.concat(parts)


def _units(model: Model, texts: Sequence[str]) -> list[Target]:
    """The channels of one layer that targets name."""
    units = list(dict.fromkeys(target for text in texts for target in expand(text, model)))
    plain = [unit for unit in units if isinstance(unit, Target) and unit.kind == "channel" and unit.weight == 1]
    if other := [unit for unit in units if unit not in plain]:
        raise InputError(f"on its field a unit is written LAYER:CHANNEL, or LAYER:* for all of a layer, not {other[0]}")
    return _one_layer(plain)


def _redirected(model: Model) -> Model:
    try:
        return redirect_relu(model)
    except InputError:  # no ReLU: nothing is dead
        return model


def _cropped(solution: Solution, cut: Callable[[Any], Any]) -> Solution:
    """A solution on the host, each of its images cut, without θ."""
    solution = jax.device_get(dataclasses.replace(solution, theta=()))
    images = {name: getattr(solution, name) for name in IMAGES}
    return dataclasses.replace(solution, **{name: cut(x) for name, x in images.items() if x is not None})


def units_of(model: Model, texts: str | Sequence[str], shape: Shape | None = None) -> list[Target]:
    """The units that targets name, all of one layer: what `crop_to_field` takes.

    Args:
        model: the network.
        texts: LAYER:CHANNEL@center or LAYER:CHANNEL@ROW,COLUMN, or several.
        shape: of the image, which the map sizes depend on; the model's own if None.

    Raises:
        InputError: as `parse`, and for targets that are no units of one layer.

    Example:
        >>> import jaxopt_input as joi
        >>> units_of(joi.load("tin100"), "block3:7@center")[0].position
        (8, 8)
    """
    texts = [texts] if isinstance(texts, str) else texts
    return _at_positions([target for text in dict.fromkeys(texts) for target in parse(text, model, shape)])


def _at_positions(wanted: Sequence[Any]) -> list[Target]:
    """Targets that are units of one layer, or an `InputError`."""
    for target in wanted:
        if not isinstance(target, Target) or target.kind != "unit":
            layer = getattr(target, "layer", "LAYER")
            raise InputError(f"only units have a field to crop to: write {layer}:CHANNEL@center, not {target}")
    return _one_layer(list(wanted))


def crop_to_field(solution: Solution, model: Model) -> Solution:
    """The images of units, each cropped to the unit's receptive field; what is outside the image is gray.

    Args:
        solution: of units at positions, such as "fire4:5@27,27", all of one layer.
        model: the network.

    Returns:
        The solution with smaller images, without `theta`: as large as the field, the image at most.

    Raises:
        InputError: as `units_of` and `receptive_field`.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("mnist")
        >>> crop_to_field(joi.visualize(model, "block2:3@center", preset="plain", steps=2), model).image.shape
        (1, 14, 14, 1)
    """
    height, width, channels = solution.image.shape[-3:]
    shape = height, width, channels
    units = _at_positions(solution.targets)
    field = receptive_field(model, units[0].layer, shape)
    size = min(field.size[0], height), min(field.size[1], width)
    begins = []
    for n in np.asarray(solution.target).tolist():
        begin = field.begin(units[n].position)
        begins.append([b if n < side else 0 for b, n, side in zip(begin, field.size, shape[:2], strict=True)])

    def cut(images: Any) -> np.ndarray:
        parts = [window(images[..., n, :, :, :], begin, size, around=0.5) for n, begin in enumerate(begins)]
        return np.stack(parts, -4)

    return _cropped(solution, cut)


def _one_layer(units: list[Target]) -> list[Target]:
    """The same units, or an `InputError` where they are of several layers or none."""
    layers = {unit.layer for unit in units}
    if len(layers) != 1:
        raise InputError(f"fields differ from layer to layer: give targets of one layer, not of {len(layers)}")
    return units
