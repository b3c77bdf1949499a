"""What is said while a run computes: a line a minute, a bar on a terminal, numbers in a file."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from jaxopt_input.runs import progress
from jaxopt_input.runs.progress import Metrics, Progress, compile_seconds


def test_a_line_a_minute_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "MINUTE", 0.05)
    reports = []
    with Progress(reports.append) as on:
        on.compiles(True)
        time.sleep(0.2)
        on(3, 8, -1.5)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("jaxopt-input: compiling, ")
    assert lines[-1].startswith("jaxopt-input: step 3 of 8, loss -1.5, ")
    assert [(report["step"], report["total"], report["loss"]) for report in reports] == [(3, 8, -1.5)]


def test_nothing_is_said_of_a_short_run(capsys):
    with Progress(lambda report: None) as on:
        on(1, 1)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress(lambda report: None) as on:
        on.stage("image")
        on.compiles(True)
        time.sleep(0.2)  # the bar is drawn ten times a second at most
        on(4, 4, 0.25)
    shown = capsys.readouterr().err
    assert "compiling" in shown
    assert "4/4" in shown
    assert "loss=0.25" in shown


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_numbers_that_are_not_finite_are_null(tmp_path, loss):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    Progress(metrics)(1, 2, loss)
    assert not (tmp_path / "metrics.jsonl").exists()  # the folder may hold an earlier run
    metrics.flush()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


def test_what_is_compiled_is_heard_of():
    states = []
    with compile_seconds(states.append) as seconds:
        jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.ones(5)).block_until_ready()
    assert True in states
    assert states[-1] is False
    assert 0 < sum(seconds) < 60
