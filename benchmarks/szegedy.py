"""How near Szegedy's attack finds images of random targets, beside DDN on the same, and once they are rounded.

    python benchmarks/szegedy.py squeezenet imagenet-sample-500 --photographs 50

Takes photographs of a folder with class folders that the network classifies rightly, spread evenly over it. Both
attacks have their defaults and the same targets. Reports the share of successes, the median RMS distortion, its
quotient over what both succeed on, and the same of Szegedy's attack with success judged, in the search, after rounding
to 8 bits. Writes `benchmarks/results/szegedy.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.methods.attack.recipe import read

ATTACKS: dict[str, Any] = {
    "ddn": (joi.attacks.ddn, {}),
    "szegedy": (joi.attacks.szegedy, {}),
    "szegedy, rounded": (joi.attacks.szegedy, {"rounded": True}),
}


def right(model: joi.Model, folder: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images that are classified rightly, spread evenly over the folder, and their labels."""
    images, labels, _ = read(joi.data.load(folder, model), 2 * count)
    logits = [np.asarray(model.activations(image[None], ["logits"])["logits"])[0] for image in images]
    chosen = np.flatnonzero(np.argmax(logits, 1) == labels)
    if len(chosen) < count:
        raise SystemExit(
            f"only {len(chosen)} of {len(images)} images are classified rightly: ask for fewer than {count}"
        )
    chosen = chosen[np.arange(count) * len(chosen) // count]
    return images[chosen], labels[chosen]


def figures(found: joi.attacks.AttackResult, seconds: float) -> dict[str, Any]:
    rms = found.distance["rms"]
    return {
        "success": float(found.success.mean()),
        "median_rms": float(np.median(rms)),
        "rms": [round(float(x), 6) if np.isfinite(x) else None for x in rms],
        "gradients": float(found.gradients.mean()),
        "processor_seconds": round(seconds, 1),
    }


def quotient(file: Path, arguments: dict[str, Any]) -> float | None:
    """Median distortion of Szegedy's attack by DDN's, over the images that both have found; None before both ran."""
    kept = {one["arguments"].get("attack"): one for one in json.loads(file.read_text())} if file.is_file() else {}
    pair = [kept.get(name) for name in ("szegedy", "ddn")]
    if any(one is None or one["arguments"] | arguments != one["arguments"] for one in pair):
        return None
    rms = np.array([[np.nan if x is None else x for x in one["rms"]] for one in pair if one])
    both = np.median(rms[:, np.isfinite(rms).all(0)], 1)
    return float(both[0] / both[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--photographs", type=int, default=50)
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--chunk", type=int, default=10, help="photographs at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "szegedy.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    images, labels = right(model, args.folder, args.photographs)
    arguments = {"model": args.model, "photographs": args.photographs, "seed": args.seed}
    for name in args.attacks:
        attack, options = ATTACKS[name]
        began = time.process_time()
        found = attack(
            jax.random.key(args.seed), model, images, labels, target="random",
            on=joi.Resources(
                chunk=args.chunk,
                progress=lambda done, total, name=name: print(f"{name}: {done} of {total}", flush=True),
            ),
            **options,
        )  # fmt: skip
        result = {"arguments": {**arguments, "attack": name}, **ground(), **figures(found, time.process_time() - began)}
        keep(args.out, result)
    print({"median_rms_by_ddns": quotient(args.out, arguments)})


if __name__ == "__main__":
    main()
