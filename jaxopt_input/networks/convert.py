"""From a state dict with torchvision's names to the parameters of our Flax modules, and the file they are kept in.

Convolutions `[O, I, h, w]` become `[h, w, I, O]`, dense layers `[O, I]` become `[I, O]`; the first dense layer after a
map becomes the convolution over the whole map that it is. A batch norm after a convolution is folded into it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.disk import StrPath
from jaxopt_input.errors import InputError, lookup
from jaxopt_input.networks import alexnet, googlenet, resnet, squeezenet, vgg
from jaxopt_input.networks.formats import METADATA_KEY, content_hash, flatten, read_safetensors, unflatten


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of torchvision's and our module for it."""

    module: nn.Module  # computes what torchvision's network computes at inference
    # by the path of each layer in our parameters, torchvision's names of its weights and of the batch norm that follows
    # it, or None
    names: Mapping[str, tuple[str, str | None]]
    epsilon: float = 1e-5  # what its batch norms add to the variance
    ignored: tuple[str, ...] = ()  # prefixes of keys that inference does not need


def _architectures() -> dict[str, Architecture]:
    table = {"alexnet": Architecture(alexnet.AlexNet(), alexnet.TORCH_NAMES)}
    for depth in vgg.CONVOLUTIONS:
        table[f"vgg{depth}"] = Architecture(vgg.VGG(depth), vgg.torch_names(vgg.VGG(depth)))
    table["googlenet"] = Architecture(googlenet.GoogLeNet(), googlenet.TORCH_NAMES, 1e-3, ("aux1.", "aux2."))
    for version in squeezenet.STEMS:
        module = squeezenet.SqueezeNet(version, caffe=False)
        table[f"squeezenet{version.replace('.', '_')}"] = Architecture(module, squeezenet.torch_names(module))
    for depth in resnet.BLOCKS:
        table[f"resnet{depth}"] = Architecture(resnet.ResNet(depth), resnet.torch_names(resnet.ResNet(depth)))
    return table


ARCHITECTURES: Mapping[str, Architecture] = _architectures()
"""The networks whose state dicts can be read, by torchvision's names."""

_TIMM = (("pre_logits.fc1.", "classifier.0."), ("pre_logits.fc2.", "classifier.3."), ("head.fc.", "classifier.6."))


def architecture(name: str) -> Architecture:
    """An architecture by torchvision's name, or an `InputError` that offers the nearest ones.

    Example:
        >>> architecture("vgg19").names["conv3_1"]
        ('features.10', None)
    """
    return lookup("architecture", name, ARCHITECTURES)


def convert(name: str, state: Mapping[str, np.ndarray], classes: int = 1000, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters of our module from a state dict with torchvision's or timm's key names.

    Args:
        name: the architecture, by torchvision's name.
        state: the arrays, in any floating-point dtype.
        classes: the number of logits.
        dtype: the dtype of the parameters.

    Returns:
        `{layer: {"kernel", "bias"}}`, nested as the module's own.

    Raises:
        InputError: for keys that are missing or too many, wrong shapes, numbers that are not finite, or a state dict of
            another architecture.

    Example:
        >>> convert("resnet18", {"fc.weight": np.zeros((1000, 512))})
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: not a state dict of resnet18: 101 keys are missing: conv1.weight, bn1.weight, …
    """
    network = architecture(name)
    state = {key: np.asarray(value) for key, value in canonical(state).items() if not key.startswith(network.ignored)}
    expected = expected_shapes(name, classes)
    _check(name, state, expected)
    flat: dict[str, np.ndarray] = {}
    for path, shape in parameter_shapes(name, classes).items():
        layer, _, kind = path.rpartition("/")
        if kind != "kernel":
            continue
        weights, norm = network.names[layer]
        kernel = state[f"{weights}.weight"].astype(np.float64)
        if norm is None:
            bias = state[f"{weights}.bias"]
        else:
            statistics = (state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
            kernel, bias = fold_batch_norm(kernel, *statistics, epsilon=network.epsilon)
        if len(shape) == 4:
            kernel = kernel.reshape(shape[3], shape[2], *shape[:2]).transpose(2, 3, 1, 0)
        else:
            kernel = kernel.reshape(shape[1], shape[0]).T
        flat[path] = np.ascontiguousarray(kernel, dtype)
        flat[f"{layer}/bias"] = np.asarray(bias, dtype)
        if not all(np.isfinite(flat[f"{layer}/{part}"]).all() for part in ("kernel", "bias")):
            raise InputError(f"the weights of {weights} are not all finite")
    return unflatten(flat)


def fold_batch_norm(
    weight: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the convolution that equals a convolution without bias and then a batch norm at inference.

    gamma (w x - mean) / sqrt(variance + epsilon) + beta = (s w) x + (beta - s mean), s = gamma / sqrt(variance +
    epsilon). Source: Ioffe and Szegedy 2015, "Batch Normalization", algorithm 2 (https://arxiv.org/abs/1502.03167).

    Args:
        weight: `[O, ...]`.
        gamma, beta, mean, variance: `[O]`.
        epsilon: added to the variance.

    Example:
        >>> two, one, zero = np.full(1, 2.0), np.ones(1), np.zeros(1)
        >>> fold_batch_norm(np.full((1, 1), 3.0), two, one, one, two * 2, epsilon=0.0)
        (array([[3.]]), array([0.]))
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is the caller's error
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), beta - scale * mean


def canonical(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under torchvision's names: also of timm's VGG and of a wrapped model ("module."), without counters.

    Example:
        >>> list(canonical({"module.bn1.num_batches_tracked": 1, "module.pre_logits.fc1.bias": 2}))
        ['classifier.0.bias']
    """
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        for theirs, ours in _TIMM:
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
        if not key.endswith("num_batches_tracked"):
            renamed[key] = value
    return renamed


@functools.lru_cache(maxsize=32)
def parameter_shapes(name: str, classes: int = 1000) -> Mapping[str, tuple[int, ...]]:
    """The shapes of our parameters, by path.

    Example:
        >>> parameter_shapes("alexnet")["conv1/kernel"]
        (11, 11, 3, 64)
    """
    module = architecture(name).module.clone(classes=classes)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(part.key for part in path): leaf.shape for path, leaf in leaves}


def expected_shapes(name: str, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of a state dict of torchvision's.

    Example:
        >>> expected_shapes("vgg16")["classifier.0.weight"]
        (4096, 25088)
    """
    shapes = parameter_shapes(name, classes)
    keys: dict[str, tuple[int, ...]] = {}
    for layer, (weights, norm) in architecture(name).names.items():
        *size, channels, features = shapes[f"{layer}/kernel"]
        dense = layer.startswith(("fc", "logits"))
        keys[f"{weights}.weight"] = (features, channels * math.prod(size)) if dense else (features, channels, *size)
        parts = [f"{weights}.bias"]
        if norm is not None:
            parts = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        keys |= dict.fromkeys(parts, (features,))
    return keys


def looks_like(state: Mapping[str, np.ndarray]) -> str | None:
    """The architecture whose keys and shapes a state dict shares the most, or None if that is less than half.

    Example:
        >>> looks_like({key: np.empty(shape, bool) for key, shape in expected_shapes("resnet18").items()})
        'resnet18'
    """
    own = {key: np.shape(value) for key, value in canonical(state).items()}
    scores = {}
    for name in ARCHITECTURES:
        mine = {k: v for k, v in own.items() if not k.startswith(ARCHITECTURES[name].ignored)}
        expected = expected_shapes(name)
        shared = sum(_fits(mine.get(key), shape) for key, shape in expected.items())
        scores[name] = shared / len(mine.keys() | expected.keys())
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= 0.5 else None


def _fits(shape: tuple[int, ...] | None, expected: tuple[int, ...]) -> bool:
    """Whether a shape is the expected one; a dense layer may come as the convolution that it is, as in timm's VGG."""
    if shape is None or len(expected) != 2 or len(shape) != 4:
        return shape == expected
    return shape[0] == expected[0] and math.prod(shape[1:]) == expected[1]


def _check(name: str, state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an `InputError` of one line for a state dict that is not this architecture's."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    wrong = [key for key in expected if key in state and not _fits(state[key].shape, expected[key])]
    problems = []
    for what, keys in (("missing", missing), ("too many", extra)):
        if keys:
            problems.append(f"{'1 key is' if len(keys) == 1 else f'{len(keys)} keys are'} {what}: {_some(keys)}")
    if wrong:
        problems.append(_some([f"{key} has shape {state[key].shape}, expected {expected[key]}" for key in wrong]))
    if problems:
        best = looks_like(state)
        if best not in (None, name):
            raise InputError(f"not a state dict of {name}: it looks like {best}; {problems[0]}")
        raise InputError(f"not a state dict of {name}: {'; '.join(problems)}")
    if odd := [key for key in expected if not jnp.issubdtype(state[key].dtype, jnp.floating)]:
        raise InputError(f"not a state dict of {name}: {odd[0]} holds {state[odd[0]].dtype} numbers")


def _some(items: list[str]) -> str:
    """The first two, and that there are more."""
    return ", ".join(items[:2]) + (", …" if len(items) > 2 else "")


def save(file: StrPath, name: str, params: Mapping[str, Any], sha256: str) -> None:
    """Keep converted parameters as safetensors, by path ("fire2/expand1x1/bias"), with a checksum of the tensors.

    Args:
        file: the path to write.
        name: the architecture.
        params: what `convert` returned.
        sha256: the checksum of the file that they come from.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/a.safetensors"
        >>> save(file, "vgg19", {"fc8": {"bias": np.zeros(2, np.float32)}}, "0" * 64)
        >>> read(file)[1]["architecture"]
        'vgg19'
    """
    from safetensors.numpy import save_file

    flat = flatten(params)
    metadata = {"architecture": name, "source_sha256": sha256, "content": content_hash(flat)}
    save_file(flat, file, {METADATA_KEY: json.dumps(metadata)})


def read(file: StrPath) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that `save` kept, and the file's metadata: architecture and source_sha256.

    Raises:
        InputError: for a file that is missing, damaged, or not written by `save`.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/a.safetensors"
        >>> save(file, "vgg19", {"fc8": {"bias": np.ones(2, np.float32)}}, "0" * 64)
        >>> read(file)[0]["fc8"]["bias"].tolist()
        [1.0, 1.0]
    """
    flat, metadata = read_safetensors(file)
    if metadata.get("architecture") not in ARCHITECTURES:
        raise InputError(f"{file} holds no converted weights: put them into the cache by `jaxopt-input models import`")
    if metadata.get("content") != content_hash(flat):
        raise InputError(f"{file} is corrupt: its tensors are not those it was written with (SHA-256)")
    return unflatten(flat), metadata


def is_converted(file: StrPath) -> bool:
    """Whether the header of a file says that `save` wrote it.

    Example:
        >>> is_converted("missing.safetensors")
        False
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            own = json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError):
        return False
    return own.get("architecture") in ARCHITECTURES
