"""The command `invert`: its files, the errors in `run.json`, and mistakes."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main
from jaxopt_input.data import save_png


@pytest.fixture
def invert(toy_nets):
    y, x = np.mgrid[:20, :24] / 24
    save_png(toy_nets / "in.png", np.stack([x, y, 1 - x], -1))

    def call(*args, image="in.png", model="build"):
        common = ["invert", image, "--model", f"toy_nets:{model}", "--out", "out", "--steps", "4"]
        return CliRunner().invoke(main, common + [str(a) for a in args])

    return call


def read(folder):
    return json.loads((folder / "out" / "run.json").read_text())


@pytest.mark.slow
def test_files(invert, tmp_path):
    done = invert("--layer", "first", "--layer", "2*first", "--starts", 2, "--animate", "gif", "--channels", "0:3")
    assert done.exit_code == 0, done.output
    info = read(tmp_path)
    assert info["command"] == "invert"
    assert info["arguments"]["channels"] == "0:3"
    lanes = [(name, start) for name in ("first", "2*first") for start in (0, 1)]
    assert [(r["target"], r["start"]) for r in info["results"]] == lanes
    for result in info["results"]:
        assert list(result["error"]) == list(result["error_8bit"]) == ["first"]
        assert 0 < result["error"]["first"] < 1
        assert result["loss"]["last"] < result["loss"]["first"]
    least = min(r["error"]["first"] for r in info["results"][:2])
    assert info["error"]["first"] == {"first": least}
    assert f"error at first {100 * least:.3g} %" in done.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*info["files"], "run.json"}
    assert Image.open(tmp_path / "out" / info["original"]).size == (16, 16)
    assert Image.open(tmp_path / "out" / info["results"][0]["image"]).text["target"] == "first"
    with Image.open(tmp_path / "out" / info["animation"]) as film:
        assert film.n_frames == 5
        assert film.size == Image.open(tmp_path / "out" / "sheet.png").size
    # In the same folder, other layers: nothing of the earlier run is left.
    assert "not empty" in invert("--layer", "first").stderr
    args = ("--layer", "all", "--preset", "mahendran2016", "--size", 20, "--overwrite")
    done = invert(*args)
    assert done.exit_code == 0, done.output
    info = read(tmp_path)
    assert [r["target"] for r in info["results"]] == ["first", "logits"]
    assert info["positions"] is None
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*info["files"], "run.json"}
    assert Image.open(tmp_path / "out" / "first-start0.png").size == (20, 20)


def test_region_and_options(invert, tmp_path):
    args = ("--layer", "first", "--region", "4,5,10,9", "--parameterization", "pixels", "--optimizer", "adam")
    done = invert(*args, "--learning-rate", 0.02, "--regularizer", "total-variation^1=1e-4", "--regularizer",
                  "alpha-norm=1e-4")  # fmt: skip
    assert done.exit_code == 0, done.output
    info = read(tmp_path)
    assert info["positions"] == {"first": {"first": [4, 5, 10, 9]}}
    assert info["evaluations"] == 5


@pytest.mark.parametrize(
    ("args", "status", "hint"),
    [
        (("--layer", "frist"), 1, "nearest: first"),
        (("--layer", "first", "--preset", "mahendran2017"), 1, "nearest: mahendran201"),
        (("--layer", "first", "--channels", "3:3"), 1, "empty or outside"),
        (("--layer", "first", "--channels", "3"), 1, "0:48"),
        (("--layer", "first", "--region", "3,3,3,8"), 1, "empty or leaves"),
        (("--layer", "first", "--region", "0,0,17,8"), 1, "16 rows"),
        (("--layer", "first", "--region", "0,0"), 1, "Y0,X0,Y1,X1"),
        (("--layer", "logits", "--region", "0,0,8,8"), 1, "no positions"),
        (("--layer", "first", "--channels", "4:5"), 1, "zero where it counts"),
        (("--layer", "first", "--learning-rate", "0.1"), 1, "line search"),
        (("--layer", "first", "--regularizer", "alfa-norm=1"), 1, "nearest: alpha-norm"),
        (("--layer", "first", "--regularizer", "l2^3=1"), 1, "no exponent"),
        (("--layer", "first", "--regularizer", "alpha-norm^0=1"), 1, "positive"),
        (("--layer", "first", "--animate", "avi"), 2, "'gif', 'webp', 'mp4'"),
        ((), 2, "--layer"),
    ],
)
def test_mistakes_leave_nothing(invert, tmp_path, args, status, hint):
    done = invert(*args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert not (tmp_path / "out").exists()
    if status == 1:
        assert done.stderr.strip().count("\n") == 0


def test_a_layer_past_the_smallest_map(tmp_path):
    save_png(tmp_path / "in.png", np.random.default_rng(0).uniform(size=(8, 8, 3)))
    args = ["invert", str(tmp_path / "in.png"), "--layer", "block5", "--size", "8", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    assert "would be empty; take a larger image" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_image(invert, tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    for name, hint in (("a.jpg", "not an image"), ("none.jpg", "none.jpg")):
        done = invert("--layer", "first", image=name)
        assert done.exit_code == 1
        assert hint in done.stderr
        assert done.stderr.count("\n") == 1


def test_losses_that_are_not_finite_are_reported(invert, tmp_path):
    save_png(tmp_path / "bright.png", np.full((8, 8, 3), 1.0))
    # Noise around gray is below the cliff for some starts.
    done = invert("--layer", "logits", "--starts", 6, "--parameterization", "pixels", image="bright.png", model="steep")
    info = read(tmp_path)
    assert not all(r["finite"] for r in info["results"])
    assert "not finite" in done.stderr
    assert done.exit_code == (0 if any(r["finite"] for r in info["results"]) else 1)
    done = invert("--layer", "logits", "--overwrite", model="cliff")  # the photograph itself is too dark
    assert done.exit_code == 1
    assert "nothing to invert" in done.stderr
