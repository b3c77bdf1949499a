"""Trains the bundled networks: `python pretrained/train.py tin100 --data DIR --work DIR`.

Reads the local archives, trains with the `Config` of that name, and writes `NAME.safetensors` (batch norm folded,
float16) and its model card `NAME.md` beside this file. It resumes from the last finished epoch in `--work`; one seed
gives one result. The package must be importable (`pip install -e .`).
"""

import argparse
import dataclasses
import functools
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image
from safetensors import safe_open
from safetensors.flax import save_file
from tqdm import tqdm

from jaxopt_input.networks.formats import METADATA_KEY, content_hash
from jaxopt_input.networks.small import SmallNet

# --- Configuration ----------------------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """Some epochs on crops of at least `min_area` of a photograph, resampled to `size` x `size` pixels."""

    epochs: int
    size: int
    min_area: float


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a training run."""

    dataset: str
    network: dict[str, Any]  # arguments of SmallNet
    phases: tuple[Phase, ...]
    batch: int = 128
    learning_rate: float = 0.2  # the peak: linear warm-up, then cosine to zero
    warmup: float = 0.12  # of all steps
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on kernels
    label_smoothing: float = 0.1
    ema: float = 0.995
    colour: float = 0.2  # brightness and contrast jitter
    seed: int = 0
    note: str = ""  # what the card is to say besides

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase(self, epoch: int) -> Phase:
        """The phase of a 0-based epoch."""
        return [phase for phase in self.phases for _ in range(phase.epochs)][epoch]


CONFIGS = {
    "tin100": Config(
        dataset="tiny-imagenet-100",
        network={
            "stem": 32,
            "stages": ((32, 0), (96, 1), (192, 1), (288, 1)),
            "classes": 100,
            "mean": (0.48, 0.45, 0.40),
            "std": (0.27, 0.26, 0.28),
        },
        phases=(Phase(11, 48, 0.35), Phase(1, 64, 0.6)),
        warmup=0.17,
        note="Begun as 17 epochs and cut to these 12 after the second, for lack of time; the warm-up kept its steps.",
    ),
}

# --- Data -------------------------------------------------------------------------------------------------------------

SHA256 = {
    "tiny-imagenet-100-train-0.tar.xz": "58778827abf303f586d7a5d241c3577754bd52fde6d05066e6d1a5b00c90a7e9",
    "tiny-imagenet-100-train-1.tar.xz": "98de6dafef482069344cd34dadf7aebe454af4c287e5360eab651b7ae3818c4c",
    "tiny-imagenet-100-train-2.tar.xz": "722dc5706de1e8724b72930ccc9e34086f6db07714284d32b8a225450f216a09",
    "tiny-imagenet-100-val.tar.xz": "930bfe69ef3841f28bf565b02182f2306d68224ae5a721f40424b58d6ada29f6",
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Images uint8 `[N, H, W, 3]` and labels int32 `[N]`, what the classes are called, and a note on the licence."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: dict[str, list[str]]  # "labels", and other names of the classes, in class order
    title: str
    licence: str


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of an archive, after its SHA-256 was checked."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256[path.name]:
        raise ValueError(f"{path.name}: SHA-256 is {digest}, expected {SHA256[path.name]}")
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)):
                yield member.name, content.read()


def cached_split(archives: list[Path], cache: Path, class_names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images `.../CLASS/FILE` of some archives, in order of class and file, decoded once and kept as `.npy`."""
    files = cache.with_suffix(".images.npy"), cache.with_suffix(".labels.npy")
    if not all(file.exists() for file in files):
        found = []
        for name, content in (pair for archive in archives for pair in read_archive(archive)):
            parts = name.split("/")
            if len(parts) > 1 and parts[-2] in class_names:
                image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
                found.append((class_names.index(parts[-2]), parts[-1], image))
        found.sort(key=lambda item: item[:2])
        np.save(files[0], np.stack([image for *_, image in found]))
        np.save(files[1], np.array([label for label, *_ in found], np.int32))
    return np.load(files[0], mmap_mode="r"), np.load(files[1])


def tiny_imagenet_100(data: Path, work: Path) -> Data:
    """100 of the 200 classes of Tiny ImageNet, 500 photographs each, and 50 each of its validation set."""
    rows = (data / "tiny-imagenet-100.words.tsv").read_text().splitlines()
    words = dict(sorted(row.split("\t") for row in rows if row))
    split = functools.partial(cached_split, class_names=list(words))
    return Data(
        train=split([data / f"tiny-imagenet-100-train-{i}.tar.xz" for i in range(3)], work / "tiny-imagenet-100-train"),
        test=split([data / "tiny-imagenet-100-val.tar.xz"], work / "tiny-imagenet-100-val"),
        classes={
            "labels": [text.split(",")[0].strip() for text in words.values()],
            "wnids": list(words),
            "words": list(words.values()),
        },
        title="Tiny ImageNet, 100 of its 200 classes: 500 training and 50 validation photographs a class, 64x64, JPEG",
        licence="Tiny ImageNet is derived from ImageNet, whose images are for non-commercial research and education. "
        "These weights contain no image and are released under Apache-2.0 with that note.",
    )


DATASETS = {"tiny-imagenet-100": tiny_imagenet_100}


def augment(key: jax.Array, images: jax.Array, size: int, min_area: float, colour: float) -> jax.Array:
    """A random crop of each image, mirrored half the time, resampled to `size`, with a little contrast and brightness.

    Bilinear and antialiased; separable, hence two small matrix products an image instead of a gather.
    """
    count, height, width, _ = images.shape
    keys = jax.random.split(key, 7)
    uniform = [jax.random.uniform(k, (count,)) for k in keys]
    area = min_area + (1 - min_area) * uniform[0]
    aspect = jnp.exp((uniform[1] - 0.5) * 2 * jnp.log(4 / 3))

    def weights(extent: jax.Array, length: int, place: jax.Array, mirror: jax.Array) -> jax.Array:
        extent = jnp.minimum(extent, 1.0) * length
        at = (jnp.arange(size) + 0.5) / size
        at = jnp.where(mirror[:, None], 1 - at, at)
        centre = (place * (length - extent))[:, None] + at * extent[:, None]
        distance = jnp.abs(centre[:, :, None] - (jnp.arange(length) + 0.5))
        weight = jnp.maximum(0, 1 - distance / jnp.maximum(1, extent / size)[:, None, None])
        return weight / weight.sum(-1, keepdims=True)

    rows = weights(jnp.sqrt(area / aspect), height, uniform[2], jnp.zeros(count, bool))
    columns = weights(jnp.sqrt(area * aspect), width, uniform[3], uniform[4] < 0.5)
    images = jnp.einsum("nyh,nhwc,nxw->nyxc", rows, images.astype(jnp.float32) / 255, columns)
    contrast, brightness = (1 + colour * (2 * u[:, None, None, None] - 1) for u in uniform[5:])
    mean = images.mean((1, 2, 3), keepdims=True)
    return jnp.clip((images - mean) * contrast + mean * brightness, 0, 1)


# --- Training ---------------------------------------------------------------------------------------------------------


def optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Nesterov momentum with weight decay on the kernels; warm-up and cosine over `steps`."""
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, int(config.warmup * steps), steps)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
        optax.sgd(rate, config.momentum, nesterov=True),
    )


@functools.partial(jax.jit, static_argnames=("config", "phase", "steps"), donate_argnames="state")
def train_step(
    state: dict[str, Any], images: jax.Array, labels: jax.Array, config: "Frozen", phase: Phase, steps: int
) -> tuple[dict[str, Any], jax.Array]:
    """One update of `state` (variables, their moving average, optimizer state, step) on one batch; and its loss."""
    settings = config.value
    network = SmallNet(**settings.network, norm=True)
    key = jax.random.fold_in(jax.random.key(settings.seed), state["step"])
    images = augment(key, images, phase.size, phase.min_area, settings.colour)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, settings.network["classes"]), settings.label_smoothing)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state["variables"]["batch_stats"]}
        taps, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy(taps["logits"], targets).mean(), updated["batch_stats"]

    params = state["variables"]["params"]
    (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, optimizer_state = optimizer(settings, steps).update(gradient, state["optimizer"], params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": stats}
    decay = jnp.minimum(settings.ema, (1 + state["step"]) / (10 + state["step"]))
    ema = optax.incremental_update(variables, state["ema"], 1 - decay)
    return {"variables": variables, "ema": ema, "optimizer": optimizer_state, "step": state["step"] + 1}, loss


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """Makes a configuration hashable, by identity, as a static argument."""

    value: Config


def fold(variables: dict[str, Any], epsilon: float = 1e-5) -> dict[str, Any]:
    """Parameters of the network without batch norm that computes the same."""
    folded = {}
    for name, layer in variables["params"].items():
        if name.endswith("_norm"):
            continue
        if norm := variables["params"].get(f"{name}_norm"):
            stats = variables["batch_stats"][f"{name}_norm"]
            scale = norm["scale"] / jnp.sqrt(stats["var"] + epsilon)
            layer = {"kernel": layer["kernel"] * scale, "bias": norm["bias"] - stats["mean"] * scale}
        folded[name] = layer
    return folded


def evaluate(network: SmallNet, params: Any, data: tuple[np.ndarray, np.ndarray], batch: int = 250) -> dict[str, float]:
    """Top-1 and top-5 accuracy on whole, unaltered images."""

    @jax.jit
    def ranks(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.apply({"params": params}, images.astype(jnp.float32) / 255)["logits"]
        return (logits > jnp.take_along_axis(logits, labels[:, None], 1)).sum(1)

    images, labels = data
    parts = [ranks(params, images[i : i + batch], labels[i : i + batch]) for i in range(0, len(labels), batch)]
    rank = np.concatenate([np.asarray(part) for part in parts])
    return {"top1": float((rank < 1).mean()), "top5": float((rank < 5).mean())}


def train(name: str, config: Config, data: Data, work: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Trains, or goes on after the last checkpoint in `work`; returns the folded parameters and the seconds taken."""
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    sharded, replicated = (NamedSharding(mesh, spec) for spec in (PartitionSpec("batch"), PartitionSpec()))
    images, labels = data.train
    network = SmallNet(**config.network)
    frozen, steps_per_epoch = Frozen(config), len(labels) // config.batch
    steps = config.epochs * steps_per_epoch
    variables = SmallNet(**config.network, norm=True).init(jax.random.key(config.seed), jnp.zeros((1, 64, 64, 3)))
    state = {
        "variables": variables,
        "ema": jax.tree.map(jnp.copy, variables),
        "optimizer": optimizer(config, steps).init(variables["params"]),
        "step": jnp.zeros((), jnp.int32),
    }
    state = jax.device_put(state, replicated)
    seconds = {"wall": 0.0, "cpu": 0.0}
    manager = ocp.CheckpointManager((work / name).resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=2))
    if (done := manager.latest_step()) is not None:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore(state), seconds=ocp.args.JsonRestore())
        restored = manager.restore(done, args=restore)
        state, seconds = restored["state"], restored["seconds"]
        print(f"resumed after epoch {done}", flush=True)

    for epoch in range(done or 0, config.epochs):
        wall, cpu = time.monotonic(), time.process_time()
        phase = config.phase(epoch)
        order = np.random.default_rng([config.seed, epoch]).permutation(len(labels))
        batches = order[: steps_per_epoch * config.batch].reshape(steps_per_epoch, config.batch)
        losses = []
        for batch in tqdm(batches, f"epoch {epoch + 1}/{config.epochs}", disable=None, leave=False):
            x, y = jax.device_put((images[batch], labels[batch]), sharded)
            state, loss = train_step(state, x, y, frozen, phase, steps)
            losses.append(float(loss))
        params = stored(fold(state["ema"]))
        seconds = {
            "wall": seconds["wall"] + time.monotonic() - wall,
            "cpu": seconds["cpu"] + time.process_time() - cpu,
        }
        accuracy = evaluate(network, params, data.test)
        print(
            f"epoch {epoch + 1}/{config.epochs} size {phase.size} loss {np.mean(losses):.3f} "
            f"top1 {accuracy['top1']:.4f} top5 {accuracy['top5']:.4f} "
            f"seconds {seconds['wall']:.0f} (cpu {seconds['cpu']:.0f})",
            flush=True,
        )
        save = ocp.args.Composite(state=ocp.args.StandardSave(state), seconds=ocp.args.JsonSave(seconds))
        manager.save(epoch + 1, args=save)
        manager.wait_until_finished()
        export(work / f"{name}-provisional.safetensors", name, config, data, params)
    return stored(fold(state["ema"])), seconds


# --- Results ----------------------------------------------------------------------------------------------------------


def stored(params: Any) -> Any:
    """Parameters as a file gives them back: rounded to float16, float32 again."""
    return jax.tree.map(lambda p: p.astype(jnp.float16).astype(jnp.float32), params)


def export(path: Path, name: str, config: Config, data: Data, params: dict[str, Any]) -> None:
    """Writes float16 weights, `LAYER/kernel` and `LAYER/bias`, with what is needed to build and to name the network."""
    tensors = {f"{layer}/{key}": p.astype(jnp.float16) for layer, leaf in params.items() for key, p in leaf.items()}
    metadata = {
        "content": content_hash({key: np.asarray(tensor) for key, tensor in tensors.items()}),
        "name": name,
        "architecture": "SmallNet",
        "config": config.network,
        "image_shape": data.test[0].shape[1:],
        "preprocessing": {
            "range": [0, 1],
            "mean": config.network["mean"],
            "std": config.network["std"],
            "inside_network": True,
        },
        "licence": data.licence,
        **data.classes,
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {METADATA_KEY: json.dumps(metadata)})  # one entry: safetensors orders several at random
    partial.chmod(0o644)  # safetensors makes files private
    partial.replace(path)


def load(path: Path) -> tuple[SmallNet, dict[str, Any]]:
    """The network and its float32 parameters, from a file that `export` wrote."""
    with safe_open(path, "np") as file:
        network = SmallNet(**json.loads(file.metadata()[METADATA_KEY])["config"])
        params: dict[str, Any] = {}
        for name in file.keys():  # noqa: SIM118 (not a dict)
            layer, key = name.split("/")
            params.setdefault(layer, {})[key] = jnp.asarray(file.get_tensor(name), jnp.float32)
    return network, params


def model_card(name: str, config: Config, data: Data, path: Path, seconds: dict[str, float]) -> str:
    """The model card in Markdown, every figure measured: accuracy is that of the weights in the file."""
    network, params = load(path)
    accuracy = evaluate(network, params, data.test)
    image = jax.ShapeDtypeStruct((1, *data.test[0].shape[1:]), jnp.float32)
    taps: dict[str, jax.Array] = {}  # filled while tracing: a returned dict would come back sorted
    jax.eval_shape(lambda x: taps.update(network.apply({"params": params}, x)), image)
    phases = "; ".join(f"{p.epochs} at {p.size}x{p.size} (crops of {p.min_area:.0%} and more)" for p in config.phases)
    device = jax.devices()[0]
    where = f"{jax.device_count()} x {device.device_kind}" + (f", {os.cpu_count()} cores" * (device.platform == "cpu"))
    rows = {
        "data": data.title,
        "accuracy": f"**top-1 {accuracy['top1']:.2%}, top-5 {accuracy['top5']:.2%}** on the {len(data.test[1])} "
        "validation images, whole, unaltered",
        "parameters": f"{sum(p.size for p in jax.tree.leaves(params)):,}",
        "file": f"{path.stat().st_size:,} bytes, float16, SHA-256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`",
        "training": f"{seconds['wall']:,.0f} s wall clock, {seconds['cpu']:,.0f} s processor time, on {where} "
        "(wall clock includes what else the machine did)",
        "software": f"JAX {jax.__version__}, Optax {optax.__version__}",
        "licence": data.licence,
    }
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A `SmallNet` trained by `python pretrained/train.py {name}`, which wrote this page.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in rows.items()),
            "",
            "## Network",
            "",
            f"`SmallNet(**{json.dumps(config.network)})`; batch norm is folded into the weights. Images are float32 "
            "`[N, H, W, 3]` in [0, 1], normalised inside; any size from 32x32 works.",
            "",
            "| tap | shape for one image |",
            "|---|---|",
            *(f"| `{tap}` | {' x '.join(map(str, value.shape[1:]))} |" for tap, value in taps.items()),
            "",
            "## Recipe",
            "",
            f"{config.epochs} epochs: {phases}. Batch {config.batch}; mirror, crop, contrast and brightness "
            f"(±{config.colour:.0%}); Nesterov momentum {config.momentum}, peak rate {config.learning_rate} after "
            f"{config.warmup:.0%} linear warm-up, cosine to zero; weight decay {config.weight_decay} on kernels; label "
            f"smoothing {config.label_smoothing}; exponential moving average {config.ema}; seed {config.seed}.",
            "",
            "No hyperparameter was tuned on the validation images, which were looked at after every epoch; the file "
            f"holds the last epoch. {config.note}".rstrip(),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONFIGS)
    parser.add_argument("--data", type=Path, default=os.environ.get("JAXOPT_INPUT_DATA"), help="folder of archives")
    parser.add_argument("--work", type=Path, required=True, help="folder for decoded images and checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for weights and card")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set JAXOPT_INPUT_DATA")
    arguments.work.mkdir(parents=True, exist_ok=True)
    name, config = arguments.name, CONFIGS[arguments.name]
    data = DATASETS[config.dataset](arguments.data, arguments.work)
    params, seconds = train(name, config, data, arguments.work)
    path = arguments.out / f"{name}.safetensors"
    export(path, name, config, data, params)
    card = model_card(name, config, data, path, seconds)
    (arguments.out / f"{name}.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
