"""`directions`: units of a layer against random directions."""

from __future__ import annotations

import time
from pathlib import Path

import click

from jaxopt_input.runs.old_options import devices_of, given_arguments, precision_option, progress_bar, report_failures


@click.command()
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
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.  [default: by memory]")
@click.option("--memory", metavar="AMOUNT", help="What the run may take, such as 4GiB.  [default: half of the free]")
@precision_option
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
    memory: str | None,
    precision: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Compare what units respond to in a data set with what random directions of their layer respond to."""
    import jax

    from jaxopt_input import data, networks
    from jaxopt_input.engine.memory import free_bytes, parse_bytes
    from jaxopt_input.methods.directions.recipe import compare_directions, synthesize
    from jaxopt_input.methods.exemplars.page import write_comparison
    from jaxopt_input.models.model import in_dtype
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    arguments = given_arguments(click.get_current_context())
    check_folder(out, overwrite)
    devices = devices_of(device)
    budget = parse_bytes(memory) if memory else free_bytes(devices) // 2
    begin = time.perf_counter()
    with compile_seconds() as compiling:
        model = networks.load(model_name)
        if precision == "bfloat16":
            model = in_dtype(model, precision)
        dataset = data.load(dataset_name, model)
        with progress_bar("image") as on_progress:
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
                memory=budget,
                device=devices[0],
                on_progress=on_progress,
            )
        made = None
        if synthetic:
            with progress_bar("step") as on_progress:
                made = synthesize(
                    model,
                    found,
                    show,
                    starts=starts,
                    steps=steps,
                    chunk=chunk,
                    memory=budget,
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
    report_failures(info["results"], alone=False)
