"""Options that `attack` and `transfer` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from jaxopt_input.names import ATTACK_LOSSES, BALLS, listed
from jaxopt_input.runs.options import skip_damaged_option

OPTIONS = (
    click.option("--images", required=True, metavar="FOLDER|FILE|NAME:SPLIT", help=(
        "The originals; class folders name their labels. Without labels, the predicted class is taken."
    )),
    click.option("--norm", metavar="NORM", help=(
        f"The norm of the change: {listed((*BALLS, 'l0'))}.  [default: the method's]"
    )),
    click.option("--label", metavar="CLASS", help="The true class of images that have none."),
    click.option("--steps", type=click.IntRange(min=1), help="Steps, queries or passes.  [default: the method's]"),
    click.option("--loss", metavar="NAME", help=(
        f"What is maximized: {listed(ATTACK_LOSSES)}.  [default: the method's]"
    )),
    click.option("--limit", type=click.IntRange(min=1), help="Only so many images, evenly spread.  [default: all]"),
    skip_damaged_option,
)  # fmt: skip


def attack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `OPTIONS` to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
