"""FAB-T: along the boundary towards the original, class by class; L2 and L∞."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.ascent import START
from jaxopt_input.attacks.criteria import refuse_beyond_boundary
from jaxopt_input.attacks.deepfool import differences, rivals
from jaxopt_input.attacks.geometry import dot, rows, where
from jaxopt_input.attacks.nearest import Nearest, nothing_yet
from jaxopt_input.attacks.problem import Found, Numbers, Problem
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import count, number, one_of

EXTRAPOLATION, BACKWARD, MOST_BIAS = 1.05, 0.9, 0.1  # η, β and α_max of the authors


@dataclasses.dataclass(frozen=True)
class FAB:
    """A method: see `fab`."""

    norm: str
    steps: int
    candidates: int

    def __call__(self, problem: Problem, numbers: Numbers) -> Found:
        clean, p = problem.clean, self.norm
        active = ~problem.done()
        classes = rivals(problem, self.candidates)

        def step(i: jax.Array, carry: tuple[Nearest, jax.Array]) -> tuple[Nearest, jax.Array]:
            best, x = carry
            turn = i // self.steps
            x = jnp.where(i % self.steps == 0, self._begin(problem, best, numbers["reach"], turn), x)
            chosen = jax.lax.dynamic_slice_in_dim(classes, turn, 1, axis=1)
            lead, gradient, _ = differences(problem, x, chosen, i)
            normal = gradient[0]
            here = geometry.to_hyperplane(x, normal, -lead[0], p)
            there = geometry.to_hyperplane(clean, normal, -(lead[0] + dot(normal, clean - x)), p)
            a, b = (jnp.maximum(geometry.norm(d, p), 1e-8) for d in (here, there))
            bias = rows(jnp.minimum(a / (a + b), MOST_BIAS), x)
            x = jnp.clip((x + EXTRAPOLATION * here) * (1 - bias) + (clean + EXTRAPOLATION * there) * bias, 0.0, 1.0)
            success = problem.success(problem.logits(x, i)) & active
            best = best.after(problem, x, success, problem.distance(x, p))
            return best, where(success, clean + (x - clean) * BACKWARD, x)

        total = self.steps * classes.shape[1]
        best, _ = jax.lax.fori_loop(0, total, step, (nothing_yet(problem), clean))
        spent = jnp.where(active, total, 0)
        return Found(best.image, spent, spent, spent)

    def _begin(self, problem: Problem, best: Nearest, reach: jax.Array, turn: jax.Array) -> jax.Array:
        """The original; in further restarts anywhere within half of the reach, or of the nearest success."""
        keys = jax.vmap(lambda key: jax.random.fold_in(key, turn))(problem.keys(START))
        noise = geometry.random_in_ball(keys, problem.clean.shape[1:], self.norm)
        away = jnp.clip(problem.clean + 0.5 * rows(jnp.minimum(best.distance, reach), noise) * noise, 0.0, 1.0)
        return where(problem.lanes.restart == 0, problem.clean, away)


def fab(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    norm: str = "linf",
    steps: int = 100,
    candidates: int = 9,
    reach: float = 0.3,
    **options: Unpack[Options],
) -> AttackResult:
    """FAB-T, the fast adaptive boundary attack towards one class after another: the nearest adversarial image.

    Each step projects the iterate and the original onto the boundary of the network made linear, within the box, goes
    a little beyond, mixes the two, and after a success moves back towards the original.

    Args:
        key, model, images, labels: as `run`.
        norm: "l2" or "linf".
        steps: for each class.
        candidates: how many of the likeliest other classes are tried; with a target it alone is.
        reach: restarts after the first begin at random within half of this distance of the original.
        options: see `Options`.

    Raises:
        InputError: as `run`.

    Source:
        Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack (2020), algorithm 1,
        in the targeted form of their AutoAttack (2020).

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> found = joi.attacks.fab(jax.random.key(0), model, image, [0], steps=10)
        >>> bool(0.025 < found.distance["linf"][0] < 1.05 * 0.025)
        True
    """
    refuse_beyond_boundary(options.get("criterion"), "fab")
    method = FAB(one_of("norm", norm, ("l2", "linf")), count("steps", steps), count("candidates", candidates))
    numbers = {"reach": number("reach", reach, open_low=True)}
    return run(method, key, model, images, labels, norm=norm, numbers=numbers, **options)
