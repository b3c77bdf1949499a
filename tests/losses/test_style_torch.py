"""Every loss of features and of the image against PyTorch: its value and its image gradient, on whole networks.

The networks and the losses are written a second time here, in plain PyTorch, from the papers' tables and formulas; only
the weights are the same. Images are 64x64, the style's is 48x64, so that quantiles of another number are compared too.
"""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input import losses
from jaxopt_input.losses.style import _dealt
from jaxopt_input.networks.squeezenet import SqueezeNet, read_deep_compression
from jaxopt_input.networks.vgg import VGG

torch = pytest.importorskip("torch")
functional = torch.nn.functional
pytestmark = pytest.mark.torch

WEIGHTS = Path(os.environ.get("JAXOPT_INPUT_DATA", "absent")) / "squeezenet/compressed_SqueezeNet.net"
LAYERS = {
    "squeezenet": ("conv1", "fire4", "fire8"),
    "squeezenet published": ("pool1", "fire8"),
    "vgg19": ("conv1_1", "relu2_1", "pool3", "relu4_1", "relu5_1"),
}
CASES = [
    pytest.param(net, layer, marks=pytest.mark.skipif("published" in net and not WEIGHTS.exists(), reason="needs data"))
    for net, layers in LAYERS.items()
    for layer in layers
]
SAMPLES = 100  # positions in a block for kernels that need pairs: fewer than the shallow layers have
KEY = jax.random.key(0)
IMAGE, OTHER, STYLE = (
    np.random.default_rng(k).random((1, *size, 3)) for k, size in enumerate([(64, 64), (64, 64), (48, 64)])
)
STYLES = {
    "gram": losses.gram,
    "mean": losses.mean,
    "covariance": losses.covariance,
    "batch-norm": losses.batch_norm_statistics,
    "wasserstein": losses.wasserstein_gaussian,
    "mmd linear": lambda layer, a: losses.mmd(layer, a, "linear"),
    "mmd polynomial": lambda layer, a: losses.mmd(layer, a, "polynomial", offset=0.5),
    "mmd cubic": lambda layer, a: losses.mmd(layer, a, "polynomial", degree=3, offset=0.5, samples=SAMPLES),
    "mmd gaussian": lambda layer, a: losses.mmd(layer, a, "gaussian", samples=SAMPLES),
    "sliced": lambda layer, a: losses.sliced_wasserstein(layer, a, KEY, 16),
    "histogram": losses.histogram,
}
CONTENTS = {"content": losses.content, "feature distance": losses.feature_distance}


# The networks


def module_of(net):
    return VGG(19, classes=10) if net == "vgg19" else SqueezeNet()


@functools.cache
def params_of(net):
    """Fixed random weights that keep activations of one order; of the dense layers, which no test reads, none."""
    if net == "squeezenet published":
        return read_deep_compression(WEIGHTS)
    module, image = module_of(net), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[0].key in ("fc6", "fc7", "logits"):
            return np.broadcast_to(np.float32(0), leaf.shape)
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return scale * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def torch_forward(net, image):
    """All taps of a network, `[N, C, H, W]`, of images `[N, H, W, 3]`."""
    params, taps = params_of(net), {}

    def conv(name, x, stride=1, padding=0):
        part = params
        for key in name.split("/"):
            part = part[key]
        kernel = torch.from_numpy(np.array(part["kernel"]).transpose(3, 2, 0, 1)).to(x.dtype)
        return functional.conv2d(x, kernel, torch.from_numpy(np.array(part["bias"])).to(x.dtype), stride, padding)

    x = image.permute(0, 3, 1, 2)
    if net == "vgg19":
        mean, std = (torch.tensor(c, dtype=x.dtype) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x = (x - mean[:, None, None]) / std[:, None, None]
        for block, count in enumerate((2, 2, 4, 4, 4), start=1):
            for k in range(1, count + 1):
                taps[f"conv{block}_{k}"] = conv(f"conv{block}_{k}", x, padding=1)
                x = taps[f"relu{block}_{k}"] = functional.relu(taps[f"conv{block}_{k}"])
            x = taps[f"pool{block}"] = functional.max_pool2d(x, 2, 2)
        return taps
    x = 255 * x.flip(1) - torch.tensor((104.0, 117.0, 123.0), dtype=x.dtype)[:, None, None]
    taps["conv1"] = functional.relu(conv("conv1", x, stride=2))
    x = taps["pool1"] = functional.max_pool2d(taps["conv1"], 3, 2, ceil_mode=True)
    for i in range(2, 10):
        x = taps[f"fire{i}/squeeze1x1"] = functional.relu(conv(f"fire{i}/squeeze1x1", x))
        wide = conv(f"fire{i}/expand1x1", x), conv(f"fire{i}/expand3x3", x, padding=1)
        x = taps[f"fire{i}"] = functional.relu(torch.cat(wide, 1))
        if i in (4, 8):
            x = taps[f"pool{i}"] = functional.max_pool2d(x, 3, 2, ceil_mode=True)
    return taps


# The losses


def torch_style(name, x, y, directions):
    """Of feature vectors `[M, N]`."""
    channels = x.shape[1]

    def covariance(f):
        return torch.cov(f.T, correction=0)

    def quantiles(f, count):
        return functional.interpolate(f.sort(0).values.T[None], count, mode="linear", align_corners=False)[0].T

    if name == "gram":
        return ((x.T @ x / len(x) - y.T @ y / len(y)) ** 2).sum() / (4 * channels**2)
    if name == "mean":
        return functional.mse_loss(x.mean(0), y.mean(0))
    if name == "covariance":
        return functional.mse_loss(covariance(x), covariance(y))
    if name == "batch-norm":
        spread = [(f.var(0, correction=0) + 1e-5).sqrt() for f in (x, y)]
        return functional.mse_loss(x.mean(0), y.mean(0)) + functional.mse_loss(*spread)
    if name == "wasserstein":
        values, vectors = torch.linalg.eigh(covariance(y))
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        centered = (x - x.mean(0)) / len(x) ** 0.5
        spread = centered.square().sum() + root.square().sum() - 2 * torch.linalg.matrix_norm(centered @ root, "nuc")
        return functional.mse_loss(x.mean(0), y.mean(0)) + spread / channels
    if name in ("sliced", "histogram"):
        x, y = (x @ directions, y @ directions) if name == "sliced" else (x, y)
        return functional.mse_loss(x.sort(0).values, quantiles(y, len(x)))

    def distances(u, v):
        return (u[:, None] - v[None]).square().sum(-1)

    sigma = distances(x, y).mean().detach() if name == "mmd gaussian" else None
    kernel = {
        "mmd linear": lambda u, v: u @ v.T,
        "mmd polynomial": lambda u, v: (u @ v.T + 0.5) ** 2,
        "mmd cubic": lambda u, v: (u @ v.T + 0.5) ** 3,
        "mmd gaussian": lambda u, v: torch.exp(-distances(u, v) / (2 * sigma)),
    }[name]
    count = -(-len(x) // SAMPLES) if name in ("mmd cubic", "mmd gaussian") else 1
    x, y = (f[torch.from_numpy(_dealt(len(f), count, SAMPLES if count > 1 else len(f)))].chunk(count) for f in (x, y))
    pairs = zip(x, y, strict=True)
    return sum(kernel(u, u).mean() + kernel(v, v).mean() - 2 * kernel(u, v).mean() for u, v in pairs) / count


def torch_losses(net, layer, dtype, directions):
    """{loss: (value, image gradient)}, the network in `dtype`, the losses of its features in float64."""
    image = torch.from_numpy(IMAGE).to(dtype).requires_grad_()
    activation = torch_forward(net, image)[layer]
    with torch.no_grad():
        other, style = (torch_forward(net, torch.from_numpy(i).to(dtype))[layer] for i in (OTHER, STYLE))
    x, y = (a[0].permute(1, 2, 0).reshape(-1, a.shape[1]).double() for a in (activation, style))
    directions = torch.from_numpy(np.array(directions, np.float64))
    values = {name: torch_style(name, x, y, directions) for name in STYLES}
    values["content"] = functional.mse_loss(activation, other)
    values["feature distance"] = (activation - other).square().sum() / other.square().sum()
    return {
        name: (loss.item(), torch.autograd.grad(loss, image, retain_graph=True)[0][0].numpy())
        for name, loss in values.items()
    }


# The comparison


@functools.cache
def gradients_of(net, layer):
    """One compiled program for all losses of a layer: values `[losses]` and image gradients `[losses, H, W, 3]`."""
    module = module_of(net)

    def program(params, loss, image):
        def values(image):
            activations = {layer: module.apply({"params": params}, image[None])[layer][0]}
            return jnp.stack([each(activations, image) for each in loss])

        value, pullback = jax.vjp(values, image)
        return value, jax.vmap(pullback)(jnp.eye(len(loss), dtype=image.dtype))[0]

    return jax.jit(program)


def relative(ours, theirs):
    ours, theirs = (np.asarray(array, np.float64) for array in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def differences(net, layer, dtype):
    """{loss: relative differences of the value and of the image gradient}."""

    def cast(tree):
        return jax.tree.map(lambda x: x if 0 in np.asarray(x).strides else np.asarray(x, dtype), tree)

    with jax.enable_x64(dtype == "float64"):
        module, params = module_of(net), cast(params_of(net))
        tap = jax.jit(lambda params, image: module.apply({"params": params}, image)[layer][0])
        style, other = (np.asarray(tap(params, image.astype(dtype))) for image in (STYLE, OTHER))
        built = {name: build(layer, style) for name, build in STYLES.items()}
        built |= {name: build(layer, other) for name, build in CONTENTS.items()}
        ours = gradients_of(net, layer)(params, cast(list(built.values())), IMAGE[0].astype(dtype))
        ours = dict(zip(built, zip(*map(np.asarray, ours), strict=True), strict=True))
    theirs = torch_losses(net, layer, getattr(torch, dtype), built["sliced"].arguments["directions"])
    return {name: tuple(map(relative, ours[name], theirs[name])) for name in built}


@pytest.mark.parametrize(("net", "layer"), CASES)
def test_losses_of_features(net, layer):
    """Values and gradients to 1e-4; where float32 cannot decide, in float64.

    Rounding turns a gradient where two elements of a pooling window, a sum and the ReLU's zero, or two numbers that are
    sorted agree to the last bits, and it blurs the smallest singular values in the Wasserstein distance. What remains
    in float64, up to 2e-5, is the rounding of a loss's target, which is kept in float32.
    """
    single = differences(net, layer, "float32")
    print(net, layer, "float32", single)
    assert max(value for value, _ in single.values()) < 1e-4, single
    if max(gradient for _, gradient in single.values()) > 1e-4:
        assert max(gradient for _, gradient in single.values()) < 3e-2, single
        double = differences(net, layer, "float64")
        print(net, layer, "float64", double)
        assert max(max(pair) for pair in double.values()) < 1e-4, double


IMAGE_LOSSES = {
    "alpha 6": (losses.alpha_norm(), lambda x: ((x - 0.5).abs() ** 6).sum()),
    "alpha 3": (losses.alpha_norm(3.0, 0.25), lambda x: ((x - 0.25).abs() ** 3).sum()),
    "variation 2": (losses.total_variation(), lambda x: sum(d.square().sum() for d in torch_differences(x))),
    "variation 1": (losses.total_variation(1.0), lambda x: torch.hypot(*torch_differences(x)).sum()),
    "variation 2.5": (losses.total_variation(2.5), lambda x: (torch.hypot(*torch_differences(x)) ** 2.5).sum()),
    "variation L1": (losses.total_variation_l1(), lambda x: sum(d.abs().sum() for d in torch_differences(x))),
}


def torch_differences(x):
    """Along rows and columns of `[H, W, C]`, 0 across the border; without the last pixel, whose two are 0."""
    rows, columns = torch.diff(x, dim=0, append=x[-1:]), torch.diff(x, dim=1, append=x[:, -1:])
    return rows.reshape(-1, x.shape[2])[:-1], columns.reshape(-1, x.shape[2])[:-1]


@pytest.mark.parametrize("name", IMAGE_LOSSES)
def test_losses_of_the_image(name):
    mine, theirs = IMAGE_LOSSES[name]
    image = IMAGE[0].astype(np.float32)
    value, gradient = jax.value_and_grad(lambda x: mine({}, x))(jnp.asarray(image))
    leaf = torch.from_numpy(image).requires_grad_()
    loss = theirs(leaf)
    loss.backward()
    assert relative(value, loss.item()) < 1e-4
    assert relative(gradient, leaf.grad.numpy()) < 1e-4
