"""Optax optimizers by name, with traced hyperparameters, and L-BFGS, whose line search is in `search`.

An `Optimizer` is a pytree: its factory is static, its hyperparameters are leaves, so that another learning rate does
not recompile, and an array of learning rates is one per target. A hyperparameter may also be a schedule, as Optax has
them: a function of the number of updates so far. `minimize` takes any Optax object as well; an optimizer of your own
with traced hyperparameters is a factory:

    >>> clipped = lambda learning_rate, most: optax.chain(optax.clip(most), optax.sgd(learning_rate))
    >>> sorted(optimizer(clipped, [0.1, 0.2], most=1.0).hyperparameters)
    ['learning_rate', 'most']
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxopt_input.checks import count, finite_numbers, hashable_function, output_shapes, require
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.names import OPTIMIZERS
from jaxopt_input.optimizers import rules
from jaxopt_input.targets import Numbers, canonical, leaf, traced

# Each rate suits θ of `images.fourier()` and moves by about 0.05 a step where the rule normalizes the gradient.
FACTORIES: dict[str, tuple[Callable[..., optax.GradientTransformation], float]] = {
    "adabelief": (optax.adabelief, 0.05),
    "adagrad": (optax.adagrad, 0.5),
    "adam": (optax.adam, 0.05),
    "adamw": (optax.adamw, 0.05),
    "amsgrad": (optax.amsgrad, 0.05),
    "lion": (optax.lion, 0.02),
    "nadam": (optax.nadam, 0.05),
    "radam": (optax.radam, 0.05),
    "rmsprop": (optax.rmsprop, 0.02),
    "sgd": (optax.sgd, 1.0),
    "sign_sgd": (optax.sign_sgd, 0.02),
    "yogi": (optax.yogi, 0.05),
}
NAMES = OPTIMIZERS
UNLIMITED = np.iinfo(np.int32).max
NO_RATE = "lbfgs finds its step by a line search: leave the learning rate out"
Factory = Callable[..., optax.GradientTransformation]
Schedule = Callable[[jax.Array], ArrayLike]
Rate = Numbers | Schedule
"""A number, one per target, or a function of the number of updates so far."""


@traced
class Optimizer:
    """An Optax factory and its hyperparameters; made by `optimizer`, `as_optimizer` or a builder below.

    Attributes:
        name: of the factory.
        memory: of L-BFGS.
        factory: makes the Optax transformation of the hyperparameters; that of the name if None.
        schedules: (name, function of the number of updates so far) of each hyperparameter that changes with time.
        hyperparameters: the numbers, by name.
        average: the decay of the moving average of θ that `averaged` keeps beside it.
    """

    name: str
    memory: int = 0
    factory: Factory | None = None
    schedules: tuple[tuple[str, Schedule], ...] = ()
    hyperparameters: dict[str, ArrayLike] = leaf(rank=0, default_factory=dict)
    average: ArrayLike | None = leaf(rank=0, default=None)

    def build(self) -> optax.GradientTransformationExtraArgs:
        """The Optax transformation with these hyperparameters; for L-BFGS, the direction without its line search."""
        if self.name == "lbfgs":
            return optax.with_extra_args_support(optax.scale_by_lbfgs(memory_size=self.memory))
        factory = self.factory or FACTORIES[self.name][0]
        if self.schedules:
            rule = rules.scheduled(factory, self.hyperparameters, dict(self.schedules))
        else:
            rule = optax.with_extra_args_support(factory(**self.hyperparameters))
        return rule if self.average is None else rules.averaging(rule, self.average)

    def at_rate(self, learning_rate: Rate) -> Optimizer:
        """This optimizer with another learning rate: a positive number, one per target, or a schedule.

        Raises:
            InputError: for a rate that is not positive, or an optimizer that has none.

        Example:
            >>> adam(0.1, b1=0.5).at_rate(0.2).hyperparameters
            {'learning_rate': array(0.2, dtype=float32), 'b1': array(0.5, dtype=float32)}
        """
        if self.name == "lbfgs":
            raise InputError(NO_RATE)
        numbers: dict[str, Rate] = {**self.hyperparameters, **dict(self.schedules)}
        if numbers.pop("learning_rate", None) is None:
            raise InputError(f"a learning rate goes with an optimizer of jaxopt_input.optimizers, not with {self.name}")
        return _with_numbers(self, learning_rate, numbers)


def optimizer(name: str | Factory, learning_rate: Rate | None = None, **hyperparameters: Any) -> Optimizer:
    """An optimizer by name, with the rate that suits a Fourier image unless another is asked for.

    Args:
        name: one of `NAMES`, or a function of `learning_rate` and further hyperparameters that returns an Optax object;
            it is static: another function object compiles anew.
        learning_rate: a positive number, one per target, or a schedule, such as
            `optax.cosine_decay_schedule(0.1, 256)`; "lbfgs" takes none, since it searches along a line.
        hyperparameters: numbers by the names of the Optax factory, such as `b1=0.9`, or schedules.

    Raises:
        InputError: for an unknown name or hyperparameter (the nearest are offered), a number that is not finite, a
            rate that is not positive, or a schedule that does not return one number.

    Example:
        >>> optimizer("adam").hyperparameters
        {'learning_rate': array(0.05, dtype=float32)}
        >>> optimizer("sgd", optax.linear_schedule(1.0, 0.1, 100)).hyperparameters
        {}
    """
    if name == "lbfgs":
        if learning_rate is not None:
            raise InputError(NO_RATE)
        return lbfgs(**hyperparameters)
    factory: Factory
    rate: Rate
    if isinstance(name, str):
        if name not in FACTORIES:
            raise unknown("optimizer", name, NAMES)
        factory, rate = FACTORIES[name]
        rule = Optimizer(name)
    else:
        if learning_rate is None or not hashable_function(name):
            raise InputError(
                f"an optimizer is made by name, or by a function and a learning rate, not by {name!r} alone"
            )
        factory, rate = name, learning_rate
        rule = Optimizer(getattr(name, "__name__", "optimizer"), factory=name)
    signature = inspect.signature(factory)
    accepted = [key for key, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    for other in hyperparameters:
        if other not in accepted and len(accepted) == len(signature.parameters):
            raise unknown(f"hyperparameter of {rule.name}", other, sorted({*accepted} - {"learning_rate"}))
    try:
        signature.bind(learning_rate=rate, **hyperparameters)
    except TypeError as error:
        raise InputError(
            f"the optimizer {rule.name} takes learning_rate and hyperparameters by name: {error}"
        ) from error
    return _with_numbers(rule, rate if learning_rate is None else learning_rate, hyperparameters)


def _with_numbers(optimizer: Optimizer, learning_rate: Rate, others: Mapping[str, Rate]) -> Optimizer:
    """The optimizer with these hyperparameters, numbers and schedules apart."""
    values = {"learning_rate": learning_rate, **others}
    schedules = tuple((name, _schedule(name, value)) for name, value in values.items() if callable(value))
    numbers = {
        name: _rate(value) if name == "learning_rate" else finite_numbers(name, value)
        for name, value in values.items()
        if not callable(value)
    }
    return dataclasses.replace(optimizer, schedules=schedules, hyperparameters=numbers)


def _schedule(name: str, schedule: Callable[..., Any]) -> Schedule:
    """A schedule that returns one number, or an `InputError`."""
    if not hashable_function(schedule, 1):
        raise InputError(f"{name} is a number, one per target, or a function of the step, not {schedule!r}")
    what = f"the schedule of {name} returns one number for a step"
    number = output_shapes(f"{what}; it fails on one", schedule, jax.ShapeDtypeStruct((), jnp.int32))
    real = (jnp.floating, jnp.integer)
    if getattr(number, "shape", None) != () or not any(jnp.issubdtype(number.dtype, kind) for kind in real):
        raise InputError(f"{what}, not {number}")
    return schedule


def as_optimizer(optimizer: Optimizer | optax.GradientTransformation | str | None) -> Optimizer:
    """What a caller gives as an optimizer, as one.

    Args:
        optimizer: an `Optimizer`, any Optax object, a name, or None for Adam at 0.05.

    Raises:
        InputError: for anything else, or an unknown name, offering the nearest.

    Example:
        >>> as_optimizer("sgd").name, as_optimizer(optax.adam(0.1)).hyperparameters
        ('sgd', {})
    """
    if optimizer is None:
        return adam()
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str):
        return by_name(optimizer)
    if isinstance(optimizer, optax.GradientTransformation):
        return Optimizer("optax", factory=_Constant(optimizer))
    raise InputError(
        f"an optimizer is of jaxopt_input.optimizers or of Optax, or one of {', '.join(NAMES)}, not {optimizer!r}"
    )


def by_name(name: str) -> Optimizer:
    """An optimizer with its defaults by name."""
    return optimizer(name)


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A factory without hyperparameters; equal where it makes the same object."""

    rule: optax.GradientTransformation

    def __call__(self) -> optax.GradientTransformation:
        return self.rule


def _rate(learning_rate: Numbers) -> ArrayLike:
    rate = finite_numbers("learning_rate", learning_rate)
    require(f"a learning rate is positive, not {learning_rate!r}", rate, lambda x: x > 0)
    return rate


def adam(learning_rate: Rate = 0.05, **hyperparameters: Rate) -> Optimizer:
    """Adam.

    Args:
        learning_rate: a positive number, one per target, or a schedule.
        hyperparameters: `b1`, `b2`, `eps`, `eps_root` as in `optax.adam`.

    Raises:
        InputError: as `optimizer`.

    Source:
        Kingma & Ba, Adam: A Method for Stochastic Optimization (2015).

    Example:
        >>> adam(0.1).name
        'adam'
    """
    return optimizer("adam", learning_rate, **hyperparameters)


def sgd(learning_rate: Rate = 1.0, momentum: Rate | None = None) -> Optimizer:
    """Plain gradient descent, with momentum if given.

    Args:
        learning_rate: a positive number, one per target, or a schedule.
        momentum: the decay of the velocity, such as 0.9.

    Raises:
        InputError: as `optimizer`.

    Source:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network (2009).

    Example:
        >>> sorted(sgd(0.5, momentum=0.9).hyperparameters)
        ['learning_rate', 'momentum']
    """
    return optimizer("sgd", learning_rate, **({} if momentum is None else {"momentum": momentum}))


def lbfgs(memory: int = 20, *, max_evaluations: int | None = None) -> Optimizer:
    """L-BFGS with a weak Wolfe line search, one evaluation of the network a trial for all starts at once.

    Needs no learning rate. Every trial is counted in `Solution.evaluations`.

    Args:
        memory: how many past steps the inverse Hessian is made of, at least 1.
        max_evaluations: how often each start may run the network, since the line search decides how often a step
            does; what is left of the steps then changes nothing. As many as it takes if None. Traced.

    Raises:
        InputError: for a memory or a number of evaluations below 1.

    Source:
        Liu & Nocedal, On the limited memory BFGS method (1989); Lewis & Overton, Nonsmooth optimization via
        quasi-Newton methods (2013), section 2, for the line search.

    Example:
        >>> lbfgs(memory=20).memory
        20
    """
    memory = count("the memory of lbfgs", memory)
    budget = np.asarray(UNLIMITED if max_evaluations is None else count("max_evaluations", max_evaluations), np.int32)
    return Optimizer("lbfgs", memory=memory, hyperparameters={"max_evaluations": budget})


def averaged(optimizer: Optimizer, decay: Numbers = 0.99) -> Optimizer:
    """An optimizer that keeps the moving average of θ beside it: `Solution.average_image`.

    The average is less noisy than the last iterate. It weighs the iterates by decay^age, the first as the others.

    Args:
        optimizer: of this module, not L-BFGS.
        decay: from 0 to below 1, a number or one per target.

    Raises:
        InputError: for L-BFGS, which does not wander, or a decay out of range.

    Source:
        Crowson, style-transfer-pytorch (2021), for its use; Kingma & Ba (2015), section 7.2, for the weights.

    Example:
        >>> averaged(adam(0.02), 0.99).average
        array(0.99, dtype=float32)
    """
    if optimizer.name == "lbfgs":
        raise InputError("lbfgs goes down at each step: its last iterate is the one to take, not an average")
    rate = canonical(decay, 0, jnp.float32, "decay")
    require(f"the decay of an average is from 0 to below 1, not {decay!r}", rate, lambda x: (x >= 0) & (x < 1))
    return dataclasses.replace(optimizer, average=rate)


def averaged_theta(state: rules.AveragingState) -> optax.Params:
    """The average θ of each lane, from the optimizer's state of `averaged`, `[N, …]`."""
    return jax.tree.map(lambda x: x / (1 - state.rest).reshape(-1, *[1] * (x.ndim - 1)), state.mean)


def yosinski(
    learning_rate: Rate = 100.0,
    *,
    desired_progress: Numbers | None = None,
    decay: Numbers | None = None,
    blur_sigma: Numbers | None = None,
    blur_every: Numbers = 4,
    norm_percentile: Numbers | None = None,
    contribution_percentile: Numbers | None = None,
    mean: Numbers = 0.5,
    least_gradient: Numbers | None = None,
) -> Optimizer:
    """Yosinski's gradient ascent on pixels, each update followed by his regularizers.

    In his units, x = 255 · (image − mean) and g the gradient by x of what is maximized (minus the loss):
    x ← (x + rate · g) · (1 − decay); then, every few updates and at the first, a Gaussian blur; then pixels whose
    norm is small are set to zero, and those of small contribution |Σ_colors x · g|. A number that is None leaves its
    regularizer out; other numbers do not recompile. The image is clipped to [0, 1] after each update, as by him before
    the next.

    Args:
        learning_rate: of pixels from 0 to 255, or a schedule; with `desired_progress` the largest.
        desired_progress: rate = min(learning_rate, desired_progress / ‖g‖²), which raises what is maximized by about
            this much at each step.
        decay: from 0 to 1.
        blur_sigma: standard deviation of the blur in pixels, positive, at most 2.
        blur_every: how many updates lie between two blurs, at least 1.
        norm_percentile, contribution_percentile: from 0 to 100, how many pixels are set to zero.
        mean: the gray that x is counted from, in [0, 1]; his is the mean image of ImageNet.
        least_gradient: ‖g‖ that the learning rate is meant for, positive: where a start's first gradient is smaller,
            its rate is larger by the same factor.

    Raises:
        InputError: for numbers out of range; when it starts, for an image that is not optimized as `images.pixels()`.

    Source:
        Yosinski et al., Understanding Neural Networks Through Deep Visualization (2015), section 3, in the order and
        units of their code (deep-visualization-toolbox, `optimize/gradient_optimizer.py`).

    Example:
        >>> sorted(yosinski(decay=1e-4, blur_sigma=1.0).hyperparameters)
        ['blur_every', 'blur_sigma', 'decay', 'learning_rate', 'mean']
    """
    ranges = {
        "desired_progress": (desired_progress, 0, np.inf),
        "decay": (decay, 0, 1),
        "blur_sigma": (blur_sigma, 1e-3, rules.MAX_BLUR),
        "blur_every": (blur_every if blur_sigma is not None else None, 1, np.inf),
        "norm_percentile": (norm_percentile, 0, 100),
        "contribution_percentile": (contribution_percentile, 0, 100),
        "mean": (mean, 0, 1),
        "least_gradient": (least_gradient, 1e-12, np.inf),
    }
    numbers = {
        name: _between(name, value, low, high) for name, (value, low, high) in ranges.items() if value is not None
    }
    return _with_numbers(Optimizer("yosinski", factory=rules.yosinski), learning_rate, numbers)


def _between(name: str, value: Numbers, low: float, high: float) -> ArrayLike:
    """A number, or one per target, within bounds."""
    array = canonical(value, 0, jnp.float32, name)
    require(f"{name} is from {low:g} to {high:g}, not {value!r}", array, lambda x: (x >= low) & (x <= high))
    return array


def mahendran(learning_rate: Rate, decay: Numbers = 0.9) -> Optimizer:
    """Mahendran and Vedaldi's momentum on gradients that are divided by their recent size.

    In their units, x = 255 · image and g the gradient by x: G ← decay · G + g², v ← decay · v − g/(1/rate + √G),
    x ← x + v. Where the rate is large, a pixel moves by about one level at each step, however small its gradient;
    where it is small, this is plain momentum.

    Args:
        learning_rate: of pixels from 0 to 255, or a schedule.
        decay: of G and of v, from 0 to 1.

    Raises:
        InputError: for numbers out of range.

    Source:
        Mahendran & Vedaldi, Visualizing Deep Convolutional Neural Networks Using Natural Pre-images (2016), section
        3.4, as in their code (nnpreimage, `core/nnpreimage.m`), where the two decays are one number.

    Example:
        >>> mahendran(2e6).hyperparameters
        {'learning_rate': array(2.e+06, dtype=float32), 'decay': array(0.9, dtype=float32)}
    """
    own = Optimizer("mahendran", factory=rules.mahendran)
    return _with_numbers(own, learning_rate, {"decay": _between("decay", decay, 0, 1)})


def is_line_search(optimizer: object) -> bool:
    """Whether `minimize` searches along a line for this optimizer."""
    return isinstance(optimizer, Optimizer) and optimizer.name == "lbfgs"
