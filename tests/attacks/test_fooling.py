"""Fooling images: sure of their class once rounded, the same whichever others are asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks.examine import check_logits
from jaxopt_input.attacks.fooling import check_judge

KEY = jax.random.key(0)


def share(model, images):
    logits = np.asarray(model.activations(images, ["logits"])["logits"], np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))


@pytest.mark.parametrize("init", ["gray", "noise"])
def test_classes_are_reached(toy, init):
    found = attacks.fool(KEY, toy, [3, 0], init=init, steps=25, learning_rate=3e5)
    assert found.label.tolist() == [3, 0]
    assert found.image.shape == (2, 12, 10, 3)
    assert found.history.shape == (26, 2)
    assert found.evaluations == 2 * 27  # 25 gradients, the last value and the judgment
    assert found.finite.all()
    assert not found.dead.any()
    np.testing.assert_allclose(found.image * 255, np.rint(found.image * 255), atol=1e-4)
    if init == "gray":  # the noise of one level changes little
        gray = share(toy, np.full((1, 12, 10, 3), 0.5, np.float32))[0, [3, 0]]
        np.testing.assert_allclose(found.history[0], gray, atol=0.01)
    # float64 against float32 softmax
    np.testing.assert_allclose(share(toy, found.image)[[0, 1], [3, 0]], found.probability, rtol=1e-4)
    assert (found.probability > found.history[0] + 0.1).all()
    # rounding to 8 bits moves each pixel by at most 1/510
    np.testing.assert_allclose(found.probability, found.history.max(0), atol=0.02)


@pytest.mark.slow
def test_an_image_is_that_of_its_class_alone(toy):
    """Whichever others are made."""
    one, some = (
        attacks.fool(KEY, toy, classes, init="noise", steps=3, on=joi.Resources(chunk=1)) for classes in (2, None)
    )
    np.testing.assert_array_equal(one.image[0], some.image[2])  # chunks of one shape: the same bits
    assert some.label.tolist() == [0, 1, 2, 3, 4]


def test_first_step_is_a_gradient_step(linear):
    """log p of softmax(mean colors): a step moves each color by rate/255² (δ − p) / pixels, and decays to gray."""
    found = attacks.fool(KEY, linear, 1, steps=1, learning_rate=255**2, decay=0.5)
    moved = (np.array([-1, 2, -1]) / 3 / 36) * 0.5  # -0.0046, 0.0093, -0.0046
    # the noise of one level, halved, in the mean of 36 pixels: σ = 3e-4; rounding averages out as well
    np.testing.assert_allclose(found.image[0].mean((0, 1)), 0.5 + moved, atol=1.5e-3)


def test_other_numbers_do_not_recompile(toy, compilations):
    other = jax.random.key(1)
    attacks.fool(KEY, toy, [0, 1], steps=2)
    with compilations() as seen:
        attacks.fool(other, toy, [4, 2], steps=2, learning_rate=1e3, decay=0.1)
    assert seen.count == 0


def test_no_gradient_is_told(flat):
    found = attacks.fool(KEY, flat, [3, 0], steps=3)
    assert found.dead.all()
    assert found.finite.all()


def test_a_sure_class_needs_no_gradient(linear):
    sure = dataclasses.replace(linear, params=1e4 * jnp.array([[1.0, 0, 0]] * 3))  # 0 for all but the first class
    found = attacks.fool(KEY, sure, 0, steps=2)
    assert found.probability == 1
    assert not found.dead.any()


def test_numbers_that_are_not_finite_are_told(cliff):
    """To be sure of a class, its rivals get too dark for a number: the best image before that is kept."""
    found = attacks.fool(KEY, cliff, [0, 2], steps=30)
    assert not found.finite.any()
    assert not found.dead.any()
    assert np.isfinite(found.probability).all()
    assert np.isnan(found.history[-1]).all()
    broken = attacks.fool(KEY, dataclasses.replace(cliff, params=np.float32(2)), 1, steps=3)
    assert not broken.finite.any()
    assert np.isnan(broken.probability).all()
    assert np.isfinite(broken.image).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_probabilities_are_refused(probable, precision):
    with pytest.raises(joi.InputError, match="are probabilities"):
        attacks.fool(KEY, probable[precision], 0)


def test_sums_near_one_are_refused_in_coarse_networks_alone():
    def nearly(params, image, taps):
        return {"logits": jnp.stack([image[:, 0, 0, 0], 1.001 - image[:, 0, 0, 0]], -1)}

    model = joi.from_function(nearly, 0.0, image_shape=(2, 2, 3), taps=("logits",))
    check_logits(model)
    with pytest.raises(joi.InputError, match="are probabilities"):
        check_logits(joi.models.model.in_dtype(model, "bfloat16"))


@pytest.mark.parametrize(
    ("classes", "change", "hint"),
    [
        ([0, 0], {}, "twice"),
        (5, {}, "class 5 does not exist"),
        ("ant", {}, "integer"),
        (0, {"init": "black"}, "noise, gray"),
        (0, {"steps": 0}, "steps"),
        (0, {"decay": 2.0}, "decay"),
    ],
)
def test_mistakes(toy, classes, change, hint):
    with pytest.raises(joi.InputError, match=hint):
        attacks.fool(KEY, toy, classes, **change)


def test_a_judge_must_know_the_same_classes(toy, linear):
    with pytest.raises(joi.InputError, match="images of 6x6x3, not of 12x10x3"):
        check_judge(linear, toy)
    fewer = joi.from_function(
        lambda p, x, taps: {"logits": x.mean((1, 2))}, 0.0, image_shape=(12, 10, 3), taps=("logits",)
    )
    with pytest.raises(joi.InputError, match="knows 3 classes, toy 5"):
        check_judge(fewer, toy)
