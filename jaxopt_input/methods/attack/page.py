"""What `attack` shows: the images that it found, how far they are, and the robust accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxopt_input.attacks import AttackResult
from jaxopt_input.attacks.result import length_text
from jaxopt_input.data import to_uint8
from jaxopt_input.draw.curves import figure
from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.methods.attack.recipe import Originals
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Figure, Page, Picture, metadata, number, sheets

SHOWN = 16  # images on the sheet
POINTS = 33  # of a curve of robust accuracy


def attack_page(
    result: AttackResult,
    photos: Originals,
    epsilons: Sequence[float] | None,
    method: str,
    model: Model,
    seed: int,
    rounded: np.ndarray,
    control: Mapping[str, Sequence[float]],
) -> Page:
    """The images of an attack: one row and picture per image and budget, in the order of the budgets.

    Args:
        result: of N images, with or without an axis of budgets.
        photos: the originals.
        epsilons: the budgets; for an attack that minimizes a norm those to report robust accuracy at, or None.
        method, model, seed: the name of the attack, the network, and the seed of the run.
        rounded: `[*E, N]` bool, whether the PNG of each is a success.
        control: by the kind of random change, the errors that it causes at each budget.
    """
    page = Page()
    budgets = [None] if result.epsilon is None else np.atleast_1d(result.epsilon).tolist()
    parts, rounded = result.by_budget(), rounded.reshape(len(budgets), -1)
    for e, (budget, part) in enumerate(zip(budgets, parts, strict=True)):
        for i, source in enumerate(photos.sources):
            row = _row(part, i, model, source, budget) | {"success_after_rounding": bool(rounded[e, i])}
            row["image"] = f"image{i}.png" if len(budgets) == 1 else f"image{i}-epsilon{e}.png"
            text = {key: row[key] for key in ("source", "label", "target", "success", "success_after_rounding")}
            text["epsilon"] = None if budget is None else length_text(budget, result.norm)
            page.items[row["image"]] = Picture(part.image[i], metadata(model.info.name, seed, **text))
            page.rows.append(row)
    page.items["adversarial.npz"] = _arrays(result, photos.images)
    most = 0 if result.epsilon is None else int(np.argmax(np.reshape(result.epsilon, (len(budgets), -1)).max(1)))
    sheets(page, _sheet(photos.images, parts[most], model))
    curve = _curve(result, epsilons)
    page.items["robust.png"] = Figure(lambda: _figure(curve, result.norm))
    at = epsilons if result.minimizes else [budget for budget in budgets if budget is not None]
    robust = np.atleast_1d(
        result.robust_accuracy(at) if result.minimizes and at else result.accuracy["robust"]
    ).tolist()
    clean = float(result.accuracy["clean"])
    page.entries |= {
        "accuracy": {"clean": clean, "robust": robust[0] if len(robust) == 1 else robust},
        "curve": curve,
        "starts": {"count": len(result.success_by_starts()), "success": result.success_by_starts().tolist()},
        "arrays": "adversarial.npz",
        "norm": result.norm,
        "summary": _summary(budgets, parts, rounded, control),
        **photos.entries,
    }
    page.evaluations = int(np.sum(result.gradients) + np.sum(result.forwards))
    if lost := int((~result.finite).sum()):
        page.warnings.append(f"{lost} of {result.finite.size} images met numbers that are not finite")
    page.warnings += [*photos.warnings, *result.warnings]
    summary = page.entries["summary"]
    kept, found = (sum(part[name] for part in summary) for name in ("found_after_rounding", "found"))
    if kept < found:
        page.warnings.append(
            f"{kept} of the {found} PNGs of images that were found are still a success after rounding to 8 bits: "
            "--rounded looks for images that are"
        )
    right, count = summary[0]["right"], len(photos.labels)
    page.notes.append(f"{method}: {right} of {count} images are classified rightly before (accuracy {clean:.1%})")
    page.notes += table(summary, result.norm)
    if result.minimizes and at:
        page.notes += [
            f"robust {share:.1%} at {length_text(e, result.norm)}" for share, e in zip(robust, at, strict=True)
        ]
    return page


def _summary(
    budgets: Sequence[Any], parts: Sequence[AttackResult], rounded: np.ndarray, control: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """What each budget comes to; figures over the images that were classified rightly before."""
    return [
        {
            "epsilon": budget,
            **(tally := part.tally()),
            "wrong_before": tally["images"] - tally["right"],
            "found_after_rounding": int((part.right & part.success & rounded[e]).sum()),
            "robust": number(part.accuracy["robust"]),
            "median": {norm: number(distance) for norm, distance in tally["median"].items()},
            "control": {kind: number(rates[e]) for kind, rates in control.items()},
        }
        for e, (budget, part) in enumerate(zip(budgets, parts, strict=True))
    ]


def table(summary: Sequence[Mapping[str, Any]], norm: str) -> list[str]:
    """What each budget comes to, as lines with a heading.

    Example:
        >>> part = {"epsilon": 2 / 255, "found": 3, "right": 4, "robust": 0.2, "median": {"linf": 0.0071}}
        >>> print("\\n".join(table([part | {"control": {"gaussian": 0.25, "signs": None}}], "linf")))
        epsilon   found  robust  median linf  errors by gaussian  errors by signs
          2/255  3 of 4   20.0%     1.81/255               25.0%                -
    """
    kinds = summary[0]["control"]
    lines = [["epsilon", "found", "robust", f"median {norm}", *(f"errors by {kind}" for kind in kinds)]]
    for part in summary:
        rates = [part["robust"], *part["control"].values()]
        robust, *random = ["-" if rate is None else f"{rate:.1%}" for rate in rates]
        epsilon, median = (
            length_text(np.inf if x is None else x, norm) for x in (part["epsilon"], part["median"][norm])
        )
        lines.append([epsilon, f"{part['found']} of {part['right']}", robust, median, *random])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]


def _row(part: AttackResult, i: int, model: Model, source: str, budget: float | None) -> dict[str, Any]:
    """What `run.json` says of image i at one budget."""
    label = int(part.label[i])
    return {
        "source": source,
        "label": label,
        "name": model.info.label(label),
        "target": None if part.target is None else int(part.target[i]),
        "epsilon": budget,
        "prediction": {"clean": int(part.clean[i]), "adversarial": int(part.prediction[i])},
        "probability": number(part.probability[i]),
        "success": bool(part.success[i]),
        "finite": bool(part.finite[i]),
        "distance": {norm: number(distance[i]) for norm, distance in part.distance.items()},
        **{name: int(getattr(part, name)[i]) for name in ("steps", "gradients", "forwards")},
    }


def _arrays(result: AttackResult, images: np.ndarray) -> dict[str, Any]:
    names = ("image", "raw", "success", "finite", "prediction")
    return {
        "original": images,
        "label": result.label,
        **{name: getattr(result, name) for name in names},
        **{f"distance_{norm}": distance for norm, distance in result.distance.items()},
        **{f"history_{name}": values for name, values in result.history.items()},
        **({} if result.epsilon is None else {"epsilon": result.epsilon}),
    }


def _curve(result: AttackResult, epsilons: Sequence[float] | None) -> dict[str, list[float]]:
    """Robust accuracy over ε: at the budgets, or from the distances of a search for the nearest."""
    if not result.minimizes:
        at = np.atleast_1d(np.asarray(result.epsilon))
        robust = np.atleast_1d(result.accuracy["robust"])
        order = np.argsort(at)
        clean = float(result.accuracy["clean"])
        at, robust, origin = at[order].tolist(), robust[order].tolist(), [] if at.min() == 0 else [0.0]
        return {"epsilon": [*origin, *at], "robust": [*[clean] * len(origin), *robust]}
    distance = result.distance[result.norm]
    finite = distance[np.isfinite(distance)]
    grid = np.linspace(0, 1.05 * finite.max() if finite.size and finite.max() > 0 else 1.0, POINTS)
    grid = np.unique(np.concatenate([grid, np.asarray(epsilons or [], np.float64)]))
    return {"epsilon": grid.tolist(), "robust": result.robust_accuracy(grid.tolist()).tolist()}


def _figure(curve: dict[str, list[float]], norm: str) -> Any:
    chart = figure(5, 3.5, 120)
    axes = chart.subplots()
    levels = norm == "linf"
    axes.plot(np.asarray(curve["epsilon"]) * (255 if levels else 1), curve["robust"], marker=".")
    axes.set(xlabel=f"ε ({norm}{', 255ths' if levels else ''})", ylabel="robust accuracy", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return chart


def _sheet(images: np.ndarray, part: AttackResult, model: Model) -> list[Any]:
    """Original, adversarial image and their difference about gray, amplified to the full range."""
    rows, right = [], part.right
    for i in range(min(len(images), SHOWN)):
        change = part.image[i] - images[i]
        largest = np.abs(change).max()
        difference = 0.5 + 0.5 * change / (largest if largest > 0 else 1)
        classes = int(part.label[i]), int(part.prediction[i])
        names = [model.info.label(index) or f"class {index}" for index in classes]
        distance = float(part.distance[part.norm][i])
        fate = f"taken for {names[1]}, {part.norm} {length_text(distance, part.norm)}" if part.success[i] else "resists"
        fate = fate if right[i] else f"taken for {names[1]}, and wrong before"
        rows.append(Row([to_uint8(np.stack([images[i], part.image[i], difference]))], f"{names[0]}: {fate}"))
    return sheet(rows)
