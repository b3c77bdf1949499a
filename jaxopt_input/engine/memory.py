"""How many images fit a memory budget, estimated before anything is compiled."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.models.model import Model
from jaxopt_input.models.tiling import Tiled, tiled

TILES = (1024, 768, 512, 384, 256)  # what `tile_within` tries
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
    amount = float(match[1]) * _UNITS.get(match[2], 0) if match else 0.0
    if not 1 <= amount < math.inf:
        raise InputError(f"{text!r} is no amount of memory: give one such as 4GiB or 500MB")
    return int(amount)


def free_bytes(devices: Sequence[jax.Device]) -> int:
    """The memory that is free on each of these devices, in bytes; main memory is shared out among CPU devices.

    In a container what is left of its limit counts, where that is less.

    Example:
        >>> import jax
        >>> free_bytes(jax.local_devices(backend="cpu")) > 0
        True
    """
    stats = [device.memory_stats() for device in devices if device.platform != "cpu"]
    free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s]
    return min(free) if free else _main_memory() // len(devices)


def _main_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """What is free of main memory, and of the control group's limit; 4 GiB where nothing tells."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = [next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))]
    except (OSError, StopIteration):  # not Linux
        return 4 << 30
    v2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
    v1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file")
    for limit, used, stat, cache in (v2, v1):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            left = int((groups / limit).read_text()) - int((groups / used).read_text())
            stats = dict(line.split() for line in (groups / stat).read_text().splitlines())
            free.append(left + int(stats.get(cache, 0)))  # files that were read give way
    return max(min(free), 0)


def peak_of(function: Callable[[], Any], device: jax.Device) -> int | None:
    """Call a function; by how many bytes what the device held rose at most, over what it held before.

    On a CPU it is the memory of this process that rises. None where nothing tells: a CPU outside Linux, and a device
    that had held more before, for it tells only the highest of its peaks.

    Example:
        >>> import jax
        >>> rise = peak_of(lambda: np.ones(1 << 24), jax.local_devices(backend="cpu")[0])
        >>> rise is None or rise > 1 << 26
        True
    """
    if device.platform != "cpu":
        before = device.memory_stats() or {}
        function()
        after = device.memory_stats() or {}
        peaks = before.get("peak_bytes_in_use"), after.get("peak_bytes_in_use")
        if None in peaks or peaks[0] == peaks[1]:
            return None
        return int(after["peak_bytes_in_use"]) - int(before["bytes_in_use"])
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide a rise
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begin = _resident("VmRSS")
    except (OSError, StopIteration):
        function()
        return None
    function()
    return max(_resident("VmHWM") - begin, 0)


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


def image_bytes(
    model: Model, taps: tuple[str, ...], view: Sequence[int], image: Sequence[int], optimizer_copies: int = 2
) -> int:
    """An estimate, from above, of the memory that one image takes while it is optimized by `minimize`.

    Twice what the gradient keeps of the forward pass, known from the shapes that JAX gives it, and 16 images for θ,
    the optimizer's moments, the best θ and the transform's work. On a CPU, XLA's temporaries in the compiled loop were
    0.7 to 1.7 times what the gradient keeps (SqueezeNet and the bundled network at several layers and sizes).

    A tiled model keeps the maps of its taps, and what the gradient keeps of one tile. While it runs the maps or their
    gradients are there besides, and between its two scans the loss takes maps, gradients and a copy. Gram losses, whose
    gradient is one product, need no copy: on five layers of SqueezeNet at 512x384 XLA takes 1.7 times the maps.

    Args:
        model: the network, tiled or not.
        taps: the layers that the loss reads.
        view: (height, width, channels) of what the network sees.
        image: (height, width, channels) of what is optimized.
        optimizer_copies: how often the optimizer's state holds θ: twice for Adam.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> image_bytes(model, ("block2",), (64, 64, 3), (64, 64, 3)) > 32 * 32 * 32 * 4
        True
    """

    apply = model.apply
    tile = apply.tile if isinstance(apply, Tiled) else tuple(view)
    network = apply.apply if isinstance(apply, Tiled) else apply

    def kept(batch: int) -> int:
        views = jax.ShapeDtypeStruct((batch, *tile), jnp.float32)
        pull = jax.eval_shape(lambda x: jax.vjp(lambda v: network(model.params, v, taps), x)[1], views)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    peak = 2 * (kept(2) - kept(1))
    if isinstance(apply, Tiled):
        shapes = model.layers(apply.image_shape)
        maps = 4 * sum(math.prod(shapes[tap]) for tap in taps)
        peak = max(maps + peak, 3 * maps)
    return peak + (14 + optimizer_copies) * 4 * math.prod(image)


def _fixed(model: Model) -> int:
    """What the program and the parameters take, whatever the images.

    On a CPU these are also the 3x3 kernels in `winograd`'s form, 16/9 as large, forwards and backwards, and those
    exchanged that the latter are made of.
    """
    leaves = jax.tree.leaves(model.params)
    sizes = [np.size(leaf) * jnp.result_type(leaf).itemsize for leaf in leaves]
    shapes = [np.shape(leaf) for leaf in leaves]
    kernels = sum(n for n, shape in zip(sizes, shapes, strict=True) if len(shape) == 4 and shape[:2] == (3, 3))
    return OWN + 2 * sum(sizes) + (41 * kernels // 9 if jax.default_backend() == "cpu" else 0)


def estimate(model: Model, taps: Sequence[str], image_shape: Sequence[int], optimizer_copies: int = 2) -> int:
    """All that a process takes which optimizes one image, in bytes, before anything is compiled.

    Args:
        model, taps, optimizer_copies: as in `image_bytes`.
        image_shape: (height, width, channels) of the image, and of what the network sees.

    Example:
        >>> import jaxopt_input as joi
        >>> estimate(joi.load("tin100"), ("block3",), (64, 64, 3)) >> 20
        817
    """
    return _fixed(model) + image_bytes(model, tuple(taps), image_shape, image_shape, optimizer_copies)


def amount(number: int) -> str:
    """Bytes as a text.

    Example:
        >>> amount(1 << 30), amount(1 << 10)
        ('1024 MiB', '1 KiB')
    """
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number >> 10} KiB"


def images_within(budget: int, each: int, model: Model, kept: int = 0) -> int:
    """How many images of `each` bytes fit a budget, besides the parameters, what is kept, and the program itself.

    Raises:
        InputError: if not even one does; it says what would.

    Example:
        >>> import jaxopt_input as joi
        >>> images_within(1 << 30, 1 << 24, joi.load("tin100"))
        13
    """
    fixed = _fixed(model) + kept
    if budget < fixed + each:
        least = math.ceil((fixed + each) / 2**20)
        raise InputError(f"a memory of {amount(budget)} is too little: one image at a time takes {least} MiB in all")
    return (budget - fixed) // each


def tile_within(
    model: Model, taps: Sequence[str], image_shape: Sequence[int], budget: int, optimizer_copies: int = 2
) -> tuple[int | None, int]:
    """The largest tile with which one image can be optimized within a budget, estimated before anything is compiled.

    Args:
        model: the network.
        taps: the layers that the loss reads.
        image_shape: (height, width, channels) of the image.
        budget: in bytes, for all that the process holds.
        optimizer_copies: as in `image_bytes`.

    Returns:
        (tile, bytes): for `tiling.tiled`, one of `TILES`, or None where the network fits as it is; and the estimate.

    Raises:
        InputError: if not even the smallest tile fits; it says what would. Also as `tiling.tiled` does.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> [tile_within(model, ("block3",), (2048, 2048, 3), gib << 30)[0] for gib in (4, 3, 2)]
        [None, 1024, 768]
    """
    height, width, channels = image_shape
    shape, taps = (int(height), int(width), int(channels)), tuple(taps)
    least = 0
    for tile in (None, *(tile for tile in TILES if tile < max(shape[:2]))):
        cut = model if tile is None else tiled(model, taps, shape, tile)
        taken = estimate(cut, taps, shape, optimizer_copies)
        if taken <= budget:
            return tile, taken
        least = min(least or taken, taken)
    size = f"{height}x{width}"
    raise InputError(
        f"a memory of {amount(budget)} is too little: an image of {size} takes {math.ceil(least / 2**20)} MiB at "
        "least; give it that, or take a smaller image or fewer layers"
    )
