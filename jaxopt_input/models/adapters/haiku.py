"""Networks of Haiku."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxopt_input.errors import InputError
from jaxopt_input.models.adapters.common import Applied, Recorder, kind_of, model_of, need
from jaxopt_input.models.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class HaikuApplied(Applied):
    """Applies a Haiku function."""

    def call(self, params: Any, image: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        import haiku as hk

        function = self.static
        if not isinstance(function, (hk.Transformed, hk.TransformedWithState)):
            function = hk.transform_with_state(function)
        weights, state = params
        stateful = isinstance(function, hk.TransformedWithState)
        leading = ("params", "state") if stateful else ("params",)
        wants_key = tuple(inspect.signature(function.apply).parameters)[: len(leading) + 1] == (*leading, "rng")
        recorder = Recorder()

        def listen(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = method(*args, **kwargs)
            if context.method_name == "__call__":
                recorder.hear(context.module.module_name, output)
            return output

        with hk.intercept_methods(listen):
            arguments = [weights, *([state or {}] if stateful else []), *([None] if wants_key else []), image]
            output = function.apply(*arguments, **dict(self.keywords))
        return (output[0] if stateful else output), recorder.outputs


def from_haiku(
    function: Any,
    params: Any,
    state: Any = None,
    *,
    image_shape: Sequence[int],
    labels: Sequence[str] = (),
    name: str | None = None,
    channels_first: bool = False,
    **keywords: Any,
) -> Model:
    """A model from a Haiku network.

    Give the function itself rather than what `hk.transform` makes of it, where you can: models of the same function
    are equal, and a second one does not compile again. No random key is passed: say `is_training=False`, or what the
    function calls it, where it has dropout or batch normalization. `params` of the model is (params, state).

    Args:
        function: the function that calls Haiku modules, or its `hk.transform` or `hk.transform_with_state`; takes
            images `[N, H, W, C]` in [0, 1].
        params: what its `init` returned, or trained parameters of that structure.
        state: its state, if it has one.
        image_shape, labels: as of `from_function`.
        name: what to call it; the function's name if None.
        channels_first: whether it takes `[N, C, H, W]`; activations of that rank become `[N, H, W, C]`.
        keywords: passed to the function, such as `is_training=False`; must be hashable.

    Raises:
        InputError: if it is no function, if Haiku is not installed, or if it cannot take such an image.

    Example:
        >>> import haiku as hk, jax.numpy as jnp
        >>> def net(x):
        ...     return hk.Linear(2)(hk.Conv2D(4, 3)(x).mean((1, 2)))
        >>> params = hk.transform(net).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        >>> from_haiku(net, params, image_shape=(8, 8, 3)).layers()
        {'conv2_d': (8, 8, 4), 'linear': (2,), 'logits': (2,)}
    """
    need("haiku", "dm-haiku", "from_haiku")
    import haiku as hk

    if not callable(function) and not isinstance(function, (hk.Transformed, hk.TransformedWithState)):
        raise InputError(f"from_haiku takes a function or what hk.transform makes of it, not {kind_of(function)}")
    if isinstance(function, hk.Module):
        raise InputError("from_haiku takes a function that makes Haiku modules and calls them, not a module")
    apply = HaikuApplied(function, tuple(sorted(keywords.items())), channels_first)
    name = name or str(getattr(function, "__name__", "haiku"))
    return model_of(apply, (params, state), image_shape, labels, name)
