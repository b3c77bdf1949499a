"""A loss from a formula: decorators that make a builder of losses out of a pure function of arrays.

    @of_layer("{layer}:{channel}", channel=index)
    def peak(activation, channel):
        return activation[..., channel].max()

`peak("block3", 5)` is then a loss; `peak("block3", [5, 6])` is one of two targets; `peak.formula(activation, 5)` is the
number itself. A formula takes first what it reads: the activation of one layer, a tuple of those of several, or the
image. What follows are numbers and arrays, each with a kind that says what one target takes and how it is checked; they
are traced, so that others of them run the same program. Keyword-only arguments are static options.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import check_index
from jaxopt_input.errors import InputError
from jaxopt_input.losses.algebra import Activations, Loss, Shapes, check_finite, check_layer, check_value
from jaxopt_input.targets import canonical, leaf, traced

if TYPE_CHECKING:  # what formulas take and return, as their annotations say it
    from jaxtyping import Array, Float, Int

    Scalar = Float[Array, ""]
    Number = Float[Array, ""] | float
    Index = Int[Array, ""]
    Activation = Float[Array, "*positions channels"]
    Map = Float[Array, "height width channels"]
    Logits = Float[Array, " classes"]
    Image = Float[Array, "height width colors"]

Prepare = Callable[..., Mapping[str, Any]]
Check = Callable[[str, Any, tuple[int, ...], str], None]


def _within(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    check_index(what, value, shape[-1], where)


def _as_long(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    if np.shape(value)[-1] != shape[-1]:
        raise InputError(f"{what} of length {np.shape(value)[-1]} for {where}, which has {shape[-1]} channels")


def digest(value: Any) -> str:
    """What stands for an array in a name: eight digits of its hash."""
    return hashlib.sha256(np.asarray(value).tobytes()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one argument of a formula may be.

    Attributes:
        rank: of one target's array; one axis more is the target axis.
        dtype: float32 or int32.
        noun: what errors call the argument; its own name if empty.
        check: raises an `InputError` for a finite value that does not fit, unless it is being traced; takes what to
            call it, the value, the shape of what the formula reads, and what to call that, such as "layer block3".
        text: what stands for one target's value in the loss's name.
        missing: what stands in the name for an optional argument that is None.
    """

    rank: int
    dtype: Any = jnp.float32
    noun: str = ""
    check: Check | None = None
    text: Callable[[Any], str] = digest
    missing: str = ""


index = Kind(0, jnp.int32, check=_within, text=lambda value: str(int(value)))  # of a channel or class
number = Kind(0, text=lambda value: f"{float(value):g}")
vector = Kind(1, check=_as_long)  # one number per channel


def array(rank: int) -> Kind:
    """The kind of arrays of a rank, with finite numbers."""
    return Kind(rank)


class Builder(Protocol):
    """Builds losses of one formula."""

    __name__: str
    formula: Callable[..., jax.Array]

    def __call__(self, *args: Any, **kwargs: Any) -> Loss: ...


Decorator = Callable[[Callable[..., jax.Array]], Builder]


@dataclasses.dataclass(frozen=True, eq=False)
class Definition:
    """What all losses of one builder share; two definitions are never equal."""

    formula: Callable[..., jax.Array]  # the function of arrays
    reads: str  # "layer", "layers" or "image", the name of what it takes first
    template: str  # of the canonical name
    kinds: Mapping[str, Kind]  # of its traced arguments, in order
    couples: bool = False  # whether it compares starts
    least: int = 1  # how many channels or classes it needs
    where: str = ""  # what errors call that which it reads; the layer if empty


@traced
class Formula(Loss):
    """A loss of a formula: the layers that it reads, its static options, and its traced arguments."""

    definition: Definition
    layers: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]
    arguments: dict[str, Any] = leaf(rank="ranks")

    @property
    def ranks(self) -> list[int]:
        """The rank of each leaf."""
        kinds, ordered = self.definition.kinds, sorted(self.arguments.items())  # as JAX orders a dictionary
        return [kinds[name].rank for name, value in ordered for _ in jax.tree.leaves(value)]

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.layers))

    @property
    def couples(self) -> bool:
        return self.definition.couples

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        read = tuple(jnp.asarray(activations[layer]) for layer in self.layers)
        first = {"layer": read[:1], "layers": (read,), "image": (image,)}[self.definition.reads]
        arrays = jax.tree.map(jnp.asarray, self.arguments)
        return self.definition.formula(*first, **arrays, **dict(self.options))

    def resolve(self, shapes: Shapes, image_shape: Sequence[int] | None) -> Loss:
        for layer in self.layers:
            self._check_arguments(check_layer(layer, shapes), self.definition.where or f"layer {layer}")
        if image_shape and not self.layers:
            self._check_arguments(tuple(image_shape), "the image")
        if image_shape or self.layers:
            check_value(self, shapes, image_shape or ())
        return self

    def _check_arguments(self, shape: tuple[int, ...], where: str) -> None:
        if shape[-1] < (least := self.definition.least):
            raise InputError(f"{self} needs at least {least} classes, {where} has {shape[-1]}: take another loss")
        for name, value in self.arguments.items():
            kind = self.definition.kinds[name]
            if value is None or isinstance(value, jax.core.Tracer):
                continue
            check_finite(kind.noun or name, value)
            if kind.check:
                kind.check(kind.noun or name, value, shape, where)

    def name(self) -> str:
        texts = {"layer": ",".join(self.layers), "layers": ",".join(self.layers)} | dict(self.options)
        for name, value in self.arguments.items():
            if f"{{{name}}}" not in self.definition.template:
                continue
            if isinstance(value, jax.core.Tracer):
                raise InputError(f"{name} of {self} names the target, and its random numbers: it cannot be traced")
            kind = self.definition.kinds[name]
            texts[name] = kind.missing if value is None else kind.text(value)
        return self.definition.template.format(**texts)

    def __str__(self) -> str:
        return f"the loss {self.definition.formula.__name__}"


def of_layer(name: str, /, *, prepare: Prepare | None = None, couples: bool = False, **kinds: Kind) -> Decorator:
    """Make a builder of losses of one layer out of a function of its activation and further arguments.

    Args:
        name: a template of the canonical name, in which "{layer}" and the names of arguments are replaced. A target's
            random numbers derive from this name; "" makes a regularizer, which does not count for it.
        prepare: turns the arguments of the builder after the layer into those of the formula, by name, where they
            differ: statistics of a picture, for example, which are then computed once.
        couples: whether the formula compares the starts of a target, along the vmap axis named "starts".
        kinds: of each argument of the formula after the activation: `index`, `number`, `vector`, `array(rank)`, or a
            `Kind`. Those with the default None are optional. Keyword-only arguments without a kind are static.

    Returns:
        A decorator. What it returns takes the layer and the further arguments and returns a loss; its `formula` is
        the function itself.

    Raises:
        InputError: for an argument of the formula without a kind, or a name of none. The builder raises one for
            values of another type or rank; against a model, for those that do not fit the layer.

    Example:
        >>> @of_layer("{layer}:top-{share}", share=number)
        ... def top_share(activation, share):
        ...     flat = activation.ravel()
        ...     return jnp.mean(jnp.where(flat >= jnp.quantile(flat, 1 - share), flat, 0.0))
        >>> float(top_share("a", 0.5)({"a": jnp.array([0.0, 1.0, 2.0, 3.0])}, None))
        1.25
        >>> float(top_share.formula(jnp.array([0.0, 1.0, 2.0, 3.0]), 1.0))
        1.5
    """
    return _decorator("layer", name, kinds, prepare, couples=couples)


def of_layers(name: str, /, *, prepare: Prepare | None = None, couples: bool = False, **kinds: Kind) -> Decorator:
    """Make a builder of losses of several layers; the formula takes the tuple of their activations first.

    Args:
        name, prepare, couples, kinds: as of `of_layer`, with "{layers}" in the template; the builder takes a sequence
            of layers first.

    Raises:
        InputError: as `of_layer`.

    Example:
        >>> @of_layers("{layers}:ratio")
        ... def ratio(activations):
        ...     first, second = activations
        ...     return first.mean() / second.mean()
        >>> float(ratio(["a", "b"])({"a": jnp.array([3.0]), "b": jnp.array([2.0])}, None))
        1.5
    """
    return _decorator("layers", name, kinds, prepare, couples=couples)


def of_logits(name: str, /, *, prepare: Prepare | None = None, classes: int = 1, **kinds: Kind) -> Decorator:
    """Make a builder of losses of the logits; it takes no layer.

    Args:
        name, prepare, kinds: as of `of_layer`.
        classes: how many classes the formula needs.

    Raises:
        InputError: as `of_layer`; against a model with fewer classes.

    Example:
        >>> @of_logits("class:{label}", label=index)
        ... def excess(logits, label):
        ...     return logits[label] - logits.mean()
        >>> float(excess(1)({"logits": jnp.array([1.0, 3.0])}, None))
        1.0
    """
    return _decorator("layer", name, kinds, prepare, layers=("logits",), least=classes, where="the model")


def of_image(name: str = "", /, *, prepare: Prepare | None = None, **kinds: Kind) -> Decorator:
    """Make a builder of losses of the image `[H, W, C]` alone: regularizers.

    Args:
        name, prepare, kinds: as of `of_layer`.

    Raises:
        InputError: as `of_layer`.

    Example:
        >>> @of_image(level=number)
        ... def darkness(image, level):
        ...     return jnp.maximum(image - level, 0.0).sum()
        >>> float(darkness(0.5)({}, jnp.full((2, 2, 1), 0.75)))
        1.0
    """
    return _decorator("image", name, kinds, prepare, layers=())


def _decorator(
    reads: str,
    template: str,
    kinds: Mapping[str, Kind],
    prepare: Prepare | None,
    layers: tuple[str, ...] | None = None,
    **rest: Any,
) -> Decorator:
    """As `of_layer`; the builder takes the layers first unless they are fixed."""

    def decorate(formula: Callable[..., jax.Array]) -> Builder:
        parameters = _check_definition(formula, template, kinds)
        ordered = {name: kinds[name] for name in parameters if name in kinds}
        definition = Definition(formula, reads, template, ordered, **rest)
        own = inspect.signature(prepare or formula).parameters.values()
        signature = _builder_signature(list(own)[0 if prepare else 1 :], kinds, reads if layers is None else None)

        @functools.wraps(formula)
        def build(*args: Any, **kwargs: Any) -> Loss:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{formula.__name__}(): {error}") from None
            bound.apply_defaults()
            arguments = dict(bound.arguments)
            read = _layers(arguments.pop(reads), reads) if layers is None else layers
            if prepare:
                defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
                arguments = defaults | dict(prepare(**arguments))
            return _formula(definition, read, arguments)

        build.__signature__ = signature  # type: ignore[attr-defined]
        build.formula = formula  # type: ignore[attr-defined]
        return build  # type: ignore[return-value]

    return decorate


def _formula(definition: Definition, layers: tuple[str, ...], arguments: Mapping[str, Any]) -> Formula:
    """The loss of checked arguments, which are canonical arrays from here on."""
    parameters, arrays = inspect.signature(definition.formula).parameters, {}
    for name, kind in definition.kinds.items():
        left_out = arguments[name] is None and parameters[name].default is None
        what = kind.noun or name
        arrays[name] = None if left_out else canonical(arguments[name], kind.rank, kind.dtype, what)
    options = tuple((name, value) for name, value in arguments.items() if name not in definition.kinds)
    try:
        hash(options)
    except TypeError as error:
        raise InputError(f"{definition.formula.__name__}: static options must be hashable, not {options}") from error
    return Formula(definition, layers, options, arrays)


def _layers(value: Any, reads: str) -> tuple[str, ...]:
    layers = (value,) if reads == "layer" else value
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        wanted = "the name of a layer" if reads == "layer" else "a sequence of names of layers"
        raise InputError(f"a loss takes {wanted} first, not {value!r}")
    return tuple(layers)


def _check_definition(
    formula: Callable[..., jax.Array], template: str, kinds: Mapping[str, Kind]
) -> dict[str, inspect.Parameter]:
    """The parameters of a formula after the first; an `InputError` where they and their kinds do not match."""
    if not inspect.isfunction(formula):
        raise InputError(f"a formula is a function of arrays, not {formula!r}")
    what = f"the formula {formula.__name__}"
    first, *rest = inspect.signature(formula).parameters.values() or (None,)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise InputError(f"{what} takes what it reads, such as an activation, as its first argument")
    parameters = {parameter.name: parameter for parameter in rest}
    for name, kind in kinds.items():
        if not isinstance(kind, Kind):
            raise InputError(f"{name} has a kind such as losses.index, number, vector or array(rank), not {kind!r}")
        if name not in parameters:
            raise InputError(f"{what} has no argument {name!r}; it takes {', '.join(parameters) or 'no more'}")
    for name, parameter in parameters.items():
        if name not in kinds and parameter.kind is not parameter.KEYWORD_ONLY:
            raise InputError(f"{what}: say what {name!r} is, such as {name}=losses.number, or make it keyword-only")
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if not all(f"{{{field}}}" in template for field in fields):
        raise InputError(
            f"{what}: its name {template!r} takes bare names in braces; a kind's `text` says how they look"
        )
    if strange := fields - {"layer", "layers", *parameters}:
        raise InputError(f"{what}: its name {template!r} mentions {', '.join(sorted(strange))}, which is no argument")
    return parameters


def _builder_signature(
    parameters: Sequence[inspect.Parameter], kinds: Mapping[str, Kind], reads: str | None
) -> inspect.Signature:
    """The layers that the builder reads, unless they are fixed, then what its formula takes."""
    leading = []
    if reads is not None:
        annotation = str if reads == "layer" else Sequence[str]
        leading = [inspect.Parameter(reads, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)]
    following = [p.replace(annotation="ArrayLike") if p.name in kinds else p for p in parameters]
    return inspect.Signature([*leading, *following], return_annotation=Loss)
