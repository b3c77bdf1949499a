"""Redirected ReLUs: Lucid's rule transcribed, the same activations, other gradient rules kept, dead starts revived."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.models.redirect import redirected_relu

KEY = jax.random.key(0)


@jax.custom_vjp
def tripled(x):
    """The identity, with a gradient rule of its own."""
    return x


tripled.defvjp(lambda x: (x, None), lambda _, g: (3 * g,))


def model_of(apply, classes=2):
    return joi.from_function(
        lambda params, x, taps: {"logits": apply(params, x)}, jnp.ones(classes), image_shape=(4, 4, 2), taps=("logits",)
    )


def gradient(model, images, weights):
    return jax.grad(lambda x: (weights * model.apply(model.params, x, ("logits",))["logits"]).sum())(images)


def test_the_rule_is_lucids():
    """`redirected_relu_grad` for each image of a batch: one alive, one dead, one whose incoming gradient is zero."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=(3, 4)), -rng.uniform(0.1, 1, (3, 4)), rng.normal(size=(3, 4))]).astype(np.float32)
    g = rng.normal(size=x.shape).astype(np.float32) * np.array([1, 1, 0], np.float32)[:, None, None]
    found = np.asarray(jax.vjp(redirected_relu, x)[1](g)[0])
    for image, incoming, ours in zip(x, g, found, strict=True):
        plain = np.where(image < 0, 0, incoming)
        redirected = np.where((image < 0) & (incoming > 0), 0, incoming)
        np.testing.assert_array_equal(ours, plain if np.linalg.norm(plain) > 0 else redirected)
    assert (found[1] != 0).any()
    np.testing.assert_array_equal(redirected_relu(x), np.maximum(x, 0))


@pytest.mark.parametrize(
    "relu",
    [jax.nn.relu, lambda x: jnp.maximum(x, 0), jax.jit(jax.nn.relu), jax.checkpoint(jax.nn.relu), jax.nn.relu6],
    ids=["relu", "maximum", "jit", "checkpoint", "relu6"],
)
def test_every_form_of_relu_is_found(relu):
    model = model_of(lambda params, x: tripled(relu(x - 2.0).mean((1, 2)) * params))
    images = jax.random.uniform(KEY, (2, 4, 4, 2))
    redirected = joi.redirect_relu(model)
    assert float(np.abs(gradient(model, images, 1.0)).max()) == 0
    np.testing.assert_allclose(gradient(redirected, images, -1.0), -3 / 16, rtol=1e-6)  # tripled, and pushed up
    np.testing.assert_array_equal(gradient(redirected, images, 1.0), 0)  # what pushes down is of no use


@pytest.mark.slow
def test_living_networks_are_as_before():
    """The bundled network: the same activations, and the same gradient where no ReLU is dead throughout."""
    model = joi.load("tin100")
    redirected = joi.redirect_relu(model)
    images = jax.random.uniform(KEY, (1, 64, 64, 3))
    taps = ("block3", "logits")

    def run(apply):
        return jax.jit(jax.value_and_grad(lambda x: apply(model.params, x, taps)["logits"].sum()))(images)

    (value, slope), (same_value, same_slope) = run(model.apply), run(redirected.apply)
    np.testing.assert_allclose(same_value, value, rtol=1e-5)
    np.testing.assert_allclose(same_slope, slope, atol=1e-4 * float(np.abs(slope).max()))  # rounding


def test_a_dead_start_is_revived_by_a_warm_up():
    model = model_of(lambda params, x: jax.nn.relu(x.mean((1, 2)) - 0.55) * params)
    kw = {"image": joi.images.pixels(), "optimizer": joi.optimizers.sgd(0.3), "steps": 12, "starts": 2, "key": KEY}
    dead = joi.minimize(-joi.losses.class_logit(0), model, **kw)
    warm = joi.minimize(-joi.losses.class_logit(0), joi.redirect_relu(model, 5), **kw)
    assert dead.dead.all()
    assert not warm.dead.any()
    assert bool((warm.loss[:, -1] < -0.1).all())
    still = joi.minimize(-joi.losses.class_logit(0), joi.redirect_relu(model, 1), **kw)
    assert bool(
        (still.loss[:, -1] == 0).all()
    )  # after one step the mean is below the bias still, and the gradient gone


def test_equal_when_made_alike_and_refused_without_a_relu():
    model = model_of(lambda params, x: jax.nn.relu(x).mean((1, 2)) * params)
    assert joi.redirect_relu(model).apply == joi.redirect_relu(model).apply
    assert hash(joi.redirect_relu(model).apply) == hash(joi.redirect_relu(model).apply)
    with pytest.raises(joi.InputError, match="no ReLU"):
        joi.redirect_relu(model_of(lambda params, x: jnp.tanh(x).mean((1, 2)) * params))
