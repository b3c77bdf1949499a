"""What an attack maximizes, by name: a loss builder of `jaxopt_input.losses`, turned the right way round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxopt_input import losses
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.losses import Loss

Builder = Callable[..., Loss]


@dataclasses.dataclass(frozen=True)
class Objective:
    """(label, target) → the loss to be maximized; hashable, so that it can be static.

    Attributes:
        builder: takes the label, or the target, or both.
        of: "label", "target" or "both": what the builder takes.
        sign: 1 where it rises with success.
    """

    builder: Builder
    of: str
    sign: float

    @property
    def levels_off(self) -> bool:
        """Whether it has no gradient beyond the boundary."""
        return self.builder in (_left, _reached)

    def __call__(self, label: Any, target: Any) -> Loss:
        given = {"label": (label,), "target": (target,), "both": (label, target)}[self.of]
        return self.sign * self.builder(*given)


def _left(label: Any) -> Loss:
    return losses.carlini_wagner(label)


def _reached(target: Any) -> Loss:
    return losses.carlini_wagner(target, targeted=True)


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
        loss: a name of `OBJECTIVES`, or a loss builder that takes a class and whose loss falls as that class becomes
            likelier, such as `losses.cross_entropy`; of the same builder, one object compiles once.
        targeted: whether there is a target class.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> objective("margin", targeted=True).of
        'target'
    """
    if callable(loss):
        return Objective(loss, "target" if targeted else "label", -1.0 if targeted else 1.0)
    if not isinstance(loss, str):
        raise InputError(f"the loss of an attack is a name ({', '.join(OBJECTIVES)}) or a loss builder, not {loss!r}")
    if loss not in OBJECTIVES:
        raise unknown("loss", loss, OBJECTIVES)
    return OBJECTIVES[loss][targeted]
