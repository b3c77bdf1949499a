"""Units on their receptive fields: the canvas, exactness against the full image, crops, one compilation, mistakes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine import loop, memory
from jaxopt_input.kernels import conv as ops
from jaxopt_input.methods.visualize.units import canvas, crop_to_field, units_of, visualize_units
from jaxopt_input.models.receptive import receptive_field

LAYOUT = ("NHWC", "HWIO", "NHWC")
JITTER = joi.transforms.jitter(4)


class Shift(joi.transforms.Affine):
    """A transform of one's own: up to 6 pixels to one side, which no other transform does."""

    def matrix(self, key):
        return jnp.array([[1.0, 0.0, 6 * jax.random.uniform(key)], [0.0, 1.0, 0.0]])


PLAIN = {"image": joi.images.pixels(), "transform": None}  # compiles the fastest


def conv(x, kernel, stride=1, padding="SAME"):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def pooled_apply(params, image, taps):
    """Padding that depends on the size, a bias that makes padding differ from gray, pooling with ceil, a head."""
    first = jax.nn.relu(conv(image - 0.3, params["a"], 2) + 0.1)
    pooled = ops.max_pool(first, 3, 2, ceil=True)
    second = jax.nn.relu(conv(pooled, params["b"]) + 0.1)
    out = {"first": first, "pooled": pooled, "second": second, "logits": second.mean((1, 2))}
    return {tap: out[tap] for tap in taps}


@pytest.fixture(scope="module")
def pooled():
    a, b = jax.random.split(jax.random.key(0))
    params = {"a": 0.3 * jax.random.normal(a, (3, 3, 3, 5)), "b": 0.3 * jax.random.normal(b, (3, 3, 5, 7))}
    return joi.from_function(
        pooled_apply, params, image_shape=(48, 40, 3), taps=("first", "pooled", "second", "logits")
    )


@pytest.fixture(scope="module")
def linear():
    """A 5x5 convolution of stride 2: the best image of channel c is 1 where its kernel is positive and 0 elsewhere."""
    kernel = jax.random.normal(jax.random.key(3), (5, 5, 3, 8))
    return joi.from_function(
        lambda params, x, taps: {"conv": conv(x, params, 2)}, kernel, image_shape=(21, 21, 3), taps=("conv",)
    )


def unit_value(model, layer, image, position):
    return np.asarray(model.apply(model.params, image[None], (layer,))[layer][0][position])


def exact(model, layer):
    """A unit is the same function of its field on the canvas as in the middle of the full image."""
    found = canvas(model, layer, joi.transforms.lucid())
    full = np.asarray(jax.random.uniform(jax.random.key(1), model.info.image_shape))
    field = receptive_field(model, layer)
    position = tuple(n // 2 for n in model.layers()[layer][:2])
    begin = field.begin(position)
    assert min(begin) >= 0  # nothing of the unit's field is padding
    assert all(b + n <= side for b, n, side in zip(begin, field.size, full.shape[:2], strict=True))
    for shape, corner in ((found.view, None), (found.image, found.corner)):
        center = tuple(n // 2 for n in model.layers(shape)[layer][:2])
        corner = corner or receptive_field(model, layer, shape).begin(center)
        for around in (0.0, 0.5, 1.0):  # what lies around the field makes no difference
            image = np.full(shape, around, np.float32)
            rows, columns = (slice(c, c + n) for c, n in zip(corner, field.size, strict=True))
            image[rows, columns] = full[begin[0] : begin[0] + field.size[0], begin[1] : begin[1] + field.size[1]]
            wanted = unit_value(model, layer, full, position)
            np.testing.assert_allclose(unit_value(model, layer, image, center), wanted, rtol=1e-4, atol=1e-4)
    assert np.prod(found.view) < np.prod(model.info.image_shape)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["first", "pooled", "second"])
def test_a_unit_on_the_canvas_is_a_unit_of_the_full_image(pooled, layer):
    exact(pooled, layer)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["block2", "block3"])
def test_a_unit_of_the_bundled_network(layer):
    exact(joi.load("tin100"), layer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [
        joi.transforms.lucid(),
        joi.transforms.jitter(40),
        joi.transforms.rotate([45]),
        joi.transforms.scale([0.5, 2]),
        Shift(),
        joi.transforms.compose("jitter", Shift()),
    ],
)
def test_the_transform_brings_nothing_from_outside_into_the_field(pooled, transform):
    """On an image that goes on with NaN, no view has NaN in the field of the unit at its center."""
    found = canvas(pooled, "second", transform)
    *moves, cut = found.transform.parts
    wider = joi.transforms.compose(*moves, joi.transforms.crop(-cut.width + 30))
    image = np.pad(np.ones(found.image), ((30, 30), (30, 30), (0, 0)), constant_values=np.nan)
    views = jax.jit(jax.vmap(lambda key: wider(key, image)))(jax.random.split(jax.random.key(0), 300))
    margin = -cut.width
    assert views.shape[1:] == found.view
    rows, columns = (slice(c - margin, c - margin + n) for c, n in zip(found.corner, found.size, strict=True))
    assert np.isfinite(views[:, rows, columns]).all()


def test_a_function_does_not_say_how_far_it_reaches(pooled):
    with pytest.raises(joi.InputError, match="how far it moves"):
        canvas(pooled, "second", lambda key, image: image[:, ::-1])


def test_the_best_image_of_a_linear_unit(linear):
    """Its pixels are where the kernel is positive: 30 steps of 1/30 or more reach 1 or 0 from gray."""
    kernel = np.asarray(linear.params)
    s = visualize_units(linear, "conv:*", steps=60, optimizer=joi.optimizers.adam(0.02), **PLAIN)
    np.testing.assert_allclose(s.best_image, np.moveaxis(kernel, -1, 0) > 0, atol=1e-5)
    np.testing.assert_allclose(-s.best_loss, np.maximum(kernel, 0).sum((0, 1, 2)), rtol=1e-4)
    assert s.names == tuple(f"conv:{c}@field" for c in range(8))
    assert not s.dead.any()


@pytest.mark.slow
def test_chunks_and_starts(pooled):
    """Lanes do not depend on the chunk; the last chunk of 7 channels in threes is padded and cut off."""
    args = {"steps": 4, "starts": 2, "transform": JITTER, "snapshots": (0, 4), "image": joi.images.pixels()}
    one, many = (visualize_units(pooled, "second:*", on=joi.Resources(chunk=chunk), **args) for chunk in (6, 14))
    assert one.best_image.shape == (14, *receptive_field(pooled, "second").size, 3)
    assert one.names == many.names
    np.testing.assert_array_equal(one.start, [0, 1] * 7)
    for field in ("best_image", "image", "snapshots"):
        np.testing.assert_allclose(getattr(one, field), getattr(many, field), atol=1e-4)
    np.testing.assert_allclose(one.loss, many.loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(one.snapshots[1], one.image)


def test_one_compilation(pooled, compilations):
    def run(target, seed=0):
        seen, key = [], jax.random.key(seed)
        s = visualize_units(
            pooled,
            target,
            steps=3,
            key=key,
            on=joi.Resources(chunk=2, progress=lambda *args: seen.append(args[:2])),
            **PLAIN,
        )
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        return s

    run("pooled:3")  # what is compiled a process, not a call
    counts = []
    for target, seed in ((["second:4", "second:6"], 0), ("second:*", 0), ("second:*", 1)):  # in 1, 4 and 4 chunks
        with compilations() as seen:
            run(target, seed)
        counts.append(seen.count)
    assert 3 <= counts[0] <= 3 + 6  # begin, advance, collect; and a transfer a kind of array
    assert counts[1] <= 6
    assert counts[2] == 0


def test_dead_units_come_alive(toy):
    """A bias far below 0 leaves no gradient; redirected, the image leaves the gray."""
    deep = dataclasses.replace(
        toy, apply=lambda p, x, taps: {tap: jax.nn.relu(a - 0.3) for tap, a in toy.apply(p, x, taps).items()}
    )
    args = {"steps": 24, "optimizer": joi.optimizers.adam(0.1), **PLAIN}
    plain, redirected = (visualize_units(deep, "second:1", redirected=on, **args) for on in (False, True))
    assert plain.dead.all()
    assert plain.best_loss[0] == 0
    assert not redirected.dead.any()
    assert redirected.best_loss[0] < 0


def test_a_field_beyond_the_image_takes_the_image():
    model = joi.load("tin100")
    found = canvas(model, "block5", joi.transforms.lucid())
    assert (found.view, found.image, found.corner, found.size) == ((64, 64, 3), (64, 64, 3), (0, 0), (64, 64))
    assert found.transform == joi.transforms.lucid()


def test_a_network_of_one_size_takes_the_image_and_crops(pooled):
    def fixed(params, image, taps):
        first = conv(image, params)
        return {
            tap: {"first": first, "logits": first.reshape(len(image), 16 * 16 * 4) @ jnp.ones((1024, 2))}[tap]
            for tap in taps
        }

    model = joi.from_function(fixed, jnp.ones((3, 3, 3, 4)), image_shape=(16, 16, 3), taps=("first", "logits"))
    found = canvas(model, "first")
    assert (found.view, found.image, found.corner, found.size) == ((16, 16, 3), (16, 16, 3), (7, 7), (3, 3))
    assert visualize_units(model, "first:2", steps=1, **PLAIN).image.shape == (1, 3, 3, 3)


def test_a_network_with_a_least_size():
    """A later layer needs 20 pixels: the view is as large, the field still 3."""

    def apply(params, image, taps):
        first = conv(image, params)
        return {tap: {"first": first, "last": nn.max_pool(first, (20, 20))}[tap] for tap in taps}

    model = joi.from_function(apply, jnp.ones((3, 3, 3, 4)), image_shape=(32, 32, 3), taps=("first", "last"))
    found = canvas(model, "first")
    assert (found.view, found.size, found.corner) == ((20, 20, 3), (3, 3), (9, 9))


def test_crop_to_field(pooled):
    wanted = ["second:1@0,0", "second:2@center", "second:3@11,4"]
    s = joi.visualize(pooled, wanted, steps=1, snapshots=(0, 1), **PLAIN)
    cut = crop_to_field(s, pooled)
    field = receptive_field(pooled, "second")
    framed = np.pad(s.best_image, ((0, 0), (50, 50), (50, 50), (0, 0)), constant_values=0.5)
    for n, unit in enumerate(units_of(pooled, wanted)):
        top, left = (50 + b for b in field.begin(unit.position))
        np.testing.assert_array_equal(
            cut.best_image[n], framed[n, top : top + field.size[0], left : left + field.size[1]]
        )
    assert cut.snapshots.shape == (2, 3, *field.size, 3)
    np.testing.assert_array_equal(cut.snapshots[1], cut.image)
    np.testing.assert_array_equal(cut.loss, s.loss)
    averaged = joi.optimizers.averaged(joi.optimizers.adam(), 0.5)
    s = joi.visualize(pooled, "second:2@center", steps=1, optimizer=averaged, **PLAIN)
    assert crop_to_field(s, pooled).average_image.shape == (1, *field.size, 3)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("logits:1", "no positions"),
        ("second:7", "channel 7"),
        ("secund:1", "nearest: second"),
        ("second", "LAYER:CHANNEL"),
        ("second:1@center", "LAYER:CHANNEL"),
        ("second:1~second:2", "LAYER:CHANNEL"),
        ("-second:1", "LAYER:CHANNEL"),
        (["second:1", "first:1"], "one layer"),
    ],
)
def test_mistakes_are_named_before_compiling(pooled, compilations, target, hint):
    with compilations() as seen, pytest.raises(joi.InputError, match=hint) as error:
        visualize_units(pooled, target, steps=2)
    assert "\n" not in str(error.value)
    assert seen.count == 0


def test_mistakes_of_crops(pooled):
    for target, hint in (("second:1", "second:CHANNEL@center"), (["second:1@0,0", "first:1@0,0"], "one layer")):
        with pytest.raises(joi.InputError, match=hint):
            units_of(pooled, target)


# memory


@pytest.mark.parametrize(
    ("text", "expected"), [("4GiB", 4 << 30), ("500 MB", 500_000_000), ("1e9", 10**9), ("2k", 2000)]
)
def test_amounts(text, expected):
    assert memory.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "4 apples", "5i"])
def test_no_amounts(text):
    with pytest.raises(joi.InputError, match="amount of memory"):
        memory.parse_bytes(text)


def test_a_memory_that_is_too_small(pooled):
    with pytest.raises(joi.InputError, match=r"100 MiB is too little: one image at a time takes 7\d\d MiB"):
        visualize_units(pooled, "second:*", on=joi.Resources(memory=100 << 20), steps=1)


def test_the_estimate_is_above_what_is_compiled(pooled, monkeypatch):
    """XLA's own figure for the loop with 6 lanes, which costs a compilation to know."""
    found, measured = canvas(pooled, "second"), []
    advance = loop.advance

    def measure(*args):
        analysis = advance.lower(*args).compile().memory_analysis()
        measured.append(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
        raise InterruptedError

    monkeypatch.setattr(loop, "advance", measure)
    with pytest.raises(InterruptedError):
        visualize_units(pooled, [f"second:{c}" for c in range(6)], steps=2, **PLAIN)
    each = memory.image_bytes(pooled, ("second",), found.view, found.image)
    assert 0.2 * each < measured[0] / 6 < each
