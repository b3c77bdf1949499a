"""The download of a network's weights into the user's cache."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxopt_input.errors import InputError, system_errors
from jaxopt_input.networks.formats import file_digest, needs_torch
from jaxopt_input.networks.registry import Entry, cache_folder, entry, import_weights, refuse_computed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TRIES = 3
"""Attempts without progress before a download that is cut off is given up; what was received is kept."""

TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def fetch_weights(name: str, progress: bool = False) -> Path:
    """Download a network's weights from their official home into the user's cache, checked, if they are not there yet.

    A download that was cut off goes on where it stopped, at once and at the next call. Of several processes that fetch
    at the same time, the first downloads and the others wait for it. Nothing remains of a file with a wrong checksum.

    Args:
        name: a name of `entries()`.
        progress: show a progress bar on standard error.

    Returns:
        The path of the weights in the cache.

    Raises:
        InputError: for an unknown or bundled network, one whose format cannot be read here, an address that cannot be
            reached or does not have the file, a connection that breaks off, or a wrong checksum.

    Example:
        >>> fetch_weights("tin100")
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: tin100 is bundled: there is nothing to fetch
    """
    record = entry(name)
    if record.bundled:
        raise InputError(f"{name} is bundled: there is nothing to fetch")
    refuse_computed(record)
    if not record.address:
        raise InputError(f"{name} has no address: import a file with `jaxopt-input models import {name} FILE`")
    target = record.path()
    if target.is_file():
        return target
    if needs_torch(record.address):
        raise InputError(
            f"the weights of {name} are published in PyTorch's format: install torch to read them, or import a "
            f"safetensors copy with `jaxopt-input models import {name} FILE`"
        )
    _check_address(record.address)
    path = cache_folder() / f".{Path(record.file).stem}-part{Path(urllib.parse.urlsplit(record.address).path).suffix}"
    with system_errors(f"write to the cache {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(path) as part:
            if not target.is_file():  # else another process was here first
                _download(record.address, part, progress)
                try:
                    _check(record, part)
                    import_weights(name, part)
                finally:
                    part.unlink()
    return target


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """The file at a path, made and held by this process alone; it is removed if it is empty in the end.

    The lock goes with the process, however it ends. A process that waited may hold a file that has been removed in the
    meantime: then it opens the path anew. Without `fcntl` (Windows) processes do not wait for each other: each has a
    file of its own.
    """
    if fcntl is None:
        path = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    while True:
        with path.open("ab") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            same = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            if fcntl is None:
                file.close()
            if same:
                try:
                    yield path
                finally:
                    if path.exists() and not path.stat().st_size:
                        path.unlink()
                return


def _check(record: Entry, part: Path) -> None:
    digest = file_digest(part)
    if not digest.startswith(record.sha256):
        raise InputError(
            f"what {record.address} sent is not {record.name}: its SHA-256 is {digest[:16]}…, expected "
            f"{record.sha256[:16]}…; nothing was kept"
        )


def _check_address(address: str) -> None:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise InputError(f"weights come over https, not from {address}")


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirections to addresses that are safe as well."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, part: Path, progress: bool) -> None:
    """Append to a file what it lacks of the file at an address; after a break try again, as long as that helps."""
    host = urllib.parse.urlsplit(address).hostname
    tries, most = TRIES, 0
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None if progress else True) as bar:
        while tries:
            try:
                if _receive(address, part, bar):
                    return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416 and part.stat().st_size:  # there is no more: it is whole, or of another file
                    if error.headers.get("Content-Range", "") == f"bytes */{part.stat().st_size}":
                        return
                    os.truncate(part, 0)
                    continue
                raise InputError(f"cannot fetch {address}: the server answered {error.code} {error.reason}") from error
            except urllib.error.URLError as error:
                reason = getattr(error.reason, "strerror", None) or error.reason
                raise InputError(f"cannot reach {host}: {reason}; is there a network?") from error
            except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException):
                pass
            size = part.stat().st_size
            tries = TRIES if size > most else tries - 1
            most = max(size, most)
    raise InputError(f"the connection to {host} broke off after {most} bytes: run this again to go on from there")


def _receive(address: str, part: Path, bar: Any) -> bool:
    """Go on with a download where the file ends, or begin anew if the server cannot; whether the file is complete."""
    begin = part.stat().st_size
    headers = {"User-Agent": "jaxopt-input", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    opener = urllib.request.build_opener(_Redirect)
    with opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {begin}-")
        if begin and not resumed:
            begin = 0
            os.truncate(part, 0)
            if response.status == 206:
                return False
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length else None
        bar.reset(total)
        bar.update(begin)
        with part.open("ab") as file:
            while block := response.read1(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or part.stat().st_size == total
