"""Modules of Flax Linen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_input.models.adapters.common import Applied, Recorder, model_of
from jaxopt_input.models.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class LinenApplied(Applied):
    """Applies a Linen module."""

    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        from flax.linen import intercept_methods

        depth: dict[str, int] = {}  # of every output, by its name: what Linen captures is sorted by name
        recorder = Recorder()

        def listen(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = method(*args, **kwargs)
            if context.method_name == "__call__":
                depth[recorder.label("/".join(context.module.path))] = len(depth)
            return output

        with intercept_methods(listen):
            output, state = self.static.apply(
                params, image, **dict(self.keywords), capture_intermediates=True, mutable=["intermediates"]
            )
        if isinstance(output, Mapping):
            return output, {}
        layers: dict[str, jax.Array] = {}
        for path, value in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
            keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
            call = path[-1].idx if isinstance(path[-1], jax.tree_util.SequenceKey) else 0
            name = "/".join(k for k in keys if k != "__call__")
            if name and jnp.ndim(value) > 1:
                layers[f"{name}.{call}" if call else name] = value
        return output, dict(sorted(layers.items(), key=lambda layer: depth.get(layer[0], len(depth))))


def from_linen(
    module: Any,
    variables: Any,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    **keywords: Any,
) -> Model:
    """A model from a Flax Linen module.

    A module that returns a dictionary names its own taps. Of any other, every submodule's output is a tap under its
    path ("encoder/Conv_0"; ".1" is appended to the second call of a shared one), and the output itself is "logits".

    Args:
        module: the unbound Linen module; takes images `[N, H, W, C]` in [0, 1].
        variables: what `module.init` returned, or the trained variables of that structure.
        image_shape, labels: as of `from_function`.
        name: what to call it; the module's class name if None.
        keywords: passed to the module's `__call__`, such as `train=False`; must be hashable.

    Raises:
        InputError: if the module cannot take such an image.

    Example:
        >>> import flax.linen as nn
        >>> net = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(2)])
        >>> variables = net.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3)))
        >>> from_linen(net, variables, image_shape=(8, 8, 3)).layers()
        {'layers_0': (8, 8, 4), 'layers_3': (2,), 'logits': (2,)}
    """
    apply = LinenApplied(module, tuple(sorted(keywords.items())))
    return model_of(apply, variables, image_shape, labels, name or type(module).__name__)
