"""What an attack maximizes: a loss by name, one of `jaxopt_input.losses` turned the right way round, or a function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxopt_input import losses
from jaxopt_input.checks import hashable_function
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.losses import Loss

Builder = Callable[..., Any]  # (class) → loss, or (logits, label, target) → a number


@dataclasses.dataclass(frozen=True)
class Objective:
    """(label, target) → the loss to be maximized; hashable, so that it can be static.

    Attributes:
        builder: takes the label, or the target, or both.
        of: "label", "target" or "both": what the builder takes.
        sign: 1 where it rises with success.
    """

    builder: Callable[..., Loss]
    of: str
    sign: float

    @property
    def levels_off(self) -> bool:
        """Whether it has no gradient beyond the boundary."""
        return self.builder in (_left, _reached)

    def __call__(self, label: Any, target: Any) -> Loss:
        classes = {"label": (label,), "target": (target,), "both": (label, target)}[self.of]
        return self.sign * self.builder(*classes)


_left = functools.partial(losses.carlini_wagner, targeted=False)
_reached = functools.partial(losses.carlini_wagner, targeted=True)
# For each name the objective without and with a target.
OBJECTIVES: dict[str, tuple[Objective, Objective]] = {
    "cross_entropy": (Objective(losses.cross_entropy, "label", 1.0), Objective(losses.cross_entropy, "target", -1.0)),
    "margin": (Objective(losses.margin, "label", 1.0), Objective(losses.margin, "target", -1.0)),
    "dlr": (Objective(losses.dlr, "label", 1.0), Objective(losses.targeted_dlr, "both", 1.0)),
    "carlini_wagner": (Objective(_left, "label", -1.0), Objective(_reached, "target", -1.0)),
}


def objective(loss: str | Builder, targeted: bool) -> Objective:
    """What to maximize.

    Args:
        loss: a name of `OBJECTIVES`; a builder that takes a class and whose loss falls as that class becomes likelier,
            such as `losses.cross_entropy`; or a function of one image's (logits, label, target) whose value rises with
            success, the target being the label where there is none. One function object compiles once.
        targeted: whether there is a target class.

    Raises:
        InputError: for an unknown name, or a function of other arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> objective("margin", targeted=True).of
        'target'
        >>> own = objective(lambda logits, label, target: logits.max() - logits[label], targeted=False)
        >>> float(own(0, 0)({"logits": jnp.array([1.0, 3.0])}, None))
        2.0
    """
    if isinstance(loss, str):
        if loss not in OBJECTIVES:
            raise unknown("loss", loss, OBJECTIVES)
        return OBJECTIVES[loss][targeted]
    if hashable_function(loss, 1):
        return Objective(loss, "target" if targeted else "label", -1.0 if targeted else 1.0)
    if hashable_function(loss, 3):
        return Objective(_of_logits(loss), "both", 1.0)
    raise InputError(
        f"the loss of an attack is a name ({', '.join(OBJECTIVES)}), a loss builder that takes a class, or a function "
        f"of (logits, label, target), not {loss!r}"
    )


@functools.lru_cache(maxsize=64)  # one builder per function, so that one function is one program
def _of_logits(function: Callable[..., Any]) -> losses.Builder:
    def own(logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        return function(logits, label, target)

    own.__name__ = getattr(function, "__name__", "function")
    return losses.of_logits("class:{label}>class:{target}", label=losses.index, target=losses.index)(own)
