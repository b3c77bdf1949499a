"""The compiled side of `minimize`: the state of all lanes, a step, a line search, and what is kept of them.

The loop runs in segments of one fixed length: which steps they are, and how many, is traced, so that a run of 200 steps
uses the program of a run of 100, and the host may stop anywhere without changing the results. Each device runs the same
program on a chunk of lanes of its own, without any collective.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxopt_input import targets
from jaxopt_input.engine.lanes import any_row, dot, on_each_device, rows, where
from jaxopt_input.engine.lanes import keys as keys_of
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization
from jaxopt_input.losses.algebra import Loss
from jaxopt_input.models.model import Apply, cast
from jaxopt_input.optimizers.named import Optimizer, averaged_theta, is_line_search
from jaxopt_input.optimizers.search import bracket, narrow
from jaxopt_input.projections import Projection
from jaxopt_input.transforms import Transform

MAX_TRIALS = 16
SEGMENT = 128  # steps of one call of the compiled loop, at most


@dataclasses.dataclass(frozen=True)
class Space:
    """What θ is, and where: all that is static and asks no network, so that `begin` serves every loss."""

    image: Parameterization
    group: int  # neighboring lanes that are optimized together: the starts of a target, or 1
    mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Program:
    """All that is static: two calls with equal programs and equal shapes share one compilation."""

    apply: Apply
    taps: tuple[str, ...]
    space: Space
    transform: Transform | None
    segment: int  # steps of one call, at most
    dtype: str


class Trees(NamedTuple):
    """The traced parts with a target axis."""

    loss: Loss
    optimizer: Optimizer
    projection: Projection | tuple[()]
    milestone: Loss | tuple[()]


class Lanes(NamedTuple):
    """What tells one lane from another: its target, and the key of its start."""

    target: jax.Array
    key: jax.Array


class Origin(NamedTuple):
    """What lanes begin from: images to encode, or θ itself, or noise where both are None; an optimizer's state."""

    image: Any = None
    theta: Any = None
    optimizer: Any = None


class Span(NamedTuple):
    """Which steps a call takes: from `begin` to before `stop`, of a run from step `first` to step `last`."""

    begin: jax.Array
    stop: jax.Array
    first: jax.Array
    last: jax.Array
    check_every: jax.Array


class State(NamedTuple):
    """The loop's state, one row per lane."""

    theta: Any
    optimizer: Any
    best_theta: Any
    best_loss: jax.Array
    best_step: jax.Array
    evaluations: jax.Array
    finite: jax.Array
    dead: jax.Array  # whether the gradient was zero throughout
    restarts: jax.Array
    milestone: Any  # (θ, step) of the first iterate that reached it, or ()
    carried: Any  # (value, gradient, settled) at θ where a line search ended with them


@functools.partial(jax.jit, static_argnames=("space", "watches"))
def begin(
    space: Space,
    watches: bool,
    optimizer: Optimizer,
    projection: Projection | tuple[()],
    base: jax.Array,
    target: Any,
    identity: Any,
    k: Any,
    origin: Origin,
) -> tuple[Lanes, State]:
    """The lanes' keys and the state before the first step.

    Args:
        space: of θ.
        watches: whether there is a milestone.
        optimizer, projection: with a target axis.
        base: the caller's key.
        target: `[L]` int32, the target of each lane.
        identity: `[L]` uint32, the hash of its name.
        k: `[L]` uint32, its start.
        origin: what each lane begins from.
    """
    local = functools.partial(_begin_local, space, watches)
    return on_each_device(local, space.mesh, shared=3)(optimizer, projection, base, target, identity, k, origin)


def _begin_local(
    space: Space,
    watches: bool,
    optimizer: Optimizer,
    projection: Projection | tuple[()],
    base: jax.Array,
    target: Any,
    identity: Any,
    k: Any,
    origin: Origin,
) -> tuple[Lanes, State]:
    # One key per lane for the steps, one for the noise.
    lane_keys, init_keys = jax.vmap(jax.random.split, out_axes=1)(keys_of(base, identity, k))
    lanes = Lanes(target, lane_keys)

    # θ of an earlier run is feasible already: projecting it again could change its last bits.
    if origin.theta is not None:
        theta = origin.theta
    elif origin.image is not None:
        theta = _project(space, projection, lanes, space.image.encode(origin.image))
    else:
        noise = jax.vmap(lambda key: jax.tree.map(lambda x: x[0], space.image.init(key, 1)))(init_keys)
        theta = _project(space, projection, lanes, noise)

    past = origin.optimizer
    if past is None:
        init = targets.vmap_lanes(lambda o, t: o.build().init(t), optimizer, target)
        past = init(theta)
    n = target.shape[0]
    zeros = jnp.zeros(n, jnp.float32)
    carried = (zeros, jax.tree.map(jnp.zeros_like, theta), zeros > 0) if is_line_search(optimizer) else ()
    return lanes, State(
        theta=theta,
        optimizer=past,
        best_theta=theta,
        best_loss=zeros + jnp.inf,
        best_step=jnp.zeros(n, jnp.int32),
        evaluations=jnp.zeros(n, jnp.int32),
        finite=zeros == 0,
        dead=zeros == 0,
        restarts=jnp.zeros(n, jnp.int32),
        milestone=(theta, jnp.full(n, -1, jnp.int32)) if watches else (),
        carried=carried,
    )


def _advance(
    program: Program, params: Any, trees: Trees, span: Span, lanes: Lanes, state: State
) -> tuple[State, jax.Array]:
    """The state after the steps of a span, and their losses.

    Args:
        program: all that is static.
        params: of the network.
        trees: the parts with a target axis.
        span: at most `program.segment` steps; where it ends the run, the last value is taken as well.
        lanes: as `begin` makes them.
        state: is given up.

    Returns:
        The state, and `[L, segment + 1]`: column j is the loss before step `span.begin + j`; 0 past the span.
    """
    return on_each_device(functools.partial(_advance_local, program), program.space.mesh, shared=3)(
        params, trees, span, lanes, state
    )


advance = jax.jit(_advance, static_argnames="program", donate_argnames="state")
# Within another transformation nothing can be given up, and JAX would warn of it.
advance_traced = jax.jit(_advance, static_argnames="program")


def _advance_local(
    program: Program, params: Any, trees: Trees, span: Span, lanes: Lanes, state: State
) -> tuple[State, jax.Array]:
    params = cast(params, program.dtype)

    # What is computed of θ: the loss, the milestone if there is one, and the loss's gradient.
    def values(theta: Any, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        losses = (trees.loss, trees.milestone) if trees.milestone else (trees.loss,)
        return _values(program, params, losses, lanes.target, theta, keys)

    def evaluate(theta: Any, keys: jax.Array | None) -> tuple[tuple[jax.Array, ...], Any]:
        def total(theta: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            each = values(theta, keys)
            return each[0].sum(), each

        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(theta)
        return each, _couple(program.space, gradient)

    def view_keys(i: jax.Array) -> jax.Array | None:
        return None if program.transform is None else jax.vmap(lambda key: jax.random.fold_in(key, i))(lanes.key)

    def check(s: State, i: jax.Array) -> State:
        return _keep_best(s, values(s.theta, None)[0], i)._replace(evaluations=s.evaluations + 1)

    def step(i: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        s, history = carry
        keys = view_keys(i)

        # The value and gradient at θ. A line search without a transform ended with them: no need to run the network.
        if _searches(trees):
            carried = ((s.carried[0],), s.carried[1])
            at_hand = i > span.first if program.transform is None else jnp.zeros((), bool)
            (value,), gradient = jax.lax.cond(at_hand, lambda: carried, lambda: evaluate(s.theta, keys))
            s = s._replace(evaluations=s.evaluations + jnp.where(at_hand, 0, 1))
        else:
            (value, *watched), gradient = evaluate(s.theta, keys)
            s = _keep_milestone(s, watched, i)
            s = s._replace(evaluations=s.evaluations + 1)

        # The best so far, by the loss of the image itself: at hand without a transform, else one more forward pass.
        ends = i == span.last
        if program.transform is None:
            s = _keep_best(s, value, i)
        else:
            s = jax.lax.cond((jax.lax.rem(i, span.check_every) == 0) | ends, lambda: check(s, i), lambda: s)

        # The marks of lanes that fail. After the last update the value counts, its gradient does not.
        history = jax.lax.dynamic_update_slice_in_dim(history, value[:, None], (i - span.begin).astype(jnp.uint32), 1)
        slopes, broken = (any_row(test, gradient) & ~ends for test in (lambda x: x != 0, lambda x: ~jnp.isfinite(x)))
        s = s._replace(dead=s.dead & ~slopes, finite=s.finite & jnp.isfinite(value) & ~broken)

        def update() -> State:
            if _searches(trees):
                return _search(program, trees, lanes, s, value, gradient, lambda theta: evaluate(theta, keys))
            return _update(program, params, trees, lanes, s, value, gradient, keys)

        return jax.lax.cond(ends, lambda: s, update), history

    # The last value is one more turn of the same loop: a site of its own would put the network there once more, and
    # compiling is most of a short run.
    history = jnp.zeros((lanes.target.shape[0], program.segment + 1), jnp.float32)
    return jax.lax.fori_loop(span.begin, span.stop + (span.stop == span.last), step, (state, history))


def _values(
    program: Program, params: Any, losses: tuple[Loss, ...], target: jax.Array, theta: Any, keys: jax.Array | None
) -> tuple[jax.Array, ...]:
    """`[lanes]` of each loss: its value for each lane's image, under the lane's transform if keys are given."""
    # The model runs on the whole batch: `vmap` over it would cost 15 %.
    images = program.space.image.decode(theta)
    views = images if keys is None or program.transform is None else jax.vmap(program.transform)(keys, images)
    activations = program.apply(params, views.astype(program.dtype), program.taps)
    activations = {tap: a.astype(jnp.float32) for tap, a in activations.items()}

    def each(losses: tuple[Loss, ...], activations: Any, image: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(loss(activations, image) for loss in losses)

    if program.space.group == 1:
        return targets.vmap_lanes(each, losses, target)(activations, images)

    # One more axis: the starts of each target, by the name that a loss which compares them knows it.
    def together(losses: tuple[Loss, ...], activations: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vmap(functools.partial(each, losses), axis_name="starts")(activations, images)

    grouped = jax.tree.map(lambda x: x.reshape(-1, program.space.group, *x.shape[1:]), (activations, images))
    groups = targets.vmap_lanes(together, losses, target[:: program.space.group])(*grouped)
    return tuple(value.reshape(-1) for value in groups)


def _update(
    program: Program, params: Any, trees: Trees, lanes: Lanes, s: State, value: Any, gradient: Any, keys: Any
) -> State:
    """One update of an Optax rule, each lane for itself."""

    def lane_update(trees: Trees, g: Any, state: Any, theta: Any, value: Any, lane: Lanes, key: Any) -> tuple[Any, Any]:
        def value_fn(theta: Any) -> jax.Array:  # for rules with a line search of their own
            if program.space.group > 1:
                raise InputError("a line search moves each start alone: take another optimizer for coupled starts")
            batch = jax.tree.map(lambda x: x[None], (theta, key))
            return _values(program, params, (trees.loss,), jnp.zeros(1, jnp.int32), *batch)[0][0]

        rule = trees.optimizer.build()
        return rule.update(g, state, theta, value=value, grad=g, value_fn=value_fn)

    updates, optimizer = targets.vmap_lanes(lane_update, trees, lanes.target)(
        gradient, s.optimizer, s.theta, value, lanes, keys
    )
    theta = _project(program.space, trees.projection, lanes, optax.apply_updates(s.theta, updates))
    trials = optax.tree_utils.tree_get(optimizer, "num_linesearch_steps", default=0)
    return s._replace(
        theta=where(s.finite & ~any_row(lambda x: ~jnp.isfinite(x), theta), theta, s.theta),
        optimizer=optimizer,
        evaluations=s.evaluations + jnp.asarray(trials, jnp.int32),
    )


def _search(program: Program, trees: Trees, lanes: Lanes, s: State, value: Any, gradient: Any, evaluate: Any) -> State:
    """One step of L-BFGS: a direction, then a line search that evaluates all lanes at once, each at its own trial.

    Where the search meets nothing lower, the curvature that the direction was made of is forgotten: the next step
    begins anew, downhill from the same θ. Where that meets nothing either, the lane has settled.
    """
    settled = s.carried[2]
    budget = targets.vmap_lanes(lambda o, _: o.hyperparameters["max_evaluations"], trees.optimizer, lanes.target)(
        s.evaluations
    )

    # The direction: −H · gradient, or straight downhill where that does not descend.
    rule = targets.vmap_lanes(lambda o, g, st, t: o.build().update(g, st, t), trees.optimizer, lanes.target)
    direction, optimizer = rule(gradient, s.optimizer, s.theta)
    direction = jax.tree.map(jnp.negative, direction)
    descends = dot(direction, gradient) < 0  # the last step may have left no positive curvature behind
    norm = jnp.sqrt(dot(gradient, gradient))
    downhill = jax.tree.map(lambda g: -g / rows(jnp.where(norm > 0, norm, 1.0), g), gradient)
    direction = where(descends, direction, downhill)
    active = s.finite & ~settled & (norm > 0)

    # The search. Lanes that are done, or out of evaluations, wait for the others; what they keep does not change.
    def unfinished(carry: Any) -> jax.Array:
        trial, b, _, evaluations = carry
        return jnp.any(active & ~b.done & (evaluations < budget)) & (trial < MAX_TRIALS)

    def attempt(carry: Any) -> Any:
        trial, b, kept, evaluations = carry
        theta = jax.tree.map(lambda x, d: x + rows(b.step, x) * d, s.theta, direction)
        theta = _project(program.space, trees.projection, lanes, theta)
        (new_value,), new_gradient = evaluate(theta)
        path = jax.tree.map(lambda new, old: (new - old) / rows(b.step, new), theta, s.theta)
        running = active & ~b.done & (evaluations < budget)
        after, decreased = jax.vmap(narrow)(b, (value, dot(gradient, path)), (new_value, dot(new_gradient, path)))
        kept = where(running & decreased, (theta, new_value, new_gradient), kept)
        return trial + 1, after, kept, evaluations + running

    first = jax.vmap(bracket)(value, dot(direction, gradient), jnp.ones_like(value))
    start = (jnp.int32(0), first, (s.theta, value, gradient), s.evaluations)
    _, b, (theta, value, gradient), evaluations = jax.lax.while_loop(unfinished, attempt, start)

    # A lane without a lower value either forgets its past or has settled.
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


def _keep_best(s: State, value: jax.Array, i: jax.Array) -> State:
    better = jnp.isfinite(value) & (value < s.best_loss)
    return s._replace(
        best_theta=where(better, s.theta, s.best_theta),
        best_loss=jnp.where(better, value, s.best_loss),
        best_step=jnp.where(better, i, s.best_step).astype(jnp.int32),
    )


def _keep_milestone(s: State, watched: Sequence[jax.Array], i: jax.Array) -> State:
    """The first iterate at which the milestone, if there is one, is at most 0."""
    if not watched:
        return s
    theta, step = s.milestone
    waiting = step < 0
    reached = waiting & (watched[0] <= 0)
    return s._replace(milestone=(where(waiting, s.theta, theta), jnp.where(reached, i, step)))


def _project(space: Space, projection: Projection | tuple[()], lanes: Lanes, theta: Any) -> Any:
    """θ after the parameterization's own projection and the one asked for."""
    theta = space.image.project(theta)
    if isinstance(projection, Projection):
        theta = targets.vmap_lanes(lambda projection, t: projection(t), projection, lanes.target)(theta)
    return _couple(space, theta)


def _couple(space: Space, tree: Any) -> Any:
    """θ or its gradient, what the starts of a target share replaced by its mean over them."""
    if space.group == 1 or not space.image.couples:
        return tree

    def mean(x: jax.Array) -> jax.Array:
        grouped = x.reshape(-1, space.group, *x.shape[1:])
        return jnp.broadcast_to(grouped.mean(1, keepdims=True), grouped.shape).reshape(x.shape)

    return space.image.couple(tree, mean)


def _searches(trees: Trees) -> bool:
    return is_line_search(trees.optimizer)


@functools.partial(jax.jit, static_argnames="image")
def decode(image: Parameterization, theta: Any) -> jax.Array:
    """The images `[L, H, W, C]` of θ."""
    return image.decode(theta)


@jax.jit
def join(parts: list[jax.Array], columns: Any) -> jax.Array:
    """`[L, steps + 1]`: the losses of all steps, those columns of what `advance` returned segment by segment."""
    return jnp.concatenate(parts, 1)[:, columns]


def collect(image: Parameterization, state: State, snapshots: list[jax.Array], averages: bool) -> dict[str, Any]:
    """The arrays of a `Solution` from the last state, less the losses.

    Every image is made by the one program of `decode`.
    """
    pictures = functools.partial(decode, image)
    theta, step = state.milestone or (None, None)
    last = pictures(state.theta)
    return {
        "milestone_image": None if theta is None else pictures(theta),
        "milestone_step": step,
        "average_image": pictures(averaged_theta(state.optimizer)) if averages else None,
        "restarts": state.restarts,
        "image": last,
        "best_image": pictures(state.best_theta),
        "theta": state.theta,
        "best_loss": state.best_loss,
        "best_step": state.best_step,
        "evaluations": state.evaluations,
        "finite": state.finite,
        "dead": state.dead,
        "snapshots": jnp.stack(snapshots) if snapshots else np.zeros((0, *last.shape), np.float32),
    }
