"""Filters against the weights, maps against the model, grids and groups against what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.methods.look.recipe import activation_grid, feature_maps, filters, neuron_groups


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).random((12, 10, 3), np.float32)


def test_filters_are_the_kernels(toy):
    """A convolution on the image less a constant: the gradient is the kernel, to rounding."""
    found = filters(toy, key=jax.random.key(0))
    assert not found.dead.any()
    np.testing.assert_allclose(found.weights, np.moveaxis(toy.params["a"], -1, 0), atol=1e-6)


def test_filters_of_the_bundled_network():
    """Its stem works on 2x2 patches as 12 channels, of an image less its mean over its deviation: a 6x6 filter."""
    model = joi.load("tin100")
    module = model.apply.static
    kernel = np.asarray(model.params["params"]["conv1"]["kernel"])  # [3, 3, (dy, dx, color), 32]
    patches = kernel.reshape(3, 3, 2, 2, 3, 32).transpose(5, 0, 2, 1, 3, 4).reshape(32, 6, 6, 3)
    found = filters(model, key=jax.random.key(3))
    np.testing.assert_allclose(found.weights, patches / np.asarray(module.std), rtol=1e-4, atol=1e-5)


def test_filters_of_a_dense_layer_and_dead_units():
    """The whole image is the field; the unit whose bias keeps it silent has no filter."""
    weights = jax.random.normal(jax.random.key(0), (6 * 4, 5))
    bias = jnp.array([0.0, 0.0, 0.0, 0.0, -1e3])
    model = joi.from_function(
        lambda p, x, taps: {"a": jax.nn.relu(x.reshape(len(x), -1) @ p + bias)},
        weights, image_shape=(6, 4, 1), taps=("a",),
    )  # fmt: skip
    found = filters(model, "a", key=jax.random.key(1))
    assert found.dead.tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(found.weights[:4, ..., 0].reshape(4, -1), weights.T[:4], rtol=1e-5)
    assert not found.weights[4].any()


def test_filters_where_no_field_lies_inside(toy):
    """Fields of 15 on an image of 12x10: what lies beyond the border is 0."""
    kernel = jax.random.normal(jax.random.key(0), (15, 15, 3, 2))
    model = joi.from_function(
        lambda p, x, taps: {
            "a": jax.lax.conv_general_dilated(x, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        },
        kernel, image_shape=(12, 10, 3), taps=("a",),
    )  # fmt: skip
    found = filters(model, key=jax.random.key(0)).weights
    row, column = 7 - 12 // 2, 7 - 10 // 2  # the first pixel of the image within the field of the middle unit
    expected = np.zeros((2, 15, 15, 3))
    inside = np.moveaxis(np.asarray(kernel), -1, 0)[:, row : row + 12, column : column + 10]
    expected[:, row : row + 12, column : column + 10] = inside
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_feature_maps(toy, picture):
    found = feature_maps(toy, picture, ["second", "first"])
    assert list(found) == ["second", "first"]
    exact = toy.apply(toy.params, picture[None], ("first", "second"))
    for layer, maps in found.items():
        np.testing.assert_allclose(maps, exact[layer][0], atol=1e-6)


@pytest.mark.parametrize(
    ("image", "layers", "hint"),
    [
        (np.zeros((12, 10, 3)), "logits", "has no maps"),
        (np.zeros((12, 10, 3)), "thrid", "unknown layer"),
        (np.zeros((12, 10, 3)), [], "no layer"),
        (np.zeros((12, 10)), "first", r"an image is \[H, W, C\]"),
        (np.zeros((1, 12, 10, 3)), "first", r"an image must be \[height, width, 3\]"),
        (np.full((12, 10, 3), 255.0), "first", "0"),
        (np.full((12, 10, 3), "a"), "first", "image"),
        (np.zeros((12, 10, 4)), "first", r"an image must be \[height, width, 3\]"),
    ],
)
def test_mistakes(toy, image, layers, hint):
    with pytest.raises(joi.InputError, match=hint):
        feature_maps(toy, image, layers)


def test_grid_by_position(linear_map):
    """A map that is the image itself, red on the left and blue on the right: so are the cells, each the best start."""
    image = np.zeros((6, 6, 3), np.float32)
    image[:, :3, 0] = image[:, 3:, 2] = 1
    grid = activation_grid(
        linear_map, "map", image, cells=2, power=0.0, starts=2, steps=1, transform=None, image=joi.images.pixels(),
        optimizer=joi.optimizers.sgd(300.0), key=jax.random.key(0),
    )  # fmt: skip
    assert grid.shape == (2, 2)
    assert grid.image.shape == (12, 12, 3)
    np.testing.assert_allclose(grid.strength, 1, atol=1e-6)
    left, right = grid.image[:, :6], grid.image[:, 6:]
    assert left[..., 0].min() == right[..., 2].min() == 1
    assert max(left[..., 2].max(), right[..., 0].max()) < 1
    for n in range(4):
        row, column = divmod(n, 2)
        lane = 2 * n + int(np.argmin(grid.solution.best_loss[2 * n : 2 * n + 2]))
        cell = grid.image[6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
        np.testing.assert_array_equal(cell, grid.solution.best_image[lane])


@pytest.fixture(scope="module")
def linear_map() -> joi.Model:
    return joi.from_function(lambda p, x, taps: {"map": x * p}, 1.0, image_shape=(6, 6, 3), taps=("map",))


def test_cells(toy, picture):
    with pytest.raises(joi.InputError, match="at least 1 cell"):
        activation_grid(toy, "first", picture, cells=0, key=jax.random.key(0))


def test_groups_are_found():
    """Activations that are two groups with channels and places of their own: the factorization is unique."""
    parts = np.zeros((2, 5))
    parts[0, [0, 3]] = [0.6, 0.8]
    parts[1, [1, 2]] = [0.8, 0.6]
    model = joi.from_function(
        lambda p, x, taps: {"a": x[..., :2] @ p}, parts.astype(np.float32), image_shape=(6, 6, 3), taps=("a",)
    )
    image = np.random.default_rng(0).random((6, 6, 3), np.float32)
    image[:3, :, 0] = image[3:, :, 1] = 0
    image[3:, :, 0] *= 0.5  # the second group is the stronger one
    found = neuron_groups(model, "a", image, 2)
    np.testing.assert_allclose(found.directions, parts[::-1], atol=1e-3)
    np.testing.assert_allclose(found.maps, image[..., 1::-1], atol=1e-2)


@pytest.mark.parametrize(
    ("scale", "groups", "hint"),
    [(1.0, 4, "groups must be from 1 to 3"), (1.0, 0, "groups must be"), (-1.0, 2, "negative"), (0.0, 2, "is zero")],
)
def test_mistakes_of_groups(linear_map, scale, groups, hint):
    model = joi.from_function(linear_map.apply, scale, image_shape=(6, 6, 3), taps=("map",))
    with pytest.raises(joi.InputError, match=hint):
        neuron_groups(model, "map", np.ones((6, 6, 3)), groups)
