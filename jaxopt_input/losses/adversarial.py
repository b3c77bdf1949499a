"""Losses of adversarial search: what a class's logit leads by, in several scales. Builders return the quantity.

`cross_entropy`, `dlr` and `margin` of the true label rise as an image becomes adversarial; `carlini_wagner` falls to
zero. Each leaf may hold one label a target, as everywhere.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.errors import InputError
from jaxopt_input.losses.activation import ClassLogit
from jaxopt_input.losses.algebra import Activations, Shapes, check_index, check_layer
from jaxopt_input.targets import canonical, leaf, traced


def best_other(logits: jax.Array, index: jax.Array) -> jax.Array:
    """The largest logit of the other classes than `index`."""
    return jnp.where(jnp.arange(logits.shape[-1]) == index, -jnp.inf, logits).max(-1)


def _needs(least: int, what: str, shapes: Shapes) -> None:
    classes = check_layer("logits", shapes)[-1]
    if classes < least:
        raise InputError(f"{what} needs at least {least} classes, the model has {classes}: take the margin instead")


@traced
class CrossEntropy(ClassLogit):
    """See `cross_entropy`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        logits = self.read(activations)
        return jax.nn.logsumexp(logits) - logits[self.index]


def cross_entropy(label: Any) -> CrossEntropy:
    """Minus the logarithm of a class's probability, from the logits: log Σ exp z_i − z_y.

    Args:
        label: the class, or one a target.

    Raises:
        InputError: if it is no integer; against a model, also if there is no such class.

    Source:
        Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples (2015).

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(cross_entropy(1)({"logits": jnp.array([2.0, 2.0])}, None)), 4)
        0.6931
    """
    return CrossEntropy(canonical(label, 0, jnp.int32, "label"))


@traced
class Margin(ClassLogit):
    """See `margin`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        logits = self.read(activations)
        return best_other(logits, self.index) - logits[self.index]

    def check(self, shapes: Shapes) -> None:
        _needs(2, "the margin", shapes)
        super().check(shapes)


def margin(label: Any) -> Margin:
    """What the best other class leads a class by: max_{i≠y} z_i − z_y, positive where the image is misclassified.

    Args:
        label: the class, or one a target.

    Raises:
        InputError: as `cross_entropy`; against a model with one class.

    Source:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks (2017), its difference of logits.

    Example:
        >>> import jax.numpy as jnp
        >>> float(margin(1)({"logits": jnp.array([0.0, 5.0, 3.0])}, None))
        -2.0
    """
    return Margin(canonical(label, 0, jnp.int32, "label"))


@traced
class CarliniWagner(ClassLogit):
    """See `carlini_wagner`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"
    confidence: Any = leaf(rank=0, default=0.0)
    targeted: bool = False

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        logits = self.read(activations)
        lead = logits[self.index] - best_other(logits, self.index)
        return jnp.maximum((-lead if self.targeted else lead) + self.confidence, 0.0)

    def check(self, shapes: Shapes) -> None:
        _needs(2, "the Carlini-Wagner loss", shapes)
        super().check(shapes)


def carlini_wagner(label: Any, confidence: Any = 0.0, *, targeted: bool = False) -> CarliniWagner:
    """max(z_y − max_{i≠y} z_i + κ, 0): zero once another class leads by κ; with `targeted`, once this class does.

    Args:
        label: the true class, or the target class, or one a target.
        confidence: κ, at least 0.
        targeted: whether the class is to be reached instead of left.

    Raises:
        InputError: as `margin`; for a negative confidence.

    Source:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks (2017), f₆.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = {"logits": jnp.array([0.0, 5.0, 3.0])}
        >>> float(carlini_wagner(1)(logits, None)), float(carlini_wagner(1, 3.0, targeted=True)(logits, None))
        (2.0, 1.0)
    """
    kappa = canonical(confidence, 0, jnp.float32, "confidence")
    if not isinstance(kappa, jax.core.Tracer) and not (kappa >= 0).all():
        raise InputError(f"a confidence is at least 0, not {confidence!r}")
    return CarliniWagner(canonical(label, 0, jnp.int32, "label"), confidence=kappa, targeted=bool(targeted))


@traced
class DLR(ClassLogit):
    """See `dlr`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        logits = self.read(activations)
        top, order = jax.lax.top_k(logits, 3)
        other = jnp.where(order[0] == self.index, top[1], top[0])
        return (other - logits[self.index]) / (top[0] - top[2] + 1e-12)

    def check(self, shapes: Shapes) -> None:
        _needs(3, "the DLR loss", shapes)
        super().check(shapes)


def dlr(label: Any) -> DLR:
    """The difference of logits ratio: −(z_y − max_{i≠y} z_i) / (z_π1 − z_π3), π sorting the logits downwards.

    It changes neither with a shift nor with the scale of the logits.

    Args:
        label: the class, or one a target.

    Raises:
        InputError: as `cross_entropy`; against a model with fewer than 3 classes.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness (2020), equation 6.

    Example:
        >>> import jax.numpy as jnp
        >>> float(dlr(1)({"logits": jnp.array([0.0, 5.0, 3.0, 1.0])}, None))
        -0.5
    """
    return DLR(canonical(label, 0, jnp.int32, "label"))


@traced
class TargetedDLR(ClassLogit):
    """See `targeted_dlr`."""

    index: Any = leaf(rank=0)
    layer: str = "logits"
    target: Any = leaf(rank=0, default=0)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        logits = self.read(activations)
        top = jax.lax.top_k(logits, 4)[0]
        return (logits[self.target] - logits[self.index]) / (top[0] - 0.5 * (top[2] + top[3]) + 1e-12)

    def check(self, shapes: Shapes) -> None:
        _needs(4, "the targeted DLR loss", shapes)
        super().check(shapes)
        check_index("target", self.target, check_layer(self.layer, shapes)[-1], "the model")

    def name(self) -> str:
        return f"class:{int(self.index)}>class:{int(self.target)}"


def targeted_dlr(label: Any, target: Any) -> TargetedDLR:
    """The difference of logits ratio towards a target class: −(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2).

    Args:
        label: the true class, or one a target.
        target: the class to be reached, or one a target.

    Raises:
        InputError: as `cross_entropy`; against a model with fewer than 4 classes.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness (2020), equation 7.

    Example:
        >>> import jax.numpy as jnp
        >>> float(targeted_dlr(1, 2)({"logits": jnp.array([0.0, 5.0, 3.0, 2.0])}, None))
        -0.5
    """
    return TargetedDLR(canonical(label, 0, jnp.int32, "label"), target=canonical(target, 0, jnp.int32, "target"))
