"""What every benchmark writes down: its figures beside the machine, the versions and the commit."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def ground() -> dict[str, str]:
    """The machine, the versions and the commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": f"{jax.devices()[0].device_kind} x {jax.local_device_count()}, {platform.machine()}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def keep(file: Path, result: dict[str, Any], same: Sequence[str] = ("arguments",)) -> None:
    """Add a result to a JSON list, in place of an earlier one that agrees in the entries named `same`; print it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(file.read_text()) if file.is_file() else []
    kept = [one for one in earlier if any(one[key] != result[key] for key in same)]
    file.write_text(json.dumps([*kept, result], indent=1) + "\n")
    print(json.dumps(result), flush=True)
