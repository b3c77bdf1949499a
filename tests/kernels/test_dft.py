"""The inverse Fourier transform by matrix products against NumPy's, and where it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input.kernels import dft


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 6), (6, 5), (7, 7), (8, 8), (67, 10), (9, 134)])
def test_matrices_are_the_inverse_transform(size):
    """Of any spectrum, also one that no image has: what the real transform ignores is ignored."""
    height, width = size
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=(2, 2, height, width // 2 + 1, 3))
    expected = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], s=size, axes=(-3, -2))
    real, imaginary = jnp.asarray(spectrum, jnp.float32)
    for inverse in (dft.by_matrices, dft.inverse_real):
        ours = jax.jit(inverse, static_argnums=2)(real, imaginary, width)
        # Sums of up to 134 products in float32.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_gradient_is_that_of_the_fast_transform():
    rng = np.random.default_rng(1)
    theta, weight = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 67, 34, 3), (67, 67, 3)))

    def loss(theta, inverse):
        return (inverse(*theta, 67) * weight).sum()

    def fast(real, imaginary, width):
        return jnp.fft.irfft2(jax.lax.complex(real, imaginary), s=(67, width), axes=(0, 1))

    ours, expected = (jax.jit(jax.grad(loss), static_argnums=1)(theta, f) for f in (dft.by_matrices, fast))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("size", "matrices"),
    [((227, 227), True), ((64, 134), True), ((224, 299), False), ((1, 1), False), ((389, 389), False)],
)
def test_chosen_on_a_cpu_where_a_side_has_a_large_prime_factor(size, matrices):
    height, width = size
    spectrum = jax.ShapeDtypeStruct((height, width // 2 + 1, 3), jnp.float32)
    traced = jax.jit(dft.inverse_real, static_argnums=2).trace(spectrum, spectrum, width)
    on_cpu, on_tpu = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu"))
    assert ("stablehlo.fft" in on_cpu) != matrices
    assert "stablehlo.fft" in on_tpu
