"""Mosaics: many small pictures side by side without captions, such as filters and feature maps."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from jaxopt_input.data import to_pillow
from jaxopt_input.draw.sheet import PAPER


def mosaic(pictures: np.ndarray, *, columns: int | None = None, side: int = 32, gap: int = 2) -> Image.Image:
    """Pictures in reading order, each pixel enlarged by a whole factor.

    Args:
        pictures: `[N, h, w, C]` in [0, 1] or 8-bit, C being 1 or 3.
        columns: pictures a row; about as many as rows if None.
        side: what the longer side of a picture is enlarged to, at least.
        gap: pixels between them.

    Returns:
        An RGB image.

    Example:
        >>> mosaic(np.zeros((5, 16, 16, 1))).size
        (104, 70)
    """
    count, height, width, _ = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    factor = max(1, -(-side // max(height, width)))
    step_y, step_x = height * factor + gap, width * factor + gap
    sheet = Image.new("RGB", (gap + columns * step_x, gap + -(-count // columns) * step_y), PAPER)
    for n, picture in enumerate(pictures):
        tile = to_pillow(picture).convert("RGB").resize((width * factor, height * factor), Image.Resampling.NEAREST)
        sheet.paste(tile, (gap + n % columns * step_x, gap + n // columns * step_y))
    return sheet


def filter_pictures(weights: np.ndarray) -> np.ndarray:
    """Filters as pictures: 0 is gray, each filter's largest weight in size is black or white.

    Args:
        weights: `[N, h, w, C]`.

    Returns:
        `[N, h, w, 1 or 3]` in [0, 1]; filters of other than 3 colors are averaged over them.

    Example:
        >>> filter_pictures(np.array([-2.0, 0.0, 1.0]).reshape(1, 1, 3, 1)).ravel().tolist()
        [0.0, 0.5, 0.75]
    """
    weights = weights if weights.shape[-1] in (1, 3) else weights.mean(-1, keepdims=True)
    return 0.5 + weights / (2 * _largest(weights))


def map_pictures(maps: np.ndarray) -> np.ndarray:
    """Feature maps as gray pictures, each scaled by its largest value.

    Args:
        maps: `[h, w, channels]`.

    Returns:
        `[channels, h, w, 1]` in [0, 1]. Where no map is negative 0 is black, else 0 is gray in all of them.

    Example:
        >>> map_pictures(np.array([[[0.0, 2.0], [4.0, 2.0]]]))[..., 0].tolist()
        [[[0.0, 1.0]], [[1.0, 1.0]]]
    """
    stacked = np.moveaxis(maps, -1, 0)[..., None]
    if stacked.min() < 0:
        return filter_pictures(stacked)
    return stacked / _largest(stacked)


def _largest(stack: np.ndarray) -> np.ndarray:
    """The largest size of a number in each picture, 1 where all are 0."""
    largest = np.abs(stack).max((1, 2, 3), keepdims=True)
    return np.where(largest > 0, largest, 1)
