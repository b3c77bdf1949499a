"""`rerun`: an earlier run once more, and whether its bits come out again."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from jaxopt_input.errors import unknown
from jaxopt_input.runs.folder import RECORD
from jaxopt_input.runs.options import FOLDER, default_map
from jaxopt_input.runs.spec import Spec, differences, read_mapping

FIGURES = ("loss.png", "bench.png")
"""Pictures that are drawings of numbers, some of them seconds."""


@click.command()
@click.argument("file", metavar="FOLDER|RUN.JSON")
@click.option("--out", type=FOLDER, help="The folder to write.  [default: beside the run, -rerun]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
@click.pass_context
def rerun(context: click.Context, file: str, out: Path | None, overwrite: bool) -> None:
    """Run again what a folder's run.json (or a spec, .json or .toml) says.

    The pictures come out the same, bit for bit; where they do not, it is said what is different: the weights, the
    versions, the device or the code.
    """
    file = str(Path(file) / RECORD) if Path(file).is_dir() else file
    spec = Spec.read(file)
    before = read_mapping(file)
    path = Path(file).absolute()
    if out is None:
        beside = path.parent if path.name == RECORD else path.with_suffix("")
        out = beside.with_name(f"{beside.name}-rerun")
    root = context.find_root()
    command, parent = _command(root, spec)
    arguments = ["--out", str(out), *(["--overwrite"] if overwrite else [])]
    empty = click.Context(command, parent, spec.command.rpartition(" ")[2])
    empty.default_map = None
    values = default_map(empty, spec, file)
    if "memory" in {parameter.name for parameter in command.params} and isinstance(before.get("memory"), int):
        values.setdefault("memory", str(before["memory"]))
    child = command.make_context(empty.info_name, arguments, parent, default_map=values)
    with child:
        command.invoke(child)
    if "state" in before:
        _compare(before, read_mapping(out / RECORD), path.parent, out)


def _command(root: click.Context, spec: Spec) -> tuple[click.Command, click.Context]:
    """The command of a spec, and the context that it runs in."""
    command, context = root.command, root
    for word in spec.command.split():
        if command is not root.command:
            context = click.Context(command, context, command.name)
        commands = command.commands if isinstance(command, click.Group) else {}
        if word not in commands or word == "rerun":
            raise unknown("command", spec.command, [name for name in commands if name != "rerun"])
        command = commands[word]
    return command, context


def _compare(before: Mapping[str, Any], after: Mapping[str, Any], old: Path, new: Path) -> None:
    """Say whether the pictures of two runs are the same, and if not, why that may be."""
    # A record that was edited says in "arguments" what its pictures were made with.
    old_options, new_options = ({**info.get("arguments", {}), "memory": None} for info in (before, after))
    why = differences(before, after) + (["options"] if old_options != new_options else [])
    names = [name for name in before.get("files", ()) if name.endswith(".png") and name not in FIGURES]
    there = [name for name in names if (old / name).is_file()]
    other = [name for name in there if not ((new / name).is_file() and filecmp.cmp(old / name, new / name, False))]
    for line in why:
        click.echo(f"jaxopt-input: different {line}", err=True)
    if not there:
        click.echo(f"no earlier pictures lie beside the record to compare with: open {new / 'index.html'}")
        return
    if other:
        reason = "for the reasons above" if why else "though weights, versions, device and code are the same"
        click.echo(
            f"jaxopt-input: {len(other)} of {len(there)} pictures differ, such as {other[0]}, {reason}", err=True
        )
    same = len(there) - len(other)
    click.echo(f"{same} of {len(there)} pictures are the same, bit for bit: open {new / 'index.html'}")
