"""`directions`: units of a layer against random directions."""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.names import POOLS, listed
from jaxopt_input.runs.options import run_options, skip_damaged_option
from jaxopt_input.runs.run import Run


@click.command()
@click.option("--layer", required=True, help="The layer whose units and random directions are compared.")
@click.option("--data", "dataset_name", required=True, metavar="DATASET", help="A folder of images, or NAME:SPLIT.")
@click.option("--directions", "count", type=click.IntRange(min=1), default=256, help="Number of random directions.")
@click.option("--units", type=click.IntRange(min=1), help=(
    "Number of units, the layer's first.  [default: all of the layer]"
))  # fmt: skip
@click.option("--top", type=click.IntRange(min=2), help=(
    "Images of each unit and direction.  [default: 9, or all but one where there are fewer]"
))  # fmt: skip
@click.option("--pool", default="max", help=(
    f"How the scores at all positions become one number per image: {listed(POOLS)}."
))  # fmt: skip
@click.option("--embedding", help="The layer to measure similarity in.  [default: the last before the logits]")
@click.option("--show", type=click.IntRange(min=1), default=16, help="Units and directions on the sheets.")
@click.option("--synthetic", is_flag=True, help="Make images for the units and directions on the sheets.")
@click.option("--starts", type=click.IntRange(min=1), default=2, help="Random starts of each image that is made.")
@click.option("--steps", type=click.IntRange(min=1), default=256, help="Updates of each image that is made.")
@skip_damaged_option
@run_options(without=("dtype",))
@click.pass_context
def directions(context: click.Context, **options: Any) -> None:
    """Compare what units respond to in a data set with what random directions of their layer respond to."""
    with Run.of(context) as run:
        from jaxopt_input import data
        from jaxopt_input.methods.directions.page import coherence_page, images_page
        from jaxopt_input.methods.directions.recipe import compare_directions, shown_rows, synthesize
        from jaxopt_input.methods.exemplars.beside import show as exemplars

        model, show = run.model, options["show"]
        dataset = data.load(options["dataset_name"], model, skip_damaged=options["skip_damaged"])
        on = run.stage("image")
        comparison = compare_directions(
            model,
            dataset,
            options["layer"],
            directions=options["count"],
            units=options["units"] and range(options["units"]),
            k=options["top"],
            pool=options["pool"],
            embedding=options["embedding"],
            key=run.key,
            on=on,
        )
        run.write(coherence_page(comparison))
        rows = [row for group in shown_rows(comparison, show) for row in group]
        ends = dict(zip(rows, exemplars(dataset, comparison.ranking, rows), strict=True))
        made = None
        if options["synthetic"]:
            setting = {"starts": options["starts"], "steps": options["steps"], "key": run.key}
            made = synthesize(model, comparison, show, **setting, on=run.stage("step"))
        run.write(images_page(comparison, ends, made, show, dataset, model, run.spec.seed))
