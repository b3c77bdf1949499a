"""`texture` and `stylize`: the style of an image by itself, and with the content of another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.errors import InputError
from jaxopt_input.names import STYLE_COLORS, STYLE_LOSSES, STYLE_PRESETS, STYLE_STARTS, american, listed
from jaxopt_input.runs.options import animate_option, parameterization_option, preset_option, run_options, together
from jaxopt_input.runs.run import Run

if TYPE_CHECKING:
    import numpy as np

    from jaxopt_input.methods.style.recipe import Style, Stylized
    from jaxopt_input.models.model import Model

style_options = together((
    preset_option(STYLE_PRESETS),
    click.option("--loss", "losses", multiple=True, metavar="NAME[=WEIGHT]", help=(
        f"What a style is: {listed(STYLE_LOSSES)}. May be repeated.  [default: the preset's]"
    )),
    click.option("--style-layer", "style_layers", multiple=True, metavar="LAYER", help=(
        "Where the style is taken. May be repeated.  [default: the preset's, or one of each size of map]"
    )),
    click.option("--style-weight", "style_weights", type=float, multiple=True, help=(
        "Weight of each --style-layer, in their order, or one for all."
    )),
    click.option("--blend", type=float, multiple=True, help="Weight of each style image, in their order."),
    click.option("--style-mask", "style_masks", multiple=True, metavar="IMAGE", help=(
        "White where a style image counts, of its size; one for each style image."
    )),
    click.option("--style-scale", type=float, help="Size of the style image against the result.  [default: 1]"),
    click.option("--tv-weight", type=float, help="Weight of the total variation.  [default: the preset's]"),
    click.option("--optimizer", metavar="NAME", help="The optimizer: lbfgs or adam.  [default: the preset's]"),
    click.option("--learning-rate", type=float, help="Learning rate of adam.  [default: the preset's]"),
    click.option("--average", type=float, help="Decay of the average of adam's iterates; 0 takes the best one."),
    parameterization_option,
    click.option("--steps", type=click.IntRange(2, 10**8), help="Evaluations at each scale.  [default: the preset's]"),
    click.option("--first-steps", type=click.IntRange(2, 10**8), help="Evaluations at the first of several scales."),
    click.option("--smallest", type=click.IntRange(min=1), help=(
        "Begin with a longer side of so many pixels, then √2 times that, and so on.  [default: one scale]"
    )),
    click.option("--match-histogram", is_flag=True, default=None, help="Give the result the style's color histogram."),
    click.option("--starts", type=click.IntRange(min=1), default=1, help="Results, each from noise of its own."),
    animate_option,
    run_options(without=("chunk",)),
    click.pass_context,
))  # fmt: skip


@click.command()
@click.argument("styles", nargs=-1, required=True, metavar="IMAGE…")
@click.option("--size", default="256", metavar="SIDE|HEIGHTxWIDTH", help="Size of the result in pixels.")
@style_options
def texture(context: click.Context, styles: tuple[str, ...], size: str, **options: Any) -> None:
    """Make a texture like that of IMAGE, of any size, from noise; of several images, a blend."""
    sides = [int(side) if side.isdigit() else 0 for side in size.split("x")]
    if not 1 <= len(sides) <= 2 or not 1 <= min(sides) <= max(sides) <= 2**16:
        raise click.UsageError(f"--size is SIDE or HEIGHTxWIDTH in pixels, not {size!r}")
    with Run.of(context) as run:
        from jaxopt_input.methods.style.recipe import texture
        from jaxopt_input.methods.style.settings import TEXTURE

        photos, arguments = _styles(styles, options, run.model), _arguments(run, options)
        preset = TEXTURE if options["preset"] == "default" else options["preset"]
        made = texture(run.model, photos, size=(sides[0], sides[-1]), preset=preset, **arguments)
        _write(run, made, [style.photo for style in photos], "texture", options["animate"])


@click.command()
@click.argument("content", metavar="CONTENT")
@click.argument("styles", nargs=-1, required=True, metavar="STYLE…")
@click.option("--size", type=click.IntRange(1, 2**16), default=512, help="Longer side of the result in pixels.")
@click.option("--content-layer", "content_layers", multiple=True, metavar="LAYER", help=(
    "Where the content is taken. May be repeated.  [default: the preset's, or the middle of the smallest size but one]"
))  # fmt: skip
@click.option("--content-weight", type=float, help=(
    "Weight of the content against the style.  [default: the preset's]"
))  # fmt: skip
@click.option("--content-mask", "content_masks", multiple=True, metavar="IMAGE", help=(
    "White where the result takes a style, of the content's size; one for each style image."
))  # fmt: skip
@click.option("--color", default="style", metavar="|".join(STYLE_COLORS), help=(
    "Whose colors the result has: style, the style's; match, the style's moved to the content's; luminance, the "
    "content's, as the luminance alone takes the style."
))  # fmt: skip
@click.option("--initial", metavar="|".join((*STYLE_STARTS, "IMAGE")), help=(
    "What the optimization starts from.  [default: the preset's]"
))  # fmt: skip
@style_options
def stylize(context: click.Context, content: str, styles: tuple[str, ...], **options: Any) -> None:
    """Show the content of the image CONTENT in the style of one or several other images."""
    with Run.of(context) as run:
        from jaxopt_input.methods.style.recipe import stylize

        arguments, initial = _arguments(run, options), options["initial"]
        if initial is not None:
            named = american(initial) in STYLE_STARTS
            arguments["initial"] = american(initial) if named else _photo(initial, run.model)
        photo, photos = _photo(content, run.model), _styles(styles, options, run.model)
        arguments |= {name: options[name] for name in ("preset", "size", "color")}
        made = stylize(run.model, photo, photos, **arguments)
        _write(run, made, [photo, *(style.photo for style in photos)], "stylize", options["animate"])


def _write(run: Run, made: Stylized, photos: list[np.ndarray], name: str, animate: str | None) -> None:
    from jaxopt_input.methods.style.page import style_page

    run.write(style_page(made, photos, name, run.model.info.name, run.spec.seed, animate))


def _arguments(run: Run, options: dict[str, Any]) -> dict[str, Any]:
    """What `style_options` say, as arguments of a recipe, but for the preset."""
    from jaxopt_input.draw.animation import animation_steps
    from jaxopt_input.methods.style.settings import Settings

    fields = {field.name for field in dataclasses.fields(Settings)} & options.keys()
    on = run.stage("evaluation")
    return {
        **{name: options[name] for name in fields if options[name] != ()},
        "losses": tuple(map(_weighted, options["losses"])) or None,
        "starts": options["starts"],
        "key": run.key,
        "frames": functools.partial(animation_steps, frames=24) if options["animate"] else None,
        "on": on if options["memory"] else dataclasses.replace(on, memory=None),
        "on_scale": _say,
    }


def _say(shape: tuple[int, int], estimate: int, tile: int | None) -> None:
    """Say on standard error what a scale takes."""
    where = f"tiles of {tile} pixels" if tile else "the whole image"
    click.echo(f"{shape[1]}x{shape[0]}: at most about {estimate / 2**30:.1f} GiB, on {where}", err=True)


def _photo(file: str, model: Model) -> np.ndarray:
    from jaxopt_input import data

    photo = data.read_image(file)
    return photo if model.info.image_shape[2] == 3 else photo.mean(-1, keepdims=True)


def _styles(files: Sequence[str], options: dict[str, Any], model: Model) -> list[Style]:
    """The style images with their weights and masks."""
    from jaxopt_input.methods.style.recipe import Style

    lists: dict[str, Sequence[Any]] = {
        "blend weights": options["blend"] or [1.0] * len(files),
        "style masks": list(map(_mask, options["style_masks"])) or [None] * len(files),
        "content masks": list(map(_mask, options.get("content_masks", ()))) or [None] * len(files),
    }
    for what, values in lists.items():
        if len(values) != len(files):
            raise InputError(f"{len(values)} {what} for {len(files)} style images: give one each")
    return [Style(*parts) for parts in zip((_photo(file, model) for file in files), *lists.values(), strict=True)]


def _mask(file: str) -> np.ndarray:
    from jaxopt_input import data

    return data.read_mask(file)


def _weighted(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name, float(weight) if weight else 1.0
    except ValueError as error:
        raise click.UsageError(f"--loss is NAME or NAME=WEIGHT, not {text!r}") from error
