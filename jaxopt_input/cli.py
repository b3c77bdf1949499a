"""The command line: one sub-command per method; see the `command` of each room of `jaxopt_input.methods`.

Nothing here imports JAX, nor does a command before it runs: help comes at once.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import Any

import click

from jaxopt_input.errors import InputError, printable
from jaxopt_input.methods.attack.command import attack
from jaxopt_input.methods.bench.command import bench
from jaxopt_input.methods.directions.command import directions
from jaxopt_input.methods.dream.command import dream
from jaxopt_input.methods.fool.command import fool
from jaxopt_input.methods.invert.command import invert
from jaxopt_input.methods.look.command import look
from jaxopt_input.methods.models.command import models
from jaxopt_input.methods.style.command import stylize, texture
from jaxopt_input.methods.transfer.command import transfer
from jaxopt_input.methods.visualize.command import visualize
from jaxopt_input.names import american
from jaxopt_input.runs.options import Commands
from jaxopt_input.runs.rerun import rerun

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "token_normalize_func": american}


class _Help(click.HelpFormatter):
    """Breaks no name at its hyphens."""

    def write_text(self, text: str) -> None:
        super().write_text(_HYPHEN.sub("\ue000", text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(term, _HYPHEN.sub("\ue000", text)) for term, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        return super().getvalue().replace("\ue000", "-")


_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")


class _Context(click.Context):
    formatter_class = _Help


class _Commands(Commands):
    """Turns what went wrong into one line on standard error: exit status 1, or 2 for wrong usage."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else ctx.command_path
            self._fail(ctx, f"{error.format_message()}  (see {where} --help)", 2)
        except InputError as error:
            self._fail(ctx, str(error), 1)
        except KeyboardInterrupt:
            self._fail(ctx, "stopped by SIGINT; what was finished, if anything, is in the folder of --out", 130)
        except OSError as error:
            if error.errno == errno.EPIPE:  # who reads standard output has heard enough
                raise
            self._fail(ctx, ": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 1)

    def _fail(self, ctx: click.Context, message: str, status: int) -> None:
        click.echo(printable(f"jaxopt-input: {' '.join(message.split())}"), err=True)
        ctx.exit(status)


@click.group(cls=_Commands, context_settings=CONTEXT)
@click.version_option(package_name="jaxopt-input")
@click.option("--cache/--no-cache", default=True, help=(
    "Keep compiled programs in the user's cache folder, for the next run."
))  # fmt: skip
@click.option("--verbose", is_flag=True, help="Say where compiled programs are kept.")
def main(cache: bool, verbose: bool) -> None:
    """Optimize the input of a trained network: pictures of what it has learned.

    The options here go before COMMAND.
    """


def _add(group: click.Group, command: click.Command) -> None:
    command.context_class = _Context
    for sub_command in command.commands.values() if isinstance(command, click.Group) else ():
        sub_command.context_class = _Context
    group.add_command(command)


COMMANDS = (visualize, look, directions, dream, invert, texture, stylize, attack, fool, transfer, bench, rerun, models)
for command in COMMANDS:
    _add(main, command)


if __name__ == "__main__":
    main()
