"""How a worker of `speed.py` takes its turns: one process a side, asked by lines on its standard input.

The worker prepares itself from the request in its first argument, says that it is ready or what is missing, and then
answers every line with the seconds of one run. What it says begins with `MARK`; libraries may print what they like.
Imports nothing but the standard library, so that every environment can run it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MARK = "@turn "

Prepare = Callable[[dict[str, Any]], tuple[Callable[[], float], dict[str, Any]]]


class Missing(Exception):
    """A peer that cannot run here, and why."""


def serve(prepare: Prepare) -> None:
    """The worker's side: `prepare` makes (a run that returns its seconds, what to tell beforehand) of a request."""
    try:
        run, told = prepare(json.loads(sys.argv[1]))
    except (ImportError, Missing) as error:
        _say({"missing": f"{type(error).__name__}: {error}"})
        return
    _say({"ready": told})
    for _ in sys.stdin:
        _say({"seconds": run()})


def _say(what: dict[str, Any]) -> None:
    print(MARK + json.dumps(what), flush=True)


class Worker:
    """The asking side: starts the process and waits until it is ready; a context, which ends it.

    Raises:
        Missing: if the environment, or a module in it, is not there.
        RuntimeError: with the last line of its standard error, if it fails otherwise.
    """

    def __init__(self, command: Sequence[str], request: dict[str, Any]) -> None:
        if not Path(command[0]).is_file():
            raise Missing(f"no file {command[0]}")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            [*command, json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            first = self._hear()
            if "missing" in first:
                raise Missing(first["missing"])
        except BaseException:
            self.__exit__()
            raise
        self.told: dict[str, Any] = first["ready"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(OSError):  # it may have died
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def seconds(self) -> float:
        """Of one run."""
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it may have died: what it said last is heard below
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return float(self._hear()["seconds"])

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"exit status {self._process.returncode}"]
        raise RuntimeError(lines[-1])
