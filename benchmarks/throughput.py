"""Milliseconds for each image and step inside the whole loop, without compiling, as `methods.bench` measures them.

    python benchmarks/throughput.py squeezenet --starts 8
    python benchmarks/throughput.py tin100 --starts 8 --parameterization fourier --transform lucid
    python benchmarks/throughput.py squeezenet --task pgd --starts 1 4 16 --dtype float32 bfloat16

Every number of starts and every dtype is a case; the cases run in turns, `--repeats` times, beside a large matrix
product and a large copy. Prints the table and appends one entry per case to `benchmarks/results/throughput.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.methods.bench.page import as_rows, ceilings, table
from jaxopt_input.methods.bench.recipe import TASKS, measure, plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", default="class", choices=TASKS)
    parser.add_argument("--target", default="class:1", help="of the tasks class and unit")
    parser.add_argument("--starts", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parameterization", help="pixels for a class or unit, the task's own for another")
    parser.add_argument("--transform", help="none for a class or unit, the task's own for another")
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--out", type=Path, default=RESULTS / "throughput.json")
    args = parser.parse_args()
    plain = args.task in ("class", "unit")
    cases = plan(
        [joi.load(args.model)],
        tasks=[args.task],
        batches=args.starts,
        dtypes=args.dtype,
        steps=args.steps,
        target=args.target if plain else None,
        parameterization=args.parameterization or ("pixels" if plain else None),
        transform=args.transform or ("none" if plain else None),
    )
    report = measure(cases, repeats=args.repeats)
    for m, row in zip(report.measurements, as_rows(report), strict=True):
        case = m.case
        scale = 1000 / (case.batch * case.steps)
        arguments = {"model": args.model, "target": args.target if plain else args.task, "starts": case.batch}
        arguments |= {"steps": case.steps, "repeats": args.repeats, "parameterization": case.parameterization}
        result = {
            "arguments": {**arguments, "transform": case.transform, "dtype": case.dtype},
            "ms_per_image_and_step": {
                "median": round(scale * m.loop.median, 2),
                "least": round(scale * min(m.loop.values), 2),
                "most": round(scale * max(m.loop.values), 2),
            },
            "first_call_seconds": round(m.cold.picture, 1),
            "measured": row,
            "ceilings": ceilings(report)[case.dtype],
            **ground(),
        }
        keep(args.out, result)
    print(table(report))


if __name__ == "__main__":
    main()
