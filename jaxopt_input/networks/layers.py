"""What the networks share: convolution and dense layer by name, normalization of the colors, pooling."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.kernels import conv as ops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Weights(nn.Module):
    """The parameters of a layer: `kernel` `[size, size, channels, features]` and `bias` `[features]`.

    The kernel of a dense layer (`size` 0) is `[channels, features]`.
    """

    features: int
    size: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
        shape = (*(self.size,) * 2 * bool(self.size), channels, self.features)
        kernel = self._parameter("kernel", shape, nn.initializers.he_uniform())
        return kernel, self._parameter("bias", (self.features,), nn.initializers.zeros)

    def _parameter(self, name: str, shape: tuple[int, ...], initial: Any) -> jax.Array:
        """The parameter: `Module.param` would trace its initializer each time, a third of a network's tracing."""
        if not self.has_variable("params", name):
            return self.param(name, initial, shape, jnp.float32)
        value: jax.Array = self.get_variable("params", name)
        if value.shape != shape:
            raise ValueError(f"{name} of {'/'.join(self.path)} has shape {value.shape}, not {shape}")
        return value


def along(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """One number per channel, `[C]`, of the rank of a map `[..., C]`, as `jax_numpy_rank_promotion` may demand.

    Example:
        >>> along(jnp.ones(3), jnp.ones((2, 4, 4, 3))).shape
        (1, 1, 1, 3)
    """
    return jnp.expand_dims(numbers, tuple(range(x.ndim - 1)))


def conv(name: str, x: jax.Array, features: int, size: int, stride: int = 1, padding: int | None = None) -> jax.Array:
    """A convolution with bias, `[N, H, W, C]` to `[N, H', W', features]`, with parameters under `name`.

    To be called inside a module's compact method. `padding` is that of every side; half the kernel if None.
    """
    kernel, bias = Weights(features, size, name=name)(x.shape[-1])
    pad = size // 2 if padding is None else padding
    y = ops.conv(x, kernel.astype(x.dtype), stride, ((pad, pad), (pad, pad)))
    return y + along(bias.astype(x.dtype), y)


def dense(name: str, x: jax.Array, features: int) -> jax.Array:
    """A dense layer with bias, with parameters under `name`: of `[N, C]`, or of a whole map `[N, S, S, C]`.

    A map's kernel is that of a convolution without padding, `[S, S, C, features]`. To be called inside a module's
    compact method.
    """
    kernel, bias = Weights(features, x.shape[1] if x.ndim == 4 else 0, name=name)(x.shape[-1])
    y = x.reshape(len(x), -1) @ kernel.astype(x.dtype).reshape(-1, features)
    return y + along(bias.astype(x.dtype), y)


def normalize(
    image: jax.Array, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> jax.Array:
    """(image - mean) / std for each color; ImageNet's numbers, as torchvision's networks expect them.

    Example:
        >>> normalize(jnp.ones((1, 2, 2, 3)), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))[0, 0, 0].tolist()
        [1.0, 2.0, 4.0]
    """
    center, spread = (along(jnp.array(numbers, image.dtype), image) for numbers in (mean, std))
    return (image - center) / spread


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0, ceil: bool = False) -> jax.Array:
    """Max pooling as PyTorch's `MaxPool2d`, `[N, H, W, C]` to `[N, h, w, C]`: `ops.max_pool` with padding.

    Example:
        >>> max_pool(jnp.arange(9.0).reshape(1, 3, 3, 1), 3, 2, padding=1)[0, :, :, 0].tolist()
        [[4.0, 5.0], [7.0, 8.0]]
    """
    if padding:
        pad = (padding, padding)
        x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=-jnp.inf)
    return ops.max_pool(x, window, stride, ceil)


def average_pool(x: jax.Array) -> jax.Array:
    """The mean of each 2x2 patch, `[N, H, W, C]` to `[N, H//2, W//2, C]`; an odd last row or column falls off.

    Example:
        >>> average_pool(jnp.arange(6.0).reshape(1, 2, 3, 1)).tolist()
        [[[[2.0]]]]
    """
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


@functools.lru_cache(maxsize=64)
def adaptive_weights(size: int, out: int) -> np.ndarray:
    """The matrix `[out, size]` of adaptive average pooling along one axis, by PyTorch's rule.

    Output i is the mean of the inputs from floor(i size / out) up to, not including, ceil((i + 1) size / out).

    Example:
        >>> adaptive_weights(3, 2).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    index = np.arange(out)[:, None]
    begin, end = index * size // out, -(-(index + 1) * size // out)
    inside = (np.arange(size) >= begin) & (np.arange(size) < end)
    return (inside / (end - begin)).astype(np.float32)


def adaptive_average_pool(x: jax.Array, out: int) -> jax.Array:
    """Averages a map of any size to `out` x `out` positions, `[N, H, W, C]` to `[N, out, out, C]`.

    As PyTorch's `AdaptiveAvgPool2d`: a matrix product along each axis, so that its gradient is a matrix product, too.

    Example:
        >>> adaptive_average_pool(jnp.arange(6.0).reshape(1, 2, 3, 1), 2)[0, :, :, 0].tolist()
        [[0.5, 1.5], [3.5, 4.5]]
    """
    if x.shape[1] != out:
        rows = jnp.asarray(adaptive_weights(x.shape[1], out), x.dtype)
        x = jnp.einsum("ih,nhwc->niwc", rows, x, precision="highest")
    if x.shape[2] != out:
        columns = jnp.asarray(adaptive_weights(x.shape[2], out), x.dtype)
        x = jnp.einsum("jw,nhwc->nhjc", columns, x, precision="highest")
    return x
