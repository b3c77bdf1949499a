"""DeepDream: the authors' steps transcribed in NumPy, octaves, tiles, guidance, randomness, compilations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.errors import InputError
from jaxopt_input.methods.dream.recipe import dream, noise, starting_image, zoom
from jaxopt_input.methods.dream.settings import PRESETS, octave_shapes
from jaxopt_input.methods.photo import resize

MIX = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def pointwise_apply(params, image, taps):
    """tanh of mixed colors, pixel by pixel: its gradient is known, and shifts with the image."""
    a = jnp.tanh(4 * (image - 0.5) @ params)
    out = {"a": a, "deep": a[:, ::8, ::8][:, 1:, 1:], "logits": a.mean((1, 2))}
    return {tap: out[tap] for tap in taps}


@pytest.fixture(scope="module")
def pointwise():
    return joi.from_function(
        pointwise_apply, MIX, image_shape=(16, 16, 3), taps=("a", "deep", "logits"), labels=tuple("pqrs"), name="dots"
    )


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(1).uniform(0.2, 0.8, (20, 26, 3)).astype(np.float32)


def of_activation(image, upstream):
    """(dA/dx)ᵀ applied to a gradient at the activation of the pointwise model, for an image in [0, 1]."""
    a = np.tanh(4 * (image - 0.5) @ MIX.astype(float))
    return (upstream(a) * (1 - a**2)) @ (4 * MIX.T.astype(float))


def caffe2015(x, steps):
    """make_step of the notebook with objective_L2, on 0 to 255; jitter does not matter to a pointwise model."""
    x = x * 255.0
    for _ in range(steps):
        g = of_activation(x / 255, lambda a: a) / 255  # dst.diff[:] = dst.data
        x = np.clip(x + 1.5 / np.abs(g).mean() * g, 0, 255)
    return x / 255


def tf_plain(x, steps):
    """render_deepdream's step on tf.square(layer), without clipping."""
    x = x * 255.0
    for _ in range(steps):
        g = of_activation(x / 255, lambda a: 2 * a / a.size) / 255
        x = x + g * (1.5 / (np.abs(g).mean() + 1e-12))
    return np.clip(x / 255, 0, 1)


def tf2(x, steps):
    """DeepDream.call on -1 to 1: the mean of a layer, the gradient divided by its standard deviation."""
    x = 2.0 * x - 1
    for _ in range(steps):
        g = of_activation((x + 1) / 2, lambda a: np.ones_like(a) / a.size) / 2
        x = np.clip(x + g / (g.std() + 1e-8) * 0.01, -1, 1)
    return (x + 1) / 2


@pytest.mark.parametrize("transcribed", [caffe2015, tf_plain, tf2])
def test_presets_are_the_authors_steps(pointwise, picture, transcribed):
    preset = transcribed.__name__.replace("_", "-")
    done = dream(pointwise, picture, "a", preset=preset, octaves=1, iterations=5)
    # The gradient is normalized over 1560 numbers in float32, five times.
    np.testing.assert_allclose(done.image, transcribed(picture.astype(float), 5), atol=2e-5)


def test_lap_preset_is_its_normalization_of_one_channels_mean(pointwise, picture):
    from jaxopt_input.methods.dream.normalize import normalize  # compared to TensorFlow's in test_normalize

    x = picture.astype(float)
    for _ in range(3):
        g = of_activation(x, lambda a: np.eye(4)[2] * np.ones_like(a))
        x = x + np.asarray(jax.jit(normalize, static_argnums=(1, 2))(g.astype(np.float32), "laplacian", 4)) / 255
    done = dream(pointwise, picture, "a:2", preset="tf-lap", octaves=1, iterations=3)
    np.testing.assert_allclose(done.image, np.clip(x, 0, 1), atol=2e-5)


def test_the_presets_are_as_published():
    assert dataclasses.astuple(PRESETS["caffe2015"])[1:9] == (
        "l2", (-3, -2, -1, 0), 1.4, 10, 1.5 / 255, 32, "mean-abs", 4,
    )  # fmt: skip
    lap, tf2 = PRESETS["tf-lap"], PRESETS["tf2"]
    assert (lap.octaves, lap.octave_scale, lap.iterations, lap.step * 255, lap.bands) == ((-2, -1, 0), 1.4, 10, 1, 4)
    assert (tf2.octaves, tf2.octave_scale, tf2.iterations, tf2.step * 2) == ((-2, -1, 0, 1, 2), 1.3, 50, 0.01)


def test_weights_control_channels(pointwise, picture):
    done = dream(pointwise, picture, ["2*a:1", "-a:3"], octaves=1, iterations=1, jitter=0)
    g = of_activation(picture, lambda a: a * np.array([0, 2, 0, -1]))
    expected = np.clip(picture + 1.5 / 255 * g / np.abs(g).mean(), 0, 1)
    np.testing.assert_allclose(done.image, expected, atol=1e-5)
    assert done.name == "2*a:1+-a:3"
    np.testing.assert_allclose(done.octaves[0].loss, -_squares(picture, [0, 2, 0, -1]), rtol=1e-4)


def _squares(image, weights):
    return (np.tanh(4 * (image - 0.5) @ MIX) ** 2).mean((0, 1)) @ weights


def test_guided_step(pointwise, picture):
    guide = np.random.default_rng(2).uniform(size=(9, 7, 3)).astype(np.float32)
    features = np.tanh(4 * (guide - 0.5) @ MIX.astype(float)).reshape(-1, 4)
    done = dream(pointwise, picture, "a", guide=guide, octaves=1, iterations=1)
    g = of_activation(picture, lambda a: features[(a.reshape(-1, 4) @ features.T).argmax(1)].reshape(a.shape))
    expected = np.clip(picture + 1.5 / 255 * g / np.abs(g).mean(), 0, 1)
    np.testing.assert_allclose(done.image, expected, atol=1e-5)


def test_a_loss_in_place_of_targets(pointwise, picture):
    by_name = dream(pointwise, picture, "class:q", octaves=1, iterations=2)
    by_loss = dream(pointwise, picture, -joi.losses.class_logit(1), octaves=1, iterations=2)
    np.testing.assert_allclose(by_loss.image, by_name.image, atol=1e-6)
    assert by_name.name == "class:1"


# ---- octaves


def test_resize_is_linear_with_half_pixel_centers():
    row = np.array([0.0, 1.0, 4.0, -2.0])
    wide = resize(row[None, :, None], (1, 10)).ravel()
    np.testing.assert_allclose(wide, np.interp((np.arange(10) + 0.5) * 0.4 - 0.5, np.arange(4), row), atol=1e-5)
    ramp = np.linspace(0, 1, 40)[:, None, None] * np.ones((1, 30, 1))
    pairs = ramp.reshape(20, 2, 30, 1).mean(1)  # a low-pass leaves a ramp as it is, but for its ends
    np.testing.assert_allclose(resize(ramp, (20, 15))[1:-1], pairs[1:-1, :15], atol=1e-5)


def test_octave_shapes():
    settings = PRESETS["caffe2015"]
    assert octave_shapes(576, 1024, settings) == [(210, 373), (294, 522), (411, 731), (576, 1024)]
    assert octave_shapes(100, 90, PRESETS["tf2"])[2:] == [(100, 90), (130, 117), (169, 152)]


def test_detail_is_carried_and_the_base_is_not_blurred(linear):
    """The gradient of a mean color is constant: each step adds 3 steps' worth of red, whatever the octave."""
    image = np.random.default_rng(3).uniform(0.1, 0.4, (24, 24, 3)).astype(np.float32)
    done = dream(linear, image, "class:red", octaves=2, iterations=4, step=0.01)
    np.testing.assert_allclose(done.image, image + np.array([0.24, 0, 0]), atol=1e-5)
    assert [octave.image.shape for octave in done.octaves] == [(17, 17, 3), (24, 24, 3)]
    # Where the image itself is enlarged, fine structure is lost; above the picture's size, the result returns to it.
    options = {"octaves": (-1, 1), "octave_scale": 2.0, "carry": "image"}
    blurred = dream(linear, image, "class:red", iterations=1, step=0.01, **options)
    low = resize(resize(resize(image, (12, 12)), (48, 48)), (24, 24))
    np.testing.assert_allclose(blurred.image, low + np.array([0.06, 0, 0]), atol=1e-4)


# ---- tiles


def torus_apply(params, image, taps):
    """Two convolutions on the torus: a whole image has no border, and a shift of it shifts everything."""

    def conv(x, kernel):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        return jnp.tanh(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    out = {"a": conv(conv(image - 0.5, params[0]), params[1])}
    return {tap: out[tap] for tap in taps}


@pytest.fixture(scope="module")
def torus():
    params = [jax.random.normal(jax.random.key(n), (3, 3, 3, 3)) for n in range(2)]
    return joi.from_function(torus_apply, params, image_shape=(16, 16, 3), taps=("a",))


def test_result_does_not_depend_on_tiles(torus, picture):
    """Receptive field 5: 4 pixels, half of the overlap, hold all that a pixel's gradient depends on."""
    options = {"octaves": 1, "iterations": 3, "overlap": 8, "key": jax.random.key(5)}
    whole = dream(torus, picture, "a", tile=512, **options)
    assert whole.octaves[0].evaluations == 3
    tiled = dream(torus, picture, "a", tile=13, **options)
    np.testing.assert_allclose(tiled.image, whole.image, atol=1e-4)  # the step amplifies rounding by 1 / mean |g|
    assert tiled.octaves[0].evaluations == 3 * 4


def test_no_seams():
    """Gradient energy where tiles were cut, over that elsewhere, on the bundled network: 1 within 5 %.

    The energy of one gradient varies from place to place; against the same places of the uncut gradient it does not.
    """
    from jaxopt_input.methods.dream import tiles

    model = joi.load("tin100")
    image = jnp.asarray(np.random.default_rng(4).uniform(size=(128, 192, 3)), jnp.float32)
    image = jnp.asarray(resize(resize(np.asarray(image), (32, 48)), (128, 192)))

    def square(tile):
        return jnp.sum(jnp.square(model.apply(model.params, tile[None], ("block3",))["block3"]))

    def energy(tile, overlap):
        cuts = tiles.cut(128, tile, overlap), tiles.cut(192, tile, overlap)
        _, gradient = jax.jit(lambda x: tiles.value_and_gradient(square, x, *cuts))(image)
        return np.square(np.diff(gradient, axis=1)).sum(-1)[16:-16]

    def ratio(tiled):
        at = np.isin(np.arange(191), [k * 64 + d for k in (1, 2) for d in (-2, -1, 0, 1)])
        inner = slice(16, -16)
        share = [part[:, inner][:, at[inner]].mean() / part[:, inner][:, ~at[inner]].mean() for part in (tiled, whole)]
        return share[0] / share[1]

    whole = energy(192, 0)
    assert abs(ratio(energy(64, 32)) - 1) < 0.05
    assert abs(ratio(energy(64, 0)) - 1) > 0.2  # without margins there are seams


# ---- randomness, compilations, records


def test_same_key_same_bits_another_key_another_dream(toy, picture):
    options = {"octaves": 2, "iterations": 2}
    first = dream(toy, picture, "second", key=jax.random.key(1), **options)
    again = dream(toy, picture, "second", key=jax.random.key(1), **options)
    other = dream(toy, picture, "second", key=jax.random.key(2), **options)
    np.testing.assert_array_equal(again.image, first.image)
    assert np.abs(other.image - first.image).max() > 1e-3  # the border of the rolled image lies elsewhere


def test_one_compilation_an_octave_shape(toy, picture, compilations):
    key = jax.random.key(0)
    jax.random.fold_in(key, 0)  # what a zoom derives its frames' keys with
    with compilations() as first:
        dream(toy, picture, "second:1", octaves=3, iterations=1, tile=64, key=key, octave_scale=1.25)
    assert first.count == 3
    with compilations() as second:
        dream(toy, picture * 0.9, "second:2", octaves=3, iterations=3, tile=64, step=0.01, jitter=3, key=key,
              octave_scale=1.25)  # fmt: skip
        list(zoom(toy, picture, "3*second:4", frames=2, octaves=2, iterations=2, tile=64, key=key, octave_scale=1.25))
    assert second.count == 0


def test_what_is_kept(toy, picture):
    heard = []
    done = dream(toy, picture, "second", octaves=2, iterations=4, snapshot_every=2, clip=False,
                 on=joi.Resources(progress=lambda *step: heard.append(step[:2])))  # fmt: skip
    assert heard == [(n, 8) for n in range(1, 9)]
    assert [s.shape for s in done.snapshots] == [(14, 19, 3)] * 3 + [(20, 26, 3)] * 3
    assert done.snapshots[0].dtype == np.uint8
    np.testing.assert_array_equal(done.snapshots[-1], joi.data.to_uint8(done.image))
    assert [octave.loss.shape for octave in done.octaves] == [(4,)] * 2
    assert done.octaves[1].loss[-1] < done.octaves[1].loss[0]
    assert done.finite
    assert not done.dead


def test_dead_and_not_finite(toy, picture):
    dead = dream(toy, picture, "second:7", octaves=2, iterations=2)  # 7 is dead
    assert dead.dead
    assert dead.finite
    np.testing.assert_allclose(dead.image, picture, atol=1e-6)
    cliff = joi.from_function(lambda p, x, taps: {"logits": jnp.log(x.mean((1, 2)) - 0.9)}, 0.0, image_shape=(8, 8, 3),
                              taps=("logits",), labels=tuple("abc"))  # fmt: skip
    broken = dream(cliff, picture, "class:a", octaves=1, iterations=2)
    assert not broken.finite
    np.testing.assert_array_equal(broken.image, picture)


def test_zoom_enlarges_about_the_center(linear):
    image = np.zeros((21, 31, 3), np.float32)
    image[10, 15] = 1  # the center stays where it is
    image[10, 25] = 0.5
    first, second = zoom(linear, image, "class:red", frames=2, scale=0.2, octaves=1, iterations=1, step=1e-6)
    np.testing.assert_allclose(first.image, image, atol=1e-5)
    assert np.unravel_index(second.image[..., 1].argmax(), (21, 31)) == (10, 15)
    row = second.image[10, :, 1]
    np.testing.assert_allclose(row[14], row[16], atol=1e-5)
    centroid = (row[24:] * np.arange(24, 31)).sum() / row[24:].sum()
    assert abs(centroid - (15 + 10 / 0.8)) < 0.05  # linear sampling moves a dot's center of mass by less


def test_starting_images(toy, tmp_path):
    joi.data.save_png(tmp_path / "a.png", np.full((30, 20, 3), 0.5))
    key = jax.random.key(0)
    assert starting_image(tmp_path / "a.png", toy, None, key).shape == (30, 20, 3)
    assert starting_image(tmp_path / "a.png", toy, 15, key).shape == (15, 10, 3)
    gray = joi.from_function(lambda p, x, taps: {"a": x}, 0.0, image_shape=(8, 8, 1), taps=("a",))
    assert starting_image(tmp_path / "a.png", gray, None, key).shape == (30, 20, 1)
    assert starting_image("noise", toy, 24, key).shape == (24, 20, 3)
    assert 100 / 255 <= noise(key, (4, 4, 3)).min() <= noise(key, (4, 4, 3)).max() <= 101 / 255


@pytest.mark.parametrize(
    ("target", "options", "hint"),
    [
        ("b", {}, "unknown layer 'b'"),
        ("a:4", {}, "channel 4"),
        ("a:1@2,2", {}, "layers, channels and classes"),
        ("a:*", {}, "layers, channels and classes"),
        ("a~deep", {}, "layers, channels and classes"),
        ([], {}, "no target"),
        ("a", {"preset": "caffe2051"}, "nearest: caffe2015"),
        ("a", {"octave": 3}, "nearest: octaves"),
        ("a", {"octaves": 0}, "octaves"),
        ("a", {"octaves": (0, -1)}, "increasing"),
        ("a", {"octave_scale": 1.0}, "above 1"),
        ("a", {"iterations": 0}, "iterations"),
        ("a", {"step": 0.0}, "above 0"),
        ("a", {"step": "big"}, "above 0"),
        ("a", {"octaves": 2.5}, "octaves"),
        ("a", {"key": 3}, "key"),
        ("a", {"normalize": "stdd"}, "nearest: std"),
        ("a", {"objective": "l1"}, "known: l2"),
        ("a", {"carry": "img"}, "carry"),
        ("a", {"tile": 32, "overlap": 33}, "larger than the tile"),
        ("deep", {"octaves": 4}, "octave 7x9: .* fewer octaves"),
        ("a:1", {"guide": np.zeros((4, 4, 3), np.float32)}, "whole layers"),
        ("logits", {"guide": np.zeros((4, 4, 3), np.float32)}, "no positions"),
        ("deep", {"octaves": 1, "guide": np.zeros((4, 4, 3), np.float32)}, "the guide: .* larger"),
        ("a", {"guide": np.zeros((4, 4, 1), np.float32)}, "the guide must be"),
        (joi.losses.layer("aa"), {}, "nearest: a"),
        (-joi.losses.channel("a", [1, 2]), {}, "one target"),
        (-joi.losses.guided("a", np.zeros((2, 3))), {}, "the guide has 3 channels"),
    ],
)
def test_mistakes_before_anything_is_compiled(pointwise, picture, compilations, target, options, hint):
    with pytest.raises(InputError, match=hint) as caught, compilations() as counted:
        dream(pointwise, picture, target, **options)
    assert "\n" not in str(caught.value)
    assert counted.count == 0


@pytest.mark.parametrize("image", [np.zeros((8, 8, 1), np.float32), np.zeros((8, 8)), np.full((8, 8, 3), 2.0)])
def test_images_of_another_kind(pointwise, image):
    with pytest.raises(InputError):
        dream(pointwise, image, "a")


def test_zoom_out_of_range(pointwise, picture):
    with pytest.raises(InputError, match="scale"):
        next(zoom(pointwise, picture, "a", frames=2, scale=1.0))


@pytest.mark.parametrize("preset", ["caffe2015", "tf-plain", "tf-lap", "tf2"])
def test_without_a_target_the_layer_is_the_models(toy, preset):
    photo = np.random.default_rng(0).random((12, 10, 3), np.float32)
    done = joi.dream(toy, photo, preset=preset, octaves=1, iterations=1, key=jax.random.key(0))
    assert done.name == "second"
