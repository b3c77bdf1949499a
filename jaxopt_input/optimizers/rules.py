"""Update rules of published methods, as Optax transformations: what Optax itself lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from optax import OptState, Params, Updates

from jaxopt_input.errors import InputError

BLUR_REACH = 8  # pixels of the kernel to either side; scipy cuts it at 4 σ
MAX_BLUR = 2.0


class AveragingState(NamedTuple):
    """The state of a rule, and the average of θ: Σ weight · θ, and 1 − Σ weight."""

    inner: OptState
    mean: Params
    rest: jax.Array


def averaging(rule: optax.GradientTransformationExtraArgs, decay: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """A rule that keeps the moving average of θ in its state: the rule of `optimizers.averaged`.

    Example:
        >>> rule = averaging(optax.with_extra_args_support(optax.sgd(1.0)), 0.5)
        >>> _, state = rule.update(jnp.array(-4.0), rule.init(jnp.array(0.0)), jnp.array(0.0))
        >>> float(state.mean / (1 - state.rest))
        4.0
    """

    def init(params: Params) -> AveragingState:
        return AveragingState(rule.init(params), jax.tree.map(jnp.zeros_like, params), jnp.ones((), jnp.float32))

    def update(
        updates: Updates, state: AveragingState, params: Params = None, **extra: Any
    ) -> tuple[Updates, AveragingState]:
        updates, inner = rule.update(updates, state.inner, params, **extra)
        moved = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, x: decay * m + (1 - decay) * x, state.mean, moved)
        return updates, AveragingState(inner, mean, jnp.asarray(decay * state.rest))

    return optax.GradientTransformationExtraArgs(init, update)


class ScheduledState(NamedTuple):
    """How many updates were made, and the state of the rule."""

    updates: jax.Array
    inner: OptState


def scheduled(
    factory: Callable[..., optax.GradientTransformation],
    numbers: Mapping[str, ArrayLike],
    schedules: Mapping[str, optax.Schedule],
) -> optax.GradientTransformationExtraArgs:
    """A rule whose hyperparameters change with the number of updates.

    Args:
        factory: makes the rule of its hyperparameters; its state must not depend on them.
        numbers: the hyperparameters that stay.
        schedules: those that change, functions of the number of updates so far.

    Example:
        >>> rule = scheduled(optax.sgd, {}, {"learning_rate": lambda updates: 1.0 + updates})
        >>> state = rule.init(jnp.zeros(1))
        >>> first, state = rule.update(jnp.ones(1), state)
        >>> second, _ = rule.update(jnp.ones(1), state)
        >>> first.tolist(), second.tolist()
        ([-1.0], [-2.0])
    """

    def at(updates: jax.Array) -> optax.GradientTransformationExtraArgs:
        now = {name: jnp.asarray(schedule(updates), jnp.float32) for name, schedule in schedules.items()}
        return optax.with_extra_args_support(factory(**numbers, **now))

    def init(params: Params) -> ScheduledState:
        updates = jnp.zeros((), jnp.int32)
        return ScheduledState(updates, at(updates).init(params))

    def update(
        updates: Updates, state: ScheduledState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScheduledState]:
        moved, inner = at(state.updates).update(updates, state.inner, params, **extra)
        return moved, ScheduledState(state.updates + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def yosinski(
    learning_rate: ArrayLike,
    desired_progress: ArrayLike | None = None,
    decay: ArrayLike | None = None,
    blur_sigma: ArrayLike | None = None,
    blur_every: ArrayLike = 4.0,
    norm_percentile: ArrayLike | None = None,
    contribution_percentile: ArrayLike | None = None,
    mean: ArrayLike = 0.5,
    least_gradient: ArrayLike | None = None,
) -> optax.GradientTransformation:
    """The rule of `optimizers.yosinski`, which describes it; what is None is not computed.

    Example:
        >>> rule = yosinski(255.0, decay=0.5)
        >>> image = jnp.full((1, 1, 3), 0.5)
        >>> update, _ = rule.update(jnp.full((1, 1, 3), -51.0), rule.init(image), image)  # of the loss, image in [0, 1]
        >>> (image + update)[0, 0].round(3).tolist()  # 0.5 + half of 255 · 51 / 255 / 255
        [0.6000000238418579, 0.6000000238418579, 0.6000000238418579]
    """

    def init(params: Params) -> tuple[jax.Array, jax.Array]:
        if jnp.ndim(params) != 3:
            raise InputError("Yosinski's rule moves pixels: optimize images.pixels() with it")
        # How many updates were made, and the norm of the first gradient that was not zero.
        return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)

    def update(
        updates: jax.Array, state: tuple[jax.Array, jax.Array], params: Params = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        gradient = -updates / 255  # of what is maximized, by pixels from 0 to 255
        pixels = 255 * (params - mean)
        rate, (count, first) = learning_rate, state
        if least_gradient is not None:
            first = jnp.where(first > 0, first, jnp.linalg.norm(gradient)).astype(jnp.float32)
            rate = rate * jnp.maximum(1.0, least_gradient / jnp.where(first > 0, first, 1.0))
        if desired_progress is not None:
            square = jnp.sum(jnp.square(gradient))
            rate = jnp.minimum(rate, desired_progress / jnp.where(square > 0, square, 1e-30))
        pixels = pixels + rate * gradient
        if decay is not None:
            pixels = pixels * (1 - decay)
        if blur_sigma is not None:
            due = count % jnp.asarray(blur_every, jnp.int32) == 0
            pixels = jnp.where(due, gaussian_blur(pixels, blur_sigma), pixels)
        if norm_percentile is not None:
            norm = jnp.linalg.norm(pixels, axis=-1)
            pixels = _cleared(pixels, norm, norm_percentile)
        if contribution_percentile is not None:
            contribution = jnp.abs(jnp.sum(gradient * pixels, -1))
            pixels = _cleared(pixels, contribution, contribution_percentile)
        return mean + pixels / 255 - params, (count + 1, first)

    return optax.GradientTransformation(init, update)


def _cleared(pixels: jax.Array, score: jax.Array, percentile: ArrayLike) -> jax.Array:
    """The pixels, those whose score is below the percentile set to zero."""
    return jnp.where((score < jnp.percentile(score, percentile))[..., None], 0.0, pixels)


def gaussian_blur(image: jax.Array, sigma: ArrayLike) -> jax.Array:
    """A Gaussian blur as of `scipy.ndimage.gaussian_filter`: kernel cut at 4 σ, mirrored at the border.

    Args:
        image: `[H, W, C]`.
        sigma: in pixels, positive, at most 2; may be traced.

    Example:
        >>> gaussian_blur(jnp.eye(3)[..., None], 0.5)[1, :, 0].round(3).tolist()
        [0.17900000512599945, 0.6410000324249268, 0.17900000512599945]
    """
    offset = np.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=np.float32)
    weight = jnp.exp(-0.5 * jnp.square(offset / sigma)) * (np.abs(offset) <= jnp.floor(4 * sigma + 0.5))
    weight = weight / weight.sum()
    for axis in (0, 1):
        size, widths = image.shape[axis], [(0, 0)] * image.ndim
        widths[axis] = (BLUR_REACH, BLUR_REACH)
        padded = jnp.pad(image, widths, mode="symmetric")
        parts = [jax.lax.slice_in_dim(padded, n, n + size, axis=axis) for n in range(2 * BLUR_REACH + 1)]
        image = sum((w * part for w, part in zip(weight, parts, strict=True)), jnp.zeros_like(image))
    return image


class MahendranState(NamedTuple):
    """The decayed sum of squared gradients, and the velocity."""

    squares: Updates
    velocity: Updates


def mahendran(learning_rate: ArrayLike, decay: ArrayLike = 0.9) -> optax.GradientTransformation:
    """The rule of `optimizers.mahendran`, which describes it.

    Example:
        >>> rule = mahendran(1e6)
        >>> update, _ = rule.update(jnp.array([51.0]), rule.init(jnp.array([0.5])), None)  # of an image in [0, 1]
        >>> (255 * update).round(3).tolist()  # where the rate is large, the first step is one level against the sign
        [-1.0]
    """

    def init(params: Params) -> MahendranState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return MahendranState(zeros, zeros)

    def update(updates: Updates, state: MahendranState, params: Params = None) -> tuple[Updates, MahendranState]:
        gradient = jax.tree.map(lambda g: g / 255, updates)  # by pixels from 0 to 255
        squares = jax.tree.map(lambda s, g: decay * s + jnp.square(g), state.squares, gradient)
        velocity = jax.tree.map(
            lambda v, g, s: decay * v - g / (1 / learning_rate + jnp.sqrt(s)), state.velocity, gradient, squares
        )
        return jax.tree.map(lambda v: v / 255, velocity), MahendranState(squares, velocity)

    return optax.GradientTransformation(init, update)
