"""`look`: what a network's layers hold and see."""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.methods.visualize.options import icon_options, optimization_options
from jaxopt_input.runs.options import Commands, run_options, together
from jaxopt_input.runs.run import Run

PLAIN = ("chunk", "memory", "dtype")  # options of a run that do not go with a single pass
IMAGE = click.argument("image", metavar="IMAGE")
LAYER = click.option("--layer", required=True, metavar="LAYER", help="The layer.")
icons = together((IMAGE, LAYER, optimization_options, run_options()))


@click.group(cls=Commands)
def look() -> None:
    """Look at what a network's layers hold and see: filters, feature maps, activation grids and neuron groups."""


@look.command()
@click.option("--layer", metavar="LAYER", help="The layer.  [default: the network's first]")
@run_options(without=(*PLAIN, "max_pixels"))
@click.pass_context
def filters(context: click.Context, layer: str | None, **_: Any) -> None:
    """Show the filters of a layer, the first one by default, as they act on an image."""
    with Run.of(context) as run:
        from jaxopt_input.methods.look.page import filters_page
        from jaxopt_input.methods.look.recipe import filters

        shown = layer or run.model.info.taps[0]
        run.write(filters_page(filters(run.model, shown, key=run.key), shown))


@look.command()
@IMAGE
@click.option("--layer", "layers", multiple=True, required=True, metavar="LAYER", help=(
    "The layer whose maps are shown. May be repeated."
))  # fmt: skip
@run_options(without=PLAIN)
@click.pass_context
def maps(context: click.Context, image: str, layers: tuple[str, ...], **_: Any) -> None:
    """Show the feature maps of layers for IMAGE."""
    with Run.of(context) as run:
        from jaxopt_input import data
        from jaxopt_input.methods.look.page import maps_page
        from jaxopt_input.methods.look.recipe import feature_maps

        photo = data.read_image(image, run.model.info.image_shape)
        run.write(maps_page(feature_maps(run.model, photo, layers)))


@look.command()
@click.option("--cells", type=click.IntRange(min=1), default=8, help="Rows and columns of the grid at most.")
@icons
@click.pass_context
def grid(context: click.Context, image: str, layer: str, cells: int, **options: Any) -> None:
    """Show what a layer sees at each place of IMAGE: for each position, an icon that excites the same channels."""
    with Run.of(context) as run:
        from jaxopt_input import data
        from jaxopt_input.methods.look.page import grid_page
        from jaxopt_input.methods.look.recipe import activation_grid

        model = run.model
        photo = data.read_image(image, model.info.image_shape)
        solution = activation_grid(model, layer, photo, cells=cells, **icon_options(run, options))
        run.write(grid_page(solution, model.info.name, run.spec.seed))


@look.command()
@click.option("--groups", "count", type=click.IntRange(min=1), default=6, help="The number of groups.")
@icons
@click.pass_context
def groups(context: click.Context, image: str, layer: str, count: int, **options: Any) -> None:
    """Show groups of a layer's channels that are active together in IMAGE: where each is active, and what it sees."""
    with Run.of(context) as run:
        from jaxopt_input import data
        from jaxopt_input.methods.look.page import groups_page
        from jaxopt_input.methods.look.recipe import group_icons, neuron_groups

        model = run.model
        photo = data.read_image(image, model.info.image_shape)
        parts = neuron_groups(model, layer, photo, count)
        solution = group_icons(model, layer, parts, **icon_options(run, options))
        run.write(groups_page(parts, solution, photo, model.info.name, run.spec.seed))
