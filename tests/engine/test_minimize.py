"""`minimize`: what the contract does not already test."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_input as joi
from jaxopt_input.engine import loop

KEY = jax.random.key(0)


def solve(loss, model, **kw):
    kw = {"image": joi.images.pixels(), "optimizer": joi.optimizers.sgd(0.5), "steps": 6, "starts": 2, "key": KEY} | kw
    return joi.minimize(loss, model, **kw)


@pytest.mark.slow
def test_gradient_descent_is_what_it_says(toy):
    """The loop against a plain Python loop over `jax.grad`, one image at a time."""
    loss = -joi.losses.channel("second", 3) + 1e-2 * joi.losses.total_variation()
    s = solve(loss, toy, steps=4, snapshots=range(5))

    def value(x):
        out = toy.apply(toy.params, x[None], ("second",))
        return loss({"second": out["second"][0]}, x)

    for lane in range(2):
        x = s.snapshots[0, lane]
        for step in range(5):
            np.testing.assert_allclose(s.snapshots[step, lane], x, atol=1e-5)  # rounding over four small steps
            np.testing.assert_allclose(s.loss[lane, step], value(x), rtol=1e-4)
            x = jnp.clip(x - 0.5 * jax.grad(value)(x), 0, 1)


def test_segments_do_not_change_the_bits(toy):
    """Progress and snapshots cut the loop into pieces; the program and its results stay."""
    loss, transform = -joi.losses.class_logit(1), joi.transforms.lucid()
    plain = solve(loss, toy, transform=transform, steps=12)
    seen = []
    on = joi.Resources(progress=lambda *a: seen.append(a))
    cut = solve(loss, toy, transform=transform, steps=12, snapshots=(1, 5, 7), on=on)
    np.testing.assert_array_equal(plain.image, cut.image)
    np.testing.assert_array_equal(plain.best_image, cut.best_image)
    np.testing.assert_array_equal(plain.loss, cut.loss)
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert seen[-1][:2] == (12, 12)


def test_chunks_are_padded_and_agree_to_rounding(toy):
    loss = -joi.losses.channel("second", [0, 1, 2])
    whole = solve(loss, toy, starts=3)
    chunks = solve(loss, toy, starts=3, on=joi.Resources(chunk=4), snapshots=(6,))
    assert chunks.image.shape == whole.image.shape == (9, 12, 10, 3)
    np.testing.assert_allclose(chunks.image, whole.image, atol=1e-4)
    np.testing.assert_array_equal(chunks.snapshots[0], chunks.image)
    assert chunks.names == whole.names == ("second:0",) * 3 + ("second:1",) * 3 + ("second:2",) * 3
    np.testing.assert_array_equal(chunks.start, [0, 1, 2] * 3)
    # One chunk shape: the same bits, however many lanes there are.
    np.testing.assert_array_equal(solve(loss, toy, starts=2, on=joi.Resources(chunk=4)).image[:2], chunks.image[:2])


def test_start_k_of_8_is_start_k_of_4(toy):
    loss = -joi.losses.class_logit(1)
    np.testing.assert_allclose(
        solve(loss, toy, starts=8, steps=16).image[:4], solve(loss, toy, starts=4, steps=16).image, atol=1e-3
    )


@pytest.mark.slow
def test_same_bits_on_one_device_and_on_eight(tmp_path):
    code = """
import sys, jax, numpy as np, jaxopt_input as joi
model = joi.from_function(lambda p, x, taps: {"logits": jax.numpy.tanh(x - 0.5).mean((1, 2)) @ p},
                          np.arange(12, dtype=np.float32).reshape(3, 4) / 7, image_shape=(9, 8, 3), taps=("logits",))
s = joi.minimize(-joi.losses.class_logit([0, 3]), model, transform=joi.transforms.lucid(), steps=5, starts=5,
                 key=jax.random.key(1), on=joi.Resources(chunk=2))
np.savez(sys.argv[1], image=s.image, best=s.best_image, loss=s.loss, devices=jax.device_count())
"""
    runs = []
    for devices in (1, 8):
        out = tmp_path / f"{devices}.npz"
        env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", code, out], env=env, check=True)
        runs.append(np.load(out))
        assert runs[-1]["devices"] == devices
    for name in ("image", "best", "loss"):
        np.testing.assert_array_equal(runs[0][name], runs[1][name])


def test_no_collective_in_the_compiled_step(toy):
    text = lowered(toy, joi.losses.class_logit(0)).compile().as_text()
    assert "while" in text
    for collective in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        assert collective not in text


def lowered(model, loss):
    """The compiled step of a program, as `minimize` builds it."""
    caught = {}
    original = loop.advance

    def spy(*arguments):
        caught["lowered"] = original.lower(*arguments)
        return original(*arguments)

    loop.advance = spy
    try:
        solve(loss, model, steps=1)
    finally:
        loop.advance = original
    return caught["lowered"]


def test_flops_grow_with_depth(toy):
    flops = [lowered(toy, joi.losses.layer(tap)).compile().cost_analysis()["flops"] for tap in ("first", "second")]
    assert flops[0] < 0.5 * flops[1]


def test_best_image_is_chosen_by_the_untransformed_loss(toy):
    loss = -joi.losses.class_logit(1)
    s = solve(
        loss, toy, image=joi.images.fourier(), optimizer=joi.optimizers.adam(0.2), transform=joi.transforms.lucid(),
        steps=20, watch=joi.Watch(every=4), snapshots=range(21),
    )  # fmt: skip
    assert s.check_steps == (0, 4, 8, 12, 16, 20)
    logits = jax.vmap(lambda images: toy.apply(toy.params, images, ("logits",))["logits"][:, 1])(s.snapshots)
    clean = -np.asarray(logits)[list(s.check_steps)]
    np.testing.assert_allclose(s.best_loss, clean.min(0), rtol=1e-4)
    np.testing.assert_array_equal(s.best_step, np.array(s.check_steps)[clean.argmin(0)])
    np.testing.assert_allclose(
        s.best_image, np.asarray(s.snapshots)[np.asarray(s.best_step), np.arange(2)], atol=1e-6
    )  # fmt: skip
    assert s.evaluations.tolist() == [20 + 1 + 6] * 2


def test_without_a_transform_every_step_is_a_check(toy):
    s = solve(-joi.losses.class_logit(1), toy, optimizer=joi.optimizers.adam(0.3), steps=10, starts=3)
    np.testing.assert_array_equal(s.best_loss, s.loss.min(1))
    np.testing.assert_array_equal(s.best_step, s.loss.argmin(1))
    assert s.evaluations.tolist() == [11] * 3


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2)])
def test_projection_holds_after_every_step(toy, norm, order):
    reference = np.full(toy.info.image_shape, 0.5, np.float32)
    ball = joi.projections.ball(norm, 0.03, reference)
    s = solve(-joi.losses.class_logit(1), toy, projection=ball, steps=3, snapshots=range(4))
    distance = np.linalg.norm((np.asarray(s.snapshots) - 0.5).reshape(4, 2, -1), order, axis=-1)
    assert distance.max() <= 0.03 * (1 + 1e-5)
    assert distance[3].min() > 0.029


def test_starts_from_given_images(toy):
    images = jax.random.uniform(KEY, (4, *toy.info.image_shape))
    loss = -joi.losses.class_logit([0, 1])
    for image in (joi.images.pixels(), joi.images.fourier()):
        s = solve(loss, toy, image=image, initial=images, snapshots=(0,))
        np.testing.assert_allclose(s.snapshots[0], images, atol=1e-3)
        one = solve(loss, toy, image=image, initial=images[0], snapshots=(0,))
        np.testing.assert_allclose(one.snapshots[0], np.broadcast_to(images[0], images.shape), atol=1e-3)


def test_weights_and_learning_rates_of_one_target_each(toy):
    """Eight programs' worth of settings in one, each as if alone."""
    weights, rates = np.array([0.0, 1e-2]), np.array([0.1, 0.4])
    loss = -joi.losses.class_logit(1) + weights * joi.losses.total_variation()
    s = solve(loss, toy, optimizer=joi.optimizers.sgd(rates), starts=2)
    for n, (weight, rate) in enumerate(zip(weights, rates, strict=True)):
        alone = solve(
            -joi.losses.class_logit(1) + weight * joi.losses.total_variation(), toy, optimizer=joi.optimizers.sgd(rate)
        )
        np.testing.assert_allclose(s.image[2 * n : 2 * n + 2], alone.image, atol=1e-4)


def test_other_data_does_not_compile(toy, compilations):
    def run(channels, rate, seed, weight):
        joi.visualize(
            toy, [f"second:{c}" for c in channels], steps=3, starts=2, key=jax.random.key(seed),
            optimizer=joi.optimizers.adam(rate), regularizer=weight * joi.losses.l2_decay(),
        )  # fmt: skip

    run((1, 2), 0.1, 0, 1.0)
    with compilations() as seen:
        run((3, 5), 0.2, 1, 2.0)
    assert seen.count == 0


@pytest.mark.slow
def test_all_channels_compile_once(toy, compilations):
    joi.visualize(toy, "second:3", steps=2, on=joi.Resources(chunk=3))  # what is compiled a process, not a call
    with compilations() as seen:
        s = joi.visualize(toy, "second:*", steps=3, starts=2, on=joi.Resources(chunk=3))
    assert s.image.shape[0] == 16
    alone = joi.visualize(toy, "second:5", steps=3, starts=2, on=joi.Resources(chunk=3))
    np.testing.assert_allclose(s.image[10:12], alone.image, atol=1e-5)  # other places in the chunk: rounding
    again = compilations()
    with again as seen_again:
        joi.visualize(toy, "first:*", steps=3, starts=2, on=joi.Resources(chunk=3))
    assert seen.count <= 3 + 1  # begin, advance, collect; and one small transfer program
    assert seen_again.count <= 3


class Quadratic:
    """½ (x − m)ᵀ D (x − m) of the mean colors, by a model that returns the image."""

    scale = np.logspace(0, 2, 48).reshape(4, 4, 3).astype(np.float32)

    @classmethod
    def model(cls):
        def apply(params, image, taps):
            return {"energy": jnp.sum(0.5 * params * (image - 0.6) ** 2, (1, 2, 3))[:, None]}

        return joi.from_function(apply, cls.scale, image_shape=(4, 4, 3), taps=("energy",))


@pytest.mark.slow
def test_lbfgs_minimizes_a_quadratic_faster_than_gradient_descent():
    """Condition number 100: gradient descent at its best fixed step against L-BFGS at equal evaluations."""
    model, loss = Quadratic.model(), joi.losses.channel("energy", 0)
    lbfgs = solve(loss, model, optimizer=joi.optimizers.lbfgs(), steps=40)
    descent = solve(loss, model, optimizer=joi.optimizers.sgd(2 / 101), steps=int(lbfgs.evaluations.max()))
    assert bool((lbfgs.loss[:, -1] < 1e-3 * descent.loss[:, -1]).all())
    assert bool((jnp.diff(lbfgs.loss, axis=1) <= 0).all())  # every accepted step decreases the value
    np.testing.assert_allclose(lbfgs.image, 0.6, atol=1e-3)


@pytest.mark.slow
def test_lbfgs_counts_each_lane_for_itself(toy):
    """What a start costs does not depend on the company it is in."""
    loss = -joi.losses.class_logit(1) + 1e-2 * joi.losses.l2_decay()
    kw = {"optimizer": joi.optimizers.lbfgs(), "image": joi.images.pixels(bound="sigmoid"), "steps": 5}
    together = solve(loss, toy, starts=4, on=joi.Resources(chunk=4), **kw)
    alone = solve(loss, toy, starts=2, on=joi.Resources(chunk=4), **kw)
    np.testing.assert_array_equal(together.evaluations[:2], alone.evaluations)
    assert bool((together.evaluations >= 6).all())
    assert bool((jnp.diff(together.loss, axis=1) <= 0).all())


@pytest.mark.slow
def test_lbfgs_with_a_random_transform_keeps_one_view_within_a_step(toy):
    s = solve(
        -joi.losses.class_logit(1), toy, optimizer=joi.optimizers.lbfgs(), image=joi.images.fourier(),
        transform=joi.transforms.lucid(), steps=8,
    )  # fmt: skip
    assert bool((s.best_loss < s.loss[:, 0]).all())
    assert bool((s.evaluations >= 2 * 8 + 1).all())  # a step's own value, at least one trial, the last value


def test_a_budget_of_evaluations_ends_a_line_search(toy):
    loss = -joi.losses.class_logit(1) + 1e-2 * joi.losses.l2_decay()
    kw = {"optimizer": joi.optimizers.lbfgs(), "image": joi.images.pixels(bound="sigmoid"), "steps": 30, "starts": 3}
    free = solve(loss, toy, **kw)
    bound = solve(loss, toy, **{**kw, "optimizer": joi.optimizers.lbfgs(max_evaluations=12)})
    assert bool((bound.evaluations == 12).all())
    shared = 5  # steps that both had taken
    np.testing.assert_array_equal(free.loss[:, :shared], bound.loss[:, :shared])
    assert bool((jnp.diff(bound.loss, axis=1) <= 0).all())
    with pytest.raises(joi.InputError, match="max_evaluations must be at least 1"):
        joi.optimizers.lbfgs(max_evaluations=0)


@pytest.mark.slow
def test_lbfgs_begins_anew_where_its_direction_leads_nowhere():
    """Below an energy of 10 the gradient points uphill: nothing that L-BFGS knows, and nothing downhill, helps."""

    def apply(params, image, taps):
        energy = jnp.sum(0.5 * params * (image - 0.6) ** 2, (1, 2, 3))[:, None]
        shown = jnp.where(energy > 10, energy, -energy)  # its gradient
        return {"energy": jax.lax.stop_gradient(energy - shown) + shown}

    model = joi.from_function(apply, Quadratic.scale, image_shape=(4, 4, 3), taps=("energy",))
    start = np.ones((4, 4, 3), np.float32)
    kw = {"optimizer": joi.optimizers.lbfgs(), "steps": 20, "initial": start, "starts": 1}
    s = solve(joi.losses.channel("energy", 0), model, **kw)
    assert int(s.restarts[0]) == 1
    assert float(s.loss[0, 0]) > 10 > float(s.loss[0, -1])
    assert bool((jnp.diff(s.loss, axis=1) <= 0).all())
    assert int(s.evaluations[0]) < 20 + 2 * loop.MAX_TRIALS  # once it has settled it evaluates no more
    assert bool(s.finite.all())
    smooth = solve(joi.losses.channel("energy", 0), Quadratic.model(), optimizer=joi.optimizers.lbfgs(), steps=10)
    assert not smooth.restarts.any()


def test_a_search_that_meets_nothing_lower_settles():
    """Each trial goes uphill: it ends after `MAX_TRIALS`, the image stays, and no evaluation follows."""

    def apply(params, image, taps):
        logits = image.mean((1, 2))
        return {"logits": jax.lax.stop_gradient(2 * logits) - logits}  # the negative of its gradient

    model = joi.from_function(apply, 0.0, image_shape=(6, 6, 3), taps=("logits",))
    start = np.full((6, 6, 3), 0.5, np.float32)
    kw = {"optimizer": joi.optimizers.lbfgs(), "steps": 4, "initial": start, "starts": 1}
    s = solve(joi.losses.class_logit(0), model, **kw)
    assert s.evaluations.tolist() == [1 + loop.MAX_TRIALS]
    assert s.restarts.tolist() == [0]
    np.testing.assert_array_equal(s.image[0], start)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [None, "lucid"])
@pytest.mark.parametrize("optimizer", [joi.optimizers.adam(0.02), joi.optimizers.lbfgs()])
def test_a_solution_goes_on_where_it_stopped(toy, transform, optimizer):
    """Five steps and three more are eight: the same views, the same state of the optimizer."""
    kw = {"optimizer": optimizer, "transform": transform, "watch": joi.Watch(every=1)}
    loss = -joi.losses.channel("second", [1, 3])
    whole = solve(loss, toy, steps=8, snapshots=(7,), **kw)
    first = solve(loss, toy, steps=5, **kw)
    rest = solve(loss, toy, steps=3, initial=first, snapshots=(7,), **kw)
    np.testing.assert_allclose(rest.image, whole.image, atol=1e-6)
    np.testing.assert_allclose(rest.snapshots, whole.snapshots, atol=1e-6)
    np.testing.assert_allclose(rest.loss, whole.loss[:, 5:], rtol=1e-5)
    assert rest.check_steps == (5, 6, 7, 8)
    both = first.then(rest)
    np.testing.assert_allclose(both.loss, whole.loss, rtol=1e-5)
    np.testing.assert_array_equal(both.best_step, whole.best_step)
    np.testing.assert_allclose(both.best_image, whole.best_image, atol=1e-6)
    assert both.check_steps == whole.check_steps


def test_a_solution_that_cannot_go_on_is_refused(toy):
    loss = -joi.losses.channel("second", [1, 3])
    first = solve(loss, toy)
    with pytest.raises(joi.InputError, match="of 4 lanes, not of 2"):
        solve(-joi.losses.channel("second", 1), toy, initial=first)
    with pytest.raises(joi.InputError, match="another parameterization"):
        solve(loss, toy, initial=first, image="fourier")
    with pytest.raises(joi.InputError, match="holds no optimizer's state"):
        solve(loss, toy, initial=solve(loss, toy, on=joi.Resources(chunk=1)))
    with pytest.raises(joi.InputError, match="steps from 6 to 12"):
        solve(loss, toy, initial=first, snapshots=(3,))


@pytest.mark.slow
def test_the_average_is_that_of_the_iterates(toy):
    loss, adam = -joi.losses.channel("second", 3), joi.optimizers.adam(0.02)
    s = solve(loss, toy, optimizer=joi.optimizers.averaged(adam, 0.7), steps=5, snapshots=range(6))
    weights = 0.7 ** np.arange(4, -1, -1)
    expected = np.tensordot(weights / weights.sum(), np.asarray(s.snapshots[1:]), 1)
    np.testing.assert_allclose(s.average_image, expected, atol=1e-6)
    np.testing.assert_array_equal(s.image, solve(loss, toy, optimizer=adam, steps=5).image)
    assert solve(loss, toy).average_image is None
    with pytest.raises(joi.InputError, match="from 0 to below 1"):
        joi.optimizers.averaged(adam, 1.0)
    with pytest.raises(joi.InputError, match="lbfgs goes down at each step"):
        joi.optimizers.averaged(joi.optimizers.lbfgs())


@pytest.mark.slow
def test_optax_line_search_is_counted():
    model, loss = Quadratic.model(), joi.losses.channel("energy", 0)
    s = solve(loss, model, optimizer=optax.lbfgs(), steps=10, image=joi.images.pixels(bound="sigmoid"))
    assert bool((s.evaluations > 11).all())
    assert bool((s.loss[:, -1] < 1e-2 * s.loss[:, 0]).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", joi.optimizers.NAMES)
def test_every_optimizer_by_name_descends(linear, name):
    s = solve(
        -joi.losses.class_logit(2),
        linear,
        image=joi.images.fourier(),
        optimizer=joi.optimizers.optimizer(name),
        steps=30,
    )
    assert bool((s.loss[:, -1] < s.loss[:, 0] - 2e-3).all())


def test_bfloat16_activations(toy):
    """Rounding to 3 digits leads single starts elsewhere; the mean of eight ends within 2 %, over six seeds."""
    loss = -joi.losses.class_logit(1)
    full, half = (
        solve(loss, toy, steps=16, starts=8, on=joi.Resources(dtype=dtype)) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert half.image.dtype == half.loss.dtype == jnp.float32
    np.testing.assert_allclose(half.loss[:, -1].mean(), full.loss[:, -1].mean(), rtol=0.05)
    assert bool((half.loss != full.loss).any())


@pytest.mark.parametrize(("steps", "every"), [(5, 1), (47, 2), (48, 3)])
def test_sixteen_parts_are_checked_unless_asked_for(linear, steps, every):
    s = solve(joi.losses.class_logit(1), linear, transform="jitter", steps=steps, starts=1)
    assert s.check_steps == (*range(0, steps, every), steps)
    assert s.evaluations.tolist() == [steps + 1 + len(s.check_steps)]


def still(loss, model, **kw):
    """A run whose image does not move."""
    kw = {"image": joi.images.pixels(sd=0.1), "optimizer": joi.optimizers.sgd(1e-12), "starts": 1, "steps": 1} | kw
    return solve(loss, model, **kw)


def test_noise_derives_from_the_name_of_the_target(linear):
    both = still(joi.losses.class_logit([1, 2]), linear, snapshots=(0,)).snapshots[0]
    alone = still(joi.losses.class_logit([2]), linear, snapshots=(0,)).snapshots[0]
    assert float(jnp.abs(both[0] - both[1]).max()) > 0.1  # independent noise of 0.1: differences of up to 0.5 or so
    np.testing.assert_array_equal(both[1], alone[0])


def test_of_equal_iterates_the_first_is_kept(linear):
    s = solve(0.0 * joi.losses.class_logit(1), linear, steps=3, snapshots=(0,), optimizer=joi.optimizers.adam(0.1))
    assert s.best_step.tolist() == [0, 0]
    np.testing.assert_array_equal(s.best_image, s.snapshots[0])


def test_a_gradient_that_is_not_finite_ends_a_start():
    """The slope of a root is infinite at 0, its value is not."""
    model = joi.from_function(
        lambda p, x, taps: {"logits": jnp.sqrt(jnp.abs(x - 0.5)).mean((1, 2)) @ p}, jnp.eye(3), image_shape=(4, 4, 3),
        taps=("logits",),
    )  # fmt: skip
    initial = np.stack([np.full((4, 4, 3), level, np.float32) for level in (0.5, 0.25)])
    s = solve(joi.losses.class_logit(1), model, steps=2, optimizer=joi.optimizers.sgd(0.1), initial=initial)
    assert np.isfinite(s.loss).all()
    assert s.finite.tolist() == [False, True]
    np.testing.assert_array_equal(s.image[0], initial[0])


def test_a_start_that_fails_does_not_spoil_the_others():
    def apply(params, image, taps):
        mean = image.mean((1, 2, 3))
        return {"logits": jnp.log(0.502 - mean)[:, None] * params}

    model = joi.from_function(apply, jnp.ones((1, 1)), image_shape=(4, 4, 3), taps=("logits",), labels=("cliff",))
    initial = np.stack([np.full((4, 4, 3), level, np.float32) for level in (0.5, 0.1, 0.9)])
    s = solve(joi.losses.class_logit(0), model, optimizer=joi.optimizers.sgd(0.02), starts=3, steps=8, initial=initial)
    assert s.finite.tolist() == [False, True, False]
    assert bool(jnp.isfinite(s.best_image).all())
    assert bool(jnp.isfinite(s.image).all())
    assert not s.dead[1]


@pytest.mark.parametrize(
    ("kw", "hint"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"starts": 0}, "starts"),
        ({"keep": 0}, "keep"),
        ({"on": 32}, "Resources"),
        ({"watch": 8}, "Watch"),
        ({"snapshots": (7,)}, "snapshots"),
        ({"optimizer": "adamm"}, "nearest: adam"),
        ({"image": "fourie"}, "nearest: fourier"),
        ({"transform": "lucit"}, "nearest: lucid"),
        ({"projection": 7}, "projection"),
        ({"snapshots": [0.5]}, "snapshot"),
        ({"snapshots": 3}, "snapshots"),
        ({"initial": [[0.5], [0.5, 0.5]]}, "initial"),
        ({"key": 3}, "key"),
        ({"key": jax.random.split(KEY)}, "single key"),
        ({"initial": np.zeros((3, 3, 3))}, "initial"),
        ({"initial": np.zeros((12, 10, 3), np.uint8)}, "255"),
        ({"image": joi.images.pixels((12, 10, 1))}, "colors"),
        ({"image": joi.images.pixels((12, 10, 1)), "loss": joi.losses.layer("first")}, "colors"),
        ({"optimizer": joi.optimizers.adam([0.1, 0.2, 0.3]), "loss": joi.losses.class_logit([0, 1])}, r"\[2, 3\]"),
        ({"loss": 7}, "jaxopt_input.losses"),
        ({"loss": lambda acts, image: image}, r"shape \(12, 10, 3\)"),
        ({"loss": joi.losses.channel("secnd", 0)}, "nearest: second"),
        ({"loss": joi.losses.class_logit([0, 5])}, "class 5"),
    ],
)
def test_mistakes_are_named_before_compiling(toy, compilations, kw, hint):
    """Also where a type is wrong: nothing fails later inside JAX."""
    loss = kw.get("loss", joi.losses.class_logit(0))
    with compilations() as seen, pytest.raises(joi.InputError, match=hint):
        solve(loss, toy, **{k: v for k, v in kw.items() if k != "loss"})
    assert seen.count == 0
