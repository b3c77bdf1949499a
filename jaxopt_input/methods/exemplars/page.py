"""Sheets of a data set's images beside what was made for the same target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.engine.solution import Solution
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
    """What data show beside the best start of each target of a solution: the sheet `data.png`, and the entry "data"."""
    rows, described = [], {}
    best = solution.best(1)
    for target, image in zip(best.targets, np.asarray(best.best_image), strict=True):
        ends, field = beside.ends[target.layer, target.index], beside.fields.get(target.layer)
        described[str(target)] = describe(ends, model)
        if target.position and field is not None and image.shape == beside.dataset.image_shape:
            image = patch(image, target.position, field)
        rows.append(row_of([image], ends, f"{target} {label(target, model) or ''}".strip()))
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
