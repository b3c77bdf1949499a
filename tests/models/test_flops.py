"""Counted work against closed forms and published figures; all are whole numbers, so equality is asked for."""

import jax
import jax.numpy as jnp
import pytest

import jaxopt_input as joi
from jaxopt_input.models.flops import Work, gradient_work
from jaxopt_input.networks.vgg import VGG


def conv(x, w, stride=1, padding="VALID", groups=1, dilation=1, transposed=1):
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, lhs_dilation=(transposed, transposed), rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def flops(function, params, image):
    return gradient_work(function, params, image).flops


@pytest.mark.parametrize(
    ("options", "multiply_adds"),
    [
        ({}, 2 * 7 * 5 * 6 * (3 * 3) * 4),  # [2, 9, 7, 4] to [2, 7, 5, 6]
        ({"padding": "SAME"}, 2 * 9 * 7 * 6 * (3 * 3) * 4),  # the zeros of padding count
        ({"stride": 2}, 2 * 4 * 3 * 6 * (3 * 3) * 4),
        ({"dilation": 2}, 2 * 5 * 3 * 6 * (3 * 3) * 4),
        ({"groups": 2}, 2 * 7 * 5 * 6 * (3 * 3) * 2),
        (
            {"transposed": 2, "padding": [(0, 0), (0, 0)]},
            2 * 9 * 7 * 4 * (3 * 3) * 6,
        ),  # each pixel meets each number of the kernel
    ],
)
def test_convolution(options, multiply_adds):
    w = jnp.ones((3, 3, 4 // options.get("groups", 1), 6))
    found = flops(lambda w, x: conv(x, w, **options), w, jnp.ones((2, 9, 7, 4)))
    assert found == 2 * 2 * multiply_adds  # forward, and the gradient by the image


def test_the_gradient_as_jax_writes_it_has_the_counted_work():
    # A VALID convolution's input gradient is padded, and so counts a little more: SAME does not.
    w, x = jnp.ones((3, 3, 4, 6)), jnp.ones((2, 9, 7, 4))
    written = gradient_work(lambda x, w: jax.grad(lambda x: conv(x, w, padding="SAME").sum())(x), x, w)
    forward = 2 * (2 * 9 * 7 * 6 * 9 * 4)
    # The image is a parameter here and so adds nothing; the kernel, in its place, doubles the one product that is left.
    assert written.flops == 2 * forward


def test_dot_products_and_bytes():
    w, x = jnp.ones((5, 7), jnp.bfloat16), jnp.ones((3, 5), jnp.bfloat16)
    assert gradient_work(lambda w, x: x @ w, w, x) == Work(2 * 2 * 3 * 5 * 7, 2 * 2 * (35 + 15 + 21))
    # Both operands depend on the image: two products backwards.
    assert flops(lambda w, x: jnp.einsum("nc,nd->cd", x, 2 * x), w, x) == 3 * 2 * 3 * 5 * 5
    assert flops(lambda w, x: x.sum() + (w @ w.T).sum(), w, x) == 2 * 5 * 5 * 7  # of parameters alone: no gradient


def test_what_is_not_needed_does_not_count(toy):
    def upto(tap):
        image = jax.ShapeDtypeStruct((2, *toy.info.image_shape), jnp.float32)
        return flops(lambda p, x: toy.apply(p, x, ("first", "second", "logits"))[tap].sum(), toy.params, image)

    first, second = (4 * 2 * 12 * 10 * 9 * channels * 8 for channels in (3, 8))
    assert [upto("first"), upto("second"), upto("logits")] == [first, first + second, first + second + 4 * 2 * 8 * 5]


def test_control_flow():
    w, x = jnp.ones((4, 4)), jnp.ones((3, 4))
    once = 2 * 2 * 3 * 4 * 4
    step = lambda x, _: (x @ w, None)  # noqa: E731
    assert flops(lambda w, x: jax.lax.scan(step, x, None, length=5)[0], w, x) == 5 * once
    # Of the three products of a step two do not read the image, and have one gradient less: x's own is carried on.
    stacked = lambda w, x: jax.lax.scan(lambda x, w: (x @ w, w @ w @ w), x, jnp.stack([w] * 5))[0]  # noqa: E731
    assert flops(stacked, w, x) == 5 * (once + 2 * 2 * 4**3)
    assert flops(lambda w, x: jax.checkpoint(lambda x: x @ w)(x), w, x) == once
    branches = lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)  # noqa: E731
    assert flops(branches, w, x) == 2 * once
    loop = lambda w, x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ w, x)  # noqa: E731
    assert flops(loop, w, x) == once


def test_the_same_in_every_form_of_a_network():
    # SqueezeNet computes its gradients in forms of its own on a CPU; the layers' shapes say what counts.
    from jaxopt_input.networks.squeezenet import SqueezeNet

    module, image = SqueezeNet(), jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)
    found = flops(lambda p, x: module.apply(p, x)["conv1"].sum(), params, image)
    assert found == 4 * 111 * 111 * 96 * 7 * 7 * 3


def test_vgg16_has_the_published_work():
    # 15.47 billion multiply-adds a 224x224 image, convolutions and dense layers (torchvision's model card: 15.47).
    module, image = VGG(16), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)
    found = flops(lambda p, x: module.apply(p, x)["logits"].sum(), params, image)
    assert round(found / 4e9, 2) == 15.47


def test_bundled_network():
    model = joi.load("mnist")
    image = jax.ShapeDtypeStruct((1, *model.info.image_shape), jnp.float32)
    one = gradient_work(lambda p, x: model.apply(p, x, ("logits",))["logits"].sum(), model.params, image)
    eight = gradient_work(
        lambda p, x: model.apply(p, x, ("logits",))["logits"].sum(),
        model.params,
        jax.ShapeDtypeStruct((8, *model.info.image_shape), jnp.float32),
    )
    assert eight.flops == 8 * one.flops
    assert one.bytes < eight.bytes < 8 * one.bytes  # the weights are read once a batch
