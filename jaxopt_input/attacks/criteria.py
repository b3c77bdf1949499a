"""When an attack has succeeded: criteria of one image's logits, its label and its target.

A criterion of one's own is any function `(logits, label, target) -> bool` written in `jax.numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.checks import hashable_function
from jaxopt_input.errors import InputError
from jaxopt_input.targets import canonical, leaf, traced

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


@traced
class Criterion:
    """Success of one image: a function of its logits, label and target and of further numbers, which are traced."""

    function: Callable[..., jax.Array]
    numbers: tuple[Any, ...] = leaf(rank=0, default=())

    def __call__(
        self, logits: Float[Array, " classes"], label: Int[Array, ""], target: Int[Array, ""]
    ) -> Bool[Array, ""]:
        """Whether the logits of one image are a success; the target is the label where there is none."""
        return jnp.asarray(self.function(logits, label, target, *self.numbers), bool)


def misclassified() -> Criterion:
    """Any class but the true one is predicted.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(misclassified()(jnp.array([1.0, 2.0]), 0, 0))
        True
    """
    return Criterion(_misclassified)


def _misclassified(logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.argmax(logits) != label


def target() -> Criterion:
    """The target class is predicted.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(target()(jnp.array([1.0, 2.0]), 0, 1))
        True
    """
    return Criterion(_target)


def _target(logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.argmax(logits) == target


def confidence(least: Any) -> Criterion:
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
    return Criterion(_confidence, (number,))


def _confidence(logits: jax.Array, label: jax.Array, target: jax.Array, least: jax.Array) -> jax.Array:
    best = jnp.argmax(logits)
    sure = jax.nn.softmax(logits)[best] >= least
    return sure & (best != label) & ((target == label) | (best == target))


def top_k(k: Any) -> Criterion:
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
    return Criterion(_top_k, (number,))


def _top_k(logits: jax.Array, label: jax.Array, target: jax.Array, k: jax.Array) -> jax.Array:
    untargeted = jnp.sum(logits > logits[label]) >= k
    reached = jnp.sum(logits > logits[target]) < k
    return jnp.where(target == label, untargeted, reached)


def check_criterion(criterion: Criterion, classes: int) -> None:
    """Raise an `InputError` for a criterion that cannot be met, or does not return one truth value."""
    if criterion.function is _top_k and int(criterion.numbers[0]) >= classes:
        raise InputError(f"top_k takes less than the {classes} classes of the model, not {int(criterion.numbers[0])}")
    logits, index = jax.ShapeDtypeStruct((classes,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    shape = jax.eval_shape(criterion, logits, index, index).shape
    if shape != ():
        raise InputError(f"a criterion returns one truth value for one image's logits, not an array of shape {shape}")


def refuse_beyond_boundary(criterion: Criterion | Callable[..., Any] | None, attack: str) -> None:
    """Raise an `InputError` for a criterion that is met beyond the boundary, where an attack or a loss does not go."""
    if isinstance(criterion, Criterion) and criterion.function in (_confidence, _top_k):
        raise InputError(
            f"{attack} goes no further than a class's boundary, so it cannot serve the criterion "
            f"{criterion.function.__name__.strip('_')}: take pgd, apgd, ddn or fmn with another loss"
        )


def as_criterion(criterion: Criterion | Callable[..., Any] | None, targeted: bool) -> Criterion:
    """A criterion from one, from a function, or from None: the target where there is one, else misclassification.

    Raises:
        InputError: for anything else.

    Example:
        >>> import jax.numpy as jnp
        >>> positive = as_criterion(lambda logits, label, target: logits[1] > 0, targeted=False)
        >>> bool(positive(jnp.array([1.0, 2.0]), 0, 0))
        True
    """
    if criterion is None:
        return target() if targeted else misclassified()
    if isinstance(criterion, Criterion):
        return criterion
    if hashable_function(criterion, 3):
        return Criterion(criterion)
    raise InputError(
        f"a criterion comes from attacks.criteria or is a function of (logits, label, target), not {criterion!r}"
    )
