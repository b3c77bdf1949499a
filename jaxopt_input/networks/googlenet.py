"""GoogLeNet (Inception v1) in Flax Linen, for inference.

Szegedy et al. 2015, "Going Deeper with Convolutions" (https://arxiv.org/abs/1409.4842), in torchvision's form: batch
norms, which are folded into the convolutions, instead of response normalization; 3x3 convolutions where the paper has
5x5; no auxiliary classifiers.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxopt_input.networks.layers import conv, dense, max_pool, normalize

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1 of the paper: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection."""

PARTS = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
_BRANCHES = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")

TORCH_NAMES: dict[str, tuple[str, str | None]] = {
    **{f"{ours}": (f"{name}.conv", f"{name}.bn") for ours, name in
       (("conv1", "conv1"), ("conv2_reduce", "conv2"), ("conv2", "conv3"))},
    **{f"inception{i}/{part}": (f"inception{i}.{branch}.conv", f"inception{i}.{branch}.bn")
       for i in INCEPTIONS for part, branch in zip(PARTS, _BRANCHES, strict=True)},
    "logits": ("fc", None),
}  # fmt: skip
"""Torchvision's names of every layer and of the batch norm that is folded into it."""


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and "5x5"; 3x3 max pooling and 1x1. Returns the six `PARTS`."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        width = dict(zip(PARTS, self.widths, strict=True))

        def layer(name: str, x: jax.Array, size: int) -> jax.Array:
            return nn.relu(conv(name, x, width[name], size))

        parts = {"1x1": layer("1x1", x, 1)}
        for name in ("3x3", "5x5"):
            parts[f"{name}_reduce"] = layer(f"{name}_reduce", x, 1)
            parts[name] = layer(name, parts[f"{name}_reduce"], 3)
        return parts | {"pool_proj": layer("pool_proj", max_pool(x, 3, 1, padding=1), 1)}


class GoogLeNet(nn.Module):
    """GoogLeNet: images `[N, H, W, 3]` in [0, 1] to `{tap: activation}`, in order of depth, all after the ReLU.

    The taps are `conv1`, `pool1`, `conv2_reduce`, `conv2`, `pool2`; of each module `inception3a/1x1`,
    `inception3a/3x3_reduce`, `inception3a/3x3`, `inception3a/5x5_reduce`, `inception3a/5x5`, `inception3a/pool_proj`
    and their concatenation `inception3a`; `pool3` and `pool4`; `pool5`, the average over positions, and `logits`. Sides
    from 15 up. Colors are scaled to [-1, 1]: what torchvision's
    `transform_input` makes of ImageNet's mean and standard deviation. Source: https://arxiv.org/abs/1409.4842.

    Attributes:
        classes: the number of logits.

    Example:
        >>> image = jnp.zeros((1, 224, 224, 3))
        >>> taps = jax.eval_shape(lambda key: GoogLeNet().init_with_output(key, image)[0], jax.random.key(0))
        >>> taps["inception4c"].shape, taps["pool4"].shape
        ((1, 14, 14, 512), (1, 7, 7, 832))
    """

    classes: int = 1000

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        taps = {"conv1": nn.relu(conv("conv1", normalize(image, (0.5,) * 3, (0.5,) * 3), 64, 7, 2))}
        x = taps["pool1"] = max_pool(taps["conv1"], 3, 2, ceil=True)
        x = taps["conv2_reduce"] = nn.relu(conv("conv2_reduce", x, 64, 1))
        x = taps["conv2"] = nn.relu(conv("conv2", x, 192, 3))
        x = taps["pool2"] = max_pool(x, 3, 2, ceil=True)
        for i, widths in INCEPTIONS.items():
            name = f"inception{i}"
            parts = Inception(widths, name=name)(x)
            taps |= {f"{name}/{part}": parts[part] for part in PARTS}
            x = taps[name] = jnp.concatenate([parts[part] for part in PARTS if not part.endswith("reduce")], -1)
            if i == "3b":
                x = taps["pool3"] = max_pool(x, 3, 2, ceil=True)
            if i == "4e":
                x = taps["pool4"] = max_pool(x, 2, 2, ceil=True)
        taps["pool5"] = x.mean((1, 2))
        taps["logits"] = dense("logits", taps["pool5"], self.classes)
        return taps
