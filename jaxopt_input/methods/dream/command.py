"""`dream`: DeepDream."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from jaxopt_input.runs.old_options import devices_of, given_arguments, precision_option, progress_bar, report_failures


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option("--target", "targets", multiple=True, metavar="TARGET", help=(
    "LAYER, LAYER:CHANNEL or class:NAME; 0.5*A+B weighs and adds. May be repeated.  [default: the preset's layers]"
))  # fmt: skip
@click.option("--preset", default="caffe2015", help="Whose settings: caffe2015, tf-plain, tf-lap, tf2.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", "model_name", default="tin100", metavar="NAME|FILE|MODULE:FUNCTION", help="The network.")
@click.option("--size", type=click.IntRange(min=1), help="Longer side of the image in pixels.  [default: its own]")
@click.option("--guide", metavar="IMAGE", help="An image whose features the target's layers are to show.")
@click.option("--guide-size", type=click.IntRange(min=1), default=224, help="Longer side of the guide in pixels.")
@click.option("--objective", help="l2 or mean of the activation.  [default: the preset's]")
@click.option("--octaves", type=click.IntRange(min=1), help="How many sizes.  [default: the preset's]")
@click.option("--octave-scale", type=float, help="The ratio of two sizes.  [default: the preset's]")
@click.option("--iterations", type=click.IntRange(min=1), help="Steps in each octave.  [default: the preset's]")
@click.option("--step", type=float, help="Of one iteration, images being in [0, 1].  [default: the preset's]")
@click.option("--jitter", type=click.IntRange(min=0), help="Largest random shift in pixels.  [default: the preset's]")
@click.option("--normalize", help="Of the gradient: mean-abs, std, laplacian.  [default: the preset's]")
@click.option("--tile", type=click.IntRange(min=1), help=(
    "Largest side in pixels to run at once.  [default: 512, or less by memory]"
))  # fmt: skip
@click.option("--overlap", type=click.IntRange(min=0), help="Margin of a tile on each side in pixels.  [default: 64]")
@click.option("--animate", metavar="gif|webp|mp4", help="Write an animation of the steps, or of the frames.")
@click.option("--frames", type=click.IntRange(min=1), default=1, help="So many dreams, each on the last one enlarged.")
@click.option("--zoom", "zoom_scale", type=float, default=0.05, help="What each of the frames loses of its extent.")
@click.option("--fps", type=click.FloatRange(1, 50), default=12.0, help="Frames a second of the animation.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of all random numbers.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the activations.")
@precision_option
@click.option("--memory", metavar="AMOUNT", help="What the run may take, such as 4GiB.  [default: half of the free]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu", "tpu"]), default="auto", help="What to run on.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the folder.")
def dream(
    image: str,
    targets: tuple[str, ...],
    preset: str,
    out: Path,
    model_name: str,
    size: int | None,
    guide: str | None,
    guide_size: int,
    animate: str | None,
    frames: int,
    zoom_scale: float,
    fps: float,
    seed: int,
    dtype: str,
    precision: str | None,
    memory: str | None,
    device: str,
    overwrite: bool,
    **changes: Any,
) -> None:
    """Enhance in IMAGE, a file or the word noise, what layers, channels or classes respond to: DeepDream.

    With --frames the dream goes on: each frame is the one before, enlarged about its center and dreamt on again.
    """
    import jax

    from jaxopt_input import networks
    from jaxopt_input.draw.animation import check_format
    from jaxopt_input.engine.memory import free_bytes, parse_bytes
    from jaxopt_input.methods.dream.page import write_dreams
    from jaxopt_input.methods.dream.recipe import starting_image, zoom
    from jaxopt_input.methods.dream.settings import settle
    from jaxopt_input.runs.writer import check_folder, compile_seconds

    arguments = given_arguments(click.get_current_context())
    check_folder(out, overwrite)
    if animate:
        check_format(animate)
    settings = settle(preset, {name: value for name, value in changes.items() if value is not None})
    devices = devices_of(device)[:1]
    budget = parse_bytes(memory) if memory else None if changes["tile"] else free_bytes(devices) // 2
    key = jax.random.key(seed)
    begin = time.perf_counter()
    with compile_seconds() as compiling, progress_bar("step") as on_progress:
        model = networks.load(model_name)
        start = starting_image(image, model, size, key)
        steps = settings.iterations * len(settings.octaves)
        dreams = zoom(
            model,
            start,
            targets or None,
            frames=frames,
            scale=zoom_scale,
            key=key,
            preset=settings,
            guide=None if guide is None else starting_image(guide, model, guide_size, key),
            dtype=dtype,
            memory=budget,
            device=devices[0],
            snapshot_every=max(1, steps // 60) if animate and frames == 1 else 0,
            on_progress=on_progress,
        )
        info = write_dreams(
            out,
            dreams,
            start,
            model,
            settings,
            devices=devices,
            command="dream",
            arguments=arguments,
            seed=seed,
            seconds=lambda: {"compile": sum(compiling), "run": time.perf_counter() - begin - sum(compiling)},
            overwrite=overwrite,
            animate=animate,
            fps=fps,
        )
    took = f"{info['seconds']['compile']:.1f} s compiling, {info['seconds']['run']:.1f} s running"
    click.echo(f"dream.png in {out} ({took})")
    report_failures(info["results"], "another channel or image, or a layer before the ReLU", "a smaller --step")
