"""The one exception for mistakes of the caller, and its wording for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what the caller passed, in one line that says what to try instead."""


def unknown(kind: str, name: object, options: Iterable[str], hint: str = "") -> InputError:
    """An `InputError` for a name that does not exist, offering the nearest ones.

    Args:
        kind: what the name should name, such as "layer".
        name: as the caller wrote it.
        options: the names that exist.
        hint: a sentence to append, such as where to list all names.

    Example:
        >>> raise unknown("layer", "fire44", ["conv1", "fire4", "fire5"])
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: unknown layer 'fire44'; nearest: fire4, fire5
    """
    options = list(dict.fromkeys(options))
    folded = {option.casefold(): option for option in reversed(options)}
    near = [folded[n] for n in difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.6)]
    listing = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    offer = f"nearest: {', '.join(near)}" if near else f"known: {listing}"
    return InputError(f"unknown {kind} {str(name)!r}; {offer}{'; ' + hint if hint else ''}")
