"""What `attack` shows: the images that it found, how far they are, and the robust accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxopt_input.attacks import AttackResult
from jaxopt_input.data import to_uint8
from jaxopt_input.draw.curves import figure
from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.methods.attack.recipe import Originals, epsilon_text
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Figure, Page, Picture, metadata, number, sheets

SHOWN = 16  # images on the sheet
POINTS = 33  # of a curve of robust accuracy


def attack_page(
    result: AttackResult, photos: Originals, epsilons: Sequence[float] | None, method: str, model: Model, seed: int
) -> Page:
    """The images of an attack: one row and picture per image and budget, in the order of the budgets.

    Args:
        result: of N images, with or without an axis of budgets.
        photos: the originals.
        epsilons: the budgets; for an attack that minimizes a norm those to report robust accuracy at, or None.
        method, model, seed: the name of the attack, the network, and the seed of the run.
    """
    page = Page()
    budgets = [None] if result.epsilon is None else np.atleast_1d(result.epsilon).tolist()
    parts = [result] if result.success.ndim == 1 else [result.at_budget(e) for e in range(len(budgets))]
    for e, (budget, part) in enumerate(zip(budgets, parts, strict=True)):
        for i, source in enumerate(photos.sources):
            row = _row(part, i, model, source, budget)
            row["image"] = f"image{i}.png" if len(budgets) == 1 else f"image{i}-epsilon{e}.png"
            text = {key: row[key] for key in ("source", "label", "target", "epsilon", "success")}
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
        "labels": "predicted" if photos.predicted else "given",
    }
    page.evaluations = int(np.sum(result.gradients) + np.sum(result.forwards))
    if lost := int((~result.finite).sum()):
        page.warnings.append(f"{lost} of {result.finite.size} images met numbers that are not finite")
    page.warnings += result.warnings
    words = [f" at {epsilon_text(epsilon)}" for epsilon in at] if at and len(at) == len(robust) else [""] * len(robust)
    shares = ", ".join(f"{share:.1%}{word}" for share, word in zip(robust, words, strict=True))
    page.notes.append(f"{method}: accuracy {clean:.1%}, robust {shares}")
    if result.success.any():
        median = np.median(result.distance[result.norm][result.success])
        page.notes.append(f"{result.success.sum()} successes, median {result.norm} {median:.4g}")
    return page


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
        return {"epsilon": [0.0, *at[order].tolist()], "robust": [clean, *robust[order].tolist()]}
    distance = result.distance[result.norm]
    finite = distance[np.isfinite(distance)]
    grid = np.linspace(0, 1.05 * finite.max() if finite.size and finite.max() > 0 else 1.0, POINTS)
    grid = np.unique(np.concatenate([grid, np.asarray(epsilons or [], np.float64)]))
    return {"epsilon": grid.tolist(), "robust": result.robust_accuracy(grid.tolist()).tolist()}


def _figure(curve: dict[str, list[float]], norm: str) -> Any:
    chart = figure(5, 3.5, 120)
    axes = chart.subplots()
    axes.plot(curve["epsilon"], curve["robust"], marker=".")
    axes.set(xlabel=f"ε ({norm})", ylabel="robust accuracy", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return chart


def _sheet(images: np.ndarray, part: AttackResult, model: Model) -> list[Any]:
    """Original, adversarial image and their difference about gray, amplified to the full range."""
    rows = []
    for i in range(min(len(images), SHOWN)):
        change = part.image[i] - images[i]
        largest = np.abs(change).max()
        difference = 0.5 + 0.5 * change / (largest if largest > 0 else 1)
        classes = int(part.label[i]), int(part.prediction[i])
        names = [model.info.label(index) or f"class {index}" for index in classes]
        distance = float(part.distance[part.norm][i])
        fate = f"taken for {names[1]}, {part.norm} {epsilon_text(distance)}" if part.success[i] else "resists"
        rows.append(Row([to_uint8(np.stack([images[i], part.image[i], difference]))], f"{names[0]}: {fate}"))
    return sheet(rows)
