"""How well images found by `invert` match a layer, and how much of the photograph is left in them.

    python benchmarks/inversion.py squeezenet imagenet-sample-500 conv1 fire4 fire9 --sheet inversion.png

Inverts photographs of a folder, spread evenly over its files by name, at each layer for itself, with the default
settings of `invert` or those of a preset. Reports the reconstruction error ‖Φ(x) − Φ₀‖/‖Φ₀‖ in float32 and after
rounding to 8 bits, the SSIM of the image with the photograph, and the evaluations. Writes one entry a layer into
`benchmarks/results/inversion.json`, and with `--sheet` the photographs beside the images that were found.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from record import RESULTS, ground, keep
from similarity import ssim

import jaxopt_input as joi
from jaxopt_input.draw.sheet import Row, sheet


def photographs(folder: Path, count: int, shape: tuple[int, int, int]) -> tuple[list[str], np.ndarray]:
    """(file names, `[count, H, W, C]`)."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [files[(2 * n + 1) * len(files) // (2 * count)] for n in range(count)]
    return [file.name for file in chosen], np.stack([joi.data.read_image(file, shape) for file in chosen])


def inverted(
    model: joi.Model, layer: str, pictures: np.ndarray, preset: str, steps: int | None, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    """The figures of a layer, one of each kind a photograph, and the images."""
    began, rungs = time.perf_counter(), []
    for picture in pictures:
        found = joi.invert(model, picture, layer, preset=preset, steps=steps, key=jax.random.key(seed))
        rungs.append(found.rungs[0])
    images = np.stack([np.asarray(rung.solution.best_image[0]) for rung in rungs])
    figures = {
        "error": [float(rung.error[layer][0]) for rung in rungs],
        "error_8bit": [float(rung.error_8bit[layer][0]) for rung in rungs],
        "ssim": [ssim(*pair) for pair in zip(images, pictures, strict=True)],
    }
    return {
        "layer": layer,
        "median": {name: round(float(np.median(values)), 4) for name, values in figures.items()},
        **{name: [round(value, 4) for value in values] for name, values in figures.items()},
        "evaluations": [int(rung.solution.evaluations[0]) for rung in rungs],
        "seconds": round(time.perf_counter() - began, 1),
    }, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("layers", nargs="+")
    parser.add_argument("--photographs", type=int, default=5)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "inversion.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    names, pictures = photographs(args.folder, args.photographs, model.info.image_shape)
    columns, captions = [pictures], []
    for layer in args.layers:
        figures, images = inverted(model, layer, pictures, args.preset, args.steps, args.seed)
        arguments = {name: getattr(args, name) for name in ("model", "photographs", "preset", "steps", "seed")}
        keep(args.out, {"arguments": arguments, **figures, "files": names, **ground()}, ("arguments", "layer"))
        columns.append(images)
        captions.append(f"{layer} {100 * figures['median']['error']:.3g} %")
        if args.sheet:  # anew after each layer, so that a run that is cut short leaves one
            texts = [", ".join(["original", *captions]), *names[1:]]
            rows = [Row([row], text) for row, text in zip(np.stack(columns, 1), texts, strict=True)]
            joi.data.save_png(args.sheet, sheet(rows)[0])


if __name__ == "__main__":
    main()
