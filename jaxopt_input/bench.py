"""Measuring: how fast gradients and whole loops run, what they take, and how near that is to what the device can do.

    plan ─► cases ─compile: cold, cached─► rounds: every case and both ceilings once each ─► medians and quartiles

A case is a task of a model at a batch and a dtype. In every round each case runs once, so that what else the machine
does meets all of them alike. Nothing here asks what the device is: results are waited for, not traced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import attacks, images, losses, optimizers, targets, transforms
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.flops import Work, gradient_work
from jaxopt_input.losses import Loss
from jaxopt_input.model import Apply, Model, cast
from jaxopt_input.optimize import minimize
from jaxopt_input.recipes.style_settings import default_layers, settle
from jaxopt_input.recipes.style_terms import content_loss, style_loss, variation_loss
from jaxopt_input.recipes.target import expand, objective
from jaxopt_input.report.run import compile_seconds

TASKS = ("class", "unit", "dream", "style", "pgd")
DTYPES = ("float32", "bfloat16")
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
    """A case's first run in a fresh process, imports and weights left out.

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
        work: of one image's gradient, see `flops.gradient_work`.
        program_bytes: what the compiled gradient takes, parameters and images included.
        peak_bytes: the most that the device had held when the case first ran, in this process, which runs smaller
            batches first; None where a device does not say (a CPU).
    """

    case: Case
    gradient: Spread
    loop: Spread
    cold: First
    cached: First
    work: Work
    program_bytes: int
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
    """What `measure` found: the measurements in the order of the cases, and the ceiling of each dtype."""

    measurements: tuple[Measurement, ...]
    ceilings: Mapping[str, Ceiling]


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
    - "unit": channel 0 of a layer of middle size at the centre of its map, in the same setting.
    - "dream": the mean square of that layer on pixels, with jitter.
    - "style": Gram matrices, content and total variation in the default layers of `stylize`, on pixels by Adam.
    - "pgd": the attack at ε = 8/255 in L∞, which never stops early.

    Args:
        models: the networks, each at its own image size.
        tasks: some of `TASKS`.
        batches: images at once, at least 1 each.
        dtypes: of parameters and activations, "float32" or "bfloat16".
        steps: of the whole loop, at least 1.
        target: in place of class 0 or channel 0, as `visualize` takes it.
        parameterization, transform: by name, in place of the task's own; an attack has neither.

    Raises:
        InputError: for an unknown task, dtype, target or name, numbers below 1, or a network that a task does not suit.

    Example:
        >>> import jaxopt_input as joi
        >>> cases = plan([joi.load("tin100")], tasks=["class", "pgd"], batches=[1, 8])
        >>> [(case.task, case.batch, case.parameterization) for case in cases]
        [('class', 1, 'fourier'), ('class', 8, 'fourier'), ('pgd', 1, 'pixels'), ('pgd', 8, 'pixels')]
    """
    if not (models and tasks and batches and dtypes):
        raise InputError("nothing to measure: give at least one model, task, batch and dtype")
    for what, given, known in (("task", tasks, TASKS), ("dtype", dtypes, DTYPES)):
        for name in given:
            if name not in known:
                raise unknown(what, name, known)
    for what, numbers in (("steps", [steps]), ("a batch", batches)):
        for number in numbers:
            if isinstance(number, bool) or number != int(number) or number < 1:
                raise InputError(f"{what} must be a whole number, at least 1, not {number!r}")
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
    """What the task minimises."""
    shape = model.info.image_shape
    if task == "pgd":
        return -losses.cross_entropy(0)
    if target is not None and task in ("class", "unit"):
        return objective(expand(target, model), "default")
    if task == "class":
        return -(losses.class_logit(0) + losses.class_log_probability(0))
    style_layers, (content_layer,) = default_layers(model, shape)
    if task == "unit":
        return objective(expand(f"{content_layer}:0@centre", model), "default")
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
    """Images of coloured blobs in [0, 1], `[count, H, W, C]`: what they show makes no difference to time and memory.

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
    temporary folder, empty and then filled, whether or not the process has one of its own.

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
        (2, 36, True)
    """
    if not cases or repeats < 1:
        raise InputError(f"nothing to measure: {len(cases)} cases, {repeats} repeats")
    device = device or jax.local_devices()[0]
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    done, total = 0, (3 + repeats) * len(cases) + repeats * len(dtypes)

    def tell() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total)

    with jax.default_device(device):
        loops = [_loop(case, device) for case in cases]
        peaks: list[int | None] = [None for _ in cases]
        with _empty_cache():
            firsts: list[list[First]] = [[], []]
            for found in firsts:  # cold, then cached
                for n, loop in enumerate(loops):
                    jax.clear_caches()
                    found.append(_first(loop))
                    if peaks[n] is None:
                        peaks[n] = (device.memory_stats() or {}).get("peak_bytes_in_use")
                    tell()
            gradients = [_gradient(case) for case in cases]
            for loop in loops:
                loop(0)
                tell()
        ceilings = {dtype: _ceiling(dtype, device) for dtype in dtypes}
        runs = [(_often(gradient), _often(loop)) for (gradient, _), loop in zip(gradients, loops, strict=True)]
        seconds: list[tuple[list[float], list[float]]] = [([], []) for _ in cases]
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
    measurements = tuple(
        Measurement(case, Spread(tuple(alone)), Spread(tuple(inside)), cold, cached, _work(case), program, peak)
        for case, (alone, inside), cold, cached, (_, program), peak in zip(
            cases, seconds, *firsts, gradients, peaks, strict=True
        )
    )
    return Report(measurements, {d: Ceiling(Spread(tuple(p)), Spread(tuple(c))) for d, (p, c) in limits.items()})


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


@dataclasses.dataclass(frozen=True)
class _InDtype:
    """A network whose activations have another dtype: attacks leave it to the model."""

    apply: Apply
    dtype: str

    def __call__(self, params: Any, image: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        return self.apply(params, image.astype(self.dtype), taps)


def _loop(case: Case, device: jax.Device) -> Callable[[int], Any]:
    """The whole run of a case, from a seed, waited for."""
    model, batch = case.model, case.batch
    shape = model.info.image_shape
    if case.task == "pgd":
        attacked = dataclasses.replace(
            model, apply=_InDtype(model.apply, case.dtype), params=cast(model.params, case.dtype)
        )
        originals = smooth_images(batch, shape)

        def attack(seed: int) -> Any:
            return attacks.pgd(
                jax.random.key(seed), attacked, originals, 0,
                epsilon=EPSILON, steps=case.steps, stop=False, chunk=batch, devices=[device],
            ).image  # fmt: skip

        return attack
    initial = smooth_images(batch, shape) if case.task in ("dream", "style") else None
    optimizer = optimizers.adam(0.02 if case.task in ("dream", "style") else 0.05)

    def optimise(seed: int) -> Any:
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
            dtype=case.dtype,
            chunk=batch,
            check_every=CHECK_EVERY,
            devices=[device],
        )
        return jax.block_until_ready(solution.best_image)

    return optimise


def _total(case: Case) -> Callable[[Any, jax.Array], jax.Array]:
    """The sum of the batch's losses, as a function of parameters and images."""
    loss, taps = case.loss, case.loss.taps
    loss = targets.select(loss, 0) if any(targets.has_target_axis(loss)) else loss

    def total(params: Any, batch: jax.Array) -> jax.Array:
        activations = case.model.apply(params, batch.astype(case.dtype), taps)
        activations = {tap: a.astype(jnp.float32) for tap, a in activations.items()}
        return jax.vmap(loss)(activations, batch).sum()

    return total


def _gradient(case: Case) -> tuple[Callable[[int], Any], int]:
    """The loss and its gradient by the images alone, compiled; and the bytes that the program takes."""
    params = cast(case.model.params, case.dtype)
    batch = jnp.asarray(smooth_images(case.batch, case.model.info.image_shape))
    compiled = jax.jit(jax.value_and_grad(_total(case), argnums=1)).lower(params, batch).compile()
    analysed: Any = compiled.memory_analysis()
    sizes = (analysed.argument_size_in_bytes, analysed.output_size_in_bytes, analysed.temp_size_in_bytes)
    return lambda _: compiled(params, batch), sum(sizes)


def _work(case: Case) -> Work:
    image = jax.ShapeDtypeStruct((1, *case.model.info.image_shape), jnp.float32)
    return gradient_work(_total(case), cast(case.model.params, case.dtype), image)


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
    a = jnp.ones((side, side), dtype)
    x = jnp.zeros(size // a.dtype.itemsize, dtype)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: -x)  # a plain copy might be left out
    multiply, move = _often(lambda _: product(a, a)), _often(lambda _: copy(x))
    return lambda: 2 * side**3 / multiply(), lambda: 2 * size / move()


# ---- what to show ----------------------------------------------------------------------------------------------------


def saturation(report: Report) -> dict[tuple[str, str, str], int]:
    """For each (model, task, dtype) the smallest batch whose loop reaches 95 % of the best throughput.

    Example:
        >>> saturation(Report((), {}))
        {}
    """
    rates: dict[tuple[str, str, str], dict[int, float]] = {}
    for m in report.measurements:
        group = (m.case.model.info.name, m.case.task, m.case.dtype)
        rates.setdefault(group, {})[m.case.batch] = m.image_steps.median
    return {
        group: min(batch for batch, rate in found.items() if rate >= NEAR * max(found.values()))
        for group, found in rates.items()
    }


def as_rows(report: Report) -> list[dict[str, Any]]:
    """The measurements as plain numbers, for JSON: rates a second, seconds, bytes and fractions of the ceilings.

    Example:
        >>> as_rows(Report((), {}))
        []
    """
    saturated, rows = saturation(report), []
    for m in report.measurements:
        case, ceiling = m.case, report.ceilings[m.case.dtype]
        name = case.model.info.name
        flops, moved = (m.gradients.median * each for each in (m.work.flops, m.work.bytes))
        rows.append(
            {
                "model": name,
                "task": case.task,
                "batch": case.batch,
                "dtype": case.dtype,
                "steps": case.steps,
                "parameterization": case.parameterization,
                "transform": case.transform,
                "gradients_per_second": _spread(m.gradients),
                "image_steps_per_second": _spread(m.image_steps),
                "compile_seconds": {"cold": round(m.cold.compile, 3), "cached": round(m.cached.compile, 3)},
                "first_picture_seconds": {"cold": round(m.cold.picture, 3), "cached": round(m.cached.picture, 3)},
                "program_bytes": m.program_bytes,
                "peak_bytes": m.peak_bytes,
                "flops_per_gradient": m.work.flops,
                "bytes_per_gradient": m.work.bytes,
                "flops_per_second": _rounded(flops),
                "fraction_of_product": _rounded(flops / ceiling.flops.median),
                "fraction_of_copy": _rounded(moved / ceiling.bytes.median),
                "saturated": case.batch >= saturated[name, case.task, case.dtype],
            }
        )
    return rows


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
    head = (
        f"{'model':<12} {'task':<5} {'dtype':<8} {'batch':>6}  {'gradients/s':>26}  {'image-steps/s':>26}"
        f"  {'compile, s':>12}  {'picture, s':>12}  {'MiB':>7}  {'GFLOP/s':>8}  {'product':>7}  {'copy':>6}"
    )
    lines, points = [head], saturation(report)
    for m, row in zip(report.measurements, as_rows(report), strict=True):
        name = row["model"], row["task"], row["dtype"]
        batch = f"{row['batch']}{'*' if points[name] == row['batch'] else ' '}"
        taken = max(m.program_bytes, m.peak_bytes or 0) / 2**20
        seconds = [f"{m.cold.compile:.1f} {m.cached.compile:.1f}", f"{m.cold.picture:.1f} {m.cached.picture:.1f}"]
        lines.append(
            f"{name[0]:<12} {name[1]:<5} {name[2]:<8} {batch:>6}  {_told(m.gradients):>26}  {_told(m.image_steps):>26}"
            f"  {seconds[0]:>12}  {seconds[1]:>12}"
            f"  {taken:>7.0f}  {row['flops_per_second'] / 1e9:>8.1f}  {row['fraction_of_product']:>7.1%}"
            f"  {row['fraction_of_copy']:>6.1%}"
        )
    for dtype, c in report.ceilings.items():
        lines.append(
            f"{dtype}: matrix product {c.flops.median / 1e9:.1f} GFLOP/s, copy {c.bytes.median / 1e9:.1f} GB/s"
        )
    return "\n".join(lines)


def curves(report: Report) -> dict[str, list[tuple[int, float, float, float]]]:
    """What to plot: for each model, task and dtype (batch, median, lower and upper quartile) of image-steps a second.

    Example:
        >>> curves(Report((), {}))
        {}
    """
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for m in report.measurements:
        name = f"{m.case.model.info.name} {m.case.task} {m.case.dtype}"
        found.setdefault(name, []).append((m.case.batch, m.image_steps.median, *m.image_steps.quartiles))
    return found


def _spread(spread: Spread) -> dict[str, Any]:
    low, high = spread.quartiles
    return {"median": _rounded(spread.median), "quartiles": [_rounded(low), _rounded(high)]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _told(spread: Spread) -> str:
    low, high = spread.quartiles
    return f"{spread.median:.4g} ({low:.4g} to {high:.4g})"
