"""Optimise the input of a trained network: see the README for a tour."""

from jaxopt_input import attacks, data, images, losses, networks, optimizers, projections, transforms
from jaxopt_input.adapters import from_equinox, from_haiku, from_nnx, load_checkpoint
from jaxopt_input.errors import InputError
from jaxopt_input.model import Model, ModelInfo, from_function, from_linen
from jaxopt_input.networks import load
from jaxopt_input.optimize import Solution, minimize
from jaxopt_input.receptive import ReceptiveField, receptive_field
from jaxopt_input.recipes.dream import dream
from jaxopt_input.recipes.invert import invert
from jaxopt_input.recipes.stylize import stylize, texture
from jaxopt_input.recipes.units import visualize_units
from jaxopt_input.recipes.visualize import visualize
from jaxopt_input.redirect import redirect_relu

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Model",
    "ModelInfo",
    "ReceptiveField",
    "Solution",
    "attacks",
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
