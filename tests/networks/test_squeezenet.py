"""SqueezeNet against an independent implementation, and on photographs."""

import io
import os
import re
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxopt_input.networks.squeezenet import LAYERS, SqueezeNet, read_deep_compression

DATA = Path(os.environ.get("JAXOPT_INPUT_DATA", "absent"))
WEIGHTS = DATA / "squeezenet/compressed_SqueezeNet.net"
with_data = pytest.mark.skipif(not WEIGHTS.exists(), reason="JAXOPT_INPUT_DATA names no folder with the weights")
module = SqueezeNet()


@pytest.fixture(scope="module")
def random_params():
    return jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


@pytest.fixture(scope="module")
def params():
    return read_deep_compression(WEIGHTS)


@pytest.fixture(scope="module")
def reference():
    return np.load(DATA / "../reference/squeezenet_reference.npz")


def apply(params, image):
    return module.apply({"params": params}, image)


def relative(ours, reference):
    return float(jnp.linalg.norm((ours - reference).ravel()) / jnp.linalg.norm(jnp.asarray(reference).ravel()))


@pytest.mark.slow
def test_taps_in_order_of_depth(random_params):
    order = []

    def traced(params, image):
        taps = apply(params, image)
        order.extend(taps)
        return taps

    taps = jax.eval_shape(traced, random_params, jax.ShapeDtypeStruct((2, 227, 227, 3), jnp.float32))
    assert tuple(order) == LAYERS
    shapes = {tap: taps[tap].shape[1:] for tap in LAYERS}
    assert shapes["conv1"] == (111, 111, 96)
    assert shapes["pool1"] == (55, 55, 96)
    assert shapes["fire4"] == (55, 55, 256)
    assert shapes["pool4"] == (27, 27, 256)
    assert shapes["fire8"] == (27, 27, 512)
    assert shapes["fire9/squeeze1x1"] == (13, 13, 64)
    assert shapes["conv10"] == (13, 13, 1000)
    assert shapes["logits"] == (1000,)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (100, 81)])
def test_other_sizes(random_params, size):
    image = jax.random.uniform(jax.random.key(1), (1, *size, 3))
    taps = jax.jit(apply)(random_params, image)
    assert all(bool(jnp.isfinite(tap).all()) for tap in taps.values())
    np.testing.assert_allclose(taps["conv1"][:, :3, :3].max((1, 2)), taps["pool1"][:, 0, 0], rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_shallow_tap_costs_little(random_params):
    def flops(loss):
        def total(image):
            return loss(apply(random_params, image)).sum()

        image = jax.ShapeDtypeStruct((2, 99, 99, 3), jnp.float32)
        return jax.jit(jax.grad(total)).lower(image).compile().cost_analysis()["flops"]

    whole = flops(lambda taps: taps["logits"][:, 7])
    depths = [flops(lambda taps, tap=tap: taps[tap][..., 5]) for tap in ("conv1", "fire2", "fire4", "fire8")]
    assert depths == sorted(depths)
    assert depths[-1] < whole
    assert depths[1] < whole / 3


@pytest.mark.slow
def test_bfloat16(random_params):
    image = jax.random.uniform(jax.random.key(1), (1, 64, 64, 3))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (random_params, image))
    taps = jax.jit(apply)(*half)
    assert {tap.dtype for tap in taps.values()} == {jnp.dtype(jnp.bfloat16)}
    whole = jax.jit(apply)(random_params, image)
    # 8 bits a number, rounded some 20 times on the way: a few per cent; the first layers well under that.
    assert relative(taps["conv1"].astype(jnp.float32), whole["conv1"]) < 0.01
    assert relative(taps["logits"].astype(jnp.float32), whole["logits"]) < 0.05


@with_data
def test_reader_matches_the_module(params, random_params):
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, random_params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@with_data
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "truncated at the header"),
        (lambda data: data[:60], "truncated at the header"),
        (lambda data: data[:5000], "truncated at the weights of conv1"),
        (lambda data: data[:-1], "truncated at the gaps of conv10"),
        (lambda data: data + b"\0", "1 bytes too many"),
        (lambda data: b"\xff" * 4 + data[4:], "truncated"),
        (lambda data: data[:110] + b"\xff" * 1000 + data[1110:], "not finite"),
    ],
)
def test_reader_refuses(tmp_path, damage, message):
    path = tmp_path / "damaged.net"
    path.write_bytes(damage(WEIGHTS.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        read_deep_compression(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@with_data
def test_agrees_with_the_reference(params, reference):
    image = jnp.asarray(reference["images"] / np.float32(255))
    taps = jax.jit(apply)(params, image)
    np.testing.assert_allclose(taps["logits"], reference["logits"], rtol=1e-3, atol=1e-3)
    for name in [key.removeprefix("mean/") for key in reference.files if key.startswith("mean/")]:
        tap = taps[name]
        assert tap.shape == tuple(reference[f"shape/{name}"])
        assert relative(tap.mean((1, 2)), reference[f"mean/{name}"]) < 1e-3
        assert relative(tap[:, tap.shape[1] // 2, tap.shape[2] // 2], reference[f"centre/{name}"]) < 1e-3


@pytest.mark.slow
@with_data
def test_gradient_agrees_with_the_reference(params, reference):
    def total(image):
        return apply(params, image)["logits"][jnp.arange(10), reference["labels"]].sum()

    gradients = jax.jit(jax.grad(total))(jnp.asarray(reference["images"] / np.float32(255)))
    errors = [relative(ours, theirs) for ours, theirs in zip(gradients, reference["input_gradient"], strict=True)]
    # Where two elements of a pooling window agree to the last bits (saturated and even regions), rounding decides which
    # of them gets the gradient. One such place moves an image's gradient by up to 1e-2 (plain `lax` does so in three of
    # the ten, by up to 4e-3); images without one agree to 1e-6.
    assert np.median(errors) < 1e-3
    assert max(errors) < 1e-2


@pytest.mark.slow
@with_data
def test_accuracy_on_photographs(params):
    images, labels = [], []
    with tarfile.open(DATA / "imagenet-sample-500.tar") as archive:
        for member in archive:
            if match := re.search(r"/(\d+)_[^/]*\.jpe?g$", member.name, re.IGNORECASE):
                photograph = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
                left, top = (photograph.width - 227) // 2, (photograph.height - 227) // 2
                images.append(np.asarray(photograph.crop((left, top, left + 227, top + 227))))
                labels.append(int(match[1]))
    assert len(images) == 500
    logits = jax.jit(lambda image: apply(params, image)["logits"])
    batches = np.split(np.stack(images), 20)
    order = np.concatenate([np.argsort(-np.asarray(logits(batch / np.float32(255))), 1)[:, :5] for batch in batches])
    hits = order == np.array(labels)[:, None]
    # Measured by an independent implementation: 63.4 and 85.6 %; 0.4 % is two photographs (rounding, JPEG decoders).
    assert abs(100 * hits[:, 0].mean() - 63.4) <= 0.4
    assert abs(100 * hits.any(1).mean() - 85.6) <= 0.4
