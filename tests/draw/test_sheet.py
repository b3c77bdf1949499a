"""Sheets hold every picture where it belongs, on pages of bounded size."""

import numpy as np
import pytest

from jaxopt_input.draw.sheet import GAP, TALLEST, Row, sheet, target_pages

RED, GREEN, BLUE = (200, 9, 9), (9, 99, 9), (9, 9, 200)


def plain(height, width, color):
    return np.full((height, width, 3), color, np.uint8)


def area(page, color):
    return int((np.asarray(page) == color).all(-1).sum())


def test_rows_with_captions():
    [page] = sheet([Row([[plain(8, 8, RED)] * 3], "class:3 a long name of a bird"), Row([[plain(8, 8, GREEN)]], "x")])
    assert (area(page, RED), area(page, GREEN)) == (3 * 96 * 96, 96 * 96)


def test_a_long_row_goes_on_below():
    [page] = sheet([Row([np.zeros((30, 200, 100, 1))], "a")])
    assert page.height > 3 * 200
    assert page.width > 12 * 100


def test_groups_under_headings_have_pictures_of_one_size():
    rows = [Row([[plain(8, 8, RED)], [plain(200, 100, GREEN)] * 2], "one"), Row([[], [plain(3, 3, BLUE)]], "two")]
    [page] = sheet(rows, headings=["made", "largest"])
    assert area(page, RED) == 96**2  # in a box of 100x200, by whole factors
    assert area(page, GREEN) == 2 * 200 * 100
    assert area(page, BLUE) == 99**2
    assert (np.asarray(page)[:20] < 128).any()  # the headings


def test_what_is_too_large_is_reduced():
    [page] = sheet([Row([[plain(900, 300, RED)]])], largest=90)
    assert page.size == (30 + 2 * GAP, 90 + 2 * GAP)


def test_rows_of_their_own_size():
    [page] = sheet([Row([[plain(48, 48, RED)]]), Row([[plain(60, 60, GREEN)]])], side=48, even=False)
    assert (area(page, RED), area(page, GREEN)) == (48**2, 60**2)


def test_a_square_with_texts_below():
    pictures = np.repeat(np.arange(20, dtype=np.uint8), 64 * 64 * 3).reshape(20, 64, 64, 3) + 100
    [page] = target_pages(pictures, [[n] for n in range(20)], [f"fire4:{n}@field" for n in range(20)])
    page = np.asarray(page)
    for n in range(20):
        row, column = divmod(n, 5)
        top, left = 6 + 21 + row * (64 + 21), 6 + column * 70
        assert (page[top : top + 64, left : left + 64] == 100 + n).all()
        assert (page[top + 64 : top + 85, left : left + 16] < 128).any()  # its number below
    assert (page[6:21, 6:80] < 128).any()  # what the captions share above


def test_few_targets_come_as_rows():
    pictures = np.zeros((4, 64, 64, 3), np.uint8)
    [page] = target_pages(pictures, [[0, 1], [2, 3]], ["a", "b"])
    assert page.size == sheet([Row([pictures[:2]], "a"), Row([pictures[2:]], "b")])[0].size


def test_a_long_text_below_takes_a_second_line():
    pictures = np.zeros((2, 64, 64, 3))
    texts = ("0.99 cat", "0.99 dumbbell", 40 * "x")
    heights = [sheet([Row([pictures], below=[["0.99 cat", last]])], side=64)[0].height for last in texts]
    assert [height - heights[0] for height in heights] == [0, 15, 0]  # one word has no second line


def test_a_caption_has_room():
    """A caption of more lines than its pictures are high makes its row higher."""
    one, two = (sheet([Row([[plain(9, 9, RED)]], text)], side=9)[0].height for text in ("a", "many words " * 12))
    assert two > one + 4 * 13


def test_pages_are_bounded_and_hold_everything():
    rows = [Row([[plain(64, 64, RED)] * 4], f"class:{n}") for n in range(200)]
    pages = sheet(rows)
    assert len(pages) > 1
    assert all(page.height <= TALLEST for page in pages)
    assert sum(area(page, RED) for page in pages) == 800 * 128**2


@pytest.mark.parametrize("text", ["\x1b[2Jclear", "a\nb\tc", "\udcff lone", "$x$"])
def test_any_text_can_be_drawn(text):
    assert sheet([Row([[plain(8, 8, RED)]], text, [[text]])], headings=[text], title=text)
