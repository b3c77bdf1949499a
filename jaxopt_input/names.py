"""Every name that help texts, registries and documentation list, without importing JAX.

A registry of parts holds exactly the names of its tuple here, in this order, and a test compares the two, so that a
help text cannot drift from what there is.
"""

from __future__ import annotations

import re


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# What an image is made of: `images`, `transforms`, `optimizers`.
PARAMETERIZATIONS = _names(
    "cppn fourier fourier-rgb maco pixels pixels-decorrelated pixels-sigmoid pyramid pyramid-shared"
)
TRANSFORMS = ("lucid", "jitter", "none")
OPTIMIZERS = _names("adabelief adagrad adam adamw amsgrad lion nadam radam rmsprop sgd sign_sgd yogi lbfgs")
BALLS = ("linf", "l2", "l1")
"""Norms in which a projection and most attacks bound a change of the image."""

# What is optimized for: `methods`.
VISUALIZE_PRESETS = _names(
    "default class erhan simonyan yosinski-1 yosinski-2 yosinski-3 yosinski-4 lucid maco cppn plain"
)
CLASS_OBJECTIVES = ("default", "logit", "log-probability", "probability")
POWER_REGULARIZERS = ("alpha-norm", "pixel-norm", "total-variation")
"""Penalties of the image that take an exponent."""
IMAGE_REGULARIZERS = ("l2", *POWER_REGULARIZERS, "total-variation-l1")
LAYER_REGULARIZERS = ("diversity", "alignment")
REGULARIZERS = (*IMAGE_REGULARIZERS, *LAYER_REGULARIZERS)
DREAM_PRESETS = ("caffe2015", "tf-plain", "tf-lap", "tf2")
NORMALIZATIONS = ("mean-abs", "std", "laplacian")
"""How a dream divides its gradient."""
INVERT_PRESETS = ("default", "mahendran2015", "mahendran2016")
STYLE_PRESETS = _names(
    "default gatys2015-texture gatys2016 gatys2016-code johnson li2017-linear li2017-poly li2017-gaussian "
    "li2017-bn crowsonkb"
)
STYLE_LOSSES = _names(
    "gram mean covariance wasserstein batch-norm mmd-linear mmd-polynomial mmd-gaussian histogram sliced-wasserstein"
)
STYLE_COLORS = ("style", "match", "luminance")
STYLE_STARTS = ("content", "style", "noise", "gray")

# Attacks.
ATTACKS = _names(
    "fgsm bim pgd mi-fgsm apgd-ce apgd-dlr apgd-t square autoattack universal szegedy carlini-wagner deepfool ddn "
    "fmn fab ead boundary hop-skip-jump"
)
ATTACK_LOSSES = ("cross_entropy", "margin", "dlr", "carlini_wagner")
NORMS = ("l0", "l1", "l2", "linf", "rms")
"""Norms in which the result of an attack is measured."""
AUTOATTACK_STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
ENCODINGS = ("direct", "cppn")
"""Genomes of images that evolve."""
FOOLING_STARTS = ("noise", "gray")

# Data, networks, files and machines.
FITS = ("center", "imagenet", "stretch", "pad")
"""How an image of another shape becomes one of the size that a network takes."""
BUNDLED = ("tin100", "tin100-robust", "cifar10", "cifar10-robust", "mnist")
"""Networks whose weights come with the package."""
ANIMATIONS = ("gif", "webp", "mp4")
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("float32", "tf32", "bfloat16")
DEVICES = ("auto", "cpu", "gpu", "tpu")
BENCH_TASKS = ("class", "unit", "dream", "style", "pgd")
POOLS = ("max", "mean")
"""How a map of activations becomes one number per image, where images are ranked."""

_AMERICAN = {
    "colour": "color",
    "centre": "center",
    "grey": "gray",
    "normalise": "normalize",
}


def american(name: str) -> str:
    """A name in American spelling, as this library writes it: a caller may write either.

    Example:
        >>> american("--colour"), american("centre"), american("vgg16-normalised")
        ('--color', 'center', 'vgg16-normalized')
    """
    return re.sub("|".join(_AMERICAN), lambda match: _AMERICAN[match[0]], name)


def listed(names: tuple[str, ...], last: str = "or") -> str:
    """Names as a help text writes them.

    Example:
        >>> listed(("gif", "webp", "mp4"))
        'gif, webp or mp4'
    """
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
