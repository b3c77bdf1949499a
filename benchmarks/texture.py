"""Every style loss on a texture: how far it goes down from noise, and what comes out.

    python benchmarks/texture.py squeezenet --data DIR

DIR is `JAXOPT_INPUT_DATA` if left out. Each loss on the default layers of the network, in relative units, from noise in
the style's mean color and contrast, 300 evaluations at 256 pixels, the style's size as well (of a larger one a deep
layer has covariances of a rank that no image of 256 pixels reaches), with the total variation that `texture` has by
default; the figures are of the style's part alone. Pair losses are the biased estimates on their fixed sample. Writes
one entry a loss into `benchmarks/results/texture.json`, and with `--sheet` the style and the textures side by side.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jax
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.draw.sheet import Row, sheet
from jaxopt_input.methods.photo import resize
from jaxopt_input.methods.style.terms import STATISTICS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=os.environ.get("JAXOPT_INPUT_DATA"))
    parser.add_argument("--image", default="starry_night")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--style-size", type=int, help="of the style; as the texture if left out")
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--losses", nargs="+", default=list(STATISTICS))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "texture.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    whole = joi.data.read_image(Path(args.data) / "images" / f"{args.image}.jpg")
    side = args.style_size or args.size
    style = resize(whole[: 2 * args.size, : 2 * args.size], (side, side))
    pictures, names = [resize(style, (args.size, args.size))], ["style"]
    for loss in args.losses:
        options = {"size": args.size, "losses": (loss,), "key": jax.random.key(0)}
        began, processor = time.perf_counter(), time.process_time()
        first = float(joi.texture(model, style, tv_weight=0.0, steps=2, **options).scales[0].loss[0, 0])
        made = joi.texture(model, style, steps=args.evaluations, **options)
        scale = made.scales[0]
        last = float(scale.terms["style"][0])
        arguments = {"model": args.model, "image": args.image, "size": args.size, "style": side}
        arguments |= {"evaluations": args.evaluations}
        result = {
            "arguments": arguments,
            "loss": loss,
            "first": round(first, 6),
            "last": round(last, 8),
            "times_lower": round(first / last, 1),
            "evaluations": int(scale.evaluations[0]),
            "restarts": int(scale.restarts[0]),
            "seconds": round(time.perf_counter() - began, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
        }
        keep(args.out, {**result, **ground()}, ("arguments", "loss"))
        pictures.append(made.image[0])
        names.append(loss)
        if args.sheet:  # anew after each loss, so that a run that is cut short leaves one
            rows = [Row([[picture]], name) for picture, name in zip(pictures, names, strict=True)]
            joi.data.save_png(args.sheet, sheet(rows)[0])


if __name__ == "__main__":
    main()
