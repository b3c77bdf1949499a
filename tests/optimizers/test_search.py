"""The line search of L-BFGS, trial by trial: the conditions under which it ends, and where it looks next."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input.optimizers.search import bracket, narrow


def trial(value, slope, *, step=1.0, first_value=0.0, first_slope=-1.0):
    """The search after one trial of a step, and whether it decreased the value, from numbers."""
    numbers = [jnp.float32(x) for x in (first_value, first_slope, step, value, slope)]
    first_value, first_slope, step, value, slope = numbers
    return narrow(bracket(first_value, first_slope, step), (first_value, first_slope), (value, slope))


@pytest.mark.parametrize(
    ("value", "slope", "decreased", "done"),
    [
        (-0.5, 0.0, True, True),
        (-0.5, -0.89, True, True),  # the slope has fallen to 9/10
        (-0.5, -0.91, True, False),  # too steep still: farther
        (-1.1e-4, 1.5, True, True),  # a decrease of 1e-4 of what the slope promises suffices
        (-0.9e-4, 1.5, False, False),
        (0.0, 0.9997, True, True),  # no decrease that rounding would show: then the slope decides
        (0.0, 0.9999, False, False),
        (1.0, -0.5, False, False),
        (-0.5, np.nan, False, False),
        (np.nan, 0.0, False, False),
    ],
)
def test_conditions(value, slope, decreased, done):
    after, lower = trial(value, slope)
    assert (bool(lower), bool(after.done)) == (decreased, done)


def test_an_ascent_never_decreases():
    _, lower = trial(-1.0, 0.0, first_slope=1.0)
    assert not lower


def test_the_next_step():
    """Twice as far while the value falls steeply; then the parabola's minimum, a tenth of the bracket from its ends."""
    assert float(trial(-1.0, -1.0)[0].step) == 2
    # x² − x: from value 0 and slope −1 at 0, value 2 at 2. Its minimum is at ½.
    assert float(trial(2.0, 3.0, step=2.0)[0].step) == pytest.approx(0.5)
    assert float(trial(1e6, 1e6, step=2.0)[0].step) == pytest.approx(0.2)
    b, _ = trial(-1e-3, -0.95, step=1.0)  # lower, and steep: the bracket begins there
    assert [float(x) for x in (b.low, b.low_value, b.low_slope)] == pytest.approx([1.0, -1e-3, -0.95])
    start = jnp.float32(0), jnp.float32(-1)
    b, lower = narrow(b, start, (jnp.float32(5), jnp.float32(9)))  # at 2, too far
    assert not lower
    assert [float(b.low), float(b.high)] == [1, 2]
    assert 1.1 <= float(b.step) <= 1.9
    b, lower = narrow(b._replace(step=jnp.float32(1.5)), start, (jnp.float32(-2), jnp.float32(-0.95)))
    assert lower
    assert float(b.step) == pytest.approx(1.75)  # halfway, where the lower end moved


def test_a_search_that_is_done_stays():
    done, _ = trial(-0.5, 0.0)
    start = jnp.float32(0), jnp.float32(-1)
    after, lower = narrow(done, start, (jnp.float32(-9), jnp.float32(0)))
    assert not lower
    assert [float(x) for x in after] == [float(x) for x in done]
