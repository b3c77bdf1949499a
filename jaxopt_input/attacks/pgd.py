"""PGD: projected gradient ascent from a random start."""

from __future__ import annotations

from typing import Any, Unpack

import jax

from jaxopt_input.attacks.ascent import STEEPEST, Ascent, step_size
from jaxopt_input.attacks.objectives import Builder, objective
from jaxopt_input.attacks.result import AttackResult
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.checks import count, given, number, one_of


def pgd(
    key: jax.Array,
    model: Any,
    images: Any,
    labels: Any,
    *,
    epsilon: Any,
    norm: str = "linf",
    steps: int = 40,
    step: Any = None,
    random_start: bool = True,
    sparsity: float = 0.99,
    loss: str | Builder = "cross_entropy",
    start: Any = None,
    stop: bool = True,
    **options: Unpack[Options],
) -> AttackResult:
    """Projected gradient ascent on a loss, from random starts within the ball.

    Args:
        key, model, images, labels: as `run`.
        epsilon: the budget: a number, several, or `[E, N]`.
        norm: "linf", "l2" or "l1".
        steps: how many.
        step: the size of one, ε / 4 if None (their 2/255 at ε = 8/255).
        random_start: whether to begin anywhere in the ball, instead of at the original.
        sparsity: in L1, the share of numbers that a step leaves alone.
        loss: as `fgsm`.
        start: `[N, H, W, C]`, images to begin from instead; they are moved into the ball.
        stop: whether an image is done once it succeeds; otherwise the last iterate is the result.
        options: see `Options`; `restarts` are lanes of the same program.

    Raises:
        InputError: as `run`.

    Source:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (2018), section 2.1; Tramèr & Boneh
        (2019) for L1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(4, 4, 3), taps=("logits",))
        >>> image = jnp.full((1, 4, 4, 3), 0.5).at[..., 0].set(0.55)
        >>> result = joi.attacks.pgd(jax.random.key(0), model, image, [0], epsilon=2.0, norm="l1", target=2)
        >>> result.success.tolist(), result.prediction.tolist(), bool(result.distance["l1"][0] <= 2 + 1e-6)
        ([True], [2], True)
    """
    aim = objective(loss, options.get("target") is not None)
    rule = STEEPEST[one_of("norm", norm, tuple(STEEPEST))]
    method = Ascent(aim, norm, rule, count("steps", steps), bool(random_start), bool(stop))
    numbers = {**step_size(step, 0.25), "sparsity": number("sparsity", sparsity, high=1.0)}
    return run(
        method, key, model, images, labels,
        norm=norm, epsilon=given(epsilon), numbers=numbers, objective=aim, stop=stop, start=start,
        draws=random_start and start is None, **options,
    )  # fmt: skip
