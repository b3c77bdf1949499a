"""A run: the folder, the devices, the clock, the progress and the record of a command, in one place.

with Run.of(context) as run:
    run.write(page(recipe(run.model, ..., key=run.key, on=run.resources)))
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import jaxopt_input
from jaxopt_input.errors import InputError, InputWarning, printable
from jaxopt_input.runs.folder import DOCUMENT, Folder
from jaxopt_input.runs.html import html
from jaxopt_input.runs.options import arguments_of, check_finite, spec_of
from jaxopt_input.runs.progress import Metric, Metrics, Progress, compile_seconds, logger
from jaxopt_input.runs.spec import Spec, code

if TYPE_CHECKING:
    import jax

    from jaxopt_input.engine.lanes import Resources
    from jaxopt_input.models.model import Model
    from jaxopt_input.runs.page import Page

PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32"}
"""The names that JAX has for precisions of the command line."""
PATIENCE = 1.0  # seconds in which a run may hear of a signal by itself
OFTEN = 1.0  # seconds between two records while much is written


class Run:
    """A command while it runs; see `of`, `model`, `key`, `resources` and `write`.

    Attributes:
        context: the command's.
        spec: what it was asked to do.
        out: the folder.
    """

    def __init__(
        self, context: click.Context, out: Path, spec: Spec, arguments: dict[str, Any], whole: Run | None = None
    ) -> None:
        self.context, self.out, self.spec, self._whole = context, out, spec, whole
        self._options = dict(context.params)
        self._folder = Folder(out, whole is not None or bool(self._options.get("overwrite")))
        self._metrics = Metrics(out / "metrics.jsonl")
        self._lock, self._ending = threading.RLock(), False
        self._rows: list[dict[str, Any]] = []
        self._entries: dict[str, Any] = {}
        self._notes: list[str] = []
        self._alone, self._remedies = True, None  # type: tuple[bool, tuple[str, str] | None]
        self._written, self._next = False, 0.0
        self._compiling: list[float] = [] if whole is None else whole._compiling
        self._part: Run | None = None
        self.progress: Progress = Progress(self._report) if whole is None else whole.progress
        self._compiled = sum(self._compiling)  # before the run began
        self._begin = time.perf_counter()
        self._info: dict[str, Any] = {
            "command": spec.command,
            "arguments": arguments,
            "spec": spec.to_dict(),
            "version": jaxopt_input.__version__,
            "jax": None,
            "device": None,
            "code": code(),
            "seed": spec.seed,
            "model": {"name": spec.model, "sha256": None},
            "state": "running",
        }

    @classmethod
    def of(cls, context: click.Context) -> Run:
        """The run of a command that has `run_options`.

        Raises:
            click.UsageError: for a number that is not finite.
        """
        check_finite(context)
        return cls(context, context.params["out"], spec_of(context), arguments_of(context))

    def part(self, name: str, **options: Any) -> Run:
        """A run of its own in a sub-folder; `options`, by the names of the parameters, differ from this run's."""
        names = {parameter.name: parameter.opts[0].lstrip("-") for parameter in self.context.command.params}
        changed = {str(names[key]): value for key, value in options.items()}
        model = changed.get("model", self.spec.model)
        kept = {key: value for key, value in self.spec.options.items() if key not in changed}
        spec = dataclasses.replace(self.spec, model=model, options=kept)
        run = Run(self.context, self.out / name, spec, {**self._info["arguments"], **changed}, self)
        run._options |= options
        self._entries.setdefault("parts", []).append(name)
        self._written, self._part = True, run
        with self._lock:
            self._start()
            self._record()
        return run

    # ---- what a command uses -----------------------------------------------------------------------------------------

    @functools.cached_property
    def devices(self) -> Sequence[jax.Device]:
        """The local devices of the platform asked for."""
        import jax

        platform = self._options.get("device", "auto")
        try:
            return jax.local_devices(backend=None if platform == "auto" else platform)
        except RuntimeError as error:
            raise InputError(f"no {platform} to run on: {str(error).splitlines()[0]}") from error

    @functools.cached_property
    def model(self) -> Model:
        """The network of `--model`."""
        return self.record_model(self.load(self._options["model_name"]))

    def record_model(self, model: Model) -> Model:
        """Say in the record that a network is that of the run."""
        self._info["model"] = {"name": model.info.name, "sha256": model.info.sha256}
        return model

    def load(self, name: str) -> Model:
        """A network; in bfloat16 where that was asked for and the command has no `--dtype`."""
        from jaxopt_input import networks
        from jaxopt_input.models.model import in_dtype

        model = networks.load(name)
        if self._options.get("precision") == "bfloat16" and "dtype" not in self._options:
            return in_dtype(model, "bfloat16")
        return model

    @property
    def key(self) -> jax.Array:
        """The key of `--seed`."""
        import jax

        return jax.random.key(self._options.get("seed", 0))

    @property
    def dtype(self) -> str:
        """The type of the activations."""
        narrow = self._options.get("precision") == "bfloat16"
        return "bfloat16" if narrow else self._options.get("dtype", "float32")

    @functools.cached_property
    def memory(self) -> int:
        """Bytes that a device's share of the work may take: those of `--memory`, or half of what is free."""
        from jaxopt_input.engine.memory import free_bytes, parse_bytes

        text = self._options.get("memory")
        self._info["memory"] = parse_bytes(text) if text else free_bytes(self.devices) // 2
        return self._info["memory"]

    @property
    def resources(self) -> Resources:
        """What a recipe may use."""
        from jaxopt_input.engine.lanes import Resources

        return Resources(self.devices, self._options.get("chunk"), self.memory, self.dtype, self.progress)

    def stage(self, unit: str) -> Resources:
        """What a recipe may use that counts something else than steps, such as images."""
        return dataclasses.replace(self.resources, progress=self.progress.stage(unit))

    def write(self, page: Page) -> None:
        """Write a page, or a part of what the run shows, whose rows replace those of the same pictures."""
        self._written = True
        with self._lock:
            self._start()
            self._folder.writing = dict.fromkeys(page.items)
            self._record()
        for name, item in page.items.items():
            with self._lock:
                self._folder.save(name, item)
            if time.perf_counter() > self._next:
                self._record(page.rows)
        images = {row.get("image") for row in page.rows} - {None}
        self._rows = [*(row for row in self._rows if row.get("image") not in images), *page.rows]
        self._entries |= page.entries
        self._entries["evaluations"] = self._entries.get("evaluations", 0) + page.evaluations
        self._notes += page.notes
        self._warn(page.warnings)
        self._remedies = page.remedies or self._remedies
        self._alone = self._alone if page.alone is None else page.alone
        self._record()

    def _warn(self, lines: Sequence[str]) -> None:
        if lines:
            before = self._entries.get("warnings", [])
            self._entries["warnings"] = [*before, *(line for line in dict.fromkeys(lines) if line not in before)]

    def _hear(self, show: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
        """Record a warning of what the run was given; show others as they would be."""
        if issubclass(category, InputWarning):
            self._warn([str(message)])
        else:
            show(message, category, *where)

    def order(self, images: Sequence[str]) -> None:
        """Put the rows into the order of these pictures."""
        place = {name: n for n, name in enumerate(images)}
        self._rows.sort(key=lambda row: place.get(str(row.get("image")), len(place)))

    @property
    def failed(self) -> bool:
        """Whether there is no result that is alive and finite."""
        rows = self._rows
        return self._alone and bool(rows) and all(row.get("dead") or not row.get("finite", True) for row in rows)

    @property
    def failures(self) -> list[str]:
        """What is dead or not finite, with what to try."""
        from jaxopt_input.runs.page import REMEDIES, failures

        return failures([row for row in self._rows if "dead" in row and "finite" in row], self._remedies or REMEDIES)

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says."""
        compiling = sum(self._compiling) - self._compiled
        running = time.perf_counter() - self._begin - compiling
        seconds = {"compile": round(compiling, 3), "run": round(running, 3)}
        return {"evaluations": 0, **self._info, "results": self._rows, **self._entries, "seconds": seconds}

    # ---- the ceremony ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        self._stack = contextlib.ExitStack()
        self._folder.claim(self.info)
        try:
            self._prepare()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _prepare(self) -> None:
        enter = self._stack.enter_context
        if self._whole is None:
            enter(_stopping(self))  # first of all: to import JAX takes a second

        import jax

        self._info["jax"] = jax.__version__
        enter(warnings.catch_warnings())
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = functools.partial(self._hear, warnings.showwarning)
        if self._whole is not None:
            self._info["device"] = self._whole._info["device"]
            return
        keep_compiled(self.context)
        if self._options.get("max_pixels"):
            enter(_large_images(self._options["max_pixels"]))
        devices = self.devices
        self._info["device"] = f"{devices[0].platform} {devices[0].device_kind} x {len(devices)}"
        enter(jax.default_device(devices[0]))
        if precision := PRECISIONS.get(self._options.get("precision") or ""):
            enter(jax.default_matmul_precision(precision))
        self._log: Callable[[Metric], None] = lambda metric: None
        if self._options.get("log"):
            self._log, end = logger(self._options["log"], self.out, self.spec.to_dict())
            self._stack.callback(end)
        enter(self.progress)
        self._compiling = enter(compile_seconds(self.progress.compiles))

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        mistake = isinstance(error, InputError | OSError | click.UsageError)
        try:
            if error is None:
                failed = self.failed
                self._end("failed" if failed else "done", "; ".join(self.failures) if failed else None)
            elif not self._written and (mistake or not self._metrics.open):
                self._folder.release()
            else:
                with contextlib.suppress(OSError):
                    stopped = isinstance(error, KeyboardInterrupt)
                    self._end("failed", "stopped by SIGINT" if stopped else str(error) or type(error).__name__)
        finally:
            self._stack.close()
        if error is None and self._whole is None:
            self._tell()

    def _tell(self) -> None:
        """The last words of a command, on standard output and standard error."""
        for line in self._notes:
            click.echo("\n".join(map(printable, line.splitlines())))
        for line in (*self._entries.get("warnings", ()), *self.failures):
            click.echo(printable(f"jaxopt-input: {line}"), err=True)
        seconds = self.info["seconds"]
        click.echo(f"{seconds['compile']:.1f} s compiling, {seconds['run']:.1f} s running")
        click.echo(printable(f"open {self.out / DOCUMENT}"))
        if self.failed:
            self.context.exit(1)

    def _end(self, state: str, reason: str | None = None) -> None:
        with self._lock:
            self._start()
            self._folder.settle()
            self._info["state"] = state
            if reason:
                self._info["reason"] = reason
            self._folder.save(DOCUMENT, html({**self.info, "files": list(self._folder.files)}))
            self._record()

    def _start(self) -> None:
        """Take the place of an earlier run, and begin to write the numbers of each step."""
        self._folder.begin(self.info)
        if self._whole is None:
            self._metrics.flush()
            self._folder.add("metrics.jsonl")

    def _record(self, rows: Sequence[dict[str, Any]] = ()) -> None:
        """Write `run.json`, with those of some further rows whose pictures are there."""
        begin, files = time.perf_counter(), self._folder.files
        with self._lock:
            there = [row for row in rows if row.get("image") in files]
            self._folder.record({**self.info, "results": [*self._rows, *there]})
        end = time.perf_counter()
        self._next = end + max(OFTEN, 20 * (end - begin))  # a long record is not written at every picture

    def _report(self, metric: Metric) -> None:
        if self._folder.begun and not self._metrics.open:
            self._start()
        self._metrics(metric)
        self._log(metric)
        if self._folder.begun and time.perf_counter() > self._next + 9 * OFTEN:
            self._record()

    def abandon(self, reason: str) -> None:
        """Bring the folder into order in the midst of the work, from any thread."""
        if not self._lock.acquire(timeout=PATIENCE) or self._ending:
            return
        self._ending = True
        if self._part is not None:
            self._part.abandon(reason)
        with contextlib.suppress(OSError):
            if self._written or self._metrics.open:
                self._end("failed", reason)
                reason += f"; how far it came is in {self.out}"
            else:
                self._folder.release()
        if self._whole is None:
            os.write(2, f"jaxopt-input: {reason}\n".encode(errors="replace"))  # the buffer may be in use


@contextlib.contextmanager
def _stopping(run: Run) -> Iterator[None]:
    """Inside the block SIGTERM ends the process as it does elsewhere, but with the folder in order.

    Python hears of a signal between two of its own instructions only, so a thread waits for it as well.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # within a program that has a mind of its own
        return
    arrived = threading.Event()

    def stop(number: int, _: Any) -> None:
        arrived.set()
        run.abandon(f"stopped by {signal.Signals(number).name}")
        os._exit(128 + number)

    def watch() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGTERM and not arrived.wait(PATIENCE):
                stop(number[0], None)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, stop)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


@contextlib.contextmanager
def _large_images(pixels: int) -> Iterator[None]:
    """Inside the block Pillow reads images of up to so many pixels, and no fewer than before."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = before and max(before, -(-pixels // 2))  # it warns there, and refuses twice that
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def keep_compiled(context: click.Context) -> None:
    """Do as `--cache` and `--verbose` say; a folder that cannot be written or read costs time, not the run.

    JAX's own switch, JAX_ENABLE_COMPILATION_CACHE, goes before.
    """
    import jax

    from jaxopt_input.runs.cache import compilation_cache

    root, switch = context.find_root(), "jax_enable_compilation_cache"
    text = "compiled programs are not kept"
    if not root.params.get("cache", True):
        root.call_on_close(functools.partial(jax.config.update, switch, getattr(jax.config, switch)))
        jax.config.update(switch, False)  # also where JAX's own variable names a folder
    elif root.params.get("cache") and getattr(jax.config, switch):
        try:
            text = f"compiled programs are kept in {compilation_cache()}"
        except InputError as error:
            text = str(error).replace("choose another folder", "this run does without")
    if root.params.get("verbose"):
        click.echo(f"jaxopt-input: {text}", err=True)
    else:
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
