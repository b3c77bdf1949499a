"""The work of a network's gradient, counted from the shapes of its layers.

    function ─make_jaxpr─► equations ─which depend on the image? which are needed?─► products ─► multiply-adds, bytes

Only matrix products and convolutions count. The gradient by the image takes one more product for each of their operands
that depends on the image, as large as the product itself. Where an operation has several forms for several platforms
the plain one is counted, so that the count is the same everywhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxopt_input.models.jaxpr import bodies, called, shape_of, variables


@dataclasses.dataclass(frozen=True)
class Work:
    """What a computation takes at least."""

    flops: int  # floating-point operations, two for each multiply-add
    bytes: int  # what is moved if each product reads its operands and writes its result once

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: int) -> Work:
        """So many times the work."""
        return Work(count * self.flops, count * self.bytes)


def gradient_work(function: Callable[[Any, Any], Any], params: Any, image: Any) -> Work:
    """The work of a function and of its gradient by the image.

    Multiply-adds with the zeros of padding count, as in published figures; those with the zeros between the pixels of a
    transposed convolution do not. The body of a `while` loop counts once, of a `scan` as often as it runs; of the
    branches of a `cond` the longest counts.

    Args:
        function: of (params, image).
        params: any pytree of arrays, or of their shapes.
        image: an array, or its shape.

    Example:
        >>> import jax.numpy as jnp
        >>> gradient_work(lambda w, x: (x @ w).sum(), jnp.ones((64, 10)), jnp.ones((8, 64)))
        Work(flops=20480, bytes=9856)
    """
    closed = jax.make_jaxpr(function)(params, image)
    images = len(jax.tree.leaves(image))
    depends = [False] * (len(closed.jaxpr.invars) - images) + [True] * images
    return _walk(closed.jaxpr, depends, [True] * len(closed.jaxpr.outvars))[0]


def _walk(jaxpr: Jaxpr, depends: Sequence[bool], requests: Sequence[bool]) -> tuple[Work, list[bool]]:
    """The work of what the requested outputs need, and which inputs those are; `depends` says which hold the image."""
    image = {var for var, yes in zip(jaxpr.invars, depends, strict=True) if yes}
    for equation in jaxpr.eqns:
        if any(var in image for var in variables(equation.invars)):
            image.update(equation.outvars)
    needed = {var for var, yes in zip(jaxpr.outvars, requests, strict=True) if yes and not isinstance(var, Literal)}
    total = Work(0, 0)
    for equation in reversed(jaxpr.eqns):
        requests = [var in needed for var in equation.outvars]
        if any(requests):
            dependence = [not isinstance(atom, Literal) and atom in image for atom in equation.invars]
            work, reads = _equation(equation, dependence, requests)
            total += work
            needed.update(variables(atom for atom, yes in zip(equation.invars, reads, strict=True) if yes))
    return total, [var in needed for var in jaxpr.invars]


def _equation(equation: JaxprEqn, dependence: list[bool], requests: list[bool]) -> tuple[Work, list[bool]]:
    """The work of one equation with its gradient, and which of its operands it reads."""
    name, everything = equation.primitive.name, [True] * len(dependence)
    if name in ("dot_general", "conv_general_dilated"):
        count = _dot(equation) if name == "dot_general" else _conv(equation)
        arrays: tuple[Any, ...] = (*equation.invars, *equation.outvars)
        moved = sum(math.prod(shape_of(atom)) * atom.aval.dtype.itemsize for atom in arrays)
        return Work(2 * count, moved).times(1 + sum(dependence)), everything
    if call := called(equation):
        work, reads = _walk(call.jaxpr, dependence[call.skipped :], requests)
        return work, [False] * call.skipped + reads
    inside = bodies(equation)
    if name in ("scan", "while"):
        skipped, consts, carried = _loop(equation, inside[-1])
        state = [any(dependence)] * carried  # what one step makes dependent, the next one reads
        depends = dependence[skipped : skipped + consts] + state + dependence[skipped + consts + carried :]
        work, _ = _walk(inside[-1], depends, [True] * len(inside[-1].outvars))
        return work.times(equation.params.get("length", 1)), everything
    if name == "cond":
        works = [_walk(body, dependence[1:], requests)[0] for body in inside]
        return max(works, key=lambda work: work.flops), everything
    if len(inside) == 1 and len(inside[0].invars) == len(dependence) and len(inside[0].outvars) == len(requests):
        return _walk(inside[0], dependence, requests)  # a call of a kind unknown here
    works = [_walk(body, [any(dependence)] * len(body.invars), [True] * len(body.outvars))[0] for body in inside]
    return sum(works, Work(0, 0)), everything


def _loop(equation: JaxprEqn, body: Jaxpr) -> tuple[int, int, int]:
    """How many operands of a loop its body does not see, how many it only reads, and how many it carries on."""
    if equation.primitive.name == "while":
        skipped, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        return skipped, consts, len(equation.invars) - skipped - consts

    def whole(outside: Any, within: Any) -> int:  # the others are stacked: one at a time is inside
        return sum(a.aval.shape == b.aval.shape for a, b in zip(outside, within, strict=True))

    # Told by their shapes, for versions of JAX name their numbers differently.
    carried = whole(equation.outvars, body.outvars)
    return 0, whole(equation.invars, body.invars) - carried, carried


def _dot(equation: JaxprEqn) -> int:
    """The multiply-adds of a `dot_general`: results times the contracted length."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = shape_of(equation.invars[0])
    return math.prod(shape_of(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)


def _conv(equation: JaxprEqn) -> int:
    """The multiply-adds of a convolution: results times the kernel's; from the pixels' side where it is transposed."""
    left, right, out = map(shape_of, (*equation.invars, *equation.outvars))
    numbers = equation.params["dimension_numbers"]
    features, channels, *window = (right[axis] for axis in numbers.rhs_spec)
    if math.prod(equation.params["lhs_dilation"]) > 1:
        batch, _, *pixels = (left[axis] for axis in numbers.lhs_spec)
        return batch * math.prod(pixels) * math.prod(window) * channels * features
    return math.prod(out) * math.prod(window) * channels
