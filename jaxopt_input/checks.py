"""What is checked of arguments before anything is compiled."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.targets import canonical

if TYPE_CHECKING:
    from jaxopt_input.models.model import Model

Shape = tuple[int, int, int]


def as_shape(shape: Any) -> Shape:
    """(height, width, channels) as integers, or an `InputError`."""
    try:
        height, width, channels = (count("a side", n) for n in shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"an image shape is (height, width, channels), each at least 1, not {shape!r}") from error
    return height, width, channels


def check_images(image: Any) -> Any:
    """An image or batch as float32, or an `InputError` for another rank, type or range."""
    if isinstance(image, jax.core.Tracer):
        return image.astype(jnp.float32)
    array = np.asarray(image)
    if array.ndim < 3 or not array.size:
        raise InputError(f"an image is [H, W, C] or [N, H, W, C], not of shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"an image is float32 in [0, 1], not {array.dtype}: divide 8-bit images by 255")
    if not (array.min() >= 0 and array.max() <= 1):  # also where a number is NaN
        raise InputError(f"an image is in [0, 1], not in [{array.min():.3g}, {array.max():.3g}]")
    return np.asarray(array, np.float32)


def check_index(what: str, index: Any, size: int, where: str) -> None:
    """Raise an `InputError` unless every index is in range (inside jit, JAX would clamp it)."""
    if isinstance(index, jax.core.Tracer):
        return
    for value in np.atleast_1d(np.asarray(index)).ravel():
        if not 0 <= value < size:
            raise InputError(f"{what} {value} does not exist: {where} has {size} ({what} 0 to {size - 1})")


def typed_key(key: Any) -> jax.Array:
    """A single typed key, from one or from the uint32 data of `jax.random.PRNGKey`."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != np.uint32:
        raise InputError(f"key must be a JAX key, such as jax.random.key(0), not {key!r}")
    if key.ndim != (0 if typed else 1):
        raise InputError(f"key must be a single key, not an array of shape {key.shape}")
    return key if typed else jax.random.wrap_key_data(jnp.asarray(key))


MOST = 2**31 - 1
"""What is counted on a device is counted in 32 bits."""


def count(what: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """A whole number from `least` to `most`, or an `InputError`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating) or value % 1:
        raise InputError(f"{what} must be a whole number, at least {least}, not {value!r}")
    if value < least:
        raise InputError(f"{what} must be at least {least}, not {value!r}")
    if value > most:
        raise InputError(f"{what} must be at most {most}, not {value!r}")
    return int(value)


def number(what: str, value: Any, low: float = 0.0, high: float = np.inf, *, open_low: bool = False) -> np.ndarray:
    """A number within [low, high] as float32, so that it is traced; without `low` itself if `open_low`."""
    array = canonical(value, 0, jnp.float32, what)
    if isinstance(array, jax.core.Tracer) and not array.ndim:
        return array  # type: ignore[return-value]
    if array.ndim or not low <= float(array) <= high or (open_low and float(array) == low):
        kind = "above" if open_low else "at least"
        most = f" and at most {high:g}" if np.isfinite(high) else ""
        raise InputError(f"{what} is a number {kind} {low:g}{most}, not {value!r}")
    return array


def finite(what: str, value: Any, low: float = -np.inf, high: float = np.inf) -> float:
    """A finite number within [low, high] as a static part of a program, or an `InputError`.

    Example:
        >>> finite("the contrast", np.float32(0.5), 0, 1)
        0.5
    """
    try:
        plain = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):  # also a tracer
        plain = math.nan
    if not (math.isfinite(plain) and low <= plain <= high):
        least = f", at least {low:g}" if low > -np.inf else ""
        most = f", at most {high:g}" if high < np.inf else ""
        raise InputError(f"{what} is a finite number{least}{most}, not {value!r}")
    return plain


def finite_numbers(what: str, value: Any, rank: int = 0) -> Any:
    """`canonical` numbers as float32, all finite as far as they are known, or an `InputError`."""
    array = canonical(value, rank, jnp.float32, what)
    shown = f"{value!r}" if not rank else "numbers of which some are not"
    require(f"{what} must be finite, not {shown}", array, np.isfinite)
    return array


def require(what: str, array: Any, holds: Callable[[Any], Any]) -> None:
    """Raise an `InputError` that says `what` unless it holds of all numbers, as far as they are known."""
    if not isinstance(array, jax.core.Tracer) and not np.all(holds(array)):
        raise InputError(what)


def output_shapes(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, traced on shapes alone; an `InputError` that begins with `what` where it fails."""
    try:
        return jax.eval_shape(function, *arguments)
    except TypeError as error:
        raise InputError(f"{what}: {error}") from error


def hashable_function(value: Any, arguments: int | None = None) -> bool:
    """Whether a value can be a static part of a program: a function, no class, of so many arguments.

    Example:
        >>> hashable_function(max, 2), hashable_function(lambda key: key, 2), hashable_function(7, 2)
        (True, False, False)
    """
    if not callable(value) or isinstance(value, type) or getattr(type(value), "__hash__", None) is None:
        return False
    if arguments is None:
        return True
    try:
        inspect.signature(value).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def one_of(what: str, value: Any, options: tuple[str, ...]) -> str:
    """A name among some, or an `InputError`."""
    if value not in options:
        raise InputError(f"{what} is one of {', '.join(options)}, not {value!r}")
    return str(value)


def batch(images: Any, model: Model, what: str = "images") -> np.ndarray:
    """Images `[N, H, W, C]` in [0, 1] with the model's colors."""
    if not hasattr(model, "info"):
        raise InputError(f"a model is made by joi.load, from_function, from_linen, …, not {model!r}")
    array = check_images(images)
    if array.ndim != 4 or array.shape[-1] != model.info.image_shape[-1]:
        colors = model.info.image_shape[-1]
        raise InputError(f"{what} are [N, H, W, {colors}] for {model.info.name}, not of shape {array.shape}")
    return array


def classes(what: str, values: Any, n: int, model: Model, total: int) -> np.ndarray:
    """`[N]` class indices, or an `InputError` for another type, length or range."""
    array = canonical(values, 0, jnp.int32, what)
    if array.ndim == 0:
        array = (jnp if isinstance(array, jax.core.Tracer) else np).broadcast_to(array, n)
    if len(array) != n:
        raise InputError(f"{n} images need {n} {what}s, not {len(array)}")
    if isinstance(array, jax.core.Tracer):
        return array  # type: ignore[return-value]
    check_index(what, array, total, model.info.name)
    return np.ascontiguousarray(array)


def samples(value: Any, transform: Any) -> int:
    """How many draws of a random transform are taken at once; one without a transform."""
    if count("samples", value) > 1 and transform is None:
        raise InputError("several samples are draws of a random transform: give one, such as transforms.jitter(2)")
    return int(value)


def require_budget(epsilon: Any) -> Any:
    """The budget of an attack that needs one."""
    if epsilon is None:
        raise InputError("this attack works within a budget: give epsilon, such as 4/255")
    return epsilon


def below_range(what: str, size: Any, norm: str) -> Any:
    """The size of a change, unless it is the whole range of the images, or more, in a norm that no pixel adds to."""
    if norm in ("linf", "rms") and not isinstance(size, jax.core.Tracer) and (largest := np.max(size)) >= 1:
        raise InputError(
            f"{what} is below 1 in {norm}, as images are in [0, 1], not {largest:g}: {largest:g} of 255 levels is "
            f"{largest:g}/255"
        )
    return size


def budgets(epsilon: Any, n: int, norm: str) -> np.ndarray:
    """ε as `[]`, `[E]` or `[E, N]`, all positive or, among several, 0; below 1 in L∞."""
    traced = isinstance(epsilon, jax.core.Tracer)
    try:
        array = epsilon if traced else np.asarray(epsilon)
    except ValueError as error:  # ragged
        raise InputError(f"epsilon is a number, or an array of them, not {epsilon!r}") from error
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"epsilon is a positive number, or several, not {epsilon!r}")
    array = array.astype(np.float32)
    if array.ndim > 2 or not array.size or (array.ndim == 2 and array.shape[1] != n):
        raise InputError(
            f"epsilon is a number, one per budget [E], or one per budget and image [E, {n}], not of shape {array.shape}"
        )
    if not traced and not (np.isfinite(array) & ((array > 0) | ((array == 0) & (array.ndim > 0)))).all():
        raise InputError(
            f"epsilon must be positive, or 0 beside others, not {epsilon!r}; images are in [0, 1], so 8 of 255 levels "
            "is 8/255"
        )
    return below_range("epsilon", array, norm)
