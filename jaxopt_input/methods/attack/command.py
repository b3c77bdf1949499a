"""`attack`: adversarial examples of a set of images."""

from __future__ import annotations

from typing import Any

import click

from jaxopt_input.methods.attack.options import attack_options
from jaxopt_input.names import ATTACKS, listed
from jaxopt_input.runs.options import run_options
from jaxopt_input.runs.run import Run


@click.command()
@click.option("--method", default="pgd", metavar="NAME", help=f"The attack: {listed(ATTACKS)}.")
@click.option("--epsilon", metavar="E[,E…]", help=(
    "Budgets, such as 4/255,8/255. Where the method minimizes a norm: where to report the robust accuracy."
))  # fmt: skip
@click.option("--target", metavar="CLASS|random|least-likely", help="The class to reach.  [default: any but the label]")
@attack_options
@click.option("--restarts", "--starts", "restarts", type=click.IntRange(min=1), help=(
    "Random starts of each image, side by side; the best is kept.  [default: 1]"
))  # fmt: skip
@click.option("--rounded", is_flag=True, help="Judge images as they are once rounded to 8 bits, in the search as well.")
@click.option("--transform", metavar="NAME", help=(
    "lucid or jitter: what the network sees of an image, at random; success is judged over many draws.  [default: none]"
))  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), help="Draws of the transform at each step.  [default: 1]")
@run_options(without=("dtype",))
@click.pass_context
def attack(context: click.Context, method: str, epsilon: str | None, **options: Any) -> None:
    """Make adversarial examples: images close to given ones that a network takes for something else.

    Methods with a budget ε: fgsm, bim, pgd, mi-fgsm, apgd-ce, apgd-dlr, apgd-t, square, autoattack,
    and universal, one change for all images. Methods that look
    for the nearest such image: szegedy, carlini-wagner, deepfool, ddn, fmn, fab, ead, and
    without gradients boundary and hop-skip-jump.
    """
    with Run.of(context) as run:
        import warnings

        import numpy as np

        from jaxopt_input import data, transforms
        from jaxopt_input.attacks import GradientMaskingWarning
        from jaxopt_input.attacks.methods import arguments
        from jaxopt_input.engine.lanes import Resources
        from jaxopt_input.methods.attack.page import attack_page
        from jaxopt_input.methods.attack.recipe import (
            after_rounding,
            originals,
            parse_epsilons,
            random_errors,
        )

        epsilons = None if epsilon is None else parse_epsilons(epsilon)
        budget = None if epsilons is None else epsilons[0] if len(epsilons) == 1 else epsilons
        own = {name: options[name] for name in ("norm", "steps", "loss")}
        entry, keywords = arguments(method, epsilon=budget, **own)
        keywords |= {name: options[name] for name in ("restarts", "samples") if options[name] is not None}
        keywords |= {"rounded": options["rounded"], "transform": transforms.by_name(options["transform"] or "none")}
        model, target = run.model, options["target"]
        if target is not None:
            keywords["target"] = target if target in ("random", "least-likely") else model.info.class_index(target)
        dataset = data.load(options["images"], model, skip_damaged=options["skip_damaged"])
        photos = originals(model, dataset, options["limit"], options["label"])
        stage = run.stage("image")
        on = Resources(stage.devices, stage.chunk, stage.memory, progress=stage.progress)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradientMaskingWarning)  # the page says so
            result = entry.function(run.key, model, photos.images, photos.labels, **keywords, on=on)
        rounded = np.asarray(result.success)
        if not options["rounded"]:
            rounded = after_rounding(result, model, run.key, keywords["transform"])
        control = random_errors(result, model, run.key, photos)
        run.write(attack_page(result, photos, epsilons, method, model, run.spec.seed, rounded, control))
