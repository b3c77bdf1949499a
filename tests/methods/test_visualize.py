"""Targets by name, grouping into programs, and the order of results."""

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine.target import Target, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first", ["first"]),
        ("first:3", ["first:3"]),
        ("first:3@center", ["first:3@6,5"]),
        ("first:3@0,9", ["first:3@0,9"]),
        ("logits:2", ["logits:2"]),
        ("class:polar bear", ["class:2"]),
        ("class:4", ["class:4"]),
        ("class:*", [f"class:{n}" for n in range(5)]),
        ("second:*", [f"second:{n}" for n in range(8)]),
        ("second:*@1,2", [f"second:{n}@1,2" for n in range(8)]),
    ],
)
def test_parse(toy, text, expected):
    assert [str(target) for target in parse(text, toy)] == expected


def test_center_depends_on_the_size(toy):
    assert parse("first:3@center", toy, (20, 30, 3)) == [Target("unit", "first", 3, (10, 15))]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("frist:3", "nearest: first"),
        ("first:8", "channel 8"),
        ("first:x", "'x' is no channel"),
        ("first:3@12,0", "outside"),
        ("first:3@1", "ROW,COLUMN"),
        ("logits:3@center", "no positions"),
        ("class:polar baer", "nearest: polar bear"),
        ("class:5", "0 to 4"),
        ("", "layer"),
    ],
)
def test_parse_mistakes(toy, text, hint):
    with pytest.raises(joi.InputError, match=hint):
        parse(text, toy)


@pytest.mark.slow
def test_results_in_the_order_asked_for(toy):
    wanted = ["class:3", "first:1", "class:0", "first", "first:0@center", "first:1"]
    s = joi.visualize(toy, wanted, starts=2, steps=3, snapshots=(0, 3), key=jax.random.key(1))
    distinct = ["class:3", "first:1", "class:0", "first", "first:0@6,5"]
    assert s.names == tuple(name for name in distinct for _ in range(2))
    np.testing.assert_array_equal(s.start, [0, 1] * 5)
    np.testing.assert_array_equal(s.snapshots[1], s.image)
    for name in distinct[::4]:
        alone = joi.visualize(toy, name, starts=2, steps=3, key=jax.random.key(1))
        lanes = [n for n, other in enumerate(s.names) if other == name]
        np.testing.assert_allclose(s.image[np.array(lanes)], alone.image, atol=1e-3)  # another chunk shape


@pytest.mark.slow
def test_sizes(toy):
    assert joi.visualize(toy, "class:1", size=16, steps=1).image.shape == (1, 16, 16, 3)
    assert joi.visualize(toy, "class:1", size=(16, 21), steps=1).image.shape == (1, 16, 21, 3)
    with pytest.raises(joi.InputError, match="size"):
        joi.visualize(toy, "class:1", size=0, steps=1)


def test_no_target(toy):
    with pytest.raises(joi.InputError, match="no target"):
        joi.visualize(toy, [], steps=1)


@pytest.mark.slow
def test_bfloat16_reaches_the_logits_of_float32():
    """Two optimizations that drift apart in rounding end within 5 % of each other's class logit."""
    model = joi.load("tin100")
    full, half = (
        joi.visualize(model, ["class:goldfish", "class:dumbbell"], starts=2, steps=48, on=joi.Resources(dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(np.mean(half.best_loss), np.mean(full.best_loss), rtol=0.05)
    classes = np.repeat([model.info.class_index(name) for name in ("goldfish", "dumbbell")], 2)
    seen = [model.apply(model.params, s.best_image, ("logits",))["logits"][np.arange(4), classes] for s in (full, half)]
    np.testing.assert_allclose(seen[1].reshape(2, 2).max(1), seen[0].reshape(2, 2).max(1), rtol=0.05)


@pytest.mark.slow
def test_pictures_are_recognized():
    """Class images of the bundled network, made from noise, after 8-bit rounding and under fresh transforms.

    Two classes here; `benchmarks/recognition.py` does all.
    """
    model = joi.load("tin100")
    names = ("dumbbell", "goldfish")
    s = joi.visualize(model, [f"class:{name}" for name in names], starts=2, steps=128)
    classes = np.repeat([model.info.class_index(name) for name in names], 2)
    pictures = joi.data.to_uint8(s.best_image).astype(np.float32) / 255

    def probability(images):
        return jax.nn.softmax(model.apply(model.params, images, ("logits",))["logits"])[np.arange(4), classes]

    assert probability(pictures).reshape(2, 2).max(1).min() > 0.9
    keys = jax.random.split(jax.random.key(9), 32)
    views = jax.vmap(lambda key: jax.vmap(lambda x: joi.transforms.lucid()(key, x))(pictures))(keys)
    held_out = np.mean([probability(view) for view in views], 0).reshape(2, 2)
    assert held_out.max(1).min() > 0.5


def test_classes_have_a_preset_of_their_own(toy):
    """For classes, also joined or led between, and whatever else is asked for; not for what is joined to a channel."""
    kw = {"steps": 2, "key": jax.random.key(0)}
    for text in ("class:1", "class:1+class:2", "class:1~class:0"):
        starts = 2 if "~" in text else 1
        own, same = (joi.visualize(toy, text, starts=starts, preset=name, **kw) for name in ("default", "class"))
        np.testing.assert_array_equal(own.image, same.image)
    former = {"image": joi.images.fourier(), "transform": "lucid"}
    for text in ("first:2", "class:1+first:2"):
        own, same = joi.visualize(toy, text, **kw), joi.visualize(toy, text, **former, **kw)
        np.testing.assert_array_equal(own.image, same.image)


@pytest.mark.slow
def test_no_checkerboards():
    """Little of a class image's power is at the scale of a pixel, which the 2x2 stem of `tin100-robust` lets through.

    Nine classes, their share of the power above 0.4 cycles per pixel along an axis: it is 0.013 (photographs of this
    size: about 0.01), and was 0.04 at 64 steps and 0.06 at the 256 of the former defaults.
    """
    model = joi.load("tin100-robust")
    s = joi.visualize(model, [f"class:{index}" for index in range(5, 100, 11)])
    gray = np.asarray(s.best_image, np.float64).mean(-1)
    power = np.abs(np.fft.fft2(gray - gray.mean((1, 2), keepdims=True))) ** 2
    fine = np.abs(np.fft.fftfreq(gray.shape[1])) > 0.4
    assert (power * (fine[:, None] | fine[None])).sum() / power.sum() < 0.025
