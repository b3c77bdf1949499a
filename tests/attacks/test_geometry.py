"""Norms, balls and the box: random points and nearest points against closed forms."""

import jax
import numpy as np
import pytest

from jaxopt_input.attacks import geometry
from jaxopt_input.projections import NORMS

KEY = jax.random.key(0)


@pytest.mark.parametrize("n", [1, 3, 12])
@pytest.mark.parametrize("norm", NORMS)
def test_random_points_are_uniform_in_the_ball(norm, n):
    """The share of the volume within a radius r is r^n: ‖x‖^n is uniform from 0 to 1, and no direction is favored."""
    points = geometry.random_in_ball(jax.random.split(KEY, 4000), (n, 1), norm)
    assert points.shape == (4000, n, 1)
    part = np.sort(np.asarray(geometry.norm(points, norm), np.float64) ** n)
    # The largest distance from the uniform distribution's steps is above 1.95 / √4000 once in a thousand times.
    assert np.abs(part - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / np.sqrt(4000)
    # A number's standard deviation is at most 0.58: the mean of 4,000 lies within 5 of its own of 0.
    assert np.abs(np.asarray(points).mean(0)).max() < 5 * 0.58 / np.sqrt(4000)
