"""The image as its Fourier spectrum, preconditioned to that of natural images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import Shape, as_shape, check_images, finite
from jaxopt_input.images.color import from_rgb, logit, to_rgb
from jaxopt_input.images.parameterization import Parameterization, at_rank
from jaxopt_input.kernels.dft import inverse_real

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def spectrum_scale(height: int, width: int, decay: float = 1.0) -> np.ndarray:
    """Lucid's scale of each coefficient: sqrt(width·height) / max(f, 1/max(width, height))^decay.

    Args:
        height, width: of the image.
        decay: 1 gives every octave the same energy, as in natural images; 0 is white.

    Returns:
        `[height, width // 2 + 1]` float32, f in cycles per pixel as of `rfft2`.

    Source:
        Lucid (2018), `optvis.param.spatial.fft_image`.

    Example:
        >>> spectrum_scale(4, 4)[0].tolist()
        [16.0, 16.0, 8.0]
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    scale = np.sqrt(width * height) / np.maximum(frequency, 1 / max(width, height)) ** decay
    return scale.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Fourier(Parameterization):
    """A spectrum scaled as that of natural images: `fourier` makes it."""

    decorrelate: bool = True
    sd: float = 0.1
    decay: float = 1.0
    chroma: float = 1.0

    def _scale(self, height: int, width: int, channels: int) -> np.ndarray:
        """`[H, W // 2 + 1, C]`, or C = 1 where all channels share it: the scale of each coefficient."""
        scale = spectrum_scale(height, width, self.decay)[..., None]
        if self.chroma == 1 or not self.decorrelate or channels != 3:
            return scale
        return scale * np.array([1, self.chroma, self.chroma], np.float32)

    def init(self, key: jax.Array, batch: int) -> Float[Array, "*batch H F C 2"]:
        height, width, channels = self.bound()
        return self.sd * jax.random.normal(key, (batch, height, width // 2 + 1, channels, 2), jnp.float32)

    def decode(self, theta: Float[Array, "*batch H F C 2"]) -> Float[Array, "*batch H W C"]:
        height, bins, channels = theta.shape[-4:-1]
        width = self.shape[1] if self.shape else 2 * (bins - 1)
        scale = at_rank(self._scale(height, width, channels) / 4, theta.ndim - 1)
        image = inverse_real(theta[..., 0] * scale, theta[..., 1] * scale, width)
        return jax.nn.sigmoid(to_rgb(image, self.decorrelate))

    def encode(self, image: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H F C 2"]:
        image = from_rgb(logit(jnp.asarray(check_images(image))), self.decorrelate)
        height, width, channels = image.shape[-3:]
        scale = at_rank(4 / self._scale(height, width, channels), image.ndim)
        spectrum = jnp.fft.rfft2(image, axes=(-3, -2)) * scale
        return jnp.stack([spectrum.real, spectrum.imag], -1)


def fourier(
    shape: Shape | None = None,
    *,
    decorrelate: bool = True,
    sd: float = 0.1,
    decay: float = 1.0,
    chroma: float = 1.0,
) -> Fourier:
    """θ is the spectrum of the image before a sigmoid: image = σ(C · irfft2(scale · θ) / 4).

    A step of gradient ascent in θ moves low frequencies as far as high ones, which pixels do not.

    Args:
        shape: (height, width, channels); the model's if None. Unbound, `decode` takes the width to be even.
        decorrelate: θ in decorrelated colors (where the image has three channels): C is `color.to_rgb`.
        sd: standard deviation of the initial coefficients. Lucid starts at 0.01, nearly gray; at 0.1 fewer classes of
            a network that ends in a ReLU, such as SqueezeNet, have a gradient of zero at the start.
        decay: the exponent of `spectrum_scale`; 1 as in natural images, 0 is white. Above 1 a step moves shapes and
            shading more than texture.
        chroma: the scale of the two decorrelated colors, as a share of theirs; below 1 a step moves brightness more
            than color, and pictures are less gaudy.

    Returns:
        A parameterization; θ is `[..., H, W // 2 + 1, C, 2]` float32, the last axis real and imaginary part.

    Raises:
        InputError: for a number that is not finite, a negative `sd`, or a `chroma` below 0.001.

    Source:
        Olah, Mordvintsev & Schubert, Feature Visualization (2017), "preconditioning"; Lucid (2018).

    Example:
        >>> image = jnp.linspace(0, 1, 75).reshape(5, 5, 3)
        >>> p = fourier((5, 5, 3))
        >>> bool(abs(p.decode(p.encode(image)) - image).max() < 1e-3)
        True
    """
    return Fourier(
        shape and as_shape(shape),
        bool(decorrelate),
        finite("the standard deviation sd", sd, 0),
        finite("the decay", decay),
        finite("the chroma", chroma, 1e-3),
    )
