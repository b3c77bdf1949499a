"""Adapters for modules of Flax NNX, Equinox and Haiku, and checkpoints of Orbax.

Each adapter takes a module of its library and makes a `Model` of it. A module that returns a dictionary names its own
taps. Of any other, every submodule's output is a tap under its path (".1" is appended to the second call of a shared
one), in order of depth, and the output itself is "logits". Layers that run inside a transformation of the module's own
(vmap, scan, remat, jit) are no taps. Nothing of these libraries is imported before its adapter is called.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model, from_function

_PROBE = 13  # images that an adapter tries a module with: an output whose first axis is of this size is one an image


class _Recorder:
    """Collects the outputs of named submodules during one call of a network."""

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        from jax.extend.core import get_opaque_trace_state

        self._trace_state = functools.partial(get_opaque_trace_state, convention="nnx")
        self.trace = self._trace_state()
        self.names = names or {}  # by the identity of a module
        self.calls: dict[str, int] = {}
        self.found: dict[str, jax.Array] = {}

    def hear(self, name: str | None, output: Any) -> None:
        if name and isinstance(output, jax.Array) and self._trace_state() == self.trace:
            call = self.calls[name] = self.calls.get(name, -1) + 1
            self.found[f"{name}.{call}" if call else name] = output


_listener: contextvars.ContextVar[_Recorder | None] = contextvars.ContextVar("jaxopt_input_listener", default=None)


@contextlib.contextmanager
def _recording(names: Mapping[int, str]) -> Iterator[_Recorder]:
    """A recorder that hears the modules of `names` while the block runs."""
    recorder = _Recorder(names)
    token = _listener.set(recorder)
    try:
        yield recorder
    finally:
        _listener.reset(token)


def _array(output: Any) -> Any:
    """A layer's output without the state that stateful Equinox layers return beside it."""
    pair = isinstance(output, tuple) and len(output) == 2 and type(output[1]).__module__.startswith("equinox")
    return output[0] if pair else output


@functools.cache
def _heard(cls: type, **keywords: Any) -> type:
    """A subclass whose calls are heard by the recorder of the current block; the class itself stays as it is."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = cls.__call__(self, *args, **kwargs)
        recorder = _listener.get()
        if recorder is not None:
            recorder.hear(recorder.names.get(id(self)), _array(output))
        return output

    body = {
        "__call__": __call__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return types.new_class(cls.__name__, (cls,), keywords, lambda namespace: namespace.update(body))


@dataclasses.dataclass(frozen=True, eq=False)
class _Apply:
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
        return isinstance(other, _Apply) and bool(self._identity() == other._identity())

    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """What the module returns, and the outputs of its submodules."""
        raise TypeError(f"{type(self).__name__} does not say how its module is called")

    def activations(self, params: Any, image: jax.Array) -> dict[str, jax.Array]:
        """Every tap, channels last, in order of depth."""
        names: list[str] = []

        def network(image: jax.Array) -> tuple[jax.Array, ...]:
            output, found = self.call(params, image)
            if isinstance(output, Mapping):
                found = dict(output)
            else:
                found = {**{k: v for k, v in found.items() if v.ndim and k != "logits"}, "logits": output}
            for name, value in found.items():
                if not isinstance(value, jax.Array):
                    raise InputError(
                        f"{name} of it is of type {type(value).__name__}: it should return its logits as one array, "
                        "or a dictionary of named arrays"
                    )
            names[:] = found
            return tuple(found.values())

        if self.channels_first:
            image = jnp.moveaxis(image, -1, 1)
        values = network(image) if self.batched else jax.vmap(network)(image)
        if self.channels_first:
            values = tuple(jnp.moveaxis(v, 1, -1) if v.ndim == 4 else v for v in values)
        return dict(zip(names, values, strict=True))

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        activations = self.activations(params, image)
        return {tap: activations[tap] for tap in taps}


def _model(apply: _Apply, params: Any, image_shape: Sequence[int], labels: Sequence[str], name: str) -> Model:
    """The model of an adapter: its taps are found by tracing it once."""
    shape = tuple(int(n) for n in image_shape)
    if len(shape) != 3:
        raise InputError(f"image_shape is (height, width, channels), not {shape}")
    taps: list[str] = []

    def listen(params: Any, image: jax.Array) -> None:
        activations = apply.activations(params, image)
        if "logits" in activations and activations["logits"].shape[:1] != (_PROBE,):
            raise InputError(
                f"its logits for {_PROBE} images are of shape {activations['logits'].shape}: the first axis should be "
                "the images'"
            )
        taps.extend(tap for tap, value in activations.items() if value.shape[:1] == (_PROBE,))

    try:
        jax.eval_shape(listen, params, jax.ShapeDtypeStruct((_PROBE, *shape), jnp.float32))
    except Exception as error:
        reason = _first_line(error)
        if isinstance(error, TypeError) and "argument" in reason:
            reason += " (keywords of its call, such as train=False, are passed on)"
        raise InputError(f"{name} cannot be applied to images of shape {shape}: {reason}") from error
    return from_function(apply, params, image_shape=shape, taps=taps, labels=labels, name=name)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "").strip() or type(error).__name__


def _library(name: str, package: str, adapter: str) -> None:
    """An `InputError` where the library of an adapter is not installed."""
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(f"{adapter} needs {package}: pip install {package}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class _NNXApply(_Apply):
    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        from flax import nnx

        module = nnx.merge(self.static, params)
        names = {}
        for path, child in nnx.iter_modules(module):
            if path and callable(child):
                names[id(child)] = "/".join(map(str, path))
                object.__setattr__(child, "__class__", _heard(type(child), pytree=type(child)._pytree__is_pytree))
        with _recording(names) as recorder:
            output = module(image, **dict(self.keywords))
        return output, recorder.found


def from_nnx(
    module: Any,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    **keywords: Any,
) -> Model:
    """A model from a Flax NNX module.

    Dropout and batch normalization run in inference mode (the module's `eval()`, on a copy). `params` of the model is
    the module's state, of the structure of `nnx.state(module)`.

    Args:
        module: the module with its parameters; takes images `[N, H, W, C]` in [0, 1]. It is not changed.
        image_shape: (height, width, channels).
        labels: the names of the classes.
        name: what to call it; the module's class name if None.
        keywords: passed to the module's `__call__`; must be hashable.

    Raises:
        InputError: if it is no NNX module, or cannot take such an image.

    Example:
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> conv, dense = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        >>> net = nnx.Sequential(conv, lambda x: x.mean((1, 2)), dense)
        >>> from_nnx(net, image_shape=(8, 8, 3)).layers()
        {'layers/0': (8, 8, 4), 'layers/2': (2,), 'logits': (2,)}
    """
    from flax import nnx

    if not isinstance(module, nnx.Module) or not callable(module):
        raise InputError(f"from_nnx takes a Flax NNX module that can be called, not {_kind(module)}")
    copy = nnx.clone(module)
    copy.eval()
    graph, state = nnx.split(copy)
    apply = _NNXApply(graph, tuple(sorted(keywords.items())))
    return _model(apply, state, image_shape, labels, name or type(module).__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class _EquinoxApply(_Apply):
    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        import equinox as eqx

        arrays, state = params
        names: dict[int, str] = {}
        module = _tapped(eqx.combine(arrays, self.static), (), names)
        with _recording(names) as recorder:
            if state is None:
                output = module(image, **dict(self.keywords))
            else:
                state = jax.tree.map(lambda x: x, state)  # a State object may be used once
                output, _ = module(image, state, **dict(self.keywords))
        return output, recorder.found


def _tapped(node: Any, path: tuple[str, ...], names: dict[int, str]) -> Any:
    """A copy of an Equinox module whose submodules are heard; `names` is filled with their paths."""
    import equinox as eqx

    if isinstance(node, (list, tuple)) and type(node) in (list, tuple):
        return type(node)(_tapped(child, (*path, str(k)), names) for k, child in enumerate(node))
    if type(node) is dict:
        return {key: _tapped(child, (*path, str(key)), names) for key, child in node.items()}
    if not isinstance(node, eqx.Module) or isinstance(node, eqx.nn.StateIndex):
        return node
    heard = bool(path) and callable(node)
    copy: Any = object.__new__(_heard(type(node)) if heard else type(node))
    for key, value in vars(node).items():
        object.__setattr__(copy, key, _tapped(value, (*path, key), names))
    if heard:
        names[id(copy)] = "/".join(path)
    return copy


def from_equinox(
    module: Any,
    state: Any = None,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    channels_first: bool = True,
    batched: bool = False,
    **keywords: Any,
) -> Model:
    """A model from an Equinox module.

    By Equinox's convention a module takes one image `[C, H, W]`; activations of that rank become `[N, H, W, C]`, as
    the losses want them. Dropout and normalization run in inference mode (`eqx.nn.inference_mode`). `params` of the
    model is (the module's arrays, its state). Models built alike are equal, save stateful ones: Equinox ties a state to
    the one module it was made with.

    Args:
        module: the module with its parameters; takes images in [0, 1].
        state: of a stateful module (made by `eqx.nn.make_with_state`), which is then called as `module(x, state)`.
        image_shape: (height, width, channels).
        labels: the names of the classes.
        name: what to call it; the module's class name if None.
        channels_first: whether the module takes channels before height and width.
        batched: whether the module takes a batch of images.
        keywords: passed to the module's `__call__`, such as `key=None`; must be hashable.

    Raises:
        InputError: if it is no Equinox module, if Equinox is not installed, or if it cannot take such an image.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> a, b = jax.random.split(jax.random.key(0))
        >>> pool = eqx.nn.Lambda(lambda x: jnp.mean(x, (1, 2)))
        >>> net = eqx.nn.Sequential([eqx.nn.Conv2d(3, 4, 3, key=a), pool, eqx.nn.Linear(4, 2, key=b)])
        >>> from_equinox(net, image_shape=(8, 8, 3)).layers()
        {'layers/0': (6, 6, 4), 'layers/1': (4,), 'layers/2': (2,), 'logits': (2,)}
    """
    _library("equinox", "equinox", "from_equinox")
    import equinox as eqx

    if not isinstance(module, eqx.Module) or not callable(module):
        raise InputError(f"from_equinox takes an Equinox module that can be called, not {_kind(module)}")
    arrays, static = eqx.partition(eqx.nn.inference_mode(module), eqx.is_array)
    apply = _EquinoxApply(static, tuple(sorted(keywords.items())), channels_first, batched)
    return _model(apply, (arrays, state), image_shape, labels, name or type(module).__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class _HaikuApply(_Apply):
    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        import haiku as hk

        function = self.static
        if not isinstance(function, (hk.Transformed, hk.TransformedWithState)):
            function = hk.transform_with_state(function)
        weights, state = params
        stateful = isinstance(function, hk.TransformedWithState)
        leading = ("params", "state") if stateful else ("params",)
        wants_key = tuple(inspect.signature(function.apply).parameters)[: len(leading) + 1] == (*leading, "rng")
        recorder = _Recorder()

        def listen(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = method(*args, **kwargs)
            if context.method_name == "__call__":
                recorder.hear(context.module.module_name, output)
            return output

        with hk.intercept_methods(listen):
            output = function.apply(
                weights,
                *((state or {},) if stateful else ()),
                *((None,) if wants_key else ()),
                image,
                **dict(self.keywords),
            )
        return (output[0] if stateful else output), recorder.found


def from_haiku(
    function: Any,
    params: Any,
    state: Any = None,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    channels_first: bool = False,
    **keywords: Any,
) -> Model:
    """A model from a Haiku network.

    Give the function itself rather than what `hk.transform` makes of it, where you can: models of the same function
    are equal, and a second one does not compile again. No random key is passed: say `is_training=False`, or what the
    function calls it, where it has dropout or batch normalization. `params` of the model is (params, state).

    Args:
        function: the function that calls Haiku modules, or its `hk.transform` or `hk.transform_with_state`; takes
            images `[N, H, W, C]` in [0, 1].
        params: what its `init` returned, or trained parameters of that structure.
        state: its state, if it has one.
        image_shape: (height, width, channels).
        labels: the names of the classes.
        name: what to call it; the function's name if None.
        channels_first: whether it takes `[N, C, H, W]`; activations of that rank become `[N, H, W, C]`.
        keywords: passed to the function, such as `is_training=False`; must be hashable.

    Raises:
        InputError: if it is no function, if Haiku is not installed, or if it cannot take such an image.

    Example:
        >>> import haiku as hk, jax, jax.numpy as jnp
        >>> def net(x):
        ...     return hk.Linear(2)(hk.Conv2D(4, 3)(x).mean((1, 2)))
        >>> params = hk.transform(net).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        >>> from_haiku(net, params, image_shape=(8, 8, 3)).layers()
        {'conv2_d': (8, 8, 4), 'linear': (2,), 'logits': (2,)}
    """
    _library("haiku", "dm-haiku", "from_haiku")
    import haiku as hk

    if not callable(function) and not isinstance(function, (hk.Transformed, hk.TransformedWithState)):
        raise InputError(f"from_haiku takes a function or what hk.transform makes of it, not {_kind(function)}")
    if isinstance(function, hk.Module):
        raise InputError("from_haiku takes a function that makes Haiku modules and calls them, not a module")
    apply = _HaikuApply(function, tuple(sorted(keywords.items())), channels_first)
    name = name or str(getattr(function, "__name__", "haiku"))
    return _model(apply, (params, state), image_shape, labels, name)


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def load_checkpoint(path: str | os.PathLike[str], like: Any) -> Any:
    """The pytree of an Orbax checkpoint, on this machine's default device, whatever it was saved on.

    Args:
        path: the folder that Orbax's `StandardCheckpointer` wrote; of a `CheckpointManager`, DIR/STEP/default.
        like: a pytree of that structure: arrays or `jax.ShapeDtypeStruct`s, such as
            `jax.eval_shape(module.init, key, image)` or the state of `nnx.split(nnx.eval_shape(build))`.

    Raises:
        InputError: if there is no checkpoint, or one of another structure or other shapes.

    Example:
        >>> import orbax.checkpoint as ocp, tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "a"
        >>> with ocp.StandardCheckpointer() as checkpointer:
        ...     checkpointer.save(folder, {"w": jnp.arange(3.0)})
        >>> load_checkpoint(folder, {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    folder = Path(path).absolute()
    if not folder.is_dir():
        raise InputError(f"no checkpoint folder {path}")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    arrays = jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), like)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), arrays)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder, target)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"cannot read the checkpoint {path}: {_first_line(error)}") from error
    for (key, found), wanted in zip(
        jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(target), strict=True
    ):
        if found.shape != wanted.shape:
            where = f"{path} has another shape at {jax.tree_util.keystr(key)}"
            raise InputError(f"the checkpoint {where}: {found.shape}, not {wanted.shape}")
    return restored
