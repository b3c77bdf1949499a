"""Tiles: a gradient cut up is the whole gradient, wherever the cuts are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input.methods.dream import tiles


def circular(x, kernel):
    """A convolution on the torus, `[h, w, C]`."""
    reach = kernel.shape[0] // 2
    x = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="wrap")
    return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


KERNELS = [0.5 * jax.random.normal(jax.random.key(n), (3, 3, 3, 3)) for n in range(2)]


def total(x):
    """Receptive field 5: a pixel's gradient depends on pixels up to 4 away."""
    return jnp.sum(jnp.square(jnp.tanh(circular(jnp.tanh(circular(x, KERNELS[0])), KERNELS[1]))))


whole = jax.jit(jax.value_and_grad(total))


def tiled(image, tile, overlap):
    cuts = [tiles.cut(size, tile, overlap) for size in image.shape[:2]]
    return jax.jit(lambda x: tiles.value_and_gradient(total, x, *cuts))(image)


@pytest.mark.parametrize(
    ("size", "tile"), [(40, 40), (40, 39), (40, 13), (37, 10), (41, 20), (7, 1), (1537, 512), (200, 40)]
)
@pytest.mark.parametrize("overlap", [0, 5, 8])
def test_cut(size, tile, overlap):
    axis = tiles.cut(size, tile, min(overlap, tile))
    assert axis.core <= tile
    assert 0 < size - (axis.count - 1) * axis.core <= axis.core
    if axis.count > 1:
        assert axis.core % 32 == 0 or tile < 32
    total = np.zeros(size)
    for k, window in enumerate(axis.windows()):
        np.add.at(total, (k * axis.core - axis.margin + np.arange(axis.extent)) % size, window)
        assert window.min() >= 0
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_one_tile_is_the_image_itself():
    image = jax.random.normal(jax.random.key(2), (40, 35, 3))
    for ours, expected in zip(tiled(image, 40, 5), whole(image), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("tile", [33, 14])
def test_the_gradient_does_not_depend_on_the_cuts(tile):
    # Half of the overlap is thrown away: 4 pixels, what a pixel's gradient depends on. Float32 rounding remains.
    image = jax.random.normal(jax.random.key(2), (40, 35, 3))
    np.testing.assert_allclose(tiled(image, tile, 8)[1], whole(image)[1], atol=1e-5)


def test_too_small_an_overlap_shows():
    """The test above can fail: without margins the gradient at the cuts is another one."""
    image = jax.random.normal(jax.random.key(2), (40, 35, 3))
    assert np.abs(tiled(image, 18, 0)[1] - whole(image)[1]).max() > 0.1
