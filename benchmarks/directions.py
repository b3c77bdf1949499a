"""How long units and random directions of a layer take to be compared on 50,000 images, and what memory.

    python benchmarks/directions.py tin100 block4 --data DIR

DIR is `JAXOPT_INPUT_DATA` if left out; its three archives of training images of Tiny ImageNet (100 classes) are
unpacked into a temporary folder first, which is not timed. One run for all units of the layer and 256 random directions
together, on this machine's default device; decoding, compilation and the coherence figures are included. Adds to
`benchmarks/results/directions.json`.
"""

from __future__ import annotations

import argparse
import os
import resource
import tarfile
import tempfile
import time
from pathlib import Path

import jax
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.methods.directions.recipe import compare_directions

ARCHIVES = [f"tiny-imagenet-100-train-{part}.tar.xz" for part in range(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("layer")
    parser.add_argument("--data", type=Path, default=os.environ.get("JAXOPT_INPUT_DATA"))
    parser.add_argument("--directions", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS / "directions.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    with tempfile.TemporaryDirectory() as folder:
        for name in ARCHIVES:
            with tarfile.open(Path(args.data) / name) as archive:
                archive.extractall(folder, filter="data")
        began, processor = time.perf_counter(), time.process_time()
        dataset = joi.data.load(str(Path(folder) / "train"), model)
        found = compare_directions(model, dataset, args.layer, directions=args.directions, key=jax.random.key(0))
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
    coherence = {
        group: {name: one and [round(x, 4) for x in one] for name, one in measures.items()}
        for group, measures in found.coherence.items()
    }
    keep(
        args.out,
        {
            "arguments": {"model": args.model, "layer": args.layer, "directions": args.directions},
            "images": len(dataset),
            "units": found.units,
            "seconds": round(seconds, 1),
            "processor_seconds": round(processor, 1),
            "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),  # Linux counts in KiB
            "coherence": coherence,
            **ground(),
        },
    )


if __name__ == "__main__":
    main()
