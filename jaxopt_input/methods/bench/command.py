"""`bench`: how fast this machine optimizes images."""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.errors import InputError
from jaxopt_input.names import BENCH_TASKS, PRECISIONS, listed
from jaxopt_input.runs.options import MODEL, run_options
from jaxopt_input.runs.run import Run


@click.command()
@click.option("--model", "models", default=("tin100",), multiple=True, metavar=MODEL, help=(
    "The network. May be repeated."
))  # fmt: skip
@click.option("--task", "tasks", default=",".join(BENCH_TASKS), help=(
    f"Tasks to measure, separated by commas: {listed(BENCH_TASKS, 'and')}."
))  # fmt: skip
@click.option("--batch", "batches", default="1,4,16", help="Numbers of images at once, separated by commas.")
@click.option("--dtype", "dtypes", default="float32", help=(
    f"Types to compute with, separated by commas: {listed(PRECISIONS, 'and')}; tf32 is float32 with products in TF32, "
    "on a GPU."
))  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), default=32, help="Updates in the whole loop.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; in each of them every case runs once.")
@run_options(without=("model_name", "seed", "memory", "chunk", "dtype", "precision", "max_pixels", "log"))
@click.pass_context
def bench(context: click.Context, models: tuple[str, ...], steps: int, repeats: int, **options: Any) -> None:
    """Measure gradients and whole loops per second, beside what the device can do; a single device is used.

    For every model, task, dtype and batch: medians and quartiles of interleaved repeats, the seconds to compile and to
    the first picture without and with a filled compilation cache, the memory, and the share of two ceilings measured
    in the same run: a large matrix product and a large copy. A * marks the smallest batch within 5 % of the best,
    unless it is the largest. A case that the device has too little memory for is named, and left out.
    """
    with Run.of(context) as run:
        from jaxopt_input.methods.bench.page import bench_page
        from jaxopt_input.methods.bench.recipe import measure, plan

        networks = [run.load(name) for name in models]
        run.record_model(networks[0])
        tasks, batches, dtypes = _words(options["tasks"]), _numbers(options["batches"]), _words(options["dtypes"])
        cases = plan(networks, tasks=tasks, batches=batches, dtypes=dtypes, steps=steps)
        report = measure(cases, repeats=repeats, on=run.stage("run"))
        if not report.measurements:
            raise InputError(f"nothing fits the device: {report.failures[0][1]}")
        run.write(bench_page(report, networks))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise InputError(f"batches are whole numbers separated by commas, such as 1,4,16, not {text!r}") from error
