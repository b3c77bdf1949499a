"""Runs of the same targets on several networks as one sheet and one `run.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxopt_input.data import save_png
from jaxopt_input.draw.sheet import contact_sheet
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import record


def folder_names(models: Sequence[str]) -> list[str]:
    """A folder's name for each network, from its name or file; a number is added where two would be the same.

    Example:
        >>> folder_names(["tin100", "runs/robust.safetensors", "nets:build", "tin100"])
        ['tin100', 'robust', 'nets-build', 'tin100-3']
    """
    stems = [Path(name).stem.replace(":", "-") for name in models]
    return [stem if stem not in stems[:n] else f"{stem}-{n}" for n, stem in enumerate(stems)]


def write_comparison(folder: Path, parts: Sequence[str], models: Sequence[Model], **run: Any) -> dict[str, Any]:
    """Write `sheet.png` and `run.json` for runs that lie in sub-folders of a folder.

    Each target has one row a network, its starts side by side; pictures are brought to the size of the largest.

    Args:
        folder: where the sub-folders lie.
        parts: the names of the sub-folders, one a network; each run has the same targets and starts.
        models: the networks.
        run: what `record` takes: devices, command, arguments, seed.

    Returns:
        What `run.json` says: the results of all runs, `model` and the path of the image from `folder` in each.
    """
    runs = [json.loads((folder / part / "run.json").read_text()) for part in parts]
    results = [
        {**result, "model": part, "image": f"{part}/{result['image']}"}
        for part, one in zip(parts, runs, strict=True)
        for result in one["results"]
    ]
    count = len(runs[0]["results"])
    starts = 1 + max(result["start"] for result in runs[0]["results"])
    pictures = [Image.open(folder / result["image"]).convert("RGB") for result in results]
    size = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    rows, captions = [], []
    for first in range(0, count, starts):
        for n, part in enumerate(parts):
            begin = n * count + first
            rows.append(np.stack([_brought(picture, size) for picture in pictures[begin : begin + starts]]))
            captions.append(f"{results[begin]['label'] or results[begin]['target']} in {part}")
    save_png(folder / "sheet.png", contact_sheet(rows, captions))
    return record(
        folder,
        models[0],
        files=["sheet.png"],
        results=results,
        sheet="sheet.png",
        compared=[{"folder": part, **one["model"]} for part, one in zip(parts, runs, strict=True)],
        evaluations=sum(one["evaluations"] for one in runs),
        seconds={what: sum(one["seconds"][what] for one in runs) for what in ("compile", "run")},
        **run,
    )


def _brought(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A picture at this size, its pixels sharp where it is enlarged by a whole factor."""
    whole = size[0] % picture.width == 0 and size[1] % picture.height == 0
    way = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return np.asarray(picture.resize(size, way))
