"""Are class images made from noise recognized, by the network that made them and by another one?

    python benchmarks/recognition.py tin100 --judge tin100-robust
    python benchmarks/recognition.py squeezenet --classes 100 --judge efficientnet-lite0 --peer .venv-peers/bin/python
    python benchmarks/recognition.py tin100-robust --judge tin100
    python benchmarks/recognition.py tin100 --preset plain --steps 64 --judge tin100-robust --name plain

Of several starts of each class: whether the picture is classified as its class after 8-bit rounding, its mean
probability under fresh random transforms, and its colors and contrast. With `--judge`, another network of the same
classes ranks the class of each picture; "best start" is the best by the network that made it, never by the judge, and
intervals are of 95 %, from a bootstrap over the classes. EfficientNet-Lite0 runs in the peers' environment
(`peers/requirements.txt`), whose Python `--peer` names. Writes `benchmarks/results/recognition-MODEL[-NAME].json` and
prints one line.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

import jaxopt_input as joi

FRESH = 32  # transforms that the finished picture is judged under
RESAMPLES = 10_000  # of the bootstrap
PEER_JUDGE = "efficientnet-lite0"


def logits_of(model: joi.Model, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """`[N, classes]`: the logits of images."""
    apply = jax.jit(lambda params, x: model.apply(params, x, ("logits",))["logits"])
    out = []
    for at in range(0, len(images), batch):
        part = images[at : at + batch]
        padded = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
        out.append(np.asarray(apply(model.params, padded))[: len(part)])
    return np.concatenate(out)


def probability(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`[N]`: the probability of each image's class."""
    return np.asarray(jax.nn.softmax(logits))[np.arange(len(logits)), classes]


def rank(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`[N]`: the rank of each image's class among all, 1 for the most probable; a class that ties comes last."""
    own = logits[np.arange(len(logits)), classes][:, None]
    return (logits >= own).sum(1)


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """A statistic of one value per class, `[..., classes] -> [...]`, with its 95 % interval by the bootstrap."""
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(statistic(values[draws]), [2.5, 97.5])
    return {"value": round(float(statistic(values)), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def through_png(images: np.ndarray) -> np.ndarray:
    """The images as they come back from a PNG file."""
    back = []
    for image in images:
        file = io.BytesIO()
        joi.data.to_pillow(image).save(file, format="PNG")
        back.append(np.asarray(Image.open(file), np.float32) / 255)
    return np.stack(back)


def look(images: np.ndarray) -> dict[str, Any]:
    """What pictures `[N, H, W, 3]` look like, in numbers: of photographs these are about 0.15, 0.25 and 0.03."""
    return {
        "saturation": round(float((images.max(-1) - images.min(-1)).mean()), 3),
        "standard_deviation": round(float(images.std((1, 2, 3)).mean()), 3),
        "share_black_or_white": round(float(((images <= 2 / 255) | (images >= 253 / 255)).mean()), 3),
        "mean_color": [round(float(value), 3) for value in images.mean((0, 1, 2))],
    }


def peer_logits(python: str, images: np.ndarray) -> np.ndarray:
    """`[N, 1000]`: what EfficientNet-Lite0 says, in a process of the peers' environment."""
    worker = Path(__file__).parent / "peers" / "judge_worker.py"
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "images.npy", Path(folder) / "logits.npy"
        np.save(source, joi.data.to_uint8(images))
        subprocess.run([python, str(worker), str(source), str(out)], check=True)
        return np.load(out)


def judged(logits: np.ndarray, lane_class: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    """How a judge's logits rank the classes of pictures.

    Args:
        logits: `[classes x starts, all classes]`.
        lane_class: the class of each picture.
        best: `[classes]`, the picture of each class that the network which made them likes best.
    """
    ranks = rank(logits, lane_class)
    best_ranks = ranks[best].astype(float)
    return {
        "best_start_classified": int((best_ranks == 1).sum()),
        "any_start_classified": int((ranks.reshape(len(best), -1).min(1) == 1).sum()),
        "share_of_starts": float((ranks == 1).mean()),
        "best_start_top1": interval(best_ranks, lambda r: (r <= 1).mean(-1)),
        "best_start_top5": interval(best_ranks, lambda r: (r <= 5).mean(-1)),
        "best_start_rank": interval(best_ranks, lambda r: np.exp(np.log(r).mean(-1))),
        "best_start_median_rank": float(np.median(best_ranks)),
        "ranks": best_ranks.astype(int).tolist(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--classes", default="all", help="all, or how many, spread evenly over the indices")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--steps", type=int, help="the preset's if not given")
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", help=f"another network that classifies the pictures, or {PEER_JUDGE}")
    parser.add_argument("--peer", help=f"the Python of the peers' environment, for {PEER_JUDGE}")
    parser.add_argument("--name", default="", help="is added to the name of the file")
    parser.add_argument("--pictures", type=Path, help="a folder for the best start of each class as PNG")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.judge == PEER_JUDGE and not args.peer:
        parser.error(f"--judge {PEER_JUDGE} needs --peer, the Python of the peers' environment")
    return args


def main() -> None:
    args = arguments()
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
            preset=args.preset,
            key=jax.random.key(args.seed),
            on=joi.Resources(chunk=args.chunk, progress=on_progress),
        )
    seconds = time.time() - began
    steps = solution.check_steps[-1]
    pictures = through_png(np.asarray(solution.best_image))
    lane_class = np.repeat(classes, args.starts)
    best = np.arange(count) * args.starts + np.asarray(solution.best_loss).reshape(count, -1).argmin(1)
    logits = logits_of(model, pictures)
    p = probability(logits, lane_class)
    keys = jax.random.split(jax.random.key(10**6 + args.seed), FRESH)
    view = jax.jit(jax.vmap(joi.transforms.lucid(), in_axes=(None, 0)))
    held_out = np.mean([probability(logits_of(model, np.asarray(view(k, pictures))), lane_class) for k in keys], 0)
    recognized = ((logits.argmax(1) == lane_class) & (p > 0.9)).reshape(count, -1)
    robust = held_out.reshape(count, -1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "model": model.info.name,
        "sha256": model.info.sha256,
        "arguments": {k: v for k, v in vars(args).items() if k not in ("out", "model", "name", "peer", "pictures")},
        "steps": int(steps),
        "classes": count,
        "recognized": int(recognized.any(1).sum()),
        "recognized_share_of_starts": float(recognized.mean()),
        "fresh_at_least_half": int((robust.max(1) >= 0.5).sum()),
        "fresh_mean_of_best": float(robust.max(1).mean()),
        "not_recognized": [model.info.label(int(c)) for c in classes[~recognized.any(1)]],
        "fresh_below_half": [model.info.label(int(c)) for c in classes[robust.max(1) < 0.5]],
        "best_start_top1": float((logits.argmax(1) == lane_class)[best].mean()),
        "dead_starts": int(np.asarray(solution.dead).sum()),
        "look": look(pictures),
        "seconds": round(seconds, 1),
        "ms_per_image_and_step": round(1000 * seconds / (len(pictures) * steps), 2),
        "machine": f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit.stdout.strip(),
    }
    if args.judge == PEER_JUDGE:
        result["judge"] = {"model": PEER_JUDGE} | judged(peer_logits(args.peer, pictures), lane_class, best)
    elif args.judge:
        judge = joi.load(args.judge)
        identity = {"model": judge.info.name, "sha256": judge.info.sha256}
        result["judge"] = identity | judged(logits_of(judge, pictures), lane_class, best)
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        for index, lane in zip(classes, best, strict=True):
            joi.data.to_pillow(pictures[lane]).save(args.pictures / f"{index:04d}.png")
    args.out.mkdir(parents=True, exist_ok=True)
    suffix = f"-{args.name}" if args.name else ""
    (args.out / f"recognition-{model.info.name}{suffix}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{model.info.name}: {result['recognized']} of {count} classes recognized with p > 0.9 after PNG rounding; "
        f"{result['fresh_at_least_half']} of {count} with a mean p of at least 0.5 under {FRESH} fresh transforms"
    )
    if args.judge:
        print(f"{args.judge}: {dict(result['judge'], ranks=len(best))}")


if __name__ == "__main__":
    main()
