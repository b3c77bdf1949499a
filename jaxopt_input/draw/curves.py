"""Loss curves and throughputs, through matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def loss_curves(path: Path, losses: np.ndarray, names: Sequence[str], logarithmic: bool = False) -> None:
    """Plot every start's loss against its step, one color a target.

    Args:
        path: the PNG to write.
        losses: `[N, steps + 1]`; numbers that are not finite leave a gap.
        names: N target names; starts of one target share a color and one entry of the legend.
        logarithmic: whether the axis of the loss is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    distinct = list(dict.fromkeys(names))
    for name, curve in zip(names, losses, strict=True):
        first = name not in axes.get_legend_handles_labels()[1]
        color = f"C{distinct.index(name) % 10}"
        finite = np.where(np.isfinite(curve), curve, np.nan)
        axes.plot(finite, color=color, lw=1, alpha=0.8, label=name if first else None)
    axes.set(xlabel="step", ylabel="loss", yscale="log" if logarithmic else "linear")
    if len(distinct) <= 10:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def throughput(path: Path, curves: Mapping[tuple[str, str, str], Sequence[tuple[int, float, float, float]]]) -> None:
    """Plot images times steps a second against the batch, with quartiles, both axes logarithmic; a panel a model.

    Args:
        path: the PNG to write.
        curves: by model, task and dtype, (batch, median, lower quartile, upper quartile) in order of the batch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, ScalarFormatter

    models, tasks, dtypes = (list(dict.fromkeys(names)) for names in zip(*curves, strict=True))
    figure = Figure(figsize=(7, 4.2 * len(models)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = dict(zip(models, figure.subplots(len(models), squeeze=False, sharex=True)[:, 0], strict=True))
    labels = {}
    for (model, task, dtype), points in curves.items():
        batch, median, low, high = np.array(points).T
        drawn = panels[model].errorbar(
            batch, median, (median - low, high - median), marker="o", ms=4, lw=1, capsize=3,
            color=f"C{tasks.index(task) % 10}", ls=("-", "--", ":")[dtypes.index(dtype) % 3],
        )  # fmt: skip
        labels[f"{task} {dtype}"] = drawn
    batches = sorted({int(point[0]) for points in curves.values() for point in points})
    for model, axes in panels.items():
        axes.set(title=model, ylabel="images x steps a second", xscale="log", yscale="log")
        axes.set_xticks(batches, [str(batch) for batch in batches], minor=False)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))  # rates as a rule span less than a decade
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="images at once")
    figure.legend(labels.values(), labels, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
