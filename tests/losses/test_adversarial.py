"""Adversarial losses against NumPy transcriptions of their formulas, their gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import losses, targets

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 7)).astype(np.float32) * 3
IMAGE = np.zeros((2, 2, 3), np.float32)


def other(z, y):
    return max(v for i, v in enumerate(z) if i != y)


def dlr(z, y):
    s = np.sort(z)[::-1]
    return -(z[y] - other(z, y)) / (s[0] - s[2])


def targeted_dlr(z, y, t):
    s = np.sort(z)[::-1]
    return -(z[y] - z[t]) / (s[0] - 0.5 * (s[2] + s[3]))


LOSSES = {
    "cross-entropy": (losses.cross_entropy, lambda z, y: np.log(np.exp(z.astype(float)).sum()) - z[y]),
    "margin": (losses.margin, lambda z, y: other(z, y) - z[y]),
    "dlr": (losses.dlr, dlr),
    "targeted dlr": (lambda y: losses.targeted_dlr(y, 3), lambda z, y: targeted_dlr(z, y, 3)),
    "cw": (lambda y: losses.carlini_wagner(y, 0.5), lambda z, y: max(z[y] - other(z, y) + 0.5, 0)),
    "cw, targeted": (
        lambda y: losses.carlini_wagner(y, 0.5, targeted=True),
        lambda z, y: max(other(z, y) - z[y] + 0.5, 0),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient(name):
    build, expected = LOSSES[name]
    for z in LOGITS:
        for y in (0, int(z.argmax())):
            loss = build(y)
            value, gradient = jax.value_and_grad(lambda z, loss=loss: loss({"logits": z}, IMAGE))(jnp.asarray(z))
            assert float(value) == pytest.approx(expected(z, y), rel=1e-5, abs=1e-6)
            for k in range(7):
                step = np.eye(7)[k] * 1e-4
                slope = (expected(z + step, y) - expected(z - step, y)) / 2e-4
                assert float(gradient[k]) == pytest.approx(slope, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_one_label_per_target(name):
    build, expected = LOSSES[name]
    many = build(np.arange(6))
    assert targets.count(many) == 6
    values = targets.vmap_lanes(lambda loss, z: loss({"logits": z}, IMAGE), many, jnp.arange(6))(LOGITS)
    np.testing.assert_allclose(values, [expected(z, y) for y, z in enumerate(LOGITS)], rtol=1e-5, atol=1e-6)
    assert len(set(losses.names(many))) == 6


def test_large_logits_stay_finite():
    z = jnp.array([300.0, -300.0, 0.0, 1.0])
    for build, _ in LOSSES.values():
        loss = build(1)
        value, gradient = jax.value_and_grad(lambda z, loss=loss: loss({"logits": z}, IMAGE))(z)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("build", "classes", "hint"),
    [
        (lambda: losses.cross_entropy(7), 5, "label 7|class 7"),
        (lambda: losses.margin(-1), 5, "-1"),
        (lambda: losses.margin(0), 1, "2 classes"),
        (lambda: losses.dlr(0), 2, "3 classes"),
        (lambda: losses.targeted_dlr(0, 1), 3, "4 classes"),
        (lambda: losses.targeted_dlr(0, 9), 5, "target 9"),
        (lambda: losses.cross_entropy(1.5), 5, "integer"),
        (lambda: losses.carlini_wagner(1, -0.5), 5, "at least 0"),
    ],
)
def test_mistakes(build, classes, hint):
    with pytest.raises(joi.InputError, match=hint):
        build().check({"logits": (classes,)})
