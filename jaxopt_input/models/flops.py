"""The work of a network's gradient, counted from the shapes of its layers.

    function ─make_jaxpr─► equations ─which depend on the image? which are needed?─► products ─► multiply-adds, bytes

Only matrix products and convolutions count. The gradient by the image takes one more product for each of their operands
that depends on the image, as large as the product itself. Our own networks are counted in their plain form, so the
count is the same in whatever form a back end computes them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxopt_input.kernels import conv as ops


@dataclasses.dataclass(frozen=True)
class Work:
    """What a computation takes at least.

    Attributes:
        flops: floating-point operations, two a multiply-add.
        bytes: what is moved if each product reads its operands and writes its result once.
    """

    flops: int
    bytes: int

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
    with ops.plain():  # of a new function, for what JAX has traced before it would not trace again
        closed = jax.make_jaxpr(lambda params, image: function(params, image))(params, image)
    images = len(jax.tree.leaves(image))
    depends = [False] * (len(closed.jaxpr.invars) - images) + [True] * images
    return _walk(closed.jaxpr, depends, [True] * len(closed.jaxpr.outvars))[0]


def _walk(jaxpr: Jaxpr, depends: Sequence[bool], wanted: Sequence[bool]) -> tuple[Work, list[bool]]:
    """The work of what the wanted outputs need, and which inputs those are; `depends` says which hold the image."""
    image = {var for var, yes in zip(jaxpr.invars, depends, strict=True) if yes}
    for equation in jaxpr.eqns:
        if any(var in image for var in _variables(equation.invars)):
            image.update(equation.outvars)
    needed = {var for var, yes in zip(jaxpr.outvars, wanted, strict=True) if yes and not isinstance(var, Literal)}
    total = Work(0, 0)
    for equation in reversed(jaxpr.eqns):
        asked = [var in needed for var in equation.outvars]
        if any(asked):
            held = [not isinstance(atom, Literal) and atom in image for atom in equation.invars]
            work, reads = _equation(equation, held, asked)
            total += work
            needed.update(_variables(atom for atom, yes in zip(equation.invars, reads, strict=True) if yes))
    return total, [var in needed for var in jaxpr.invars]


def _variables(atoms: Any) -> Iterator[Any]:
    return (atom for atom in atoms if not isinstance(atom, Literal))


def _equation(equation: Any, held: list[bool], asked: list[bool]) -> tuple[Work, list[bool]]:
    """The work of one equation with its gradient, and which of its operands it reads."""
    name, everything = equation.primitive.name, [True] * len(held)
    if name in ("dot_general", "conv_general_dilated"):
        count = _dot(equation) if name == "dot_general" else _conv(equation)
        arrays = (*equation.invars, *equation.outvars)
        moved = sum(math.prod(atom.aval.shape) * atom.aval.dtype.itemsize for atom in arrays)
        return Work(2 * count, moved).times(1 + sum(held)), everything
    bodies = inside(equation)
    if name in ("scan", "while"):
        skipped, consts, carried = _loop(equation, bodies[-1])
        state = [any(held)] * carried  # what one step makes dependent, the next one reads
        known = held[skipped : skipped + consts] + state + held[skipped + consts + carried :]
        work, _ = _walk(bodies[-1], known, [True] * len(bodies[-1].outvars))
        return work.times(equation.params.get("length", 1)), everything
    if name == "cond":
        works = [_walk(body, held[1:], asked)[0] for body in bodies]
        return max(works, key=lambda work: work.flops), everything
    if len(bodies) == 1 and len(bodies[0].invars) == len(held) and len(bodies[0].outvars) == len(asked):
        return _walk(bodies[0], held, asked)  # a call: jit, checkpoint, custom_vjp
    works = [_walk(body, [any(held)] * len(body.invars), [True] * len(body.outvars))[0] for body in bodies]
    return sum(works, Work(0, 0)), everything


def _loop(equation: Any, body: Jaxpr) -> tuple[int, int, int]:
    """How many operands of a loop its body does not see, how many it only reads, and how many it carries on."""
    if equation.primitive.name == "while":
        skipped, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        return skipped, consts, len(equation.invars) - skipped - consts

    def whole(outside: Any, within: Any) -> int:  # the others are stacked: one at a time is inside
        return sum(a.aval.shape == b.aval.shape for a, b in zip(outside, within, strict=True))

    # Told by their shapes, for versions of JAX name their numbers differently.
    carried = whole(equation.outvars, body.outvars)
    return 0, whole(equation.invars, body.invars) - carried, carried


def inside(equation: Any) -> list[Jaxpr]:
    """The bodies of an equation: of a call one, of a loop or a branch several, else none.

    Example:
        >>> loop = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: 2 * x, x))(1.0).eqns[0]
        >>> [[equation.primitive.name for equation in body.eqns] for body in inside(loop)]
        [['add', 'mul']]
    """
    several = (value if isinstance(value, tuple | list) else (value,) for value in equation.params.values())
    found = [one.jaxpr if isinstance(one, ClosedJaxpr) else one for values in several for one in values]
    return [one for one in found if isinstance(one, Jaxpr)]


def _dot(equation: Any) -> int:
    """The multiply-adds of a `dot_general`: results times the contracted length."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _conv(equation: Any) -> int:
    """The multiply-adds of a convolution: results times the kernel's; from the pixels' side where it is transposed."""
    left, right, out = (atom.aval.shape for atom in (*equation.invars, *equation.outvars))
    numbers = equation.params["dimension_numbers"]
    features, channels, *window = (right[axis] for axis in numbers.rhs_spec)
    if math.prod(equation.params["lhs_dilation"]) > 1:
        batch, _, *pixels = (left[axis] for axis in numbers.lhs_spec)
        return batch * math.prod(pixels) * math.prod(window) * channels * features
    return math.prod(out) * math.prod(window) * channels
