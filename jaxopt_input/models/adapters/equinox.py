"""Modules of Equinox."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxopt_input.errors import InputError
from jaxopt_input.models.adapters.common import Applied, audible, kind_of, model_of, need, recording
from jaxopt_input.models.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class EquinoxApplied(Applied):
    """Applies an Equinox module."""

    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        import equinox as eqx

        arrays, state = params
        names: dict[int, str] = {}
        module = _tapped(eqx.combine(arrays, self.static), (), names)
        with recording(names) as recorder:
            if state is None:
                output = module(image, **dict(self.keywords))
            else:
                state = jax.tree.map(lambda x: x, state)  # a State object may be used once
                output, _ = module(image, state, **dict(self.keywords))
        return output, recorder.outputs


def _tapped(node: Any, path: tuple[str, ...], names: dict[int, str]) -> Any:
    """A copy of an Equinox module whose submodules are heard; `names` is filled with their paths."""
    import equinox as eqx

    if isinstance(node, (list, tuple)) and type(node) in (list, tuple):
        return type(node)(_tapped(child, (*path, str(k)), names) for k, child in enumerate(node))
    if type(node) is dict:
        return {key: _tapped(child, (*path, str(key)), names) for key, child in node.items()}
    if not isinstance(node, eqx.Module) or isinstance(node, eqx.nn.StateIndex):
        return node
    layer = bool(path) and callable(node)
    copy: Any = object.__new__(audible(type(node)) if layer else type(node))
    for key, value in vars(node).items():
        object.__setattr__(copy, key, _tapped(value, (*path, key), names))
    if layer:
        names[id(copy)] = "/".join(path)
    return copy


def from_equinox(
    module: Any,
    state: Any = None,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    channels_first: bool = True,
    batched: bool = False,
    **keywords: Any,
) -> Model:
    """A model from an Equinox module.

    By Equinox's convention a module takes one image `[C, H, W]`; activations of that rank become `[N, H, W, C]`, as
    the losses want them. Dropout and normalization run in inference mode (`eqx.nn.inference_mode`). `params` of the
    model is (the module's arrays, its state). Models built alike are equal, save stateful ones: Equinox ties a state to
    the one module it was made with.

    Args:
        module: the module with its parameters; takes images in [0, 1].
        state: of a stateful module (made by `eqx.nn.make_with_state`), which is then called as `module(x, state)`.
        image_shape, labels: as of `from_function`.
        name: what to call it; the module's class name if None.
        channels_first: whether the module takes channels before height and width.
        batched: whether the module takes a batch of images.
        keywords: passed to the module's `__call__`, such as `key=None`; must be hashable.

    Raises:
        InputError: if it is no Equinox module, if Equinox is not installed, or if it cannot take such an image.

    Example:
        >>> import equinox as eqx, jax.numpy as jnp
        >>> a, b = jax.random.split(jax.random.key(0))
        >>> pool = eqx.nn.Lambda(lambda x: jnp.mean(x, (1, 2)))
        >>> net = eqx.nn.Sequential([eqx.nn.Conv2d(3, 4, 3, key=a), pool, eqx.nn.Linear(4, 2, key=b)])
        >>> from_equinox(net, image_shape=(8, 8, 3)).layers()
        {'layers/0': (6, 6, 4), 'layers/1': (4,), 'layers/2': (2,), 'logits': (2,)}
    """
    need("equinox", "equinox", "from_equinox")
    import equinox as eqx

    if not isinstance(module, eqx.Module) or not callable(module):
        raise InputError(f"from_equinox takes an Equinox module that can be called, not {kind_of(module)}")
    arrays, static = eqx.partition(eqx.nn.inference_mode(module), eqx.is_array)
    apply = EquinoxApplied(static, tuple(sorted(keywords.items())), channels_first, batched)
    return model_of(apply, (arrays, state), image_shape, labels, name or type(module).__name__)
