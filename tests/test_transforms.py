"""Transforms against SciPy's affine warp, their ranges, shapes and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import jaxopt_input as joi
from jaxopt_input import transforms as t

IMAGE = np.random.default_rng(0).uniform(size=(13, 17, 3)).astype(np.float32)
KEY = jax.random.key(0)


def scipy_warp(image, matrix, fill):
    """The same map for SciPy, which counts (row, column) from the corner."""
    h, w, _ = image.shape
    center = np.array([(h - 1) / 2, (w - 1) / 2])
    linear = np.array([[matrix[1, 1], matrix[1, 0]], [matrix[0, 1], matrix[0, 0]]])
    offset = center + np.array([matrix[1, 2], matrix[0, 2]]) - linear @ center
    pad = 30  # SciPy has no one-pixel ramp from the edge to the fill value unless the canvas has it
    mode = {"mode": "edge"} if fill is None else {"constant_values": fill}
    canvas = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), **mode)
    shifted = offset + pad
    channels = [
        scipy.ndimage.affine_transform(canvas[..., c], linear, shifted, output_shape=(h, w), order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(channels, -1)


@pytest.mark.parametrize("fill", [None, 0.5])
@pytest.mark.parametrize("angle", [0, 7, -30, 90])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_warp_is_scipys(fill, angle, factor):
    a = np.deg2rad(angle)
    matrix = np.array([[np.cos(a), -np.sin(a), 1.5], [np.sin(a), np.cos(a), -2.25]]) / factor
    # float32 coordinates of up to 17 pixels: positions agree to 1e-5 of a pixel.
    np.testing.assert_allclose(
        t.warp(IMAGE, matrix.astype(np.float32), fill=fill), scipy_warp(IMAGE, matrix, fill), atol=1e-4
    )


def test_compose_is_one_after_another_to_interpolation():
    """A smooth image, on which interpolating once and four times agree."""
    y, x = np.mgrid[:48, :48] / 48
    image = (0.5 + 0.4 * np.sin(5 * x) * np.cos(4 * y))[..., None].astype(np.float32)
    parts = [t.rotate([8]), t.scale([1.1]), t.rotate([-3]), t.jitter(4)]
    together = t.compose(*parts)(KEY, image)
    for index, part in enumerate(parts):
        image = t.compose(part)(KEY, image) if index < 3 else _shift_with(part, jax.random.fold_in(KEY, 3), image)
    np.testing.assert_allclose(together[8:-8, 8:-8], image[8:-8, 8:-8], atol=5e-3)


def _shift_with(jitter, key, image):
    dx, dy = (int(n) for n in jitter.matrix(key)[:, 2])
    return np.roll(np.asarray(image), (-dy, -dx), (0, 1))


def test_order_matters_as_written():
    """Shift then rotate by 90° moves the picture along the other axis than rotate then shift."""
    image = np.zeros((9, 9, 1), np.float32)
    image[4, 6] = 1
    quarter = t.rotate([90])(KEY, image)[..., 0]
    assert quarter[2, 4] == pytest.approx(1, abs=1e-5)  # to the right becomes up: counter-clockwise


@pytest.mark.parametrize("amount", [1, 4, 8])
def test_jitter_is_a_whole_shift_uniform_over_its_range(amount):
    transform = t.compose(t.pad(amount, 0.25), t.jitter(amount), t.crop(amount))
    offsets = set()
    for seed in range(300):
        dx, dy = np.asarray(transform.parts[1].matrix(jax.random.fold_in(jax.random.key(seed), 1))[:, 2])
        offsets |= {int(dx), int(dy)}
    assert offsets == set(range(-(amount // 2), amount - amount // 2 + 1))
    view = np.asarray(transform(jax.random.key(5), IMAGE))
    dx, dy = (int(n) for n in transform.parts[1].matrix(jax.random.fold_in(jax.random.key(5), 1))[:, 2])
    canvas = np.pad(IMAGE, ((20, 20), (20, 20), (0, 0)), constant_values=0.25)
    np.testing.assert_array_equal(view, canvas[20 + dy : 33 + dy, 20 + dx : 37 + dx])


def test_choices():
    scale, rotate = t.lucid().parts[2:4]
    assert np.allclose(scale.factors, np.arange(0.9, 1.101, 0.02))
    assert sorted(set(rotate.degrees)) == list(range(-10, 11))
    assert rotate.degrees.count(0) == 6


@pytest.mark.parametrize("part", [t.scale([0.5, 1, 2, 4]), t.rotate([0, 10, 20, 30]), t.jitter(3)])
def test_each_outcome_is_as_likely(part):
    """Of 400 draws each of four outcomes has 100, with a standard deviation of 9; alone and within a composition."""
    keys = jax.random.split(KEY, 400)
    alone = jax.vmap(part.matrix)(keys)
    first = t.compose(part, t.rotate([5]))
    composed = jax.vmap(lambda key: part.choice(t._draws(first.parts, jax.random.split(key))[0]))(keys)
    for matrices in (alone, composed):
        _, counts = np.unique(np.asarray(matrices)[:, 0], axis=0, return_counts=True)
        assert len(counts) == 4
        assert counts.min() > 55  # five standard deviations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lucid", "jitter"])
def test_named_transforms_keep_the_shape_and_show_the_image(name):
    transform = t.by_name(name)
    views = jax.vmap(transform, in_axes=(0, None))(jax.random.split(KEY, 64), np.ones((40, 50, 3), np.float32))
    assert views.shape == (64, 40, 50, 3)
    assert bool((views[:, 12:-12, 12:-12] > 0.999).all())
    assert bool((views.min((1, 2, 3)) < 0.51).any())  # gray comes into view at some draws


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lucid", "jitter"])
def test_gradient_is_the_adjoint(name):
    """⟨T x, y⟩ = ⟨x, Tᵀ y⟩ for the linear part, and no gradient is lost inside."""
    transform = t.by_name(name)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20, 24, 3)).astype(np.float32)
    zero = transform(KEY, np.zeros_like(x))
    left = jnp.vdot(transform(KEY, x) - zero, y)
    right = jnp.vdot(x, jax.vjp(lambda image: transform(KEY, image), x)[1](y)[0])
    np.testing.assert_allclose(left, right, rtol=1e-3)  # 1440 float32 products of either sign


def test_pad_and_crop_change_the_size_alone():
    image = jnp.asarray(IMAGE)
    assert t.compose(t.pad(3), t.rotate([5]))(KEY, image).shape == (19, 23, 3)
    np.testing.assert_array_equal(t.compose(t.pad(3), t.crop(3))(KEY, image), image)
    np.testing.assert_array_equal(t.crop(2)(KEY, image), image[2:-2, 2:-2])
    np.testing.assert_array_equal(t.compose()(KEY, image), image)
    with pytest.raises(joi.InputError, match="leaves nothing"):
        t.crop(7)(KEY, image)


def flipped(key, image):
    return image[:, ::-1]


def test_a_function_is_a_transform():
    image = jnp.asarray(IMAGE)
    np.testing.assert_array_equal(t.as_transform(flipped)(KEY, image), image[:, ::-1])
    np.testing.assert_array_equal(t.compose(t.pad(2), flipped, t.crop(2))(KEY, image), image[:, ::-1])
    assert t.as_transform(flipped) == t.as_transform(flipped)
    other = t.as_transform(lambda key, image: image[:, ::-1])
    assert jax.tree.structure(t.as_transform(flipped)) != jax.tree.structure(other)
    assert t.compose("jitter", None, "none") == t.by_name("jitter")
    assert t.as_transform(None) is None
    assert t.view_shape(None, (4, 5, 3)) == (4, 5, 3)


def test_a_function_breaks_the_run_of_affine_parts():
    """It is called between two warps, on what the first one made, with a key of its own."""
    seen = []

    def watch(key, image):
        seen.append((key, image))
        return image

    parts = t.rotate([10]), watch, t.rotate([20])
    view = t.compose(*parts)(KEY, jnp.asarray(IMAGE))
    (key, between), first = seen[0], t.rotate([10])(KEY, jnp.asarray(IMAGE))
    np.testing.assert_array_equal(between, first)
    np.testing.assert_array_equal(view, t.rotate([20])(KEY, first))
    assert key == jax.random.fold_in(KEY, 1)
    together = t.compose(t.rotate([10]), t.rotate([20]))(KEY, jnp.asarray(IMAGE))
    assert float(jnp.abs(view - together).max()) > 1e-3  # interpolated twice, and not once


@dataclasses.dataclass(frozen=True)
class Drift(t.Affine):
    """A transform of one's own: a random shift to the right."""

    most: float

    def matrix(self, key):
        return jnp.array([[1.0, 0.0, self.most * jax.random.uniform(key)], [0.0, 1.0, 0.0]])


class Attribute(t.Transform):
    """Written without a dataclass: attributes alone."""

    def __init__(self, amount):
        self.amount = amount

    def __call__(self, key, image):
        return image + self.amount


def test_transforms_of_ones_own():
    jitters = t.compose(Drift(3.0), t.jitter(2))
    assert jitters(KEY, jnp.asarray(IMAGE)).shape == IMAGE.shape
    assert Drift(3.0) == Drift(3.0) != Drift(4.0)
    assert Attribute(1) == Attribute(1) != Attribute(2)
    assert hash(Attribute(1)) == hash(Attribute(1))
    assert jax.tree.structure(Attribute(1)) != jax.tree.structure(Attribute(2))


REACHING = {
    "lucid": t.lucid(),
    "none": t.compose(),
    "jitter": t.jitter(3),
    "rotate": t.rotate([-45, 45]),
    "scale": t.scale([0.5, 2]),
    "own": Drift(7.0),
    "mixed": t.compose(t.pad(3), t.jitter(4), t.rotate([30]), Drift(2.0), t.scale([0.8]), t.crop(3), t.noise(0.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHING)
@pytest.mark.parametrize("distance", [3, 10])
def test_reach_bounds_where_pixels_come_from(name, distance):
    """Of an image of coordinates, all that 500 views show within the distance lies within reach; and not far within."""
    side, middle = 81, 40
    y, x = np.mgrid[:side, :side] - middle
    coordinates = np.stack([x, y, 0 * x], -1).astype(np.float32)
    views = jax.vmap(REACHING[name], in_axes=(0, None))(jax.random.split(KEY, 500), coordinates)
    near = slice(middle - distance, middle + distance + 1)
    farthest = float(jnp.abs(views[:, near, near, :2]).max())
    bound = REACHING[name].reach(distance)
    # Coordinates are interpolated in float32. The lower bound: 500 draws come near the largest of each part, seldom of
    # all at once.
    assert farthest <= bound + 1e-3
    assert farthest >= 0.75 * bound
    assert (bound > distance) == (name != "none")


def test_what_is_left_without_frames():
    unframed = t.lucid().unframed(0.5)
    assert [type(part) for part in unframed.parts] == [t.Jitter, t.Scale, t.Rotate, t.Jitter]
    assert [part.pixels for part in unframed.parts if isinstance(part, t.Jitter)] == [4, 2]
    assert t.compose(flipped, t.pad(1)).unframed(0.5) == t.compose(flipped)
    assert t.pad(2).unframed(1.0) == t.compose()


def test_noise_is_a_normal_number_plus_a_uniform_one():
    """The variance is 1 + 1/12, and the excess kurtosis that of the sum: a normal number alone has 0."""
    noise = np.asarray(t.noise(2.0)(KEY, jnp.zeros((600, 600, 3)))).ravel() / 2
    # 1,080,000 numbers: the standard error of the variance is 0.0015.
    np.testing.assert_allclose(noise.var(), 1 + 1 / 12, atol=0.008)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.005)


def test_equal_when_built_alike():
    assert t.lucid() == t.lucid()
    assert hash(t.lucid()) == hash(t.lucid())
    assert t.compose(t.compose(t.jitter(2)), t.rotate([1])) == t.compose(t.jitter(2), t.rotate([1]))


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: t.pad(-1),
        lambda: t.pad(2, 1.5),
        lambda: t.jitter(1.5),
        lambda: t.scale([]),
        lambda: t.scale([0.0]),
        lambda: t.rotate([]),
        lambda: t.compose(lambda image: image),
        lambda: t.compose(7),
        lambda: t.compose(t.Jitter),
        lambda: t.by_name("lucit"),
        lambda: t.as_transform("lucit"),
        lambda: t.as_transform(np.zeros(3)),
        lambda: t.as_transform(lambda key: key),
        lambda: t.as_transform(lambda key, image: image).reach(1),
        lambda: t.compose("lucid", lambda key, image: image).reach(1),
        lambda: t.view_shape(t.as_transform(lambda key, image: image.mean()), (4, 4, 3)),
        lambda: t.view_shape(t.as_transform(lambda key, image: None), (4, 4, 3)),
    ],
)
def test_mistakes(mistake):
    with pytest.raises(joi.InputError):
        mistake()
