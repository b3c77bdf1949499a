"""What a loss is, and how losses add up.

A loss maps one image's activations and the image to one number, which is minimized. Losses form a vector space:
`-channel("block3", 12) + 1e-3 * total_variation()`. Builders return the published quantity; negate what is to be
maximized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import check_index as check_index
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.targets import canonical, child, count, leaf, select, traced

Activations = Mapping[str, jax.Array]
Shapes = Mapping[str, tuple[int, ...]]


class Loss:
    """One number from (activations, image); the base class of all losses. Use the builders of `jaxopt_input.losses`."""

    __array_ufunc__ = None  # lets `numpy_array * loss` reach __rmul__ instead of multiplying element by element

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers that this loss reads."""
        return ()

    @property
    def couples(self) -> bool:
        """Whether it compares the starts of a target, by the axis name "starts" of the vmap that it runs in."""
        return False

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        """The loss of one image.

        Args:
            activations: `{tap: activation}` without batch axis, at least for `taps`.
            image: `[H, W, C]` in [0, 1].
        """
        raise TypeError(f"{type(self).__name__} does not define a loss: derive from Loss and define __call__")

    def check(self, shapes: Shapes) -> None:
        """Raise an `InputError` if a layer or an index does not exist in a model with these layer shapes."""

    def name(self) -> str:
        """The canonical name of a loss of one target, such as "fire4:5"; "" for a regularizer."""
        return ""

    def __neg__(self) -> Sum:
        return self * -1.0

    def __mul__(self, factor: Any) -> Sum:
        weight = canonical(factor, 0, jnp.float32, "the weight of a loss")
        parts = list(zip(self.terms, self.weights, strict=True)) if isinstance(self, Sum) else [(self, np.float32(1))]
        return Sum(tuple(t for t, _ in parts), tuple(_array(w * weight) for _, w in parts))

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> Sum:
        return self * (1.0 / canonical(factor, 0, jnp.float32, "the divisor of a loss"))

    def __add__(self, other: Any) -> Sum:
        if not isinstance(other, Loss):
            if isinstance(other, int | float) and other == 0:  # so that sum() of losses works
                return self * 1.0
            raise InputError(f"a loss can be added to another loss only, not to {other!r}")
        left, right = self * 1.0, other * 1.0
        return Sum(left.terms + right.terms, left.weights + right.weights)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Sum:
        return self + -other


def _array(value: Any) -> Any:
    """An array also of what NumPy made a scalar."""
    return value if isinstance(value, jax.Array) else np.asarray(value, np.float32)


@traced
class Sum(Loss):
    """Σ weight · term, what `+`, `-` and `*` make: flat, one weight (or one a target) a term."""

    terms: tuple[Loss, ...] = child()
    weights: tuple[Any, ...] = leaf(rank=0)

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for term in self.terms for tap in term.taps))

    @property
    def couples(self) -> bool:
        return any(term.couples for term in self.terms)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        values = [weight * term(activations, image) for weight, term in zip(self.weights, self.terms, strict=True)]
        return jnp.sum(jnp.stack(values)) if len(values) > 1 else values[0]

    def check(self, shapes: Shapes) -> None:
        for term in self.terms:
            term.check(shapes)

    def name(self) -> str:
        return "+".join(dict.fromkeys(name for term in self.terms if (name := term.name())))


def names(loss: Loss) -> tuple[str, ...]:
    """The canonical name of each target of a loss; "image" for one that reads no activation.

    A target's random numbers derive from this name alone, so that its images do not depend on which others are asked
    for, nor on weights and regularizers.

    Example:
        >>> import jaxopt_input as joi
        >>> names(-joi.losses.channel("fire4", [3, 5]) + joi.losses.l2_decay())
        ('fire4:3', 'fire4:5')
    """
    host = jax.tree.map(np.asarray, loss)
    return tuple(select(host, target).name() or "image" for target in range(count(loss)))


def check_layer(layer: str, shapes: Shapes) -> tuple[int, ...]:
    """The shape of a layer's activation, or an `InputError` that offers the nearest names."""
    if layer not in shapes:
        raise unknown("layer", layer, shapes)
    return shapes[layer]
