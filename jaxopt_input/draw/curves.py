"""Curves, through matplotlib: losses and throughputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxopt_input.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float, dpi: int = 110) -> Figure:
    """An empty figure of matplotlib, in inches, that belongs to no window.

    Example:
        >>> figure(2, 1, 100).get_size_inches().tolist()
        [2.0, 1.0]
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chart = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(chart)
    return chart


def plain(text: str, most: int = 60) -> str:
    """A text as matplotlib is to draw it: no mathematics, nothing that cannot be drawn, not too long.

    Example:
        >>> print(plain("5 $ and more"), plain("a" * 99, 4))
        5 \\$ and more aaa…
    """
    return printable(text, most).replace("$", r"\$")


def loss_curves(losses: np.ndarray, names: Sequence[str], logarithmic: bool = False) -> Figure:
    """A figure of every start's loss against its step, one color per target.

    Args:
        losses: `[N, steps + 1]`; numbers that are not finite leave a gap.
        names: N captions; starts of the same target share a color and an entry of the legend.
        logarithmic: whether the axis of the loss is.

    Example:
        >>> len(loss_curves(np.ones((3, 5)), ["a", "a", "b"]).axes[0].lines)
        3
    """
    from matplotlib.ticker import MaxNLocator

    chart = figure(7, 4.2)
    axes = chart.add_subplot()
    colors = {name: f"C{n % 10}" for n, name in enumerate(dict.fromkeys(names))}
    legend = set()
    for name, curve in zip(names, losses, strict=True):
        label = plain(name) if name not in legend and len(colors) <= 10 else None
        legend.add(name)
        axes.plot(np.where(np.isfinite(curve), curve, np.nan), color=colors[name], lw=1, alpha=0.8, label=label)
    axes.set(xlabel="step", ylabel="loss", yscale="log" if logarithmic else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(colors) <= 10:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves
    axes.spines[["top", "right"]].set_visible(False)
    return chart


def throughput(curves: Mapping[tuple[str, str, str], Sequence[tuple[int, float, float, float]]]) -> Figure:
    """A figure of images times steps per second by batch, both axes logarithmic; one panel per model.

    Args:
        curves: by model, task and dtype, (batch, median, lower quartile, upper quartile) in order of the batch.

    Example:
        >>> throughput({("toy", "class", "float32"): [(1, 9.0, 8.0, 9.5), (4, 20.0, 19.0, 22.0)]}).axes[0].get_title()
        'toy'
    """
    from matplotlib.ticker import LogLocator, ScalarFormatter

    models, tasks, dtypes = (list(dict.fromkeys(names)) for names in zip(*curves, strict=True))
    chart = figure(7, 4.2 * len(models))
    panels = dict(zip(models, chart.subplots(len(models), squeeze=False, sharex=True)[:, 0], strict=True))
    labels = {}
    for (model, task, dtype), points in curves.items():
        batch, median, low, high = np.array(points).T
        labels[f"{task} {dtype}"] = panels[model].errorbar(
            batch, median, (median - low, high - median), marker="o", ms=4, lw=1, capsize=3,
            color=f"C{tasks.index(task) % 10}", ls=("-", "--", ":")[dtypes.index(dtype) % 3],
        )  # fmt: skip
    batches = sorted({int(point[0]) for points in curves.values() for point in points})
    for model, axes in panels.items():
        axes.set(title=plain(model), ylabel="images x steps per second", xscale="log", yscale="log")
        axes.set_xticks(batches, [str(batch) for batch in batches], minor=False)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))  # rates mostly span less than a decade
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="images at once")
    chart.legend(labels.values(), labels, loc="outside right upper", frameon=False, fontsize=8)
    return chart
