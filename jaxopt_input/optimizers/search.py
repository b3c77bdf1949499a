"""The line search of L-BFGS, made for batches: one evaluation of the network for each trial of all starts."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9


class Bracket(NamedTuple):
    """One start's line search: the step to try next and what is known of its bracket."""

    step: jax.Array
    low: jax.Array
    low_value: jax.Array
    low_slope: jax.Array
    high: jax.Array
    done: jax.Array


def bracket(value: jax.Array, slope: jax.Array, step: jax.Array) -> Bracket:
    """The beginning of a line search from a point with this value and slope; `step` is the first trial."""
    zero = jnp.zeros_like(value)
    return Bracket(step, zero, value, slope, zero + jnp.inf, zero > 0)


def narrow(
    b: Bracket, start: tuple[jax.Array, jax.Array], trial: tuple[jax.Array, jax.Array]
) -> tuple[Bracket, jax.Array]:
    """The search after one more trial, and whether that trial decreased the value sufficiently.

    Args:
        b: the search, whose `step` has been tried.
        start: (value, slope) at step 0, the slope along the path that the projection leaves of the direction.
        trial: (value, slope) at `b.step`.

    Source:
        Lewis & Overton (2013), algorithm 2.6, with safeguarded quadratic interpolation instead of bisection; Hager &
        Zhang (2005), section 4.1, for the approximate condition where rounding hides the decrease.
    """
    value, slope = trial
    first_value, first_slope = start
    exact = value <= first_value + SUFFICIENT_DECREASE * b.step * first_slope
    flat = (value <= first_value) & (slope <= (2 * SUFFICIENT_DECREASE - 1) * first_slope)
    decreased = (first_slope < 0) & (exact | flat) & jnp.isfinite(slope)
    steep = slope < CURVATURE * first_slope
    low = jnp.where(decreased, b.step, b.low)
    low_value = jnp.where(decreased, value, b.low_value)
    low_slope = jnp.where(decreased, slope, b.low_slope)
    high = jnp.where(decreased, b.high, b.step)
    width = high - low
    parabola = low - low_slope * width**2 / (2 * (value - low_value - low_slope * width))
    inside = jnp.clip(parabola, low + 0.1 * width, high - 0.1 * width)
    inside = jnp.where(decreased | ~jnp.isfinite(inside), low + 0.5 * width, inside)
    step = jnp.where(jnp.isinf(high), 2 * b.step, inside)
    after = Bracket(step, low, low_value, low_slope, high, b.done | (decreased & ~steep))
    return jax.tree.map(lambda new, old: jnp.where(b.done, old, new), after, b), decreased & ~b.done
