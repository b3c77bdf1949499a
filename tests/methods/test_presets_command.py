"""`visualize` with presets and combined targets on the command line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main

TOY = """
import jax, jax.numpy as jnp, jaxopt_input as joi

def build():
    def apply(params, image, taps):
        first = jax.nn.relu(jax.lax.conv_general_dilated(
            image - 0.5, params, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        out = {"first": first, "logits": first.mean((1, 2))}
        return {tap: out[tap] for tap in taps}
    params = jax.random.normal(jax.random.key(0), (3, 3, 1, 5))
    return joi.from_function(apply, params, image_shape=(14, 14, 1), taps=("first", "logits"), labels=tuple("abcde"))
"""


@pytest.fixture
def visualize(write_module):
    write_module("toy_digits", TOY)

    def call(*args):
        common = ["visualize", "--model", "toy_digits:build", "--out", "out", "--steps", "4"]
        return CliRunner().invoke(main, common + [str(a) for a in args])

    return call


def read(folder):
    return json.loads((folder / "out" / "run.json").read_text())


@pytest.mark.slow
def test_yosinski_writes_last_and_majority(visualize, tmp_path):
    done = visualize("--preset", "yosinski-3", "--target", "first:1", "--starts", 2)
    assert done.exit_code == 0, done.output
    info = read(tmp_path)
    assert [r["target"] for r in info["results"]] == ["first:1@3,3"] * 2
    assert info["arguments"]["preset"] == "yosinski-3"
    for entry in info["versions"]:
        assert Image.open(tmp_path / "out" / entry["last"]).size == (14, 14)
        scaled = np.asarray(Image.open(tmp_path / "out" / entry["scaled"]), np.float32)
        assert max(scaled.max() - 127.5, 127.5 - scaled.min()) >= 127
        assert (entry["majority"] is None) == (entry["majority_step"] is None)
        assert entry["majority"] is None or (tmp_path / "out" / entry["majority"]).is_file()
    # Other options, in the same folder: nothing of the earlier run is left.
    done = visualize("--preset", "plain", "--target=-class:b+2*first:2", "--overwrite", "--objective", "probability")
    assert done.exit_code == 0, done.output
    info = read(tmp_path)
    assert [(r["target"], r["label"]) for r in info["results"]] == [("-class:1+2*first:2", "b")]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*info["files"], "run.json"}
    assert info["results"][0]["image"] == "minus-class-1-2-first-2-start0.png"


@pytest.mark.slow
def test_maco_writes_its_importance_as_alpha(visualize, tmp_path):
    done = visualize("--preset", "maco", "--target", "class:c", "--redirect-relu", "--regularizer", "l2=1e-4")
    assert done.exit_code == 0, done.output
    picture = Image.open(tmp_path / "out" / read(tmp_path)["versions"][0]["alpha"])
    assert picture.mode == "RGBA"
    assert np.asarray(picture)[..., 3].max() == 255
    assert len(np.unique(np.asarray(picture)[..., 3])) > 4


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("--target", "class:a", "--preset", "yosinsky-1"), "nearest: yosinski-1"),
        (("--target", "first:5"), "channel 5 does not exist"),
        (("--target", "first:1", "--regularizer", "diversity:first=1"), "at least 2 starts"),
        (("--target", "first:1", "--regularizer", "diversity:first=1", "--starts", 4, "--chunk", 2), "raise chunk"),
        (("--target", "class:a", "--objective", "logits"), "nearest: logit"),
        (("--target", "class:a", "--parameterization", "piramid"), "nearest: pyramid"),
        (("--target", "class:a", "--like", "nowhere.png"), "nowhere.png"),
    ],
)
def test_mistakes(visualize, tmp_path, args, hint):
    done = visualize(*args)
    assert done.exit_code == 1
    assert hint in done.stderr
    assert not (tmp_path / "out").exists()
