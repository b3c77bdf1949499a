"""The command line: one sub-command a recipe; see `jaxopt_input.commands`.

Nothing here imports JAX, nor does a command before it runs: help comes at once.
"""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.commands.attack import attack
from jaxopt_input.commands.bench import bench
from jaxopt_input.commands.directions import directions
from jaxopt_input.commands.dream import dream
from jaxopt_input.commands.fool import fool
from jaxopt_input.commands.invert import invert
from jaxopt_input.commands.models import models
from jaxopt_input.commands.stylize import stylize, texture
from jaxopt_input.commands.transfer import transfer
from jaxopt_input.commands.visualize import visualize
from jaxopt_input.errors import InputError


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
@click.option("--cache/--no-cache", default=True, help=(
    "Keep compiled programs in the user's cache folder, for the next run."
))  # fmt: skip
@click.option("--verbose", is_flag=True, help="Tell where compiled programs are kept.")
def main(cache: bool, verbose: bool) -> None:
    """Optimise the input of a trained network: pictures of what it has learned.

    The options here go before COMMAND.
    """


for command in (visualize, directions, dream, invert, stylize, texture, attack, fool, transfer, bench, models):
    main.add_command(command)


if __name__ == "__main__":
    main()
