"""The command line of units on their receptive fields, of crops, memory budgets and comparisons."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main

TOY = """
import jax, jax.numpy as jnp, jaxopt_input as joi

def build(labels=tuple("abcde"), seed=0, side=16, name="first-net"):
    def apply(params, image, taps):
        first = jax.nn.relu(jax.lax.conv_general_dilated(
            image - 0.4, params, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        out = {"first": first, "logits": first.mean((1, 2))}
        return {tap: out[tap] for tap in taps}
    params = jax.random.normal(jax.random.key(seed), (3, 3, 3, len(labels)))
    return joi.from_function(
        apply, params, image_shape=(side, side, 3), taps=("first", "logits"), labels=labels, name=name)

def other():
    return build(tuple("bcade"), 1, 32, "other-net")

def wide():
    return build(tuple("abcdefghijklmno"), 2, 16, "wide-net")
"""
QUICK = ("--steps", 2, "--parameterization", "pixels", "--transform", "none", "--out", "out")


@pytest.fixture
def folder(write_module):
    return write_module("unit_nets", TOY)


def visualize(*args, model="build"):
    return CliRunner().invoke(main, ["visualize", "--model", f"unit_nets:{model}", *map(str, (*QUICK, *args))])


def read(folder):
    return json.loads((folder / "out" / "run.json").read_text())


def test_field(folder):
    done = visualize("--target", "first:*", "--field", "--memory", "2GiB", model="wide")
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert info["field"] == {"layer": "first", "size": [3, 3], "stride": [1, 1], "offset": [-1, -1]}
    assert [r["target"] for r in info["results"]] == [f"first:{c}@field" for c in range(15)]
    for result in info["results"]:
        assert Image.open(folder / "out" / result["image"]).size == (3, 3)
    # a grid of 4 columns: 15 pictures, each enlarged 22 times, with its number below and one heading
    assert Image.open(folder / "out" / "sheet.png").size == (4 * (66 + 6) + 6, 21 + 4 * (66 + 21) + 6)


def test_crop(folder):
    done = visualize("--target", "first:2@center", "--target", "first:1@0,0", "--crop")
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert [r["target"] for r in info["results"]] == ["first:2@8,8", "first:1@0,0"]
    pictures = [np.asarray(Image.open(folder / "out" / r["image"])) for r in info["results"]]
    assert pictures[0].shape == (3, 3, 3)
    assert (pictures[1][0] == 128).all()  # the row above the image
    assert info["field"]["size"] == [3, 3]


@pytest.mark.parametrize(
    ("args", "code", "hint"),
    [
        (("--target", "first:1", "--crop"), 1, "@center"),
        (("--target", "logits:1", "--field"), 1, "no positions"),
        (("--target", "class:a", "--field"), 1, "LAYER:CHANNEL"),
        (("--target", "first:9", "--field"), 1, "channel 9"),
        (("--target", "first:1", "--field", "--size", 12), 2, "--size does not go with --field"),
        (("--target", "first:1", "--field", "--crop"), 2, "--crop does not go with --field"),
        (("--target", "first:1", "--memory", "much"), 1, "amount of memory"),
        (("--target", "first:1", "--memory", "10MB"), 1, "9 MiB is too little"),
        (("--target", "class:a", "--compare", "unit_nets:nothing"), 1, "nothing"),
        (("--target", "class:0", "--compare", "unit_nets:other"), 1, "is a in first-net and b in other-net"),
        (("--target", "class:f", "--compare", "unit_nets:wide"), 1, "first-net"),
        (("--target", "first:*", "--compare", "unit_nets:wide"), 1, "is 5 targets in first-net and 15 in wide-net"),
    ],
)
def test_mistakes(folder, args, code, hint):
    done = visualize(*args)
    assert done.exit_code == code, done.output
    assert hint in done.stderr
    assert not (folder / "out").exists()
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_compare(folder):
    done = visualize("--target", "class:a", "--target", "first:3", "--starts", 2, "--compare", "unit_nets:other")
    assert done.exit_code == 0, done.output
    info, parts = read(folder), ["unit_nets-build", "unit_nets-other"]
    assert [one["folder"] for one in info["compared"]] == parts
    assert [one["name"] for one in info["compared"]] == ["first-net", "other-net"]
    assert [r["model"] for r in info["results"]] == [part for part in parts for _ in range(4)]
    assert [r["target"] for r in info["results"][::2]] == ["class:0", "first:3", "class:2", "first:3"]
    for part in parts:
        alone = json.loads((folder / "out" / part / "run.json").read_text())
        assert alone["arguments"]["model"] == part.replace("-", ":")
        assert alone["arguments"]["compare"] == []
    assert all((folder / "out" / r["image"]).exists() for r in info["results"])
    assert info["evaluations"] == sum(r["evaluations"] for r in info["results"])
    # four rows of two pictures of the larger side, 32, enlarged three times
    sheet = Image.open(folder / "out" / "sheet.png")
    assert sheet.height == 4 * (96 + 6) + 6
    again = visualize("--target", "class:a", "--compare", "unit_nets:other")
    assert again.exit_code == 1
    assert "not empty" in again.stderr
    assert visualize("--target", "class:b", "--starts", 2, "--compare", "unit_nets:other", "--overwrite").exit_code == 0
    assert [r["label"] for r in read(folder)["results"]] == ["b"] * 4
