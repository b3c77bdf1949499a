"""Commands that show data beside what a network dreams: `directions`, and `visualize` with data."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.cli import main

QUICK = ("--steps", 2, "--transform", "none", "--parameterization", "pixels")


@pytest.fixture
def folder(toy_nets):
    """A model, and 12 pictures in two classes."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (toy_nets / "set" / name).mkdir(parents=True)
        for n in range(6):
            joi.data.save_png(toy_nets / "set" / name / f"{n}.png", rng.random((16, 16, 3)))
    return toy_nets


def call(command, *args):
    arguments = (command, "--model", "toy_nets:build", "--out", "out", *args)
    return CliRunner().invoke(main, [str(arg) for arg in arguments])


def read(folder):
    """What run.json says; it names every file that is there."""
    info = json.loads((folder / "out" / "run.json").read_text())
    assert {path.name for path in (folder / "out").iterdir()} == {*info["files"], "run.json"}
    return info


def test_directions(folder):
    done = call("directions", "--layer", "first", "--data", "set", "--directions", 6, "--top", 3, "--show", 2)
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert info["command"] == "directions"
    assert info["arguments"]["directions"] == 6
    assert info["silent"] == ["first:4"]  # the dead channel
    assert {group: counts["sets"] for group, counts in info["sets"].items()} == {
        "units": 4,
        "directions": 6,
        "random": 256,
    }
    for group in ("units", "directions", "random", "units - directions"):
        for measure in ("entropy", "similarity"):
            interval = info["coherence"][group][measure]
            assert interval["low"] <= interval["mean"] <= interval["high"]
    arrays = np.load(folder / "out" / "directions.npz")
    assert arrays["vectors"].shape == (11, 5)
    assert arrays["largest_index"].shape == (11, 3)
    shown = info["data"]["targets"]
    assert [entry["target"] for entry in shown[:2]] == ["first:0", "first:1"]
    assert [entry["target"] for entry in shown] == [arrays["names"][n] for n in (0, 1, 5, 6)]
    first = shown[0]["largest"][0]
    assert first["index"] == arrays["largest_index"][0, 0]
    assert first["label"] == ("a" if first["index"] < 6 else "b")
    assert {"units.png", "directions.png", "sheet.png", "coherence.png"} <= set(info["files"])
    groups = [line.split()[0] for line in done.stdout.splitlines()[:3]]
    assert groups == ["units", "directions", "random"]
    again = call("directions", "--layer", "first", "--data", "set", "--directions", 6, "--top", 3)
    assert again.exit_code == 1
    assert "not empty" in again.stderr


@pytest.mark.slow
def test_directions_with_images_made(folder):
    done = call("directions", "--layer", "logits", "--data", "set", "--directions", 2, "--units", 3, "--top", 2,
                "--show", 1, "--synthetic", "--steps", 1)  # fmt: skip
    assert done.exit_code == 0, done.output
    results = read(folder)["results"]
    assert [r["target"] for r in results[:2]] == ["logits:0", "logits:0"]
    assert [r["target"].startswith("logits:direction") for r in results[2:]] == [True, True]
    assert all(Image.open(folder / "out" / r["image"]).size == (16, 16) for r in results)


def test_the_comparison_is_kept_where_images_cannot_be_made(folder, monkeypatch):
    def synthesize(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("jaxopt_input.methods.directions.recipe.synthesize", synthesize)
    done = call("directions", "--layer", "first", "--data", "set", "--directions", 2, "--top", 3, "--synthetic")
    assert done.exit_code == 1
    info = read(folder)
    assert (info["state"], info["reason"]) == ("failed", "out of memory")
    assert {"coherence.png", "directions.npz"} <= set(info["files"])


@pytest.mark.slow
def test_with_data(folder):
    targets = ("--target", "first:*@2,3", "--target", "class:b", "--target", "-2*first:0@2,3")
    done = call("visualize", *targets, "--starts", 2, "--with-data", "set", "--top", 3, *QUICK)
    assert done.exit_code == 0, done.output
    data = read(folder)["data"]
    names = [*(f"first:{n}@2,3" for n in range(5)), "class:1", "-2*first:0@2,3"]
    assert list(data["targets"]) == names
    assert data["receptive_fields"] == {"first": {"size": [3, 3], "stride": [1, 1], "offset": [-1, -1]}}
    for ends in data["targets"].values():
        for end, sign in (("largest", -1), ("smallest", 1)):
            values = [image["value"] for image in ends[end]]
            assert values == sorted(values, key=lambda value: sign * value)
            assert len(values) == 3
    assert data["targets"]["-2*first:0@2,3"] == data["targets"]["first:0@2,3"]
    assert Image.open(folder / "out" / "data.png").width > 7 * 72


def test_with_data_on_the_receptive_field(folder):
    targets = ("--target", "first:0", "--target", "first:2", "--field")
    done = call("visualize", *targets, "--with-data", "set", "--top", 2, *QUICK)
    assert done.exit_code == 0, done.output
    data = read(folder)["data"]
    assert list(data["targets"]) == ["first:0@field", "first:2@field"]


@pytest.mark.parametrize(
    ("args", "status", "hint"),
    [
        (("directions", "--layer", "frist", "--data", "set"), 1, "nearest: first"),
        (("directions", "--layer", "first", "--data", "empty"), 1, "holds no images"),
        (("directions", "--layer", "first", "--data", "set", "--top", 13), 1, "12 images"),
        (("directions", "--layer", "first", "--data", "set", "--units", 6), 1, "channel 5 does not exist"),
        (("directions", "--layer", "first", "--data", "set", "--pool", "sum"), 1, "known: max, mean"),
        (("visualize", "--target", "first:1", "--with-data", "./none"), 1, "no folder or file"),
        (("visualize", "--target", "first", "--with-data", "set"), 1, "no data can be shown beside first"),
        (("visualize", "--target", "first:1", "--with-data", "set", "--top", 13), 1, "12 images"),
    ],
)
def test_mistakes_leave_nothing(folder, args, status, hint):
    (folder / "empty").mkdir()
    done = call(*args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert "Traceback" not in done.output
    assert not (folder / "out").exists()
    if status == 1:
        assert done.stderr.strip().count("\n") == 0


def test_a_small_set_is_shown_whole(folder):
    """What is asked for by nobody cannot be too much."""
    for name in "ab":
        for n in range(2, 6):
            (folder / "set" / name / f"{n}.png").unlink()
    assert call("visualize", "--target", "class:a", "--with-data", "set", *QUICK).exit_code == 0
    assert read(folder)["data"]["top"] == 4
    asked = call("visualize", "--target", "class:a", "--with-data", "set", "--top", 5, "--overwrite", *QUICK)
    assert (asked.exit_code, "from 1 to the 4 images" in asked.stderr) == (1, True)
    done = call("directions", "--layer", "first", "--data", "set", "--directions", 2, "--overwrite")
    assert done.exit_code == 0, done.stderr
