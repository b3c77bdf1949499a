"""State dicts to parameters: layouts, folding, formats, the cache, and errors of one line."""

import importlib.util
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from safetensors.numpy import save_file

import jaxopt_input as joi
from jaxopt_input import InputError, networks
from jaxopt_input.disk import CACHE_VARIABLE
from jaxopt_input.networks import convert, formats
from jaxopt_input.networks.fetch import fetch_weights

without_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_state(name, seed=0):
    rng = np.random.default_rng(seed)
    state = {key: 0.1 * rng.standard_normal(shape, np.float32) for key, shape in convert.expected_shapes(name).items()}
    return {key: np.abs(value) if key.endswith("running_var") else value for key, value in state.items()}


@pytest.fixture(scope="module")
def state():
    return random_state("squeezenet1_1")


@pytest.fixture(scope="module")
def resnet_state():
    return random_state("resnet18")


def one_line(caught):
    return "\n" not in str(caught.value) and len(str(caught.value)) < 300


# Layouts and folding


def test_folding_is_batch_norm_after_the_convolution(resnet_state):
    """A block of layers by NumPy's formula: convolution, (y - mean) / sqrt(var + eps) * gamma + beta."""
    params = convert.convert("resnet18", resnet_state)
    x = np.random.default_rng(1).standard_normal((2, 9, 10, 64)).astype(np.float32)
    weight = resnet_state["layer2.0.conv1.weight"]
    y = lax.conv_general_dilated(x.transpose(0, 3, 1, 2), weight, (2, 2), ((1, 1), (1, 1)))  # PyTorch's layout
    gamma, beta, mean, variance = (
        resnet_state[f"layer2.0.bn1.{part}"].reshape(1, -1, 1, 1)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    expected = (np.asarray(y) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    layer = params["layer2.0"]["conv1"]
    ours = lax.conv_general_dilated(
        x, layer["kernel"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours + layer["bias"], expected.transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-4)


def test_epsilon_is_the_architectures():
    state = random_state("googlenet")
    kernel = convert.convert("googlenet", state)["conv1"]["kernel"]
    scale = state["conv1.bn.weight"] / np.sqrt(state["conv1.bn.running_var"] + 1e-3)
    np.testing.assert_allclose(kernel[0, 1, 2], state["conv1.conv.weight"][:, 2, 0, 1] * scale, rtol=1e-5)


@pytest.mark.slow
def test_dense_layer_after_a_map():
    """PyTorch flattens a map channel by channel, we keep it a map."""
    state = random_state("alexnet")
    kernel = convert.convert("alexnet", state)["fc6"]["kernel"]
    x = np.random.default_rng(1).standard_normal((6, 6, 256)).astype(np.float32)
    expected = state["classifier.1.weight"] @ x.transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(x.reshape(-1) @ kernel.reshape(-1, 4096), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", convert.ARCHITECTURES)
def test_every_parameter_has_a_name(name):
    layers = {path.rpartition("/")[0] for path in convert.parameter_shapes(name)}
    assert layers == set(convert.ARCHITECTURES[name].names)
    assert convert.looks_like({key: np.empty(s, bool) for key, s in convert.expected_shapes(name).items()}) == name


def test_other_namings(resnet_state):
    """Of timm's VGG, of a wrapped model, with the counters of batch norms, in half precision."""
    expected = convert.convert("resnet18", resnet_state)
    wrapped = {f"module.{key}": value for key, value in resnet_state.items()}
    wrapped |= {"module.bn1.num_batches_tracked": np.array(7)}
    ours = convert.convert("resnet18", wrapped)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, expected)))
    half = convert.convert("resnet18", {key: value.astype(np.float16) for key, value in resnet_state.items()})
    assert half["logits"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(half["logits"]["kernel"], expected["logits"]["kernel"], atol=1e-3)


def test_timm_vgg():
    shapes = convert.expected_shapes("vgg16")
    state = {key: np.broadcast_to(np.float32(0.1), shape) for key, shape in shapes.items()}  # 0.5 GB if it were real
    for theirs, ours, shape in [
        ("pre_logits.fc1", "classifier.0", (4096, 512, 7, 7)),
        ("pre_logits.fc2", "classifier.3", (4096, 4096, 1, 1)),
        ("head.fc", "classifier.6", (1000, 4096)),
    ]:
        state[f"{theirs}.weight"] = np.broadcast_to(state.pop(f"{ours}.weight")[0, 0], shape)
        state[f"{theirs}.bias"] = state.pop(f"{ours}.bias")
    convert._check("vgg16", convert.canonical(state), shapes)
    assert convert.looks_like(state) == "vgg16"


def test_auxiliary_classifiers_are_left_out():
    state = random_state("googlenet") | {"aux1.conv.conv.weight": np.ones((128, 512, 1, 1))}
    assert "logits" in convert.convert("googlenet", state)


# Bad input


def change(state, **changes):
    return {key: value for key, value in (state | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc.bias": None}, "1 key is missing: fc.bias$"),
        ({"fc.bias": None, "fc.weight": None, "bn1.bias": None}, r"3 keys are missing: bn1.bias, fc.weight, …$"),
        ({"fc.extra": np.ones(1)}, "1 key is too many: fc.extra$"),
        ({"fc.bias": np.ones(7, np.float32)}, r"fc.bias has shape \(7,\), expected \(1000,\)$"),
        ({"fc.weight": np.ones((10, 512)), "fc.bias": np.ones(10)}, r"fc.weight has shape \(10, 512\)"),
        ({"fc.bias": np.ones(1000, np.int32)}, "fc.bias holds int32"),
        ({"fc.bias": np.full(1000, np.nan)}, "the weights of fc are not all finite"),
        ({"bn1.running_var": np.full(64, -1.0)}, "the weights of conv1 are not all finite"),
    ],
)
def test_not_the_state_dict(resnet_state, changes, message):
    with pytest.raises(joi.InputError, match=message) as caught:
        convert.convert("resnet18", change(resnet_state, **changes))
    assert one_line(caught)


@pytest.mark.parametrize(
    ("name", "other"), [("resnet18", "resnet34"), ("squeezenet1_0", "squeezenet1_1"), ("alexnet", "googlenet")]
)
def test_another_architecture(name, other):
    with pytest.raises(joi.InputError, match=f"not a state dict of {name}: it looks like {other};") as caught:
        convert.convert(name, random_state(other))
    assert one_line(caught)


def test_no_architecture_known(resnet_state):
    with pytest.raises(joi.InputError, match=r"62 keys are missing: .* 1 key is too many: weight") as caught:
        convert.convert("resnet18", {"weight": np.ones(3)} | dict(list(resnet_state.items())[:40]))
    assert "looks like" not in str(caught.value)
    with pytest.raises(joi.InputError, match="nearest: resnet50"):
        convert.convert("resnet5", {})


# Files


def test_import_safetensors_and_npz(cache, tmp_path, state):
    with pytest.raises(joi.InputError, match="models fetch squeezenet1_1"):
        joi.load("squeezenet1_1")
    save_file(state, tmp_path / "model.safetensors")
    np.savez(tmp_path / "model.npz", **state)
    paths = [networks.import_weights("squeezenet1_1", tmp_path / f"model.{kind}") for kind in ("npz", "safetensors")]
    assert os.listdir(cache / "weights") == ["squeezenet1_1.safetensors"]
    assert paths == [cache / "weights" / "squeezenet1_1.safetensors"] * 2
    model = joi.load("squeezenet1_1")
    assert model.info.sha256 == formats.file_digest(tmp_path / "model.safetensors")
    assert model.info.class_index("n02123045") == 281
    assert list(model.layers())[:2] == ["conv1", "pool1"]
    assert model.apply == joi.load("squeezenet1_1").apply
    by_path = joi.load(str(paths[0]))
    for a, b in zip(jax.tree.leaves(by_path.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)
    expected = jax.tree.leaves({"params": convert.convert("squeezenet1_1", state)})
    for a, b in zip(jax.tree.leaves(model.params), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_options_of_an_entry(cache):
    entry = networks.entry("vgg19-average")
    assert entry.path() == networks.entry("vgg19").path()
    assert convert.ARCHITECTURES[entry.architecture].module.clone(**entry.options).pool == "average"


def test_damaged_copy_is_refused(cache, tmp_path, state):
    save_file(state, tmp_path / "model.safetensors")
    path = networks.import_weights("squeezenet1_1", tmp_path / "model.safetensors")
    data = path.read_bytes()
    for damaged in (data[:-100], b"", data[:-3000] + bytes([data[-3000] ^ 1]) + data[-2999:]):
        path.write_bytes(damaged)
        with pytest.raises(joi.InputError, match=r"safetensors|SHA-256") as caught:
            joi.load("squeezenet1_1")
        assert one_line(caught)


def test_bfloat16_safetensors(tmp_path, state):
    save_file({key: np.asarray(value).astype(jnp.bfloat16) for key, value in state.items()}, tmp_path / "a.safetensors")
    params = convert.convert("squeezenet1_1", formats.read_state(tmp_path / "a.safetensors"))
    np.testing.assert_allclose(params["conv1"]["bias"], state["features.0.bias"], rtol=0.01)


def written(folder, kind):
    file = folder / "weights"
    match kind:
        case "missing.npz":
            return folder / kind
        case "folder.npz":
            (folder / kind).mkdir()
            return folder / kind
        case "text.npz" | "text.safetensors":
            file = folder / kind
            file.write_text("this is no weight file, but it is long enough")
        case "objects.npz":
            file = folder / kind
            np.savez(file, a=np.array([{}], object))
        case "array.npz":
            file = folder / kind
            with file.open("wb") as opened:
                np.save(opened, np.ones(3))
        case "pickle.npz":
            file = folder / kind
            file.write_bytes(pickle.dumps({"a": 1}))
        case "truncated.npz":
            file = folder / kind
            np.savez(file, a=np.ones(1000))
            file.write_bytes(file.read_bytes()[:-200])
        case "model.h5":
            file = folder / kind
            file.write_bytes(b"x")
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing.npz", "cannot read .*No such file"),
        ("folder.npz", "cannot read .*directory"),
        ("text.npz", "refused.*pickle could run code"),
        ("text.safetensors", "no readable safetensors"),
        ("objects.npz", "refused.*pickle could run code"),
        ("pickle.npz", "refused.*pickle could run code"),
        ("array.npz", "one array"),
        ("truncated.npz", "no readable npz"),
        ("model.h5", "unknown format.*safetensors, .npz, .pth"),
    ],
)
def test_unreadable_files(cache, tmp_path, kind, message):
    with pytest.raises(joi.InputError, match=message) as caught:
        networks.import_weights("resnet18", written(tmp_path, kind))
    assert one_line(caught)
    assert not cache.exists()


@without_torch
def test_torch_file_without_torch(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(joi.InputError, match=r"install torch.*safetensors or npz"):
        networks.import_weights("resnet18", tmp_path / "a.pth")


class Evil:
    """Would make a folder, were it unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.torch
def test_torch_files(cache, tmp_path, state):
    import torch

    tensors = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
    kept = {"state_dict": tensors, "epoch": 3}
    for kind, content, legacy in [("zip", tensors, False), ("tar", tensors, True), ("kept", kept, False)]:
        torch.save(content, tmp_path / f"{kind}.pth", _use_new_zipfile_serialization=not legacy)
        networks.import_weights("squeezenet1_1", tmp_path / f"{kind}.pth")
        params = joi.load("squeezenet1_1").params["params"]
        np.testing.assert_array_equal(params["conv10"]["bias"], state["classifier.1.bias"])


@pytest.mark.torch
@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_that_runs_code_is_refused(cache, tmp_path, legacy):
    import torch

    torch.save({"a": Evil(str(tmp_path / "ran"))}, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(str(tmp_path / "ran"))))
    with zipfile.ZipFile(tmp_path / "text.pth", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "text.bin").write_text("no weights")
    torch.save({"a": 3}, tmp_path / "number.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    for file, message in [("evil.pth", "refused"), ("evil.pt", "refused"), ("text.pth", "PyTorch"),
                          ("text.bin", "refused"), ("number.pth", "'a' is int"), ("list.pth", "list")]:  # fmt: skip
        with pytest.raises(joi.InputError, match=message) as caught:
            networks.import_weights("resnet18", tmp_path / file)
        assert one_line(caught)
    assert not (tmp_path / "ran").exists()
    assert not cache.exists()


@pytest.mark.slow
def test_normalized_variant_is_computed_kept_and_loaded(cache, tmp_path, monkeypatch):
    """`models normalize`: channels of mean 1 on the photographs, average pooling, the logits of the averaging VGG."""
    module = convert.ARCHITECTURES["vgg16"].module
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: (rng.random(s.shape, np.float32) - 0.45) * np.float32(0.02), shapes)
    averaging = joi.from_linen(module.clone(pool="average"), {"params": params}, image_shape=(32, 32, 3))
    monkeypatch.setattr(networks.registry, "load", lambda name: averaging)
    for k in range(3):
        joi.data.save_png(tmp_path / f"{k}.png", rng.random((40, 40, 3)))
    dataset = joi.data.folder(tmp_path, image_shape=(32, 32, 3))
    path = networks.normalize("vgg16", dataset)
    monkeypatch.undo()
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    model = joi.load("vgg16-normalized")
    assert path == networks.entry("vgg16-normalized").path()
    images = next(dataset.batches(3)).images
    taps = ("relu1_1", "relu3_2", "logits")
    found, given = model.apply(model.params, images, taps), averaging.apply(averaging.params, images, taps)
    for tap in taps[:2]:
        means = np.asarray(found[tap].mean((0, 1, 2)))
        alive = np.asarray(given[tap].max((0, 1, 2)) > 0)
        assert alive.any()
        np.testing.assert_allclose(means[alive], 1, rtol=1e-3)  # float32 sums
    scale = np.abs(given["logits"]).max()
    np.testing.assert_allclose(found["logits"], given["logits"], atol=1e-3 * scale)


def test_normalized_variants_refuse_what_cannot_be(cache):
    for call in (
        lambda: joi.load("vgg19-normalized"),
        lambda: networks.import_weights("vgg19-normalized", "x.safetensors"),
        lambda: fetch_weights("vgg19-normalized"),
    ):
        with pytest.raises(InputError, match="run `jaxopt-input models normalize vgg19 DATA`"):
            call()
    with pytest.raises(InputError, match="alexnet has no normalized variant: vgg16 and vgg19 have one"):
        networks.normalize("alexnet", None)
