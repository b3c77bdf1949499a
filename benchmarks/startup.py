"""Seconds from the start of a process: to its help, to its imports, to the first step of an optimization.

    python benchmarks/startup.py squeezenet --repeats 5

Every repeat starts one process of each kind, one after another: Python alone; `jaxopt-input --help`; JAX and Flax
imported; the library with all its names; the first step of a class image without compiled programs on disk, and the
same with those that the process before it has kept. Wall time and processor time, medians and spread; appends to
`benchmarks/results/startup.json`. Processor time is what other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, ground, keep

FIRST_STEP = """
import jax, jaxopt_input as joi

class Done(Exception):
    pass

def first(done, total, loss):
    raise Done

joi.compilation_cache({folder!r})
try:
    joi.visualize(joi.load({model!r}), "class:1", steps=20, key=jax.random.key(0), on=joi.Resources(progress=first))
except Done:
    pass
"""
KINDS = {
    "python": "",
    "help": "from jaxopt_input.cli import main\nmain(['--help'], standalone_mode=False)",
    "jax_and_flax": "import jax, flax.linen",
    "library": "import jaxopt_input as joi\n[getattr(joi, name) for name in joi.__all__]",
    "first_step_cold": FIRST_STEP,
    "first_step_cached": FIRST_STEP,
}
TOLD = "\nimport time\nprint()\nprint(time.time(), time.process_time())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.json")
    args = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for kind, code in KINDS.items():
                taken[kind].append(timed(code.format(folder=folder, model=args.model)))
    result = {
        "arguments": {"model": args.model, "repeats": args.repeats},
        "seconds": {kind: spread([wall for wall, _ in times]) for kind, times in taken.items()},
        "processor_seconds": {kind: spread([used for _, used in times]) for kind, times in taken.items()},
        "load": round(os.getloadavg()[0], 1),
        **ground(),
    }
    keep(args.out, result)


def timed(code: str) -> tuple[float, float]:
    """Seconds, and processor seconds, from the start of a process until it has run code."""
    begin = time.time()
    done = subprocess.run([sys.executable, "-c", code + TOLD], capture_output=True, text=True, check=True)
    at, used = map(float, done.stdout.splitlines()[-1].split())
    return at - begin, used


def spread(times: list[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(times), 2),
        "least": round(min(times), 2),
        "most": round(max(times), 2),
    }


if __name__ == "__main__":
    main()
