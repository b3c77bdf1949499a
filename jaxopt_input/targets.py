"""Pytrees whose leaves declare their rank: one axis more is the *target* axis.

A loss, a projection or an optimizer is a frozen dataclass. Fields made with `leaf` are traced arrays of a declared
rank; every other field is static unless it is made with `child`, which holds further such dataclasses. A leaf with one
axis more than its rank holds one value per target, so that `channel("fire4", jnp.arange(256))` is 256 targets in one
program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxopt_input.errors import InputError

T = TypeVar("T")
Numbers = ArrayLike | Sequence[Any]
"""A number, or one per target, as a caller may write it: an array, a sequence, a tracer."""


def leaf(rank: int | str, **kwargs: Any) -> Any:
    """A dataclass field that holds traced arrays of this rank, or of one more: one array per target.

    Args:
        rank: of one target's arrays; or the name of the attribute that holds the rank of each array of the field.
        kwargs: as of `dataclasses.field`.
    """
    return dataclasses.field(metadata={"rank": rank}, **kwargs)


def child(**kwargs: Any) -> Any:
    """A dataclass field that holds further dataclasses of this kind, or a tuple of them."""
    return dataclasses.field(metadata={"child": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(leaf, child, dataclasses.field))
def traced(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree: `leaf` and `child` fields are data, all others static.

    Example:
        >>> @traced
        ... class Scale:
        ...     name: str
        ...     factor: jax.Array = leaf(rank=0)
        >>> jax.tree.leaves(Scale("a", np.float32(2)))
        [np.float32(2.0)]
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return register(cls, static=tuple(f.name for f in fields if not f.metadata))


def register(cls: type[T], static: tuple[str, ...]) -> type[T]:
    """Make a dataclass a pytree whose fields are data, but for the static ones, which must be hashable.

    The class itself is part of the static data. `jax.tree_util.register_dataclass` leaves it out: the treedefs of two
    classes with equal fields then compare equal, and JAX now and then runs the program of the other class.

    Args:
        cls: a dataclass.
        static: the names of its static fields.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Scale:
        ...     name: str
        ...     factor: float
        >>> jax.tree.leaves(register(Scale, static=("name",))("a", 2.0))
        [2.0]
    """
    data = tuple(f.name for f in dataclasses.fields(cls) if f.name not in static)  # type: ignore[arg-type]

    def flatten(node: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(node, name) for name in data), (cls, *(getattr(node, name) for name in static))

    def flatten_with_keys(node: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, kind = flatten(node)
        return tuple(zip(map(jax.tree_util.GetAttrKey, data), children, strict=True)), kind

    def unflatten(kind: tuple[Any, ...], children: Iterable[Any]) -> T:
        node = object.__new__(cls)  # past any check of the constructor: JAX also puts what is no array into a tree
        for name, value in zip((*static, *data), (*kind[1:], *children), strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Static:
    """A pytree without leaves, static as a whole. Two are equal whose class and attributes are equal."""

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_static(cls)

    def _identity(self) -> tuple[Any, ...]:
        own = vars(self).items()
        parts = ((k, (v.shape, str(v.dtype), v.tobytes()) if isinstance(v, np.ndarray) else v) for k, v in own)
        return type(self), *sorted(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())


def canonical(value: Any, rank: int, dtype: Any, what: str) -> Any:
    """A value as an array of this dtype and of this rank or one more; never weakly typed.

    Args:
        value: a number, sequence, array or tracer.
        rank: the rank of one target's value.
        dtype: `jnp.float32` or `jnp.int32`.
        what: names the value in errors.

    Returns:
        A NumPy array, or a JAX array where `value` is a tracer.

    Raises:
        InputError: for another rank, an empty target axis, or numbers that the dtype cannot hold.

    Example:
        >>> canonical([1, 2], 0, jnp.int32, "channel")
        array([1, 2], dtype=int32)
    """
    if isinstance(value, jax.core.Tracer):
        array: Any = jnp.asarray(value, dtype)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # ragged
            raise InputError(f"{what} must be a number or an array of them, not {value!r}") from error
        wanted = np.integer if jnp.issubdtype(dtype, jnp.integer) else np.number
        if not np.issubdtype(array.dtype, wanted) or np.iscomplexobj(array):
            kind = "an integer" if wanted is np.integer else "a real number"
            raise InputError(f"{what} must be {kind} or an array of them, not {value!r}")
        if wanted is np.integer and array.size:
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
            if array.min() < least or array.max() > most:
                raise InputError(f"{what} must be from {least} to {most}, not {value!r}")
        array = np.asarray(array, dtype)
    if array.ndim not in (rank, rank + 1):
        raise InputError(f"{what} has shape {array.shape}; one target takes rank {rank}, many targets one axis more")
    if array.ndim == rank + 1 and not array.shape[0]:
        raise InputError(f"{what} has an empty target axis: give at least one target")
    return array


def _ranks(node: Any) -> list[int]:
    """The declared rank of each leaf, in the order of `jax.tree.leaves`."""
    if isinstance(node, tuple):
        return [rank for part in node for rank in _ranks(part)]
    out: list[int] = []
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        rank = field.metadata.get("rank")
        if isinstance(rank, str):
            out += getattr(node, rank)
        elif rank is not None:
            out += [rank] * len(jax.tree.leaves(value))
        elif "child" in field.metadata:
            out += _ranks(value)
    return out


def has_target_axis(tree: object) -> list[bool]:
    """For each leaf, whether it holds one value per target."""
    return [np.ndim(value) > rank for value, rank in zip(jax.tree.leaves(tree), _ranks(tree), strict=True)]


def count(tree: object) -> int:
    """The number of targets: the length of the target axes, 1 where no leaf has one.

    Raises:
        InputError: if leaves disagree.

    Example:
        >>> import jaxopt_input as joi
        >>> count(joi.losses.channel("fire4", [3, 5, 8]))
        3
    """
    pairs = zip(jax.tree.leaves(tree), has_target_axis(tree), strict=True)
    lengths = {np.shape(value)[0] for value, many in pairs if many}
    if len(lengths) > 1:
        raise InputError(f"target axes of lengths {sorted(lengths)}: every array must hold one value per target")
    return lengths.pop() if lengths else 1


def select(tree: T, index: int | np.ndarray | jax.Array) -> T:
    """The part of a tree that belongs to one target (an integer) or to several (an array of indices)."""
    leaves, treedef = jax.tree.flatten(tree)
    many = has_target_axis(tree)
    return jax.tree.unflatten(treedef, [value[index] if m else value for value, m in zip(leaves, many, strict=True)])


def vmap_lanes(function: Callable[..., Any], tree: object, lanes: np.ndarray | jax.Array) -> Callable[..., Any]:
    """`function(tree, *rest)` mapped over lanes, lane n with the leaves of target `lanes[n]`.

    Leaves without a target axis are shared, not copied for each lane.

    Args:
        function: takes one target's tree and one lane's slice of each further argument.
        tree: a tree of `traced` dataclasses (or a tuple of them).
        lanes: `[N]` int32, the target of each lane.

    Returns:
        A function of the further arguments, each with a leading axis of length N.
    """
    leaves, treedef = jax.tree.flatten(select(tree, lanes))
    axes = [0 if many else None for many in has_target_axis(tree)]

    def mapped(*rest: Any) -> Any:
        def of_lane(leaves: list[Any], *rest: Any) -> Any:
            return function(jax.tree.unflatten(treedef, leaves), *rest)

        return jax.vmap(of_lane, in_axes=(axes, *[0] * len(rest)))(leaves, *rest)

    return mapped
