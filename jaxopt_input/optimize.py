"""`minimize`: the one gradient loop over the image, compiled once, every start of every target in it.

    key ─► image.init ─► θ ─decode─► image ─transform(key)─► view ─model.apply(params, ·, taps)─► activations
               ▲                                                                                     │
               └── projection ◄── optimizer's update, vmapped over starts ◄── ∂/∂θ ◄── loss(activations, image)

The model runs on the whole batch and the loss is vmapped over it. The loop runs a traced number of steps, so that the
host can call it segment by segment (for progress and snapshots) without changing the program or its results. Each
device runs the same program on a chunk of lanes of its own, without any collective.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_input import targets
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization, fourier
from jaxopt_input.images.parameterization import Shape, check_images
from jaxopt_input.losses.algebra import Loss, names
from jaxopt_input.memory import image_bytes, images_within
from jaxopt_input.model import Apply, Model, cast
from jaxopt_input.optimizers import Optimizer, adam, averaged_theta, bracket, is_line_search, narrow
from jaxopt_input.projections import Projection
from jaxopt_input.transforms import Transform

DEFAULT_CHUNK = 32
MAX_TRIALS = 16
Progress = Callable[[int, int, float], None]


@dataclasses.dataclass(frozen=True)
class Solution:
    """What `minimize` found, for N = targets x starts lanes, target-major.

    Attributes:
        image: `[N, H, W, C]` float32 in [0, 1], the last iterate.
        best_image: `[N, H, W, C]`, the iterate with the least untransformed loss among `check_steps`.
        theta: the last θ, a pytree with leading axis N.
        loss: `[N, steps + 1]`, the loss before each update and after the last, under that step's transform.
        best_loss: `[N]`, the untransformed loss of `best_image`.
        best_step: `[N]` int32, its step.
        evaluations: `[N]` int32, how often each start would have run the network alone: gradients, the trials of a
            line search, the untransformed checks and the last value included.
        finite: `[N]` bool, False where a loss or gradient was not finite; such a start stopped there.
        dead: `[N]` bool, True where the gradient was zero at every step.
        snapshots: `[len(snapshots), N, H, W, C]`, the iterates at the steps asked for.
        names: the canonical name of each lane's target.
        start: `[N]` int32, the index of each lane among its target's starts.
        check_steps: the steps at which `best_image` was chosen.
        milestone_image: `[N, H, W, C]`, the first iterate whose milestone was reached, the last one where none was;
            None without a milestone.
        milestone_step: `[N]` int32, its step, −1 where none was; None without a milestone.
        restarts: `[N]` int32, how often a line search found no lower loss along the direction of L-BFGS, which then
            forgot its past and began anew from the best θ.
        average_image: `[N, H, W, C]`, the image of the average θ of `optimizers.averaged`; None without it.
        optimizer_state: the optimizer's last state, a pytree with leading axis N, for another call to begin with;
            None where the lanes did not all run at once.
    """

    image: jax.Array
    best_image: jax.Array
    theta: Any
    loss: jax.Array
    best_loss: jax.Array
    best_step: jax.Array
    evaluations: jax.Array
    finite: jax.Array
    dead: jax.Array
    snapshots: jax.Array
    names: tuple[str, ...]
    start: np.ndarray
    check_steps: tuple[int, ...]
    milestone_image: jax.Array | None = None
    milestone_step: jax.Array | None = None
    restarts: jax.Array | None = None
    average_image: jax.Array | None = None
    optimizer_state: Any = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class _Program:
    """All that is static: two calls with equal programs and equal shapes share one compilation."""

    apply: Apply
    taps: tuple[str, ...]
    image: Parameterization
    transform: Transform | None
    raw_optimizer: optax.GradientTransformation | None
    steps: int
    check_every: int
    group: int  # neighbouring lanes that are optimised together: the starts of a target, or 1
    dtype: str
    mesh: Mesh


class _Trees(NamedTuple):
    """The traced parts with a target axis."""

    loss: Loss
    optimizer: Optimizer | tuple[()]
    projection: Projection | tuple[()]
    milestone: Loss | tuple[()]


class _Lanes(NamedTuple):
    """What tells one lane from another: its target, and the key of its start."""

    target: jax.Array
    key: jax.Array


class _State(NamedTuple):
    """The loop's state, one row a lane."""

    theta: Any
    optimizer: Any
    history: jax.Array
    best_theta: Any
    best_loss: jax.Array
    best_step: jax.Array
    evaluations: jax.Array
    finite: jax.Array
    moved: jax.Array
    restarts: jax.Array
    milestone: Any  # (θ, step) of the first iterate that reached it, or ()
    carried: Any  # (value, gradient, settled) at θ where a line search has found them already


def minimize(
    loss: Loss,
    model: Model,
    *,
    image: Parameterization | None = None,
    transform: Transform | None = None,
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    projection: Projection | None = None,
    steps: int = 256,
    starts: int = 1,
    key: jax.Array,
    initial: Any = None,
    optimizer_state: Any = None,
    max_evaluations: int | None = None,
    dtype: Any = jnp.float32,
    chunk: int | None = None,
    memory: int | None = None,
    check_every: int | None = None,
    snapshots: Sequence[int] = (),
    warm_up: tuple[Model, int] | None = None,
    milestone: Loss | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Progress | None = None,
) -> Solution:
    """Optimise the input of a frozen network from several random starts of several targets, in one compiled loop.

    The random numbers of start k of a target derive from (key, the target's canonical name, k) alone. The same key
    and chunk give the same bits on any number of devices; another chunk, or another place of the lane in it, because
    other targets are asked for, agrees to rounding.

    Args:
        loss: what to minimise; arrays of indices or weights in it are its targets.
        model: the network.
        image: the image parameterization, `images.fourier()` if None.
        transform: what the network sees of the image at each step; None is the image itself.
        optimizer: one of `jaxopt_input.optimizers`, or any Optax object; Adam at 0.05 if None.
        projection: applied to θ after each update, such as `projections.box()`.
        steps: the number of updates, at least 1.
        starts: the number of random starts of each target, at least 1.
        key: a JAX key, the only source of randomness.
        initial: images in [0, 1] to start from, `[H, W, C]` or `[targets x starts, H, W, C]`, instead of noise.
        optimizer_state: of an earlier `Solution` with as many lanes, to go on with instead of a fresh one.
        max_evaluations: how often each start may run the network, where a line search decides how often a step does;
            what is left of the steps then changes nothing.
        dtype: of the network's parameters and activations, float32 or bfloat16; θ and losses stay float32.
        chunk: lanes that a device runs at once (all of them up to 32, if None); the last chunk is padded. Starts that
            a loss or a parameterization couples must fit one.
        memory: bytes of a device that the work may take, the program and what is kept of all lanes included; with
            `chunk` None, no more lanes than fit run at once.
        check_every: how often the untransformed loss is taken to elect `best_image` (it costs one forward pass);
            every 16th part of the steps if None. Without a transform every step is a check, at no cost.
        snapshots: steps, from 0 to `steps`, whose images are kept.
        warm_up: (model, steps): what stands in for the network in the first steps, such as `redirect_relu(model)`; it
            takes the network's parameters.
        milestone: a loss that is only watched: the first image at which it is at most 0 is kept.
        devices: to share the lanes; all local ones if None.
        on_progress: called as (steps done, steps in all, mean loss) about 20 times a chunk.

    Returns:
        A `Solution`.

    Raises:
        InputError: before anything is compiled, for an unknown layer, an index that does not exist, an image that the
            network cannot take, or arguments out of range.

    Source:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network (2009), for the idea.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(8, 8, 3), taps=("logits",))
        >>> s = joi.minimize(-joi.losses.class_logit([0, 2]), model, image=joi.images.pixels(),
        ...                  optimizer=joi.optimizers.sgd(30.0), steps=4, starts=2, key=jax.random.key(0))
        >>> s.best_image.shape, s.loss.shape, s.names[2:]
        ((4, 8, 8, 3), (4, 5), ('class:2', 'class:2'))
        >>> bool((s.best_image[2, ..., 2] > 0.9).all())  # blue, where the third logit is the mean of blue
        True
    """
    steps, starts = _count("steps", steps), _count("starts", starts)
    if not isinstance(loss, Loss):
        raise InputError(f"the loss must be built from jaxopt_input.losses, not {loss!r}")
    image = (image or fourier()).bind(model.info.image_shape)
    optimizer = adam() if optimizer is None else optimizer
    raw = None if isinstance(optimizer, Optimizer) else optimizer
    if not isinstance(raw, optax.GradientTransformation | None):
        raise InputError(f"an optimizer is made by jaxopt_input.optimizers or by Optax, not {optimizer!r}")
    trees = _Trees(loss, () if raw else optimizer, projection or (), milestone or ())
    n_targets = targets.count(tuple(tree for tree in trees if tree != ()))
    view = _check_model(loss if milestone is None else loss + milestone, model, image, transform)
    snapshot_steps = [int(step) for step in snapshots]
    if snapshot_steps and not 0 <= min(snapshot_steps) <= max(snapshot_steps) <= steps:
        raise InputError(f"snapshots are steps from 0 to {steps}, not {list(snapshots)}")
    if str(jnp.dtype(dtype)) not in ("float32", "bfloat16"):
        raise InputError(f"activations are float32 or bfloat16, not {jnp.dtype(dtype)}")
    every = 1
    if transform is not None:
        every = _count("check_every", max(1, steps // 16) if check_every is None else check_every)

    devices = list(devices or jax.local_devices())
    total = n_targets * starts
    taps = tuple(dict.fromkeys(loss.taps + (milestone.taps if milestone else ())))
    if loss.couples and starts == 1:
        raise InputError("a loss that compares the starts of a target needs at least 2 starts")
    if milestone is not None and is_line_search(optimizer):
        raise InputError("a milestone is watched at each update: with a line search it cannot be")
    group = starts if loss.couples or image.couples else 1
    if group > 1 and is_line_search(optimizer):
        raise InputError("a line search moves each start alone: with starts that are coupled, take another optimizer")
    most = DEFAULT_CHUNK
    if chunk is None and memory is not None:
        kept = total * (8 + 2 * len(snapshot_steps)) * 4 * math.prod(image.bound())  # two copies while they are joined
        most = min(most, images_within(memory, image_bytes(model, taps, view, image.bound()), model, kept))
    chunk = _chunk(chunk, -(-total // len(devices)), group, most)
    per_round = chunk * len(devices)
    n_rounds = -(-total // per_round)
    mesh = Mesh(np.array(devices), ("starts",))
    dtype = str(jnp.dtype(dtype))
    program = _Program(model.apply, taps, image, transform, raw, steps, every, group, dtype, mesh)
    first_program, warm_steps = program, 0
    if warm_up is not None:
        first_program, warm_steps = dataclasses.replace(program, apply=warm_up[0].apply), _count("warm_up", warm_up[1])
    given, base = _initial(initial, image, total), _typed_key(key)
    if max_evaluations is not None and not is_line_search(optimizer):
        raise InputError("max_evaluations goes with lbfgs; other optimizers take one evaluation a step: give steps")
    budget = np.int32(_UNLIMITED if max_evaluations is None else _count("max_evaluations", max_evaluations))
    _check_optimizer_state(optimizer_state, total)
    target_names = names(loss) * (n_targets if targets.count(loss) == 1 else 1)
    ids = np.array([_stable_hash(name) for name in target_names], np.uint32)

    everywhere, by_lane = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("starts"))
    params, trees, base = jax.device_put((model.params, trees, base), everywhere)
    rounds = []
    for number in range(n_rounds):
        lane = np.minimum(np.arange(number * per_round, (number + 1) * per_round), total - 1)  # padded with the last
        target, k = (lane // starts).astype(np.int32), (lane % starts).astype(np.uint32)
        first = None if given is None else given[lane]
        past = jax.tree.map(lambda x, lane=lane: np.asarray(x)[lane], optimizer_state)
        lanes, state = _begin(program, trees, base, *jax.device_put((target, ids[target], k, first, past), by_lane))

        report = on_progress and functools.partial(_report, on_progress, number * steps, n_rounds * steps)
        found = _run((first_program, warm_steps), program, params, trees, lanes, state, budget, snapshot_steps, report)
        rounds.append(found if n_rounds == 1 else jax.device_get(found))
    return Solution(
        **_join(rounds, total),
        names=tuple(name for name in target_names for _ in range(starts)),
        start=np.tile(np.arange(starts), n_targets),
        check_steps=(*range(0, steps, every), steps),
    )


# ---- host side -------------------------------------------------------------------------------------------------------


def _report(on_progress: Progress, before: int, total: int, step: int, loss: float) -> None:
    on_progress(before + step, total, loss)


def _run(
    warm_up: tuple[_Program, int],
    program: _Program,
    params: Any,
    trees: _Trees,
    lanes: _Lanes,
    state: _State,
    budget: np.int32,
    snapshot_steps: Sequence[int],
    report: Callable[[int, float], None] | None,
) -> dict[str, Any]:
    """All steps of one round, in as many calls of the compiled loop as snapshots, progress and the warm-up need."""
    first, warm_steps = warm_up
    marks = {program.steps, *snapshot_steps, min(warm_steps, program.steps)} | (
        set(range(0, program.steps, -(-program.steps // 20))) if report else set()
    )
    taken, at = {}, 0
    for stop in sorted(marks):
        if stop > at:
            span = np.array([at, stop, budget], np.int32)
            state = _advance(first if at < warm_steps else program, params, trees, lanes, state, span)
            at = stop
            if report:
                latest = stop if stop == program.steps else stop - 1
                report(stop, float(np.mean(np.asarray(state.history)[:, latest])))
        if stop in snapshot_steps:
            taken[stop] = _decode(program, state.theta)
    found = _collect(program, trees, state, [taken[step] for step in snapshot_steps])
    return {**found, "optimizer_state": state.optimizer}


def _chunk(chunk: int | None, share: int, group: int, most: int) -> int:
    """Lanes that a device runs at once: as asked for, or `share` in equal parts of at most `most`, or one group."""
    if chunk is None:
        chunk = -(-share // -(-share // most))
        return -(-chunk // group) * group
    chunk = _count("chunk", chunk)
    if chunk % group:
        fits = -(-chunk // group) * group
        raise InputError(f"the {group} starts of a target are optimised together: raise chunk from {chunk} to {fits}")
    return chunk


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or value != int(value) or value < 1:
        raise InputError(f"{what} must be a whole number, at least 1, not {value!r}")
    return int(value)


def _check_model(loss: Loss, model: Model, image: Parameterization, transform: Transform | None) -> Shape:
    """The view's shape; an `InputError` unless the model takes it and has every layer and index that the loss names."""
    view = image.bound()
    if transform is not None:
        key = jax.eval_shape(lambda: jax.random.key(0))
        view = jax.eval_shape(transform, key, jax.ShapeDtypeStruct(view, jnp.float32)).shape
    if view[2] != model.info.image_shape[2]:
        raise InputError(f"{model.info.name} takes {model.info.image_shape[2]} colours, the image has {view[2]}")
    loss.check(model.layers(view))
    return view


def _initial(initial: Any, image: Parameterization, total: int) -> np.ndarray | None:
    """The images to start from, one a lane."""
    if initial is None:
        return None
    given = np.asarray(check_images(initial))
    if given.shape[-3:] != image.bound() or given.shape[:-3] not in ((), (total,)):
        raise InputError(f"initial images have shape {given.shape}; {image.bound()} or {(total, *image.bound())} fits")
    return np.broadcast_to(given, (total, *image.bound()))


def _check_optimizer_state(state: Any, total: int) -> None:
    if lengths := {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(state)} - {total}:
        raise InputError(f"the optimizer's state is of {lengths.pop()} lanes, not of {total}: take it from a Solution")


def _typed_key(key: Any) -> jax.Array:
    """A single typed key, from one or from the uint32 data of `jax.random.PRNGKey`."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != np.uint32:
        raise InputError(f"key must be a JAX key, such as jax.random.key(0), not {key!r}")
    if key.ndim != (0 if typed else 1):
        raise InputError(f"key must be a single key, not an array of shape {key.shape}")
    return key if typed else jax.random.wrap_key_data(jnp.asarray(key))


def _stable_hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _join(rounds: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """The rounds one after another without their padding; left on the devices where there is nothing to cut."""
    lanes = rounds[0]["finite"].shape[0] * len(rounds)
    if len(rounds) == 1 and lanes == total:
        return rounds[0]
    rounds = [{**part, "optimizer_state": None} for part in rounds]  # it may be far larger than the images

    def join(axis: int, *parts: Any) -> Any:
        host = np.concatenate([np.asarray(part) for part in parts], axis)
        return jnp.asarray(host[:total] if axis == 0 else host[:, :total])

    joined = {}
    for field in rounds[0]:
        axis = 1 if field == "snapshots" else 0
        joined[field] = jax.tree.map(functools.partial(join, axis), *(part[field] for part in rounds))
    return joined


# ---- compiled --------------------------------------------------------------------------------------------------------

_LANES, _SHARED = PartitionSpec("starts"), PartitionSpec()
_UNLIMITED = np.iinfo(np.int32).max


@functools.partial(jax.jit, static_argnames="program")
def _begin(
    program: _Program, trees: _Trees, base: jax.Array, target: Any, identity: Any, k: Any, first: Any, past: Any
) -> tuple[_Lanes, _State]:
    """The lanes' keys and the state before the first step."""

    def local(
        trees: _Trees, base: jax.Array, target: Any, identity: Any, k: Any, first: Any, past: Any
    ) -> tuple[_Lanes, _State]:
        keys = jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(base, i), n))(identity, k)
        keys, init_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        lanes = _Lanes(target, keys)
        if first is None:
            theta = jax.vmap(lambda key: jax.tree.map(lambda x: x[0], program.image.init(key, 1)))(init_keys)
        else:
            theta = program.image.encode(first)
        theta = _project(program, trees, lanes, theta)
        if past is None:
            begin = targets.vmap_lanes(lambda o, t: _build(program, o).init(t), trees.optimizer, target)
            past = begin(theta)
        n = target.shape[0]
        zeros = jnp.zeros(n)
        carried = (zeros, jax.tree.map(jnp.zeros_like, theta), zeros > 0) if _searches(trees) else ()
        return lanes, _State(
            theta=theta,
            optimizer=past,
            history=jnp.zeros((n, program.steps + 1)),
            best_theta=theta,
            best_loss=zeros + jnp.inf,
            best_step=jnp.zeros(n, jnp.int32),
            evaluations=jnp.zeros(n, jnp.int32),
            finite=zeros == 0,
            moved=zeros > 0,
            restarts=jnp.zeros(n, jnp.int32),
            milestone=(theta, jnp.full(n, -1, jnp.int32)) if trees.milestone else (),
            carried=carried,
        )

    return jax.shard_map(
        local,
        mesh=program.mesh,
        in_specs=(_SHARED, _SHARED, _LANES, _LANES, _LANES, _LANES, _LANES),
        out_specs=_LANES,
        check_vma=False,
    )(trees, base, target, identity, k, first, past)


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def _advance(program: _Program, params: Any, trees: _Trees, lanes: _Lanes, state: _State, span: Any) -> _State:
    """Steps `span[0]` to `span[1]`, of `span[2]` evaluations at most, and the last value where that is the end."""
    return jax.shard_map(
        functools.partial(_advance_local, program),
        mesh=program.mesh,
        in_specs=(_SHARED, _SHARED, _LANES, _LANES, _SHARED),
        out_specs=_LANES,
        check_vma=False,
    )(params, trees, lanes, state, span)


def _advance_local(program: _Program, params: Any, trees: _Trees, lanes: _Lanes, state: _State, span: Any) -> _State:
    begin, stop, budget = span
    params = cast(params, program.dtype)

    def values(theta: Any, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        """The loss, and the milestone if there is one."""
        losses = (trees.loss, trees.milestone) if trees.milestone else (trees.loss,)
        return _values(program, params, losses, lanes.target, theta, keys)

    def evaluate(theta: Any, keys: jax.Array | None) -> tuple[tuple[jax.Array, ...], Any]:
        def total(theta: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            each = values(theta, keys)
            return each[0].sum(), each

        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(theta)
        return each, _couple(program, gradient)

    def view_keys(i: jax.Array) -> jax.Array | None:
        return None if program.transform is None else jax.vmap(lambda key: jax.random.fold_in(key, i))(lanes.key)

    def check(s: _State, i: jax.Array) -> _State:
        return _keep_best(s, values(s.theta, None)[0], i)._replace(evaluations=s.evaluations + 1)

    def step(i: jax.Array, s: _State) -> _State:
        keys = view_keys(i)
        if _searches(trees):
            carried = ((s.carried[0],), s.carried[1])
            known = i > 0 if program.transform is None else jnp.zeros((), bool)
            (value,), gradient = jax.lax.cond(known, lambda: carried, lambda: evaluate(s.theta, keys))
            s = s._replace(evaluations=s.evaluations + jnp.where(known, 0, 1))
        else:
            (value, *watched), gradient = evaluate(s.theta, keys)
            s = _keep_milestone(s, watched, i)
            s = s._replace(evaluations=s.evaluations + 1)
        if program.transform is None:
            s = _keep_best(s, value, i)
        else:
            s = jax.lax.cond(i % program.check_every == 0, lambda: check(s, i), lambda: s)
        s = s._replace(
            history=s.history.at[:, i].set(value),
            moved=s.moved | _any_lane(lambda x: x != 0, gradient),
            finite=s.finite & jnp.isfinite(value) & ~_any_lane(lambda x: ~jnp.isfinite(x), gradient),
        )
        if _searches(trees):
            return _search(program, trees, lanes, s, value, gradient, budget, lambda theta: evaluate(theta, keys))
        return _update(program, params, trees, lanes, s, value, gradient, keys)

    def last(s: _State) -> _State:
        i = jnp.int32(program.steps)
        value, *watched = values(s.theta, view_keys(i))
        s = _keep_milestone(s, watched, i)
        s = s._replace(history=s.history.at[:, i].set(value), finite=s.finite & jnp.isfinite(value))
        counted = jnp.where(_searches(trees) and program.transform is None, 0, 1)  # a line search has it already
        s = s._replace(evaluations=s.evaluations + counted)
        return _keep_best(s, value, i) if program.transform is None else check(s, i)

    state = jax.lax.fori_loop(begin, stop, step, state)
    return jax.lax.cond(stop == program.steps, last, lambda s: s, state)


def _values(
    program: _Program, params: Any, losses: tuple[Loss, ...], target: jax.Array, theta: Any, keys: jax.Array | None
) -> tuple[jax.Array, ...]:
    """`[lanes]` of each loss: its value for each lane's image, under the lane's transform if keys are given."""
    images = program.image.decode(theta)
    views = images if keys is None or program.transform is None else jax.vmap(program.transform)(keys, images)
    activations = program.apply(params, views.astype(program.dtype), program.taps)
    activations = {tap: a.astype(jnp.float32) for tap, a in activations.items()}

    def each(losses: tuple[Loss, ...], activations: Any, image: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(loss(activations, image) for loss in losses)

    if program.group == 1:
        return targets.vmap_lanes(each, losses, target)(activations, images)

    # One more axis: the starts of each target, by the name that a loss which compares them knows it.
    def together(losses: tuple[Loss, ...], activations: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vmap(functools.partial(each, losses), axis_name="starts")(activations, images)

    grouped = jax.tree.map(lambda x: x.reshape(-1, program.group, *x.shape[1:]), (activations, images))
    found = targets.vmap_lanes(together, losses, target[:: program.group])(*grouped)
    return tuple(value.reshape(-1) for value in found)


def _update(
    program: _Program, params: Any, trees: _Trees, lanes: _Lanes, s: _State, value: Any, gradient: Any, keys: Any
) -> _State:
    """One update of an Optax rule, each lane for itself."""

    def one(trees: _Trees, g: Any, state: Any, theta: Any, value: Any, lane: _Lanes, key: Any) -> tuple[Any, Any]:
        def value_fn(theta: Any) -> jax.Array:  # for rules with a line search of their own
            if program.group > 1:
                raise InputError("a line search moves each start alone: take another optimizer for coupled starts")
            batch = jax.tree.map(lambda x: x[None], (theta, key))
            return _values(program, params, (trees.loss,), jnp.zeros(1, jnp.int32), *batch)[0][0]

        rule = _build(program, trees.optimizer)
        return rule.update(g, state, theta, value=value, grad=g, value_fn=value_fn)

    updates, optimizer = targets.vmap_lanes(one, trees, lanes.target)(
        gradient, s.optimizer, s.theta, value, lanes, keys
    )
    theta = _project(program, trees, lanes, optax.apply_updates(s.theta, updates))
    trials = optax.tree_utils.tree_get(optimizer, "num_linesearch_steps", default=0)
    return s._replace(
        theta=_where(s.finite & ~_any_lane(lambda x: ~jnp.isfinite(x), theta), theta, s.theta),
        optimizer=optimizer,
        evaluations=s.evaluations + jnp.asarray(trials, jnp.int32),
    )


def _search(
    program: _Program, trees: _Trees, lanes: _Lanes, s: _State, value: Any, gradient: Any, budget: Any, evaluate: Any
) -> _State:
    """One step of L-BFGS: a direction, then a line search that evaluates all lanes at once, each at its own trial.

    Where the search finds nothing lower, the curvature that the direction was made of is forgotten: the next step
    begins anew, downhill from the same θ. Where that finds nothing either, the lane has settled.
    """
    settled = s.carried[2]
    rule = targets.vmap_lanes(lambda o, g, st, t: _build(program, o).update(g, st, t), trees.optimizer, lanes.target)
    direction, optimizer = rule(gradient, s.optimizer, s.theta)
    direction = jax.tree.map(jnp.negative, direction)
    descends = _dot(direction, gradient) < 0  # the last step may have left no positive curvature behind
    norm = jnp.sqrt(_dot(gradient, gradient))
    downhill = jax.tree.map(lambda g: -g / _rows(jnp.where(norm > 0, norm, 1.0), g), gradient)
    direction = _where(descends, direction, downhill)
    active = s.finite & ~settled & (norm > 0)

    def unfinished(carry: Any) -> jax.Array:
        trial, b, _, evaluations = carry
        return jnp.any(active & ~b.done & (evaluations < budget)) & (trial < MAX_TRIALS)

    def attempt(carry: Any) -> Any:
        trial, b, kept, evaluations = carry
        theta = jax.tree.map(lambda x, d: x + _rows(b.step, x) * d, s.theta, direction)
        theta = _project(program, trees, lanes, theta)
        (new_value,), new_gradient = evaluate(theta)
        path = jax.tree.map(lambda new, old: (new - old) / _rows(b.step, new), theta, s.theta)
        running = active & ~b.done & (evaluations < budget)
        after, decreased = jax.vmap(narrow)(b, (value, _dot(gradient, path)), (new_value, _dot(new_gradient, path)))
        kept = _where(running & decreased, (theta, new_value, new_gradient), kept)
        return trial + 1, after, kept, evaluations + running

    first = jax.vmap(bracket)(value, _dot(direction, gradient), jnp.ones_like(value))
    start = (jnp.int32(0), first, (s.theta, value, gradient), s.evaluations)
    _, b, (theta, value, gradient), evaluations = jax.lax.while_loop(unfinished, attempt, start)
    failed = active & (b.low == 0) & (evaluations < budget)
    anew = failed & descends & (s.optimizer.count > 0)
    return s._replace(
        theta=theta,
        optimizer=optimizer._replace(  # pairs of weight 0 count for nothing: no need to touch them
            count=jnp.where(anew, 0, optimizer.count),
            weights_memory=jnp.where(anew[:, None], 0, optimizer.weights_memory),
        ),
        restarts=s.restarts + anew,
        evaluations=evaluations,
        carried=(value, gradient, settled | (failed & ~anew)),
    )


def _keep_best(s: _State, value: jax.Array, i: jax.Array) -> _State:
    better = jnp.isfinite(value) & (value < s.best_loss)
    return s._replace(
        best_theta=_where(better, s.theta, s.best_theta),
        best_loss=jnp.where(better, value, s.best_loss),
        best_step=jnp.where(better, i, s.best_step).astype(jnp.int32),
    )


def _keep_milestone(s: _State, watched: Sequence[jax.Array], i: jax.Array) -> _State:
    """The first iterate at which the milestone, if there is one, is at most 0."""
    if not watched:
        return s
    theta, step = s.milestone
    waiting = step < 0
    reached = waiting & (watched[0] <= 0)
    return s._replace(milestone=(_where(waiting, s.theta, theta), jnp.where(reached, i, step)))


def _project(program: _Program, trees: _Trees, lanes: _Lanes, theta: Any) -> Any:
    """θ after the parameterization's own projection and the one asked for."""
    theta = program.image.project(theta)
    if isinstance(trees.projection, Projection):
        theta = targets.vmap_lanes(lambda projection, t: projection(t), trees.projection, lanes.target)(theta)
    return _couple(program, theta)


def _couple(program: _Program, tree: Any) -> Any:
    """θ or its gradient, what the starts of a target share replaced by its mean over them."""
    if program.group == 1 or not program.image.couples:
        return tree

    def mean(x: jax.Array) -> jax.Array:
        grouped = x.reshape(-1, program.group, *x.shape[1:])
        return jnp.broadcast_to(grouped.mean(1, keepdims=True), grouped.shape).reshape(x.shape)

    return program.image.couple(tree, mean)


def _build(program: _Program, optimizer: Any) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(program.raw_optimizer) if program.raw_optimizer else optimizer.build()


def _searches(trees: _Trees) -> bool:
    return is_line_search(trees.optimizer)


def _rows(lane_values: jax.Array, like: jax.Array) -> jax.Array:
    """`[n]` as `[n, 1, …]`, to multiply or select rows of `like`."""
    return lane_values.reshape(-1, *[1] * (like.ndim - 1))


def _where(lane_mask: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(_rows(lane_mask, a), a, b), new, old)


def _any_lane(predicate: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    """`[n]`: whether the predicate holds for any number of a lane."""
    return functools.reduce(
        jnp.logical_or, [predicate(x).reshape(x.shape[0], -1).any(-1) for x in jax.tree.leaves(tree)]
    )


def _dot(a: Any, b: Any) -> jax.Array:
    """`[n]`: the inner product of each lane's rows."""
    products = jax.tree.map(lambda x, y: jnp.sum((x * y).reshape(x.shape[0], -1), -1), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


@functools.partial(jax.jit, static_argnames="program")
def _decode(program: _Program, theta: Any) -> jax.Array:
    return program.image.decode(theta)


@functools.partial(jax.jit, static_argnames="program")
def _collect(program: _Program, trees: _Trees, state: _State, snapshots: list[jax.Array]) -> dict[str, Any]:
    """The arrays of a `Solution` from the last state."""
    averages = isinstance(trees.optimizer, Optimizer) and trees.optimizer.average is not None
    image, best_image = program.image.decode(state.theta), program.image.decode(state.best_theta)
    theta, step = state.milestone or (None, None)
    return {
        "milestone_image": None if theta is None else program.image.decode(theta),
        "milestone_step": step,
        "average_image": program.image.decode(averaged_theta(state.optimizer)) if averages else None,
        "restarts": state.restarts,
        "image": image,
        "best_image": best_image,
        "theta": state.theta,
        "loss": state.history,
        "best_loss": state.best_loss,
        "best_step": state.best_step,
        "evaluations": state.evaluations,
        "finite": state.finite,
        "dead": ~state.moved,
        "snapshots": jnp.stack(snapshots) if snapshots else jnp.zeros((0, *image.shape)),
    }
