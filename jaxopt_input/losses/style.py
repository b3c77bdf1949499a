"""Losses that compare how a layer's feature vectors are distributed over positions: texture and style.

The feature vectors at the M positions of a map of N channels are M samples in N dimensions, F `[M, N]`. Every loss here
compares their distribution with that of another image's, taken from its activation, and does not change when positions
are permuted. Statistics are means over positions, so that the two images may differ in size; losses that pair sorted
values interpolate the other's quantiles. All are exact zero between an image and itself. The statistics of the other
image are computed once, when a loss is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.checks import check_index, count, one_of
from jaxopt_input.errors import InputError
from jaxopt_input.losses.define import Decorator, Kind, number, of_layer
from jaxopt_input.targets import canonical

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int

    from jaxopt_input.losses.define import Activation, Number, Scalar

    Vector = Float[Array, " channels"]
    Matrix = Float[Array, "channels channels"]
    Positions = Int[Array, " positions"] | None

EPSILON = 1e-5  # under square roots, whose gradient is infinite at a dead channel


def _of_as_many_channels(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    if np.shape(value)[-1] != shape[-1]:
        raise InputError(f"style of {np.shape(value)[-1]} channels for {where}, which has {shape[-1]}")


def _of_as_many_rows(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    _of_as_many_channels(what, np.swapaxes(value, -1, -2), shape, where)


def _on_map(what: str, value: Any, shape: tuple[int, ...], where: str) -> None:
    check_index("position", value, int(np.prod(shape[:-1])), where)


moment, moments = (Kind(rank, noun="the statistics of a style", check=_of_as_many_channels) for rank in (1, 2))
positions = Kind(1, jnp.int32, check=_on_map)


def _features(style: ArrayLike) -> Any:
    """`[M, N]` or `[targets, M, N]`, of an activation `[H, W, C]` or `[targets, H, W, C]`."""
    array = canonical(style, 3, jnp.float32, "the style's activation")
    return array.reshape(*array.shape[:-3], -1, array.shape[-1])


def _at(activation: Activation, positions: Positions) -> Float[Array, "positions channels"]:
    """The feature vectors at all positions, or at these."""
    flat = activation.reshape(-1, activation.shape[-1])
    return flat if positions is None else flat[positions]


def _of_style(name: str, statistics: Callable[[Any], dict[str, Any]], **kinds: Kind) -> Decorator:
    """As `of_layer`, with statistics of another image's features; the builder takes its activation, and positions."""

    def prepare(style: ArrayLike, positions: ArrayLike | None = None) -> dict[str, Any]:
        return statistics(_features(style)) | {"positions": positions}

    return of_layer(name, prepare=prepare, couples=False, positions=positions, **kinds)


def _second_moment(features: Any) -> Any:
    """FᵀF / M, `[…, N, N]`."""
    return features.swapaxes(-1, -2) @ features / features.shape[-2]


def _mean_and_covariance(features: Any) -> tuple[Any, Any]:
    """Mean `[…, N]` and covariance `[…, N, N]` over positions."""
    mean = features.mean(-2)
    return mean, _second_moment(features - mean[..., None, :])


@jax.custom_jvp
def _products(features: jax.Array) -> jax.Array:
    """FᵀF of F `[M, N]`, `[N, N]`.

    Its derivative is a matrix and its transpose, so that the gradient is one product, F (Ḡ + Ḡᵀ): JAX's own takes two,
    and holds one more array of F's size at once.
    """
    return _over_positions(features, features)


@_products.defjvp
def _products_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (features,), (tangent,) = primals, tangents
    half = _over_positions(tangent, features)
    return _products(features), half + half.T


def _over_positions(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))


@_of_style("{layer}:gram", lambda f: {"target": _second_moment(f)}, target=moments)
def gram(activation: Activation, target: Matrix, positions: Positions = None) -> Scalar:
    """‖G/M − Ĝ/M̂‖² / (4N²), G = FᵀF: with equal M Gatys' E = ‖G − Ĝ‖² / (4N²M²).

    Args:
        layer: the tap.
        style: that layer's activation for the style image, `[H, W, C]` of any height and width, or one per target;
            what a mask leaves of it has the shape `[1, M, C]`.
        positions: the indices of the positions that count, in the row-major order of the map; all of them if None.

    Raises:
        InputError: against a model, for an unknown layer or another number of channels.

    Source:
        Gatys, Ecker & Bethge, Texture Synthesis Using Convolutional Neural Networks (2015), equation 4.

    Example:
        >>> float(gram("a", jnp.zeros((1, 1, 1)))({"a": jnp.full((2, 2, 1), 2.0)}, None))
        4.0
    """
    f = _at(activation, positions)
    return jnp.sum(jnp.square(_products(f) / f.shape[0] - target)) / (4 * f.shape[1] ** 2)


@_of_style("{layer}:mean", lambda f: {"target": f.mean(-2)}, target=moment)
def mean(activation: Activation, target: Vector, positions: Positions = None) -> Scalar:
    """‖μ − μ̂‖² / N, μ the mean feature vector.

    Args:
        layer, style, positions: as of `gram`.

    Source:
        Li, Wang, Liu & Hou, Demystifying Neural Style Transfer (2017), section 4.1, for the linear kernel.

    Example:
        >>> float(mean("a", jnp.zeros((1, 1, 2)))({"a": jnp.full((2, 2, 2), 2.0)}, None))
        4.0
    """
    f = _at(activation, positions)
    return jnp.sum(jnp.square(f.mean(0) - target)) / f.shape[1]


@_of_style("{layer}:covariance", lambda f: {"target": _mean_and_covariance(f)[1]}, target=moments)
def covariance(activation: Activation, target: Matrix, positions: Positions = None) -> Scalar:
    """‖Σ − Σ̂‖² / N², Σ the covariance of the feature vectors: the Gram loss without the mean.

    Args:
        layer, style, positions: as of `gram`.

    Example:
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(covariance("a", jnp.zeros((1, 1, 1)))({"a": a}, None)), float(covariance("a", a + 5)({"a": a}, None))
        (1.0, 0.0)
    """
    f = _at(activation, positions)
    return jnp.sum(jnp.square(_products(f - f.mean(0)) / f.shape[0] - target)) / f.shape[1] ** 2


def _mean_and_variance(features: Any) -> dict[str, Any]:
    mean, covariance = _mean_and_covariance(features)
    return {"mean": mean, "variance": np.diagonal(covariance, axis1=-2, axis2=-1)}


@_of_style("{layer}:batch-norm", _mean_and_variance, mean=moment, variance=moment)
def batch_norm_statistics(
    activation: Activation, mean: Vector, variance: Vector, positions: Positions = None
) -> Scalar:
    """Σ (Δμ² + Δσ²) / N: mean and standard deviation of each channel.

    Args:
        layer, style, positions: as of `gram`.

    Source:
        Li, Wang, Liu & Hou, Demystifying Neural Style Transfer (2017), section 4.2.

    Example:
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> round(float(batch_norm_statistics("a", 2 * a)({"a": a}, None)), 4)  # Δμ = Δσ = 1
        2.0
    """
    f = _at(activation, positions)
    root = jnp.sqrt(f.var(0) + EPSILON) - jnp.sqrt(variance + EPSILON)
    return jnp.sum(jnp.square(f.mean(0) - mean)) / f.shape[1] + jnp.sum(jnp.square(root)) / f.shape[1]


@jax.custom_jvp
def _nuclear_norm(matrix: jax.Array) -> jax.Array:
    """The sum of the singular values of `[M, N]`.

    Not as roots of the eigenvalues of a product, which keep half the digits: on a network's layers that was wrong by
    up to a third. Singular values that are zero but for rounding, as of fewer positions than channels, count for
    nothing and have no gradient.
    """
    return _smooth_sum(jnp.linalg.svd(_square(matrix), compute_uv=False))[0]


@_nuclear_norm.defjvp
def _nuclear_norm_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (matrix,), (tangent,) = primals, tangents
    _, values, right = jnp.linalg.svd(_square(matrix), full_matrices=False)
    total, slope = _smooth_sum(values)
    left = jnp.matmul(matrix, right.T, precision=jax.lax.Precision.HIGHEST) * slope
    return total, jnp.sum(jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST) * tangent)


def _square(matrix: jax.Array) -> jax.Array:
    """A matrix of the same singular values and right singular vectors with at most as many rows as columns."""
    return jnp.linalg.qr(matrix, mode="r") if matrix.shape[0] > matrix.shape[1] else matrix


def _smooth_sum(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Σ s² / √(s² + ε²), ε the rounding of the largest s, and the derivative for each s divided by s."""
    epsilon = jnp.maximum(8 * jnp.finfo(values.dtype).eps * values[0], EPSILON**2)
    root = jnp.sqrt(jnp.square(values) + jnp.square(epsilon))
    return jnp.sum(values * (values / root)), (1 + jnp.square(epsilon / root)) / root


def _mean_and_root(features: Any) -> dict[str, Any]:
    mean, covariance = _mean_and_covariance(np.asarray(features, np.float64))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ vectors.swapaxes(-1, -2)
    return {"mean": mean.astype(np.float32), "root": root.astype(np.float32)}


@_of_style("{layer}:wasserstein", _mean_and_root, mean=moment, root=moments)
def wasserstein_gaussian(activation: Activation, mean: Vector, root: Matrix, positions: Positions = None) -> Scalar:
    """The squared 2-Wasserstein distance of the Gaussians with the two images' means and covariances, divided by N.

    W² = ‖μ − μ̂‖² + tr(Σ + Σ̂ − 2 (Σ̂^½ Σ Σ̂^½)^½).

    Args:
        layer, style, positions: as of `gram`.

    Source:
        Olkin & Pukelsheim (1982) for the formula; Crowson, style-transfer-pytorch (2021), for its use.

    Example:
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> round(float(wasserstein_gaussian("a", 2 * a)({"a": a}, None)), 3)  # Δμ² + (σ − σ̂)²
        2.0
    """
    f = _at(activation, positions)
    own = f.mean(0)
    centered = (f - own) / np.sqrt(f.shape[0])
    cross = _nuclear_norm(jnp.matmul(centered, root, precision=jax.lax.Precision.HIGHEST))  # tr (R Σ R)^½
    spread = jnp.sum(jnp.square(centered)) + jnp.sum(jnp.square(root)) - 2 * cross
    return (jnp.sum(jnp.square(own - mean)) + spread) / own.shape[0]


def _kernel_statistics(
    style: ArrayLike,
    kernel: str = "gaussian",
    positions: ArrayLike | None = None,
    *,
    degree: int = 2,
    offset: ArrayLike = 0.0,
    samples: int = 256,
) -> dict[str, Any]:
    """The moments, for kernels whose feature map is short enough to be written out, or else the feature vectors."""
    one_of("an MMD kernel", kernel, ("linear", "polynomial", "gaussian"))
    if degree != int(degree) or degree < 1 or np.min(offset) < 0 or samples < 1:
        raise InputError(f"an MMD takes degree ≥ 1, offset ≥ 0, samples ≥ 1, not {degree!r}, {offset!r}, {samples!r}")
    f = _features(style)
    common = {"offset": offset, "positions": positions, "kernel": kernel}
    if kernel == "linear":
        return common | {"mean": f.mean(-2)}
    if kernel == "polynomial" and degree == 2:
        return common | {"mean": f.mean(-2), "second": _second_moment(f)}
    return common | {"features": f, "degree": int(degree), "samples": int(samples)}


@of_layer(
    "{layer}:mmd-{kernel}",
    prepare=_kernel_statistics,
    features=moments,
    mean=moment,
    second=moments,
    offset=number,
    positions=positions,
)
def mmd(
    activation: Activation,
    features: Float[Array, "samples channels"] | None = None,
    mean: Vector | None = None,
    second: Matrix | None = None,
    offset: Number = 0.0,
    positions: Positions = None,
    *,
    kernel: str = "gaussian",
    degree: int = 2,
    samples: int = 256,
) -> Scalar:
    """The squared maximum mean discrepancy of the feature vectors: mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y).

    "linear": k = xᵀy, which makes it ‖μ − μ̂‖². "polynomial": k = (xᵀy + offset)^degree; with degree 2 and offset 0 it
    is 4N² times the Gram loss. "gaussian": k = exp(−‖x − y‖² / (2σ²)), σ² the mean of ‖x − y‖², which is not
    differentiated. The estimate is the biased one, which is never negative. Kernels that need all pairs (gaussian, and
    polynomials of another degree) take those within blocks of at most `samples` positions, dealt at random but the same
    each time, and average over blocks: exact for maps of no more positions, and linear in their number beyond. Of a
    style with many more positions than the image, as many take part.

    Args:
        layer, style, positions: as of `gram`.
        kernel: "linear", "polynomial" or "gaussian".
        degree: of the polynomial, at least 1.
        offset: of the polynomial, at least 0.
        samples: positions in a block at most, for kernels that need pairs.

    Raises:
        InputError: for another kernel, degree or offset; against a model, as `gram`.

    Source:
        Li, Wang, Liu & Hou, Demystifying Neural Style Transfer (2017), section 3 and 4.1; Zaremba, Gretton & Blaschko,
        B-tests: Low Variance Kernel Two-Sample Tests (2013), for blocks.

    Example:
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(mmd("a", 2 * a, "linear")({"a": a}, None)), float(mmd("a", a)({"a": a}, None))
        (1.0, 0.0)
    """
    x = _at(activation, positions)
    if mean is not None:
        first = jnp.sum(jnp.square(x.mean(0) - mean))
        if second is None:
            return first
        return jnp.sum(jnp.square(_products(x) / x.shape[0] - second)) + 2 * offset * first
    if features is None:
        raise InputError("a discrepancy is taken from the other image's features, or from their moments")
    y = features
    if kernel == "polynomial":
        similarity = _polynomial(degree, offset)
    else:
        spread = jnp.sum(x.var(0) + y.var(0)) + jnp.sum(jnp.square(x.mean(0) - y.mean(0)))  # = mean ‖x − y‖²
        similarity = _gaussian(jax.lax.stop_gradient(spread))
        x, y = x - y.mean(0), y - y.mean(0)  # changes no distance, and keeps the digits of small ones
    blocks = -(-x.shape[0] // samples)

    def discrepancy(x: jax.Array, y: jax.Array) -> jax.Array:
        return similarity(x, x).mean() + similarity(y, y).mean() - 2 * similarity(x, y).mean()

    return jnp.mean(jax.vmap(discrepancy)(_blocks(x, blocks, samples), _blocks(y, blocks, samples)))


def _blocks(features: jax.Array, count: int, size: int) -> jax.Array:
    """`[M, N]` as `[count, m, N]`, blocks of at most `size` rows; of fewer rows than blocks, all in each."""
    rows, channels = features.shape
    if rows < count or (count == 1 and rows <= size):
        return jnp.broadcast_to(features, (count, rows, channels))
    return features[_dealt(rows, count, size)].reshape(count, -1, channels)


def _dealt(rows: int, count: int, size: int) -> np.ndarray:
    """The rows of each block one after another, as if dealt by chance but the same each time; a few are left over."""
    return np.random.default_rng(0).permutation(rows)[: min(rows // count, size) * count]


def _polynomial(degree: int, offset: jax.Array | float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda x, y: (x @ y.T + offset) ** degree


def _gaussian(variance: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
        product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        square = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None] - 2 * product
        return jnp.exp(-jnp.maximum(square, 0) / jnp.maximum(2 * variance, EPSILON))

    return kernel


def _quantiles(ordered: jax.Array, count: int) -> jax.Array:
    """`[m, d]` sorted along the first axis to `[count, d]`: its quantiles at (i + ½) / count, linearly interpolated."""
    m = ordered.shape[0]
    if m == count:
        return ordered
    place = np.clip((np.arange(count) + 0.5) * m / count - 0.5, 0, m - 1)
    low = np.floor(place).astype(np.int32)
    part = (place - low).astype(np.float32)[:, None]
    return ordered[low] * (1 - part) + ordered[np.minimum(low + 1, m - 1)] * part


def _projected(
    style: ArrayLike, key: jax.Array, directions: int | None = None, positions: ArrayLike | None = None
) -> dict[str, Any]:
    f = _features(style)
    channels = f.shape[-1]
    most = channels if directions is None else count("the number of directions", directions)
    v = np.asarray(jax.random.normal(key, (channels, most)))
    v = v / np.linalg.norm(v, axis=0)
    return {"directions": v, "ordered": np.sort(f @ v, -2), "positions": positions}


@of_layer(
    "{layer}:sliced-wasserstein",
    prepare=_projected,
    directions=Kind(2, check=_of_as_many_rows),
    ordered=Kind(2),
    positions=positions,
)
def sliced_wasserstein(
    activation: Activation,
    directions: Float[Array, "channels directions"],
    ordered: Float[Array, "samples directions"],
    positions: Positions = None,
) -> Scalar:
    """mean (sort(F v) − sort(F̂ v))² over random unit directions v: 0 only where the distributions agree.

    The directions belong to the loss and stay the same from step to step, so that a line search sees one function.
    Images of different size are compared by quantiles.

    Args:
        layer, style, positions: as of `gram`.
        key: of the random directions.
        directions: how many; as many as channels if None.

    Raises:
        InputError: for less than one direction; against a model, as `gram`.

    Source:
        Heitz, Vanhoey, Chambon & Belcour, A Sliced Wasserstein Loss for Neural Texture Synthesis (2021), equation 4.

    Example:
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(sliced_wasserstein("a", a + 3, jax.random.key(0))({"a": a}, None))
        9.0
    """
    f = _at(activation, positions) @ directions
    return jnp.mean(jnp.square(jnp.sort(f, 0) - _quantiles(ordered, f.shape[0])))


@_of_style("{layer}:histogram", lambda f: {"ordered": np.sort(f, -2)}, ordered=moments)
def histogram(activation: Activation, ordered: Float[Array, "samples channels"], positions: Positions = None) -> Scalar:
    """mean (sort(F_c) − sort(F̂_c))² over channels c: each channel's histogram, whatever the others do.

    Args:
        layer, style, positions: as of `gram`.

    Source:
        Risser, Wilmot & Barnes, Stable and Controllable Neural Texture Synthesis and Style Transfer Using Histogram
        Losses (2017), with the exact match by sorting in place of binned histograms.

    Example:
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(histogram("a", a[:, ::-1])({"a": a}, None)), float(histogram("a", a + 1)({"a": a}, None))
        (0.0, 1.0)
    """
    f = _at(activation, positions)
    return jnp.mean(jnp.square(jnp.sort(f, 0) - _quantiles(ordered, f.shape[0])))
