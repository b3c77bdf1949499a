"""Peak memory of a dream on a large photograph, and whether its tiles leave seams.

    python benchmarks/dream.py squeezenet fire8 PHOTO.jpg

Memory: the most that the process held while it dreamt on the photograph, brought to 2048 pixels, one octave. Seams: the
energy of the gradient's differences within 8 pixels of where tiles of 256 pixels meet, over that elsewhere, divided by
the same ratio of the uncut gradient at the same places; the photograph brought to 1024 pixels, no random roll. Appends
to `benchmarks/results/dream.json`.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.methods.dream import tiles
from jaxopt_input.methods.dream.recipe import starting_image

NEAR = 8  # pixels on each side of a cut
TILE = 256  # small enough for several cuts in an image whose gradient fits into memory whole


def seams(model: joi.Model, layer: str, image: np.ndarray, overlap: int) -> dict[str, float]:
    """The energy ratio across the cuts of the columns and of the rows; 1 where there is no seam."""

    def square(tile: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(model.apply(model.params, tile[None], (layer,))[layer]))

    def gradient(tile: int) -> tuple[np.ndarray, list[tiles.Axis]]:
        cuts = [tiles.cut(size, tile, overlap) for size in image.shape[:2]]
        return np.asarray(jax.jit(lambda x: tiles.value_and_gradient(square, x, *cuts)[1])(image)), cuts

    whole, (cut, cuts) = gradient(max(image.shape))[0], gradient(TILE)
    return {
        name: _near_over_elsewhere(cut, axis, cuts[axis]) / _near_over_elsewhere(whole, axis, cuts[axis])
        for axis, name in enumerate(("rows", "columns"))
    }


def _near_over_elsewhere(gradient: np.ndarray, axis: int, cuts: tiles.Axis) -> float:
    energy = np.square(np.diff(gradient, axis=axis)).sum(-1)
    energy = np.moveaxis(energy, axis, 0)[TILE // 4 : -TILE // 4, TILE // 4 : -TILE // 4]  # off the image's own border
    place = np.arange(len(energy)) + TILE // 4
    near = (abs(place[:, None] - cuts.core * np.arange(1, cuts.count)) < NEAR).any(1)
    return float(energy[near].mean() / energy[~near].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("layer")
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "dream.json")
    args = parser.parse_args()
    model, key = joi.load(args.model), jax.random.key(0)

    large = starting_image(args.photograph, model, args.size, key)
    begin = time.perf_counter()
    done = joi.dream(model, large, args.layer, octaves=1, iterations=args.iterations, key=key)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    small = starting_image(args.photograph, model, 1024, key)
    result = {
        "arguments": {k: v for k, v in vars(args).items() if k not in ("out", "photograph")},
        "image": list(large.shape),
        "peak_memory_gib": round(peak, 2),
        "tiles": done.octaves[0].evaluations // args.iterations,
        "seconds_with_compilation": round(seconds, 1),
        "seams": {
            f"overlap {overlap}": {k: round(v, 3) for k, v in seams(model, args.layer, small, overlap).items()}
            for overlap in (0, 32, 64)
        },
        **ground(),
    }
    keep(args.out, result)


if __name__ == "__main__":
    main()
