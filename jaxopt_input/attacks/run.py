"""The frame of every attack: its arguments checked, its lanes laid out, its method compiled whole, its finds judged.

    images, labels ─► examine (clean logits, signs of gradient masking) ─► lanes: budgets x restarts x images
         ─► method(problem, numbers), one compiled program a chunk ─► clip, round ─► judge again ─► best restart

A lane's random numbers derive from the caller's key, the content of its image and its restart alone: its result
depends neither on the rest of the batch nor on its place in it.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxopt_input import checks, losses
from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.criteria import Criterion, as_criterion, check_criterion, refuse_beyond_boundary
from jaxopt_input.attacks.examine import examine, rounds
from jaxopt_input.attacks.objectives import Objective
from jaxopt_input.attacks.problem import Found, Lanes, Method, Problem
from jaxopt_input.attacks.result import NORMS, AttackResult
from jaxopt_input.engine.memory import image_bytes, images_within
from jaxopt_input.errors import InputError
from jaxopt_input.losses.adversarial import best_other
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.transforms import Transform

DEFAULT_CHUNK = 32
TARGETS = 2**31 - 2  # the purpose of the keys that choose random targets


class Options(TypedDict, total=False):
    """What every attack takes, besides its own arguments.

    Attributes:
        target: the class each image is to get: an index or name, `[N]` indices, "random" (any other class than the
            true one) or "least-likely" (of the original); None to leave the true class.
        criterion: of success, from `attacks.criteria` or a function of one image's (logits, label, target).
        restarts: random starts of each image, as further lanes; the best is kept.
        rounded: whether images count as they are once rounded to 8 bits within the budget, in the search and in the
            result.
        transform: what the network sees of an image, at random; losses and logits are means over it (EOT). Success,
            also of the original, is judged by the mean logits of at least 32 draws, always the same.
        samples: draws of it at each step.
        chunk: lanes that a device runs at once, 32 at most if None; the last chunk is padded.
        memory: bytes of a device that the work may take; with `chunk` None, no more lanes than fit run at once.
        devices: to share the lanes; all local ones if None.
        on_progress: called as (lanes done, lanes in all).
    """

    target: Any
    criterion: Any
    restarts: int
    rounded: bool
    transform: Transform | None
    samples: int
    chunk: int | None
    memory: int | None
    devices: Sequence[jax.Device] | None
    on_progress: Callable[[int, int], None] | None


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
    mesh: Mesh


def run(
    method: Method,
    key: jax.Array,
    model: Model,
    images: Any,
    labels: Any,
    *,
    norm: str = "linf",
    epsilon: Any = None,
    numbers: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    start: Any = None,
    stop: bool = True,
    draws: bool = True,
    target: Any = None,
    criterion: Criterion | Callable[..., Any] | None = None,
    restarts: int = 1,
    rounded: bool = False,
    transform: Transform | None = None,
    samples: int = 1,
    chunk: int | None = None,
    memory: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    """Run a method of attack on images: the frame of all attacks, and of your own.

    Args:
        method: `(problem, numbers) -> Found`, see `attacks.problem`; hashable, compiled once an equal one.
        key: a JAX key, the only source of randomness.
        model: the network, with logits (not probabilities) at "logits".
        images: `[N, H, W, C]` in [0, 1].
        labels: `[N]` true classes, or one.
        norm: of the budget, or the one that is minimized: "l0", "l1", "l2", "linf".
        epsilon: the budget: a number, several (lanes of one program, one leading axis more in the result), or
            `[E, N]`, of each image. None for a method that minimizes the norm.
        numbers: the method's own traced numbers, by name.
        objective: the loss the method maximizes, to be checked against the model.
        start: `[N, H, W, C]`, images to begin from.
        stop: whether an image is done once it succeeds.
        draws: whether the method draws at random, so that its restarts differ.
        target, criterion, restarts, rounded, transform, samples, chunk, memory, devices, on_progress: see
            `Options`.

    Returns:
        An `AttackResult`. Its counts leave out the gradient at the original with which the network is examined.

    Raises:
        InputError: before the method is compiled, for labels out of range or of another type, images outside [0, 1],
            budgets that are not positive, targets equal to the label, too few classes, or probabilities as logits.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> from jaxopt_input.attacks import Found, run
        >>> def one_pixel_value(problem, numbers):  # an attack of one's own: the one number that matters most
        ...     _, gradient, _ = problem.gradient(problem.clean, lambda label, target: joi.losses.margin(label))
        ...     image = problem.into_ball(problem.clean + gradient * numbers["reach"], "l1")
        ...     once = jnp.ones(len(problem.label), jnp.int32)
        ...     return Found(image, once, once, 0 * once)
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.51)
        >>> result = run(one_pixel_value, jax.random.key(0), model, image, [0], norm="l1", epsilon=[0.1, 1.0],
        ...              numbers={"reach": 1e3})
        >>> result.success.tolist(), result.distance["l1"].round(3).tolist()
        ([[False], [True]], [[inf], [1.0]])
    """
    images = checks.batch(images, model)
    checks.one_of("norm", norm, NORMS)
    n = len(images)
    shapes = model.layers(images.shape[1:])
    if "logits" not in shapes or len(shapes["logits"]) != 1:
        raise InputError(f"{model.info.name} has no layer logits with one number a class: an attack needs one")
    total = shapes["logits"][0]
    labels = checks.classes("label", labels, n, model, total)
    targeted = target is not None
    criterion = as_criterion(criterion, targeted)
    check_criterion(criterion, total)
    if objective is not None and objective.levels_off:
        refuse_beyond_boundary(criterion, "the loss carlini_wagner")
    minimizes = epsilon is None
    budgets = None if minimizes else checks.budgets(epsilon, n)
    if start is not None:
        start = checks.batch(start, model, "starts")
        if start.shape != images.shape:
            raise InputError(f"starts have shape {start.shape}, the images {images.shape}: one start an image")
    restarts, samples = checks.count("restarts", restarts), checks.samples(samples, transform)
    if restarts > 1 and not draws and transform is None:
        raise InputError(
            f"{restarts} restarts would be copies: this attack draws nothing at random; leave them out, or take pgd "
            "within a budget, fab for the nearest image"
        )
    fixed = _targets(target, labels, model, total) if targeted else labels
    losses.margin(labels).check(shapes)
    if objective is not None:
        objective(labels, labels if fixed is None else fixed).check(shapes)
    base = checks.typed_key(key)
    numbers = {name: np.asarray(value, np.float32) for name, value in (numbers or {}).items()}

    devices = list(devices or jax.local_devices())
    lanes = (1 if minimizes or not np.ndim(budgets) else len(budgets)) * restarts * n  # type: ignore[arg-type]
    share = -(-lanes // len(devices))
    if chunk is None:
        chunk = -(-share // -(-share // chunk_within(memory, model, images.shape[1:], samples)))
    chunk = checks.count("chunk", chunk)
    mesh = Mesh(np.array(devices), ("starts",))
    program = _Program(
        model.apply, method, norm, targeted, rounded, stop, minimizes, transform, samples if transform else 1, mesh
    )
    params, base = jax.device_put((model.params, base), NamedSharding(mesh, PartitionSpec()))

    logits, told = examine(model, params, mesh, images, labels, chunk)
    content = np.array([zlib.crc32(image.tobytes()) for image in images], np.uint32)
    if fixed is None and target == "random":
        drawn = np.asarray(_draw(base, content, np.int32(total - 1)))
        fixed = drawn + (drawn >= labels)
    elif fixed is None:
        fixed = np.where(np.arange(total) == labels[:, None], np.inf, logits).argmin(-1)
    fixed = np.asarray(fixed, np.int32)

    grid = (lanes // (restarts * n), restarts, n)
    radius = _radii(budgets, grid)
    found: dict[str, np.ndarray] = {}
    for at in rounds(lanes, chunk * len(devices)):
        image, restart = at % n, (at // n % restarts).astype(np.uint32)
        first = None if start is None else start[image]
        rows = (images[image], labels[image], fixed[image], radius[at], content[image], restart, logits[image], first)
        part = jax.device_get(_attack(program, params, base, criterion, numbers, *rows))
        new = np.unique(at, return_index=True)[1]  # not what the last chunk is padded with
        _keep(found, {name: values[new] for name, values in part.items()}, at[new], grid)
        if on_progress:
            on_progress(min(int(at[-1]) + 1, lanes), lanes)
    several = budgets is not None and budgets.ndim > 0
    return _result(found, several, labels, fixed if targeted else None, logits, program, budgets, told)


def chunk_within(memory: int | None, model: Model, shape: tuple[int, int, int], samples: int = 1) -> int:
    """Lanes that a device runs at once: as many as fit a memory, where there is one, and at most `DEFAULT_CHUNK`.

    Raises:
        InputError: if not even one fits.

    Example:
        >>> import jaxopt_input as joi
        >>> [chunk_within(memory, joi.load("tin100"), (64, 64, 3)) for memory in (None, 860 << 20)]
        [32, 12]
    """
    if memory is None:
        return DEFAULT_CHUNK
    each = samples * image_bytes(model, ("logits",), shape, shape)
    return min(DEFAULT_CHUNK, images_within(memory, each, model))


def _radii(budgets: np.ndarray | None, grid: tuple[int, int, int]) -> np.ndarray:
    """ε of each lane, infinite without a budget."""
    if budgets is None:
        return np.full(np.prod(grid), np.inf, np.float32)
    each = budgets[:, None] if budgets.ndim == 2 else budgets.reshape(-1, 1, 1)
    return np.ascontiguousarray(np.broadcast_to(each, grid)).reshape(-1)


def _targets(target: Any, labels: np.ndarray, model: Model, total: int) -> np.ndarray | None:
    """`[N]` target classes; None where they are yet to be chosen."""
    if isinstance(target, str) and target in ("random", "least-likely"):
        return None
    if isinstance(target, str):
        target = model.info.class_index(target)
    chosen = checks.classes("target", target, len(labels), model, total)
    same = np.flatnonzero(chosen == labels)
    if len(same):
        raise InputError(f"the target of image {same[0]} is its label, {labels[same[0]]}: give another class")
    return chosen


@jax.jit
def _draw(base: jax.Array, content: jax.Array, below: jax.Array) -> jax.Array:
    def one(image: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(base, image), TARGETS)
        return jax.random.randint(key, (), 0, below)

    return jax.vmap(one)(content)


# ---- compiled --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="program")
def _attack(
    program: _Program,
    params: Any,
    base: jax.Array,
    criterion: Criterion,
    numbers: dict[str, jax.Array],
    clean: jax.Array,
    label: jax.Array,
    target: jax.Array,
    epsilon: jax.Array,
    content: jax.Array,
    restart: jax.Array,
    logits: jax.Array,
    start: jax.Array | None,
) -> dict[str, jax.Array]:
    """A chunk of lanes, every device its own without any collective."""
    everywhere, by_lane = PartitionSpec(), PartitionSpec("starts")
    return jax.shard_map(
        functools.partial(_attack_local, program),
        mesh=program.mesh,
        in_specs=(*[everywhere] * 4, *[by_lane] * 8),
        out_specs=by_lane,
        check_vma=False,
    )(params, base, criterion, numbers, clean, label, target, epsilon, content, restart, logits, start)


def _attack_local(
    program: _Program, params: Any, base: Any, criterion: Criterion, numbers: Any, *rows: Any
) -> dict[str, jax.Array]:
    clean, label, target, epsilon, content, restart, logits, start = rows
    keys = jax.vmap(lambda c, r: jax.random.fold_in(jax.random.fold_in(base, c), r))(content, restart)
    problem = Problem(
        lanes=Lanes(clean, label, target, epsilon, keys, logits, restart, start),
        apply=functools.partial(program.apply, params),
        criterion=criterion,
        norm=program.norm,
        targeted=program.targeted,
        rounded=program.rounded,
        transform=program.transform,
        samples=program.samples,
    )
    if program.transform is not None:  # what is known of the originals is without it
        seen = problem.judged(clean)
        problem = dataclasses.replace(problem, lanes=problem.lanes._replace(logits=seen))
    found = program.method(problem, numbers)
    given = problem.done() & program.stop
    return _judge(program, problem, _untouched(found, given, clean))


def _untouched(found: Found, given: jax.Array, clean: jax.Array) -> Found:
    """What was found, the original where that was a success already."""

    def count(x: Any) -> jax.Array:
        return jnp.where(given, 0, jnp.asarray(x, jnp.int32))

    image = geometry.where(given, clean, found.image)
    return Found(image, count(found.steps), count(found.gradients), count(found.forwards), found.history)


def _judge(program: _Program, problem: Problem, found: Found) -> dict[str, jax.Array]:
    """What was found, clipped and rounded, and what the network says of it now; the original if it is not finite."""
    clean = problem.clean
    usable = jnp.isfinite(geometry.flat(found.image)).all(-1)
    image = problem.counted(jnp.clip(geometry.where(usable, found.image, clean), 0.0, 1.0))
    logits = problem.judged(image)
    finite = usable & jnp.isfinite(logits).all(-1)
    image, logits = geometry.where(finite, (image, logits), (clean, problem.lanes.logits))
    success = problem.success(logits)
    if not program.minimizes:
        success &= geometry.norm(image - clean, program.norm) <= problem.epsilon * (1 + 1e-5) + 1e-6
    else:  # a search without an end has nothing to show
        image = geometry.where(success, image, clean)
        logits = geometry.where(success, logits, problem.lanes.logits)
    other = jax.vmap(best_other)
    picked = jnp.take_along_axis(logits, problem.target[:, None], 1)[:, 0]
    lead = other(logits, problem.label) - jnp.take_along_axis(logits, problem.label[:, None], 1)[:, 0]
    if program.targeted:
        lead = picked - other(logits, problem.target)
    distances = {p: jnp.where(success, geometry.norm(image - clean, p), jnp.inf) for p in NORMS}
    return {
        "image": image,
        "raw": found.image,
        "success": success,
        "finite": finite,
        "prediction": jnp.argmax(logits, -1).astype(jnp.int32),
        "probability": jax.nn.softmax(logits).max(-1),
        "steps": found.steps,
        "gradients": found.gradients,
        "forwards": found.forwards + 1,
        "merit": -distances[program.norm] if program.minimizes else lead,
        **{f"distance/{p}": d for p, d in distances.items()},
        **{f"history/{name}": values for name, values in found.history.items()},
    }


# ---- results ---------------------------------------------------------------------------------------------------------


def _keep(
    found: dict[str, np.ndarray], part: dict[str, np.ndarray], at: np.ndarray, grid: tuple[int, int, int]
) -> None:
    """Take a chunk of lanes into the best of each budget and image so far: `[E, N, …]`; successes `[E, R, N]`."""
    budgets, _, n = grid
    if not found:
        found["of_start"] = np.zeros(grid, bool)
        found["taken"] = np.zeros((budgets, n), bool)
        for name, values in part.items():
            found[name] = np.zeros((budgets, n, *values.shape[1:]), values.dtype)
    budget, restart, image = np.unravel_index(at, grid)
    found["of_start"][budget, restart, image] = part["success"]
    for number in np.unique(restart):
        rows = np.flatnonzero(restart == number)
        where = budget[rows], image[rows]
        for name in ("gradients", "forwards"):
            found[name][where] += part[name][rows]
        better = rows[~found["taken"][where] | _ahead(part, rows, found, where)]
        where = budget[better], image[better]
        found["taken"][where] = True
        for name in part.keys() - {"gradients", "forwards"}:
            found[name][where] = part[name][better]


def _ahead(part: dict[str, np.ndarray], rows: np.ndarray, kept: dict[str, np.ndarray], where: Any) -> np.ndarray:
    """Whether each of these lanes beats what is kept: a success first, then a higher merit, then an earlier restart."""
    success, before = part["success"][rows], kept["success"][where]
    merit, least = part["merit"][rows], kept["merit"][where]
    higher = (merit > least) | (np.isnan(least) & ~np.isnan(merit))
    return (success & ~before) | ((success == before) & higher)


def _result(
    found: dict[str, np.ndarray],
    several: bool,
    labels: np.ndarray,
    target: np.ndarray | None,
    logits: np.ndarray,
    program: _Program,
    budgets: np.ndarray | None,
    told: tuple[str, ...],
) -> AttackResult:
    """The best restart of each image and budget, from arrays `[E, N, …]`."""

    def squeeze(name: str) -> np.ndarray:
        return found[name] if several else found[name][0]

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): squeeze(name) for name in found if name.startswith(prefix)}

    plain = ("image", "raw", "success", "finite", "prediction", "probability", "steps", "gradients", "forwards")
    return AttackResult(
        **{name: squeeze(name) for name in plain},
        label=labels,
        target=target,
        clean=logits.argmax(-1).astype(np.int32),
        logits=logits,
        distance=named("distance/"),
        success_of_start=squeeze("of_start"),
        history=named("history/"),
        norm=program.norm,
        minimizes=program.minimizes,
        epsilon=budgets,
        warnings=told,
    )
