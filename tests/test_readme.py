"""The Python of the README, and of CONTRIBUTING.md, runs as it stands there; the README is short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(file, block, id=f"{file}-{number}")
    for file in ("README.md", "CONTRIBUTING.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL))
    if "def nesterov" not in block  # tests/attacks/test_own_attack.py compares that one with its formula
]


@pytest.mark.parametrize(("file", "block"), BLOCKS)
def test_it_runs(file, block):
    exec(compile(block, file, "exec"), {"__name__": "readme"})


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 2000


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"])
def test_links_lead_somewhere(file):
    path = ROOT / file
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert links
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link
