"""Attacks against torchattacks, Foolbox and the code of AutoAttack's authors: the same weights, images and budgets.

    python benchmarks/peers/attacks.py steps squeezenet imagenet-sample-500 --peer .venv-attacks/bin/python
    python benchmarks/peers/attacks.py apgd cifar10-robust cifar10/test --peer .venv-attacks/bin/python
    python benchmarks/peers/attacks.py autoattack cifar10-robust cifar10/test --images 200 --peer …/python

`steps`: every step of FGSM and PGD from the iterates of torchattacks and of Foolbox, and the mean loss after ten steps
that run free. `apgd`: APGD from the peers' start, its losses and step sizes for twenty steps; beside it the authors'
code against itself with its images in another memory layout, for signs of gradients next to zero are rounding and part
the paths. `autoattack`: the images that the standard AutoAttack leaves robust. `steps` and `apgd` take images that are
classified rightly, `autoattack` any, spread evenly over the folder, which has class folders. The peers run in an
environment of their own (`attack-requirements.txt`). Writes `benchmarks/results/peers-attacks.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from record import RESULTS, ground, keep

import jaxopt_input as joi
from jaxopt_input.attacks.autoattack import STAGES
from jaxopt_input.methods.attack.recipe import parse_epsilons, read
from jaxopt_input.networks.squeezenet import SqueezeNet

SAME = 1e-6  # two images in [0, 1] agree at a number up to float32's rounding
APGD_STEPS = 20


class Peer:
    """The worker that attacks a model in PyTorch; see `attack_worker.py`."""

    def __init__(self, python: str, model: joi.Model, threads: int) -> None:
        self.python, self.threads = python, threads
        leaves = jax.tree_util.tree_leaves_with_path(model.params["params"])
        self.weights = {"w/" + "/".join(key.key for key in path): np.asarray(value) for path, value in leaves}
        module = model.apply.static
        if isinstance(module, SqueezeNet):
            self.network: dict[str, Any] = {"architecture": "SqueezeNet"}
        else:
            names = ("stages", "mean", "std", "patch")
            self.network = {"architecture": "SmallNet", **{name: getattr(module, name) for name in names}}

    def __call__(self, task: str, images: np.ndarray, labels: np.ndarray, **request: Any) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            data, out = Path(folder) / "data.npz", Path(folder) / "out.npz"
            np.savez(data, images=images, labels=labels, **self.weights)
            paths = {"data": str(data), "out": str(out), "threads": self.threads, "network": self.network}
            worker = Path(__file__).with_name("attack_worker.py")
            subprocess.run([self.python, str(worker), json.dumps({"task": task, **paths, **request})], check=True)
            with np.load(out) as answer:
                return {name: answer[name] for name in answer.files}


def mean_loss(model: joi.Model, images: np.ndarray, labels: np.ndarray) -> float:
    logits = np.asarray(model.activations(images, ["logits"])["logits"], np.float64)
    return float(np.mean(np.logaddexp.reduce(logits, 1) - logits[np.arange(len(labels)), labels]))


def steps(
    model: joi.Model, peer: Peer, images: np.ndarray, labels: np.ndarray, epsilon: float, key: jax.Array
) -> dict[str, Any]:
    """For each library and attack the share of pixels that agree, the least of all images and steps and the mean."""
    count, step, n = 10, epsilon / 4, len(images)
    theirs = peer("steps", images, labels, epsilon=epsilon, step=step, steps=count)
    free = joi.attacks.pgd(
        key,
        model,
        images,
        labels,
        epsilon=epsilon,
        step=step,
        steps=count,
        random_start=False,
        stop=False,
        on=joi.Resources(chunk=n),
    )
    found: dict[str, Any] = {}
    for name, iterates in theirs.items():
        attack = name.split("/")[1]
        shares = []
        for before, after in itertools.pairwise(iterates):
            if attack == "fgsm":
                ours = joi.attacks.fgsm(
                    key, model, images, labels, epsilon=epsilon, stop=False, on=joi.Resources(chunk=n)
                )
            else:
                given = {"epsilon": epsilon, "step": step, "steps": 1, "stop": False, "on": joi.Resources(chunk=n)}
                ours = joi.attacks.pgd(key, model, images, labels, start=before, **given)
            agree = (np.abs(ours.raw - after) <= SAME).all(-1)  # a pixel agrees where all its colors do
            shares.append(agree.mean((1, 2)))
        found[name] = {
            "pixels_mean": round(float(np.mean(shares)), 5),
            "pixels_least_step": round(float(np.mean(shares, 1).min()), 5),
            "pixels_least_image": round(float(np.min(shares)), 5),
        }
        if attack == "pgd":
            a, b = (mean_loss(model, x, labels) for x in (free.raw, iterates[-1]))
            together = (np.abs(free.raw - iterates[-1]) <= SAME).all(-1).mean()
            found[name] |= {"loss_ours": a, "loss_theirs": b, "loss_difference": abs(a / b - 1)}
            found[name]["pixels_after_ten_free_steps"] = round(float(together), 5)
    return {"epsilon": epsilon, "steps": count, "step": step, "peers": found}


def losses(model: joi.Model, iterates: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`[N, K]` each: the loss of K iterates of N images by our network, and whether an earlier one is misclassified."""
    build = {"cross_entropy": joi.losses.cross_entropy, "dlr": joi.losses.dlr}[name]
    one = jax.jit(jax.vmap(lambda z, y: build(y)({"logits": z}, z)))
    logits = [np.asarray(model.activations(x, ["logits"])["logits"]) for x in iterates]
    wrong = np.stack([z.argmax(-1) != labels for z in logits], 1)
    before = np.pad(np.maximum.accumulate(wrong, 1)[:, :-1], ((0, 0), (1, 0)))
    return np.stack([one(z, labels) for z in logits], 1), before


def compared(
    loss: np.ndarray, sizes: np.ndarray, reference: np.ndarray, their_sizes: np.ndarray, before: np.ndarray
) -> dict[str, float]:
    """How far two runs are apart, the losses relative to the largest of each image's path (the DLR passes zero).

    Also up to each image's first misclassified iterate: where the label is third the DLR is 1 whatever the image, and
    the sign of its gradient is rounding.
    """
    scale = np.abs(reference).max(1, keepdims=True)
    apart = np.abs(loss - reference) / scale
    same = np.isclose(sizes, their_sizes, rtol=1e-5).all(1)
    return {
        "loss_apart_median": float(np.median(apart.max(1))),
        "loss_apart_most": float(apart.max()),
        "images_within_1e-3": float((apart.max(1) <= 1e-3).mean()),
        "images_within_1e-3_until_misclassified": float((np.where(before, 0, apart).max(1) <= 1e-3).mean()),
        "mean_loss_apart_most": float((np.abs((loss - reference).mean(0)) / np.abs(reference.mean(0)).max()).max()),
        "images_with_equal_step_sizes": float(same.mean()),
    }


def apgd(
    model: joi.Model, peer: Peer, images: np.ndarray, labels: np.ndarray, epsilon: float, key: jax.Array
) -> dict[str, Any]:
    """Losses and step sizes from the same start, for each library and loss."""
    found: dict[str, Any] = {}
    for short, loss in (("ce", "cross_entropy"), ("dlr", "dlr")):
        theirs = peer("apgd", images, labels, epsilon=epsilon, steps=APGD_STEPS, loss=short)

        def run(library: str, theirs: Any = theirs, loss: str = loss) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            values, before = losses(model, theirs[f"{library}/images"], labels, loss)
            return values, theirs[f"{library}/sizes"].T, before

        for library in ("torchattacks", "authors"):
            ours = joi.attacks.apgd(
                key, model, images, labels, epsilon=epsilon, steps=APGD_STEPS, loss=loss,
                start=theirs[f"{library}/images"][0], stop=False, on=joi.Resources(chunk=len(images)),
            )  # fmt: skip
            # Entry k of theirs is the size with which step k + 1 was made; ours is the size after evaluation k.
            mine = ours.history["loss"], ours.history["step_size"][:, :-1]
            found[f"{library}/{loss}"] = compared(*mine, *run(library))
        other = run("authors, channels last")[:2]
        found[f"authors against themselves/{loss}"] = compared(*other, *run("authors"))
    return {"epsilon": epsilon, "steps": APGD_STEPS, "peers": found}


def autoattack(
    model: joi.Model, peer: Peer, images: np.ndarray, labels: np.ndarray, epsilon: float, key: jax.Array
) -> dict[str, Any]:
    """Which images each side leaves robust."""
    began = time.process_time()
    ours = joi.attacks.autoattack(key, model, images, labels, epsilon=epsilon)
    seconds = time.process_time() - began
    robust = ~ours.success
    stage = {name: int((ours.history["stage"] == k).sum()) for k, name in enumerate(STAGES)}
    print({"epsilon": epsilon, "ours": int(robust.sum()), **stage, "processor_seconds": round(seconds)}, flush=True)
    theirs = peer("autoattack", images, labels, epsilon=epsilon)
    logits = np.asarray(model.activations(theirs["images"], ["logits"])["logits"])
    return {
        "epsilon": epsilon,
        "clean": float((ours.clean == labels).mean()),
        "robust_ours": int(robust.sum()),
        "robust_theirs": int((~theirs["broken"]).sum()),
        "robust_for_ours_alone": int((robust & theirs["broken"]).sum()),
        "robust_for_theirs_alone": int((~robust & ~theirs["broken"]).sum()),
        "their_images_judged_by_us": int((logits.argmax(-1) == labels).sum()),
        "broken_by": stage,
        "processor_seconds": {"ours": round(seconds), "theirs": round(float(theirs["processor_seconds"]))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("steps", "apgd", "autoattack"))
    parser.add_argument("model")
    parser.add_argument("folder", help="of images, in one sub-folder a class")
    parser.add_argument("--peer", required=True, help="the Python of the peers' environment")
    parser.add_argument("--epsilon", default="8/255", help="one budget, or several: 8/255,4/255")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "peers-attacks.json")
    args = parser.parse_args()
    model = joi.load(args.model)
    peer = Peer(args.peer, model, args.threads)
    right = args.what != "autoattack"
    images, labels, _ = read(joi.data.load(args.folder, model), args.images * (2 if right else 1))
    logits = np.asarray(model.activations(images, ["logits"])["logits"])
    apart = np.abs(peer("logits", images, labels)["logits"] - logits).max() / np.abs(logits).max()
    if apart > 1e-4:
        raise SystemExit(f"the two networks differ: their logits are {apart:.2g} apart")
    if right:
        images, labels = (x[logits.argmax(-1) == labels][: args.images] for x in (images, labels))
    for epsilon in parse_epsilons(args.epsilon):
        measure = {"steps": steps, "apgd": apgd, "autoattack": autoattack}[args.what]
        result = measure(model, peer, images, labels, epsilon, jax.random.key(args.seed))
        arguments = {"what": args.what, "model": model.info.name, "seed": args.seed}
        count = {"images": len(images), "logits_apart": float(apart), "sha256": model.info.sha256}
        keep(args.out, {"arguments": arguments, **count, **result, **ground()}, ("arguments", "images", "epsilon"))


if __name__ == "__main__":
    main()
