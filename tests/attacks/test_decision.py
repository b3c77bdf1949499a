"""Attacks that see the predicted class alone, and EAD: against the distance to a hyperplane in closed form."""

import jax
import numpy as np
import pytest

from jaxopt_input import attacks

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "norm", "factor", "arguments"),
    [
        (attacks.hop_skip_jump, "l2", 1.1, {"steps": 15, "directions": 60}),
        (attacks.boundary, "l2", 1.5, {"steps": 1500}),
        (attacks.ead, "l1", 2.0, {"c": 1.0}),
    ],
)
def test_nearest(halfspace, attack, norm, factor, arguments):
    problem = halfspace((4, 5, 3), 3)
    found = attack(KEY, problem.model, problem.images, problem.labels, **arguments)
    assert found.success.all()
    ratio = found.distance[norm] / problem.optimum[norm]
    assert (ratio >= 1 - 1e-3).all(), ratio
    assert (ratio <= factor).all(), ratio
    if attack is not attacks.ead:
        assert (found.gradients == 0).all()
        assert (found.forwards > 100).all()


@pytest.mark.slow
def test_without_a_start_the_original_comes_back(halfspace):
    problem = halfspace((4, 5, 3), 3)
    found = attacks.hop_skip_jump(
        KEY, problem.model, problem.images, problem.labels, steps=1, criterion=lambda z, label, target: z[0] != z[0]
    )
    assert not found.success.any()
    np.testing.assert_array_equal(found.image, problem.images)
