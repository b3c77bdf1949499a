"""Where the program keeps files, and files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

import platformdirs

CACHE_VARIABLE = "JAXOPT_INPUT_CACHE"


def user_folder() -> Path:
    """What is kept from one run to the next: $JAXOPT_INPUT_CACHE, or the user's cache folder of this system."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("jaxopt-input"))


class atomic:
    """A temporary path beside `path` that takes its place on leaving, and goes without trace on an exception.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(file) as part:
        ...     _ = part.write_text("whole")
        >>> file.read_text()
        'whole'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.stem}-", suffix=self.path.suffix)
        os.close(handle)
        self.part = Path(name)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            umask = os.umask(0)
            os.umask(umask)
            self.part.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is an ordinary file
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)
