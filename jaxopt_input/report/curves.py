"""Loss curves, through matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def loss_curves(path: Path, losses: np.ndarray, names: Sequence[str], logarithmic: bool = False) -> None:
    """Plot every start's loss against its step, one colour a target.

    Args:
        path: the PNG to write.
        losses: `[N, steps + 1]`; numbers that are not finite leave a gap.
        names: N target names; starts of one target share a colour and one entry of the legend.
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
        colour = f"C{distinct.index(name) % 10}"
        finite = np.where(np.isfinite(curve), curve, np.nan)
        axes.plot(finite, color=colour, lw=1, alpha=0.8, label=name if first else None)
    axes.set(xlabel="step", ylabel="loss", yscale="log" if logarithmic else "linear")
    if len(distinct) <= 10:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
