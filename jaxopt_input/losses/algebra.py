"""What a loss is, and how losses combine.

A loss maps one image's activations and the image to one number, which is minimized. Losses can be added, subtracted,
scaled, multiplied, divided and raised to a power: `-channel("block3", 12) + 1e-3 * total_variation()`. Any function of
`(activations, image)` is a loss as well. Builders return the published quantity; negate what is to be maximized.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import hashable_function
from jaxopt_input.errors import InputError, lookup
from jaxopt_input.targets import canonical, child, count, leaf, select, traced

STARTS = "starts"  # the name of the vmap axis along which losses compare the starts of one target

Activations = Mapping[str, jax.Array]
Shapes = Mapping[str, tuple[int, ...]]
Function = Callable[[Activations, jax.Array], jax.Array]


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
        self.resolve(shapes, None)

    def resolve(self, shapes: Shapes, image_shape: Sequence[int] | None) -> Loss:
        """This loss checked against a model, its layers read off where it is a plain function; as of `resolve`.

        Without an image shape, what is computed from the image itself is not checked.
        """
        if image_shape:
            check_value(self, shapes, image_shape)
        return self

    def name(self) -> str:
        """The canonical name of a loss of one target, such as "fire4:5"; "" for a regularizer."""
        return ""

    def __str__(self) -> str:
        return f"the loss {type(self).__name__}"

    def __neg__(self) -> Loss:
        return self * -1.0

    def __mul__(self, factor: Any) -> Loss:
        if callable(factor):
            return Combination(PRODUCT, (self, as_loss(factor)))
        weight = canonical(factor, 0, jnp.float32, "the weight of a loss")
        terms, weights = _terms(self)
        return Combination(SUM, terms, tuple(_array(w * weight) for w in weights))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Loss:
        if callable(divisor):
            return self * as_loss(divisor) ** -1.0
        return self * (1.0 / canonical(divisor, 0, jnp.float32, "the divisor of a loss"))

    def __pow__(self, exponent: Any) -> Loss:
        return Combination(POWER, (self,), (canonical(exponent, 0, jnp.float32, "the exponent of a loss"),))

    def __add__(self, other: Any) -> Loss:
        if isinstance(other, int | float) and other == 0:  # so that sum() of losses works
            return self * 1.0
        if not callable(other):
            raise InputError(f"to a loss another loss or a function of (activations, image) is added, not {other!r}")
        left, right = _terms(self), _terms(as_loss(other))
        return Combination(SUM, left[0] + right[0], left[1] + right[1])

    __radd__ = __add__

    def __sub__(self, other: Any) -> Loss:
        return self + (-as_loss(other) if callable(other) else other)

    def __rsub__(self, other: Any) -> Loss:
        return -self + other


def _array(value: Any) -> Any:
    """An array also of what NumPy made a scalar."""
    return value if isinstance(value, jax.Array) else np.asarray(value, np.float32)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the values of some losses become one."""

    # the values of the terms and the numbers → the value
    combine: Callable[[Sequence[jax.Array], Sequence[jax.Array]], jax.Array]
    mark: str  # between the names of the terms
    couples: bool = False  # whether it depends on which start of its target an image is


def _weighted_sum(values: Sequence[jax.Array], weights: Sequence[jax.Array]) -> jax.Array:
    weighted = [weight * value for weight, value in zip(weights, values, strict=True)]
    return jnp.sum(jnp.stack(weighted)) if len(weighted) > 1 else weighted[0]


def _product(values: Sequence[jax.Array], _: Sequence[jax.Array]) -> jax.Array:
    return functools.reduce(operator.mul, values)


def _power(values: Sequence[jax.Array], exponents: Sequence[jax.Array]) -> jax.Array:
    return values[0] ** exponents[0]


SUM, PRODUCT, POWER = Rule(_weighted_sum, "+"), Rule(_product, "*"), Rule(_power, "^")


@traced
class Combination(Loss):
    """What operators make of losses. Sums are flat: Σ number · term, each number one weight or one per target."""

    rule: Rule
    terms: tuple[Loss, ...] = child()
    numbers: tuple[Any, ...] = leaf(rank=0, default=())

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for term in self.terms for tap in term.taps))

    @property
    def couples(self) -> bool:
        return self.rule.couples or any(term.couples for term in self.terms)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return self.rule.combine([term(activations, image) for term in self.terms], self.numbers)

    def resolve(self, shapes: Shapes, image_shape: Sequence[int] | None) -> Loss:
        check_finite("the weight or exponent of a loss", *self.numbers)
        return dataclasses.replace(self, terms=tuple(term.resolve(shapes, image_shape) for term in self.terms))

    def name(self) -> str:
        parts = [name for term in self.terms if (name := term.name())]
        return self.rule.mark.join(dict.fromkeys(parts) if self.rule == SUM else parts)


def _terms(loss: Loss) -> tuple[tuple[Loss, ...], tuple[Any, ...]]:
    """The terms of a sum and their weights; any other loss is a sum of one term."""
    if isinstance(loss, Combination) and loss.rule == SUM:
        return loss.terms, loss.numbers
    return (loss,), (np.ones((), np.float32),)


@traced
class Plain(Loss):
    """A plain function as a loss; `layers` is None until the loss is resolved against a model."""

    function: Function
    among_starts: bool
    layers: tuple[str, ...] | None = None

    @property
    def taps(self) -> tuple[str, ...]:
        if self.layers is None:
            raise InputError(f"which layers {self} reads is not known before it meets a model: call losses.resolve")
        return self.layers

    @property
    def couples(self) -> bool:
        return self.among_starts

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        return jnp.asarray(self.function(activations, image), jnp.float32)

    def resolve(self, shapes: Shapes, image_shape: Sequence[int] | None) -> Plain:
        if image_shape is None:
            return self
        layers: dict[str, None] = {}

        def recorded(activations: Activations, image: jax.Array) -> jax.Array:
            return self.function(_Recorder(activations, layers), image)

        _check_number(_on_shapes(recorded, shapes, image_shape, self.couples), str(self))
        return Plain(self.function, self.among_starts, tuple(layer for layer in shapes if layer in layers))

    def name(self) -> str:
        return "" if self.layers == () else _function_name(self.function)

    def __str__(self) -> str:
        return f"the loss function {_function_name(self.function)!r}"


def _function_name(function: Callable[..., Any]) -> str:
    name = getattr(inspect.unwrap(getattr(function, "func", function)), "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else str(name)


class _Recorder(collections.UserDict[str, jax.Array]):
    """Activations that note which layers are asked for."""

    def __init__(self, activations: Activations, layers: dict[str, None]) -> None:
        super().__init__(activations)
        self.layers = layers

    def __getitem__(self, layer: str) -> jax.Array:
        activation = lookup("layer", layer, self.data)
        self.layers[layer] = None
        return activation

    def __iter__(self) -> Iterator[str]:
        self.layers.update(dict.fromkeys(self.data))
        return iter(self.data)


def as_loss(function: Loss | Function, *, couples: bool = False) -> Loss:
    """A loss of a function of (activations, image), which can then be added, scaled and multiplied.

    The layers that it reads are read off by tracing it on shapes. The function is static: it is compiled once per
    function object, so that one made anew for each call compiles anew.

    Args:
        function: maps `{layer: activation}`, without batch axis, and the image `[H, W, C]` to one real number. A loss
            is returned as it is.
        couples: whether the function compares the starts of a target, along the vmap axis named "starts".

    Raises:
        InputError: if it is no function of two arguments; against a model, if it returns anything but one real number
            or asks for a layer that does not exist.

    Example:
        >>> loss = 2.0 * as_loss(lambda activations, image: jnp.square(activations["a"]).mean())
        >>> float(loss({"a": jnp.array([1.0, 3.0])}, None))
        10.0
    """
    if isinstance(function, Loss):
        return function
    if not callable(function):
        raise InputError(
            f"a loss is built from jaxopt_input.losses or is a function of (activations, image), not {function!r}"
        )
    name = _function_name(function)
    if hasattr(function, "formula"):
        raise InputError(f"losses.{name} builds losses: call it first, as {name}{inspect.signature(function)}")
    if not hashable_function(function, 2):
        raise InputError(f"a loss function takes (activations, image) and is hashable, which {name!r} is not")
    return Plain(function, couples)


def resolve(loss: Loss | Function, shapes: Shapes, image_shape: Sequence[int]) -> Loss:
    """A loss of a loss or function, checked against a model before anything is compiled.

    Args:
        loss: a loss, or a function of (activations, image).
        shapes: the shape of each layer's activation of one image, as of `Model.layers`.
        image_shape: (height, width, channels) of the image that is optimized.

    Returns:
        A loss with the same values whose `taps` name what it reads.

    Raises:
        InputError: for what is no function, a layer or an index that does not exist (the nearest layers are named), an
            argument that does not fit its layer, or a loss that is not one real number.

    Example:
        >>> resolve(lambda activations, image: activations["a"].mean(), {"a": (4,), "b": (2,)}, (8, 8, 3)).taps
        ('a',)
    """
    return as_loss(loss).resolve(shapes, image_shape)


def _on_shapes(loss: Function, shapes: Shapes, image_shape: Sequence[int], couples: bool) -> Any:
    """What a loss or function returns, traced on shapes alone; those among starts see two."""
    lead = (2,) if couples else ()
    activations = {layer: jax.ShapeDtypeStruct(lead + tuple(shape), jnp.float32) for layer, shape in shapes.items()}
    image = jax.ShapeDtypeStruct(lead + tuple(image_shape), jnp.float32)
    returned = []

    def value(loss: Function, activations: Activations, image: jax.Array) -> jax.Array:
        result = loss(activations, image)
        number = isinstance(result, jax.Array | np.ndarray | np.generic | complex | float | int)
        returned.append(jax.typeof(jnp.asarray(result)) if number else result)
        return jnp.zeros(())

    # A loss is an argument, so that its arrays are shapes as well; a bare function is no pytree and is closed over.
    traced, *rest = (value, loss) if isinstance(loss, Loss) else (functools.partial(value, loss),)
    if couples:
        traced = jax.vmap(traced, in_axes=(*[None] * len(rest), 0, 0), axis_name=STARTS)
    try:
        jax.eval_shape(traced, *rest, activations, image)
    except NameError as error:
        if STARTS not in str(error) or couples:
            raise
        raise InputError(
            'a loss along the axis "starts" compares starts: say so with losses.as_loss(function, couples=True)'
        ) from error
    return returned[0]


def check_value(loss: Loss, shapes: Shapes, image_shape: Sequence[int]) -> None:
    """Raise an `InputError` unless a loss, whose arguments are checked, is one real number for each target."""
    own = {tap: shapes[tap] for tap in loss.taps}
    _check_number(_on_shapes(select(loss, 0), own, image_shape, loss.couples), str(loss))


def _check_number(value: Any, what: str) -> None:
    """Raise an `InputError` unless this is the type of one real number."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None:
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{what} returns {kind}: a loss is one real number, so end in a sum or a mean and return it")
    if shape != ():
        raise InputError(f"{what} returns an array of shape {shape}: a loss is one number, so end in a sum or a mean")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"{what} returns {dtype} numbers: a loss is a real number, such as float32")


def names(loss: Loss) -> tuple[str, ...]:
    """The canonical name of each target of a loss; "image" for one that reads no activation.

    A target's random numbers derive from this name alone, so that its images do not depend on which others are asked
    for, nor on weights and regularizers.

    Example:
        >>> import jaxopt_input as joi
        >>> names(-joi.losses.channel("fire4", [3, 5]) + joi.losses.l2_decay())
        ('fire4:3', 'fire4:5')
    """
    host = jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else np.asarray(x), loss)
    return tuple(select(host, target).name() or "image" for target in range(count(loss)))


def check_layer(layer: str, shapes: Shapes) -> tuple[int, ...]:
    """The shape of a layer's activation, or an `InputError` that offers the nearest names."""
    return lookup("layer", layer, shapes)


def check_finite(what: str, *values: Any) -> None:
    """Raise an `InputError` unless all numbers of these arrays are finite, as far as they are known."""
    for value in values:
        if not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
            raise InputError(f"{what} must be finite, not {np.asarray(value)}")
