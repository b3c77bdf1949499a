"""What `directions` shows: the images of units and of random directions, and how coherent they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxopt_input.data import Dataset
from jaxopt_input.draw.curves import figure
from jaxopt_input.draw.sheet import sheet
from jaxopt_input.engine.solution import Solution
from jaxopt_input.methods.directions.recipe import GROUPS, Comparison, Interval, shown_rows
from jaxopt_input.methods.exemplars.beside import Ends
from jaxopt_input.methods.exemplars.page import ENDS, HEADINGS, describe, row_of
from jaxopt_input.methods.exemplars.recipe import Ranked
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Figure, Page, lanes, sheets

if TYPE_CHECKING:
    import matplotlib.figure

TITLES = {"entropy": "class entropy of a set, bits", "similarity": "similarity of its images, cosine"}
LABELS = ("units", "random directions", "random images")


def coherence_page(comparison: Comparison) -> Page:
    """The numbers of a comparison: the coherence of each group and its figure, and all rankings."""
    coherence, page = comparison.coherence, Page(alone=False)
    page.items["coherence.png"] = Figure(lambda: coherence_figure(coherence))
    page.items["directions.npz"] = {
        "names": np.array(comparison.names),
        "vectors": comparison.vectors,
        **{
            f"{end}_{field}": getattr(ranked, field)
            for end, ranked in zip(ENDS, comparison.ranking, strict=True)
            for field in Ranked._fields
        },
    }
    page.entries = {
        "coherence": {
            group: {name: interval and interval._asdict() for name, interval in measures.items()}
            for group, measures in coherence.items()
        },
        "sets": {group: {"sets": len(s), "images": len(np.unique(s))} for group, s in comparison.sets.items()},
        "silent": list(comparison.silent),
        "rankings": "directions.npz",
    }
    for group in GROUPS:
        means = [f"{name} {interval.mean:.3f}" for name, interval in coherence[group].items() if interval]
        page.notes.append(f"{group:<10} {', '.join(means)}")
    return page


def images_page(
    comparison: Comparison,
    ends: Mapping[int, Ends],
    made: Solution | None,
    show: int,
    dataset: Dataset,
    model: Model,
    seed: int,
) -> Page:
    """The images themselves: sheets of units, of directions, and of both; the images made for them, one row each.

    Args:
        comparison: of units and directions, on the data set.
        ends: the images at both ends of the ranking of each of the `shown_rows`.
        made: what `synthesize` makes for these; or None.
        show: how many units and how many directions the sheets show.
        dataset, model, seed: of the run.
    """
    page = lanes(made, [None] * len(made), model.info.name, seed) if made is not None else Page()
    names, (units, directions) = comparison.names, shown_rows(comparison, show)
    best = [] if made is None else [[image] for image in np.asarray(made.best(1).best_image)]
    pictures = dict(zip(units + directions, best or [[] for _ in ends], strict=True))
    for name, rows in (("units", units), ("directions", directions), ("sheet", units + directions)):
        if rows:
            table = [row_of(pictures[row], ends[row], names[row]) for row in rows]
            sheets(page, sheet(table, headings=HEADINGS), name)
    page.entries["data"] = {
        "dataset": dataset.name,
        "images": len(dataset),
        "targets": [{"target": names[row], **describe(ends[row], model)} for row in units + directions],
    }
    return page


def coherence_figure(coherence: Mapping[str, Mapping[str, Interval | None]]) -> matplotlib.figure.Figure:
    """A figure of the coherence of units, random directions and random images, with their intervals.

    Example:
        >>> interval = Interval(1.0, 0.9, 1.2)
        >>> len(coherence_figure({group: dict.fromkeys(TITLES, interval) for group in GROUPS}).axes)
        2
    """
    drawing = figure(7, 2.4)
    for n, (measure, title) in enumerate(TITLES.items()):
        axes = drawing.add_subplot(1, len(TITLES), n + 1)
        for y, group in enumerate(GROUPS):
            interval = coherence[group][measure]
            if interval is not None:
                widths = [[interval.mean - interval.low], [interval.high - interval.mean]]
                axes.errorbar(interval.mean, y, xerr=widths, fmt="o", color=f"C{y}", ms=5, capsize=4)
        axes.set(title=title, yticks=range(len(GROUPS)), ylim=(len(GROUPS) - 0.5, -0.5))
        axes.set_yticklabels([] if n else LABELS)
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    return drawing
