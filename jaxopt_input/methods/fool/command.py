"""`fool`: images that a network is sure of, and people see nothing in."""

from __future__ import annotations

import time
from pathlib import Path

import click

from jaxopt_input.methods.attack.command import class_of
from jaxopt_input.runs.old_options import (
    devices_of,
    given_arguments,
    precision_option,
    progress_bar,
    refuse,
    report_failures,
)

OF_EVOLUTION = {"encoding", "generations", "population"}
OF_GRADIENT = {"init", "steps", "chunk"}
REMEDIES = {
    "gradient": "another --init or --seed, or --method evolution, which needs no gradient",
    "evolution": "a larger --population, another --seed or --encoding",
}


@click.command()
@click.option("--method", type=click.Choice(["gradient", "evolution"]), default="gradient", help=(
    "Gradient ascent with L2 decay, or MAP-Elites, which needs no gradient."
))  # fmt: skip
@click.option("--classes", default="all", metavar="all|A,B…", help="The classes to make, by name or index.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--judge", "judge_name", metavar="NAME|FILE|MODULE:FUNCTION", help=(
    "Another network of the same classes: what it takes the images for."
))  # fmt: skip
@click.option("--init", type=click.Choice(["gray", "noise"]), default="gray", help="What gradient ascent begins with.")
@click.option("--steps", type=click.IntRange(min=1), default=100, help="Of gradient ascent.")
@click.option("--encoding", type=click.Choice(["direct", "cppn"]), default="direct", help=(
    "What evolves: pixels, or a network from a pixel's place to its color, which paints patterns."
))  # fmt: skip
@click.option("--generations", type=click.IntRange(min=1), default=200, help="Of evolution.")
@click.option("--population", type=click.IntRange(min=1), default=1200, help="Children a generation.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.  [default: at most 32]")
@precision_option
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help=(
    "What to run on; evolution takes the first."
))  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def fool(
    method: str,
    classes: str,
    out: Path,
    model_name: str,
    judge_name: str | None,
    init: str,
    steps: int,
    encoding: str,
    generations: int,
    population: int,
    seed: int,
    chunk: int | None,
    precision: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Make fooling images: from noise, gray or random patterns to what a network takes for a class with confidence."""
    import jax

    from jaxopt_input import attacks, networks
    from jaxopt_input.attacks.examine import logits_of
    from jaxopt_input.attacks.fooling import check_judge
    from jaxopt_input.methods.fool.page import CONFIDENT, write_fooling
    from jaxopt_input.models.model import in_dtype
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    evolves = method == "evolution"
    refuse(click.get_current_context(), f"--method {method}", OF_GRADIENT if evolves else OF_EVOLUTION)
    check_folder(out, overwrite)
    devices = devices_of(device)[: 1 if evolves else None]
    begin = time.perf_counter()
    unit = "generation" if evolves else "step"
    with compile_seconds() as compiling, jax.default_device(devices[0]), progress_bar(unit) as on_progress:
        model = networks.load(model_name)
        if precision == "bfloat16":
            model = in_dtype(model, precision)
        chosen = None if classes == "all" else [class_of(name, model) for name in classes.split(",")]
        judge = None if judge_name is None else networks.load(judge_name)
        if judge is not None:
            check_judge(judge, model)
        key = jax.random.key(seed)
        if evolves:
            found = attacks.map_elites(
                key,
                model,
                chosen,
                encoding=encoding,
                generations=generations,
                population=population,
                on_progress=on_progress,
            )
        else:
            found = attacks.fool(
                key, model, chosen, init=init, steps=steps, chunk=chunk, devices=devices, on_progress=on_progress
            )
        judged = None if judge is None else logits_of(judge, found.image)
    info = write_fooling(
        out,
        found,
        model,
        judge,
        judged,
        step=unit,
        devices=devices,
        command="fool",
        arguments=given_arguments(click.get_current_context()),
        seed=seed,
        seconds={"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)},
        overwrite=overwrite,
    )
    median = "not finite" if info["median"] is None else f"{info['median']:.4f}"
    click.echo(
        f"{len(info['results'])} images in {out}: median probability {median}, {info['confident']} above {CONFIDENT}"
    )
    if judge is not None:
        told = info["judge"]
        click.echo(f"{told['name']} takes {told['agrees']} for their class, and {told['fooled']} of those above not")
    report_failures(info["results"], REMEDIES[method], REMEDIES[method])
