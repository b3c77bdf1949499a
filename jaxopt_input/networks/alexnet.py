"""AlexNet in Flax Linen, in torchvision's form: one column, no response normalization.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"
(https://arxiv.org/abs/1404.5997), after Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
Convolutional Neural Networks".
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxopt_input.networks.layers import adaptive_average_pool, conv, dense, max_pool, normalize

CONVOLUTIONS = {1: (64, 11, 4, 2), 2: (192, 5, 1, 2), 3: (384, 3, 1, 1), 4: (256, 3, 1, 1), 5: (256, 3, 1, 1)}
"""Features, size, stride and padding of each layer."""

TORCH_NAMES = {
    **{f"conv{k}": (f"features.{i}", None) for k, i in zip(CONVOLUTIONS, (0, 3, 6, 8, 10), strict=True)},
    "fc6": ("classifier.1", None),
    "fc7": ("classifier.4", None),
    "logits": ("classifier.6", None),
}
"""Torchvision's name of every layer; there is no batch norm."""


class AlexNet(nn.Module):
    """AlexNet: images `[N, H, W, 3]` in [0, 1] to `{tap: activation}`, in order of depth.

    The taps are `conv1` (before its ReLU), `relu1`, `pool1`, `conv2`, … `relu5`, `pool5`, `fc6`, `relu6`, `fc7`,
    `relu7` and `logits`. Sides from 63 up: the last map is averaged to 6x6, as torchvision does. The colors are
    normalized by ImageNet's mean and standard deviation. Source: https://arxiv.org/abs/1404.5997.

    Attributes:
        classes: the number of logits.

    Example:
        >>> import jax.numpy as jnp
        >>> image = jnp.zeros((1, 224, 224, 3))
        >>> taps = jax.eval_shape(lambda key: AlexNet().init_with_output(key, image)[0], jax.random.key(0))
        >>> taps["pool1"].shape, taps["conv5"].shape
        ((1, 27, 27, 64), (1, 13, 13, 256))
    """

    classes: int = 1000

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        taps = {}
        x = normalize(image)
        for k, (features, size, stride, padding) in CONVOLUTIONS.items():
            taps[f"conv{k}"] = conv(f"conv{k}", x, features, size, stride, padding)
            x = taps[f"relu{k}"] = nn.relu(taps[f"conv{k}"])
            if k in (1, 2, 5):
                x = taps[f"pool{k}"] = max_pool(x, 3, 2)
        x = adaptive_average_pool(x, 6)
        for k in (6, 7):
            taps[f"fc{k}"] = dense(f"fc{k}", x, 4096)
            x = taps[f"relu{k}"] = nn.relu(taps[f"fc{k}"])
        taps["logits"] = dense("logits", x, self.classes)
        return taps
