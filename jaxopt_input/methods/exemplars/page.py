"""Sheets of a data set's images beside what was made for the same target, and the figure of their coherence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxopt_input.data import Dataset, atomic, save_png
from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.engine.minimize import Solution
from jaxopt_input.engine.target import label
from jaxopt_input.methods.directions.recipe import GROUPS, MEASURES, Comparison, Interval, shown_rows
from jaxopt_input.methods.exemplars.beside import Beside, Exemplar, patch
from jaxopt_input.methods.exemplars.beside import show as exemplars
from jaxopt_input.methods.exemplars.recipe import Ranked, Ranking
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Page, sheets
from jaxopt_input.runs.writer import prepare, record, save_images

ENDS = ("largest", "smallest")


def describe(exemplars: Sequence[Exemplar], model: Model) -> list[dict[str, Any]]:
    """What `run.json` says of ranked images."""
    return [
        {
            "index": one.index,
            "name": one.name,
            "class": one.label if one.label >= 0 else None,
            "label": model.info.label(one.label) if one.label >= 0 else None,
            "value": one.value,
            "position": list(one.position),
        }
        for one in exemplars
    ]


def beside_page(beside: Beside, solution: Solution, model: Model) -> Page:
    """What data show beside a solution: the sheet `data.png`, and the entry "data".

    Args:
        beside: see `methods.exemplars.beside.beside_targets`.
        solution: of the same targets; the best start of each is shown.
        model: whose.
    """
    rows, described = [], {}
    for name in dict.fromkeys(solution.names):
        layer, channel, position = _parts(name)
        ends = beside.ends[layer, channel]
        described[name] = {end: describe(ones, model) for end, ones in zip(ENDS, ends, strict=True)}
        image, field = _best(solution, name), beside.fields.get(layer)
        if position and field is not None and image.shape == beside.dataset.image_shape:
            image = patch(image, position, field)
        pictures = [[image], *([one.picture for one in end] for end in ends)]
        rows.append(Row(pictures, f"{name} {label(name, model) or ''}".strip()))
    page = Page()
    sheets(page, sheet(rows, headings=("made", *ENDS)), "data")
    page.entries["data"] = {
        "dataset": beside.dataset.name,
        "images": len(beside.dataset),
        "top": beside.k,
        "figure": "data.png",
        "receptive_fields": {layer: dataclasses.asdict(field) for layer, field in beside.fields.items()},
        "targets": described,
    }
    return page


def _best(solution: Solution, name: str) -> np.ndarray:
    """The image of a target's best start."""
    lanes = [n for n, other in enumerate(solution.names) if other == name]
    best = lanes[np.argsort(np.asarray(solution.best_loss)[lanes])[0]]  # argsort puts NaN last
    return np.asarray(solution.best_image[best])


def _parts(name: str) -> tuple[str, int, tuple[int, ...]]:
    """Layer, channel and position of a target's canonical name: "-2*fire4:5@27,27" is ("fire4", 5, (27, 27))."""
    found = re.fullmatch(r"-?(?:[\d.e+-]+\*)?(.+):(\d+)(?:@field|@(\d+),(\d+))?", name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a class, channel or unit")
    layer, channel, *position = found.groups()
    return "logits" if layer == "class" else layer, int(channel), tuple(int(n) for n in position if n is not None)


def write_comparison(
    folder: Path,
    found: Comparison,
    made: Solution | None,
    show: int,
    dataset: Dataset,
    model: Model,
    *,
    overwrite: bool,
    **run: Any,
) -> dict[str, Any]:
    """Write a comparison of units and directions: both sheets, the coherence and its figure, all rankings, `run.json`.

    Args:
        folder: as `runs.writer.write`.
        found: see `methods.directions.recipe.compare_directions`.
        made: images for those shown, see `methods.directions.recipe.synthesize`; or None.
        show: how many units and how many directions the sheets show.
        dataset: what was ranked.
        model: whose.
        overwrite: whether the folder may hold an earlier run.
        run: further arguments of `runs.writer.record`.

    Returns:
        What `run.json` says.
    """
    groups = shown_rows(found, show)
    shown = [row for group in groups for row in group]
    ends = dict(zip(shown, exemplars(dataset, found.ranking, shown), strict=True))
    icons: dict[int, list[Any]] = {row: [] for row in shown}
    if made is not None:
        icons = {row: [_best(made, found.names[row])] for row in shown}

    def table(rows: Sequence[int]) -> Image.Image:
        pictures = ([icons[row], *([one.picture for one in end] for end in ends[row])] for row in rows)
        captioned = [Row(groups, found.names[row]) for groups, row in zip(pictures, rows, strict=True)]
        return sheet(captioned, headings=("made", *ENDS))[0]

    files = {"units.png": groups[0], "directions.png": groups[1], "sheet.png": shown}
    tables = {file: table(rows) for file, rows in files.items() if rows}
    described = [
        {"target": found.names[row]} | {end: describe(ones, model) for end, ones in zip(ENDS, ends[row], strict=True)}
        for row in shown
    ]
    more: dict[str, Any] = {
        "data": {
            "dataset": dataset.name,
            "images": len(dataset),
            "figures": list(tables)[:-1],
            "targets": described,
        },
        "coherence": {
            group: {measure: interval and interval._asdict() for measure, interval in measures.items()}
            for group, measures in found.coherence.items()
        },
        "sets": {group: {"sets": len(sets), "images": len(np.unique(sets))} for group, sets in found.sets.items()},
        "silent": list(found.silent),
        "rankings": "directions.npz",
    }
    prepare(folder, overwrite)
    results = save_images(folder, made, [None] * len(made.names), model, run["seed"]) if made is not None else []
    for file, picture in tables.items():
        save_png(folder / file, picture)
    with atomic(folder / "coherence.png") as part:
        coherence_figure(part, found.coherence)
    with atomic(folder / "directions.npz") as part:
        np.savez(part, names=np.array(found.names), vectors=found.vectors, **_arrays(found.ranking))
    return record(
        folder,
        model,
        files=[*(result["image"] for result in results), *tables, "coherence.png", "directions.npz"],
        results=results,
        sheet="sheet.png",
        evaluations=0 if made is None else int(np.sum(made.evaluations)),
        **more,
        **run,
    )


def _arrays(ranking: Ranking) -> dict[str, Any]:
    """`largest_value`, `largest_index`, … by name."""
    pairs = zip(ENDS, ranking, strict=True)
    return {f"{end}_{field}": getattr(ranked, field) for end, ranked in pairs for field in Ranked._fields}


def coherence_figure(path: Path, coherence: Mapping[str, Mapping[str, Interval | None]]) -> None:
    """Plot the coherence of units, random directions and random images with their intervals.

    Args:
        path: the PNG to write.
        coherence: see `methods.directions.recipe.Comparison`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"entropy": "class entropy of a set, bits", "similarity": "similarity of its images, cosine"}
    for n, measure in enumerate(MEASURES, start=1):
        axes = figure.add_subplot(1, len(MEASURES), n)
        for y, group in enumerate(GROUPS):
            found = coherence[group][measure]
            if found is not None:
                below, above = found.mean - found.low, found.high - found.mean
                axes.errorbar(found.mean, y, xerr=[[below], [above]], fmt="o", color=f"C{y}", ms=5, capsize=4)
        axes.set(title=titles[measure], yticks=range(len(GROUPS)), ylim=(len(GROUPS) - 0.5, -0.5))
        axes.set_yticklabels(["units", "random directions", "random images"] if n == 1 else [])
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
