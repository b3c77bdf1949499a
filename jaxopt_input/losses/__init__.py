"""Losses: builders by family, what makes a loss of a formula or a function, and their algebra.

`algebra` says what a loss is, `define` how one is made.
"""

from jaxopt_input.losses.activation import (
    channel,
    class_log_probability,
    class_logit,
    class_probability,
    direction,
    layer,
    unit,
)
from jaxopt_input.losses.adversarial import carlini_wagner, cross_entropy, dlr, margin, targeted_dlr
from jaxopt_input.losses.algebra import Loss, as_loss, names, resolve
from jaxopt_input.losses.define import (
    Builder,
    Kind,
    array,
    index,
    number,
    of_image,
    of_layer,
    of_layers,
    of_logits,
    vector,
)
from jaxopt_input.losses.dreaming import channel_square, guided, layer_mean
from jaxopt_input.losses.inversion import content, feature_distance
from jaxopt_input.losses.regularizers import alpha_norm, l2_decay, pixel_norm, total_variation, total_variation_l1
from jaxopt_input.losses.relations import alignment, caricature, diversity, interpolation, shortfall
from jaxopt_input.losses.style import (
    batch_norm_statistics,
    covariance,
    gram,
    histogram,
    mean,
    mmd,
    sliced_wasserstein,
    wasserstein_gaussian,
)

__all__ = [
    "Builder",
    "Kind",
    "Loss",
    "alignment",
    "alpha_norm",
    "array",
    "as_loss",
    "batch_norm_statistics",
    "caricature",
    "carlini_wagner",
    "channel",
    "channel_square",
    "class_log_probability",
    "class_logit",
    "class_probability",
    "content",
    "covariance",
    "cross_entropy",
    "direction",
    "diversity",
    "dlr",
    "feature_distance",
    "gram",
    "guided",
    "histogram",
    "index",
    "interpolation",
    "l2_decay",
    "layer",
    "layer_mean",
    "margin",
    "mean",
    "mmd",
    "names",
    "number",
    "of_image",
    "of_layer",
    "of_layers",
    "of_logits",
    "pixel_norm",
    "resolve",
    "shortfall",
    "sliced_wasserstein",
    "targeted_dlr",
    "total_variation",
    "total_variation_l1",
    "unit",
    "vector",
    "wasserstein_gaussian",
]
