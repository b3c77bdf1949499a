"""The tables of benchmarks/README.md, made of the JSON files in benchmarks/results/.

    python benchmarks/tables.py           # writes them between the two marks of the file
    python benchmarks/tables.py --check   # exits with status 1 where the file differs from what it would write

Every figure comes from a JSON file. Each row ends with the machine, the versions and the commit that `record.py` wrote
beside the figure.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- made by tables.py: begin -->", "<!-- made by tables.py: end -->"

Entry = dict[str, Any]
Cell = Callable[[Entry], str]


@dataclasses.dataclass(frozen=True)
class Table:
    """One table: a title, what the figures are, the files, the command that measures, and the columns."""

    title: str
    text: str
    files: tuple[str, ...]
    command: str
    columns: dict[str, Cell]
    rows: Callable[[Entry], Iterator[Entry]] = lambda entry: iter([entry])
    where: Callable[[Entry], bool] = lambda entry: True


def value(entry: Entry, path: str) -> Any:
    """What lies under keys joined by "/": "median/error"."""
    return functools.reduce(lambda inside, key: inside[key], path.split("/"), entry)


def at(path: str, form: str = "{}") -> Cell:
    """A cell that shows the value under `path`."""
    return lambda entry: form.format(value(entry, path))


def both(path: str, other: str, form: str) -> Cell:
    """A cell that shows two values."""
    return lambda entry: form.format(value(entry, path), value(entry, other))


def size(path: str) -> Cell:
    """Lengths of several axes as 64x48."""
    return lambda entry: "x".join(map(str, value(entry, path)))


def peers(entry: Entry) -> Iterator[Entry]:
    """A row for each peer that an entry compares with."""
    for name, peer in entry["peers"].items():
        yield {**entry, "peer": name, **peer}


def styles(entry: Entry) -> Iterator[Entry]:
    """A row for each optimizer, with its loss by that of PyTorch's L-BFGS."""
    for name, ratio in entry["geometric_mean_against"]["torch"].items():
        yield {
            **entry,
            "optimizer": name,
            "ratio": ratio,
            "shown": entry["geometric_mean_against"]["torch-clipped"][name],
        }


def dtypes(entry: Entry) -> Iterator[Entry]:
    """A row for each number type."""
    for name, result in entry["results"].items():
        yield {**entry, "dtype": name, **result}


def seams(entry: Entry) -> Iterator[Entry]:
    """A row for each overlap of the tiles."""
    for name, seam in entry["seams"].items():
        yield {**entry, "overlap": name.split()[-1], **seam}


def judged(entry: Entry) -> str:
    judge = entry.get("judge")
    return f"{judge['best_start_classified']} ({judge['model']})" if judge else "–"


def within(path: str, form: str) -> Callable[[Entry], str]:
    """A figure of the judge with its interval."""

    def cell(entry: Entry) -> str:
        figure = entry.get("judge", {}).get(path)
        if figure is None:
            return "–"
        low, high = (form.format(bound) for bound in figure["interval"])
        return f"{form.format(figure['value'])} ({low} to {high})"

    return cell


def fooled(entry: Entry) -> str:
    judge = entry.get("judge")
    return f"{judge['fooled']} ({judge['model']})" if judge else "–"


def origin(entry: Entry) -> str:
    """The machine, the versions and the commit."""
    machine = entry.get("device") or entry["machine"]
    versions = [f"JAX {entry['jax']}"] if "jax" in entry else []
    versions += [f"Python {entry['python']}"] if "python" in entry else []
    return ", ".join([machine, *versions, f"`{entry['commit']}`"])


TABLES = (
    Table(
        "Class images",
        "Images made from noise, best of several starts by their own loss. *Recognized*: classified as their "
        "class with "
        "p > 0.9 after PNG rounding. *Robust*: mean p of the class at least 0.5 under 32 fresh random transforms. "
        "*By another*: classified as their class by a second network; the shares and the geometric mean of the class's "
        "rank there with their intervals of 95 %.",
        ("recognition-tin100", "recognition-tin100-robust", "recognition-tin100-plain", "recognition-squeezenet"),
        "benchmarks/recognition.py MODEL [--judge MODEL] [--peer PYTHON]",
        {
            "network": at("model"),
            "preset": at("arguments/preset"),
            "steps": at("steps"),
            "classes": at("classes"),
            "recognized": at("recognized"),
            "robust": at("fresh_at_least_half"),
            "by another": judged,
            "in its top 5": within("best_start_top5", "{:.0%}"),
            "mean rank there": within("best_start_rank", "{:.1f}"),
        },
    ),
    Table(
        "Channels, against Lucent",
        "Activation of 32 channels of four layers of SqueezeNet under 32 fresh random transforms, ours by Lucent's.",
        ("peers-visualize",),
        "benchmarks/peers/visualize.py --peer PYTHON --steps 96",
        {
            "channels": lambda entry: str(len(entry["channels"])),
            "steps": at("arguments/steps"),
            "geometric mean of the ratios": at("geometric_mean_of_ratios", "{:.2f}"),
            "higher than Lucent's": lambda entry: (
                f"{sum(c['ours'] > c['lucent'] for c in entry['channels'])} of {len(entry['channels'])}"
            ),
        },
    ),
    Table(
        "The loop",
        "Milliseconds for each image and step of the whole loop, batch 8; median of the repeats.",
        ("throughput",),
        "benchmarks/throughput.py MODEL",
        {
            "network": at("arguments/model"),
            "parameterization, transform": both("arguments/parameterization", "arguments/transform", "{}, {}"),
            "starts": at("arguments/starts"),
            "ms": at("ms_per_image_and_step/median", "{:.1f}"),
            "least, most": both("ms_per_image_and_step/least", "ms_per_image_and_step/most", "{:.1f}, {:.1f}"),
        },
    ),
    Table(
        "Speed against peers",
        "Time of ours by the peer's with the same weights, images and steps, each in a process of its own, in "
        "turns: the "
        "median of the ratios of pairs of runs. Below 1 ours is faster. `bare` is our own compiled gradient "
        "without the loop.",
        ("peers-speed",),
        "benchmarks/peers/speed.py --peer PYTHON --rows ROW",
        {
            "row": at("row"),
            "network": at("arguments/model"),
            "batch": at("arguments/batch"),
            "steps": at("arguments/steps"),
            "peer": at("peer"),
            "version": at("version"),
            "ours, ms": at("ours_ms/median", "{:.1f}"),
            "peer's, ms": at("peer_ms/median", "{:.1f}"),
            "ratio": at("ratio/median", "{:.2f}"),
        },
        rows=peers,
        where=lambda entry: "peers" in entry,
    ),
    Table(
        "A new process to its first step",
        "Wall time in seconds, with compiled programs in the cache and without.",
        ("peers-speed",),
        "benchmarks/peers/speed.py --rows start",
        {
            "network": at("arguments/model"),
            "cached, s": at("cached_seconds/median", "{:.1f}"),
            "cold, s": at("cold_seconds", "{:.1f}"),
        },
        where=lambda entry: entry["row"] == "start",
    ),
    Table(
        "Start-up",
        "Processor time in seconds; the machine was shared, so wall times say nothing.",
        ("startup",),
        "benchmarks/startup.py squeezenet --repeats 3",
        {
            "`--help`": at("processor_seconds/help/median"),
            "JAX and Flax imported": at("processor_seconds/jax_and_flax/median"),
            "the library imported": at("processor_seconds/library/median"),
            "first step, cached": at("processor_seconds/first_step_cached/median"),
            "first step, cold": at("processor_seconds/first_step_cold/median"),
        },
    ),
    Table(
        "A unit on its receptive field",
        "Time of an image and step on the field alone by that at full size.",
        ("fields",),
        "benchmarks/fields.py squeezenet fire4 fire8 --repeats 3",
        {
            "network": at("arguments/model"),
            "layer": at("layer"),
            "field": size("field"),
            "field, ms": at("an_image_and_step/field/ms"),
            "full, ms": at("an_image_and_step/full/ms"),
            "ratio": at("ratio/ms", "{:.2f}"),
        },
        where=lambda entry: "ratio" in entry,
    ),
    Table(
        "All units of a layer on their fields",
        "Sixteen steps for each unit.",
        ("fields",),
        "benchmarks/fields.py squeezenet fire8 --sheet --memory 2GiB",
        {
            "network": at("arguments/model"),
            "layer": at("layer"),
            "units": at("images"),
            "memory allowed": at("arguments/memory"),
            "seconds": at("seconds"),
            "peak, GiB": at("peak_GiB"),
        },
        where=lambda entry: "images" in entry,
    ),
    Table(
        "Reading a folder of JPEGs",
        "224x224 pixels.",
        ("reading",),
        "benchmarks/reading.py",
        {
            "images": at("images"),
            "images a second": at("images_per_second", "{:.0f}"),
            "cores busy": at("cores_busy", "{:.1f}"),
            "peak, GiB": at("peak_memory_gib", "{:.2f}"),
        },
    ),
    Table(
        "Directions",
        "The units of a layer and random directions, one pass over the images, while other work ran.",
        ("directions",),
        "benchmarks/directions.py tin100 block4",
        {
            "network": at("arguments/model"),
            "layer": at("arguments/layer"),
            "images": at("images"),
            "units": at("units"),
            "random directions": at("arguments/directions"),
            "seconds": at("seconds", "{:.0f}"),
            "of the processor": at("processor_seconds", "{:.0f}"),
            "peak, GiB": at("peak_GiB"),
        },
    ),
    Table(
        "Dreams in tiles",
        "A photograph at 2048 pixels. *Seams*: the jump between two tiles by the jump between other neighbors, "
        "of rows and "
        "of columns; 1 is no seam.",
        ("dream",),
        "benchmarks/dream.py squeezenet fire8",
        {
            "network": at("arguments/model"),
            "layer": at("arguments/layer"),
            "tiles": at("tiles"),
            "overlap": at("overlap"),
            "seams": both("rows", "columns", "{:.2f}, {:.2f}"),
            "peak, GiB": at("peak_memory_gib"),
        },
        rows=seams,
    ),
    Table(
        "Inversion",
        "Medians over photographs after 500 evaluations: the reconstruction error ‖Φ(x) − Φ₀‖ / ‖Φ₀‖, the same after "
        "rounding to 8 bits, and the SSIM of image and photograph.",
        ("inversion",),
        "benchmarks/inversion.py squeezenet FOLDER conv1 fire4 fire9",
        {
            "network": at("arguments/model"),
            "layer": at("layer"),
            "photographs": at("arguments/photographs"),
            "error": at("median/error", "{:.2%}"),
            "after rounding": at("median/error_8bit", "{:.2%}"),
            "SSIM": at("median/ssim", "{:.3f}"),
        },
    ),
    Table(
        "Style transfer",
        "The final loss by that of PyTorch's L-BFGS (history 100, no line search, pixels without bounds), and by "
        "that of its "
        "images clipped to be shown; geometric means over pairs of pictures at 512 pixels.",
        ("style",),
        "benchmarks/style.py squeezenet",
        {
            "network": at("arguments/model"),
            "pairs": at("arguments/pairs"),
            "evaluations": at("arguments/evaluations"),
            "optimizer": at("optimizer"),
            "by PyTorch's": at("ratio", "{:.3f}"),
            "by PyTorch's clipped": at("shown", "{:.3f}"),
        },
        rows=styles,
    ),
    Table(
        "Textures",
        "How many times lower the style's loss is after the evaluations than in noise, at 256 pixels.",
        ("texture",),
        "benchmarks/texture.py squeezenet --style-size 512",
        {
            "network": at("arguments/model"),
            "style": at("loss"),
            "pixels of the style": at("arguments/style"),
            "evaluations": at("evaluations"),
            "times lower": at("times_lower"),
            "processor seconds": at("processor_seconds"),
        },
    ),
    Table(
        "Large images in tiles",
        "Gram losses on four layers of SqueezeNet and content; the peak of memory, and the estimate before.",
        ("large",),
        "benchmarks/large.py squeezenet",
        {
            "pixels": size("arguments/size"),
            "tile": at("arguments/tile"),
            "dtype": at("arguments/dtype"),
            "peak, GiB": at("peak_gib"),
            "estimate, GiB": at("estimate_gib"),
        },
    ),
    Table(
        "Steps of attacks against peers",
        "The share of pixels that a step of FGSM or PGD gives as the peer does, from the peer's own iterates, "
        "and how far "
        "apart the mean losses are after ten free steps.",
        ("peers-attacks",),
        "benchmarks/peers/attacks.py steps MODEL FOLDER --threads 1 --peer PYTHON",
        {
            "network": at("arguments/model"),
            "images": at("images"),
            "ε": at("epsilon", "{:.4f}"),
            "peer and method": at("peer"),
            "equal pixels": at("pixels_mean", "{:.3%}"),
            "losses apart": lambda entry: f"{entry['loss_difference']:.2%}" if "loss_difference" in entry else "–",
        },
        rows=peers,
        where=lambda entry: entry["arguments"]["what"] == "steps",
    ),
    Table(
        "APGD against its authors' code",
        "Twenty steps from the authors' start. *Within 0.001*: the share of images whose loss is, at all steps "
        "and until they "
        "are misclassified. *Apart*: the most that the mean losses differ. `authors against themselves` is their "
        "code in "
        "another memory layout: what rounding alone does.",
        ("peers-attacks",),
        "benchmarks/peers/attacks.py apgd MODEL FOLDER --threads 1 --peer PYTHON",
        {
            "network": at("arguments/model"),
            "images": at("images"),
            "ε": at("epsilon", "{:.4f}"),
            "peer and loss": at("peer"),
            "within 0.001": at("images_within_1e-3", "{:.0%}"),
            "until misclassified": at("images_within_1e-3_until_misclassified", "{:.0%}"),
            "apart": at("mean_loss_apart_most", "{:.2%}"),
        },
        rows=peers,
        where=lambda entry: entry["arguments"]["what"] == "apgd",
    ),
    Table(
        "AutoAttack against its authors' code",
        "Images that the standard AutoAttack leaves robust, and the processor's seconds.",
        ("peers-attacks",),
        "benchmarks/peers/attacks.py autoattack cifar10-robust FOLDER --images 200 --threads 1 --peer PYTHON",
        {
            "network": at("arguments/model"),
            "images": at("images"),
            "ε": at("epsilon", "{:.4f}"),
            "robust by ours, theirs": both("robust_ours", "robust_theirs", "{}, {}"),
            "by one alone": both("robust_for_ours_alone", "robust_for_theirs_alone", "{}, {}"),
            "seconds of ours, theirs": both("processor_seconds/ours", "processor_seconds/theirs", "{}, {}"),
        },
        where=lambda entry: entry["arguments"]["what"] == "autoattack",
    ),
    Table(
        "Nearest examples by Szegedy's attack and by DDN",
        "Photographs that the network classifies rightly, random targets.",
        ("szegedy",),
        "benchmarks/szegedy.py squeezenet FOLDER",
        {
            "network": at("arguments/model"),
            "photographs": at("arguments/photographs"),
            "attack": at("arguments/attack"),
            "success": at("success", "{:.0%}"),
            "median RMS change": at("median_rms", "{:.5f}"),
            "gradients an image": at("gradients", "{:.0f}"),
        },
    ),
    Table(
        "The overhead of an attack",
        "PGD of 40 steps, whole, by the time of 40 calls of one compiled gradient: the three measured and the least.",
        ("attack-overhead",),
        "benchmarks/attack_overhead.py MODEL --batch N",
        {
            "network": at("arguments/model"),
            "batch": at("arguments/batch"),
            "ratios": lambda entry: ", ".join(f"{ratio:.2f}" for ratio in entry["quotient_wall"]),
            "least": at("least/wall", "{:.2f}"),
            "gradient, ms an image": at("gradient_ms_an_image"),
        },
    ),
    Table(
        "Fooling images",
        "p of the class after rounding to 8 bits; *fooled*: images of p > 0.99 that a second network does not "
        "take for their class.",
        ("fooling-tin100", "fooling-mnist"),
        "benchmarks/fooling.py MODEL --method METHOD [--judge MODEL]",
        {
            "network": at("model"),
            "method": at("arguments/method"),
            "classes": at("classes"),
            "median p": at("median", "{:.4f}"),
            "mean p": at("mean", "{:.4f}"),
            "p > 0.99": at("confident"),
            "fooled": fooled,
            "evaluations": at("evaluations"),
        },
    ),
    Table(
        "Number types",
        "Six class images of `tin100`, 64 steps, and PGD within 1/255 in 10 steps on 32 photographs; what lower "
        "precision "
        "finds is judged in float32.",
        ("precision",),
        "benchmarks/precision.py tin100 FOLDER --classes 6",
        {
            "dtype": at("dtype"),
            "mean logit": at("class_images/mean_logit", "{:.1f}"),
            "in float32": at("class_images/mean_logit_in_float32", "{:.1f}"),
            "PGD's success": at("attack/success", "{:.1%}"),
            "success in float32": at("attack/success_in_float32", "{:.1%}"),
        },
        rows=dtypes,
    ),
)


def read(name: str) -> list[Entry]:
    """The entries of one file of results."""
    entries = json.loads((HERE / "results" / f"{name}.json").read_text())
    return entries if isinstance(entries, list) else [entries]


def render(table: Table) -> str:
    """One table as Markdown."""
    entries = [entry for name in table.files for entry in read(name) if table.where(entry)]
    rows = [[cell(row) for cell in (*table.columns.values(), origin)] for entry in entries for row in table.rows(entry)]
    head = [*table.columns, "measured on"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    files = ", ".join(f"[{name}.json](results/{name}.json)" for name in table.files)
    return f"## {table.title}\n\n{table.text}\n\n`{table.command}` writes {files}.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    new = f"{before}{BEGIN}\n\n" + "\n".join(map(render, TABLES)) + f"\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        README.write_text(new)
    elif new != text:
        sys.exit("benchmarks/README.md differs from the JSON files: run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
