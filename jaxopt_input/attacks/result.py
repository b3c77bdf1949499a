"""What an attack found, and what is measured of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

NORMS = ("l0", "l1", "l2", "linf", "rms")


class GradientMaskingWarning(UserWarning):
    """The network hides its gradient from an attack: its robustness may be overrated."""


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack found for N images; with several ε every array below has a leading axis of their number, E.

    An image whose attack failed has no distance: it is infinite in every norm. Its `image` is the original after an
    attack that minimizes a norm, and after one with a budget the last that was tried, within the budget. Where the
    original is a success already, it is the result, at distance 0, unless the attack was told to go on.

    Attributes:
        image: `[N, H, W, C]` float32 in [0, 1], rounded to 8 bits if asked for.
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
        history: what the method keeps of each step, `[N, …]` by name, of the restart that is kept.
        norm: the norm of the attack's budget, or the one it minimizes.
        minimizes: whether it minimizes a norm, instead of spending a budget.
        epsilon: the budgets, `[]` or `[E]` or `[E, N]`; None where there is none.
        warnings: signs of gradient masking.
    """

    image: np.ndarray
    raw: np.ndarray
    success: np.ndarray
    finite: np.ndarray
    label: np.ndarray
    target: np.ndarray | None
    clean: np.ndarray
    logits: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    distance: dict[str, np.ndarray]
    steps: np.ndarray
    gradients: np.ndarray
    forwards: np.ndarray
    success_of_start: np.ndarray
    history: dict[str, np.ndarray]
    norm: str
    minimizes: bool
    epsilon: np.ndarray | None
    warnings: tuple[str, ...] = ()

    @property
    def accuracy(self) -> dict[str, np.ndarray]:
        """The shares of images that are classified rightly: `clean`, and `robust`, rightly before and after."""
        right = self._right
        return {"clean": right.mean(), "robust": (right & (self.prediction == self.label)).mean(-1)}

    @property
    def _right(self) -> np.ndarray:
        """`[N]`: whether the original is classified rightly."""
        return (self.clean == self.label) & np.isfinite(self.logits).all(-1)

    def robust_accuracy(self, epsilons: Sequence[float]) -> np.ndarray:
        """The robust accuracy at each ε in the attack's norm, from one run of an attack that minimizes it.

        Args:
            epsilons: budgets, in the norm of the attack.

        Returns:
            `[…, len(epsilons)]`: the share of images that are classified rightly and have no adversarial example found
            within ε.
        """
        right = self._right
        found = self.success & (self.prediction != self.label)
        distance = np.where(found, self.distance[self.norm], np.inf)
        budgets = np.asarray(epsilons, np.float32)[:, None]
        return (right & (distance[..., None, :] > budgets)).mean(-1)

    def success_by_starts(self) -> np.ndarray:
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
        first = np.logical_or.accumulate(np.moveaxis(self.success_of_start, -2, 0), 0)
        return first.mean(-1)
