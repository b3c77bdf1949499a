"""The options that commands share, once: see `run_options`. Nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from jaxopt_input.errors import InputError, unknown
from jaxopt_input.names import ANIMATIONS, DEVICES, DTYPES, OPTIMIZERS, PARAMETERIZATIONS, PRECISIONS, american, listed
from jaxopt_input.runs.progress import LOGS
from jaxopt_input.runs.spec import Spec

PLACE = {"out", "overwrite", "config", "log"}
"""Parameters that say where a run goes, and not what it is."""
SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT)
MODEL = "NAME|FILE|MODULE:FUNCTION"
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Commands(click.Group):
    """Lists its commands in their order, with the whole first sentence of the help of each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, (command.help or "").partition("\n")[0]) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Folder(click.Path):
    """A path that is not empty: `Path("")` would be the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("a folder is expected, not an empty name", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = _Folder(path_type=Path)


def _configure(context: click.Context, _: click.Parameter, file: str | None) -> str | None:
    if file is not None:
        context.default_map = default_map(context, Spec.read(file), file)
    return file


OPTIONS = {
    "out": click.option("--out", type=FOLDER, required=True, help="The folder to write."),
    "overwrite": click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder."),
    "config": click.option("--config", metavar="FILE", is_eager=True, callback=_configure, help=(
        "Take the options that are not given here from an earlier run.json, or from a spec in JSON or TOML."
    )),
    "model_name": click.option("--model", "model_name", default="tin100", metavar=MODEL, help="The network."),
    "seed": click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Random seed."),
    "device": click.option("--device", type=click.Choice(DEVICES), default="auto", help="Kind of device to run on."),
    "memory": click.option("--memory", metavar="AMOUNT", help=(
        "Memory that the run may take, such as 4GiB.  [default: half of what is free]"
    )),
    "chunk": click.option("--chunk", type=click.IntRange(min=1), help=(
        "Images that a device runs at once.  [default: as many as the memory holds, at most 32]"
    )),
    "dtype": click.option("--dtype", type=click.Choice(DTYPES), default="float32", help="Type of the activations."),
    "precision": click.option("--precision", type=click.Choice(PRECISIONS), help=(
        "Precision of products and convolutions; bfloat16 means that of the activations as well.  [default: JAX's own: "
        "float32 on a CPU, tf32 on a GPU]"
    )),
    "max_pixels": click.option("--max-pixels", type=click.IntRange(min=1), help=(
        "Read images of up to so many pixels, where they are more than 179 million."
    )),
    "log": click.option("--log", type=click.Choice(list(LOGS)), help="Send the losses of each step there too."),
}  # fmt: skip


def together(options: Sequence[Decorator]) -> Decorator:
    """Several options as one decorator, in the order of the help text."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def run_options(*, without: Collection[str] = ()) -> Decorator:
    """Give a command the options of a run, which `Run.of` reads.

    Args:
        without: names of `OPTIONS` that the command does not have, such as "chunk".

    Example:
        >>> @click.command()
        ... @run_options(without=("chunk", "memory", "dtype"))
        ... @click.pass_context
        ... def command(context, **_):
        ...     click.echo(context.params["seed"])
        >>> [parameter.name for parameter in command.params][:3]
        ['out', 'overwrite', 'config']
    """
    return together([option for name, option in OPTIONS.items() if name not in without])


skip_damaged_option = click.option("--skip-damaged", is_flag=True, help=(
    "Leave out images that cannot be read, and name them; each is read once first."
))  # fmt: skip


def preset_option(names: tuple[str, ...], default: str = "default") -> Decorator:
    """`--preset` of a method that has presets of these names."""
    text = f"The method whose settings hold where none are given: {listed(names)}."
    return click.option("--preset", default=default, metavar="NAME", help=text)


parameterization_option = click.option(
    "--parameterization", metavar="NAME",
    help=f"What is optimized: {listed(PARAMETERIZATIONS)}.  [default: the preset's]",
)  # fmt: skip
descent_options = together((
    click.option("--optimizer", metavar="NAME", help=f"The optimizer: {listed(OPTIMIZERS)}.  [default: the preset's]"),
    click.option("--learning-rate", type=float, help="Learning rate of the optimizer.  [default: one that suits it]"),
    parameterization_option,
))  # fmt: skip


def _writable(_: click.Context, __: click.Parameter, kind: str | None) -> str | None:
    if kind is not None:
        from jaxopt_input.draw.animation import check_format

        check_format(kind)
    return kind


animate_option = click.option(
    "--animate", type=click.Choice(ANIMATIONS), metavar="|".join(ANIMATIONS), callback=_writable,
    help=f"Write an animation of the optimization: {listed(ANIMATIONS)}.",
)  # fmt: skip


def refuse(context: click.Context, what: str, names: Collection[str]) -> None:
    """Raise a usage error if one of these parameters was given: they do not go with what was asked for."""
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) in SOURCES:
            raise click.UsageError(f"{parameter.opts[0]} does not go with {what}", context)


def check_finite(context: click.Context) -> None:
    """Raise a usage error for a number of any option that is not finite."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not abs(number) < float("inf"):
                raise click.UsageError(f"{parameter.opts[0]} takes finite numbers, not {number}", context)


def _by_user(command: click.Command) -> dict[str, str]:
    """The name that a user gives to each parameter of a command, but for those of `PLACE`."""
    names = {parameter.name or "": parameter.opts[0].lstrip("-") for parameter in command.params}
    return {name: user for name, user in names.items() if name not in PLACE}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def arguments_of(context: click.Context) -> dict[str, Any]:
    """All options by the names that a user gives them, but for those that say where the results lie."""
    arguments = {user: _plain(context.params.get(name)) for name, user in _by_user(context.command).items()}
    if arguments.get("precision") == "bfloat16" and "dtype" in arguments:  # it is that of the activations as well
        arguments["dtype"] = "bfloat16"
    return arguments


def command_name(context: click.Context) -> str:
    """The command as a user writes it, such as "look maps"."""
    return context.command_path.removeprefix(context.find_root().command_path).strip()


def spec_of(context: click.Context) -> Spec:
    """What a command was asked to do."""
    names = _by_user(context.command)
    values = {name: context.params[name] for name in names if context.get_parameter_source(name) in SOURCES}
    model, seed = context.params.get("model_name"), context.params.get("seed", 0)
    own = ("model_name", "seed")
    options = {names[name]: _plain(value) for name, value in values.items() if name not in own and value is not None}
    return Spec(command_name(context), options, model, seed)


def default_map(context: click.Context, spec: Spec, source: str = "the spec") -> dict[str, Any]:
    """The values of a spec by the names of a command's parameters.

    Raises:
        InputError: for a spec of another command, or an option that the command does not have.
    """
    if spec.command != command_name(context):
        raise InputError(f"{source} is of the command {spec.command}, not of {command_name(context)}")
    names = {user: name for name, user in _by_user(context.command).items()}
    values: dict[str, Any] = {}
    for user, value in spec.options.items():
        if american(user) not in names:
            raise unknown(f"option of {spec.command} in {source}", user, names)
        values[names[american(user)]] = value
    if "model" in names and spec.model is not None and names["model"] == "model_name":
        values["model_name"] = spec.model
    return {**values, **({"seed": spec.seed} if "seed" in names else {})}
