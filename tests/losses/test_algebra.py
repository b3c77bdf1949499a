"""Products, powers and plain functions as losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import losses, targets

RNG = np.random.default_rng(0)
ACTS = {"map": RNG.normal(size=(5, 4, 6)).astype(np.float32), "logits": RNG.normal(size=7).astype(np.float32)}
IMAGE = RNG.uniform(size=(8, 9, 3)).astype(np.float32)
SHAPES = {layer: activation.shape for layer, activation in ACTS.items()}
CHANNEL, LOGIT, DECAY = losses.channel("map", 2), losses.class_logit(3), losses.l2_decay()
MEAN, Z, SUM = ACTS["map"][..., 2].mean(), ACTS["logits"][3], np.square(IMAGE - 0.5).sum()


def energy(activations, image):
    return jnp.square(activations["map"]).mean()


COMBINATIONS = {
    "product": (CHANNEL * LOGIT, MEAN * Z),
    "square by a product": (CHANNEL * CHANNEL, MEAN**2),
    "square": (CHANNEL**2, MEAN**2),
    "root": (DECAY**0.5, SUM**0.5),
    "cube of a sum": ((CHANNEL - 2 * LOGIT) ** 3, (MEAN - 2 * Z) ** 3),
    "quotient": (CHANNEL / DECAY, MEAN / SUM),
    "scaled product in a sum": (DECAY - 3 * (CHANNEL * LOGIT), SUM - 3 * MEAN * Z),
    "function": (losses.as_loss(energy), np.square(ACTS["map"]).mean()),
    "function on the right": (CHANNEL - energy, MEAN - np.square(ACTS["map"]).mean()),
    "function on the left": (energy - CHANNEL, np.square(ACTS["map"]).mean() - MEAN),
    "function times loss": (energy * CHANNEL, np.square(ACTS["map"]).mean() * MEAN),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_value(name):
    loss, expected = COMBINATIONS[name]
    # float32 sums of a few hundred numbers in two orders, and a power
    np.testing.assert_allclose(loss(ACTS, IMAGE), expected, rtol=5e-5)


@pytest.mark.parametrize("name", ["product", "square", "root", "cube of a sum", "quotient", "scaled product in a sum"])
def test_gradient(name):
    """Directional derivatives by central differences in float64."""
    loss, _ = COMBINATIONS[name]
    with jax.enable_x64():
        both = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (ACTS, IMAGE))
        gradient = jax.grad(lambda both: loss(*both))(both)
        step = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(1).normal(size=x.shape)), both)
        above, below = (loss(*jax.tree.map(lambda x, d, h=h: x + h * d, both, step)) for h in (1e-6, -1e-6))
        slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
        np.testing.assert_allclose(slope, (above - below) / 2e-6, rtol=1e-5, atol=1e-7)


def test_exponents_and_factors_have_a_target_axis():
    loss = losses.channel("map", [1, 2, 4]) ** np.array([1.0, 2.0, 3.0]) * losses.class_logit(3)
    assert targets.count(loss) == 3
    run = targets.vmap_lanes(lambda one, image: one(ACTS, image), loss, np.arange(3))
    expected = ACTS["map"].mean((0, 1))[[1, 2, 4]] ** np.array([1, 2, 3]) * Z
    np.testing.assert_allclose(run(np.stack([IMAGE] * 3)), expected, rtol=1e-4)  # float32 powers
    assert losses.names(loss) == ("map:1*class:3", "map:2*class:3", "map:4*class:3")


def test_other_exponents_share_a_program_and_other_rules_do_not():
    assert jax.tree.structure(CHANNEL**2) == jax.tree.structure(CHANNEL**3)
    assert jax.tree.structure(CHANNEL * LOGIT) != jax.tree.structure(CHANNEL + LOGIT)


def test_a_plain_function_knows_its_layers_once_resolved():
    def both(activations, image):
        return activations["logits"][0] + jnp.square(activations["map"]).sum() + image.sum()

    plain = losses.resolve(both, SHAPES, IMAGE.shape)
    assert plain.taps == ("map", "logits")
    assert losses.names(plain) == ("both",)
    total = losses.resolve(CHANNEL + 0.5 * losses.as_loss(lambda activations, image: image.sum()), SHAPES, IMAGE.shape)
    assert total.taps == ("map",)
    assert losses.names(total) == ("map:2",)  # what reads the image alone regularizes
    assert losses.names(losses.resolve(lambda a, x: a["map"].mean(), SHAPES, IMAGE.shape)) == ("function",)
    assert losses.resolve(lambda a, x: sum(v.sum() for v in a.values()), SHAPES, IMAGE.shape).taps == ("map", "logits")
    assert losses.resolve(lambda a, x: x.sum() if "mop" not in a else 0.0, SHAPES, IMAGE.shape).taps == ()
    with pytest.raises(joi.InputError, match=r"losses\.resolve"):
        _ = losses.as_loss(both).taps


def test_a_function_is_compiled_once_and_two_are_two():
    assert jax.tree.structure(losses.as_loss(energy)) == jax.tree.structure(losses.as_loss(energy))
    assert jax.tree.structure(losses.as_loss(energy)) != jax.tree.structure(losses.as_loss(lambda a, x: x.sum()))


def test_a_function_is_minimized(toy):
    options = {"image": joi.images.pixels(), "optimizer": joi.optimizers.sgd(0.5), "steps": 4, "key": jax.random.key(1)}
    options["initial"] = np.random.default_rng(0).uniform(size=(12, 10, 3)).astype(np.float32)
    ours = joi.minimize(-losses.channel("second", 3), toy, **options)
    theirs = joi.minimize(lambda acts, image: -acts["second"][..., 3].mean(), toy, **options)
    np.testing.assert_allclose(theirs.loss, ours.loss, rtol=1e-5)  # the mean of one channel, taken in another order
    assert bool((theirs.loss[:, -1] < theirs.loss[:, 0]).all())


def test_functions_that_compare_starts():
    def spread(activations, image):
        return jnp.square(image - jax.lax.pmean(image, "starts")).sum()

    assert losses.resolve(losses.as_loss(spread, couples=True), SHAPES, IMAGE.shape).couples
    with pytest.raises(joi.InputError, match="couples=True"):
        losses.resolve(spread, SHAPES, IMAGE.shape)


@losses.of_layer("{layer}")
def sharpness(activation):
    return jnp.square(activation).mean()


class Unhashable:
    __hash__ = None

    def __call__(self, activations, image):
        return image.sum()


@pytest.mark.parametrize(
    ("loss", "hint"),
    [
        (lambda acts, image: acts["map"].mean((0, 1)), r"shape \(6,\)"),
        (lambda acts, image: None, "returns None"),
        (lambda acts, image: [image.sum()], "a list"),
        (lambda acts, image: image.sum() * 1j, "complex64"),
        (lambda acts, image: (image > 0.5).sum(), "int32"),
        (lambda acts, image: acts["mop"].mean(), "nearest: map"),
        (lambda acts: acts["map"].mean(), "takes \\(activations, image\\)"),
        (functools.partial(energy, image=3), "takes \\(activations, image\\)"),
        (Unhashable(), "hashable"),
        (7, "not 7"),
        ("map:2", "not 'map:2'"),
        (sharpness, r"call it first, as sharpness\(layer"),
        (CHANNEL * (lambda acts, image: image), r"shape \(8, 9, 3\)"),
    ],
)
def test_mistakes(loss, hint):
    with pytest.raises(joi.InputError, match=hint):
        losses.resolve(loss, SHAPES, IMAGE.shape)


@pytest.mark.parametrize(
    "build", [lambda: CHANNEL + 3, lambda: CHANNEL - "x", lambda: CHANNEL ** "x", lambda: CHANNEL**1j]
)
def test_what_is_no_loss_is_refused(build):
    with pytest.raises(joi.InputError):
        build()
