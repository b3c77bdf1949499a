"""A data set's images to be shown beside what is made for the same targets: whole, or what the unit sees of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxopt_input.data import Dataset, load, to_uint8
from jaxopt_input.engine.target import Target, Wanted
from jaxopt_input.errors import InputError
from jaxopt_input.methods.exemplars.recipe import Ranked, Ranking, basis, rank
from jaxopt_input.models.model import Model
from jaxopt_input.models.receptive import ReceptiveField, receptive_field


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """A ranked image.

    Attributes:
        picture: 8-bit `[h, w, C]`, the image, or what the unit sees of it.
        index: its place in the data set.
        name: its file name, or its name within the set.
        label: the model's class index; -1 where there is no label.
        value: its score.
        position: where in the layer's map the score lies; () where there are no positions.
    """

    picture: np.ndarray
    index: int
    name: str
    label: int
    value: float
    position: tuple[int, ...]


Ends = tuple[list[Exemplar], list[Exemplar]]
"""The images with the largest and those with the smallest scores, the most extreme first."""


def show(dataset: Dataset, ranking: Ranking, rows: Sequence[int], field: ReceptiveField | None = None) -> list[Ends]:
    """The ranked images themselves, each read once.

    Args:
        dataset: what was ranked.
        ranking: of a layer.
        rows: the places of directions in the ranking.
        field: the receptive field of the layer's units, to crop to where there is a position; None shows whole images.

    Returns:
        For each row, the k largest and the k smallest.

    Example:
        >>> import tempfile, jaxopt_input as joi
        >>> joi.data.save_png(f"{(folder := tempfile.mkdtemp())}/a.png", np.ones((4, 4, 3)))
        >>> end = Ranked(np.ones((1, 1)), np.zeros((1, 1), int), np.zeros((1, 1, 0), int))
        >>> largest, smallest = show(joi.data.load(folder, image_shape=(2, 2, 3)), Ranking(end, end), [0])[0]
        >>> largest[0].picture.shape, largest[0].index
        ((2, 2, 3), 0)
    """
    wanted = np.unique(np.concatenate([end.index[list(rows)].ravel() for end in ranking])).tolist()
    read: dict[int, tuple[np.ndarray, int, str]] = {}
    for images, labels, names in dataset.select(wanted).batches():
        for image, label, name in zip(images, labels, names, strict=True):
            read[wanted[len(read)]] = (to_uint8(image), int(label), name)

    def exemplars(end: Ranked, row: int) -> list[Exemplar]:
        shown = []
        for value, index, position in zip(*(part[row].tolist() for part in end), strict=True):
            image, label, name = read[index]
            picture = patch(image, position, field) if field is not None and len(position) == 2 else image
            shown.append(Exemplar(picture, index, name, label, value, tuple(position)))
        return shown

    return [(exemplars(ranking.largest, row), exemplars(ranking.smallest, row)) for row in rows]


@dataclasses.dataclass(frozen=True)
class Beside:
    """A data set's images for targets, as `beside_targets` finds them.

    Attributes:
        dataset: the data set.
        k: images at each end.
        ends: the images at both ends for each (layer, channel).
        fields: the receptive field of each layer whose images are cropped to it.
    """

    dataset: Dataset
    k: int
    ends: dict[tuple[str, int], Ends]
    fields: dict[str, ReceptiveField]


def beside_targets(
    model: Model, dataset: Dataset | str, targets: Sequence[Wanted], *, k: int | None = None, **options: Any
) -> Beside:
    """The images that excite targets the most and the least, to be shown beside what is made for them.

    A channel or unit is asked for its largest activation anywhere in the map, and what its unit sees there is shown:
    the whole image where the receptive field cannot be read. A class is asked for its logit. All layers share one
    pass over the set.

    Args:
        model: the network.
        dataset: the images, or their name for `data.load`.
        targets: channels, units and classes, as `engine.target.expand` returns them.
        k: images at each end; 9 if None, or all where there are fewer.
        options: further arguments of `rank`.

    Raises:
        InputError: as `data.load` and `rank`, and for a target that is not one number per image.

    Source:
        Yosinski et al., Understanding Neural Networks Through Deep Visualization (2015).
    """
    asked: dict[str, list[int]] = {}
    for target in targets:
        if not isinstance(target, Target) or target.kind == "layer":
            raise InputError(
                f"no data can be shown beside {target}: name channels (LAYER:CHANNEL), units or classes, of which each "
                "image has one number"
            )
        if target.index not in asked.setdefault(target.layer, []):
            asked[target.layer].append(target.index)
    dataset = load(dataset, model) if isinstance(dataset, str) else dataset
    k = min(9, len(dataset)) if k is None else k
    shapes = model.layers(dataset.image_shape)
    probes = {layer: basis(shapes[layer][-1], channels) for layer, channels in asked.items()}
    fields = {layer: field for layer in asked if (field := _field(model, layer, dataset.image_shape))}
    ends = {}
    for layer, ranking in rank(model, dataset, probes, k=k, **options).items():
        shown = show(dataset, ranking, range(len(asked[layer])), fields.get(layer))
        ends.update({(layer, channel): pair for channel, pair in zip(asked[layer], shown, strict=True)})
    return Beside(dataset, k, ends, fields)


def _field(model: Model, layer: str, image_shape: tuple[int, int, int]) -> ReceptiveField | None:
    """The receptive field of a layer with positions, None where it cannot be read."""
    try:
        return receptive_field(model, layer, image_shape) if len(model.layers(image_shape)[layer]) == 3 else None
    except InputError:
        return None


def patch(image: np.ndarray, position: Sequence[int], field: ReceptiveField) -> np.ndarray:
    """The part of an image that a unit sees: the window of its receptive field, moved inside the image's borders.

    Args:
        image: `[H, W, C]`.
        position: (row, column) of the unit in its map.
        field: of the layer's units.

    Returns:
        `[h, w, C]`, of one shape for all positions: the field's size, or the image's where that is smaller.

    Example:
        >>> field = ReceptiveField(size=(2, 2), stride=(1, 1), offset=(-1, 0))
        >>> patch(np.arange(16).reshape(4, 4, 1), (0, 3), field)[..., 0].tolist()
        [[2, 3], [6, 7]]
    """
    for axis, (begin, size) in enumerate(zip(field.begin(position), field.size, strict=True)):
        side = image.shape[axis]
        length = min(size, side)
        first = min(max(begin, 0), side - length)
        image = image.take(range(first, first + length), axis)
    return image
