"""`bench`: how fast this machine optimizes images."""

from __future__ import annotations

import time
from pathlib import Path

import click

from jaxopt_input.errors import InputError
from jaxopt_input.runs.old_options import devices_of, given_arguments, progress_bar


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_names", default=("tin100",), multiple=True, metavar="NAME|FILE|MODULE:FUNCTION", help=(
    "The network. May be repeated."
))  # fmt: skip
@click.option("--task", "tasks", default="class,unit,dream,style,pgd", help="What to optimize, separated by commas.")
@click.option("--batch", "batches", default="1,4,16", help="Images at once, separated by commas.")
@click.option(
    "--dtype",
    "dtypes",
    default="float32",
    help=(
        "Of what is computed, separated by commas: float32, tf32 (the same with products in TF32, on a GPU), bfloat16."
    ),
)
@click.option("--steps", type=click.IntRange(min=1), default=32, help="Of the whole loop.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; in each every case runs once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def bench(
    out: Path,
    model_names: tuple[str, ...],
    tasks: str,
    batches: str,
    dtypes: str,
    steps: int,
    repeats: int,
    device: str,
    overwrite: bool,
) -> None:
    """Measure gradients and whole loops a second, beside what the device can do; one device is used.

    For every model, task, dtype and batch: medians and quartiles of interleaved repeats, the seconds to compile and to
    the first picture without and with a filled compilation cache, the memory, and the share of two ceilings measured
    in the same run: a large matrix product and a large copy. A * marks the smallest batch within 5 % of the best, if
    that is not the largest. What the device has too little memory for is told, and left out.
    """
    from jaxopt_input import networks
    from jaxopt_input.data import atomic
    from jaxopt_input.draw.curves import throughput
    from jaxopt_input.methods.bench.recipe import as_rows, ceilings, curves, measure, plan, table
    from jaxopt_input.runs.writer import check_folder, prepare, record

    arguments = given_arguments(click.get_current_context())
    check_folder(out, overwrite)
    devices = devices_of(device)[:1]
    begin = time.perf_counter()
    models = [networks.load(name) for name in model_names]
    cases = plan(models, tasks=_words(tasks), batches=_numbers(batches), dtypes=_words(dtypes), steps=steps)
    with progress_bar("run") as on_progress:
        report = measure(cases, repeats=repeats, device=devices[0], on_progress=on_progress)
    if not report.measurements:
        raise InputError(f"nothing fits the device: {report.failures[0][1]}")
    compiling = sum(m.cold.compile + m.cached.compile for m in report.measurements)
    prepare(out, overwrite)
    with atomic(out / "bench.png") as part:
        throughput(part, curves(report))
    record(
        out,
        models[0],
        devices=devices,
        command="bench",
        arguments=arguments,
        seed=0,
        seconds={"compile": compiling, "run": time.perf_counter() - begin - compiling},
        files=["bench.png"],
        results=as_rows(report),
        ceilings=ceilings(report),
        models=[{"name": model.info.name, "sha256": model.info.sha256} for model in models],
    )
    click.echo(table(report))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise InputError(f"batches are whole numbers separated by commas, such as 1,4,16, not {text!r}") from error
