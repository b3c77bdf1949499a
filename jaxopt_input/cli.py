"""The command line: one sub-command a recipe, nothing but argument parsing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
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
@click.option("--target", "targets", multiple=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL, LAYER:CHANNEL@centre, LAYER:CHANNEL@Y,X, class:NAME, class:INDEX or class:WNID; "
    "* stands for all channels or classes. -TARGET is what excites it the least, A+B both at once, 0.5*TARGET weighs, "
    "A~B leads from one to the other across the starts. May be repeated."
))  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--starts", type=click.IntRange(min=1), default=1, help="Random starts of each target.")
@click.option("--preset", "preset_name", default="default", help=(
    "What is not given below is that of a method: default, erhan, simonyan, yosinski-1 to -4, lucid, maco, cppn, plain."
))  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Updates of each image.  [default: the preset's]")
@click.option("--size", type=click.IntRange(min=1), help="Side of the image in pixels.  [default: the network's]")
@click.option("--optimizer", "optimizer_name", help="An optimizer by name.  [default: the preset's]")
@click.option("--learning-rate", type=float, help="[default: one that suits the optimizer]")
@click.option("--parameterization", help="What is optimised: pixels, fourier, pyramid, …  [default: the preset's]")
@click.option("--transform", "transform_name", help=(
    "What it must survive: lucid, jitter, none.  [default: the preset's]"
))  # fmt: skip
@click.option("--objective", "class_objective", metavar="NAME", help=(
    "How a class is excited: logit, probability, log-probability, or default.  [default: the preset's]"
))  # fmt: skip
@click.option("--regularizer", "regularizers", multiple=True, metavar="NAME[:LAYER]=WEIGHT", help=(
    "A penalty: l2, total-variation, total-variation-l1; diversity:LAYER or alignment:LAYER among a target's starts. "
    "May be repeated.  [default: the preset's]"
))  # fmt: skip
@click.option("--like", metavar="IMAGE", help="A LAYER target becomes the caricature of this image.")
@click.option("--animate", metavar="gif|webp|mp4", help="Write an animation of the optimisation.")
@click.option("--redirect-relu", is_flag=True, help="Let gradients through dead ReLUs in the first 16 steps.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations.")
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.")
@click.option("--memory", metavar="AMOUNT", help="What the run may take, such as 4GiB.  [default: half of the free]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--field", is_flag=True, help="Optimise LAYER:CHANNEL or LAYER:* on the unit's receptive field alone.")
@click.option("--crop", is_flag=True, help="Crop images of LAYER:CHANNEL@centre or @Y,X to the receptive field.")
@click.option("--compare", "others", multiple=True, metavar="MODEL", help=(
    "Run the same on this network too, side by side with --model. May be repeated."
))  # fmt: skip
@click.option("--with-data", metavar="DATASET", help="Show each target's images of a data set: a folder or NAME:SPLIT.")
@click.option("--top", type=click.IntRange(min=1), default=9, help="Images of --with-data at each end.")
@click.option("--filters", is_flag=True, help="Show the first layer's filters (or --layer's) instead of targets.")
@click.option("--feature-maps", metavar="IMAGE", help="Show the maps of each --layer for an image instead.")
@click.option("--activation-grid", metavar="IMAGE", help="Show what --layer sees at each place of an image instead.")
@click.option("--layer", "layers", multiple=True, metavar="LAYER", help="Of filters, maps or grid. May be repeated.")
@click.option("--cells", type=click.IntRange(min=1), default=8, help="Rows and columns of the grid at most.")
@click.option("--groups", type=click.IntRange(min=1), help="Show so many neuron groups in place of the grid.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def visualize(
    targets: tuple[str, ...],
    out: Path,
    model_name: str,
    starts: int,
    preset_name: str,
    steps: int | None,
    size: int | None,
    optimizer_name: str | None,
    learning_rate: float | None,
    parameterization: str | None,
    transform_name: str | None,
    class_objective: str | None,
    regularizers: tuple[str, ...],
    like: str | None,
    animate: str | None,
    redirect_relu: bool,
    seed: int,
    dtype: str,
    chunk: int | None,
    memory: str | None,
    device: str,
    field: bool,
    crop: bool,
    others: tuple[str, ...],
    with_data: str | None,
    top: int,
    overwrite: bool,
    **look: Any,
) -> None:
    """Images that excite a class, a layer, a channel or a unit the most."""
    if bool(targets) + sum(bool(look[what]) for what in ("filters", "feature_maps", "activation_grid")) != 1:
        raise click.UsageError("give one of --target, --filters, --feature-maps and --activation-grid")
    if not targets:
        return _look(click.get_current_context())
    _refuse(click.get_current_context(), "--target", {"layers", "cells", "groups"})
    if field:
        apart = {"preset_name", "size", "class_objective", "like", "redirect_relu", "crop"}
        _refuse(click.get_current_context(), "--field", apart)
    if others:
        return _compare(click.get_current_context(), (model_name, *others))
    import jax
    from tqdm import tqdm

    from jaxopt_input import data, images, networks, optimizers, transforms
    from jaxopt_input.memory import free_bytes, parse_bytes
    from jaxopt_input.recipes import presets, units
    from jaxopt_input.recipes.beside import beside_targets
    from jaxopt_input.recipes.target import expand, label
    from jaxopt_input.recipes.visualize import sized, visualize
    from jaxopt_input.report.animation import animation_steps, check_format
    from jaxopt_input.report.exemplars import beside_files
    from jaxopt_input.report.run import check_folder, compile_seconds, write
    from jaxopt_input.report.versions import versions

    arguments = _arguments(click.get_current_context())
    check_folder(out, overwrite)
    if animate:
        check_format(animate)
    image = images.by_name(parameterization) if parameterization else None
    optimizer = optimizers.optimizer(optimizer_name) if optimizer_name else None
    transform = transforms.by_name(transform_name) if transform_name else ...
    penalties = [presets.regularizer(text) for text in regularizers]
    key, devices = jax.random.key(seed), _devices(device)
    begin = time.perf_counter()
    with compile_seconds() as compiling, tqdm(total=1, unit="step", leave=False, disable=None) as bar:

        def on_progress(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(done - bar.n)

        model = networks.load(model_name)
        beside = None
        if with_data:
            wanted = [one for text in targets for one in expand(text, model, sized(model, size))]
            with _bar("image") as on_images:
                beside = beside_targets(model, with_data, wanted, k=top, device=devices[0], on_progress=on_images)
        chosen = presets.preset(preset_name, sized(model, size))
        kept: dict[str, Any] = {"memory": parse_bytes(memory) if memory else free_bytes(devices) // 2}
        if animate and not chosen.alpha:  # a preset with an importance mask keeps its own
            kept["snapshots"] = animation_steps(steps or chosen.steps)
        kept |= {"key": key, "dtype": dtype, "chunk": chunk, "devices": devices, "on_progress": on_progress}
        if crop:
            units.units_of(model, targets, sized(model, size))  # before anything is computed
        if field:
            solution = units.visualize_units(
                model,
                targets,
                starts=starts,
                steps=steps or chosen.steps,
                image=image or chosen.image,
                transform=chosen.transform if transform is ... else transform,
                optimizer=optimizers.optimizer(optimizer_name or "adam", learning_rate),
                regularizer=sum(penalties[1:], penalties[0]) if penalties else None,
                **kept,
            )
        else:
            solution = visualize(
                model,
                targets,
                starts=starts,
                steps=steps,
                size=size,
                preset=preset_name,
                image=image,
                transform=transform,
                optimizer=optimizer,
                learning_rate=learning_rate,
                regularizer=sum(penalties[1:], penalties[0]) if penalties else None,
                class_objective=class_objective,
                like=data.read_image(like, sized(model, size)) if like else None,
                redirected=redirect_relu,
                **kept,
            )
        if crop:
            solution = units.crop_to_field(solution, model)
        jax.block_until_ready(solution.best_image)
        pictures, entries = versions(solution, preset_name, model, key)
        if field or crop:
            entries = {**entries, "field": units.field_of(solution, model)}
    seconds = {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)}
    sheets, more = beside_files(beside, solution, model) if beside else ({}, {})
    labels = [label(name, model) for name in solution.names]
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
        sheets={**sheets, **pictures},
        more={**more, **entries},
        animate=animate,
    )
    took = f"{seconds['compile']:.1f} s compiling, {seconds['run']:.1f} s running"
    click.echo(f"{len(info['results'])} images in {out} ({took})")
    _report_failures(info["results"])


def _compare(context: click.Context, names: Sequence[str]) -> None:
    """`visualize --compare`: one run a network, each in a folder of its own, then one sheet."""
    from jaxopt_input import networks
    from jaxopt_input.recipes.compare import check_comparable
    from jaxopt_input.report.compare import folder_names, write_comparison
    from jaxopt_input.report.run import check_folder, prepare

    given, parts = context.params, folder_names(names)
    out, devices = given["out"], _devices(given["device"])
    check_folder(out, given["overwrite"])
    models = [networks.load(name) for name in names]
    check_comparable(models, given["targets"], given["size"])
    prepare(out, given["overwrite"])
    failed = 0
    for name, part in zip(names, parts, strict=True):
        try:
            context.invoke(visualize, **{**given, "model_name": name, "out": out / part, "others": ()})
        except SystemExit:  # nothing succeeded with this network; its results are written
            failed += 1
    info = write_comparison(
        out,
        parts,
        models,
        devices=devices,
        command="visualize",
        arguments=_arguments(context),
        seed=given["seed"],
    )
    click.echo(f"{len(info['results'])} images of {len(parts)} networks side by side in {out / 'sheet.png'}")
    if failed == len(parts):
        sys.exit(1)


def _look(context: click.Context) -> None:
    """`visualize` without targets: a layer's filters; an image's maps, activation grid or neuron groups."""
    import jax
    import numpy as np

    from jaxopt_input import data, images, losses, networks, optimizers, transforms
    from jaxopt_input.optimize import minimize
    from jaxopt_input.recipes import features
    from jaxopt_input.recipes.presets import preset
    from jaxopt_input.recipes.visualize import sized
    from jaxopt_input.report.features import grid_files, group_files, write_filters, write_maps
    from jaxopt_input.report.run import check_folder, compile_seconds, write

    given = context.params
    out, layers, key = given["out"], given["layers"], jax.random.key(given["seed"])
    if (given["feature_maps"] and not layers) or (given["activation_grid"] and len(layers) != 1):
        raise click.UsageError("name the layer of the image's maps by --layer; the activation grid takes one")
    if given["filters"] and len(layers) > 1:
        raise click.UsageError("--filters takes one --layer")
    what = next(name for name in ("filters", "feature_maps", "activation_grid") if given[name])
    taken = {what, "layers", "out", "model_name", "seed", "device", "overwrite"}
    if what == "activation_grid":
        taken |= {"cells", "groups", "starts", "preset_name", "steps", "size", "optimizer_name", "learning_rate"}
        taken |= {"parameterization", "transform_name", "dtype", "chunk"}
    _refuse(context, f"--{what.replace('_', '-')}", set(given) - taken)
    check_folder(out, given["overwrite"])
    devices = _devices(given["device"])
    run = {"command": "visualize", "arguments": _arguments(context), "seed": given["seed"], "devices": devices}
    run |= {"overwrite": given["overwrite"]}
    begin = time.perf_counter()
    with compile_seconds() as compiling, jax.default_device(devices[0]), _bar("step") as on_progress:
        model = networks.load(given["model_name"])

        def seconds() -> dict[str, float]:
            return {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)}

        if given["filters"]:
            layer = layers[0] if layers else model.info.taps[0]
            found = features.filters(model, layer, key=key)
            write_filters(out, found, layer, model, seconds=seconds(), **run)
            return click.echo(f"{len(found.dead)} filters of {layer} in {out}")
        height, width, colours = model.info.image_shape
        picture = data.read_image(given["feature_maps"] or given["activation_grid"], (height, width, colours))
        if given["feature_maps"]:
            write_maps(out, features.feature_maps(model, picture, layers), model, seconds=seconds(), **run)
            return click.echo(f"the maps of {', '.join(layers)} in {out}")
        shape = sized(model, given["size"])
        chosen, way, rate = preset(given["preset_name"], shape), given["transform_name"], given["learning_rate"]
        parameterization, optimizer = given["parameterization"], given["optimizer_name"]
        rule = optimizers.optimizer(optimizer) if optimizer else chosen.optimizer
        options = {
            "image": (images.by_name(parameterization) if parameterization else chosen.image).bind(shape),
            "transform": transforms.by_name(way) if way else chosen.transform,
            "optimizer": rule if rate is None else rule.at_rate(rate),
            "projection": chosen.projection,
            "steps": given["steps"] or chosen.steps,
            "starts": given["starts"],
            "dtype": given["dtype"],
            "chunk": given["chunk"],
            "key": key,
            "devices": devices,
            "on_progress": on_progress,
        }
        if given["groups"]:
            parts = features.neuron_groups(model, layers[0], picture, given["groups"])
            solution = minimize(-losses.direction(layers[0], parts.directions, 2.0), model, **options)
            icons = np.asarray(solution.best_image).reshape(given["groups"], given["starts"], *solution.image.shape[1:])
            sheets, more = group_files(parts, picture, icons)
        else:
            grid = features.activation_grid(model, layers[0], picture, cells=given["cells"], **options)
            solution = grid.solution
            sheets, more = grid_files(grid)
    labels = [None] * len(solution.names)
    info = write(out, solution, labels, model, seconds=seconds(), sheets=sheets, more=more, **run)
    click.echo(f"{len(info['results'])} images in {out}")
    _report_failures(info["results"])


@main.command()
@click.option("--layer", required=True, help="The layer whose units and random directions are compared.")
@click.option("--data", "dataset_name", required=True, metavar="DATASET", help="A folder of images, or NAME:SPLIT.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--directions", "count", type=click.IntRange(min=1), default=256, help="How many random ones.")
@click.option("--units", type=click.IntRange(min=1), help="The first so many units.  [default: all of the layer]")
@click.option("--top", type=click.IntRange(min=2), default=9, help="Images of each unit and direction.")
@click.option("--pool", default="max", help="Of a score over positions: max, mean.")
@click.option("--embedding", help="Layer to measure similarity in.  [default: the last before the logits]")
@click.option("--show", type=click.IntRange(min=1), default=16, help="Units and directions on the sheets.")
@click.option("--synthetic", is_flag=True, help="Make images for each of those shown.")
@click.option("--starts", type=click.IntRange(min=1), default=2, help="Random starts of each image made.")
@click.option("--steps", type=click.IntRange(min=1), default=256, help="Updates of each image made.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def directions(
    layer: str,
    dataset_name: str,
    out: Path,
    model_name: str,
    count: int,
    units: int | None,
    top: int,
    pool: str,
    embedding: str | None,
    show: int,
    synthetic: bool,
    starts: int,
    steps: int,
    seed: int,
    chunk: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Compare what units respond to in a data set with what random directions of their layer respond to."""
    import jax

    from jaxopt_input import data, networks
    from jaxopt_input.recipes.directions import compare_directions, synthesize
    from jaxopt_input.report.exemplars import write_comparison
    from jaxopt_input.report.run import check_folder, compile_seconds

    arguments = _arguments(click.get_current_context())
    check_folder(out, overwrite)
    devices = _devices(device)
    begin = time.perf_counter()
    with compile_seconds() as compiling:
        model = networks.load(model_name)
        dataset = data.load(dataset_name, model)
        with _bar("image") as on_progress:
            found = compare_directions(
                model,
                dataset,
                layer,
                directions=count,
                units=None if units is None else range(units),
                k=top,
                pool=pool,
                embedding=embedding,
                key=jax.random.key(seed),
                batch=chunk,
                device=devices[0],
                on_progress=on_progress,
            )
        made = None
        if synthetic:
            with _bar("step") as on_progress:
                made = synthesize(
                    model,
                    found,
                    show,
                    starts=starts,
                    steps=steps,
                    chunk=chunk,
                    key=jax.random.key(seed),
                    devices=devices,
                    on_progress=on_progress,
                )
    seconds = {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)}
    info = write_comparison(
        out,
        found,
        made,
        show,
        dataset,
        model,
        devices=devices,
        command="directions",
        arguments=arguments,
        seed=seed,
        seconds=seconds,
        overwrite=overwrite,
    )
    for group in ("units", "directions", "random"):
        told = [f"{name} {one['mean']:.3f}" for name, one in info["coherence"][group].items() if one]
        click.echo(f"{group:<10} {', '.join(told)}")
    _report_failures(info["results"], alone=False)


@main.command()
@click.argument("image", metavar="IMAGE")
@click.option("--target", "targets", multiple=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL or class:NAME; 0.5*A+B weighs and adds. May be repeated.  [default: the preset's layers]"
))  # fmt: skip
@click.option("--preset", default="caffe2015", help="Whose settings: caffe2015, tf-plain, tf-lap, tf2.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--size", type=click.IntRange(min=1), help="Longer side of the image in pixels.  [default: its own]")
@click.option("--guide", metavar="IMAGE", help="An image whose features the target's layers are to show.")
@click.option("--guide-size", type=click.IntRange(min=1), default=224, help="Longer side of the guide in pixels.")
@click.option("--objective", help="l2 or mean of the activation.  [default: the preset's]")
@click.option("--octaves", type=click.IntRange(min=1), help="How many sizes.  [default: the preset's]")
@click.option("--octave-scale", type=float, help="The ratio of two sizes.  [default: the preset's]")
@click.option("--iterations", type=click.IntRange(min=1), help="Steps in each octave.  [default: the preset's]")
@click.option("--step", type=float, help="Of one iteration, images being in [0, 1].  [default: the preset's]")
@click.option("--jitter", type=click.IntRange(min=0), help="Largest random shift in pixels.  [default: the preset's]")
@click.option("--normalise", help="Of the gradient: mean-abs, std, laplacian.  [default: the preset's]")
@click.option("--tile", type=click.IntRange(min=1), help="Largest side in pixels to run at once.  [default: 512]")
@click.option("--overlap", type=click.IntRange(min=0), help="Margin of a tile on each side in pixels.  [default: 64]")
@click.option("--animate", metavar="gif|webp|mp4", help="Write an animation of the steps, or of the frames.")
@click.option("--frames", type=click.IntRange(min=1), default=1, help="So many dreams, each on the last one enlarged.")
@click.option("--zoom", "zoom_scale", type=float, default=0.05, help="What each of the frames loses of its extent.")
@click.option("--fps", type=click.FloatRange(1, 50), default=12.0, help="Frames a second of the animation.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def dream(
    image: str,
    targets: tuple[str, ...],
    preset: str,
    out: Path,
    model_name: str,
    size: int | None,
    guide: str | None,
    guide_size: int,
    animate: str | None,
    frames: int,
    zoom_scale: float,
    fps: float,
    seed: int,
    dtype: str,
    device: str,
    overwrite: bool,
    **changes: Any,
) -> None:
    """Enhance in IMAGE, a file or the word noise, what layers, channels or classes respond to: DeepDream.

    With --frames the dream goes on: each frame is the one before, enlarged about its centre and dreamt on again.
    """
    import jax

    from jaxopt_input import networks
    from jaxopt_input.recipes.dream import starting_image, zoom
    from jaxopt_input.recipes.dream_settings import settle
    from jaxopt_input.report.animation import check_format
    from jaxopt_input.report.dream import write_dreams
    from jaxopt_input.report.run import check_folder, compile_seconds

    arguments = _arguments(click.get_current_context())
    check_folder(out, overwrite)
    if animate:
        check_format(animate)
    settings = settle(preset, {name: value for name, value in changes.items() if value is not None})
    devices = _devices(device)[:1]
    key = jax.random.key(seed)
    begin = time.perf_counter()
    with compile_seconds() as compiling, _bar("step") as on_progress:
        model = networks.load(model_name)
        start = starting_image(image, model, size, key)
        steps = settings.iterations * len(settings.octaves)
        dreams = zoom(
            model,
            start,
            targets or None,
            frames=frames,
            scale=zoom_scale,
            key=key,
            preset=settings,
            guide=None if guide is None else starting_image(guide, model, guide_size, key),
            dtype=dtype,
            device=devices[0],
            snapshot_every=max(1, steps // 60) if animate and frames == 1 else 0,
            on_progress=on_progress,
        )
        info = write_dreams(
            out,
            dreams,
            start,
            model,
            settings,
            devices=devices,
            command="dream",
            arguments=arguments,
            seed=seed,
            seconds=lambda: {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)},
            overwrite=overwrite,
            animate=animate,
            fps=fps,
        )
    took = f"{info['seconds']['compile']:.1f} s compiling, {info['seconds']['run']:.1f} s running"
    click.echo(f"dream.png in {out} ({took})")
    _report_failures(info["results"], "another channel or image, or a layer before the ReLU", "a smaller --step")


def _refuse(context: click.Context, what: str, names: Collection[str]) -> None:
    """Raise a usage error if one of these options was given: they do not go with what was asked for."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and parameter.name in names:
            raise click.UsageError(f"{parameter.opts[0]} does not go with {what}")


@contextlib.contextmanager
def _bar(unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar, as the function that a recipe calls with (done, total) and, where there is one, the loss."""
    from tqdm import tqdm

    with tqdm(total=1, unit=unit, leave=False, disable=None) as bar:

        def on_progress(done: int, total: int, loss: float | None = None) -> None:
            bar.total = total
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(done - bar.n)

        yield on_progress


def _arguments(context: click.Context) -> dict[str, Any]:
    """The options by the names that a user gave them; not those that say where the results lie."""
    names = {parameter.name: parameter.opts[0].lstrip("-") for parameter in context.command.params}
    return {names[key]: value for key, value in context.params.items() if key not in ("out", "overwrite")}


def _report_failures(
    results: list[dict[str, Any]],
    alive: str = "more --starts, another --seed or --parameterization, or a layer before the ReLU",
    finite: str = "a smaller --learning-rate",
    alone: bool = True,
) -> None:
    """Name on standard error what is dead or not finite, with remedies.

    Exit 1 if no start of any target succeeded and the images stand alone, not beside other results.
    """
    by_target: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_target.setdefault(result["target"], []).append(result)
    dead = [target for target, starts in by_target.items() if all(r["dead"] for r in starts)]
    broken = [r for r in results if not r["finite"]]
    if dead:
        shown = ", ".join(dead[:8]) + (f" and {len(dead) - 8} more" if len(dead) > 8 else "")
        click.echo(
            f"jaxopt-input: dead (zero gradient at every start): {shown}; try {alive}",
            err=True,
        )
    if broken:
        click.echo(
            f"jaxopt-input: {len(broken)} of {len(results)} starts met numbers that are not finite and kept their best "
            f"finite image; try {finite}",
            err=True,
        )
    if alone and all(r["dead"] or not r["finite"] for r in results):
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
