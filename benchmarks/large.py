"""Memory and time of a style transfer at 2048x1536, tiled or not, against the estimate.

    python benchmarks/large.py squeezenet
    python benchmarks/large.py squeezenet --tile 0                    # the network on the whole image
    python benchmarks/large.py squeezenet --dtype bfloat16

Gram losses on the style layers and a content loss on one more, Adam on pixels, through `minimize`. One process a call:
the memory is the most that the process held. The estimate is `memory.image_bytes`' and the program's, besides the
content's own activation. Compilation is left out of the seconds a step; processor seconds are those of all cores, and
hardly change where others share the machine. Appends to `benchmarks/results/large.json`.
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
from jaxopt_input.engine.memory import estimate
from jaxopt_input.models.tiling import tiled


def smooth_noise(seed: int, height: int, width: int) -> np.ndarray:
    """An image of colored blobs; what it shows makes no difference to memory and time."""
    coarse = jax.random.uniform(jax.random.key(seed), (height // 32, width // 32, 3))
    return np.asarray(jnp.clip(jax.image.resize(coarse, (height, width, 3), "cubic"), 0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--style", nargs="+", default=["conv1", "fire2", "fire4", "fire6"])
    parser.add_argument("--content", default="fire8")
    parser.add_argument("--size", nargs=2, type=int, default=(2048, 1536), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--tile", type=int, default=512, help="0 runs the network on the whole image")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "large.json")
    args = parser.parse_args()
    plain, shape = joi.load(args.model), (*args.size, 3)
    taps = (*args.style, args.content)
    model = tiled(plain, taps, shape, args.tile) if args.tile else plain

    content = smooth_noise(0, *args.size)
    kept = tiled(plain, (args.content,), shape).activations(content[None], (args.content,))[args.content][0]
    style = plain.activations(smooth_noise(1, 256, 256)[None], args.style)
    loss = joi.losses.content(args.content, kept)
    loss = sum((1e-3 * joi.losses.gram(layer, style[layer][0]) for layer in args.style), loss)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    at, busy = [time.perf_counter()], [time.process_time()]

    def mark(*_: object) -> None:
        at.append(time.perf_counter())
        busy.append(time.process_time())

    solution = joi.minimize(
        loss,
        model,
        image=joi.images.pixels(shape),
        optimizer=joi.optimizers.adam(0.02),
        initial=content,
        steps=args.steps,
        key=jax.random.key(0),
        on=joi.Resources(dtype=args.dtype, progress=mark),
    )
    jax.block_until_ready(solution.image)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    estimated = estimate(model, taps, shape) + kept.nbytes
    gib = 1 << 30
    result = {
        "arguments": {k: v for k, v in vars(args).items() if k != "out"} | {"size": list(args.size)},
        "extent": list(getattr(model.apply, "tile", shape)[:2]),
        "peak_gib": round(peak / gib, 2),
        "before_gib": round(before / gib, 2),
        "estimate_gib": round(estimated / gib, 2),
        "estimate_over_peak": round(estimated / peak, 2),
        # The first call compiles, and the last one evaluates the loss once more.
        "seconds_a_step": round(float(np.mean(np.diff(at)[1:-1])), 1),
        "processor_seconds_a_step": round(float(np.mean(np.diff(busy)[1:-1])), 1),
        "seconds_with_compilation": round(at[-1] - at[0], 1),
        "loss": [float(f"{value:.5g}") for value in solution.loss[0]],
        **ground(),
    }
    keep(args.out, result)


if __name__ == "__main__":
    main()
