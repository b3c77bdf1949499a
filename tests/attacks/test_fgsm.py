"""FGSM, BIM, PGD and MI-FGSM: their formulas, their budgets, the closed form of a linear network, and their cost."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input import attacks, losses

KEY = jax.random.key(0)
NORM = {
    "linf": lambda d: np.abs(d).max((1, 2, 3)),
    "l2": lambda d: np.sqrt((d.astype(np.float64) ** 2).sum((1, 2, 3))),
    "l1": lambda d: np.abs(d.astype(np.float64)).sum((1, 2, 3)),
}
ATTACKS = {
    "fgsm": lambda norm: lambda *args, **more: attacks.fgsm(*args, norm=norm, **more),
    "pgd": lambda norm: lambda *args, **more: attacks.pgd(*args, norm=norm, steps=30, **more),
    "bim": lambda norm: attacks.bim,
    "mi_fgsm": lambda norm: attacks.mi_fgsm,
}
CASES = [(name, norm) for name in ("fgsm", "pgd") for norm in NORM] + [("bim", "linf"), ("mi_fgsm", "linf")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize(("shape", "n"), [((4, 5, 3), 1), ((8, 8, 1), 3), ((1, 7, 3), 8)])
def test_budget(halfspace, name, norm, shape, n):
    """With a little more than the distance to the hyperplane every attack crosses it, with less none; within ε."""
    problem = halfspace(shape, n)
    attack = ATTACKS[name](norm)
    factors = np.array([0.95, 1.1])[:, None]
    epsilon = factors * problem.optimum[norm]
    result = attack(KEY, problem.model, problem.images, problem.labels, epsilon=epsilon, stop=False)
    assert (NORM[norm]((result.image - problem.images).reshape(-1, *shape)) <= epsilon.ravel() + 1e-6).all()
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert not result.success[0].any()
    if (name, norm) != ("fgsm", "l1"):  # its one step spreads over several numbers
        assert result.success[1].all()
        np.testing.assert_allclose(result.distance[norm][1], NORM[norm](result.image[1] - problem.images), rtol=1e-5)


def gradient_of(model, images, labels):
    def total(x):
        z = model.apply(model.params, x, ("logits",))["logits"]
        return jax.vmap(lambda z, y: losses.cross_entropy(y)({"logits": z}, z))(z, labels).sum()

    return np.asarray(jax.grad(total)(jnp.asarray(images)))


@pytest.mark.slow
def test_steps_are_the_formulas(toy, toy_batch):
    images, labels = toy_batch
    args = (KEY, toy, images, labels)
    one = attacks.fgsm(*args, epsilon=0.03, stop=False)
    g = gradient_of(toy, images, labels)
    # Where the gradient is next to nothing, its sign is rounding.
    clear = np.abs(g) > 1e-6 * np.abs(g).max()
    np.testing.assert_allclose(one.image[clear], np.clip(images + 0.03 * np.sign(g), 0, 1)[clear], atol=1e-6)

    x, v = images, np.zeros_like(images)
    for _ in range(3):
        g = gradient_of(toy, x, labels)
        v = 0.9 * v + g / np.abs(g).sum((1, 2, 3), keepdims=True)
        x = np.clip(np.clip(x + 0.01 * np.sign(v), images - 0.02, images + 0.02), 0, 1)
    found = attacks.mi_fgsm(*args, epsilon=0.02, steps=3, step=0.01, decay=0.9, stop=False)
    assert (np.abs(found.image - x) < 1e-5).mean() > 0.999

    x = images
    for _ in range(3):
        g = gradient_of(toy, x, labels)
        x = images + (x + 0.2 * g / np.sqrt((g**2).sum((1, 2, 3), keepdims=True)) - images)
        d = x - images
        length = np.sqrt((d**2).sum((1, 2, 3), keepdims=True))
        x = np.clip(images + d * np.minimum(1, 0.5 / length), 0, 1)
    found = attacks.pgd(*args, epsilon=0.5, norm="l2", steps=3, step=0.2, random_start=False, stop=False)
    np.testing.assert_allclose(found.image, x, atol=1e-5)


def test_a_start_of_ones_own(toy, toy_batch):
    images, labels = toy_batch
    start = np.clip(images + 0.5, 0, 1)
    found = attacks.pgd(KEY, toy, images, labels, epsilon=0.02, steps=1, step=1e-6, start=start, stop=False)
    np.testing.assert_allclose(found.image, np.clip(images + 0.02, 0, 1), atol=3e-6)


@pytest.mark.slow
def test_the_loss_is_counted_and_rises(toy, toy_batch):
    images, labels = toy_batch
    for loss in ("cross_entropy", "dlr", "margin", "carlini_wagner", losses.cross_entropy):
        found = attacks.pgd(KEY, toy, images, labels, epsilon=0.005, steps=6, loss=loss, random_start=False, stop=False)
        rises = found.history["loss"][:, -1] - found.history["loss"][:, 0]
        assert (rises > 0).all()
        assert (found.gradients == 6).all()
        assert (found.steps == 6).all()
        assert (found.forwards == 1).all()


@pytest.mark.slow
def test_pgd_costs_its_gradients():
    """PGD-40 takes at most 1.15 times as long as 40 compiled gradients of the same batch."""
    import jaxopt_input as joi

    model = joi.load("tin100")
    images = np.asarray(jax.random.uniform(KEY, (4, 64, 64, 3)), np.float32)
    labels = np.zeros(4, np.int32)
    gradient = jax.jit(lambda x: gradient_like(model, x, labels))
    jax.block_until_ready(gradient(images))

    def attack():
        return attacks.pgd(KEY, model, images, labels, epsilon=4 / 255, steps=40, stop=False, on=joi.Resources(chunk=4))

    attack()
    ratios = []
    for _ in range(8):  # the machine has other work: the best of eight
        begin = time.perf_counter()
        for _ in range(40):
            jax.block_until_ready(gradient(images))
        middle = time.perf_counter()
        attack()
        ratios.append((time.perf_counter() - middle) / (middle - begin))
        if ratios[-1] <= 1.15:
            break
    assert min(ratios) <= 1.15, ratios


def gradient_like(model, images, labels):
    def total(x):
        z = model.apply(model.params, x, ("logits",))["logits"]
        return -jax.nn.log_softmax(z)[jnp.arange(len(labels)), labels].sum()

    return jax.grad(total)(images)
