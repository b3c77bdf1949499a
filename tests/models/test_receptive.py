"""Receptive fields against what a change of one row or column of the image reaches, and the published recurrence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.kernels import conv as ops
from jaxopt_input.models.receptive import ReceptiveField, receptive_field
from jaxopt_input.networks.small import SmallNet, max_pool, space_to_depth
from jaxopt_input.networks.squeezenet import FIRES, SqueezeNet
from jaxopt_input.networks.vgg import CONVOLUTIONS, VGG

SHAPE = (19, 22, 4)
LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x, size=(3, 3), stride=(1, 1), padding="VALID", features=4, **others):
    kernel = jnp.ones((*size, x.shape[-1] // others.get("feature_group_count", 1), features))
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=LAYOUT, **others)


def gated(x):
    x = conv(x)
    return x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True))


def channels_first(x):
    x = jnp.moveaxis(x, -1, 1)
    x = jax.lax.conv_general_dilated(x, jnp.ones((5, 4, 3, 2)), (2, 1), ((1, 0), (0, 2)))
    return jnp.moveaxis(x, 1, -1)


def through_a_matrix(x):
    x = conv(x, (3, 1), (2, 2))
    return jnp.einsum("nhwc,dc->ndhw", x, jnp.ones((6, 4))).transpose(0, 2, 3, 1)


def zeros_around(x):
    rows = jnp.zeros((x.shape[0], 2, *x.shape[2:]))
    return conv(jnp.concatenate([rows, x, rows], 1))


MAPS = {
    "the image": lambda x: x,
    "valid, oblong": lambda x: conv(x, (3, 5), (2, 3)),
    "same, stride 2": lambda x: conv(conv(x, stride=(2, 2), padding="SAME"), padding="SAME"),
    "same, stride 3, even kernel": lambda x: conv(x, (4, 4), (3, 3), "SAME"),
    "dilated": lambda x: conv(x, padding="SAME", rhs_dilation=(2, 3)),
    "depthwise": lambda x: conv(x, feature_group_count=4),
    "channels first": channels_first,
    "average pool": lambda x: nn.avg_pool(x, (3, 2), (2, 2), ((1, 1), (0, 0))),
    "max pool": lambda x: nn.max_pool(conv(x), (3, 3), (2, 2), "SAME"),
    "max pool by slices": lambda x: ops.max_pool(ops.max_pool(x, 3, 2, True), 2, 2),
    "max pool by reshape": lambda x: max_pool(conv(x)),
    "space to depth": lambda x: conv(space_to_depth(conv(x)), padding="SAME"),
    "stem": lambda x: ops.conv(x[..., :3], jnp.ones((7, 7, 3, 4)), 2),
    "dense convolution": lambda x: ops.conv(ops.conv(x, jnp.ones((3, 3, 4, 4)), 1, "SAME"), jnp.ones((1, 1, 4, 2))),
    "branches": lambda x: jnp.concatenate([x, conv(x, (5, 3), padding="SAME"), x[..., :1]], -1),
    "residual": lambda x: jax.nn.relu(x + conv(x, padding="SAME")),
    "strided slice": lambda x: conv(x[:, 1:-2:3, ::2]),
    "padded by concatenation": zeros_around,
    "cropping pad": lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (-2, 3, 0), (1, -1, 0), (0, 0, 0))),
    "channels taken": lambda x: conv(x[..., jnp.array([2, 0, 1])][..., ::-1]),
    "channels split": lambda x: sum(jnp.split(conv(x), 2, -1)),
    "normalized": lambda x: jax.nn.softmax(conv(x)) + nn.LayerNorm(use_bias=False, use_scale=False).apply({}, conv(x)),
    "through a matrix": through_a_matrix,
    "checkpointed": jax.checkpoint(lambda x: jax.jit(conv)(jax.nn.gelu(x))),
    "gated": gated,
    "mean": lambda x: conv(x).mean((1, 2)),
    "mean of a part": lambda x: x[:, 3:9].mean((1, 2)),
    "flattened": lambda x: conv(x).reshape(len(x), -1) @ jnp.ones((17 * 20 * 4, 3)),
}


def model_of(function, shape=SHAPE):
    return joi.from_function(
        lambda params, x, taps: {"map": function(x + params)}, jnp.zeros(()), image_shape=shape, taps=("map",)
    )


def reached(apply, shape):
    """For rows and columns: `[pixel, unit]`, whether a line of pixels reaches a line of units.

    A line of NaN reaches all that sees it, except that XLA's maximum may lose it (seen on a CPU): so two random lines
    are tried as well, whose changes are far above rounding.
    """
    height, width, _ = shape
    random = np.random.default_rng(0)
    image = random.normal(0, 1, shape).astype(np.float32)
    apply = jax.jit(apply)
    images = np.broadcast_to(image, (height + width, *shape)).copy()
    before = np.asarray(apply(images))
    changed = np.zeros(before.shape, bool)
    rows, columns = np.arange(height), np.arange(width)
    for scale in (np.nan, 100, 100):
        images[rows, rows] = scale * random.normal(0, 1, (height, *shape[1:]))
        images[height + columns, :, columns] = scale * random.normal(0, 1, (width, height, shape[2]))
        change = np.abs(np.asarray(apply(images)) - before)
        changed |= ~(change < 1e-3 * np.abs(before).max())
    changed = changed if changed.ndim == 4 else changed[:, None, None]  # a layer without positions is one unit
    return changed[:height].any((2, 3)), changed[height:].any((1, 3))


def agrees(apply, field, shape):
    """Each field begins and ends where it should, where that is inside the image, and nothing outside it counts."""
    for axis, found in enumerate(reached(apply, shape)):
        for unit, seen in enumerate(found.T):
            pixels = np.flatnonzero(seen)
            begin = field.offset[axis] + field.stride[axis] * unit
            end = begin + field.size[axis]
            if not pixels.size:  # a unit of the padding alone
                assert end <= 0 or begin >= shape[axis]
                continue
            assert pixels.min() == begin or (begin < 0 and pixels.min() >= 0), (axis, unit)
            assert pixels.max() == end - 1 or (end > shape[axis] and pixels.max() < shape[axis]), (axis, unit)


@pytest.mark.parametrize("name", MAPS)
def test_a_change_reaches_the_field_and_nothing_else(name):
    field = receptive_field(model_of(MAPS[name]), "map")
    agrees(MAPS[name], field, SHAPE)


def test_padding_that_depends_on_the_size():
    model = model_of(MAPS["same, stride 2"])
    fields = [receptive_field(model, "map", (side, side, 4)) for side in (19, 20)]
    assert [field.offset for field in fields] == [(-3, -3), (-2, -2)]
    for side, field in zip((19, 20), fields, strict=True):
        agrees(MAPS["same, stride 2"], field, (side, side, 4))


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["conv1", "block2", "block3", "block4"])
def test_a_change_in_the_bundled_network(layer):
    model = joi.load("tin100")
    agrees(
        lambda x: model.apply(model.params, x, (layer,))[layer], receptive_field(model, layer), model.info.image_shape
    )


def recurrence(*layers):
    """(size, stride, offset) after layers of (kernel, stride, padding): Araujo et al. (2019), equations 1 to 4."""
    size, stride, offset = 1, 1, 0
    for kernel, step, pad in layers:
        size, offset, stride = size + (kernel - 1) * stride, offset - pad * stride, stride * step
    return ReceptiveField((size,) * 2, (stride,) * 2, (offset,) * 2)


def abstract(module, shape):
    """A model whose parameters have shapes and no values: tracing needs no more."""
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return joi.from_linen(module, variables, image_shape=shape)


@pytest.mark.slow
def test_squeezenet():
    model = abstract(SqueezeNet(), (227, 227, 3))
    layers = [(7, 2, 0), (3, 2, 0)]
    for fire in FIRES:
        layers.append((3, 1, 1))
        assert receptive_field(model, f"fire{fire}") == recurrence(*layers)
        if fire in (4, 8):
            layers.append((3, 2, 0))
            assert receptive_field(model, f"pool{fire}") == recurrence(*layers)
    assert receptive_field(model, "fire4").size == (35, 35)
    assert receptive_field(model, "fire8").size == (107, 107)
    assert receptive_field(model, "logits") == ReceptiveField((227, 227), (0, 0), (0, 0))


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "pool"), [(16, "max"), (19, "average")])
def test_vgg(depth, pool):
    model = abstract(VGG(depth, pool), (224, 224, 3))
    layers = []
    for block, count in enumerate(CONVOLUTIONS[depth], start=1):
        for k in range(1, count + 1):
            layers.append((3, 1, 1))
            if k == count:
                assert receptive_field(model, f"conv{block}_{k}") == recurrence(*layers)
        layers.append((2, 2, 0))
    assert receptive_field(model, "pool5") == recurrence(*layers)
    if depth == 16:
        assert receptive_field(model, "conv5_3").size == (196, 196)


def test_smallnet_of_other_depth():
    model = abstract(SmallNet(stages=((4, 0), (4, 2))), (40, 32, 3))
    stem = [(2, 2, 0), (3, 1, 1)]
    assert receptive_field(model, "block2") == recurrence(*stem, (3, 1, 1))
    assert receptive_field(model, "block3") == recurrence(*stem, (3, 1, 1), (2, 2, 0), *[(3, 1, 1)] * 3)


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x: jnp.fft.fft(x).real, "fft"),
        (lambda x: jnp.sort(x, 1), "sort"),
        (lambda x: jnp.cumsum(x, 1), "cumsum"),
        (lambda x: jnp.repeat(x, 2, 1), "upsampled"),
        (lambda x: x[:, ::-1], "mirrored"),
        (lambda x: x + x[:, ::-1], "differently"),
        (lambda x: jax.lax.conv_transpose(x, jnp.ones((2, 2, 4, 4)), (2, 2), "VALID"), "transposed"),
        (lambda x: jnp.concatenate([x[:, :3], x[:, 5:]], 1), "concatenate"),
        (lambda x: jnp.take(x, jnp.array([4, 2, 9]), 1), "part of a map"),
        (lambda x: jnp.ones((len(x), 3, 3, 2)), "does not depend"),
    ],
)
def test_what_no_rule_covers_is_named(function, hint):
    with pytest.raises(joi.InputError, match=hint) as error:
        receptive_field(model_of(function), "map")
    assert "\n" not in str(error.value)


def test_what_the_layer_does_not_need_is_not_refused():
    def apply(params, image, taps):
        first = conv(image)
        return {tap: {"first": first, "sorted": jnp.sort(first, 1)}[tap] for tap in taps}

    model = joi.from_function(apply, 0.0, image_shape=SHAPE, taps=("first", "sorted"))
    assert receptive_field(model, "first") == ReceptiveField((3, 3), (1, 1), (0, 0))


def test_mistakes():
    model = joi.load("tin100")
    with pytest.raises(joi.InputError, match="nearest: block2"):
        receptive_field(model, "blok2")
    with pytest.raises(joi.InputError, match="cannot take"):
        receptive_field(model, "block2", (3, 3, 3))


def test_a_number_that_sees_all_joins_a_map_by_plain_broadcasting():
    """Squeeze and excitation with a pooling of stride 1: the map of one position is not broadcast explicitly."""

    def apply(params, x, taps):
        h = conv(x)
        whole = nn.avg_pool(h, h.shape[1:3])
        return {"gated": h * jax.nn.sigmoid(whole), "row": h * h[:, :1], "logits": h.mean((1, 2))}

    model = joi.from_function(apply, 0.0, image_shape=SHAPE, taps=("gated", "row", "logits"))
    assert receptive_field(model, "gated") == ReceptiveField(SHAPE[:2], (0, 0), (0, 0))
    assert receptive_field(model, "row").stride[0] == 0
