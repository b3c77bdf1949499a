"""Transfer matrices: who is misled by what was made for whom, against noise of the same size."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks

KEY = jax.random.key(0)


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
    assert (found.rms <= 0.05 + 1e-6).all()
    larger = attacks.transfer(KEY, {"toy": toy, "near": near}, images, labels, pgd, rms=0.1)
    assert (np.abs(larger.rms - 0.1) < 0.02).all()  # what is clipped is lost
    with pytest.raises(joi.InputError, match="nothing to compare"):
        attacks.transfer(KEY, {"toy": toy, "far": far}, images, labels, pgd)
    with pytest.raises(joi.InputError, match="rms"):
        attacks.transfer(KEY, {"toy": toy, "near": near}, images, labels, pgd, rms=0.0)
    larger_images = dataclasses.replace(near, info=dataclasses.replace(near.info, image_shape=(16, 16, 3)))
    with pytest.raises(joi.InputError, match="larger takes images of 16x16x3, not 12x10x3"):
        attacks.transfer(KEY, {"toy": toy, "larger": larger_images}, images, labels, pgd)
    with pytest.raises(joi.InputError, match="at least two"):
        attacks.transfer(KEY, {"toy": toy}, images, labels, pgd)
