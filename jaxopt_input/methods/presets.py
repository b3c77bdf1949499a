"""Presets: the settings of published methods by name, as every method has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

from jaxopt_input.checks import count
from jaxopt_input.errors import InputError, unknown

S = TypeVar("S")


def choose(presets: Mapping[str, S | Callable[..., S]], preset: str | S, *fit: Any, **changes: Any) -> S:
    """The settings of a preset, with other values of some fields.

    Args:
        presets: by name the settings, a frozen dataclass that checks itself, or a function that makes them.
        preset: one of the names, or settings of one's own.
        fit: the arguments of such a function, such as the shape of an image.
        changes: fields of the settings; None leaves the preset's own value.

    Raises:
        InputError: for an unknown preset or field, offering the nearest names, and as the settings themselves.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Settings:
        ...     steps: int = 256
        ...     rate: float = 0.1
        >>> choose({"slow": Settings(rate=0.01)}, "slow", steps=8, rate=None)
        Settings(steps=8, rate=0.01)
        >>> choose({"slow": Settings(rate=0.01)}, "slow", stebs=8)
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: unknown setting 'stebs'; nearest: steps
    """
    settings: Any = preset
    if isinstance(preset, str):
        check_choice("preset", preset, presets)
        settings = presets[preset]
        settings = settings(*fit) if callable(settings) else settings
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise InputError(f"a preset is one of {', '.join(presets)}, or the settings themselves, not {preset!r}")
    fields = [field.name for field in dataclasses.fields(settings)]
    for name in changes:
        check_choice("setting", name, fields)
    changed: Any = dataclasses.replace(settings, **{key: value for key, value in changes.items() if value is not None})
    result: S = changed
    return result


def check_choice(kind: str, name: object, names: Collection[str]) -> None:
    """Raise an `InputError` unless a name is one of some, offering the nearest."""
    if name not in names:
        raise unknown(kind, name, names)


def check_counts(settings: Any, **least: int) -> None:
    """Raise an `InputError` unless these fields are whole numbers of at least so many."""
    for name, lowest in least.items():
        count(name, getattr(settings, name), lowest)


def check_range(settings: Any, names: Iterable[str], low: float, *, above: bool = False) -> None:
    """Raise an `InputError` unless these fields are finite numbers of at least `low`, or above it."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, Real) or not low <= float(value) < float("inf") or (above and float(value) == low):
            raise InputError(f"{name} must be {'above' if above else 'at least'} {low:g}, not {value!r}")
