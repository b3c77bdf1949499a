"""The classics against torchvision's modules with the same weights, against the papers' tables, and their pooling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input.networks import layers, vgg
from jaxopt_input.networks.convert import ARCHITECTURES, convert, expected_shapes, parameter_shapes

SIZES = [(160, 160), (97, 130)]


def module_of(name, **fields):
    return ARCHITECTURES[name].module.clone(**fields)


def random_params(module, seed=0):
    """Made by NumPy: compiling the initializer of a deep network takes longer than these tests."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return scale * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, shapes)


def relative(ours, theirs):
    return float(np.linalg.norm((ours - theirs).ravel()) / np.linalg.norm(theirs.ravel()))


# Against torchvision


def torchvision():
    """The package, which imports without its compiled operations once two of them are declared."""
    import torch

    if not hasattr(torchvision, "library"):
        torchvision.library = torch.library.Library("torchvision", "FRAGMENT")
        for operation in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operation):
                torchvision.library.define(f"{operation}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision as package

    return package


@functools.lru_cache(maxsize=1)
def reference(name, average=False):
    """Torchvision's module with random weights that keep activations of order 1, and statistics for its batch norms."""
    import torch

    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    module = torchvision().models.get_model(name, weights=None, **options).eval()
    generator = torch.Generator().manual_seed(0)

    def normal(shape, mean=0.0, std=0.1):
        return mean + std * torch.randn(shape, generator=generator)

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
                part.weight.copy_(normal(part.weight.shape, std=(2 / part.weight[0].numel()) ** 0.5))
                if part.bias is not None:
                    part.bias.copy_(normal(part.bias.shape))
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.copy_(normal(part.weight.shape, 1))
                part.bias.copy_(normal(part.bias.shape))
                part.running_mean.copy_(normal(part.running_mean.shape))
                part.running_var.copy_(normal(part.running_var.shape, 1).abs())
    if average:
        for i, part in enumerate(module.features):
            if isinstance(part, torch.nn.MaxPool2d):
                module.features[i] = torch.nn.AvgPool2d(2, 2)
    return module


def torch_taps(name):
    """Of each of our taps, torchvision's submodule whose output it is."""
    taps = {}
    if name.startswith("vgg"):
        for layer, (conv, _) in ARCHITECTURES[name].names.items():
            if layer.startswith("conv"):
                index = int(conv.split(".")[1])
                taps |= {layer: conv, layer.replace("conv", "relu"): f"features.{index + 1}"}
                last = f"pool{layer[4]}", f"features.{index + 2}"
                taps[last[0]] = last[1]  # that of the block's last convolution remains
        return taps | {"fc6": "classifier.0", "relu6": "classifier.1", "fc7": "classifier.3", "relu7": "classifier.4",
                       "logits": "classifier.6"}  # fmt: skip
    if name == "alexnet":
        for i, tap in enumerate(("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4",
                                 "relu4", "conv5", "relu5", "pool5")):  # fmt: skip
            taps[tap] = f"features.{i}"
        return taps | {"fc6": "classifier.1", "relu6": "classifier.2", "fc7": "classifier.4", "relu7": "classifier.5",
                       "logits": "classifier.6"}  # fmt: skip
    if name.startswith("squeezenet"):
        for layer, (conv, _) in ARCHITECTURES[name].names.items():
            if layer.startswith("fire"):
                fire = layer.partition("/")[0]
                parent = conv.rpartition(".")[0]
                taps |= {layer: f"{conv}_activation", fire: parent}
        pools = {"pool4": "features.6", "pool8": "features.11"} if name.endswith("0") else {
            "pool3": "features.5", "pool5": "features.8"}  # fmt: skip
        return taps | pools | {"conv1": "features.1", "pool1": "features.2", "conv10": "classifier.1",
                               "logits": "classifier.3"}  # fmt: skip
    if name == "googlenet":
        for layer, (conv, _) in ARCHITECTURES[name].names.items():
            taps |= {layer: conv.removesuffix(".conv"), layer.partition("/")[0]: conv.split(".")[0]}
        return taps | {f"pool{k}": f"maxpool{k}" for k in range(1, 5)} | {"pool5": "avgpool"}
    for layer, (conv, norm) in ARCHITECTURES[name].names.items():
        if layer.startswith("layer") and "downsample" not in layer:
            block = layer.partition("/")[0]
            taps |= {layer.replace("/", "."): norm, block: block, block.partition(".")[0]: block.partition(".")[0]}
        elif layer != "logits":
            continue
        else:
            taps["logits"] = conv
    return taps | {"conv1": "bn1", "relu1": "relu@0", "pool1": "maxpool", "pool5": "avgpool"}


def compare(name, size, dtype, average=False):
    """Relative differences of every tap and of the input gradient of a random combination of the logits."""
    import torch

    theirs = reference(name, average).to(getattr(torch, dtype))
    image = np.random.default_rng(1).random((1, *size, 3), np.float32).astype(dtype)
    weights = np.random.default_rng(2).standard_normal(1000).astype(dtype)
    names = torch_taps(name)
    seen = {}

    def keep(tap):
        def hook(part, inputs, output):
            seen.setdefault(tap, output.detach().clone().numpy())

        return hook

    hooks = [theirs.get_submodule(at.partition("@")[0]).register_forward_hook(keep(tap)) for tap, at in names.items()]
    leaf = torch.from_numpy(image).requires_grad_()
    mean, std = (torch.tensor(c, dtype=leaf.dtype) for c in (layers.IMAGENET_MEAN, layers.IMAGENET_STD))
    logits = theirs(((leaf - mean) / std).permute(0, 3, 1, 2))
    (logits[0] * torch.from_numpy(weights)).sum().backward()
    for hook in hooks:
        hook.remove()

    module = module_of(name, **({"pool": "average"} if average else {}))
    params = convert(name, {key: value.numpy() for key, value in theirs.state_dict().items()}, dtype=dtype)

    @jax.jit
    def both(params, image):
        def total(image):
            taps = module.apply({"params": params}, image)
            return taps["logits"][0] @ weights, taps

        return jax.grad(total, has_aux=True)(image)

    with jax.enable_x64(dtype == "float64"):
        gradient, taps = both(params, image)
    assert set(taps) == set(names)
    differences = {}
    for tap, value in taps.items():
        expected = seen[tap].transpose(0, 2, 3, 1) if seen[tap].ndim == 4 else seen[tap]
        if value.ndim == 2:
            expected = expected.reshape(1, -1)
        assert value.shape == expected.shape, tap
        differences[tap] = relative(np.asarray(value), expected)
    return {**differences, "gradient": relative(np.asarray(gradient), leaf.grad.numpy())}


def check(name, size, **options):
    """Taps to 1e-4 and the gradient to 1e-3; where float32 misses that, in float64 to 1e-6.

    Where two elements of a pooling window, or a sum and the ReLU's zero, agree to float32's last bits, rounding decides
    which way the gradient goes, and one such place in 10^6 moves the whole gradient by up to 1e-2. In float64 there are
    no ties: the two frameworks agree there to 1e-14.
    """
    single = compare(name, size, "float32", **options)
    gradient = single.pop("gradient")
    assert max(single.values()) < 1e-4, single
    if gradient >= 1e-3:
        double = compare(name, size, "float64", **options)
        assert gradient < 3e-2
        assert max(double.values()) < 1e-6, double


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_with_torchvision(name, size):
    check(name, size)


@pytest.mark.torch
def test_average_pooling_agrees_with_torchvision():
    check("vgg19", (97, 130), average=True)


# Against the papers' tables, for images of 224x224

TABLES = {
    # Krizhevsky 2014, section 3, without padding to groups; 227 in the 2012 paper is 224 with a padding of 2.
    "alexnet": {"conv1": (55, 55, 64), "pool1": (27, 27, 64), "conv2": (27, 27, 192), "pool2": (13, 13, 192),
                "conv3": (13, 13, 384), "conv4": (13, 13, 256), "relu5": (13, 13, 256), "pool5": (6, 6, 256),
                "fc6": (4096,), "relu7": (4096,)},
    # Simonyan and Zisserman 2015, table 1.
    "vgg16": {"conv1_2": (224, 224, 64), "pool1": (112, 112, 64), "conv2_2": (112, 112, 128), "conv3_3": (56, 56, 256),
              "relu4_3": (28, 28, 512), "conv5_3": (14, 14, 512), "pool5": (7, 7, 512), "fc6": (4096,)},
    "vgg19": {"conv3_4": (56, 56, 256), "conv4_2": (28, 28, 512), "relu5_4": (14, 14, 512), "fc7": (4096,)},
    # Szegedy et al. 2015, table 1.
    "googlenet": {"conv1": (112, 112, 64), "pool1": (56, 56, 64), "conv2": (56, 56, 192), "pool2": (28, 28, 192),
                  "inception3a": (28, 28, 256), "inception3b": (28, 28, 480), "pool3": (14, 14, 480),
                  "inception4a": (14, 14, 512), "inception4b": (14, 14, 512), "inception4c": (14, 14, 512),
                  "inception4d": (14, 14, 528), "inception4e": (14, 14, 832), "pool4": (7, 7, 832),
                  "inception5a": (7, 7, 832), "inception5b/pool_proj": (7, 7, 128), "inception5b": (7, 7, 1024),
                  "pool5": (1024,)},
    # Iandola et al. 2016, table 1; version 1.1 as published beside it.
    "squeezenet1_0": {"fire2": (54, 54, 128), "fire4": (54, 54, 256), "fire8": (27, 27, 512), "conv10": (13, 13, 1000)},
    "squeezenet1_1": {"conv1": (111, 111, 64), "pool1": (55, 55, 64), "fire3": (55, 55, 128), "pool3": (27, 27, 128),
                      "fire5": (27, 27, 256), "pool5": (13, 13, 256), "fire9": (13, 13, 512)},
    # He et al. 2016, table 1.
    "resnet18": {"conv1": (112, 112, 64), "layer1": (56, 56, 64), "layer2.1": (28, 28, 128), "layer3": (14, 14, 256),
                 "layer4": (7, 7, 512), "pool5": (512,)},
    "resnet34": {"layer1.2": (56, 56, 64), "layer2.3": (28, 28, 128), "layer3.5": (14, 14, 256), "layer4": (7, 7, 512)},
    "resnet50": {"layer1.2.conv1": (56, 56, 64), "layer1": (56, 56, 256), "layer2": (28, 28, 512),
                 "layer3.5": (14, 14, 1024), "layer3": (14, 14, 1024), "layer4": (7, 7, 2048), "pool5": (2048,)},
}  # fmt: skip

PARAMETERS = {  # as torchvision documents them; of batch norm's four numbers a channel, folding keeps one
    "alexnet": 61_100_840, "vgg16": 138_357_544, "vgg19": 143_667_240, "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496, "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "googlenet": 6_624_904,
}  # fmt: skip


@functools.cache
def shapes(name, size=(224, 224)):
    """Of every tap, in order of depth."""
    module, order = module_of(name), []

    def apply(key, image):
        taps = module.init_with_output(key, image)[0]
        order.extend(taps)
        return taps

    out = jax.eval_shape(apply, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    return {tap: out[tap].shape[1:] for tap in order}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes_are_those_of_the_paper(name):
    found = shapes(name)
    assert {tap: found[tap] for tap in TABLES[name]} == TABLES[name]
    assert next(iter(found)) == ("conv1_1" if name.startswith("vgg") else "conv1")
    assert list(found)[-1] == "logits"
    assert found["logits"] == (1000,)
    depth = [tap for tap in found if tap in TABLES[name]]
    assert depth == list(TABLES[name])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_number_of_parameters(name):
    norms = sum(shape[0] for key, shape in expected_shapes(name).items() if key.endswith("running_mean"))
    ours = sum(int(np.prod(shape)) for shape in parameter_shapes(name).values())
    assert ours + norms == PARAMETERS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_sizes(name):
    found = shapes(name, (97, 130))
    assert found["logits"] == (1000,)
    assert all(0 not in shape for shape in found.values())


@pytest.mark.parametrize(("module", "message"), [
    (vgg.VGG(11), "16 or 19"),
    (vgg.VGG(16, pool="mean"), "max or average"),
    (module_of("resnet18", depth=101), "18, 34 or 50"),
    (module_of("squeezenet1_0", version="1_0"), "1.0 and 1.1"),
])  # fmt: skip
def test_what_does_not_exist(module, message):
    with pytest.raises(ValueError, match=message):
        random_params(module)


# What the networks are made of


def plain_adaptive(x, out):
    """PyTorch's rule, position by position: rows and columns from floor(i n / out) to ceil((i + 1) n / out)."""
    n, h, w, c = x.shape
    y = np.empty((n, out, out, c), x.dtype)
    for i in range(out):
        for j in range(out):
            rows = slice(i * h // out, -(-(i + 1) * h // out))
            columns = slice(j * w // out, -(-(j + 1) * w // out))
            y[:, i, j] = x[:, rows, columns].mean((1, 2))
    return y


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (2, 3), (6, 13), (14, 7), (9, 20)])
@pytest.mark.parametrize("out", [6, 7])
def test_adaptive_average_pool(size, out):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    np.testing.assert_allclose(layers.adaptive_average_pool(x, out), plain_adaptive(x, out), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("window", "stride", "padding", "ceil"), [(3, 2, 1, False), (3, 1, 1, False), (3, 2, 0, True)])
@pytest.mark.parametrize("size", [(9, 10), (12, 7), (1, 1)])
def test_max_pool_with_padding(window, stride, padding, ceil, size):
    if min(size) < window - 2 * padding:
        return
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    ours = np.asarray(layers.max_pool(x, window, stride, padding, ceil))
    for i, j in np.ndindex(*ours.shape[1:3]):
        rows, columns = (slice(max(0, k * stride - padding), k * stride - padding + window) for k in (i, j))
        np.testing.assert_array_equal(ours[:, i, j], x[:, rows, columns].max((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "alexnet"])
def test_bfloat16(name):
    module = module_of(name)
    params = random_params(module)
    image = jax.random.uniform(jax.random.key(1), (1, 64, 64, 3))
    apply = jax.jit(lambda params, image: module.apply({"params": params}, image))
    half = apply(*jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, image)))
    assert {tap.dtype for tap in half.values()} == {jnp.dtype(jnp.bfloat16)}
    # 8 bits a number, rounded up to some 20 times on the way: a few per cent.
    assert relative(np.asarray(half["logits"], np.float32), np.asarray(apply(params, image)["logits"])) < 0.05


@pytest.mark.slow
def test_a_shallow_tap_costs_little():
    module = module_of("googlenet")
    params = random_params(module)

    def flops(tap):
        def total(image):
            return module.apply({"params": params}, image)[tap].sum()

        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return jax.jit(jax.grad(total)).lower(image).compile().cost_analysis()["flops"]

    depths = [flops(tap) for tap in ("conv1", "pool2", "inception3b/1x1", "inception4a")]
    assert depths == sorted(depths)
    assert depths[0] < depths[-1] / 3


@pytest.mark.slow
def test_gatys_normalization():
    """Every channel of every ReLU has mean 1 on those images, and the logits are what they were."""
    module = vgg.VGG(16, pool="average", classes=10)
    variables = {"params": random_params(module)}
    images = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    apply = jax.jit(module.apply)
    before, after = apply(variables, images), apply(vgg.normalized(module, variables, (images[:2], images[2:])), images)
    for tap in after:
        if tap.startswith("relu") and "_" in tap:
            means = np.asarray(after[tap].mean((0, 1, 2)))
            alive = np.asarray(before[tap].max((0, 1, 2)) > 0)
            np.testing.assert_allclose(means[alive], 1, rtol=1e-3)
            np.testing.assert_array_equal(means[~alive], 0)
    np.testing.assert_allclose(after["logits"], before["logits"], rtol=1e-3, atol=1e-4)
