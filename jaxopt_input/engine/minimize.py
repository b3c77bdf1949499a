"""`minimize`: the one gradient loop over the image, compiled once, every start of every target in it.

    key ─► image.init ─► θ ─decode─► image ─transform(key)─► view ─model.apply(params, ·, taps)─► activations
               ▲                                                                                     │
               └── projection ◄── optimizer's update, vmapped over starts ◄── ∂/∂θ ◄── loss(activations, image)

The model runs on the whole batch and the loss is vmapped over it. Here is the host's side: what is checked before
anything is compiled, the lanes of each round, and the calls of `loop` between progress and snapshots.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_input import targets
from jaxopt_input.checks import count, typed_key
from jaxopt_input.engine import loop
from jaxopt_input.engine.memory import image_bytes, images_within
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization, as_parameterization
from jaxopt_input.images.parameterization import Shape, check_images
from jaxopt_input.kernels.threefry import written_out
from jaxopt_input.losses.algebra import Function, Loss, names, resolve
from jaxopt_input.models.model import Model
from jaxopt_input.optimizers import Optimizer, as_optimizer, is_line_search
from jaxopt_input.projections import Projection, as_projection, check_projection
from jaxopt_input.transforms import Transform, as_transform, view_shape

DEFAULT_CHUNK = 32
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


def minimize(
    loss: Loss | Function,
    model: Model,
    *,
    image: Parameterization | str | None = None,
    transform: Transform | Callable[..., Any] | str | None = None,
    optimizer: Optimizer | optax.GradientTransformation | str | None = None,
    projection: Projection | Callable[..., Any] | None = None,
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
    milestone: Loss | Function | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Progress | None = None,
) -> Solution:
    """Optimize the input of a frozen network from several random starts of several targets, in one compiled loop.

    The random numbers of start k of a target derive from (key, the target's canonical name, k) alone. The same key
    and chunk give the same bits on any number of devices; another chunk, or another place of the lane in it, because
    other targets are asked for, agrees to rounding.

    Args:
        loss: what to minimize, a loss or any function of (activations, image) that returns one number; arrays of
            indices or weights in it are its targets. A function is compiled once per function object.
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
    steps, starts = count("steps", steps), count("starts", starts)
    image = as_parameterization(image).bind(model.info.image_shape)
    transform, projection, optimizer = as_transform(transform), as_projection(projection), as_optimizer(optimizer)
    raw = None
    view = _view(model, image, transform)
    layers = model.layers(view)
    loss = resolve(loss, layers, image.bound())
    milestone = None if milestone is None else resolve(milestone, layers, image.bound())
    trees = loop.Trees(loss, () if raw else optimizer, projection or (), milestone or ())
    n_targets = targets.count(tuple(tree for tree in trees if tree != ()))
    if projection is not None:
        theta = jax.eval_shape(lambda key: jax.tree.map(lambda x: x[0], image.init(key, 1)), jax.random.key(0))
        check_projection(targets.select(projection, 0), theta)
    snapshot_steps = [int(step) for step in snapshots]
    if snapshot_steps and not 0 <= min(snapshot_steps) <= max(snapshot_steps) <= steps:
        raise InputError(f"snapshots are steps from 0 to {steps}, not {list(snapshots)}")
    if str(jnp.dtype(dtype)) not in ("float32", "bfloat16"):
        raise InputError(f"activations are float32 or bfloat16, not {jnp.dtype(dtype)}")
    every = 1
    if transform is not None:
        every = count("check_every", max(1, steps // 16) if check_every is None else check_every)

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
    program = loop.Program(model.apply, taps, image, transform, raw, steps, every, group, dtype, mesh)
    first_program, warm_steps = program, 0
    if warm_up is not None:
        first_program, warm_steps = dataclasses.replace(program, apply=warm_up[0].apply), count("warm_up", warm_up[1])
    given, base = _initial(initial, image, total), written_out(typed_key(key))
    if max_evaluations is not None and not is_line_search(optimizer):
        raise InputError("max_evaluations goes with lbfgs; other optimizers take one evaluation a step: give steps")
    budget = np.int32(loop.UNLIMITED if max_evaluations is None else count("max_evaluations", max_evaluations))
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
        report = on_progress and functools.partial(_report, on_progress, number * steps, n_rounds * steps)
        placed = jax.device_put((target, ids[target], k, first, past), by_lane)
        lanes, state = loop.begin(program, trees, base, *placed)
        warm = first_program, warm_steps
        found = _run(warm, program, params, trees, lanes, state, budget, snapshot_steps, report)
        rounds.append(found if n_rounds == 1 else jax.device_get(found))
    return Solution(
        **_join(rounds, total),
        names=tuple(name for name in target_names for _ in range(starts)),
        start=np.tile(np.arange(starts), n_targets),
        check_steps=(*range(0, steps, every), steps),
    )


def _report(on_progress: Progress, before: int, total: int, step: int, loss: float) -> None:
    on_progress(before + step, total, loss)


def _run(
    warm_up: tuple[loop.Program, int],
    program: loop.Program,
    params: Any,
    trees: loop.Trees,
    lanes: loop.Lanes,
    state: loop.State,
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
            state = loop.advance(first if at < warm_steps else program, params, trees, lanes, state, span)
            at = stop
            if report:
                latest = stop if stop == program.steps else stop - 1
                report(stop, float(np.mean(np.asarray(state.history)[:, latest])))
        if stop in snapshot_steps:
            taken[stop] = loop.decode(program, state.theta)
    found = loop.collect(program, trees, state, [taken[step] for step in snapshot_steps])
    return {**found, "optimizer_state": state.optimizer}


def _chunk(chunk: int | None, share: int, group: int, most: int) -> int:
    """Lanes that a device runs at once: as asked for, or `share` in equal parts of at most `most`, or one group."""
    if chunk is None:
        chunk = -(-share // -(-share // most))
        return -(-chunk // group) * group
    chunk = count("chunk", chunk)
    if chunk % group:
        fits = -(-chunk // group) * group
        raise InputError(f"the {group} starts of a target are optimized together: raise chunk from {chunk} to {fits}")
    return chunk


def _view(model: Model, image: Parameterization, transform: Transform | None) -> Shape:
    """The view's shape; an `InputError` unless the model takes its colors."""
    view = view_shape(transform, image.bound())
    if view[2] != model.info.image_shape[2]:
        raise InputError(f"{model.info.name} takes {model.info.image_shape[2]} colors, the image has {view[2]}")
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
