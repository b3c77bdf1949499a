"""How much faster a sheet of units is on their receptive fields than at full size, and what memory a sheet takes.

    python benchmarks/fields.py squeezenet fire4 fire8
    python benchmarks/fields.py squeezenet fire8 --sheet --memory 2GiB --steps 16

The first form runs a few channels of each layer both ways, in turns, with the same chunk, steps and transforms, and
reports milliseconds an image and step inside the loop, of the clock and of the processor. The second makes the whole
sheet at field size and reports its time and the most memory that the process took. Appends to
`benchmarks/results/fields.json`.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.methods.visualize.units import visualize_units
from jaxopt_input.models.receptive import receptive_field


def compared(model: joi.Model, layer: str, channels: int, steps: int, repeats: int) -> dict[str, Any]:
    """Both ways in turns, after one run each that compiles; timed from the first report of progress to the last."""
    targets = [f"{layer}:{channel}" for channel in range(channels)]
    found: dict[str, list[tuple[float, float]]] = {"field": [], "full": []}
    for turn in range(repeats + 1):
        for way, times in zip((visualize_units, joi.visualize), found.values(), strict=True):
            clock: list[tuple[float, float]] = []
            note = functools.partial(_note, clock)
            way(
                model,
                targets,
                steps=steps,
                watch=joi.Watch(every=steps),
                on=joi.Resources(chunk=channels, progress=note),
            )
            if turn:
                per = 1000 / (channels * (len(clock) - 1))  # one report a step, up to 20 steps
                times.append((per * (clock[-1][0] - clock[0][0]), per * (clock[-1][1] - clock[0][1])))
    medians = {
        name: {
            what: round(statistics.median(time[n] for time in times), 2)
            for n, what in enumerate(("ms", "processor_ms"))
        }
        for name, times in found.items()
    }
    return {
        "layer": layer,
        "field": receptive_field(model, layer).size,
        "an_image_and_step": medians,
        "ratio": {what: round(medians["field"][what] / medians["full"][what], 3) for what in ("ms", "processor_ms")},
    }


def _note(clock: list[tuple[float, float]], *_: Any) -> None:
    clock.append((time.perf_counter(), time.process_time()))


def sheet(model: joi.Model, layer: str, steps: int, memory: str) -> dict[str, Any]:
    """All channels of a layer within a memory budget."""
    began = time.perf_counter()
    solution = visualize_units(model, f"{layer}:*", steps=steps, on=joi.Resources(memory=memory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    return {
        "layer": layer,
        "images": len(solution),
        "dead": int(solution.dead.sum()),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_GiB": round(peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("layers", nargs="+")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sheet", action="store_true")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--out", type=Path, default=RESULTS / "fields.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    for layer in args.layers:
        if args.sheet:
            found = sheet(model, layer, args.steps, args.memory)
        else:
            found = compared(model, layer, args.channels, args.steps, args.repeats)
        result = {
            "arguments": {k: v for k, v in vars(args).items() if k not in ("out", "layers")},
            **found,
            **ground(),
        }
        keep(args.out, result, ("arguments", "layer"))


if __name__ == "__main__":
    main()
