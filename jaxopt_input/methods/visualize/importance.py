"""Where an image matters to what it excites: the accumulated gradient, as MACO shows it in the alpha channel."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import targets
from jaxopt_input.engine.solution import Solution
from jaxopt_input.engine.target import grouped, objective
from jaxopt_input.errors import InputError
from jaxopt_input.losses import Loss
from jaxopt_input.models.model import Apply, Model
from jaxopt_input.transforms import Transform

SNAPSHOTS = 16
TOP = 80  # the percentile from which on an image is opaque, as in Horama


def importance_steps(steps: int) -> tuple[int, ...]:
    """The steps at whose images `importance` takes gradients: 16 of them, evenly spread, the last included.

    Example:
        >>> importance_steps(4)
        (1, 2, 3, 4)
    """
    return tuple(sorted({round(steps * n / SNAPSHOTS) for n in range(1, SNAPSHOTS + 1)} - {0}))


def importance(
    model: Model,
    solution: Solution,
    *,
    transform: Transform | None = None,
    kind: str = "default",
    key: jax.Array,
    chunk: int = 32,
) -> np.ndarray:
    """Where each image of a solution matters: Σ over its snapshots of |∂ objective / ∂ image|, from 0 to 1.

    The authors add the gradients of all steps; here they are taken at the snapshots, each in a new random view.

    Args:
        model: the network.
        solution: of `visualize`, with snapshots.
        transform: the random views; None is the image itself.
        kind: as in `engine.target.objective`.
        key: of the views.
        chunk: images at a time.

    Returns:
        `[N, H, W]` float32: the mean over colors, cut at its 80th percentile and divided by it.

    Raises:
        InputError: for a solution without snapshots, or of targets that couple their starts.

    Source:
        Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization (2023),
        section 3; Horama, `maco_fv.maco` and `plots.plot_maco`.

    Example:
        >>> import jax, jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> s = joi.visualize(model, "block3:7", steps=2, snapshots=(1, 2))
        >>> importance(model, s, key=jax.random.key(0)).shape
        (1, 64, 64)
    """
    if not len(solution.snapshots):
        raise InputError("importance is taken at the snapshots: ask for some, snapshots=importance_steps(steps)")
    wanted = [solution.targets[n] for n in solution.target]
    total = np.zeros(solution.image.shape[:3], np.float32)
    for lanes in grouped(wanted).values():
        for begin in range(0, len(lanes), chunk):
            part = lanes[begin : begin + chunk]
            loss = objective([wanted[lane] for lane in part], kind)
            if loss.couples:
                raise InputError("importance takes images one by one: it is not defined between two targets")
            for number, images in enumerate(np.asarray(solution.snapshots)[:, part]):
                keys = jax.random.split(jax.random.fold_in(key, number), len(part))
                total[part] += _gradient(model.apply, transform, model.params, loss, images, keys)
    top = np.percentile(total, TOP, axis=(1, 2), keepdims=True)
    return np.minimum(total / np.where(top > 0, top, 1.0), 1.0).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("apply", "transform"))
def _gradient(
    apply: Apply, transform: Transform | None, params: object, loss: Loss, images: jax.Array, keys: jax.Array
) -> jax.Array:
    """`[N, H, W]`: |∂ loss / ∂ image|, the mean over colors."""

    def total(images: jax.Array) -> jax.Array:
        views = images if transform is None else jax.vmap(transform)(keys, images)
        activations = apply(params, views, loss.taps)
        each = targets.vmap_lanes(lambda target_loss, a, x: target_loss(a, x), loss, jnp.arange(len(images)))
        return each(activations, images).sum()

    return jnp.abs(jax.grad(total)(images)).mean(-1)
