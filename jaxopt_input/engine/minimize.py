"""`minimize`: the one gradient loop over the image, compiled once, every start of every target in it.

    key ─► image.init ─► θ ─decode─► image ─transform(key)─► view ─model.apply(params, ·, taps)─► activations
               ▲                                                                                     │
               └── projection ◄── optimizer's update, vmapped over starts ◄── ∂/∂θ ◄── loss(activations, image)

The model runs on the whole batch and the loss is vmapped over it. Here is the host's side: what is checked before
anything is compiled, the rounds of lanes, and the calls of `loop` between progress and snapshots.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_input import targets
from jaxopt_input.checks import Shape, check_images, count, typed_key
from jaxopt_input.engine import lanes, loop
from jaxopt_input.engine.lanes import Best, Layout, Resources, Rows, is_traced, resources
from jaxopt_input.engine.memory import image_bytes, images_within
from jaxopt_input.engine.solution import Solution
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization, as_parameterization
from jaxopt_input.images.parameterization import check_parameterization
from jaxopt_input.kernels.threefry import written_out
from jaxopt_input.losses.algebra import Function, Loss, as_loss, names, resolve
from jaxopt_input.models.model import Model
from jaxopt_input.models.redirect import WarmUp
from jaxopt_input.optimizers import Optimizer, as_optimizer, is_line_search
from jaxopt_input.projections import Projection, as_projection, check_projection
from jaxopt_input.transforms import Transform, as_transform, view_shape

MOST_STEPS = 10**7  # the history has a column for each
REPORTS = 20  # of progress per round, about
CHECKS = 16  # of the untransformed loss in a run, about
Progress = Callable[[int, int, float], None]


@dataclasses.dataclass(frozen=True)
class Watch:
    """What is watched while images are optimized.

    Attributes:
        every: how often, in steps, the untransformed loss is taken to elect `best_image` (it costs one forward pass);
            every 16th part of the steps if None. Without a transform every step is a check, at no cost.
        milestone: a loss that is only watched: the first image at which it is at most 0 is kept.

    Raises:
        InputError: for anything else.

    Example:
        >>> Watch(every=8).every
        8
    """

    every: int | None = None
    milestone: Loss | Function | None = None

    def __post_init__(self) -> None:
        if self.every is not None:
            object.__setattr__(self, "every", count("every", self.every))
        if self.milestone is not None:
            object.__setattr__(self, "milestone", as_loss(self.milestone))


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
    keep: int | None = None,
    key: jax.Array,
    initial: Any = None,
    snapshots: Sequence[int] = (),
    watch: Watch | None = None,
    on: Resources | None = None,
) -> Solution:
    """Optimize the input of a frozen network from several random starts of several targets, in one compiled loop.

    The random numbers of start k of a target derive from (key, the target's canonical name, k) alone. The same key
    and chunk give the same bits on any number of devices; another chunk, or another place of the lane in it, because
    other targets are asked for, agrees to rounding. Can be called under `jax.jit` and `jax.vmap`, over the key, the
    model's parameters, initial images and the numbers of its parts.

    Args:
        loss: what to minimize, a loss or any function of (activations, image) that returns one number; arrays of
            indices or weights in it are its targets. A function is compiled once per function object.
        model: the network. One of `redirect_relu(model, steps)` lets the gradient through dead ReLUs at first.
        image: the image parameterization, or its name in `images.BY_NAME`; `images.fourier()` if None.
        transform: what the network sees of the image at each step: one of `jaxopt_input.transforms`, its name, or a
            function `(key, image) -> view`; None is the image itself.
        optimizer: one of `jaxopt_input.optimizers`, or its name, or any Optax object; Adam at 0.05 if None.
        projection: applied to θ after each update, such as `projections.box()`, or a function of θ.
        steps: the number of updates, at least 1. Traced: more steps use the same program.
        starts: the number of random starts of each target, at least 1.
        keep: so many starts of each target are returned, the best first; memory does not grow with the others. All,
            in their order, if None.
        key: a JAX key, the only source of randomness.
        initial: images in [0, 1] to start from instead of noise, `[H, W, C]` or `[targets x starts, H, W, C]`; or an
            earlier `Solution` with as many lanes, which then goes on from its last θ, step and optimizer's state.
        snapshots: steps whose images are kept, from the first step to the last.
        watch: what is watched, such as `Watch(every=8)`.
        on: the resources, such as `Resources(memory="4GiB")`. Starts that a loss or a parameterization couples must
            fit one chunk. Progress is called as (steps done, steps in all, mean loss) about 20 times per round.

    Returns:
        A `Solution`.

    Raises:
        InputError: before anything is compiled, for an unknown layer, an index that does not exist, an image that the
            network cannot take, a part of another type, an unknown name, or arguments out of range.

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
    # What is asked for, checked.
    steps, starts = count("steps", steps, most=MOST_STEPS), count("starts", starts)
    base = written_out(typed_key(key))
    keep = starts if keep is None else min(count("keep", keep), starts)
    on, watch = resources(on), _watch(watch)
    parts = _parts(loss, model, image, transform, optimizer, projection, watch)
    n_targets = targets.count(tuple(tree for tree in parts.trees if tree != ()))
    group = _group(parts, starts)
    first = _first_step(initial)
    last = first + steps
    marks = _snapshots(snapshots, first, last)
    every = 1 if parts.transform is None else watch.every or max(1, steps // CHECKS)

    # The lanes: how they are laid out, what tells one from another, what each begins from.
    kept = n_targets * keep * (8 + 2 * len(marks)) * 4 * math.prod(parts.image.bound())
    most = _most(model, parts, on, kept)
    layout = lanes.layout((n_targets, starts), on, most=most, group=group)
    origin = _origin(initial, parts, layout.total)
    target_names = names(parts.trees.loss) * (n_targets if targets.count(parts.trees.loss) == 1 else 1)
    identities = np.array([lanes.identity(name) for name in target_names], np.uint32)

    # The rounds.
    traced = is_traced(model.params, parts.trees, base, origin)
    segment = steps if traced else loop.SEGMENT  # what is compiled into another program is not shared anyway
    space = loop.Space(parts.image, group, layout.mesh)
    program = loop.Program(model.apply, parts.taps, space, parts.transform, segment, on.dtype)
    job = _Job(program, _warm_up(program), first, last, every, marks, None if traced else on.progress, layout)
    params, trees, base = layout.share((model.params, parts.trees, base))
    solve = functools.partial(_solve_round, job, params, trees, base, identities, origin)

    def solution_of(arrays: dict[str, Any], which: np.ndarray) -> Solution:
        target, start = layout.places(which)
        return Solution(
            **arrays,
            target=target.astype(np.int32),
            start=start.astype(np.int32),
            targets=target_names,
            check_steps=(*range(first + -first % every, last, every), last),
            swept=_swept(parts.trees, target),
        )

    def receive(arrays: dict[str, Any], which: np.ndarray) -> None:
        if on.receive:
            on.receive(solution_of(arrays, which))

    solution = solution_of(*_gather(map(solve, range(len(layout.rounds))), layout, keep, traced, receive))
    return solution.best(keep) if traced and keep < starts else solution


# ---- what is checked -------------------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """The parts of a problem, checked against each other."""

    trees: loop.Trees
    image: Parameterization
    transform: Transform | None
    taps: tuple[str, ...]
    view: Shape


def _parts(loss: Any, model: Any, image: Any, transform: Any, optimizer: Any, projection: Any, watch: Watch) -> _Parts:
    """The parts that are asked for, or an `InputError` where one is of another type or does not suit the model."""
    if not isinstance(model, Model):
        raise InputError(f"a model is made by joi.load, from_function, from_linen, …, not {model!r}")
    image = as_parameterization(image).bind(model.info.image_shape)
    theta = check_parameterization(image)
    transform, projection, optimizer = as_transform(transform), as_projection(projection), as_optimizer(optimizer)
    if watch.milestone is not None and is_line_search(optimizer):
        raise InputError("a milestone is watched at each update: with a line search it cannot be")
    view = view_shape(transform, image.bound())
    if view[2] != model.info.image_shape[2]:
        raise InputError(f"{model.info.name} takes {model.info.image_shape[2]} colors, the image has {view[2]}")
    layers = model.layers(view)
    loss = resolve(loss, layers, image.bound())
    milestone = () if watch.milestone is None else resolve(watch.milestone, layers, image.bound())
    if projection is not None:
        check_projection(targets.select(projection, 0), theta)
    trees = loop.Trees(loss, optimizer, projection or (), milestone)
    taps = loss.taps + (milestone.taps if isinstance(milestone, Loss) else ())
    return _Parts(trees, image, transform, tuple(dict.fromkeys(taps)), view)


def _watch(watch: Any) -> Watch:
    if not isinstance(watch, Watch | None):
        raise InputError(f"watch= takes joi.Watch(every=…, milestone=…), not {watch!r}")
    return watch or Watch()


def _group(parts: _Parts, starts: int) -> int:
    """Neighboring lanes that are optimized together: the starts of a target where they are coupled, else 1."""
    loss = parts.trees.loss
    if loss.couples and starts == 1:
        raise InputError("a loss that compares the starts of a target needs at least 2 starts")
    group = starts if loss.couples or parts.image.couples else 1
    if group > 1 and is_line_search(parts.trees.optimizer):
        raise InputError("a line search moves each start alone: with starts that are coupled, take another optimizer")
    return group


def _snapshots(snapshots: Any, first: int, last: int) -> list[int]:
    """The steps whose images are kept."""
    try:
        marks = [count("a snapshot", step, 0) for step in snapshots]
    except TypeError as error:
        raise InputError(f"snapshots are a sequence of steps, not {snapshots!r}") from error
    if marks and not first <= min(marks) <= max(marks) <= last:
        raise InputError(f"snapshots are steps from {first} to {last}, not {list(snapshots)}")
    return marks


def _most(model: Model, parts: _Parts, on: Resources, kept: int) -> int:
    """Lanes that a device runs at once, at most; what is kept of all of them takes `kept` bytes."""
    if on.chunk is not None or on.memory is None:
        return lanes.MOST
    if isinstance(model.apply, WarmUp):
        model = dataclasses.replace(model, apply=model.apply.apply)
    each = image_bytes(model, parts.taps, parts.view, parts.image.bound())
    return min(lanes.MOST, images_within(int(on.memory), each, model, kept))


def _first_step(initial: Any) -> int:
    """The step to begin with: where an earlier solution stopped."""
    return initial.check_steps[-1] if isinstance(initial, Solution) else 0


def _origin(initial: Any, parts: _Parts, total: int) -> loop.Origin:
    """What each lane begins from."""
    if initial is None:
        return loop.Origin()
    shape = parts.image.bound()
    if not isinstance(initial, Solution):
        if type(parts.image).encode is Parameterization.encode:
            raise InputError(f"{type(parts.image).__name__} does not define encode, which initial images need")
        try:
            pictures = check_images(initial)
        except (TypeError, ValueError) as error:  # also ragged
            raise InputError(f"initial images must be an array, or a Solution: {error}") from error
        if pictures.shape[-3:] != shape or pictures.shape[:-3] not in ((), (total,)):
            raise InputError(f"initial images have shape {pictures.shape}; {shape} or {(total, *shape)} fits")
        return loop.Origin(image=(jnp if is_traced(pictures) else np).broadcast_to(pictures, (total, *shape)))
    if initial.optimizer_state is None:
        raise InputError(
            "the solution holds no optimizer's state, as one that was saved or ran in several rounds: start from its "
            "images, initial=solution.image"
        )
    if len(initial) != total:
        raise InputError(f"the solution is of {len(initial)} lanes, not of {total}: ask for as many targets and starts")
    theta = jax.eval_shape(lambda key: parts.image.init(key, total), jax.random.key(0))
    if jax.tree.map(np.shape, initial.theta) != jax.tree.map(np.shape, theta):
        raise InputError("the solution's θ is of another parameterization or image size")
    return loop.Origin(theta=initial.theta, optimizer=initial.optimizer_state)


# ---- what is run -----------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """What the rounds of a run share."""

    program: loop.Program
    warm_up: tuple[loop.Program, int]
    first: int
    last: int
    every: int
    snapshots: list[int]
    progress: Progress | None
    layout: Layout


def _warm_up(program: loop.Program) -> tuple[loop.Program, int]:
    """The program of the first steps, and how many they are."""
    if not isinstance(program.apply, WarmUp):
        return program, 0
    return dataclasses.replace(program, apply=program.apply.first), program.apply.steps


def _solve_round(
    job: _Job, params: Any, trees: loop.Trees, base: jax.Array, identities: np.ndarray, origin: loop.Origin, number: int
) -> dict[str, Any]:
    """All steps of one round of lanes."""
    layout, which = job.layout, job.layout.rounds[number].lanes
    target, start = layout.places(which)
    if len(layout.rounds) > 1 or len(which) > layout.total:
        origin = jax.tree.map(lambda x: (x if is_traced(x) else np.asarray(x))[which], origin)
    ids = target.astype(np.int32), identities[target], start.astype(np.uint32)
    watches = isinstance(trees.milestone, Loss)
    places = layout.spread((*ids, origin))
    rows, state = loop.begin(job.program.space, watches, trees.optimizer, trees.projection, base, *places)
    return _run(job, params, trees, rows, state, number)


def _run(job: _Job, params: Any, trees: loop.Trees, rows: loop.Lanes, state: loop.State, number: int) -> dict[str, Any]:
    """The loop, in as many calls as segments, snapshots, progress and the warm-up need."""
    first, last, steps = job.first, job.last, job.last - job.first
    rest, warm = job.program, job.warm_up
    advance = loop.advance_traced if is_traced(params, trees, rows, state) else loop.advance
    stops = {*range(first, last, rest.segment), *job.snapshots, min(max(warm[1], first), last), last}
    reported = {*range(first, last, -(-steps // REPORTS)), last} if job.progress else set()

    histories: list[jax.Array] = []
    columns: list[int] = []  # of what the calls return, side by side
    pictures, at = {}, first
    for stop in sorted(stops | reported):
        if stop > at:
            span = loop.Span(*np.array([at, stop, first, last, job.every], np.int32))
            program = warm[0] if at < warm[1] else rest
            state, history = advance(program, params, trees, span, rows, state)
            taken = stop - at + (stop == last)  # with the last value
            columns += range(len(histories) * (rest.segment + 1), len(histories) * (rest.segment + 1) + taken)
            histories.append(history)
            at = stop
            if job.progress and stop in reported:
                done, total = number * steps + stop - first, len(job.layout.rounds) * steps
                job.progress(done, total, float(np.mean(np.asarray(history)[:, taken - 1])))
        if stop in job.snapshots:
            pictures[stop] = loop.decode(rest.space.image, state.theta)
    averages = trees.optimizer.average is not None
    arrays = loop.collect(rest.space.image, state, [pictures[step] for step in job.snapshots], averages)
    loss = loop.join(histories, np.array(columns))
    return {**arrays, "loss": loss, "optimizer_state": state.optimizer}


def _gather(
    results: Iterator[dict[str, Any]], layout: Layout, keep: int, traced: bool, receive: Callable[..., None]
) -> tuple[dict[str, Any], np.ndarray]:
    """The rounds one after another without their padding, and which lanes they are.

    One full round stays on the devices. Others leave them as they come, and of each target the best `keep` are kept.
    Where that is all of them, `receive` is called with each of several rounds.
    """
    n_targets, starts = layout.grid
    everything = np.arange(layout.total)
    if traced:
        parts = list(results)
        if len(parts) == 1 and layout.at_once == layout.total:
            return parts[0], everything
        joined = {}
        for name in parts[0]:
            axis = 1 if name == "snapshots" else 0
            joined[name] = jax.tree.map(
                lambda *x, axis=axis: jax.lax.slice_in_dim(jnp.concatenate(x, axis), 0, layout.total, axis=axis),
                *(part[name] for part in parts),
            )
        return joined | {"optimizer_state": None}, everything
    if len(layout.rounds) == 1 and layout.at_once == layout.total and keep == starts:
        return next(results), everything

    best, rows = Best(n_targets, keep), Rows(layout.total)
    for (which, real), part in zip(layout.rounds, results, strict=True):
        host = jax.device_get(part | {"optimizer_state": None})  # it may be far larger than the images
        host["snapshots"] = np.moveaxis(host["snapshots"], 1, 0)
        host = jax.tree.map(lambda x, real=real: x[:real], host)
        which = which[:real]
        if keep == starts:
            rows.write(which, host)
            if len(layout.rounds) > 1:
                receive(host | {"snapshots": np.moveaxis(host["snapshots"], 0, 1)}, which)
        else:
            best.add(layout.places(which)[0], which, np.isfinite(host["best_loss"]), -host["best_loss"], host)
    arrays, lanes_kept = (rows.tree, everything) if keep == starts else (best.rows(), best.lanes())
    return arrays | {"snapshots": np.moveaxis(arrays["snapshots"], 0, 1)}, lanes_kept


def _swept(trees: loop.Trees, target: np.ndarray) -> dict[str, Any]:
    """`{name: [N]}`: the real numbers in which the targets differ."""
    swept = {}
    for part, tree in zip(loop.Trees._fields, trees, strict=True):
        paths = jax.tree_util.tree_flatten_with_path(tree)[0] if tree != () else []
        for (path, values), many in zip(paths, targets.has_target_axis(tree) if paths else [], strict=True):
            if not many or np.ndim(values) != 1 or not jnp.issubdtype(values.dtype, jnp.floating):
                continue
            if is_traced(values) or np.ptp(np.asarray(values)) > 0:
                steps = (str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", "")))) for k in path)
                name = ".".join((part, *(step for step in steps if step not in ("hyperparameters", "terms"))))
                swept[name] = (values if is_traced(values) else np.asarray(values))[target]
    return swept
