"""How images are optimized, as options that `visualize` and `look` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.names import TRANSFORMS, VISUALIZE_PRESETS, listed
from jaxopt_input.runs.options import descent_options, preset_option, together

if TYPE_CHECKING:
    from jaxopt_input.methods.visualize.settings import Preset
    from jaxopt_input.models.model import Model
    from jaxopt_input.runs.run import Run

optimization_options = together((
    click.option("--starts", type=click.IntRange(min=1), default=1, help="Random starts of each target."),
    preset_option(VISUALIZE_PRESETS),
    click.option("--steps", type=click.IntRange(1, 10**8), help="Updates of each image.  [default: the preset's]"),
    click.option("--size", type=click.IntRange(1, 2**16), help=(
        "Side of the image in pixels.  [default: the network's]"
    )),
    descent_options,
    click.option("--transform", metavar="NAME", help=(
        f"The random views that an image must survive: {listed(TRANSFORMS)}.  [default: the preset's]"
    )),
))  # fmt: skip


def changes_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say in place of a preset's own."""
    changes = {name: options[name] for name in ("steps", "optimizer", "learning_rate")}
    return {**changes, "image": options["parameterization"], "transform": options["transform"] or ...}


def chosen(model: Model, options: Mapping[str, Any], **changes: Any) -> Preset:
    """The preset with what else the options say of it."""
    from jaxopt_input.methods.visualize.recipe import sized
    from jaxopt_input.methods.visualize.settings import preset

    return preset(options["preset"], sized(model, options["size"]), **changes_of(options), **changes)


def icon_options(run: Run, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say, as arguments of `minimize`."""
    from jaxopt_input.methods.visualize.recipe import sized

    setting = chosen(run.model, options)
    image = setting.image.bind(sized(run.model, options["size"]))
    return {**setting.parts, "image": image, "starts": options["starts"], "key": run.key, "on": run.resources}
