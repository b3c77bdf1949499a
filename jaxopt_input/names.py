"""Every name that help texts, registries and documentation list, without importing JAX.

A registry of parts checks its own names against the tuple here, so that a help text cannot drift from what there is.
"""

from __future__ import annotations

import re

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
