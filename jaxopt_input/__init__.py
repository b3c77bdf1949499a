"""Optimize the input of a trained network: see the README for a tour.

What is named here is imported when it is first used: the command line tells its help without importing JAX.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from jaxopt_input.errors import InputError, InputWarning

if TYPE_CHECKING:
    from jaxopt_input import attacks, data, images, losses, networks, optimizers, projections, transforms
    from jaxopt_input.engine.lanes import Resources
    from jaxopt_input.engine.minimize import Watch, minimize
    from jaxopt_input.engine.solution import Solution
    from jaxopt_input.methods.dream.recipe import dream
    from jaxopt_input.methods.invert.recipe import invert
    from jaxopt_input.methods.style.recipe import Style, stylize, texture
    from jaxopt_input.methods.visualize.recipe import visualize
    from jaxopt_input.methods.visualize.units import visualize_units
    from jaxopt_input.models.adapters import from_equinox, from_haiku, from_linen, from_nnx, load_checkpoint
    from jaxopt_input.models.model import Model, ModelInfo, from_function
    from jaxopt_input.models.receptive import ReceptiveField, receptive_field
    from jaxopt_input.models.redirect import redirect_relu
    from jaxopt_input.networks import load
    from jaxopt_input.runs.cache import compilation_cache

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "InputWarning",
    "Model",
    "ModelInfo",
    "ReceptiveField",
    "Resources",
    "Solution",
    "Style",
    "Watch",
    "attacks",
    "compilation_cache",
    "data",
    "dream",
    "from_equinox",
    "from_function",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "images",
    "invert",
    "load",
    "load_checkpoint",
    "losses",
    "minimize",
    "networks",
    "optimizers",
    "projections",
    "receptive_field",
    "redirect_relu",
    "stylize",
    "texture",
    "transforms",
    "visualize",
    "visualize_units",
]

_HOMES = {
    "engine.lanes": ("Resources",),
    "engine.minimize": ("Watch", "minimize"),
    "engine.solution": ("Solution",),
    "methods.dream.recipe": ("dream",),
    "methods.invert.recipe": ("invert",),
    "methods.style.recipe": ("Style", "stylize", "texture"),
    "methods.visualize.recipe": ("visualize",),
    "methods.visualize.units": ("visualize_units",),
    "models.adapters": ("from_equinox", "from_haiku", "from_linen", "from_nnx", "load_checkpoint"),
    "models.model": ("Model", "ModelInfo", "from_function"),
    "models.receptive": ("ReceptiveField", "receptive_field"),
    "models.redirect": ("redirect_relu",),
    "networks": ("load",),
    "runs.cache": ("compilation_cache",),
}  # the module of each name of `__all__` that is not a module itself


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is not None:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    elif name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = importlib.import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
