"""Modules of Flax NNX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxopt_input.errors import InputError
from jaxopt_input.models.adapters.common import Applied, audible, kind_of, model_of, recording
from jaxopt_input.models.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class NNXApplied(Applied):
    """Applies an NNX module."""

    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        from flax import nnx

        module = nnx.merge(self.static, params)
        names = {}
        for path, child in nnx.iter_modules(module):
            if path and callable(child):
                names[id(child)] = "/".join(map(str, path))
                object.__setattr__(child, "__class__", audible(type(child), pytree=type(child)._pytree__is_pytree))
        with recording(names) as recorder:
            output = module(image, **dict(self.keywords))
        return output, recorder.outputs


def from_nnx(
    module: Any,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    **keywords: Any,
) -> Model:
    """A model from a Flax NNX module.

    Dropout and batch normalization run in inference mode (the module's `eval()`, on a copy). `params` of the model is
    the module's state, of the structure of `nnx.state(module)`.

    Args:
        module: the module with its parameters; takes images `[N, H, W, C]` in [0, 1]. It is not changed.
        image_shape, labels: as of `from_function`.
        name: what to call it; the module's class name if None.
        keywords: passed to the module's `__call__`; must be hashable.

    Raises:
        InputError: if it is no NNX module, or cannot take such an image.

    Example:
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> conv, dense = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        >>> net = nnx.Sequential(conv, lambda x: x.mean((1, 2)), dense)
        >>> from_nnx(net, image_shape=(8, 8, 3)).layers()
        {'layers/0': (8, 8, 4), 'layers/2': (2,), 'logits': (2,)}
    """
    from flax import nnx

    if not isinstance(module, nnx.Module) or not callable(module):
        raise InputError(f"from_nnx takes a Flax NNX module that can be called, not {kind_of(module)}")
    copy = nnx.clone(module)
    copy.eval()
    graph, state = nnx.split(copy)
    apply = NNXApplied(graph, tuple(sorted(keywords.items())))
    return model_of(apply, state, image_shape, labels, name or type(module).__name__)
