"""What computes: the form of some operations is chosen by it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax


def platform() -> str:
    """Where what is traced now is to run: as `jax.default_device` says where one is set, else by JAX's own default.

    Example:
        >>> with jax.default_device(jax.local_devices(backend="cpu")[0]):
        ...     platform()
        'cpu'
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return getattr(device, "platform", device) or jax.default_backend()


def on(devices: Sequence[jax.Device]) -> contextlib.AbstractContextManager[Any]:
    """While it is open, what is traced is traced for these devices."""
    same = devices[0].platform == platform()
    return contextlib.nullcontext() if same else jax.default_device(devices[0])
