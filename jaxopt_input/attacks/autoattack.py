"""AutoAttack: four attacks one after another, each on the images that the others left robust."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

import jax
import numpy as np

from jaxopt_input import checks, losses
from jaxopt_input.attacks.apgd import apgd
from jaxopt_input.attacks.criteria import misclassified
from jaxopt_input.attacks.examine import rounds
from jaxopt_input.attacks.fab import fab
from jaxopt_input.attacks.result import NORMS, AttackResult
from jaxopt_input.attacks.run import Options, chunk_within
from jaxopt_input.attacks.square import square
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.models.model import Model

CHUNK = 16  # lanes at once: half of the others', for the few images that resist are padded to it again and again
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
Stage = Callable[[jax.Array, np.ndarray, np.ndarray, np.ndarray, np.ndarray], AttackResult]


def autoattack(
    key: jax.Array,
    model: Model,
    images: Any,
    labels: Any,
    *,
    epsilon: Any,
    norm: str = "linf",
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    stages: Sequence[str] = STAGES,
    **options: Unpack[Options],
) -> AttackResult:
    """The standard AutoAttack: APGD-CE, targeted APGD-DLR, FAB-T and Square, each on what is still robust.

    Between the stages, and between the targets of APGD-T, the batch is compacted to the images that resist.

    Args:
        key, model, images, labels: as `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf" or "l2".
        steps: of APGD and FAB.
        targets: how many of the likeliest other classes APGD-T and FAB-T try, at most.
        queries: of Square.
        stages: which of `STAGES`, in this order; ("apgd-t",) is the targeted APGD-DLR alone.
        options: see `Options`; without `target`, `criterion` and `restarts`, which the standard sets.

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
        >>> found = joi.attacks.autoattack(jax.random.key(0), model, image, [0], epsilon=0.1, steps=10, queries=10)
        >>> found.success.tolist(), [STAGES[stage] for stage in found.history["stage"]]
        ([True], ['apgd-ce'])
    """
    checks.one_of("norm", norm, ("linf", "l2"))
    for name in ("target", "criterion", "restarts"):
        if options.get(name) is not None:
            raise InputError(
                f"AutoAttack and its stages set their own {name}: leave it out, or run an attack of its own, such as "
                "apgd with loss='dlr' (apgd-dlr)"
            )
    images = checks.batch(images, model)
    n = len(images)
    shapes = model.layers(images.shape[1:])
    total = shapes["logits"][0] if "logits" in shapes else 0
    labels = checks.classes("label", labels, n, model, total)
    losses.targeted_dlr(labels, labels).check(shapes)
    budgets = checks.budgets(checks.given(epsilon), n)
    steps, queries = checks.count("steps", steps), checks.count("queries", queries)
    targets = min(checks.count("targets", targets), total - 1)
    most = options.get("chunk") or min(CHUNK, chunk_within(options.get("memory"), model, images.shape[1:]))
    options = Options(**{**options, "chunk": min(n, most)})  # one shape for all stages

    each = budgets if budgets.ndim == 2 else np.broadcast_to(budgets.reshape(-1, 1), (budgets.size, n))
    plan = [part for name in stages for part in _stages(name, model, norm, steps, targets, queries, options)]
    start = _before(model, images, labels, norm, options["chunk"] or n)
    found = [_sequence(key, plan, start, images, row) for row in each]
    if budgets.ndim == 0:
        return dataclasses.replace(found[0], epsilon=budgets)
    return dataclasses.replace(_stack(found), epsilon=budgets)


def _stages(
    name: str, model: Model, norm: str, steps: int, targets: int, queries: int, options: Options
) -> Iterator[tuple[int, Stage]]:
    """The attacks of a stage, each with its index in `STAGES`: (key, images, labels, ε, rivals) → result."""
    untargeted = Options(**{**options, "criterion": misclassified()})

    def towards(rank: int) -> Stage:
        def stage(key: Any, x: Any, y: Any, radius: Any, rivals: Any) -> AttackResult:
            given = Options(**{**untargeted, "target": rivals[:, rank]})
            return apgd(key, model, x, y, epsilon=radius, norm=norm, steps=steps, loss="dlr", **given)

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
    key: jax.Array, stages: list[tuple[int, Stage]], start: AttackResult, images: np.ndarray, epsilon: np.ndarray
) -> AttackResult:
    """All stages at one budget an image, each on what has resisted so far."""
    total, key = start, checks.typed_key(key)
    order = np.argsort(-start.logits, -1, kind="stable")
    rivals = order[order != start.label[:, None]].reshape(len(images), -1).astype(np.int32)
    broken = np.full(len(images), -1, np.int32)
    for number, (which, stage) in enumerate(stages):
        alive = np.flatnonzero(~total.success)
        if not len(alive):
            break
        one, radius = jax.random.fold_in(key, number), epsilon[alive]
        result = stage(one, images[alive], start.label[alive], radius[None], rivals[alive])
        result = result if result.epsilon is None else _at(result, 0)
        hit = result.success & (result.distance[result.norm] <= radius * (1 + 1e-5) + 1e-6)
        total = _merge(total, result, alive, hit)
        broken[alive[hit]] = which
    return dataclasses.replace(total, history={"stage": broken})


def _before(model: Model, images: np.ndarray, labels: np.ndarray, norm: str, chunk: int) -> AttackResult:
    """Before the first stage: the originals, those that are misclassified as successes at distance 0."""
    n = len(images)
    parts = [model.activations(images[at], ["logits"])["logits"] for at in rounds(n, chunk)]
    logits = np.concatenate([np.asarray(part) for part in parts])[:n]
    clean = logits.argmax(-1).astype(np.int32)
    success, nothing = clean != labels, np.zeros(n, np.int32)
    return AttackResult(
        image=images,
        raw=images,
        success=success,
        finite=np.isfinite(logits).all(-1),
        label=labels,
        target=None,
        clean=clean,
        logits=logits,
        prediction=clean,
        probability=np.asarray(jax.nn.softmax(logits).max(-1)),
        distance={p: np.where(success, 0, np.inf).astype(np.float32) for p in NORMS},
        steps=nothing,
        gradients=nothing,
        forwards=nothing,
        success_of_start=success[None],
        history={},
        norm=norm,
        minimizes=False,
        epsilon=None,
    )


_LANES = ("image", "raw", "success", "finite", "prediction", "probability", "steps", "gradients", "forwards")


def _at(result: AttackResult, budget: int) -> AttackResult:
    """The part of a result that belongs to one budget."""
    return dataclasses.replace(
        result,
        **{name: getattr(result, name)[budget] for name in (*_LANES, "success_of_start")},
        distance={p: d[budget] for p, d in result.distance.items()},
        history={},
        minimizes=False,
    )


def _merge(total: AttackResult, result: AttackResult, alive: np.ndarray, hit: np.ndarray) -> AttackResult:
    """A result with what a further stage found for some of its images."""

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old = old.copy()
        old[alive[hit]] = new[hit]
        return old

    fields: dict[str, Any] = {}
    for name in ("steps", "gradients", "forwards"):
        fields[name] = getattr(total, name).copy()
        fields[name][alive] += getattr(result, name)
    for name in ("image", "raw", "prediction", "probability"):
        fields[name] = put(getattr(total, name), getattr(result, name))
    fields["finite"] = total.finite.copy()
    fields["finite"][alive] &= result.finite
    success = put(total.success, result.success)
    return dataclasses.replace(
        total,
        **fields,
        success=success,
        success_of_start=success[None],
        distance={p: put(d, result.distance[p]) for p, d in total.distance.items()},
        warnings=tuple(dict.fromkeys(total.warnings + result.warnings)),
    )


def _stack(results: list[AttackResult]) -> AttackResult:
    """Results of several budgets as one, with a leading axis."""
    first = results[0]
    fields: dict[str, Any] = {
        name: np.stack([getattr(r, name) for r in results]) for name in (*_LANES, "success_of_start")
    }
    return dataclasses.replace(
        first,
        **fields,
        distance={p: np.stack([r.distance[p] for r in results]) for p in first.distance},
        history={"stage": np.stack([r.history["stage"] for r in results])},
        warnings=tuple(dict.fromkeys(text for r in results for text in r.warnings)),
    )
