"""The registry: loading by name, file and entry; imports that are checked; errors of one line."""

import hashlib
import os
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxopt_input as joi
from jaxopt_input import networks
from jaxopt_input.disk import CACHE_VARIABLE

needs_data = pytest.mark.skipif("JAXOPT_INPUT_DATA" not in os.environ, reason="needs the folder of real data")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_bundled_network_is_the_registered_one():
    entry = networks.entry("tin100")
    assert hashlib.sha256(entry.path().read_bytes()).hexdigest() == entry.sha256
    assert entry.path().stat().st_size <= 4 * 2**20
    model = joi.load("tin100")
    assert model.info.sha256 == entry.sha256
    assert model.info.image_shape == (64, 64, 3)
    assert len(model.info.labels) == len(set(model.info.labels)) == 100
    assert model.info.class_index("dumbbell") == model.info.class_index("n03255030")
    assert model.info.class_index("Carassius auratus") == model.info.class_index("goldfish")
    taps = list(model.layers())
    assert taps[0] == "conv1"
    assert taps[-1] == "logits"


@pytest.mark.parametrize("size", [32, 63, 64, 97])
def test_bundled_network_takes_other_sizes(size):
    assert joi.load("tin100").layers((size, size, 3))["logits"] == (100,)


def test_bundled_network_refuses_an_image_that_is_too_small():
    with pytest.raises(joi.InputError, match="would be empty"):
        joi.load("tin100").layers((8, 8, 3))


def test_loaded_twice_is_equal():
    assert joi.load("tin100").apply == joi.load("tin100").apply


def test_load_by_path(tmp_path):
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(networks.entry("tin100").path().read_bytes())
    model = joi.load(str(copy))
    assert model.info.name == "mine"
    np.testing.assert_array_equal(
        model.params["params"]["logits"]["bias"], joi.load("tin100").params["params"]["logits"]["bias"]
    )


def test_load_by_python_entry(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "import jax.numpy as jnp, jaxopt_input as joi\n"
        "def build():\n"
        "    return joi.from_function(lambda p, x, taps: {'logits': x.mean((1, 2)) @ p}, jnp.eye(3),\n"
        "                             image_shape=(8, 8, 3), taps=('logits',))\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert joi.load("my_nets:build").info.image_shape == (8, 8, 3)
    for name, hint in [("my_nets:bild", "build"), ("my_nets:wrong", "int"), ("no_such_nets:build", "no_such_nets")]:
        with pytest.raises(joi.InputError, match=hint):
            joi.load(name)


def test_unknown_names():
    with pytest.raises(joi.InputError, match="nearest: tin100"):
        joi.load("tin10")
    with pytest.raises(joi.InputError, match="no weight file"):
        joi.load("missing.safetensors")


def damaged(data: bytes) -> dict[str, bytes]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return {"truncated": data[:-1000], "empty": b"", "flipped": bytes(flipped), "longer": data + b"\0"}


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "longer"])
def test_damaged_bundled_file_is_refused(tmp_path, monkeypatch, damage):
    data = damaged(networks.entry("tin100").path().read_bytes())[damage]
    (tmp_path / "tin100.safetensors").write_bytes(data)
    monkeypatch.setattr(networks.registry, "_bundled_folder", lambda: tmp_path)
    with pytest.raises(joi.InputError, match="SHA-256") as caught:
        joi.load("tin100")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty"])
def test_damaged_file_by_path_is_refused(tmp_path, damage):
    file = tmp_path / "a.safetensors"
    file.write_bytes(damaged(networks.entry("tin100").path().read_bytes())[damage])
    with pytest.raises(joi.InputError, match="safetensors"):
        joi.load(str(file))


@pytest.mark.parametrize("at", [0.5, 0.999])
def test_flipped_bit_shows_by_path(tmp_path, at):
    data = bytearray(networks.entry("tin100").path().read_bytes())
    data[int(at * len(data))] ^= 1
    file = tmp_path / "a.safetensors"
    file.write_bytes(data)
    with pytest.raises(joi.InputError, match="SHA-256"):
        joi.load(str(file))


@needs_data
def test_damaged_squeezenet_by_path(tmp_path, data_folder):
    data = damaged((data_folder / "squeezenet" / "compressed_SqueezeNet.net").read_bytes())
    for damage, content in data.items():
        file = tmp_path / f"{damage}.net"
        file.write_bytes(content)
        with pytest.raises(joi.InputError, match="SHA-256"):
            joi.load(str(file))


def test_foreign_safetensors_is_refused(tmp_path):
    save_file({"a": np.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(joi.InputError, match="architecture"):
        joi.load(str(tmp_path / "a.safetensors"))


@needs_data
def test_import_squeezenet(cache, data_folder):
    with pytest.raises(joi.InputError, match="models import squeezenet"):
        joi.load("squeezenet")
    source = data_folder / "squeezenet" / "compressed_SqueezeNet.net"
    path = joi.networks.import_weights("squeezenet", source)
    assert path.read_bytes() == source.read_bytes()
    assert os.listdir(path.parent) == [path.name]
    model = joi.load("squeezenet")
    assert model.info.class_index("n02123045") == model.info.class_index("tabby") == 281
    assert model.info.label(340) == "zebra"
    assert joi.load(str(source)).info.labels == model.info.labels


@needs_data
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "longer"])
def test_damaged_import_leaves_nothing(cache, tmp_path, data_folder, damage):
    file = tmp_path / "damaged.net"
    file.write_bytes(damaged((data_folder / "squeezenet" / "compressed_SqueezeNet.net").read_bytes())[damage])
    with pytest.raises(joi.InputError, match="SHA-256"):
        joi.networks.import_weights("squeezenet", file)
    assert not cache.exists()


def test_import_mistakes(cache, tmp_path):
    for name, file, hint in [
        ("squeezenet", tmp_path / "missing.net", "missing.net"),
        ("tin100", tmp_path, "bundled"),
        ("squeezenett", tmp_path, "nearest: squeezenet"),
    ]:
        with pytest.raises(joi.InputError, match=hint):
            joi.networks.import_weights(name, file)


def test_weights_are_stored_as_plain_tensors():
    tensors = load_file(networks.entry("tin100").path())
    assert all(np.isfinite(tensor.astype(np.float32)).all() for tensor in tensors.values())


@pytest.mark.slow
def test_small_network_on_pixels():
    """With `patch` 1 the first convolution sees pixels: its map and its first stage's are as large as the image."""
    from jaxopt_input.networks.small import SmallNet

    network = SmallNet(stem=4, stages=((6, 0), (8, 1)), classes=3, patch=1)
    variables = network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    model = joi.from_linen(network, variables, image_shape=(8, 8, 3))
    assert model.layers() == {"conv1": (8, 8, 4), "block2": (8, 8, 6), "block3": (4, 4, 8), "logits": (3,)}
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 4)
