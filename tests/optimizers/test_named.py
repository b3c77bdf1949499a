"""Optimizers: names, any Optax object, factories and schedules, against Optax itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_input as joi
from jaxopt_input import optimizers as o

COSINE = optax.cosine_decay_schedule(0.1, 6)
TARGET = jnp.linspace(-1, 1, 12).reshape(2, 2, 3)


def descend(rule, steps=8):
    """The iterates of a quadratic function."""
    rule = optax.with_extra_args_support(rule)
    theta = jnp.zeros_like(TARGET)
    state, out = rule.init(theta), []
    for _ in range(steps):
        value, gradient = jax.value_and_grad(lambda x: jnp.square(x - TARGET).sum())(theta)
        updates, state = rule.update(gradient, state, theta, value=value)
        theta = optax.apply_updates(theta, updates)
        out.append(theta)
    return jnp.stack(out), state


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "yogi", "adamw", "lion", "nadam"])
def test_a_schedule_is_optaxs(name):
    ours, _ = descend(o.optimizer(name, COSINE).build())
    theirs, _ = descend(getattr(optax, name)(COSINE))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_any_hyperparameter_may_be_a_schedule():
    falling = o.sgd(0.1, momentum=lambda step: 0.9 / (1 + step))
    ours, state = descend(falling.build(), 2)
    assert int(state.updates) == 2
    # By hand: v1 = g1, x1 = -0.1 v1; v2 = g2 + 0.45 v1.
    g1 = -2 * TARGET
    x1 = -0.1 * g1
    g2 = 2 * (x1 - TARGET)
    np.testing.assert_allclose(ours, [x1, x1 - 0.1 * (g2 + 0.45 * g1)], rtol=1e-5, atol=1e-6)


def test_published_rules_take_schedules():
    """A schedule that is constant is the constant."""
    for rule in (o.mahendran, o.yosinski):
        plain, _ = descend(rule(50.0).build())
        scheduled, _ = descend(rule(lambda step: 50.0).build())
        np.testing.assert_allclose(scheduled, plain, rtol=1e-6)


def test_a_schedule_beside_an_average_and_other_targets(linear):
    """In the compiled loop: a rate that has fallen to 0 moves nothing; momentum is one number per target."""
    stop = optax.piecewise_constant_schedule(20.0, {3: 0.0})
    for optimizer in (o.sgd(stop), o.averaged(o.sgd(stop)), o.sgd(stop, momentum=[0.0, 0.5])):
        s = joi.minimize(
            -joi.losses.class_logit(0), linear, image="pixels", optimizer=optimizer, steps=6, key=jax.random.key(0)
        )
        assert bool((s.loss[:, 1] < s.loss[:, 0]).all())
        np.testing.assert_array_equal(s.loss[:, 4:], s.loss[:, 4:5] * np.ones(3, np.float32))
    assert s.loss.shape == (2, 7)


def test_another_rate_replaces_a_schedule():
    assert o.adam(COSINE).at_rate(0.2).schedules == ()
    assert dict(o.adam(0.2).at_rate(COSINE).schedules) == {"learning_rate": COSINE}
    assert o.adam(0.2, b1=0.5).at_rate(COSINE).hyperparameters["b1"] == 0.5
    assert jax.tree.structure(o.adam(COSINE)) == jax.tree.structure(o.adam(COSINE))
    assert jax.tree.structure(o.adam(COSINE)) != jax.tree.structure(o.adam(optax.constant_schedule(0.1)))


def clipped(learning_rate, most):
    return optax.chain(optax.clip(most), optax.sgd(learning_rate))


def test_an_optimizer_of_ones_own(linear):
    """Its numbers are traced, each with a target axis if need be; gradients are clipped to `most`."""
    optimizer = o.optimizer(clipped, [0.1, 0.2], most=1e-3)
    s = joi.minimize(
        -joi.losses.class_logit(0), linear, image="pixels", optimizer=optimizer, steps=4, key=jax.random.key(0)
    )
    before, after = -s.loss[:, 0], -s.loss[:, 4]
    np.testing.assert_allclose(after - before, [4 * 0.1 * 1e-3, 4 * 0.2 * 1e-3], rtol=1e-3)
    assert optimizer.at_rate(0.3).hyperparameters["learning_rate"] == np.float32(0.3)


def test_optax_objects_and_names_are_taken():
    rule = optax.chain(optax.clip(1.0), optax.adam(0.1))
    ours, _ = descend(o.as_optimizer(rule).build())
    theirs, _ = descend(rule)
    np.testing.assert_array_equal(ours, theirs)
    assert jax.tree.structure(o.as_optimizer(rule)) == jax.tree.structure(o.as_optimizer(rule))
    assert jax.tree.structure(o.as_optimizer(rule)) != jax.tree.structure(o.as_optimizer(optax.adam(0.1)))
    for name in o.NAMES:
        assert o.as_optimizer(name).name == name
    assert o.as_optimizer(None).hyperparameters == {"learning_rate": np.float32(0.05)}
    adam = o.adam(0.3)
    assert o.as_optimizer(adam) is adam


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda: o.as_optimizer("adm"), "nearest: adam"),
        (lambda: o.as_optimizer(7), "not 7"),
        (lambda: o.as_optimizer(lambda rate: rate), "jaxopt_input.optimizers"),
        (lambda: o.as_optimizer(optax.adam(0.1)).at_rate(0.2), "learning rate"),
        (lambda: o.adam(lambda: 0.1), "function of the step"),
        (lambda: o.adam(lambda step: jnp.ones(3)), "one number"),
        (lambda: o.adam(-0.1), "positive"),
        (lambda: o.adam(0.1, b3=0.5), "b3"),
        (lambda: o.optimizer(clipped), "learning rate"),
        (lambda: o.optimizer(clipped, 0.1), "most"),
        (lambda: o.optimizer(clipped, 0.1, least=1.0), "least"),
        (lambda: o.optimizer(optax.GradientTransformation, 0.1), "by name"),
        (lambda: o.lbfgs().at_rate(COSINE), "line search"),
        (lambda: o.optimizer("lbfgs", COSINE), "line search"),
    ],
)
def test_mistakes(mistake, hint):
    with pytest.raises(joi.InputError, match=hint):
        mistake()
