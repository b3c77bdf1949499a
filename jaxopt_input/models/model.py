"""The Model contract, adapters for plain functions and Flax Linen, and the listing of layers.

A model is `apply(params, image, taps) -> {tap: activation}`, its `params`, and its `info`. A *tap* is the name of a
layer's output; `"logits"` is the classifier's. Images are float32 `[N, H, W, C]` in [0, 1]: preprocessing belongs to
the model. Under jit, dead-code elimination removes what no requested tap needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.errors import InputError, unknown

Apply = Callable[[Any, jax.Array, tuple[str, ...]], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model besides its function.

    Attributes:
        image_shape: (height, width, channels) of its images.
        taps: the names of its layers, in order of depth.
        labels: one name a class, or nothing.
        synonyms: further names of each class, such as its WordNet id.
        name: what it is called.
        sha256: checksum of the file its weights were read from, if any.
    """

    image_shape: tuple[int, int, int]
    taps: tuple[str, ...]
    labels: tuple[str, ...] = ()
    synonyms: tuple[tuple[str, ...], ...] = ()
    name: str = "model"
    sha256: str | None = None

    def class_index(self, name: str | int) -> int:
        """The index of a class given by label, synonym, WordNet id or index.

        Upper case, spaces and underscores make no difference.

        Raises:
            InputError: for an unknown class, offering the nearest names.

        Example:
            >>> info = ModelInfo((8, 8, 3), ("logits",), ("ant", "polar bear"), (("n1",), ("n2", "ice bear")))
            >>> info.class_index("Ice_bear"), info.class_index("n1"), info.class_index("1")
            (1, 0, 1)
        """
        text = str(name).strip()
        classes = len(self.labels)
        if not classes:
            raise InputError(f"{self.name} has no class labels: give it `labels`, or name a layer's channel instead")
        if text.lstrip("-").isdigit():
            if not 0 <= int(text) < classes:
                raise InputError(f"class {text} does not exist: {self.name} has classes 0 to {classes - 1}")
            return int(text)
        folded = _fold(text)
        names: list[str] = []
        for kind in (zip(self.labels), self.synonyms):  # a label wins over another class's synonym
            for index, group in enumerate(kind):
                if folded in map(_fold, group):
                    return index
                names += group
        raise unknown("class", text, names)

    def label(self, index: int) -> str | None:
        """The label of a class, or None for a model without labels."""
        return self.labels[index] if self.labels else None


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


@dataclasses.dataclass(frozen=True)
class Model:
    """A frozen network: a pure function, its parameters, and what is known of it.

    Attributes:
        apply: `(params, image [N, H, W, C] in [0, 1], taps) -> {tap: activation [N, ...]}`.
        params: any pytree of arrays; traced, so other weights do not recompile.
        info: see `ModelInfo`.
    """

    apply: Apply
    params: Any = dataclasses.field(repr=False)
    info: ModelInfo

    def layers(self, image_shape: tuple[int, int, int] | None = None) -> dict[str, tuple[int, ...]]:
        """The shape of every tap for one image, without the batch axis, in order of depth.

        Args:
            image_shape: (height, width, channels); the model's own if None.

        Raises:
            InputError: if the network cannot take such an image.

        Example:
            >>> import jax.numpy as jnp
            >>> model = from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) * p}, jnp.ones(3),
            ...                       image_shape=(8, 8, 3), taps=("logits",))
            >>> model.layers()
            {'logits': (3,)}
        """
        shape = tuple(image_shape or self.info.image_shape)
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            out = jax.eval_shape(_jitted(self.apply, self.info.taps), self.params, image)
        except (TypeError, ValueError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{self.info.name} cannot take an image of shape {shape}: {reason}") from error
        except Exception as error:  # a module system's own errors, such as Flax's ScopeParamShapeError
            if not type(error).__module__.startswith(("flax", "haiku", "equinox")):
                raise
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{self.info.name} cannot take an image of shape {shape}: {reason}") from error
        shapes = {tap: out[tap].shape[1:] for tap in self.info.taps}
        if empty := [tap for tap, s in shapes.items() if 0 in s]:
            raise InputError(f"{self.info.name} cannot take an image of shape {shape}: layer {empty[0]} would be empty")
        return shapes

    def activations(self, images: Any, taps: Sequence[str]) -> dict[str, jax.Array]:
        """The activations of images, compiled once a set of taps and a shape.

        Args:
            images: `[N, H, W, C]` in [0, 1].
            taps: the layers.

        Returns:
            `{tap: [N, ...]}`.

        Raises:
            InputError: for an unknown layer, or an image that the network cannot take.

        Example:
            >>> import jax.numpy as jnp
            >>> model = from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) * p}, jnp.ones(3),
            ...                       image_shape=(8, 8, 3), taps=("logits",))
            >>> model.activations(jnp.ones((2, 8, 8, 3)), ["logits"])["logits"].tolist()
            [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
        """
        batch = jnp.asarray(images, jnp.float32)
        if batch.ndim != 4:
            raise InputError(f"images are [N, H, W, C], not of shape {batch.shape}")
        height, width, channels = batch.shape[1:]
        shapes = self.layers((height, width, channels))
        for tap in taps:
            if tap not in shapes:
                raise unknown("layer", tap, shapes)
        return _jitted(self.apply, tuple(taps))(self.params, batch)


@functools.lru_cache(maxsize=64)
def _jitted(apply: Apply, taps: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:
    """One jitted function a model, so that its abstract evaluation is traced once a shape."""
    return jax.jit(lambda params, image: apply(params, image, taps))


def from_function(
    apply: Apply,
    params: Any,
    *,
    image_shape: Sequence[int],
    taps: Sequence[str],
    labels: Sequence[str] = (),
    name: str = "model",
) -> Model:
    """A model from a plain function.

    Args:
        apply: `(params, image [N, H, W, C] in [0, 1], taps) -> {tap: activation [N, ...]}`.
        params: its parameters, any pytree of arrays.
        image_shape: (height, width, channels).
        taps: every name that `apply` accepts, in order of depth; "logits" for class losses.
        labels: the names of the classes.
        name: what to call it.

    Raises:
        InputError: if the function does not return these taps for such an image.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, image, taps):
        ...     return {"logits": image.mean((1, 2)) @ params}
        >>> model = from_function(apply, jnp.ones((3, 2)), image_shape=(8, 8, 3), taps=("logits",), labels=("a", "b"))
        >>> model.info.class_index("b")
        1
    """
    height, width, channels = image_shape
    if not taps:
        raise InputError("a model needs at least one tap")
    info = ModelInfo((int(height), int(width), int(channels)), tuple(taps), tuple(labels), name=name)
    model = Model(apply, params, info)
    try:
        shapes = model.layers()
    except KeyError as error:
        raise InputError(f"the function of {name} does not return the tap {error}") from error
    if labels and "logits" in shapes and shapes["logits"] != (len(labels),):
        raise InputError(f"{len(labels)} labels for logits of shape {shapes['logits']}")
    return model


@dataclasses.dataclass(frozen=True, eq=False)
class _LinenApply:
    """Applies a Linen module; equal for equal modules, so that loading twice compiles once."""

    module: Any
    keywords: tuple[tuple[str, Any], ...]

    def _identity(self) -> Any:
        try:
            hash(self.module)
        except TypeError:  # a module that holds a list, such as nn.Sequential, equals itself alone
            return id(self.module), self.keywords
        return self.module, self.keywords

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LinenApply) and self._identity() == other._identity()

    def activations(self, params: Any, image: jax.Array) -> dict[str, jax.Array]:
        from flax.linen import intercept_methods

        depth: dict[str, int] = {}  # of every output, by its name: what Linen captures is sorted by name
        calls: dict[str, int] = {}

        def listen(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            out = method(*args, **kwargs)
            if context.method_name == "__call__":
                path = "/".join(context.module.path)
                call = calls[path] = calls.get(path, -1) + 1
                depth[f"{path}.{call}" if call else path] = len(depth)
            return out

        with intercept_methods(listen):
            out, state = self.module.apply(
                params, image, **dict(self.keywords), capture_intermediates=True, mutable=["intermediates"]
            )
        if isinstance(out, Mapping):
            return dict(out)
        found: dict[str, jax.Array] = {}
        for path, value in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
            keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
            call = path[-1].idx if isinstance(path[-1], jax.tree_util.SequenceKey) else 0
            name = "/".join(k for k in keys if k != "__call__")
            if name and jnp.ndim(value) > 1:
                found[f"{name}.{call}" if call else name] = value
        names = sorted(found, key=lambda name: depth.get(name, len(depth)))
        return {**{name: found[name] for name in names}, "logits": out}

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        activations = self.activations(params, image)
        return {tap: activations[tap] for tap in taps}


def from_linen(
    module: Any,
    variables: Any,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    **keywords: Any,
) -> Model:
    """A model from a Flax Linen module.

    A module that returns a dictionary names its own taps. Of any other, every submodule's output is a tap under its
    path ("encoder/Conv_0"; ".1" is appended to the second call of a shared one), and the output itself is "logits".

    Args:
        module: the unbound Linen module; takes images `[N, H, W, C]` in [0, 1].
        variables: what `module.init` returned, or the trained variables of that structure.
        image_shape: (height, width, channels).
        labels: the names of the classes.
        name: what to call it; the module's class name if None.
        keywords: passed to the module's `__call__`, such as `train=False`; must be hashable.

    Raises:
        InputError: if the module cannot take such an image.

    Example:
        >>> import flax.linen as nn, jax
        >>> net = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(2)])
        >>> variables = net.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3)))
        >>> from_linen(net, variables, image_shape=(8, 8, 3)).layers()
        {'layers_0': (8, 8, 4), 'layers_3': (2,), 'logits': (2,)}
    """
    shape = tuple(int(n) for n in image_shape)
    name = name or type(module).__name__
    apply = _LinenApply(module, tuple(sorted(keywords.items())))
    taps: list[str] = []

    def listen(variables: Any, image: jax.Array) -> dict[str, jax.Array]:
        activations = apply.activations(variables, image)
        taps.extend(activations)  # in order of depth; what eval_shape returns is sorted by name
        return activations

    try:
        jax.eval_shape(listen, variables, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{name} cannot be applied to an image of shape {shape}: {reason}") from error
    return from_function(apply, variables, image_shape=shape, taps=taps, labels=labels, name=name)


def cast(params: Any, dtype: Any) -> Any:
    """The floating-point leaves of a pytree in another dtype, all other leaves as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, params)


@dataclasses.dataclass(frozen=True)
class _InDtype:
    """Applies a network to parameters and images in a dtype; what it returns is float32."""

    apply: Apply
    dtype: str

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        activations = self.apply(cast(params, self.dtype), image.astype(self.dtype), taps)
        return {tap: a.astype(jnp.float32) for tap, a in activations.items()}


def in_dtype(model: Model, dtype: Any) -> Model:
    """A model whose parameters and activations are of another dtype, for what has no argument `dtype` of its own.

    Args:
        model: the network.
        dtype: "float32" or "bfloat16".

    Raises:
        InputError: for another dtype.

    Example:
        >>> model = from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) * p}, jnp.ones(3),
        ...                       image_shape=(8, 8, 3), taps=("logits",))
        >>> coarse = in_dtype(model, "bfloat16").activations(jnp.full((1, 8, 8, 3), 0.3), ["logits"])["logits"]
        >>> coarse.dtype, float(coarse[0, 0])
        (dtype('float32'), 0.30078125)
    """
    if str(jnp.dtype(dtype)) not in ("float32", "bfloat16"):
        raise InputError(f"activations are float32 or bfloat16, not {jnp.dtype(dtype)}")
    return dataclasses.replace(model, apply=_InDtype(model.apply, str(jnp.dtype(dtype))))
