"""Image parameterizations: the coordinates in which an image is optimised."""

from jaxopt_input.errors import unknown
from jaxopt_input.images.fourier import fourier, spectrum_scale
from jaxopt_input.images.parameterization import Parameterization
from jaxopt_input.images.pixels import pixels

BY_NAME = {
    "fourier": fourier(),
    "fourier-rgb": fourier(decorrelate=False),
    "pixels": pixels(),
    "pixels-decorrelated": pixels(decorrelate=True),
    "pixels-sigmoid": pixels(bound="sigmoid"),
}


def by_name(name: str) -> Parameterization:
    """A parameterization with its defaults by name.

    Raises:
        InputError: for an unknown name, offering the nearest.

    Example:
        >>> by_name("pixels") == pixels()
        True
    """
    if name not in BY_NAME:
        raise unknown("parameterization", name, BY_NAME)
    return BY_NAME[name]


__all__ = ["BY_NAME", "Parameterization", "by_name", "fourier", "pixels", "spectrum_scale"]
