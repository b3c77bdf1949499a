"""Contact sheets: many images as one, a row a target, with captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxopt_input.data import to_pillow

INK, PAPER, GAP = (32, 32, 32), (255, 255, 255), 6


def contact_sheet(rows: Sequence[np.ndarray], captions: Sequence[str], columns: int | None = None) -> Image.Image:
    """A sheet of images, each row's caption to its left; small images are enlarged to at least 96 pixels.

    Args:
        rows: for each caption, its images `[n, H, W, C]` in [0, 1] or 8-bit.
        captions: one a row.
        columns: images side by side before a row wraps; all of a row's if None, at most 12.

    Returns:
        An RGB image.

    Example:
        >>> contact_sheet([np.zeros((2, 8, 8, 3))], ["class:3 bullfrog"]).mode
        'RGB'
    """
    height, width = rows[0].shape[1:3]
    factor = max(1, -(-96 // max(height, width)))
    cell_h, cell_w = height * factor + GAP, width * factor + GAP
    columns = min(columns or max(len(row) for row in rows), 12)
    font = ImageFont.load_default(13)
    texts = ["\n".join(textwrap.wrap(caption, 22, break_long_words=True)) for caption in captions]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = int(max(ruler.multiline_textbbox((0, 0), text, font)[2] for text in texts)) + 2 * GAP
    lines = [-(-len(row) // columns) for row in rows]
    sheet = Image.new("RGB", (margin + columns * cell_w + GAP, sum(lines) * cell_h + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, text, n_lines in zip(rows, texts, lines, strict=True):
        draw.multiline_text((GAP, top), text, fill=INK, font=font)
        for n, picture in enumerate(row):
            place = (margin + n % columns * cell_w, top + n // columns * cell_h)
            tile = to_pillow(picture).convert("RGB").resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(tile, place)
        top += n_lines * cell_h
    return sheet


def target_sheet(pictures: np.ndarray, rows: Sequence[Sequence[int]], captions: Sequence[str]) -> Image.Image:
    """A contact sheet of targets, or a grid where they are many with one image each.

    Args:
        pictures: `[N, H, W, C]` in [0, 1] or 8-bit.
        rows: for each target, which of the pictures are its.
        captions: one a target.

    Returns:
        An RGB image.

    Example:
        >>> target_sheet(np.zeros((20, 64, 64, 3)), [[n] for n in range(20)], ["a"] * 20).size
        (356, 346)
    """
    if len(rows) > 12 and max(map(len, rows)) == 1:
        return grid_sheet(pictures[[row[0] for row in rows]], captions)
    return contact_sheet([pictures[list(row)] for row in rows], captions)


def grid_sheet(pictures: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """A compact sheet of many targets with one image each: their captions below, what these share as the heading.

    Args:
        pictures: `[N, H, W, C]` in [0, 1] or 8-bit; small ones are enlarged to at least 64 pixels.
        captions: N of them, such as "fire4:0@field", "fire4:1@field", …; a long one takes two lines, each cut to the
            width of its image.

    Returns:
        An RGB image, about as many rows as columns.

    Example:
        >>> grid_sheet(np.zeros((9, 32, 32, 3)), [f"fire4:{n}" for n in range(9)]).size
        (216, 282)
    """
    count, height, width = pictures.shape[:3]
    factor = max(1, -(-64 // max(height, width)))
    columns = math.ceil(math.sqrt(count))
    heading, texts = _shared(captions)
    font, line = ImageFont.load_default(11), 15
    head = line + GAP if heading else 0
    wrapped = [_lines(text, width * factor, font) for text in texts]
    cell_h, cell_w = height * factor + line * max(map(len, wrapped)) + GAP, width * factor + GAP
    sheet = Image.new("RGB", (columns * cell_w + GAP, head + -(-count // columns) * cell_h + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), heading, fill=INK, font=font)
    for n, (picture, words) in enumerate(zip(pictures, wrapped, strict=True)):
        left, top = GAP + n % columns * cell_w, GAP + head + n // columns * cell_h
        tile = to_pillow(picture).convert("RGB").resize((width * factor, height * factor), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top))
        for k, text in enumerate(words):
            draw.text((left, top + height * factor + 1 + k * line), text, fill=INK, font=font)
    return sheet


def _lines(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A caption on one line, or on two, the first as many words as fit; what is wider still is cut."""

    def cut(text: str) -> str:
        while font.getlength(text) > width:
            text = text[:-1]
        return text

    words = caption.split()
    fit = next((n for n in range(len(words), 1, -1) if font.getlength(" ".join(words[:n])) <= width), 1)
    return [cut(" ".join(part)) for part in (words[:fit], words[fit:]) if part] or [""]


def _shared(captions: Sequence[str]) -> tuple[str, list[str]]:
    """("fire4@field", ["0", "1"]) of "fire4:0@field" and "fire4:1@field"; no heading where they begin differently."""
    parts = [caption.partition(":") for caption in captions]
    if len({first for first, _, _ in parts}) > 1 or not parts[0][1]:
        return "", list(captions)
    rest = [text.partition("@") for _, _, text in parts]
    if len({where for _, _, where in rest}) == 1:
        return f"{parts[0][0]}{rest[0][1]}{rest[0][2]}", [text for text, _, _ in rest]
    return parts[0][0], [text for _, _, text in parts]
