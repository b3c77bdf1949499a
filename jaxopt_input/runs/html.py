"""A run as a document: `index.html`, made of what `run.json` says, with relative links and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202020; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } img, video { max-width: 100% }
.grid { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; width: 9rem; overflow-wrap: anywhere }
figure img { min-width: 9rem; image-rendering: pixelated } figcaption, dd, td { font-size: .85rem; color: #505050 }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem } dd { margin: 0; overflow-wrap: anywhere }
.warning { background: #fff3d6; padding: .3rem .6rem }
"""
MOST = 2000  # rows that are shown


def html(info: Mapping[str, Any]) -> str:
    """The document of a run, from what its `run.json` says.

    Example:
        >>> text = html({"command": "visualize", "state": "done", "files": ["sheet.png"], "sheet": "sheet.png"})
        >>> '<img src="sheet.png"' in text
        True
    """
    files = [str(name) for name in info.get("files", ())]
    parts = [str(name) for name in info.get("parts", ())]
    inner = [str(part[key]) for part in info.get("compared", ()) for key in ("data",) if key in part]
    rows = [row for row in info.get("results", ()) if isinstance(row, Mapping)]
    own = {row.get("image") for row in rows}
    first = [name for name in info.get("sheets", [info.get("sheet")]) if name in files]
    films = [name for name in files if name.startswith("animation.")]
    others = [name for name in files if name.endswith(".png") and name not in own and name not in first]
    data = [name for name in files if name not in {*own, *first, *films, *others}]
    model = info.get("model") or {}
    facts = {
        "model": model.get("name"),
        "seed": info.get("seed"),
        "device": info.get("device"),
        "seconds": ", ".join(f"{value} {key}" for key, value in info.get("seconds", {}).items()),
        "evaluations": info.get("evaluations"),
        **{f"--{key}": value for key, value in info.get("spec", {}).get("options", {}).items()},
        "state": ": ".join(str(info[key]) for key in ("state", "reason") if key in info),
    }
    title = escape(f"jaxopt-input {info.get('command')}")
    body = [
        f"<h1>{title}</h1>",
        *(f'<p class="warning">{escape(str(line))}</p>' for line in info.get("warnings", ())),
        *map(_image, first),
        *map(_film, films),
        _section("Results", [_figure(row) for row in rows[:MOST] if _there(row, files, parts)]),
        _section("Figures", map(_image, [*others, *inner])),
        _table([row for row in rows[:MOST] if "image" not in row]),
        "<h2>Run</h2><dl>",
        *(f"<dt>{escape(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items() if value not in (None, "")),
        "</dl><p>",
        *(
            f'<a href="{quote(name)}">{escape(name)}</a> '
            for name in [*(f"{part}/index.html" for part in parts), *data, "run.json"]
        ),
        "</p>",
    ]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return "\n".join([head + "</head><body>", *filter(None, body), "</body></html>\n"])


def _section(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return f'<h2>{title}</h2><div class="grid">{body}</div>' if body else ""


def _there(row: Mapping[str, Any], files: list[str], parts: list[str]) -> bool:
    image = str(row.get("image"))
    return image in files or image.partition("/")[0] in parts


def _table(rows: list[Mapping[str, Any]]) -> str:
    """Results without pictures, one row each."""
    flat = [dict(_cells(row)) for row in rows]
    heads = list(dict.fromkeys(head for row in flat for head in row))
    lines = [
        "".join(f"<th>{escape(head)}</th>" for head in heads),
        *("".join(f"<td>{escape(row.get(head, ''))}</td>" for head in heads) for row in flat),
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h2>Results</h2><table>{body}</table>" if rows else ""


def _cells(row: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _cells(value, f"{before}{key} ")
        elif value is not None:
            text = f"{value:.4g}" if isinstance(value, float) else _text_of(value)
            yield f"{before}{key}".replace("_", " "), text


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _image(name: str) -> str:
    return f'<a href="{quote(name)}"><img src="{quote(name)}" alt="{escape(name)}" loading="lazy"></a>'


def _film(name: str) -> str:
    if PurePosixPath(name).suffix == ".mp4":
        return f'<video src="{quote(name)}" controls loop muted></video>'
    return _image(name)


def _figure(row: Mapping[str, Any]) -> str:
    names = [str(row[key]) for key in ("target", "label", "name", "source") if row.get(key) is not None]
    numbers = row.get("loss")
    if isinstance(numbers, Mapping) and numbers.get("best") is not None:
        names.append(f"loss {numbers['best']:.4g}")
    names += [mark for mark, shown in (("dead", row.get("dead")), ("not finite", row.get("finite") is False)) if shown]
    return f"<figure>{_image(str(row['image']))}<figcaption>{escape(', '.join(names))}</figcaption></figure>"


def _text(value: Any) -> str:
    return escape(_text_of(value))
