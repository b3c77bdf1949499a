"""Image parameterizations: the coordinates in which an image is optimized."""

from jaxopt_input.errors import InputError, lookup
from jaxopt_input.images.cppn import cppn
from jaxopt_input.images.fourier import fourier, spectrum_scale
from jaxopt_input.images.maco import maco, mean_magnitude
from jaxopt_input.images.parameterization import Parameterization
from jaxopt_input.images.pixels import pixels
from jaxopt_input.images.pyramid import pyramid

BY_NAME: dict[str, Parameterization] = {
    "cppn": cppn(),
    "fourier": fourier(),
    "fourier-rgb": fourier(decorrelate=False),
    "maco": maco(),
    "pixels": pixels(),
    "pixels-decorrelated": pixels(decorrelate=True),
    "pixels-sigmoid": pixels(bound="sigmoid"),
    "pyramid": pyramid(),
    "pyramid-shared": pyramid(shared_levels=3),
}


def by_name(name: str) -> Parameterization:
    """A parameterization with its defaults by name.

    Raises:
        InputError: for an unknown name, offering the nearest.

    Example:
        >>> by_name("pixels") == pixels()
        True
    """
    return lookup("parameterization", name, BY_NAME)


def as_parameterization(image: Parameterization | str | None) -> Parameterization:
    """What a caller gives as an image parameterization, as one.

    Args:
        image: a `Parameterization`, a name, or None for `fourier()`.

    Raises:
        InputError: for anything else, or an unknown name, offering the nearest.

    Example:
        >>> as_parameterization("pixels") == pixels(), as_parameterization(None) == fourier()
        (True, True)
        >>> as_parameterization("pixel")
        Traceback (most recent call last):
        jaxopt_input.errors.InputError: unknown parameterization 'pixel'; nearest: pixels
    """
    if image is None:
        return fourier()
    if isinstance(image, str):
        return by_name(image)
    if isinstance(image, Parameterization):
        return image
    raise InputError(
        f"an image parameterization is of jaxopt_input.images or one of {', '.join(BY_NAME)}, not a "
        f"{type(image).__name__}; an image to start from is given as initial="
    )


__all__ = [
    "BY_NAME",
    "Parameterization",
    "as_parameterization",
    "by_name",
    "cppn",
    "fourier",
    "maco",
    "mean_magnitude",
    "pixels",
    "pyramid",
    "spectrum_scale",
]
