"""From images to the terms of a style's loss: features, masks, weights."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import losses
from jaxopt_input.engine.lanes import identity
from jaxopt_input.errors import InputError
from jaxopt_input.losses import Loss
from jaxopt_input.methods.photo import resize
from jaxopt_input.methods.style.settings import Settings

Build = Callable[[str, Any, Any, jax.Array], Loss]  # from (layer, activation, positions, key)


def _of(builder: Callable[..., Loss], *arguments: Any) -> Build:
    return lambda layer, activation, positions, key: builder(layer, activation, *arguments, positions=positions)


STATISTICS: dict[str, Build] = {
    "gram": _of(losses.gram),
    "mean": _of(losses.mean),
    "covariance": _of(losses.covariance),
    "wasserstein": _of(losses.wasserstein_gaussian),
    "batch-norm": _of(losses.batch_norm_statistics),
    "mmd-linear": _of(losses.mmd, "linear"),
    "mmd-polynomial": _of(losses.mmd, "polynomial"),
    "mmd-gaussian": _of(losses.mmd, "gaussian"),
    "histogram": _of(losses.histogram),
    "sliced-wasserstein": lambda layer, activation, positions, key: losses.sliced_wasserstein(
        layer, activation, key, positions=positions
    ),
}
"""What of a layer's features a style is: a loss builder by name."""

DEGREES = {"gram": 4, "covariance": 4, "mmd-polynomial": 4, "mmd-gaussian": 0}
"""How a loss grows with the scale of the features, where not with its square."""


def positions(mask: np.ndarray, shape: Sequence[int], layer: str) -> np.ndarray:
    """The positions of a layer's map that a mask leaves: where at least half of what lies below is in it.

    Args:
        mask: `[H, W]` in [0, 1].
        shape: of the layer's activation, `[h, w, C]`.
        layer: its name, for the error where none is left.

    Example:
        >>> positions(np.array([[1.0, 1.0, 0.0, 0.0]] * 4), (2, 2, 8), "a").tolist()
        [0, 2]
    """
    inside = np.flatnonzero(resize(np.asarray(mask, np.float32)[..., None], tuple(shape[:2])) >= 0.5)
    if not len(inside):
        raise InputError(f"a mask leaves no position of layer {layer} ({shape[0]}x{shape[1]}): widen it")
    return inside.astype(np.int32)


def style_loss(
    features: Mapping[str, np.ndarray],
    shapes: Mapping[str, Sequence[int]],
    settings: Settings,
    weights: Mapping[str, float],
    key: jax.Array,
    style_mask: np.ndarray | None = None,
    content_mask: np.ndarray | None = None,
) -> Loss:
    """The loss of one style image.

    Args:
        features: `{layer: [h, w, C]}` of the style image.
        shapes: the layers' shapes for the image that is made.
        settings: which losses, in what units.
        weights: of each layer.
        key: of random directions.
        style_mask, content_mask: `[H, W]`, what of the style image counts, and where the result takes it.
    """
    terms: list[Loss] = []
    for layer, weight in weights.items():
        style = features[layer]
        if style_mask is not None:
            style = style.reshape(1, -1, style.shape[-1])[:, positions(style_mask, style.shape, layer)]
        inside = None if content_mask is None else positions(content_mask, shapes[layer], layer)
        for name, factor in settings.losses:
            directions = jax.random.fold_in(key, identity(layer))
            term = STATISTICS[name](layer, style, inside, directions)
            if settings.units == "relative":
                unit = 1 / _silent(STATISTICS[name](layer, style, None, directions), layer, style.shape)
            else:
                count = int(np.prod(shapes[layer][:2])) if inside is None else len(inside)
                unit = settings.style_unit(count, style.shape[-1]) * settings.feature_scale ** DEGREES.get(name, 2)
            terms.append(weight * factor * unit * term)
    return functools.reduce(operator.add, terms)


def content_loss(features: Mapping[str, np.ndarray], settings: Settings) -> Loss | None:
    """The loss of the content's features `{layer: [h, w, C]}`; None where it has no weight."""
    if not settings.content_weight:
        return None
    terms: list[Loss] = []
    for layer, content in features.items():
        if settings.units == "relative":
            term: Loss = losses.feature_distance(layer, content)
        else:
            unit = settings.content_unit(int(np.prod(content.shape[:2])), content.shape[-1]) * settings.feature_scale**2
            term = unit * losses.content(layer, content)
        terms.append(settings.content_weight / len(features) * term)
    return functools.reduce(operator.add, terms)


def variation_loss(shape: tuple[int, int, int], settings: Settings) -> Loss | None:
    """The total variation; None where it has no weight."""
    if not settings.tv_weight:
        return None
    unit = 1 / float(np.prod(shape)) if settings.tv_unit is None else settings.tv_unit
    return settings.tv_weight * unit * losses.total_variation()


def _silent(term: Loss, layer: str, shape: tuple[int, ...]) -> float:
    """The loss of a map of zeros."""
    value = float(term({layer: jnp.zeros(shape)}, jnp.zeros((1, 1, 1))))
    if not value > 0:
        raise InputError(f"layer {layer} is silent for the style image: name another style layer")
    return value
