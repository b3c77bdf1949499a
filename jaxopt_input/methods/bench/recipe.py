"""Measuring: how fast gradients and whole loops run, what they take, and how near that is to what the device can do.

    plan ─► cases ─compile: cold, cached─► rounds: every case and both ceilings once each ─► medians and quartiles

A case is a task of a model at a batch and a dtype. In every round each case runs once, so that what else the machine
does meets all of them alike. Results are waited for, not traced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import attacks, images, losses, optimizers, targets, transforms
from jaxopt_input.checks import count
from jaxopt_input.engine.memory import peak_of
from jaxopt_input.engine.minimize import minimize
from jaxopt_input.engine.target import expand, objective
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.losses import Loss
from jaxopt_input.methods.style.settings import default_layers, settle
from jaxopt_input.methods.style.terms import content_loss, style_loss, variation_loss
from jaxopt_input.models.flops import Work, gradient_work
from jaxopt_input.models.model import Model, cast, in_dtype
from jaxopt_input.runs.writer import compile_seconds

TASKS = ("class", "unit", "dream", "style", "pgd")
DTYPES = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": None}
"""Of a case, and the precision of its products as JAX names it; a CPU knows one only."""
CHECK_EVERY = 16  # steps between two checks of the untransformed loss, as in a run of the default 256
EPSILON = 8 / 255
LEAST_SECONDS = 0.2  # that one measurement takes: shorter calls are repeated
NEAR = 0.95  # of the best throughput: saturated
_SIDES = {"cpu": 2048}  # of the matrices whose product is a ceiling; elsewhere:
_SIDE, _COPY = 8192, {"cpu": 1 << 28}
_COPIED = 1 << 30  # bytes


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured: see `plan`."""

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
        """Their dtype, and that of the parameters."""
        return _stored(self.dtype)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Several measurements of one number."""

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
        flops: a second, of a large matrix product.
        bytes: a second, read and written by a large copy.
    """

    flops: Spread
    bytes: Spread


@dataclasses.dataclass(frozen=True)
class First:
    """A case's first run when nothing compiled is remembered; imports, weights and the device's start left out.

    Attributes:
        compile: seconds that JAX traced, lowered and compiled.
        picture: seconds until the first images were there.
    """

    compile: float
    picture: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of a case.

    Attributes:
        case: which.
        gradient: seconds of the loss and its gradient by the whole batch of images, compiled alone.
        loop: seconds of the whole run: `minimize`, or the attack.
        cold, cached: first runs without and with a filled persistent compilation cache.
        work: of the batch's gradient, see `flops.gradient_work`.
        gradient_bytes: what the compiled gradient takes, parameters and images included.
        peak_bytes: what the whole run takes, parameters included, see `memory.peak_of`, and at least what its gradient
            does; None where nothing tells.
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
        """Gradients of one image a second."""
        return self.gradient.map(lambda seconds: self.case.batch / seconds)

    @property
    def image_steps(self) -> Spread:
        """Images times steps a second, in the whole loop."""
        return self.loop.map(lambda seconds: self.case.batch * self.case.steps / seconds)


@dataclasses.dataclass(frozen=True)
class Report:
    """What `measure` found.

    Attributes:
        measurements: in the order of the cases.
        ceilings: of each dtype.
        failures: the cases that the device had too little memory for, and what it said.
    """

    measurements: tuple[Measurement, ...]
    ceilings: Mapping[str, Ceiling]
    failures: tuple[tuple[Case, str], ...] = ()


def plan(
    models: Sequence[Model],
    *,
    tasks: Sequence[str] = TASKS,
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
        batches: images at once, at least 1 each.
        dtypes: some of `DTYPES`: float32, the same with products in TF32, or bfloat16 parameters and activations.
        steps: of the whole loop, at least 1.
        target: in place of class 0 or channel 0, as `visualize` takes it.
        parameterization, transform: by name, in place of the task's own; an attack has neither.

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
    for what, given, known in (("task", tasks, TASKS), ("dtype", dtypes, tuple(DTYPES))):
        for name in given:
            if name not in known:
                raise unknown(what, name, known)
    for what, numbers in (("steps", [steps]), ("a batch", batches)):
        for number in numbers:
            count(what, number)
    for name in (names := [model.info.name for model in models]):
        if names.count(name) > 1:
            raise InputError(f"two models are named {name!r}: give each a name of its own, such as from_*(…, name=)")
    if "pgd" in tasks and (parameterization or transform):
        raise InputError("pgd moves pixels without a transform: leave it out, or parameterization and transform")
    images.by_name(parameterization or "pixels"), transforms.by_name(transform or "none")
    cases = []
    for model in models:
        for task in dict.fromkeys(tasks):
            own = {"class": ("fourier", "lucid"), "unit": ("fourier", "lucid"), "dream": ("pixels", "jitter")}
            image, view = own.get(task, ("pixels", "none"))
            loss = _loss(model, task, target)
            loss.check(model.layers())
            if targets.count(loss) > 1:
                raise InputError(f"one target is measured, not {targets.count(loss)}: name one instead of {target}")
            setting = (int(steps), loss, parameterization or image, transform or view)
            cases += [
                Case(model, task, int(batch), dtype, *setting)
                for dtype in dict.fromkeys(dtypes)
                for batch in sorted(dict.fromkeys(batches))
            ]
    return cases


def _loss(model: Model, task: str, target: str | None) -> Loss:
    """What the task minimizes."""
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
    content, style = smooth_images(2, shape)
    settings = settle("default", {})
    taps = (*style_layers, content_layer)
    seen = [
        {tap: np.asarray(map_[0]) for tap, map_ in model.activations(image[None], taps).items()}
        for image in (content, style)
    ]
    features = {layer: seen[1][layer] for layer in style_layers}
    loss = style_loss(features, model.layers(), settings, dict.fromkeys(style_layers, 1.0), jax.random.key(0))
    loss = loss + content_loss({content_layer: seen[0][content_layer]}, settings)
    return loss + variation_loss(shape, settings)


def smooth_images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of colored blobs in [0, 1], `[count, H, W, C]`: what they show makes no difference to time and memory.

    Example:
        >>> smooth_images(2, (32, 48, 3)).shape
        (2, 32, 48, 3)
    """
    height, width, channels = shape
    coarse = jax.random.uniform(jax.random.key(0), (count, max(2, height // 16), max(2, width // 16), channels))
    return np.asarray(jnp.clip(jax.image.resize(coarse, (count, *shape), "cubic"), 0, 1), np.float32)


def measure(
    cases: Sequence[Case],
    *,
    repeats: int = 5,
    device: jax.Device | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Run cases in turns, with the device's ceilings in every round.

    What JAX has compiled in this process is forgotten first. First runs are timed with a compilation cache in a
    temporary folder of the case's own, empty and then filled, whether or not the process has one.

    Args:
        cases: of `plan`.
        repeats: rounds, at least 1.
        device: to run on; the first if None.
        on_progress: called as (runs done, runs in all).

    Raises:
        InputError: if there is no case or no repeat.

    Example:
        >>> import jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(8, 8, 3), taps=("logits",))
        >>> report = measure(plan([model], tasks=["class"], batches=[2], steps=2), repeats=2)
        >>> found = report.measurements[0]
        >>> len(found.image_steps.values), found.work.flops, found.cold.picture > 0
        (2, 72, True)
    """
    if not cases or repeats < 1:
        raise InputError(f"nothing to measure: {len(cases)} cases, {repeats} repeats")
    device = device or jax.local_devices()[0]
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    done, total = 0, (3 + repeats) * len(cases) + repeats * len(dtypes)

    def tell(steps: int = 1) -> None:
        nonlocal done
        done += steps
        if on_progress:
            on_progress(done, total)

    ready: list[_Ready] = []
    failures: list[tuple[Case, str]] = []
    with jax.default_device(device):
        # Small ones first: a device tells only the highest peak it has seen.
        for case in sorted(cases, key=lambda case: case.batch):
            try:
                ready.append(_prepare(case, device, tell))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                failures.append((case, str(error).splitlines()[0]))
        ready.sort(key=lambda one: next(n for n, case in enumerate(cases) if case is one.case))
        ceilings = {dtype: _ceiling(dtype, device) for dtype in dtypes}
        runs = [(_often(one.gradient), _often(one.loop)) for one in ready]
        seconds: list[tuple[list[float], list[float]]] = [([], []) for _ in ready]
        limits: dict[str, tuple[list[float], list[float]]] = {dtype: ([], []) for dtype in dtypes}
        for _ in range(repeats):
            for (bare, whole), kept in zip(runs, seconds, strict=True):
                kept[0].append(bare())
                kept[1].append(whole())
                tell()
            for dtype, (product, copy) in ceilings.items():
                limits[dtype][0].append(product())
                limits[dtype][1].append(copy())
                tell()
    if failures and on_progress:
        on_progress(total, total)
    measurements = tuple(
        Measurement(
            one.case, Spread(tuple(alone)), Spread(tuple(inside)), one.cold, one.cached, _work(one.case),
            one.gradient_bytes, one.peak_bytes,
        )
        for one, (alone, inside) in zip(ready, seconds, strict=True)
    )  # fmt: skip
    found = {dtype: Ceiling(Spread(tuple(p)), Spread(tuple(c))) for dtype, (p, c) in limits.items()}
    return Report(measurements, found, tuple(failures))


class _Ready(NamedTuple):
    """A case that is compiled, and what was learned meanwhile."""

    case: Case
    gradient: Callable[[int], Any]
    loop: Callable[[int], Any]
    cold: First
    cached: First
    gradient_bytes: int
    peak_bytes: int | None


def _prepare(case: Case, device: jax.Device, tell: Callable[[], None]) -> _Ready:
    """Run a case for the first time, without and with a filled cache, and once more for its peak."""
    placed = dataclasses.replace(case, model=dataclasses.replace(case.model, params=jax.device_put(case.model.params)))
    precision = DTYPES[case.dtype] if device.platform != "cpu" else None

    def precise(function: Callable[[int], Any]) -> Callable[[int], Any]:
        def run(seed: int) -> Any:
            with jax.default_matmul_precision(precision):
                return function(seed)

        return run

    loop = precise(_loop(placed, device))
    firsts = []
    with _empty_cache():
        for _ in range(2):
            jax.clear_caches()
            firsts.append(_first(loop))
            tell()
    with jax.default_matmul_precision(precision):
        gradient, size = _gradient(placed)
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(placed.model.params))
    rise = peak_of(lambda: loop(0), device)
    tell()
    cold, cached = firsts
    peak = None if rise is None else max(rise + params, size)  # what a process has free already hides a small rise
    return _Ready(case, gradient, loop, cold, cached, size, peak)


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


def _first(loop: Callable[[int], Any]) -> First:
    began = time.perf_counter()
    with compile_seconds() as compiling:
        loop(0)
    return First(sum(compiling), time.perf_counter() - began)


def _loop(case: Case, device: jax.Device) -> Callable[[int], Any]:
    """The whole run of a case, from a seed, waited for."""
    model, batch = case.model, case.batch
    shape = model.info.image_shape
    if case.task == "pgd":
        attacked = in_dtype(model, case.activations)
        originals = smooth_images(batch, shape)

        def attack(seed: int) -> Any:
            return attacks.pgd(
                jax.random.key(seed), attacked, originals, 0,
                epsilon=EPSILON, steps=case.steps, stop=False, chunk=batch, devices=[device],
            ).image  # fmt: skip

        return attack
    initial = smooth_images(batch, shape) if case.task in ("dream", "style") else None
    optimizer = optimizers.adam(0.02 if case.task in ("dream", "style") else 0.05)

    def optimize(seed: int) -> Any:
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
            dtype=case.activations,
            chunk=batch,
            check_every=CHECK_EVERY,
            devices=[device],
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


def _gradient(case: Case) -> tuple[Callable[[int], Any], int]:
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


def _stored(dtype: str) -> str:
    """How the numbers of a case's dtype lie in memory."""
    return "bfloat16" if dtype == "bfloat16" else "float32"


def _often(function: Callable[[int], Any]) -> Callable[[], float]:
    """Seconds a call, over as many calls as take a while; seeds go on from measurement to measurement."""

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
    """Two measurements: FLOP/s of a large matrix product, and bytes a second, read and written, of a large copy."""
    side = _SIDES.get(device.platform, _SIDE)
    size = _COPY.get(device.platform, _COPIED)
    a = jnp.ones((side, side), _stored(dtype))
    with jax.default_matmul_precision(DTYPES[dtype] if device.platform != "cpu" else None):
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


# ---- what to show ----------------------------------------------------------------------------------------------------


Group = tuple[str, str, str]  # (model, task, dtype)


def saturation(report: Report) -> dict[Group, int]:
    """For each (model, task, dtype) the smallest batch whose loop reaches 95 % of the best throughput.

    Those are left out whose throughput still rises at their largest batch, or that have one batch alone.

    Example:
        >>> saturation(Report((), {}))
        {}
    """
    rates: dict[Group, dict[int, float]] = {}
    for m in report.measurements:
        rates.setdefault(_group(m.case), {})[m.case.batch] = m.image_steps.median
    near = {
        group: min(batch for batch, rate in found.items() if rate >= NEAR * max(found.values()))
        for group, found in rates.items()
    }
    return {group: batch for group, batch in near.items() if batch < max(rates[group])}


def _group(case: Case) -> Group:
    return case.model.info.name, case.task, case.dtype


def as_rows(report: Report) -> list[dict[str, Any]]:
    """The measurements as plain numbers, for JSON: rates a second, seconds, bytes and fractions of the ceilings.

    Work and bytes moved are those of one image; the weights are read once a batch. What failed comes last.

    Example:
        >>> as_rows(Report((), {}))
        []
    """
    saturated, rows = saturation(report), []
    for m in report.measurements:
        case, ceiling = m.case, report.ceilings[m.case.dtype]
        flops, moved = (each / m.gradient.median for each in (m.work.flops, m.work.bytes))
        rows.append(
            {
                **_named(case),
                "gradients_per_second": _spread(m.gradients),
                "image_steps_per_second": _spread(m.image_steps),
                "compile_seconds": {"cold": round(m.cold.compile, 3), "cached": round(m.cached.compile, 3)},
                "first_picture_seconds": {"cold": round(m.cold.picture, 3), "cached": round(m.cached.picture, 3)},
                "gradient_bytes": m.gradient_bytes,
                "peak_bytes": m.peak_bytes,
                "flops_per_gradient": m.work.flops // case.batch,
                "bytes_per_gradient": m.work.bytes // case.batch,
                "flops_per_second": _rounded(flops),
                "fraction_of_product": _rounded(flops / ceiling.flops.median),
                "fraction_of_copy": _rounded(moved / ceiling.bytes.median),
                "saturated": case.batch >= saturated.get(_group(case), math.inf),
            }
        )
    return rows + [{**_named(case), "failed": message} for case, message in report.failures]


def _named(case: Case) -> dict[str, Any]:
    settings = ("task", "batch", "dtype", "steps", "parameterization", "transform")
    return {"model": case.model.info.name, **{name: getattr(case, name) for name in settings}}


def ceilings(report: Report) -> dict[str, Any]:
    """The ceilings as plain numbers, for JSON: of each dtype, FLOP and bytes a second.

    Example:
        >>> ceilings(Report((), {}))
        {}
    """
    return {
        dtype: {"flops_per_second": _spread(c.flops), "bytes_per_second": _spread(c.bytes)}
        for dtype, c in report.ceilings.items()
    }


def table(report: Report) -> str:
    """The measurements as lines of text, medians and quartiles; `*` marks the batch from which throughput is saturated.

    Example:
        >>> table(Report((), {})).split()[:4]
        ['model', 'task', 'dtype', 'batch']
    """
    head = ("model", "task", "dtype", "batch", "gradients/s", "image-steps/s", "compile, s", "picture, s")
    lines, points = [(*head, "gradient MiB", "peak MiB", "GFLOP/s", "product", "copy")], saturation(report)
    for m, row in zip(report.measurements, as_rows(report), strict=False):
        group = _group(m.case)
        lines.append(
            (
                *group,
                f"{m.case.batch}{'*' if points.get(group) == m.case.batch else ' '}",
                _told(m.gradients),
                _told(m.image_steps),
                f"{m.cold.compile:.1f} {m.cached.compile:.1f}",
                f"{m.cold.picture:.1f} {m.cached.picture:.1f}",
                f"{m.gradient_bytes / 2**20:.0f}",
                "-" if m.peak_bytes is None else f"{m.peak_bytes / 2**20:.0f}",
                f"{row['flops_per_second'] / 1e9:.1f}",
                f"{row['fraction_of_product']:.1%}",
                f"{row['fraction_of_copy']:.1%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
        return "  ".join([*aligned, *(cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True))])

    told = [line(cells).rstrip() for cells in lines]
    told += [f"{' '.join(_group(case))} {case.batch}: {message}" for case, message in report.failures]
    for dtype, c in report.ceilings.items():
        told.append(f"{dtype}: matrix product {c.flops.median / 1e9:.1f} GFLOP/s, copy {c.bytes.median / 1e9:.1f} GB/s")
    return "\n".join(told)


def curves(report: Report) -> dict[Group, list[tuple[int, float, float, float]]]:
    """What to plot: for each model, task and dtype (batch, median, lower and upper quartile) of image-steps a second.

    Example:
        >>> curves(Report((), {}))
        {}
    """
    found: dict[Group, list[tuple[int, float, float, float]]] = {}
    for m in report.measurements:
        found.setdefault(_group(m.case), []).append((m.case.batch, m.image_steps.median, *m.image_steps.quartiles))
    return found


def _spread(spread: Spread) -> dict[str, Any]:
    low, high = spread.quartiles
    return {"median": _rounded(spread.median), "quartiles": [_rounded(low), _rounded(high)]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _told(spread: Spread) -> str:
    low, high = spread.quartiles
    return f"{spread.median:.4g} ({low:.4g} to {high:.4g})"
