"""`visualize`: images that excite a target the most, beside a data set or other networks; filters and maps."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from jaxopt_input.runs.options import (
    devices_of,
    given_arguments,
    precision_option,
    progress_bar,
    refuse,
    report_failures,
)


@click.command()
@click.option("--target", "targets", multiple=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL, LAYER:CHANNEL@center, LAYER:CHANNEL@Y,X, class:NAME, class:INDEX or class:WNID; "
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
@click.option("--parameterization", help="What is optimized: pixels, fourier, pyramid, …  [default: the preset's]")
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
@click.option("--animate", metavar="gif|webp|mp4", help="Write an animation of the optimization.")
@click.option("--redirect-relu", is_flag=True, help="Let gradients through dead ReLUs in the first 16 steps.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations.")
@precision_option
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.")
@click.option("--memory", metavar="AMOUNT", help="What the run may take, such as 4GiB.  [default: half of the free]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--field", is_flag=True, help="Optimize LAYER:CHANNEL or LAYER:* on the unit's receptive field alone.")
@click.option("--crop", is_flag=True, help="Crop images of LAYER:CHANNEL@center or @Y,X to the receptive field.")
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
    precision: str | None,
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
    refuse(click.get_current_context(), "--target", {"layers", "cells", "groups"})
    if field:
        apart = {"preset_name", "size", "class_objective", "like", "redirect_relu", "crop"}
        refuse(click.get_current_context(), "--field", apart)
    if others:
        return _compare(click.get_current_context(), (model_name, *others))
    import jax
    from tqdm import tqdm

    from jaxopt_input import data, images, networks, optimizers, transforms
    from jaxopt_input.draw.animation import animation_steps, check_format
    from jaxopt_input.engine.memory import free_bytes, parse_bytes
    from jaxopt_input.engine.target import expand, label
    from jaxopt_input.methods.exemplars.beside import beside_targets
    from jaxopt_input.methods.exemplars.page import beside_files
    from jaxopt_input.methods.visualize import settings as presets
    from jaxopt_input.methods.visualize import units
    from jaxopt_input.methods.visualize.recipe import sized, visualize
    from jaxopt_input.methods.visualize.versions import versions
    from jaxopt_input.runs.writer import check_folder, compile_seconds, write

    arguments = given_arguments(click.get_current_context())
    check_folder(out, overwrite)
    if animate:
        check_format(animate)
    image = images.by_name(parameterization) if parameterization else None
    optimizer = optimizers.optimizer(optimizer_name) if optimizer_name else None
    transform = transforms.by_name(transform_name) if transform_name else ...
    penalties = [presets.regularizer(text) for text in regularizers]
    devices, key = devices_of(device), jax.random.key(seed)
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
            with progress_bar("image") as on_images:
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
    report_failures(info["results"])


def _compare(context: click.Context, names: Sequence[str]) -> None:
    """`visualize --compare`: one run a network, each in a folder of its own, then one sheet."""
    from jaxopt_input import networks
    from jaxopt_input.methods.visualize.compare import check_comparable
    from jaxopt_input.methods.visualize.compare_page import folder_names, write_comparison
    from jaxopt_input.runs.writer import check_folder, prepare

    given, parts = context.params, folder_names(names)
    out, devices = given["out"], devices_of(given["device"])
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
        arguments=given_arguments(context),
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
    from jaxopt_input.engine.minimize import minimize
    from jaxopt_input.methods.look import recipe as features
    from jaxopt_input.methods.look.page import grid_files, group_files, write_filters, write_maps
    from jaxopt_input.methods.visualize.recipe import sized
    from jaxopt_input.methods.visualize.settings import preset
    from jaxopt_input.runs.writer import check_folder, compile_seconds, write

    given = context.params
    out, layers = given["out"], given["layers"]
    if (given["feature_maps"] and not layers) or (given["activation_grid"] and len(layers) != 1):
        raise click.UsageError("name the layer of the image's maps by --layer; the activation grid takes one")
    if given["filters"] and len(layers) > 1:
        raise click.UsageError("--filters takes one --layer")
    what = next(name for name in ("filters", "feature_maps", "activation_grid") if given[name])
    taken = {what, "layers", "out", "model_name", "seed", "device", "precision", "overwrite"}
    if what == "activation_grid":
        taken |= {"cells", "groups", "starts", "preset_name", "steps", "size", "optimizer_name", "learning_rate"}
        taken |= {"parameterization", "transform_name", "dtype", "chunk"}
    refuse(context, f"--{what.replace('_', '-')}", set(given) - taken)
    check_folder(out, given["overwrite"])
    devices, key = devices_of(given["device"]), jax.random.key(given["seed"])
    run = {"command": "visualize", "arguments": given_arguments(context), "seed": given["seed"], "devices": devices}
    run |= {"overwrite": given["overwrite"]}
    begin = time.perf_counter()
    with compile_seconds() as compiling, jax.default_device(devices[0]), progress_bar("step") as on_progress:
        model = networks.load(given["model_name"])

        def seconds() -> dict[str, float]:
            return {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)}

        if given["filters"]:
            layer = layers[0] if layers else model.info.taps[0]
            found = features.filters(model, layer, key=key)
            write_filters(out, found, layer, model, seconds=seconds(), **run)
            return click.echo(f"{len(found.dead)} filters of {layer} in {out}")
        height, width, colors = model.info.image_shape
        picture = data.read_image(given["feature_maps"] or given["activation_grid"], (height, width, colors))
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
    report_failures(info["results"])
