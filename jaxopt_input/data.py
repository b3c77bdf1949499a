"""Images in and out of files, through Pillow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


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
    """A Pillow image of `[H, W, C]` floats in [0, 1] or 8-bit integers, C being 1 or 3."""
    array = np.asarray(image)
    array = array if array.dtype == np.uint8 else to_uint8(array)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_png(path: str | os.PathLike[str], image: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write an image as PNG, atomically, the same bytes for the same input.

    Args:
        path: the file; its folder exists.
        image: `[H, W, C]` floats in [0, 1] or 8-bit integers (C is 1 or 3), or a Pillow image.
        metadata: text to keep inside the file, by keyword.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> save_png(file, np.zeros((2, 2, 3)), {"target": "class:3"})
        >>> Image.open(file).text
        {'target': 'class:3'}
    """
    info = PngImagePlugin.PngInfo()
    for keyword, text in (metadata or {}).items():
        info.add_text(keyword, text)
    with atomic(path) as part:
        picture = image if isinstance(image, Image.Image) else to_pillow(image)
        picture.save(part, format="PNG", pnginfo=info)


class atomic:
    """A temporary path beside `path` that takes its place on leaving, and goes without trace on an exception.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(file) as part:
        ...     _ = part.write_text("whole")
        >>> file.read_text()
        'whole'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.stem}-", suffix=self.path.suffix)
        os.close(handle)
        self.part = Path(name)
        return self.part

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            umask = os.umask(0)
            os.umask(umask)
            self.part.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is an ordinary file
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)
