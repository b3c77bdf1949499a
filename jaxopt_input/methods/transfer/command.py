"""`transfer`: adversarial examples made for each of several networks, fed to all."""

from __future__ import annotations

import itertools
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jaxopt_input.errors import InputError
from jaxopt_input.methods.attack.command import class_of, parse_epsilons, read
from jaxopt_input.runs.old_options import devices_of, given_arguments, precision_option, progress_bar

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxopt_input.attacks import AttackResult
    from jaxopt_input.models.model import Model


@click.command()
@click.option("--models", "names", required=True, metavar="A,B[,C…]", help=(
    "The networks, each NAME, FILE or MODULE:FUNCTION; of one image size and the same classes."
))  # fmt: skip
@click.option("--images", "images_name", required=True, metavar="FOLDER|FILE|NAME:SPLIT", help=(
    "The originals; class folders name their labels. Without labels, what the first network predicts is taken."
))  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--method", default="pgd", help="The attack, as of `attack`.")
@click.option("--norm", help="linf, l2, l1 or l0.  [default: the method's]")
@click.option("--epsilon", metavar="E", help="The budget, such as 4/255, of a method that takes one.")
@click.option("--label", metavar="CLASS", help="The true class of images that have none.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps, or queries.  [default: the method's]")
@click.option("--loss", help="cross_entropy, margin, dlr or carlini_wagner.  [default: the method's]")
@click.option("--rms", type=float, help="Amplify each change to this RMS before it is clipped.  [default: leave it]")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, evenly spread.  [default: all]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--chunk", type=click.IntRange(min=1), help="Images that a device runs at once.  [default: at most 32]")
@precision_option
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def transfer(
    names: str,
    images_name: str,
    out: Path,
    method: str,
    norm: str | None,
    epsilon: str | None,
    label: str | None,
    steps: int | None,
    loss: str | None,
    rms: float | None,
    limit: int | None,
    seed: int,
    chunk: int | None,
    precision: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Feed what misleads one network to others, beside Gaussian noise of the same size.

    Tells the share of errors among the images that all of the networks classify rightly.
    """
    import jax
    import numpy as np

    from jaxopt_input import attacks, data, networks
    from jaxopt_input.attacks.methods import arguments
    from jaxopt_input.methods.transfer.page import table, write_transfer
    from jaxopt_input.models.model import in_dtype
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    check_folder(out, overwrite)
    epsilons = None if epsilon is None else parse_epsilons(epsilon)
    if epsilons is not None and len(epsilons) > 1:
        raise InputError(f"transfer takes one budget, not {epsilon}: run it once for each")
    known, given = arguments(method, norm=norm, epsilon=epsilons and epsilons[0], steps=steps, loss=loss)
    if epsilons and not known.budget:
        raise InputError(f"{method} minimizes its norm: leave --epsilon out, or give --rms")
    wanted = [name.strip() for name in names.split(",")]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"each network is named once, not as in {names}")
    devices = devices_of(device)
    begin, run = time.perf_counter(), itertools.count()
    with compile_seconds() as compiling, progress_bar("image") as on_progress:
        models = {name: networks.load(name) for name in wanted}
        if precision == "bfloat16":
            models = {name: in_dtype(model, precision) for name, model in models.items()}
        first = models[wanted[0]]
        images, labels, _ = read(data.load(images_name, first), limit)
        if label is not None:
            labels = np.where(labels < 0, class_of(label, first), labels)
        missing = labels < 0
        if missing.any():
            predicted = np.asarray(first.activations(images[missing], ["logits"])["logits"].argmax(-1))
            labels[missing] = predicted

        def attack(key: jax.Array, model: Model, images: np.ndarray, labels: np.ndarray) -> AttackResult:
            before = next(run)

            def report(done: int, total: int) -> None:
                on_progress(before * total + done, len(models) * total)

            options: dict[str, Any] = {**given, "chunk": chunk, "devices": devices}
            return known.function(key, model, images, labels, **options, on_progress=report)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attacks.GradientMaskingWarning)  # told below
            found = attacks.transfer(jax.random.key(seed), models, images, labels, attack, rms=rms)
    write_transfer(
        out,
        found,
        models,
        devices=devices,
        command="transfer",
        arguments=given_arguments(click.get_current_context()),
        seed=seed,
        seconds={"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)},
        overwrite=overwrite,
        labels="predicted" if missing.all() else "given",
    )
    for name, lines in zip(found.names, found.warnings, strict=True):
        for text in lines:
            click.echo(f"jaxopt-input: {name}: {text}", err=True)
    click.echo(table(found))
    click.echo(f"error rates on {found.counted} of {len(images)} images, those that all classify rightly")
