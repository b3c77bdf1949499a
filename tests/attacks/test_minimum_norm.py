"""Attacks that minimize a norm, against the distance to a hyperplane in closed form; robust accuracy from one run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks import Lanes, Problem
from jaxopt_input.attacks.carlini_wagner import ENOUGH
from jaxopt_input.attacks.fab import begin
from jaxopt_input.attacks.nearest import Nearest, cosine, next_factor

KEY = jax.random.key(0)
EIGHT = joi.Resources(chunk=8)
CASES = {
    "deepfool, l2": ("l2", lambda *args: attacks.deepfool(*args, norm="l2")),
    "deepfool, linf": ("linf", lambda *args: attacks.deepfool(*args, norm="linf")),
    "ddn": ("l2", attacks.ddn),
    "fmn, l1": ("l1", lambda *args: attacks.fmn(*args, norm="l1")),
    "fmn, l2": ("l2", lambda *args: attacks.fmn(*args, norm="l2")),
    "fmn, linf": ("linf", lambda *args: attacks.fmn(*args, norm="linf")),
    "carlini_wagner": ("l2", lambda *args: attacks.carlini_wagner(*args, steps=200, searches=9, c=0.1)),
    "szegedy": ("l2", attacks.szegedy),
    "fab, l2": ("l2", lambda *args: attacks.fab(*args, norm="l2", steps=20)),
    "fab, linf": ("linf", lambda *args: attacks.fab(*args, norm="linf", steps=20)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("shape", "n"), [((4, 5, 3), 1), ((8, 8, 1), 3), ((1, 7, 3), 8)])
def test_nearest(halfspace, name, shape, n):
    norm, attack = CASES[name]
    problem = halfspace(shape, n)
    found = attack(KEY, problem.model, problem.images, problem.labels)
    assert found.success.all()
    ratio = found.distance[norm] / problem.optimum[norm]
    assert (ratio >= 1 - 1e-3).all(), ratio
    assert (ratio <= 1.05).all(), ratio
    assert found.minimizes
    assert found.norm == norm
    assert (found.gradients > 0).all()


def test_fewest_numbers(halfspace):
    problem = halfspace((4, 5, 3))
    found = attacks.fmn(KEY, problem.model, problem.images, problem.labels, norm="l0")
    assert found.success.all()
    assert (found.distance["l0"] <= 2).all()  # one number would do


@pytest.mark.parametrize("attack", [attacks.ddn, attacks.szegedy])
def test_what_cannot_be_found(toy, toy_batch, attack):
    """Without success the original comes back, at an infinite distance."""
    images, labels = toy_batch
    found = attack(
        KEY,
        toy,
        images,
        labels,
        criterion=never,
        **({"steps": 3} if attack is attacks.ddn else {"searches": 2, "evaluations": 4}),
    )
    assert not found.success.any()
    np.testing.assert_array_equal(found.image, images)
    assert np.isinf(found.distance["l2"]).all()
    np.testing.assert_array_equal(found.prediction, found.clean)


def never(logits, label, target):
    return logits[0] != logits[0]


def test_robust_accuracy(toy, toy_batch):
    images, labels = toy_batch
    labels = np.where(np.arange(8) < 2, (labels + 1) % 5, labels)  # two that are wrong already
    found = attacks.ddn(KEY, toy, images, labels, steps=30)
    assert found.success.all()
    assert (found.distance["l2"][:2] == 0).all()
    middle = float(np.median(found.distance["l2"][2:]))
    np.testing.assert_allclose(found.robust_accuracy([0.0, middle, 100.0]), [6 / 8, 3 / 8, 0])


def test_carlini_wagner_is_adam_on_their_loss(linear):
    """One search with one c against a plain loop over `jax.grad`, from images of which parts are nearly black."""
    rng, c, steps = np.random.default_rng(0), 30.0, 40
    images = rng.choice([0.01, 0.99, 0.5], (3, 6, 6, 3)).astype(np.float32)
    labels = images.mean((1, 2)).argmax(-1).astype(np.int32)
    found = attacks.carlini_wagner(
        KEY, linear, images, labels, steps=steps, searches=1, c=c, learning_rate=0.3, confidence=0.01
    )
    rule = optax.adam(0.3)

    @jax.jit
    def evaluate(w, clean, label):
        def total(w):
            x = (jnp.tanh(w) + 1) / 2
            z = x.mean((0, 1))
            lead = z[label] - jnp.where(jnp.arange(3) == label, -jnp.inf, z).max() + 0.01
            return jnp.sum(jnp.square(x - clean)) + c * jnp.maximum(lead, 0), (x, lead)

        return jax.value_and_grad(total, has_aux=True)(w)

    for n in range(3):
        w = jnp.arctanh((2 * images[n] - 1) * 0.999999)
        state, nearest, least = rule.init(w), np.inf, np.inf
        for i in range(steps):
            (total, (x, lead)), slope = evaluate(w, images[n], labels[n])
            if lead <= 0:
                nearest = min(nearest, float(np.linalg.norm(x - images[n])))
            if i % (steps // 10) == 0:
                if total > ENOUGH * least:
                    break
                least = total
            updates, state = rule.update(slope, state)
            w = w + updates
        assert nearest < np.inf
        np.testing.assert_allclose(found.distance["l2"][n], nearest, rtol=1e-3)  # float32, forty steps


def test_the_search_for_a_factor_and_the_schedule_of_a_step():
    c, inf = jnp.float32([2, 2, 2, 4]), jnp.inf
    low, high = jnp.float32([2, 0, 1, 4]), jnp.float32([inf, 2, 4, inf])
    # None succeeded: ten times; the first succeeded: a tenth; between: the geometric mean.
    np.testing.assert_allclose(next_factor(c, low, high), [20, 0.2, 2, 40], rtol=1e-6)
    steps = [float(cosine(jnp.float32(3), jnp.float32(1), jnp.int32(i), 8)) for i in (0, 2, 4, 8)]
    np.testing.assert_allclose(steps, [3, 2 + np.sqrt(0.5), 2, 1], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rounded", [False, True])
def test_szegedy_to_targets(toy, toy_batch, rounded):
    images, labels = toy_batch
    images = np.floor(images * 255) / np.float32(255)
    target = (labels + 1) % 5
    found = attacks.szegedy(KEY, toy, images, labels, target=target, rounded=rounded)
    near = attacks.ddn(KEY, toy, images, labels, target=target, steps=100)
    assert found.success.mean() >= near.success.mean() - 1e-6
    np.testing.assert_array_equal(found.prediction[found.success], target[found.success])
    both = found.success & near.success
    assert both.any()
    assert np.median(found.distance["rms"][both]) <= (1.5 if rounded else 1.1) * np.median(near.distance["rms"][both])
    if rounded:
        np.testing.assert_allclose(found.image * 255, np.rint(found.image * 255), atol=1e-4)
        assert (found.forwards > 1).all()


ROUNDED = {
    "ddn": attacks.ddn,
    "fmn, l2": attacks.fmn,
    "carlini_wagner": lambda *args, **more: attacks.carlini_wagner(*args, steps=60, searches=4, c=0.1, **more),
    "deepfool": attacks.deepfool,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDED)
def test_rounded(toy, toy_batch, name):
    """What counts is the rounded image: it is the success, and it is not much farther than the nearest of floats."""
    images, labels = toy_batch
    images = np.floor(images * 255) / np.float32(255)
    found = ROUNDED[name](KEY, toy, images, labels, rounded=True, on=EIGHT)
    assert found.success.all()
    np.testing.assert_allclose(found.image * 255, np.rint(found.image * 255), atol=1e-4)
    change = (found.image - images).reshape(8, -1)
    np.testing.assert_allclose(found.distance["l2"], np.linalg.norm(change, axis=1), rtol=1e-5)
    again = np.asarray(toy.activations(found.image, ["logits"])["logits"]).argmax(-1)
    assert (again != labels).all()
    exact = ROUNDED[name](KEY, toy, images, labels, on=EIGHT)
    # 360 numbers rounded at random move by √360 · 0.29 / 255 = 0.0215 in L2.
    assert np.median(found.distance["l2"] - exact.distance["l2"]) <= 0.0215


def test_the_distance_of_a_rounded_image(toy, toy_batch):
    images = np.floor(toy_batch[0] * 255) / np.float32(255)
    nothing = jnp.zeros(8, jnp.int32)
    lanes = Lanes(jnp.asarray(images), nothing, nothing, None, None, None, nothing, None)
    moved = jnp.clip(images, 0.1, 0.9) + jnp.where(jnp.arange(10) < 5, 0.4, 0.8)[:, None] / 255
    apart = np.rint(np.asarray(moved) * 255) / 255 - images
    for rounded, change in ((True, apart), (False, np.asarray(moved) - images)):
        problem = Problem(lanes, None, None, targeted=False, rounded=rounded)
        for p, order in (("l1", 1), ("l2", 2), ("linf", np.inf)):
            wanted = np.linalg.norm(change.reshape(8, -1), order, -1)
            np.testing.assert_allclose(problem.distance(moved, p), wanted, rtol=1e-4)


def test_restarts_of_fab_begin_elsewhere(toy_batch):
    """The first begins at the original, the others within half of the reach, or of the nearest success so far."""
    images = jnp.asarray(toy_batch[0][:4])
    restart, keys = jnp.array([0, 1, 2, 3], jnp.uint32), jax.random.split(KEY, 4)
    nothing = jnp.zeros(4, jnp.int32)
    problem = Problem(Lanes(images, nothing, nothing, None, keys, None, restart, None), None, None, False, False)
    best = Nearest(images, jnp.array([jnp.inf, jnp.inf, 0.2, jnp.inf]))
    begun = begin(problem, best, jnp.float32(0.4), 0)
    away = np.abs(np.asarray(begun - images)).max((1, 2, 3))
    assert away[0] == 0
    # The largest of 360 uniform numbers is within 5 % of the bound but once in 10⁸ times.
    np.testing.assert_allclose(away[1:], [0.2, 0.1, 0.2], rtol=0.05)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_reaches_a_target_past_other_classes(norm):
    """Between class 0 and class 2 lies class 1: where z₂ passes z₀, class 1 is on top."""
    weights = jnp.array([[0.0, 1.0, 2.0]] * 3) / 3
    bias = jnp.array([0.9, 0.55, 0.0])
    model = joi.from_function(
        lambda p, x, taps: {"logits": x.mean((1, 2)) @ p[0] + p[1]}, (weights, bias), image_shape=(4, 4, 3),
        taps=("logits",),
    )  # fmt: skip
    image = np.full((1, 4, 4, 3), 0.2, np.float32)
    found = joi.attacks.fab(jax.random.key(0), model, image, [0], target=[2], norm=norm, steps=20)
    assert found.success[0]
    # z₂ = z₁ at a mean of 0.55; z₂ = z₀ already at 0.45.
    change = 0.35 * (1 if norm == "linf" else np.sqrt(48))
    assert change * (1 - 1e-4) < found.distance[norm][0] < 1.05 * change
