"""Milliseconds an image and step inside the loop of `minimize`, compile time left out.

    python benchmarks/throughput.py squeezenet --starts 8
    python benchmarks/throughput.py tin100 --starts 8 --parameterization fourier --transform lucid

Runs the compiled loop `--repeats` times and reports the median and the spread; appends to
`benchmarks/results/throughput.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import jax
from record import RESULTS, ground, keep

import jaxopt_input as joi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--target", default="class:1")
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parameterization", default="pixels")
    parser.add_argument("--transform", default="none")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=RESULTS / "throughput.json")
    args = parser.parse_args()
    model = joi.load(args.model)

    def run(seed: int) -> float:
        began = time.perf_counter()
        solution = joi.visualize(
            model,
            args.target,
            starts=args.starts,
            steps=args.steps,
            image=joi.images.by_name(args.parameterization),
            transform=joi.transforms.by_name(args.transform),
            dtype=args.dtype,
            key=jax.random.key(seed),
        )
        jax.block_until_ready(solution.image)
        return time.perf_counter() - began

    first = run(0)
    times = [1000 * run(seed) / (args.starts * args.steps) for seed in range(1, args.repeats + 1)]
    result = {
        "arguments": {k: v for k, v in vars(args).items() if k != "out"},
        "ms_per_image_and_step": {
            "median": round(statistics.median(times), 2),
            "least": round(min(times), 2),
            "most": round(max(times), 2),
        },
        "first_call_seconds": round(first, 1),
        **ground(),
    }
    keep(args.out, result)


if __name__ == "__main__":
    main()
