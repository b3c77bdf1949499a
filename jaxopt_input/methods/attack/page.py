"""The folder that `attack` writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxopt_input
from jaxopt_input.attacks import AttackResult
from jaxopt_input.data import atomic, save_png, to_uint8
from jaxopt_input.draw.sheet import contact_sheet
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import prepare, record

SHOWN = 16  # images on the sheet
POINTS = 33  # of a curve of robust accuracy


def write_attack(
    folder: Path,
    result: AttackResult,
    images: np.ndarray,
    sources: Sequence[str],
    epsilons: Sequence[float] | None,
    model: Model,
    *,
    seed: int,
    overwrite: bool,
    **run: Any,
) -> dict[str, Any]:
    """Write what an attack found into a folder.

    Args:
        folder: made if need be; with `overwrite`, an earlier run's results in it are removed.
        result: of N images, with or without an axis of budgets.
        images: `[N, H, W, C]`, the originals.
        sources: N names.
        epsilons: the budgets; for an attack that minimizes a norm those to report robust accuracy at, or None.
        model: what was attacked.
        seed: goes into `run.json` and the images.
        overwrite: whether the folder may hold an earlier run.
        run: the other arguments of `runs.writer.record`.

    Returns:
        What `run.json` says.
    """
    prepare(folder, overwrite)
    budgets = [None] if result.epsilon is None else np.atleast_1d(result.epsilon).tolist()
    n = len(images)
    found, success, finite, prediction, probability = (
        np.reshape(x, (len(budgets), n, *x.shape[np.ndim(result.success) :]))
        for x in (result.image, result.success, result.finite, result.prediction, result.probability)
    )
    counts = {k: np.reshape(getattr(result, k), (len(budgets), n)) for k in ("steps", "gradients", "forwards")}
    distance = {p: np.reshape(d, (len(budgets), n)) for p, d in result.distance.items()}
    software = f"jaxopt_input {jaxopt_input.__version__}"
    results: list[dict[str, Any]] = []
    for e, budget in enumerate(budgets):
        for i in range(n):
            file = f"image{i}.png" if len(budgets) == 1 else f"image{i}-epsilon{e}.png"
            one: dict[str, Any] = {
                "source": sources[i],
                "label": int(result.label[i]),
                "name": model.info.label(int(result.label[i])),
                "target": None if result.target is None else int(result.target[i]),
                "epsilon": budget,
                "image": file,
                "prediction": {"clean": int(result.clean[i]), "adversarial": int(prediction[e, i])},
                "probability": _number(probability[e, i]),
                "success": bool(success[e, i]),
                "finite": bool(finite[e, i]),
                "distance": {p: _number(d[e, i]) for p, d in distance.items()},
                **{k: int(values[e, i]) for k, values in counts.items()},
            }
            text = {k: str(one[k]) for k in ("source", "label", "target", "epsilon", "success") if one[k] is not None}
            text |= {"Software": software, "model": model.info.name, "seed": str(seed)}
            save_png(folder / file, found[e, i], text)
            results.append(one)
    curve = _curve(result, epsilons)
    accuracy = {"clean": float(result.accuracy["clean"])}
    shown = epsilons if result.minimizes else [b for b in budgets if b is not None]
    robust = result.robust_accuracy(shown).tolist() if result.minimizes and shown else None
    if robust is None:
        robust = np.atleast_1d(result.accuracy["robust"]).tolist()
    arrays: dict[str, Any] = {"original": images, "label": result.label}
    arrays |= {name: getattr(result, name) for name in ("image", "raw", "success", "finite", "prediction")}
    arrays |= {**{f"distance_{p}": d for p, d in result.distance.items()}}
    arrays |= {f"history_{name}": values for name, values in result.history.items()}
    if result.epsilon is not None:
        arrays["epsilon"] = result.epsilon
    with atomic(folder / "adversarial.npz") as part:
        np.savez(part, **arrays)
    most = 0 if result.epsilon is None else int(np.argmax(np.reshape(result.epsilon, (len(budgets), -1)).max(1)))
    largest = (found[most], success[most], prediction[most], distance[result.norm][most])
    save_png(folder / "sheet.png", _sheet(images, *largest, result, model))
    with atomic(folder / "robust.png") as part:
        _figure(part, curve, result.norm)
    starts = len(np.moveaxis(result.success_of_start, -2, 0))
    return record(
        folder,
        model,
        seed=seed,
        files=[*(r["image"] for r in results), "adversarial.npz", "sheet.png", "robust.png"],
        results=results,
        accuracy={**accuracy, "robust": robust[0] if len(robust) == 1 else robust},
        curve=curve,
        starts={"count": starts, "success": result.success_by_starts().tolist()},
        warnings=list(result.warnings),
        sheet="sheet.png",
        arrays="adversarial.npz",
        evaluations=int(np.sum(result.gradients) + np.sum(result.forwards)),
        **run,
    )


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


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


def _figure(part: Path, curve: dict[str, list[float]], norm: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["epsilon"], curve["robust"], marker=".")
    axes.set(xlabel=f"ε ({norm})", ylabel="robust accuracy", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.savefig(part, format="png", dpi=120, metadata={"Software": None})


def _sheet(
    images: np.ndarray,
    found: np.ndarray,
    success: np.ndarray,
    prediction: np.ndarray,
    distance: np.ndarray,
    result: AttackResult,
    model: Model,
) -> Any:
    """Original, adversarial image and their difference about gray, amplified to the full range."""
    rows, captions = [], []
    for i in range(min(len(images), SHOWN)):
        change = found[i] - images[i]
        largest = np.abs(change).max()
        seen = 0.5 + 0.5 * change / (largest if largest > 0 else 1)
        rows.append(to_uint8(np.stack([images[i], found[i], seen])))
        names = [model.info.label(int(c)) or f"class {c}" for c in (result.label[i], prediction[i])]
        fate = f"taken for {names[1]}, {result.norm} {distance[i]:.4g}" if success[i] else "resists"
        captions.append(f"{names[0]}: {fate}")
    return contact_sheet(rows, captions)
