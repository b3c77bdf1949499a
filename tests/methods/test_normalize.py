"""The scales of a gradient, against transcriptions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input.methods.dream.normalize import merge, normalize, split

K = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def taps(size):
    """TensorFlow's SAME padding at stride 2 and size 5: which input (or none) each output reads at each tap."""
    half = -(-size // 2)
    before = ((half - 1) * 2 + 5 - size) // 2
    return [(i, t, 2 * i + t - before) for i in range(half) for t in range(5) if 0 <= 2 * i + t - before < size]


def conv2d(x):
    out = np.zeros((-(-x.shape[0] // 2), -(-x.shape[1] // 2), x.shape[2]))
    for i, a, y in taps(x.shape[0]):
        for j, b, z in taps(x.shape[1]):
            out[i, j] += K[a, b] * x[y, z]
    return out


def conv2d_transpose(low, shape):
    out = np.zeros(shape)
    for i, a, y in taps(shape[0]):
        for j, b, z in taps(shape[1]):
            out[y, z] += 4 * K[a, b] * low[i, j]
    return out


def lap_normalize(x, n=4):
    """As in the TensorFlow tutorial of 2016."""
    levels = []
    for _ in range(n):
        low = conv2d(x)
        levels.append(x - conv2d_transpose(low, x.shape))
        x = low
    levels = [band / max(np.sqrt((band**2).mean()), 1e-10) for band in [x, *levels[::-1]]]
    image = levels[0]
    for band in levels[1:]:
        image = conv2d_transpose(image, band.shape) + band
    return image


normalize = jax.jit(normalize, static_argnums=(1, 2))


def test_laplacian():
    gradient = np.random.default_rng(0).normal(size=(16, 11, 3))  # halves to even and odd sides
    scaled = normalize(jnp.asarray(gradient, jnp.float32), "laplacian", 4)
    np.testing.assert_allclose(scaled, lap_normalize(gradient), atol=1e-4)  # float32 over nine filters


def test_merge_inverts_split():
    image = np.random.default_rng(1).normal(size=(13, 10, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(lambda x: merge(split(x, 3)))(image), image, atol=1e-6)


def test_plain_scales():
    g = np.random.default_rng(2).normal(1, 2, (7, 5, 3))
    scaled = {by: normalize(jnp.asarray(g, jnp.float32), by, 0) for by in ("mean-abs", "std")}
    np.testing.assert_allclose(scaled["mean-abs"], g / np.abs(g).mean(), rtol=1e-5)
    np.testing.assert_allclose(scaled["std"], g / g.std(), rtol=1e-5)


@pytest.mark.parametrize("by", ["mean-abs", "std", "laplacian"])
def test_scale_does_not_matter_and_zero_stays_zero(by):
    g = jnp.asarray(np.random.default_rng(3).normal(size=(8, 8, 3)), jnp.float32)
    np.testing.assert_allclose(
        normalize(g * 1e-30, by, 2), normalize(g, by, 2), atol=1e-4
    )  # its squares would underflow
    assert not np.any(normalize(0 * g, by, 2))
