"""How many images fit a memory budget, estimated before anything is compiled."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.model import Model

OWN = 3 << 28  # bytes that Python, JAX and its compiler take besides, 0.75 GiB
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_bytes(text: str) -> int:
    """Bytes of an amount of memory, such as "4GiB", "500 MB" or "1e9".

    Raises:
        InputError: for anything else, or nothing at all.

    Example:
        >>> parse_bytes("1.5GiB")
        1610612736
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e\d+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if not match or not float(match[1]) or match[2] not in _UNITS:
        raise InputError(f"{text!r} is no amount of memory: give one such as 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def free_bytes(devices: Sequence[jax.Device]) -> int:
    """The memory that is free on each of these devices, in bytes; main memory is shared out among CPU devices.

    Example:
        >>> import jax
        >>> free_bytes(jax.local_devices(backend="cpu")) > 0
        True
    """
    stats = [device.memory_stats() for device in devices if device.platform != "cpu"]
    free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s]
    if free:
        return min(free)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        total = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        total = 4 << 30
    return total // len(devices)


def image_bytes(model: Model, taps: tuple[str, ...], view: Sequence[int], image: Sequence[int]) -> int:
    """An estimate, from above, of the memory that one image takes while it is optimised by `minimize`.

    Twice what the gradient keeps of the forward pass, known from the shapes that JAX gives it, and 16 images for θ,
    the optimizer's moments, the best θ and the transform's work. On a CPU, XLA's temporaries in the compiled loop were
    0.8 to 1.6 times what the gradient keeps (SqueezeNet and the bundled network at several layers and sizes).

    Args:
        model: the network.
        taps: the layers that the loss reads.
        view: (height, width, channels) of what the network sees.
        image: (height, width, channels) of what is optimised.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> image_bytes(model, ("block2",), (64, 64, 3), (64, 64, 3)) > 32 * 32 * 32 * 4
        True
    """

    def kept(batch: int) -> int:
        views = jax.ShapeDtypeStruct((batch, *view), jnp.float32)
        pull = jax.eval_shape(lambda x: jax.vjp(lambda v: model.apply(model.params, v, taps), x)[1], views)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    return 2 * (kept(2) - kept(1)) + 16 * 4 * int(np.prod(image))


def images_within(budget: int, each: int, model: Model, kept: int = 0) -> int:
    """How many images of `each` bytes fit a budget, besides the parameters, what is kept, and the program itself.

    Raises:
        InputError: if not even one does; it says what would.

    Example:
        >>> import jaxopt_input as joi
        >>> images_within(1 << 30, 1 << 24, joi.load("tin100"))
        15
    """
    parameters = sum(np.size(leaf) * jnp.result_type(leaf).itemsize for leaf in jax.tree.leaves(model.params))
    fixed = OWN + 2 * parameters + kept
    if budget < fixed + each:
        least, given = math.ceil((fixed + each) / 2**20), budget >> 20
        raise InputError(f"a memory of {given} MiB is too little: one image at a time takes {least} MiB in all")
    return (budget - fixed) // each
