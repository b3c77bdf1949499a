"""What an attack returns, and what is measured of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.engine.lanes import is_traced
from jaxopt_input.errors import InputError
from jaxopt_input.targets import register

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Array = np.ndarray | jax.Array


def has_class(logits: Float[Array, "*N classes"]) -> Bool[Array, " *N"]:
    """Whether logits have a largest one: none is NaN or +inf; −inf masks a class.

    Example:
        >>> has_class(np.array([[0.0, 1.0], [-np.inf, 1.0], [np.nan, 1.0], [-np.inf, -np.inf]])).tolist()
        [True, True, False, False]
    """
    xp = _numpy_of(logits)
    return xp.isfinite(xp.max(logits, -1))


def length_text(length: float, norm: str) -> str:
    """A budget or distance as it is mostly written: 255ths where pixels do not add up, so that all have one unit.

    Example:
        >>> [length_text(*length) for length in ((8 / 255, "linf"), (0.00774, "linf"), (0.5, "l2"), (np.inf, "l2"))]
        ['8/255', '1.97/255', '0.5', '-']
    """
    if not np.isfinite(length):
        return "-"
    return f"{float(length) * 255:.3g}/255" if norm in ("linf", "rms") else f"{float(length):.4g}"


NORMS = ("l0", "l1", "l2", "linf", "rms")


class GradientMaskingWarning(UserWarning):
    """A network's robustness may be overrated: it hides its gradient from an attack, or a part of that was left out."""


@functools.partial(register, static=("norm", "minimizes", "warnings"))
@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The outcome of an attack on N images; with several ε every array below has a leading axis of their number, E.

    A pytree: the arrays are its leaves; they are NumPy arrays, or JAX arrays where the attack was called under a
    transformation such as `jax.jit`.

    An image whose attack failed has no distance: it is infinite in every norm. Its `image` is the original after an
    attack that minimizes a norm, and after one with a budget the last that was tried, within the budget. Where the
    original is a success already, it is the result, at distance 0, unless the attack was called with `stop=False`.

    Attributes:
        image: `[N, H, W, C]` float32 in [0, 1], rounded to 8 bits if `rounded` says so.
        raw: `[N, H, W, C]`, what the method returned, before it was clipped and rounded.
        success: `[N]` bool, judged on `image`.
        finite: `[N]` bool, False where the attack ended at numbers that are not finite; `image` is the original then.
        label: `[N]` int32, the true classes.
        target: `[N]` int32, the target classes, or None.
        clean: `[N]` int32, the classes predicted for the originals.
        logits: `[N, classes]`, of the originals, without a random transform.
        prediction: `[N]` int32, the classes predicted for `image`.
        probability: `[N]`, of the predicted class.
        distance: by norm ("l0", "l1", "l2", "linf", "rms") `[N]`: from the original to `image`; l0 counts numbers,
            rms is l2 / √n.
        steps: `[N]` int32, until the restart that is kept was done.
        gradients: `[N]` int32, gradients of the network, all restarts together.
        forwards: `[N]` int32, runs of the network without gradient, all restarts and the last judgment together.
        success_of_start: `[R, N]` bool, of each restart.
        history: what the method keeps of each step, `[N, …]` by name, of the restart that is kept; infinite where the
            image was done before that step.
        norm: the norm of the attack's budget, or the one it minimizes.
        minimizes: whether it minimizes a norm, instead of spending a budget.
        epsilon: the budgets, `[]` or `[E]` or `[E, N]`; None where there is none.
        warnings: signs of gradient masking.
    """

    image: Float[Array, "*E N H W C"]
    raw: Float[Array, "*E N H W C"]
    success: Bool[Array, "*E N"]
    finite: Bool[Array, "*E N"]
    label: Int[Array, " N"]
    target: Int[Array, " N"] | None
    clean: Int[Array, " N"]
    logits: Float[Array, "N classes"]
    prediction: Int[Array, "*E N"]
    probability: Float[Array, "*E N"]
    distance: dict[str, Float[Array, "*E N"]]
    steps: Int[Array, "*E N"]
    gradients: Int[Array, "*E N"]
    forwards: Int[Array, "*E N"]
    success_of_start: Bool[Array, "*E R N"]
    history: dict[str, Float[Array, "*E N steps"]]
    norm: str
    minimizes: bool
    epsilon: Float[Array, " *E"] | None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = [f"{len(self.label)} images {self.image.shape[-3:]}", self.norm]
        if is_traced(self.success, self.label, self.epsilon):
            return f"AttackResult({', '.join(parts)}, traced)"
        if self.epsilon is not None:
            parts.append(f"epsilon {' '.join(length_text(e, self.norm) for e in np.atleast_1d(self.epsilon).ravel())}")
        tallies = [part.tally() for part in self.by_budget()]
        counts = ", ".join(f"{tally['found']} of {tally['right']}" for tally in tallies)
        return f"AttackResult({', '.join(parts)}; misled of those classified rightly: {counts})"

    @property
    def accuracy(self) -> dict[str, Float[Array, " *E"]]:
        """The shares of images that are classified rightly: `clean`, and `robust`, rightly before and after."""
        right = self.right
        return {"clean": right.mean(), "robust": (right & (self.prediction == self.label)).mean(-1)}

    @property
    def right(self) -> Bool[Array, " N"]:
        """Whether each original is classified rightly."""
        return (self.clean == self.label) & has_class(self.logits)

    def tally(self) -> dict[str, Any]:
        """What a result without an axis of budgets comes to: figures over the images that were classified rightly.

        Returns:
            "images", how many; "right", how many of them were classified rightly before; "found", successes among
            these; "median", the distance of half of these by norm, infinite where fewer were found.

        Example:
            >>> import jax, jax.numpy as jnp, jaxopt_input as joi
            >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
            ...                           image_shape=(4, 4, 3), taps=("logits",))
            >>> images = jnp.full((2, 4, 4, 3), 0.5).at[..., 0].add(0.05)
            >>> joi.attacks.fgsm(jax.random.key(0), model, images, [0, 1], epsilon=0.1)  # the second was wrong before
            AttackResult(2 images (4, 4, 3), linf, epsilon 25.5/255; misled of those classified rightly: 1 of 1)
        """
        right, xp = self.right, _numpy_of(self.success)
        distances = {norm: xp.where(self.success, x, np.inf)[right] for norm, x in self.distance.items()}
        return {
            "images": len(right),
            "right": int(right.sum()),
            "found": int((right & self.success).sum()),
            "median": {norm: float(np.median(x)) if len(x) else np.inf for norm, x in distances.items()},
        }

    def by_budget(self) -> list[AttackResult]:
        """The parts of a result that belong to its budgets, in their order; itself where it has no axis of them."""
        return [self] if self.success.ndim == 1 else [self.at_budget(e) for e in range(len(self.success))]

    def robust_accuracy(self, epsilons: Sequence[float]) -> Float[Array, "*E budgets"]:
        """The robust accuracy at each ε in the attack's norm, from one run of an attack that minimizes it.

        It is the share of images that are classified rightly and have no adversarial example within ε that the attack
        knows of: `[…, len(epsilons)]`.
        """
        success = self.success & (self.prediction != self.label)
        distance = _numpy_of(self.success).where(success, self.distance[self.norm], np.inf)
        budgets = np.asarray(epsilons, np.float32)[:, None]
        return (self.right & (distance[..., None, :] > budgets)).mean(-1)

    def success_by_starts(self) -> Float[Array, "R E"]:
        """`[R, …]`: the share of images that the first 1, 2, …, R restarts succeed on.

        Example:
            >>> import jax, jax.numpy as jnp, jaxopt_input as joi
            >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
            ...                           image_shape=(4, 4, 3), taps=("logits",))
            >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
            >>> result = joi.attacks.pgd(jax.random.key(0), model, image, [0], epsilon=0.1, restarts=2)
            >>> result.success_by_starts().tolist()
            [1.0, 1.0]
        """
        xp = _numpy_of(self.success)
        first = xp.cumsum(xp.moveaxis(self.success_of_start, -2, 0), 0) > 0
        return first.mean(-1)

    def take(self, images: Any) -> AttackResult:
        """The part of the result that belongs to some of the images: indices, a slice, or a mask."""
        return self._by_image(lambda axis, x: x[(slice(None),) * axis + (images,)])

    @classmethod
    def concat(cls, results: Sequence[AttackResult]) -> AttackResult:
        """Results of the same attack on several batches of images as one.

        Raises:
            InputError: where they are none, or of different attacks, budgets, restarts or steps.

        Example:
            >>> import jax, jax.numpy as jnp, jaxopt_input as joi
            >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
            ...                           image_shape=(4, 4, 3), taps=("logits",))
            >>> image = jnp.full((2, 4, 4, 3), 0.5).at[..., 0].set(0.55)
            >>> result = joi.attacks.fgsm(jax.random.key(0), model, image, [0, 1], epsilon=[0.01, 0.1])
            >>> both = joi.attacks.AttackResult.concat([result.take([1]), result.take([0])])
            >>> result.success.tolist(), both.success.tolist()
            ([[False, True], [True, True]], [[True, False], [True, True]])
        """
        if not results:
            raise InputError("there is no result to concatenate")
        first, *others = _with_all_warnings(results)
        concatenate = _numpy_of(first.image).concatenate
        budgets = [
            None if r.epsilon is None else len(r.epsilon) if r.epsilon.ndim == 2 else str(r.epsilon) for r in results
        ]
        kinds = {(r.norm, r.minimizes, budget) for r, budget in zip(results, budgets, strict=True)}
        if len(kinds) > 1:
            raise InputError("results of different norms or budgets cannot be concatenated")
        try:
            return first._by_image(lambda axis, *parts: concatenate(parts, axis), *others)
        except (TypeError, ValueError) as error:
            raise InputError(f"results of different attacks cannot be concatenated: {error}") from error

    @staticmethod
    def stack(results: Sequence[AttackResult], epsilon: Any) -> AttackResult:
        """Results of the same images at budgets `[E]` or `[E, N]`, each without an axis of them, as one with it."""
        first, *others = _with_all_warnings(results)
        axes = dict.fromkeys(_EACH, 0)
        stacked = first._by_axis(lambda axis, *parts: _numpy_of(parts[0]).stack(parts, axis), axes, *others)
        return dataclasses.replace(stacked, epsilon=epsilon)

    def at_budget(self, number: int) -> AttackResult:
        """The part of a result that belongs to one of its budgets."""
        return self._by_axis(lambda _, x: x[number], dict.fromkeys((*_EACH, "epsilon"), 0))

    def _by_image(self, function: Callable[..., Any], *others: AttackResult) -> AttackResult:
        """A result whose arrays are `function(axis of the images, *those of the results)`."""
        each = self.success.ndim - 1
        axes = dict.fromkeys(_ONCE, 0) | dict.fromkeys(_EACH, each) | {"success_of_start": each + 1}
        if self.epsilon is not None and self.epsilon.ndim == 2:  # otherwise the same for all images
            axes["epsilon"] = 1
        return self._by_axis(function, axes, *others)

    def _by_axis(self, function: Callable[..., Any], axes: Mapping[str, int], *others: AttackResult) -> AttackResult:
        """A result whose fields of these names are `function(axis, *those of the results)`."""
        fields = {
            name: jax.tree.map(functools.partial(function, axis), *(getattr(r, name) for r in (self, *others)))
            for name, axis in axes.items()
        }
        return dataclasses.replace(self, **fields)


_ONCE = ("label", "target", "clean", "logits")  # once per image, also where there are several budgets
_STATIC = ("norm", "minimizes", "warnings", "epsilon")  # of the attack
_EACH = tuple(f.name for f in dataclasses.fields(AttackResult) if f.name not in (*_ONCE, *_STATIC))


def _with_all_warnings(results: Sequence[AttackResult]) -> list[AttackResult]:
    """Results, each with the warnings of all."""
    signs = tuple(dict.fromkeys(text for result in results for text in result.warnings))
    return [dataclasses.replace(result, warnings=signs) for result in results]


def _numpy_of(array: Any) -> Any:
    """The module that computes with an array: NumPy or `jax.numpy`."""
    return jnp if isinstance(array, jax.Array) else np
