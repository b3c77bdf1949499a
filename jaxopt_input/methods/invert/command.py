"""`invert`: images that a layer cannot tell from a photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.names import IMAGE_REGULARIZERS, INVERT_PRESETS, listed
from jaxopt_input.runs.options import animate_option, descent_options, preset_option, run_options
from jaxopt_input.runs.run import Run

if TYPE_CHECKING:
    from jaxopt_input.engine.solution import Solution


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option("--layer", "layers", multiple=True, required=True, metavar="LAYER", help=(
    "What to match; A+B is one image that matches both, 0.5*A+B weighs them, all is every layer. Repeated, it makes a "
    "ladder: one image per --layer."
))  # fmt: skip
@preset_option(INVERT_PRESETS)
@click.option("--starts", type=click.IntRange(min=1), default=1, help="Random starts of each --layer.")
@click.option("--steps", type=click.IntRange(1, 10**8), help="Updates of each image.  [default: the preset's]")
@click.option("--size", type=click.IntRange(1, 2**16), help="Side of the image in pixels.  [default: the network's]")
@click.option("--channels", metavar="FIRST:PAST-THE-LAST", help="Match this group of channels alone.")
@click.option("--region", metavar="Y0,X0,Y1,X1", help=(
    "Match what is seen around this rectangle alone: the positions of a layer whose receptive field has its center in "
    "it. In pixels of the image, the last two past its end."
))  # fmt: skip
@descent_options
@click.option("--regularizer", "regularizers", multiple=True, metavar="NAME[^EXPONENT]=WEIGHT", help=(
    f"A penalty of the image: {listed(IMAGE_REGULARIZERS)}; some take an exponent, as in total-variation^1=1e-6. May "
    "be repeated.  [default: the preset's]"
))  # fmt: skip
@animate_option
@run_options()
@click.pass_context
def invert(context: click.Context, image: str, layers: tuple[str, ...], **options: Any) -> None:
    """Make images that a layer cannot tell from IMAGE: what its features keep of it, and what they lose."""
    with Run.of(context) as run:
        from jaxopt_input import data
        from jaxopt_input.draw.animation import animation_steps
        from jaxopt_input.methods.invert import parts
        from jaxopt_input.methods.invert.page import inversion_page, rung_page
        from jaxopt_input.methods.invert.recipe import invert
        from jaxopt_input.methods.invert.settings import preset
        from jaxopt_input.methods.visualize.recipe import sized
        from jaxopt_input.methods.visualize.settings import regularizer

        def parsed(name: str, parse: Callable[[str], Any]) -> Any:
            return parse(options[name]) if options[name] else None

        names: list[str] = []

        def write(solution: Solution) -> None:
            page = rung_page(solution, names, run.model.info.name, run.spec.seed)
            names.extend(page.items)
            run.write(page)

        animate, steps, shape = options["animate"], options["steps"], sized(run.model, options["size"])
        penalties = list(map(regularizer, options["regularizers"]))
        inversion = invert(
            run.model,
            data.read_image(image, shape),
            layers,
            channels=parsed("channels", parts.parse_channels),
            region=parsed("region", parts.parse_region),
            image=options["parameterization"],
            regularizer=sum(penalties[1:], penalties[0]) if penalties else None,
            snapshots=animation_steps(steps or preset(options["preset"], shape, 1.0, 1.0).steps) if animate else (),
            key=run.key,
            on=dataclasses.replace(run.resources, receive=write),
            **{name: options[name] for name in ("preset", "starts", "steps", "optimizer", "learning_rate")},
        )
        run.write(inversion_page(inversion, run.model.info.name, run.spec.seed, animate))
