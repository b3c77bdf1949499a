"""Receptive fields, read from the model itself: which pixels a unit sees.

The model is traced to a jaxpr, and one affine map is carried through it for each axis of the image: element i of an
array sees the pixels from `low + steps · i` up to `high + steps · i`. What a network lays around its maps (padding) is
counted as if the image went on there, so that all units of a layer have fields of one size. Primitives without a rule
are refused by name where the layer depends on them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxopt_input.errors import InputError, unknown
from jaxopt_input.models.jaxpr import called, evaluate, shape_of
from jaxopt_input.models.model import Model

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The pixels that the units of a layer see, each number for (rows, columns).

    The unit at (i, j) sees the rows from `offset[0] + i · stride[0]`, `size[0]` of them, and likewise the columns. A
    field that begins before 0 or ends beyond the image reaches into the padding.

    Attributes:
        size: in pixels.
        stride: pixels from one unit's field to the next one's; 0 where all units see the same.
        offset: the first pixel of unit 0; negative where the network pads.
    """

    size: Pair
    stride: Pair
    offset: Pair

    def begin(self, position: Sequence[int]) -> Pair:
        """The first row and column that the unit at (row, column) sees; negative in the padding.

        Example:
            >>> ReceptiveField((5, 5), (2, 2), (-1, -1)).begin((1, 2))
            (1, 3)
        """
        row, column = (o + int(i) * s for o, i, s in zip(self.offset, position, self.stride, strict=True))
        return row, column


def receptive_field(model: Model, layer: str, image_shape: tuple[int, int, int] | None = None) -> ReceptiveField:
    """The receptive field of a layer's units, found from the model's own computation.

    Exact for convolutions, pooling and all that works element by element. It is the whole image (stride 0) after a
    dense layer or a mean over the map, and also where such a number joins a map again (squeeze and excitation).
    Channels that see different pixels share the field that covers them all.

    Args:
        model: the network.
        layer: the tap.
        image_shape: (height, width, channels) to trace it at; the model's own if None. Sizes matter to the offset
            alone, and only under padding that depends on them ("SAME" with a stride).

    Raises:
        InputError: for an unknown layer, an image that the network cannot take, and a computation that no rule here
            covers, by the name of its primitive.

    Source:
        Araujo, Norris & Sim, Computing Receptive Fields of Convolutional Neural Networks (Distill, 2019), for the
        recurrence.

    Example:
        >>> import jaxopt_input as joi
        >>> def apply(params, image, taps):
        ...     conv = jax.lax.conv_general_dilated(image, params, (2, 2), "VALID",
        ...                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
        ...     return {"conv": conv, "logits": conv.mean((1, 2))}
        >>> model = joi.from_function(apply, jnp.ones((3, 3, 1, 2)), image_shape=(9, 9, 1), taps=("conv", "logits"))
        >>> receptive_field(model, "conv")
        ReceptiveField(size=(3, 3), stride=(2, 2), offset=(0, 0))
        >>> receptive_field(model, "logits")
        ReceptiveField(size=(9, 9), stride=(0, 0), offset=(0, 0))
    """
    shape = image_shape or model.info.image_shape
    if layer not in model.info.taps:
        raise unknown("layer", layer, model.info.taps)
    model.layers(shape)  # says what is wrong with an image that the network cannot take
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    closed = jax.make_jaxpr(lambda params, x: model.apply(params, x, (layer,))[layer])(model.params, image)
    rows, columns = (_along(closed, axis, shape[axis - 1], layer) for axis in (1, 2))
    size, stride, offset = zip(rows, columns, strict=True)
    return ReceptiveField(size, stride, offset)


@dataclasses.dataclass(frozen=True)
class _Field:
    """Along one axis of the image: element i of an array sees the pixels from `low + steps · i` to `high + steps · i`.

    A step of None says that elements along that axis of the array see different pixels within the bounds, unevenly.
    """

    steps: tuple[int | None, ...]
    low: float
    high: float

    def without(self, axes: Iterable[int], shape: Sequence[int]) -> _Field:
        """What the elements along these axes see together; their steps become 0."""
        reach = {axis: (self.steps[axis] or 0) * (shape[axis] - 1) for axis in axes}
        steps = tuple(0 if axis in reach else step for axis, step in enumerate(self.steps))
        low = self.low + sum(min(0, n) for n in reach.values())
        return _Field(steps, low, self.high + sum(max(0, n) for n in reach.values()))

    def window(self, axis: int, stride: int, first: int, last: int) -> _Field:
        """Element i along an axis now covers the elements from `stride · i + first` to `stride · i + last`."""
        step = self.steps[axis]
        if step is None:
            return self
        ends = step * first, step * last
        steps = (*self.steps[:axis], step * stride, *self.steps[axis + 1 :])
        return _Field(steps, self.low + min(ends), self.high + max(ends))

    def moved(self, steps: Iterable[int | None]) -> _Field:
        """The same bounds with other steps."""
        return _Field(tuple(steps), self.low, self.high)


@dataclasses.dataclass(frozen=True)
class _Refusal:
    """What depends on the image in a way that no rule covers: an error only where the layer needs it."""

    what: str


_Value = _Field | _Refusal | None  # None does not depend on the image
# Of an equation and what its operands see, none of them refused.
_Rule = Callable[[JaxprEqn, list[Any]], Sequence[_Value]]


def _along(closed: ClosedJaxpr, axis: int, side: int, layer: str) -> tuple[int, int, int]:
    """(size, stride, offset) along one axis of the image, of a function of (parameters, image)."""
    image = _Field(tuple(int(n == axis) for n in range(4)), 0, 1)
    arguments: list[_Value] = [*[None] * (len(closed.jaxpr.invars) - 1), image]
    field: _Value
    (field,) = evaluate(closed.jaxpr, [None] * len(closed.consts), arguments, _outputs, lambda _: None)
    shape, stride = closed.out_avals[0].shape, 0
    if isinstance(field, _Field):
        field = field.without([n for n in range(len(shape)) if n != axis or len(shape) != 4], shape)
        step = field.steps[axis] if len(shape) == 4 else 0
        if step is None or step < 0:
            field = _Refusal("units that do not follow the pixels evenly (upsampled or mirrored)")
        else:
            stride = step
    if field is None:
        raise InputError(f"layer {layer} does not depend on the image: it has no receptive field")
    if isinstance(field, _Refusal):
        raise InputError(f"the receptive field of layer {layer} is not known: there is no rule for {field.what}")
    low, high = (field.low, field.high) if stride else (max(field.low, 0), min(field.high, side))
    return int(high - low), stride, int(low)


def _outputs(equation: JaxprEqn, operands: list[_Value]) -> Sequence[_Value]:
    """What the outputs of one equation see."""
    name, count = equation.primitive.name, len(equation.outvars)
    if all(operand is None for operand in operands):
        return [None] * count
    if call := called(equation):
        return evaluate(call.jaxpr, [None] * len(call.consts), operands[call.skipped :], _outputs, lambda _: None)
    refused = next((operand for operand in operands if isinstance(operand, _Refusal)), None)
    if refused or name not in _RULES:
        return [refused or _Refusal(f"the primitive {name}")] * count
    return _RULES[name](equation, operands)


def _union(parts: Iterable[_Field | None], shape: Sequence[int], name: str) -> _Value:
    """What an element sees that is made of one element of each array."""
    fields = [field for field in parts if field is not None]
    steps: list[int | None] = []
    for axis, length in enumerate(shape):
        distinct = {field.steps[axis] for field in fields}
        if length == 1 or None in distinct:
            distinct -= {0}
        if 0 in distinct and len(distinct) > 1:  # a number that all units share joins a map
            return _Field((0,) * len(shape), -math.inf, math.inf)
        if len(distinct) > 1:
            return _Refusal(f"{name} of maps that lie differently over the image")
        steps.append(distinct.pop() if distinct else 0)
    return _Field(tuple(steps), min(field.low for field in fields), max(field.high for field in fields))


def _shape(equation: JaxprEqn, operand: int = 0) -> tuple[int, ...]:
    return shape_of(equation.invars[operand])


# ---- one rule for each primitive -------------------------------------------------------------------------------------


def _elementwise(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    shape = shape_of(equation.outvars[0])
    spread = []
    for n, field in enumerate(operands):
        own = _shape(equation, n) or (1,) * len(shape)  # an axis of length 1 is repeated: all see the same along it
        axes = zip(field.steps if field and field.steps else own, own, shape, strict=True)
        spread.append(field and field.moved(0 if length < side else step for step, length, side in axes))
    return [_union(spread, shape, equation.primitive.name)]


def _without(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    axes = equation.params["dimensions" if equation.primitive.name == "squeeze" else "axes"]
    field = operands[0].without(axes, _shape(equation))
    return [field.moved(step for n, step in enumerate(field.steps) if n not in axes)]


def _broadcast(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    shape, steps = equation.params["shape"], [0] * len(equation.params["shape"])
    axes = zip(operands[0].steps, _shape(equation), equation.params["broadcast_dimensions"], strict=True)
    for step, length, axis in axes:
        steps[axis] = step if length == shape[axis] else 0
    return [operands[0].moved(steps)]


def _transpose(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    return [operands[0].moved(operands[0].steps[n] for n in equation.params["permutation"])]


def _reverse(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    field = operands[0]
    for axis in equation.params["dimensions"]:
        last = _shape(equation)[axis] - 1
        field = field.window(axis, -1, last, last)
    return [field]


def _slice(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    field, begin = operands[0], equation.params["start_indices"]
    for axis, (first, stride) in enumerate(zip(begin, equation.params["strides"] or [1] * len(begin), strict=True)):
        field = field.window(axis, stride, first, first)
    return [field]


def _split(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    axis, parts, begin = equation.params["axis"], [], 0
    for size in equation.params["sizes"]:
        parts.append(operands[0].window(axis, 1, begin, begin))
        begin += size
    return list(parts)


def _take(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    """`dynamic_slice` and `gather`: known where each takes maps as they are, some of their channels."""
    field, sizes = operands[0], equation.params["slice_sizes"]
    axes = range(len(sizes))
    whole = [axis for axis in axes if sizes[axis] == _shape(equation)[axis]]
    if any(operands[1:]) or any(field.steps[axis] != 0 for axis in axes if axis not in whole):
        return [_Refusal(f"{equation.primitive.name} of a part of a map")]
    if equation.primitive.name == "dynamic_slice":
        return [field]
    numbers, steps = equation.params["dimension_numbers"], [0] * len(shape_of(equation.outvars[0]))
    left = [axis for axis in axes if axis not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    for axis, place in zip(left, numbers.offset_dims, strict=True):
        steps[place] = field.steps[axis]
    return [field.moved(steps)]


def _pad(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    field = operands[0]
    if field is None or operands[1] is not None:
        return [_Refusal("pad with a number that depends on the image")]
    for axis, (before, _, between) in enumerate(equation.params["padding_config"]):
        if between and field.steps[axis] != 0:
            return [_Refusal("pad between the elements of a map")]
        field = field.window(axis, 1, -before, -before)
    return [field]


def _concatenate(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    axis, begin, parts = equation.params["dimension"], 0, []
    for n, field in enumerate(operands):
        parts.append(field and field.window(axis, 1, -begin, -begin))
        begin += _shape(equation, n)[axis]
    distinct = {field for field in parts if field}
    if len(distinct) > 1 and any(field.steps[axis] != 0 for field in distinct):
        return [_Refusal("concatenate of different parts along a map")]
    return [_union(parts, shape_of(equation.outvars[0]), "concatenate")]


def _reshape(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    """Each run of axes becomes another run of as many elements, known where what they see goes by their number."""
    field, old, new = operands[0], _shape(equation), equation.params["new_sizes"]
    if equation.params["dimensions"] is not None:
        return [_Refusal("a reshape in another order")]
    steps: list[int | None] = [0] * len(new)
    for before, after in _runs(old, new):
        pace = field.steps[before[-1]]
        even = pace is not None and all(field.steps[n] == pace * p for n, p in _pitches(old, before))
        field = field if even else field.without(before, old)
        for n, pitch in _pitches(new, after):
            steps[n] = pace * pitch if even else None
    return [field.moved(steps)]


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes of equal products, axes of length 1 left out."""
    left, right = ([axis for axis, n in enumerate(shape) if n != 1] for shape in (old, new))
    runs: list[tuple[list[int], list[int]]] = []
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[n] for n in before)) != (b := math.prod(new[n] for n in after)):
            before, after = ([*before, left.pop(0)], after) if a < b else (before, [*after, right.pop(0)])
        runs.append((before, after))
    return runs


def _pitches(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[int, int]]:
    """Each axis of a run and how many elements of the run one step along it passes."""
    return [(axis, math.prod(shape[n] for n in axes[k + 1 :])) for k, axis in enumerate(axes)]


def _convolution(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if operands[1] is not None:
        return [_Refusal("a convolution whose kernel depends on the image")]
    if any(n != 1 for n in params["lhs_dilation"]):
        return [_Refusal("a transposed convolution")]
    batch, feature, *spatial = numbers.lhs_spec
    field = operands[0].without([feature], _shape(equation))
    kernel = [_shape(equation, 1)[n] for n in numbers.rhs_spec[2:]]
    steps = [0] * len(numbers.out_spec)
    steps[numbers.out_spec[0]] = field.steps[batch]
    windows = zip(spatial, params["window_strides"], params["padding"], kernel, params["rhs_dilation"], strict=True)
    for n, (axis, stride, (before, _), size, dilation) in enumerate(windows):
        field = field.window(axis, stride, -before, (size - 1) * dilation - before)
        steps[numbers.out_spec[2 + n]] = field.steps[axis]
    return [field.moved(steps)]


def _reduce_window(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    names = ("window_strides", "padding", "window_dimensions", "window_dilation", "base_dilation")
    fields = []
    for field in operands[: len(equation.outvars)]:
        for axis, (stride, (before, _), size, dilation, base) in enumerate(
            zip(*(equation.params[name] for name in names), strict=True)
        ):
            if base != 1 and field.steps[axis] != 0:
                return [_Refusal("reduce_window with a base dilation")] * len(equation.outvars)
            field = field.window(axis, stride, -before, (size - 1) * dilation - before)
        fields.append(field)
    return fields


def _dot(equation: JaxprEqn, operands: list[Any]) -> list[_Value]:
    shape, parts = shape_of(equation.outvars[0]), []
    contracted, batch = equation.params["dimension_numbers"]
    free_before = len(batch[0])
    for side, field in enumerate(operands):
        rank = len(_shape(equation, side))
        free = [n for n in range(rank) if n not in contracted[side] and n not in batch[side]]
        if field is not None:
            field = field.without(contracted[side], _shape(equation, side))
            steps = [0] * len(shape)
            places = [*range(len(batch[side])), *range(free_before, free_before + len(free))]
            for n, place in zip([*batch[side], *free], places, strict=True):
                steps[place] = field.steps[n]
            parts.append(field.moved(steps))
        free_before += len(free)
    return [_union(parts, shape, "dot_general")]


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos "
    "cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p "
    "logistic lt max min mul name ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh "
    "sqrt square stop_gradient sub tan tanh xor"
)
_RULES: dict[str, _Rule] = {
    name: rule
    for names, rule in (
        (_ELEMENTWISE, _elementwise),
        ("optimization_barrier device_put sharding_constraint", lambda _, operands: operands),
        ("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin squeeze", _without),
        ("reduce_window reduce_window_max reduce_window_min reduce_window_sum", _reduce_window),
        ("dynamic_slice gather", _take),
        ("broadcast_in_dim", _broadcast),
        ("concatenate", _concatenate),
        ("conv_general_dilated", _convolution),
        ("dot_general", _dot),
        ("pad", _pad),
        ("reshape", _reshape),
        ("rev", _reverse),
        ("slice", _slice),
        ("split", _split),
        ("transpose", _transpose),
    )
    for name in names.split()
}
