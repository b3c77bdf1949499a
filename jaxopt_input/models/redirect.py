"""`redirect_relu`: a model whose dead ReLUs let the gradient through, so that a start without a gradient can begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxopt_input.checks import count
from jaxopt_input.errors import InputError
from jaxopt_input.models.jaxpr import Call, called, evaluate, shape_of
from jaxopt_input.models.model import Apply, Model

KEPT = frozenset(("custom_vjp_call", "cond"))  # calls whose gradient is their own affair


@jax.custom_vjp
def redirected_relu(x: jax.Array) -> jax.Array:
    """max(x, 0) of a batch `[N, …]`, with a gradient also where it is zero throughout for an image.

    Where the gradient of an image would be blocked entirely, what pushes a negative x up, as descent on a loss does
    with a negative gradient, is let through.

    Source:
        Lucid (2018), `optvis.overrides.redirected_relu_grad`.

    Example:
        >>> x = jnp.array([[-1.0, -2.0], [-1.0, 2.0]])
        >>> jax.grad(lambda x: -redirected_relu(x).sum())(x).tolist()
        [[-1.0, -1.0], [0.0, -1.0]]
    """
    return jnp.maximum(x, 0)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(x, 0), x


def _backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    plain = g * (x > 0)
    redirected = jnp.where((x < 0) & (g > 0), 0, g)
    blocked = ~jnp.any(plain != 0, axis=tuple(range(1, x.ndim)), keepdims=True)
    return (jnp.where(blocked, redirected, plain),)


redirected_relu.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Redirected:
    """A model's function with its ReLUs replaced; equal for equal functions."""

    apply: Apply

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        closed, shape = jax.make_jaxpr(lambda p, x: self.apply(p, x, taps), return_shape=True)(params, image)
        out = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves((params, image)), _redirected)
        return jax.tree.unflatten(jax.tree.structure(shape), out)


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """A model's function with another in its place in the first steps of `minimize`; elsewhere it is itself."""

    first: Apply
    apply: Apply
    steps: int

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        return self.apply(params, image, taps)


def redirect_relu(model: Model, steps: int | None = None) -> Model:
    """The model with the same activations, and a gradient where dead ReLUs leave none, as `redirected_relu` has it.

    A unit whose ReLU is dead at the start has no gradient, and its image would stay as it is. Redirect the first steps
    alone, `redirect_relu(model, 16)`: later it would push what must stay dead.

    Its ReLUs are found in what JAX makes of the model's function: `jax.nn.relu`, and the maximum of anything and 0,
    also inside `jit` and `checkpoint`; not inside loops, nor in a function with a gradient rule of its own.

    Args:
        model: any model; the first axis of what its ReLUs take is the batch.
        steps: redirect so many steps of `minimize` alone; all, and every other use of the model, if None.

    Raises:
        InputError: for a model without a ReLU, or steps below 1.

    Source:
        Lucid (2018), `optvis.overrides.redirected_relu_grad`, which does so for 16 steps.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": jax.nn.relu(x.mean((1, 2)) - p)}, jnp.ones(3),
        ...                           image_shape=(8, 8, 3), taps=("logits",))
        >>> s = joi.minimize(-joi.losses.class_logit(0), model, steps=4, key=jax.random.key(0))
        >>> t = joi.minimize(-joi.losses.class_logit(0), redirect_relu(model), steps=4, key=jax.random.key(0))
        >>> bool(s.dead[0]), bool(t.dead[0])
        (True, False)
    """
    image = jax.ShapeDtypeStruct((1, *model.info.image_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda p, x: model.apply(p, x, model.info.taps))(model.params, image).jaxpr
    if not _has_relu(jaxpr):
        raise InputError(f"{model.info.name} has no ReLU that could be redirected")
    redirected = _Redirected(model.apply)
    apply = redirected if steps is None else WarmUp(redirected, model.apply, count("steps", steps))
    return dataclasses.replace(model, apply=apply)


def _is_relu(equation: JaxprEqn) -> bool:
    """Whether an equation is max(x, 0) of an array."""
    if equation.primitive.name != "max":
        return False
    x, zero = equation.invars
    return isinstance(zero, Literal) and np.ndim(zero.val) == 0 and float(zero.val) == 0 and len(shape_of(x)) > 1


def _entered(equation: JaxprEqn) -> Call | None:
    """The function that an equation calls, if there is a ReLU in it."""
    call = None if equation.primitive.name in KEPT else called(equation)
    return call if call and _has_relu(call.jaxpr) else None


def _has_relu(jaxpr: Jaxpr) -> bool:
    return any(_is_relu(equation) or _entered(equation) for equation in jaxpr.eqns)


def _redirected(equation: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    """What an equation returns, its ReLUs replaced; calls without a ReLU are left as they are."""
    if _is_relu(equation):
        return [redirected_relu(operands[0])]
    if call := _entered(equation):
        return evaluate(call.jaxpr, call.consts, operands, _redirected)
    bound = equation.primitive.get_bind_params(equation.params)
    functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a tuple in older versions
    outputs = equation.primitive.bind(*functions, *operands, **parameters)
    return list(outputs) if equation.primitive.multiple_results else [outputs]
