"""Contact sheets: many images as one, a row a target, with captions."""

from __future__ import annotations

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
