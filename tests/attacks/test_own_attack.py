"""The attack of one's own in CONTRIBUTING.md runs as it stands there."""

import re
from pathlib import Path

import numpy as np

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_an_attack_of_ones_own(toy, toy_batch):
    images, labels = toy_batch
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "def nesterov" in b)
    method = block[block.index("def nesterov") : block.index("result = ")].strip()
    assert len(method.splitlines()) <= 20
    names = {"model": toy, "images": images, "labels": labels}
    exec(compile(block, str(GUIDE), "exec"), names)
    result = names["result"]
    assert result.success.shape == (2, 8)
    assert result.success[1].any()
    away = np.abs(result.image - images).max((2, 3, 4))
    assert (away <= np.array([[2], [4]]) / 255 + 1e-6).all()
    assert (result.gradients == 10).all()
    assert (result.accuracy["robust"] == 1 - result.success.mean(1)).all()
