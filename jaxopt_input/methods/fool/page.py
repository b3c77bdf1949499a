"""The folder that `fool` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxopt_input
from jaxopt_input.attacks.fooling import Fooling
from jaxopt_input.data import atomic, save_png, to_uint8
from jaxopt_input.draw.sheet import grid_sheet
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import _number, prepare, record

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
        run: the other arguments of `runs.writer.record`.

    Returns:
        What `run.json` says; its `median` is that of the probabilities which are finite.
    """
    prepare(folder, overwrite)
    software = f"jaxopt_input {jaxopt_input.__version__}"
    opinion = None if judged is None else np.asarray(jax.nn.softmax(judged))
    pictures = to_uint8(np.where(np.isfinite(found.image), found.image, 0.5))
    known = found.probability[np.isfinite(found.probability)]
    sure = found.probability > CONFIDENT
    results: list[dict[str, Any]] = []
    for n, (label, probability) in enumerate(zip(found.label.tolist(), found.probability.tolist(), strict=True)):
        one: dict[str, Any] = {
            "target": f"class:{label}",
            "class": label,
            "name": model.info.label(label),
            "image": f"class{label}.png",
            "probability": _number(probability),
            "finite": bool(found.finite[n]),
            "dead": bool(found.dead[n]),
        }
        if opinion is not None:
            seen = int(opinion[n].argmax()) if np.isfinite(opinion[n]).all() else None
            one["judge"] = {
                "prediction": seen,
                "name": None if seen is None else model.info.label(seen),
                "probability": _number(opinion[n, label]),
            }
        text = {"class": str(label), "probability": f"{probability:.6f}", "Software": software}
        save_png(folder / one["image"], pictures[n], text | {"model": model.info.name, "seed": str(seed)})
        results.append(one)
    captions = [f"{p:.3f} {one['name'] or one['class']}" for p, one in zip(found.probability, results, strict=True)]
    save_png(folder / "sheet.png", grid_sheet(pictures, captions))
    with atomic(folder / "probability.png") as part:
        _figure(part, found.history[:, found.finite], step)
    with atomic(folder / "probability.npz") as part:
        np.savez(part, probability=found.history, label=found.label)
    entries: dict[str, Any] = {}
    if judge is not None:
        seen_as = [one["judge"]["prediction"] for one in results]
        agrees = np.array([seen == one["class"] for seen, one in zip(seen_as, results, strict=True)])
        other = ~agrees & np.array([seen is not None for seen in seen_as])
        entries["judge"] = {
            "name": judge.info.name,
            "sha256": judge.info.sha256,
            "agrees": int(agrees.sum()),
            "fooled": int((other & sure).sum()),
        }
    return record(
        folder,
        model,
        seed=seed,
        files=[*(one["image"] for one in results), "sheet.png", "probability.png", "probability.npz"],
        results=results,
        median=float(np.median(known)) if known.size else None,
        confident=int(sure.sum()),
        **entries,
        sheet="sheet.png",
        curves={"figure": "probability.png", "data": "probability.npz"},
        evaluations=found.evaluations,
        **run,
    )


def _figure(part: Path, history: np.ndarray, step: str) -> None:
    """The median over the classes that met only finite numbers, and where the middle half of them is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    if history.shape[1]:
        low, median, high = np.quantile(history, (0.25, 0.5, 0.75), axis=1)
        axes.fill_between(range(len(history)), low, high, alpha=0.25, lw=0, label="middle half")
        axes.plot(median, label="median")
        axes.legend(frameon=False, loc="lower right")
    axes.set(xlabel=step, ylabel="probability of the class", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
