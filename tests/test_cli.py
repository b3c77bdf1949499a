"""The command line beyond the contract: targets, files, failures, reproducibility."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main


@pytest.fixture
def folder(toy_nets):
    return toy_nets


OWN = {"sheet.png", "loss.png", "loss.npz", "run.json", "index.html", "metrics.jsonl"}


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def visualize(*args):
    return call("visualize", "--model", "toy_nets:build", "--out", "out", "--steps", 3, *args)


def read(folder):
    return json.loads((folder / "out" / "run.json").read_text())


def test_files(folder):
    done = visualize("--target", "first:*", "--target", "class:b", "--starts", 2, "--size", 20)
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert [r["target"] for r in info["results"]] == [f"first:{c}" for c in range(5) for _ in range(2)] + [
        "class:1"
    ] * 2
    assert [r["label"] for r in info["results"]] == [None] * 10 + ["b"] * 2
    assert info["arguments"]["target"] == ["first:*", "class:b"]
    assert info["arguments"]["starts"] == 2
    assert info["evaluations"] == sum(r["evaluations"] for r in info["results"])
    assert info["model"] == {"name": "model", "sha256": None}
    files = {r["image"] for r in info["results"]}
    assert {p.name for p in (folder / "out").iterdir()} == files | OWN
    for result in info["results"]:
        image = Image.open(folder / "out" / result["image"])
        assert image.size == (20, 20)
        assert image.text["target"] == result["target"]
    assert np.load(folder / "out" / "loss.npz")["loss"].shape == (12, 4)


def test_dead_target_is_marked_and_named(folder):
    done = visualize("--target", "first:4", "--target", "first:1")
    assert done.exit_code == 0
    assert "first:4" in done.stderr
    assert "first:1" not in done.stderr
    assert "--seed" in done.stderr  # the remedy
    assert [r["dead"] for r in read(folder)["results"]] == [True, False]


def test_all_dead_is_a_failure(folder):
    done = visualize("--target", "first:4", "--starts", 2)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert all(r["dead"] for r in read(folder)["results"])


def test_not_finite_is_null(folder):
    done = call(
        "visualize", "--model", "toy_nets:cliff", "--target", "class:*", "--parameterization", "pixels", "--transform",
        "none", "--optimizer", "sgd", "--learning-rate", 1e3, "--steps", 8, "--seed", 1, "--out", "out",
    )  # fmt: skip
    info = read(folder)
    assert done.exit_code == (1 if not any(r["finite"] for r in info["results"]) else 0)
    for result in info["results"]:
        assert Image.open(folder / "out" / result["image"]).size == (8, 8)
        if not result["finite"]:
            assert "finite" in done.stderr


@pytest.mark.slow
def test_overwrite_removes_the_earlier_results_alone(folder):
    visualize("--target", "first:*")
    (folder / "out" / "notes.txt").write_text("mine")
    done = visualize("--target", "first:1", "--overwrite")
    assert done.exit_code == 0
    names = {"first-1-start0.png", "notes.txt"} | OWN
    assert {p.name for p in (folder / "out").iterdir()} == names


@pytest.mark.parametrize(
    ("args", "status", "hint"),
    [
        (("--target", "first:9"), 1, "channel 9"),
        (("--target", "first:1", "--size", 0), 2, "size"),
        (("--target", "first:1", "--steps", 0), 2, "steps"),
        (("--target", "first:1", "--starts", 0), 2, "starts"),
        (("--target", "first:1", "--transform", "lucit"), 1, "nearest: lucid"),
        (("--target", "first:1", "--parameterization", "fouier"), 1, "nearest: fourier"),
        (("--target", "first:1", "--learning-rate", -1), 1, "positive"),
        (("--target", "first:1", "--optimizer", "lbfgs", "--learning-rate", 1), 1, "line search"),
        (("--target", "first:1", "--model", "toy_nets:bild"), 1, "build"),
        (("--target", "first:1", "--model", "squeezenett"), 1, "nearest: squeezenet"),
        (("--target", "first:1", "--device", "tpu"), 1, "tpu"),
        ((), 2, "--target"),
    ],
)
def test_mistakes_leave_nothing(folder, args, status, hint):
    done = visualize(*args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert "Traceback" not in done.output
    assert not (folder / "out").exists()
    if status == 1:
        assert done.stderr.strip().count("\n") == 0


def test_out_that_is_a_file(folder):
    (folder / "out").write_text("mine")
    done = visualize("--target", "first:1", "--overwrite")
    assert done.exit_code == 1
    assert "is a file" in done.stderr


@pytest.mark.slow
def test_same_seed_same_bytes_in_two_processes(folder):
    exe = Path(sys.executable).with_name("jaxopt-input")
    for out in ("one", "two"):
        subprocess.run(
            [exe, "visualize", "--target", "class:goldfish", "--starts", "2", "--steps", "5", "--out", out],
            check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "random"},
        )  # fmt: skip
    pictures = sorted(p.name for p in (folder / "one").glob("*.png"))
    assert len(pictures) == 4
    for name in pictures:
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()


def test_models():
    listed = call("models", "list")
    assert listed.exit_code == 0
    info = call("models", "info", "tin100")
    assert "block3" in info.output
    assert "Apache-2.0" in info.output
    assert call("models", "info", "tin1000").exit_code == 1


def test_models_import_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXOPT_INPUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.net").write_bytes(b"nothing")
    done = call("models", "import", "squeezenet", tmp_path / "bad.net")
    assert done.exit_code == 1
    assert "SHA-256" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_small_things_that_are_said(folder, monkeypatch):
    assert visualize("--target", "first:1").stdout.splitlines()[0] == "1 image"
    again = call("rerun", "out", "--out", "again")
    assert again.exit_code == 0, again.stderr
    assert again.stdout.endswith("open again/index.html\n")
    empty = call("visualize", "--target", "first:1", "--out", "")
    assert (empty.exit_code, "not an empty name" in empty.stderr) == (2, True)
    little = visualize("--target", "first:1", "--memory", "1KiB", "--overwrite")
    assert (little.exit_code, "1 KiB is too little" in little.stderr) == (1, True)
    for group in ("look", "models"):
        assert call(group, "--help").output.count("...") == 1  # of the usage

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxopt_input.runs.run.Run.write", interrupted)
    stopped = visualize("--target", "first:1", "--overwrite")
    assert (stopped.exit_code, stopped.stderr.count("\n")) == (130, 1)
    assert "stopped by SIGINT" in stopped.stderr
