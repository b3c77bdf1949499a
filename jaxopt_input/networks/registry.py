"""The networks by name, where their weights lie, and `load`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.resources
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxopt_input.disk import StrPath, atomic, read_bytes, user_folder
from jaxopt_input.errors import InputError, lookup, system_errors, unknown
from jaxopt_input.models.adapters import from_linen
from jaxopt_input.models.model import Model
from jaxopt_input.names import american
from jaxopt_input.networks.formats import content_hash, file_digest, flatten, read_safetensors, read_state, unflatten

if TYPE_CHECKING:
    from jaxopt_input.data import Dataset


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network of `registry.json`.

    `sha256` is the checksum of the file at `address`, or its first digits where its authors publish no more; `file` is
    its name in the cache, or the name there of the copy with our own layout; `options` are fields of the module.
    """

    name: str
    architecture: str
    file: str
    bundled: bool
    sha256: str
    image_shape: tuple[int, int, int]
    classes: str
    preprocessing: str
    license: str
    source: str
    address: str = ""
    derived: str = ""  # the network whose weights it is computed from
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def path(self) -> Path:
        """Where its weights are, or would be: in the package if bundled, else in the user's cache."""
        return _bundled_folder() / self.file if self.bundled else cache_folder() / self.file


@functools.cache
def entries() -> Mapping[str, Entry]:
    """The networks by name.

    Example:
        >>> entries()["tin100"].image_shape
        (64, 64, 3)
    """
    text = importlib.resources.files("jaxopt_input.networks").joinpath("registry.json").read_text()
    return {k: Entry(name=k, **{**v, "image_shape": tuple(v["image_shape"])}) for k, v in json.loads(text).items()}


def entry(name: str) -> Entry:
    """The entry of a network, or an `InputError` that offers the nearest names."""
    return lookup("model", name, entries(), "`jaxopt-input models list` shows them all")


def cache_folder() -> Path:
    """Where imported weights are kept: in the user's cache."""
    return user_folder() / "weights"


def _bundled_folder() -> Path:
    """The folder of the bundled weights: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_weights"
    return inside if inside.is_dir() else package.parent / "pretrained"


def load(name: StrPath) -> Model:
    """A network with its weights, by name, by file or by Python entry.

    Args:
        name: a name of `entries()`; the path of a safetensors file that `pretrained/train.py` or `import_weights`
            wrote; or "module:function", where the function returns a `Model`.

    Returns:
        A model; a network that is loaded twice compiles once.

    Raises:
        InputError: for an unknown name, weights that are missing, or a file that is corrupt or of another format.

    Example:
        >>> load("tin100").info.image_shape
        (64, 64, 3)
    """
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"a model is a name of `models list`, a file or module:function, not {name!r}")
    name = os.fspath(name)
    if american(name) not in entries():
        if Path(name).is_file():
            return _read(Path(name), Path(name).stem)
        if ":" in name:
            return _from_python(name)
        if Path(name).suffix or os.sep in name:
            raise InputError(f"no weight file {name}: give a file, module:function, or a name of `models list`")
    name = american(name)
    record = entry(name)
    if not record.path().is_file():
        refuse_computed(record)
        raise InputError(
            f"the weights of {name} are not in the cache: run `jaxopt-input models fetch {name}`, or "
            f"`jaxopt-input models import {name} FILE` with a copy of {record.address or record.source}"
        )
    return _read(record.path(), name, record)


def import_weights(name: str, file: StrPath) -> Path:
    """Put a checked copy of a network's weight file into the user's cache.

    Args:
        name: a name of `entries()`.
        file: the file as its authors publish it; for a network of torchvision's, a state dict with torchvision's or
            timm's key names (`read_state` says in which formats), of which a copy with our own layout is kept.

    Returns:
        The path of the copy, written atomically.

    Raises:
        InputError: for an unknown or bundled network, a missing file, one whose SHA-256 is not the registry's, or a
            state dict of another network.

    Example:
        >>> import_weights("tin100", "tin100.safetensors")
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: tin100 is bundled: there is nothing to import
    """
    from jaxopt_input.networks import convert

    record = entry(name)
    if record.bundled:
        raise InputError(f"{name} is bundled: there is nothing to import")
    refuse_computed(record)
    if record.architecture not in convert.ARCHITECTURES:
        data = _checked(Path(file), record.sha256)
        return _keep(record, lambda part: part.write_bytes(data))
    params, digest = convert.convert(record.architecture, read_state(file)), file_digest(file)
    return _keep(record, lambda part: convert.save(part, record.architecture, params, digest))


def normalize(name: str, dataset: Dataset) -> Path:
    """Compute Gatys' normalized variant of a VGG on images, and keep it in the cache as `NAME-normalized`.

    Args:
        name: a network that has such a variant: "vgg16" or "vgg19", its weights in the cache.
        dataset: a few hundred photographs.

    Returns:
        The path of the weights, written atomically.

    Raises:
        InputError: for a network without the variant or without weights, and for a data set without images.

    Source:
        Gatys, Ecker & Bethge, Texture Synthesis Using Convolutional Neural Networks (2015), section 2.

    Example:
        >>> normalize("tin100", None)
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: tin100 has no normalized variant: vgg16 and vgg19 have one
    """
    from jaxopt_input.networks import convert
    from jaxopt_input.networks.vgg import normalized

    variants = {record.derived: record for record in entries().values() if record.derived}
    if name not in variants:
        raise InputError(f"{name} has no normalized variant: {' and '.join(variants)} have one")
    variant, model = variants[name], load(name)
    module: Any = convert.ARCHITECTURES[variant.architecture].module.clone(**variant.options)
    params = normalized(module, model.params, (batch.images for batch in dataset.batches(8)))["params"]
    digest = content_hash(flatten(params))
    return _keep(variant, lambda part: convert.save(part, variant.architecture, params, digest))


def refuse_computed(record: Entry) -> None:
    """Raise an `InputError` for a network whose weights are neither fetched nor imported, but computed from another's.

    Example:
        >>> refuse_computed(entry("vgg19"))
    """
    if record.derived:
        raise InputError(f"{record.name} is computed: run `jaxopt-input models normalize {record.derived} DATA`")


def _keep(record: Entry, write: Callable[[Path], object]) -> Path:
    """Write a network's weights into the cache, atomically."""
    target = record.path()
    with system_errors(f"write to the cache {target.parent}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as part:
            write(part)
    return target


def _checked(file: Path, sha256: str | None) -> bytes:
    """The bytes of a file, or an `InputError` if they are not the published ones."""
    data = read_bytes(file)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise InputError(
            f"{file} is corrupt, truncated or another file: its SHA-256 is {digest[:16]}…, expected {sha256[:16]}… "
            f"({len(data)} bytes read)"
        )
    return data


def _read(file: Path, name: str, record: Entry | None = None) -> Model:
    """The model of a weight file, whose content says what its architecture is."""
    from jaxopt_input.networks import convert

    if (record and record.architecture in convert.ARCHITECTURES) or convert.is_converted(file):
        model, digest = _classic(file, record.options if record else {})
    else:
        data = _checked(file, record.sha256 if record else None)
        digest = hashlib.sha256(data).hexdigest()
        published = entries()["squeezenet"].sha256
        if digest == published or file.suffix == ".net":
            _checked(file, published)
            model = _squeezenet(file)
        else:
            model = _small(file)
    params = jax.device_put(model.params)  # once, not at each call
    return dataclasses.replace(model, params=params, info=dataclasses.replace(model.info, name=name, sha256=digest))


def _classic(file: Path, options: Mapping[str, Any]) -> tuple[Model, str]:
    """A network of torchvision's from converted weights, and the checksum of the file that they come from."""
    from jaxopt_input.networks import convert

    params, metadata = convert.read(file)
    module = convert.ARCHITECTURES[metadata["architecture"]].module.clone(**options)
    return _imagenet(module, params, (224, 224, 3)), metadata["source_sha256"]


def _squeezenet(file: Path) -> Model:
    from jaxopt_input.networks.squeezenet import IMAGE_SHAPE, SqueezeNet, read_deep_compression

    return _imagenet(SqueezeNet(), read_deep_compression(file), IMAGE_SHAPE)


def _imagenet(module: Any, params: Any, image_shape: tuple[int, int, int]) -> Model:
    """A model with the 1000 classes of ImageNet (ILSVRC 2012)."""
    lines = importlib.resources.files("jaxopt_input.networks").joinpath("imagenet1k.txt").read_text().splitlines()
    wnids, labels = zip(*(line.split(" ", 1) for line in lines), strict=True)
    model = from_linen(module, {"params": params}, image_shape=image_shape, labels=labels)
    return _labeled(model, [(wnid,) for wnid in wnids])


def _small(file: Path) -> Model:
    from jaxopt_input.networks.small import SmallNet

    flat, metadata = read_safetensors(file)
    if metadata.get("architecture") != "SmallNet":
        raise InputError(
            f"{file} names no architecture of this library: weights of torchvision's networks go into the cache by "
            "`jaxopt-input models import NAME FILE`, others must be from pretrained/train.py"
        )
    if metadata.get("content") != content_hash(flat):
        raise InputError(f"{file} is corrupt: its tensors are not those it was written with (SHA-256)")
    params = unflatten({key: np.asarray(value, np.float32) for key, value in flat.items()})
    network, shape, labels = SmallNet(**metadata["config"]), metadata["image_shape"], metadata["labels"]
    model = from_linen(network, {"params": params}, image_shape=shape, labels=labels)
    names = zip(metadata.get("wnids", ()), metadata.get("words", ()), strict=True)  # where the classes are ImageNet's
    return _labeled(model, [(wnid, *map(str.strip, words.split(","))) for wnid, words in names])


def _labeled(model: Model, synonyms: list[tuple[str, ...]]) -> Model:
    return dataclasses.replace(model, info=dataclasses.replace(model.info, synonyms=tuple(synonyms)))


def _from_python(name: str) -> Model:
    """What `module:function` returns."""
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        raise InputError(f"{name!r} names no Python entry: a model is module:function, a file or a name")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise InputError(f"no Python module {module_name!r} for the model {name!r}") from error
        raise
    function = getattr(module, function_name, None)
    if not callable(function):
        raise unknown(f"function of {module_name}", function_name, [n for n in vars(module) if not n.startswith("_")])
    model = function()
    if not isinstance(model, Model):
        raise InputError(f"{name} returned {type(model).__name__}, not a Model: make one with from_function or another")
    return model
