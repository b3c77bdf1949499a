"""What `texture` and `stylize` show: the results beside the images that they are made of, and what each scale took."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.methods.photo import resize
from jaxopt_input.methods.style.recipe import Scale, Stylized
from jaxopt_input.runs.page import Page, Picture, film, losses_of, metadata, number, rows_of, sheets


def style_page(
    made: Stylized, photos: Sequence[np.ndarray], name: str, model: str, seed: int, animate: str | None = None
) -> Page:
    """The results of all starts beside the content, if any, and the styles.

    Args:
        made: the results.
        photos: the content, if any, and the style images, `[H, W, C]` in [0, 1].
        name: of the command, by which the pictures are called.
        model: the name of the network.
        seed: of the run.
        animate: the format of a film of the first start; None for none.
    """
    starts, solution, last = range(len(made.image)), made.solution, made.scales[-1]
    page = Page(remedies=("another style layer", "a smaller --style-weight or --learning-rate"))
    extra = [
        {
            "evaluations": int(sum(scale.evaluations[start] for scale in made.scales)),
            "terms": {term: number(value[start]) for term, value in last.terms.items()},
            "shown": "average" if solution.average_image is not None else "best",
            "restarts": int(sum(scale.restarts[start] for scale in made.scales)),
        }
        for start in starts
    ]
    page.rows = rows_of(solution, [None] * len(starts), [f"{name}-start{start}.png" for start in starts], extra)
    for row, image in zip(page.rows, made.image, strict=True):
        page.items[row["image"]] = Picture(image, metadata(model, seed, start=row["start"]))
    pictures = [*photos, *made.image]
    sheets(page, sheet([Row([pictures], name)], columns=min(4, len(pictures))))
    curves = [(scale, start) for scale in made.scales for start in starts]
    longest = max(scale.loss.shape[1] for scale in made.scales)
    losses = np.full((len(curves), longest), np.nan)
    for n, (scale, start) in enumerate(curves):
        losses[n, : scale.loss.shape[1]] = scale.loss[start]
    sizes = [f"{scale.shape[1]}x{scale.shape[0]}" for scale, _ in curves]
    losses_of(page, losses, sizes)
    page.items["loss.npz"] = {"loss": losses, "scale": np.array(sizes)}
    if animate:
        shape = made.image.shape[1:3]
        frames = (image[0] for snapshots in made.snapshots for image in snapshots)
        film(page, (np.clip(resize(np.nan_to_num(frame, nan=0.5), shape), 0, 1) for frame in frames), animate)
    page.entries["scales"] = [_scale_entry(scale) for scale in made.scales]
    settings = dataclasses.asdict(made.settings)
    page.entries["settings"] = {key: value for key, value in settings.items() if not callable(value)}
    page.evaluations = sum(row["evaluations"] for row in page.rows)
    page.notes.append(str(page.rows[0]["image"]))
    return page


def _scale_entry(scale: Scale) -> dict[str, Any]:
    """What `run.json` says of a scale."""
    return {
        "shape": list(scale.shape),
        "evaluations": int(scale.evaluations.sum()),
        "loss": {"first": number(scale.loss[0, 0]), "last": number(scale.loss[0, -1])},
        "memory": scale.memory,
        "tile": scale.tile,
        "seconds": round(scale.seconds, 3),
    }
