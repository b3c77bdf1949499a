"""What `attack` and `transfer` attack: budgets, classes and labeled images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks import AttackResult
from jaxopt_input.attacks.control import controls
from jaxopt_input.attacks.examine import logits_of
from jaxopt_input.attacks.problem import DRAWS
from jaxopt_input.attacks.result import has_class
from jaxopt_input.data import Dataset, to_uint8
from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model
from jaxopt_input.transforms import Transform

if TYPE_CHECKING:
    from jaxtyping import Bool


def parse_epsilons(text: str) -> list[float]:
    """Budgets such as "4/255,8/255" or "0.5".

    Raises:
        InputError: for anything but numbers of at least 0.

    Example:
        >>> [round(epsilon, 4) for epsilon in parse_epsilons("0, 4/255, 0.5")]
        [0.0, 0.0157, 0.5]
    """
    epsilons = []
    for part in text.split(","):
        over, _, under = part.partition("/")
        try:
            value = float(over) / float(under or 1)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"{part.strip()!r} is no budget: give numbers such as 4/255 or 0.5") from error
        if not 0 <= value < float("inf"):
            raise InputError(f"epsilon must be positive, or 0 beside others, not {part.strip()!r}")
        epsilons.append(value)
    return epsilons


def after_rounding(
    result: AttackResult, model: Model, key: jax.Array, transform: Transform | None = None
) -> Bool[np.ndarray, "*E N"]:
    """Whether each image of an attack still misleads, or has its target, once a PNG of 8 bits holds it.

    Args:
        result: of the attack.
        model: the network.
        key: of the draws of the transform.
        transform: under which the network saw the images; the mean logits over draws decide.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 128.2 / 255).at[..., 0].set(128.4 / 255)
        >>> result = joi.attacks.fgsm(jax.random.key(0), model, image, [0], epsilon=[0.15 / 255, 2 / 255])
        >>> result.success[:, 0].tolist(), after_rounding(result, model, jax.random.key(0))[:, 0].tolist()
        ([True, True], [False, True])
    """
    shape = result.success.shape
    images = to_uint8(result.image).astype(np.float32) / np.float32(255)
    images = images.reshape(-1, *result.image.shape[-3:])
    if transform is None:
        logits = logits_of(model, images)
    else:
        keys = jax.random.split(key, (DRAWS, len(images)))
        logits = np.mean([logits_of(model, jax.vmap(transform)(draw, jnp.asarray(images))) for draw in keys], 0)
    prediction = logits.argmax(-1).reshape(shape)
    reached = prediction != result.label if result.target is None else prediction == result.target
    return reached & has_class(logits).reshape(shape)


def random_errors(result: AttackResult, model: Model, key: jax.Array, photos: Originals) -> dict[str, list[float]]:
    """By the kind of `controls`, the errors at each budget that random changes as large as the attack's cause.

    Only images that are classified rightly count, as in a transfer; NaN where there is none.
    """
    right = np.flatnonzero(result.right)
    errors: dict[str, list[float]] = {"gaussian": [], "signs": []}
    for part in result.by_budget():
        for kind, images in controls(key, photos.images[right], np.asarray(part.image)[right]).items():
            wrong = logits_of(model, images).argmax(-1) != result.label[right] if len(right) else np.array(np.nan)
            errors[kind].append(float(wrong.mean()))
    return errors


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
        predicted: how many labels are what the network predicts.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: list[str]
    predicted: int

    @property
    def entries(self) -> dict[str, str]:
        """What `run.json` says of the labels."""
        some = "predicted" if self.predicted == len(self.labels) else "partly predicted"
        return {"labels": some if self.predicted else "given"}

    @property
    def warnings(self) -> list[str]:
        """A line where labels are predicted."""
        if not self.predicted:
            return []
        count = f"{self.predicted} of {len(self.labels)} images have no label"
        return [f"{count}: what the network predicts is taken, so that they count as right; --label gives one"]


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
        labels = np.where(labels < 0, model.info.class_index(label), labels).astype(np.int32)
    missing = labels < 0
    if missing.any():
        labels[missing] = np.asarray(model.activations(images[missing], ["logits"])["logits"].argmax(-1))
    return Originals(images, labels, names, int(missing.sum()))
