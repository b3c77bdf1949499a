"""Adapters and the listing of layers, with real Linen modules."""

import dataclasses
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.models.model import ModelInfo


class Plain(nn.Module):
    """Returns logits alone; its layers are found by their paths."""

    width: int = 4

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(self.width, (3, 3), name="early")(x - 0.5))
        x = Block(self.width, name="block")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(self.width, (3, 3))
        return conv(conv(x))


class Named(nn.Module):
    """Names its own taps, in an order that is not alphabetical."""

    @nn.compact
    def __call__(self, x):
        z = nn.relu(nn.Conv(4, (3, 3), (2, 2))(x))
        return {"z": z, "a": z.mean((1, 2)), "logits": nn.Dense(2)(z.mean((1, 2)))}


def linen(module, **keywords):
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return joi.from_linen(module, variables, image_shape=(8, 8, 3), **keywords), variables


@pytest.mark.slow
def test_linen_layers_by_path():
    model, variables = linen(Plain(), train=False, labels=("a", "b", "c"))
    layers = model.layers()
    assert list(layers) == ["early", "block/Conv_0", "block/Conv_0.1", "block", "norm", "head", "logits"]
    assert layers["early"] == (8, 8, 4)
    assert layers["block/Conv_0"] == layers["block/Conv_0.1"] == layers["block"] == (8, 8, 4)
    assert layers["logits"] == layers["head"] == (3,)
    image = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    out = model.apply(model.params, image, ("early", "logits"))
    assert set(out) == {"early", "logits"}
    np.testing.assert_array_equal(out["logits"], Plain().apply(variables, image))


def test_linen_that_names_its_taps_keeps_their_order():
    model, _ = linen(Named())
    assert model.info.taps == ("z", "a", "logits")
    assert model.layers((9, 11, 3)) == {"z": (5, 6, 4), "a": (4,), "logits": (2,)}


def test_loading_twice_compiles_once(compilations):
    def run():
        model, _ = linen(Named())
        return joi.minimize(-joi.losses.class_logit(1), model, steps=2, key=jax.random.key(0))

    run()
    with compilations() as seen:
        run()
    assert seen.count == 0


def test_dead_code_is_cut_at_the_tap():
    model, _ = linen(Plain(16))

    def flops(tap):
        gradient = jax.grad(lambda x: (model.apply(model.params, x, (tap,))[tap] ** 2).sum())
        return jax.jit(gradient).lower(jnp.zeros((1, 8, 8, 3))).compile().cost_analysis()["flops"]

    assert flops("early") < 0.3 * flops("block") < 0.31 * flops("logits")


def test_dense_network_refuses_another_size_in_one_line():
    module = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)])
    model, _ = linen(module)
    with pytest.raises(joi.InputError, match=r"\(9, 9, 3\)") as caught:
        model.layers((9, 9, 3))
    assert "\n" not in str(caught.value)


def test_network_that_would_have_empty_layers_refuses():
    module = nn.Sequential([nn.Conv(4, (5, 5), padding="VALID"), lambda x: x.mean((1, 2)), nn.Dense(3)])
    model, _ = linen(module)
    with pytest.raises(joi.InputError, match="empty"):
        model.layers((4, 4, 3))


def test_class_index(toy):
    info = toy.info
    assert info.class_index("polar bear") == info.class_index("Polar_Bear") == info.class_index(2) == 2
    for name, hint in [("ante", "ant"), ("5", "0 to 4"), (-1, "-1"), ("polar baer", "polar bear")]:
        with pytest.raises(joi.InputError, match=hint):
            info.class_index(name)


NUMBERS = tuple(sorted(str(n) for n in range(12)))  # in text order, as the class folders of a data set are


def test_a_label_of_digits_wins_over_an_index_and_it_is_said():
    info = ModelInfo((8, 8, 3), ("logits",), NUMBERS)
    with pytest.warns(joi.InputWarning, match="class 2 is the label of index 4; index 2 has the label 10"):
        assert info.class_index("2") == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [info.class_index(n) for n in (0, "0", 2, np.int64(10))] == [0, 0, 2, 10]  # agree, or are integers
    shifted = ModelInfo((8, 8, 3), ("logits",), ("1", "2", "3"))
    assert shifted.class_index("0") == 0  # no label, but an index
    assert shifted.class_index("3") == 2  # no index, but a label


@pytest.mark.parametrize("name", ["²", "٣", "", "-", "--1", "9" * 5000])
def test_what_is_no_index_is_an_unknown_class(toy, name):
    with pytest.raises(joi.InputError, match="unknown class"):
        toy.info.class_index(name)


def test_digits_are_an_index_where_there_are_no_labels():
    info = ModelInfo((8, 8, 3), ("logits",))
    assert info.class_index("7") == 7
    for name in ("-1", "ant"):
        with pytest.raises(joi.InputError, match="no class labels"):
            info.class_index(name)


def test_a_name_that_classes_share_is_refused_with_what_tells_them_apart():
    labels, wnids = ("crane", "Cardigan", "cardigan", "crane", "jay"), ("n02", "n021", "n029", "n03", "n01")
    info = ModelInfo((8, 8, 3), ("logits",), labels, tuple((wnid, "bird") for wnid in wnids))
    for name, hint in [
        ("crane", r"2 classes of model are called 'crane': 0 \(n02\), 3 \(n03\)"),
        ("cardigan", r"1 \(n021\), 2 \(n029\)"),
        ("bird", "5 classes"),
    ]:
        with pytest.raises(joi.InputError, match=hint):
            info.class_index(name)
    assert [info.class_index(name) for name in ("n03", "jay", "3")] == [3, 4, 3]
    letters = ModelInfo((8, 8, 3), ("logits",), ("A", "a", "b"))  # without further names case tells them apart
    assert [letters.class_index(name) for name in ("A", "a", "B")] == [0, 1, 2]


def test_names_are_shown_without_control_characters_and_cut():
    info = ModelInfo((8, 8, 3), ("logits",), ("\x1b[2J\x1b]0;title\x07", "y" * 300, "\ud800"))
    with pytest.raises(joi.InputError) as caught:
        info.class_index("\x1b[2Jz" + "z" * 300)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 300
    assert "y" * 59 + "…" in text
    assert "y" * 60 not in text


@pytest.mark.parametrize(
    ("kw", "hint"),
    [
        ({"taps": ("logits", "other")}, "other"),
        ({"taps": ()}, "tap"),
        ({"labels": ("a",)}, "1 labels"),
        ({"image_shape": (8, 8, 4)}, "8, 8, 4"),
    ],
)
def test_from_function_mistakes(kw, hint):
    def apply(params, image, taps):
        return {tap: {"logits": image.mean((1, 2)) @ params}[tap] for tap in taps}

    kw = {"image_shape": (8, 8, 3), "taps": ("logits",)} | kw
    with pytest.raises(joi.InputError, match=hint):
        joi.from_function(apply, jnp.ones((3, 2)), **kw)


def test_from_linen_mistake():
    with pytest.raises(joi.InputError, match="Named"):
        joi.from_linen(Named(), {"params": {}}, image_shape=(8, 8, 3))


def test_a_model_prints_as_about_ten_lines(compilations):
    """Of a deep network the first and last layers; nothing is compiled."""

    def apply(params, image, taps):
        return {tap: image.mean((1, 2)) @ params for tap in taps}

    taps = (*(f"layer{n}" for n in range(30)), "logits")
    model = joi.from_function(apply, jnp.ones((3, 5)), image_shape=(8, 10, 3), taps=taps, labels=tuple("abcde"))
    with compilations() as seen:
        lines = str(model).splitlines()
    assert seen.count == 0
    assert repr(model) == str(model)
    assert lines[0] == "model: images 8 x 10 x 3, 5 classes, 15 parameters"
    assert len(lines) == 9
    assert [line.split()[0] for line in lines[1:5]] == ["layer0", "layer1", "layer2", "layer3"]
    assert "24 more" in lines[5]
    assert lines[-1].split() == ["logits", "5"]


def test_a_model_prints_at_a_size_that_it_cannot_take():
    module = Named()
    model, _ = linen(module)
    small = dataclasses.replace(model, info=dataclasses.replace(model.info, image_shape=(0, 0, 3)))
    assert "z" in str(small)
