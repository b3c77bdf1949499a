"""The command `attack`: its files, its numbers and its mistakes."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import jaxopt_input as joi
from jaxopt_input.cli import main


@pytest.fixture
def folder(toy_nets):
    """A model, and six pictures in two classes."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (toy_nets / "set" / name).mkdir(parents=True)
        for n in range(3):
            joi.data.save_png(toy_nets / "set" / name / f"{n}.png", rng.random((16, 16, 3)))
    return toy_nets


def call(*args):
    given = ("attack", "--model", "toy_nets:build", "--out", "out", *args)
    return CliRunner().invoke(main, [str(arg) for arg in given])


def read(folder):
    """What run.json says; it names every file that is there."""
    info = json.loads((folder / "out" / "run.json").read_text())
    assert {path.name for path in (folder / "out").iterdir()} == {*info["files"], "run.json"}
    return info


def test_budgets(folder):
    done = call("--images", "set", "--epsilon", "2/255,16/255", "--steps", 4, "--starts", 2, "--seed", 3, "--rounded")
    assert done.exit_code == 0, done.output
    assert "robust" in done.output
    info = read(folder)
    assert info["command"] == "attack"
    assert info["arguments"]["epsilon"] == "2/255,16/255"
    assert info["norm"] == "linf"
    results = info["results"]
    assert len(results) == 12
    arrays = np.load(folder / "out" / "adversarial.npz")
    assert arrays["image"].shape == (2, 6, 16, 16, 3)
    for k, one in enumerate(results):
        e, n = divmod(k, 6)
        assert one["source"].endswith(f"{n % 3}.png")
        assert one["label"] == n // 3
        assert one["name"] == "ab"[n // 3]
        assert one["epsilon"] == pytest.approx([2 / 255, 16 / 255][e])
        assert one["success"] == arrays["success"][e, n]
        assert set(one["prediction"]) == {"clean", "adversarial"}
        assert set(one["distance"]) == {"l0", "l1", "l2", "linf", "rms"}
        if one["success"]:
            assert one["distance"]["linf"] <= one["epsilon"] + 1e-6
        else:
            assert one["distance"]["linf"] is None
        picture = np.asarray(Image.open(folder / "out" / one["image"])) / 255
        np.testing.assert_allclose(picture, arrays["image"][e, n], atol=1e-6)  # rounded: the PNG is exact
    right = [one["prediction"]["clean"] == one["label"] for one in results[:6]]
    assert any(right)
    assert not all(right)
    for e, part in enumerate(info["summary"]):  # each budget by itself, over the images that were right before
        rest = [one for one, counts in zip(results[6 * e : 6 * e + 6], right, strict=True) if counts]
        assert part["right"] == sum(right) == 6 - part["wrong_before"]
        assert part["found"] == part["found_after_rounding"] == sum(one["success"] for one in rest)
        assert set(part["control"]) == {"gaussian", "signs"}
    assert "2/255" in done.output
    assert "0.0078" not in done.output
    assert Image.open(folder / "out" / results[0]["image"]).text["epsilon"] == "2/255"
    clean = np.mean(right)
    assert info["accuracy"]["clean"] == pytest.approx(clean)
    assert len(info["accuracy"]["robust"]) == 2
    assert info["curve"]["epsilon"] == pytest.approx([0, 2 / 255, 16 / 255])
    assert info["starts"]["count"] == 2
    assert info["evaluations"] == sum(one["gradients"] + one["forwards"] for one in results)


def test_images_that_resist(folder):
    """A budget far below a level of 255 changes no class; what has no distance is shown all the same."""
    done = call("--images", "set/a", "--epsilon", "1e-7", "--steps", 1)
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert info["accuracy"] == {"clean": 1.0, "robust": 1.0}
    assert not any(row["success"] for row in info["results"])
    assert all(row["distance"]["linf"] is None for row in info["results"])


def test_nearest_with_curve_and_predicted_labels(folder):
    file = folder / "set" / "a" / "0.png"
    done = call("--images", file, "--method", "ddn", "--steps", 30, "--epsilon", "0.01,10")
    assert done.exit_code == 0, done.output
    info = read(folder)
    [one] = info["results"]
    assert one["success"]
    assert one["label"] == one["prediction"]["clean"]
    assert info["labels"] == "predicted"
    assert info["accuracy"]["robust"] == [1.0, 0.0]
    curve = info["curve"]
    assert curve["robust"][0] == 1
    assert curve["robust"][-1] == 0
    assert (np.diff(curve["robust"]) <= 0).all()


def test_medians_are_over_images_that_were_right_before(folder):
    """Those that were wrong are at distance 0; what the PNGs lost is told apart, and the remedy is named."""
    done = call("--images", "set", "--method", "deepfool")
    assert done.exit_code == 0, done.output
    info = read(folder)
    rest = [one for one in info["results"] if one["prediction"]["clean"] == one["label"]]
    assert 0 < len(rest) < 6
    [part] = info["summary"]
    assert part["median"]["l2"] == pytest.approx(np.median([one["distance"]["l2"] for one in rest]))
    assert part["median"]["l2"] > 0
    assert f"{len(rest)} of {len(rest)}" in done.output
    lost = [one for one in rest if one["success"] and not one["success_after_rounding"]]
    assert lost  # DeepFool ends 2 % beyond the boundary, by less than a level
    picture = Image.open(folder / "out" / lost[0]["image"])
    assert (picture.text["success"], picture.text["success_after_rounding"]) == ("True", "False")
    assert "--rounded" in done.stderr
    assert part["found_after_rounding"] == len(rest) - len(lost)


def test_no_labels_are_no_accuracy(folder):
    done = call("--images", "set/a/0.png", "--method", "fgsm", "--epsilon", "0,1/255")
    assert done.exit_code == 0, done.output
    assert "1 of 1 images have no label" in done.stderr
    info = read(folder)
    assert info["accuracy"]["robust"][0] == info["accuracy"]["clean"] == 1
    assert info["curve"]["epsilon"] == pytest.approx([0, 1 / 255])


def test_target_and_limit(folder):
    done = call("--images", "set", "--limit", 2, "--method", "mi-fgsm", "--epsilon", 0.3, "--target", "c", "--steps", 8)
    assert done.exit_code == 0, done.output
    info = read(folder)
    assert [one["label"] for one in info["results"]] == [0, 1]
    assert all(one["target"] == 2 for one in info["results"])


@pytest.mark.parametrize(
    ("args", "status", "hint"),
    [
        (("--images", "set", "--epsilon", "0.1", "--method", "pgdd"), 1, "nearest: pgd"),
        (("--images", "set"), 1, "needs a budget"),
        (("--images", "set", "--epsilon", "0"), 1, "positive"),
        (("--images", "set", "--epsilon", "8:255"), 1, "no budget"),
        (("--images", "set", "--epsilon", "8"), 1, "8/255"),
        (("--images", "set", "--epsilon", "4/255,8"), 1, "8/255"),
        (("--images", "set", "--epsilon", "8", "--method", "deepfool", "--norm", "linf"), 1, "8/255"),
        (("--images", "set", "--epsilon", "4/255,-1"), 1, "positive"),
        (("--images", "set", "--epsilon", "0.1", "--norm", "l7"), 1, "linf, l2, l1"),
        (("--images", "set", "--epsilon", "0.1", "--target", "z"), 1, "unknown class"),
        (("--images", "set", "--epsilon", "0.1", "--target", "a"), 1, "is its label"),
        (("--images", "set", "--epsilon", "0.1", "--method", "fgsm", "--steps", 3), 1, "single step"),
        (("--images", "set", "--epsilon", "0.1", "--method", "square", "--loss", "cw"), 1, "unknown loss"),
        (("--images", "set", "--method", "deepfool", "--loss", "dlr"), 1, "loss of its own"),
        (("--images", "none", "--epsilon", "0.1"), 1, "none"),
        (("--images", "set", "--epsilon", "0.1", "--starts", 0), 2, "starts"),
        (("--epsilon", "0.1"), 2, "--images"),
    ],
)
def test_mistakes_leave_nothing(folder, args, status, hint):
    done = call(*args)
    assert done.exit_code == status, done.output
    assert hint in done.stderr
    assert not (folder / "out").exists()
    if status == 1:
        assert done.stderr.strip().count("\n") == 0


@pytest.mark.slow
def test_class_folders_of_numbers_and_names_that_are_not_utf8(folder, write_module):
    source = (
        "import jax.numpy as jnp, jaxopt_input as joi\n"
        "def build():\n"
        "    labels = tuple(sorted(map(str, range(12))))\n"
        "    return joi.from_function(lambda p, x, taps: {'logits': x.mean((1, 2)) @ p}, jnp.ones((3, 12)),\n"
        "                             image_shape=(8, 8, 3), taps=('logits',), labels=labels)\n"
    )
    write_module("numbers_net", source)
    for name in ("10", "2"):
        (folder / "numbers" / name).mkdir(parents=True)
        joi.data.save_png(folder / "numbers" / name / os.fsdecode(b"caf\xe9.png"), np.full((8, 8, 3), 0.5))
    (folder / "numbers" / "2" / "torn.png").write_bytes(b"")
    done = call("--images", "numbers", "--model", "numbers_net:build", "--method", "fgsm", "--epsilon", "4/255")
    assert done.exit_code == 1
    assert "torn.png" in done.output
    arguments = ("--images", "numbers", "--model", "numbers_net:build", "--method", "fgsm", "--epsilon", "4/255")
    done = call(*arguments, "--skip-damaged")
    assert done.exit_code == 0, done.output
    assert "class 10 is the label of index 2" in done.output
    info = read(folder)
    assert [(row["source"], row["label"], row["name"]) for row in info["results"]] == [
        ("numbers/10/caf\\xe9.png", 2, "10"),
        ("numbers/2/caf\\xe9.png", 4, "2"),
    ]
    assert Image.open(folder / "out" / "image0.png").text["source"] == "numbers/10/caf\\xe9.png"
    assert [warning[:15] for warning in info["warnings"]] == ["class 10 is the", "1 damaged image"]
