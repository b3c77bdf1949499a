"""Part of a layer's features: a group of its channels, or the positions that look at a region of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.images.parameterization import Shape
from jaxopt_input.models.model import Model
from jaxopt_input.models.receptive import receptive_field

Region = tuple[int, int, int, int]


def parse_channels(text: str) -> tuple[int, int]:
    """(first, past the last) of "A:B".

    Example:
        >>> parse_channels("0:48")
        (0, 48)
    """
    first, last = _integers(text, ":", 2, "a group of channels is FIRST:PAST-THE-LAST, such as 0:48")
    return first, last


def parse_region(text: str) -> Region:
    """(y0, x0, y1, x1) of "Y0,X0,Y1,X1".

    Example:
        >>> parse_region("80,80,144,144")
        (80, 80, 144, 144)
    """
    what = "a region is Y0,X0,Y1,X1 in pixels of the image, such as 80,80,144,144"
    y0, x0, y1, x1 = _integers(text, ",", 4, what)
    return y0, x0, y1, x1


def _integers(text: str, separator: str, length: int, what: str) -> list[int]:
    parts = text.split(separator)
    if len(parts) != length or not all(re.fullmatch(r"\s*\d+\s*", part) for part in parts):
        raise InputError(f"{what}, not {text!r}")
    return [int(part) for part in parts]


def positions_in(model: Model, layer: str, region: Region, image_shape: Shape, shape: Sequence[int]) -> Region:
    """Which positions of a layer's map have the center of their receptive field in a rectangle of the image.

    Args:
        model: the network.
        layer: the tap.
        region: (y0, x0, y1, x1) in pixels, the last two past the end; the result likewise, in positions.
        image_shape: (height, width, channels).
        shape: of the layer.

    Raises:
        InputError: for a region that is empty, outside the image, or holds no center; for a layer without positions.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"all": x}, (), image_shape=(8, 8, 3), taps=("all",))
        >>> positions_in(model, "all", (2, 3, 4, 6), (8, 8, 3), (8, 8, 3))
        (2, 3, 4, 6)
    """
    text = ",".join(map(str, region))
    for low, high, side in ((region[0], region[2], image_shape[0]), (region[1], region[3], image_shape[1])):
        if not 0 <= low < high <= side:
            size = f"{image_shape[0]} rows and {image_shape[1]} columns"
            raise InputError(f"the region {text} is empty or leaves the image, which has {size}: give Y0,X0,Y1,X1")
    field = receptive_field(model, layer, image_shape)
    if len(shape) != 3 or 0 in field.stride:
        raise InputError(f"layer {layer} has no positions that a region could choose from: name a layer before it")
    ends = []
    for axis in (0, 1):
        centers = field.offset[axis] + field.stride[axis] * np.arange(shape[axis]) + field.size[axis] / 2
        inside = np.flatnonzero((region[axis] <= centers) & (centers < region[axis + 2]))
        if not inside.size:
            stride = f"{field.stride[0]} x {field.stride[1]}"
            raise InputError(f"no position of layer {layer} lies in the region {text}: they are {stride} pixels apart")
        ends.append((int(inside[0]), int(inside[-1]) + 1))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def weight_of(
    layer: str, shape: Sequence[int], channels: tuple[int, int] | None, positions: Region | None
) -> np.ndarray:
    """`[H, W, C]`: 1 for the features that are to be matched, 0 for others.

    Args:
        layer: the tap, for errors.
        shape: of its activation.
        channels: (first, past the last); all if None.
        positions: from `positions_in`; all if None.

    Raises:
        InputError: for a group of channels that is empty or outside the layer.

    Example:
        >>> weight_of("a", (1, 2, 3), (1, 3), (0, 0, 1, 1)).tolist()
        [[[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]
    """
    weight = np.ones(shape if len(shape) == 3 else (1, 1, int(np.prod(shape))), np.float32)
    if channels is not None:
        first, last = channels
        if not 0 <= first < last <= weight.shape[-1]:
            have = f"layer {layer} has channels 0 to {weight.shape[-1] - 1}"
            raise InputError(f"the channels {first}:{last} are empty or outside the layer: {have}")
        weight[..., :first] = weight[..., last:] = 0
    if positions is not None:
        top, left, bottom, right = positions
        inside = np.zeros_like(weight)
        inside[top:bottom, left:right] = 1
        weight *= inside
    return weight
