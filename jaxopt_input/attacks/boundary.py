"""The Boundary attack: a random walk along the boundary towards the original; L2, from predicted classes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.decision import begin, judge
from jaxopt_input.attacks.define import attack, count, number
from jaxopt_input.attacks.problem import Found, Problem
from jaxopt_input.engine.lanes import dot, rows, where

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

WINDOW = 20  # steps whose success decides on the sizes
FEW, MANY, ADAPT = 0.2, 0.5, 1.5


def _adapted(size: Float[Array, " L"], hits: Int[Array, " L"]) -> Float[Array, " L"]:
    """A step size after a window: larger where most steps succeeded, smaller where few did, at most 1."""
    share = hits.astype(jnp.float32) / WINDOW
    return jnp.clip(jnp.where(share > MANY, size * ADAPT, jnp.where(share < FEW, size / ADAPT, size)), 1e-6, 0.9)


@attack("l2", start="adversarial", draws="steps")
def boundary(
    problem: Problem,
    *,
    steps: int = count(5000),
    around: jax.Array = number(0.1, high=0.9, open_low=True),
    towards: jax.Array = number(0.1, high=0.9, open_low=True),
) -> Found:
    """The Boundary attack: from an adversarial image, random steps along the boundary and towards the original.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        steps: how many, two queries each.
        around: the first size of a step within the sphere about the original, as a part of its radius.
        towards: the first size of a step towards the original, as a part of the distance.
        start: `[N, H, W, C]`, adversarial images to begin from; uniform noise if None. A target needs them.

    Source:
        Brendel, Rauber & Bethge, Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine
        Learning Models (2018), algorithm 1; sizes adapt every 20 steps, by a factor of 1.5.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.boundary(jax.random.key(0), model, image, [0], steps=100)
        >>> result.success.tolist(), result.gradients.tolist()
        ([True], [0])
    """
    clean = problem.clean
    x, active, nearest, queries = begin(problem)

    def step(i: jax.Array, carry: Any) -> Any:
        nearest, x, around, towards, hits_around, hits_towards = carry
        away = x - clean
        distance = geometry.norm(away, "l2")
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], jnp.float32))(problem.keys(i))
        noise = geometry.unit(noise, "l2")
        # A step within the sphere about the original, then one towards it.
        radial = away / rows(jnp.maximum(jnp.square(distance), 1e-20), x)
        along = geometry.unit(noise - rows(dot(noise, away), x) * radial, "l2")
        turned = geometry.unit(away + rows(around * distance, x) * along, "l2")
        beside = jnp.clip(clean + rows(distance, x) * turned, 0.0, 1.0)
        closer = jnp.clip(clean + (beside - clean) * rows(1 - towards, x), 0.0, 1.0)
        success_beside, success_closer = judge(problem, beside, i), judge(problem, closer, i)
        moved = where(active & success_closer, closer, x)
        nearest = nearest.after(problem, closer, success_closer & active, problem.distance(closer, "l2"))
        hits_around, hits_towards = hits_around + success_beside, hits_towards + success_closer
        full = (i + 1) % WINDOW == 0
        around = jnp.where(full, _adapted(around, hits_around), around)
        towards = jnp.where(full, _adapted(towards, hits_towards), towards)
        hits_around, hits_towards = (jnp.where(full, 0, hits) for hits in (hits_around, hits_towards))
        return nearest, moved, around, towards, hits_around, hits_towards

    nothing = jnp.zeros(len(active), jnp.int32)
    sizes = (jnp.full(len(active), size, jnp.float32) for size in (around, towards))
    nearest, *_ = jax.lax.fori_loop(0, steps, step, (nearest, x, *sizes, nothing, nothing))
    return Found(nearest.image, steps * active, forwards=queries + 2 * steps * active)
