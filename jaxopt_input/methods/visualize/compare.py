"""The same targets on several networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxopt_input.engine.target import expand, label
from jaxopt_input.errors import InputError
from jaxopt_input.methods.visualize.recipe import sized
from jaxopt_input.models.model import Model


def check_comparable(models: Sequence[Model], texts: Sequence[str], size: int | None = None) -> None:
    """Raise an `InputError` unless each target means the same in all networks.

    Args:
        models: the networks.
        texts: targets, as in `engine.target.expand`; classes are the same where their labels are.
        size: the side of the images; each network's own if None.

    Example:
        >>> import jax.numpy as jnp, jaxopt_input as joi
        >>> def net(labels):
        ...     return joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3), labels=labels,
        ...                              image_shape=(8, 8, 3), taps=("logits",), name=labels[0])
        >>> check_comparable([net(("ant", "bee", "cat")), net(("bee", "cat", "dog"))], ["class:bee"])
        >>> check_comparable([net(("ant", "bee", "cat")), net(("bee", "cat", "dog"))], ["class:1"])
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: class:1 is bee in ant and cat in bee: give what both have, classes by name
    """
    for text in texts:
        (name, first), *others = [(model.info.name, _meanings(model, text, size)) for model in models]
        for other_name, other in others:
            if len(first) != len(other):
                raise InputError(f"{text} is {len(first)} targets in {name} and {len(other)} in {other_name}")
            for ours, theirs in zip(first, other, strict=True):
                if ours.casefold() != theirs.casefold():
                    raise InputError(
                        f"{text} is {ours} in {name} and {theirs} in {other_name}: give what both have, classes by name"
                    )


def _meanings(model: Model, text: str, size: int | None) -> list[str]:
    """What the targets of a text are, classes by their labels."""
    try:
        meant = expand(text, model, sized(model, size))
    except InputError as error:
        raise InputError(f"{model.info.name}: {error}") from error
    return [label(target, model) or str(target) for target in meant]


def part_names(models: Sequence[str]) -> list[str]:
    """A name for each network, from its own or its file's; a number is added where two would be the same.

    Example:
        >>> part_names(["tin100", "runs/robust.safetensors", "nets:build", "tin100"])
        ['tin100', 'robust', 'nets-build', 'tin100-3']
    """
    stems = [Path(name).stem.replace(":", "-").lstrip("-.") or "model" for name in models]
    return [stem if stem not in stems[:n] else f"{stem}-{n}" for n, stem in enumerate(stems)]
