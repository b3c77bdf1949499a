"""Image files."""

import os

import numpy as np
import pytest
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.data import atomic, read_image, read_mask, save_png, to_uint8


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


@pytest.mark.parametrize(("bands", "across"), [(2, 2), (4, 2), (5, 3)])
def test_other_bands_are_tiles_of_gray(tmp_path, bands, across):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, bands), np.uint8)
    save_png(tmp_path / "a.png", image)
    tiles = np.asarray(Image.open(tmp_path / "a.png"))
    for band in range(bands):
        row, column = divmod(band, across)
        np.testing.assert_array_equal(tiles[5 * row : 5 * row + 5, 7 * column : 7 * column + 7], image[..., band])


def test_a_mask_is_its_opacity_where_it_has_any(tmp_path):
    inside = np.zeros((6, 8), np.uint8)
    inside[1:3, 2:5] = 1
    levels = inside * 255
    masks = {
        "gray": levels,
        "rgb": np.stack([levels] * 3, -1),
        "white on transparent": np.stack([np.full_like(levels, 255)] * 3 + [levels], -1),
        "black on transparent": np.stack([levels * 0] * 3 + [levels], -1),
        "all opaque": np.stack([levels] * 3 + [np.full_like(levels, 255)], -1),
        "0 and 1": inside,
        "bilevel": inside.astype(bool),
    }
    for name, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), inside, err_msg=name)
    palette = Image.fromarray(inside).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), inside)
    palette.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), inside)


def test_a_map_of_classes_is_no_mask(tmp_path):
    classes = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(classes).save(tmp_path / "gray.png")
    palette = Image.fromarray(classes).convert("P")
    palette.putpalette([level for n in range(20) for level in (12 * n, 0, 255 - 12 * n)])
    palette.save(tmp_path / "palette.png")
    for name, hint in [("gray", "19 of 255 at its whitest"), ("palette", "has colors")]:
        with pytest.raises(joi.InputError, match=hint + r".*\(map == CLASS\) \* 255"):
            read_mask(tmp_path / f"{name}.png")


def test_a_pipe_and_a_device_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/zero"):
        with pytest.raises(joi.InputError, match="a pipe, a socket or a device"):
            read_image(path)


def test_a_large_image_is_not_called_damaged(tmp_path, monkeypatch):
    save_png(tmp_path / "a.png", np.zeros((8, 8, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(joi.InputError, match=r"64 pixels.*--max-pixels"):
        read_image(tmp_path / "a.png")


def test_text_of_any_letters_fits_into_a_file(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((2, 2, 1)), {"source": "caf\udce9", "label": "\ud800\x1b[2J"})
    assert Image.open(tmp_path / "a.png").text == {"source": "caf\\xe9", "label": "\\ud800\\x1b[2J"}
