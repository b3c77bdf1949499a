"""What adapters share: submodules that are heard during a call, and a model made of what was heard."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from jaxopt_input.checks import as_shape
from jaxopt_input.errors import InputError, one_line
from jaxopt_input.models.model import Model, from_function

PROBE = 13  # images that an adapter tries a module with: what has as many rows has one per image


class Recorder:
    """Collects the outputs of named submodules during one call of a network."""

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        self._trace_state = functools.partial(get_opaque_trace_state, convention="nnx")
        self.trace = self._trace_state()
        self.names = names or {}  # by the identity of a module
        self.calls: dict[str, int] = {}
        self.outputs: dict[str, jax.Array] = {}

    def label(self, name: str) -> str:
        """The name of a module's output; ".1" is appended at its second call."""
        call = self.calls[name] = self.calls.get(name, -1) + 1
        return f"{name}.{call}" if call else name

    def hear(self, name: str | None, output: Any) -> None:
        """Keep the output of a module, unless it was called inside a transformation."""
        if name and isinstance(output, jax.Array) and self._trace_state() == self.trace:
            self.outputs[self.label(name)] = output


_listener: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("jaxopt_input_listener", default=None)


@contextlib.contextmanager
def recording(names: Mapping[int, str]) -> Iterator[Recorder]:
    """A recorder that hears the modules of `names` while the block runs."""
    recorder = Recorder(names)
    token = _listener.set(recorder)
    try:
        yield recorder
    finally:
        _listener.reset(token)


def array_of(output: Any) -> Any:
    """A layer's output without the state that stateful Equinox layers return beside it."""
    pair = isinstance(output, tuple) and len(output) == 2 and type(output[1]).__module__.startswith("equinox")
    return output[0] if pair else output


@functools.cache
def audible(cls: type, **keywords: Any) -> type:
    """A subclass whose calls are heard by the recorder of the current block; the class itself stays as it is."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = cls.__call__(self, *args, **kwargs)
        recorder = _listener.get()
        if recorder is not None:
            recorder.hear(recorder.names.get(id(self)), array_of(output))
        return output

    body = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")} | {"__call__": __call__}
    return types.new_class(cls.__name__, (cls,), keywords, lambda namespace: namespace.update(body))


@dataclasses.dataclass(frozen=True, eq=False)
class Applied:
    """Applies a module of some library; equal for modules built alike where these can be compared."""

    static: Any
    keywords: tuple[tuple[str, Any], ...]
    channels_first: bool = False
    batched: bool = True

    def _identity(self) -> Any:
        options = (type(self), self.keywords, self.channels_first, self.batched)
        try:
            hash(self.static)
        except TypeError:  # what holds a list or an array equals itself alone
            return id(self.static), options
        return self.static, options

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and bool(self._identity() == other._identity())

    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """What the module returns, and the outputs of its submodules."""
        raise TypeError(f"{type(self).__name__} does not say how its module is called")

    def activations(self, params: Any, image: jax.Array) -> dict[str, jax.Array]:
        """Every tap, channels last, in order of depth."""
        names: list[str] = []

        def network(image: jax.Array) -> tuple[jax.Array, ...]:
            output, layers = self.call(params, image)
            if isinstance(output, Mapping):
                layers = dict(output)
            else:
                layers = {**{k: v for k, v in layers.items() if v.ndim and k != "logits"}, "logits": output}
            for name, value in layers.items():
                if not isinstance(value, jax.Array):
                    raise InputError(
                        f"{name} of it is of type {type(value).__name__}: it should return its logits as one array, "
                        "or a dictionary of named arrays"
                    )
            names[:] = layers
            return tuple(layers.values())

        if self.channels_first:
            image = jnp.moveaxis(image, -1, 1)
        values = network(image) if self.batched else jax.vmap(network)(image)
        if self.channels_first:
            values = tuple(jnp.moveaxis(v, 1, -1) if v.ndim == 4 else v for v in values)
        return dict(zip(names, values, strict=True))

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        activations = self.activations(params, image)
        return {tap: activations[tap] for tap in taps}


def model_of(apply: Applied, params: Any, image_shape: Sequence[int], labels: Sequence[str], name: str) -> Model:
    """The model of an adapter: its taps are found by tracing it once."""
    shape = as_shape(image_shape)
    taps: list[str] = []

    def listen(params: Any, image: jax.Array) -> None:
        activations = apply.activations(params, image)
        if "logits" in activations and activations["logits"].shape[:1] != (PROBE,):
            raise InputError(
                f"its logits for {PROBE} images are of shape {activations['logits'].shape}: the first axis should be "
                "the images'"
            )
        taps.extend(tap for tap, value in activations.items() if value.shape[:1] == (PROBE,))

    try:
        jax.eval_shape(listen, params, jax.ShapeDtypeStruct((PROBE, *shape), jnp.float32))
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, TypeError) and "argument" in reason:
            reason += " (keywords of its call, such as train=False, are passed on)"
        raise InputError(f"{name} cannot be applied to images of shape {shape}: {reason}") from error
    return from_function(apply, params, image_shape=shape, taps=taps, labels=labels, name=name)


def need(name: str, package: str, adapter: str) -> None:
    """An `InputError` where the library of an adapter is not installed."""
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(f"{adapter} needs {package}: pip install {package}") from error


def kind_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
