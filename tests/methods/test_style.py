"""Style transfer: published weights against transcriptions, masks, colors, scales, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.methods.style import recolor as recolor
from jaxopt_input.methods.style.recipe import Style, _scales, stylize, texture
from jaxopt_input.methods.style.settings import CAFFE, GATYS, PRESETS, Settings, default_layers, settings_of
from jaxopt_input.methods.style.terms import STATISTICS, content_loss, positions, style_loss, variation_loss

RNG = np.random.default_rng(0)
SMALL = {"style_layers": ("first", "second"), "content_layers": ("second",)}


def picture(height=20, width=24, seed=0):
    """Waves in three colors: something with a texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * rng.uniform(0.3, 1.5) + y * rng.uniform(-1, 1) + rng.uniform(0, 6)) for _ in range(3)]
    return np.clip(0.5 + 0.4 * np.stack(waves, -1), 0, 1).astype(np.float32)


# Published weights: each layer's map has 6x5 positions and 4 channels, the features are random.

X, Y = (
    {layer: np.abs(RNG.standard_normal((6, 5, 4))).astype(np.float32) for layer in (*GATYS, "relu4_2")} for _ in "xy"
)
X |= {f"pool{k}": X[f"relu{k}_1"] for k in range(1, 5)}
Y |= {f"pool{k}": Y[f"relu{k}_1"] for k in range(1, 5)}
IMAGE = RNG.random((6, 5, 3)).astype(np.float32)


def ours(preset, scale=1.0):
    """(style, content, variation) of a preset."""
    s = settings_of(preset, feature_scale=scale)
    layers = s.style_layers
    weights = dict(
        zip(layers, s.style_weights * len(layers) if len(s.style_weights) == 1 else s.style_weights, strict=True)
    )
    style = style_loss(Y, dict.fromkeys(layers, (6, 5, 4)), s, weights, jax.random.key(0))
    content, variation = content_loss({"relu4_2": Y["relu4_2"]}, s), variation_loss(IMAGE.shape, s)
    x = {layer: jnp.asarray(value) for layer, value in X.items()}
    return [0.0 if loss is None else float(loss(x, jnp.asarray(IMAGE))) for loss in (style, content, variation)]


def flat(features):
    return np.asarray(features, np.float64).reshape(-1, 4)  # [M, N]


def squares(image):
    return np.square(np.diff(image, axis=0)).sum() + np.square(np.diff(image, axis=1)).sum()


def published(preset):
    """The same from the authors' formulas, F being [M, N] = [30, 4]."""
    n, m = 4, 30
    pairs = [(flat(X[layer]), flat(Y[layer])) for layer in GATYS]
    difference = (flat(X["relu4_2"]) - flat(Y["relu4_2"])).astype(np.float64)
    grams = [np.square(x.T @ x - y.T @ y) for x, y in pairs]
    pixels = 255.0 * IMAGE
    if preset == "gatys2015-texture":
        return (
            1e9 * sum(g.sum() / (4 * n**2 * m**2) for g in grams[:4]) + 1e9 * grams[0].sum() / (4 * n**2 * m**2),
            0,
            0,
        )
    if preset == "gatys2016":
        return sum(0.2 * g.sum() / (4 * n**2 * m**2) for g in grams), 1e-3 * 0.5 * np.square(difference).sum(), 0
    if preset == "gatys2016-code":  # Gram of F / M, mean squared error, 1e3 / N²
        return sum(1e3 / n**2 * (g / m**2).mean() for g in grams), np.square(difference).mean(), 0
    if preset == "johnson":  # Gram of F / (N M), mean squared error, 100; 5 times the content; the gradient of ½ Σ d²
        style = sum(100 * (g / (n * m) ** 2).mean() for g in grams)
        return style, 5 * np.square(difference).mean(), 1e-3 * 0.5 * squares(pixels)
    content, variation = np.square(difference).sum(), 1e-2 / 16 * squares(pixels)
    means = [np.square(x.mean(0) - y.mean(0)).sum() for x, y in pairs]
    if preset == "li2017-linear":  # gradient 5 · 2e3 / (N M) of ½ ‖Σ (x − y)‖²
        return 5 * sum(2e3 / (n * m) * 0.5 * m**2 * d for d in means), content, variation
    if preset == "li2017-poly":  # gradient 5 · 0.1 / (N² M) of ¼ ‖XᵀX − YᵀY‖²
        return 5 * sum(0.1 / (n**2 * m) * 0.25 * g.sum() for g in grams), content, variation
    if preset == "li2017-bn":  # gradient 5 · 1e3 · M / N of ½ (‖Δμ‖² + ‖Δσ‖²)
        spread = [np.square(x.std(0) - y.std(0)).sum() for x, y in pairs]
        return 5 * sum(1e3 * m / n * 0.5 * (d + s) for d, s in zip(means, spread, strict=True)), content, variation
    roots = []
    for x, y in pairs:
        a, b = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
        roots.append(np.trace(a + b) - 2 * np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum())
    weights = np.array([256, 64, 16, 4, 1]) / 341
    style = sum(w * (d + r) / n for w, d, r in zip(weights, means, roots, strict=True))
    return style, 0.015 * np.square(difference).mean(), 2 * squares(IMAGE) / IMAGE.size


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"default", "li2017-gaussian"}))
def test_published_weights_are_those_of_the_authors_formulas(preset):
    # float32 against float64; the roots of a Wasserstein distance lose more digits
    np.testing.assert_allclose(ours(preset), published(preset), rtol=1e-3 if preset == "crowsonkb" else 1e-4)


def test_feature_scale_is_what_larger_activations_would_give():
    global X, Y
    before = {preset: ours(preset, 3.0)[:2] for preset in PRESETS if preset != "default"}
    kept = X, Y
    X, Y = ({layer: 3 * value for layer, value in features.items()} for features in kept)
    try:
        for preset, values in before.items():
            # ε under the roots of batch-norm does not scale
            np.testing.assert_allclose(values, ours(preset)[:2], rtol=1e-3, err_msg=preset)
    finally:
        X, Y = kept
    assert PRESETS["johnson"].feature_scale == CAFFE


@pytest.mark.parametrize("name", STATISTICS)
def test_relative_terms_are_one_where_the_layer_is_silent(name):
    s = Settings(losses=(name,))
    loss = style_loss(Y, {"relu1_1": (6, 5, 4)}, s, {"relu1_1": 2.0}, jax.random.key(0))
    np.testing.assert_allclose(loss({"relu1_1": jnp.zeros((6, 5, 4))}, jnp.asarray(IMAGE)), 2.0, rtol=1e-4)


MAPS, SHAPES = ({"relu1_1": X["relu1_1"], "relu2_1": X["relu2_1"]}, {"relu1_1": (6, 5, 4), "relu2_1": (6, 5, 4)})


@pytest.mark.parametrize("units", ["relative", "published"])
def test_content_is_the_mean_over_its_layers(units):
    s = Settings(content_weight=3.0, units=units)
    at = functools.partial(lambda layers: content_loss({layer: Y[layer] for layer in layers}, s)(MAPS, IMAGE))
    each = [float(at([layer])) for layer in MAPS]
    assert each[0] != pytest.approx(each[1], rel=0.01)
    np.testing.assert_allclose(at(MAPS), np.mean(each), rtol=1e-5)


def test_style_losses_are_added_by_their_factors():
    def at(*named):
        loss = style_loss(Y, SHAPES, Settings(losses=named), {"relu1_1": 0.5, "relu2_1": 2.0}, jax.random.key(0))
        return float(loss(MAPS, jnp.asarray(IMAGE)))

    np.testing.assert_allclose(at(("gram", 3.0)), 3 * at("gram"), rtol=1e-5)
    np.testing.assert_allclose(at(("gram", 3.0), ("mean", 0.5)), 3 * at("gram") + 0.5 * at("mean"), rtol=1e-5)


def test_each_layer_has_sliced_directions_of_its_own():
    def directions(key):
        s = Settings(losses=("sliced-wasserstein",))
        loss = style_loss(Y, SHAPES, s, dict.fromkeys(SHAPES, 1.0), key)
        return [leaf for leaf in jax.tree.leaves(loss) if np.shape(leaf) == (4, 4)]

    first, second = directions(jax.random.key(0))
    assert np.abs(first - second).max() > 0.1
    assert np.abs(first - directions(jax.random.key(1))[0]).max() > 0.1
    np.testing.assert_array_equal(first, directions(jax.random.key(0))[0])


def test_default_layers_are_one_of_each_size(toy):
    assert default_layers(toy, (12, 10, 3)) == (("first",), ("first",))


# Masks


def test_positions_of_a_mask():
    mask = np.zeros((8, 8))
    mask[:4, 4:] = 1
    np.testing.assert_array_equal(positions(mask, (4, 4, 9), "a"), [2, 3, 6, 7])
    with pytest.raises(joi.InputError, match="leaves no position of layer a"):
        positions(np.eye(8) * 0.1, (2, 2, 9), "a")


def test_a_masked_style_moves_only_what_its_mask_sees(toy):
    left, content = np.zeros((20, 24)), picture()
    left[:, :12] = 1
    kw = {"size": None, "steps": 6, "content_weight": 0.0, "tv_weight": 0.0, "style_layers": ("first",)}
    style = Style(picture(seed=1), mask=np.ones((20, 24)), region=left)
    done = stylize(toy, content, style, **kw)
    moved = np.abs(done.image[0] - content).max((0, 2))
    assert moved[:12].min() > 3e-3
    assert moved[13:].max() < 1e-5  # one pixel beyond the mask for the 3x3 kernel; the rest to rounding of the sigmoid


# Colors


def test_match_moments():
    a, b = picture(), 0.5 + 0.3 * (picture(30, 10, 1) - 0.5)
    matched = recolor.match_moments(a, b).reshape(-1, 3)
    np.testing.assert_allclose(matched.mean(0), b.reshape(-1, 3).mean(0), atol=1e-4)
    np.testing.assert_allclose(np.cov(matched.T), np.cov(b.reshape(-1, 3).T), atol=1e-3)


def test_luminance_keeps_the_contents_colors(toy):
    content = 0.3 + 0.4 * picture()
    done = stylize(toy, content, picture(seed=1), size=None, steps=5, color="luminance", **SMALL)
    chroma = (done.image[0] - recolor.luminance(done.image[0])) - (content - recolor.luminance(content))
    whole = (done.image[0].min(-1) > 0) & (done.image[0].max(-1) < 1)  # nothing was clipped
    assert whole.mean() > 0.5
    assert np.abs(chroma[whole]).max() < 1e-5
    assert np.abs(done.image[0] - content).max() > 0.01


def test_histogram_is_matched():
    a, b = picture(), picture(10, 12, 1)
    matched = recolor.match_histogram(a, b)
    np.testing.assert_allclose(np.quantile(matched, 0.3, (0, 1)), np.quantile(b, 0.3, (0, 1)), atol=0.02)
    assert (np.argsort(matched[..., 0], None, "stable") == np.argsort(a[..., 0], None, "stable")).all()


# The whole


def test_stylize_lowers_every_part_and_names_them(toy):
    done = stylize(toy, picture(), picture(seed=1), size=None, steps=30, **SMALL)
    (scale,) = done.scales
    assert done.image.shape == (1, 20, 24, 3)
    assert set(scale.terms) == {"content", "style", "variation"}
    np.testing.assert_allclose(sum(scale.terms.values()), scale.loss[:, -1], rtol=1e-4)
    assert scale.loss[0, -1] < 0.2 * scale.loss[0, 0]
    assert scale.evaluations[0] <= 30


def test_a_blend_with_all_its_weight_on_one_style_is_that_style(toy):
    run = functools.partial(stylize, toy, picture(), size=None, steps=6, **SMALL)
    both = run([Style(picture(seed=1), 2.0), Style(picture(14, 30, 2), 0.0)])
    np.testing.assert_allclose(both.image, run(picture(seed=1)).image, atol=1e-4)
    assert set(both.scales[0].terms) == {"content", "style-1", "style-2", "variation"}


@pytest.mark.slow
def test_scales_carry_the_state_of_adam_and_its_average(toy):
    kw = {"optimizer": "adam", "average": 0.9, "parameterization": "pixels", "smallest": 12, **SMALL}
    scales = []
    done = stylize(
        toy,
        picture(),
        picture(seed=1),
        size=None,
        steps=12,
        first_steps=20,
        on_scale=lambda *a: scales.append(a),
        **kw,
    )
    assert [scale.shape for scale in done.scales] == [(10, 12), (14, 17), (20, 24)] == [shape for shape, *_ in scales]
    assert [scale.loss.shape[1] for scale in done.scales] == [20, 12, 12]
    counts = jax.tree.leaves(done.solution.optimizer_state.inner[0].count)
    assert int(counts[0][0]) == 19 + 11 + 11  # Adam went on counting: its state was carried
    np.testing.assert_allclose(done.image, np.clip(done.solution.average_image, 0, 1))
    assert float(np.abs(done.solution.average_image - done.solution.image).max()) > 1e-4


@pytest.mark.parametrize(("shape", "smallest", "expected"), [
    ((96, 128), 0, [(96, 128)]),
    ((96, 128), 200, [(96, 128)]),
    ((96, 128), 64, [(48, 64), (68, 91), (96, 128)]),
])  # fmt: skip
def test_scales(shape, smallest, expected):
    assert _scales(shape, smallest) == expected


@pytest.mark.slow
def test_texture_of_another_size_from_several_starts(toy):
    run = functools.partial(texture, toy, picture(), size=(16, 18), steps=40, tv_weight=0.0, starts=2, **SMALL)
    done = run(key=jax.random.key(1))
    assert done.image.shape == (2, 16, 18, 3)
    assert np.abs(done.image[0] - done.image[1]).max() > 0.1
    assert (done.scales[0].loss[:, -1] < 0.1 * done.scales[0].loss[:, 0]).all()
    np.testing.assert_array_equal(done.image, run(key=jax.random.key(1)).image)


def test_other_images_do_not_recompile(toy, compilations):
    run = functools.partial(stylize, toy, size=None, steps=4, **SMALL)
    run(picture(), picture(seed=1))
    with compilations() as seen:
        run(picture(seed=2), picture(seed=3), key=jax.random.key(5), content_weight=0.3, tv_weight=0.7)
    assert seen.count == 0


@pytest.mark.parametrize(("changes", "message"), [
    ({"preset": "gatys"}, "unknown preset 'gatys'; nearest: gatys2016"),
    ({"losses": ("gramm",)}, "unknown style loss 'gramm'; nearest: gram"),
    ({"preset": "johnson", "losses": ("mean",)}, "leave one of the two out"),
    ({"preset": "johnson", "style_layers": GATYS}, "unknown layer 'relu1_1'"),
    ({"style_layers": ("frist",)}, "unknown layer 'frist'; nearest: first"),
    ({"style_layers": ("logits",)}, "layer logits has no positions"),
    ({"style_layers": ("first", "second"), "style_weights": (1.0, 2.0, 3.0)}, "3 style weights for 2 layers"),
    ({"styles": Style(picture(), -1.0)}, "weights of styles are at least 0"),
    ({"styles": [Style(picture(), 0.0)] * 2}, "not all 0"),
    ({"styles": Style(picture(), region=np.ones((20, 20)))}, "a content mask has shape"),
    ({"styles": Style(picture(), mask=np.ones((20, 20)))}, "a style mask has shape"),
    ({"styles": Style(picture(), mask=np.full((20, 24), 2.0))}, r"in \[0, 1\]"),
    ({"styles": Style(picture(), mask=np.zeros((20, 24)))}, "leaves no position"),
    ({"style_scale": 0.1}, "smaller than what first sees at once"),
    ({"color": "blue"}, "unknown color 'blue'"),
    ({"initial": "nois"}, "unknown initial 'nois'; nearest: noise"),
    ({"optimizer": "sgd"}, "unknown optimizer 'sgd'"),
    ({"stepps": 3}, "unknown setting 'stepps'; nearest: steps"),
    ({"tv_weight": -1.0}, "tv_weight must be at least 0"),
    ({"size": 0}, "size must be at least 1"),
])  # fmt: skip
def test_mistakes_are_named(toy, changes, message):
    with pytest.raises(joi.InputError, match=message):
        stylize(toy, picture(), **{"styles": picture(seed=1), "size": None, "steps": 3, **SMALL, **changes})


@pytest.mark.slow
def test_a_small_image_has_the_layers_that_it_has():
    """tin100 halves four times: of 8 pixels block5 would see nothing."""
    tin100 = joi.load("tin100")
    assert texture(tin100, picture(16, 16), size=8, steps=2, style_layers=("conv1",)).image.shape == (1, 8, 8, 3)
    with pytest.raises(joi.InputError, match="layer block5 would be empty"):
        texture(tin100, picture(64, 64), size=8, steps=2, style_layers=("conv1", "block5"))


def test_a_style_needs_at_least_an_image(toy):
    with pytest.raises(joi.InputError, match="no style image"):
        texture(toy, [], steps=3)
    with pytest.raises(joi.InputError, match=r"must be \[height, width, 3\]"):
        texture(toy, np.zeros((8, 8, 1)), steps=3)
    silent = joi.from_function(lambda p, x, taps: {"a": 0 * x}, 0.0, image_shape=(8, 8, 3), taps=("a",))
    with pytest.raises(joi.InputError, match="silent for the style image"):
        texture(silent, picture(), steps=3)


def test_default_layers_are_those_that_fit_the_style():
    """A layer that sees more at once than the style image holds is none of the network's own choice."""

    def apply(p, x, taps):
        small = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 4, 4, 1), (1, 4, 4, 1), "VALID")
        seen = jax.lax.conv_general_dilated(small, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        out = {"pixels": 2 * x, "seen": seen}
        return {tap: out[tap] for tap in taps}

    model = joi.from_function(apply, jnp.ones((3, 3, 3, 3)), image_shape=(16, 16, 3), taps=("pixels", "seen"))
    kw = {"size": 16, "steps": 2, "content_layers": ("pixels",)}
    wide, narrow = (stylize(model, picture(16, 16), picture(side, 16), **kw) for side in (16, 8))
    assert wide.settings.style_layers == ("pixels", "seen")
    assert narrow.settings.style_layers == ("pixels",)
    with pytest.raises(joi.InputError, match="seen sees at once"):
        stylize(model, picture(16, 16), picture(8, 16), **kw, style_layers=("seen",))
