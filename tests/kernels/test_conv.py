"""The fast operations against plain `lax`: values, gradients, transformations, ties."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxopt_input.kernels import conv as ops


def plain_conv(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_pool(x, window, stride, ceil):
    """Max pooling by PyTorch's rule of sizes: the last window starts inside the image."""
    sizes = []
    for size in x.shape[1:3]:
        out = -(-(size - window) // stride) + 1 if ceil else (size - window) // stride + 1
        sizes.append(out - 1 if (out - 1) * stride >= size else out)
    pads = [(0, max(0, (out - 1) * stride + window - size)) for out, size in zip(sizes, x.shape[1:3], strict=True)]
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), *pads, (0, 0))
    )


def random(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def value_and_gradient(function, *rest):
    """The output, and the gradients of a loss that sees every output element differently."""

    def loss(*args):
        out = function(*args, *rest)
        return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

    @jax.jit
    def both(*args):
        gradients, out = jax.grad(loss, tuple(range(len(args))), has_aux=True)(*args)
        return out, gradients

    return both


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        {"kernel_size": (3, 3)},
        {"kernel_size": (7, 7), "strides": 2, "padding": "VALID"},
        {"kernel_size": (1, 1)},
        {"kernel_size": (3, 3), "padding": ((1, 0), (2, 1))},
        {"kernel_size": (3, 3), "strides": (2, 1)},
        {"kernel_size": (3, 3), "kernel_dilation": 2},
        {"kernel_size": (3, 3), "feature_group_count": 3},
    ],
)
def test_linen_conv_is_linens_own(layer):
    """Inside `nn.Conv`, for what `ops.conv` takes over and for what it hands back to `lax`."""
    x = random((2, 12, 11, 3))
    plain = nn.Conv(6, **layer)
    ours = nn.Conv(6, conv_general_dilated=ops.linen_conv, **layer)
    variables = plain.init(jax.random.key(0), x)

    def run(module):
        return value_and_gradient(lambda x, v: module.apply(v, x))(x, variables)

    for a, b in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # other orders of summation in float32


POOLS = [(3, 2, True), (3, 2, False), (2, 2, False), (2, 2, True), (3, 3, False), (3, 1, False), (5, 3, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride", "ceil"), POOLS)
@pytest.mark.parametrize("size", [(11, 11), (12, 13), (13, 12), (14, 10)])
def test_max_pool(window, stride, ceil, size):
    x = random((2, *size, 5))  # no ties: the winner, and so the gradient, is unique
    ours, our_gradient = value_and_gradient(ops.max_pool, window, stride, ceil)(x)
    plain, plain_gradient = value_and_gradient(plain_pool, window, stride, ceil)(x)
    np.testing.assert_array_equal(ours, plain)
    np.testing.assert_allclose(our_gradient[0], plain_gradient[0], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride", "ceil"), POOLS)
def test_max_pool_gives_a_tie_to_the_first(window, stride, ceil):
    x = jnp.round(random((2, 13, 12, 3)))  # a handful of values, so most windows have several largest elements
    out = ops.max_pool(x, window, stride, ceil)
    weight = random(out.shape, 1)
    expected = np.zeros(x.shape, np.float32)
    for n, i, j, c in np.ndindex(*out.shape):
        patch = np.asarray(x)[n, i * stride : i * stride + window, j * stride : j * stride + window, c]
        row, column = np.unravel_index(np.argmax(patch), patch.shape)
        expected[n, i * stride + row, j * stride + column, c] += weight[n, i, j, c]
    ours = jax.jit(jax.grad(lambda x: (ops.max_pool(x, window, stride, ceil) * weight).sum()))(x)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_max_pool_of_a_constant_keeps_the_sum_of_the_gradient():
    x = jnp.full((1, 9, 10, 2), 0.5)
    ours, plain = (value_and_gradient(pool, 3, 2, True)(x)[1][0] for pool in (ops.max_pool, plain_pool))
    np.testing.assert_allclose(ours.sum(), plain.sum(), rtol=1e-5)


def test_max_pool_propagates_nan():
    x = random((1, 9, 9, 2)).at[0, 4, 4, 0].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(ops.max_pool(x, 3, 2)), jnp.isnan(plain_pool(x, 3, 2, False)))
    assert int(jnp.isnan(ops.max_pool(x, 3, 2)).sum()) == 4


CONVS = [
    ((9, 10), 3, 16, 8, 1, "SAME"),
    ((9, 10), 3, 16, 8, 1, "VALID"),
    ((9, 10), 5, 4, 8, 1, ((2, 1), (0, 3))),
    ((9, 11), 3, 80, 72, 1, "SAME"),  # by Winograd's filtering: an odd and an even size, padded or not
    ((12, 9), 3, 72, 80, 1, "VALID"),
    ((11, 12), 3, 72, 72, 1, ((2, 0), (1, 3))),
    ((9, 10), 1, 16, 8, 1, "SAME"),
    ((9, 10), 3, 16, 8, 2, "SAME"),
    ((23, 24), 7, 3, 8, 2, "VALID"),
    ((24, 23), 7, 3, 8, 2, ((3, 3), (3, 3))),
    ((25, 26), 7, 3, 8, 2, "SAME"),
    ((26, 22), 3, 3, 8, 2, "VALID"),
    ((22, 25), 5, 1, 8, 2, "VALID"),
    ((43, 44), 11, 3, 8, 4, ((2, 2), (2, 2))),
    ((41, 46), 11, 3, 8, 4, "VALID"),
    ((20, 21), 2, 3, 8, 3, "VALID"),  # a stride above the kernel: positions that no window reaches
]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "window", "channels", "features", "stride", "padding"), CONVS)
def test_conv(size, window, channels, features, stride, padding, monkeypatch):
    monkeypatch.setattr(ops, "WINOGRAD_FLOPS", 0)
    x, kernel = random((2, *size, channels)), random((window, window, channels, features), 1)
    ours, our_gradients = value_and_gradient(ops.conv, stride, padding)(x, kernel)
    plain, plain_gradients = value_and_gradient(plain_conv, stride, padding)(x, kernel)
    # Sums of up to 1000 products in another order: 1e-5 of the largest is some 80 roundings of float32.
    for a, b in zip((ours, *our_gradients), (plain, *plain_gradients), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


def test_winograd_is_chosen_by_shape():
    def chosen(*shape, features, window=3, dtype=jnp.float32):
        x, kernel = jnp.zeros(shape, dtype), jnp.zeros((window, window, shape[-1], features), dtype)
        pads = ((window // 2,) * 2,) * 2
        return "conv_general_dilated" not in str(jax.make_jaxpr(lambda x: ops.dense_conv(x, kernel, pads))(x))

    assert chosen(8, 28, 28, 48, features=192)
    assert chosen(8, 28, 28, 192, features=48)
    assert not chosen(8, 56, 56, 32, features=128)  # too few channels
    assert not chosen(8, 56, 56, 64, features=3)
    assert not chosen(1, 28, 28, 48, features=192)  # too little work
    assert chosen(2, 8, 8, 512, features=1024)
    assert not chosen(1, 8, 8, 512, features=1024)  # too small a map
    assert not chosen(8, 28, 28, 48, features=192, window=5)
    assert not chosen(8, 28, 28, 48, features=192, dtype=jnp.bfloat16)
    assert not chosen(1, 999, 999, 72, features=72)  # too large


def test_winograd_sees_its_window_alone():
    """Exactly: one input element that is not zero, or not finite, reaches its nine outputs and no others."""
    kernel, pads = random((3, 3, 16, 16)), ((1, 1), (1, 1))
    for value in (1.0, jnp.inf):
        x = jnp.zeros((1, 9, 8, 16)).at[0, 3, 4, 5].set(value)
        touched = np.asarray(ops.winograd(x, kernel, pads) != 0).any((0, 3))
        expected = np.zeros((9, 8), bool)
        expected[2:5, 3:6] = True
        np.testing.assert_array_equal(touched, expected)


OPERATIONS = {
    "pool": lambda x: ops.max_pool(x, 3, 2, True),
    "dense": lambda x: ops.conv(x, random((3, 3, 3, 6), 1).astype(x.dtype), 1, "SAME"),
    "winograd": lambda x: ops.winograd(x, random((3, 3, 3, 6), 1).astype(x.dtype), ((1, 1), (1, 1))),
    "1x1": lambda x: ops.conv(x, random((1, 1, 3, 6), 1).astype(x.dtype)),
    "stem": lambda x: ops.conv(x, random((7, 7, 3, 6), 1).astype(x.dtype), 2),
}


@pytest.fixture(params=OPERATIONS)
def gradient(request):
    both = value_and_gradient(OPERATIONS[request.param])
    return lambda x: both(x)[1][0]


@pytest.mark.slow
def test_under_vmap_and_loops(gradient):
    x = random((3, 2, 15, 14, 3))
    expected = jnp.stack([gradient(one) for one in x])
    # XLA may fuse multiplications and additions differently: a few roundings of float32.
    close = {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(jax.vmap(gradient)(x), expected, **close)
    np.testing.assert_allclose(lax.scan(lambda carry, one: (carry, gradient(one)), 0, x)[1], expected, **close)
    stepped = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] - 1e-3 * gradient(s[1])), (0, x[0]))[1]
    once = x[0] - 1e-3 * expected[0]
    np.testing.assert_allclose(stepped, once - 1e-3 * gradient(once), **close)


@pytest.mark.slow
def test_under_shard_map(gradient):
    devices = np.array(jax.devices())
    x = random((2 * len(devices), 15, 14, 3))
    spec = PartitionSpec("starts")
    # The loss weighs each device's images alike, so the reference is the gradient of each share alone.
    sharded = jax.shard_map(gradient, mesh=Mesh(devices, ("starts",)), in_specs=spec, out_specs=spec)(x)
    expected = jnp.concatenate([gradient(share) for share in jnp.split(x, len(devices))])
    np.testing.assert_allclose(sharded, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_weight_gradient_under_shard_map_is_summed_over_devices():
    devices = np.array(jax.devices())
    x, kernels = random((2 * len(devices), 15, 14, 3)), (random((7, 7, 3, 6), 1), random((3, 3, 6, 4), 2))

    def loss(kernels, x):
        return (ops.conv(ops.conv(x, kernels[0], 2), kernels[1], 1, "SAME") ** 2).sum()

    images, whole = PartitionSpec("starts"), PartitionSpec()
    share = jax.shard_map(jax.grad(loss), mesh=Mesh(devices, ("starts",)), in_specs=(whole, images), out_specs=whole)
    for ours, expected in zip(share(kernels, x), jax.grad(loss)(kernels, x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_bfloat16(name):
    x = random((2, 15, 14, 3)).astype(jnp.bfloat16)
    both = value_and_gradient(OPERATIONS[name])
    ours, exact = both(x), both(x.astype(jnp.float32))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        # bfloat16 has 8 bits, and kernel, cotangent and result are each rounded once: 1 per cent of the size.
        assert float(jnp.linalg.norm((a.astype(jnp.float32) - b).ravel()) / jnp.linalg.norm(b.ravel())) < 0.01


def lowered(function, platform):
    """The program for a platform, which need not be here."""
    return jax.jit(function).trace().lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_lowers_for_a_tpu(name):
    x = jax.ShapeDtypeStruct((2, 15, 14, 3), jnp.float32)
    trace = jax.jit(value_and_gradient(OPERATIONS[name])).trace(x)
    assert "stablehlo" in trace.lower(lowering_platforms=("tpu",)).as_text()


def test_elsewhere_than_on_a_cpu_everything_is_plain_lax():
    """Of the two forms that are traced, the program holds one: a dilated convolution there, and a scatter."""
    x, kernel = random((1, 15, 15, 3)), random((7, 7, 3, 6))
    stem, pool = (jax.grad(f) for f in (lambda x: ops.conv(x, kernel, 2).sum(), lambda x: ops.max_pool(x, 3, 2).sum()))
    for gradient, sign in ((stem, "lhs_dilate = [2, 2]"), (pool, "select_and_scatter")):
        here, there = (lowered(lambda f=gradient: f(x), platform) for platform in ("cpu", "tpu"))
        assert sign in there
        assert sign not in here


def test_plain_forms_are_what_platforms_other_than_a_cpu_compute():
    """Their gradients are those of `lax` itself: the same program."""
    x, kernel = random((2, 15, 14, 3)), random((3, 3, 3, 6))
    ours = lowered(lambda: jax.grad(lambda x: ops.conv(x, kernel, 1, "SAME").sum())(x), "tpu")
    assert ours.count("stablehlo.convolution") <= 2 + 1  # of the image; of the kernel, which is not asked for
    assert "optimization_barrier" not in ours


def test_odd_shapes_are_as_in_lax():
    """A map smaller than the window has no maximum; a pad may be negative."""
    assert ops.max_pool(jnp.ones((1, 2, 5, 3)), 3, 2).shape == (1, 0, 2, 3)
    x, kernel = random((1, 9, 9, 3)), random((3, 3, 3, 8))
    expected = ops.plain_conv(x, kernel, 2, ((-1, 0), (0, -1)))
    # float32 sums of 27 products in another order
    np.testing.assert_allclose(ops.conv(x, kernel, 2, ((-1, 0), (0, -1))), expected, atol=1e-5)
