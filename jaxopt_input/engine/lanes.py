"""Lanes: how many independent problems are laid out over rounds and devices, and how their best are kept.

A lane is one row of the batch: one (target, start) of `minimize`, one (budget, restart, image) of an attack. Lanes do
not see one another, so any number of them runs in rounds of one fixed shape, each device a chunk of its own:

    grid ─► Layout.rounds ─► share, spread (to the devices) ─► on_each_device(f) ─► device_get ─► Rows or Best (host)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_input.checks import count
from jaxopt_input.engine.memory import parse_bytes
from jaxopt_input.errors import InputError

if TYPE_CHECKING:
    from jaxopt_input.engine.solution import Solution

AXIS = "starts"  # of the mesh: lanes are shared out along it
MOST = 32  # lanes that a device runs at once, unless asked for
_LANES, _SHARED = PartitionSpec(AXIS), PartitionSpec()


# ---- resources -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a computation may use, and whom it tells how far it is.

    Attributes:
        devices: that share the lanes; all local ones if None.
        chunk: lanes that a device runs at once, never more than it has; at most 32 if None. The last is padded.
        memory: bytes of a device that the work may take, a number or a text such as "4GiB"; with `chunk` None, no
            more lanes than fit run at once.
        dtype: of the network's parameters and activations, float32 or bfloat16; images and losses stay float32.
        progress: called as (done, in all, mean loss) by `minimize`, as (lanes done, lanes in all) by attacks.
        receive: called with the `Solution` of each chunk as it leaves the devices, where `minimize` runs several and
            keeps all starts.

    Raises:
        InputError: for anything else.

    Example:
        >>> Resources(memory="1GiB", chunk=8).memory
        1073741824
    """

    devices: Sequence[jax.Device] | None = None
    chunk: int | None = None
    memory: int | str | None = None
    dtype: Any = "float32"
    progress: Callable[..., None] | None = dataclasses.field(default=None, compare=False)
    receive: Callable[[Solution], Any] | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        set_field = functools.partial(object.__setattr__, self)
        if self.devices is not None:
            devices = (self.devices,) if isinstance(self.devices, jax.Device) else self.devices
            if not isinstance(devices, Sequence) or not devices or not all(isinstance(d, jax.Device) for d in devices):
                raise InputError(f"devices are some of jax.local_devices(), not {self.devices!r}")
            if len(set(devices)) < len(devices):
                raise InputError(f"each device is given once, not {self.devices!r}")
            set_field("devices", tuple(devices))
        if self.chunk is not None:
            set_field("chunk", count("chunk", self.chunk))
        if self.memory is not None:
            text = isinstance(self.memory, str)
            set_field("memory", parse_bytes(self.memory) if text else count("memory", self.memory, most=1 << 62))  # type: ignore[arg-type]
        try:
            dtype = str(jnp.dtype(self.dtype))
        except TypeError:
            dtype = repr(self.dtype)
        if dtype not in ("float32", "bfloat16"):
            raise InputError(f"activations are float32 or bfloat16, not {dtype}")
        set_field("dtype", dtype)
        if self.progress is not None and not callable(self.progress):
            raise InputError(f"progress is a function of (done, in all, …), not {self.progress!r}")
        if self.receive is not None and not callable(self.receive):
            raise InputError(f"receive is a function of a Solution, not {self.receive!r}")

    @property
    def local(self) -> tuple[jax.Device, ...]:
        """The devices asked for, or all local ones."""
        return tuple(self.devices or jax.local_devices())

    def part(self, number: int, parts: int) -> Resources:
        """The resources of one of several equal parts of the work: its progress is that of the whole.

        Example:
            >>> Resources(progress=lambda done, total: print(done, "of", total)).part(1, 3).progress(2, 10)
            12 of 30
        """
        progress = self.progress
        if progress is None or parts == 1:
            return self
        return dataclasses.replace(
            self, progress=lambda done, total, *rest: progress(number * total + done, parts * total, *rest)
        )

    def through(self, function: Callable[[Solution], Solution]) -> Resources:
        """The resources whose `receive` is called with what a function makes of each solution."""
        receive = self.receive
        return self if receive is None else dataclasses.replace(self, receive=lambda part: receive(function(part)))

    def share(self, before: int, steps: int, total: int) -> Resources:
        """The resources of `steps` of `total` steps, after the first `before`: its progress is that of the whole."""
        progress = self.progress
        if progress is None:
            return self
        return dataclasses.replace(
            self, progress=lambda done, of, *rest: progress(before + done * steps // of, total, *rest)
        )


def resources(on: Resources | None) -> Resources:
    """The resources asked for, all there are if None; an `InputError` for anything else."""
    if not isinstance(on, Resources | None):
        raise InputError(f"on= takes joi.Resources(devices=…, chunk=…, memory=…), not {on!r}")
    return on or Resources()


# ---- layout ----------------------------------------------------------------------------------------------------------


class Round(NamedTuple):
    """The lanes of one call of a program.

    Attributes:
        lanes: `[lanes at once]` int, the number of each lane; the last lane again as padding.
        real: how many of them are no padding.
    """

    lanes: np.ndarray
    real: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """A grid of lanes in rounds of one shape; lanes are numbered along the last axis of the grid first.

    Attributes:
        grid: its sides, such as (targets, starts).
        chunk: lanes that a device runs at once.
        devices: that share a round.

    Example:
        >>> layout = Layout((2, 3), 4, tuple(jax.local_devices()[:1]))
        >>> [(r.lanes.tolist(), r.real) for r in layout.rounds]
        [([0, 1, 2, 3], 4), ([4, 5, 5, 5], 2)]
        >>> layout.places(np.array([4, 5]))
        (array([1, 1]), array([1, 2]))
    """

    grid: tuple[int, ...]
    chunk: int
    devices: tuple[jax.Device, ...]

    @property
    def total(self) -> int:
        """The number of lanes."""
        return math.prod(self.grid)

    @property
    def at_once(self) -> int:
        """Lanes in a round, padding included."""
        return self.chunk * len(self.devices)

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The lanes of each round."""
        return tuple(rounds(self.total, self.at_once))

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices along the axis `starts`."""
        return Mesh(np.array(self.devices), (AXIS,))

    def places(self, lanes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where lanes are in the grid, one array of indices per side."""
        return np.unravel_index(lanes, self.grid)

    def share(self, tree: Any) -> Any:
        """A tree on every device whole. Tracers stay as they are: `on_each_device` says where they go."""
        return _put(tree, NamedSharding(self.mesh, _SHARED))

    def spread(self, tree: Any) -> Any:
        """A tree with one row per lane of a round, shared out among the devices. Tracers stay as they are."""
        return _put(tree, NamedSharding(self.mesh, _LANES))


def layout(grid: Sequence[int], on: Resources, *, most: int = MOST, group: int = 1) -> Layout:
    """How the lanes of a grid run: as asked for, or in equal rounds of at most `most` lanes per device.

    Args:
        grid: its sides.
        on: the resources; `memory` is for the caller to turn into `most`.
        most: lanes that fit a device.
        group: neighboring lanes that must run together on one device, such as the coupled starts of a target.

    Raises:
        InputError: for a chunk that cuts through a group.

    Example:
        >>> on = Resources(devices=jax.local_devices()[:1])
        >>> layout((100, 1), on).chunk, layout((4, 6), on, group=6, most=8).chunk
        (25, 12)
        >>> layout((3,), dataclasses.replace(on, chunk=10**6)).chunk
        3
    """
    devices, chunk = on.local, on.chunk
    share = -(-math.prod(grid) // len(devices))
    if chunk is None:
        chunk = -(-share // -(-share // most))
        chunk = -(-chunk // group) * group
    elif chunk % group:
        fits = -(-chunk // group) * group
        raise InputError(f"the {group} starts of a target are optimized together: raise chunk from {chunk} to {fits}")
    return Layout(tuple(grid), min(chunk, -(-share // group) * group), devices)


def rounds(total: int, at_once: int) -> Iterator[Round]:
    """All of `total` lanes in rounds of `at_once`, the last padded with the last lane.

    Example:
        >>> [r.lanes.tolist() for r in rounds(3, 2)]
        [[0, 1], [2, 2]]
    """
    for begin in range(0, total, at_once):
        lanes = np.minimum(np.arange(begin, begin + at_once), total - 1)
        yield Round(lanes, min(at_once, total - begin))


def on_each_device(function: Callable[..., Any], mesh: Mesh, shared: int) -> Callable[..., Any]:
    """A function of one device's lanes as one of all lanes; without any collective.

    Args:
        function: its first `shared` arguments are whole on each device, the others have one row per lane, as has all
            that it returns.
        mesh: of `Layout.mesh`.
        shared: how many.
    """

    def call(*arguments: Any) -> Any:
        specs = (*[_SHARED] * shared, *[_LANES] * (len(arguments) - shared))
        wrapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_LANES, check_vma=False)
        return wrapped(*arguments)

    return call


def is_traced(*trees: Any) -> bool:
    """Whether anything in these trees is traced, so that its numbers cannot be read."""
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(trees))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    concrete = [n for n, x in enumerate(leaves) if not isinstance(x, jax.core.Tracer)]
    for n, x in zip(concrete, jax.device_put([leaves[n] for n in concrete], sharding), strict=True):
        leaves[n] = x
    return jax.tree.unflatten(treedef, leaves)


# ---- keys ------------------------------------------------------------------------------------------------------------


def identity(name: str) -> int:
    """A stable 32-bit hash of a canonical name.

    Example:
        >>> identity("class:60")
        588625623
    """
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:4], "big")


def keys(base: jax.Array, identities: jax.Array, numbers: jax.Array) -> jax.Array:
    """`[L]` keys of lanes: fold_in(fold_in(base, identity), number), whatever else is in the batch.

    Args:
        base: the caller's key.
        identities: `[L]` uint32, of each lane's target or image.
        numbers: `[L]` uint32, of its start or restart.
    """
    return jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(base, i), n))(identities, numbers)


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows(values: jax.Array, like: jax.Array) -> jax.Array:
    """`[L]` as `[L, 1, …]`, to multiply or select the rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def where(mask: jax.Array, new: Any, old: Any) -> Any:
    """The rows of `new` where the mask `[L]` holds, of `old` elsewhere; for whole pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(rows(mask, a), a, b), new, old)


def flat(x: jax.Array) -> jax.Array:
    """`[L, …]` as `[L, n]`."""
    return x.reshape(x.shape[0], -1)


def dot(a: Any, b: Any) -> jax.Array:
    """`[L]`: the inner product of each lane's rows, over all leaves.

    Example:
        >>> dot({"a": jnp.ones((2, 3))}, {"a": jnp.full((2, 3), 2.0)}).tolist()
        [6.0, 6.0]
    """
    products = jax.tree.map(lambda x, y: jnp.sum(flat(x * y), -1), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def any_row(predicate: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    """`[L]`: whether the predicate holds for any number of a lane.

    Example:
        >>> any_row(lambda x: x > 1, (jnp.array([0.0, 2.0]), jnp.zeros((2, 3)))).tolist()
        [False, True]
    """
    return functools.reduce(jnp.logical_or, [flat(predicate(x)).any(-1) for x in jax.tree.leaves(tree)])


# ---- best of ---------------------------------------------------------------------------------------------------------


def ahead(success: Any, merit: Any, other_success: Any, other_merit: Any) -> Any:
    """Whether lanes beat others: a success comes first, then the higher merit; NaN is less than any. Equal is no more.

    Args:
        success, other_success: bool, NumPy or JAX.
        merit, other_merit: float.

    Example:
        >>> ahead(np.array([True, True]), np.array([-5.0, 1.0]), np.array([False, True]), np.array([9.0, 1.0])).tolist()
        [True, False]
    """
    is_nan = np.isnan if isinstance(merit, np.ndarray | np.generic) else jnp.isnan
    higher = (merit > other_merit) | (is_nan(other_merit) & ~is_nan(merit))
    return (success & ~other_success) | ((success == other_success) & higher)


def top(kept: Sequence[jax.Array], new: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """The k highest of each row of both, on the device; of equal ones those of `kept` come first.

    Args:
        kept: arrays `[D, k]`, the first of them the scores that decide.
        new: as many arrays `[D, n]`.

    Example:
        >>> score, index = top((jnp.array([[3.0, 1.0]]), jnp.array([[0, 1]])), (jnp.array([[2.0]]), jnp.array([[7]])))
        >>> index.tolist()
        [[0, 7]]
    """
    joined = [jnp.concatenate(pair, 1) for pair in zip(kept, new, strict=True)]
    score, place = jax.lax.top_k(joined[0], kept[0].shape[1])
    return (score, *(jnp.take_along_axis(part, place, 1) for part in joined[1:]))


class Rows:
    """Arrays `[N, …]` on the host, one row per lane, which are written round by round; none is held twice.

    Example:
        >>> store = Rows(3)
        >>> store.write(np.array([2, 0]), {"x": np.array([5.0, 6.0])})
        >>> store.tree["x"].tolist()
        [6.0, 0.0, 5.0]
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.tree: Any = None

    def write(self, places: Any, part: Any) -> None:
        """Take the rows of `part` into these places."""
        if self.tree is None:
            self.tree = jax.tree.map(lambda x: np.zeros((self.length, *np.shape(x)[1:]), np.asarray(x).dtype), part)
        for array, values in zip(jax.tree.leaves(self.tree), jax.tree.leaves(part), strict=True):
            array[places] = values


class Best:
    """The best k lanes of each cell so far, on the host; memory grows with cells x k, not with the lanes that come.

    Of two equal lanes the one that came first is kept.

    Example:
        >>> best = Best(cells=1, k=2)
        >>> for lane, merit in enumerate([1.0, 5.0, 3.0]):
        ...     best.add([0], [lane], np.array([True]), np.array([merit]), {"x": np.array([10.0 * lane])})
        >>> best.lanes().tolist(), best.rows()["x"].tolist()
        ([1, 2], [10.0, 20.0])
    """

    def __init__(self, cells: int, k: int = 1) -> None:
        self._lane = np.full((cells, k), -1)  # −1 where there is none yet
        self._success = np.zeros((cells, k), bool)
        self._merit = np.full((cells, k), np.nan)
        self._rows = Rows(cells * k)

    def add(self, cells: Any, lanes: Any, success: Any, merit: Any, part: Any) -> None:
        """Take lanes in, each in the place of the worst of its cell where it is ahead of that.

        Args:
            cells: `[L]` int.
            lanes: `[L]` int, their numbers, at least 0.
            success, merit: `[L]`, as `ahead` takes them.
            part: arrays with one row per lane.
        """
        sources: dict[tuple[int, int], int] = {}  # the row of `part` that a place ends with
        for row, (cell, lane) in enumerate(zip(np.asarray(cells), np.asarray(lanes), strict=True)):
            slot = self._order(cell)[-1]
            score = np.bool_(success[row]), np.float64(merit[row])
            if self._lane[cell, slot] < 0 or ahead(*score, self._success[cell, slot], self._merit[cell, slot]):
                self._lane[cell, slot], (self._success[cell, slot], self._merit[cell, slot]) = lane, score
                sources[cell, slot] = row
        places = np.array([cell * self._lane.shape[1] + slot for cell, slot in sources], int)
        taken = np.array(list(sources.values()), int)
        self._rows.write(places, jax.tree.map(lambda x: np.asarray(x)[taken], part))

    def _order(self, cell: int) -> np.ndarray:
        """The slots of a cell, best first, empty ones last."""
        lane, success, merit = self._lane[cell], self._success[cell], self._merit[cell]
        return np.lexsort((lane, -np.where(np.isnan(merit), -np.inf, merit), ~success, lane < 0))

    def _places(self) -> np.ndarray:
        cells, k = self._lane.shape
        order = np.stack([self._order(cell) for cell in range(cells)])
        places = (np.arange(cells)[:, None] * k + order).reshape(-1)
        return places[self._lane.reshape(-1)[places] >= 0]

    def lanes(self) -> np.ndarray:
        """The numbers of the lanes that are kept, cell by cell, the best of each first."""
        return self._lane.reshape(-1)[self._places()]

    def rows(self) -> Any:
        """Their rows, in the same order."""
        places = self._places()
        return jax.tree.map(lambda x: x[places], self._rows.tree)
