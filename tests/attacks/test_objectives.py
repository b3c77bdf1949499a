"""A function of one's own as an attack's loss and as its criterion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input import attacks, losses
from jaxopt_input.attacks.objectives import objective
from jaxopt_input.errors import InputError

KEY = jax.random.key(0)
LOGITS = np.array([1.0, 3.0, 2.0, -1.0], np.float32)


def lead(logits, label, target):
    """What the best other class leads the label by; with a target, what the target leads the label by."""
    best = jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits).max()
    return jnp.where(target == label, best, logits[target]) - logits[label]


@pytest.mark.slow
def test_a_function_attacks_as_the_loss_of_the_library_does(toy, toy_batch):
    images, labels = toy_batch
    options = {"epsilon": 0.05, "steps": 4}
    ours = attacks.pgd(KEY, toy, images, labels, loss=lead, **options)
    theirs = attacks.pgd(KEY, toy, images, labels, loss="margin", **options)
    np.testing.assert_array_equal(ours.image, theirs.image)  # signs of the same gradient


def test_a_function_sees_the_target():
    value = objective(lead, targeted=True)(1, 2)({"logits": LOGITS}, None)
    assert float(value) == LOGITS[2] - LOGITS[1]


def test_one_function_is_one_program():
    first, second = (jax.tree.structure(objective(lead, targeted=False)(label, label)) for label in (0, 1))
    assert first == second
    other = objective(lambda logits, label, target: logits[0], targeted=False)
    assert jax.tree.structure(other(0, 0)) != first


@pytest.mark.parametrize(
    ("loss", "hint"),
    [
        ("margn", "nearest: margin"),
        (7, "a loss builder that takes a class"),
        (lambda logits, label: logits[label], "a loss builder that takes a class"),
        (lambda logits, label, target: logits, r"shape \(5,\)"),
        (lambda logits, label, target: None, "returns None"),
    ],
)
def test_mistakes(toy, toy_batch, loss, hint):
    images, labels = toy_batch
    with pytest.raises(InputError, match=hint):
        attacks.pgd(KEY, toy, images, labels, epsilon=0.05, steps=1, loss=loss)


def test_a_builder_of_ones_own_is_turned_round_for_a_target():
    own = objective(lambda label: losses.cross_entropy(label) / 2, targeted=True)
    expected = -(np.log(np.exp(LOGITS).sum()) - LOGITS[2]) / 2
    np.testing.assert_allclose(own(1, 2)({"logits": LOGITS}, None), expected, rtol=1e-6)


def test_a_criterion_that_cannot_be_static_is_refused():
    class Unhashable:
        __hash__ = None

        def __call__(self, logits, label, target):
            return logits[0] > 0

    with pytest.raises(InputError, match="a function of"):
        attacks.criteria.as_criterion(Unhashable(), targeted=False)
