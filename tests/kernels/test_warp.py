"""The forms of the warp agree, and a whole program of the library lowers for a TPU, which need not be here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.kernels import warp

COLUMNS, ROWS = 7, 5
PIXELS = np.random.default_rng(0).uniform(size=(ROWS * COLUMNS, 3)).astype(np.float32)


@pytest.mark.slow
def test_neighbors_in_pairs_are_those_taken_singly():
    """The same numbers, and the same gradient up to the order in which repeated pixels are added."""
    corner = jnp.asarray([0, 8, 8, 3, (ROWS - 1) * COLUMNS - 2])
    forms = {
        "single": lambda x: warp.singly(x, corner, 1, COLUMNS),
        "pair": lambda x: warp.in_pairs(x, corner, COLUMNS),
    }
    single, pair = (form(jnp.asarray(PIXELS)) for form in forms.values())
    for a, b in zip(single, pair, strict=True):
        np.testing.assert_array_equal(a, b)
    weights = [jnp.cos(k + jnp.arange(15.0)).reshape(5, 3) for k in range(4)]
    gradients = [
        jax.grad(lambda x, form=form: sum((w * y).sum() for w, y in zip(weights, form(x), strict=True)))(PIXELS)
        for form in forms.values()
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)  # sums of up to 8 float32 numbers


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_whole_program_lowers_for_other_platforms(platform):
    """A step of a class image: decoded, transformed, through the network, and back; no form for a CPU is in it."""
    model, transform = joi.load("tin100"), joi.transforms.lucid()
    image = joi.images.fourier((67, 67, 3))  # 67 is prime: on a CPU by matrices

    def step(params, theta, key):
        def loss(theta):
            views = jax.vmap(transform)(jax.random.split(key, 2), image.decode(theta))
            return model.apply(params, views, ("logits",))["logits"][:, 3].sum()

        return theta + jax.grad(loss)(theta)

    theta = jax.eval_shape(lambda key: image.init(key, 2), jax.random.key(0))
    traced = jax.jit(step).trace(model.params, theta, jax.random.key(0))
    there, here = (traced.lower(lowering_platforms=(name,)).as_text() for name in (platform, "cpu"))
    assert "stablehlo.fft" in there
    assert "stablehlo.fft" not in here
    assert "optimization_barrier" not in there
    assert "optimization_barrier" in here
