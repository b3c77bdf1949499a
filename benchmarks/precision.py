"""What precision does to results: the final loss of class images, and the success of an attack.

    python benchmarks/precision.py tin100 FOLDER --count 32

The same run in float32 products and activations, in TF32 products (which on a CPU are float32), and in bfloat16
activations: the class images of `--classes` classes from the same key, whose loss is taken again in float32; and PGD
on images of FOLDER within `--epsilon`, whose finds are judged by the network that was attacked and by it in float32.
Appends to `benchmarks/results/precision.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.models.model import in_dtype

PRECISIONS = {"float32": ("float32", "float32"), "tf32": ("tensorfloat32", "float32"), "bfloat16": (None, "bfloat16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", help="a data set: a folder or NAME:SPLIT")
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--epsilon", type=float, default=1.0, help="in units of 1/255, L∞")
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    dataset = joi.data.load(args.images, image_shape=model.info.image_shape)  # labels are what the network predicts
    chosen = dataset.select([k * len(dataset) // args.count for k in range(args.count)])
    images = np.concatenate([batch.images for batch in chosen.batches(args.count)])
    result = {
        "arguments": {**{k: v for k, v in vars(args).items() if k not in ("out", "images")}},
        "results": {name: measured(model, images, args, *PRECISIONS[name]) for name in PRECISIONS},
        **ground(),
    }
    keep(args.out, result)


def measured(model: Any, images: np.ndarray, args: argparse.Namespace, products: str | None, dtype: str) -> Any:
    """The figures of one precision."""
    classes = [k * len(model.info.labels) // args.classes for k in range(args.classes)]
    with jax.default_matmul_precision(products):
        targets, on = [f"class:{k}" for k in classes], joi.Resources(dtype=dtype)
        solution = joi.visualize(model, targets, steps=args.steps, key=jax.random.key(0), on=on)
        attacked = in_dtype(model, dtype)
        labels = np.asarray(attacked.activations(images, ["logits"])["logits"].argmax(-1))
        found = joi.attacks.pgd(
            jax.random.key(0), attacked, images, labels, epsilon=args.epsilon / 255, steps=args.attack_steps
        )
    with jax.default_matmul_precision("float32"):
        again = np.asarray(model.activations(solution.best_image, ["logits"])["logits"])[range(len(classes)), classes]
        judged = np.asarray(model.activations(found.image, ["logits"])["logits"].argmax(-1))
        truth = np.asarray(model.activations(images, ["logits"])["logits"].argmax(-1))
    return {
        "class_images": {
            "mean_logit": round(float(-np.mean(solution.best_loss)), 3),
            "mean_logit_in_float32": round(float(again.mean()), 3),
        },
        "attack": {
            "success": round(float(found.success.mean()), 3),
            "success_in_float32": round(float((judged != truth).mean()), 3),
            "predictions_that_float32_shares": round(float((labels == truth).mean()), 3),
        },
    }


if __name__ == "__main__":
    main()
