"""Fooling images: how sure a network is of them after 8-bit rounding, and what another network says.

    python benchmarks/fooling.py tin100 --judge tin100-robust
    python benchmarks/fooling.py mnist --method direct --population 1200
    python benchmarks/fooling.py tin100 --method cppn --generations 5000 --population 90

All classes, by gradient ascent from gray or noise, or by MAP-Elites with one of two encodings. The probabilities are
those of the PNG files, read again. Adds to `benchmarks/results/fooling-MODEL.json`, and keeps the sheet of the images
beside it with `--sheet`.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from record import RESULTS, ground, keep
from tqdm import tqdm

import jaxopt_input as joi
from jaxopt_input.attacks.examine import logits_of
from jaxopt_input.data import save_png
from jaxopt_input.draw.sheet import target_pages

CONFIDENT = 0.99


def through_png(images: np.ndarray) -> np.ndarray:
    """The images as they come back from a PNG file."""
    back = []
    for image in images:
        file = io.BytesIO()
        joi.data.to_pillow(image).save(file, format="PNG")
        back.append(np.asarray(Image.open(file), np.float32).reshape(image.shape) / 255)
    return np.stack(back)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", choices=("gray", "noise", "direct", "cppn"), default="gray")
    parser.add_argument("--steps", type=int, default=100, help="of gradient ascent, from gray or noise")
    parser.add_argument("--generations", type=int, default=200, help="of evolution, direct or cppn")
    parser.add_argument("--population", type=int, default=400)
    parser.add_argument("--judge", help="another network of the same classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="the PNG to write")
    parser.add_argument("--out", type=Path, help="the JSON file  [default: benchmarks/results/fooling-MODEL.json]")
    args = parser.parse_args()
    model, key = joi.load(args.model), jax.random.key(args.seed)
    evolves = args.method in ("direct", "cppn")
    began, processor = time.perf_counter(), time.process_time()
    with tqdm(total=1, mininterval=5) as bar:

        def on_progress(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix(loss=f"{loss:.3g}")
            bar.update(done - bar.n)

        if evolves:
            size = {"generations": args.generations, "population": args.population}
            found = joi.attacks.map_elites(
                key, model, encoding=args.method, **size, on=joi.Resources(progress=on_progress)
            )
        else:
            size = {"steps": args.steps}
            found = joi.attacks.fool(key, model, init=args.method, **size, on=joi.Resources(progress=on_progress))
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    pictures, each = through_png(found.image), np.arange(len(found.label))
    probability = np.asarray(jax.nn.softmax(logits_of(model, pictures)))[each, found.label]
    sure = probability > CONFIDENT
    median = np.median(found.history, 1)
    marks = sorted({round(k * (len(median) - 1) / 10) for k in range(11)})
    result = {
        "model": model.info.name,
        "sha256": model.info.sha256,
        "arguments": {"method": args.method, **size, "judge": args.judge, "seed": args.seed},
        "classes": len(found.label),
        "median": float(np.median(probability)),
        "mean": float(probability.mean()),
        "confident": int(sure.sum()),
        "median_at": {str(k): round(float(median[k]), 5) for k in marks},
        "evaluations": found.evaluations,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
    }
    if args.judge:
        judge = joi.load(args.judge)
        seen = logits_of(judge, pictures).argmax(-1)
        result["judge"] = {
            "model": judge.info.name,
            "sha256": judge.info.sha256,
            "agrees": int((seen == found.label).sum()),
            "fooled": int((sure & (seen != found.label)).sum()),  # sure of the class, which the judge does not see
        }
    if args.sheet:
        names = [f"{p:.2f} {model.info.label(int(c))}" for c, p in zip(found.label, probability, strict=True)]
        save_png(args.sheet, target_pages(pictures, [[n] for n in range(len(names))], names)[0])
    keep(args.out or RESULTS / f"fooling-{args.model}.json", {**result, **ground()})


if __name__ == "__main__":
    main()
