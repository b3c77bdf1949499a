"""Transfer matrices: who is misled by what was made for whom, against noise of the same size."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks

KEY = jax.random.key(0)
PGD = functools.partial(attacks.pgd, epsilon=0.05, steps=4)


def test_matrix(toy, toy_batch):
    images, labels = toy_batch
    near = dataclasses.replace(toy, params={**toy.params, "c": toy.params["c"] * 1.01})
    far = dataclasses.replace(toy, params={**toy.params, "c": toy.params["c"][:, ::-1]})
    pgd = functools.partial(attacks.pgd, epsilon=0.05, steps=10, stop=False)
    found = attacks.transfer(KEY, {"toy": toy, "near": near}, images, labels, pgd)
    assert found.counted == 8
    assert (found.clean == 0).all()
    assert found.success[0] > 0.5
    assert found.error[0, 0] == found.success[0]
    assert found.error[0, 1] == pytest.approx(found.error[0, 0], abs=0.13)
    assert (found.noise <= found.error).all()
    assert (found.signs <= found.error).all()
    assert (found.rms <= 0.05 + 1e-6).all()
    larger = attacks.transfer(KEY, {"toy": toy, "near": near}, images, labels, pgd, rms=0.1)
    assert (np.abs(larger.rms - 0.1) < 0.02).all()  # what is clipped is lost
    with pytest.raises(joi.InputError, match="nothing to compare"):
        attacks.transfer(KEY, {"toy": toy, "far": far}, images, labels, pgd)
    with pytest.raises(joi.InputError, match="8/255"):
        attacks.transfer(KEY, {"toy": toy, "near": near}, images, labels, pgd, rms=8.0)
    with pytest.raises(joi.InputError, match="rms"):
        attacks.transfer(KEY, {"toy": toy, "near": near}, images, labels, pgd, rms=0.0)
    larger_images = dataclasses.replace(near, info=dataclasses.replace(near.info, image_shape=(16, 16, 3)))
    with pytest.raises(joi.InputError, match="larger takes images of 16x16x3, not 12x10x3"):
        attacks.transfer(KEY, {"toy": toy, "larger": larger_images}, images, labels, pgd)
    with pytest.raises(joi.InputError, match="at least two"):
        attacks.transfer(KEY, {"toy": toy}, images, labels, pgd)


def test_masked_gradients_are_told(toy, flat, toy_batch):
    with pytest.warns(attacks.GradientMaskingWarning, match="zero at 8 of 8"):
        found = attacks.transfer(KEY, {"toy": toy, "flat": flat}, *toy_batch, PGD)
    assert found.warnings[0] == ()
    (told,) = found.warnings[1]
    assert "is zero at 8 of 8 images" in told


def test_images_that_are_not_finite_are_the_originals(toy, toy_batch):
    def attack(*args):
        found = PGD(*args)
        return dataclasses.replace(found, image=np.where(np.arange(8)[:, None, None, None] < 2, np.nan, found.image))

    found = attacks.transfer(KEY, {"toy": toy, "same": toy}, *toy_batch, attack, rms=0.1)
    assert np.isfinite(found.rms).all()
    assert (found.error <= 6 / 8).all()
    assert "2 of 8 images" in found.warnings[0][0]
    assert "not finite" in found.warnings[0][0]


def test_logits_that_are_not_finite_are_no_class(cliff):
    images = np.full((2, 6, 6, 3), 0.6, np.float32)
    images[1] = 0.3
    found = attacks.transfer(KEY, {"a": cliff, "b": cliff}, images, [0, 0], PGD)
    assert found.counted == 1
    assert (found.clean == 0.5).all()


@pytest.mark.parametrize("order", [("nameless", "toy"), ("toy", "nameless")])
def test_networks_need_logits(toy, toy_batch, order):
    models = {"toy": toy, "nameless": dataclasses.replace(toy, info=dataclasses.replace(toy.info, taps=("first",)))}
    with pytest.raises(joi.InputError, match="no layer logits"):
        attacks.transfer(KEY, {name: models[name] for name in order}, *toy_batch, PGD)
