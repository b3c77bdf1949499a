"""Animations: GIF and WebP through Pillow, MP4 through ffmpeg."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from jaxopt_input.data import atomic, to_pillow
from jaxopt_input.errors import InputError, unknown

FORMATS = ("gif", "webp", "mp4")


def check_format(name: str) -> None:
    """Raise an `InputError` for a format that is unknown, or whose library is not installed.

    Example:
        >>> check_format("gif")
    """
    if name not in FORMATS:
        raise unknown("animation format", name, FORMATS)
    if name == "mp4":
        _ffmpeg()


def animation_steps(steps: int, frames: int = 48) -> tuple[int, ...]:
    """The steps at which to take snapshots for an animation: all, or `frames` of them, dense where most changes.

    Example:
        >>> animation_steps(256, 9)
        (0, 4, 16, 36, 64, 100, 144, 196, 256)
    """
    if steps < frames:
        return tuple(range(steps + 1))
    return tuple(sorted({round(steps * (k / (frames - 1)) ** 2) for k in range(frames)}))


def _ffmpeg() -> str:
    """The path of the ffmpeg that imageio-ffmpeg brings."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise InputError("mp4 needs ffmpeg: pip install 'jaxopt-input[video]', or choose gif or webp") from error
    return imageio_ffmpeg.get_ffmpeg_exe()


def save_animation(
    path: str | os.PathLike[str], frames: Iterable[Any], *, fps: float = 12.0, hold: float = 1.0
) -> None:
    """Write an animation, atomically; the format is the suffix of the path.

    MP4 and WebP are written frame by frame, a GIF is held in memory (8 bits per pixel); in a GIF, equal neighbors
    become one longer frame. GIF and WebP repeat forever.

    Args:
        path: ends in .gif, .webp (lossy, quality 90) or .mp4 (H.264; an odd side loses its last row or column).
        frames: images of one shape, `[H, W, C]` floats in [0, 1] or 8-bit integers, or Pillow images; at least one.
        fps: frames per second, from 1 to 50.
        hold: seconds for which the last frame stays longer.

    Raises:
        InputError: for another suffix, no frames, frames of several sizes, or ffmpeg missing where it is needed.

    Example:
        >>> import tempfile, numpy as np
        >>> file = Path(tempfile.mkdtemp()) / "a.gif"
        >>> save_animation(file, [np.zeros((8, 8, 3)), np.ones((8, 8, 3))])
        >>> with Image.open(file) as film:
        ...     film.n_frames
        2
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    check_format(kind)
    if not 1 <= fps <= 50:
        raise InputError(f"an animation has 1 to 50 frames per second, not {fps!r}")
    pictures = _held(frames, round(hold * fps))
    first = next(pictures, None)
    if first is None:
        raise InputError("an animation needs at least one frame")
    with atomic(path) as part:
        if kind == "mp4":
            _save_mp4(part, first, pictures, fps)
        else:
            lossy: dict[str, Any] = {"quality": 90} if kind == "webp" else {}
            every = round(1000 / fps)
            first.save(part, format=kind, save_all=True, append_images=pictures, duration=every, loop=0, **lossy)


def _held(frames: Iterable[Any], repeats: int) -> Iterator[Image.Image]:
    """The frames as Pillow images of one size, the last one repeated."""
    picture, size = None, None
    for frame in frames:
        picture = (frame if isinstance(frame, Image.Image) else to_pillow(frame)).convert("RGB")
        size = size or picture.size
        if picture.size != size:
            raise InputError(f"the frames of an animation have one size, not {size} and {picture.size}")
        yield picture
    if picture is not None:
        yield from [picture] * repeats


def _save_mp4(part: Path, first: Image.Image, rest: Iterable[Image.Image], fps: float) -> None:
    width, height = (side // 2 * 2 for side in first.size)
    if not width or not height:
        raise InputError("an mp4 needs frames of at least 2x2 pixels: choose gif or webp")
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -".split()
    result = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    command = [_ffmpeg(), "-y", "-loglevel", "error", *source, *result, str(part)]
    # imageio-ffmpeg's own writer runs Python between fork and exec, which JAX's threads do not allow.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            for picture in itertools.chain([first], rest):
                process.stdin.write(picture.crop((0, 0, width, height)).tobytes())
        _, complaint = process.communicate()
    if process.returncode:
        raise InputError(f"ffmpeg failed: {complaint.decode(errors='replace').strip().splitlines()[-1:]}")
