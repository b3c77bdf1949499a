"""Presets: complete, run on a network of one color, overridden by what is given, Yosinski's record of a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.methods.presets import check_range, choose
from jaxopt_input.methods.visualize.importance import importance, importance_steps
from jaxopt_input.methods.visualize.settings import PRESETS, preset, regularizer

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    """Two layers on 28x28 in one color, as a network of handwritten digits has it."""
    a, b = jax.random.split(KEY)
    params = {"a": jax.random.normal(a, (5, 5, 1, 4)), "b": 4 * jax.random.normal(b, (4, 10))}

    def apply(params, image, taps):
        first = jax.nn.relu(jax.lax.conv_general_dilated(
            image - 0.5, params["a"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")))  # fmt: skip
        out = {"first": first, "logits": first.mean((1, 2)) @ params["b"]}
        return {tap: out[tap] for tap in taps}

    return joi.from_function(apply, params, image_shape=(28, 28, 1), taps=("first", "logits"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (15, 22, 3)])
def test_every_preset_fits_any_shape(name, shape):
    chosen = preset(name, shape)
    image = chosen.image.bind(shape)
    theta = image.init(KEY, 1)
    assert image.decode(theta).shape == (1, *shape)
    if chosen.transform is not None:
        assert jax.eval_shape(chosen.transform, KEY, jnp.zeros(shape)).shape == shape
    one = jax.tree.map(lambda leaf: leaf[0], theta)
    state = jax.eval_shape(chosen.optimizer.build().init, one)
    assert jax.tree.structure(state) is not None
    assert chosen.steps >= (64 if name in ("default", "class") else 256)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "class", "erhan", "cppn"])
def test_presets_run(digits, name):
    s = joi.visualize(digits, "class:3", preset=name, steps=8, starts=2, key=KEY)
    assert s.image.shape == (2, 28, 28, 1)
    assert bool((s.best_loss < s.loss[:, 0]).any())
    if name == "erhan":  # on the sphere, but for what the range of the pixels cuts off
        np.testing.assert_allclose(np.linalg.norm(s.theta.reshape(2, -1) - 0.5, axis=1), 0.25 * 28, rtol=2e-3)


@pytest.mark.slow
def test_explicit_options_win(digits):
    kw = {"steps": 2, "key": KEY, "preset": "yosinski-3"}
    ours = joi.visualize(digits, "class:3", image=joi.images.pixels(sd=0.0), optimizer=joi.optimizers.sgd(0.5), **kw)
    same = joi.minimize(-joi.losses.class_logit(3), digits, image=joi.images.pixels(sd=0.0), steps=2, key=KEY,
                        optimizer=joi.optimizers.sgd(0.5))  # fmt: skip
    np.testing.assert_allclose(ours.image, same.image, atol=1e-6)
    slow = joi.visualize(digits, "class:3", learning_rate=1e-3, **kw)
    fast = joi.visualize(digits, "class:3", learning_rate=1e5, **kw)
    assert float(np.ptp(fast.image)) > 2 * float(np.ptp(slow.image))
    assert preset("yosinski-3", (28, 28, 1)).optimizer.hyperparameters["learning_rate"] == 100


def test_names_and_settings_are_what_they_stand_for():
    named = preset("lucid", (28, 28, 1), image="pixels", optimizer="sgd", transform="none", learning_rate=0.5, steps=2)
    parts = {"image": joi.images.pixels(), "transform": None, "optimizer": joi.optimizers.sgd(0.5), "steps": 2}
    assert preset(named, (28, 28, 1)) == named
    assert named.parts | {"optimizer": None} == parts | {"projection": None, "optimizer": None}
    assert named.optimizer.hyperparameters["learning_rate"] == 0.5
    assert preset("lucid", (28, 28, 1)).transform == joi.transforms.lucid()  # what is not said is the preset's


def test_a_preset_of_ones_own_and_parts_by_name(digits):
    kw = {"steps": 2, "key": KEY}
    own = joi.visualize(digits, "class:3", preset=preset("plain", (28, 28, 1), optimizer="sgd"), **kw)
    named = joi.visualize(digits, "class:3", image="pixels", transform="none", optimizer="sgd", class_objective="logit",
                          projection=None, **kw)  # fmt: skip
    np.testing.assert_array_equal(own.image, named.image)


@pytest.mark.slow
def test_yosinski_keeps_last_best_and_majority(digits):
    """The unit at the center of its channel; his majority is the first image at which it leads its layer."""
    kw = {"steps": 12, "starts": 3, "key": KEY, "snapshots": range(13), "preset": "yosinski-1", "learning_rate": 1e3}
    s = joi.visualize(digits, ["first:1", "-first:2"], **kw)
    assert s.names == ("first:1@3,3",) * 3 + ("-first:2@3,3",) * 3
    assert s.milestone_step is None  # the negative of a unit has none
    s = joi.visualize(digits, ["first:1", "first:2"], **kw)
    maps = np.stack([digits.apply(digits.params, images, ("first",))["first"] for images in s.snapshots])
    for lane, channel in enumerate([1] * 3 + [2] * 3):
        leads = maps[:, lane, 3, 3, channel] >= maps[:, lane].max((1, 2, 3)) - 1e-6
        expected = int(np.argmax(leads)) if leads.any() else -1
        assert int(s.milestone_step[lane]) == expected
        assert leads.any() or bool(s.dead[lane])  # a unit whose ReLU is dead at the start never leads
        np.testing.assert_array_equal(s.milestone_image[lane], s.snapshots[expected, lane])
    assert int(s.milestone_step.max()) > 0
    np.testing.assert_array_equal(s.snapshots[-1], s.image)


def test_importance_is_the_gradient_over_the_snapshots():
    """A linear model whose gradient is known: |weights|, cut at the 80th percentile."""
    weights = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    model = joi.from_function(
        lambda p, x, taps: {"logits": jnp.einsum("nhwc,hwc->n", x, p)[:, None]}, weights, image_shape=(6, 5, 3),
        taps=("logits",),
    )  # fmt: skip
    s = joi.visualize(model, "logits:0", preset="plain", steps=4, starts=2, snapshots=importance_steps(4), key=KEY)
    expected = np.abs(weights).mean(-1)
    expected = np.minimum(expected / np.percentile(expected, 80), 1)
    np.testing.assert_allclose(importance(model, s, key=KEY), np.stack([expected] * 2), rtol=1e-5)
    assert importance_steps(256)[-1] == 256
    assert len(importance_steps(256)) == 16
    with pytest.raises(joi.InputError, match="snapshots"):
        importance(model, dataclasses.replace(s, snapshots=s.snapshots[:0]), key=KEY)


def test_caricature_of_an_image(toy):
    """Each start comes nearer to what the layer sees in the image than any of twenty other images is."""
    like = np.asarray(jax.random.uniform(KEY, (12, 10, 3)))
    s = joi.visualize(toy, "second", like=like, transform=None, steps=16, starts=4, key=KEY)

    def seen(images):
        return np.asarray(toy.apply(toy.params, images, ("second",))["second"]).reshape(len(images), -1)

    (there,) = seen(like[None])
    dot = seen(s.image) @ there / np.linalg.norm(there)
    cosine = dot / np.linalg.norm(seen(s.image), axis=1)
    others = seen(jax.random.uniform(jax.random.fold_in(KEY, 1), (20, 12, 10, 3)))
    nearest = (others @ there / np.linalg.norm(there) / np.linalg.norm(others, axis=1)).max()
    assert cosine.min() > nearest + 0.1  # from 0.19 to 0.37 more, over six seeds
    np.testing.assert_allclose(s.loss[:, -1], -dot * cosine, rtol=1e-3)
    with pytest.raises(joi.InputError, match="resize"):
        joi.visualize(toy, "second", like=like[:8], steps=1)
    with pytest.raises(joi.InputError, match="whole layer"):
        joi.visualize(toy, "second:1", like=like, steps=1)


@dataclasses.dataclass(frozen=True)
class Chosen:
    steps: int = 256
    rate: float = 0.1

    def __post_init__(self):
        check_range(self, ("rate",), 0, above=True)
        check_range(self, ("steps",), 1)


CHOICES = {"slow": Chosen(rate=0.01), "long": lambda size: Chosen(steps=8 * size)}


def test_a_preset_is_a_value_or_is_made_for_something():
    assert choose(CHOICES, "slow", 3, steps=2, rate=None) == Chosen(2, 0.01)
    assert choose(CHOICES, "long", 3, rate=0.5) == Chosen(24, 0.5)
    assert choose(CHOICES, Chosen(7), rate=0.5) == Chosen(7, 0.5)


@pytest.mark.parametrize(
    ("preset", "changes", "hint"),
    [
        ("slov", {}, "unknown preset 'slov'; nearest: slow"),
        ("slow", {"stebs": 1}, "unknown setting 'stebs'; nearest: steps"),
        (3, {}, "one of slow, long"),
        (Chosen, {}, "the settings themselves"),
        ("slow", {"rate": 0.0}, "rate must be above 0"),
        ("slow", {"rate": np.inf}, "rate must be above 0"),
        ("slow", {"rate": "fast"}, "rate must be above 0"),
        ("long", {"steps": 0}, "steps must be at least 1"),
    ],
)
def test_a_preset_that_cannot_be(preset, changes, hint):
    with pytest.raises(joi.InputError, match=hint):
        choose(CHOICES, preset, 1, **changes)


def test_regularizers_by_text():
    image = np.random.default_rng(0).uniform(size=(4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(regularizer("l2=0.5")({}, image), 0.5 * ((image - 0.5) ** 2).sum(), rtol=1e-5)
    assert regularizer("alignment:second=2").taps == ("second",)
    np.testing.assert_allclose(regularizer("alpha-norm^4=2")({}, image), 2 * ((image - 0.5) ** 4).sum(), rtol=1e-5)
    np.testing.assert_allclose(regularizer("alpha-norm=2")({}, image), 2 * ((image - 0.5) ** 6).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda toy: joi.visualize(toy, "class:1", preset="yosinski-5"), "nearest: yosinski-4"),
        (lambda toy: joi.visualize(toy, "class:1", preset="lucyd"), "nearest: lucid"),
        (lambda toy: joi.visualize(toy, "first:*+first:8"), "channel 8"),
        (lambda toy: joi.visualize(toy, "first:1~first:2"), "at least 2 starts"),
        (lambda toy: joi.visualize(toy, "class:1", preset="yosinski-3", image=joi.images.fourier()), "moves pixels"),
        (lambda toy: joi.visualize(toy, "class:1", optimizer=joi.optimizers.lbfgs(), learning_rate=1.0), "line search"),
        (lambda toy: regularizer("divresity:first=1"), "nearest: diversity"),
        (lambda toy: regularizer("diversity=1"), "diversity:LAYER=1"),
        (lambda toy: regularizer("l2:first=1"), "leave the layer out"),
        (lambda toy: regularizer("l2"), "NAME=WEIGHT"),
        (lambda toy: regularizer("l2^3=1"), "no exponent"),
        (lambda toy: regularizer("total-variation^x=1"), "NAME=WEIGHT"),
        (lambda toy: regularizer("total-variation^-1=1"), "exponent positive"),
        (lambda toy: regularizer("l2=nan"), "finite"),
    ],
)
def test_mistakes(toy, mistake, hint):
    with pytest.raises(joi.InputError, match=hint):
        mistake(toy)
