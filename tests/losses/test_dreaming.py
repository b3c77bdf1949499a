"""The losses of DeepDream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input import losses, targets
from jaxopt_input.errors import InputError

RNG = np.random.default_rng(0)


def test_guided_is_its_definition():
    own, guide = RNG.normal(size=(7, 5, 4)), RNG.normal(size=(11, 4))
    loss = losses.guided("a", guide)
    value, gradient = jax.value_and_grad(lambda a: loss({"a": a}, None))(jnp.asarray(own, jnp.float32))
    best = guide[np.argmax(own.reshape(-1, 4) @ guide.T, 1)].reshape(own.shape)  # A.argmax(1) of the notebook
    np.testing.assert_allclose(gradient, best / 35, atol=1e-6)
    np.testing.assert_allclose(value, (own * best).sum() / 35, rtol=1e-5)


def test_guided_in_blocks_of_positions(monkeypatch):
    monkeypatch.setattr("jaxopt_input.losses.dreaming.ROWS", 8)
    own, guide = RNG.normal(size=(9, 3, 4)), RNG.normal(size=(5, 4))  # 27 positions: the last block is not full
    value = losses.guided("a", guide)({"a": jnp.asarray(own, jnp.float32)}, None)
    np.testing.assert_allclose(value, (own.reshape(-1, 4) @ guide.T).max(1).mean(), rtol=1e-5)


def test_one_guide_per_target():
    own, guides = RNG.normal(size=(2, 3, 3, 4)).astype(np.float32), RNG.normal(size=(2, 6, 4))
    loss = losses.guided("a", guides)
    both = targets.vmap_lanes(lambda one, a: one({"a": a}, None), loss, np.arange(2))(jnp.asarray(own))
    expected = [(a.reshape(-1, 4) @ guide.T).max(1).mean() for a, guide in zip(own, guides, strict=True)]
    np.testing.assert_allclose(both, expected, rtol=1e-5)
    assert len(set(losses.names(loss))) == 2


@pytest.mark.parametrize(
    ("layer", "features", "hint"),
    [
        ("second", np.ones((4, 5)), "the guide has 5 channels, layer second has 8"),
        ("logits", np.ones((4, 5)), "no positions"),
        ("secnd", np.ones((4, 8)), "nearest: second"),
    ],
)
def test_guided_mistakes(toy, layer, features, hint):
    with pytest.raises(InputError, match=hint):
        losses.guided(layer, features).check(toy.layers())


def test_means():
    a = RNG.normal(size=(3, 4, 5))
    activations = {"a": jnp.asarray(a, jnp.float32), "v": jnp.asarray(a[0, 0], jnp.float32)}
    np.testing.assert_allclose(losses.layer_mean("a")(activations, None), a.mean(), rtol=1e-5)
    np.testing.assert_allclose(losses.channel_square("a", 2)(activations, None), (a[..., 2] ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(losses.channel_square("v", 2)(activations, None), a[0, 0, 2] ** 2, rtol=1e-5)


def test_channel_square_mistake(toy):
    with pytest.raises(InputError, match="channel 8 does not exist"):
        losses.channel_square("second", 8).check(toy.layers())
