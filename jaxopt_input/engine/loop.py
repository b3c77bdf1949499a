"""The compiled side of `minimize`: the state of all lanes, a step, a line search, and what is kept of them.

The loop runs a traced number of steps, so that the host can call it segment by segment without changing the program or
its results. Each device runs the same program on a chunk of lanes of its own, without any collective.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxopt_input import targets
from jaxopt_input.errors import InputError
from jaxopt_input.images import Parameterization
from jaxopt_input.losses.algebra import Loss
from jaxopt_input.models.model import Apply, cast
from jaxopt_input.optimizers.named import Optimizer, averaged_theta, is_line_search
from jaxopt_input.optimizers.search import bracket, narrow
from jaxopt_input.projections import Projection
from jaxopt_input.transforms import Transform

MAX_TRIALS = 16
UNLIMITED = np.iinfo(np.int32).max
_LANES, _SHARED = PartitionSpec("starts"), PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Program:
    """All that is static: two calls with equal programs and equal shapes share one compilation."""

    apply: Apply
    taps: tuple[str, ...]
    image: Parameterization
    transform: Transform | None
    raw_optimizer: optax.GradientTransformation | None
    steps: int
    check_every: int
    group: int  # neighboring lanes that are optimized together: the starts of a target, or 1
    dtype: str
    mesh: Mesh


class Trees(NamedTuple):
    """The traced parts with a target axis."""

    loss: Loss
    optimizer: Optimizer | tuple[()]
    projection: Projection | tuple[()]
    milestone: Loss | tuple[()]


class Lanes(NamedTuple):
    """What tells one lane from another: its target, and the key of its start."""

    target: jax.Array
    key: jax.Array


class State(NamedTuple):
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


@functools.partial(jax.jit, static_argnames="program")
def begin(
    program: Program, trees: Trees, base: jax.Array, target: Any, identity: Any, k: Any, first: Any, past: Any
) -> tuple[Lanes, State]:
    """The lanes' keys and the state before the first step."""

    def local(
        trees: Trees, base: jax.Array, target: Any, identity: Any, k: Any, first: Any, past: Any
    ) -> tuple[Lanes, State]:
        keys = jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(base, i), n))(identity, k)
        keys, init_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        lanes = Lanes(target, keys)
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
        return lanes, State(
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
def advance(program: Program, params: Any, trees: Trees, lanes: Lanes, state: State, span: Any) -> State:
    """Steps `span[0]` to `span[1]`, of `span[2]` evaluations at most, and the last value where that is the end."""
    return jax.shard_map(
        functools.partial(_advance_local, program),
        mesh=program.mesh,
        in_specs=(_SHARED, _SHARED, _LANES, _LANES, _SHARED),
        out_specs=_LANES,
        check_vma=False,
    )(params, trees, lanes, state, span)


def _advance_local(program: Program, params: Any, trees: Trees, lanes: Lanes, state: State, span: Any) -> State:
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

    def check(s: State, i: jax.Array) -> State:
        return _keep_best(s, values(s.theta, None)[0], i)._replace(evaluations=s.evaluations + 1)

    def step(i: jax.Array, s: State) -> State:
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

    def last(s: State) -> State:
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
    program: Program, params: Any, losses: tuple[Loss, ...], target: jax.Array, theta: Any, keys: jax.Array | None
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
    program: Program, params: Any, trees: Trees, lanes: Lanes, s: State, value: Any, gradient: Any, keys: Any
) -> State:
    """One update of an Optax rule, each lane for itself."""

    def one(trees: Trees, g: Any, state: Any, theta: Any, value: Any, lane: Lanes, key: Any) -> tuple[Any, Any]:
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
    program: Program, trees: Trees, lanes: Lanes, s: State, value: Any, gradient: Any, budget: Any, evaluate: Any
) -> State:
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


def _keep_best(s: State, value: jax.Array, i: jax.Array) -> State:
    better = jnp.isfinite(value) & (value < s.best_loss)
    return s._replace(
        best_theta=_where(better, s.theta, s.best_theta),
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
    return s._replace(milestone=(_where(waiting, s.theta, theta), jnp.where(reached, i, step)))


def _project(program: Program, trees: Trees, lanes: Lanes, theta: Any) -> Any:
    """θ after the parameterization's own projection and the one asked for."""
    theta = program.image.project(theta)
    if isinstance(trees.projection, Projection):
        theta = targets.vmap_lanes(lambda projection, t: projection(t), trees.projection, lanes.target)(theta)
    return _couple(program, theta)


def _couple(program: Program, tree: Any) -> Any:
    """θ or its gradient, what the starts of a target share replaced by its mean over them."""
    if program.group == 1 or not program.image.couples:
        return tree

    def mean(x: jax.Array) -> jax.Array:
        grouped = x.reshape(-1, program.group, *x.shape[1:])
        return jnp.broadcast_to(grouped.mean(1, keepdims=True), grouped.shape).reshape(x.shape)

    return program.image.couple(tree, mean)


def _build(program: Program, optimizer: Any) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(program.raw_optimizer) if program.raw_optimizer else optimizer.build()


def _searches(trees: Trees) -> bool:
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
def decode(program: Program, theta: Any) -> jax.Array:
    return program.image.decode(theta)


@functools.partial(jax.jit, static_argnames="program")
def collect(program: Program, trees: Trees, state: State, snapshots: list[jax.Array]) -> dict[str, Any]:
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
