"""What `fool` shows: fooling images, how sure the network is of them, and what another one says."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxopt_input.attacks.fooling import Fooling
from jaxopt_input.data import to_uint8
from jaxopt_input.draw.curves import figure
from jaxopt_input.draw.sheet import Row, sheet, square
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Figure, Page, Picture, metadata, number, sheets

CONFIDENT = 0.99
REMEDIES = {
    "gradient": "another --init or --seed, or --method evolution, which needs no gradient",
    "evolution": "a larger --population, another --seed or --encoding",
}


def fooling_page(
    fooling: Fooling, model: Model, judge: Model | None, verdict: np.ndarray | None, method: str, unit: str, seed: int
) -> Page:
    """Fooling images, one row per class, with what another network says of them.

    Args:
        fooling: images of N classes.
        model: the network that they fool.
        judge: another network of the same classes, or None.
        verdict: `[N, classes]`, its logits.
        method: a key of `REMEDIES`.
        unit: what a step of the history is called.
        seed: of the run.
    """
    page = Page(evaluations=int(fooling.evaluations), remedies=(REMEDIES[method], REMEDIES[method]))
    opinion = None if verdict is None else np.asarray(jax.nn.softmax(verdict))
    pictures = to_uint8(np.where(np.isfinite(fooling.image), fooling.image, 0.5))
    for n, (label, probability) in enumerate(zip(fooling.label.tolist(), fooling.probability.tolist(), strict=True)):
        row: dict[str, Any] = {
            "target": f"class:{label}",
            "class": label,
            "name": model.info.label(label),
            "image": f"class{label}.png",
            "probability": number(probability),
            "finite": bool(fooling.finite[n]),
            "dead": bool(fooling.dead[n]),
        }
        if opinion is not None:
            row["judge"] = _judgment(opinion[n], label, model)
        text = metadata(model.info.name, seed, **{"class": label, "probability": f"{probability:.6f}"})
        page.items[row["image"]] = Picture(pictures[n], text)
        page.rows.append(row)
    captions = [f"{p:.3f} {row['name'] or row['class']}" for p, row in zip(fooling.probability, page.rows, strict=True)]
    sheets(page, sheet([Row([pictures], below=[captions])], columns=square(len(pictures))))
    history = fooling.history[:, fooling.finite]
    page.items["probability.png"] = Figure(lambda: _figure(history, unit))
    page.items["probability.npz"] = {"probability": fooling.history, "label": fooling.label}
    page.entries["curves"] = {"figure": "probability.png", "data": "probability.npz"}
    finite = fooling.probability[np.isfinite(fooling.probability)]
    sure = fooling.probability > CONFIDENT
    median = float(np.median(finite)) if finite.size else None
    page.entries |= {"median": median, "confident": int(sure.sum())}
    shown = "not finite" if median is None else f"{median:.4f}"
    page.notes.append(f"{len(page.rows)} images: median probability {shown}, {sure.sum()} above {CONFIDENT}")
    if judge is not None:
        _add_judge(page, judge, sure)
    return page


def _judgment(opinion: np.ndarray, label: int, model: Model) -> dict[str, Any]:
    """What another network takes an image for, and how probable its class is to it."""
    index = int(opinion.argmax()) if np.isfinite(opinion).all() else None
    name = None if index is None else model.info.label(index)
    return {"prediction": index, "name": name, "probability": number(opinion[label])}


def _add_judge(page: Page, judge: Model, sure: np.ndarray) -> None:
    """How many images another network takes for their class, and how many of the confident ones for another."""
    predictions = [row["judge"]["prediction"] for row in page.rows]
    agrees = np.array([index == row["class"] for index, row in zip(predictions, page.rows, strict=True)])
    other = ~agrees & np.array([index is not None for index in predictions])
    counts = {"agrees": int(agrees.sum()), "fooled": int((other & sure).sum())}
    page.entries["judge"] = {"name": judge.info.name, "sha256": judge.info.sha256, **counts}
    page.notes.append(
        f"{judge.info.name} takes {counts['agrees']} for their class, and {counts['fooled']} of those above not"
    )


def _figure(history: np.ndarray, unit: str) -> Any:
    """The median over the classes that met only finite numbers, and where the middle half of them is."""
    chart = figure(5, 3.5, 120)
    axes = chart.subplots()
    if history.shape[1]:
        low, median, high = np.quantile(history, (0.25, 0.5, 0.75), axis=1)
        axes.fill_between(range(len(history)), low, high, alpha=0.25, lw=0, label="middle half")
        axes.plot(median, label="median")
        axes.legend(frameon=False, loc="lower right")
    axes.set(xlabel=unit, ylabel="probability of the class", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return chart
