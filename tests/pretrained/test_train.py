"""The training script: attack, folding, resuming, devices, data."""

import dataclasses
import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("train", ROOT / "pretrained" / "train.py")
train = importlib.util.module_from_spec(spec)
sys.modules["train"] = train
spec.loader.exec_module(train)

NETWORK = {"stem": 8, "stages": ((8, 1), (16, 0)), "classes": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def toy_data(count: int = 48, size: int = 16) -> "train.Data":
    """Noise whose mean color tells the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int32) % 3
    images = rng.integers(0, 120, (count, size, size, 3), np.uint8)
    images[np.arange(count), ..., labels] += 100
    return train.Data((images, labels), (images[:24], labels[:24]), {"labels": ["r", "g", "b"]}, "toy", "toy", "none")


def toy_config(**changes: object) -> "train.Config":
    config = train.Config(
        dataset="toy",
        network=NETWORK,
        phases=(train.Phase(1, 12, 0.5), train.Phase(2, 16, 0.6)),
        evaluation=train.pgd50("linf", 2 / 255),
        batch=16,
        learning_rate=0.05,
    )
    return dataclasses.replace(config, **changes)


def flat(params: object) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


@pytest.fixture(scope="module")
def network():
    network = train.SmallNet(**NETWORK)
    return network, network.init(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))["params"]


@pytest.mark.slow
def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path, monkeypatch):
    data, config = toy_data(), toy_config(adversary=train.Attack("linf", 4 / 255, 3 / 255, 2))
    whole, _ = train.train("toy", config, data, tmp_path / "a")

    save = train.export

    def cut(path, *rest):
        save(path, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "export", cut)  # the last thing an epoch does
    with pytest.raises(KeyboardInterrupt):
        train.train("toy", config, data, tmp_path / "b")
    monkeypatch.setattr(train, "export", save)
    resumed, _ = train.train("toy", config, data, tmp_path / "b")
    np.testing.assert_array_equal(flat(whole), flat(resumed))


@pytest.mark.slow
def test_training_learns_and_the_card_states_what_the_file_does(tmp_path):
    data, config = toy_data(), toy_config(phases=(train.Phase(6, 16, 0.6),))
    params, seconds = train.train("toy", config, data, tmp_path)
    path = tmp_path / "toy.safetensors"
    train.export(path, "toy", config, data, params)
    network, loaded = train.load(path)
    accuracy = train.evaluate(network, loaded, data.test)["top1"]
    assert accuracy > 0.9  # chance is 1/3
    robust = train.robust_accuracy(network, loaded, data.test, config.evaluation)
    card = train.model_card("toy", config, data, path, seconds)
    assert f"top-1 {accuracy:.2%}" in card
    attack = "PGD with 50 steps of 0.25 ε at L∞, ε = 2/255"
    assert f"{robust:.2%}** of 24 of these images, evenly spread, under {attack}" in card
    model = joi.load(path)
    assert model.info.labels == ("r", "g", "b")


@pytest.mark.slow
def test_several_devices_agree_with_one(tmp_path):
    """Sharding the batch changes the order of sums alone: three epochs part by less than 1e-3 of a weight."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, jax, test_train as t\n"
        "from pathlib import Path\n"
        "config = t.toy_config(adversary=t.train.Attack('l2', 0.5, 0.3, 2), phases=(t.train.Phase(1, 16, 0.6),))\n"
        "params, _ = t.train.train('toy', config, t.toy_data(), Path(sys.argv[2]) / str(jax.device_count()))\n"
        "np.save(Path(sys.argv[2]) / f'{jax.device_count()}.npy', t.flat(params))\n"
    )
    for count in (1, 4):
        flags = f"--xla_force_host_platform_device_count={count}"
        command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
        subprocess.run(command, check=True, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})
    one, four = (np.load(tmp_path / f"{count}.npy") for count in (1, 4))
    np.testing.assert_allclose(one, four, atol=1e-3)


def test_unfolded_batch_norm_computes_the_same(network):
    module, params = network
    params = jax.tree.map(lambda p: p + 0.1, params)
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)
    unfolded = train.unfold(module, params, images)
    x = jnp.asarray(images, jnp.float32) / 255
    expected = module.apply({"params": params}, x)["logits"]
    norm = train.SmallNet(**NETWORK, norm=True)
    # float32 rounding of a few layers
    np.testing.assert_allclose(norm.apply(unfolded, x)["logits"], expected, rtol=1e-4, atol=1e-4)
    trained, _ = norm.apply(unfolded, x, train=True, mutable=["batch_stats"])  # the batch is what was measured
    np.testing.assert_allclose(trained["logits"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flat(train.fold(unfolded)), flat(params), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attack_stays_in_the_ball_and_the_box_and_climbs(network, norm):
    module, params = network
    attack = train.Attack(norm, {"linf": 0.1, "l2": 1.0}[norm], {"linf": 0.03, "l2": 0.3}[norm], 5)
    clean = jax.random.uniform(jax.random.key(0), (6, 16, 16, 3))
    labels = jnp.arange(6) % 3
    start = train.perturb(attack, module, params, jax.random.key(1), clean, labels, 1)
    end = train.perturb(attack, module, params, jax.random.key(1), clean, labels, attack.steps)
    again = train.perturb(attack, module, params, jax.random.key(1), clean, labels, attack.steps - 1, start)
    np.testing.assert_allclose(again, end, atol=1e-6)  # in two parts as in one
    for images in (start, end):
        delta = np.asarray(images - clean).reshape(6, -1)
        size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
        assert size.max() <= attack.epsilon * (1 + 1e-5)  # float32 rounding of the subtraction
        assert size.min() > 0.2 * attack.epsilon
        assert images.min() >= 0
        assert images.max() <= 1

    def loss(x):
        logits = module.apply({"params": params}, x)["logits"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]

    assert (loss(end) > loss(start)).all()


@pytest.mark.slow
def test_attack_on_a_linear_network_is_the_closed_form():
    """Against two linear logits the worst image in a ball is x + ε sign(w) (L∞) or x + ε w/‖w‖ (L2)."""

    class Linear:
        def apply(self, variables, x):
            z = x.reshape(len(x), -1) @ variables["params"]
            return {"logits": jnp.stack([z, -z], 1)}

    w = jax.random.normal(jax.random.key(0), (48,))
    clean = jnp.full((1, 4, 4, 3), 0.5)
    for attack, direction in (
        (train.Attack("linf", 0.1, 0.05, 8), jnp.sign(w)),
        (train.Attack("l2", 0.3, 0.3, 8), w / jnp.linalg.norm(w)),
    ):
        end = train.perturb(attack, Linear(), w, jax.random.key(1), clean, jnp.ones(1, jnp.int32), attack.steps)
        expected = clean + attack.epsilon * direction.reshape(clean.shape)
        np.testing.assert_allclose(end, expected, atol=2e-3 if attack.norm == "l2" else 1e-6)  # L2 converges to it


@pytest.mark.slow
def test_robust_accuracy_counts_what_resists(network):
    """Next to no ε changes no class; at ε = 0.99 nothing resists; between them it falls; any batch size agrees."""
    module, params = network
    images = np.random.default_rng(0).integers(0, 255, (23, 16, 16, 3), np.uint8)
    labels = np.array(module.apply({"params": params}, images / np.float32(255))["logits"].argmax(1), np.int32)
    labels[:3] = (labels[:3] + 1) % 3  # three are wrong without an attack
    accuracy = [
        train.robust_accuracy(module, params, (images, labels), train.Attack("linf", epsilon, epsilon / 4, 20), batch)
        for epsilon, batch in ((1e-7, 10), (0.004, 10), (0.004, 23), (0.99, 10))
    ]
    assert accuracy[0] == pytest.approx(20 / 23)
    assert accuracy[0] >= accuracy[1] == accuracy[2] > accuracy[3] == 0


def test_local_mnist_and_checksums(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    rng = np.random.default_rng(0)
    expected = {}
    for part, count in (("train", 5), ("t10k", 3)):
        images, labels = rng.integers(0, 255, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        expected[part] = images, labels
        for kind, header, array in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            content = gzip.compress(bytes(header) + array.tobytes())
            (tmp_path / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"SHA-256 is .*, expected"):
        train.mnist(tmp_path, tmp_path)
    for file in (tmp_path / "mnist").iterdir():
        monkeypatch.setitem(train.SHA256, file.name, train.hashlib.sha256(file.read_bytes()).hexdigest())
    data = train.mnist(tmp_path, tmp_path)
    for (images, labels), part in ((data.train, "train"), (data.test, "t10k")):
        np.testing.assert_array_equal(images[..., 0], expected[part][0])
        np.testing.assert_array_equal(labels, expected[part][1])


def test_data_from_tensorflow_datasets(tmp_path, monkeypatch):
    """The set's own order and class order are put into ours; classes not asked for are left out."""

    class Prepared:
        classes = ("dog", "bird", "cat")

        def batches(self, size):
            images = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((5, 2, 2, 3), np.float32)
            yield joi.data.Batch(images[:3], np.array([0, 1, 2], np.int32), ("a", "b", "c"))
            yield joi.data.Batch(images[3:], np.array([2, 0], np.int32), ("d", "e"))

    monkeypatch.setattr(train, "named", lambda *_, **__: Prepared())
    examples = train.cached(tmp_path / "x", lambda: train.prepared("s", "train", tmp_path, (2, 2, 3), ["cat", "dog"]))
    images, labels = examples
    assert labels.tolist() == [0, 0, 1, 1]
    assert images[:, 0, 0, 0].tolist() == [128, 191, 0, 255]


def test_registering_keeps_the_other_networks(tmp_path, monkeypatch):
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps({"alexnet": {"bundled": False}, "toy": {"bundled": True, "sha256": "old"}}))
    monkeypatch.setattr(train, "REGISTRY", registry)
    weights = tmp_path / "toy.safetensors"
    weights.write_bytes(b"weights")
    train.register(weights, "toy", toy_data())
    written = json.loads(registry.read_text())
    assert list(written) == ["toy", "alexnet"]
    assert written["toy"]["sha256"] == train.hashlib.sha256(b"weights").hexdigest()
    assert written["toy"]["image_shape"] == [16, 16, 3]


def test_a_shift_moves_the_image_over_its_mirrored_edges():
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    moved = train.augment(jax.random.key(3), jnp.asarray(images), train.Phase(1, 8, 1.0, shift=2), 0.0, False)
    bordered = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect") / 255
    places = set()
    for k, image in enumerate(np.asarray(moved)):
        found = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.allclose(image, bordered[k, i : i + 8, j : j + 8], atol=1e-6)  # one rounding of float32
        ]
        assert len(found) == 1
        places |= set(found)
    assert len(places) > 15  # of 25


def test_halves_share_no_image_and_bundle_nothing(tmp_path, monkeypatch):
    """Of a set in order of class, each half has half of each class; the weights stay in the working folder."""
    data = toy_data()
    order = np.argsort(data.train[1], kind="stable")
    data = dataclasses.replace(data, train=(data.train[0][order], data.train[1][order]))
    seen = []

    def trained(name, config, half, work):
        seen.append(half.train)
        network = train.SmallNet(**NETWORK)
        return network.init(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))["params"], {"wall": 1.0, "cpu": 1.0}

    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setitem(train.CONFIGS, "toy", toy_config(evaluation=train.Attack("linf", 2 / 255, 1 / 255, 1)))
    monkeypatch.setitem(train.DATASETS, "toy", lambda *_: data)
    monkeypatch.setattr(train, "register", lambda *_: pytest.fail("a half is not bundled"))
    for half in "01":
        monkeypatch.setattr(sys, "argv", ["train.py", "toy", "--data", ".", "--work", str(tmp_path), "--half", half])
        train.main()
        assert joi.load(tmp_path / f"toy-half{half}.safetensors").info.labels == ("r", "g", "b")
        assert f"train.py toy --half {half}`" in (tmp_path / f"toy-half{half}.md").read_text()
    assert all(np.bincount(labels).tolist() == [8, 8, 8] for _, labels in seen)
    both = np.stack([images for images, _ in seen], 1).reshape(data.train[0].shape)
    np.testing.assert_array_equal(both, data.train[0])  # interleaved, they are the whole: no image is in both
    monkeypatch.setattr(sys, "argv", ["train.py", "tin100-robust", "--data", ".", "--work", ".", "--half", "0"])
    with pytest.raises(SystemExit):
        train.main()


def test_a_warm_restart_begins_the_schedule_anew():
    """The step sizes, seen as what a gradient of one is moved by: the same cosine twice, the second of its own peak."""
    phases = (train.Phase(2, 12, 1.0), train.Phase(1, 12, 1.0), train.Phase(3, 12, 1.0, rate=0.02))
    config = toy_config(phases=phases, momentum=0.0, weight_decay=0.0)
    assert config.schedules() == [(0.05, 3), (0.02, 3)]
    rule = train.optimizer(config, 60)
    state, rates = rule.init(jnp.zeros(())), []
    for _ in range(60):
        update, state = rule.update(jnp.ones(()), state, jnp.zeros(()))
        rates.append(-float(update))
    np.testing.assert_allclose(rates[30:], np.multiply(rates[:30], 0.02 / 0.05), rtol=1e-4, atol=1e-9)
    assert rates[0] == rates[30] == 0
    assert max(rates) == pytest.approx(0.05)
