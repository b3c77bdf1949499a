"""Sheets: many pictures as one, in rows and groups, with captions, headings and a text below each picture."""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxopt_input.data import to_pillow
from jaxopt_input.errors import printable

INK, PAPER, GAP = (32, 32, 32), (255, 255, 255), 6
WIDEST = 12  # pictures side by side before a group goes on below
TALLEST = 8192  # pixels of a page
LARGEST = 384  # pixels of a picture's longer side
HEAD, LINE = 13 + 2 * GAP, 15  # pixels of a line of headings, and of a text below a picture

Pictures = Sequence[Any] | np.ndarray
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        groups: the pictures of each group, `[h, w, C]` in [0, 1] or 8-bit, of any size; a group may be empty.
        caption: the text to the left of the row.
        below: the text below each picture of each group; none if empty.
    """

    groups: Sequence[Pictures]
    caption: str = ""
    below: Sequence[Sequence[str]] = ()


def sheet(
    rows: Sequence[Row],
    *,
    headings: Sequence[str] = (),
    title: str = "",
    columns: int | None = None,
    side: int = 96,
    largest: int = LARGEST,
    even: bool = True,
) -> list[Image.Image]:
    """Rows of pictures as pages of bounded size.

    The pictures are brought to one size: enlarged by whole factors, their pixels sharp, or reduced. A group of more
    pictures than columns goes on below.

    Args:
        rows: at least one, with as many groups each.
        headings: one per group, or none.
        title: a line above all.
        columns: pictures of a group side by side; 12 if None, or as many as make a very long group square.
        side: pixels of a picture's longer side, at least.
        largest: pixels of a picture's longer side, at most.
        even: whether all rows have pictures of one size.

    Returns:
        RGB images: one, and another wherever `TALLEST` pixels are full.

    Example:
        >>> [page] = sheet([Row([[np.zeros((8, 8, 3))], [np.zeros((4, 6, 1))] * 2], "conv1:0")], headings=["a", "b"])
        >>> page.mode, page.size
        ('RGB', (392, 127))
    """
    boxes = [_box([picture for group in row.groups for picture in group], side, largest) for row in rows]
    if even:
        boxes = [tuple(map(max, zip(*boxes, strict=True)))] * len(rows)
    font = ImageFont.load_default(13)
    counts = [max(map(len, group)) for group in zip(*(row.groups for row in rows), strict=True)]
    across = [min(count, columns or max(WIDEST, square(count))) for count in counts]
    margin = max((_width(_wrapped(row.caption), font) + 2 * GAP for row in rows if row.caption), default=GAP)
    lefts = _lefts(margin, across, max(width for width, _ in boxes), headings, font)
    head = (LINE + GAP if title else 0) + (HEAD if any(headings) else GAP)
    width = max(lefts[-1], _width(title, ImageFont.load_default(11)) + 2 * GAP)
    strips = [strip for row, box in zip(rows, boxes, strict=True) for strip in _strips(row, box, across, lefts, width)]
    pages = []
    while strips:
        heights = list(itertools.accumulate(strip.height for strip in strips))
        fit = max(1, sum(head + height <= TALLEST for height in heights))
        page = Image.new("RGB", (width, head + heights[fit - 1]), PAPER)
        draw, top = ImageDraw.Draw(page), head
        draw.text((GAP, GAP), printable(title), fill=INK, font=ImageFont.load_default(11))
        for heading, left, count in zip(headings, lefts, counts, strict=False):
            if count:
                draw.text((left, head - HEAD + GAP), printable(heading), fill=INK, font=font)
        for strip in strips[:fit]:
            page.paste(strip, (0, top))
            top += strip.height
        pages.append(page)
        strips = strips[fit:]
    return pages


def _strips(
    row: Row, box: tuple[int, int], across: Sequence[int], lefts: Sequence[int], width: int
) -> list[Image.Image]:
    """The lines of a row, as wide as the page; its caption stands beside the first."""
    font = ImageFont.load_default(11)
    texts = [[_lines(text, box[0], font) for text in group] for group in row.below] or [[]] * len(row.groups)
    lines = max((-(-len(group) // max(n, 1)) for group, n in zip(row.groups, across, strict=True)), default=1)
    strips = []
    for k in range(max(lines, 1)):
        pictures, below = (
            [group[k * n : (k + 1) * n] for group, n in zip(groups, across, strict=True)]
            for groups in (row.groups, texts)
        )
        caption = "" if k else _wrapped(row.caption)
        deep = max((len(text) for group in below for text in group), default=0)
        height = max(box[1] + LINE * deep, 16 * (caption.count("\n") + 1) if caption else 0) + GAP
        strips.append(strip := Image.new("RGB", (width, height), PAPER))
        draw = ImageDraw.Draw(strip)
        draw.multiline_text((GAP, 0), caption, fill=INK, font=ImageFont.load_default(13))
        for group, captions, left in zip(pictures, below, lefts, strict=False):
            for n, picture in enumerate(group):
                x, tile = left + n * (box[0] + GAP), _tile(picture, box)
                strip.paste(tile, (x + (box[0] - tile.width) // 2, (box[1] - tile.height) // 2))
                for place, text in enumerate(captions[n] if captions else ()):
                    draw.text((x, box[1] + 1 + place * LINE), text, fill=INK, font=font)
    return strips


def _box(pictures: Pictures, side: int, largest: int) -> tuple[int, int]:
    """(width, height) that holds each picture, the small ones enlarged and the large ones reduced."""
    sizes = []
    for height, width in {_size(picture) for picture in pictures}:
        longer = max(height, width)
        factor = min(-(-side // longer) if longer < side else 1, max(largest // longer, 1))
        scale = min(1, largest / (factor * longer)) * factor
        sizes.append((max(1, round(width * scale)), max(1, round(height * scale))))
    return tuple(map(max, zip(*sizes, strict=True))) if sizes else (side, side)


def _size(picture: Any) -> tuple[int, int]:
    if not isinstance(picture, Image.Image) and np.shape(picture)[2] in (1, 3):
        return np.shape(picture)[0], np.shape(picture)[1]
    width, height = (picture if isinstance(picture, Image.Image) else to_pillow(picture)).size
    return height, width


def _tile(picture: Any, box: tuple[int, int]) -> Image.Image:
    """A picture as large as fits a box, its pixels sharp where it is enlarged."""
    image = (picture if isinstance(picture, Image.Image) else to_pillow(picture)).convert("RGB")
    scale = min(box[0] / image.width, box[1] / image.height)
    factor, method = (int(scale), Image.Resampling.NEAREST) if scale >= 1 else (scale, Image.Resampling.LANCZOS)
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), method)


def _lefts(margin: int, across: Sequence[int], width: int, headings: Sequence[str], font: Font) -> list[int]:
    """Where each group begins, and where the last one ends."""
    lefts = [margin]
    for n, heading in zip(across, headings or [""] * len(across), strict=True):
        room = max(n * (width + GAP), _width(heading, font) + GAP) + 2 * GAP * bool(headings)
        lefts.append(lefts[-1] + (room if n else 0))
    return lefts


def square(count: int) -> int:
    """The columns of so many pictures in a square.

    Example:
        >>> square(20)
        5
    """
    return math.ceil(math.sqrt(count))


def titled(captions: Sequence[str]) -> tuple[str, list[str]]:
    """What captions have in common as a title, and the rest of each.

    Example:
        >>> titled(["fire4:0@field", "fire4:1@field"])
        ('fire4@field', ['0', '1'])
        >>> titled(["fire4:0", "fire6:0"])
        ('', ['fire4:0', 'fire6:0'])
    """
    parts = [caption.partition(":") for caption in captions]
    if len({first for first, _, _ in parts}) > 1 or not parts[0][1]:
        return "", list(captions)
    rest = [text.partition("@") for _, _, text in parts]
    if len({where for _, _, where in rest}) == 1:
        return f"{parts[0][0]}{rest[0][1]}{rest[0][2]}", [text for text, _, _ in rest]
    return parts[0][0], [text for _, _, text in parts]


def target_pages(pictures: Pictures, rows: Sequence[Sequence[int]], captions: Sequence[str]) -> list[Image.Image]:
    """Pages of targets: one row per target, or a square where they are many with one picture each.

    Args:
        pictures: `[N, H, W, C]` in [0, 1] or 8-bit.
        rows: the pictures of each target.
        captions: one per target.

    Example:
        >>> target_pages(np.zeros((20, 64, 64, 3)), [[n] for n in range(20)], ["a"] * 20)[0].size
        (356, 346)
    """
    if len(rows) > WIDEST and max(map(len, rows)) == 1:
        title, texts = titled(captions)
        together = Row([[pictures[row[0]] for row in rows]], below=[texts])
        return sheet([together], title=title, columns=square(len(rows)), side=64)
    return sheet([Row([[pictures[n] for n in row]], text) for row, text in zip(rows, captions, strict=True)])


def _lines(caption: str, width: int, font: Font) -> list[str]:
    """A caption on one line, or on two, the first as many words as fit; what is wider still is cut."""

    def cut(text: str) -> str:
        while font.getlength(text) > width:
            text = text[:-1]
        return text

    words = printable(caption).split()
    fit = next((n for n in range(len(words), 1, -1) if font.getlength(" ".join(words[:n])) <= width), 1)
    return [cut(" ".join(part)) for part in (words[:fit], words[fit:]) if part] or [""]


def _wrapped(caption: str) -> str:
    return "\n".join(textwrap.wrap(printable(caption), 22, break_long_words=True))


def _width(text: str, font: Font) -> int:
    return max((math.ceil(font.getlength(line)) for line in text.split("\n")), default=0)
