"""The commands `fool` and `transfer`: their files, their numbers and their mistakes."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.cli import main

NETS = """
import toy_nets, dataclasses, jax, jax.numpy as jnp

def other():
    model = toy_nets.build()
    return dataclasses.replace(model, params=model.params[..., ::-1])

def near():
    model = toy_nets.build()
    return dataclasses.replace(model, params=model.params * 1.05)

def altered(before, after):
    model = toy_nets.build()
    def apply(params, image, taps):
        out = model.apply(params, before(image), taps)
        return {**out, "logits": after(out["logits"], image)}
    return dataclasses.replace(model, apply=apply)

def flat():
    return altered(jax.lax.stop_gradient, lambda logits, image: logits)

def odd():  # its logits are finite, its gradient is not
    return altered(lambda image: image, lambda logits, image: logits + 0 * jnp.sqrt(jnp.maximum(image.min(), 1) - 1))

def broken():
    return altered(lambda image: image, lambda logits, image: logits + jnp.log(image.min() - 2))

def partial():  # all but class b are as likely whatever the image
    return altered(lambda image: image, lambda logits, image: (0 * logits).at[:, 1].set(logits[:, 1] - 1000))

def probable():
    return altered(lambda image: image, lambda logits, image: jax.nn.softmax(logits))
"""


@pytest.fixture
def folder(toy_nets):
    """Three networks, and six pictures in two classes."""
    (toy_nets / "other_nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    for name in "ab":
        (toy_nets / "set" / name).mkdir(parents=True)
        for n in range(3):
            joi.data.save_png(toy_nets / "set" / name / f"{n}.png", rng.random((16, 16, 3)))
    return toy_nets


def call(*args):
    return CliRunner().invoke(main, [str(arg) for arg in (*args, "--out", "out")])


def fool(*args):
    return call("fool", "--model", "toy_nets:build", *args)


def transfer(*args):
    return call("transfer", "--models", "toy_nets:build,other_nets:near", *args)


def read(folder):
    """What run.json says; it names every file that is there."""
    info = json.loads((folder / "out" / "run.json").read_text())
    assert {path.name for path in (folder / "out").iterdir()} == {*info["files"], "run.json"}
    return info


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ("--steps", 5, "--init", "noise"),
        ("--method", "evolution", "--encoding", "cppn", "--generations", 5, "--population", 8),
    ],
)
def test_fool(folder, args):
    done = fool("--classes", "d,1", "--judge", "other_nets:other", "--seed", 3, *args)
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert info["command"] == "fool"
    assert [one["class"] for one in info["results"]] == [3, 1]
    assert [one["name"] for one in info["results"]] == ["d", "b"]
    model, judge = (joi.load(f"{name}") for name in ("toy_nets:build", "other_nets:other"))
    for one in info["results"]:
        file = Image.open(folder / "out" / one["image"])
        assert file.text["class"] == str(one["class"])
        picture = np.asarray(file, np.float32)[None] / 255

        def share(net, picture=picture):
            logits = np.asarray(net.activations(picture, ["logits"])["logits"], np.float64)[0]
            return np.exp(logits - np.logaddexp.reduce(logits))

        assert one["probability"] == pytest.approx(share(model)[one["class"]], rel=1e-4)
        assert one["judge"]["prediction"] == share(judge).argmax()
        assert one["judge"]["probability"] == pytest.approx(share(judge)[one["class"]], rel=1e-4)
    assert info["median"] == pytest.approx(np.median([one["probability"] for one in info["results"]]))
    assert info["confident"] == sum(one["probability"] > 0.99 for one in info["results"])
    assert info["judge"]["agrees"] == sum(one["judge"]["prediction"] == one["class"] for one in info["results"])
    history = np.load(folder / "out" / "probability.npz")
    assert history["probability"].shape == (6, 2)
    assert info["evaluations"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "args", "told", "finite", "dead"),
    [
        ("flat", ("--steps", 3), ("dead", "class:3, class:1", "--method evolution"), True, True),
        ("broken", ("--steps", 3), ("2 of 2", "not finite", "class:3, class:1", "--seed"), False, False),
        (
            "broken",
            ("--method", "evolution", "--generations", 2, "--population", 4),
            ("2 of 2", "not finite", "class:3, class:1", "--population"),
            False,
            False,
        ),
    ],
)
def test_fool_that_fails_is_told(folder, model, args, told, finite, dead):
    done = call("fool", "--model", f"other_nets:{model}", "--classes", "d,b", "--judge", "other_nets:broken", *args)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.strip().splitlines()
    assert all(part in line for part in told)
    info = read(folder)
    assert [(one["finite"], one["dead"]) for one in info["results"]] == [(finite, dead)] * 2
    assert [one["probability"] is None for one in info["results"]] == [model == "broken"] * 2
    assert (info["median"] is None) == (model == "broken")
    assert info["results"][0]["judge"] == {"prediction": None, "name": None, "probability": None}
    assert (info["judge"]["agrees"], info["judge"]["fooled"]) == (0, 0)


@pytest.mark.slow
def test_fool_where_one_class_fails(folder):
    """Only class b has a gradient: the other is named, and the exit status is 0."""
    done = call("fool", "--model", "other_nets:partial", "--classes", "a,b", "--steps", 2)
    assert done.exit_code == 0, done.output
    assert "dead" in done.stderr
    assert "class:0; try" in done.stderr
    assert [one["dead"] for one in read(folder)["results"]] == [True, False]


@pytest.mark.slow
def test_transfer(folder):
    done = transfer("--images", folder / "set" / "a" / "0.png", "--epsilon", "16/255", "--steps", 4, "--rms", 0.2)
    assert done.exit_code == 0, done.output
    assert "made for \\ fed to" in done.stdout
    info = read(folder)
    assert [one["made_for"] for one in info["results"]] == ["toy_nets:build", "other_nets:near"]
    for one in info["results"]:
        assert set(one["error"]) == set(one["noise"]) == {"toy_nets:build", "other_nets:near"}
        assert one["accuracy"] == 1
        assert one["rms"] == pytest.approx(0.2, abs=0.05)  # what is clipped is lost
    assert info["counted"] == 1
    assert info["labels"] == "predicted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "told"), [("flat", "is zero at 1 of 1 images"), ("odd", "met numbers that are not finite")]
)
def test_transfer_tells_what_hides_a_gradient(folder, model, told):
    one = folder / "set" / "a" / "0.png"
    models = f"toy_nets:build,other_nets:{model}"
    done = call("transfer", "--models", models, "--images", one, "--epsilon", "16/255", "--steps", 4)
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.stderr.splitlines() if line.startswith(f"jaxopt-input: other_nets:{model}: "))
    assert told in line
    build, other = read(folder)["results"]
    assert build["warnings"] == []
    assert told in other["warnings"][0]


@pytest.mark.parametrize(
    ("command", "args", "status", "hint"),
    [
        (fool, ("--classes", "z"), 1, "unknown class"),
        (fool, ("--classes", "9"), 1, "class 9 does not exist"),
        (fool, ("--classes", "a,0"), 1, "twice"),
        (fool, ("--model", "other_nets:probable"), 1, "are probabilities"),
        (fool, ("--model", "other_nets:probable", "--method", "evolution"), 1, "are probabilities"),
        (fool, ("--judge", "mnist"), 1, "it cannot judge"),
        (fool, ("--encoding", "cppn"), 2, "--method gradient"),
        (fool, ("--method", "evolution", "--init", "noise"), 2, "--method evolution"),
        (transfer, ("--images", "set", "--epsilon", "0.1,0.2"), 1, "one budget"),
        (transfer, ("--images", "set"), 1, "needs a budget"),
        (transfer, ("--images", "set", "--method", "ddn", "--epsilon", "0.1"), 1, "minimizes"),
        (transfer, ("--images", "set", "--epsilon", "0.1", "--rms", "-1"), 1, "rms"),
        (transfer, ("--images", "set", "--epsilon", "0.1", "--models", "toy_nets:build"), 1, "at least two"),
        (transfer, ("--images", "set", "--epsilon", "0.1", "--models", "mnist,mnist"), 1, "named once"),
    ],
)
def test_mistakes_leave_nothing(folder, command, args, status, hint):
    done = command(*args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert not (folder / "out").exists()
    if status == 1:
        assert done.stderr.strip().count("\n") == 0
