"""What `invert` shows: the images of each rung beside the photo, with the error of each layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.engine.solution import Solution
from jaxopt_input.errors import MOST, printable
from jaxopt_input.methods.invert.recipe import Inversion, Rung
from jaxopt_input.runs.page import Page, Picture, counted, lanes, number, overview, picture_names

SMALLEST = 128  # pixels of a picture's longer side on the sheet, so that its caption fits below


def inversion_page(inversion: Inversion, model: str, seed: int, animate: str | None = None) -> Page:
    """The best images of an inversion beside the photo, with the errors of each start and of each rung's best.

    Args:
        inversion: the rungs of a ladder.
        model: the name of the network.
        seed: of the run.
        animate: the format of a film of the snapshots; None for none.
    """
    solution = inversion.solution()
    labels = [None] * len(solution)
    errors = [entry for rung in inversion.rungs for entry in _errors(rung)]
    page = lanes(solution, labels, model, seed, extra=errors)
    page.items["original.png"] = Picture(inversion.photo)
    page.entries["original"] = "original.png"
    draw = functools.partial(inversion_sheets, inversion)
    shown = overview(solution, labels, draw=draw, animate=animate, logarithmic=True)
    page.items |= shown.items
    page.entries |= shown.entries
    page.entries["error"] = {rung.name: _at(rung.error, rung.best) for rung in inversion.rungs}
    page.entries["positions"] = {rung.name: rung.positions for rung in inversion.rungs if rung.positions} or None
    page.remedies = ("another image or --seed, or a layer before the ReLU", "a smaller --learning-rate")
    page.notes = [counted(len(page.rows)), *(_note(name, e) for name, e in page.entries["error"].items())]
    return page


def rung_page(solution: Solution, before: Sequence[str], model: str, seed: int) -> Page:
    """The best images of one rung, while further ones are optimized; `inversion_page` counts its evaluations.

    Args:
        solution: of the rung.
        before: the names of the pictures of earlier rungs.
        model: the name of the network.
        seed: of the run.
    """
    names = picture_names(solution.names, solution.start.tolist(), before)
    page = lanes(solution, [None] * len(solution), model, seed, names=names)
    page.evaluations = 0
    return page


def inversion_sheets(inversion: Inversion, pictures: np.ndarray) -> list[Image.Image]:
    """The pages of the photo and the images of each rung with its errors; one row per rung for several starts.

    Args:
        inversion: the rungs.
        pictures: `[N, H, W, C]` in [0, 1] or 8-bit, the images of all starts of all rungs in order.
    """
    starts = len(inversion.rungs[0].solution)
    captions = ["original", *map(caption, inversion.rungs)]
    if starts == 1:
        shown: list[np.ndarray] = [inversion.photo, *pictures]
        return sheet([Row([shown], below=[captions])], columns=math.ceil(math.sqrt(len(captions))), side=SMALLEST)
    groups: list[Any] = [
        [inversion.photo],
        *(pictures[n : n + starts] for n in range(0, len(pictures), starts)),
    ]
    return sheet([Row([group], text) for group, text in zip(groups, captions, strict=True)])


def caption(rung: Rung) -> str:
    """A rung's name and the error of its best start in each layer, such as "fire4, 2.1 %".

    Example:
        >>> from types import SimpleNamespace
        >>> caption(SimpleNamespace(name="a+b", best=0, error={"a": np.array([0.0213]), "b": np.array([0.3])}))
        'a+b, 2.13 %, 30 %'
    """
    return f"{rung.name}, " + ", ".join(f"{100 * error[rung.best]:.3g} %" for error in rung.error.values())


def _note(name: str, errors: Mapping[str, float | None]) -> str:
    """A line for standard output on the errors of a rung."""
    shown = [
        f"{printable(layer, MOST)} {'not finite' if e is None else f'{100 * e:.3g} %'}" for layer, e in errors.items()
    ]
    return f"error at {', '.join(shown)}" if name in errors else f"{printable(name, MOST)}: error {', '.join(shown)}"


def _errors(rung: Rung) -> list[dict[str, dict[str, float | None]]]:
    """What the row of each start says of the errors."""
    starts = range(len(rung.solution))
    return [{"error": _at(rung.error, start), "error_8bit": _at(rung.error_8bit, start)} for start in starts]


def _at(errors: Mapping[str, np.ndarray], start: int) -> dict[str, float | None]:
    return {layer: number(error[start]) for layer, error in errors.items()}
