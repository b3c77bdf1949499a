"""Animations: frames, durations and formats."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxopt_input.draw.animation import save_animation
from jaxopt_input.errors import InputError


def ramp(n, height=12, width=16):
    """n distinct plain frames, from dark to light."""
    return [np.full((height, width, 3), (k + 0.5) / n, np.float32) for k in range(n)]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_frames_in_order_and_the_last_held(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    save_animation(path, ramp(5), fps=10, hold=0.5)
    with Image.open(path) as film:
        levels, durations = [], []
        for n in range(film.n_frames):
            film.seek(n)
            film.load()
            levels.append(np.asarray(film.convert("RGB"), float).mean() / 255)
            durations.append(film.info["duration"])
        assert film.size == (16, 12)
        assert film.info["loop"] == 0
    np.testing.assert_allclose(levels[:5], [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.02)  # 8 bits, and WebP's loss
    np.testing.assert_allclose(levels[5:], levels[4], atol=0.02)
    assert durations[:4] == [100] * 4
    assert sum(durations) == 5 * 100 + 500


def test_a_generator_is_enough_and_is_read_once(tmp_path):
    save_animation(tmp_path / "a.gif", (frame for frame in ramp(3)), hold=0)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3


@pytest.mark.skipif(not importlib.util.find_spec("imageio_ffmpeg"), reason="needs imageio-ffmpeg")
def test_mp4(tmp_path):
    import imageio_ffmpeg

    path = tmp_path / "a.mp4"
    save_animation(path, ramp(6, 33, 47), fps=10, hold=0)
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(decode, capture_output=True, check=True)
    assert b"46x32" in done.stderr  # even sides
    assert b"10 fps" in done.stderr
    frames = np.frombuffer(done.stdout, np.uint8).reshape(6, 32, 46, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)) / 255, (np.arange(6) + 0.5) / 6, atol=0.03)  # lossy


def test_mp4_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'jaxopt-input\[video\]'") as caught:
        save_animation(tmp_path / "a.mp4", ramp(2))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "frames", "options", "hint"),
    [
        ("a.avi", ramp(2), {}, "known: gif, webp, mp4"),
        ("a.gif", [], {}, "at least one"),
        ("a.gif", [*ramp(2), *ramp(1, 8, 8)], {}, "one size"),
        ("a.webp", ramp(2), {"fps": 0}, "1 to 50"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, name, frames, options, hint):
    with pytest.raises(InputError, match=hint):
        save_animation(tmp_path / name, frames, **options)
    assert not list(tmp_path.iterdir())
