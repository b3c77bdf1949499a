"""Are units a special basis? The images that units and random directions of a layer respond to, compared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.data import Dataset
from jaxopt_input.engine.lanes import Resources, resources
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.engine.solution import Solution
from jaxopt_input.errors import InputError
from jaxopt_input.losses.algebra import check_layer
from jaxopt_input.methods.exemplars.recipe import Ranking, basis, random_directions, rank
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.transforms import lucid

GROUPS = ("units", "directions", "random")
MEASURES = ("entropy", "similarity")
RESAMPLES = 2000
RANDOM_SETS = 256
_BATCH = 64


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The images that units and random directions respond to, and how coherent they are.

    Attributes:
        layer: the tap.
        names: the canonical name of each of D directions, units first.
        units: how many of them are units.
        vectors: `[D, channels]` float32, all of length 1.
        ranking: their images, as `exemplars.recipe.rank` returns them.
        sets: for each of `GROUPS`, the image sets measured, `[S, k]` places in the data set: the k largest of each
            unit and of each direction, and random ones. A silent direction has no set.
        silent: the names of the directions whose k-th largest score is also their smallest: what fewer than k images
            excite has no k largest images.
        coherence: for each of `GROUPS`, and for "units - directions", each measure's `Interval`: "entropy" of the
            classes in a set, in bits (None for a set without labels), and "similarity", the mean cosine of its pairs.
    """

    layer: str
    names: tuple[str, ...]
    units: int
    vectors: np.ndarray
    ranking: Ranking
    sets: dict[str, np.ndarray]
    silent: tuple[str, ...]
    coherence: dict[str, dict[str, Interval | None]]


def compare_directions(
    model: Model,
    dataset: Dataset,
    layer: str,
    *,
    directions: int = 256,
    units: Sequence[int] | None = None,
    k: int | None = None,
    pool: str = "max",
    embedding: str | None = None,
    key: jax.Array,
    on: Resources | None = None,
) -> Comparison:
    """The images with the largest ⟨φ(x), e_i⟩ and with the largest ⟨φ(x), v⟩ for random directions v, measured alike.

    The set is read once for all units and directions; the chosen images, and random ones to compare with, are read a
    second time to be measured. A set of k images is coherent where its classes have a low entropy, and where pairs of
    its images have similar features: the cosine of the embedding's spatial means, centered on that of random images.
    The intervals, bootstrapped over sets, tell how far this layer's units and directions scatter on these images.

    Args:
        model: the network.
        dataset: images; with labels for the class entropy.
        layer: the tap in whose space the directions lie.
        directions: the number of random directions, drawn evenly from the unit sphere.
        units: channels to compare; all if None.
        k: images per set, from 2; 9 if None, or all but one where there are fewer.
        pool: "max" or "mean", as `rank` pools over positions; Szegedy et al. have none, so both choices are ours.
        embedding: the layer that the similarity is measured in; the last before the logits if None.
        key: of the directions, the random sets and the bootstrap.
        on: the resources, as for `rank`.

    Raises:
        InputError: as `rank`, and for an unknown embedding or fewer than two images per set.

    Source:
        Szegedy et al., Intriguing properties of neural networks (2014), section 3; the measures are ours.

    Example:
        >>> import tempfile, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"mean": x.mean((1, 2))}, (), image_shape=(4, 4, 3),
        ...                           taps=("mean",))
        >>> folder = tempfile.mkdtemp()
        >>> for n in range(5):
        ...     joi.data.save_png(f"{folder}/{n}.png", np.full((4, 4, 3), n / 5))
        >>> comparison = compare_directions(model, joi.data.load(folder, model), "mean", directions=2, k=2,
        ...                                 key=jax.random.key(0))
        >>> comparison.names[:3], comparison.sets["units"].tolist()
        (('mean:0', 'mean:1', 'mean:2'), [[4, 3], [4, 3], [4, 3]])
    """
    shapes = model.layers(dataset.image_shape)
    shape = check_layer(layer, shapes)
    if not shape:
        raise InputError(f"layer {layer} has no channels: it is one number per image")
    k = min(9, max(2, len(dataset) - 1)) if k is None else k
    if k < 2:
        raise InputError(f"k must be at least 2, for the images of a set to be compared, not {k}")
    if embedding is None:
        embedding = next((tap for tap in reversed(shapes) if tap != "logits" and shapes[tap]), layer)
    if not check_layer(embedding, shapes):
        raise InputError(f"layer {embedding} has no channels to measure similarity in: it is one number per image")
    of_directions, of_sets, of_bootstrap = jax.random.split(key, 3)
    channels = shape[-1]
    chosen = np.arange(channels) if units is None else np.asarray(units, int).reshape(-1)
    unit_vectors, drawn = basis(channels, chosen), random_directions(of_directions, directions, channels)
    vectors = np.concatenate([unit_vectors, drawn])
    names = (*losses.names(losses.channel(layer, chosen)), *losses.names(losses.direction(layer, drawn)))
    ranking = rank(model, dataset, {layer: vectors}, k=k, pool=pool, on=on)[layer]

    loud = ranking.largest.value[:, -1] > ranking.smallest.value[:, 0]
    if not loud.any():
        raise InputError(f"layer {layer} answers to {dataset.name} with constants: there are no images to rank")
    top, is_unit = ranking.largest.index, np.arange(len(vectors)) < len(chosen)
    sets = {
        "units": top[loud & is_unit],
        "directions": top[loud & ~is_unit],
        "random": random_sets(of_sets, RANDOM_SETS, k, len(dataset)),
    }
    measured = measure(model, dataset, sets, embedding, on=on)
    return Comparison(
        layer=layer,
        names=names,
        units=len(chosen),
        vectors=vectors,
        ranking=ranking,
        sets=sets,
        silent=tuple(name for name, is_loud in zip(names, loud, strict=True) if not is_loud),
        coherence=summarize(of_bootstrap, measured),
    )


def shown_rows(comparison: Comparison, show: int) -> tuple[list[int], list[int]]:
    """The first few units and the first few random directions that are not silent, by their places among the names."""
    silent = set(comparison.silent)
    loud = [n for n, name in enumerate(comparison.names) if name not in silent]
    units = [n for n in loud if n < comparison.units]
    return units[:show], [n for n in loud if n >= comparison.units][:show]


def synthesize(
    model: Model, comparison: Comparison, show: int, *, starts: int = 1, key: jax.Array, **options: Any
) -> Solution:
    """An image for each of `shown_rows`, units first, made alike: the mean of ⟨φ(x), v⟩ over positions.

    Args:
        model: the network.
        comparison: of its directions.
        show: how many units and how many directions.
        starts, key: as in `minimize`.
        options: its further arguments.
    """
    rows = [row for group in shown_rows(comparison, show) for row in group]
    loss = -losses.direction(comparison.layer, comparison.vectors[rows])
    solution = minimize(loss, model, starts=starts, key=key, **({"transform": lucid()} | options))
    return solution.named([comparison.names[row] for row in rows])


def random_sets(key: jax.Array, count: int, k: int, images: int) -> np.ndarray:
    """`[count, k]` places in a data set of a number of images, different within each set.

    Example:
        >>> sorted(random_sets(jax.random.key(0), 1, 3, 3)[0].tolist())
        [0, 1, 2]
    """
    generator = _generator(key)  # memory for k places per set, not for the whole data set
    return np.stack([generator.choice(images, k, replace=False) for _ in range(count)])


def measure(
    model: Model, dataset: Dataset, sets: dict[str, np.ndarray], embedding: str, *, on: Resources | None = None
) -> dict[str, dict[str, np.ndarray | None]]:
    """Each measure of each set, for the groups of sets by name; "random" is what similarities are centered on.

    Args:
        model: the network.
        dataset: the images.
        sets: `[S, k]` places in the data set for each group.
        embedding: the layer of the similarity.
        on: the first of its devices is used.

    Returns:
        For each group and each of `MEASURES`, `[S]` numbers; None for entropies where an image has no label.
    """
    places = np.unique(np.concatenate([group.ravel() for group in sets.values()]))
    params = jax.device_put(model.params, resources(on).local[0])
    features, labels = [], []
    batch = min(_BATCH, len(places))
    for images, classes, _ in dataset.select(places.tolist()).batches(batch):
        padded = np.zeros((batch, *images.shape[1:]), np.float32)
        padded[: len(images)] = images
        features.append(np.asarray(_features(model.apply, embedding, params, padded))[: len(images)])
        labels.append(classes)
    feature, label = np.concatenate(features), np.concatenate(labels)
    feature = feature - feature[np.searchsorted(places, sets["random"].ravel())].mean(0)
    rows = {name: np.searchsorted(places, group) for name, group in sets.items()}
    return {
        name: {
            "entropy": class_entropy(label[row]) if (label >= 0).all() else None,
            "similarity": pair_similarity(feature[row]),
        }
        for name, row in rows.items()
    }


def class_entropy(labels: np.ndarray) -> np.ndarray:
    """The entropy of the classes in each set, in bits: 0 for one class, log2 k for k different ones.

    Args:
        labels: `[S, k]` int; the result is `[S]`.

    Example:
        >>> class_entropy(np.array([[3, 3, 3, 3], [1, 1, 2, 2]])).tolist()
        [0.0, 1.0]
    """
    share = (labels[:, :, None] == labels[:, None, :]).mean(-1)  # of the class of each image
    return 0.0 - np.log2(share).mean(-1)


def pair_similarity(features: np.ndarray) -> np.ndarray:
    """The mean cosine of all pairs of different images in each set.

    Args:
        features: `[S, k, C]`, the result `[S]` in [−1, 1]; what has length 0 is similar to nothing.

    Example:
        >>> pair_similarity(np.array([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0]]])).tolist()
        [1.0, 0.0]
    """
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    unit = features / np.where(length > 0, length, 1)
    k = features.shape[1]
    return (np.square(unit.sum(1)).sum(-1) - np.square(unit).sum((1, 2))) / (k * (k - 1))


def summarize(
    key: jax.Array, measured: dict[str, dict[str, np.ndarray | None]]
) -> dict[str, dict[str, Interval | None]]:
    """The mean and interval of each measure of each group, and of "units - directions"; None where there is nothing.

    Args:
        key: of the resampling.
        measured: what `measure` returns.

    Source:
        Efron, Bootstrap Methods (1979): percentile intervals, resampling sets.
    """
    generator = _generator(key)
    means = {
        group: {
            name: (float(values.mean()), generator.choice(values, (RESAMPLES, len(values))).mean(1))
            if values is not None and len(values)
            else None
            for name, values in measures.items()
        }
        for group, measures in measured.items()
    }
    means["units - directions"] = {
        name: None if a is None or b is None else (a[0] - b[0], a[1] - b[1])
        for name, a, b in ((name, means["units"][name], means["directions"][name]) for name in MEASURES)
    }
    return {
        group: {name: None if mean is None else _interval(*mean) for name, mean in by_measure.items()}
        for group, by_measure in means.items()
    }


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _interval(mean: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


@functools.partial(jax.jit, static_argnames=("apply", "layer"))
def _features(apply: Apply, layer: str, params: Any, images: jax.Array) -> jax.Array:
    """`[N, C]`: a layer's mean over positions."""
    activation = apply(params, images, (layer,))[layer].astype(jnp.float32)
    return activation.reshape(len(activation), -1, activation.shape[-1]).mean(1)
