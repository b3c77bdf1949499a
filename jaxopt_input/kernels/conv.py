"""Convolution and max pooling whose gradients with respect to the input are fast on a CPU.

Optimizing an image needs the input gradient of every layer, and XLA's CPU back end computes several of them far from
the machine's speed. Each function computes what plain `jax.lax` computes, up to rounding; only the arithmetic differs,
of the input gradient and, in large 3x3 convolutions (`winograd`), of the values as well, and only on a CPU. What is
traced holds both forms; `jax.lax.platform_dependent` leaves one when the program is lowered. Reverse mode only:
`jax.custom_vjp` has no forward mode (`jax.jvp`, `jax.hessian`).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Float

# Max pooling


def max_pool(x: Float[Array, "N H W C"], window: int, stride: int, ceil: bool = False) -> Float[Array, "N h w C"]:
    """Maximum over `window` x `window` patches, `[N, H, W, C]` to `[N, h, w, C]`, without padding.

    With `ceil` the last window may hang over the border, as in Caffe and PyTorch (`ceil_mode`). Where several elements
    of a window are the largest, the first in row-major order gets the gradient, as in PyTorch. Any window up to three
    times the stride is fast (2x2 stride 2, 3x3 stride 2, 3x3 stride 1).

    >>> max_pool(jnp.arange(25.0).reshape(1, 5, 5, 1), 3, 2)[0, :, :, 0].tolist()
    [[12.0, 14.0], [22.0, 24.0]]
    """
    some = min(_pooled(size, window, stride, ceil) for size in x.shape[1:3]) > 0
    if some and stride <= window <= min(3 * stride, 11):  # 11 x 11 elements are numbered in 7 bits
        return _max_pool(x, window, stride, ceil)
    return plain_max_pool(x, window, stride, ceil)


def _pooled(size: int, window: int, stride: int, ceil: bool) -> int:
    out = (size - window + (stride - 1 if ceil else 0)) // stride + 1
    return out - 1 if (out - 1) * stride >= size else out  # the last window starts inside


def plain_max_pool(x: Float[Array, "N H W C"], window: int, stride: int, ceil: bool = False) -> Float[Array, "N h w C"]:
    """`max_pool` in plain `jax.lax`."""
    hang = [max(0, (_pooled(size, window, stride, ceil) - 1) * stride + window - size) for size in x.shape[1:3]]
    padding = ((0, 0), (0, hang[0]), (0, hang[1]), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: int, stride: int, ceil: bool) -> jax.Array:
    return lax.platform_dependent(
        x,
        cpu=lambda x: _max_and_winner(x, window, stride, ceil)[0],
        default=lambda x: plain_max_pool(x, window, stride, ceil),
    )


def _max_and_winner(x: jax.Array, window: int, stride: int, ceil: bool) -> tuple[jax.Array, jax.Array]:
    """The pooled map and, as int8, which of the window's elements (row-major) was the first largest."""
    batch, height, width, channels = x.shape
    h, w = (_pooled(size, window, stride, ceil) for size in (height, width))
    hang = [max(0, (n - 1) * stride + window - size) for n, size in ((h, height), (w, width))]
    x = jnp.pad(x, ((0, 0), (0, hang[0]), (0, hang[1]), (0, 0)), constant_values=-jnp.inf)

    def element(i: int, j: int) -> jax.Array:
        stop = (batch, i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, channels)
        return lax.slice(x, (0, i, j, 0), stop, (1, stride, stride, 1))

    y = element(0, 0)
    winner = jnp.zeros(y.shape, jnp.int8)
    for k in range(1, window * window):
        candidate = element(*divmod(k, window))
        winner = jnp.where(candidate > y, jnp.int8(k), winner)
        y = jnp.maximum(y, candidate)  # NaN stays NaN
    return y, winner


def _max_pool_forward(x: jax.Array, window: int, stride: int, ceil: bool) -> tuple[jax.Array, tuple]:
    """The pooled map, and what the backward pass reads: the winners on a CPU, the input elsewhere."""

    def plain(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = plain_max_pool(x, window, stride, ceil)
        return y, jnp.zeros_like(y, jnp.int8)

    y, winner = lax.platform_dependent(x, cpu=lambda x: _max_and_winner(x, window, stride, ceil), default=plain)
    return y, (x, winner)


def _max_pool_backward(window: int, stride: int, ceil: bool, residual: tuple, g: jax.Array) -> tuple[jax.Array]:
    def plain(x: jax.Array, winner: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: plain_max_pool(x, window, stride, ceil), x)[1](g)[0]

    def indexed(x: jax.Array, winner: jax.Array, g: jax.Array) -> jax.Array:
        return _to_winners(winner, g, window, stride, x.shape)

    return (lax.platform_dependent(*residual, g, cpu=indexed, default=plain),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _to_winners(winner: jax.Array, g: jax.Array, window: int, stride: int, shape: tuple[int, ...]) -> jax.Array:
    """Input element `stride * a + p` lies in window `a` (at offset p) and, where p is small enough, in those before it.

    So every input element asks the windows it lies in, at most four where windows are up to twice the stride, whether
    it won there. Written over `[N, a, p, b, q, C]` this is one elementwise loop that reads the small maps and writes
    the large one once, with no scatter.
    """
    batch, height, width, channels = shape
    h, w = g.shape[1:3]
    reach = range(-(-window // stride))  # (0, 1), or (0,) where windows do not overlap
    last = len(reach) - 1
    rows, columns = max(h + last, -(-height // stride)), max(w + last, -(-width // stride))
    border = ((0, 0), (last, rows - h), (last, columns - w), (0, 0))
    g, winner = jnp.pad(g, border), jnp.pad(winner, border, constant_values=-1)
    phase = np.arange(stride)
    total = jnp.zeros((), g.dtype)
    for a, b in itertools.product(reach, reach):
        i, j = (phase + a * stride)[:, None], (phase + b * stride)[None, :]
        won = np.where((i < window) & (j < window), i * window + j, -2).astype(np.int8)
        here = (slice(None), slice(last - a, last - a + rows), None, slice(last - b, last - b + columns), None)
        total = total + jnp.where(winner[here] == won.reshape(1, 1, stride, 1, stride, 1), g[here], 0)
    return total.reshape(batch, rows * stride, columns * stride, channels)[:, :height, :width]


# Convolution

WINOGRAD_FLOPS = 1 << 29  # what a convolution must take at least, counted as it is usually counted
WINOGRAD_BYTES = 1 << 29  # the room that its tiles and products may take

Pads = tuple[tuple[int, int], tuple[int, int]]


def conv(
    x: Float[Array, "N H W C"], kernel: Float[Array, "h w C D"], stride: int = 1, padding: str | Pads = "VALID"
) -> Float[Array, "N I J D"]:
    """Convolution `[N, H, W, C]` with a kernel `[h, w, C, D]` to `[N, H', W', D]`.

    `padding` is "SAME", "VALID" or a pair of numbers for the rows and one for the columns. On a CPU a 1x1 kernel is a
    matrix product, stride 1 is `dense_conv`, a first layer (stride above 1, up to 4 channels) is `stem`.

    >>> conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 8))).shape
    (1, 3, 3, 8)
    """
    size, channels = kernel.shape[:2], kernel.shape[2]
    if isinstance(padding, str):
        (top, bottom), (left, right) = lax.padtype_to_pads(x.shape[1:3], size, (stride, stride), padding)
    else:
        (top, bottom), (left, right) = padding
    pads = (int(top), int(bottom)), (int(left), int(right))
    if stride == 1 or channels <= 4:
        return _conv(x, kernel, stride, pads)
    return plain_conv(x, kernel, stride, pads)


def _conv_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    if stride > 1:
        border = ((0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0))
        return stem(lax.pad(x, jnp.zeros((), x.dtype), border), kernel, stride)  # pads may be negative
    if kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        return jnp.dot(x, kernel[0, 0])
    return dense_conv(x, kernel, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _conv_on_cpu(x, kernel, stride, pads),
        default=lambda x, kernel: plain_conv(x, kernel, stride, pads),
    )


def _conv_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple]:
    return _conv(x, kernel, stride, pads), (x, kernel)


def _conv_backward(stride: int, pads: Pads, residual: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of the form that the platform takes."""

    def pull(form: Any, x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: form(x, kernel, stride, pads), x, kernel)[1](g)

    cpu, default = (functools.partial(pull, form) for form in (_conv_on_cpu, plain_conv))
    return lax.platform_dependent(*residual, g, cpu=cpu, default=default)


_conv.defvjp(_conv_forward, _conv_backward)


def linen_conv(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **others: Any) -> jax.Array:
    """`conv` in the form that `nn.Conv(..., conv_general_dilated=linen_conv)` calls; what `conv` lacks goes to `lax`.

    >>> import flax.linen as nn
    >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=linen_conv)
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 3)))[0].shape
    (1, 5, 5, 8)
    """
    plain = others.get("feature_group_count", 1) == 1 and others.get("precision") is None
    undilated = {*(others.get("lhs_dilation") or ()), *(others.get("rhs_dilation") or ())} <= {1}
    if plain and undilated and len(set(strides)) == 1 and x.ndim == 4:
        pads: Any = padding if isinstance(padding, str) else tuple(map(tuple, padding))
        return conv(x, kernel, strides[0], pads)
    return lax.conv_general_dilated(x, kernel, strides, padding, **others)


def plain_conv(
    x: Float[Array, "N H W C"], kernel: Float[Array, "h w C D"], stride: int, padding: str | Pads
) -> Float[Array, "N I J D"]:
    """`conv` in plain `jax.lax`."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense_conv(x: Float[Array, "N H W C"], kernel: Float[Array, "h w C D"], padding: Pads) -> Float[Array, "N I J D"]:
    """Convolution of stride 1, `[N, H, W, C]` with `[h, w, C, D]`.

    Its input gradient is a convolution with the flipped kernel, input and output channels exchanged. XLA folds that
    exchange into the convolution, which then fits none of its fast kernels and runs as plain loops, 3 to 6 times slower
    (jaxlib 0.10). A barrier keeps the exchanged kernel an array of its own, made once outside an enclosing loop. Either
    way the convolution is `winograd` where that is faster.

    >>> dense_conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 8)), ((1, 1), (1, 1))).shape
    (1, 5, 5, 8)
    """
    form = winograd if _suits_winograd(x, kernel) else _unit_conv
    return form(x, kernel, padding)


def _unit_conv(x: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
    return plain_conv(x, kernel, 1, padding)


def _dense_forward(x: jax.Array, kernel: jax.Array, padding: Pads) -> tuple[jax.Array, tuple]:
    return dense_conv(x, kernel, padding), (x, kernel)


def _dense_backward(padding: Pads, residual: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residual
    _, pull_kernel = jax.vjp(lambda kernel: _unit_conv(x, kernel, padding), kernel)
    (top, bottom), (left, right) = padding
    h, w = kernel.shape[0] - 1, kernel.shape[1] - 1
    rest = (h - top, h - bottom), (w - left, w - right)
    exchanged = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return dense_conv(g, exchanged, rest), pull_kernel(g)[0]


dense_conv.defvjp(_dense_forward, _dense_backward)


def _suits_winograd(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether `winograd` is worth its while, by shape (jaxlib 0.10 and 0.12, two cores).

    What it saves is in proportion to C · D, what its tiles cost to C + D. It takes a third of a second to compile,
    which a convolution of less than `WINOGRAD_FLOPS`, a few milliseconds, does not repay; nor does a small map repay
    the transform of its kernel where no loop encloses it. Maps whose tiles would take more than `WINOGRAD_BYTES` stay
    with XLA's kernel, which needs no room.
    """
    if kernel.shape[:2] != (3, 3) or not x.dtype == kernel.dtype == jnp.float32:
        return False
    positions, channels = math.prod(x.shape[:3]), kernel.shape[2:]
    saves = math.prod(channels) >= 36 * sum(channels)  # from 72 to 72, from 48 to 144, from 37 to any
    worth = positions >= 128 and 18 * positions * math.prod(channels) >= WINOGRAD_FLOPS
    return saves and worth and 16 * positions * sum(channels) <= WINOGRAD_BYTES


def winograd(x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"], padding: Pads) -> Float[Array, "N I J D"]:
    """3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 products for four outputs, not 36.

    Every tile of 4x4 inputs is transformed by additions alone, each of its 16 elements is multiplied by a matrix over
    the channels, all tiles at once, and 2x2 outputs are sums of the products. An output sees the nine inputs that it
    should and no others; the rounding is that of float32 in another order. The four elements of a row are one batched
    product: all sixteen in one leave the cache, one by one they take longer to compile.

    Source:
        Lavin & Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4.1.

    >>> winograd(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 1)), ((1, 1), (1, 1)))[0, :2, :3, 0].tolist()
    [[8.0, 12.0, 12.0], [12.0, 18.0, 18.0]]
    """
    (top, bottom), (left, right) = padding
    height, width = x.shape[1] + top + bottom - 2, x.shape[2] + left + right - 2
    batch, rows, columns = x.shape[0], -(-height // 2), -(-width // 2)
    rest = (2 * rows - height, 2 * columns - width)
    pads = ((0, 0, 0), (top, bottom + rest[0], 0), (left, right + rest[1], 0), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    filters = [jnp.stack(_of_kernel(*part)) for part in _of_kernel(*kernel)]  # four times [4, C, D]
    filters = lax.optimization_barrier(filters)  # arrays of their own, made once outside an enclosing loop
    sums = []
    for matrices, row in zip(filters, _of_tile(*(x[:, k : k + 2 * rows - 1 : 2] for k in range(4))), strict=True):
        tiles = jnp.stack(_of_tile(*(row[:, :, k : k + 2 * columns - 1 : 2] for k in range(4))))
        sums.append(_of_products(*lax.dot_general(tiles, matrices, (((4,), (1,)), ((0,), (0,))))))
    outputs = [jnp.stack(_of_products(*column), 2) for column in zip(*sums, strict=True)]
    y = jnp.stack(outputs, 4).reshape(batch, 2 * rows, 2 * columns, -1)
    return y[:, :height, :width]


def _of_kernel(a: jax.Array, b: jax.Array, c: jax.Array) -> list[jax.Array]:
    return [a, (a + b + c) / 2, (a - b + c) / 2, c]


def _of_tile(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> list[jax.Array]:
    return [a - c, b + c, c - b, b - d]


def _of_products(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> list[jax.Array]:
    return [a + b + c, b - c - d]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def stem(x: Float[Array, "N H W C"], kernel: Float[Array, "h w C D"], stride: int) -> Float[Array, "N I J D"]:
    """Convolution of stride s without padding, for few input channels, `[N, H, W, C]` with `[h, w, C, D]`.

    Its input gradient is not the dilated convolution that XLA emits (1 - 1 / s^2 of it zeros). With row u = s a + p and
    column v = s b + q of the kernel, output (i, j) reads input (s (i + a) + p, s (j + b) + q). So the gradient, laid
    out by phase (p, q), is a dense convolution over (a, b) of the output's gradient to s^2 C channels, then depth to
    space. Those are too few columns for a fast matrix product: only b is left to the convolution, a is among the
    output channels, and the rows are added up after it, shifted.

    >>> stem(jnp.ones((1, 9, 9, 3)), jnp.ones((7, 7, 3, 8)), 2).shape
    (1, 2, 2, 8)
    """
    h, w = ((size - n) // stride + 1 for size, n in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    # One more row of zeros costs nothing, and without any padding XLA's kernel is 2 to 3 times slower (jaxlib 0.10).
    return plain_conv(x, kernel, stride, ((0, 1), (0, 0)))[:, :h, :w]


def _stem_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple]:
    return stem(x, kernel, stride), (x, kernel)


def _stem_backward(stride: int, residual: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residual
    _, pull_kernel = jax.vjp(lambda kernel: plain_conv(x, kernel, stride, "VALID"), kernel)
    batch, height, width, channels = x.shape
    h, w, features = g.shape[1:]
    m, n = (-(-size // stride) for size in kernel.shape[:2])  # the numbers of a and of b
    depth = stride * stride * channels
    kernel = jnp.pad(kernel, ((0, m * stride - kernel.shape[0]), (0, n * stride - kernel.shape[1]), (0, 0), (0, 0)))
    kernel = kernel.reshape(m, stride, n, stride, channels, features)[:, :, ::-1].transpose(2, 5, 0, 1, 3, 4)
    kernel = lax.optimization_barrier(kernel.reshape(1, n, features, m * depth))  # [1, b, D, (a, p, q, C)]
    z = plain_conv(g, kernel, 1, ((0, 0), (n - 1, n - 1))).reshape(batch, h, w + n - 1, m, depth)
    rows, columns = h + m - 1, w + n - 1
    shifted = [jnp.pad(z[:, :, :, a], ((0, 0), (a, m - 1 - a), (0, 0), (0, 0))) for a in range(m)]
    z = functools.reduce(jnp.add, shifted)
    z = z.reshape(batch, rows, columns, stride, stride, channels).swapaxes(2, 3)
    z = z.reshape(batch, rows * stride, columns * stride, channels)[:, :height, :width]
    z = jnp.pad(z, ((0, 0), (0, height - z.shape[1]), (0, width - z.shape[2]), (0, 0)))  # what no window reached
    return z, pull_kernel(g)[0]


stem.defvjp(_stem_forward, _stem_backward)
