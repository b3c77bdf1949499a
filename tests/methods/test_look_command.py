"""The commands `look filters`, `maps`, `grid` and `groups`: their files, their numbers and their mistakes."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.cli import main
from jaxopt_input.methods.look.page import filter_pictures, map_pictures, maps_page

QUICK = ("--steps", 2, "--transform", "none", "--parameterization", "pixels")


@pytest.fixture
def folder(toy_nets):
    """A model, and a picture."""
    joi.data.save_png(toy_nets / "photo.png", np.random.default_rng(0).random((16, 16, 3)))
    return toy_nets


def look(*args):
    return CliRunner().invoke(main, ["look", *map(str, args), "--model", "toy_nets:build", "--out", "out"])


def read(folder):
    """What run.json says; it names every file that is there."""
    info = json.loads((folder / "out" / "run.json").read_text())
    assert {path.name for path in (folder / "out").iterdir()} == {*info["files"], "run.json"}
    assert info["state"] == "done"
    return info


def test_filters(folder):
    assert look("filters").exit_code == 0
    info = read(folder)
    assert info["command"] == "look filters"
    assert [r["dead"] for r in info["results"]] == [False] * 4 + [True]
    assert np.load(folder / "out" / "features.npz")["first"].shape == (5, 3, 3, 3)
    assert np.asarray(Image.open(folder / "out" / "sheet.png")).std() > 20


def test_maps(folder):
    done = look("maps", "photo.png", "--layer", "first")
    assert done.exit_code == 0, done.output
    assert len(read(folder)["results"]) == 5
    assert np.load(folder / "out" / "features.npz")["first"].shape == (16, 16, 5)
    assert (folder / "out" / "maps-first.png").is_file()


def test_layers_of_like_names_have_pictures_of_their_own():
    maps = {name: np.ones((4, 4, 2)) for name in ("a/b", "a-b", "a-b-1", "a-b-start0")}
    names = [name for name in maps_page(maps).items if name.startswith("maps")]
    assert names == ["maps-a-b.png", "maps-a-b-1.png", "maps-a-b-1-2.png", "maps-a-b-start0.png"]


@pytest.mark.parametrize(("command", "extra", "lanes"), [("grid", ("--cells", 2), 4), ("groups", ("--groups", 3), 3)])
def test_grid_and_groups(folder, command, extra, lanes):
    done = look(command, "photo.png", "--layer", "first", *extra, *QUICK)
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert len(info["results"]) == lanes
    assert (folder / "out" / info[command]["figure"]).is_file()
    if command == "grid":
        assert Image.open(folder / "out" / "grid.png").size == (32, 32)


@pytest.mark.parametrize(
    ("args", "status", "hint"),
    [
        (("filters", "--steps", 3), 2, "steps"),
        (("filters", "--layer", "fisrt"), 1, "nearest: first"),
        (("maps", "photo.png"), 2, "--layer"),
        (("maps", "photo.png", "--layer", "logits"), 1, "has no maps"),
        (("maps", "toy_nets.py", "--layer", "first"), 1, "not an image"),
        (("grid", "none.png", "--layer", "first"), 1, "cannot read"),
        (("grid", "photo.png", "--layer", "first", "--cells", 0), 2, "cells"),
        (("groups", "photo.png", "--layer", "first", "--groups", 6), 1, "from 1 to 5"),
    ],
)
def test_mistakes_leave_nothing(folder, args, status, hint):
    done = look(*args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert not (folder / "out").exists()
    assert done.stderr.strip().count("\n") == 0


def test_zero_is_gray_in_filters_and_black_in_maps():
    weights = np.random.default_rng(0).normal(size=(3, 2, 2, 3))
    weights[1] = 0
    shown = filter_pictures(weights)
    assert (shown[1] == 0.5).all()
    np.testing.assert_allclose(np.abs(shown - 0.5).max((1, 2, 3)), [0.5, 0, 0.5])
    assert ((shown > 0.5) == (weights > 0)).all()
    assert filter_pictures(np.ones((1, 2, 2, 4))).shape == (1, 2, 2, 1)
    maps = np.abs(np.moveaxis(weights[..., 0], 0, -1))
    np.testing.assert_allclose(map_pictures(maps).max((1, 2, 3)), [1, 0, 1])
    assert (map_pictures(-maps)[1] == 0.5).all()
