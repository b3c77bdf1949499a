"""Reading a folder of photographs: cores kept busy, images a second, peak memory.

    JAXOPT_INPUT_DATA=DIR python benchmarks/reading.py

The photographs of `imagenet-sample-500.tar` in that folder, brought to a shorter side of 256 pixels, are written again
and again as JPEGs into a temporary folder of class folders. A process of its own then reads them all at 224x224, batch
by batch, and does nothing else. Cores busy: its processor time by the wall clock's; less than the machine has where
others use it, so the load average before is kept beside it. Appends to `benchmarks/results/reading.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image
from record import RESULTS, ground, keep

import jaxopt_input as joi


def photographs(archive: Path, shorter: int) -> list[bytes]:
    """JPEGs of quality 90."""
    encoded = []
    with tarfile.open(archive) as members:
        for member in members:
            if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                image = Image.open(io.BytesIO(members.extractfile(member).read())).convert("RGB")
                scale = shorter / min(image.size)
                file = io.BytesIO()
                image.resize([round(scale * side) for side in image.size]).save(file, "JPEG", quality=90)
                encoded.append(file.getvalue())
    return encoded


def write(folder: Path, encoded: list[bytes], images: int, classes: int) -> None:
    for k in range(classes):
        (folder / f"{k:03}").mkdir()
    for k in range(images):
        (folder / f"{k % classes:03}" / f"{k:05}.jpg").write_bytes(encoded[k % len(encoded)])


def read(folder: Path, size: int, batch: int) -> dict[str, float]:
    """What this process takes for it; the sum keeps the images from being skipped unseen."""
    dataset = joi.data.folder(folder, image_shape=(size, size, 3))
    wall, processor = time.perf_counter(), time.process_time()
    count, total = 0, 0.0
    for read in dataset.batches(batch):
        count, total = count + len(read.images), total + float(read.images[:, ::16, ::16].sum())
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "images": count,
        "mean": round(total / count / len(range(0, size, 16)) ** 2 / 3, 4),
        "seconds": round(wall, 2),
        "images_per_second": round(count / wall, 1),
        "processor_ms_per_image": round(1000 * processor / count, 3),
        "cores_busy": round(processor / wall, 3),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "reading.json")
    parser.add_argument("--read", type=Path, help="only read this folder: what the measured process is given")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read, args.size, args.batch)))
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(os.environ["JAXOPT_INPUT_DATA"]) / "imagenet-sample-500.tar"
        write(Path(folder), photographs(archive, 256), args.images, args.classes)
        load = os.getloadavg()[0]
        measured = subprocess.run([sys.executable, *sys.argv, "--read", folder], stdout=subprocess.PIPE, check=True)
    arguments = {k: v for k, v in vars(args).items() if k not in ("out", "read")}
    keep(args.out, {"arguments": arguments, "load_before": round(load, 2), **json.loads(measured.stdout), **ground()})


if __name__ == "__main__":
    main()
