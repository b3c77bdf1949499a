"""AutoAttack: four attacks one after another, each on the images that the others left robust."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks, losses
from jaxopt_input.attacks.apgd import apgd
from jaxopt_input.attacks.criteria import misclassified
from jaxopt_input.attacks.examine import transformed
from jaxopt_input.attacks.fab import fab
from jaxopt_input.attacks.result import NORMS, AttackResult
from jaxopt_input.attacks.run import Options, chunk_within
from jaxopt_input.attacks.square import square
from jaxopt_input.engine.lanes import is_traced, resources, rounds
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.models.model import Model, in_dtype

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import ArrayLike

    Array = np.ndarray | jax.Array

CHUNK = 16  # lanes at once: half of the others', as the few images that resist are padded to it again and again
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
Stage = Callable[[jax.Array, Any, Any, Any, Any], AttackResult]  # of (key, images, labels, ε, rivals)


def autoattack(
    key: jax.Array,
    model: Model,
    images: Any,
    labels: Any,
    *,
    epsilon: ArrayLike,
    norm: str = "linf",
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    stages: Sequence[str] = STAGES,
    **options: Unpack[Options],
) -> AttackResult:
    """The standard AutoAttack: APGD-CE, targeted APGD-DLR, FAB-T and Square, each on what is still robust.

    Between the stages, and between the targets of APGD-T, the batch is compacted to the images that resist; under a
    transformation such as `jax.jit` all of it runs through all stages, with the same result.

    Args:
        key, model, images, labels: as in `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf" or "l2".
        steps: of APGD and FAB.
        targets: how many of the likeliest other classes APGD-T and FAB-T try, at most.
        queries: of Square.
        stages: which of `STAGES`, in this order; ("apgd-t",) is the targeted APGD-DLR alone.
        options: what every attack takes, as in `Options`; without `target`, `criterion` and
            `restarts`, which the standard sets.

    Returns:
        An `AttackResult`; an image that resists is the original. Its `history` has "stage", `[N]`: the index in
        `STAGES` of what broke each image, −1 where it was misclassified from the start or resists. Steps and
        evaluations are those of all stages.

    Raises:
        InputError: as `run`; for a model with fewer than 4 classes.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (2020), the version "standard" of their code.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3, 4),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.autoattack(jax.random.key(0), model, image, [0], epsilon=0.1, steps=10, queries=10)
        >>> result.success.tolist(), [STAGES[stage] for stage in result.history["stage"]]
        ([True], ['apgd-ce'])
    """
    checks.one_of("norm", norm, ("linf", "l2"))
    for name in ("target", "criterion", "restarts"):
        if options.get(name) is not None:
            raise InputError(
                f"AutoAttack and its stages set their own {name}: leave it out, or run an attack of its own, such as "
                "apgd with loss='dlr' (apgd-dlr)"
            )
    on = resources(options.get("on"))
    if on.dtype != "float32":
        model = in_dtype(model, on.dtype)
    images = checks.batch(images, model)
    n = len(images)
    shapes = model.layers(images.shape[1:])
    total = shapes["logits"][0] if "logits" in shapes else 0
    labels = checks.classes("label", labels, n, model, total)
    losses.targeted_dlr(0, 0).check(shapes)
    budgets = checks.budgets(checks.require_budget(epsilon), n)
    steps, queries = checks.count("steps", steps), checks.count("queries", queries)
    targets = min(checks.count("targets", targets), total - 1)
    chunk = min(n, on.chunk or min(CHUNK, chunk_within(on.memory, model, images.shape[1:])))
    options = Options(**{**options, "on": dataclasses.replace(on, chunk=chunk, dtype="float32")})  # one shape for all

    plan = [part for name in stages for part in _stages(name, model, norm, steps, targets, queries, options)]
    start = _before(model, images, labels, norm, chunk)
    if budgets.ndim == 0:
        return dataclasses.replace(_sequence(key, plan, start, images, budgets[None].repeat(n)), epsilon=budgets)
    each = budgets if budgets.ndim == 2 else budgets[:, None].repeat(n, 1)
    return AttackResult.stack([_sequence(key, plan, start, images, row) for row in each], budgets)


def _stages(
    name: str, model: Model, norm: str, steps: int, targets: int, queries: int, options: Options
) -> Iterator[tuple[int, Stage]]:
    """The attacks of a stage, each with its index in `STAGES`: (key, images, labels, ε, rivals) → result."""
    untargeted = Options(**{**options, "criterion": misclassified()})

    def towards(rank: int) -> Stage:
        def stage(key: Any, x: Any, y: Any, radius: Any, rivals: Any) -> AttackResult:
            towards_it = Options(**{**untargeted, "target": rivals[:, rank]})
            return apgd(key, model, x, y, epsilon=radius, norm=norm, steps=steps, loss="dlr", **towards_it)

        return stage

    def ce(key: Any, x: Any, y: Any, radius: Any, _: Any) -> AttackResult:
        return apgd(key, model, x, y, epsilon=radius, norm=norm, steps=steps, **untargeted)

    def boundary(key: Any, x: Any, y: Any, _: Any, __: Any) -> AttackResult:
        return fab(key, model, x, y, norm=norm, steps=steps, candidates=targets, **untargeted)

    def squares(key: Any, x: Any, y: Any, radius: Any, _: Any) -> AttackResult:
        return square(key, model, x, y, epsilon=radius, norm=norm, queries=queries, rescale=False, **untargeted)

    if name not in STAGES:
        raise unknown("stage", name, STAGES)
    attacks: dict[str, list[Stage]] = {"apgd-ce": [ce], "fab-t": [boundary], "square": [squares]}
    for attack in attacks.get(name) or [towards(rank) for rank in range(targets)]:
        yield STAGES.index(name), attack


def _sequence(
    key: jax.Array,
    stages: list[tuple[int, Stage]],
    start: AttackResult,
    images: Float[Array, "N H W C"],
    epsilon: Float[Array, " N"],
) -> AttackResult:
    """All stages at one budget per image, each on what has resisted so far."""
    total, key, n = start, checks.typed_key(key), len(images)
    traced = transformed(start, key, epsilon)
    xp = jnp if traced else np
    # The other classes, the likeliest first: the label, moved to the end, is left out.
    order = xp.argsort(-start.logits, -1, stable=True)
    last = xp.argsort(order == start.label[:, None], -1, stable=True)
    rivals = xp.take_along_axis(order, last, -1)[:, :-1].astype(np.int32)
    stage_of = xp.full(n, -1, np.int32)
    for number, (which, stage) in enumerate(stages):
        alive = np.arange(n) if traced else np.flatnonzero(~total.success)
        if not len(alive):
            break
        radius = epsilon[alive]
        result = stage(jax.random.fold_in(key, number), images[alive], start.label[alive], radius[None], rivals[alive])
        result = result if result.epsilon is None else result.at_budget(0)
        hit = result.success & (result.distance[result.norm] <= radius * (1 + 1e-5) + 1e-6)
        resists = ~total.success
        if not traced:  # the rows of the images that resist among all
            result, hit = _spread(result, alive, n), _spread(hit, alive, n)
        total, stage_of = _merge(total, result, resists, hit), xp.where(resists & hit, np.int32(which), stage_of)
    return dataclasses.replace(total, history={"stage": stage_of})


def _spread(part: Any, rows: Int[np.ndarray, " M"], n: int) -> Any:
    """A tree with one row for each of some images as one with a row for each of all N, zero for the others."""
    if isinstance(part, AttackResult):
        lanes = {name: getattr(part, name) for name in (*_CHOSEN, *_SUMMED, "finite", "success", "distance")}
        return dataclasses.replace(part, **_spread(lanes, rows, n))

    def spread(x: np.ndarray) -> np.ndarray:
        out = np.zeros((n, *x.shape[1:]), x.dtype)
        out[rows] = x
        return out

    return jax.tree.map(spread, part)


_CHOSEN = ("image", "raw", "prediction", "probability")
_SUMMED = ("steps", "gradients", "forwards")


def _merge(total: AttackResult, result: AttackResult, alive: Bool[Array, " N"], hit: Bool[Array, " N"]) -> AttackResult:
    """A result with that of a further stage for the images that resisted until then."""
    xp = jnp if isinstance(result.image, jax.Array) else np

    def chosen(new: Any, old: Any) -> Any:
        mask = alive & hit
        return jax.tree.map(lambda a, b: xp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)

    fields = {name: chosen(getattr(result, name), getattr(total, name)) for name in (*_CHOSEN, "success", "distance")}
    fields |= {name: getattr(total, name) + xp.where(alive, getattr(result, name), 0) for name in _SUMMED}
    return dataclasses.replace(
        total,
        **fields,
        finite=total.finite & (result.finite | ~alive),
        success_of_start=fields["success"][None],
        warnings=tuple(dict.fromkeys(total.warnings + result.warnings)),
    )


def _before(
    model: Model, images: Float[Array, "N H W C"], labels: Int[Array, " N"], norm: str, chunk: int
) -> AttackResult:
    """Before the first stage: the originals, those that are misclassified as successes at distance 0."""
    n = len(images)
    parts = [model.activations(images[r.lanes], ["logits"])["logits"] for r in rounds(n, chunk)]
    logits = jnp.concatenate(parts)[:n].astype(jnp.float32)
    xp = jnp if is_traced(logits, images, labels) else np
    logits = xp.asarray(logits)
    clean = logits.argmax(-1).astype(np.int32)
    success, nothing = clean != labels, xp.zeros(n, np.int32)
    return AttackResult(
        image=images,
        raw=images,
        success=success,
        finite=xp.isfinite(logits).all(-1),
        label=labels,
        target=None,
        clean=clean,
        logits=logits,
        prediction=clean,
        probability=xp.asarray(jax.nn.softmax(logits).max(-1)),
        distance=dict.fromkeys(NORMS, xp.where(success, np.float32(0), np.float32(np.inf))),
        steps=nothing,
        gradients=nothing,
        forwards=nothing,
        success_of_start=success[None],
        history={},
        norm=norm,
        minimizes=False,
        epsilon=None,
    )
