"""Square's pieces and its budget; AutoAttack's sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks.autoattack import STAGES
from jaxopt_input.attacks.square import bumps, sides

KEY = jax.random.key(0)
EIGHT = joi.Resources(chunk=8)


def eta(side):
    """`SquareAttack.eta` of AutoAttack, transcribed, before it is turned."""

    def rectangles(x, y):
        delta = np.zeros((x, y))
        x_c, y_c = x // 2 + 1, y // 2 + 1
        at = [x_c - 1, y_c - 1]
        for counter in range(max(x_c, y_c)):
            rows = slice(max(at[0], 0), min(at[0] + 2 * counter + 1, x))
            columns = slice(max(0, at[1]), min(at[1] + 2 * counter + 1, y))
            delta[rows, columns] += 1.0 / (counter + 1) ** 2
            at = [at[0] - 1, at[1] - 1]
        return delta / np.sqrt((delta**2).sum())

    delta = np.zeros((side, side))
    delta[: side // 2] = rectangles(side // 2, side)
    delta[side // 2 :] = -rectangles(side - side // 2, side)
    return delta / np.sqrt((delta**2).sum())


@pytest.mark.parametrize("side", [3, 5, 9])
def test_bumps(side):
    made = bumps(jnp.array([[2, 1], [0, 3]]), jnp.int32(side), jnp.array([False, True]), (12, 12, 3))
    np.testing.assert_allclose(made[0, 2 : 2 + side, 1 : 1 + side], eta(side), atol=1e-6)
    np.testing.assert_allclose(made[1, :side, 3 : 3 + side], eta(side).T, atol=1e-6)
    np.testing.assert_allclose((made**2).sum((1, 2)), 1, rtol=1e-5)


def test_sides_shrink():
    plan = sides(0.8, 5000, (32, 32, 3), "l2")
    assert (np.diff(plan) <= 0).all()
    assert (plan % 2 == 1).all()
    assert plan[-1] == 3


def test_sides_of_autoattack_are_those_of_ten_thousand_queries():
    # p = .8 halves after 10, 50, 200, 500, 1000, 2000 and 4000 queries of their code; round(sqrt(p · 32 · 32)).
    plan = sides(0.8, 5000, (32, 32, 3), "linf", rescale=False)
    assert plan[[6, 11, 101, 1001, 2001, 4999]].tolist() == [29, 20, 14, 5, 4, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "factor"), [("linf", 1.6), ("l2", 3.0)])
def test_square(halfspace, norm, factor):
    problem = halfspace((8, 8, 1))
    epsilon = np.array([0.97, factor])[:, None] * problem.optimum[norm]
    found = attacks.square(KEY, problem.model, problem.images, problem.labels, epsilon=epsilon, norm=norm, queries=300)
    assert not found.success[0].any()
    assert found.success[1].mean() > 0.8
    size = np.linalg.norm((found.image - problem.images).reshape(2, 8, -1), np.inf if norm == "linf" else 2, -1)
    assert (size <= epsilon + 1e-6).all()
    assert (found.gradients == 0).all()
    assert (found.forwards[0] == 301).all()  # and the last judgment


@pytest.mark.slow
def test_autoattack(toy, toy_batch):
    images, labels = toy_batch
    labels = np.where(np.arange(8) < 1, (labels + 1) % 5, labels)
    epsilons = [0.004, 0.01]
    found = attacks.autoattack(KEY, toy, images, labels, epsilon=epsilons, steps=10, queries=20)
    assert found.image.shape == (2, *images.shape)
    assert found.success[:, 0].all()
    assert (found.history["stage"][:, 0] == -1).all()
    broken = found.success[:, 1:]
    assert broken[1].any()
    assert ((found.history["stage"][:, 1:] >= 0) == broken).all()
    assert found.history["stage"].max() < len(STAGES)
    size = np.abs(found.image - images).max((2, 3, 4))
    assert (size <= np.array(epsilons)[:, None] + 1e-6).all()
    again = np.asarray(toy.activations(found.image[1], ["logits"])["logits"]).argmax(-1)
    np.testing.assert_array_equal(again != labels, found.success[1])
    # No attack of the sequence does better alone.
    alone = attacks.apgd(KEY, toy, images, labels, epsilon=0.01, steps=10, on=EIGHT)
    assert found.success[1].sum() >= alone.success.sum()
    assert (found.gradients[~found.success] > 21).all()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_stages_that_apply(classes):
    model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3, classes),
                              image_shape=(4, 4, 3), taps=("logits",))  # fmt: skip
    image = np.full((1, 4, 4, 3), 0.5, np.float32) + np.array([0.05, 0, 0], np.float32)
    with pytest.warns(attacks.GradientMaskingWarning, match="left out"):
        result = attacks.autoattack(KEY, model, image, [0], epsilon=0.1, steps=5, queries=5)
    assert result.success.all()
    assert f"apgd-t needs 4 classes, and model has {classes}" in result.warnings[0]
    with pytest.raises(joi.InputError, match="take apgd-ce"):
        attacks.autoattack(KEY, model, image, [0], epsilon=0.1, stages=("apgd-t",))


def test_one_output_is_no_class():
    model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2, 3))[:, None]}, 0.0,
                              image_shape=(4, 4, 3), taps=("logits",))  # fmt: skip
    image = np.full((1, 4, 4, 3), 0.5, np.float32)
    for call in (
        lambda: attacks.autoattack(KEY, model, image, [0], epsilon=0.1),
        lambda: attacks.pgd(KEY, model, image, [0], epsilon=0.1),
        lambda: attacks.universal(KEY, model, image),
        lambda: attacks.fool(KEY, model),
        lambda: attacks.transfer(KEY, {"a": model, "b": model}, image, [0], attacks.fgsm),
    ):
        with pytest.raises(joi.InputError, match=r"\(0, z\)"):
            call()


def test_mistakes(toy, toy_batch):
    images, labels = toy_batch
    with pytest.raises(joi.InputError, match="set their own target"):
        attacks.autoattack(KEY, toy, images, labels, epsilon=0.1, target=1)
    with pytest.raises(joi.InputError, match="label 9"):
        attacks.autoattack(KEY, toy, images, 9, epsilon=0.1)
    with pytest.raises(joi.InputError, match="norm is one of linf, l2"):
        attacks.square(KEY, toy, images, labels, epsilon=0.1, norm="l1")
    with pytest.raises(joi.InputError, match="share"):
        attacks.square(KEY, toy, images, labels, epsilon=0.1, share=0)
    with pytest.raises(joi.InputError, match="gamma"):
        attacks.ddn(KEY, toy, images, labels, gamma=1.0)
