"""Sheets of a data set's images beside what was made for the same target."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.engine.minimize import Solution
from jaxopt_input.engine.target import label
from jaxopt_input.methods.exemplars.beside import Beside, Ends, Exemplar, patch
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Page, sheets

ENDS = ("largest", "smallest")
HEADINGS = ("made", *ENDS)


def describe(ends: Ends, model: Model) -> dict[str, list[dict[str, Any]]]:
    """What `run.json` says of the images at both ends of a ranking."""
    return {end: [_entry(image, model) for image in images] for end, images in zip(ENDS, ends, strict=True)}


def _entry(image: Exemplar, model: Model) -> dict[str, Any]:
    labeled = image.label >= 0
    return {
        "index": image.index,
        "name": image.name,
        "class": image.label if labeled else None,
        "label": model.info.label(image.label) if labeled else None,
        "value": image.value,
        "position": list(image.position),
    }


def row_of(made: Sequence[Any], ends: Ends, caption: str) -> Row:
    """A row of a sheet: what was made, and the images at both ends of the ranking, under `HEADINGS`."""
    return Row([made, *([image.picture for image in images] for images in ends)], caption)


def beside_page(beside: Beside, solution: Solution, model: Model) -> Page:
    """What data show beside a solution: the sheet `data.png`, and the entry "data".

    Args:
        beside: what `beside_targets` returns.
        solution: images for the same targets; the best start of each is shown.
        model: the network.
    """
    rows, described = [], {}
    for name in dict.fromkeys(solution.names):
        layer, channel, position = _parts(name)
        ends = beside.ends[layer, channel]
        described[name] = describe(ends, model)
        image, field = best_image(solution, name), beside.fields.get(layer)
        if position and field is not None and image.shape == beside.dataset.image_shape:
            image = patch(image, position, field)
        rows.append(row_of([image], ends, f"{name} {label(name, model) or ''}".strip()))
    page = Page()
    sheets(page, sheet(rows, headings=HEADINGS), "data")
    page.entries["data"] = {
        "dataset": beside.dataset.name,
        "images": len(beside.dataset),
        "top": beside.k,
        "figure": "data.png",
        "receptive_fields": {layer: dataclasses.asdict(field) for layer, field in beside.fields.items()},
        "targets": described,
    }
    return page


def best_image(solution: Solution, name: str) -> np.ndarray:
    """The image of a target's best start."""
    lanes = [n for n, other in enumerate(solution.names) if other == name]
    best = lanes[np.argsort(np.asarray(solution.best_loss)[lanes])[0]]  # argsort puts NaN last
    return np.asarray(solution.best_image[best])


def _parts(name: str) -> tuple[str, int, tuple[int, ...]]:
    """Layer, channel and position of a target's canonical name: "-2*fire4:5@27,27" is ("fire4", 5, (27, 27))."""
    match = re.fullmatch(r"-?(?:[\d.e+-]+\*)?(.+):(\d+)(?:@field|@(\d+),(\d+))?", name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a class, channel or unit")
    layer, channel, *position = match.groups()
    return "logits" if layer == "class" else layer, int(channel), tuple(int(n) for n in position if n is not None)
