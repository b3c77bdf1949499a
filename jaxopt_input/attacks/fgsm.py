"""FGSM: one step along the sign of the gradient."""

from __future__ import annotations

from typing import Any, Unpack

import jax

from jaxopt_input.attacks.ascent import STEEPEST, Ascent, step_size
from jaxopt_input.attacks.objectives import Builder, objective
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import given, one_of


def fgsm(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    epsilon: Any,
    norm: str = "linf",
    loss: str | Builder = "cross_entropy",
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """The fast gradient sign method: x + ε · sign(∇ loss); in L2 along g / ‖g‖₂, in L1 along the largest numbers.

    Args:
        key, model, images, labels: as `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf", "l2" or "l1".
        loss: "cross_entropy", "margin", "dlr", "carlini_wagner", or a loss builder.
        stop: whether images that are misclassified already are left alone.
        options: see `Options`.

    Raises:
        InputError: as `run`.

    Source:
        Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples (2015), section 4.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> joi.attacks.fgsm(jax.random.key(0), model, image, [0], epsilon=[0.01, 0.1]).success.tolist()
        [[False], [True]]
    """
    aim = objective(loss, options.get("target") is not None)
    method = Ascent(aim, norm, STEEPEST[one_of("norm", norm, tuple(STEEPEST))], 1, False, stop)
    numbers = {**step_size(None, 1.0), "sparsity": 0.99}
    return run(
        method, key, model, images, labels,
        norm=norm, epsilon=given(epsilon), numbers=numbers, objective=aim, stop=stop, draws=False, **options,
    )  # fmt: skip
