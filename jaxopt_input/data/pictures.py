"""Images in and out of files, through Pillow, as the package's docstring says."""

from __future__ import annotations

import contextlib
import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from jaxopt_input.disk import StrPath, atomic, read_bytes
from jaxopt_input.errors import InputError, one_line, printable, unknown
from jaxopt_input.names import FITS

SUFFIXES = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf",
    ".jpg", ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".sgi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip

# What Pillow raises for files that are damaged.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def to_uint8(image: Any) -> np.ndarray:
    """Floats in [0, 1] rounded to 8 bits, any shape.

    Raises:
        ValueError: for numbers that are not finite.

    Example:
        >>> to_uint8([0.0, 0.5, 1.0]).tolist()
        [0, 128, 255]
    """
    array = np.asarray(image, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("an image with numbers that are not finite cannot be written")
    return np.floor(np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)


def to_pillow(image: Any) -> Image.Image:
    """A Pillow image of `[H, W, C]` floats in [0, 1] or 8-bit integers; of 2 or more than 3 bands, each as a gray tile.

    Example:
        >>> to_pillow(np.zeros((4, 6, 2))).size
        (12, 4)
    """
    array = np.asarray(image)
    array = array if array.dtype == np.uint8 else to_uint8(array)
    height, width, bands = array.shape
    if bands not in (1, 3):
        across = math.ceil(math.sqrt(bands))
        rows = -(-bands // across)
        array = np.pad(array, [(0, 0), (0, 0), (0, rows * across - bands)]).reshape(height, width, rows, across)
        array = array.transpose(2, 0, 3, 1).reshape(rows * height, across * width, 1)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_png(path: StrPath, image: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write an image as PNG, atomically, the same bytes for the same input.

    Args:
        path: the file; its folder exists.
        image: `[H, W, C]` floats in [0, 1] or 8-bit integers, as of `to_pillow`, or a Pillow image.
        metadata: text to keep inside the file, by keyword; as by `printable`.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/a.png"
        >>> save_png(file, np.zeros((2, 2, 3)), {"target": "class:3"})
        >>> Image.open(file).text
        {'target': 'class:3'}
    """
    info = PngImagePlugin.PngInfo()
    for keyword, text in (metadata or {}).items():
        info.add_text(keyword, printable(text))
    with atomic(path) as part:
        picture = image if isinstance(image, Image.Image) else to_pillow(image)
        picture.save(part, format="PNG", pnginfo=info)


def read_image(file: StrPath, image_shape: Sequence[int] | None = None, *, fit: str = "center") -> np.ndarray:
    """One image file as float32 `[H, W, C]` in [0, 1].

    Args:
        file: a file of any format that Pillow reads.
        image_shape: (height, width, channels), channels being 1 or 3; its own size in RGB if None.
        fit: one of `FITS`: how an image of another shape is brought to this one.

    Raises:
        InputError: for a file that is missing, truncated or no image, or an unknown `fit`.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/a.png"
        >>> save_png(file, np.ones((4, 8, 3)))
        >>> read_image(file).shape, read_image(file, (2, 2, 1)).ravel().tolist()
        ((4, 8, 3), [1.0, 1.0, 1.0, 1.0])
    """
    shape = None if image_shape is None else fitting_shape(image_shape, fit)
    return decode(read_bytes(file), str(file), shape, fit)


def fitting_shape(image_shape: Sequence[int], fit: str) -> tuple[int, int, int]:
    """The shape of the images to be read, or an `InputError`, also for an unknown fit."""
    if fit not in FITS:
        raise unknown("fit", fit, FITS)
    shape = tuple(int(n) for n in image_shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise InputError(f"images are read with shape (height, width, 1 or 3), not {shape}")
    return shape


def decode(data: bytes, name: str, shape: tuple[int, int, int] | None, fit: str) -> np.ndarray:
    """The float32 `[H, W, C]` of an encoded image."""
    with _opened(data, name) as opened:
        image = _plain(_upright(opened))
    channels = 3
    if shape is not None:
        image, channels = _fit(image, shape[1], shape[0], fit), shape[2]
    if image.mode != "F":
        image = image.convert("RGB" if channels == 3 else "L")
        array = np.asarray(image, np.float32) / np.float32(255)
    else:
        array = np.clip(np.asarray(image, np.float32), 0, 1)
    if array.ndim == 2:
        array = np.repeat(array[..., None], channels, axis=2)
    return array


def read_mask(file: StrPath) -> np.ndarray:
    """A mask as float32 `[H, W]` in [0, 1]: its opacity where any of it is transparent, else how white it is.

    A file of the numbers 0 and 1 is a mask as well.

    Args:
        file: a file of any format that Pillow reads.

    Raises:
        InputError: as `read_image`, and for colors or numbers of classes, which say of no place whether it counts.

    Example:
        >>> import tempfile
        >>> save_png(file := tempfile.mkdtemp() + "/a.png", np.array([[[0], [255]]], np.uint8))
        >>> read_mask(file).tolist()
        [[0.0, 1.0]]
    """
    data, name = read_bytes(file), str(file)
    with _opened(data, name) as opened:
        if "transparency" in opened.info or opened.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
            alpha = np.asarray(_upright(opened).convert("RGBA").getchannel("A"), np.float32) / np.float32(255)
            if alpha.min() < 1:
                return alpha
        index = np.asarray(_upright(opened)) if opened.mode in ("L", "P") or opened.mode.startswith("I") else None
    pixels = decode(data, name, None, "center")
    if index is not None and index.max(initial=0) == 1 and np.ptp(pixels) < 2 / 255:  # numbers, not levels of gray
        return index.astype(np.float32)
    advice = "a mask is white where it counts and black elsewhere; of a map of classes, save (map == CLASS) * 255"
    if np.ptp(pixels, -1).max() > 16 / 255:  # more than what JPEG makes of gray
        raise InputError(f"the mask {name} has colors: {advice}")
    if 0 < pixels.max() < 0.25:
        raise InputError(f"the mask {name} is {round(255 * float(pixels.max()))} of 255 at its whitest: {advice}")
    return pixels.mean(-1)


@contextlib.contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """An encoded image, loaded; what Pillow raises within is an `InputError`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} is too large to be read unasked: {one_line(error).partition(',')[0]}; allow it by --max-pixels, "
            "or PIL.Image.MAX_IMAGE_PIXELS in Python"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image of any format that Pillow reads") from error
    except _DAMAGE as error:
        raise InputError(f"{name} is a damaged or unreadable image: {one_line(error)}") from error


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation; damaged EXIF turns nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return image


def _plain(image: Image.Image) -> Image.Image:
    """An image of mode RGB, L, or F in [0, 1]."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds numbers that are not finite")
        top = 1 if image.mode.startswith("F") else 65535
        if values.min() < 0 or values.max() > top:
            raise ValueError(f"its {image.mode} values reach from {values.min():g} to {values.max():g}, not 0 to {top}")
        return Image.fromarray(values / np.float32(top))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        # a premultiplied or palette mode becomes RGBA only by way of its own straight form
        layer = image.convert("LA") if image.mode == "La" else image
        layer = layer.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")


def _fit(image: Image.Image, width: int, height: int, fit: str) -> Image.Image:
    """The image at this size, by one of `FITS`; bicubic, low-passed where it shrinks."""
    own = image.size
    if fit in ("stretch", "center") and own == (width, height):
        return image
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    if fit == "pad":
        scale = min(width / own[0], height / own[1])
        inner = (max(1, round(own[0] * scale)), max(1, round(own[1] * scale)))
        resized = image if own == inner else image.resize(inner, Image.Resampling.BICUBIC)
        gray: Any = {"RGB": (128, 128, 128), "L": 128, "F": 0.5}[image.mode]
        canvas = Image.new(image.mode, (width, height), gray)
        canvas.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return canvas
    scale = max(width / own[0], height / own[1]) * (256 / 224 if fit == "imagenet" else 1)
    left, top = max(0.0, (own[0] - width / scale) / 2), max(0.0, (own[1] - height / scale) / 2)
    box = (left, top, own[0] - left, own[1] - top)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)
