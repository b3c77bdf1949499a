"""What `transfer` shows: error rates, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxopt_input.attacks.result import length_text
from jaxopt_input.attacks.transfer import Transfer
from jaxopt_input.draw.curves import figure, plain
from jaxopt_input.methods.attack.recipe import Originals
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Figure, Page, number


def transfer_page(result: Transfer, models: Mapping[str, Model], photos: Originals) -> Page:
    """Error rates of K networks as a figure and as numbers.

    One row per network: the `error` that what was made for it, and the `noise` of the same RMS and the random
    `signs` of the same L∞ cause in each, and the `warnings` of its attack.
    """
    page = Page(evaluations=int(result.evaluations))
    for k, name in enumerate(result.names):
        page.rows.append(
            {
                "made_for": name,
                "sha256": models[name].info.sha256,
                "error": dict(zip(result.names, map(number, result.error[k]), strict=True)),
                "noise": dict(zip(result.names, map(number, result.noise[k]), strict=True)),
                "signs": dict(zip(result.names, map(number, result.signs[k]), strict=True)),
                "rms": number(result.rms[k]),
                "success": number(result.success[k]),
                "accuracy": number(1 - result.clean[k]),
                "warnings": list(result.warnings[k]),
            }
        )
        page.warnings += [f"{name}: {line}" for line in result.warnings[k]]
    page.items["transfer.png"] = Figure(lambda: _figure(result))
    page.entries |= {"counted": result.counted, "figure": "transfer.png", **photos.entries}
    page.warnings += photos.warnings
    count = f"{result.counted} of {len(photos.images)} images"
    page.notes += [*table(result).split("\n"), f"error rates on {count}, those that all classify rightly"]
    return page


def table(result: Transfer) -> str:
    """The error rates as text: one row for what was made for each network, and two for random changes of its size.

    Example:
        >>> one, rms = np.array([[1.0, 0.25], [0.5, 1.0]]), np.array([0.01, 0.02])
        >>> print(table(Transfer(("a", "b"), one, one / 10, one / 5, rms, one[0], 8, one[0] * 0, 0, ((), ()))))
        made for \\ fed to             a       b       RMS
        a                       100.0 %  25.0 %  2.55/255
        Gaussian of this RMS     10.0 %   2.5 %
        random signs of this L∞  20.0 %   5.0 %
        b                        50.0 % 100.0 %   5.1/255
        Gaussian of this RMS      5.0 %  10.0 %
        random signs of this L∞  10.0 %  20.0 %
    """
    first = ["made for \\ fed to", "Gaussian of this RMS", "random signs of this L∞", *result.names]
    width = max(map(len, first))
    columns = [max(len(name), 7) for name in result.names]
    lines = [_line(first[0], width, result.names, columns, "RMS")]
    for k, name in enumerate(result.names):
        length = length_text(result.rms[k], "rms")
        for label, rates, last in (
            (name, result.error[k], length),
            (first[1], result.noise[k], ""),
            (first[2], result.signs[k], ""),
        ):
            lines.append(_line(label, width, [f"{100 * rate:.1f} %" for rate in rates], columns, last))
    return "\n".join(lines)


def _line(label: str, width: int, cells: Any, columns: list[int], last: str) -> str:
    body = " ".join(f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
    return f"{label:<{width}} {body} {last:>9}".rstrip()


def _figure(result: Transfer) -> Any:
    """Three heat maps: what was made for each network, and random changes of the same size."""
    count = len(result.names)
    names = [plain(name, 30) for name in result.names]
    chart = figure(3 * (1.6 + 0.9 * count), 1.6 + 0.8 * count)
    shown = {
        "made for it": result.error,
        "Gaussian of the same RMS": result.noise,
        "signs of the same L∞": result.signs,
    }
    maps = chart.subplots(1, len(shown), sharey=True)
    for axes, (title, rates) in zip(maps, shown.items(), strict=True):
        axes.imshow(rates, vmin=0, vmax=1, cmap="viridis")
        for (k, j), rate in np.ndenumerate(rates):
            axes.text(j, k, f"{100 * rate:.0f} %", ha="center", va="center", color="white" if rate < 0.6 else "black")
        axes.set_xticks(range(count), names, rotation=30, ha="right")
        axes.set_yticks(range(count), names)
        axes.set(xlabel="fed to", title=title)
    maps[0].set_ylabel("made for")
    return chart
