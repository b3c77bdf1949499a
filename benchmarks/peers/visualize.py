"""Feature visualization against Lucent: the same SqueezeNet weights, channels, steps and size.

    python benchmarks/peers/visualize.py --peer .venv-peers/bin/python

Each side renders 8 channels of each of 4 layers with its defaults (Lucid's recipe in both), one start a channel, the
same number of gradients. The finished pictures are judged by the mean activation of the channel under fresh random
transforms that neither side saw; ratios are channel by channel. Lucent runs in a process of its own, the two sides take
turns layer by layer. Writes `benchmarks/results/peers-visualize.json` and a sheet of both sides' pictures beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import jaxopt_input as joi
from jaxopt_input.draw.sheet import Row
from jaxopt_input.draw.sheet import sheet as draw_sheet

LAYERS = ("fire2", "fire4", "fire6", "fire8")
CHANNELS = 8  # of each layer, evenly spread
FRESH = 32
BGR_MEAN = np.array([104.0, 117.0, 123.0])


def torch_state(model: joi.Model) -> dict[str, np.ndarray]:
    """The weights by torchvision's names, its preprocessing folded into `conv1` (which has no padding: exact)."""
    params = model.params["params"]

    def kernel(layer: dict) -> np.ndarray:
        return np.asarray(layer["kernel"], np.float32).transpose(3, 2, 0, 1)

    first = kernel(params["conv1"]).astype(np.float64)  # takes BGR, 0 to 255, minus the mean
    bias = np.asarray(params["conv1"]["bias"], np.float64) - (first * BGR_MEAN[:, None, None]).sum((1, 2, 3))
    state = {"features.0.weight": 255 * first[:, ::-1], "features.0.bias": bias}
    for number, place in zip(range(2, 10), (3, 4, 5, 7, 8, 9, 10, 12), strict=True):
        for part, ours in (("squeeze", "squeeze1x1"), ("expand1x1", "expand1x1"), ("expand3x3", "expand3x3")):
            layer = params[f"fire{number}"][ours]
            state |= {f"features.{place}.{part}.weight": kernel(layer), f"features.{place}.{part}.bias": layer["bias"]}
    state |= {"classifier.1.weight": kernel(params["conv10"]), "classifier.1.bias": params["conv10"]["bias"]}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in state.items()}


def held_out(model: joi.Model, layer: str, channels: np.ndarray, images: np.ndarray, seed: int) -> np.ndarray:
    """`[N]`: the mean activation of each image's channel under fresh random transforms."""

    @jax.jit
    def activations(params: object, key: jax.Array, images: jax.Array) -> jax.Array:
        views = jax.vmap(joi.transforms.lucid(), in_axes=(None, 0))(key, images)
        return model.apply(params, views, (layer,))[layer].mean((1, 2))

    keys = jax.random.split(jax.random.key(10**6 + seed), FRESH)
    found = np.mean([np.asarray(activations(model.params, key, images)) for key in keys], 0)
    return found[np.arange(len(images)), channels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of the peers' environment")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    args = parser.parse_args()
    model = joi.load("squeezenet")
    shapes = model.layers((args.size, args.size, 3))
    rows, sheet, captions = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        weights, out = Path(folder) / "weights.npz", Path(folder) / "out.npz"
        np.savez(weights, **torch_state(model))
        for layer in LAYERS:
            channels = (np.arange(CHANNELS) * shapes[layer][-1]) // CHANNELS + 3
            request = {
                "weights": str(weights),
                "out": str(out),
                "channels": [(layer, int(channel)) for channel in channels],
                "steps": args.steps,
                "size": args.size,
                "seed": args.seed,
                "threads": os.cpu_count(),
            }
            worker = Path(__file__).with_name("lucent_worker.py")
            subprocess.run([args.peer, str(worker), json.dumps(request)], check=True)
            with np.load(out) as answer:
                theirs, their_seconds = answer["images"], answer["seconds"]
            began = time.perf_counter()
            solution = joi.visualize(
                model,
                [f"{layer}:{channel}" for channel in channels],
                steps=args.steps,
                size=args.size,
                key=jax.random.key(args.seed),
            )
            ours = np.asarray(solution.best_image)
            seconds = time.perf_counter() - began
            a, b = (held_out(model, layer, channels, images, args.seed) for images in (ours, theirs))
            last = held_out(model, layer, channels, np.asarray(solution.image), args.seed)
            for n, channel in enumerate(channels):
                row = {"layer": layer, "channel": int(channel), "ours": float(a[n]), "ours_last": float(last[n])}
                rows.append(row | {"lucent": float(b[n])})
            per_step = {"ours": 1000 * seconds / (CHANNELS * args.steps)}
            per_step["lucent"] = 1000 * float(their_seconds.sum()) / (CHANNELS * args.steps)
            print(layer, [f"{x:.3g}/{y:.3g}" for x, y in zip(a, b, strict=True)], per_step, flush=True)
            sheet += [ours, theirs]
            captions += [f"{layer} ours", f"{layer} Lucent"]
    alive = [row for row in rows if row["ours"] > 0 or row["lucent"] > 0]
    floor = 1e-3 * max(row["lucent"] for row in rows)  # a dead side counts as this

    def ratio(name: str) -> float:
        return float(np.exp(np.mean([np.log(max(r[name], floor) / max(r["lucent"], floor)) for r in alive])))

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "arguments": {"steps": args.steps, "size": args.size, "seed": args.seed},
        "geometric_mean_of_ratios": ratio("ours"),
        "geometric_mean_of_ratios_last_iterate": ratio("ours_last"),
        "channels": rows,
        "neither_alive": len(rows) - len(alive),
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit.stdout.strip(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "peers-visualize.json").write_text(json.dumps(result, indent=1) + "\n")
    captioned = [Row([row], text) for row, text in zip(sheet, captions, strict=True)]
    draw_sheet(captioned)[0].reduce(2).save(args.out / "peers-visualize.jpg", quality=85)
    print(f"ours / Lucent, geometric mean over {len(alive)} channels: {result['geometric_mean_of_ratios']:.3f}")


if __name__ == "__main__":
    main()
