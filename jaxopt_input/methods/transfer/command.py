"""`transfer`: adversarial examples made for each of several networks, fed to all."""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.errors import InputError
from jaxopt_input.methods.attack.options import attack_options
from jaxopt_input.names import ATTACKS, listed
from jaxopt_input.runs.options import run_options
from jaxopt_input.runs.run import Run


@click.command()
@click.option("--models", "names", required=True, metavar="A,B[,C…]", help=(
    "The networks, each NAME, FILE or MODULE:FUNCTION; of one image size and the same classes."
))  # fmt: skip
@click.option("--method", default="pgd", metavar="NAME", help=f"The attack: {listed(ATTACKS)}.")
@click.option("--epsilon", metavar="E", help="The budget, such as 4/255, of a method that takes one.")
@attack_options
@click.option("--rms", type=float, help="Amplify each change to this RMS before it is clipped.  [default: leave it]")
@run_options(without=("model_name", "dtype"))
@click.pass_context
def transfer(context: click.Context, names: str, method: str, epsilon: str | None, **options: Any) -> None:
    """Feed what misleads one network to others, beside random changes of the same size.

    Tells the share of errors among the images that all of the networks classify rightly.
    """
    with Run.of(context) as run:
        import itertools
        import warnings

        from jaxopt_input import attacks, data
        from jaxopt_input.attacks.methods import arguments
        from jaxopt_input.engine.lanes import Resources
        from jaxopt_input.methods.attack.recipe import originals, parse_epsilons
        from jaxopt_input.methods.transfer.page import transfer_page

        epsilons = None if epsilon is None else parse_epsilons(epsilon)
        if epsilons is not None and len(epsilons) > 1:
            raise InputError(f"transfer takes one budget, not {epsilon}: run it once for each")
        own = {name: options[name] for name in ("norm", "steps", "loss")}
        entry, keywords = arguments(method, epsilon=epsilons and epsilons[0], **own)
        if epsilons and not entry.budget:
            raise InputError(f"{method} minimizes its norm: leave --epsilon out, or give --rms")
        wanted = [name.strip() for name in names.split(",")]
        if len(set(wanted)) < len(wanted):
            raise InputError(f"each network is named once, not as in {names}")
        models = {name: run.load(name) for name in wanted}
        first = run.record_model(models[wanted[0]])
        dataset = data.load(options["images"], first, skip_damaged=options["skip_damaged"])
        photos = originals(first, dataset, options["limit"], options["label"])
        number, stage = itertools.count(), run.stage("image")

        def attack(key: Any, model: Any, images: Any, labels: Any) -> attacks.AttackResult:
            on = stage.part(next(number), len(models))
            where = Resources(on.devices, on.chunk, on.memory, progress=on.progress)
            return entry.function(key, model, images, labels, **keywords, on=where)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attacks.GradientMaskingWarning)  # the page says so
            result = attacks.transfer(run.key, models, photos.images, photos.labels, attack, rms=options["rms"])
        run.write(transfer_page(result, models, photos))
