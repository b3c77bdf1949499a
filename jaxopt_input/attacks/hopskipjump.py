"""HopSkipJump: the boundary's normal from predicted classes alone; L2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.decision import BISECTIONS, begin, judge, to_boundary
from jaxopt_input.attacks.define import attack, count
from jaxopt_input.attacks.problem import Found, Problem, until_done
from jaxopt_input.engine.lanes import rows, where

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxopt_input.attacks.problem import Images

HALVINGS = 12  # of a step, at most


def _normal(problem: Problem, x: Images, reach: Float[Array, " L"], t: jax.Array, directions: int) -> Images:
    """The direction into the adversarial region: random directions, those that lead there against the others."""
    keys = problem.keys(t)

    def sample(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        total, weighted, hits = carry
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], jnp.float32))(keys)
        tried = jnp.clip(x + rows(reach, x) * geometry.unit(noise, "l2"), 0.0, 1.0)
        noise = geometry.unit(tried - x, "l2")
        hit = judge(problem, tried, t).astype(jnp.float32)
        return total + noise, weighted + rows(hit, x) * noise, hits + hit

    zero = jnp.zeros_like(x)
    carry = zero, zero, jnp.zeros(len(x), jnp.float32)
    total, weighted, hits = jax.lax.fori_loop(0, directions, sample, carry)
    # Σ (φ − mean φ) u with φ = ±1 is 2 (Σ_hits u − share of hits · Σ u); all on one side tell the side alone.
    share = hits / directions
    balanced = weighted - rows(share, x) * total
    one_sided = rows(jnp.where(share == 0, -1.0, 1.0), x) * total
    return geometry.unit(where((share == 0) | (share == 1), one_sided, balanced), "l2")


@attack("l2", start="adversarial", draws="steps")
def hop_skip_jump(problem: Problem, *, steps: int = count(40), directions: int = count(100)) -> Found:
    """HopSkipJump: the nearest adversarial image in L2, from predicted classes alone.

    From an adversarial image, bisection to the boundary; there the normal is estimated from random directions, and a
    step is taken along it that halves until it succeeds.

    Args:
        key, model, images, labels, options: as in `run`, and so are the errors.
        steps: how many.
        directions: queries for each normal; the same number at each step (in the paper it grows with the square root).
        start: `[N, H, W, C]`, adversarial images to begin from; uniform noise if None. A target needs them.

    Source:
        Chen, Jordan & Wainwright, HopSkipJumpAttack: a query-efficient decision-based attack (2020), algorithm 2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.hop_skip_jump(jax.random.key(0), model, image, [0], steps=5)
        >>> result.success.tolist(), result.gradients.tolist()
        ([True], [0])
    """
    clean = problem.clean
    x, active, best, queries = begin(problem)

    def step(t: jax.Array, carry: Any) -> Any:
        best, x, queries = carry
        distance = geometry.norm(x - clean, "l2")
        # As in the paper: as far from the boundary as the square root of the dimension times the bisection's precision.
        reach = jnp.maximum(np.sqrt(np.float32(clean[0].size)) * distance * 2.0**-BISECTIONS, 1e-4)
        normal = _normal(problem, x, reach, t, directions)
        length = distance / jnp.sqrt((t + 1).astype(jnp.float32))

        def attempt(carry: Any) -> Any:
            i, reached, moved, length, queries = carry
            tried = jnp.clip(x + rows(length, x) * normal, 0.0, 1.0)
            success = judge(problem, tried, t)
            queries = queries + (active & ~reached)
            moved = where(reached, moved, where(success, tried, x))
            return i + 1, reached | success, moved, length / 2, queries

        _, _, moved, _, queries = until_done(attempt, HALVINGS, (~active, x, length, queries))
        moved = where(active, to_boundary(problem, moved, t), x)
        success = judge(problem, moved, t) & active
        best = best.after(problem, moved, success, problem.distance(moved, "l2"))
        return best, where(success, moved, x), queries + jnp.where(active, directions + BISECTIONS + 1, 0)

    best, _, queries = jax.lax.fori_loop(0, steps, step, (best, x, queries))
    return Found(best.image, steps * active, forwards=queries)
