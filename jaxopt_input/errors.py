"""The one exception for mistakes of the caller, and its wording for unknown names."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")


MOST = 60  # letters of a name in a message


class InputError(ValueError):
    """A mistake in what the caller passed, in one line that says what to try instead.

    Names come from files and from networks: what of them cannot be shown is escaped, as by `printable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class InputWarning(UserWarning):
    """What a caller should know of what was passed, although it can be used; a run records it, and says it last."""


def printable(text: str, most: int | None = None) -> str:
    r"""A text on one line that a terminal, a drawing and a file of UTF-8 can take, at most so many letters of it.

    A control character is escaped, and a byte of a file name that is not UTF-8 is shown as the byte.

    Example:
        >>> print(printable("a\x1b[2J\udce9"), printable("a" * 9, 4))
        a\x1b[2J\xe9 aaa…
    """

    def shown(letter: str) -> str:
        if letter.isspace():
            return " "
        byte = ord(letter) - 0xDC00
        return rf"\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()

    text = text if text.isprintable() else "".join(c if c.isprintable() else shown(c) for c in text)
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


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
    listing = ", ".join(printable(option, MOST) for option in options[:12]) + (", …" if len(options) > 12 else "")
    offer = f"nearest: {', '.join(printable(option, MOST) for option in near)}" if near else f"known: {listing}"
    return InputError(f"unknown {kind} '{printable(str(name), MOST)}'; {offer}{'; ' + hint if hint else ''}")


def lookup(kind: str, name: str, options: Mapping[str, Value], hint: str = "") -> Value:
    """The option of a name, or the error of `unknown`."""
    if name not in options:
        raise unknown(kind, name, options, hint)
    return options[name]


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "").strip() or type(error).__name__


@contextlib.contextmanager
def system_errors(what: str) -> Iterator[None]:
    """Within it an `OSError` becomes an `InputError` that says what cannot be done.

    Example:
        >>> with system_errors("read a.png"):
        ...     raise FileNotFoundError(2, "No such file or directory")
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: cannot read a.png: No such file or directory
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {what}: {error.strerror or error}") from error
