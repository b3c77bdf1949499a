"""MI-FGSM: BIM with momentum."""

from __future__ import annotations

from typing import Any, Unpack

import jax

from jaxopt_input.attacks.ascent import Ascent, momentum, step_size
from jaxopt_input.attacks.objectives import Builder, objective
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import count, given, number


def mi_fgsm(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    epsilon: Any,
    steps: int = 10,
    step: Any = None,
    decay: float = 1.0,
    loss: str | Builder = "cross_entropy",
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """The momentum iterative method: x + step · sign(v), v ← decay · v + g / ‖g‖₁, within the L∞ ball.

    Its images transfer to other networks better than those of BIM.

    Args:
        key, model, images, labels: as `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        steps: how many.
        step: the size of one, ε / steps if None.
        decay: of the velocity, from 0 (BIM) up.
        loss: as `fgsm`.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.
        options: see `Options`.

    Raises:
        InputError: as `run`.

    Source:
        Dong et al., Boosting Adversarial Attacks with Momentum (2018), algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.mi_fgsm(jax.random.key(0), model, image, [0], epsilon=0.1).steps.tolist()
        [3]
    """
    aim = objective(loss, options.get("target") is not None)
    steps = count("steps", steps)
    method = Ascent(aim, "linf", momentum, steps, False, stop)
    numbers = {**step_size(step, 1 / steps), "decay": number("decay", decay)}
    return run(
        method, key, model, images, labels,
        epsilon=given(epsilon), numbers=numbers, objective=aim, stop=stop, draws=False, **options,
    )  # fmt: skip
