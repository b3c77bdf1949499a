"""Image files."""

import numpy as np
import pytest
from PIL import Image

from jaxopt_input.data import atomic, save_png, to_uint8


def test_rounding():
    levels = np.arange(256) / 255
    np.testing.assert_array_equal(to_uint8(levels), np.arange(256))
    np.testing.assert_array_equal(to_uint8([-0.1, 1.1]), [0, 255])
    with pytest.raises(ValueError, match="finite"):
        to_uint8([np.nan])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    save_png(tmp_path / "a.png", image)
    read = np.asarray(Image.open(tmp_path / "a.png")).reshape(image.shape)
    np.testing.assert_array_equal(read, image)


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic(path) as part:
            part.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
