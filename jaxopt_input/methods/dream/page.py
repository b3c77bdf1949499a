"""The folder that `dream` writes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jaxopt_input
from jaxopt_input.data import atomic, save_png
from jaxopt_input.draw.animation import save_animation
from jaxopt_input.draw.curves import loss_curves
from jaxopt_input.draw.sheet import contact_sheet
from jaxopt_input.engine.target import label
from jaxopt_input.methods.dream.recipe import Dream
from jaxopt_input.methods.dream.settings import Settings
from jaxopt_input.methods.resize import resize
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import _number, prepare, record

THUMBNAIL = 384  # pixels of a picture's longer side on the sheet


def write_dreams(
    folder: Path,
    dreams: Iterable[Dream],
    image: np.ndarray,
    model: Model,
    settings: Settings,
    *,
    seed: int,
    seconds: Callable[[], dict[str, float]],
    overwrite: bool,
    animate: str | None = None,
    fps: float = 12.0,
    **run: Any,
) -> dict[str, Any]:
    """Write the last of some dreams into a folder, with an animation of all of them where there are several.

    Args:
        folder: made once the first dream is there; with `overwrite`, an earlier run's results in it are removed.
        dreams: one, whose snapshots make its animation, or those of a zoom, made one by one while the film is written.
        image: what was dreamt on.
        model: the network.
        settings: how.
        seed: goes into `run.json` and the image.
        seconds: called at the end, what `run.json` says of time.
        overwrite: whether the folder may hold an earlier run.
        animate: "gif", "webp" or "mp4"; None for no animation.
        fps: its frames a second.
        run: the other arguments of `runs.writer.record`.

    Returns:
        What `run.json` says.
    """
    passed = _Passed(iter(dreams))
    first = next(passed)
    prepare(folder, overwrite)
    files: list[str] = []
    if animate:
        files.append(f"animation.{animate}")
        second = next(passed, None)
        if second is None:
            frames: Iterable[np.ndarray] = _snapshots(first)
        else:
            frames = (done.image for done in itertools.chain([first, second], passed))
        save_animation(folder / files[0], frames, fps=fps)
    for _ in passed:  # what an animation has not asked for
        pass
    done = passed.last
    octaves: list[dict[str, Any]] = []
    for number, octave in enumerate(done.octaves):
        height, width = octave.image.shape[:2]
        name = f"octave-{number}.png"
        save_png(folder / name, octave.image)
        octaves.append(
            {
                "shape": [height, width],
                "image": name,
                "loss": {"first": _number(octave.loss[0]), "last": _number(octave.loss[-1])},
                "evaluations": octave.evaluations,
                "seconds": round(octave.seconds, 3),
            }
        )
    loss, text = done.octaves[-1].loss, label(done.name, model)
    result = {
        "target": done.name,
        "label": text,
        "start": 0,
        "image": "dream.png",
        "loss": {"first": _number(loss[0]), "last": _number(loss[-1]), "best": _number(np.min(loss))},
        "best_step": int(np.argmin(loss)),
        "shown": "last",
        "evaluations": passed.evaluations,
        "finite": passed.finite,
        "dead": done.dead,
    }
    software = f"jaxopt_input {jaxopt_input.__version__}"
    save_png(
        folder / "dream.png",
        done.image,
        {"target": done.name, "Software": software, "model": model.info.name, "seed": str(seed)},
    )
    save_png(folder / "sheet.png", _sheet(image, done, f"{done.name} {text or ''}".strip()))
    names = ["{}: {} x {}".format(n, *octave["shape"]) for n, octave in enumerate(octaves)]
    with atomic(folder / "loss.png") as part:
        loss_curves(np.array([octave.loss for octave in done.octaves]), names).savefig(
            part, format="png", metadata={"Software": None}
        )
    with atomic(folder / "loss.npz") as part:
        np.savez(part, loss=np.array([octave.loss for octave in done.octaves]))
    return record(
        folder,
        model,
        seed=seed,
        seconds=seconds(),
        files=[*files, "dream.png", *(octave["image"] for octave in octaves), "sheet.png", "loss.png", "loss.npz"],
        results=[result],
        octaves=octaves,
        frames=passed.number,
        settings={key: value for key, value in dataclasses.asdict(settings).items() if key != "target"},
        animation=files[0] if files else None,
        sheet="sheet.png",
        curves={"figure": "loss.png", "data": "loss.npz"},
        evaluations=passed.evaluations,
        **run,
    )


class _Passed(Iterator[Dream]):
    """Dreams on their way to the film: counts them, and keeps the last alone."""

    def __init__(self, dreams: Iterator[Dream]) -> None:
        self.dreams, self.number, self.evaluations, self.finite = dreams, 0, 0, True

    def __next__(self) -> Dream:
        self.last = next(self.dreams)
        self.number += 1
        self.evaluations += sum(octave.evaluations for octave in self.last.octaves)
        self.finite &= self.last.finite
        return self.last


def _snapshots(done: Dream) -> Iterator[np.ndarray]:
    """The snapshots of a dream, each enlarged to the size of the result, which comes last."""
    for snapshot in done.snapshots:
        yield np.clip(resize(snapshot.astype(np.float32) / 255, done.image.shape[:2]), 0, 1)
    yield done.image


def _sheet(image: np.ndarray, done: Dream, caption: str) -> Any:
    """What was dreamt on, each octave, and the result, side by side at one size."""
    height, width = image.shape[:2]
    factor = min(1, THUMBNAIL / max(height, width))
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    pictures = [image, *(octave.image for octave in done.octaves), done.image]
    row = np.stack([np.clip(resize(picture, shape), 0, 1) for picture in pictures])
    return contact_sheet([row], [caption], columns=3)
