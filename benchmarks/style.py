"""L-BFGS of this package against PyTorch's on style transfer, over six pairs of content and style.

    python benchmarks/style.py squeezenet --data DIR

DIR is `JAXOPT_INPUT_DATA` if left out. Each pair's loss (Gram matrices and content in relative units, total variation,
as `stylize` has them) is minimized from the content at 512 pixels by 100 evaluations of the loss: by `minimize` with
`lbfgs`, and by `torch.optim.LBFGS` with history 100 and no line search, which is handed the same compiled loss and
gradient. Ours moves pixels within [0, 1]; theirs knows no bounds, and is scored as it ends ("torch") and clipped to
[0, 1], as it would be shown. Adam's best of several rates stands beside them. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.methods.photo import resize
from jaxopt_input.methods.style.settings import Settings, default_layers
from jaxopt_input.methods.style.terms import content_loss, style_loss, variation_loss

STYLES = ("starry_night", "the_scream", "shipwreck")
RATES = (0.01, 0.02)


def pairs(data: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Two contents times three styles, longer side 512."""

    def read(name: str) -> np.ndarray:
        image = joi.data.read_image(data / "images" / f"{name}.jpg")
        factor = 512 / max(image.shape[:2])
        return np.clip(resize(image, tuple(round(side * factor) for side in image.shape[:2])), 0, 1)

    contents = ("tubingen", "shipwreck")
    return [
        (f"{content}+{style}", read(content), read(style))
        for content in contents
        for style in (*STYLES, "tubingen")
        if content != style
    ]


def problem(model: joi.Model, content: np.ndarray, style: np.ndarray, settings: Any) -> joi.losses.Loss:
    """The loss of a pair."""
    style_layers, content_layers = default_layers(model, content.shape)

    def features(image: np.ndarray, layers: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {k: np.asarray(v[0]) for k, v in model.activations(image[None], layers).items()}

    shapes = model.layers(content.shape)
    weights = dict.fromkeys(style_layers, 1.0)
    loss = style_loss(features(style, style_layers), shapes, settings, weights, jax.random.key(0))
    return loss + content_loss(features(content, content_layers), settings) + variation_loss(content.shape, settings)


@jax.jit
def total(loss: joi.losses.Loss, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
    return loss({tap: a[0] for tap, a in activations.items()}, image)


def torch_lbfgs(function: Callable[[jax.Array], tuple[Any, Any]], theta: np.ndarray, evaluations: int) -> np.ndarray:
    """θ after so many evaluations of `function`, θ → (value, gradient), by PyTorch."""
    leaf = torch.tensor(np.array(theta)).requires_grad_()
    rule = torch.optim.LBFGS(
        [leaf], lr=1, history_size=100, max_iter=evaluations, max_eval=evaluations, tolerance_grad=0, tolerance_change=0
    )

    def closure() -> torch.Tensor:
        value, gradient = function(jnp.asarray(leaf.detach().numpy()))
        leaf.grad = torch.tensor(np.array(gradient))
        return torch.tensor(float(value))

    rule.step(closure)
    return leaf.detach().numpy()


def compared(model: joi.Model, content: np.ndarray, style: np.ndarray, evaluations: int) -> dict[str, float]:
    """The loss that each way ends with."""
    settings = Settings()
    loss = problem(model, content, style, settings)
    pixels = joi.images.pixels(content.shape)

    @jax.jit
    def of_image(image: jax.Array) -> jax.Array:
        return total(loss, model.apply(model.params, image[None], loss.taps), image)

    free = jax.jit(jax.value_and_grad(of_image))
    found: dict[str, float] = {"first": float(of_image(content))}

    def ours(optimizer: Any) -> float:
        steps = evaluations - 1
        solution = joi.minimize(
            loss, model, image=pixels, optimizer=optimizer, steps=steps, key=jax.random.key(0), initial=content
        )
        assert int(solution.evaluations[0]) <= evaluations
        return float(of_image(solution.best_image[0]))

    found["lbfgs"] = ours(joi.optimizers.lbfgs(max_evaluations=evaluations))
    theta = torch_lbfgs(free, content, evaluations)
    found["torch"], found["torch-clipped"] = float(of_image(theta)), float(of_image(np.clip(theta, 0, 1)))
    for rate in RATES:
        found[f"adam-{rate}"] = ours(joi.optimizers.adam(rate))
    return {name: round(value, 6) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=os.environ.get("JAXOPT_INPUT_DATA"))
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS / "style.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    rows = {}
    for name, content, style in pairs(Path(args.data))[: args.pairs]:
        rows[name] = compared(model, content, style, args.evaluations)
        print(name, rows[name], flush=True)

    def against(mine: str, theirs: str) -> float:
        ratios = [row[mine] / row[theirs] for row in rows.values()]
        return round(float(np.exp(np.mean(np.log(ratios)))), 4)

    ways = [way for way in next(iter(rows.values())) if way != "first"]
    best_rate = min(RATES, key=lambda rate: against(f"adam-{rate}", "torch"))
    keep(
        args.out,
        {
            "arguments": {"model": args.model, "evaluations": args.evaluations, "pairs": len(rows)},
            "loss": rows,
            "geometric_mean_against": {
                theirs: {way: against(way, theirs) for way in ways} for theirs in ways if theirs.startswith("torch")
            },
            "adam_best_rate": best_rate,
            **ground(),
            "torch": torch.__version__,
        },
    )


if __name__ == "__main__":
    main()
