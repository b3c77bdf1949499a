"""`invert`: errors, ladders, parts of the features, stages; both published rules against a transcription to NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.methods.invert.parts import parse_channels, parse_region, positions_in
from jaxopt_input.methods.invert.recipe import invert, parse_ladder
from jaxopt_input.methods.invert.settings import preset, sigma_2015

SHAPE = (12, 10, 3)


@pytest.fixture(scope="module")
def photograph():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 12
    return np.stack([0.2 + 0.6 * x, 0.8 - 0.6 * y, 0.5 + 0.3 * np.sin(5 * x * y)], -1).astype(np.float32)


def error_of(model, layer, image, photograph, where=np.s_[:]):
    found, target = (
        np.asarray(model.activations(np.asarray(x)[None], [layer])[layer][0], np.float64)[where]
        for x in (image, photograph)
    )
    return np.linalg.norm(found - target) / np.linalg.norm(target)


@pytest.fixture(scope="module")
def found(toy, photograph):
    return invert(
        toy, photograph, ["first", "0.5*first+second"], starts=2, steps=60, regularizer=0 * joi.losses.l2_decay()
    )


def test_errors_are_those_of_the_best_images(toy, photograph, found):
    single, joint = found.rungs
    assert (single.name, joint.name) == ("first", "0.5*first+second")
    assert single.solution.best_image.shape == (2, *SHAPE)
    assert list(joint.error) == ["first", "second"]
    for rung in found.rungs:
        for layer, errors in rung.error.items():
            for start in (0, 1):
                image = rung.solution.best_image[start]
                assert errors[start] == pytest.approx(error_of(toy, layer, image, photograph), rel=1e-4)
                rounded = np.round(255 * np.asarray(image)) / np.float32(255)
                assert rung.error_8bit[layer][start] == pytest.approx(
                    error_of(toy, layer, rounded, photograph), rel=1e-3
                )
    np.testing.assert_allclose(single.solution.best_loss, single.error["first"] ** 2, rtol=1e-3)
    np.testing.assert_allclose(
        joint.solution.best_loss, (0.5 * joint.error["first"] ** 2 + joint.error["second"] ** 2) / 1.5, rtol=1e-3
    )
    assert max(single.error["first"]) < 0.1
    assert single.error["first"][single.best] == min(single.error["first"])


def test_one_solution_of_all_rungs(found):
    solution = found.solution()
    assert solution.names == ("first",) * 2 + ("0.5*first+second",) * 2
    np.testing.assert_array_equal(solution.best_image[2:], found.rungs[1].solution.best_image)
    assert solution.start.tolist() == [0, 1, 0, 1]


def test_another_photograph_or_weight_does_not_recompile(toy, photograph, compilations):
    def solve(image, weight, **part):
        return invert(toy, image, f"{weight}*first+second", steps=3, **part)

    solve(photograph, 0.5)
    with compilations() as seen:
        solve(1 - photograph, 2.0)
        solve(photograph, 0.5, channels=(0, 3), region=(2, 2, 6, 6))
    assert seen.count == 0


@pytest.mark.slow
def test_part_of_the_features(toy, photograph):
    group = invert(toy, photograph, "first", steps=40, channels=(2, 5)).rungs[0]
    image = group.solution.best_image[0]
    assert group.error["first"][0] == pytest.approx(
        error_of(toy, "first", image, photograph, np.s_[..., 2:5]), rel=1e-3
    )
    assert group.error["first"][0] < min(0.2, error_of(toy, "first", image, photograph))
    part = invert(toy, photograph, ["first", "second"], steps=40, region=(3, 2, 9, 6)).rungs[1]
    assert part.positions == {"second": (3, 2, 9, 6)}
    image = part.solution.best_image[0]
    inside = np.s_[3:9, 2:6]
    assert part.error["second"][0] == pytest.approx(error_of(toy, "second", image, photograph, inside), rel=1e-3)
    assert part.error["second"][0] < error_of(toy, "second", image, photograph) - 0.1


def test_positions_by_the_center_of_the_field():
    def apply(params, image, taps):
        conv = jax.lax.conv_general_dilated(image, params, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return {"conv": conv}

    model = joi.from_function(apply, jnp.ones((6, 6, 3, 2)), image_shape=(30, 22, 3), taps=("conv",))
    shape = model.layers()["conv"]
    # Unit i sees the rows from 4i up to 4i + 6: their centers are 3, 7, 11, …
    assert positions_in(model, "conv", (3, 0, 12, 22), (30, 22, 3), shape) == (0, 0, 3, 5)
    assert positions_in(model, "conv", (4, 7, 8, 8), (30, 22, 3), shape) == (1, 1, 2, 2)
    with pytest.raises(joi.InputError, match="4 x 4 pixels apart"):
        positions_in(model, "conv", (4, 0, 7, 22), (30, 22, 3), shape)


def test_all_is_every_tap(toy):
    assert [str(rung) for rung in parse_ladder("all", toy)] == ["first", "second", "logits"]
    assert [str(rung) for rung in parse_ladder(["second + first", "1*second"], toy)] == ["second+first", "second"]


@pytest.mark.slow
def test_a_deep_layer_that_is_empty_does_no_harm():
    model = joi.load("tin100")
    image = np.full((8, 8, 3), 0.5, np.float32)
    with pytest.raises(joi.InputError, match="would be empty; take a larger image or a layer before it"):
        invert(model, image, "block5", steps=1)
    small = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    assert invert(model, small, "conv1", steps=2).rungs[0].solution.loss.shape == (1, 3)


@pytest.mark.parametrize(
    ("layers", "options", "hint"),
    [
        ("frist", {}, "nearest: first"),
        ("first+secnod", {}, "nearest: second"),
        ("first+first", {}, "twice"),
        ("-1*first", {}, "positive number"),
        ("x*first", {}, "positive number"),
        ([], {}, "no layer"),
        ("first", {"preset": "mahendran2014"}, "nearest: mahendran201"),
        ("first", {"channels": (4, 4)}, "empty or outside the layer: layer first has channels 0 to 7"),
        ("first", {"channels": (4, 9)}, "outside the layer"),
        ("first", {"region": (4, 4, 4, 8)}, "empty or leaves the image"),
        ("first", {"region": (0, 0, 13, 4)}, "12 rows and 10 columns"),
        ("logits", {"region": (0, 0, 4, 4)}, "no positions"),
        ("second", {"channels": (7, 8)}, "zero where it counts"),  # a dead channel
        ("first", {"steps": 0}, "steps"),
        ("first", {"learning_rate": 0.1}, "lbfgs"),
        ("first", {"snapshots": [4], "steps": 3}, "snapshots"),
    ],
)
def test_mistakes(toy, photograph, layers, options, hint):
    with pytest.raises(joi.InputError, match=hint) as error:
        invert(toy, photograph, layers, **{"steps": 2, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["3", "3:", "a:b", "-1:4", "1:2:3"])
def test_a_group_of_channels_by_text(text):
    with pytest.raises(joi.InputError, match="0:48"):
        parse_channels(text)


@pytest.mark.parametrize("text", ["3", "1,2,3", "1,2,3,x", "-1,0,4,4", "1,2,3,4,5"])
def test_a_region_by_text(text):
    with pytest.raises(joi.InputError, match="Y0,X0,Y1,X1"):
        parse_region(text)


def test_what_is_not_finite_is_refused(photograph):
    model = joi.from_function(lambda p, x, taps: {"log": jnp.log(x - 0.3)}, (), image_shape=SHAPE, taps=("log",))
    with pytest.raises(joi.InputError, match="not finite"):
        invert(model, photograph, "log", steps=1)


# ---- the published rules ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quadratic():
    """A linear layer, so that the gradient can be written down; (model, its matrix)."""
    matrix = np.random.default_rng(0).normal(size=(int(np.prod(SHAPE)), 6)) / 8

    def apply(params, image, taps):
        centered = image.reshape(len(image), -1) - 0.5
        return {"dense": jnp.matmul(centered, params, precision="highest")}

    return joi.from_function(apply, jnp.asarray(matrix, jnp.float32), image_shape=SHAPE, taps=("dense",)), matrix


def tv_gradient(x):
    """Of Σ dx² + dy², forward differences."""
    out = np.zeros_like(x)
    for axis in (0, 1):
        d = np.diff(x, axis=axis)
        pad = [(0, 0)] * 3
        pad[axis] = (1, 0)
        out += 2 * np.pad(d, pad)
        pad[axis] = (0, 1)
        out -= 2 * np.pad(d, pad)
    return out


def data_gradient(x, matrix, target):
    """Of ‖Φ(x) − Φ₀‖²/‖Φ₀‖², x in levels less gray."""
    phi = x.ravel() / 255 @ matrix
    return (2 * matrix @ (phi - target) / 255 / (target @ target)).reshape(x.shape)


def clipped(x):
    return np.clip(x, -127.5, 127.5)


def transcribed_2015(x, matrix, target, counts):
    """deep-goggle, core/invert_nn.m, in its units: `lambdaTV` 100 and `lambdaL2` 8e-10 before its halves."""
    sigma2, found = sigma_2015(SHAPE) ** 2, [x]
    for count, factor in zip(counts, (1, 0.1, 0.01), strict=True):
        momentum, lr = 0, 0.004 * factor
        for _ in range(count):
            dr = 100 / 2 * tv_gradient(x) + 8e-10 / 2 * 6 * x**5
            momentum = 0.9 * momentum - lr * dr - lr * sigma2 * data_gradient(x, matrix, target)
            x = clipped(x + momentum)
            found.append(x)
    return found


def transcribed_2016(x, matrix, target, counts):
    """nnpreimage, core/nnpreimage.m with layers/tv.m, layers/l2.m and core/get_defaults.m."""
    pixels, found = SHAPE[0] * SHAPE[1], [x]
    for count, factor in zip(counts, (1, 0.1), strict=True):
        lr = pixels * factor * 0.05 * 80**2 / 6
        momentum = squares = 0
        for _ in range(count):
            n = (x**2).sum(-1, keepdims=True)
            g = (
                100 * data_gradient(x, matrix, target)
                + (6.5 / 80) ** 2 * tv_gradient(x) / pixels
                + 80.0**-6 * 6 * x * n**2 / pixels
            )
            squares = 0.9 * squares + g**2
            momentum = 0.9 * momentum - g / (1 / lr + np.sqrt(squares))
            x = clipped(x + momentum)
            x = x * np.minimum(160 / np.sqrt((x**2).sum(-1, keepdims=True)), 1)
            found.append(x)
    return found


@pytest.mark.parametrize(("name", "rule"), [("mahendran2015", transcribed_2015), ("mahendran2016", transcribed_2016)])
def test_ten_steps_of_the_authors(quadratic, name, rule):
    """In levels, to 1e-5 of the norm (float32 against float64); all stages of the preset are passed."""
    model, matrix = quadratic
    rng = np.random.default_rng(1)
    photograph = rng.uniform(0.1, 0.9, SHAPE).astype(np.float32)
    start = np.clip(rng.normal(0.5, 0.15, SHAPE), 0, 1).astype(np.float32)
    target = (photograph.astype(np.float64).ravel() - 0.5) @ matrix
    counts = [count for _, count in preset(name, SHAPE, 1.0, 1.0).parts(10)]
    assert sum(counts) == 10
    solution = (
        invert(model, photograph, "dense", preset=name, steps=10, snapshots=range(11), initial=start).rungs[0].solution
    )
    expected = rule(255 * (start.astype(np.float64) - 0.5), matrix, target, counts)
    assert solution.snapshots.shape == (11, 1, *SHAPE)
    for ours, theirs in zip(solution.snapshots[:, 0], expected, strict=True):
        error = np.linalg.norm(255 * (np.asarray(ours, np.float64) - 0.5) - theirs)
        assert error <= 1e-5 * np.linalg.norm(theirs)
    assert np.linalg.norm(expected[-1] - expected[0]) > 10  # they have moved
    assert solution.loss.shape == (1, 11)
    assert solution.evaluations.tolist() == [10 + len(counts)]
    assert solution.check_steps == tuple(range(11))


def test_the_2016_rule_clips_pixels_that_are_too_bright(quadratic):
    model, _ = quadratic
    bright = np.ones(SHAPE, np.float32)
    solution = invert(model, bright, "dense", preset="mahendran2016", steps=1, initial=bright).rungs[0].solution
    assert np.linalg.norm(np.asarray(solution.image) - 0.5, axis=-1).max() <= 160 / 255 + 1e-5


def test_published_weights():
    """λ_α is 2.16e8 in units of σ, λ_V goes by depth, the jitter by stride, noise has the norm of natural images."""
    shape = (227, 227, 3)
    sigma = sigma_2015(shape)
    one = preset("mahendran2015", shape, 0.1, 2.0)
    variation, alpha = one.regularizer.numbers
    assert alpha * (sigma / 255) ** 6 == pytest.approx(2.16e8, rel=2e-3)
    assert variation * (sigma / 255) ** 2 == pytest.approx(0.5, rel=1e-5)
    for depth, weight in ((0.3, 0.5), (0.31, 5), (0.6, 5), (0.61, 50), (1.0, 50)):
        assert preset("mahendran2015", shape, depth, 2.0).regularizer.numbers[0] * (sigma / 255) ** 2 == pytest.approx(
            weight, rel=1e-5
        )
    noise = one.image.bind(shape)
    assert noise.sd * np.sqrt(np.prod(shape)) * 255 == pytest.approx(sigma)
    assert [count for _, count in one.parts(400)] == [100, 200, 100]
    two = preset("mahendran2016", shape, 0.5, 16.0)
    assert [count for _, count in two.parts(350)] == [300, 50]
    assert two.stages[0].transform == joi.transforms.jitter(3)
    assert preset("mahendran2016", shape, 0.5, 2.0).stages[0].transform is None


def test_each_rung_is_received(toy, photograph):
    parts = []
    on = joi.Resources(receive=parts.append, chunk=1)
    inversion = invert(toy, photograph, ["first", "second"], starts=2, steps=2, on=on)
    assert [part.names for part in parts] == [("first",) * 2, ("second",) * 2]
    np.testing.assert_array_equal(parts[1].best_image, inversion.rungs[1].solution.best_image)
