"""`models`: list, inspect, fetch and import networks."""

from __future__ import annotations

from pathlib import Path

import click

from jaxopt_input.errors import MOST, printable
from jaxopt_input.runs.options import Commands


@click.group(cls=Commands)
def models() -> None:
    """List, inspect, fetch and import networks."""


@models.command("list")
def models_list() -> None:
    """List the networks that have a name."""
    from jaxopt_input import networks

    for entry in networks.entries().values():
        absent = "to be computed" if entry.derived else "to be fetched" if entry.address else "to be imported"
        state = "bundled" if entry.bundled else "in the cache" if entry.path().is_file() else absent
        height, width, _ = entry.image_shape
        click.echo(f"{entry.name:<14} {height}x{width:<5} {state:<15} {entry.classes}")


@models.command("info")
@click.argument("name")
@click.option("--size", type=click.IntRange(min=1), help="Show layer shapes for an image of this side.")
@click.pass_context
def models_info(context: click.Context, name: str, size: int | None) -> None:
    """Show a network's source, license, classes and layers with their shapes."""
    import jax
    import numpy as np

    from jaxopt_input import networks
    from jaxopt_input.runs.cache import compiled_folder

    model, entry = networks.load(name), networks.entries().get(name)
    cached = context.find_root().params.get("cache") and jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    shape = model.info.image_shape if size is None else (size, size, model.info.image_shape[2])
    facts: dict[str, object] = {}
    if entry:
        fields = ("architecture", "source", "license", "classes", "preprocessing")
        facts = {**{field: getattr(entry, field) for field in fields}, "weights": entry.path()}
    facts["sha256"] = model.info.sha256
    facts["compiled"] = f"kept in {compiled_folder()}" if cached else "not kept"
    facts["parameters"] = f"{sum(int(np.size(leaf)) for leaf in jax.tree.leaves(model.params)):,}"
    facts["image"] = f"{_product(shape)}, values in [0, 1]"
    for fact, value in facts.items():
        click.echo(printable(f"{fact:<14} {value}"))
    click.echo("layers")
    for layer, dimensions in model.layers(shape).items():
        click.echo(f"  {printable(layer, MOST):<20} {_product(dimensions)}")


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


@models.command("fetch")
@click.argument("name")
def models_fetch(name: str) -> None:
    """Download a network's weights from their official home into the user's cache, and check them.

    A download that was cut off goes on where it stopped.
    """
    from jaxopt_input.networks.fetch import fetch_weights

    click.echo(f"{name}: {fetch_weights(name, progress=True)}")


@models.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def models_import(name: str, file: Path) -> None:
    """Put a checked copy of a network's weight FILE into the user's cache.

    FILE is what its authors publish. For torchvision's networks: a state dict of that architecture with torchvision's
    or timm's key names, as .safetensors, .npz, or, where PyTorch is installed, .pth; nothing in it is executed.
    """
    from jaxopt_input import networks

    click.echo(f"{name}: {networks.import_weights(name, file)}")


@models.command("normalize")
@click.argument("name")
@click.argument("data", metavar="DATA")
@click.option("--count", type=click.IntRange(min=1), default=500, help="Images of DATA to use, evenly spread.")
def models_normalize(name: str, data: str, count: int) -> None:
    """Compute Gatys' normalized variant of vgg16 or vgg19, with average pooling, on the photographs of DATA.

    DATA is a folder, a file, or NAME:SPLIT of tensorflow-datasets. Every channel then has mean activation 1 on them;
    the network is kept in the user's cache as NAME-normalized.
    """
    from jaxopt_input import networks
    from jaxopt_input.data import load

    dataset = load(data, image_shape=networks.entry(name).image_shape)
    step = -(-len(dataset) // count)
    click.echo(f"{name}-normalized: {networks.normalize(name, dataset.select(range(0, len(dataset), step)))}")
