"""Measuring: how fast gradients and whole loops run, what they take, and how near that is to what the device can do.

    plan ─► cases ─compile: cold, cached─► rounds: every case and both ceilings once each ─► medians and quartiles

A case is a task of a model at a batch and a dtype. In every round each case runs once, so that what else the machine
does meets all of them alike. Results are waited for, not traced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import attacks, images, losses, optimizers, targets, transforms
from jaxopt_input.checks import count
from jaxopt_input.engine.lanes import Resources, resources
from jaxopt_input.engine.memory import peak_of
from jaxopt_input.engine.minimize import Watch, minimize
from jaxopt_input.engine.target import expand, objective
from jaxopt_input.errors import InputError
from jaxopt_input.losses import Loss
from jaxopt_input.methods.presets import check_choice
from jaxopt_input.methods.style.settings import Settings, default_layers
from jaxopt_input.methods.style.terms import content_loss, style_loss, variation_loss
from jaxopt_input.models.flops import Work, gradient_work
from jaxopt_input.models.model import Model, cast, in_dtype
from jaxopt_input.runs.progress import compile_seconds

TASKS = {
    "class": ("fourier", "lucid"),
    "unit": ("fourier", "lucid"),
    "dream": ("pixels", "jitter"),
    "style": ("pixels", "none"),
    "pgd": ("pixels", "none"),
}
"""The parameterization and the transform of each task."""
DTYPES = {"float32": ("float32", "float32"), "tf32": ("float32", "tensorfloat32"), "bfloat16": ("bfloat16", None)}
"""The dtypes of a case: that of activations and parameters, and the precision of products; a CPU has one only."""
CHECK_EVERY = 16  # steps between two checks of the untransformed loss, as in a run of the default 256
EPSILON = 8 / 255
LEAST_SECONDS = 0.2  # that a measurement takes: shorter calls are repeated
_SIZES = {"cpu": (2048, 1 << 28)}  # of the ceilings, by platform: the side of the matrices, the bytes of the copy
_LARGE = 8192, 1 << 30  # elsewhere

Arrays = jax.Array | np.ndarray | tuple[jax.Array, jax.Array]
Computation = Callable[[int], Arrays]
"""What is timed, as a function of a seed."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A task of a model at a batch and a dtype, with its loss and its setting, as `plan` makes it."""

    model: Model
    task: str
    batch: int
    dtype: str
    steps: int
    loss: Loss
    parameterization: str
    transform: str

    @property
    def activations(self) -> str:
        """The dtype of the activations and of the parameters."""
        return DTYPES[self.dtype][0]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Several measurements of the same number."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    def map(self, function: Callable[[float], float]) -> Spread:
        """The spread of a function of the number."""
        return Spread(tuple(function(value) for value in self.values))


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """What the device can do at a dtype, measured in the same rounds as the cases.

    Attributes:
        flops: operations per second of a large matrix product.
        bytes: bytes per second that a large copy reads and writes.
    """

    flops: Spread
    bytes: Spread


@dataclasses.dataclass(frozen=True)
class First:
    """A case's first run when nothing compiled is remembered; imports, weights and the device's start left out.

    Attributes:
        compile: seconds in which JAX traced, lowered and compiled.
        picture: seconds until the first images were there.
    """

    compile: float
    picture: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of a case.

    Attributes:
        case: the case.
        gradient: seconds of the loss and its gradient by the whole batch of images, compiled alone.
        loop: seconds of the whole run: `minimize`, or the attack.
        cold, cached: first runs without and with a filled persistent compilation cache.
        work: the operations and bytes of the batch's gradient, as `flops.gradient_work` counts them.
        gradient_bytes: what the compiled gradient takes, parameters and images included.
        peak_bytes: what the whole run takes, parameters included, as `memory.peak_of` measures it, and at least what
            its gradient takes; None where the device does not say.
    """

    case: Case
    gradient: Spread
    loop: Spread
    cold: First
    cached: First
    work: Work
    gradient_bytes: int
    peak_bytes: int | None

    @property
    def gradients(self) -> Spread:
        """Gradients of single images per second."""
        return self.gradient.map(lambda seconds: self.case.batch / seconds)

    @property
    def image_steps(self) -> Spread:
        """Images times steps per second, in the whole loop."""
        return self.loop.map(lambda seconds: self.case.batch * self.case.steps / seconds)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `measure`.

    Attributes:
        measurements: one per case that ran, in the order of the cases.
        ceilings: the ceilings of each dtype.
        failures: the cases that the device had too little memory for, each with the message of the device.
    """

    measurements: tuple[Measurement, ...]
    ceilings: Mapping[str, Ceiling]
    failures: tuple[tuple[Case, str], ...] = ()


def plan(
    models: Sequence[Model],
    *,
    tasks: Sequence[str] = tuple(TASKS),
    batches: Sequence[int] = (1, 4, 16),
    dtypes: Sequence[str] = ("float32",),
    steps: int = 32,
    target: str | None = None,
    parameterization: str | None = None,
    transform: str | None = None,
) -> list[Case]:
    """Every model at every task, dtype and batch.

    - "class": the logit and log-probability of class 0, in the setting of `visualize`: Fourier images, `lucid`.
    - "unit": channel 0 of a layer of middle size at the center of its map, in the same setting.
    - "dream": the mean square of that layer on pixels, with jitter.
    - "style": Gram matrices, content and total variation in the default layers of `stylize`, on pixels by Adam.
    - "pgd": the attack at ε = 8/255 in L∞, which never stops early.

    Args:
        models: the networks, each at its own image size.
        tasks: some of `TASKS`.
        batches: numbers of images at once, at least 1 each.
        dtypes: some of `DTYPES`: float32, the same with products in TF32, or bfloat16 parameters and activations.
        steps: updates in the whole loop, at least 1.
        target: a target as `visualize` takes it, in place of class 0 or channel 0.
        parameterization, transform: names, in place of the task's own; an attack has neither.

    Raises:
        InputError: for an unknown task, dtype, target or name, numbers below 1, two models of one name, or a network
            that a task does not suit.

    Example:
        >>> import jaxopt_input as joi
        >>> cases = plan([joi.load("tin100")], tasks=["class", "pgd"], batches=[1, 8])
        >>> [(case.task, case.batch, case.parameterization) for case in cases]
        [('class', 1, 'fourier'), ('class', 8, 'fourier'), ('pgd', 1, 'pixels'), ('pgd', 8, 'pixels')]
    """
    if not (models and tasks and batches and dtypes):
        raise InputError("nothing to measure: give at least one model, task, batch and dtype")
    for what, names, registry in (("task", tasks, TASKS), ("dtype", dtypes, DTYPES)):
        for name in names:
            check_choice(what, name, registry)
    count("steps", steps)
    for batch in batches:
        count("a batch", batch)
    for name in (names := [model.info.name for model in models]):
        if names.count(name) > 1:
            raise InputError(f"two models are named {name!r}: give each a name of its own, such as from_*(…, name=)")
    if "pgd" in tasks and (parameterization or transform):
        raise InputError("pgd moves pixels without a transform: leave it out, or parameterization and transform")
    images.by_name(parameterization or "pixels"), transforms.by_name(transform or "none")
    cases = []
    for model in models:
        for task in dict.fromkeys(tasks):
            image, view = TASKS[task]
            loss = _loss(model, task, target)
            loss.check(model.layers())
            if targets.count(loss) > 1:
                raise InputError(f"one target is measured, not {targets.count(loss)}: name a single one, not {target}")
            setting = (int(steps), loss, parameterization or image, transform or view)
            cases += [
                Case(model, task, int(batch), dtype, *setting)
                for dtype in dict.fromkeys(dtypes)
                for batch in sorted(dict.fromkeys(batches))
            ]
    return cases


def _loss(model: Model, task: str, target: str | None) -> Loss:
    """The loss that the task minimizes."""
    shape = model.info.image_shape
    if task == "pgd":
        return -losses.cross_entropy(0)
    if target is not None and task in ("class", "unit"):
        return objective(expand(target, model), "default")
    if task == "class":
        return -(losses.class_logit(0) + losses.class_log_probability(0))
    style_layers, (content_layer,) = default_layers(model, shape)
    if task == "unit":
        return objective(expand(f"{content_layer}:0@center", model), "default")
    if task == "dream":
        return -losses.layer(content_layer)
    content, style = (
        {tap: np.asarray(a[0]) for tap, a in model.activations(image[None], (*style_layers, content_layer)).items()}
        for image in smooth_images(2, shape)
    )
    features, weights = {tap: style[tap] for tap in style_layers}, dict.fromkeys(style_layers, 1.0)
    settings = Settings()
    loss = style_loss(features, model.layers(), settings, weights, jax.random.key(0))
    return loss + content_loss({content_layer: content[content_layer]}, settings) + variation_loss(shape, settings)


def smooth_images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of colored blobs in [0, 1], `[count, H, W, C]`: what they show makes no difference to time and memory.

    Example:
        >>> smooth_images(2, (32, 48, 3)).shape
        (2, 32, 48, 3)
    """
    height, width, channels = shape
    coarse = jax.random.uniform(jax.random.key(0), (count, max(2, height // 16), max(2, width // 16), channels))
    return np.asarray(jnp.clip(jax.image.resize(coarse, (count, *shape), "cubic"), 0, 1), np.float32)


def measure(cases: Sequence[Case], *, repeats: int = 5, on: Resources | None = None) -> Report:
    """Run cases in turns, with the device's ceilings in every round.

    What JAX has compiled in this process is forgotten first. First runs are timed with a compilation cache in a
    temporary folder of the case's own, empty and then filled, whether or not the process has one.

    Args:
        cases: what `plan` returns.
        repeats: rounds, at least 1.
        on: the first of its devices is used; its progress is called as (runs done, runs in all).

    Raises:
        InputError: if there is no case or no repeat.

    Example:
        >>> import jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(8, 8, 3), taps=("logits",))
        >>> report = measure(plan([model], tasks=["class"], batches=[2], steps=2), repeats=2)
        >>> first = report.measurements[0]
        >>> len(first.image_steps.values), first.work.flops, first.cold.picture > 0
        (2, 72, True)
    """
    if not cases or repeats < 1:
        raise InputError(f"nothing to measure: {len(cases)} cases, {repeats} repeats")
    on = resources(on)
    device = on.local[0]
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    done, total = itertools.count(1), 3 * len(cases) + 2 * repeats * (len(cases) + len(dtypes))

    def tick() -> None:
        if on.progress:
            on.progress(next(done), total)

    ready: dict[int, tuple[list[Computation], Callable[..., Measurement]]] = {}
    failures: list[tuple[Case, str]] = []
    with jax.default_device(device):
        # Small batches first: a device only says which peak was the highest so far.
        for place, case in sorted(enumerate(cases), key=lambda pair: pair[1].batch):
            try:
                ready[place] = _prepare(case, device, tick)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                failures.append((case, str(error).splitlines()[0]))
        in_order = [ready[place] for place in sorted(ready)]
        timers = [_often(function) for functions, _ in in_order for function in functions]
        timers += [timer for dtype in dtypes for timer in _ceiling(dtype, device)]
        values: list[list[float]] = [[] for _ in timers]
        for _ in range(repeats):
            for timer, measured in zip(timers, values, strict=True):
                measured.append(timer())
                tick()
    if failures and on.progress:
        on.progress(total, total)
    spreads = iter([Spread(tuple(measured)) for measured in values])
    measurements = tuple(measurement(gradient=next(spreads), loop=next(spreads)) for _, measurement in in_order)
    return Report(measurements, {dtype: Ceiling(next(spreads), next(spreads)) for dtype in dtypes}, tuple(failures))


def _precision(dtype: str, device: jax.Device) -> contextlib.AbstractContextManager[None]:
    """The context in which products have the precision of a dtype."""
    return jax.default_matmul_precision(DTYPES[dtype][1] if device.platform != "cpu" else None)


def _prepare(
    case: Case, device: jax.Device, tick: Callable[[], None]
) -> tuple[list[Computation], Callable[..., Measurement]]:
    """A case's compiled gradient and loop, and its measurement but for their times.

    It runs for the first time, without and with a filled cache, and once more for its peak.
    """
    placed = dataclasses.replace(case, model=dataclasses.replace(case.model, params=jax.device_put(case.model.params)))
    run = _loop(placed, device)

    def loop(seed: int) -> Arrays:
        with _precision(case.dtype, device):
            return run(seed)

    firsts = []
    with _empty_cache():
        for _ in range(2):
            jax.clear_caches()
            firsts.append(_first(loop))
            tick()
    with _precision(case.dtype, device):
        gradient, size = _gradient(placed)
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(placed.model.params))
    rise = peak_of(lambda: loop(0), device)
    tick()
    cold, cached = firsts
    peak = None if rise is None else max(rise + params, size)  # what a process has free already hides a small rise
    measurement = functools.partial(
        Measurement, case, cold=cold, cached=cached, work=_work(case), gradient_bytes=size, peak_bytes=peak
    )
    return [gradient, loop], measurement


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """A persistent compilation cache of its own, empty at first."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    options = {
        "jax_enable_compilation_cache": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in (*options, "jax_compilation_cache_dir")}
    with tempfile.TemporaryDirectory() as folder:
        try:
            reset_cache()
            for name, value in {**options, "jax_compilation_cache_dir": folder}.items():
                jax.config.update(name, value)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            reset_cache()


def _first(loop: Computation) -> First:
    began = time.perf_counter()
    with compile_seconds() as compiling:
        loop(0)
    return First(sum(compiling), time.perf_counter() - began)


def _loop(case: Case, device: jax.Device) -> Computation:
    """The whole run of a case, from a seed, waited for."""
    model, batch = case.model, case.batch
    shape = model.info.image_shape
    if case.task == "pgd":
        attacked = in_dtype(model, case.activations)
        originals = smooth_images(batch, shape)

        def attack(seed: int) -> Arrays:
            return attacks.pgd(
                jax.random.key(seed), attacked, originals, 0,
                epsilon=EPSILON, steps=case.steps, stop=False,
                on=Resources(devices=[device], chunk=batch),
            ).image  # fmt: skip

        return attack
    initial = smooth_images(batch, shape) if case.task in ("dream", "style") else None
    optimizer = optimizers.adam(0.02 if case.task in ("dream", "style") else 0.05)

    def optimize(seed: int) -> Arrays:
        solution = minimize(
            case.loss,
            model,
            image=images.by_name(case.parameterization),
            transform=transforms.by_name(case.transform),
            optimizer=optimizer,
            steps=case.steps,
            starts=batch,
            key=jax.random.key(seed),
            initial=initial,
            watch=Watch(every=CHECK_EVERY),
            on=Resources(devices=[device], chunk=batch, dtype=case.activations),
        )
        return jax.block_until_ready(solution.best_image)

    return optimize


def _total(case: Case) -> Callable[[Any, jax.Array], jax.Array]:
    """The sum of the batch's losses, as a function of parameters and images."""
    loss, taps = case.loss, case.loss.taps
    loss = targets.select(loss, 0) if any(targets.has_target_axis(loss)) else loss

    def total(params: Any, batch: jax.Array) -> jax.Array:
        activations = case.model.apply(params, batch.astype(case.activations), taps)
        activations = {tap: a.astype(jnp.float32) for tap, a in activations.items()}
        return jax.vmap(loss)(activations, batch).sum()

    return total


def _gradient(case: Case) -> tuple[Computation, int]:
    """The loss and its gradient by the images alone, compiled; and the bytes that the program takes."""
    params = cast(case.model.params, case.activations)
    batch = jnp.asarray(smooth_images(case.batch, case.model.info.image_shape))
    compiled = jax.jit(jax.value_and_grad(_total(case), argnums=1)).lower(params, batch).compile()
    analyzed: Any = compiled.memory_analysis()
    sizes = (analyzed.argument_size_in_bytes, analyzed.output_size_in_bytes, analyzed.temp_size_in_bytes)
    return lambda _: compiled(params, batch), sum(sizes)


def _work(case: Case) -> Work:
    image = jax.ShapeDtypeStruct((case.batch, *case.model.info.image_shape), jnp.float32)
    return gradient_work(_total(case), cast(case.model.params, case.activations), image)


def _often(function: Computation) -> Callable[[], float]:
    """A timer of seconds per call, over as many calls as take a while; each call has another seed."""

    def seconds(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            out = function(next(seeds))
        jax.block_until_ready(out)
        return (time.perf_counter() - began) / calls

    seeds = iter(range(1 << 31))
    seconds(1)
    calls = max(1, math.ceil(LEAST_SECONDS / seconds(1)))
    return lambda: seconds(calls)


def _ceiling(dtype: str, device: jax.Device) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two timers: operations per second of a large matrix product, bytes per second that a large copy moves."""
    side, size = _SIZES.get(device.platform, _LARGE)
    a = jnp.ones((side, side), DTYPES[dtype][0])
    with _precision(dtype, device):
        product = jax.jit(jnp.matmul).lower(a, a).compile()
    # In place: fresh pages would be timed as well, and a plain copy might be left out.
    negate = jax.jit(lambda x: -x, donate_argnums=0)
    x = jnp.zeros(size // a.dtype.itemsize, a.dtype)

    def copy(_: int) -> jax.Array:
        nonlocal x
        x = negate(x)
        return x

    multiply, move = _often(lambda _: product(a, a)), _often(copy)
    return lambda: 2 * side**3 / multiply(), lambda: 2 * size / move()
