"""The walk over a network's equations that receptive fields, counts of work, redirected ReLUs and examinations share.

JAX traces a function to a jaxpr: a list of equations, some of which call functions with equations of their own. Here is
what all readers of such lists need to know of calls, loops and branches; what each of them does with an equation is a
rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Value = TypeVar("Value")
CALLS = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call")
)


class Call(NamedTuple):
    """A function that an equation calls once, on all of its operands but the first `skipped`."""

    jaxpr: Jaxpr
    consts: Sequence[Any]
    skipped: int = 0


def called(equation: JaxprEqn) -> Call | None:
    """What an equation calls; None for an operation, a loop and a branch that depends on numbers.

    Of a branch that depends on the platform (`jax.lax.platform_dependent`) it is the form for all other platforms: the
    plain one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outer = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + 1)(1.0)
        >>> [called(equation) is not None for equation in outer.eqns]
        [True, False]
    """
    name, params = equation.primitive.name, equation.params
    if name == "cond" and params.get("branches_platforms"):
        platforms = params["branches_platforms"]
        plain = platforms.index(None) if None in platforms else len(platforms) - 1
        return _call(params["branches"][plain], skipped=1)
    if name in CALLS:
        return _call(next(value for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr)))
    return None


def _call(body: ClosedJaxpr | Jaxpr, skipped: int = 0) -> Call:
    return Call(body.jaxpr, body.consts, skipped) if isinstance(body, ClosedJaxpr) else Call(body, (), skipped)


def bodies(equation: JaxprEqn) -> list[Jaxpr]:
    """All functions inside an equation: of a call one, of a loop or a branch several, else none.

    Example:
        >>> import jax
        >>> loop = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: 2 * x, x))(1.0).eqns[0]
        >>> [[equation.primitive.name for equation in body.eqns] for body in bodies(loop)]
        [['add', 'mul']]
    """
    several = (value if isinstance(value, tuple | list) else (value,) for value in equation.params.values())
    inside = [part.jaxpr if isinstance(part, ClosedJaxpr) else part for values in several for part in values]
    return [part for part in inside if isinstance(part, Jaxpr)]


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations, also within calls, loops and branches.

    Example:
        >>> import jax
        >>> outer = jax.make_jaxpr(jax.jit(lambda x: x * x + 1))(1.0)
        >>> [equation.primitive.name for equation in equations(outer.jaxpr)]
        ['jit', 'mul', 'add']
    """
    for equation in jaxpr.eqns:
        yield equation
        for body in bodies(equation):
            yield from equations(body)


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of an operand or a result of an equation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> shape_of(jax.make_jaxpr(jnp.sum)(jnp.ones((2, 3))).eqns[0].invars[0])
        (2, 3)
    """
    return tuple(atom.aval.shape)


def variables(atoms: Iterable[Any]) -> Iterator[Var]:
    """Those atoms that are variables, not literal numbers."""
    return (atom for atom in atoms if not isinstance(atom, Literal))


def evaluate(
    jaxpr: Jaxpr,
    consts: Iterable[Value],
    arguments: Iterable[Value],
    rule: Callable[[JaxprEqn, list[Value]], Sequence[Value]],
    literal: Callable[[Any], Value] = lambda value: value,
) -> list[Value]:
    """The outputs of a jaxpr under some interpretation: arrays, or whatever stands for them.

    Args:
        jaxpr: the equations.
        consts: a value for each of its constants.
        arguments: a value for each of its inputs.
        rule: what an equation makes of the values of its operands; it may call `evaluate` on what is `called`.
        literal: the value of a literal number; the number itself by default.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> jaxpr = jax.make_jaxpr(lambda x, y: jnp.sin(x) * y + 1)(1.0, 1.0).jaxpr
        >>> def formula(equation, operands):
        ...     return [f"{equation.primitive.name}({', '.join(operands)})"]
        >>> evaluate(jaxpr, (), ["x", "y"], formula, str)
        ['add(mul(sin(x), y), 1.0)']
    """
    values: dict[Var, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(atom: Any) -> Value:
        return literal(atom.val) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        outputs = rule(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
