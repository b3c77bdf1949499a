"""Are class images made from noise recognized? The share of classes whose best of several starts is classified as its
class after 8-bit rounding, and its mean probability under fresh random transforms.

    python benchmarks/recognition.py tin100 --classes all
    python benchmarks/recognition.py squeezenet --classes 20 --steps 128
    python benchmarks/recognition.py tin100-robust --judge tin100
    python benchmarks/recognition.py tin100 --parameterization pixels --transform none --judge tin100-robust \
        --name plain

With `--judge`, another network of the same classes classifies the pictures as well. Writes
`benchmarks/results/recognition-MODEL[-NAME].json` and prints one line.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

import jaxopt_input as joi

FRESH = 32  # transforms that the finished picture is judged under


def probabilities(model: joi.Model, images: np.ndarray, classes: np.ndarray, batch: int = 32) -> tuple:
    """(probability of each image's class, predicted class), `[N]` each."""
    apply = jax.jit(lambda params, x: jax.nn.softmax(model.apply(params, x, ("logits",))["logits"]))
    out = []
    for at in range(0, len(images), batch):
        part = images[at : at + batch]
        padded = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
        out.append(np.asarray(apply(model.params, padded))[: len(part)])
    p = np.concatenate(out)
    return p[np.arange(len(p)), classes], p.argmax(-1)


def through_png(images: np.ndarray) -> np.ndarray:
    """The images as they come back from a PNG file."""
    back = []
    for image in images:
        file = io.BytesIO()
        joi.data.to_pillow(image).save(file, format="PNG")
        back.append(np.asarray(Image.open(file), np.float32) / 255)
    return np.stack(back)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--classes", default="all", help="all, or how many, spread evenly over the indices")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--transform", default="lucid")
    parser.add_argument("--parameterization", default="fourier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", help="another network that classifies the pictures")
    parser.add_argument("--name", default="", help="is added to the name of the file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    model = joi.load(args.model)
    total = len(model.info.labels)
    count = total if args.classes == "all" else int(args.classes)
    classes = np.arange(count) * total // count
    began = time.time()
    with tqdm(total=1, unit="step") as bar:

        def on_progress(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix(loss=f"{loss:.3g}")
            bar.update(done - bar.n)

        solution = joi.visualize(
            model,
            [f"class:{index}" for index in classes],
            starts=args.starts,
            steps=args.steps,
            image=joi.images.by_name(args.parameterization),
            transform=joi.transforms.by_name(args.transform),
            key=jax.random.key(args.seed),
            on=joi.Resources(chunk=args.chunk, progress=on_progress),
        )
    seconds = time.time() - began
    pictures = through_png(np.asarray(solution.best_image))
    lane_class = np.repeat(classes, args.starts)
    p, predicted = probabilities(model, pictures, lane_class)
    keys = jax.random.split(jax.random.key(10**6 + args.seed), FRESH)
    view = jax.jit(jax.vmap(joi.transforms.lucid(), in_axes=(None, 0)))
    held_out = np.mean([probabilities(model, np.asarray(view(k, pictures)), lane_class)[0] for k in keys], 0)
    recognized = ((predicted == lane_class) & (p > 0.9)).reshape(count, -1)
    robust = held_out.reshape(count, -1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "model": model.info.name,
        "sha256": model.info.sha256,
        "arguments": {k: v for k, v in vars(args).items() if k not in ("out", "model", "name")},
        "classes": count,
        "recognized": int(recognized.any(1).sum()),
        "recognized_share_of_starts": float(recognized.mean()),
        "fresh_at_least_half": int((robust.max(1) >= 0.5).sum()),
        "fresh_mean_of_best": float(robust.max(1).mean()),
        "not_recognized": [model.info.label(int(c)) for c in classes[~recognized.any(1)]],
        "fresh_below_half": [model.info.label(int(c)) for c in classes[robust.max(1) < 0.5]],
        "dead_starts": int(np.asarray(solution.dead).sum()),
        "seconds": round(seconds, 1),
        "ms_per_image_and_step": round(1000 * seconds / (len(pictures) * args.steps), 2),
        "machine": f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit.stdout.strip(),
    }
    if args.judge:
        judge = joi.load(args.judge)
        _, seen = probabilities(judge, pictures, lane_class)
        right = (seen == lane_class).reshape(count, -1)
        best = np.asarray(solution.best_loss).reshape(count, -1).argmin(1)  # by the network that made them
        result["judge"] = {
            "model": judge.info.name,
            "sha256": judge.info.sha256,
            "best_start_classified": int(right[np.arange(count), best].sum()),
            "any_start_classified": int(right.any(1).sum()),
            "share_of_starts": float(right.mean()),
        }
        print(f"{judge.info.name} classifies them: {result['judge']}")
    args.out.mkdir(parents=True, exist_ok=True)
    suffix = f"-{args.name}" if args.name else ""
    (args.out / f"recognition-{model.info.name}{suffix}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{model.info.name}: {result['recognized']} of {count} classes recognized with p > 0.9 after PNG rounding; "
        f"{result['fresh_at_least_half']} of {count} with a mean p of at least 0.5 under {FRESH} fresh transforms"
    )


if __name__ == "__main__":
    main()
