"""An attack from its method: a decorator that makes an attack out of a function of lanes.

    @attack("l2", loss="cross_entropy")
    def shrinking(problem, *, steps: int = count(100), gamma: jax.Array = number(0.05, high=0.999)):
        ...
        return Found(image, steps_taken, gradients, forwards)

`shrinking(key, model, images, labels, steps=20)` is then an attack, and `shrinking.method` the function itself. Each
argument of the method has a kind in place of a default, which holds that of the attack and checks what a caller gives;
numbers are traced, so that others of them run the same program. The library's own attacks are written so.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks.criteria import refuse_beyond_boundary
from jaxopt_input.attacks.objectives import objective
from jaxopt_input.attacks.problem import Found, Numbers, Problem
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Attack(Protocol):
    """An attack of one method."""

    __name__: str
    method: Callable[..., Found]

    def __call__(
        self, key: jax.Array, model: Model, images: ArrayLike, labels: ArrayLike, **arguments: Any
    ) -> AttackResult: ...


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one argument of a method may be, in place of its default, as `dataclasses.field` is of a field's.

    Attributes:
        default: what it is unless the caller says otherwise.
        canonical: takes its name and a caller's value; returns what the method takes, or raises an `InputError`.
        type: what the signature says.
        traced: whether it is traced; static if not.
    """

    default: Any
    canonical: Callable[[str, Any], Any]
    type: str
    traced: bool = False


def count(default: int) -> Any:
    """The kind of whole numbers from 1 up."""
    return Kind(default, checks.count, "int")


def flag(default: bool) -> Any:
    """The kind of what is on or off."""
    return Kind(default, lambda _, value: bool(value), "bool")


def choice(*options: str) -> Any:
    """The kind of names among some, the default first."""
    return Kind(options[0], lambda name, value: checks.one_of(name, value, options), "str")


def number(
    default: float | None, low: float = 0.0, high: float = np.inf, *, open_low: bool = False, static: bool = False
) -> Any:
    """The kind of numbers within [low, high], without `low` itself if `open_low`; the default None counts as 0."""

    def canonical(name: str, value: Any) -> Any:
        if value is None and default is None:
            return np.zeros((), np.float32)
        checked = checks.number(name, value, low, high, open_low=open_low)
        return float(value) if static else checked

    type = "float" if static else "ArrayLike" if default is not None else "ArrayLike | None"
    return Kind(default, canonical, type, traced=not static)


@dataclasses.dataclass(frozen=True)
class _Configured:
    """A method with its static options; equal ones share one compiled program."""

    function: Callable[..., Found]
    options: tuple[tuple[str, Any], ...]

    def __call__(self, problem: Problem, numbers: Numbers) -> Found:
        return self.function(problem, **numbers, **dict(self.options))


def attack(
    *norms: str,
    budget: bool = False,
    loss: str | None = None,
    start: str = "",
    stop: bool = False,
    draws: str = "",
    to_boundary: bool = False,
) -> Callable[[Callable[..., Found]], Attack]:
    """Make an attack out of a method, a function of a `Problem` and of arguments of its own that returns a `Found`.

    Args:
        norms: those that it takes, its default first; it has an argument `norm` where they are several.
        budget: whether it takes a budget, `epsilon`; it minimizes the norm if not.
        loss: the default of its argument `loss`, which the method has as `problem.objective`; it has none if None.
        start: "any" where the caller may give images to begin from; "adversarial" where they must be successes, so
            that a target needs them; "" for no such argument.
        stop: whether it has an argument `stop`, which the method has as `problem.stop`.
        draws: where it draws at random: at its "start", in its "steps", or, "", nowhere.
        to_boundary: whether it goes no further than a class's boundary; it refuses the criteria that ask for more.

    Returns:
        A decorator. What it returns takes a key, a model, images, labels, these arguments and `Options`, and returns
        an `AttackResult`; its `method` is the function itself.

    Raises:
        InputError: for an argument of the method without a kind.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> @attack("linf", budget=True)
        ... def darken(problem, *, share=number(0.5, high=1.0)):
        ...     return Found(problem.clean - share * problem.epsilon[:, None, None, None])
        >>> model = joi.from_function(lambda level, x, taps: {"logits": jnp.stack([x.mean((1, 2, 3)), level], -1)},
        ...                           jnp.array([0.4]), image_shape=(4, 4, 3), taps=("logits",))
        >>> darken(jax.random.key(0), model, jnp.full((1, 4, 4, 3), 0.5), 0, epsilon=0.2, share=0.75).success.tolist()
        [True]
    """

    def decorate(method: Callable[..., Found]) -> Attack:
        _, *own = inspect.signature(method).parameters.values()
        kinds = {parameter.name: parameter.default for parameter in own}
        for name, kind in kinds.items():
            if not isinstance(kind, Kind):
                raise InputError(
                    f"{method.__name__}: give {name} a kind for a default, such as count(10), not {kind!r}"
                )
        signature = _signature(norms, budget, loss, start, stop, kinds)

        @functools.wraps(method)
        def call(*args: Any, **keywords: Any) -> AttackResult:
            try:
                bound = signature.bind(*args, **keywords)
            except TypeError as error:
                raise TypeError(f"{method.__name__}(): {error}") from None
            bound.apply_defaults()
            arguments, options = bound.arguments, Options(**bound.arguments["options"])
            targeted, first = options.get("target") is not None, arguments.get("start")
            if to_boundary:
                refuse_beyond_boundary(options.get("criterion"), method.__name__)
            if start == "adversarial" and targeted and first is None:
                raise InputError(
                    "with a target this attack begins at images of that class: give them as start, or no target"
                )
            values = {name: kind.canonical(name, arguments[name]) for name, kind in kinds.items()}
            norm = checks.one_of("norm", arguments.get("norm", norms[0]), norms)
            if budget and "step" in values:
                checks.below_range("step", values["step"], norm)
            static = tuple((name, value) for name, value in values.items() if not kinds[name].traced)
            fixed_start = draws == "start" and (first is not None or not values.get("random_start", True))
            return run(
                _Configured(method, static),
                *bound.args[:4],
                norm=norm,
                epsilon=checks.require_budget(arguments["epsilon"]) if budget else None,
                numbers={name: value for name, value in values.items() if kinds[name].traced},
                objective=objective(arguments["loss"], targeted) if loss else None,
                start=first,
                stop=arguments.get("stop", True),
                draws=bool(draws) and not fixed_start,
                **options,
            )

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.method = method  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def _signature(
    norms: Sequence[str], budget: bool, loss: str | None, start: str, stop: bool, kinds: Mapping[str, Kind]
) -> inspect.Signature:
    """What an attack takes: what all do, and what it says of itself."""
    parameter = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    own = [
        budget and parameter("epsilon", annotation="ArrayLike"),
        len(norms) > 1 and parameter("norm", default=norms[0], annotation="str"),
        *(parameter(name, default=kind.default, annotation=kind.type) for name, kind in kinds.items()),
        loss and parameter("loss", default=loss, annotation="str | Builder"),
        start and parameter("start", default=None, annotation="ArrayLike | None"),
        stop and parameter("stop", default=True, annotation="bool"),
        inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation="Unpack[Options]"),
    ]
    common = list(inspect.signature(run).parameters.values())[1:5]
    present = [parameter for parameter in own if isinstance(parameter, inspect.Parameter)]
    return inspect.Signature([*common, *present], return_annotation="AttackResult")
