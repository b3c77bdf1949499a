"""What `bench` shows: rates with their quartiles by batch, as rows, as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxopt_input.draw.curves import throughput
from jaxopt_input.methods.bench.recipe import Case, Measurement, Report, Spread
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Figure, Page

NEAR = 0.95  # of the best throughput: saturated
HEADINGS = (
    "model", "task", "dtype", "batch", "gradients/s", "image-steps/s", "compile, s", "picture, s", "gradient MiB",
    "peak MiB", "GFLOP/s", "product", "copy",
)  # fmt: skip
Group = tuple[str, str, str]  # (model, task, dtype)


def bench_page(report: Report, models: Sequence[Model]) -> Page:
    """Everything that was measured: one row per case, the figure of the rates, and the table for standard output."""
    curves: dict[Group, list[tuple[int, float, float, float]]] = {}
    for m in report.measurements:
        curves.setdefault(_group(m.case), []).append((m.case.batch, m.image_steps.median, *m.image_steps.quartiles))
    return Page(
        items={"bench.png": Figure(lambda: throughput(curves))},
        rows=as_rows(report),
        entries={
            "ceilings": ceilings(report),
            "models": [{"name": model.info.name, "sha256": model.info.sha256} for model in models],
        },
        notes=[table(report)],
    )


def saturation(report: Report) -> dict[Group, int]:
    """For each (model, task, dtype) the smallest batch whose loop reaches 95 % of the best throughput.

    Those are left out whose throughput still rises at their largest batch, or that have a single batch.
    """
    rates: dict[Group, dict[int, float]] = {}
    for m in report.measurements:
        rates.setdefault(_group(m.case), {})[m.case.batch] = m.image_steps.median
    near = {
        group: min(batch for batch, rate in by_batch.items() if rate >= NEAR * max(by_batch.values()))
        for group, by_batch in rates.items()
    }
    return {group: batch for group, batch in near.items() if batch < max(rates[group])}


def as_rows(report: Report) -> list[dict[str, Any]]:
    """The measurements as plain numbers, for JSON: rates per second, seconds, bytes and fractions of the ceilings.

    Work and bytes moved are those of one image; the weights are read once per batch. Failures come last.
    """
    saturated = saturation(report)
    rows = [_row(m, report, saturated.get(_group(m.case), math.inf)) for m in report.measurements]
    return rows + [{**_setting(case), "failed": message} for case, message in report.failures]


def _row(m: Measurement, report: Report, saturated: float) -> dict[str, Any]:
    ceiling, batch = report.ceilings[m.case.dtype], m.case.batch
    flops, moved = m.work.flops / m.gradient.median, m.work.bytes / m.gradient.median
    return {
        **_setting(m.case),
        "gradients_per_second": _spread(m.gradients),
        "image_steps_per_second": _spread(m.image_steps),
        "compile_seconds": {"cold": round(m.cold.compile, 3), "cached": round(m.cached.compile, 3)},
        "first_picture_seconds": {"cold": round(m.cold.picture, 3), "cached": round(m.cached.picture, 3)},
        "gradient_bytes": m.gradient_bytes,
        "peak_bytes": m.peak_bytes,
        "flops_per_gradient": m.work.flops // batch,
        "bytes_per_gradient": m.work.bytes // batch,
        "flops_per_second": _rounded(flops),
        "fraction_of_product": _rounded(flops / ceiling.flops.median),
        "fraction_of_copy": _rounded(moved / ceiling.bytes.median),
        "saturated": batch >= saturated,
    }


def _group(case: Case) -> Group:
    return case.model.info.name, case.task, case.dtype


def _setting(case: Case) -> dict[str, Any]:
    fields = ("task", "batch", "dtype", "steps", "parameterization", "transform")
    return {"model": case.model.info.name, **{name: getattr(case, name) for name in fields}}


def ceilings(report: Report) -> dict[str, Any]:
    """The ceilings of each dtype as plain numbers, for JSON: operations and bytes per second."""
    return {
        dtype: {"flops_per_second": _spread(c.flops), "bytes_per_second": _spread(c.bytes)}
        for dtype, c in report.ceilings.items()
    }


def table(report: Report) -> str:
    """The measurements as lines of text, medians and quartiles; `*` marks the batch from which throughput is saturated.

    Example:
        >>> table(Report((), {})).split()[:4]
        ['model', 'task', 'dtype', 'batch']
    """
    points, lines = saturation(report), [HEADINGS]
    for m, row in zip(report.measurements, as_rows(report), strict=False):
        group = _group(m.case)
        lines.append((
            *group,
            f"{m.case.batch}{'*' if points.get(group) == m.case.batch else ' '}",
            _text(m.gradients),
            _text(m.image_steps),
            f"{m.cold.compile:.1f} {m.cached.compile:.1f}",
            f"{m.cold.picture:.1f} {m.cached.picture:.1f}",
            f"{m.gradient_bytes / 2**20:.0f}",
            "-" if m.peak_bytes is None else f"{m.peak_bytes / 2**20:.0f}",
            f"{row['flops_per_second'] / 1e9:.1f}",
            f"{row['fraction_of_product']:.1%}",
            f"{row['fraction_of_copy']:.1%}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = 3  # columns of words are aligned to the left, those of numbers to the right
    texts = [
        "  ".join(
            cell.ljust(width) if n < words else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    ]
    texts += [f"{' '.join(_group(case))} {case.batch}: {message}" for case, message in report.failures]
    for dtype, c in report.ceilings.items():
        texts.append(
            f"{dtype}: matrix product {c.flops.median / 1e9:.1f} GFLOP/s, copy {c.bytes.median / 1e9:.1f} GB/s"
        )
    return "\n".join(texts)


def _spread(spread: Spread) -> dict[str, Any]:
    return {"median": _rounded(spread.median), "quartiles": [_rounded(value) for value in spread.quartiles]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _text(spread: Spread) -> str:
    low, high = spread.quartiles
    return f"{spread.median:.4g} ({low:.4g} to {high:.4g})"
