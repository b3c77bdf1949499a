"""Projections: inside stays, outside goes to the nearest point, radii are traced and may differ by target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import projections, targets

REFERENCE = np.full((4, 4, 3), 0.5, np.float32)
FAR = REFERENCE + np.random.default_rng(0).normal(size=REFERENCE.shape).astype(np.float32)
NORM = {"linf": lambda d: np.abs(d).max(), "l2": lambda d: np.sqrt((d**2).sum()), "l1": lambda d: np.abs(d).sum()}


@pytest.mark.parametrize("norm", NORM)
def test_ball(norm):
    project = projections.ball(norm, 0.25, REFERENCE)
    there = np.asarray(project(FAR))
    assert NORM[norm](there - REFERENCE) == pytest.approx(0.25, rel=1e-4)
    np.testing.assert_allclose(project(there), there, atol=1e-6)
    near = REFERENCE + (FAR - REFERENCE) * 1e-4
    np.testing.assert_allclose(project(near), near, atol=1e-7)
    # The nearest point: no point of the ball lies closer (variational inequality, on random points of the ball).
    rng = np.random.default_rng(1)
    for _ in range(50):
        d = rng.normal(size=FAR.shape)
        other = REFERENCE + 0.25 * d / NORM[norm](d)
        assert np.vdot(FAR - there, other - there) <= 1e-4


def test_sphere_and_box():
    there = projections.sphere(2.0)(FAR)
    assert float(jnp.linalg.norm(there - 0.5)) == pytest.approx(2, rel=1e-5)
    np.testing.assert_array_equal(projections.box(0.2, 0.6)(FAR), np.clip(FAR, np.float32(0.2), np.float32(0.6)))
    assert bool(jnp.isfinite(projections.sphere(1.0)(REFERENCE)).all())  # the center has no nearest point: it stays


def test_pixel_ball():
    """Half of the pixels are inside, and stay."""
    before = np.linalg.norm(FAR - 0.5, axis=-1)
    radius = float(np.median(before))
    there = np.asarray(projections.pixel_ball(radius)(FAR))
    after = np.linalg.norm(there - 0.5, axis=-1)
    np.testing.assert_allclose(after, np.minimum(before, radius), rtol=1e-5)
    inside = before < radius - 1e-3
    assert 4 <= inside.sum() <= 12  # of 16 pixels
    np.testing.assert_allclose(there[inside], FAR[inside], rtol=1e-6)  # 0.5 is taken away and added again
    assert bool(jnp.isfinite(projections.pixel_ball(0.0)(REFERENCE)).all())


def test_one_radius_a_target_without_recompiling():
    run = jax.jit(lambda p: targets.vmap_lanes(lambda one, x: one(x), p, jnp.array([0, 0, 1]))(jnp.stack([FAR] * 3)))
    there = run(projections.ball("linf", [0.1, 0.2], REFERENCE))
    np.testing.assert_allclose(np.abs(there - REFERENCE).max((1, 2, 3)), [0.1, 0.1, 0.2], rtol=1e-5)
    run(projections.ball("linf", [0.3, 0.4], FAR))
    assert run._cache_size() == 1


def test_a_function_is_a_projection():
    def halved(theta):
        return jax.tree.map(lambda x: 0.5 * x, theta)

    np.testing.assert_array_equal(projections.as_projection(halved)(FAR), 0.5 * FAR)
    assert projections.as_projection(None) is None
    box = projections.box()
    assert projections.as_projection(box) is box
    kinds = [projections.as_projection(f) for f in (halved, jnp.abs)]
    assert jax.tree.structure(kinds[0]) != jax.tree.structure(kinds[1])
    assert targets.count(kinds[0]) == 1


class Own(projections.Projection):
    """Derived without `traced`: static, as a function is."""

    def __call__(self, theta):
        return jnp.abs(theta)


@targets.traced
class AtLeast(projections.Projection):
    least: jax.Array = targets.leaf(rank=0)

    def __call__(self, theta):
        return jnp.maximum(theta, self.least)


def test_projections_of_ones_own(linear):
    theta = projections.as_projection(Own())(jnp.array([-1.0]))
    assert theta.tolist() == [1.0]
    s = joi.minimize(
        joi.losses.class_logit(0),
        linear,
        image="pixels",
        optimizer="sgd",
        projection=AtLeast(np.array([0.2, 0.4], np.float32)),
        steps=20,
        key=jax.random.key(0),
    )
    np.testing.assert_allclose(s.image[..., 0].min((1, 2)), [0.2, 0.4], rtol=1e-6)


def test_a_projection_leaves_the_shape(linear):
    with pytest.raises(joi.InputError, match=r"\(6, 6, 3\), not \(\)"):
        joi.minimize(
            joi.losses.class_logit(0),
            linear,
            image="pixels",
            projection=lambda theta: theta.mean(),
            steps=1,
            key=jax.random.key(0),
        )


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: projections.ball("l3", 1.0, REFERENCE),
        lambda: projections.ball("l2", -1.0, REFERENCE),
        lambda: projections.ball("l2", 1.0, 0.5),
        lambda: projections.box(1.0, 0.0),
        lambda: projections.sphere(-1.0),
        lambda: projections.pixel_ball(-1.0),
        lambda: projections.as_projection(7),
        lambda: projections.as_projection("box"),
        lambda: projections.as_projection(projections.Box),
        lambda: projections.as_projection(lambda key, theta: theta),
    ],
)
def test_mistakes(mistake):
    with pytest.raises(joi.InputError):
        mistake()
