"""Where the program keeps files, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from jaxopt_input.errors import InputError, system_errors

StrPath = str | os.PathLike[str]
CACHE_VARIABLE = "JAXOPT_INPUT_CACHE"


def user_folder() -> Path:
    """What is kept from one run to the next: $JAXOPT_INPUT_CACHE, or the user's cache folder of this system."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("jaxopt-input"))


def read_bytes(path: StrPath) -> bytes:
    """What is in a regular file, or an `InputError`: others, such as a pipe or a device, may never come to an end."""
    with system_errors(f"read {path}"):
        file = Path(path)
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise InputError(f"cannot read {path}: it is a pipe, a socket or a device; copy it into a file")
        return file.read_bytes()


@contextlib.contextmanager
def atomic(path: StrPath) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place on leaving, and goes without trace on an exception.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(file) as part:
        ...     _ = part.write_text("whole")
        >>> file.read_text()
        'whole'
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is an ordinary file
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
