"""The folder of a run: claimed before anything is computed, written file by file, with a record of what is there."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxopt_input.disk import atomic
from jaxopt_input.errors import InputError, printable

RECORD = "run.json"
DOCUMENT = "index.html"


class Folder:
    """Where a run writes.

    `claim` makes it, or says why it cannot be written. Until `begin` an earlier run stays there whole, and `release`
    leaves everything as it was. The record names a file once it is there; what is being written, and what is being
    removed, stands under "writing", so that a later run can clear away what a kill leaves.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path, self.overwrite = path, overwrite
        self.files: dict[str, None] = {}  # sets in order
        self.writing: dict[str, None] = {}
        self.begun = self._removing = False
        self._made: list[Path] = []

    def claim(self, record: Mapping[str, Any]) -> None:
        """Make the folder, or say why not, and put a record into it unless an earlier run is there."""
        path = self.path
        try:
            if path.is_symlink() and not path.exists():
                raise InputError(f"{path} is a link to what does not exist: --out takes a folder")
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is a file: --out takes a folder")
            if path.is_dir() and any(path.iterdir()) and not self.overwrite:
                raise InputError(f"{path} is not empty: choose another --out, or --overwrite its results")
            missing = [part for part in (path, *path.parents) if not part.exists()]
            for part in reversed(missing):
                part.mkdir()
                self._made.insert(0, part)
            with tempfile.TemporaryFile(dir=path):
                pass
            if not (path / RECORD).exists():
                with (path / RECORD).open("x") as stream:  # of two runs one comes first
                    self.begun = True
                    stream.write(self._text(record))
        except FileExistsError as error:
            self.release()
            raise InputError(f"{path} was taken by another run at this moment: choose another --out") from error
        except OSError as error:
            self.release()
            raise InputError(f"cannot write to {path}: {error.strerror or error}; choose another --out") from error

    def release(self) -> None:
        """Leave the folder as it was before `claim`, and remove it if `claim` made it."""
        if self.begun:
            self._remove([*self.files, *self.writing, RECORD])
        for part in self._made:
            with contextlib.suppress(OSError):
                part.rmdir()

    def begin(self, record: Mapping[str, Any]) -> None:
        """Take the place of an earlier run: its record goes first, then its files."""
        if not self.begun:
            self.begun = True
            self.writing, self._removing = dict.fromkeys(earlier_files(self.path)), True
            self.record(record)
            self._remove(self.writing)
            self.writing, self._removing = {}, False

    def record(self, record: Mapping[str, Any]) -> None:
        """Write the record: what the run says, and the files that are there."""
        with atomic(self.path / RECORD) as part:
            part.write_text(self._text(record))

    def _text(self, record: Mapping[str, Any]) -> str:
        writing = {"writing": list(self.writing)} if self.writing else {}
        return json.dumps({**record, "files": list(self.files), **writing}, indent=1, allow_nan=False) + "\n"

    def save(self, name: str, item: Any) -> None:
        """Write one item of a page under its name, whole or not at all."""
        from jaxopt_input.data import save_png
        from jaxopt_input.draw.animation import save_animation
        from jaxopt_input.runs.page import Figure, Film, Picture

        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        if isinstance(item, Picture):
            save_png(file, item.image, item.text)
        elif isinstance(item, Film):
            save_animation(file, item.frames, fps=item.fps)
        else:
            with atomic(file) as part:
                if isinstance(item, Figure):
                    item.draw().savefig(part, format="png", metadata={"Software": None})
                elif isinstance(item, str):
                    part.write_text(item, encoding="utf-8", errors="backslashreplace")
                else:
                    save_arrays(part, item)
        self.add(name)

    def add(self, name: str) -> None:
        """Count a file that is there among the run's."""
        self.files[name] = None
        self.writing.pop(name, None)

    def settle(self) -> None:
        """Come to an end in the midst of writing: what is half written goes, what is whole is counted."""
        for part in _half_written(self.path, {*self.files, *self.writing}):
            part.unlink(missing_ok=True)
        if self._removing:
            self._remove(self.writing)
        self.files |= dict.fromkeys(name for name in self.writing if (self.path / name).is_file())
        self.writing = {}

    def _remove(self, names: Iterable[str]) -> None:
        names = list(names)
        for file in (*(self.path / name for name in names), *_half_written(self.path, set(names))):
            file.unlink(missing_ok=True)
        folders = {(self.path / name).parent for name in names} - {self.path}
        for folder in folders:
            with contextlib.suppress(OSError):  # holds what is no run's
                folder.rmdir()


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as an .npz, whatever their names: `np.savez` takes no "file", and none that is not UTF-8."""
    import numpy as np

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{printable(name)}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def earlier_files(folder: Path) -> list[str]:
    """The files of an earlier run, and of its parts in sub-folders, as far as their own records name them."""
    try:
        info = json.loads((folder / RECORD).read_text())
        names = [*info.get("files", ()), *info.get("writing", ())]
        parts = [str(part) for part in info.get("parts", ())]
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    files = [name for name in names if isinstance(name, str) and name and _inside(name)]
    for part in filter(_inside, parts):
        files += [f"{part}/{name}" for name in (*earlier_files(folder / part), RECORD)]
    return list(dict.fromkeys(files))


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name != RECORD


def _half_written(folder: Path, names: set[str]) -> list[Path]:
    """What `data.atomic` left of files that it could not finish."""
    left = []
    plain = {Path(name).name for name in names} | {RECORD, DOCUMENT}
    for parent in {folder, *((folder / name).parent for name in names)}:
        with contextlib.suppress(OSError):
            for entry in parent.iterdir():
                match = re.fullmatch(r"\.(.+)-[a-z0-9_]{8}(\.\w+)", entry.name)
                if match and match[1] + match[2] in plain:
                    left.append(entry)
    return left
