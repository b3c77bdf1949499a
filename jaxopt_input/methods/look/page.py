"""The files of the first things people look at: filters, feature maps, activation grids and neuron groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxopt_input.data import atomic, save_png
from jaxopt_input.draw.mosaic import filter_pictures, map_pictures, mosaic
from jaxopt_input.draw.sheet import GAP, INK, PAPER
from jaxopt_input.methods.exemplars.page import table_sheet
from jaxopt_input.methods.look.recipe import Filters, Grid, NeuronGroups
from jaxopt_input.models.model import Model
from jaxopt_input.runs.writer import prepare, record


def write_filters(folder: Path, found: Filters, layer: str, model: Model, *, overwrite: bool, **run: Any) -> None:
    """Write a layer's filters: the sheet, the numbers, `run.json`.

    Args:
        folder: as `runs.writer.write`.
        found: see `methods.look.recipe.filters`.
        layer: the tap.
        model: whose.
        overwrite: whether the folder may hold an earlier run.
        run: further arguments of `runs.writer.record`.
    """
    results = [{"target": f"{layer}:{n}", "label": None, "dead": bool(dead)} for n, dead in enumerate(found.dead)]
    sheet = mosaic(filter_pictures(found.weights), side=64)
    _write(folder, {"sheet.png": sheet}, {layer: found.weights}, results, model, overwrite=overwrite, **run)


def write_maps(folder: Path, maps: Mapping[str, np.ndarray], model: Model, *, overwrite: bool, **run: Any) -> None:
    """Write the feature maps of an image: a mosaic a layer, all of them as the sheet, the numbers, `run.json`.

    Args:
        folder: as `runs.writer.write`.
        maps: see `methods.look.recipe.feature_maps`.
        model: whose.
        overwrite: whether the folder may hold an earlier run.
        run: further arguments of `runs.writer.record`.
    """
    sheets = {layer: mosaic(map_pictures(of_layer), side=48) for layer, of_layer in maps.items()}
    results = [
        {"target": f"{layer}:{n}", "label": None, "largest": float(one.max()), "smallest": float(one.min())}
        for layer, of_layer in maps.items()
        for n, one in enumerate(np.moveaxis(of_layer, -1, 0))
    ]
    files = {f"maps-{layer.replace('/', '-')}.png": sheet for layer, sheet in sheets.items()}
    files["sheet.png"] = _stacked(sheets)
    _write(folder, files, maps, results, model, overwrite=overwrite, **run)


def _write(
    folder: Path,
    sheets: Mapping[str, Image.Image],
    arrays: Mapping[str, np.ndarray],
    results: list[dict[str, Any]],
    model: Model,
    *,
    overwrite: bool,
    **run: Any,
) -> None:
    prepare(folder, overwrite)
    for file, sheet in sheets.items():
        save_png(folder / file, sheet)
    with atomic(folder / "features.npz") as part:
        np.savez(part, **dict[str, Any](arrays))
    record(
        folder,
        model,
        files=[*sheets, "features.npz"],
        results=results,
        sheet="sheet.png",
        data="features.npz",
        evaluations=0,
        **run,
    )


def _stacked(sheets: Mapping[str, Image.Image]) -> Image.Image:
    """Sheets one below the other, each under its name."""
    head = 13 + 2 * GAP
    height = sum(sheet.height + head for sheet in sheets.values())
    out = Image.new("RGB", (max(sheet.width for sheet in sheets.values()), height), PAPER)
    draw, top = ImageDraw.Draw(out), 0
    for name, sheet in sheets.items():
        draw.text((GAP, top + GAP), name, fill=INK, font=ImageFont.load_default(13))
        out.paste(sheet, (0, top + head))
        top += sheet.height + head
    return out


def grid_files(grid: Grid) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an activation grid adds to its solution's folder: further pictures, and entries of `run.json`."""
    entries = {"figure": "grid.png", "rows": grid.shape[0], "columns": grid.shape[1]}
    return {"grid.png": grid.image}, {"grid": entries | {"strength": grid.strength.tolist()}}


def group_files(found: NeuronGroups, image: np.ndarray, icons: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """What neuron groups add to their solution's folder: further pictures, and entries of `run.json`.

    Args:
        found: see `methods.look.recipe.neuron_groups`.
        image: `[H, W, C]`, whose groups they are.
        icons: `[groups, starts, h, w, C]`, the images made for them.
    """
    rows, captions = [], []
    strength = np.linalg.norm(found.maps, axis=(0, 1))
    for n in range(len(icons)):
        heat = Image.fromarray(found.maps[..., n].astype(np.float32)).resize(
            image.shape[1::-1], Image.Resampling.BILINEAR
        )
        share = np.asarray(heat)[..., None] / max(float(found.maps[..., n].max()), 1e-12)
        rows.append([[image * (0.2 + 0.8 * np.sqrt(share))], list(icons[n])])
        captions.append(f"group {n}")
    entries = {"figure": "groups.png", "strength": strength.tolist(), "directions": found.directions.tolist()}
    return {"groups.png": table_sheet(rows, captions, ["where", "what"])}, {"groups": entries}
