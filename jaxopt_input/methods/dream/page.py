"""What `dream` shows: the last dream, its octaves, and an animation of its steps or of all frames."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.engine.target import label
from jaxopt_input.methods.dream.recipe import Dream
from jaxopt_input.methods.dream.settings import Settings
from jaxopt_input.methods.photo import resize
from jaxopt_input.models.model import Model
from jaxopt_input.runs.page import Page, Picture, film, losses_of, metadata, number, sheets


class Passed(Iterator[Dream]):
    """Dreams that pass by one by one, counted: of a long zoom only the last is kept."""

    last: Dream

    def __init__(self, dreams: Iterator[Dream]) -> None:
        self.dreams, self.number, self.evaluations, self.finite = dreams, 0, 0, True

    def __next__(self) -> Dream:
        self.last = next(self.dreams)
        self.number += 1
        self.evaluations += sum(octave.evaluations for octave in self.last.octaves)
        self.finite &= self.last.finite
        return self.last


def film_page(dreams: Passed, kind: str, fps: float) -> Page:
    """The animation, made while it is written: the steps of a dream that has snapshots, or one frame per dream."""
    page, first = Page(), dreams.last
    frames = (done.image for done in itertools.chain([first], dreams))
    film(page, _steps(first) if first.snapshots else frames, kind, fps)
    return page


def _steps(done: Dream) -> Iterator[np.ndarray]:
    """The snapshots of a dream, each enlarged to the size of the result, which comes last."""
    for snapshot in done.snapshots:
        yield np.clip(resize(snapshot.astype(np.float32) / 255, done.image.shape[:2]), 0, 1)
    yield done.image


def dream_page(dreams: Passed, photo: np.ndarray, settings: Settings, model: Model, seed: int) -> Page:
    """The last of some dreams, which have passed, beside the photo and its octaves, with the loss in each."""
    done, octaves = dreams.last, dreams.last.octaves
    loss, text = octaves[-1].loss, label(done.target, model)
    page = Page(evaluations=dreams.evaluations, remedies=("another channel or image, or a layer before the ReLU",
                                                          "a smaller --step"))  # fmt: skip
    page.items["dream.png"] = Picture(done.image, metadata(model.info.name, seed, target=done.name))
    row = {
        "target": done.name,
        "label": text,
        "start": 0,
        "image": "dream.png",
        "loss": {"first": number(loss[0]), "last": number(loss[-1]), "best": number(np.min(loss))},
        "best_step": int(np.argmin(loss)),
        "shown": "last",
        "evaluations": dreams.evaluations,
        "finite": dreams.finite,
        "dead": done.dead,
    }
    page.rows.append(row)
    page.entries["octaves"] = [_octave_entry(n, octave) for n, octave in enumerate(octaves)]
    page.items |= {f"octave-{n}.png": Picture(octave.image) for n, octave in enumerate(octaves)}
    sizes = [f"{octave.image.shape[0]} x {octave.image.shape[1]}" for octave in octaves]
    pictures = [photo, *(octave.image for octave in octaves), done.image]
    shown = Row([pictures], f"{done.name} {text or ''}".strip(), [["photo", *sizes, "dream"]])
    sheets(page, sheet([shown], columns=3))
    losses_of(page, np.array([octave.loss for octave in octaves]), [f"{n}: {size}" for n, size in enumerate(sizes)])
    page.entries["frames"] = dreams.number
    page.entries["settings"] = {key: value for key, value in dataclasses.asdict(settings).items() if key != "target"}
    page.notes.append("dream.png")
    return page


def _octave_entry(place: int, octave: Any) -> dict[str, Any]:
    """What `run.json` says of an octave."""
    return {
        "shape": list(octave.image.shape[:2]),
        "image": f"octave-{place}.png",
        "loss": {"first": number(octave.loss[0]), "last": number(octave.loss[-1])},
        "evaluations": octave.evaluations,
        "seconds": round(octave.seconds, 3),
    }
