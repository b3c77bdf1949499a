"""Tiled models against the network on the whole image: the same maps, the same gradient, less memory."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine import memory
from jaxopt_input.engine.memory import estimate, tile_within
from jaxopt_input.models.model import cast
from jaxopt_input.models.tiling import Tiled, tiled
from jaxopt_input.networks.squeezenet import SqueezeNet
from jaxopt_input.networks.vgg import VGG

LAYOUT = ("NHWC", "HWIO", "NHWC")


def random_model(module):
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return joi.from_linen(module, variables, image_shape=(64, 64, 3))


def chain(*layers, features=8):
    """Convolutions, each (size, stride, padding) and followed by a ReLU; the taps are "0", "1", …, and "mean"."""

    def apply(params, x, taps):
        out, x = {}, x.astype(params[0].dtype)
        for n, (kernel, (_, stride, padding)) in enumerate(zip(params, layers, strict=True)):
            x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)
            x = out[str(n)] = jax.nn.relu(x)
        out["mean"] = x.mean((1, 2))
        return {tap: out[tap] for tap in taps}

    random, channels = np.random.default_rng(0), [3, *[features] * len(layers)]
    params = [
        random.normal(0, (2 / (size**2 * c)) ** 0.5, (size, size, c, features)).astype(np.float32)
        for (size, _, _), c in zip(layers, channels[:-1], strict=True)
    ]
    taps = (*map(str, range(len(layers))), "mean")
    return joi.from_function(apply, params, image_shape=(64, 64, 3), taps=taps)


TOY = chain((3, 1, "SAME"), (3, 2, "VALID"), (3, 1, "SAME"))
CASES = {
    "toy, small tiles": (TOY, ("0", "2"), (41, 58), 8, 1),
    "toy, batch 2": (TOY, ("1",), (64, 31), 16, 2),
    "strides 3 and 6": (chain((5, 3, ((2, 2), (2, 2))), (2, 2, "VALID")), ("0", "1"), (97, 80), 24, 1),
    "padding that depends on the size": (chain((3, 2, "SAME"), (4, 2, "SAME")), ("0", "1"), (75, 62), 16, 1),
    "larger than the image": (chain((3, 1, ((4, 5), (3, 4))), (3, 1, "VALID")), ("1",), (40, 33), 16, 1),
    "one axis cut": (TOY, ("2",), (20, 80), 32, 1),
    "squeezenet": (lambda: random_model(SqueezeNet()), ("conv1", "fire2", "fire4"), (203, 331), 96, 1),
    "squeezenet, deep": (lambda: random_model(SqueezeNet()), ("fire8",), (203, 331), 64, 2),
    "vgg 19, average": (lambda: random_model(VGG(19, "average")), ("relu1_2", "relu3_1"), (75, 97), 48, 1),
    "tin100": (lambda: joi.load("tin100"), ("conv1", "block3"), (131, 90), 32, 2),
}


def value_and_gradient(model, taps, images):
    """The maps, and the gradient of a random projection of each, all of one weight."""

    def project(images):
        maps = model.apply(model.params, images, taps)
        keys = jax.random.split(jax.random.key(2), len(taps))
        parts = [
            jnp.vdot(jax.random.normal(key, maps[tap].shape), maps[tap]) / jnp.linalg.norm(maps[tap])
            for key, tap in zip(keys, taps, strict=True)
        ]
        return sum(parts), maps

    gradient, maps = jax.jit(jax.grad(project, has_aux=True))(images)
    return maps, gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_as_on_the_whole_image(name):
    """In 64 bits, where rounding moves no maximum and no ReLU to another side: differences are then real."""
    model, taps, (height, width), tile, batch = CASES[name]
    model = model if isinstance(model, joi.Model) else model()
    with jax.enable_x64(True):
        model = dataclasses.replace(model, params=cast(model.params, jnp.float64))
        large = tiled(model, taps, (height, width, 3), tile)
        assert large.apply.units[0][0].axis.count * large.apply.units[0][1].axis.count > 1
        images = jax.random.uniform(jax.random.key(1), (batch, height, width, 3), jnp.float64)
        maps, gradient = value_and_gradient(large, taps, images)
        expected_maps, expected = value_and_gradient(model, taps, images)
    for tap in taps:
        scale = np.abs(expected_maps[tap]).max()
        np.testing.assert_allclose(maps[tap], expected_maps[tap], atol=1e-10 * scale, rtol=0)
    np.testing.assert_allclose(gradient, expected, atol=1e-10 * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("height", [42, 45, 47])
def test_any_size_and_tile_in_32_bits(height):
    images = jax.random.uniform(jax.random.key(height), (1, height, 61, 3))
    expected_maps, expected = value_and_gradient(TOY, ("0", "2"), images)
    for tile in (9, 16, 40):
        maps, gradient = value_and_gradient(tiled(TOY, ("0", "2"), images.shape[1:], tile), ("0", "2"), images)
        for tap in maps:
            np.testing.assert_allclose(maps[tap], expected_maps[tap], atol=1e-5)
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_every_unit_has_one_owner():
    large = tiled(TOY, ("0", "2"), (83, 61, 3), 16)
    for rows, columns in large.apply.units:
        for units in (rows, columns):
            owners = np.zeros(units.count, int)
            for tile in range(units.axis.count):
                begin = int(units.begin(tile))
                owners[begin : begin + units.width] += np.asarray(units.owned(tile))
            assert (owners == 1).all()


def test_bfloat16():
    images = jax.random.uniform(jax.random.key(0), (1, 60, 50, 3)).astype(jnp.bfloat16)
    model = dataclasses.replace(TOY, params=cast(TOY.params, jnp.bfloat16))
    maps, gradient = value_and_gradient(tiled(model, ("2",), (60, 50, 3), 16), ("2",), images)
    expected_maps, expected = value_and_gradient(model, ("2",), images)
    assert maps["2"].dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.float32(m["2"]) for m in (maps, expected_maps)), atol=0.05)
    assert np.corrcoef(np.float32(gradient).ravel(), np.float32(expected).ravel())[0, 1] > 0.999


def test_minimize_as_untiled_without_a_new_compilation(compilations):
    shape = (50, 37, 3)

    def run(seed, cut):
        """With a model cut anew, other weights and another image."""
        model = dataclasses.replace(TOY, params=[(1 + seed / 10) * kernel for kernel in TOY.params])
        photo = np.random.default_rng(seed).uniform(size=shape).astype(np.float32)
        style = model.activations(photo[:20, :20][None], ("0", "2"))
        content = model.activations(photo[None], ("1",))["1"][0]
        loss = joi.losses.content("1", content) + sum(joi.losses.gram(tap, a[0]) for tap, a in style.items())
        model = tiled(model, ("0", "1", "2"), shape, 16) if cut else model
        image = joi.images.pixels(shape)
        return joi.minimize(loss, model, image=image, steps=3, key=jax.random.key(seed))

    tiles, whole = run(0, True), run(0, False)
    np.testing.assert_allclose(tiles.loss, whole.loss, rtol=1e-5)
    np.testing.assert_allclose(tiles.image, whole.image, atol=1e-3)
    run(1, False)
    with compilations() as counted:
        other = run(1, True)
    assert counted.count == 0
    assert not np.allclose(other.loss, tiles.loss)


def test_equal_when_cut_alike():
    one, other = (tiled(TOY, ("0",), (90, 90, 3), 32).apply for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != tiled(TOY, ("0",), (90, 90, 3), 48).apply


def test_what_fits_one_tile_is_the_network_itself():
    for shape, tile in (((64, 60, 3), 64), ((66, 60, 3), 62)):  # the second is no larger than a tile with its margins
        large = tiled(TOY, ("0", "2"), shape, tile)
        assert large.apply is TOY.apply
        assert large.info.image_shape == shape


def gated(params, x, taps):
    out = x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True))
    return {tap: {"gated": out, "sorted": jnp.sort(x, 1), "mirrored": x[:, ::-1]}[tap] for tap in taps}


@pytest.mark.parametrize(
    ("tap", "hint"),
    [
        ("gated", "each unit of layer gated sees the whole image"),
        ("sorted", "sort; it cannot be computed tile by tile: leave sorted out"),
        ("mirrored", "mirrored"),
        ("gatd", "nearest: gated"),
    ],
)
def test_layers_that_no_tile_can_tell(tap, hint):
    model = joi.from_function(gated, 0.0, image_shape=(40, 40, 3), taps=("gated", "sorted", "mirrored"))
    with pytest.raises(joi.InputError, match=hint) as error:
        tiled(model, (tap,), (40, 40, 3), 16)
    assert "\n" not in str(error.value)


def test_mistakes():
    with pytest.raises(joi.InputError, match="layer mean sees the whole image"):
        tiled(TOY, ("0", "mean"), (90, 90, 3), 32)
    with pytest.raises(joi.InputError, match="at least 1"):
        tiled(TOY, ("0",), (90, 90, 3), 0)
    with pytest.raises(joi.InputError, match="at least one layer"):
        tiled(TOY, (), (90, 90, 3))
    large = tiled(TOY, ("0",), (90, 90, 3), 32)
    with pytest.raises(joi.InputError, match="cut new ones"):
        large.activations(jnp.zeros((1, 90, 91, 3)), ("0",))
    with pytest.raises(joi.InputError, match="with respect to the image alone"):
        jax.grad(lambda params: large.apply(params, jnp.zeros((1, 90, 90, 3)), ("0",))["0"].sum())(TOY.params)


def test_a_layer_that_lies_differently_on_a_tile():
    def apply(params, x, taps):
        return {"half": nn.avg_pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)) if len(x[0]) > 60 else ((1, 1), (0, 0)))}

    model = joi.from_function(apply, 0.0, image_shape=(80, 40, 3), taps=("half",))
    with pytest.raises(joi.InputError, match="lies differently on a tile of"):
        tiled(model, ("half",), (80, 40, 3), 24)


# memory


def temporaries(model, taps, shape):
    def loss(images):
        return sum(jnp.square(a).mean() for a in model.apply(model.params, images, taps).values())

    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(image).compile().memory_analysis().temp_size_in_bytes


def test_a_fraction_of_the_memory():
    """Many wide layers, of which one small map is asked for."""
    model = chain(*[(3, 1, "SAME")] * 6, (8, 8, "VALID"), features=16)
    shape = (512, 384, 3)
    whole, parts = (temporaries(m, ("6",), shape) for m in (model, tiled(model, ("6",), shape, 96)))
    assert 4 * parts < whole


def test_the_estimate_of_a_tiled_model():
    """Against what XLA needs besides the program, without what is as large as the image."""
    shape = (400, 300, 3)
    model = tiled(TOY, ("0", "2"), shape, 96)
    insides = memory.image_bytes(model, ("0", "2"), shape, shape) - 16 * 4 * 400 * 300 * 3
    assert 0.5 * insides < temporaries(model, ("0", "2"), shape) < 1.2 * insides


@pytest.mark.slow
def test_the_largest_tile_within_a_budget(monkeypatch):
    model, shape = chain(*[(3, 1, "SAME")] * 5, (8, 8, "VALID")), (1200, 900, 3)
    sizes = {tile: estimate(tiled(model, ("5",), shape, tile), ("5",), shape) for tile in (768, 512, 256)}
    assert sizes[256] < sizes[512] < sizes[768] < estimate(model, ("5",), shape)
    for tile, size in sizes.items():
        assert tile_within(model, ("5",), shape, size) == (tile, size)
    assert tile_within(model, ("5",), shape, 8 << 30)[0] is None
    with pytest.raises(joi.InputError, match=f"takes {-(-sizes[256] >> 20)} MiB at least"):
        tile_within(model, ("5",), shape, sizes[256] - 1)
    more = estimate(model, ("5",), shape, optimizer_copies=12) - estimate(model, ("5",), shape)
    assert more == 10 * 4 * 1200 * 900 * 3


def test_minimize_counts_the_maps_of_a_tiled_model():
    model = tiled(TOY, ("0",), (300, 300, 3), 64)
    assert isinstance(model.apply, Tiled)
    assert memory.image_bytes(model, ("0",), (300, 300, 3), (300, 300, 3)) > 3 * 4 * 8 * 300 * 300
