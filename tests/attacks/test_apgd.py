"""APGD against a transcription of the authors' loop, from the same start: losses and step sizes for twenty steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input import attacks, losses
from jaxopt_input.attacks.apgd import _with_momentum, checkpoints
from jaxopt_input.attacks.problem import Lanes, Problem

KEY = jax.random.key(0)
STEPS = 20


def reference(gradient, x0, start, epsilon, norm):
    """`autopgd_base.APGDAttack.attack_single_run` of AutoAttack, for one image, transcribed."""

    def length(d):
        return np.sqrt((d**2).sum())

    def unit(d):
        return d / (length(d) + 1e-12)

    x = start.copy()
    value, grad = gradient(x)
    best, best_grad, best_loss = x.copy(), grad.copy(), value
    step = 2 * epsilon
    x_old = x.copy()
    k, least, less = max(int(0.22 * STEPS), 1), max(int(0.06 * STEPS), 1), max(int(0.03 * STEPS), 1)
    counter, last_check, reduced = 0, best_loss, True
    steps_loss, seen, sizes = np.zeros(STEPS), [value], [step]
    for i in range(STEPS):
        grad2, x_old = x - x_old, x.copy()
        a = 0.75 if i > 0 else 1.0
        if norm == "linf":

            def into(y):
                return np.clip(np.clip(y, x0 - epsilon, x0 + epsilon), 0, 1)

            one = into(x + step * np.sign(grad))
        else:

            def into(y):
                return np.clip(x0 + unit(y - x0) * min(epsilon, length(y - x0)), 0, 1)

            one = into(x + step * unit(grad))
        x = into(x + (one - x) * a + grad2 * (1 - a))
        value, grad = gradient(x)
        steps_loss[i] = value
        if value > best_loss:
            best, best_grad, best_loss = x.copy(), grad.copy(), value
        counter += 1
        if counter == k:
            rises = sum(steps_loss[i - c] > steps_loss[i - c - 1] for c in range(k))
            oscillates = rises <= k * 0.75 or (not reduced and last_check >= best_loss)
            reduced, last_check = oscillates, best_loss
            if oscillates:
                step /= 2
                x, grad = best.copy(), best_grad.copy()
            k, counter = max(k - less, least), 0
        seen.append(value)
        sizes.append(step)
    return np.array(seen), np.array(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon", "loss"), [("linf", 0.004, "dlr"), ("l2", 2.0, "cross_entropy")])
def test_follows_the_authors_loop(toy, toy_batch, norm, epsilon, loss):
    images, labels = toy_batch
    start = np.clip(images + np.random.default_rng(0).choice([-1, 1], images.shape) * 0.002, 0, 1).astype(np.float32)
    found = attacks.apgd(
        KEY, toy, images, labels, epsilon=epsilon, norm=norm, loss=loss, steps=STEPS, start=start, stop=False
    )
    build = {"dlr": losses.dlr, "cross_entropy": losses.cross_entropy}[loss]

    @jax.jit
    def value_and_gradient(x, label):
        def value(x):
            z = toy.apply(toy.params, x[None], ("logits",))["logits"][0]
            return build(label)({"logits": z}, x)

        return jax.value_and_grad(value)(x)

    halved = 0
    for n in range(3):

        def gradient(x, n=n):
            value, slope = value_and_gradient(jnp.asarray(x, jnp.float32), labels[n])
            return float(value), np.asarray(slope, np.float64)

        seen, sizes = reference(gradient, images[n].astype(np.float64), start[n].astype(np.float64), epsilon, norm)
        np.testing.assert_allclose(found.history["loss"][n], seen, rtol=1e-3, atol=1e-4)
        # Where the loss has come to rest, float32's rounding decides whether a step raised it.
        moving = np.cumprod(np.abs(np.diff(seen)) > 1e-6 * np.abs(seen[1:])).sum() + 1
        np.testing.assert_allclose(found.history["step_size"][n][:moving], sizes[:moving], rtol=1e-6)
        halved += sizes[moving - 1] < sizes[0]
    assert halved
    assert (found.gradients == STEPS + 1).all()


class Scripted(Problem):
    """A problem whose losses are a list, whatever the images are; its gradients are noise."""

    def gradient(self, images, objective=None, draw=0):
        slope = jax.random.normal(jax.random.fold_in(KEY, draw), images.shape)
        return self.losses[:, draw], slope, jnp.zeros((len(images), 2))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_halves_where_the_authors_loop_does(norm):
    """Losses of all kinds: also some that rise at each step without coming near the best, which halve every other time.

    A script decides, and not rounding, whether a step raised the loss: sizes agree in all of them.
    """
    rng, n = np.random.default_rng(0), 40
    steps = rng.normal(size=(n, STEPS + 1)) + rng.uniform(-0.5, 2, (n, 1))
    script = np.cumsum(steps, 1)
    script[: n // 2, 0] += rng.uniform(0, 20, n // 2)  # a good start that later steps do not reach
    script = script.astype(np.float32)
    clean = rng.uniform(0.2, 0.8, (n, 2, 2, 1)).astype(np.float32)
    start = clean + rng.uniform(-0.05, 0.05, clean.shape).astype(np.float32)
    none = jnp.zeros(n, jnp.int32)
    rows = Lanes(clean, none, none, jnp.full(n, 0.1), jax.random.split(KEY, n), jnp.zeros((n, 2)), none, start)
    problem = Scripted(rows, None, lambda logits, label, target: False, False, False, norm=norm, stop=False)
    object.__setattr__(problem, "losses", jnp.asarray(script))
    found = jax.jit(lambda: _with_momentum(problem, STEPS))()
    slopes = np.asarray(jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(KEY, i), clean.shape))(np.arange(21)))
    second = 0
    for lane in range(n):
        calls = iter(range(STEPS + 1))

        def gradient(x, lane=lane, calls=calls):
            i = next(calls)
            return float(script[lane, i]), slopes[i, lane].astype(np.float64)

        seen, sizes = reference(gradient, clean[lane].astype(np.float64), start[lane].astype(np.float64), 0.1, norm)
        np.testing.assert_array_equal(found.history["loss"][lane], seen.astype(np.float32))
        np.testing.assert_allclose(found.history["step_size"][lane], sizes, rtol=1e-6)
        second += sizes[7] < sizes[6] and (np.diff(script[lane])[4:7] > 0).all()
    assert second  # at the checkpoint after step 7, three rises in three steps: the second condition alone


def test_checkpoints():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


# In L1 the optimum is one number, but the authors' rounding of 2 / 1.5 leaves steps at two.
@pytest.mark.slow
@pytest.mark.parametrize(("norm", "enough", "steps"), [("linf", 1.03, 10), ("l2", 1.03, 10), ("l1", 1.35, 40)])
def test_budget(halfspace, norm, enough, steps):
    problem = halfspace((4, 5, 3))
    epsilon = np.array([0.97, enough])[:, None] * problem.optimum[norm]
    found = attacks.apgd(KEY, problem.model, problem.images, problem.labels, epsilon=epsilon, norm=norm, steps=steps)
    assert not found.success[0].any()
    assert found.success[1].all()
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    size = np.linalg.norm((found.image - problem.images).reshape(2, 8, -1), order, -1)
    assert (size <= epsilon + 1e-6).all()


def into_ball_and_box(y, x0, epsilon):
    """The projection from its breakpoints, sorted: the sum of the changes is linear in the cut between them."""
    u = (y - x0).ravel()
    size, room = np.abs(u), np.where(u > 0, 1 - x0.ravel(), x0.ravel())

    def kept(cut):
        return np.minimum(np.maximum(size - cut, 0), room)

    if kept(0.0).sum() <= epsilon:
        return x0 + (np.sign(u) * kept(0.0)).reshape(x0.shape)
    cuts = np.unique(np.concatenate([[0.0], size, np.maximum(size - room, 0)]))
    sums = np.array([kept(cut).sum() for cut in cuts])  # falls with the cut
    cut = np.interp(-epsilon, -sums, cuts)
    return x0 + (np.sign(u) * kept(cut)).reshape(x0.shape)


def sparse_reference(gradient, x0, start, epsilon):
    """The L1 branch of the same loop, transcribed; a start of one's own is in the ball."""
    n = x0.size

    def count(d):
        return (d != 0).sum()

    x = start.copy()
    value, grad = gradient(x)
    best, best_grad, best_loss = x.copy(), grad.copy(), value
    step, k, counter = epsilon, max(int(0.04 * STEPS), 1), 0
    share, before = count(x - x0) / n / 1.5, count(x - x0)
    seen, sizes = [value], [step]
    for _ in range(STEPS):
        ordered = np.sort(np.abs(grad).ravel())
        least = ordered[min(max(int((1 - np.float32(share)) * n), 0), n - 1)]
        way = np.sign(grad * (np.abs(grad) >= least))
        x = into_ball_and_box(x + step * way / (np.abs(way).sum() + 1e-10), x0, epsilon)
        value, grad = gradient(x)
        if value > best_loss:
            best, best_grad, best_loss = x.copy(), grad.copy(), value
        counter += 1
        if counter == k:
            now = count(best - x0)
            fewer = now / before < 0.95
            share, before = now / n / 1.5, now
            step = epsilon if fewer else min(max(step / 1.5, epsilon / 10), epsilon)
            if fewer:
                x, grad = best.copy(), best_grad.copy()
            counter = 0
        seen.append(value)
        sizes.append(step)
    return np.array(seen), np.array(sizes)


def test_l1_follows_the_authors_loop(toy, toy_batch):
    images, labels = toy_batch
    epsilon = 6.0
    noise = np.random.default_rng(0).normal(size=images.shape)
    start = np.stack(
        [into_ball_and_box(x + d, x, epsilon) for x, d in zip(images.astype(np.float64), noise, strict=True)]
    )
    found = attacks.apgd(
        KEY, toy, images, labels, epsilon=epsilon, norm="l1", steps=STEPS, start=start.astype(np.float32), stop=False
    )

    @jax.jit
    def value_and_gradient(x, label):
        def value(x):
            z = toy.apply(toy.params, x[None], ("logits",))["logits"][0]
            return losses.cross_entropy(label)({"logits": z}, x)

        return jax.value_and_grad(value)(x)

    lengthened = False
    for n in range(3):

        def gradient(x, n=n):
            value, slope = value_and_gradient(jnp.asarray(x, jnp.float32), labels[n])
            return float(value), np.asarray(slope, np.float64)

        seen, sizes = sparse_reference(gradient, images[n].astype(np.float64), start[n], epsilon)
        # Float32 against float64 in the projection alone; a number at the threshold more or less moves 1/n of a step.
        np.testing.assert_allclose(found.history["loss"][n], seen, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.history["step_size"][n], sizes, rtol=1e-6)
        lengthened |= bool((np.diff(sizes) > 0).any())
    assert lengthened
    assert seen[-1] > seen[0]
