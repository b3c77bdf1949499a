"""The folder that a command writes: images, contact sheet, loss curves, `run.json`."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxopt_input
from jaxopt_input.data import atomic, save_png, to_uint8
from jaxopt_input.draw.animation import save_animation
from jaxopt_input.draw.curves import loss_curves
from jaxopt_input.draw.sheet import target_sheet
from jaxopt_input.engine.minimize import Solution
from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise an `InputError` for a folder that is not empty, unless it may be overwritten, or that is a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: --out takes a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"{folder} is not empty: choose another --out, or --overwrite its results")


@contextlib.contextmanager
def compile_seconds() -> Iterator[list[float]]:
    """Collects the seconds that JAX spends on tracing, lowering and compiling inside the block."""
    seconds: list[float] = []

    def heard(event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def write(
    folder: Path,
    solution: Solution,
    labels: Sequence[str | None],
    model: Model,
    *,
    devices: Sequence[jax.Device],
    command: str,
    arguments: dict[str, Any],
    seed: int,
    seconds: dict[str, float],
    overwrite: bool,
    sheets: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    animate: str | None = None,
    draw: Callable[[np.ndarray], Any] | None = None,
    entries: Sequence[Mapping[str, Any]] | None = None,
    logarithmic: bool = False,
) -> dict[str, Any]:
    """Write a solution's best images and their numbers into a folder.

    Args:
        folder: made if need be; with `overwrite`, the results of an earlier run in it are removed.
        solution: of N lanes.
        labels: N labels, None where a target has none.
        model: what was visualized.
        devices: what it ran on.
        command, arguments, seed, seconds: go into `run.json` as they are.
        overwrite: whether the folder may hold an earlier run.
        sheets: further pictures to write, by file name.
        more: further entries of `run.json`.
        animate: "gif", "webp" or "mp4": write the snapshots as an animated sheet.
        draw: makes the sheet of the images `[N, H, W, C]`; a row a target if None.
        entries: further entries of the results in `run.json`, one mapping a lane.
        logarithmic: whether the loss curves' axis is.

    Returns:
        What `run.json` says; it is written last, so that it never names a file that is not there.
    """
    prepare(folder, overwrite)
    results = save_images(folder, solution, labels, model, seed)
    for result, further in zip(results, entries or [{}] * len(results), strict=True):
        result.update(further)
    files, pictures, losses = [r["image"] for r in results], to_uint8(solution.best_image), np.asarray(solution.loss)
    distinct = list(dict.fromkeys(solution.names))
    rows = [[n for n, name in enumerate(solution.names) if name == one] for one in distinct]
    captions = [f"{one} {labels[row[0]] or ''}".strip() for one, row in zip(distinct, rows, strict=True)]
    draw = draw or functools.partial(target_sheet, rows=rows, captions=captions)
    save_png(folder / "sheet.png", draw(pictures))
    with atomic(folder / "loss.png") as part:
        loss_curves(losses, [captions[distinct.index(name)] for name in solution.names], logarithmic).savefig(
            part, format="png", metadata={"Software": None}
        )
    with atomic(folder / "loss.npz") as part:
        np.savez(part, loss=losses, target=np.array(solution.names), start=solution.start)
    for file, sheet in (sheets or {}).items():
        save_png(folder / file, sheet)
    films = [f"animation.{animate}"] if animate else []
    for film in films:
        frames = (np.nan_to_num(np.asarray(frame), nan=0.5) for frame in solution.snapshots)
        save_animation(folder / film, map(draw, frames))
    return record(
        folder,
        model,
        devices=devices,
        command=command,
        arguments=arguments,
        seed=seed,
        seconds=seconds,
        files=[*files, "sheet.png", "loss.png", "loss.npz", *(sheets or {}), *films],
        results=results,
        sheet="sheet.png",
        curves={"figure": "loss.png", "data": "loss.npz"},
        check_steps=list(solution.check_steps),
        evaluations=int(np.sum(solution.evaluations)),
        **({"animation": films[0]} if films else {}),
        **(more or {}),
    )


def save_images(
    folder: Path, solution: Solution, labels: Sequence[str | None], model: Model, seed: int
) -> list[dict[str, Any]]:
    """Write a solution's best images into a folder.

    Args:
        folder, solution, labels, model, seed: as `write`.

    Returns:
        The `results` of `run.json`, one a lane.
    """
    pictures, losses = to_uint8(solution.best_image), np.asarray(solution.loss)
    best, best_step, evaluations, finite, dead = map(
        np.asarray, (solution.best_loss, solution.best_step, solution.evaluations, solution.finite, solution.dead)
    )
    results, files = [], file_names(solution)
    for n, (name, label, file) in enumerate(zip(solution.names, labels, files, strict=True)):
        result = {
            "target": name,
            "label": label,
            "start": int(solution.start[n]),
            "image": file,
            "loss": {"first": _number(losses[n, 0]), "last": _number(losses[n, -1]), "best": _number(best[n])},
            "best_step": int(best_step[n]),
            "evaluations": int(evaluations[n]),
            "finite": bool(finite[n]),
            "dead": bool(dead[n]),
        }
        kept = {key: result[key] for key in ("target", "label", "start", "best_step")}
        text = {key: str(value) for key, value in kept.items() if value is not None}
        software = f"jaxopt_input {jaxopt_input.__version__}"
        text |= {"Software": software, "model": model.info.name, "seed": str(seed)}
        save_png(folder / file, pictures[n], text)
        results.append(result)
    return results


def prepare(folder: Path, overwrite: bool) -> None:
    """Make a folder for results; with `overwrite`, the files of an earlier run in it are removed.

    Raises:
        InputError: as `check_folder`.
    """
    check_folder(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)


def record(
    folder: Path,
    model: Model,
    *,
    devices: Sequence[jax.Device],
    command: str,
    arguments: dict[str, Any],
    seed: int,
    seconds: dict[str, float],
    files: Sequence[str],
    **entries: Any,
) -> dict[str, Any]:
    """Write `run.json`, the last of a command's files.

    Args:
        folder: where the results lie.
        model: what was used.
        devices: what it ran on.
        command, arguments, seed, seconds: go into it as they are.
        files: the names of all other files that the command wrote; a later run with `overwrite` removes them.
        entries: what the command adds, such as `results`.

    Returns:
        What it says.
    """
    info = {
        "command": command,
        "arguments": arguments,
        "version": jaxopt_input.__version__,
        "jax": jax.__version__,
        "device": f"{devices[0].platform} {devices[0].device_kind} x {len(devices)}",
        "seed": seed,
        "model": {"name": model.info.name, "sha256": model.info.sha256},
        **entries,
        "files": list(files),
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
    }
    with atomic(folder / "run.json") as part:
        part.write_text(json.dumps(info, indent=1, allow_nan=False) + "\n")
    return info


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def file_names(solution: Solution) -> list[str]:
    """One file name a lane, made of its target and start; a number is added where two would be the same."""
    names: list[str] = []
    for name, start in zip(solution.names, solution.start, strict=True):
        stem = re.sub(r"[^A-Za-z0-9.,_]+", "-", name.replace("-", "minus-", 1) if name.startswith("-") else name)
        file = f"{stem}-start{start}.png"
        names.append(file if file not in names else f"{stem}-start{start}-{len(names)}.png")
    return names


def _remove_earlier(folder: Path) -> None:
    """Remove the files of an earlier run, as far as its own `run.json` names them."""
    try:
        earlier = json.loads((folder / "run.json").read_text())
        files = [*earlier["files"], "run.json"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for file in files:
        if Path(file).name == file:
            (folder / file).unlink(missing_ok=True)
