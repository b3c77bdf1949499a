"""VGG-16 and VGG-19 in Flax Linen, with max or average pooling, and Gatys' normalized weights.

Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", configurations D
and E (https://arxiv.org/abs/1409.1556); average pooling and normalized weights: Gatys et al. 2015, "Texture Synthesis
Using Convolutional Neural Networks" (https://arxiv.org/abs/1505.07376).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.networks.layers import adaptive_average_pool, average_pool, conv, dense, max_pool, normalize

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """VGG-16 or -19: images `[N, H, W, 3]` in [0, 1] to `{tap: activation}`, in order of depth.

    The taps of block 3 are `conv3_1` (before its ReLU), `relu3_1`, `conv3_2`, … and `pool3`; then `fc6`, `relu6`,
    `fc7`, `relu7` and `logits`. Sides from 32 up: the last map is averaged to 7x7, as torchvision does. The colors are
    normalized by ImageNet's mean and standard deviation. Source: https://arxiv.org/abs/1409.1556.

    Attributes:
        depth: 16 or 19.
        pool: "max", or "average" as for textures and style.
        classes: the number of logits.

    Example:
        >>> module = VGG(16)
        >>> image = jnp.zeros((1, 64, 64, 3))
        >>> taps = jax.eval_shape(lambda key: module.init_with_output(key, image)[0], jax.random.key(0))
        >>> taps["relu3_1"].shape, taps["pool5"].shape, taps["fc6"].shape
        ((1, 16, 16, 256), (1, 2, 2, 512), (1, 4096))
    """

    depth: int = 19
    pool: str = "max"
    classes: int = 1000

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        if self.depth not in CONVOLUTIONS or self.pool not in ("max", "average"):
            raise ValueError(f"a VGG has depth 16 or 19 and pool max or average, not {self.depth} and {self.pool}")
        taps = {}
        x = normalize(image)
        for block, (width, count) in enumerate(zip(WIDTHS, CONVOLUTIONS[self.depth], strict=True), start=1):
            for k in range(1, count + 1):
                taps[f"conv{block}_{k}"] = conv(f"conv{block}_{k}", x, width, 3)
                x = taps[f"relu{block}_{k}"] = nn.relu(taps[f"conv{block}_{k}"])
            x = taps[f"pool{block}"] = max_pool(x, 2, 2) if self.pool == "max" else average_pool(x)
        x = adaptive_average_pool(x, 7)
        for k in (6, 7):
            taps[f"fc{k}"] = dense(f"fc{k}", x, 4096)
            x = taps[f"relu{k}"] = nn.relu(taps[f"fc{k}"])
        taps["logits"] = dense("logits", x, self.classes)
        return taps


def torch_names(module: VGG) -> dict[str, tuple[str, None]]:
    """Torchvision's name of every layer; there is no batch norm.

    Example:
        >>> torch_names(VGG(16))["conv3_1"], torch_names(VGG(19))["logits"]
        (('features.10', None), ('classifier.6', None))
    """
    names: dict[str, tuple[str, None]] = {}
    index = 0
    for block, count in enumerate(CONVOLUTIONS[module.depth], start=1):
        for k in range(1, count + 1):
            names[f"conv{block}_{k}"] = f"features.{index}", None
            index += 2
        index += 1
    return names | {"fc6": ("classifier.0", None), "fc7": ("classifier.3", None), "logits": ("classifier.6", None)}


def normalized(module: VGG, variables: Any, batches: Iterable[np.ndarray | jax.Array]) -> Any:
    """Gatys' normalization: every channel of every ReLU has mean activation 1 over these images and all positions.

    Kernel and bias of a channel are divided by its mean, and what reads the channel multiplies by it: ReLU and pooling
    commute with that, so all logits stay as they are. A channel that is dead on these images is left alone.

    Args:
        module: which VGG; a texture model has average pooling.
        variables: its variables.
        batches: images `[M, H, W, 3]` in [0, 1], some at a time; a few hundred photographs in all.

    Returns:
        The variables of the normalized network.

    Raises:
        InputError: if there is no image.

    Source:
        Gatys, Ecker & Bethge, Texture Synthesis Using Convolutional Neural Networks (2015), section 2.
    """
    layers = [name for name in torch_names(module) if name.startswith("conv")]

    @jax.jit
    def sums(variables: Any, images: jax.Array) -> list[jax.Array]:
        taps: Any = module.apply(variables, images)
        return [taps[name.replace("conv", "relu")].mean((1, 2)).sum(0) for name in layers]

    total: list[Any] = [0.0] * len(layers)
    count = 0
    for images in batches:
        total = [t + np.asarray(part) for t, part in zip(total, sums(variables, jnp.asarray(images)), strict=True)]
        count += len(images)
    if not count:
        raise InputError("there is no image to normalize on: name a folder of photographs")
    params = {name: dict(layer) for name, layer in variables["params"].items()}
    before: Any = 1.0
    for name, summed in zip(layers, total, strict=True):
        means = np.where(np.asarray(summed) > 0, summed / count, 1).astype(np.float32)
        kernel = params[name]["kernel"] * np.reshape(before, (-1, 1)) / means
        params[name] = {"kernel": kernel, "bias": params[name]["bias"] / means}
        before = means
    params["fc6"]["kernel"] = params["fc6"]["kernel"] * np.reshape(before, (-1, 1))
    return {**variables, "params": params}
