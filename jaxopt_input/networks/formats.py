"""State dicts from files: safetensors, npz and PyTorch's, each read without running what a file may say."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxopt_input.disk import StrPath
from jaxopt_input.errors import InputError, one_line, system_errors

METADATA_KEY = "jaxopt_input"
"""The key of a weight file's metadata, a single JSON object: safetensors keeps no order of several."""

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""The keys under which training scripts keep a state dict beside other things."""


def read_state(file: StrPath) -> dict[str, np.ndarray]:
    """The arrays of a weight file by name; its suffix says the format.

    `.safetensors`; `.npz` without pickled objects; `.pth`, `.pt` or `.bin` through `torch.load(weights_only=True)`, if
    PyTorch is installed.

    Args:
        file: a path.

    Raises:
        InputError: for a file that is missing, damaged, of another format, or that holds more than arrays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(path, **{"fc.bias": np.ones(2)})
        >>> read_state(path)
        {'fc.bias': array([1., 1.])}
    """
    path = Path(file)
    if path.suffix not in _READERS:
        raise InputError(f"{path} is of an unknown format: weights are {', '.join(_READERS)} files")
    with system_errors(f"read {path}"):
        path.open("rb").close()  # so that each reader's own errors are about the content
        return _READERS[path.suffix](path)


def read_safetensors(file: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a safetensors file by name, and what this project's own files say of themselves.

    Raises:
        InputError: for a file that is missing or damaged.

    Example:
        >>> from jaxopt_input.networks.registry import entry
        >>> arrays, metadata = read_safetensors(entry("tin100").path())
        >>> arrays["logits/bias"].shape, metadata["name"]
        ((100,), 'tin100')
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return arrays, json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no readable safetensors file: {one_line(error)}") from error


def flatten(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of nested parameters by path.

    Example:
        >>> list(flatten({"fire2": {"expand1x1": {"bias": np.zeros(1)}}}))
        ['fire2/expand1x1/bias']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters from arrays by path: the inverse of `flatten`.

    Example:
        >>> unflatten({"fire2/expand1x1/bias": 0, "conv10/bias": 1})
        {'fire2': {'expand1x1': {'bias': 0}}, 'conv10': {'bias': 1}}
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nested


def file_digest(file: StrPath) -> str:
    """The SHA-256 of a file.

    Example:
        >>> import os
        >>> file_digest(os.devnull)[:8]
        'e3b0c442'
    """
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def content_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of tensors and their names, which a weight file keeps so that damage shows.

    Example:
        >>> content_hash({"a": np.zeros(2, np.float16)})[:8]
        '6893f414'
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _npz(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as data:  # NumPy leaves a damaged file open that it opened itself
            opened = np.load(data, allow_pickle=False)
            if not isinstance(opened, np.ndarray):
                return {key: opened[key] for key in opened.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise InputError(f"{file} is refused: it is no npz of plain arrays, and a pickle could run code") from error
        raise InputError(f"{file} is no readable npz file: {one_line(error)}") from error
    raise InputError(f"{file} holds one array, not a state dict: save it with numpy.savez")


def needs_torch(file: StrPath) -> bool:
    """Whether only PyTorch reads such a file, and it is not installed.

    Example:
        >>> needs_torch("vgg19.safetensors")
        False
    """
    return Path(file).suffix in TORCH_SUFFIXES and importlib.util.find_spec("torch") is None


def _torch(file: Path) -> dict[str, np.ndarray]:
    if needs_torch(file):
        raise InputError(
            f"{file} is in PyTorch's format: install torch to read it, or save its state dict as safetensors or npz"
        )
    torch: Any = importlib.import_module("torch")

    try:
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file} is refused: it is damaged, or its pickle asks for more than tensors and could run code"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no readable PyTorch file: {one_line(error)}") from error
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise InputError(f"{file} holds {type(loaded).__name__}, not a state dict")
    if other := [key for key, value in loaded.items() if not isinstance(value, torch.Tensor)]:
        raise InputError(f"{file} holds no state dict: {other[0]!r} is {type(loaded[other[0]]).__name__}, no tensor")
    return {
        str(key): (value.detach().float() if value.is_floating_point() else value.detach()).numpy()
        for key, value in loaded.items()
    }


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": lambda file: read_safetensors(file)[0],
    ".npz": _npz,
    **dict.fromkeys(TORCH_SUFFIXES, _torch),
}
