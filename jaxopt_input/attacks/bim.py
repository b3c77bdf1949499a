"""BIM: FGSM in small steps."""

from __future__ import annotations

from typing import Any, Unpack

import jax

from jaxopt_input.attacks.ascent import Ascent, sign, step_size
from jaxopt_input.attacks.objectives import Builder, objective
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import count, given


def bim(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    epsilon: Any,
    steps: int = 10,
    step: Any = None,
    loss: str | Builder = "cross_entropy",
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """The basic iterative method: FGSM in small steps from the original, within the L∞ ball.

    Args:
        key, model, images, labels: as `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        steps: how many.
        step: the size of one, ε / 4 if None (their 1/255 at ε = 4/255).
        loss: as `fgsm`.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.
        options: see `Options`.

    Raises:
        InputError: as `run`.

    Source:
        Kurakin, Goodfellow & Bengio, Adversarial examples in the physical world (2017), section 2.2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.bim(jax.random.key(0), model, image, [0], epsilon=0.1).steps.tolist()
        [2]
    """
    aim = objective(loss, options.get("target") is not None)
    method = Ascent(aim, "linf", sign, count("steps", steps), False, stop)
    numbers = step_size(step, 0.25)
    return run(
        method, key, model, images, labels,
        epsilon=given(epsilon), numbers=numbers, objective=aim, stop=stop, draws=False, **options,
    )  # fmt: skip
