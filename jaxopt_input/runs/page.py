"""What a run shows, as data: pictures, figures, arrays, films, and the rows of its results.

A page knows of no folder: `runs.folder` writes each item under its name, `runs.html` shows them as a document.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import jaxopt_input
from jaxopt_input.data import to_uint8
from jaxopt_input.draw.curves import loss_curves
from jaxopt_input.draw.sheet import target_pages
from jaxopt_input.engine.solution import Solution

REMEDIES = (
    "more --starts, another --seed or --parameterization, or a layer before the ReLU",
    "a smaller --learning-rate",
)
"""What to try where a start is dead, and where it is not finite."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        image: `[H, W, C]` in [0, 1] or 8-bit, as of `data.to_pillow`; or a Pillow image.
        text: what its file says of it, by keyword.
    """

    image: Any
    text: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing of matplotlib, which `draw` makes when the page is written."""

    draw: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Film:
    """An animation, whose name says its format.

    Attributes:
        frames: its pictures, `[H, W, C]` or Pillow images, made while they are written.
        fps: frames per second.
    """

    frames: Iterable[Any]
    fps: float = 12.0


Arrays = Mapping[str, Any]
"""Arrays by name, kept together."""
Item = Picture | Figure | Film | Arrays


@dataclasses.dataclass
class Page:
    """What a run shows, or a part of it.

    Attributes:
        items: what is shown and kept, by name, in the order in which it is written.
        rows: the results, one mapping each; the "image" of a row is the name of its picture, here or in an earlier page
            of the run.
        entries: what else `run.json` says.
        evaluations: how often the network ran for it.
        notes: lines for standard output, once all is written.
        warnings: lines for standard error.
        remedies: what to try where a row is "dead", and where it is not "finite"; as of an earlier page if None.
        alone: whether the run fails where no row is alive and finite; as of an earlier page if None.
    """

    items: dict[str, Item] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    entries: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluations: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    remedies: tuple[str, str] | None = None
    alone: bool | None = None


def number(value: Any) -> float | None:
    """A number for JSON: None where it is not finite.

    Example:
        >>> number(np.float32(0.5)), number(np.inf)
        (0.5, None)
    """
    return float(value) if math.isfinite(value) else None


def counted(number: int, noun: str = "image") -> str:
    """A number of things.

    Example:
        >>> counted(1), counted(2)
        ('1 image', '2 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def metadata(model: str, seed: int, **text: Any) -> dict[str, str]:
    """What the file of a picture says: the given text, where it is not None, the software, the model and the seed."""
    shown = {key: str(value) for key, value in text.items() if value is not None}
    return {**shown, "Software": f"jaxopt_input {jaxopt_input.__version__}", "model": model, "seed": str(seed)}


def picture_names(targets: Sequence[str], starts: Sequence[int] = (), before: Iterable[str] = ()) -> list[str]:
    """One name per lane, made of its target and start; a number is added where it would be one of those before.

    Without starts the names are of the targets alone.

    Example:
        >>> picture_names(["class:3", "-a/b:1", "-a:b:1"], [0, 1, 1])
        ['class-3-start0.png', 'minus-a-b-1-start1.png', 'minus-a-b-1-start1-2.png']
    """
    names = dict.fromkeys(before)
    earlier = len(names)
    ends = [f"-start{start}" for start in starts] or [""] * len(targets)
    for target, end in zip(targets, ends, strict=True):
        stem = re.sub(r"[^A-Za-z0-9.,_]+", "-", target.replace("-", "minus-", 1) if target.startswith("-") else target)
        stem = (stem.lstrip("-.")[:100] or "target") + end
        numbered = (f"{stem}-{number}.png" for number in itertools.count(len(names)))
        names[next(name for name in itertools.chain([f"{stem}.png"], numbered) if name not in names)] = None
    return list(names)[earlier:]


def rows_of(
    solution: Solution,
    labels: Sequence[str | None],
    names: Sequence[str],
    extra: Sequence[Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One row per lane of a solution.

    Args:
        solution: of N lanes.
        labels: N labels, None where a target has none.
        names: N names of pictures.
        extra: what else the row of each lane says.
    """
    losses = np.asarray(solution.loss)
    fields = (solution.best_loss, solution.best_step, solution.evaluations, solution.finite, solution.dead)
    best, best_step, evaluations, finite, dead = map(np.asarray, fields)
    return [
        {
            "target": target,
            "label": labels[n],
            "start": int(solution.start[n]),
            "image": names[n],
            "loss": {"first": number(losses[n, 0]), "last": number(losses[n, -1]), "best": number(best[n])},
            "best_step": int(best_step[n]),
            "evaluations": int(evaluations[n]),
            "finite": bool(finite[n]),
            "dead": bool(dead[n]),
            **(extra[n] if extra else {}),
        }
        for n, target in enumerate(solution.names)
    ]


def lanes(
    solution: Solution,
    labels: Sequence[str | None],
    model: str,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    extra: Sequence[Mapping[str, Any]] | None = None,
) -> Page:
    """A solution's best images, and one row each.

    Args:
        solution, labels, extra: as in `rows_of`.
        model: the name of the network.
        seed: of the run.
        names: N names of pictures; `picture_names` if None.
    """
    names = picture_names(solution.names, solution.start.tolist()) if names is None else names
    page = Page(rows=rows_of(solution, labels, names, extra), evaluations=int(np.sum(solution.evaluations)))
    for row, picture in zip(page.rows, to_uint8(solution.best_image), strict=True):
        text = {key: row[key] for key in ("target", "label", "start", "best_step")}
        page.items[row["image"]] = Picture(picture, metadata(model, seed, **text))
    return page


def overview(
    solution: Solution,
    labels: Sequence[str | None],
    *,
    draw: Callable[[np.ndarray], Any] | None = None,
    animate: str | None = None,
    logarithmic: bool = False,
    captions: Sequence[str] | None = None,
) -> Page:
    """The contact sheet of a solution, its loss curves, and its film.

    Args:
        solution, labels: as in `rows_of`.
        draw: makes the pages of the sheet of images `[N, H, W, C]`; one row per target if None.
        animate: the format of a film of the snapshots; None for none.
        logarithmic: whether the axis of the loss is.
        captions: one per target; its name and label if None.
    """
    by_target: dict[str, list[int]] = {}
    for n, name in enumerate(solution.names):
        by_target.setdefault(name, []).append(n)
    rows = list(by_target.values())
    captions = [
        captions[int(solution.target[row[0]])] if captions else f"{target} {labels[row[0]] or ''}".strip()
        for target, row in by_target.items()
    ]
    caption = dict(zip(by_target, captions, strict=True))
    losses = np.asarray(solution.loss)
    draw = draw or (lambda pictures: target_pages(pictures, rows, captions))
    page = Page()
    sheets(page, draw(to_uint8(solution.best_image)))
    losses_of(page, losses, [caption[name] for name in solution.names], logarithmic)
    page.items["loss.npz"] = {"loss": losses, "target": np.array(solution.names), "start": solution.start}
    page.entries["check_steps"] = list(solution.check_steps)
    if animate:
        frames = (np.nan_to_num(np.asarray(frame), nan=0.5) for frame in solution.snapshots)
        film(page, (draw(frame)[0] for frame in frames), animate)
    return page


def sheets(page: Page, pictures: Sequence[Any], name: str = "sheet") -> None:
    """Show the pages of a sheet: `run.json` names the first, and all of them where there are several."""
    names = [f"{name}.png", *(f"{name}-{n}.png" for n in range(2, len(pictures) + 1))]
    page.items.update({file: Picture(picture) for file, picture in zip(names, pictures, strict=True)})
    page.entries[name] = names[0]
    if len(names) > 1:
        page.entries[f"{name}s"] = names


def losses_of(page: Page, losses: np.ndarray, captions: Sequence[str], logarithmic: bool = False) -> None:
    """Show loss curves `[N, steps + 1]` with one caption each, and keep them."""
    page.items["loss.png"] = Figure(lambda: loss_curves(losses, captions, logarithmic))
    page.items["loss.npz"] = {"loss": losses}
    page.entries["curves"] = {"figure": "loss.png", "data": "loss.npz"}


def film(page: Page, frames: Iterable[Any], kind: str, fps: float = 12.0) -> None:
    """Show a film of a format."""
    page.items[f"animation.{kind}"] = Film(frames, fps)
    page.entries["animation"] = f"animation.{kind}"


def failures(rows: Sequence[Mapping[str, Any]], remedies: tuple[str, str] = REMEDIES) -> list[str]:
    """One line for what is dead, and one for what is not finite, with what to try.

    Example:
        >>> failures([{"target": "a:1", "dead": True, "finite": True}], ("another --seed", ""))
        ['dead (zero gradient at every start): a:1; try another --seed']
    """
    by_target: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_target.setdefault(row["target"], []).append(row)
    dead = [target for target, starts in by_target.items() if all(row["dead"] for row in starts)]
    broken = [row["target"] for row in rows if not row["finite"]]
    lines = []
    if dead:
        lines.append(f"dead (zero gradient at every start): {_first(dead)}; try {remedies[0]}")
    if broken:
        lines.append(
            f"{len(broken)} of {len(rows)} starts met numbers that are not finite and kept their best finite image: "
            f"{_first(list(dict.fromkeys(broken)))}; try {remedies[1]}"
        )
    return lines


def _first(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
