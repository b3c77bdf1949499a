"""The command line: one sub-command a recipe; see `jaxopt_input.commands`.

Nothing here imports JAX, nor does a command before it runs: help comes at once.
"""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.errors import InputError
from jaxopt_input.methods.attack.command import attack
from jaxopt_input.methods.bench.command import bench
from jaxopt_input.methods.directions.command import directions
from jaxopt_input.methods.dream.command import dream
from jaxopt_input.methods.fool.command import fool
from jaxopt_input.methods.invert.command import invert
from jaxopt_input.methods.models.command import models
from jaxopt_input.methods.style.command import stylize, texture
from jaxopt_input.methods.transfer.command import transfer
from jaxopt_input.methods.visualize.command import visualize
from jaxopt_input.names import american

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "token_normalize_func": american}


class _Commands(click.Group):
    """Turns the mistakes of a caller into one line on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"jaxopt-input: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings=CONTEXT)
@click.version_option(package_name="jaxopt-input")
@click.option("--cache/--no-cache", default=True, help=(
    "Keep compiled programs in the user's cache folder, for the next run."
))  # fmt: skip
@click.option("--verbose", is_flag=True, help="Tell where compiled programs are kept.")
def main(cache: bool, verbose: bool) -> None:
    """Optimize the input of a trained network: pictures of what it has learned.

    The options here go before COMMAND.
    """


for command in (visualize, directions, dream, invert, stylize, texture, attack, fool, transfer, bench, models):
    main.add_command(command)


if __name__ == "__main__":
    main()
