"""`texture` and `stylize`: the style of an image by itself, and with the content of another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jaxopt_input.names import american
from jaxopt_input.runs.old_options import devices_of, given_arguments, precision_option, progress_bar, report_failures

LOSSES = "gram, mean, covariance, wasserstein, batch-norm, mmd-linear, mmd-polynomial, mmd-gaussian, histogram, "
PRESETS = "default, gatys2015-texture, gatys2016, gatys2016-code, johnson, li2017-linear, -poly, -gaussian, -bn, "
OPTIONS = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write."),
    click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network."),
    click.option("--preset", default="default", help=f"Whose settings: {PRESETS}crowsonkb."),
    click.option("--loss", "losses", multiple=True, metavar="NAME[=WEIGHT]", help=(
        f"What a style is: {LOSSES}sliced-wasserstein. May be repeated.  [default: the preset's]"
    )),
    click.option("--style-layer", "style_layers", multiple=True, metavar="LAYER", help=(
        "Where the style is taken. May be repeated.  [default: the preset's, or one of each size of map]"
    )),
    click.option("--style-weight", "style_weights", type=float, multiple=True, help=(
        "Of each --style-layer, in their order, or one for all."
    )),
    click.option("--blend", type=float, multiple=True, help="The weight of each style image, in their order."),
    click.option("--style-mask", "style_masks", multiple=True, metavar="IMAGE", help=(
        "White where a style image counts, of its size; one for each style image."
    )),
    click.option("--style-scale", type=float, help="Size of the style image against the result.  [default: 1]"),
    click.option("--tv-weight", type=float, help="Of the total variation.  [default: the preset's]"),
    click.option("--optimizer", help="lbfgs or adam.  [default: the preset's]"),
    click.option("--learning-rate", type=float, help="Of adam.  [default: the preset's]"),
    click.option("--average", type=float, help="Decay of the average of adam's iterates; 0 takes the best one."),
    click.option("--parameterization", help="pixels, pixels-sigmoid, fourier, …  [default: the preset's]"),
    click.option("--steps", type=click.IntRange(min=2), help="Evaluations at each scale.  [default: the preset's]"),
    click.option("--first-steps", type=click.IntRange(min=2), help="Evaluations at the first of several scales."),
    click.option("--smallest", type=click.IntRange(min=1), help=(
        "Begin with a longer side of so many pixels, then √2 times that, and so on.  [default: one scale]"
    )),
    click.option("--match-histogram", is_flag=True, default=None, help="Give the result the style's color histogram."),
    click.option("--animate", metavar="gif|webp|mp4", help="Write an animation of the optimization."),
    click.option("--starts", type=click.IntRange(min=1), default=1, help="Results, each from noise of its own."),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations."),
    precision_option,
    click.option("--memory", metavar="AMOUNT", help=(
        "What it may take, such as 4GiB.  [default: half of the free, at most 4GiB of a CPU's]"
    )),
    click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on."),
    click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder."),
)  # fmt: skip


def _style_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("styles", nargs=-1, required=True, metavar="IMAGE…")
@click.option("--size", default="256", metavar="SIDE|HEIGHTxWIDTH", help="Of the result in pixels.")
@_style_options
def texture(styles: tuple[str, ...], size: str, **options: Any) -> None:
    """Make a texture like that of IMAGE, of any size, from noise; of several images, a blend."""
    from jaxopt_input.methods.style import recipe
    from jaxopt_input.methods.style.settings import TEXTURE

    sides = [int(side) if side.isdigit() else 0 for side in size.split("x")]
    if not 1 <= len(sides) <= 2 or min(sides) < 1:
        raise click.UsageError(f"--size is SIDE or HEIGHTxWIDTH in pixels, not {size!r}")

    def make(model: Any, pictures: list[Any], preset: Any, **rest: Any) -> Any:
        chosen = TEXTURE if preset == "default" else preset
        return recipe.texture(model, pictures, size=(sides[0], sides[-1]), preset=chosen, **rest)

    _synthesize("texture", None, styles, make, options)


@click.command()
@click.argument("content", metavar="CONTENT")
@click.argument("styles", nargs=-1, required=True, metavar="STYLE…")
@click.option("--size", type=click.IntRange(min=1), default=512, help="Longer side of the result in pixels.")
@click.option("--content-layer", "content_layers", multiple=True, metavar="LAYER", help=(
    "Where the content is taken. May be repeated.  [default: the preset's, or the middle of the smallest size but one]"
))  # fmt: skip
@click.option("--content-weight", type=float, help="Against the style.  [default: the preset's]")
@click.option("--content-mask", "content_masks", multiple=True, metavar="IMAGE", help=(
    "White where the result takes a style, of the content's size; one for each style image."
))  # fmt: skip
@click.option("--color", default="style", help="style, match (its colors moved to the content's), or luminance.")
@click.option("--initial", default=None, metavar="content|style|noise|gray|IMAGE", help=(
    "What to begin with.  [default: the preset's]"
))  # fmt: skip
@_style_options
def stylize(
    content: str,
    styles: tuple[str, ...],
    size: int,
    content_masks: tuple[str, ...],
    color: str,
    initial: str | None,
    **options: Any,
) -> None:
    """Show the content of the image CONTENT in the style of one or several other images."""
    from jaxopt_input.methods.style import recipe

    def make(model: Any, pictures: list[Any], preset: Any, **rest: Any) -> Any:
        named = initial is None or american(initial) in ("content", "style", "noise", "gray")
        first = initial and american(initial) if named else _picture(str(initial), model)
        masks = [_mask(mask) for mask in content_masks]
        rest |= {"content_masks": masks, "color": color, "initial": first}
        return recipe.stylize(model, _picture(content, model), pictures, preset=preset, size=size, **rest)

    _synthesize("stylize", content, styles, make, options)


def _picture(file: str, model: Any) -> Any:
    from jaxopt_input import data

    picture = data.read_image(file)
    return picture if model.info.image_shape[2] == 3 else picture.mean(-1, keepdims=True)


def _mask(file: str) -> Any:
    from jaxopt_input import data

    return data.read_image(file).mean(-1)


def _synthesize(
    command: str, content: str | None, styles: tuple[str, ...], make: Callable[..., Any], options: dict[str, Any]
) -> None:
    """What both commands do with what they have in common."""
    import jax

    from jaxopt_input import networks
    from jaxopt_input.draw.animation import animation_steps, check_format
    from jaxopt_input.engine.memory import parse_bytes
    from jaxopt_input.methods.style.page import write_stylized
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    arguments = given_arguments(click.get_current_context())
    out, animate, seed, memory = (options.pop(name) for name in ("out", "animate", "seed", "memory"))
    overwrite, name, device = (options.pop(name) for name in ("overwrite", "model_name", "device"))
    del options["precision"]  # in force already
    check_folder(out, overwrite)
    if animate:
        check_format(animate)
    devices = devices_of(device)[:1]
    losses = [_weighted(text) for text in options.pop("losses")]
    masks, blend = options.pop("style_masks"), options.pop("blend")
    preset, starts, dtype = (options.pop(name) for name in ("preset", "starts", "dtype"))
    changes = {name: value for name, value in options.items() if value not in (None, ())}
    if losses:
        changes["losses"] = tuple(losses)
    begin = time.perf_counter()
    with compile_seconds() as compiling, progress_bar("evaluation") as on_progress:
        model = networks.load(name)

        def on_scale(shape: tuple[int, int], estimate: int, tile: int | None) -> None:
            on = f"tiles of {tile} pixels" if tile else "the whole image"
            told = f"{shape[1]}x{shape[0]}: at most about {estimate / 2**30:.1f} GiB, on {on}"
            click.echo(told, err=True)

        done = make(
            model,
            [_picture(style, model) for style in styles],
            preset,
            blend=blend or None,
            style_masks=[_mask(mask) for mask in masks],
            key=jax.random.key(seed),
            starts=starts,
            dtype=dtype,
            memory=parse_bytes(memory) if memory else None,
            frames=(lambda steps: animation_steps(steps, 24)) if animate else None,
            devices=devices,
            on_progress=on_progress,
            on_scale=on_scale,
            **changes,
        )
        shown = [_picture(file, model) for file in (*((content,) if content else ()), *styles)]
    info = write_stylized(
        out,
        done,
        shown,
        model,
        devices=devices,
        command=command,
        arguments=arguments,
        seed=seed,
        seconds={"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)},
        overwrite=overwrite,
        animate=animate,
    )
    took = f"{info['seconds']['compile']:.1f} s compiling, {info['seconds']['run']:.1f} s running"
    click.echo(f"{info['results'][0]['image']} in {out} ({took})")
    report_failures(info["results"], "another style layer", "a smaller --style-weight or --learning-rate")


def _weighted(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name, float(weight) if weight else 1.0
    except ValueError as error:
        raise click.UsageError(f"--loss is NAME or NAME=WEIGHT, not {text!r}") from error
