"""Checkpoints of Orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.disk import StrPath
from jaxopt_input.errors import InputError, one_line


def load_checkpoint(path: StrPath, like: Any) -> Any:
    """The pytree of an Orbax checkpoint, on this machine's default device, whatever it was saved on.

    Args:
        path: the folder that Orbax's `StandardCheckpointer` wrote; of a `CheckpointManager`, DIR/STEP/default.
        like: a pytree of that structure: arrays or `jax.ShapeDtypeStruct`s, such as
            `jax.eval_shape(module.init, key, image)` or the state of `nnx.split(nnx.eval_shape(build))`.

    Raises:
        InputError: if there is no checkpoint, or one of another structure or other shapes.

    Example:
        >>> import orbax.checkpoint as ocp, tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "a"
        >>> with ocp.StandardCheckpointer() as checkpointer:
        ...     checkpointer.save(folder, {"w": jnp.arange(3.0)})
        >>> load_checkpoint(folder, {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    folder = Path(path).absolute()
    if not folder.is_dir():
        raise InputError(f"no checkpoint folder {path}")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    arrays = jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), like)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), arrays)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder, target)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"cannot read the checkpoint {path}: {one_line(error)}") from error
    for (key, array), wanted in zip(
        jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(target), strict=True
    ):
        if array.shape != wanted.shape:
            where = f"{path} has another shape at {jax.tree_util.keystr(key)}"
            raise InputError(f"the checkpoint {where}: {array.shape}, not {wanted.shape}")
    return restored
