"""Sheets and image files."""

import numpy as np
import pytest
from PIL import Image

from jaxopt_input.data import atomic, save_png, to_uint8
from jaxopt_input.draw.sheet import contact_sheet, grid_sheet, target_sheet


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


def test_sheet_holds_every_image():
    rows = [np.full((n, 8, 8, 3), color, np.uint8) for n, color in ((3, (9, 99, 199)), (1, (99, 9, 9)))]
    sheet = np.asarray(contact_sheet(rows, ["class:3 a long name of a bird", "x"]))
    assert (sheet == (9, 99, 199)).all(-1).sum() == 3 * 96 * 96
    assert (sheet == (99, 9, 9)).all(-1).sum() == 96 * 96


def test_a_long_caption_of_a_grid_takes_a_second_line():
    pictures = np.zeros((2, 64, 64, 3))
    heights = [grid_sheet(pictures, ["0.99 cat", last]).size[1] for last in ("0.99 cat", "0.99 dumbbell", 40 * "x")]
    assert [height - heights[0] for height in heights] == [0, 15, 0]  # one word has no second line


def test_sheet_wraps_long_rows():
    sheet = contact_sheet([np.zeros((30, 200, 100, 1))], ["a"])
    assert sheet.height > 3 * 200
    assert sheet.width > 12 * 100


def test_many_targets_come_as_a_grid():
    pictures = np.repeat(np.arange(20, dtype=np.uint8), 64 * 64 * 3).reshape(20, 64, 64, 3) + 100
    sheet = np.asarray(target_sheet(pictures, [[n] for n in range(20)], [f"fire4:{n}@field" for n in range(20)]))
    for n in range(20):
        row, column = divmod(n, 5)
        top, left = 6 + 21 + row * (64 + 21), 6 + column * 70
        assert (sheet[top : top + 64, left : left + 64] == 100 + n).all()
        assert (sheet[top + 64 : top + 85, left : left + 16] < 128).any()  # its number below
    assert (sheet[6:21, 6:80] < 128).any()  # what the captions share above


def test_few_targets_come_as_rows():
    pictures = np.zeros((4, 64, 64, 3), np.uint8)
    assert (
        target_sheet(pictures, [[0, 1], [2, 3]], ["a", "b"]).size == contact_sheet([pictures[:2]] * 2, ["a", "b"]).size
    )
