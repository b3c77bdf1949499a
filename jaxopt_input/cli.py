"""The command line: one sub-command a recipe, nothing but argument parsing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.errors import InputError

if TYPE_CHECKING:
    import jax


class _Commands(click.Group):
    """Turns the mistakes of a caller into one line on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"jaxopt-input: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="jaxopt-input")
def main() -> None:
    """Optimise the input of a trained network: pictures of what it has learned."""


@main.command()
@click.option("--target", "targets", multiple=True, required=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL, LAYER:CHANNEL@centre, LAYER:CHANNEL@Y,X, class:NAME, class:INDEX or class:WNID; "
    "* stands for all channels or classes. May be repeated."
))  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--starts", type=click.IntRange(min=1), default=1, help="Random starts of each target.")
@click.option("--steps", type=click.IntRange(min=1), default=256, help="Updates of each image.")
@click.option("--size", type=click.IntRange(min=1), help="Side of the image in pixels.  [default: the network's]")
@click.option("--optimizer", "optimizer_name", default="adam", help="An optimizer by name.")
@click.option("--learning-rate", type=float, help="[default: one that suits the optimizer]")
@click.option("--parameterization", default="fourier", help="What is optimised: pixels, fourier, …")
@click.option("--transform", "transform_name", default="lucid", help="What it must survive: lucid, jitter, none.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations.")
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def visualize(
    targets: tuple[str, ...],
    out: Path,
    model_name: str,
    starts: int,
    steps: int,
    size: int | None,
    optimizer_name: str,
    learning_rate: float | None,
    parameterization: str,
    transform_name: str,
    seed: int,
    dtype: str,
    chunk: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Images that excite a class, a layer, a channel or a unit the most."""
    import jax
    from tqdm import tqdm

    from jaxopt_input import images, networks, optimizers, transforms
    from jaxopt_input.recipes.visualize import visualize
    from jaxopt_input.report.run import check_folder, compile_seconds, write

    arguments = _arguments(click.get_current_context())
    check_folder(out, overwrite)
    image = images.by_name(parameterization)
    transform = transforms.by_name(transform_name)
    optimizer = optimizers.optimizer(optimizer_name, learning_rate)
    devices = _devices(device)
    begin = time.perf_counter()
    with compile_seconds() as compiling, tqdm(total=1, unit="step", leave=False, disable=None) as bar:

        def on_progress(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(done - bar.n)

        model = networks.load(model_name)
        solution = visualize(
            model,
            targets,
            starts=starts,
            steps=steps,
            size=size,
            image=image,
            transform=transform,
            optimizer=optimizer,
            key=jax.random.key(seed),
            dtype=dtype,
            chunk=chunk,
            devices=devices,
            on_progress=on_progress,
        )
        jax.block_until_ready(solution.best_image)
    seconds = {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)}
    labels = [model.info.label(int(name[6:])) if name.startswith("class:") else None for name in solution.names]
    info = write(
        out,
        solution,
        labels,
        model,
        devices=devices,
        command="visualize",
        arguments=arguments,
        seed=seed,
        seconds=seconds,
        overwrite=overwrite,
    )
    took = f"{seconds['compile']:.1f} s compiling, {seconds['run']:.1f} s running"
    click.echo(f"{len(info['results'])} images in {out} ({took})")
    _report_failures(info["results"])


def _arguments(context: click.Context) -> dict[str, Any]:
    """The options by the names that a user gave them; not those that say where the results lie."""
    names = {parameter.name: parameter.opts[0].lstrip("-") for parameter in context.command.params}
    return {names[key]: value for key, value in context.params.items() if key not in ("out", "overwrite")}


def _report_failures(results: list[dict[str, Any]]) -> None:
    """Name on standard error what is dead or not finite; exit 1 if no start of any target succeeded."""
    by_target: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_target.setdefault(result["target"], []).append(result)
    dead = [target for target, starts in by_target.items() if all(r["dead"] for r in starts)]
    broken = [r for r in results if not r["finite"]]
    if dead:
        shown = ", ".join(dead[:8]) + (f" and {len(dead) - 8} more" if len(dead) > 8 else "")
        click.echo(
            f"jaxopt-input: dead (zero gradient at every start): {shown}; try more --starts, another --seed or "
            "--parameterization, or a layer before the ReLU",
            err=True,
        )
    if broken:
        click.echo(
            f"jaxopt-input: {len(broken)} of {len(results)} starts met numbers that are not finite and kept their best "
            "finite image; try a smaller --learning-rate",
            err=True,
        )
    if all(r["dead"] or not r["finite"] for r in results):
        sys.exit(1)


def _devices(device: str) -> Sequence[jax.Device]:
    """The local devices of a platform, or an `InputError` where there is none."""
    import jax

    try:
        return jax.local_devices(backend=None if device == "auto" else device)
    except RuntimeError as error:
        raise InputError(f"no {device} to run on: {str(error).splitlines()[0]}") from error


@main.group()
def models() -> None:
    """List, inspect, fetch and import networks."""


@models.command("list")
def models_list() -> None:
    """The networks known by name."""
    from jaxopt_input import networks

    for entry in networks.entries().values():
        absent = "to be computed" if entry.derived else "to be fetched" if entry.address else "to be imported"
        state = "bundled" if entry.bundled else "in the cache" if entry.path().is_file() else absent
        height, width, _ = entry.image_shape
        click.echo(f"{entry.name:<14} {height}x{width:<5} {state:<15} {entry.classes}")


@models.command("info")
@click.argument("name")
@click.option("--size", type=click.IntRange(min=1), help="Show layer shapes for an image of this side.")
def models_info(name: str, size: int | None) -> None:
    """A network's source, licence, classes and layers with their shapes."""
    import jax
    import numpy as np

    from jaxopt_input import networks

    model = networks.load(name)
    entry = networks.entries().get(name)
    if entry:
        for field in ("architecture", "source", "licence", "classes", "preprocessing"):
            click.echo(f"{field:<14} {getattr(entry, field)}")
        click.echo(f"{'weights':<14} {entry.path()}")
    click.echo(f"{'sha256':<14} {model.info.sha256}")
    parameters = sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(model.params))
    click.echo(f"{'parameters':<14} {parameters:,}")
    shape = model.info.image_shape if size is None else (size, size, model.info.image_shape[2])
    click.echo(f"{'image':<14} {' x '.join(map(str, shape))}, values in [0, 1]")
    click.echo("layers")
    for layer, dimensions in model.layers(shape).items():
        click.echo(f"  {layer:<20} {' x '.join(map(str, dimensions))}")


@models.command("fetch")
@click.argument("name")
def models_fetch(name: str) -> None:
    """Download a network's weights from their official home into the user's cache, checked.

    What was cut off is taken up again where it stopped.
    """
    from jaxopt_input.networks.fetch import fetch_weights

    click.echo(f"{name}: {fetch_weights(name, progress=True)}")


@models.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def models_import(name: str, file: Path) -> None:
    """Put a checked copy of a network's weight FILE into the user's cache.

    FILE is what its authors publish. For torchvision's networks: a state dict of that architecture with torchvision's
    or timm's key names, as .safetensors, .npz, or, where PyTorch is installed, .pth; nothing in it is executed.
    """
    from jaxopt_input import networks

    click.echo(f"{name}: {networks.import_weights(name, file)}")


@models.command("normalise")
@click.argument("name")
@click.argument("data", metavar="DATA")
@click.option("--count", type=click.IntRange(min=1), default=500, help="How many of its images to use, evenly spread.")
def models_normalise(name: str, data: str, count: int) -> None:
    """Compute Gatys' normalised variant of vgg16 or vgg19, with average pooling, on the photographs of DATA.

    DATA is a folder, a file, or NAME:SPLIT of tensorflow-datasets. Every channel then has mean activation 1 on them;
    the network is kept in the user's cache as NAME-normalised.
    """
    from jaxopt_input import networks
    from jaxopt_input.data import load

    dataset = load(data, image_shape=networks.entry(name).image_shape)
    step = -(-len(dataset) // count)
    click.echo(f"{name}-normalised: {networks.normalise(name, dataset.select(range(0, len(dataset), step)))}")


if __name__ == "__main__":
    main()
