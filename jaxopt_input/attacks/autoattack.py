"""AutoAttack: four attacks one after another, each on the images that the others left robust."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks.apgd import apgd
from jaxopt_input.attacks.criteria import misclassified
from jaxopt_input.attacks.examine import classes_of, logits_of, transformed
from jaxopt_input.attacks.fab import fab
from jaxopt_input.attacks.result import NORMS, AttackResult, GradientMaskingWarning, has_class
from jaxopt_input.attacks.run import Options, chunk_within
from jaxopt_input.attacks.square import square
from jaxopt_input.engine.lanes import is_traced, resources
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.models.model import Model, in_dtype

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import ArrayLike

    Array = np.ndarray | jax.Array

CHUNK = 16  # lanes at once: half of the others', as the few images that resist are padded to it again and again
LEAST = 4  # classes that the loss of APGD-T compares
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
Stage = tuple[int, Callable[..., AttackResult], int | None]  # the index in STAGES, the attack, the rank of its target


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
        key, model, images, labels, epsilon: as in `run`, and so are the errors.
        norm: "linf" or "l2".
        steps: of APGD and FAB.
        targets: how many of the likeliest other classes APGD-T and FAB-T try, at most.
        queries: of Square.
        stages: which of `STAGES`, in this order; ("apgd-t",) is the targeted APGD-DLR alone.
        options: as in `Options`, without `target`, `criterion` and `restarts`, which the standard sets.

    Returns:
        An `AttackResult`; an image that resists is the original. Its `history` has "stage", `[N]`: the index in
        `STAGES` of what broke each image, −1 where it was misclassified from the start or resists. Steps and
        evaluations are those of all stages.

    Raises:
        InputError: where no stage is left: "apgd-t" needs 4 classes, and is left out with a warning where others stay.

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
    total = classes_of(model, images.shape[1:])
    labels = checks.classes("label", labels, n, model, total)
    budgets = checks.budgets(checks.require_budget(epsilon), n, norm)
    steps, queries = checks.count("steps", steps), checks.count("queries", queries)
    targets = min(checks.count("targets", targets), total - 1)
    chunk = min(n, on.chunk or min(CHUNK, chunk_within(on.memory, model, images.shape[1:])))
    options = Options(**{**options, "on": dataclasses.replace(on, chunk=chunk, dtype="float32")})  # one shape for all

    stages, left_out = _applicable(stages, total, model.info.name)
    plan = _plan(stages, norm, steps, targets, queries, options)
    before = dataclasses.replace(_before(model, images, labels, norm, chunk), warnings=left_out)
    sequence = functools.partial(_sequence, key, model, plan, before, images)
    if budgets.ndim == 0:
        return dataclasses.replace(sequence(budgets[None].repeat(n)), epsilon=budgets)
    each = budgets if budgets.ndim == 2 else budgets[:, None].repeat(n, 1)
    return AttackResult.stack([sequence(row) for row in each], budgets)


def _applicable(names: Sequence[str], total: int, model: str) -> tuple[list[str], tuple[str, ...]]:
    """The stages that a number of classes allows, and a line for what is left out."""
    if total >= LEAST or "apgd-t" not in names:
        return list(names), ()
    rest = [name for name in names if name != "apgd-t"]
    text = f"apgd-t needs {LEAST} classes, and {model} has {total}"
    if not rest:
        raise InputError(f"{text}: take apgd-ce, fab or square")
    text += f": it is left out of {', '.join(names)}"
    warnings.warn(text, GradientMaskingWarning, stacklevel=3)
    return rest, (text,)


def _plan(names: Sequence[str], norm: str, steps: int, targets: int, queries: int, options: Options) -> list[Stage]:
    """The attacks of some stages, in order."""
    ascent = functools.partial(apgd, norm=norm, steps=steps)
    attacks = {
        "apgd-ce": ascent,
        "apgd-t": functools.partial(ascent, loss="dlr"),
        "fab-t": functools.partial(fab, norm=norm, steps=steps, candidates=targets),
        "square": functools.partial(square, norm=norm, queries=queries, rescale=False),
    }
    plan: list[Stage] = []
    for name in names:
        if name not in STAGES:
            raise unknown("stage", name, STAGES)
        attack = functools.partial(attacks[name], **{**options, "criterion": misclassified()})
        plan += [(STAGES.index(name), attack, rank) for rank in (range(targets) if name == "apgd-t" else [None])]
    return plan


def _sequence(
    key: jax.Array,
    model: Model,
    plan: Sequence[Stage],
    total: AttackResult,
    images: Float[Array, "N H W C"],
    epsilon: Float[Array, " N"],
) -> AttackResult:
    """The attacks one after another, on the images that resist; on all of them where they cannot be told apart yet."""
    traced = transformed(total, images, epsilon)
    n, xp = len(images), jnp if traced else np
    # The other classes, the likeliest first: the label, moved to the end, is left out.
    order = xp.argsort(-total.logits, -1, stable=True)
    last = xp.argsort(order == total.label[:, None], -1, stable=True)
    rivals = xp.take_along_axis(order, last, -1)[:, :-1].astype(np.int32)
    stage_of = xp.full(n, -1, np.int32)
    for number, (stage, attack, rank) in enumerate(plan):
        alive = np.arange(n) if traced else np.flatnonzero(~total.success & (epsilon > 0))
        if not len(alive):
            break
        radius = epsilon[alive]
        own = {} if STAGES[stage] == "fab-t" else {"epsilon": radius[None]}
        if rank is not None:
            own["target"] = rivals[alive, rank]
        result = attack(jax.random.fold_in(key, number), model, images[alive], total.label[alive], **own)
        result = result if result.epsilon is None else result.at_budget(0)
        hit = result.success & (result.distance[result.norm] <= radius * (1 + 1e-5) + 1e-6)
        total, stage_of = _merge(total, stage_of, result, stage, alive, hit, traced)
    return dataclasses.replace(total, history={"stage": stage_of})


def _merge(
    total: AttackResult,
    stage_of: Int[Array, " N"],
    result: AttackResult,
    stage: int,
    alive: Int[np.ndarray, " M"],
    hit: Bool[Array, " M"],
    traced: bool,
) -> tuple[AttackResult, Int[Array, " N"]]:
    """A result and the stages that broke its images, with what a further stage, run on some of them, has hit."""
    resists = ~total.success[alive]

    def put(new: Any, old: Any, mask: Any = resists & hit) -> Any:
        """The rows `alive` of an array with new ones where the mask holds; tracers are rows of all images."""
        mask = mask.reshape(-1, *[1] * (old.ndim - 1))
        if traced:
            return jnp.where(mask, new, old)
        out = old.copy()
        out[alive] = np.where(mask, new, old[alive])
        return out

    fields = {
        name: jax.tree.map(put, getattr(result, name), getattr(total, name))
        for name in ("image", "raw", "prediction", "probability", "success", "distance")
    }
    for name in ("steps", "gradients", "forwards"):
        spent = getattr(total, name)
        fields[name] = put(spent[alive] + getattr(result, name), spent, resists)
    merged = dataclasses.replace(
        total,
        **fields,
        finite=put(total.finite[alive] & result.finite, total.finite, resists),
        success_of_start=fields["success"][None],
        warnings=tuple(dict.fromkeys(total.warnings + result.warnings)),
    )
    return merged, put(np.int32(stage), stage_of)


def _before(
    model: Model, images: Float[Array, "N H W C"], labels: Int[Array, " N"], norm: str, chunk: int
) -> AttackResult:
    """Before the first stage: the originals, those that are misclassified as successes at distance 0."""
    n = len(images)
    logits = logits_of(model, images, chunk)
    xp = jnp if is_traced(logits, images, labels) else np
    clean = logits.argmax(-1).astype(np.int32)
    success, nothing = (clean != labels) & has_class(logits), xp.zeros(n, np.int32)
    return AttackResult(
        image=images,
        raw=images,
        success=success,
        finite=has_class(logits),
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
