"""`invert`: images that a layer cannot tell from a photograph."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from jaxopt_input.runs.old_options import devices_of, given_arguments, precision_option, progress_bar, report_failures


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option("--layer", "layers", multiple=True, required=True, metavar="LAYER", help=(
    "What to match; A+B is one image that matches both, 0.5*A+B weighs them, all is every layer. Repeated, it makes a "
    "ladder: one image a --layer."
))  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--preset", "preset_name", default="default", help=(
    "What is not given below is that of a method: default, mahendran2015, mahendran2016."
))  # fmt: skip
@click.option("--starts", type=click.IntRange(min=1), default=1, help="Random starts of each --layer.")
@click.option("--steps", type=click.IntRange(min=1), help="Updates of each image.  [default: the preset's]")
@click.option("--size", type=click.IntRange(min=1), help="Side of the image in pixels.  [default: the network's]")
@click.option("--channels", metavar="FIRST:PAST-THE-LAST", help="Match this group of channels alone.")
@click.option("--region", metavar="Y0,X0,Y1,X1", help=(
    "Match what is seen around this rectangle alone: the positions of a layer whose receptive field has its center in "
    "it. In pixels of the image, the last two past its end."
))  # fmt: skip
@click.option("--optimizer", "optimizer_name", help="An optimizer by name.  [default: the preset's]")
@click.option("--learning-rate", type=float, help="[default: one that suits the optimizer]")
@click.option("--parameterization", help="What is optimized: pixels, fourier, pyramid, …  [default: the preset's]")
@click.option("--regularizer", "regularizers", multiple=True, metavar="NAME[^EXPONENT]=WEIGHT", help=(
    "A penalty: alpha-norm, pixel-norm, total-variation (each with an exponent, as in total-variation^1=1e-6), l2, "
    "total-variation-l1. May be repeated.  [default: the preset's]"
))  # fmt: skip
@click.option("--animate", metavar="gif|webp|mp4", help="Write an animation of the optimization.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations.")
@precision_option
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.")
@click.option("--memory", metavar="AMOUNT", help="What the run may take, such as 4GiB.  [default: half of the free]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def invert(
    image: str,
    layers: tuple[str, ...],
    out: Path,
    model_name: str,
    preset_name: str,
    starts: int,
    steps: int | None,
    size: int | None,
    channels: str | None,
    region: str | None,
    optimizer_name: str | None,
    learning_rate: float | None,
    parameterization: str | None,
    regularizers: tuple[str, ...],
    animate: str | None,
    seed: int,
    dtype: str,
    precision: str | None,
    chunk: int | None,
    memory: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Images that a layer cannot tell from IMAGE: what its features keep of it, and what they lose."""
    import jax

    from jaxopt_input import data, images, networks, optimizers
    from jaxopt_input.draw.animation import animation_steps, check_format
    from jaxopt_input.engine.memory import free_bytes, parse_bytes
    from jaxopt_input.methods.invert import parts
    from jaxopt_input.methods.invert.page import write_inversion
    from jaxopt_input.methods.invert.recipe import invert
    from jaxopt_input.methods.invert.settings import preset
    from jaxopt_input.methods.visualize.recipe import sized
    from jaxopt_input.methods.visualize.settings import regularizer
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    arguments = given_arguments(click.get_current_context())
    check_folder(out, overwrite)
    if animate:
        check_format(animate)
    devices, penalties = devices_of(device), [regularizer(text) for text in regularizers]
    options: dict[str, Any] = {
        "preset": preset_name,
        "channels": parts.parse_channels(channels) if channels else None,
        "region": parts.parse_region(region) if region else None,
        "parameterization": images.by_name(parameterization) if parameterization else None,
        "optimizer": optimizers.optimizer(optimizer_name) if optimizer_name else None,
        "regularizer": sum(penalties[1:], penalties[0]) if penalties else None,
        "memory": parse_bytes(memory) if memory else free_bytes(devices) // 2,
    }
    begin = time.perf_counter()
    with compile_seconds() as compiling, jax.default_device(devices[0]), progress_bar("step") as on_progress:
        model = networks.load(model_name)
        shape = sized(model, size)
        photograph = data.read_image(image, shape)
        if animate:
            options["snapshots"] = animation_steps(steps or preset(preset_name, shape, 1.0, 1.0).steps)
        found = invert(
            model,
            photograph,
            layers,
            starts=starts,
            steps=steps,
            learning_rate=learning_rate,
            key=jax.random.key(seed),
            dtype=dtype,
            chunk=chunk,
            devices=devices,
            on_progress=on_progress,
            **options,
        )
    seconds = {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)}
    info = write_inversion(
        out,
        found,
        model,
        devices=devices,
        command="invert",
        arguments=arguments,
        seed=seed,
        seconds=seconds,
        overwrite=overwrite,
        animate=animate,
    )
    took = f"{seconds['compile']:.1f} s compiling, {seconds['run']:.1f} s running"
    click.echo(f"{len(info['results'])} images in {out} ({took})")
    for name, errors in info["error"].items():
        shown = ", ".join(f"{layer} {'not finite' if e is None else f'{100 * e:.3g} %'}" for layer, e in errors.items())
        click.echo(f"{name}: error {shown}" if name not in errors else f"error at {shown}")
    report_failures(info["results"], "another image or --seed, or a layer before the ReLU")
