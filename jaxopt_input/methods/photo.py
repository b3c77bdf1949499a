"""Photos: the pictures that a dream, an inversion or a style starts from or aims at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxopt_input.checks import check_images
from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model


def fit(shape: Sequence[int], size: int) -> tuple[int, int]:
    """(height, width) of an image `[H, W, …]` whose longer side is brought to `size` pixels.

    Example:
        >>> fit((60, 80, 3), 40)
        (30, 40)
    """
    if size < 1:
        raise InputError(f"the size must be at least 1, not {size!r}")
    factor = size / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize(image: np.ndarray, shape: tuple[int, ...], margin: float = 0.0) -> np.ndarray:
    """An image `[H, W, C]` at another (height, width): linear, low-passed where it shrinks, without rounding.

    Args:
        image: of any range.
        shape: (height, width).
        margin: the part of each side to leave out first.

    Example:
        >>> resize(np.array([[[0.0], [1.0]]]), (1, 4)).ravel().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    height, width = image.shape[:2]
    if (height, width) == tuple(shape) and not margin:
        return np.array(image, np.float32)
    box = (width * margin, height * margin, width * (1 - margin), height * (1 - margin))
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
            (shape[1], shape[0]), Image.Resampling.BILINEAR, box=box
        )
        for c in range(image.shape[2])
    ]
    return np.stack([np.asarray(plane, np.float32) for plane in planes], -1)


def window(images: np.ndarray, begin: Sequence[int], size: Sequence[int], around: float = 0.0) -> np.ndarray:
    """A window of images `[..., H, W, C]` that may reach beyond them, by less than its size.

    Args:
        images: of any range.
        begin: its first row and column, negative before the image.
        size: its rows and columns.
        around: the value of what is outside the image.

    Example:
        >>> window(np.ones((2, 2, 1)), (-1, 0), (2, 3))[..., 0].tolist()
        [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    border = [(0, 0)] * (images.ndim - 3) + [(side, side) for side in size] + [(0, 0)]
    framed = np.pad(images, border, constant_values=around)
    rows, columns = (slice(first + side, first + 2 * side) for first, side in zip(begin, size, strict=True))
    return framed[..., rows, columns, :]


def as_image(image: Any, model: Model, what: str) -> np.ndarray:
    """One float32 image with the model's number of channels, or an `InputError`."""
    image = check_images(image)
    channels = model.info.image_shape[2]
    if image.ndim != 3 or image.shape[2] != channels:
        raise InputError(f"{what} must be [height, width, {channels}] for {model.info.name}, not {image.shape}")
    return image
