"""The attacks by name, as the command line calls them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from jaxopt_input import attacks, checks
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Entry:
    """An attack by name.

    Attributes:
        function: of `jaxopt_input.attacks`.
        norms: those it takes, its default first.
        fixed: arguments that its name sets.
    """

    function: Callable[..., AttackResult]
    norms: tuple[str, ...]
    fixed: tuple[tuple[str, Any], ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the caller may give an argument."""
        return name in inspect.signature(self.function).parameters and name not in dict(self.fixed)

    @property
    def budget(self) -> bool:
        """Whether it takes ε; else it minimizes the norm."""
        return self.takes("epsilon")

    @property
    def steps(self) -> str | None:
        """The name of its argument that says how long it searches, or None."""
        return next(filter(self.takes, ("steps", "queries", "epochs", "evaluations")), None)


_BALLS = ("linf", "l2", "l1")
_TWO = ("linf", "l2")
METHODS = {
    "fgsm": Entry(attacks.fgsm, _BALLS),
    "bim": Entry(attacks.bim, ("linf",)),
    "pgd": Entry(attacks.pgd, _BALLS),
    "mi-fgsm": Entry(attacks.mi_fgsm, ("linf",)),
    "apgd-ce": Entry(attacks.apgd, _BALLS, (("loss", "cross_entropy"),)),
    "apgd-dlr": Entry(attacks.apgd, _BALLS, (("loss", "dlr"),)),
    "apgd-t": Entry(attacks.autoattack, _TWO, (("stages", ("apgd-t",)),)),
    "square": Entry(attacks.square, _TWO),
    "autoattack": Entry(attacks.autoattack, _TWO),
    "universal": Entry(attacks.universal_attack, _BALLS),
    "szegedy": Entry(attacks.szegedy, ("l2",)),
    "carlini-wagner": Entry(attacks.carlini_wagner, ("l2",)),
    "deepfool": Entry(attacks.deepfool, ("l2", "linf")),
    "ddn": Entry(attacks.ddn, ("l2",)),
    "fmn": Entry(attacks.fmn, ("l2", "l0", "l1", "linf")),
    "fab": Entry(attacks.fab, _TWO),
    "ead": Entry(attacks.ead, ("l1",)),
    "boundary": Entry(attacks.boundary, ("l2",)),
    "hop-skip-jump": Entry(attacks.hop_skip_jump, ("l2",)),
}


def arguments(
    method: str, *, norm: str | None, epsilon: Any, steps: int | None, loss: str | None
) -> tuple[Entry, dict[str, Any]]:
    """The attack of a name in `METHODS`, and those of a caller's arguments that it takes; None is the default of each.

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
    if loss is not None and not entry.takes("loss"):
        raise InputError(f"{method} has a loss of its own: leave --loss out")
    if steps is not None and entry.steps is None:
        raise InputError(f"{method} is a single step: leave --steps out, or take bim or pgd")
    if epsilon is not None:
        checks.budgets(epsilon, 1, norm)
    options = {"norm": norm, "epsilon": epsilon, entry.steps: steps, "loss": loss}
    taken = {name: value for name, value in options.items() if value is not None and name and entry.takes(name)}
    return entry, dict(entry.fixed) | taken
