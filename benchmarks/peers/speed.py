"""Speed against every peer, side by side: the same weights, images, steps and transforms.

    python benchmarks/peers/speed.py --peer .venv-peers/bin/python
    python benchmarks/peers/speed.py --peer .venv-peers/bin/python --rows pgd --batch 32

Each side of a row is a process of its own that is prepared first; then they take turns, one run of ours and one of the
peer's, some rounds. A ratio is that of one such pair, and the median of them is told: the time of ours by the
peer's, below 1 where ours is faster. Where both sides can be compared number by number, they are, before any is timed.
A peer that is not installed is told as missing, by name and reason. `start` has no peer: it is the time of a whole
second process, with a filled compilation cache, to its first step. Needs the weights of `squeezenet`; writes
`benchmarks/results/peers-speed.json`, an entry a row.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from turns import Missing, Worker

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from record import RESULTS, ground, keep  # noqa: E402

PAUSE = 0.5  # seconds between two runs: a side's idle threads go to sleep
AGREE = 1e-3  # relative: float32 sums in another order, through a network's depth
TORCH = ("torch-channels-last", "torch-contiguous", "torch-compile")
STYLES = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: what both sides do, with whom, on how many images at once, for how many steps and rounds."""

    work: str
    peers: tuple[str, ...]
    batch: int
    steps: int
    model: str = "squeezenet"
    size: int = 227
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    rounds: int = 3


ATTACK = {"epsilon": 8 / 255, "step": 2 / 255}
ROWS = {
    "gradient": Row("gradient", TORCH, 8, 8),
    "vgg16-1": Row("gradient", TORCH, 1, 8, "vgg16", 224),
    "vgg16-4": Row("gradient", TORCH, 4, 2, "vgg16", 224),
    "lucent-fire4": Row("visualization", ("lucent",), 1, 48, size=224, more={"layer": "fire4", "channel": 3}),
    "lucent-fire8": Row("visualization", ("lucent",), 1, 48, size=224, more={"layer": "fire8", "channel": 3}),
    "pgd": Row("pgd", ("torchattacks", "foolbox-torch", "foolbox-jax"), 32, 40, more=ATTACK, rounds=2),
    "apgd": Row("apgd", ("torchattacks",), 8, 20, more=ATTACK),
    "style": Row(
        "style", ("torch-style",), 1, 12, "vgg19", 256, {"styles": STYLES, "content": "relu4_2", "weight": 1e-3}
    ),
    "loop-pixels": Row("loop", ("bare",), 8, 32, more={"setting": "pixels"}),
    "loop-lucid": Row("loop", ("bare",), 8, 32, more={"setting": "lucid"}),
    "start": Row("start", (), 1, 1),
}
"""By name; `class` is what gradients are of."""


def blobs(count: int, size: int) -> np.ndarray:
    """Images of colored blobs, `[count, size, size, 3]` in [0, 1]."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(count, size // 16 + 2, size // 16 + 2, 3))
    at = np.arange(size) / 16
    low, part = at.astype(int), (at % 1)[:, None]
    rows = coarse[:, low] * (1 - part[..., None]) + coarse[:, low + 1] * part[..., None]
    return np.ascontiguousarray(rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part, np.float32)


def request_of(row: Row, folder: Path) -> dict[str, Any]:
    """What both sides are told; the images lie in the folder, the weights do where a peer reads them."""
    images = folder / f"images-{row.batch}-{row.size}.npz"
    np.savez(images, images=blobs(2 if row.work == "style" else row.batch, row.size))
    told = {name: getattr(row, name) for name in ("work", "batch", "steps", "model", "size")}
    return {**told, **row.more, "class": 1, "images": str(images), "weights": str(folder / "weights.npz")}


def agree(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of the numbers that both sides tell."""
    a, b = np.asarray(ours), np.asarray(theirs)
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-12)))  # NaN if any is


def against(row: Row, ours: Worker, peer: str, command: Sequence[str], request: dict[str, Any]) -> Any:
    """The entry of one peer: seconds in turns, ratios pair by pair; or what is missing or failed."""
    mine = peer == "bare"
    asked = {**request, "peer": peer, **({"work": "bare"} if mine else {})}
    worker = [sys.executable, str(HERE / "ours_worker.py")] if mine else [*command, str(HERE / "peer_worker.py")]
    try:
        with Worker(worker, asked) as other:
            found = {"version": other.told["version"]}
            if "check" in ours.told and "check" in other.told:
                found["difference"] = float(f"{agree(ours.told['check'], other.told['check']):.2g}")
                if not found["difference"] < AGREE:
                    return {"failed": f"the two sides differ by {found['difference']}: {ours.told}, {other.told}"}
            pairs = []
            for _ in range(row.rounds):
                pair = []
                for side in (ours, other):
                    time.sleep(PAUSE)
                    pair.append(side.seconds())
                pairs.append(pair)
    except Missing as reason:
        return {"missing": str(reason)}
    except RuntimeError as error:
        return {"failed": str(error)}
    ratios = [a / b for a, b in pairs]
    scale = 1000 / (row.batch * row.steps)
    return {
        **found,
        "ours_ms": summary([scale * a for a, _ in pairs]),
        "peer_ms": summary([scale * b for _, b in pairs]),
        "ratio": summary(ratios),
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median, and all values in their order."""
    short = [float(f"{value:.4g}") for value in values]
    return {"median": float(f"{statistics.median(values):.4g}"), "all": short}


def start(request: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Seconds from the start of a process to the end of its first step: once cold, then with the filled cache."""
    with tempfile.TemporaryDirectory() as cache:
        ours = [sys.executable, str(HERE / "ours_worker.py")]
        before = dict(os.environ)
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        try:
            seconds = []
            for _ in range(1 + rounds):
                began = time.perf_counter()
                with Worker(ours, request):
                    seconds.append(time.perf_counter() - began)
        finally:
            os.environ.clear()
            os.environ |= before
    return {"cold_seconds": float(f"{seconds[0]:.4g}"), "cached_seconds": summary(seconds[1:])}


def measure(name: str, row: Row, peer_python: str, folder: Path) -> dict[str, Any]:
    """The entry of one row."""
    request = request_of(row, folder)
    result: dict[str, Any] = {
        "row": name,
        "arguments": {
            "batch": row.batch,
            "steps": row.steps,
            "rounds": row.rounds,
            "model": row.model,
            "size": row.size,
        },
    }
    if row.work == "start":
        return {**result, **start(request, row.rounds)}
    with Worker([sys.executable, str(HERE / "ours_worker.py")], request) as ours:
        result["ours"] = {"version": ours.told["version"], "device": ours.told["device"]}
        result["peers"] = {}
        for peer in row.peers:
            result["peers"][peer] = against(row, ours, peer, [peer_python], request)
            print(line(name, peer, result["peers"][peer]), flush=True)
    return result


def line(name: str, peer: str, found: dict[str, Any]) -> str:
    """One line of the table: milliseconds an image and step of both, and the median of the ratios."""
    left = f"{name:<14} {peer:<20}"
    for trouble in ("missing", "failed"):
        if trouble in found:
            return f"{left} {trouble}: {found[trouble]}"
    ours, theirs, ratio = (found[key]["median"] for key in ("ours_ms", "peer_ms", "ratio"))
    return f"{left} ours {ours:>8.4g} ms   peer {theirs:>8.4g} ms   ours / peer {ratio:.3f}"


def write_weights(folder: Path) -> None:
    """SqueezeNet's weights by torchvision's names, for the peers."""
    from visualize import torch_state

    import jaxopt_input as joi

    np.savez(folder / "weights.npz", **torch_state(joi.load("squeezenet")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of the peers' environment")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, help="instead of the row's own")
    parser.add_argument("--steps", type=int, help="of each run, instead of the row's own")
    parser.add_argument("--batch", type=int, help="images at once, instead of the row's own")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers-speed.json")
    args = parser.parse_args()
    for name in ("rounds", "steps", "batch"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    changes = {name: getattr(args, name) for name in ("rounds", "steps", "batch") if getattr(args, name) is not None}
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder))
        for name in args.rows:
            row = dataclasses.replace(ROWS[name], **changes)
            result = measure(name, row, args.peer, Path(folder))
            keep(args.out, {**result, **ground()}, same=("row", "arguments"))


if __name__ == "__main__":
    main()
