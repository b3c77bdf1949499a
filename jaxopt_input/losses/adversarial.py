"""Losses of adversarial search: what a class's logit leads by, in several scales. Builders return the quantity.

`cross_entropy`, `dlr` and `margin` of the true label rise as an image becomes adversarial; `carlini_wagner` falls to
zero. Each argument may hold one label per target, as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.define import Kind, index, of_logits

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxopt_input.losses.define import Index, Logits, Number, Scalar


def best_other(logits: Float[Array, "*batch classes"], index: Index) -> Float[Array, "*batch"]:
    """The largest logit of the other classes than `index`."""
    return jnp.where(jnp.arange(logits.shape[-1]) == index, -jnp.inf, logits).max(-1)


@of_logits("class:{label}", label=index)
def cross_entropy(logits: Logits, label: Index) -> Scalar:
    """Minus the logarithm of a class's probability, from the logits: log Σ exp z_i − z_y.

    Args:
        label: the class, or one per target.

    Raises:
        InputError: if it is no integer; against a model, also if there is no such class.

    Source:
        Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples (2015).

    Example:
        >>> round(float(cross_entropy(1)({"logits": jnp.array([2.0, 2.0])}, None)), 4)
        0.6931
    """
    return jax.nn.logsumexp(logits) - logits[label]


@of_logits("class:{label}", classes=2, label=index)
def margin(logits: Logits, label: Index) -> Scalar:
    """What the best other class leads a class by: max_{i≠y} z_i − z_y, positive where the image is misclassified.

    Args:
        label: the class, or one per target.

    Raises:
        InputError: as `cross_entropy`; against a model with one class.

    Source:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks (2017), its difference of logits.

    Example:
        >>> float(margin(1)({"logits": jnp.array([0.0, 5.0, 3.0])}, None))
        -2.0
    """
    return best_other(logits, label) - logits[label]


def _at_least_0(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    if not (np.asarray(value) >= 0).all():
        raise InputError(f"a confidence is at least 0, not {value!r}")


confidence = Kind(0, check=_at_least_0)


@of_logits("class:{label}", classes=2, label=index, confidence=confidence)
def carlini_wagner(logits: Logits, label: Index, confidence: Number = 0.0, *, targeted: bool = False) -> Scalar:
    """max(z_y − max_{i≠y} z_i + κ, 0): zero once another class leads by κ; with `targeted`, once this class does.

    Args:
        label: the true class, or the target class, or one per target.
        confidence: κ, at least 0.
        targeted: whether the class is to be reached instead of left.

    Raises:
        InputError: as `margin`; against a model, also for a negative confidence.

    Source:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks (2017), f₆.

    Example:
        >>> logits = {"logits": jnp.array([0.0, 5.0, 3.0])}
        >>> float(carlini_wagner(1)(logits, None)), float(carlini_wagner(1, 3.0, targeted=True)(logits, None))
        (2.0, 1.0)
    """
    lead = logits[label] - best_other(logits, label)
    return jnp.maximum((-lead if targeted else lead) + confidence, 0.0)


@of_logits("class:{label}", classes=3, label=index)
def dlr(logits: Logits, label: Index) -> Scalar:
    """The difference of logits ratio: −(z_y − max_{i≠y} z_i) / (z_π1 − z_π3), π sorting the logits downwards.

    It changes neither with a shift nor with the scale of the logits.

    Args:
        label: the class, or one per target.

    Raises:
        InputError: as `cross_entropy`; against a model with fewer than 3 classes.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness (2020), equation 6.

    Example:
        >>> float(dlr(1)({"logits": jnp.array([0.0, 5.0, 3.0, 1.0])}, None))
        -0.5
    """
    top, order = jax.lax.top_k(logits, 3)
    other = jnp.where(order[0] == label, top[1], top[0])
    return (other - logits[label]) / (top[0] - top[2] + 1e-12)


@of_logits("class:{label}>class:{target}", classes=4, label=index, target=index)
def targeted_dlr(logits: Logits, label: Index, target: Index) -> Scalar:
    """The difference of logits ratio towards a target class: −(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2).

    Args:
        label: the true class, or one per target.
        target: the class to be reached, or one per target.

    Raises:
        InputError: as `cross_entropy`; against a model with fewer than 4 classes.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness (2020), equation 7.

    Example:
        >>> float(targeted_dlr(1, 2)({"logits": jnp.array([0.0, 5.0, 3.0, 2.0])}, None))
        -0.5
    """
    top = jax.lax.top_k(logits, 4)[0]
    return (logits[target] - logits[label]) / (top[0] - 0.5 * (top[2] + top[3]) + 1e-12)
