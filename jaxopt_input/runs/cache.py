"""The user's cache folder, and the compiled programs that JAX keeps in it from one process to the next."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jaxopt_input.disk import user_folder
from jaxopt_input.errors import InputError

JAX_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
MOST_BYTES = 2 << 30
"""What the compiled programs may take on disk; the oldest go first."""


def compiled_folder() -> Path:
    """Where compiled programs are kept: where JAX's own variable says, else in the user's cache."""
    return Path(os.environ.get(JAX_VARIABLE) or user_folder() / "compiled")


def compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk, so that the next process does not compile them again.

    The command line does this by itself; importing the library changes nothing in JAX. Beyond 2 GiB the oldest programs
    are removed. JAX runs what it finds there: do not share the folder with users whom you do not trust.

    Args:
        folder: made if need be; $JAX_COMPILATION_CACHE_DIR or one in the user's cache if None.

    Returns:
        The folder.

    Raises:
        InputError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     compilation_cache(file.name)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: cannot keep compiled programs in ...: File exists; choose another folder
    """
    target = (compiled_folder() if folder is None else Path(folder)).absolute()
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target).close()
        if folder is None and JAX_VARIABLE not in os.environ:
            _make_room(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot keep compiled programs in {target}: {reason}; choose another folder") from error
    import jax
    from jax.experimental.compilation_cache import compilation_cache as jax_cache

    if jax.config.jax_compilation_cache_dir != str(target):  # type: ignore[attr-defined]
        jax_cache.reset_cache()  # JAX opens a folder once
        jax.config.update("jax_compilation_cache_dir", str(target))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # 50 ms each, of which there are many
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return target


def _make_room(folder: Path) -> None:
    """Remove the oldest programs beyond `MOST_BYTES`."""
    files = [(file.stat(), file) for file in folder.iterdir() if file.is_file()]
    room = MOST_BYTES
    for status, file in sorted(files, key=lambda pair: pair[0].st_mtime, reverse=True):
        room -= status.st_size
        if room < 0:
            file.unlink(missing_ok=True)
