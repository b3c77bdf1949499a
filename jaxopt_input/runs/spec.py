"""What a run is, as a value: it can be written, read, compared, and run again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxopt_input.errors import InputError, unknown

VERSION = 1
Value = str | int | float | bool | list[str] | list[float]


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a command was asked to do.

    Attributes:
        command: such as "visualize" or "look maps".
        options: by the names of the command line, an argument by its own name, without defaults and the folder.
        model: the network by name, file or Python entry; None for a command that takes none or several.
        seed: of all random numbers.
        version: of this format.

    Example:
        >>> spec = Spec("visualize", {"target": ["class:3"], "steps": 8}, "tin100", 4)
        >>> Spec.of(json.loads(json.dumps(spec.to_dict()))) == Spec.of(tomllib.loads(spec.to_toml())) == spec
        True
        >>> print(spec.to_toml())
        command = "visualize"
        model = "tin100"
        seed = 4
        version = 1
        <BLANKLINE>
        [options]
        target = ["class:3"]
        steps = 8
    """

    command: str
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    model: str | None = None
    seed: int = 0
    version: int = VERSION

    @classmethod
    def of(cls, mapping: Any, source: str = "the spec") -> Spec:
        """The spec of a mapping by the names of the attributes, which messages call `source`.

        Raises:
            InputError: for an unknown key, a value of another type, a missing command, or a newer version.

        Example:
            >>> Spec.of({"command": "dream", "sead": 1})
            Traceback (most recent call last):
            jaxopt_input.errors.InputError: unknown key of the spec 'sead'; nearest: seed
        """
        kinds = {"command": str, "options": dict, "model": str | None, "seed": int, "version": int}
        if not isinstance(mapping, Mapping):
            raise InputError(f"{source} holds {type(mapping).__name__}, not keys and values")
        version = mapping.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise InputError(f"{source} has version {version}, newer than {VERSION}: update jaxopt_input to read it")
        for key, value in mapping.items():
            if key not in kinds:
                raise unknown(f"key of {source}", key, kinds)
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                raise InputError(f"{key} of {source} cannot be {json.dumps(value, default=str)}")
        if "command" not in mapping:
            raise InputError(f"{source} names no command, such as command = 'visualize'")
        for key, value in mapping.get("options", {}).items():
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(part, str | int | float) for part in values):
                raise InputError(f"option {key} of {source} is no text, number, truth value or list of these")
        return cls(**{**mapping, "options": dict(mapping.get("options", {}))})

    @classmethod
    def read(cls, file: str | Path) -> Spec:
        """The spec of a file: a `run.json`, or a spec as JSON or, with the suffix .toml, as TOML.

        Raises:
            InputError: for a file that cannot be read, or that holds no spec.
        """
        info = read_mapping(file)
        return cls.of(info.get("spec", info) if isinstance(info, Mapping) else info, str(file))

    def to_dict(self) -> dict[str, Any]:
        """The spec as a mapping for JSON."""
        return {**dataclasses.asdict(self), "options": dict(self.options)}

    def to_toml(self) -> str:
        """The spec as TOML."""
        own = [(key, value) for key, value in self.to_dict().items() if key != "options" and value is not None]
        lines = [f"{key} = {_toml(value)}" for key, value in own]
        return "\n".join([*lines, "", "[options]", *(f"{_key(k)} = {_toml(v)}" for k, v in self.options.items())])


def read_mapping(file: str | Path) -> Any:
    """What a JSON or TOML file holds.

    Raises:
        InputError: for a file that cannot be read or parsed.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
        return tomllib.loads(text) if Path(file).suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} is neither a run.json nor a spec in JSON or TOML: {reason}") from error


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@functools.cache
def code() -> str:
    """The SHA-256 of this package's source files: another code may compute other bits."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def conditions(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a `run.json` says of all on which its bits depend besides its spec."""
    versions = {name: info.get(name) for name in ("version", "jax")}
    model = info.get("model")
    weights = model.get("sha256") if isinstance(model, Mapping) else None
    return {"weights": weights, "versions": versions, "device": info.get("device"), "code": info.get("code")}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In what the conditions of two `run.json` differ, one line each.

    Example:
        >>> differences({"jax": "0.10.1", "device": "cpu cpu x 1"}, {"jax": "0.10.2", "device": "cpu cpu x 1"})
        ["versions: {'version': None, 'jax': '0.10.1'} before, {'version': None, 'jax': '0.10.2'} now"]
    """
    old, new = conditions(before), conditions(after)
    return [f"{name}: {_short(old[name])} before, {_short(new[name])} now" for name in old if old[name] != new[name]]


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else str(value)
