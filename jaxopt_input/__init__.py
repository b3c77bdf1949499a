"""Optimise the input of a trained network: see the README for a tour."""

from jaxopt_input import images, losses, optimizers, projections, transforms
from jaxopt_input.errors import InputError
from jaxopt_input.model import Model, ModelInfo, from_function, from_linen
from jaxopt_input.optimize import Solution, minimize

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Model",
    "ModelInfo",
    "Solution",
    "from_function",
    "from_linen",
    "images",
    "losses",
    "minimize",
    "optimizers",
    "projections",
    "transforms",
]
