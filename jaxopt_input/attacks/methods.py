"""The attacks by name, as the command line calls them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxopt_input.attacks.apgd import apgd
from jaxopt_input.attacks.autoattack import autoattack
from jaxopt_input.attacks.boundary import boundary
from jaxopt_input.attacks.carlini_wagner import carlini_wagner
from jaxopt_input.attacks.ddn import ddn
from jaxopt_input.attacks.deepfool import deepfool
from jaxopt_input.attacks.ead import ead
from jaxopt_input.attacks.fab import fab
from jaxopt_input.attacks.fgsm import bim, fgsm, mi_fgsm, pgd
from jaxopt_input.attacks.fmn import fmn
from jaxopt_input.attacks.hopskipjump import hop_skip_jump
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.square import square
from jaxopt_input.attacks.szegedy import szegedy
from jaxopt_input.attacks.universal import universal_attack
from jaxopt_input.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Entry:
    """An attack by name.

    Attributes:
        function: of `jaxopt_input.attacks`.
        norms: those it takes, its default first.
        budget: whether it takes ε; else it minimizes the norm.
        steps: the name of its argument that says how long it searches, or None.
        takes_norm: whether the norm is an argument of it.
        loss: whether the loss is.
        fixed: arguments that its name sets.
    """

    function: Callable[..., AttackResult]
    norms: tuple[str, ...]
    budget: bool
    steps: str | None = "steps"
    takes_norm: bool = True
    loss: bool = True
    fixed: tuple[tuple[str, Any], ...] = ()


_BALLS = ("linf", "l2", "l1")
_TWO = ("linf", "l2")
METHODS = {
    "fgsm": Entry(fgsm, _BALLS, True, None),
    "bim": Entry(bim, ("linf",), True, takes_norm=False),
    "pgd": Entry(pgd, _BALLS, True),
    "mi-fgsm": Entry(mi_fgsm, ("linf",), True, takes_norm=False),
    "apgd-ce": Entry(apgd, _BALLS, True, loss=False),
    "apgd-dlr": Entry(apgd, _BALLS, True, loss=False, fixed=(("loss", "dlr"),)),
    "apgd-t": Entry(autoattack, _TWO, True, loss=False, fixed=(("stages", ("apgd-t",)),)),
    "square": Entry(square, _TWO, True, "queries"),
    "autoattack": Entry(autoattack, _TWO, True, loss=False),
    "universal": Entry(universal_attack, _BALLS, True, "epochs", loss=False),
    "szegedy": Entry(szegedy, ("l2",), False, "evaluations", takes_norm=False),
    "carlini-wagner": Entry(carlini_wagner, ("l2",), False, takes_norm=False, loss=False),
    "deepfool": Entry(deepfool, ("l2", "linf"), False, loss=False),
    "ddn": Entry(ddn, ("l2",), False, takes_norm=False),
    "fmn": Entry(fmn, ("l2", "l0", "l1", "linf"), False),
    "fab": Entry(fab, _TWO, False, loss=False),
    "ead": Entry(ead, ("l1",), False, takes_norm=False, loss=False),
    "boundary": Entry(boundary, ("l2",), False, takes_norm=False, loss=False),
    "hop-skip-jump": Entry(hop_skip_jump, ("l2",), False, takes_norm=False, loss=False),
}


def arguments(
    method: str, *, norm: str | None, epsilon: Any, steps: int | None, loss: str | None
) -> tuple[Entry, dict[str, Any]]:
    """The attack of a name, and those of a caller's arguments that it takes.

    Args:
        method: one of `METHODS`.
        norm: None for its default.
        epsilon: the budgets; None for none.
        steps: None for its default.
        loss: None for its default.

    Raises:
        InputError: for an unknown name, or arguments that it does not take or needs.

    Example:
        >>> arguments("square", norm="l2", epsilon=0.5, steps=100, loss=None)[1]
        {'norm': 'l2', 'epsilon': 0.5, 'queries': 100}
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    entry = METHODS[method]
    norm = norm or entry.norms[0]
    if norm not in entry.norms:
        raise InputError(f"{method} takes the norms {', '.join(entry.norms)}, not {norm!r}")
    if entry.budget and epsilon is None:
        raise InputError(f"{method} needs a budget: give --epsilon, such as 4/255")
    taken = dict(entry.fixed)
    if entry.takes_norm:
        taken["norm"] = norm
    if entry.budget:
        taken["epsilon"] = epsilon
    if steps is not None:
        if entry.steps is None:
            raise InputError(f"{method} is a single step: leave --steps out, or take bim or pgd")
        taken[entry.steps] = steps
    if loss is not None:
        if not entry.loss:
            raise InputError(f"{method} has a loss of its own: leave --loss out")
        taken["loss"] = loss
    return entry, taken
