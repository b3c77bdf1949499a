"""What `visualize` shows: the best images of each target, what its preset shows beside them, data, and comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxopt_input.data import to_uint8
from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.engine.solution import Solution
from jaxopt_input.engine.target import label
from jaxopt_input.methods.visualize.importance import importance
from jaxopt_input.methods.visualize.settings import preset
from jaxopt_input.models.model import Model
from jaxopt_input.models.receptive import receptive_field
from jaxopt_input.runs.page import Page, Picture, counted, lanes, overview, sheets


def part_page(solution: Solution, names: Sequence[str], model: Model, seed: int) -> Page:
    """The best images of some targets, by the names of their pictures."""
    labels = [label(solution.targets[n], model) for n in solution.target]
    return lanes(solution, labels, model.info.name, seed, names=names)


def lanes_of(solution: Solution) -> list[tuple[str, int]]:
    """The target and start of each lane."""
    return list(zip(solution.names, np.asarray(solution.start).tolist(), strict=True))


def whole_page(solution: Solution, names: Sequence[str], model: Model, animate: str | None = None) -> Page:
    """The sheet, the loss curves and the film of all targets, whose pictures have these names."""
    page = overview(solution, [label(solution.targets[n], model) for n in solution.target], animate=animate)
    page.notes.append(counted(len(names)))
    return page


def field_page(solution: Solution, model: Model) -> Page:
    """The receptive field of a solution's units: their layer, and size, stride and offset in a full image."""
    layer = solution.targets[0].layer
    return Page(entries={"field": {"layer": layer, **dataclasses.asdict(receptive_field(model, layer))}})


def versions_page(solution: Solution, names: Sequence[str], preset_name: str, model: Model, key: jax.Array) -> Page:
    """Further pictures of a solution, whose best images have these names, and the entry that names them.

    For a preset of Yosinski: "last"; "majority" with "majority_step", None where the unit never was the most active of
    its layer; and "scaled", the best image with its contrast stretched about gray to the whole range, as he shows his.
    For MACO: "alpha", the best image with its importance as transparency, that of the preset's own transform and
    objective; the key is for its views. For others nothing.
    """
    _, height, width, channels = solution.image.shape
    chosen = preset(preset_name, (height, width, channels))
    versions: dict[str, Any] = {}  # one picture per lane each
    steps: list[int] = []
    if chosen.majority and solution.milestone_image is not None and solution.milestone_step is not None:
        centered = np.asarray(solution.best_image) - 0.5
        reach = np.abs(centered).max((1, 2, 3), keepdims=True)
        scaled = to_uint8(0.5 + centered / (2 * np.where(reach > 0, reach, 1.0)))
        versions = {"last": to_uint8(solution.image), "scaled": scaled, "majority": to_uint8(solution.milestone_image)}
        steps = np.asarray(solution.milestone_step).tolist()
    elif chosen.alpha:
        mask = importance(model, solution, transform=chosen.transform, kind=chosen.objective, key=key)
        opaque = np.broadcast_to(to_uint8(solution.best_image), (*mask.shape, 3))
        transparent = np.concatenate([opaque, to_uint8(mask)[..., None]], -1)
        versions = {"alpha": [Image.fromarray(picture) for picture in transparent]}  # four bands alone would be tiles
    page, entries = Page(), []
    for n, name in enumerate(names if versions else ()):
        entry: dict[str, Any] = {"majority_step": steps[n] if steps[n] >= 0 else None} if steps else {}
        for version, pictures in versions.items():
            file = f"{name.removesuffix('.png')}-{version}.png"
            absent = version == "majority" and steps[n] < 0
            entry[version] = None if absent else file
            if not absent:
                page.items[file] = Picture(pictures[n])
        entries.append(entry)
    if entries:
        page.entries["versions"] = entries
    return page


def comparison_page(parts: Sequence[tuple[str, Solution, Mapping[str, Any]]]) -> Page:
    """Runs of the same targets on several networks as one sheet, and the rows of all.

    Each target has one row per network, its starts side by side.

    Args:
        parts: for each network, the name of its part of the run, what it found, and what its `run.json` says.
    """
    page = Page()
    for part, _, info in parts:
        page.rows += [{**row, "model": part, "image": f"{part}/{row['image']}"} for row in info["results"]]
    names = parts[0][1].names
    starts = list(names).count(names[0])
    rows = []
    for first in range(0, len(names), starts):
        for part, solution, info in parts:
            result = info["results"][first]
            pictures = np.asarray(solution.best_image)[first : first + starts]
            rows.append(Row([to_uint8(pictures)], f"{result['label'] or result['target']} in {part}"))
    sheets(page, sheet(rows))
    page.entries["compared"] = [
        {"folder": part, **info["model"], **({"data": f"{part}/{info['data']['figure']}"} if "data" in info else {})}
        for part, _, info in parts
    ]
    page.evaluations = sum(info["evaluations"] for _, _, info in parts)
    page.notes.append(f"{len(page.rows)} images of {len(parts)} networks side by side")
    return page
