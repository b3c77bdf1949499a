"""When an attack has succeeded: criteria of one image's logits, its label and its target.

A criterion is a pytree whose numbers are traced; a user's own is any function `(logits, label, target) -> bool` written
in `jax.numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.errors import InputError
from jaxopt_input.targets import canonical, leaf, traced


class Criterion:
    """Success of one image; the base class of all criteria."""

    def __call__(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        """Whether these logits `[classes]` are a success.

        Args:
            logits: of one image.
            label: its true class.
            target: the class that it is to get; the label itself where there is no target.
        """
        raise TypeError(f"{type(self).__name__} does not define a criterion: derive from Criterion, define __call__")


@traced
class Misclassified(Criterion):
    """See `misclassified`."""

    def __call__(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.argmax(logits) != label


def misclassified() -> Misclassified:
    """Any class but the true one is predicted.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(misclassified()(jnp.array([1.0, 2.0]), 0, 0))
        True
    """
    return Misclassified()


@traced
class Target(Criterion):
    """See `target`."""

    def __call__(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.argmax(logits) == target


def target() -> Target:
    """The target class is predicted.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(target()(jnp.array([1.0, 2.0]), 0, 1))
        True
    """
    return Target()


@traced
class Confidence(Criterion):
    """See `confidence`."""

    least: Any = leaf(rank=0)

    def __call__(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        best = jnp.argmax(logits)
        sure = jax.nn.softmax(logits)[best] >= self.least
        return sure & (best != label) & ((target == label) | (best == target))


def confidence(least: Any) -> Confidence:
    """Another class than the true one, the target if there is one, is predicted with at least this probability.

    Args:
        least: from 0 to 1.

    Raises:
        InputError: for another number.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(confidence(0.9)(jnp.array([1.0, 2.0]), 0, 0))  # the other class has .73
        False
    """
    number = canonical(least, 0, jnp.float32, "confidence")
    if number.ndim or not 0 <= number <= 1:
        raise InputError(f"a confidence is a probability from 0 to 1, not {least!r}")
    return Confidence(number)


@traced
class TopK(Criterion):
    """See `top_k`."""

    k: Any = leaf(rank=0)

    def __call__(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        untargeted = jnp.sum(logits > logits[label]) >= self.k
        reached = jnp.sum(logits > logits[target]) < self.k
        return jnp.where(target == label, untargeted, reached)


def top_k(k: Any) -> TopK:
    """The true class is not among the k largest logits; with a target, the target is.

    Args:
        k: at least 1.

    Raises:
        InputError: for another number.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(top_k(2)(jnp.array([0.0, 3.0, 2.0, 1.0]), 2, 2)), bool(top_k(2)(jnp.array([0.0, 3.0, 2.0]), 0, 0))
        (False, True)
    """
    number = canonical(k, 0, jnp.int32, "k")
    if number.ndim or number < 1:
        raise InputError(f"top_k takes a whole number, at least 1, not {k!r}")
    return TopK(number)


@traced
class Own(Criterion):
    """A user's function as a criterion."""

    function: Callable[..., Any]

    def __call__(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.asarray(self.function(logits, label, target), bool)


def check_criterion(criterion: Criterion, classes: int) -> None:
    """Raise an `InputError` for a criterion that cannot be met, or does not return one truth value."""
    if isinstance(criterion, TopK) and int(criterion.k) >= classes:
        raise InputError(f"top_k takes less than the {classes} classes of the model, not {int(criterion.k)}")
    logits, index = jax.ShapeDtypeStruct((classes,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    shape = jax.eval_shape(criterion, logits, index, index).shape
    if shape != ():
        raise InputError(f"a criterion returns one truth value for one image's logits, not an array of shape {shape}")


def refuse_beyond_boundary(criterion: Any, attack: str) -> None:
    """Raise an `InputError` for a criterion that is met beyond the boundary, where an attack or a loss does not go."""
    if isinstance(criterion, (Confidence, TopK)):
        raise InputError(
            f"{attack} goes no further than a class's boundary, so it cannot serve the criterion "
            f"{type(criterion).__name__.lower()}: take pgd, apgd, ddn or fmn with another loss"
        )


def as_criterion(what: Any, targeted: bool) -> Criterion:
    """A criterion from one, from a function, or from None: the target where there is one, else misclassification.

    Raises:
        InputError: for anything else.
    """
    if what is None:
        return target() if targeted else misclassified()
    if isinstance(what, Criterion):
        return what
    if callable(what):
        return Own(what)
    raise InputError(
        f"a criterion comes from attacks.criteria or is a function of (logits, label, target), not {what!r}"
    )
