"""The image as the phase of a spectrum whose magnitude is fixed to that of natural images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import Shape, as_shape, check_images, finite
from jaxopt_input.errors import InputError
from jaxopt_input.images.color import FROM_RGB, logit, to_rgb
from jaxopt_input.images.fourier import spectrum_scale
from jaxopt_input.images.parameterization import Parameterization, at_rank
from jaxopt_input.kernels.dft import inverse_real, own_mirrors

if TYPE_CHECKING:
    from jaxtyping import Array, Float

UNIFORM_SD = float(np.pi / np.sqrt(3))  # of a phase that is as likely anywhere from −π to π


@dataclasses.dataclass(frozen=True, eq=False)
class MACO(Parameterization):
    """A phase beside a fixed magnitude: `maco` makes it."""

    magnitude: np.ndarray | None = None
    contrast: float = 1.0

    def bind(self, shape: Shape) -> MACO:
        bound = super().bind(shape)
        bound.template()
        return bound

    def template(self) -> np.ndarray:
        """`[H, W // 2 + 1, C]`: the magnitudes, such that each channel has mean 0 and standard deviation `contrast`."""
        height, width, channels = self.bound()
        expected = (height, width // 2 + 1, channels)
        table = self.magnitude
        if table is None:
            table = np.repeat(spectrum_scale(height, width)[..., None], channels, -1)
        if table.shape != expected:
            raise InputError(
                f"the magnitude has shape {table.shape}, the image needs {expected}: measure it at its size"
            )
        table = table.astype(np.float64)
        table[0, 0] = 0
        twice = np.where(own_mirrors(width), 1.0, 2.0)
        energy = (np.square(table) * twice[:, None]).sum((0, 1), keepdims=True)
        scale = self.contrast * height * width / np.sqrt(np.where(energy > 0, energy, 1.0))
        return (table * scale).astype(np.float32)

    def init(self, key: jax.Array, batch: int) -> Float[Array, "*batch H F C"]:
        height, width, channels = self.bound()
        shape = (batch, height, width // 2 + 1, channels)
        return jax.random.uniform(key, shape, jnp.float32, -np.pi, np.pi)

    def decode(self, theta: Float[Array, "*batch H F C"]) -> Float[Array, "*batch H W C"]:
        width = self.bound()[1]
        axes = (-3, -2, -1)
        centered = theta - theta.mean(axes, keepdims=True)
        phase = UNIFORM_SD * centered / (jnp.std(theta, axes, keepdims=True) + 1e-4)
        phase = _odd(phase, width)
        magnitude = jnp.asarray(at_rank(self.template(), theta.ndim))
        image = inverse_real(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase), width)
        return jax.nn.sigmoid(to_rgb(image))

    def encode(self, image: Float[Array, "*batch H W C"]) -> NoReturn:
        raise InputError("MACO fixes the spectrum's magnitude, which a given image does not have: start from noise")


def _odd(phase: jax.Array, width: int) -> jax.Array:
    """The phase made odd in the columns whose spectrum is its own mirror, so that irfft2 keeps all magnitudes."""
    mirror = jnp.roll(jnp.flip(phase, -3), 1, -3)
    return jnp.where(at_rank(own_mirrors(width)[:, None], phase.ndim), (phase - mirror) / 2**0.5, phase)


def maco(shape: Shape | None = None, *, magnitude: Any = None, contrast: float = 1.0) -> MACO:
    """θ is the phase of the image's spectrum; its magnitude stays that of natural images, whatever is optimized.

    image = σ(C · irfft2(magnitude · e^{iφ})), φ = θ standardized over the image to the spread of a uniform phase, so
    that a large step in θ moves φ less and less. The authors standardize to 1 instead, which leaves a bright spot in
    the image's corner, out of reach of their crops.

    Args:
        shape: (height, width, channels); the model's if None.
        magnitude: `[H, W // 2 + 1, C]` of decorrelated colors, as of `mean_magnitude`; 1 / f in every channel if
            None, the law of natural images (Field, 1987).
        contrast: standard deviation of each decorrelated channel before the sigmoid.

    Returns:
        A parameterization; θ is `[..., H, W // 2 + 1, C]` float32. It cannot `encode` an image.

    Raises:
        InputError: for a magnitude that is negative or not finite, or, when bound, of another shape.

    Source:
        Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization (2023);
        their code (Horama, `maco_fv.py`).

    Example:
        >>> p = maco((8, 6, 3))
        >>> p.decode(p.init(jax.random.key(0), 2)).shape
        (2, 8, 6, 3)
    """
    try:
        table = None if magnitude is None else np.asarray(magnitude, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"a magnitude is an array [H, W // 2 + 1, C], not {magnitude!r}") from error
    if table is not None and (table.ndim != 3 or not np.isfinite(table).all() or table.min() < 0 or not table.any()):
        raise InputError("a magnitude is [H, W // 2 + 1, C], finite, at least 0 and not all 0")
    if finite("the contrast", contrast, 0) == 0:
        raise InputError(f"the contrast is positive, not {contrast!r}")
    return MACO(shape and as_shape(shape), table, float(contrast))


def mean_magnitude(images: Iterable[Any]) -> np.ndarray:
    """The mean magnitude of the spectrum of images, before the sigmoid and in decorrelated colors: for `maco`.

    Args:
        images: `[H, W, C]` or `[N, H, W, C]` each, in [0, 1], all of one size, such as `batch.images` of
            `data.folder(...).batches()`.

    Returns:
        `[H, W // 2 + 1, C]` float32.

    Raises:
        InputError: for no image, or images that are none.

    Source:
        Fel et al. (2023), section 3: the average over ImageNet.

    Example:
        >>> mean_magnitude([np.full((4, 4, 3), 0.5, np.float32)]).shape
        (4, 3, 3)
    """
    total: Any = 0.0
    count = 0
    for image in images:
        batch = np.asarray(logit(jnp.asarray(check_images(image))), np.float64)
        batch = batch.reshape(-1, *batch.shape[-3:])
        if batch.shape[-1] == 3:
            batch = batch @ FROM_RGB
        if count and np.shape(total) != (batch.shape[1], batch.shape[2] // 2 + 1, batch.shape[3]):
            raise InputError(f"images of one size make a mean magnitude, not also {batch.shape[1:]}")
        total = total + np.abs(np.fft.rfft2(batch, axes=(1, 2))).sum(0)
        count += len(batch)
    if not count:
        raise InputError("a mean magnitude needs at least one image")
    return (total / count).astype(np.float32)
