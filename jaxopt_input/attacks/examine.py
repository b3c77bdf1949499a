"""What is measured of a network before it is attacked: its logits, and signs of gradient masking."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxopt_input import losses
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.result import GradientMaskingWarning
from jaxopt_input.engine.lanes import Layout, is_traced, rounds
from jaxopt_input.errors import InputError
from jaxopt_input.models.jaxpr import equations
from jaxopt_input.models.model import Apply, Model

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

CHUNK = 64  # images that are judged at once
PROBES = 8  # images that tell probabilities from logits
TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 1e-4}  # of the sum of probabilities in a precision


def transformed(*trees: Any) -> bool:
    """Whether computing with these arrays gives traced ones: under `jax.jit` that holds of constants as well."""
    return is_traced(trees) or is_traced(jnp.int32(0) + 0)


def logits_of(model: Model, images: Any, chunk: int = CHUNK) -> Float[np.ndarray, "N classes"]:
    """The logits of images, a chunk of one shape at a time; traced where they or the parameters are."""
    n = len(images)
    parts = [model.activations(images[r.lanes], ["logits"])["logits"] for r in rounds(n, min(chunk, n))]
    xp: Any = jnp if is_traced(parts) else np
    return xp.concatenate([xp.asarray(part, np.float32) for part in parts])[:n]


def classes_of(model: Model, image_shape: tuple[int, int, int] | None = None) -> int:
    """How many classes a network tells apart.

    Raises:
        InputError: where it has no logits, or a single one.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2, 3))[:, None]}, 0.0,
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> classes_of(model)
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: model has one output, z: return two logits, (0, z), without a sigmoid
    """
    logits = model.layers(image_shape).get("logits")
    if logits is None or len(logits) != 1:
        raise InputError(f"{model.info.name} has no layer logits with one number per class")
    if logits[0] < 2:
        raise InputError(f"{model.info.name} has one output, z: return two logits, (0, z), without a sigmoid")
    return logits[0]


def check_logits(model: Model, images: Float[np.ndarray, "N H W C"] | None = None) -> None:
    """Raise an `InputError` where what a network says of some images is probabilities instead of logits.

    Args:
        model: the network.
        images: of which the first few are looked at; noise of rising brightness if None.

    Raises:
        InputError: where the logits are probabilities.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": jax.nn.softmax(x.mean((1, 2)))}, 0.0,
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> try:
        ...     check_logits(model)
        ... except joi.InputError as error:
        ...     print(error)
        the logits of model are probabilities (none negative, their sum 1): give it before its softmax
    """
    if images is None:
        noise = jax.random.uniform(jax.random.key(0), (PROBES, *model.info.image_shape), jnp.float32)
        images = np.asarray(noise) * np.linspace(0, 1, PROBES, dtype=np.float32)[:, None, None, None]
    images = images[:PROBES]

    def trace() -> ClosedJaxpr:
        return jax.make_jaxpr(lambda params, x: model.apply(params, x, ("logits",)))(model.params, images)

    _refuse_probabilities(model.info.name, logits_of(model, images), trace)


def _refuse_probabilities(name: str, logits: Float[np.ndarray, "N classes"], trace: Callable[[], ClosedJaxpr]) -> None:
    """Raise an `InputError` where logits are probabilities, as nearly as the precision of the traced network allows."""
    off = float(np.abs(logits.sum(1) - 1).max())
    if logits.shape[1] < 2 or not (logits >= 0).all() or off > max(TOLERANCE.values()):
        return
    if off <= TOLERANCE[_precision(trace().jaxpr)]:
        raise InputError(
            f"the logits of {name} are probabilities (none negative, their sum 1): give it before its softmax"
        )


def _precision(jaxpr: Jaxpr) -> str:
    """The least that a network computes in: what it returns may be cast to more."""
    types = {str(getattr(out.aval, "dtype", None)) for equation in equations(jaxpr) for out in equation.outvars}
    return next((name for name in TOLERANCE if name in types), "float32")


@functools.partial(jax.jit, static_argnames="apply")
def _look(
    apply: Apply, params: Any, images: Float[Array, "N H W C"], labels: Int[Array, " N"]
) -> tuple[Float[Array, "N classes"], Float[Array, " N"]]:
    """The logits, and the largest number in the gradient of the cross-entropy."""

    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(params, images, ("logits",))["logits"].astype(jnp.float32)
        lost = jax.vmap(lambda z, y: losses.cross_entropy(y)({"logits": z}, z))(logits, labels)
        return lost.sum(), logits

    gradient, logits = jax.grad(total, has_aux=True)(images)
    return logits, geometry.norm(gradient, "linf")


def _leaves_jax(apply: Apply, params: Any, images: jax.Array, labels: jax.Array) -> bool:
    """Whether the network calls what JAX knows nothing of; otherwise one compiled program twice is the same twice."""
    traced = _look.trace(apply, params, images, labels).jaxpr  # as it is called before: not traced again
    names = (equation.primitive.name for equation in equations(traced.jaxpr))
    return any("callback" in name or name in ("ffi_call", "rng_uniform") for name in names)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether logits are equal, as far as another order of summation leaves them."""
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True))


def examine(
    model: Model,
    params: Any,
    plan: Layout,
    images: Float[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, "N classes"], tuple[str, ...]]:
    """The originals' logits, and a line for each sign of gradient masking, which are warned of.

    Args:
        model: the network.
        params: its parameters, on all devices of the plan.
        plan: shares the images out among devices, as many at once as it does lanes.
        images: the originals.
        labels: their true classes.

    Raises:
        InputError: where the logits are probabilities.
    """
    n = len(images)
    parts = []
    again = elsewhere = None
    for at in (r.lanes for r in rounds(n, plan.at_once)):
        batch = plan.spread((images[at], labels[at]))
        parts.append(jax.device_get(_look(model.apply, params, *batch)))
        if len(parts) == 1 and len(at) > 1:  # the first image among others: its logits are the same
            among = np.where(np.arange(len(at))[:, None, None, None] == 0, images[at], 1 - images[at])
            elsewhere = jax.device_get(_look(model.apply, params, *plan.spread((among, labels[at]))))[0][0]
        if len(parts) == 1 and _leaves_jax(model.apply, params, *batch):
            again = jax.device_get(_look(model.apply, params, *batch))[0]
    logits, slope = (np.concatenate([part[k] for part in parts])[:n] for k in (0, 1))
    name = model.info.name
    _refuse_probabilities(name, logits, lambda: _look.trace(model.apply, params, *batch).jaxpr)
    random = again is not None and not _same(parts[0][0], again)
    mixed = elsewhere is not None and not random and not _same(parts[0][0][0], elsewhere)
    flat = int((slope == 0).sum())
    largest = np.partition(logits, -2, -1)[:, -2:]
    saturated = int((largest[:, 1] - largest[:, 0] > 30).sum())
    texts = {
        f"{name} is random: attack the mean over its randomness, by transform= and samples=, or make it exact": random,
        f"the logits of {name} for an image depend on the rest of its batch, so that results depend on chunk and "
        "padding: let its normalization use running statistics": mixed,
        f"the gradient of {name} is zero at {flat} of {n} images: try loss='margin', or square, which needs none": flat,
        f"the logits of {name} saturate its softmax at {saturated} of {n} images: try loss='dlr' or 'margin'": (
            saturated * 4 > n
        ),
    }
    signs = tuple(text for text, holds in texts.items() if holds)
    for text in signs:
        warnings.warn(text, GradientMaskingWarning, stacklevel=4)
    return logits, signs
