"""Loss builders and their algebra: see `jaxopt_input.losses.algebra` for what a loss is."""

from jaxopt_input.losses.activation import (
    channel,
    class_log_probability,
    class_logit,
    class_probability,
    direction,
    layer,
    unit,
)
from jaxopt_input.losses.algebra import Loss, names
from jaxopt_input.losses.regularizers import alpha_norm, l2_decay, total_variation, total_variation_l1

__all__ = [
    "Loss",
    "alpha_norm",
    "channel",
    "class_log_probability",
    "class_logit",
    "class_probability",
    "direction",
    "l2_decay",
    "layer",
    "names",
    "total_variation",
    "total_variation_l1",
    "unit",
]
