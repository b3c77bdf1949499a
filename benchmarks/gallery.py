"""The figure of the README: each of its pictures, and the command that makes it.

    JAXOPT_INPUT_DATA=DATA python benchmarks/gallery.py [--work DIR] [--draw]

runs the commands in DIR, where the photographs and the weights lie under the names that the commands give them, and
writes `results/readme.jpg` and, with the machine, the versions and the commit, `results/readme.json`. With `--draw` it
runs nothing and draws the figure of what lies in DIR.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from record import RESULTS, ground

SQUEEZENET = "compressed_SqueezeNet.net"
WIDTH, MARGIN, GAP, TEXT = 1300, 10, 6, 13  # pixels
COLUMNS = 162  # letters of a command in a line


@dataclasses.dataclass(frozen=True)
class Cell:
    """A command, which writes into the folder that its `--out` names, and the pictures to show."""

    command: str
    pictures: tuple[str, ...] = ()  # files of the folder; those of the results in `run.json` if empty
    height: int = 150  # of each picture in the figure

    @property
    def name(self) -> str:
        return shlex.split(self.command)[-1]


CLASSES = ("bullfrog", "dumbbell", "mushroom", "triumphal arch", "bison", "barn", "pizza", "chimpanzee")
PHOTO = "imagenet-sample-500/n03888257/0701_parachute.jpg"


def visualize(model: str, *names: str) -> str:
    return f"jaxopt-input visualize --model {model} " + " ".join(
        f"--target {shlex.quote(f'class:{name}')}" for name in names
    )


CELLS = (
    Cell(f"{visualize('tin100-robust', *CLASSES)} --steps 64 --out classes"),
    Cell(
        f"{visualize(SQUEEZENET, 'flamingo', 'zebra', 'giant panda', 'balloon', 'tiger')} --steps 48 --out imagenet",
        height=227,
    ),
    Cell(
        f"jaxopt-input visualize --model {SQUEEZENET} --target fire8:142 --field --steps 64 "
        "--with-data imagenet-sample-500 --top 4 --out unit",
        pictures=("data.png",),
        height=137,
    ),
    Cell(f"jaxopt-input dream tubingen.jpg --model {SQUEEZENET} --target fire7 --size 512 --out dream", height=384),
    Cell(
        f"jaxopt-input stylize tubingen.jpg starry_night.jpg --model {SQUEEZENET} --size 384 --steps 200 --out style",
        height=384,
    ),
    Cell(
        f"jaxopt-input invert {PHOTO} --model {SQUEEZENET} --layer fire4 --layer fire8 --out invert",
        pictures=("original.png", "fire4-start0.png", "fire8-start0.png"),
        height=205,
    ),
    Cell(
        f"jaxopt-input attack --images {PHOTO} --label parachute --target goldfish --model {SQUEEZENET} "
        "--epsilon 4/255 --out attack",
        pictures=("sheet.png",),
        height=227,
    ),
)
ROWS = ((0,), (1,), (2,), (3, 4), (5, 6))  # which cells stand side by side


def supply(work: Path, data: Path) -> None:
    """What the commands read, under the names that they give it."""
    for file in (*sorted((data / "images").iterdir()), data / "squeezenet" / SQUEEZENET):
        (work / file.name).unlink(missing_ok=True)
        (work / file.name).symlink_to(file)
    if not (work / "imagenet-sample-500").is_dir():
        with tarfile.open(data / "imagenet-sample-500.tar") as archive:
            archive.extractall(work, filter="data")


def run(cell: Cell, work: Path) -> None:
    print("+", cell.command, flush=True)
    program, *arguments = shlex.split(cell.command)
    assert program == "jaxopt-input"
    subprocess.run([sys.executable, "-m", "jaxopt_input.cli", *arguments, "--overwrite"], cwd=work, check=True)


def files(cell: Cell, work: Path) -> list[str]:
    """The pictures of a cell, as files of its folder."""
    results = json.loads((work / cell.name / "run.json").read_text())["results"]
    return list(cell.pictures) or [result["image"] for result in results]


def strip(cell: Cell, work: Path) -> Image.Image:
    """The pictures of a cell side by side, at its height."""
    pictures = [Image.open(work / cell.name / file).convert("RGB") for file in files(cell, work)]
    scaled = [
        p.resize((round(p.width * cell.height / p.height), cell.height), Image.Resampling.LANCZOS) for p in pictures
    ]
    whole = Image.new("RGB", (sum(p.width for p in scaled) + GAP * (len(scaled) - 1), cell.height), "white")
    left = 0
    for picture in scaled:
        whole.paste(picture, (left, 0))
        left += picture.width + GAP
    return whole


def wrap(command: str, letters: int) -> list[str]:
    """A command on lines of at most so many letters, cut at spaces as a shell takes them."""
    lines = [""]
    for word in command.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > letters:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def figure(cells: Sequence[Cell], work: Path) -> Image.Image:
    """All cells, each above its command."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), TEXT)
    page = Image.new("RGB", (WIDTH, 4000), "white")
    draw = ImageDraw.Draw(page)
    top = MARGIN
    for row in ROWS:
        left, below = MARGIN, top
        room = (WIDTH - 2 * MARGIN) // len(row)
        for index in row:
            picture = strip(cells[index], work)
            picture.thumbnail((room - (GAP if len(row) > 1 else 0), picture.height), Image.Resampling.LANCZOS)
            page.paste(picture, (left, top))
            text = "\n".join(wrap(cells[index].command, COLUMNS // len(row)))
            draw.multiline_text((left, top + picture.height + 4), text, fill="black", font=font, spacing=3)
            lines = text.count("\n") + 1
            below = max(below, top + picture.height + 4 + lines * (TEXT + 5))
            left += room
        top = below + MARGIN
    return page.crop((0, 0, WIDTH, top))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="the folder to work in, kept; a temporary one if it is not given")
    parser.add_argument("--draw", action="store_true", help="run nothing: draw what lies in the folder")
    args = parser.parse_args()
    record = RESULTS / "readme.json"
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        if args.draw:
            made = json.loads(record.read_text())
        else:
            work.mkdir(parents=True, exist_ok=True)
            made = ground()
            supply(work.absolute(), Path(os.environ["JAXOPT_INPUT_DATA"]).absolute())
            for cell in CELLS:
                run(cell, work)
        made["cells"] = [{"command": cell.command, "pictures": files(cell, work)} for cell in CELLS]
        figure(CELLS, work).save(RESULTS / "readme.jpg", quality=88, optimize=True)
    record.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
