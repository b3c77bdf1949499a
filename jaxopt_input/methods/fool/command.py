"""`fool`: images that a network is sure of, and people see nothing in."""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.names import ENCODINGS, FOOLING_STARTS
from jaxopt_input.runs.options import MODEL, refuse, run_options
from jaxopt_input.runs.run import Run

OF_EVOLUTION = {"encoding", "generations", "population"}
OF_GRADIENT = {"init", "steps", "chunk"}


@click.command()
@click.option("--method", type=click.Choice(["gradient", "evolution"]), default="gradient", help=(
    "Gradient ascent with L2 decay, or MAP-Elites, which needs no gradient and runs on one device."
))  # fmt: skip
@click.option("--classes", default="all", metavar="all|A,B…", help="The classes to make, by name or index.")
@click.option("--judge", metavar=MODEL, help="Another network of the same classes: what it takes the images for.")
@click.option("--init", type=click.Choice(FOOLING_STARTS), default="gray", help="What gradient ascent begins with.")
@click.option("--steps", type=click.IntRange(min=1), default=100, help="Steps of gradient ascent.")
@click.option("--encoding", type=click.Choice(ENCODINGS), default="direct", help=(
    "What evolves: pixels, or a network from a pixel's place to its color, which paints patterns."
))  # fmt: skip
@click.option("--generations", type=click.IntRange(min=1), default=200, help="Generations of evolution.")
@click.option("--population", type=click.IntRange(min=1), default=1200, help="Children per generation.")
@run_options(without=("memory", "dtype", "max_pixels"))
@click.pass_context
def fool(context: click.Context, method: str, classes: str, **options: Any) -> None:
    """Make fooling images: from noise, gray or random patterns to what a network takes for a class with confidence."""
    evolves = method == "evolution"
    refuse(context, f"--method {method}", OF_GRADIENT if evolves else OF_EVOLUTION)
    with Run.of(context) as run:
        from jaxopt_input import attacks
        from jaxopt_input.attacks.examine import logits_of
        from jaxopt_input.attacks.fooling import check_judge
        from jaxopt_input.engine.lanes import Resources
        from jaxopt_input.methods.fool.page import fooling_page

        model = run.model
        indices = None if classes == "all" else [model.info.class_index(name) for name in classes.split(",")]
        judge = run.load(options["judge"]) if options["judge"] else None
        if judge is not None:
            check_judge(judge, model)
        unit = "generation" if evolves else "step"
        stage = run.stage(unit)
        on = Resources(stage.devices, stage.chunk, progress=stage.progress)
        if evolves:
            keywords = {name: options[name] for name in OF_EVOLUTION}
            fooling = attacks.map_elites(run.key, model, indices, **keywords, on=on)
        else:
            keywords = {"init": options["init"], "steps": options["steps"]}
            fooling = attacks.fool(run.key, model, indices, **keywords, on=on)
        verdict = None if judge is None else logits_of(judge, fooling.image)
        run.write(fooling_page(fooling, model, judge, verdict, method, unit, run.spec.seed))
