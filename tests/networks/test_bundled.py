"""The bundled networks do what their cards say, on real images."""

import gzip
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

import jaxopt_input as joi
from jaxopt_input import networks

BUNDLED = [name for name, entry in networks.entries().items() if entry.bundled]
DATA = os.environ.get("JAXOPT_INPUT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="needs JAXOPT_INPUT_DATA")


def card(name: str) -> str:
    return networks.entry(name).path().with_suffix(".md").read_text()


def stated(name: str) -> tuple[float, float]:
    """Clean and attacked accuracy of the card."""
    clean = re.search(r"\*\*top-1 ([\d.]+)%", card(name))
    pattern = r"\*\*([\d.]+)%\*\* of \d+ of these images, evenly spread, under PGD with 50 steps"
    attacked = re.search(pattern, card(name))
    return float(clean[1]) / 100, float(attacked[1]) / 100


def photographs(archive: str, classes: list[str], every: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    with tarfile.open(Path(DATA) / archive) as tar:
        for number, member in enumerate(m for m in tar if m.isfile() and m.name.startswith(part)):
            if number % every == 0:
                picture = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                images.append(np.asarray(picture, np.float32) / 255)
                labels.append(classes.index(member.name.split("/")[-2]))
    return np.stack(images), np.array(labels, np.int32)


@pytest.fixture(scope="module")
def images():
    """About 1000 held-out images of each data set, by the prefix of a network's name."""

    def idx(kind: str, skip: int) -> np.ndarray:
        content = (Path(DATA) / "mnist" / f"t10k-{kind}-ubyte.gz").read_bytes()
        return np.frombuffer(gzip.decompress(content), np.uint8, offset=skip)

    wnids = [group[0] for group in joi.load("tin100").info.synonyms]
    digits = idx("images-idx3", 16).reshape(-1, 28, 28, 1)[::10].astype(np.float32) / 255
    return {
        "tin100": photographs("tiny-imagenet-100-val.tar.xz", wnids, 5, "val/"),
        "cifar10": photographs("cifar10-jpeg.tar.xz", list(joi.load("cifar10").info.labels), 10, "test/"),
        "mnist": (digits, idx("labels-idx1", 8)[::10].astype(np.int32)),
    }


def test_all_are_there_and_small():
    assert set(BUNDLED) == {"tin100", "tin100-robust", "cifar10", "cifar10-robust", "mnist"}
    assert sum(networks.entry(name).path().stat().st_size for name in BUNDLED) <= 24e6


@pytest.mark.parametrize("name", BUNDLED)
def test_card_and_file_agree(name):
    entry = networks.entry(name)
    assert entry.sha256 in card(name)
    assert networks.formats.file_digest(entry.path()) == entry.sha256
    assert re.search(r"[\d,]+ s wall clock, .* on 1 x ", card(name))
    model = joi.load(name)
    assert model.info.image_shape == tuple(entry.image_shape)
    assert len(model.info.labels) == model.layers()["logits"][0]


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", BUNDLED)
def test_accuracy_is_the_card_s(name, images):
    """Within three standard errors of the sample; and above what each network is to reach."""
    x, labels = images[name.split("-")[0]]
    model = joi.load(name)
    apply = jax.jit(lambda params, x: model.apply(params, x, ("logits",))["logits"].argmax(-1))
    parts = [np.asarray(apply(model.params, x[at : at + 100])) for at in range(0, 1000, 100)]
    accuracy = float((np.concatenate(parts) == labels[:1000]).mean())
    clean, attacked = stated(name)
    assert abs(accuracy - clean) < 3 * np.sqrt(clean * (1 - clean) / 1000) + 1e-3
    floors = {"tin100": 0.5, "tin100-robust": 0.35, "cifar10": 0.88, "cifar10-robust": 0.6, "mnist": 0.995}
    assert clean >= floors[name]
    assert attacked >= {"tin100-robust": clean / 2, "cifar10-robust": 0.3, "mnist": 0.8}.get(name, 0)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("size", [0.1, 0.25])
def test_mnist_withstands_noise(size, images):
    """What an attack of that L∞ finds must not be what random signs find: they cost at most 5 % (88 % before)."""
    x, labels = images["mnist"]
    model = joi.load("mnist")
    signs = np.random.default_rng(0).choice(np.float32([-size, size]), x.shape)
    logits = jax.jit(lambda x: model.apply(model.params, x, ("logits",))["logits"])(np.clip(x + signs, 0, 1))
    assert (np.asarray(logits).argmax(-1) != labels).mean() < 0.05


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "epsilon"), [("tin100-robust", 2 / 255), ("cifar10-robust", 8 / 255)])
def test_robust_networks_resist(name, epsilon, images):
    """Ten steps of sign ascent, written out here: at least what fifty steps leave, less three standard errors."""
    x, labels = (part[::10][:100] for part in images[name.split("-")[0]])
    model = joi.load(name)

    def logits(x):
        return model.apply(model.params, x, ("logits",))["logits"]

    def loss(x):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits(x)), labels[:, None], 1).sum()

    @jax.jit
    def step(y):
        y = jnp.clip(y + epsilon / 4 * jnp.sign(jax.grad(loss)(y)), x - epsilon, x + epsilon)
        return jnp.clip(y, 0, 1)

    y = x
    for _ in range(10):
        y = step(y)
    resists = float((np.asarray(logits(y)).argmax(-1) == labels).mean())
    _, attacked = stated(name)
    assert resists > attacked - 3 * np.sqrt(attacked * (1 - attacked) / 100)
