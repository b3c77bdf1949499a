"""The folder that `invert` writes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from jaxopt_input.data import to_uint8
from jaxopt_input.draw.sheet import contact_sheet, grid_sheet
from jaxopt_input.methods.invert.recipe import Inversion, Rung
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import _number, write

SMALLEST = 128  # pixels of a picture's longer side on the sheet, so that its caption fits below


def write_inversion(folder: Path, found: Inversion, model: Model, **run: Any) -> dict[str, Any]:
    """Write an inversion's best images, with the error of each layer, beside the photograph.

    Args:
        folder: made if need be.
        found: the rungs of a ladder.
        model: the network.
        run: the other arguments of `runs.writer.write`.

    Returns:
        What `run.json` says: in each of its `results`, and for the best start of each rung, the `error` of every layer.
    """
    solution = found.solution()
    return write(
        folder,
        solution,
        [None] * len(solution.names),
        model,
        sheets={"original.png": found.image},
        draw=functools.partial(sheet, found),
        entries=[entry for rung in found.rungs for entry in _entries(rung)],
        more={
            "original": "original.png",
            "error": {rung.name: _at(rung.error, rung.best) for rung in found.rungs},
            "positions": {rung.name: rung.positions for rung in found.rungs if rung.positions} or None,
        },
        logarithmic=True,
        **run,
    )


def sheet(found: Inversion, pictures: np.ndarray) -> Any:
    """The photograph and the images of each rung under the error of each layer; a row a rung for several starts.

    Args:
        found: the rungs.
        pictures: `[N, H, W, C]` in [0, 1] or 8-bit, the images of all starts of all rungs in order.

    Returns:
        An RGB image.
    """
    pictures = pictures if pictures.dtype == np.uint8 else to_uint8(pictures)
    shown = np.concatenate([to_uint8(found.image)[None], pictures])
    starts = len(found.rungs[0].solution.names)
    if starts == 1:
        factor = max(1, -(-SMALLEST // max(shown.shape[1:3])))
        return grid_sheet(shown.repeat(factor, 1).repeat(factor, 2), ["original", *map(caption, found.rungs)])
    rows = [shown[:1], *(shown[1 + n : 1 + n + starts] for n in range(0, len(pictures), starts))]
    return contact_sheet(rows, ["original", *map(caption, found.rungs)])


def caption(rung: Rung) -> str:
    """A rung's name and the error of its best start in each layer, such as "fire4, 2.1 %".

    Example:
        >>> from types import SimpleNamespace
        >>> caption(SimpleNamespace(name="a+b", best=0, error={"a": np.array([0.0213]), "b": np.array([0.3])}))
        'a+b, 2.13 %, 30 %'
    """
    return f"{rung.name}, " + ", ".join(f"{100 * error[rung.best]:.3g} %" for error in rung.error.values())


def _entries(rung: Rung) -> list[dict[str, Any]]:
    """What each start's result says of the errors."""
    starts = range(len(rung.solution.names))
    return [{"error": _at(rung.error, start), "error_8bit": _at(rung.error_8bit, start)} for start in starts]


def _at(errors: dict[str, np.ndarray], start: int) -> dict[str, float | None]:
    return {layer: _number(error[start]) for layer, error in errors.items()}
