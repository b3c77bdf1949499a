"""The folder that `fool` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxopt_input
from jaxopt_input.attacks.fooling import Fooling
from jaxopt_input.data import atomic, save_png
from jaxopt_input.model import Model
from jaxopt_input.report.run import prepare, record
from jaxopt_input.report.sheet import grid_sheet

CONFIDENT = 0.99


def write_fooling(
    folder: Path,
    found: Fooling,
    model: Model,
    judge: Model | None,
    judged: np.ndarray | None,
    *,
    step: str,
    seed: int,
    overwrite: bool,
    **run: Any,
) -> dict[str, Any]:
    """Write fooling images into a folder, with what another network says of them.

    Args:
        folder: made if need be; with `overwrite`, an earlier run's results in it are removed.
        found: images of N classes.
        model: the network that they fool.
        judge: another network of the same classes, or None.
        judged: `[N, classes]`, its logits.
        step: what a step of the history is called.
        seed: goes into `run.json` and the images.
        overwrite: whether the folder may hold an earlier run.
        run: the other arguments of `report.run.record`.

    Returns:
        What `run.json` says.
    """
    prepare(folder, overwrite)
    software = f"jaxopt_input {jaxopt_input.__version__}"
    opinion = None if judged is None else np.asarray(jax.nn.softmax(judged))
    results: list[dict[str, Any]] = []
    for n, (label, probability) in enumerate(zip(found.label.tolist(), found.probability.tolist(), strict=True)):
        one: dict[str, Any] = {
            "class": label,
            "name": model.info.label(label),
            "image": f"class{label}.png",
            "probability": probability,
        }
        if opinion is not None:
            seen = int(opinion[n].argmax())
            one["judge"] = {
                "prediction": seen,
                "name": model.info.label(seen),
                "probability": float(opinion[n, label]),
            }
        text = {"class": str(label), "probability": f"{probability:.6f}", "Software": software}
        save_png(folder / one["image"], found.image[n], text | {"model": model.info.name, "seed": str(seed)})
        results.append(one)
    captions = [f"{one['probability']:.3f} {one['name'] or one['class']}" for one in results]
    save_png(folder / "sheet.png", grid_sheet(found.image, captions))
    with atomic(folder / "probability.png") as part:
        _figure(part, found.history, step)
    with atomic(folder / "probability.npz") as part:
        np.savez(part, probability=found.history, label=found.label)
    entries: dict[str, Any] = {}
    if judge is not None:
        other = [one["judge"]["prediction"] != one["class"] for one in results]
        sure = [one["probability"] > CONFIDENT for one in results]
        entries["judge"] = {
            "name": judge.info.name,
            "sha256": judge.info.sha256,
            "agrees": int(len(other) - np.sum(other)),
            "fooled": int(np.sum(np.logical_and(other, sure))),
        }
    return record(
        folder,
        model,
        seed=seed,
        files=[*(one["image"] for one in results), "sheet.png", "probability.png", "probability.npz"],
        results=results,
        median=float(np.median(found.probability)),
        confident=int(np.sum(found.probability > CONFIDENT)),
        **entries,
        sheet="sheet.png",
        curves={"figure": "probability.png", "data": "probability.npz"},
        evaluations=found.evaluations,
        **run,
    )


def _figure(part: Path, history: np.ndarray, step: str) -> None:
    """The median over the classes, and where the middle half of them is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    low, median, high = np.quantile(history, (0.25, 0.5, 0.75), axis=1)
    axes.fill_between(range(len(history)), low, high, alpha=0.25, lw=0, label="middle half")
    axes.plot(median, label="median")
    axes.set(xlabel=step, ylabel="probability of the class", ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
