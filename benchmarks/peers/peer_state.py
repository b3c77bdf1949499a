"""Random weights that both sides make alike; NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np


def random_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """A state dict of these shapes, in the order of the names: He's normal weights, small biases."""
    rng, state = np.random.default_rng(0), {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        values = rng.standard_normal(shape, np.float32)
        state[name] = values * np.float32(math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.01)
    return state
