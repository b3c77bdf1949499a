"""Image parameterizations: round trips, Lucid's formulas transcribed, ranges, gradients at the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.images import BY_NAME
from jaxopt_input.images import color as color

NO_INVERSE = ("cppn", "maco")
SHAPES = [(16, 16, 3), (15, 21, 3), (1, 1, 3), (8, 7, 1)]


def picture(shape):
    """Every value from black to white, both included."""
    return np.random.default_rng(0).permutation(np.linspace(0, 1, np.prod(shape), dtype=np.float32)).reshape(shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in NO_INVERSE])
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(name, shape):
    p, image = BY_NAME[name].bind(shape), picture(shape)
    np.testing.assert_allclose(p.decode(p.encode(image)), image, atol=1e-3)
    batch = np.stack([image, 1 - image])
    np.testing.assert_allclose(p.decode(p.encode(batch)), batch, atol=1e-3)


@pytest.mark.slow
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
    np.testing.assert_array_equal(images, p.decode(p.init(jax.random.key(0), 3)))
    others = jax.tree.leaves(p.init(jax.random.key(1), 3))
    assert any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(theta), others, strict=True))
    assert np.shape(p.decode(jax.tree.map(lambda leaf: leaf[0], theta))) == shape  # no leading axis at all


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


def test_chroma_scales_the_two_colors_alone():
    """θ in which only brightness differs from zero decodes alike; of the colors, a step goes as far as chroma says."""
    full, half = joi.images.fourier((8, 6, 3)), joi.images.fourier((8, 6, 3), chroma=0.5)
    theta = full.init(jax.random.key(0), 2)
    brightness, colors = theta.at[..., 1:, :].set(0), theta.at[..., :1, :].set(0)
    np.testing.assert_allclose(half.decode(brightness), full.decode(brightness), atol=1e-6)
    np.testing.assert_allclose(color.logit(half.decode(colors)), 0.5 * color.logit(full.decode(colors)), atol=1e-4)
    image = picture((8, 6, 3))
    np.testing.assert_allclose(half.decode(half.encode(image)), image, atol=1e-3)
    np.testing.assert_array_equal(  # one channel has no colors
        joi.images.fourier((8, 6, 1), chroma=0.5).decode(theta[..., :1, :]),
        joi.images.fourier((8, 6, 1)).decode(theta[..., :1, :]),
    )


def test_color_matrix():
    assert np.abs(color.TO_RGB @ color.FROM_RGB - np.eye(3)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(color.TO_RGB, axis=1).max(), 1, rtol=1e-6)
    np.testing.assert_allclose(0.461952, np.linalg.norm([0.26, 0.27, 0.27]), rtol=1e-6)


@pytest.mark.parametrize("decorrelate", [False, True])
def test_clipped_pixels_are_projected_and_pass_gradients_at_the_bounds(decorrelate):
    p = joi.images.pixels((2, 2, 3), decorrelate=decorrelate)
    theta = p.project(p.encode(jnp.full((2, 2, 3), 0.5)) + 3.0)
    image = p.decode(theta)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    np.testing.assert_allclose(p.decode(p.project(theta)), image, atol=1e-5)
    gradient = jax.grad(lambda t: p.decode(t).sum())(theta)
    expected = np.broadcast_to(color.TO_RGB.sum(1) if decorrelate else 1.0, (2, 2, 3))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_pyramid_is_the_sum_of_its_layers_enlarged():
    """Bilinear enlargement written out: a line through the samples, held at the ends."""
    p = joi.images.pyramid((8, 6, 1), levels=2)
    fine, coarse = (np.asarray(layer[0]) for layer in p.init(jax.random.key(0), 1))

    def enlarge(line, size):
        return np.interp((np.arange(size) + 0.5) / 2 - 0.5, np.arange(len(line)), line)

    large = np.apply_along_axis(enlarge, 0, np.apply_along_axis(enlarge, 1, coarse, 6), 8)
    np.testing.assert_allclose(p.decode((fine, coarse)), 1 / (1 + np.exp(-(fine + large))), atol=1e-6)
    layers = p.encode(picture((8, 6, 1)))
    assert np.abs(layers[0]).mean() < np.abs(color.logit(picture((8, 6, 1)))).mean()  # the coarse layer has its part


def test_cppn_is_lucids():
    """`optvis.param.cppn` transcribed to NumPy for one pixel at a time; the longer side spans −√3 to √3."""
    p = joi.images.cppn((5, 9, 3), layers=2, units=4)
    theta = jax.tree.map(lambda leaf: leaf[0], p.init(jax.random.key(0), 1))
    np.testing.assert_array_equal(np.ptp(p.decode(theta), (0, 1)), 0)  # one color, before the last weights move
    theta = (*theta[:-1], (theta[0][0][:1] * np.ones((8, 1)) @ np.ones((4, 3), np.float32), theta[-1][1]))
    image = p.decode(theta)
    assert float(np.ptp(image)) > 0.05
    step = 2 * 3**0.5 / 9
    for y, x in ((0, 0), (2, 4), (4, 7)):
        hidden = np.array([(x - 4) * step, (y - 2) * step])
        for weights, biases in theta[:-1]:
            angle = np.arctan(hidden @ np.asarray(weights, np.float64) + np.asarray(biases)[0])
            hidden = np.concatenate([angle / 0.67, angle**2 / 0.6])
        expected = 1 / (1 + np.exp(-(hidden @ np.asarray(theta[-1][0]) + np.asarray(theta[-1][1])[0])))
        np.testing.assert_allclose(image[y, x], expected, atol=1e-5)  # float32 against float64


@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 9, 3), (8, 5, 1)])
def test_maco_keeps_the_magnitude(shape):
    """Whatever θ is, the spectrum before the sigmoid has the template's magnitude: 1/f, mean 0, deviation 1."""
    p = joi.images.maco(shape)
    image = np.asarray(p.decode(3 * p.init(jax.random.key(0), 1) + 1)[0], np.float64)
    before = np.log(image / (1 - image))
    before = before @ color.FROM_RGB if shape[2] == 3 else before
    spectrum = np.abs(np.fft.rfft2(before, axes=(0, 1)))
    np.testing.assert_allclose(spectrum, p.template(), atol=1e-3 * p.template().max())  # the sigmoid in float32
    np.testing.assert_allclose(before.std((0, 1)), 1, rtol=1e-3)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[2], np.fft.rfftfreq(shape[1])[1])
    lowest = np.hypot(np.fft.fftfreq(shape[0])[1], np.fft.rfftfreq(shape[1])[1])
    np.testing.assert_allclose(spectrum[2, 1] / spectrum[1, 1], lowest / frequency, rtol=1e-2)


def test_maco_takes_the_magnitude_of_images():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (3, 6, 8, 1)).astype(np.float32)
    magnitude = joi.images.mean_magnitude([images[:2], images[2]])
    before = np.log(images.astype(np.float64) / (1 - images))
    np.testing.assert_allclose(magnitude, np.abs(np.fft.rfft2(before, axes=(1, 2))).mean(0), rtol=1e-4)
    p = joi.images.maco(magnitude=magnitude).bind((6, 8, 1))
    ratio = p.template()[magnitude > 0] / magnitude[magnitude > 0]
    np.testing.assert_allclose(ratio[1:], ratio[1], rtol=1e-5)
    assert p == joi.images.maco((6, 8, 1), magnitude=magnitude.copy())
    assert p != joi.images.maco((6, 8, 1))


def test_equal_when_built_alike():
    for build in (joi.images.pixels, joi.images.fourier, joi.images.cppn, joi.images.maco, joi.images.pyramid):
        assert build((4, 4, 3)) == build([4, 4, 3])
        assert hash(build()) == hash(build())


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: joi.images.pixels(bound="clamp"),
        lambda: joi.images.pixels((4, 4)),
        lambda: joi.images.fourier((0, 4, 3)),
        lambda: joi.images.fourier(chroma=0.0),
        lambda: joi.images.fourier().init(jax.random.key(0), 1),
        lambda: joi.images.pixels().encode(np.full((4, 4, 3), 1.5)),
        lambda: joi.images.pixels().encode(np.zeros((4, 4, 3), np.uint8)),
        lambda: joi.images.pixels().encode(np.zeros((4, 4))),
        lambda: joi.images.by_name("fourrier"),
        lambda: joi.images.pyramid(levels=0),
        lambda: joi.images.pyramid(levels=3, shared_levels=4),
        lambda: joi.images.cppn(units=0),
        lambda: joi.images.cppn((4, 4, 3)).encode(np.zeros((4, 4, 3), np.float32)),
        lambda: joi.images.maco((4, 4, 3)).encode(np.zeros((4, 4, 3), np.float32)),
        lambda: joi.images.maco(magnitude=-np.ones((4, 3, 3))),
        lambda: joi.images.maco(magnitude=np.ones((4, 3, 3))).bind((8, 8, 3)),
        lambda: joi.images.mean_magnitude([]),
        lambda: joi.images.mean_magnitude([np.zeros((4, 4, 3), np.float32), np.zeros((4, 6, 3), np.float32)]),
    ],
)
def test_mistakes(mistake):
    with pytest.raises(joi.InputError):
        mistake()


class Gray(joi.images.Parameterization):
    """A parameterization of one's own: one number per pixel."""

    def init(self, key, batch):
        return jax.random.uniform(key, (batch, *self.bound()[:2], 1))

    def decode(self, theta):
        return jnp.repeat(jnp.clip(theta, 0, 1), self.bound()[2], -1)


def test_a_parameterization_of_ones_own(linear):
    assert Gray() == Gray() != Gray((2, 2, 3))
    assert Gray().bind((6, 6, 3)) == Gray((6, 6, 3))
    s = joi.minimize(-joi.losses.class_logit(0), linear, image=Gray(), optimizer="sgd", steps=9, key=jax.random.key(0))
    np.testing.assert_array_equal(s.image[..., 0], s.image[..., 2])
    assert bool((s.loss[:, -1] < s.loss[:, 0]).all())


def test_names_and_parameterizations_are_taken():
    assert joi.images.as_parameterization("maco") == joi.images.maco()
    assert joi.images.as_parameterization(None) == joi.images.fourier()
    p = joi.images.pixels(sd=0.1)
    assert joi.images.as_parameterization(p) is p


@pytest.mark.parametrize("wrong", ["pixel", 7, np.zeros((6, 6, 3)), joi.images.fourier])
def test_what_is_no_parameterization(wrong):
    with pytest.raises(joi.InputError):
        joi.images.as_parameterization(wrong)
