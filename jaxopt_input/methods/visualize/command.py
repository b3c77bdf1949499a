"""`visualize`: images that excite a target the most, alone, beside a data set, or beside other networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.methods.visualize.options import optimization_options
from jaxopt_input.names import CLASS_OBJECTIVES, IMAGE_REGULARIZERS, LAYER_REGULARIZERS, listed
from jaxopt_input.runs.options import MODEL, animate_option, refuse, run_options, skip_damaged_option
from jaxopt_input.runs.run import Run

if TYPE_CHECKING:
    from jaxopt_input.engine.lanes import Resources
    from jaxopt_input.engine.solution import Solution
    from jaxopt_input.models.model import Model

NOT_ON_FIELDS = {"preset", "size", "class_objective", "like", "redirect_relu", "crop"}


@click.command()
@click.option("--target", "targets", multiple=True, required=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL, LAYER:CHANNEL@center, LAYER:CHANNEL@Y,X, class:NAME, class:INDEX or class:WNID; "
    "* stands for all channels or classes. -TARGET is what excites it the least, A+B both at once, 0.5*TARGET weighs, "
    "A~B leads from one to the other across the starts. May be repeated."
))  # fmt: skip
@optimization_options
@click.option("--objective", "class_objective", metavar="NAME", help=(
    f"How a class is excited: {listed(CLASS_OBJECTIVES)}.  [default: the preset's]"
))  # fmt: skip
@click.option("--regularizer", "regularizers", multiple=True, metavar="NAME[^EXPONENT][:LAYER]=WEIGHT", help=(
    f"A penalty of the image: {listed(IMAGE_REGULARIZERS)}; or of a target's starts in a layer: "
    f"{listed(LAYER_REGULARIZERS)}. May be repeated.  [default: the preset's]"
))  # fmt: skip
@click.option("--like", metavar="IMAGE", help="A LAYER target becomes the caricature of this image.")
@click.option("--redirect-relu", is_flag=True, help="Let gradients through dead ReLUs in the first 16 steps.")
@click.option("--field", is_flag=True, help="Optimize LAYER:CHANNEL or LAYER:* on the unit's receptive field alone.")
@click.option("--crop", is_flag=True, help="Crop images of LAYER:CHANNEL@center or @Y,X to the receptive field.")
@click.option("--compare", "others", multiple=True, metavar=MODEL, help=(
    "Run the same on this network too, side by side with --model. May be repeated."
))  # fmt: skip
@click.option("--with-data", metavar="DATASET", help="Show each target's images of a data set: a folder or NAME:SPLIT.")
@click.option("--top", type=click.IntRange(min=1), help=(
    "Images of --with-data at each end.  [default: 9, or all where there are fewer]"
))  # fmt: skip
@skip_damaged_option
@animate_option
@run_options()
@click.pass_context
def visualize(context: click.Context, **options: Any) -> None:
    """Make the images that excite a class, a layer, a channel or a unit the most."""
    if options["field"]:
        refuse(context, "--field", NOT_ON_FIELDS)
    with Run.of(context) as run:
        if options["others"]:
            _compare(run, options)
        else:
            _visualize(run, run.model, options)


def _visualize(run: Run, model: Model, options: dict[str, Any]) -> Solution:
    """Write what one network makes of the targets, chunk by chunk."""
    from jaxopt_input import data
    from jaxopt_input.engine.target import expand
    from jaxopt_input.methods.exemplars.beside import beside_targets
    from jaxopt_input.methods.exemplars.page import beside_page
    from jaxopt_input.methods.visualize import page, units
    from jaxopt_input.methods.visualize.recipe import by_program, joined, sized
    from jaxopt_input.runs.page import picture_names

    shape, texts = sized(model, options["size"]), options["targets"]
    make = _recipe(run, model, options)
    if options["crop"]:
        units.units_of(model, texts, shape)  # before anything is computed
    beside = None
    if options["with_data"]:
        wanted = [target for text in texts for target in expand(text, model, shape)]
        dataset = data.load(options["with_data"], model, skip_damaged=options["skip_damaged"])
        on = run.stage("image")
        beside = beside_targets(model, dataset, wanted, k=options["top"], on=on)
    on, programs = run.stage("step"), by_program(texts, model, shape)
    parts: list[Solution] = []
    names: list[str] = []
    pictures: dict[tuple[str, int], str] = {}  # the name of each lane's picture

    def write(part: Solution) -> None:
        part = units.crop_to_field(part, model) if options["crop"] else part
        own = picture_names(part.names, part.start.tolist(), names)
        names.extend(own)
        pictures.update(zip(page.lanes_of(part), own, strict=True))
        run.write(page.part_page(part, own, model, run.spec.seed))

    for number, some in enumerate([list(texts)] if options["field"] else programs):
        share, before = on.part(number, len(programs)), len(names)
        solution = make(some, share if options["field"] else dataclasses.replace(share, receive=write))
        if len(names) == before:  # not chunk by chunk
            write(solution)
        parts.append(units.crop_to_field(solution, model) if options["crop"] else solution)
    whole = joined(parts, texts, model, shape)
    shown = [pictures[lane] for lane in page.lanes_of(whole)]
    run.order(shown)
    run.write(page.whole_page(whole, shown, model, options["animate"]))
    run.write(page.versions_page(whole, shown, options["preset"], model, run.key))
    if options["field"] or options["crop"]:
        run.write(page.field_page(whole, model))
    if beside:
        run.write(beside_page(beside, whole, model))
    return whole


def _recipe(run: Run, model: Model, options: dict[str, Any]) -> Callable[[list[str], Resources], Solution]:
    """What makes images for targets of one program with some resources."""
    from jaxopt_input import data
    from jaxopt_input.draw.animation import animation_steps
    from jaxopt_input.methods.visualize.options import changes_of, chosen
    from jaxopt_input.methods.visualize.recipe import sized, visualize
    from jaxopt_input.methods.visualize.settings import regularizer
    from jaxopt_input.methods.visualize.units import visualize_units

    penalties = [regularizer(text) for text in options["regularizers"]]
    penalty = sum(penalties[1:], penalties[0]) if penalties else None
    setting = chosen(model, options, regularizer=penalty, objective=options["class_objective"])
    common: dict[str, Any] = {"starts": options["starts"], "key": run.key}
    if options["animate"] and not setting.alpha:  # a preset with an importance mask keeps its own
        common["snapshots"] = animation_steps(setting.steps)
    if options["field"]:
        common |= {**setting.parts, "regularizer": setting.regularizer}
        return lambda texts, on: visualize_units(model, texts, **common, on=on)
    common |= {"preset": options["preset"], **changes_of(options), "regularizer": penalty, "size": options["size"]}
    common |= {"class_objective": options["class_objective"], "redirected": options["redirect_relu"]}
    if options["like"]:
        common["like"] = data.read_image(options["like"], sized(model, options["size"]))
    return lambda texts, on: visualize(model, texts, **common, on=on)


def _compare(run: Run, options: dict[str, Any]) -> None:
    """`visualize --compare`: one part of the run per network, then one sheet."""
    from jaxopt_input.methods.visualize.compare import check_comparable, part_names
    from jaxopt_input.methods.visualize.page import comparison_page

    names = (run.spec.model, *options["others"])
    models = [run.model, *map(run.load, options["others"])]
    check_comparable(models, options["targets"], options["size"])
    parts = []
    for name, part, model in zip(names, part_names(names), models, strict=True):
        with run.part(part, model_name=name, others=()) as own:
            own.record_model(model)
            solution = _visualize(own, model, options)
        parts.append((part, solution, own.info))
    run.write(comparison_page(parts))
