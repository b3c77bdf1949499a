"""The Model contract, models of plain functions, and the listing of layers.

A model is `apply(params, image, taps) -> {tap: activation}`, its `params`, and its `info`. A *tap* is the name of a
layer's output; `"logits"` is the classifier's. Images are float32 `[N, H, W, C]` in [0, 1]: preprocessing belongs to
the model. Under jit, dead-code elimination removes what no requested tap needs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import as_shape
from jaxopt_input.errors import MOST, InputError, InputWarning, lookup, one_line, printable, unknown

Apply = Callable[[Any, jax.Array, tuple[str, ...]], dict[str, jax.Array]]
LINES = 8  # layers that a printed model lists


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Facts about a model.

    Attributes:
        image_shape: (height, width, channels) of its images.
        taps: the names of its layers, in order of depth.
        labels: one name per class, or nothing.
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
        """The index of a class by label, synonym, WordNet id or index.

        Upper case, spaces and underscores make no difference. A label wins over another class's synonym, and either
        over an index of the same digits, with an `InputWarning`. An integer is an index; so are the digits of a class
        where the network has no labels.

        Raises:
            InputError: for an unknown class, offering the nearest names, and for a name that classes share.

        Example:
            >>> info = ModelInfo((8, 8, 3), ("logits",), ("ant", "polar bear"), (("n1",), ("n2", "ice bear")))
            >>> info.class_index("Ice_bear"), info.class_index("n1"), info.class_index("1")
            (1, 0, 1)
        """
        text, classes = str(name).strip(), len(self.labels)
        index = int(text) if re.fullmatch("-?[0-9]{1,18}", text) else None
        if not classes:
            if index is not None and index >= 0:
                return index
            raise InputError(f"{self.name} has no class labels: give it `labels`, or name a layer's channel instead")
        named = [] if isinstance(name, int | np.integer) else self._named(text)
        if len(named) > 1:
            raise InputError(
                f"{len(named)} classes of {self.name} are called '{printable(text, MOST)}': "
                f"{', '.join(map(self._distinct, named))}; name one by its index or its WordNet id"
            )
        if named:
            if index not in (None, named[0]) and 0 <= index < classes:
                warnings.warn(
                    f"class {text} is the label of index {named[0]}; index {text} has the label "
                    f"{printable(self.labels[index], MOST)}",
                    InputWarning,
                    stacklevel=2,
                )
            return named[0]
        if index is None:
            raise unknown("class", text, (*self.labels, *(name for group in self.synonyms for name in group)))
        if not 0 <= index < classes:
            raise InputError(f"class {text} does not exist: {self.name} has classes 0 to {classes - 1}")
        return index

    def _named(self, text: str) -> list[int]:
        """The classes of a name."""
        if not self.synonyms and self.labels.count(text) == 1:  # letters, say, that differ in their case alone
            return [self.labels.index(text)]
        folded = _fold(text)
        for kind in (zip(self.labels), self.synonyms):  # a label wins over another class's synonym
            if same := [index for index, group in enumerate(kind) if folded in map(_fold, group)]:
                return same
        return []

    def _distinct(self, index: int) -> str:
        """An index, with the first of the further names of the class."""
        further = self.synonyms[index][:1] if self.synonyms else ()
        return " ".join([str(index), *(f"({name})" for name in further)])

    def label(self, index: int) -> str | None:
        """The label of a class, or None for a model without labels."""
        return self.labels[index] if self.labels else None


@functools.lru_cache(maxsize=1 << 14)
def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


@dataclasses.dataclass(frozen=True)
class Model:
    """A frozen network: a pure function, its parameters, and facts about it.

    Attributes:
        apply: `(params, image [N, H, W, C] in [0, 1], taps) -> {tap: activation [N, ...]}`.
        params: any pytree of arrays; traced, so other weights do not recompile.
        info: its name, image size, layers and labels.
    """

    apply: Apply
    params: Any
    info: ModelInfo

    def __repr__(self) -> str:
        """About ten lines: the name, image size, classes, parameters, and the layers, those in the middle left out.

        Example:
            >>> from_function(lambda p, x, taps: {"a": x, "logits": x.mean((1, 2)) * p}, jnp.ones(3),
            ...               image_shape=(8, 8, 3), taps=("a", "logits"), labels=("red", "green", "blue"))
            model: images 8 x 8 x 3, 3 classes, 3 parameters
              a       8 x 8 x 3
              logits  3
        """
        info = self.info
        try:
            shapes: dict[str, tuple[int, ...]] = self.layers()
        except InputError:  # a model whose images are larger than those that it was made for may have empty layers
            shapes = dict.fromkeys(info.taps, ())
        count = sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(self.params))
        facts = [f"images {_sides(info.image_shape)}"]
        if info.labels:
            facts.append(f"{len(info.labels)} classes")
        facts.append(f"{count:,} parameters")
        width = max(map(len, shapes))
        lines = [f"  {tap:{width}}  {_sides(shape)}".rstrip() for tap, shape in shapes.items()]
        if len(lines) > LINES:
            left_out = f"  … {len(lines) - LINES + 1} more: model.info.taps"
            lines = [*lines[: LINES // 2], left_out, *lines[len(lines) - LINES // 2 + 1 :]]
        return "\n".join([f"{info.name}: {', '.join(facts)}", *lines])

    def layers(self, image_shape: tuple[int, int, int] | None = None) -> dict[str, tuple[int, ...]]:
        """The shape of every tap for one image, without the batch axis, in order of depth.

        Args:
            image_shape: (height, width, channels); the model's own if None.

        Raises:
            InputError: if the network cannot take such an image.

        Example:
            >>> model = from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) * p}, jnp.ones(3),
            ...                       image_shape=(8, 8, 3), taps=("logits",))
            >>> model.layers()
            {'logits': (3,)}
        """
        shape = tuple(image_shape or self.info.image_shape)
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            out = jax.eval_shape(_jitted(self.apply, self.info.taps), self.params, image)
        except Exception as error:
            own = type(error).__module__.startswith(("flax", "haiku", "equinox"))  # such as ScopeParamShapeError
            if not own and not isinstance(error, TypeError | ValueError | AssertionError):
                raise
            raise InputError(f"{self.info.name} cannot take an image of shape {shape}: {one_line(error)}") from error
        if not isinstance(out, Mapping):
            raise InputError(
                f"the function of {self.info.name} returns a {type(out).__name__}: it should return a dictionary "
                '{tap: activation}, such as {"logits": logits}'
            )
        if other := [tap for tap in self.info.taps if not hasattr(out[tap], "shape")]:
            raise InputError(
                f"layer {other[0]} of {self.info.name} is of type {type(out[other[0]]).__name__}: it should be one "
                "array, and what else the network returns a layer of its own name"
            )
        shapes = {tap: out[tap].shape[1:] for tap in self.info.taps}
        if empty := [tap for tap, s in shapes.items() if 0 in s]:
            raise InputError(f"{self.info.name} cannot take an image of shape {shape}: layer {empty[0]} would be empty")
        return shapes

    def activations(self, images: Any, taps: Sequence[str]) -> dict[str, jax.Array]:
        """The activations of images, compiled once for a set of taps and a shape.

        Args:
            images: `[N, H, W, C]` in [0, 1].
            taps: the layers.

        Returns:
            `{tap: [N, ...]}`.

        Raises:
            InputError: for an unknown layer, or an image that the network cannot take.

        Example:
            >>> model = from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) * p}, jnp.ones(3),
            ...                       image_shape=(8, 8, 3), taps=("logits",))
            >>> model.activations(jnp.ones((2, 8, 8, 3)), ["logits"])["logits"].tolist()
            [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
        """
        batch = jnp.asarray(images, jnp.float32)
        if batch.ndim != 4:
            raise InputError(f"images are [N, H, W, C], not of shape {batch.shape}")
        shapes = self.layers(as_shape(batch.shape[1:]))
        for tap in taps:
            lookup("layer", tap, shapes)
        return _jitted(self.apply, tuple(taps))(self.params, batch)


def _sides(shape: Sequence[int]) -> str:
    """A shape as text.

    >>> _sides((8, 8, 3))
    '8 x 8 x 3'
    """
    return " x ".join(map(str, shape))


@functools.lru_cache(maxsize=64)
def _jitted(apply: Apply, taps: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:
    """One jitted function per model, so that its abstract evaluation is traced once for each shape."""
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
        >>> def apply(params, image, taps):
        ...     return {"logits": image.mean((1, 2)) @ params}
        >>> model = from_function(apply, jnp.ones((3, 2)), image_shape=(8, 8, 3), taps=("logits",), labels=("a", "b"))
        >>> model.info.class_index("b")
        1
    """
    if not taps:
        raise InputError("a model needs at least one tap")
    model = Model(apply, params, ModelInfo(as_shape(image_shape), tuple(taps), tuple(labels), name=name))
    try:
        shapes = model.layers()
    except KeyError as error:
        raise InputError(f"the function of {name} does not return the tap {error}") from error
    if labels and "logits" in shapes and shapes["logits"] != (len(labels),):
        raise InputError(f"{len(labels)} labels for logits of shape {shapes['logits']}")
    return model


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


def restricted(model: Model, taps: tuple[str, ...]) -> Model:
    """The model with these layers alone: deeper ones may be empty for a small image without harm."""
    return dataclasses.replace(model, info=dataclasses.replace(model.info, taps=taps))
