"""Mosaics and tables hold every picture where it belongs."""

import numpy as np

from jaxopt_input.draw.mosaic import filter_pictures, map_pictures, mosaic
from jaxopt_input.methods.exemplars.page import CELL, table_sheet

RED, GREEN, BLUE = (200, 9, 9), (9, 99, 9), (9, 9, 200)


def test_mosaic_places_pictures_in_reading_order():
    pictures = np.stack([np.full((4, 4, 1), n * 40, np.uint8) for n in range(5)])
    sheet = np.asarray(mosaic(pictures, columns=3, side=8, gap=2))
    assert sheet.shape == (22, 32, 3)
    for n in range(5):
        row, column = divmod(n, 3)
        top, left = 2 + 10 * row, 2 + 10 * column
        assert (sheet[top : top + 8, left : left + 8] == 40 * n).all()


def test_zero_is_gray_in_filters_and_black_in_maps():
    weights = np.random.default_rng(0).normal(size=(3, 2, 2, 3))
    weights[1] = 0
    shown = filter_pictures(weights)
    assert (shown[1] == 0.5).all()
    np.testing.assert_allclose(np.abs(shown - 0.5).max((1, 2, 3)), [0.5, 0, 0.5])
    assert ((shown > 0.5) == (weights > 0)).all()
    assert filter_pictures(np.ones((1, 2, 2, 4))).shape == (1, 2, 2, 1)
    maps = np.abs(np.moveaxis(weights[..., 0], 0, -1))
    np.testing.assert_allclose(map_pictures(maps).max((1, 2, 3)), [1, 0, 1])
    assert (map_pictures(-maps)[1] == 0.5).all()


def test_table_brings_pictures_to_one_size():
    rows = [
        [[np.full((8, 8, 3), RED, np.uint8)], [np.full((200, 100, 3), GREEN, np.uint8)] * 2],
        [[], [np.full((3, 3, 3), BLUE, np.uint8)]],
    ]
    sheet = np.asarray(table_sheet(rows, ["one", "two"], ["made", "largest"]))
    assert (sheet == RED).all(-1).sum() == CELL**2
    assert (sheet == GREEN).all(-1).sum() == 2 * CELL * CELL // 2
    assert (sheet == BLUE).all(-1).sum() == CELL**2
