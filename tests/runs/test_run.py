"""A run claims its folder first, writes what it finds as it finds it, and leaves a record that is always true."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.cli import main
from jaxopt_input.engine.lanes import identity
from jaxopt_input.errors import printable
from jaxopt_input.runs.folder import Folder, earlier_files
from jaxopt_input.runs.options import run_options
from jaxopt_input.runs.page import Page, Picture, losses_of, metadata, picture_names
from jaxopt_input.runs.run import Run

QUICK = ("--steps", 2, "--parameterization", "pixels", "--transform", "none")
SOURCE = Path(joi.__file__).parents[1]


def call(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def visualize(*args):
    return call("visualize", "--model", "toy_nets:build", *QUICK, *args)


def read(folder):
    return json.loads((folder / "run.json").read_text())


def check_record(folder):
    """`run.json` names what is there, and no more."""
    info = read(folder)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(info["files"]) <= there
    assert {row["image"] for row in info["results"]} <= there
    return info, there - {*info["files"], *info.get("writing", ()), "run.json"}


def custom(work):
    """A command that does some work with a run."""

    @click.command()
    @run_options()
    @click.pass_context
    def command(context, **_):
        with Run.of(context) as run:
            work(run)

    return command


def picture(value=0):
    return Picture(np.full((4, 4, 3), value, np.uint8))


def test_what_is_written_is_in_the_record_at_once(tmp_path):
    out, states = tmp_path / "out", []

    def work(run):
        states.append(read(out)["state"])
        run.progress(1, 4, 0.5)
        run.write(Page({"a.png": picture()}, [{"target": "a", "image": "a.png", "dead": False, "finite": True}]))
        info, others = check_record(out)
        states.append((info["state"], info["files"], others))
        run.write(Page({"b.png": picture()}, [{"target": "b", "image": "b.png", "dead": True, "finite": True}]))

    done = CliRunner().invoke(custom(work), ["--out", str(out)])
    assert done.exit_code == 0, done.output
    assert states == ["running", ("running", ["metrics.jsonl", "a.png"], set())]
    info, others = check_record(out)
    assert (info["state"], others) == ("done", set())
    assert info["results"][1]["target"] == "b"
    assert "dead (zero gradient at every start): b" in done.stderr
    assert done.stdout.splitlines()[-1] == f"open {out / 'index.html'}"
    [line] = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line).items() >= {"step": 1, "total": 4, "loss": 0.5}.items()


def test_a_failure_keeps_what_was_finished(tmp_path):
    def work(run):
        run.write(Page({"a.png": picture()}))
        raise joi.InputError("no more")

    done = CliRunner().invoke(custom(work), ["--out", str(tmp_path / "out")])
    assert isinstance(done.exception, joi.InputError)
    info, others = check_record(tmp_path / "out")
    assert (info["state"], info["reason"], others) == ("failed", "no more", set())


@pytest.mark.parametrize("before", [None, "empty", "run"])
def test_a_mistake_leaves_the_folder_as_it_was(tmp_path, before):
    out = tmp_path / "deep" / "out"
    if before:
        out.mkdir(parents=True)
    if before == "run":
        assert (
            CliRunner()
            .invoke(custom(lambda run: run.write(Page({"a.png": picture()}))), ["--out", str(out), "--overwrite"])
            .exit_code
            == 0
        )
    kept = {path.name: path.read_bytes() for path in out.iterdir()} if before else None

    def work(run):
        run.progress(1, 4, 0.5)
        raise joi.InputError("a mistake")

    CliRunner().invoke(custom(work), ["--out", str(out), "--overwrite"])
    assert ({path.name: path.read_bytes() for path in out.iterdir()} if before else None) == kept
    assert before or not (tmp_path / "deep").exists()


def test_a_second_run_is_refused_at_once(tmp_path):
    refused = []

    def work(run):
        refused.append(CliRunner().invoke(custom(lambda run: None), ["--out", str(tmp_path / "out")]).exception)
        run.write(Page())

    assert CliRunner().invoke(custom(work), ["--out", str(tmp_path / "out")]).exit_code == 0
    assert "not empty" in str(refused[0])


def test_overwrite_removes_what_the_earlier_run_made_and_left(tmp_path):
    """Also what a kill left: half written files, and files that the record did not name yet."""
    out = tmp_path / "out"
    folder = Folder(out, False)
    folder.claim({"state": "running"})
    folder.save("a.png", picture())
    folder.writing = {"b.png": None, "c.npz": None}
    folder.record({"state": "running"})
    left = ("b.png", ".c-abcdefgh.npz", ".run-abcdefgh.json", ".index-abcdefgh.html")
    for name in (*left, "mine.png", ".mine-abcdefgh.png"):
        (out / name).write_bytes(b"x")
    assert earlier_files(out) == ["a.png", "b.png", "c.npz"]
    done = CliRunner().invoke(custom(lambda run: run.write(Page())), ["--out", str(out), "--overwrite"])
    assert done.exit_code == 0, done.output
    _, others = check_record(out)
    assert others == {"mine.png", ".mine-abcdefgh.png"}


def test_a_record_is_never_empty(tmp_path, monkeypatch):
    """A run that is killed as soon as it has its folder leaves a record that can be read."""
    monkeypatch.setattr(Folder, "record", lambda *_: pytest.fail("written in two steps"))
    Folder(tmp_path / "out", False).claim({"state": "running"})
    assert read(tmp_path / "out") == {"state": "running", "files": []}


def test_files_of_a_record_that_lead_elsewhere_are_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "other").write_text("mine")
    (tmp_path / "out" / "run.json").write_text(
        json.dumps({"files": ["../other", "/etc/passwd", 3, ""], "parts": [".."]})
    )
    assert earlier_files(tmp_path / "out") == []


@pytest.mark.parametrize("path", ["file", "file/sub", "dangling", "x" * 300])
def test_a_folder_that_cannot_be_written(tmp_path, path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "deep")
    before = sorted(tmp_path.iterdir())
    done = call("visualize", "--target", "class:3", "--overwrite", "--out", tmp_path / path)
    assert done.exit_code == 1
    assert done.stderr.strip().count("\n") == 0
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "save", full)
    monkeypatch.setitem(main.commands, "custom", custom(lambda run: run.write(Page({"a.png": picture()}))))
    done = call("custom", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr == "jaxopt-input: No space left on device\n"
    assert check_record(tmp_path / "out")[0]["state"] == "running"  # the last that could be written


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_numbers_are_finite(toy_nets, text):
    done = visualize("--target", "first:1", "--out", "out", f"--learning-rate={text}")
    assert done.exit_code == 2
    assert "finite" in done.stderr
    assert not (toy_nets / "out").exists()


def test_logs_name_what_to_install(toy_nets, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = visualize("--target", "first:1", "--out", "out", "--log", "wandb")
    assert done.exit_code == 1
    assert "pip install wandb" in done.stderr
    assert not (toy_nets / "out").exists()


def test_the_losses_go_to_a_log(toy_nets, monkeypatch):
    """A module of the name stands in for Weights & Biases."""
    (toy_nets / "wandb.py").write_text(
        "lines = []\ndef init(**run):\n    lines.append(run)\n    return __import__('wandb')\n"
        "def log(line):\n    lines.append(line)\ndef finish():\n    lines.append('end')\n"
    )
    monkeypatch.syspath_prepend(str(toy_nets))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert visualize("--target", "first:1", "--out", "out", "--log", "wandb").exit_code == 0
    first, *middle, last = sys.modules["wandb"].lines
    assert first["config"]["command"] == "visualize"
    assert [line["steps"] for line in middle] == [1, 2]
    assert last == "end"


STOPPED = """
import os, signal, sys, time, numpy as np
from jaxopt_input.runs.page import Page, Picture
from jaxopt_input.runs import run as runs
from jaxopt_input.runs.options import run_options
import click, hashlib
runs.PATIENCE = 0.3

@click.command()
@run_options()
@click.pass_context
def command(context, **_):
    with runs.Run.of(context) as run:
        for n in range(10**6):
            run.write(Page({f"{n}.png": Picture(np.random.default_rng(n).random((200, 200, 3)))},
                           [{"target": str(n), "image": f"{n}.png"}]))
            run.progress(n, 10**6, 1.0)
            if n == 3:
                print("ready", flush=True)
            if n == STUCK:
                hashlib.pbkdf2_hmac("sha256", b"a", b"b", 3 * 10**8)  # stuck in C

command()
"""


def killed(out, number, stuck=-1, after=0.0):
    """The exit status and standard error of a run that is killed while it writes."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    code = STOPPED.replace("STUCK", str(stuck))
    with subprocess.Popen(
        [sys.executable, "-c", code, "--out", str(out), "--overwrite"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        time.sleep(after)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.parametrize("after", [0.0, 0.013, 0.031])
def test_sigterm_ends_a_run_in_order(tmp_path, after):
    status, error = killed(tmp_path / "out", signal.SIGTERM, after=after)
    assert status == 128 + signal.SIGTERM
    assert error == f"jaxopt-input: stopped by SIGTERM; how far it came is in {tmp_path / 'out'}\n"
    info, others = check_record(tmp_path / "out")
    assert (info["state"], info["reason"], others) == ("failed", "stopped by SIGTERM", set())


def test_sigterm_ends_a_run_that_is_stuck(tmp_path):
    begin = time.perf_counter()
    status, error = killed(tmp_path / "out", signal.SIGTERM, stuck=4, after=0.3)
    assert time.perf_counter() - begin < 40  # the computation takes minutes
    assert status == 128 + signal.SIGTERM
    assert error == f"jaxopt-input: stopped by SIGTERM; how far it came is in {tmp_path / 'out'}\n"
    info, others = check_record(tmp_path / "out")
    assert (info["state"], info["reason"], others) == ("failed", "stopped by SIGTERM", set())


@pytest.mark.parametrize("after", [0.0, 0.013, 0.031])
def test_sigkill_leaves_a_true_record(tmp_path, after):
    out = tmp_path / "out"
    killed(out, signal.SIGKILL, after=after)
    info, others = check_record(out)
    assert info["state"] == "running"
    half = {name for name in others if name.startswith(".")}
    assert others == half
    done = CliRunner().invoke(custom(lambda run: run.write(Page())), ["--out", str(out), "--overwrite"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"run.json", "metrics.jsonl", "index.html"}


def test_visualize_writes_each_chunk(toy_nets, monkeypatch):
    """Five targets two at a time: three records on the way; a run that stops at the second keeps the first."""
    targets = ("--target", "first:*", "--target", "class:b")
    assert visualize(*targets, "--out", "whole").exit_code == 0
    writing, rows = Run.write, []

    def write(run, page):
        writing(run, page)
        rows.append(len(read(run.out)["results"]))

    monkeypatch.setattr(Run, "write", write)
    done = visualize(*targets, "--chunk", 2, "--device", "cpu", "--out", "out")
    assert done.exit_code == 0, done.output
    assert rows[:4] == [2, 4, 5, 6]
    images = [row["image"] for row in read(Path("whole"))["results"]]
    assert [row["image"] for row in read(Path("out"))["results"]] == images

    def stop(run, page):
        if run.info["results"]:
            raise RuntimeError("stopped")
        writing(run, page)

    monkeypatch.setattr(Run, "write", stop)
    visualize(*targets, "--chunk", 2, "--out", "stopped")
    info, others = check_record(Path("stopped"))
    assert (info["state"], info["reason"], others) == ("failed", "stopped", set())
    assert [row["image"] for row in info["results"]] == images[:2]


HOSTILE = ("\x1b[2J\x1b]0;title\x07", "$a_{b", "y" * 300, "\ud800 alone", "caf\udce9", "-.", "a\nb", "ж")


def test_names_of_any_letters_are_written_and_shown(tmp_path):
    """What a network or a file calls something ends no run, and reaches no terminal as it is."""
    names = picture_names([*HOSTILE, *(f"-{name}" for name in HOSTILE)], [0] * 2 * len(HOSTILE), ["-start0.png"])
    assert len(set(names)) == 2 * len(HOSTILE)
    assert not [name for name in names if name[0] in "-." or len(name) > 120 or not name.isascii()]

    def work(run):
        page = Page(entries={"names": list(HOSTILE)}, notes=list(HOSTILE), warnings=list(HOSTILE))
        for target, name in zip(HOSTILE, names, strict=False):
            page.items[name] = Picture(np.zeros((4, 4, 3), np.uint8), metadata("toy\x1b", 0, target=target))
            page.rows.append({"target": target, "image": name, "dead": True, "finite": False})
        losses_of(page, np.ones((len(HOSTILE), 3)), HOSTILE)
        page.items["arrays.npz"] = {name: np.ones(2) for name in (*HOSTILE, "file")}
        run.write(page)

    done = CliRunner().invoke(custom(work), ["--out", str(tmp_path / "out")])
    assert isinstance(done.exception, SystemExit), done.exception  # all are dead
    assert all(letter.isprintable() or letter == "\n" for letter in done.output)
    info, others = check_record(tmp_path / "out")
    assert (info["state"], others) == ("failed", set())
    assert info["names"] == list(HOSTILE)
    assert np.load(tmp_path / "out" / "arrays.npz").files == [*map(printable, HOSTILE), "file"]
    assert len({identity(name) for name in HOSTILE}) == len(HOSTILE)


def test_a_warning_of_what_was_given_is_recorded_and_said_once(tmp_path):
    def work(run):
        for _ in range(2):
            warnings.warn("class 2 is a label", joi.InputWarning, stacklevel=1)
        run.write(Page())

    done = CliRunner().invoke(custom(work), ["--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.count("jaxopt-input: class 2 is a label") == 1
    assert read(tmp_path / "out")["warnings"] == ["class 2 is a label"]


def test_pictures_of_so_many_pixels_are_read(toy_nets, monkeypatch):
    joi.data.save_png(toy_nets / "a.png", np.zeros((100, 100, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # it refuses twice as many
    for extra, status in (((), 1), (("--max-pixels", 9998), 1), (("--max-pixels", 10_000), 0)):
        done = call("look", "maps", "a.png", "--layer", "first", "--model", "toy_nets:build", "--out", "out", *extra)
        assert done.exit_code == status, done.output
        assert ("--max-pixels" in done.output) == bool(status)
    assert Image.MAX_IMAGE_PIXELS == 4000
