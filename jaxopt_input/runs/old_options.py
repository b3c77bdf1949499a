"""What the sub-commands share: options they cannot take, progress, what goes into `run.json`, failures, devices."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.errors import InputError

if TYPE_CHECKING:
    import jax


PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": None}
"""What `--precision` takes, as JAX names it; bfloat16 is that of the activations."""


def precision_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--precision`, under which all that the command does is traced and compiled, to a command."""

    def chosen(context: click.Context, _: click.Parameter, precision: str | None) -> str | None:
        if precision == "bfloat16":
            context.default_map = {**(context.default_map or {}), "dtype": "bfloat16"}
        elif precision:
            import jax

            context.with_resource(jax.default_matmul_precision(PRECISIONS[precision]))
        return precision

    return click.option("--precision", type=click.Choice(list(PRECISIONS)), is_eager=True, callback=chosen, help=(
        "Of products and convolutions; bfloat16: of the activations as well.  [default: JAX's: float32 on a CPU, tf32 "
        "on a GPU]"
    ))(command)  # fmt: skip


def refuse(context: click.Context, what: str, names: Collection[str]) -> None:
    """Raise a usage error if one of these options was given: they do not go with what was asked for."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and parameter.name in names:
            raise click.UsageError(f"{parameter.opts[0]} does not go with {what}")


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar, as the function that a recipe calls with (done, total) and, where there is one, the loss."""
    from tqdm import tqdm

    with tqdm(total=1, unit=unit, leave=False, disable=None) as bar:

        def on_progress(done: int, total: int, loss: float | None = None) -> None:
            bar.total = total
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(done - bar.n)

        yield on_progress


def given_arguments(context: click.Context) -> dict[str, Any]:
    """The options by the names that a user gave them; not those that say where the results lie."""
    names = {parameter.name: parameter.opts[0].lstrip("-") for parameter in context.command.params}
    return {names[key]: value for key, value in context.params.items() if key not in ("out", "overwrite")}


def report_failures(
    results: list[dict[str, Any]],
    alive: str = "more --starts, another --seed or --parameterization, or a layer before the ReLU",
    finite: str = "a smaller --learning-rate",
    alone: bool = True,
) -> None:
    """Name on standard error what is dead or not finite, with remedies.

    Exit 1 if no start of any target succeeded and the images stand alone, not beside other results.
    """
    by_target: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_target.setdefault(result["target"], []).append(result)
    dead = [target for target, starts in by_target.items() if all(r["dead"] for r in starts)]
    broken = [r for r in results if not r["finite"]]
    if dead:
        click.echo(f"jaxopt-input: dead (zero gradient at every start): {_first(dead)}; try {alive}", err=True)
    if broken:
        shown = _first(list(dict.fromkeys(r["target"] for r in broken)))
        click.echo(
            f"jaxopt-input: {len(broken)} of {len(results)} starts met numbers that are not finite and kept their best "
            f"finite image: {shown}; try {finite}",
            err=True,
        )
    if alone and all(r["dead"] or not r["finite"] for r in results):
        sys.exit(1)


def _first(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def devices_of(device: str) -> Sequence[jax.Device]:
    """The local devices of a platform, or an `InputError` where there is none.

    From here on, what is compiled is kept for the next run, unless `--no-cache` was given.
    """
    import jax

    _keep_compiled()
    try:
        devices = jax.local_devices(backend=None if device == "auto" else device)
    except RuntimeError as error:
        raise InputError(f"no {device} to run on: {str(error).splitlines()[0]}") from error
    if devices[0].platform != jax.default_backend():
        jax.config.update("jax_default_device", devices[0])
    return devices


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    import jax

    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _keep_compiled() -> None:
    """Do as `--cache` and `--verbose` say; a folder that cannot be written or read costs time, not the run.

    JAX's own switch, JAX_ENABLE_COMPILATION_CACHE, goes before.
    """
    import jax

    from jaxopt_input.runs.cache import compilation_cache

    context = click.get_current_context(silent=True)
    given = context.find_root().params if context else {}
    told = "compiled programs are not kept"
    if context and not given.get("cache"):
        context.find_root().with_resource(_without_cache())  # also where JAX's own variable names a folder
    if given.get("cache") and jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        try:
            told = f"compiled programs are kept in {compilation_cache()}"
        except InputError as error:
            told = str(error).replace("choose another folder", "this run does without")
    if given.get("verbose"):
        click.echo(f"jaxopt-input: {told}", err=True)
    else:
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
