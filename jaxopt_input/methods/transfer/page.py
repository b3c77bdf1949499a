"""The folder that `transfer` writes, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxopt_input.attacks.transfer import Transfer
from jaxopt_input.data import atomic
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import _number, prepare, record


def write_transfer(
    folder: Path, found: Transfer, models: Mapping[str, Model], *, overwrite: bool, **run: Any
) -> dict[str, Any]:
    """Write error rates into a folder, as a figure and as numbers.

    Args:
        folder: made if need be; with `overwrite`, an earlier run's results in it are removed.
        found: of K networks.
        models: these networks, by name.
        overwrite: whether the folder may hold an earlier run.
        run: the other arguments of `runs.writer.record`.

    Returns:
        What `run.json` says: a result a network, with the `error` that what was made for it, and the `noise` of the
        same size, causes in each, and the `warnings` of its attack.
    """
    prepare(folder, overwrite)
    results = [
        {
            "made_for": name,
            "sha256": models[name].info.sha256,
            "error": dict(zip(found.names, map(_number, found.error[k]), strict=True)),
            "noise": dict(zip(found.names, map(_number, found.noise[k]), strict=True)),
            "rms": _number(found.rms[k]),
            "success": _number(found.success[k]),
            "accuracy": _number(1 - found.clean[k]),
            "warnings": list(found.warnings[k]),
        }
        for k, name in enumerate(found.names)
    ]
    with atomic(folder / "transfer.png") as part:
        _figure(part, found)
    return record(
        folder,
        models[found.names[0]],
        files=["transfer.png"],
        results=results,
        counted=found.counted,
        figure="transfer.png",
        evaluations=found.evaluations,
        **run,
    )


def table(found: Transfer) -> str:
    """The error rates as text: a row for what was made for each network, and one for noise of its size.

    Args:
        found: of K networks.

    Example:
        >>> one, rms = np.array([[1.0, 0.25], [0.5, 1.0]]), np.array([0.01, 0.02])
        >>> print(table(Transfer(("a", "b"), one, one / 10, rms, one[0], 8, one[0] * 0, 0, ((), ()))))
        made for \\ fed to       a       b     RMS
        a                 100.0 %  25.0 %  0.0100
        noise of this RMS  10.0 %   2.5 %  0.0100
        b                  50.0 % 100.0 %  0.0200
        noise of this RMS   5.0 %  10.0 %  0.0200
    """
    first = ["made for \\ fed to", "noise of this RMS", *found.names]
    width = max(map(len, first))
    columns = [max(len(name), 7) for name in found.names]
    lines = [_line(first[0], width, found.names, columns, "RMS")]
    for k, name in enumerate(found.names):
        for label, rates in ((name, found.error[k]), (first[1], found.noise[k])):
            lines.append(_line(label, width, [f"{100 * rate:.1f} %" for rate in rates], columns, f"{found.rms[k]:.4f}"))
    return "\n".join(lines)


def _line(label: str, width: int, cells: Any, columns: list[int], last: str) -> str:
    body = " ".join(f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
    return f"{label:<{width}} {body} {last:>7}"


def _figure(part: Path, found: Transfer) -> None:
    """Two heat maps: what was made for each network, and noise of the same size."""
    from matplotlib.figure import Figure

    count = len(found.names)
    figure = Figure(figsize=(2 * (1.6 + 0.9 * count), 1.6 + 0.8 * count), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, rates, title in ((left, found.error, "made for it"), (right, found.noise, "noise of the same RMS")):
        axes.imshow(rates, vmin=0, vmax=1, cmap="viridis")
        for (k, j), rate in np.ndenumerate(rates):
            axes.text(j, k, f"{100 * rate:.0f} %", ha="center", va="center", color="white" if rate < 0.6 else "black")
        axes.set_xticks(range(count), found.names, rotation=30, ha="right")
        axes.set_yticks(range(count), found.names)
        axes.set(xlabel="fed to", title=title)
    left.set_ylabel("made for")
    figure.savefig(part, format="png", metadata={"Software": None})
