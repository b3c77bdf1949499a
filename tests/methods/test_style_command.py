"""`texture` and `stylize` on the command line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main
from jaxopt_input.data import save_png


@pytest.fixture
def pictures(toy_nets):
    y, x = np.mgrid[:20, :24]
    for name, step in (("content", 0.7), ("style", 1.3)):
        wave = 0.5 + 0.4 * np.stack([np.sin(step * x), np.sin(step * y), np.sin(step * (x + y))], -1)
        save_png(toy_nets / f"{name}.png", wave)
    save_png(toy_nets / "left.png", np.repeat((x < 12)[..., None], 3, -1).astype(np.float32))
    return toy_nets


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.slow
def test_stylize_writes_a_folder(pictures):
    out = pictures / "out"
    done = run(
        "stylize", "content.png", "style.png", "style.png", "--model", "toy_nets:build", "--size", 24, "--steps", 5,
        "--blend", 1, "--blend", 3, "--content-mask", "left.png", "--content-mask", "left.png", "--animate", "gif",
        "--smallest", 14, "--loss", "gram", "--loss", "histogram=0.5", "--color", "match", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "24x20: at most about" in done.output
    info = json.loads((out / "run.json").read_text())
    assert info["command"] == "stylize"
    (result,) = info["results"]
    assert set(result["terms"]) == {"content", "style-1", "style-2", "variation"}
    assert result["evaluations"] == info["evaluations"] == sum(scale["evaluations"] for scale in info["scales"]) <= 10
    assert result["loss"]["best"] < result["loss"]["first"]
    assert [scale["shape"] for scale in info["scales"]] == [[14, 17], [20, 24]]
    assert info["settings"]["losses"] == [["gram", 1.0], ["histogram", 0.5]]
    assert Image.open(out / result["image"]).size == (24, 20)
    assert Image.open(out / info["animation"]).n_frames > 2
    assert {*info["files"], "run.json"} == {file.name for file in out.iterdir()}


@pytest.mark.slow
def test_a_mask_that_is_white_on_transparent_holds_the_style_back(pictures):
    """Outside the mask, but for one pixel of the 3x3 kernel, the result is the content, to 8 bits."""
    inside = np.zeros((20, 24), np.uint8)
    inside[5:15, 6:12] = 255
    Image.fromarray(np.stack([np.full_like(inside, 255)] * 3 + [inside], -1)).save("mask.png")
    done = run(
        "stylize", "content.png", "style.png", "--model", "toy_nets:build", "--size", 24, "--steps", 5,
        "--content-mask", "mask.png", "--content-weight", 0, "--tv-weight", 0, "--initial", "content",
        "--style-layer", "first", "--loss", "gram", "--parameterization", "pixels", "--out", "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result, content = (np.asarray(Image.open(name), np.int32) for name in ("out/stylize-start0.png", "content.png"))
    changed = np.abs(result - content).max(-1) > 1
    assert changed[5:15, 6:12].mean() > 0.5
    changed[4:16, 5:13] = False
    assert not changed.any()


@pytest.mark.slow
def test_texture_is_reproducible_and_of_the_size_asked_for(pictures):
    images = []
    for name in ("a", "b"):
        options = ("--size", "16x18", "--steps", 4, "--starts", 2, "--seed", 3, "--out", pictures / name)
        done = run("texture", "style.png", "--model", "toy_nets:build", *options)
        assert done.exit_code == 0, done.output
        images.append([(pictures / name / f"texture-start{k}.png").read_bytes() for k in range(2)])
    assert images[0] == images[1]
    assert images[0][0] != images[0][1]
    assert Image.open(pictures / "a" / "texture-start0.png").size == (18, 16)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("stylize", "content.png"), 2, "Missing argument 'STYLE…'"),
        (("stylize", "content.png", "none.png"), 1, "none.png"),
        (("stylize", "toy_nets.py", "style.png"), 1, "not an image"),
        (("stylize", "content.png", "style.png", "--loss", "gramm"), 1, "nearest: gram"),
        (("stylize", "content.png", "style.png", "--loss", "gram=x"), 2, "NAME=WEIGHT"),
        (("stylize", "content.png", "style.png", "--preset", "jonson"), 1, "nearest: johnson"),
        (
            ("stylize", "content.png", "style.png", "--style-mask", "left.png", "--style-mask", "left.png"),
            1,
            "2 style masks",
        ),
        (("stylize", "content.png", "style.png", "--style-weight", 1, "--style-weight", 2), 1, "2 style weights for 1"),
        (("stylize", "content.png", "style.png", "--memory", "1MB"), 1, "MiB"),
        (("texture", "style.png", "--size", "12x"), 2, "SIDE or HEIGHTxWIDTH"),
        (("texture", "style.png", "--style-layer", "frist"), 1, "nearest: first"),
    ],
)
def test_mistakes_leave_nothing_behind(pictures, arguments, status, message):
    done = run(*arguments, "--model", "toy_nets:build", "--steps", 3, "--out", pictures / "out")
    assert done.exit_code == status, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (pictures / "out").exists()
