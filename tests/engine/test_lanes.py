"""Lanes: layouts, rounds, keys, rows and the best of each cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine import lanes
from jaxopt_input.engine.lanes import Best, Layout, Resources, ahead, layout, on_each_device

ONE = tuple(jax.local_devices()[:1])
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk": 0},
        {"chunk": 2.5},
        {"memory": "much"},
        {"memory": 0},
        {"dtype": "float16"},
        {"dtype": "nonsense"},
        {"devices": []},
        {"devices": "cpu"},
        {"progress": 3},
    ],
)
def test_resources_are_checked(wrong):
    with pytest.raises(joi.InputError):
        Resources(**wrong)


def test_resources_are_values():
    assert Resources(memory="1KiB") == Resources(memory=1024)
    assert hash(Resources(dtype=jnp.bfloat16)) == hash(Resources(dtype="bfloat16"))
    assert lanes.resources(None) == Resources()
    with pytest.raises(joi.InputError, match="Resources"):
        lanes.resources(32)


def test_the_progress_of_a_share_is_that_of_the_whole():
    told = []
    share = Resources(progress=lambda *numbers: told.append(numbers)).share(20, 30, 60)
    share.progress(0, 10, 0.5)
    share.progress(10, 10, 0.25)
    assert told == [(20, 60, 0.5), (50, 60, 0.25)]
    assert Resources().share(20, 30, 60) == Resources().part(1, 2) == Resources()


@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 100])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (2, 3, 7)])
def test_rounds_cover_each_lane_once_in_one_shape(grid, chunk):
    plan = layout(grid, Resources(devices=ONE, chunk=chunk), most=8)
    assert plan.chunk <= plan.total
    assert len({r.lanes.shape for r in plan.rounds}) == 1
    real = np.concatenate([r.lanes[: r.real] for r in plan.rounds])
    np.testing.assert_array_equal(real, np.arange(np.prod(grid)))
    places = plan.places(real)
    np.testing.assert_array_equal(np.ravel_multi_index(places, grid), real)


@pytest.mark.parametrize("total", [1, 7, 8, 9, 17, 100])
def test_rounds_are_in_equal_parts(total):
    """As few rounds as fit, and in all fewer lanes of padding than there are rounds."""
    plan = layout((total,), Resources(devices=ONE), most=8)
    assert len(plan.rounds) == -(-total // 8)
    assert sum(len(r.lanes) - r.real for r in plan.rounds) < len(plan.rounds)


def test_groups_stay_together():
    assert layout((5, 6), Resources(devices=ONE), group=6, most=8).chunk % 6 == 0
    assert layout((5, 6), Resources(devices=ONE, chunk=600), group=6).chunk == 30
    with pytest.raises(joi.InputError, match="raise chunk from 4 to 6"):
        layout((5, 6), Resources(devices=ONE, chunk=4), group=6)


def test_a_round_runs_on_its_devices():
    plan = Layout((4,), 4, ONE)
    double = jax.jit(on_each_device(lambda factor, x: {"y": factor * x}, plan.mesh, shared=1))
    factor, x = plan.share(jnp.float32(2)), plan.spread(jnp.arange(4.0))
    np.testing.assert_array_equal(double(factor, x)["y"], [0, 2, 4, 6])
    # Tracers are left alone: the same under a transformation.
    inside = jax.jit(lambda f: double(plan.share(f), plan.spread(x))["y"])(jnp.float32(3))
    np.testing.assert_array_equal(inside, [0, 3, 6, 9])


def test_keys_depend_on_identity_and_number_alone():
    ids, numbers = jnp.array([7, 7, 9], jnp.uint32), jnp.array([0, 1, 0], jnp.uint32)
    out = lanes.keys(KEY, ids, numbers)
    expected = jax.random.fold_in(jax.random.fold_in(KEY, 9), 0)
    assert (jax.random.key_data(out[2]) == jax.random.key_data(expected)).all()
    assert len(np.unique(jax.random.key_data(out), axis=0)) == 3


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_success_is_ahead_of_any_merit_and_nan_behind_all(xp):
    new = xp.array([True, False, True, True, False, True]), xp.array([-1e9, 1e9, 2.0, 2.0, 0.0, np.nan])
    old = xp.array([False, True, True, True, False, True]), xp.array([1e9, -1e9, 1.0, 2.0, np.nan, 0.0])
    np.testing.assert_array_equal(ahead(*new, *old), [True, False, True, False, True, False])


def test_the_best_of_many_are_those_of_a_sort():
    k, cells = 3, 4
    rng = np.random.default_rng(0)
    cell, merit = rng.integers(0, cells, 200), rng.integers(0, 20, 200).astype(float)
    success = rng.random(200) < 0.1
    merit[rng.random(200) < 0.1] = np.nan
    best = Best(cells, k)
    for begin in range(0, 200, 7):
        part = np.arange(begin, min(begin + 7, 200))
        best.add(cell[part], part, success[part], merit[part], {"row": part, "pair": np.stack([part, -part], 1)})
    order = sorted(range(200), key=lambda n: (~success[n] + 2, -np.nan_to_num(merit[n], nan=-np.inf), n))
    expected = [n for c in range(cells) for n in [n for n in order if cell[n] == c][:k]]
    assert best.lanes().tolist() == expected
    assert best.rows()["row"].tolist() == expected
    np.testing.assert_array_equal(best.rows()["pair"][:, 1], -best.lanes())


def test_fewer_lanes_than_places_are_all_kept():
    best = Best(2, 3)
    best.add([1], [5], np.array([False]), np.array([np.nan]), {"x": np.array([2.5])})
    assert best.lanes().tolist() == [5]
    assert best.rows()["x"].tolist() == [2.5]


def test_chunks_are_received_as_they_leave_the_devices(toy):
    parts = []
    on = joi.Resources(chunk=2, devices=jax.local_devices()[:1], receive=parts.append)
    options = {"steps": 2, "starts": 1, "key": jax.random.key(0), "snapshots": (0, 2)}
    solution = joi.minimize(-joi.losses.channel("second", jnp.arange(5)), toy, on=on, **options)
    assert [part.names for part in parts] == [solution.names[:2], solution.names[2:4], solution.names[4:]]
    for name in ("best_image", "loss", "start"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(solution, name))
    np.testing.assert_array_equal(np.concatenate([part.snapshots for part in parts], 1), solution.snapshots)
    parts.clear()
    joi.minimize(-joi.losses.channel("second", jnp.arange(5)), toy, on=joi.Resources(receive=parts.append), **options)
    assert not parts  # all lanes at once: what is returned is all there is
    with pytest.raises(joi.InputError, match="receive is a function"):
        joi.Resources(receive=3)
