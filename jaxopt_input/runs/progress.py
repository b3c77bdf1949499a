"""How far a run is: a bar on a terminal, a line a minute elsewhere, and the numbers of each step in files."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxopt_input.errors import InputError

MINUTE = 60.0  # seconds between two lines where standard error is no terminal
LOGS = {
    "tensorboard": (("tensorboardX", "torch.utils.tensorboard"), "tensorboardX"),
    "wandb": (("wandb",), "wandb"),
}  # the modules that can do it, and what to install

Metric = dict[str, Any]


@contextlib.contextmanager
def compile_seconds(changed: Callable[[bool], None] | None = None) -> Iterator[list[float]]:
    """Collects the seconds that JAX spends on tracing, lowering and compiling inside the block.

    Args:
        changed: called with True when something begins to be compiled, and with False once it is.
    """
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            seconds.append(duration_secs)
            if changed:
                changed(not event.endswith("backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class Progress:
    """What a computation calls with (done, in all) and, where there is one, the mean loss.

    Attributes:
        report: called with the numbers of each call.
    """

    def __init__(self, report: Callable[[Metric], None]) -> None:
        self.report, self.unit = report, "step"
        self.state, self.compiling = "", False
        self.begin = time.perf_counter()
        self._terminal, self._bar = sys.stderr.isatty(), None
        self._end = threading.Event()

    def __enter__(self) -> Progress:
        if self._terminal:
            from tqdm import tqdm

            self._bar = tqdm(total=1, unit=self.unit, leave=False)
        else:
            threading.Thread(target=self._lines, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        if self._bar is not None:
            self._bar.close()

    def stage(self, unit: str) -> Progress:
        """Begin to count something else, such as images."""
        self.unit, self.state = unit, ""
        if self._bar is not None:
            self._bar.reset(1)
            self._bar.unit = unit
        return self

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        self.compiling = False
        seconds = round(time.perf_counter() - self.begin, 3)
        finite = float(loss) if loss is not None and math.isfinite(loss) else None
        self.report({"step": done, "total": total, "unit": self.unit, "loss": finite, "seconds": seconds})
        self.state = f"{self.unit} {done} of {total}" + (f", loss {loss:.4g}" if loss is not None else "")
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_description_str(refresh=False)
            if loss is not None:
                self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self._bar.update(done - self._bar.n)

    def compiles(self, now: bool) -> None:
        """Say whether something is being compiled."""
        if now != self.compiling and self._bar is not None:
            self._bar.set_description_str("compiling" if now else "")
        self.compiling = now

    def _lines(self) -> None:
        while not self._end.wait(MINUTE):
            state = ", ".join(filter(None, [self.state, "compiling" if self.compiling else ""])) or "loading"
            print(f"jaxopt-input: {state}, {time.perf_counter() - self.begin:.0f} s", file=sys.stderr, flush=True)


class Metrics:
    """`metrics.jsonl`: one line per report, kept back until the folder may be written."""

    def __init__(self, file: Path) -> None:
        self.file, self.lines, self.open = file, [], False  # type: tuple[Path, list[str], bool]

    def __call__(self, metric: Metric) -> None:
        self.lines.append(json.dumps(metric, allow_nan=False) + "\n")
        if self.open:
            self.flush()

    def flush(self) -> None:
        """Write what was reported, from now on at once."""
        self.open = True
        with self.file.open("a") as stream:
            stream.writelines(self.lines)
        self.lines = []


def logger(kind: str, folder: Path, run: dict[str, Any]) -> tuple[Callable[[Metric], None], Callable[[], None]]:
    """What sends the numbers of a run to TensorBoard or to Weights & Biases (see `LOGS`), and what ends it.

    Raises:
        InputError: where the library is not installed.
    """
    modules, package = LOGS[kind]
    for name in modules:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            break
    else:
        raise InputError(f"--log {kind} needs {package}: pip install {package}")
    if kind == "wandb":
        session = module.init(project="jaxopt-input", name=folder.name, config=run, dir=str(folder))
        return lambda metric: session.log({**metric, f"{metric['unit']}s": metric["step"]}), session.finish
    writer = module.SummaryWriter(str(folder / "tensorboard"))

    def scalar(metric: Metric) -> None:
        if metric["loss"] is not None:
            writer.add_scalar(f"loss by {metric['unit']}", metric["loss"], metric["step"])

    return scalar, writer.close
