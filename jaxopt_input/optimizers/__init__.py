"""Optimizers: Optax by name, rules of published methods, and the line search of L-BFGS."""

from jaxopt_input.optimizers.named import (
    NAMES,
    Optimizer,
    adam,
    as_optimizer,
    averaged,
    averaged_theta,
    is_line_search,
    lbfgs,
    mahendran,
    optimizer,
    sgd,
    yosinski,
)
from jaxopt_input.optimizers.search import bracket, narrow

__all__ = [
    "NAMES",
    "Optimizer",
    "adam",
    "as_optimizer",
    "averaged",
    "averaged_theta",
    "bracket",
    "is_line_search",
    "lbfgs",
    "mahendran",
    "narrow",
    "optimizer",
    "sgd",
    "yosinski",
]
