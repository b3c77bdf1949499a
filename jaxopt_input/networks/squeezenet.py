"""SqueezeNet 1.0 and 1.1 in Flax Linen, and the reader of the Deep Compression weights.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size"
(https://arxiv.org/abs/1602.07360); Han et al. 2016, "Deep Compression" (https://arxiv.org/abs/1510.00149).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.disk import StrPath
from jaxopt_input.errors import InputError
from jaxopt_input.kernels import conv as ops
from jaxopt_input.networks.layers import Weights, along, conv, normalize

MEAN = (104.0, 117.0, 123.0)  # of blue, green and red, on the scale 0-255
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
PARTS = ("squeeze1x1", "expand1x1", "expand3x3")
STEMS = {"1.0": (96, 7), "1.1": (64, 3)}  # channels and size of conv1
POOLS = {"1.0": (4, 8), "1.1": (3, 5)}  # the fires that a pooling follows
IMAGE_SHAPE = (227, 227, 3)


def _layers() -> tuple[str, ...]:
    names = ["conv1", "pool1"]
    for i in FIRES:
        names += [*(f"fire{i}/{part}" for part in PARTS), f"fire{i}", *([f"pool{i}"] if i in POOLS["1.0"] else [])]
    return (*names, "conv10", "logits")


LAYERS = _layers()
"""The taps of version 1.0, in the order of depth."""


class Fire(nn.Module):
    """A squeeze to few channels by 1x1, then 1x1 and 3x3 expansions side by side; returns the three after ReLU."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        squeezed = nn.relu(conv("squeeze1x1", x, self.squeeze, 1))
        expanded = (conv(f"expand{k}x{k}", squeezed, self.expand, k) for k in (1, 3))
        return squeezed, *map(nn.relu, expanded)


class SqueezeNet(nn.Module):
    """SqueezeNet: images `[N, H, W, 3]` in [0, 1] to `{tap: activation}`, in order of depth (`LAYERS` in version 1.0).

    Activations are those after the ReLU; `fireK` is the concatenation of its two expansions; `logits` is the average
    over positions of relu(`conv10`), as published. `conv10` alone is taken before its ReLU: the logit of a class whose
    map is negative everywhere has no gradient (2 to 8 % of the classes on noise images), the mean of its `conv10`
    channel always has one. Sides from 32 up; computes in the dtype that image and parameters promote to.
    Version 1.1 has 2.4 times less work: a smaller first layer and earlier poolings, `pool3` and `pool5` in place of
    `pool4` and `pool8`. Source: https://arxiv.org/abs/1602.07360.

    Attributes:
        version: "1.0" or "1.1".
        caffe: the colors as the published weights expect them, BGR from 0 to 255 less their mean; otherwise as
            torchvision's do, normalized by ImageNet's mean and standard deviation.
        classes: the number of logits.

    >>> module = SqueezeNet()
    >>> image = jnp.zeros((1, 64, 64, 3))
    >>> out = jax.eval_shape(lambda key: module.init_with_output(key, image)[0], jax.random.key(0))
    >>> out["fire4"].shape, out["logits"].shape
    ((1, 14, 14, 256), (1, 1000))
    """

    version: str = "1.0"
    caffe: bool = True
    classes: int = 1000

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        if self.version not in STEMS:
            raise ValueError(f"SqueezeNet has versions 1.0 and 1.1, not {self.version}")
        taps = {}
        kernel, bias = Weights(*STEMS[self.version], name="conv1")(3)
        dtype = jnp.promote_types(kernel.dtype, image.dtype)
        if self.caffe:
            # 255 (x - mean / 255): the scale and the order of the channels (BGR in the file) go into the kernel. The
            # mean, subtracted from the image, costs nothing and keeps the sums small (bfloat16, ties in the pooling).
            mean = along(jnp.array(MEAN[::-1], jnp.promote_types(image.dtype, jnp.float32)) / 255, image)
            image, kernel = image - mean, 255 * kernel[:, :, ::-1]
        else:
            image = normalize(image)
        y = ops.conv(image.astype(dtype), kernel.astype(dtype), 2)
        bias = along(bias.astype(dtype), y)
        # relu(max_pool(y) + b) = max_pool(relu(y + b)): the pass over the large map is paid by its own tap alone.
        taps["conv1"] = nn.relu(y + bias)
        x = taps["pool1"] = nn.relu(ops.max_pool(y, 3, 2, ceil=True) + bias)
        for i, (squeeze, expand) in FIRES.items():
            parts = Fire(squeeze, expand, name=f"fire{i}")(x)
            taps |= {f"fire{i}/{part}": value for part, value in zip(PARTS, parts, strict=True)}
            x = taps[f"fire{i}"] = jnp.concatenate(parts[1:], -1)
            if i in POOLS[self.version]:
                x = taps[f"pool{i}"] = ops.max_pool(x, 3, 2, ceil=True)
        taps["conv10"] = conv("conv10", x, self.classes, 1)
        taps["logits"] = nn.relu(taps["conv10"]).mean((1, 2))
        return taps


def torch_names(module: SqueezeNet) -> dict[str, tuple[str, None]]:
    """Torchvision's name of every layer; there is no batch norm.

    >>> torch_names(SqueezeNet("1.1"))["fire4/expand1x1"]
    ('features.6.expand1x1', None)
    """
    names: dict[str, tuple[str, None]] = {"conv1": ("features.0", None)}
    index = 3
    for i in FIRES:
        for ours, theirs in zip(PARTS, ("squeeze", "expand1x1", "expand3x3"), strict=True):
            names[f"fire{i}/{ours}"] = f"features.{index}.{theirs}", None
        index += 2 if i in POOLS[module.version] else 1
    return names | {"conv10": ("classifier.1", None)}


def read_deep_compression(path: StrPath) -> dict:
    """Reads the parameters of `SqueezeNet()` from a Deep Compression file (`compressed_SqueezeNet.net`).

    Kernels come as `[h, w, in, out]` float32 of numpy. Format: 26 little-endian uint32, the numbers of stored weights;
    then for each layer a codebook (256 float32), the bias (float32), a uint8 codebook index for each stored weight and
    the gaps between them (4 bits each, the low nibble first). Weights that are not stored are codebook entry 0.
    Source: https://github.com/songhan/SqueezeNet-Deep-Compression. Raises an `InputError` where the file is not that.

    >>> import os
    >>> read_deep_compression(os.devnull)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxopt_input.errors.InputError: ...: truncated at the header: 0 bytes, at least 104 expected
    """
    with open(path, "rb") as file:
        data = file.read()
    position = 0

    def take(dtype: str, count: int, what: str) -> np.ndarray:
        nonlocal position
        size = np.dtype(dtype).itemsize * count
        if len(data) < position + size:
            raise InputError(f"{path}: truncated at {what}: {len(data)} bytes, at least {position + size} expected")
        position += size
        return np.frombuffer(data, dtype, count, position - size)

    shapes: dict[str, tuple[int, ...]] = {"conv1": (96, 3, 7, 7)}
    channels = 96
    for i, (squeeze, expand) in FIRES.items():
        parts = (squeeze, channels, 1, 1), (expand, squeeze, 1, 1), (expand, squeeze, 3, 3)
        shapes |= {f"fire{i}/{part}": shape for part, shape in zip(PARTS, parts, strict=True)}
        channels = 2 * expand
    shapes["conv10"] = (1000, channels, 1, 1)

    params: dict = {}
    counts = take("<u4", len(shapes), "the header")
    for (name, shape), count in zip(shapes.items(), counts.tolist(), strict=True):
        codebook, bias = take("<f4", 256, f"the codebook of {name}"), take("<f4", shape[0], f"the bias of {name}")
        index = take("u1", count, f"the weights of {name}")
        packed = take("u1", -(-count // 2), f"the gaps of {name}")
        gaps = np.stack([packed & 15, packed >> 4], 1).reshape(-1)[:count]
        where = np.cumsum(gaps.astype(np.int64) + 1) - 1
        weights = np.full(np.prod(shape), codebook[0], np.float32)
        if count and where[-1] >= weights.size:
            raise InputError(f"{path}: corrupt: a weight of {name} lies at {where[-1]}, beyond its {weights.size}")
        weights[where] = codebook[index]
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise InputError(f"{path}: corrupt: {name} has weights that are not finite")
        kernel = np.ascontiguousarray(weights.reshape(shape).transpose(2, 3, 1, 0))
        *parent, leaf = name.split("/")
        place = params.setdefault(parent[0], {}) if parent else params
        place[leaf] = {"kernel": kernel, "bias": bias.astype(np.float32)}
    if position != len(data):
        raise InputError(f"{path}: {len(data) - position} bytes too many after the last layer")
    return params
