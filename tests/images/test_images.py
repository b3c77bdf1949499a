"""Image parameterizations: round trips, Lucid's formulas transcribed, ranges, gradients at the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.images import BY_NAME, colour

SHAPES = [(16, 16, 3), (15, 21, 3), (1, 1, 3), (8, 7, 1)]


def picture(shape):
    """Every value from black to white, both included."""
    return np.random.default_rng(0).permutation(np.linspace(0, 1, np.prod(shape), dtype=np.float32)).reshape(shape)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(name, shape):
    p, image = BY_NAME[name].bind(shape), picture(shape)
    np.testing.assert_allclose(p.decode(p.encode(image)), image, atol=1e-3)
    batch = np.stack([image, 1 - image])
    np.testing.assert_allclose(p.decode(p.encode(batch)), batch, atol=1e-3)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("shape", SHAPES)
def test_init(name, shape):
    p = BY_NAME[name].bind(shape)
    theta = p.init(jax.random.key(0), 3)
    images = p.decode(theta)
    assert images.shape == (3, *shape)
    assert images.dtype == jnp.float32
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert float(abs(images.mean() - 0.5)) < 0.2
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(theta))
    np.testing.assert_array_equal(theta, p.init(jax.random.key(0), 3))
    assert bool((theta != p.init(jax.random.key(1), 3)).any())


def test_fourier_is_lucids():
    """`optvis.param.spatial.fft_image` and `optvis.param.color`, transcribed to NumPy in float64."""
    h, w = 12, 18
    p = joi.images.fourier((h, w, 3))
    theta = np.asarray(p.init(jax.random.key(0), 1))[0].astype(np.float64) * 2
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[: w // 2 + 1]
    frequency = np.sqrt(fx * fx + fy * fy)
    scale = np.sqrt(w * h) / np.maximum(frequency, 1.0 / max(w, h))
    spectrum = (theta[..., 0] + 1j * theta[..., 1]) * scale[..., None]
    image = np.fft.irfftn(spectrum, (h, w), axes=(0, 1)) / 4.0
    svd_sqrt = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    normalized = svd_sqrt / np.max(np.linalg.norm(svd_sqrt, axis=0))
    image = 1 / (1 + np.exp(-(image.reshape(-1, 3) @ normalized.T).reshape(h, w, 3)))
    np.testing.assert_allclose(p.decode(theta.astype(np.float32)), image, atol=1e-5)  # float32 against float64
    np.testing.assert_allclose(np.std(np.asarray(p.init(jax.random.key(0), 8))), 0.1, rtol=0.02)


def test_colour_matrix():
    assert np.abs(colour.TO_RGB @ colour.FROM_RGB - np.eye(3)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(colour.TO_RGB, axis=1).max(), 1, rtol=1e-6)
    np.testing.assert_allclose(0.461952, np.linalg.norm([0.26, 0.27, 0.27]), rtol=1e-6)


@pytest.mark.parametrize("decorrelate", [False, True])
def test_clipped_pixels_are_projected_and_pass_gradients_at_the_bounds(decorrelate):
    p = joi.images.pixels((2, 2, 3), decorrelate=decorrelate)
    theta = p.project(p.encode(jnp.full((2, 2, 3), 0.5)) + 3.0)
    image = p.decode(theta)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    np.testing.assert_allclose(p.decode(p.project(theta)), image, atol=1e-5)
    gradient = jax.grad(lambda t: p.decode(t).sum())(theta)
    expected = np.broadcast_to(colour.TO_RGB.sum(1) if decorrelate else 1.0, (2, 2, 3))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_equal_when_built_alike():
    for build in (joi.images.pixels, joi.images.fourier):
        assert build((4, 4, 3)) == build([4, 4, 3])
        assert hash(build()) == hash(build())


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: joi.images.pixels(bound="clamp"),
        lambda: joi.images.pixels((4, 4)),
        lambda: joi.images.fourier((0, 4, 3)),
        lambda: joi.images.fourier().init(jax.random.key(0), 1),
        lambda: joi.images.pixels().encode(np.full((4, 4, 3), 1.5)),
        lambda: joi.images.pixels().encode(np.zeros((4, 4, 3), np.uint8)),
        lambda: joi.images.pixels().encode(np.zeros((4, 4))),
        lambda: joi.images.by_name("fourrier"),
    ],
)
def test_mistakes(mistake):
    with pytest.raises(joi.InputError):
        mistake()
