"""The frame of every attack: its arguments checked, its lanes laid out, its method compiled whole, its images judged.

    images, labels ─► examine (clean logits, signs of gradient masking) ─► lanes: budgets x restarts x images
         ─► method(problem, numbers), one compiled program per chunk ─► clip, round ─► judge again ─► best restart

A lane's random numbers derive from the caller's key, the content of its image and its restart alone: its result
depends neither on the rest of the batch nor on its place in it, nor on whether the attack is called under `jax.jit`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxopt_input import checks, losses
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.criteria import Criterion, as_criterion, check_criterion, refuse_beyond_boundary
from jaxopt_input.attacks.examine import classes_of, examine, transformed
from jaxopt_input.attacks.objectives import Objective
from jaxopt_input.attacks.problem import RANDOM_TARGET, Found, Lanes, Method, Problem, no_objective
from jaxopt_input.attacks.result import NORMS, AttackResult, has_class
from jaxopt_input.engine import lanes
from jaxopt_input.engine.lanes import Best, Layout, Resources, ahead, flat, on_each_device, where
from jaxopt_input.engine.memory import image_bytes, images_within
from jaxopt_input.errors import InputError
from jaxopt_input.kernels.threefry import written_out
from jaxopt_input.models.model import Apply, Model, in_dtype
from jaxopt_input.transforms import Transform, View, as_transform

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt32
    from numpy.typing import ArrayLike

    Array = np.ndarray | jax.Array


class Options(TypedDict, total=False):
    """What every attack takes, besides its own arguments.

    Attributes:
        target: the class each image is to get: an index or name, `[N]` indices, "random" (any other class than the
            true one) or "least-likely" (of the original); None to leave the true class.
        criterion: of success, from `attacks.criteria` or a function of one image's (logits, label, target).
        restarts: random starts of each image, as further lanes; the best is kept.
        rounded: whether images count as they are once rounded to 8 bits within the budget, in the search and in the
            result.
        transform: what the network sees of an image, at random, or its name; losses and logits are means over it
            (EOT). Success, also of the original, is judged by the mean logits of at least 32 draws, always the same.
        samples: draws of it at each step.
        on: the resources, `joi.Resources(devices=…, chunk=…, memory=…, dtype=…, progress=…)`; its progress is called
            as (lanes done, lanes in all).
    """

    target: str | ArrayLike | None
    criterion: Criterion | Callable[..., ArrayLike] | None
    restarts: int
    rounded: bool
    transform: Transform | View | str | None
    samples: int
    on: Resources | None


@dataclasses.dataclass(frozen=True)
class _Program:
    """All that is static: two calls with equal programs and equal shapes share one compilation."""

    apply: Apply
    method: Method
    norm: str
    targeted: bool
    rounded: bool
    stop: bool
    minimizes: bool
    transform: Transform | None
    samples: int
    objective: Objective | None


class _Work(NamedTuple):
    """What the lanes of an attack share, and what is taken of each image."""

    params: Any
    base: jax.Array
    criterion: Criterion
    numbers: Mapping[str, Array]
    images: Float[Array, "N H W C"]
    labels: Int[Array, " N"]
    targets: Int[Array, " N"]
    radius: Float[Array, "E N"]
    logits: Float[Array, "N classes"]
    start: Float[Array, "N H W C"] | None

    @property
    def shared(self) -> tuple[Any, ...]:
        return self.params, self.base, self.criterion, self.numbers

    def lanes(self, budget: Any, restart: Any, image: Any) -> tuple[Any, ...]:
        """The rows of some lanes, by their places in the grid (budgets, restarts, images)."""
        start = None if self.start is None else self.start[image]
        each = self.images[image], self.labels[image], self.targets[image]
        return *each, self.radius[budget, image], restart.astype(np.uint32), self.logits[image], start


def run(
    method: Method,
    key: jax.Array,
    model: Model,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    norm: str = "linf",
    epsilon: ArrayLike | None = None,
    numbers: Mapping[str, ArrayLike] | None = None,
    objective: Objective | None = None,
    start: ArrayLike | None = None,
    stop: bool = True,
    draws: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """Run a method of attack on images: the frame of all attacks, and of your own.

    Args:
        method: `(problem, numbers) -> Found`, of a `Problem` and the numbers below; hashable, equal ones compile once.
        key: a JAX key, the only source of randomness.
        model: the network, with logits (not probabilities) at "logits".
        images: `[N, H, W, C]` in [0, 1].
        labels: `[N]` true classes, or a single class.
        norm: of the budget, or the one that is minimized: "l0", "l1", "l2", "linf".
        epsilon: the budget: a number, several (lanes of one program, one leading axis more in the result), or
            `[E, N]`, of each image; among several, 0 leaves the original. None for a method that minimizes the norm.
        numbers: the method's own traced numbers, by name.
        objective: the loss the method maximizes, to be checked against the model.
        start: `[N, H, W, C]`, images to begin from.
        stop: whether an image is done once it succeeds.
        draws: whether the method draws at random, so that its restarts differ.
        options: what every attack takes, as in `Options`.

    Returns:
        An `AttackResult`. Its counts leave out the gradient at the original with which the network is examined.
        Under a transformation such as `jax.jit` it holds JAX arrays, what needs values is not checked, gradient masking
        is not looked for, and the caller decides on the devices.

    Raises:
        InputError: before the method is compiled, for labels out of range or of another type, images outside [0, 1],
            budgets that are negative or, in L∞, 1 or more, targets equal to the label, too few classes, or
            probabilities as logits.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> from jaxopt_input.attacks import Found, run
        >>> def one_pixel_value(problem, numbers):  # an attack of one's own: the number that matters most
        ...     _, gradient, _ = problem.gradient(problem.clean, lambda label, target: joi.losses.margin(label))
        ...     image = problem.into_ball(problem.clean + gradient * numbers["reach"], "l1")
        ...     return Found(image, steps=1, gradients=1)
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.51)
        >>> result = run(one_pixel_value, jax.random.key(0), model, image, [0], norm="l1", epsilon=[0.1, 1.0],
        ...              numbers={"reach": 1e3})
        >>> result.success.tolist(), result.distance["l1"].round(3).tolist()
        ([[False], [True]], [[inf], [1.0]])
    """
    settings: dict[str, Any] = {**_DEFAULTS, **options}
    if unknown := settings.keys() - _DEFAULTS.keys():
        raise TypeError(f"an attack takes no argument {', '.join(sorted(unknown))}; it takes {', '.join(_DEFAULTS)}")
    on, target, transform = lanes.resources(settings["on"]), settings["target"], as_transform(settings["transform"])

    # Whatever can be wrong is said before anything is compiled.
    images = checks.batch(images, model)
    if on.dtype != "float32":
        model = in_dtype(model, on.dtype)
    checks.one_of("norm", norm, NORMS)
    n, total, shapes = len(images), classes_of(model, images.shape[1:]), model.layers(images.shape[1:])
    labels = checks.classes("label", labels, n, model, total)
    criterion = as_criterion(settings["criterion"], target is not None)
    check_criterion(criterion, total)
    if objective is not None and objective.levels_off:
        refuse_beyond_boundary(criterion, "the loss carlini_wagner")
    budgets = None if epsilon is None else checks.budgets(epsilon, n, norm)
    if start is not None:
        start = checks.batch(start, model, "starts")
        if start.shape != images.shape:
            raise InputError(f"starts have shape {start.shape}, the images {images.shape}: give one start per image")
    restarts, samples = checks.count("restarts", settings["restarts"]), checks.samples(settings["samples"], transform)
    if restarts > 1 and not draws and transform is None:
        raise InputError(
            f"{restarts} restarts would be copies: this attack draws nothing at random; leave them out, or take pgd "
            "within a budget, fab for the nearest image"
        )
    fixed = _fixed_targets(target, labels, model, total)
    if objective is not None:
        objective(0, 0).check(shapes)
    base = written_out(checks.typed_key(key))
    traced_numbers = {name: _float32(value) for name, value in (numbers or {}).items()}

    program = _Program(
        model.apply, method, norm, target is not None, bool(settings["rounded"]), bool(stop), budgets is None,
        transform, samples if transform else 1, objective,
    )  # fmt: skip
    radius = _radius(budgets, n)
    grid = (len(radius), restarts, n)
    traced = transformed(model.params, base, criterion, traced_numbers, images, labels, fixed, budgets, start)
    # Under a transformation the caller decides on the devices: the rounds are those of one.
    plan = lanes.layout(
        grid, dataclasses.replace(on, devices=on.local[:1]) if traced else on,
        most=chunk_within(on.memory, model, images.shape[1:], samples),
    )  # fmt: skip
    params, base = (model.params, base) if traced else plan.share((model.params, base))

    def work(logits: Any) -> _Work:
        targets = _targets(target, fixed, labels, base, images, logits)
        return _Work(params, base, criterion, traced_numbers, images, labels, targets, radius, logits, start)

    if traced:
        task = work(_logits(model.apply, params, plan.chunk, images))
        rows, signs = _under_transformation(program, task, plan.grid, plan.chunk), _NO_SIGNS
    else:
        logits, signs = examine(model, params, plan, images, labels)
        task = work(logits)
        rows = _in_rounds(program, task, plan, on)
    several = budgets is not None and budgets.ndim > 0
    return _result(rows, several, program, task, budgets, signs)


_NO_SIGNS: tuple[str, ...] = ()
_DEFAULTS = Options(target=None, criterion=None, restarts=1, rounded=False, transform=None, samples=1, on=None)


def chunk_within(memory: Any, model: Model, shape: tuple[int, int, int], samples: int = 1) -> int:
    """Lanes that a device runs at once: as many as fit a memory, where there is one, and at most `lanes.MOST`.

    Raises:
        InputError: if not even one fits.

    Example:
        >>> import jaxopt_input as joi
        >>> [chunk_within(memory, joi.load("tin100"), (64, 64, 3)) for memory in (None, 860 << 20)]
        [32, 12]
    """
    if memory is None:
        return lanes.MOST
    each = samples * image_bytes(model, ("logits",), shape, shape)
    return min(lanes.MOST, images_within(memory, each, model))


def _float32(value: Any) -> Any:
    """A number or array as float32, traced where it is."""
    return (jnp if isinstance(value, jax.core.Tracer) else np).asarray(value, np.float32)


def _radius(budgets: Any, n: int) -> Float[Array, "E N"]:
    """ε of each budget and image, infinite without a budget."""
    if budgets is None:
        return np.full((1, n), np.inf, np.float32)
    each = budgets if budgets.ndim == 2 else budgets.reshape(-1, 1)
    return (jnp if isinstance(budgets, jax.core.Tracer) else np).broadcast_to(each, (len(each), n))


def _fixed_targets(target: Any, labels: Any, model: Model, total: int) -> Any:
    """`[N]` target classes; None where there are none, or where they are yet to be chosen."""
    if target is None or (isinstance(target, str) and target in ("random", "least-likely")):
        return None
    if isinstance(target, str):
        target = model.info.class_index(target)
    chosen = checks.classes("target", target, len(labels), model, total)
    if not lanes.is_traced(chosen, labels) and len(same := np.flatnonzero(chosen == labels)):
        raise InputError(f"the target of image {same[0]} is its label, {labels[same[0]]}: give another class")
    return chosen


def _targets(target: Any, fixed: Any, labels: Any, base: jax.Array, images: Any, logits: Any) -> Int[Array, " N"]:
    """The target of each image; its label where there is none."""
    if target is None:
        return labels
    if fixed is not None:
        return fixed
    others = logits.shape[-1] - 1
    if isinstance(target, str) and target == "random":
        chosen = _random_targets(base, images, labels, np.int32(others))
    else:
        chosen = _least_likely(logits, labels)
    return chosen if lanes.is_traced(chosen) else np.asarray(chosen)


@jax.jit
def _random_targets(base: jax.Array, images: jax.Array, labels: jax.Array, others: jax.Array) -> Int[Array, " N"]:
    """Any class but the label, from the caller's key and the image's content."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(base, i), RANDOM_TARGET))(content(images))
    drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, others, jnp.int32))(keys)
    return drawn + (drawn >= labels)


@jax.jit
def _least_likely(logits: jax.Array, labels: jax.Array) -> Int[Array, " N"]:
    likely = jnp.where(jnp.arange(logits.shape[-1])[None] == labels[:, None], jnp.inf, logits)
    return jnp.argmin(likely, -1).astype(jnp.int32)


# ---- compiled --------------------------------------------------------------------------------------------------------


def content(images: Float[Array, "L H W C"]) -> UInt32[jax.Array, " L"]:
    """A hash of each image, the same on the host, on any device and under any transformation.

    Numbers count to a 255th, so that an image which rounding changed in its last bits keeps its random numbers. The
    levels' bounds lie off the 8-bit levels and off short decimal fractions, where images tend to be.

    Example:
        >>> content(jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(jnp.array([0.1, 0.2, 0.3]))).tolist()
        [1506975388]
    """

    def mixed(x: jax.Array) -> jax.Array:  # the finalizer of MurmurHash3
        x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
        return x ^ (x >> 16)

    levels = flat(jnp.floor(images * 255 + 0.3)).astype(jnp.uint32)
    place = jnp.arange(levels.shape[1], dtype=jnp.uint32)[None]
    return mixed(jnp.sum(mixed(levels + mixed(place + 1)), -1, dtype=jnp.uint32))


@functools.partial(jax.jit, static_argnames=("apply", "chunk"))
def _logits(apply: Apply, params: Any, chunk: int, images: jax.Array) -> Float[Array, "L classes"]:
    def look(images: jax.Array) -> jax.Array:
        return apply(params, images, ("logits",))["logits"].astype(jnp.float32)

    return _in_chunks(look, chunk, images)


def _attack(program: _Program, params: Any, base: Any, criterion: Any, numbers: Any, *rows: Any) -> dict[str, Any]:
    """The lanes of one device: a row of each array per lane."""
    clean, label, target, epsilon, restart, logits, start = jax.tree.map(jnp.asarray, rows)
    keys = lanes.keys(base, content(clean), restart)
    problem = Problem(
        lanes=Lanes(clean, label, target, epsilon, keys, logits, restart, start),
        apply=functools.partial(program.apply, params),
        criterion=criterion,
        norm=program.norm,
        targeted=program.targeted,
        rounded=program.rounded,
        transform=program.transform,
        samples=program.samples,
        objective=program.objective or no_objective,
        stop=program.stop,
    )
    if program.transform is not None:  # the logits of the originals are without it
        problem = dataclasses.replace(problem, lanes=problem.lanes._replace(logits=problem.judged(clean)))
    outcome = program.method(problem, numbers)
    untouched = (problem.done() & program.stop) | (epsilon == 0)
    return _judge(program, problem, _untouched(outcome, untouched, clean))


@functools.partial(jax.jit, static_argnames=("program", "mesh"))
def _attack_round(program: _Program, mesh: Mesh, *arguments: Any) -> dict[str, Any]:
    """A round of lanes, every device its own without any collective."""
    return on_each_device(functools.partial(_attack, program), mesh, shared=4)(*arguments)


def _untouched(outcome: Found, done: Bool[jax.Array, " L"], clean: jax.Array) -> Found:
    """What a method returned; the original, at no cost, where that was a success already, or may not change."""

    def count(x: jax.Array | int) -> jax.Array:
        return jnp.where(done, 0, jnp.asarray(x, jnp.int32))

    counts = count(outcome.steps), count(outcome.gradients), count(outcome.forwards)
    return Found(where(done, clean, outcome.image), *counts, outcome.history)


def _judge(program: _Program, problem: Problem, outcome: Found) -> dict[str, jax.Array]:
    """The images clipped and rounded, and what the network says of them; the originals where they are not finite."""
    clean = problem.clean
    usable = jnp.isfinite(flat(outcome.image)).all(-1)
    image = problem.counted(jnp.clip(where(usable, outcome.image, clean), 0.0, 1.0))
    logits = problem.judged(image)
    finite = usable & has_class(logits)
    image, logits = where(finite, (image, logits), (clean, problem.lanes.logits))
    success = problem.success(logits)
    if not program.minimizes:
        success &= geometry.norm(image - clean, program.norm) <= problem.epsilon * (1 + 1e-5) + 1e-6
    else:  # a search without an end has nothing to show
        image, logits = where(success, (image, logits), (clean, problem.lanes.logits))
    # How far a lane is ahead: the nearer success, or the larger lead of the class that it is to have.
    margin = jax.vmap(losses.margin.formula)(logits, problem.target)
    distances = {p: jnp.where(success, geometry.norm(image - clean, p), jnp.inf) for p in NORMS}
    return {
        "image": image,
        "raw": outcome.image,
        "success": success,
        "finite": finite,
        "prediction": jnp.argmax(logits, -1).astype(jnp.int32),
        "probability": jax.nn.softmax(logits).max(-1),
        "steps": outcome.steps,
        "gradients": outcome.gradients,
        "forwards": outcome.forwards + 1,
        "merit": -distances[program.norm] if program.minimizes else -margin if program.targeted else margin,
        "distance": distances,
        "history": dict(outcome.history),
    }


# ---- rounds, and the best restart ------------------------------------------------------------------------------------

_SUMMED = ("gradients", "forwards")  # over the restarts, whichever is kept


def _in_rounds(program: _Program, work: _Work, plan: Layout, on: Resources) -> dict[str, Any]:
    """The best restart of each budget and image, as rows `[E * N, …]`, and `of_start`, the successes `[E, R, N]`."""
    budgets, _, n = plan.grid
    best, of_start = Best(budgets * n), np.zeros(plan.grid, bool)
    spent = {name: np.zeros(budgets * n, np.int32) for name in _SUMMED}
    for at, real in plan.rounds:
        places = plan.places(at)
        part = jax.device_get(_attack_round(program, plan.mesh, *work.shared, *work.lanes(*places)))
        part = jax.tree.map(lambda x, real=real: x[:real], part)  # without what the last round is padded with
        budget, restart, image = (place[:real] for place in places)
        cells = budget * n + image
        of_start[budget, restart, image] = part["success"]
        for name, counts in spent.items():
            np.add.at(counts, cells, part[name])
        best.add(cells, at[:real], part["success"], part.pop("merit"), part)
        if on.progress:
            on.progress(min(int(at[-1]) + 1, plan.total), plan.total)
    return {**best.rows(), **spent, "of_start": of_start}


@functools.partial(jax.jit, static_argnames=("program", "grid", "chunk"))
def _under_transformation(program: _Program, work: _Work, grid: tuple[int, int, int], chunk: int) -> dict[str, Any]:
    """As `_in_rounds`, of traced arrays: all lanes in one program, chunk by chunk where they are more than one."""
    budgets, restarts, n = grid
    rows = jax.tree.map(jnp.asarray, work).lanes(*np.unravel_index(np.arange(budgets * restarts * n), grid))
    parts = _in_chunks(functools.partial(_attack, program, *work.shared), chunk, *rows)
    each = jax.tree.map(lambda x: x.reshape(budgets, restarts, n, *x.shape[1:]), parts)
    of_restart = [jax.tree.map(lambda x, r=r: x[:, r].reshape(-1, *x.shape[3:]), each) for r in range(restarts)]

    def better(kept: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return where(ahead(new["success"], new["merit"], kept["success"], kept["merit"]), new, kept)

    kept = functools.reduce(better, of_restart)
    spent = {name: each[name].sum(1, dtype=jnp.int32).reshape(-1) for name in _SUMMED}
    kept.pop("merit")
    return {**kept, **spent, "of_start": each["success"]}


def _in_chunks(function: Callable[..., Any], chunk: int, *rows: Any) -> Any:
    """A function of rows, chunk by chunk where there are more rows than a chunk has."""
    n = len(jax.tree.leaves(rows)[0])
    if n <= chunk:
        return function(*rows)
    chunks = jnp.asarray([r.lanes for r in lanes.rounds(n, chunk)], jnp.int32)
    rows = jax.tree.map(jnp.asarray, rows)
    out = jax.lax.map(lambda at: function(*jax.tree.map(lambda x: x[at], rows)), chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], out)


def _result(
    rows: dict[str, Any], several: bool, program: _Program, work: _Work, budgets: Any, signs: Sequence[str]
) -> AttackResult:
    """Rows `[E * N, …]` as a result."""
    n, of_start = len(work.images), rows.pop("of_start")
    lead = (-1, n) if several else (n,)
    return AttackResult(
        **jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), rows),
        label=work.labels,
        target=work.targets if program.targeted else None,
        clean=work.logits.argmax(-1).astype(np.int32),
        logits=work.logits,
        success_of_start=of_start if several else of_start[0],
        norm=program.norm,
        minimizes=program.minimizes,
        epsilon=budgets,
        warnings=tuple(signs),
    )
