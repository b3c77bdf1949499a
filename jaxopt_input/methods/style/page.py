"""The folder that `texture` and `stylize` write."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxopt_input
from jaxopt_input.data import atomic, save_png
from jaxopt_input.draw.animation import save_animation
from jaxopt_input.draw.curves import loss_curves
from jaxopt_input.draw.sheet import contact_sheet
from jaxopt_input.methods.resize import resize
from jaxopt_input.methods.style.recipe import Stylized
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import _number, prepare, record

THUMBNAIL = 384  # pixels of a picture's longer side on the sheet


def write_stylized(
    folder: Path,
    done: Stylized,
    shown: Sequence[np.ndarray],
    model: Model,
    *,
    seed: int,
    overwrite: bool,
    animate: str | None = None,
    **run: Any,
) -> dict[str, Any]:
    """Write what `stylize` or `texture` made into a folder.

    Args:
        folder: made if need be; with `overwrite`, an earlier run's results in it are removed.
        done: the images.
        shown: the content, if any, and the style images, for the sheet.
        model: the network.
        seed: goes into `run.json` and the images.
        overwrite: whether the folder may hold an earlier run.
        animate: "gif", "webp" or "mp4"; None for no animation.
        run: the other arguments of `runs.writer.record`.

    Returns:
        What `run.json` says.
    """
    prepare(folder, overwrite)
    solution, last = done.solution, done.scales[-1]
    name = "+".join(dict.fromkeys(one for one in solution.names[:1]))
    results, files = [], []
    for start, image in enumerate(done.image):
        file = f"{run['command']}-start{start}.png"
        text = {"Software": f"jaxopt_input {jaxopt_input.__version__}", "model": model.info.name, "seed": str(seed)}
        save_png(folder / file, image, text | {"start": str(start)})
        files.append(file)
        loss, scales = last.loss[start], done.scales
        results.append(
            {
                "target": name,
                "label": None,
                "start": start,
                "image": file,
                "loss": {
                    "first": _number(loss[0]),
                    "last": _number(loss[-1]),
                    "best": _number(np.asarray(solution.best_loss)[start]),
                },
                "terms": {term: _number(value[start]) for term, value in last.terms.items()},
                "best_step": int(np.asarray(solution.best_step)[start]),
                "shown": "average" if solution.average_image is not None else "best",
                "evaluations": int(sum(scale.evaluations[start] for scale in scales)),
                "restarts": int(sum(scale.restarts[start] for scale in scales)),
                "finite": bool(np.asarray(solution.finite)[start]),
                "dead": bool(np.asarray(solution.dead)[start]),
            }
        )
    row = _side_by_side([*shown, *done.image])
    save_png(folder / "sheet.png", contact_sheet([row], [run["command"]], columns=min(4, len(row))))
    curves = [scale.loss[start] for scale in done.scales for start in range(len(done.image))]
    names = [f"{scale.shape[1]}x{scale.shape[0]}" for scale in done.scales for _ in range(len(done.image))]
    longest = max(map(len, curves))
    padded = np.stack([np.pad(curve, (0, longest - len(curve)), constant_values=np.nan) for curve in curves])
    with atomic(folder / "loss.png") as part:
        loss_curves(padded, names).savefig(part, format="png", metadata={"Software": None})
    with atomic(folder / "loss.npz") as part:
        np.savez(part, loss=padded, scale=np.array(names))
    files += ["sheet.png", "loss.png", "loss.npz"]
    film = f"animation.{animate}"
    if animate:
        shape = done.image.shape[1:3]
        frames = (np.clip(resize(np.nan_to_num(one[0], nan=0.5), shape), 0, 1) for s in done.snapshots for one in s)
        save_animation(folder / film, frames)
        files.append(film)
    settings = dataclasses.asdict(done.settings)
    return record(
        folder,
        model,
        seed=seed,
        files=files,
        results=results,
        scales=[
            {
                "shape": list(scale.shape),
                "evaluations": int(scale.evaluations.sum()),
                "loss": {"first": _number(scale.loss[0, 0]), "last": _number(scale.loss[0, -1])},
                "memory": scale.memory,
                "tile": scale.tile,
                "seconds": round(scale.seconds, 3),
            }
            for scale in done.scales
        ],
        settings={key: value for key, value in settings.items() if not callable(value)},
        sheet="sheet.png",
        curves={"figure": "loss.png", "data": "loss.npz"},
        evaluations=sum(result["evaluations"] for result in results),
        animation=film if animate else None,
        **run,
    )


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """`[n, side, side, C]`: each picture within a square, on white."""
    squares = []
    for picture in pictures:
        height, width, channels = picture.shape
        factor = min(1.0, THUMBNAIL / max(height, width))
        small = np.clip(resize(picture, (max(1, round(height * factor)), max(1, round(width * factor)))), 0, 1)
        square = np.ones((THUMBNAIL, THUMBNAIL, channels), np.float32)
        top, left = (THUMBNAIL - small.shape[0]) // 2, (THUMBNAIL - small.shape[1]) // 2
        square[top : top + small.shape[0], left : left + small.shape[1]] = small
        squares.append(square)
    return np.stack(squares)
