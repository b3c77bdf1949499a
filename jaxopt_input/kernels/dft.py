"""The inverse real Fourier transform of images, by matrix products where those are faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float

ROUGH = 64  # XLA's FFT on a CPU is slow where a side has a prime factor above this,
MATRIX_SIDE = 384  # and matrix products are faster up to this side


def inverse_real(
    real: Float[Array, "*batch H F C"], imaginary: Float[Array, "*batch H F C"], width: int
) -> Float[Array, "*batch H W C"]:
    """Images of their spectra, as `jnp.fft.irfft2` over the axes −3 and −2.

    On a CPU an image whose side has a large prime factor, as the 227 of SqueezeNet, is the product of its spectrum with
    matrices of cosines and sines, twice as fast as the FFT. They are folded in half along each axis: lines f and −f
    share their cosines, and their sines but for the sign.

    Args:
        real, imaginary: `[..., height, width // 2 + 1, channels]`.
        width: of the image, for the last axis of a spectrum does not tell an even from an odd one.

    Returns:
        `[..., height, width, channels]`.

    Example:
        >>> spectrum = np.fft.rfft2(np.arange(30.0).reshape(5, 6))[..., None]
        >>> image = inverse_real(jnp.asarray(spectrum.real), jnp.asarray(spectrum.imag), 6)
        >>> bool(jnp.allclose(image[..., 0], jnp.arange(30.0).reshape(5, 6), atol=1e-4))
        True
    """
    height = real.shape[-3]
    rough = max(map(_largest_prime, (height, width))) > ROUGH
    if not rough or max(height, width) > MATRIX_SIDE:
        return by_fft(real, imaginary, width)
    return jax.lax.platform_dependent(
        real,
        imaginary,
        cpu=lambda real, imaginary: by_matrices(real, imaginary, width),
        default=lambda real, imaginary: by_fft(real, imaginary, width),
    )


def by_fft(
    real: Float[Array, "*batch H F C"], imaginary: Float[Array, "*batch H F C"], width: int
) -> Float[Array, "*batch H W C"]:
    """`inverse_real` as the fast Fourier transform."""
    return jnp.fft.irfft2(jax.lax.complex(real, imaginary), s=(real.shape[-3], width), axes=(-3, -2))


def _largest_prime(number: int) -> int:
    """The largest prime factor of a number, 1 of 1."""
    prime = 2
    while prime * prime <= number:
        if number % prime:
            prime += 1
        else:
            number //= prime
    return number


def by_matrices(
    real: Float[Array, "*batch H F C"], imaginary: Float[Array, "*batch H F C"], width: int
) -> Float[Array, "*batch H W C"]:
    """`inverse_real` as products with matrices of cosines and sines."""
    height, bins = real.shape[-3:-1]
    real, imaginary = (jnp.moveaxis(part, -1, -3) for part in (real, imaginary))  # whole lines to the products
    cosine, sine = _waves(height, height // 2 + 1, np.ones(height // 2 + 1))
    (even, odd), (even_i, odd_i) = (_fold(part) for part in (real, imaginary))
    x, y = (_product("hf,...fk->...hk", cosine, part) for part in (even, even_i))
    u, v = (_product("hf,...fk->...hk", sine, part) for part in (odd, odd_i))
    real, imaginary = _unfold(x - v, x + v, height, -2), _unfold(y + u, y - u, height, -2)
    weight = np.where(own_mirrors(width), 1.0, 2.0)
    cosine, sine = _waves(width, bins, weight / (height * width))
    a, b = _product("...hk,wk->...hw", real, cosine), _product("...hk,wk->...hw", imaginary, sine)
    return jnp.moveaxis(_unfold(a - b, a + b, width, -1), -3, -1)


def own_mirrors(width: int) -> np.ndarray:
    """`[width // 2 + 1]`: the bins that irfft2 does not mirror, which are the first and, of an even width, the last."""
    bins = np.arange(width // 2 + 1)
    return (bins == 0) | (2 * bins == width)


def _waves(size: int, frequencies: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[size // 2 + 1, frequencies]` each: cosines and sines at half of the positions, of weighted frequencies."""
    turns = np.outer(np.arange(size // 2 + 1), np.arange(frequencies)) % size / size
    return tuple((wave(2 * np.pi * turns) * weight).astype(np.float32) for wave in (np.cos, np.sin))


def _fold(spectrum: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums and differences of the lines f and −f, f up to half of the height; a line that is its own mirror once."""
    height = spectrum.shape[-2]
    half, mirrored = height // 2, (height - 1) // 2
    here = spectrum[..., : half + 1, :]
    mirror = jnp.flip(spectrum[..., height - mirrored :, :], -2)
    mirror = jnp.pad(mirror, [(0, 0)] * (spectrum.ndim - 2) + [(1, half - mirrored), (0, 0)])
    return here + mirror, here - mirror


def _unfold(low: jax.Array, high: jax.Array, size: int, axis: int) -> jax.Array:
    """All positions: the first half, and the second, which was counted from the end."""
    rest = jax.lax.slice_in_dim(high, 1, size - size // 2, axis=high.ndim + axis)
    return jnp.concatenate([low, jnp.flip(rest, axis)], axis)


def _product(formula: str, a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> jax.Array:
    return jnp.einsum(formula, a, b, precision=jax.lax.Precision.HIGHEST)
