"""The command `dream`: its files, animations and mistakes; the animation of `visualize`."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main
from jaxopt_input.data import save_png


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture
def picture(tmp_path):
    y, x = np.mgrid[:30, :40] / 40
    save_png(tmp_path / "in.png", np.stack([x, y, 1 - x], -1))
    return tmp_path / "in.png"


def dream(image, *args):
    return call("dream", image, "--out", image.parent / "out", "--octaves", 2, "--iterations", 2, *args)


def read(image):
    return json.loads((image.parent / "out" / "run.json").read_text())


def test_files(picture):
    done = dream(picture, "--target", "block2", "--target", "0.5*block3:7", "--animate", "gif", "--seed", 3)
    assert done.exit_code == 0, done.output
    info = read(picture)
    [result] = info["results"]
    assert result["target"] == "block2+0.5*block3:7"
    assert result["image"] == "dream.png"
    assert result["evaluations"] == info["evaluations"] == 4
    assert result["finite"]
    assert not result["dead"]
    assert info["seed"] == 3
    assert info["model"]["name"] == "tin100"
    assert [octave["shape"] for octave in info["octaves"]] == [[21, 29], [30, 40]]
    assert all(octave["loss"]["last"] < octave["loss"]["first"] for octave in info["octaves"])
    assert info["settings"]["octaves"] == [-1, 0]
    assert {p.name for p in (picture.parent / "out").iterdir()} == {*info["files"], "run.json"}
    image = Image.open(picture.parent / "out" / "dream.png")
    assert image.size == (40, 30)
    assert image.text["target"] == result["target"]
    with Image.open(picture.parent / "out" / info["animation"]) as film:
        assert film.size == (40, 30)
        assert film.n_frames == 6  # before the first step and after each, in both octaves

    # The same command makes the same bits; what an earlier run left is removed.
    before = (picture.parent / "out" / "dream.png").read_bytes()
    again = dream(picture, "--target", "block2", "--target", "0.5*block3:7", "--seed", 3, "--overwrite")
    assert again.exit_code == 0
    assert (picture.parent / "out" / "dream.png").read_bytes() == before
    assert not (picture.parent / "out" / "animation.gif").exists()


def test_zoom_and_guide(picture):
    save_png(picture.parent / "guide.png", np.random.default_rng(0).uniform(size=(20, 24, 3)))
    guide = ("--guide", picture.parent / "guide.png", "--guide-size", 24)
    done = dream(
        picture, "--target", "block2", *guide, "--frames", 3, "--animate", "webp", "--size", 32, "--octaves", 1
    )
    assert done.exit_code == 0, done.output
    info = read(picture)
    assert info["frames"] == 3
    assert info["evaluations"] == 3 * 2
    with Image.open(picture.parent / "out" / "animation.webp") as film:
        assert film.size == (32, 24)
        assert film.n_frames >= 3  # the last may be prolonged by repetition


@pytest.mark.parametrize(
    ("args", "status", "hint"),
    [
        (("--target", "blok2"), 1, "nearest: block2"),
        (("--target", "block2", "--preset", "tf3"), 1, "nearest: tf2"),
        (("--target", "block2", "--animate", "avi"), 2, "'gif', 'webp', 'mp4'"),
        (("--target", "block2", "--normalize", "rms"), 1, "mean-abs"),
        (("--target", "logits", "--guide", "in.png"), 1, "no positions"),
        (("--target", "block2", "--guide", "none.png"), 1, "none.png"),
        (("--target", "block4", "--size", 6), 1, "fewer octaves"),
        (("--target", "block2", "--tile", 8), 1, "overlap"),
        (("--target", "block2", "--frames", 2, "--zoom", 1), 1, "scale"),
        (("--target", "block2", "--octaves", 0), 2, "octaves"),
    ],
)
def test_mistakes_leave_nothing(picture, monkeypatch, args, status, hint):
    monkeypatch.chdir(picture.parent)
    done = dream(picture, *args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert not (picture.parent / "out").exists()
    if status == 1:
        assert done.stderr.strip().count("\n") == 0


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    done = dream(tmp_path / "a.jpg", "--target", "block2")
    assert done.exit_code == 1
    assert "not an image" in done.stderr
    assert done.stderr.count("\n") == 1


def test_all_dead_is_a_failure(picture, monkeypatch):
    (picture.parent / "dead_nets.py").write_text(
        "import jaxopt_input as joi\n"
        "def build():\n"
        "    return joi.from_function(lambda p, x, taps: {'a': 0 * x}, 0.0, image_shape=(8, 8, 3), taps=('a',))\n"
    )
    monkeypatch.chdir(picture.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = dream(picture, "--target", "a", "--model", "dead_nets:build")
    assert done.exit_code == 1
    assert "another channel or image" in done.stderr
    assert read(picture)["results"][0]["dead"]


def test_visualize_animates(tmp_path, monkeypatch):
    (tmp_path / "mean_nets.py").write_text(
        "import jaxopt_input as joi\n"
        "def build():\n"
        "    return joi.from_function(lambda p, x, taps: {'a': x}, 0.0, image_shape=(8, 8, 3), taps=('a',))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    args = ("visualize", "--model", "mean_nets:build", "--target", "a:1", "--steps", 3, "--parameterization", "pixels")
    args += ("--transform", "none")
    done = call(*args, "--out", tmp_path / "out", "--animate", "gif")
    assert done.exit_code == 0, done.output
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert info["animation"] in info["files"]
    with Image.open(tmp_path / "out" / info["animation"]) as film:
        assert film.n_frames == 4  # before the first step and after each
        assert film.size == Image.open(tmp_path / "out" / "sheet.png").size
    wrong = call(*args, "--out", tmp_path / "none", "--animate", "gip")
    assert wrong.exit_code == 2
    assert "'gif', 'webp', 'mp4'" in wrong.stderr
