"""What PGD-40 costs besides its gradients: its time by that of 40 compiled gradients of the same batch, in turns.

    python benchmarks/attack_overhead.py squeezenet --batch 8
    python benchmarks/attack_overhead.py tin100 --batch 32

The attack's time holds all of it, from arrays to the result: the look at the network before, the 40 steps, and the last
judgment. Reports the quotients of the repeats, by wall clock and by processor time: on a machine that has other work
the least is the fairest. Writes `benchmarks/results/attack-overhead.json`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from record import RESULTS, ground, keep

import jaxopt_input as joi

STEPS = 40


def seconds(work: Callable[[], Any]) -> np.ndarray:
    """By wall clock, and of the processor."""
    begin = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "attack-overhead.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    key = jax.random.key(0)
    images = np.asarray(jax.random.uniform(key, (args.batch, *model.info.image_shape)), np.float32)
    labels = np.zeros(args.batch, np.int32)

    @jax.jit
    def gradient(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        def total(x: jax.Array) -> jax.Array:
            logits = model.apply(params, x, ("logits",))["logits"]
            return jax.vmap(lambda z, y: joi.losses.cross_entropy(y)({"logits": z}, z))(logits, labels).sum()

        return jax.grad(total)(x)

    def gradients() -> None:
        for _ in range(STEPS):
            jax.block_until_ready(gradient(model.params, images, labels))

    def attack() -> None:
        joi.attacks.pgd(
            key, model, images, labels, epsilon=4 / 255, steps=STEPS, stop=False, on=joi.Resources(chunk=args.batch)
        )

    jax.block_until_ready(gradient(model.params, images, labels))
    attack()
    pairs = [(seconds(gradients), seconds(attack)) for _ in range(args.repeats)]
    quotients = np.array([ours / theirs for theirs, ours in pairs])
    arguments = {"model": args.model, "batch": args.batch, "repeats": args.repeats}
    result = {
        "arguments": arguments,
        "quotient_wall": [round(float(q), 3) for q in quotients[:, 0]],
        "quotient_processor": [round(float(q), 3) for q in quotients[:, 1]],
        "least": {"wall": round(float(quotients[:, 0].min()), 3), "processor": round(float(quotients[:, 1].min()), 3)},
        "gradient_ms_an_image": round(1000 * min(float(g[0]) for g, _ in pairs) / STEPS / args.batch, 2),
        **ground(),
    }
    keep(args.out, result)


if __name__ == "__main__":
    main()
