"""What a preset shows beside the best images: the last and the majority images, the importance mask as alpha."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxopt_input.data import to_uint8
from jaxopt_input.engine.minimize import Solution
from jaxopt_input.methods.visualize.importance import importance
from jaxopt_input.methods.visualize.settings import preset
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import file_names


def versions(
    solution: Solution, preset_name: str, model: Model, key: jax.Array
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Further pictures of a solution by file name, and the entry of `run.json` that names them.

    Args:
        solution: of `visualize`.
        preset_name: the preset; the importance mask is that of its own transform and objective.
        model: the network.
        key: for the views of the importance mask.

    Returns:
        `{file: picture}`, 8-bit, and {"versions": one entry a lane}. For a preset of Yosinski: "last"; "majority" with
        "majority_step", None where the unit never was the most active of its layer; and "scaled", the best image with
        its contrast stretched about gray to the whole range, as he shows his. For MACO: "alpha", the best image with
        its importance as transparency. For others nothing.
    """
    _, height, width, channels = solution.image.shape
    chosen = preset(preset_name, (height, width, channels))
    pictures: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    stems = [file.removesuffix(".png") for file in file_names(solution)]
    if chosen.majority and solution.milestone_image is not None and solution.milestone_step is not None:
        last, first = to_uint8(solution.image), to_uint8(solution.milestone_image)
        centered = np.asarray(solution.best_image) - 0.5
        reach = np.abs(centered).max((1, 2, 3), keepdims=True)
        scaled = to_uint8(0.5 + centered / (2 * np.where(reach > 0, reach, 1.0)))
        for n, (stem, step) in enumerate(zip(stems, np.asarray(solution.milestone_step), strict=True)):
            majority = f"{stem}-majority.png" if step >= 0 else None
            pictures[f"{stem}-last.png"], pictures[f"{stem}-scaled.png"] = last[n], scaled[n]
            if majority:
                pictures[majority] = first[n]
            reached = int(step) if step >= 0 else None
            kept = {"last": f"{stem}-last.png", "majority": majority, "majority_step": reached}
            entries.append({**kept, "scaled": f"{stem}-scaled.png"})
    elif chosen.alpha:
        mask = importance(model, solution, transform=chosen.transform, kind=chosen.objective, key=key)
        opaque = np.broadcast_to(to_uint8(solution.best_image), (*mask.shape, 3))
        masked = np.concatenate([opaque, to_uint8(mask)[..., None]], -1)
        for n, stem in enumerate(stems):
            pictures[f"{stem}-alpha.png"] = masked[n]
            entries.append({"alpha": f"{stem}-alpha.png"})
    return pictures, {"versions": entries} if entries else {}
