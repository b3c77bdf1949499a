"""What `attack` and `transfer` attack: budgets, classes and labeled images."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxopt_input.data import Dataset
from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model


def parse_epsilons(text: str) -> list[float]:
    """Budgets such as "4/255,8/255" or "0.5".

    Raises:
        InputError: for anything but positive numbers.

    Example:
        >>> [round(epsilon, 4) for epsilon in parse_epsilons("4/255, 0.5")]
        [0.0157, 0.5]
    """
    epsilons = []
    for part in text.split(","):
        over, _, under = part.partition("/")
        try:
            value = float(over) / float(under or 1)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"{part.strip()!r} is no budget: give numbers such as 4/255 or 0.5") from error
        if not 0 < value < float("inf"):
            raise InputError(f"epsilon must be positive, not {part.strip()!r}")
        epsilons.append(value)
    return epsilons


def epsilon_text(epsilon: float) -> str:
    """A budget as it is mostly written.

    Example:
        >>> epsilon_text(8 / 255), epsilon_text(0.5)
        ('8/255', '0.5')
    """
    levels = epsilon * 255
    whole = 1 <= round(levels) <= 64 and abs(levels - round(levels)) < 1e-3
    return f"{round(levels)}/255" if whole else f"{epsilon:.4g}"


def class_of(name: str, model: Model) -> int:
    """The index of a class by name or, also for a network without labels, by index."""
    return model.info.class_index(name)


def read(dataset: Dataset, limit: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The images of a set, or so many of them evenly spread; their labels, and their names."""
    if limit is not None and limit < len(dataset):
        dataset = dataset.select([k * len(dataset) // limit for k in range(limit)])
    batches = list(dataset.batches())
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    return images, labels, [name for batch in batches for name in batch.names]


@dataclasses.dataclass(frozen=True)
class Originals:
    """Images to attack.

    Attributes:
        images: `[N, H, W, C]` float32 in [0, 1].
        labels: `[N]` int32, their classes.
        sources: N names.
        predicted: whether all labels are what the network predicts.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: list[str]
    predicted: bool


def originals(model: Model, dataset: Dataset, limit: int | None = None, label: str | None = None) -> Originals:
    """The images of a set with their labels; where there is none, the class that the network predicts.

    Args:
        model: the network.
        dataset: the images.
        limit: only so many, evenly spread; all if None.
        label: the class of images that have none.

    Example:
        >>> import tempfile, jaxopt_input as joi
        >>> joi.data.save_png(f"{(folder := tempfile.mkdtemp())}/a.png", np.ones((4, 4, 3)))
        >>> model = joi.load("mnist")
        >>> originals(model, joi.data.load(folder, model), label="7").labels.tolist()
        [7]
    """
    images, labels, names = read(dataset, limit)
    if label is not None:
        labels = np.where(labels < 0, class_of(label, model), labels).astype(np.int32)
    missing = labels < 0
    if missing.any():
        labels[missing] = np.asarray(model.activations(images[missing], ["logits"])["logits"].argmax(-1))
    return Originals(images, labels, names, bool(missing.all()))
