"""`--precision`: what the network is traced with, what the record says, and that no stale program is used."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.cli import main
from jaxopt_input.models.model import in_dtype

PROBE = """
import jax, jax.numpy as jnp, jaxopt_input as joi

seen = []

def build():
    def apply(params, image, taps):
        seen.append((jax.config.jax_default_matmul_precision, str(image.dtype)))
        return {"logits": image.mean((1, 2)) @ params}
    return joi.from_function(apply, jnp.eye(3), image_shape=(8, 8, 3), taps=("logits",), labels=tuple("abc"))
"""
VISUALIZE = ["visualize", "--target", "class:b", "--steps", "2", "--parameterization", "pixels", "--transform", "none"]
EXPECTED = {
    (): (None, "float32"),
    ("--precision", "bfloat16"): (None, "bfloat16"),
    ("--dtype", "bfloat16"): (None, "bfloat16"),
    ("--dtype", "bfloat16", "--precision", "float32"): ("float32", "bfloat16"),
}


@pytest.fixture
def probe(write_module):
    return write_module("probe", PROBE)


def traced(folder, command, options):
    """(precision of products, dtype) that the network was last traced with, and the arguments in the record."""
    out = folder / "-".join(["out", *options])
    done = CliRunner().invoke(main, [*command, "--model", "probe:build", "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    assert jax.config.jax_default_matmul_precision is None  # the process is as it was
    return sys.modules["probe"].seen[-1], json.loads((out / "run.json").read_text())["arguments"]


@pytest.mark.parametrize("options", EXPECTED, ids=" ".join)
def test_visualize(probe, options):
    found, arguments = traced(probe, VISUALIZE, options)
    assert found == EXPECTED[options]
    assert arguments["dtype"] == EXPECTED[options][1]
    assert arguments["precision"] == (options[options.index("--precision") + 1] if "--precision" in options else None)


@pytest.mark.parametrize("options", [("--precision", "tf32"), ("--precision", "bfloat16")], ids=" ".join)
def test_attack(probe, options):
    Image.new("RGB", (8, 8), (90, 100, 120)).save(probe / "blue.png")
    command = ["attack", "--images", str(probe / "blue.png"), "--method", "fgsm", "--epsilon", "0.2"]
    found, arguments = traced(probe, command, options)
    assert found == {"tf32": ("tensorfloat32", "float32"), "bfloat16": (None, "bfloat16")}[options[1]]
    assert arguments.get("precision") == options[1]


def test_other_precisions_are_other_programs(compilations):
    model = joi.from_function(
        lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3), image_shape=(5, 5, 3), taps=("logits",)
    )
    images = jnp.ones((2, 5, 5, 3))
    with compilations() as first:
        model.activations(images, ["logits"])
    with compilations() as again, jax.default_matmul_precision("float32"):
        model.activations(images, ["logits"])
        once = again.count
        model.activations(images, ["logits"])
    assert first.count
    assert once == again.count == 1


def test_in_dtype(toy):
    images = np.random.default_rng(0).random((2, *toy.info.image_shape), np.float32)
    fine, coarse = (m.activations(images, toy.info.taps) for m in (toy, in_dtype(toy, "bfloat16")))
    for tap in toy.info.taps:
        assert coarse[tap].dtype == jnp.float32
        scale = float(jnp.abs(fine[tap]).max())
        error = float(jnp.abs(fine[tap] - coarse[tap]).max()) / scale
        assert 1e-6 < error < 0.03  # three layers of 8 bits each: 2⁻⁸ = 0.004 a rounding
    assert in_dtype(toy, "bfloat16") == in_dtype(toy, jnp.bfloat16)  # made twice, compiled once
    with pytest.raises(joi.InputError, match="int8"):
        in_dtype(toy, "int8")
