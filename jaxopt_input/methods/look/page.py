"""What `look` shows: filters, feature maps, activation grids and neuron groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from jaxopt_input.draw.sheet import Row, sheet, square
from jaxopt_input.engine.solution import Solution
from jaxopt_input.errors import MOST, printable
from jaxopt_input.methods.look.recipe import Filters, Grid, NeuronGroups
from jaxopt_input.runs.page import Page, Picture, counted, lanes, overview, picture_names, sheets


def filters_page(filters: Filters, layer: str) -> Page:
    """A layer's filters: the sheet, the numbers, one row per unit."""
    dead = enumerate(filters.dead.tolist())
    page = Page(rows=[{"target": f"{layer}:{n}", "label": None, "dead": is_dead} for n, is_dead in dead], alone=False)
    sheets(page, _mosaic({layer: filter_pictures(filters.weights)}, side=64))
    _keep(page, {layer: filters.weights})
    page.notes.append(f"{len(filters.dead)} filters of {printable(layer, MOST)}")
    return page


def maps_page(maps: Mapping[str, np.ndarray]) -> Page:
    """The feature maps of an image: a picture per layer, all of them as the sheet, the numbers, one row per map."""
    page = Page()
    pictures = {layer: map_pictures(of_layer) for layer, of_layer in maps.items()}
    names = picture_names(list(maps))
    for name, (layer, of_layer) in zip(names, maps.items(), strict=True):
        page.items[f"maps-{name}"] = Picture(_mosaic({layer: pictures[layer]})[0])
        extremes = zip(of_layer.max((0, 1)).tolist(), of_layer.min((0, 1)).tolist(), strict=True)
        for n, (largest, smallest) in enumerate(extremes):
            page.rows.append({"target": f"{layer}:{n}", "label": None, "largest": largest, "smallest": smallest})
    sheets(page, _mosaic(pictures))
    _keep(page, maps)
    page.notes.append(f"the maps of {', '.join(printable(layer, MOST) for layer in maps)}")
    return page


def _keep(page: Page, arrays: Mapping[str, np.ndarray]) -> None:
    page.items["features.npz"] = arrays
    page.entries["data"] = "features.npz"


def _mosaic(pictures: Mapping[str, np.ndarray], side: int = 48) -> list[Image.Image]:
    """The pictures `[N, h, w, C]` of each layer as a square, numbered; several layers one below the other."""
    numbers = {layer: [[str(n) for n in range(len(stack))]] for layer, stack in pictures.items()}
    if len(pictures) == 1:
        [(layer, stack)] = pictures.items()
        return sheet([Row([stack], below=numbers[layer])], title=layer, columns=square(len(stack)), side=side)
    rows = [Row([stack], layer, numbers[layer]) for layer, stack in pictures.items()]
    return sheet(rows, columns=16, side=side, even=False)


def grid_page(grid: Grid, model: str, seed: int) -> Page:
    """An activation grid: one picture and row per cell and start, and all best ones in their places."""
    places = [f"row {y}, column {x}" for y, x in np.ndindex(*grid.shape)]
    page = _solution_page(grid.solution, places, model, seed)
    page.items["grid.png"] = Picture(grid.image)
    rows, columns = grid.shape
    strength = grid.strength.tolist()
    page.entries["grid"] = {"figure": "grid.png", "rows": rows, "columns": columns, "strength": strength}
    return page


def groups_page(groups: NeuronGroups, solution: Solution, image: np.ndarray, model: str, seed: int) -> Page:
    """Where in an image `[H, W, C]` each of its neuron groups is active, beside the pictures made for it.

    Args:
        groups: those of the image.
        solution: the images made for their directions, as many starts each.
        image: in [0, 1].
        model: the name of the network.
        seed: of the run.
    """
    page = _solution_page(solution, [f"group {n}" for n in range(len(groups.directions))], model, seed)
    count = len(groups.directions)
    icons = np.asarray(solution.best_image).reshape(count, -1, *solution.image.shape[1:])
    shown = [Row([[_lit(image, groups.maps[..., n])], list(icons[n])], f"group {n}") for n in range(count)]
    sheets(page, sheet(shown, headings=("where", "what")), "groups")
    strength = np.linalg.norm(groups.maps, axis=(0, 1)).tolist()
    page.entries["groups"] = {"figure": "groups.png", "strength": strength, "directions": groups.directions.tolist()}
    return page


def _solution_page(solution: Solution, captions: Sequence[str], model: str, seed: int) -> Page:
    labels: Sequence[None] = [None] * len(solution)
    page, more = lanes(solution, labels, model, seed), overview(solution, labels, captions=captions)
    page.items |= more.items
    page.entries |= more.entries
    page.notes.append(counted(len(page.rows)))
    return page


def _lit(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image that is bright where a map is large."""
    large = Image.fromarray(heat.astype(np.float32)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    share = np.asarray(large)[..., None] / max(float(heat.max()), 1e-12)
    return image * (0.2 + 0.8 * np.sqrt(share))


def filter_pictures(weights: np.ndarray) -> np.ndarray:
    """Filters as pictures: 0 is gray, each filter's largest weight in size is black or white.

    Args:
        weights: `[N, h, w, C]`.

    Returns:
        `[N, h, w, 1 or 3]` in [0, 1]; filters of other than 3 colors are averaged over them.

    Example:
        >>> filter_pictures(np.array([-2.0, 0.0, 1.0]).reshape(1, 1, 3, 1)).ravel().tolist()
        [0.0, 0.5, 0.75]
    """
    weights = weights if weights.shape[-1] in (1, 3) else weights.mean(-1, keepdims=True)
    return 0.5 + weights / (2 * _largest(weights))


def map_pictures(maps: np.ndarray) -> np.ndarray:
    """Feature maps as gray pictures, each scaled by its largest value.

    Args:
        maps: `[h, w, channels]`.

    Returns:
        `[channels, h, w, 1]` in [0, 1]. Where no map is negative 0 is black, else 0 is gray in all of them.

    Example:
        >>> map_pictures(np.array([[[0.0, 2.0], [4.0, 2.0]]]))[..., 0].tolist()
        [[[0.0, 1.0]], [[1.0, 1.0]]]
    """
    stacked = np.moveaxis(maps, -1, 0)[..., None]
    if stacked.min() < 0:
        return filter_pictures(stacked)
    return stacked / _largest(stacked)


def _largest(stack: np.ndarray) -> np.ndarray:
    """The largest size of a number in each picture, 1 where all are 0."""
    largest = np.abs(stack).max((1, 2, 3), keepdims=True)
    return np.where(largest > 0, largest, 1)
