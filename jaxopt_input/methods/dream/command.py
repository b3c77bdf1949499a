"""`dream`: DeepDream."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from jaxopt_input.names import DREAM_PRESETS, NORMALIZATIONS, listed
from jaxopt_input.runs.options import animate_option, preset_option, run_options, together
from jaxopt_input.runs.run import Run

settings_options = together((
    click.option("--objective", metavar="NAME", help=(
        "What of a layer or channel grows: l2, its mean square, or mean, its mean.  [default: the preset's]"
    )),
    click.option("--octaves", type=click.IntRange(1, 64), help="Number of sizes.  [default: the preset's]"),
    click.option("--octave-scale", type=float, help="Ratio of two sizes.  [default: the preset's]"),
    click.option("--iterations", type=click.IntRange(1, 10**8), help=(
        "Steps in each octave.  [default: the preset's]"
    )),
    click.option("--step", type=float, help=(
        "What one iteration adds at the mean, images being in [0, 1].  [default: the preset's]"
    )),
    click.option("--jitter", type=click.IntRange(min=0), help=(
        "Largest random shift in pixels.  [default: the preset's]"
    )),
    click.option("--normalize", metavar="NAME", help=(
        f"How the gradient is scaled: {listed(NORMALIZATIONS)}.  [default: the preset's]"
    )),
    click.option("--tile", type=click.IntRange(min=1), help=(
        "Largest side in pixels that the network sees at once.  [default: 512, or less where memory is short]"
    )),
    click.option("--overlap", type=click.IntRange(min=0), help=(
        "Margin of a tile on each side in pixels.  [default: 64]"
    )),
))  # fmt: skip
"""The fields of `Settings` that the command takes."""


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option("--target", "targets", multiple=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL or class:NAME; 0.5*A+B weighs and adds. May be repeated.  [default: the preset's layers, or "
    "the map at two thirds of the network's depth]"
))  # fmt: skip
@preset_option(DREAM_PRESETS, "caffe2015")
@click.option("--size", type=click.IntRange(1, 2**16), help="Longer side of the image in pixels.  [default: its own]")
@click.option("--guide", metavar="IMAGE", help="An image whose features the target's layers are to show.")
@click.option("--guide-size", type=click.IntRange(1, 2**16), default=224, help="Longer side of the guide in pixels.")
@settings_options
@click.option("--frames", type=click.IntRange(min=1), default=1, help=(
    "Number of dreams, each of the one before, enlarged."
))  # fmt: skip
@click.option("--zoom", "zoom_scale", type=float, default=0.05, help="What each of the frames loses of its extent.")
@click.option("--fps", type=click.FloatRange(1, 50), default=12.0, help="Frames per second of the animation.")
@animate_option
@run_options(without=("chunk",))
@click.pass_context
def dream(context: click.Context, image: str, **options: Any) -> None:
    """Enhance in IMAGE, a file or the word noise, what layers, channels or classes respond to: DeepDream.

    With --frames the dream goes on: each frame is the one before, enlarged about its center and dreamt on again.
    """
    with Run.of(context) as run:
        from jaxopt_input.methods.dream import page
        from jaxopt_input.methods.dream.recipe import starting_image, zoom
        from jaxopt_input.methods.dream.settings import PRESETS, Settings
        from jaxopt_input.methods.presets import choose

        animate, frames = options["animate"], options["frames"]
        fields = {field.name for field in dataclasses.fields(Settings)}
        settings = choose(PRESETS, options["preset"], **{k: v for k, v in options.items() if k in fields})
        model, on, steps = run.model, run.resources, settings.iterations * len(settings.octaves)
        photo = starting_image(image, model, options["size"], run.key)
        guide = options["guide"] and starting_image(options["guide"], model, options["guide_size"], run.key)
        dreams = page.Passed(
            zoom(
                model,
                photo,
                options["targets"] or None,
                frames=frames,
                scale=options["zoom_scale"],
                key=run.key,
                preset=settings,
                guide=guide,
                snapshot_every=max(1, steps // 60) if animate and frames == 1 else 0,
                on=dataclasses.replace(on, memory=None) if options["tile"] and not options["memory"] else on,
            )
        )
        next(dreams)  # before anything is written
        if animate:
            run.write(page.film_page(dreams, animate, options["fps"]))
        for _ in dreams:  # the frames that no animation has asked for
            pass
        run.write(page.dream_page(dreams, photo, settings, model, run.spec.seed))
