"""`attack`: adversarial examples of a set of images."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.errors import InputError
from jaxopt_input.runs.old_options import devices_of, given_arguments, precision_option, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from jaxopt_input.data import Dataset
    from jaxopt_input.models.model import Model


@click.command()
@click.option("--images", "images_name", required=True, metavar="FOLDER|FILE|NAME:SPLIT", help=(
    "The originals; class folders name their labels. Without labels, the predicted class is taken."
))  # fmt: skip
@click.option("--method", default="pgd", help="The attack.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--norm", help="linf, l2, l1 or l0.  [default: the method's]")
@click.option("--epsilon", metavar="E[,E…]", help=(
    "Budgets, such as 4/255,8/255. Where the method minimizes a norm: where to tell the robust accuracy."
))  # fmt: skip
@click.option("--target", metavar="CLASS|random|least-likely", help="The class to reach.  [default: any but the label]")
@click.option("--label", metavar="CLASS", help="The true class of images that have none.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps, queries or passes.  [default: the method's]")
@click.option("--loss", help="cross_entropy, margin, dlr or carlini_wagner.  [default: the method's]")
@click.option("--restarts", "--starts", "restarts", type=click.IntRange(min=1), help=(
    "Random starts of each image, side by side; the best is kept.  [default: 1]"
))  # fmt: skip
@click.option("--rounded", is_flag=True, help="Judge images as they are once rounded to 8 bits, in the search as well.")
@click.option("--transform", help=(
    "lucid or jitter: what the network sees of an image, at random; success is judged over many draws.  [default: none]"
))  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), help="Draws of the transform at each step.  [default: 1]")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, evenly spread.  [default: all]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option(
    "--chunk", type=click.IntRange(min=1), help="Images a device runs at once.  [default: by memory, at most 32]"
)
@click.option("--memory", metavar="AMOUNT", help="What the run may take, such as 4GiB.  [default: half of the free]")
@precision_option
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def attack(
    images_name: str,
    method: str,
    out: Path,
    model_name: str,
    norm: str | None,
    epsilon: str | None,
    target: str | None,
    label: str | None,
    steps: int | None,
    loss: str | None,
    restarts: int | None,
    rounded: bool,
    transform: str | None,
    samples: int | None,
    limit: int | None,
    seed: int,
    chunk: int | None,
    memory: str | None,
    precision: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Make adversarial examples: images close to given ones that a network takes for something else.

    Methods with a budget ε: fgsm, bim, pgd, mi-fgsm, apgd-ce, apgd-dlr, apgd-t, square, autoattack,
    and universal, one change for all images. Methods that look
    for the nearest such image: szegedy, carlini-wagner, deepfool, ddn, fmn, fab, ead, and
    without gradients boundary and hop-skip-jump.
    """
    import jax
    import numpy as np

    from jaxopt_input import data, networks, transforms
    from jaxopt_input.attacks import GradientMaskingWarning
    from jaxopt_input.attacks.methods import arguments
    from jaxopt_input.engine.memory import free_bytes, parse_bytes
    from jaxopt_input.methods.attack.page import write_attack
    from jaxopt_input.models.model import in_dtype
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    told = given_arguments(click.get_current_context())
    check_folder(out, overwrite)
    epsilons = None if epsilon is None else parse_epsilons(epsilon)
    budget = None if epsilons is None else epsilons[0] if len(epsilons) == 1 else epsilons
    known, given = arguments(method, norm=norm, epsilon=budget, steps=steps, loss=loss)
    devices = devices_of(device)
    options: dict[str, Any] = {"rounded": rounded, "chunk": chunk, "devices": devices}
    options["memory"] = parse_bytes(memory) if memory else free_bytes(devices) // 2
    options["transform"] = transforms.by_name(transform or "none")
    options |= {name: n for name, n in (("restarts", restarts), ("samples", samples)) if n is not None}
    begin = time.perf_counter()
    with compile_seconds() as compiling, progress_bar("image") as on_progress:
        model = networks.load(model_name)
        if precision == "bfloat16":
            model = in_dtype(model, precision)
        if target is not None:
            options["target"] = target if target in ("random", "least-likely") else class_of(target, model)
        images, labels, sources = read(data.load(images_name, model), limit)
        if label is not None:
            labels = np.where(labels < 0, class_of(label, model), labels)
        missing = labels < 0
        if missing.any():
            predicted = np.asarray(model.activations(images[missing], ["logits"])["logits"].argmax(-1))
            labels[missing] = predicted
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradientMaskingWarning)  # told below
            result = known.function(
                jax.random.key(seed), model, images, labels, **given, **options, on_progress=on_progress
            )
    info = write_attack(
        out,
        result,
        images,
        sources,
        epsilons,
        model,
        devices=devices,
        command="attack",
        arguments=told,
        seed=seed,
        seconds={"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)},
        overwrite=overwrite,
        norm=result.norm,
        labels="predicted" if missing.all() else "given",
    )
    if lost := int((~result.finite).sum()):
        click.echo(f"jaxopt-input: {lost} of {result.finite.size} images met numbers that are not finite", err=True)
    for text in result.warnings:
        click.echo(f"jaxopt-input: {text}", err=True)
    robust = np.atleast_1d(info["accuracy"]["robust"])
    at = epsilon.split(",") if epsilon and len(robust) == len(epsilons or ()) else [""] * len(robust)
    shares = ", ".join(f"{share:.1%}" + (f" at {e.strip()}" if e else "") for share, e in zip(robust, at, strict=True))
    click.echo(f"{method}: accuracy {info['accuracy']['clean']:.1%}, robust {shares}")
    if result.success.any():
        median = np.median(result.distance[result.norm][result.success])
        click.echo(f"{result.success.sum()} successes, median {result.norm} {median:.4g}")


def parse_epsilons(text: str) -> list[float]:
    """Budgets such as "4/255,8/255" or "0.5".

    Raises:
        InputError: for anything but positive numbers.

    Example:
        >>> [round(e, 4) for e in parse_epsilons("4/255, 0.5")]
        [0.0157, 0.5]
    """
    found = []
    for part in text.split(","):
        over, _, under = part.partition("/")
        try:
            value = float(over) / float(under or 1)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"{part.strip()!r} is no budget: give numbers such as 4/255 or 0.5") from error
        if not 0 < value < float("inf"):
            raise InputError(f"epsilon must be positive, not {part.strip()!r}")
        found.append(value)
    return found


def class_of(name: str, model: Model) -> int:
    """The index of a class by name or, also for a network without labels, by index."""
    return int(name) if name.strip().isdigit() else model.info.class_index(name)


def read(dataset: Dataset, limit: int | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The images of a set, or so many of them evenly spread; their labels and names."""
    import numpy as np

    if limit is not None and limit < len(dataset):
        dataset = dataset.select([k * len(dataset) // limit for k in range(limit)])
    batches = list(dataset.batches())
    images = np.concatenate([batch.images for batch in batches])
    return images, np.concatenate([batch.labels for batch in batches]), [n for batch in batches for n in batch.names]
