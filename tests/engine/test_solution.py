"""`Solution` as a value: lanes taken, joined, ranked, tabulated, shown, saved; under `jit` and `vmap`."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine.solution import Solution
from jaxopt_input.engine.target import Between, Joint, Target, expand, from_data, to_data

KEY = jax.random.key(0)


def solve(loss, model, **kw):
    kw = {"image": joi.images.pixels(), "optimizer": joi.optimizers.sgd(0.5), "steps": 4, "starts": 3, "key": KEY} | kw
    return joi.minimize(loss, model, **kw)


@pytest.fixture(scope="module")
def solution(toy):
    return solve(-joi.losses.channel("second", [1, 3]), toy, snapshots=(0, 4))


def same(a, b):
    """Whether two solutions agree to the bit, lane by lane."""
    for name in ("image", "best_image", "loss", "best_loss", "best_step", "evaluations", "start", "snapshots"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.names == b.names


def test_lanes_are_taken_in_any_order(solution):
    some = solution.take([4, 1, 3])
    np.testing.assert_array_equal(some.best_image, solution.best_image[np.array([4, 1, 3])])
    np.testing.assert_array_equal(some.snapshots, solution.snapshots[:, np.array([4, 1, 3])])
    assert some.names == ("second:3", "second:1", "second:3")
    assert some.targets == ("second:3", "second:1")
    assert some.start.tolist() == [1, 1, 0]
    same(some.take([1, 2, 0]), solution.take([1, 3, 4]))
    same(solution.take(solution.target == 1), solution.take([3, 4, 5]))


def test_parts_joined_are_the_whole(solution):
    parts = [solution.take([0, 1]), solution.take([2]), solution.take([3, 4, 5])]
    whole = Solution.concat(parts)
    same(whole, solution)
    assert whole.targets == ("second:1", "second:1", "second:3")  # what came apart stays apart
    with pytest.raises(joi.InputError, match="at least one"):
        Solution.concat([])
    with pytest.raises(joi.InputError, match="different"):
        Solution.concat([solution, solution.take([0]).then(solution.take([0]))])


def test_the_best_of_each_target_come_first(solution):
    loss = np.asarray(solution.best_loss).reshape(2, 3)
    best = solution.best(2)
    np.testing.assert_array_equal(np.asarray(best.best_loss).reshape(2, 2), np.sort(loss, 1)[:, :2])
    np.testing.assert_array_equal(np.asarray(best.start).reshape(2, 2), np.argsort(loss, 1)[:, :2])
    assert best.names == ("second:1",) * 2 + ("second:3",) * 2
    same(solution.best(99), solution.best(3))
    with pytest.raises(joi.InputError, match="at least 1"):
        solution.best(0)


def test_a_start_that_never_was_finite_comes_last(solution):
    import dataclasses

    broken = dataclasses.replace(solution, best_loss=solution.best_loss.at[solution.best(1).start[0]].set(jnp.nan))
    assert broken.best(3).start[2] == solution.best(1).start[0]


def test_keep_is_best_of_all(toy):
    loss = -joi.losses.channel("second", [1, 3])
    everything = solve(loss, toy, starts=7, on=joi.Resources(chunk=4))
    kept = solve(loss, toy, starts=7, keep=2, on=joi.Resources(chunk=4))
    same(kept, everything.best(2))
    assert len(kept) == 4
    same(solve(loss, toy, starts=7, keep=7, on=joi.Resources(chunk=4)), everything)
    alone = solve(loss, toy, keep=1)  # one round
    np.testing.assert_array_equal(alone.start, solve(loss, toy).best(1).start)


def test_a_solution_passes_through_jit(toy, solution):
    assert len(jax.tree.leaves(solution)) > 10
    same(jax.jit(lambda s: s)(solution), solution)
    best = jax.jit(lambda s: s.best(2))(solution)
    np.testing.assert_array_equal(best.best_image, solution.best(2).best_image)
    assert best.names == solution.best(2).names
    both = jax.jit(lambda s: Solution.concat([s, s]))(solution)
    assert both.loss.shape == (12, 5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_minimize_under_jit(toy, optimizer):
    """The same as outside, in rounds, with the best kept, with snapshots and a transform."""
    kw = {"optimizer": optimizer, "transform": "lucid", "starts": 5, "keep": 2, "on": joi.Resources(chunk=2)}
    kw |= {"snapshots": (2,)}
    loss = -joi.losses.class_logit([0, 3])
    inside = jax.jit(lambda key: solve(loss, toy, **{**kw, "key": key}))(KEY)
    outside = solve(loss, toy, **kw)
    np.testing.assert_allclose(inside.best_image, outside.best_image, atol=1e-5)
    np.testing.assert_allclose(inside.loss, outside.loss, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(inside.snapshots, outside.snapshots, atol=1e-5)
    assert inside.names == outside.names
    np.testing.assert_array_equal(inside.start, outside.start)


@pytest.mark.slow
def test_minimize_under_vmap_over_keys_params_and_images(toy):
    import dataclasses

    loss, keys = -joi.losses.class_logit(1), jax.random.split(KEY, 2)
    many = jax.vmap(lambda key: solve(loss, toy, key=key).best_image)(keys)
    each = jnp.stack([solve(loss, toy, key=key).best_image for key in keys])
    np.testing.assert_allclose(many, each, atol=1e-5)

    params = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), toy.params)
    many = jax.vmap(lambda p: solve(loss, dataclasses.replace(toy, params=p)).loss)(params)
    half = solve(loss, dataclasses.replace(toy, params=jax.tree.map(lambda x: 0.5 * x, toy.params))).loss
    np.testing.assert_allclose(many[1], half, rtol=1e-4, atol=1e-6)

    images = jax.random.uniform(KEY, (2, 12, 10, 3))
    many = jax.vmap(lambda image: solve(loss, toy, initial=image).loss)(images)
    np.testing.assert_allclose(many[1], solve(loss, toy, initial=images[1]).loss, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_visualize_under_jit(toy):
    kw = {"starts": 2, "steps": 2}
    texts = ["class:2", "second:1", "class:0"]
    inside = jax.jit(lambda key: joi.visualize(toy, texts, key=key, **kw))(KEY)
    outside = joi.visualize(toy, texts, key=KEY, **kw)
    np.testing.assert_allclose(inside.image, outside.image, atol=1e-5)
    assert inside.names == outside.names


def test_swept_numbers_are_told_by_lane(toy):
    weights, rates = np.array([1e-3, 1e-2]), np.array([0.1, 0.4])
    loss = -joi.losses.class_logit(1) + weights * joi.losses.total_variation()
    s = solve(loss, toy, optimizer=joi.optimizers.sgd(rates), starts=2)
    assert len(s.swept) == 2
    np.testing.assert_allclose(s.swept["optimizer.learning_rate"], np.repeat(rates, 2))
    (weight,) = (values for name, values in s.swept.items() if name.startswith("loss."))
    np.testing.assert_allclose(weight, np.repeat(weights, 2))
    assert s.names == ("class:1",) * 4
    row = s.take([2]).to_table()[0]
    assert row["optimizer.learning_rate"] == pytest.approx(0.4)
    assert solve(-joi.losses.class_logit([0, 1]), toy).swept == {}


def test_the_table_has_a_row_per_lane(solution):
    table = solution.to_table()
    assert [row["target"] for row in table] == list(solution.names)
    assert table[1]["first"] == pytest.approx(float(solution.loss[1, 0]))
    assert json.loads(json.dumps(table)) == table


@pytest.mark.parametrize("text", ["class:3", "0.5*second:1+-1*class:2", "first~second:1", "second:4@2,1", "1e-3*first"])
def test_targets_are_parsed_values(toy, text):
    (target,) = expand(text, toy)
    assert from_data(json.loads(json.dumps(to_data(target)))) == target
    assert expand(str(target), toy) == [target]


@pytest.mark.slow
def test_visualize_holds_what_was_asked_for(toy):
    s = joi.visualize(toy, ["class:2", "0.5*first:1+second:3", "class:0", "first:1~first:2"], starts=2, steps=2)
    assert [type(target) for target in s.targets] == [Target, Joint, Target, Between]
    assert s.target.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_saved_and_loaded(solution, toy, tmp_path):
    s = joi.visualize(toy, ["class:2", "first:1"], starts=2, steps=2, snapshots=(1,))
    s.save(tmp_path)
    again = Solution.load(tmp_path)
    same(again, s)
    assert again.targets == s.targets
    assert again.check_steps == s.check_steps
    assert len(list(tmp_path.glob("*.png"))) == 4
    with pytest.raises(joi.InputError, match="no solution"):
        Solution.load(tmp_path / "nowhere")


def test_shown_as_a_contact_sheet(solution):
    height, width = solution.image.shape[1:3]
    assert solution.show().size == (3 * (width + 2), 2 * (height + 2))
    text = solution._repr_html_()
    assert text.count("data:image/png;base64,") == 6
    assert "second:3" in text
    assert jax.jit(lambda s: len(s._repr_html_()))(solution) > 0  # says something of tracers as well


MEMORY = """
import resource, sys, jax, jax.numpy as jnp, numpy as np, jaxopt_input as joi
def apply(params, x, taps):
    return {"logits": x.mean((1, 2)) @ params}
model = joi.from_function(apply, jnp.eye(3), image_shape=(64, 64, 3), taps=("logits",))
def run(starts):
    return joi.minimize(-joi.losses.class_logit(1), model, image="pixels", steps=1, starts=starts, keep=3,
                        key=jax.random.key(0))
run(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
s = run(int(sys.argv[1]))
assert len(s) == 3
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_memory_does_not_grow_with_the_starts():
    """2,048 starts of 64 x 64 pixels: kept whole, three arrays of 48 KiB each would be 288 MiB, twice that joined."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "2048"], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 100  # MiB; a chunk is 32 starts


def test_a_memory_budget_counts_what_is_kept(toy):
    """A million starts fit a budget of which their images alone would take many times as much."""
    from jaxopt_input.engine.memory import estimate

    budget = estimate(toy, ("logits",), (12, 10, 3)) + (1 << 20)
    with pytest.raises(joi.InputError, match="one image at a time takes"):
        solve(-joi.losses.class_logit(1), toy, starts=10**6, on=joi.Resources(memory=budget))
    s = solve(-joi.losses.class_logit(1), toy, starts=40, keep=2, on=joi.Resources(memory=budget))
    assert len(s) == 2
