"""Losses that compare how a layer's feature vectors are distributed over positions: texture and style.

The feature vectors at the M positions of a map of N channels are M samples in N dimensions, F `[M, N]`. Every loss here
compares their distribution with that of another image's, given as its activation, and does not change when positions
are permuted. Statistics are means over positions, so that the two images may differ in size; losses that pair sorted
values interpolate the other's quantiles. All are exact zero between an image and itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.errors import InputError
from jaxopt_input.losses.activation import _OfLayer
from jaxopt_input.losses.algebra import Activations, Shapes, check_index, check_layer
from jaxopt_input.targets import canonical, leaf, traced

EPSILON = 1e-5  # under square roots, whose gradient is infinite at a dead channel


class _Style(_OfLayer):
    """A loss of the feature vectors of one layer, at all of its positions or at those in `positions`."""

    kind = "style"
    positions: Any

    def features(self, activations: Activations) -> jax.Array:
        """`[M, N]`."""
        activation = self.read(activations)
        flat = activation.reshape(-1, activation.shape[-1])
        return flat if self.positions is None else flat[self.positions]

    def channels(self) -> int:
        """N of what it compares with."""
        raise TypeError(f"{type(self).__name__} does not define channels")

    def check(self, shapes: Shapes) -> None:
        *places, channels = check_layer(self.layer, shapes)
        if self.channels() != channels:
            raise InputError(f"style of {self.channels()} channels for layer {self.layer}, which has {channels}")
        if self.positions is not None:
            check_index("position", self.positions, int(np.prod(places)), f"layer {self.layer}")

    def name(self) -> str:
        return f"{self.layer}:{self.kind}"


def _places(positions: Any) -> Any:
    return None if positions is None else canonical(positions, 1, jnp.int32, "positions")


def _given(activation: Any) -> Any:
    """`[M, N]` or `[targets, M, N]`, of an activation `[H, W, C]` or `[targets, H, W, C]`."""
    array = canonical(activation, 3, jnp.float32, "the style's activation")
    return array.reshape(*array.shape[:-3], -1, array.shape[-1])


def _moments(features: Any) -> tuple[Any, Any]:
    """Mean `[…, N]` and covariance `[…, N, N]` over positions."""
    mean = features.mean(-2)
    centered = features - mean[..., None, :]
    return mean, centered.swapaxes(-1, -2) @ centered / features.shape[-2]


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


@traced
class Gram(_Style):
    """See `gram`."""

    kind = "gram"
    layer: str
    target: Any = leaf(rank=2)
    positions: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        f = self.features(activations)
        return jnp.sum(jnp.square(_products(f) / f.shape[0] - self.target)) / (4 * f.shape[1] ** 2)

    def channels(self) -> int:
        return int(np.shape(self.target)[-1])


def gram(layer: str, activation: Any, positions: Any = None) -> Gram:
    """‖G/M − Ĝ/M̂‖² / (4N²), G = FᵀF: with equal M Gatys' E = ‖G − Ĝ‖² / (4N²M²).

    Args:
        layer: the tap.
        activation: that layer's activation for the style image, `[H, W, C]` of any height and width, or one a target.
            What of it a mask leaves is given as `[1, M, C]`.
        positions: the indices of the positions that count, in the row-major order of the map; all of them if None.

    Raises:
        InputError: against a model, for an unknown layer or another number of channels.

    Source:
        Gatys, Ecker & Bethge, Texture Synthesis Using Convolutional Neural Networks (2015), equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> float(gram("a", jnp.zeros((1, 1, 1)))({"a": jnp.full((2, 2, 1), 2.0)}, None))
        4.0
    """
    f = _given(activation)
    return Gram(layer, f.swapaxes(-1, -2) @ f / f.shape[-2], _places(positions))


@traced
class Moments(_Style):
    """See `mean`, `covariance` and `batch_norm_statistics`."""

    layer: str
    statistic: str
    target_mean: Any = leaf(rank=1)
    target: Any = leaf(rank=2)
    positions: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        f = self.features(activations)
        mean, channels = f.mean(0), f.shape[1]
        difference = jnp.sum(jnp.square(mean - self.target_mean)) / channels
        if self.statistic == "mean":
            return difference
        if self.statistic == "covariance":
            return jnp.sum(jnp.square(_products(f - mean) / f.shape[0] - self.target)) / channels**2
        root = jnp.sqrt(f.var(0) + EPSILON) - jnp.sqrt(jnp.diagonal(self.target) + EPSILON)
        return difference + jnp.sum(jnp.square(root)) / channels

    def channels(self) -> int:
        return int(np.shape(self.target_mean)[-1])

    def name(self) -> str:
        return f"{self.layer}:{self.statistic}"


def mean(layer: str, activation: Any, positions: Any = None) -> Moments:
    """‖μ − μ̂‖² / N, μ the mean feature vector.

    Args:
        layer, activation, positions: see `gram`.

    Source:
        Li, Wang, Liu & Hou, Demystifying Neural Style Transfer (2017), section 4.1, for the linear kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> float(mean("a", jnp.zeros((1, 1, 2)))({"a": jnp.full((2, 2, 2), 2.0)}, None))
        4.0
    """
    return Moments(layer, "mean", *_moments(_given(activation)), _places(positions))


def covariance(layer: str, activation: Any, positions: Any = None) -> Moments:
    """‖Σ − Σ̂‖² / N², Σ the covariance of the feature vectors: the Gram loss without the mean.

    Args:
        layer, activation, positions: see `gram`.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(covariance("a", jnp.zeros((1, 1, 1)))({"a": a}, None)), float(covariance("a", a + 5)({"a": a}, None))
        (1.0, 0.0)
    """
    return Moments(layer, "covariance", *_moments(_given(activation)), _places(positions))


def batch_norm_statistics(layer: str, activation: Any, positions: Any = None) -> Moments:
    """Σ (Δμ² + Δσ²) / N: mean and standard deviation of each channel.

    Args:
        layer, activation, positions: see `gram`.

    Source:
        Li, Wang, Liu & Hou, Demystifying Neural Style Transfer (2017), section 4.2.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> round(float(batch_norm_statistics("a", 2 * a)({"a": a}, None)), 4)  # Δμ = Δσ = 1
        2.0
    """
    return Moments(layer, "batch-norm", *_moments(_given(activation)), _places(positions))


@traced
class Wasserstein(_Style):
    """See `wasserstein_gaussian`."""

    kind = "wasserstein"
    layer: str
    target_mean: Any = leaf(rank=1)
    root: Any = leaf(rank=2)
    positions: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        f = self.features(activations)
        mean = f.mean(0)
        centered = (f - mean) / np.sqrt(f.shape[0])
        cross = _nuclear_norm(jnp.matmul(centered, self.root, precision=jax.lax.Precision.HIGHEST))  # tr (R Σ R)^½
        spread = jnp.sum(jnp.square(centered)) + jnp.sum(jnp.square(self.root)) - 2 * cross
        return (jnp.sum(jnp.square(mean - self.target_mean)) + spread) / mean.shape[0]

    def channels(self) -> int:
        return int(np.shape(self.target_mean)[-1])


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


def wasserstein_gaussian(layer: str, activation: Any, positions: Any = None) -> Wasserstein:
    """The squared 2-Wasserstein distance of the Gaussians with the two images' means and covariances, divided by N.

    W² = ‖μ − μ̂‖² + tr(Σ + Σ̂ − 2 (Σ̂^½ Σ Σ̂^½)^½).

    Args:
        layer, activation, positions: see `gram`.

    Source:
        Olkin & Pukelsheim (1982) for the formula; Crowson, style-transfer-pytorch (2021), for its use.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> round(float(wasserstein_gaussian("a", 2 * a)({"a": a}, None)), 3)  # Δμ² + (σ − σ̂)²
        2.0
    """
    mean, covariance = _moments(np.asarray(_given(activation), np.float64))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ vectors.swapaxes(-1, -2)
    return Wasserstein(layer, mean.astype(np.float32), root.astype(np.float32), _places(positions))


@traced
class MomentMMD(_Style):
    """See `mmd`: the kernels whose feature map is short enough to be written out."""

    layer: str
    kernel: str
    offset: Any = leaf(rank=0)
    target_mean: Any = leaf(rank=1)
    target: Any = leaf(rank=2)
    positions: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        x = self.features(activations)
        first = jnp.sum(jnp.square(x.mean(0) - self.target_mean))
        if self.kernel == "linear":
            return first
        return jnp.sum(jnp.square(_products(x) / x.shape[0] - self.target)) + 2 * self.offset * first

    def channels(self) -> int:
        return int(np.shape(self.target_mean)[-1])

    def name(self) -> str:
        return f"{self.layer}:mmd-{self.kernel}"


@traced
class MMD(_Style):
    """See `mmd`: the kernels that are taken of all pairs."""

    layer: str
    kernel: str
    degree: int
    samples: int
    offset: Any = leaf(rank=0)
    target: Any = leaf(rank=2)
    positions: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        x, y = self.features(activations), self.target
        if self.kernel == "polynomial":
            kernel = _polynomial(self.degree, self.offset)
        else:
            spread = jnp.sum(x.var(0) + y.var(0)) + jnp.sum(jnp.square(x.mean(0) - y.mean(0)))  # = mean ‖x − y‖²
            kernel = _gaussian(jax.lax.stop_gradient(spread))
            x, y = x - y.mean(0), y - y.mean(0)  # changes no distance, and keeps the digits of small ones
        blocks = -(-x.shape[0] // self.samples)
        x, y = _blocks(x, blocks, self.samples), _blocks(y, blocks, self.samples)
        return jnp.mean(
            jax.vmap(lambda x, y: kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())(x, y)
        )

    def channels(self) -> int:
        return int(np.shape(self.target)[-1])

    def name(self) -> str:
        return f"{self.layer}:mmd-{self.kernel}"


def mmd(
    layer: str,
    activation: Any,
    kernel: str = "gaussian",
    positions: Any = None,
    *,
    degree: int = 2,
    offset: Any = 0.0,
    samples: int = 256,
) -> MMD | MomentMMD:
    """The squared maximum mean discrepancy of the feature vectors: mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y).

    "linear": k = xᵀy, which makes it ‖μ − μ̂‖². "polynomial": k = (xᵀy + offset)^degree; with degree 2 and offset 0 it
    is 4N² times the Gram loss. "gaussian": k = exp(−‖x − y‖² / (2σ²)), σ² the mean of ‖x − y‖², which is not
    differentiated. The estimate is the biased one, which is never negative. Kernels that need all pairs (gaussian, and
    polynomials of another degree) take those within blocks of at most `samples` positions, dealt at random but the same
    each time, and average over blocks: exact for maps of no more positions, and linear in their number beyond. Of a
    style with many more positions than the image, as many take part.

    Args:
        layer, activation, positions: see `gram`.
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
        >>> import jax.numpy as jnp
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(mmd("a", 2 * a, "linear")({"a": a}, None)), float(mmd("a", a)({"a": a}, None))
        (1.0, 0.0)
    """
    if kernel not in ("linear", "polynomial", "gaussian"):
        raise InputError(f"an MMD kernel is linear, polynomial or gaussian, not {kernel!r}")
    if degree != int(degree) or degree < 1 or np.min(offset) < 0 or samples < 1:
        raise InputError(f"an MMD takes degree ≥ 1, offset ≥ 0, samples ≥ 1, not {degree!r}, {offset!r}, {samples!r}")
    shift = canonical(offset, 0, jnp.float32, "the kernel's offset")
    f, places = _given(activation), _places(positions)
    if kernel == "linear" or (kernel == "polynomial" and degree == 2):
        return MomentMMD(layer, kernel, shift, f.mean(-2), f.swapaxes(-1, -2) @ f / f.shape[-2], places)
    return MMD(layer, kernel, int(degree), int(samples), shift, f, places)


def _blocks(features: jax.Array, count: int, size: int) -> jax.Array:
    """`[M, N]` as `[count, m, N]`, blocks of at most `size` rows; of fewer rows than blocks, all in each."""
    rows, channels = features.shape
    if rows < count or (count == 1 and rows <= size):
        return jnp.broadcast_to(features, (count, rows, channels))
    return features[_dealt(rows, count, size)].reshape(count, -1, channels)


def _dealt(rows: int, count: int, size: int) -> np.ndarray:
    """The rows of each block one after another, as if dealt by chance but the same each time; a few are left over."""
    return np.random.default_rng(0).permutation(rows)[: min(rows // count, size) * count]


def _polynomial(degree: int, offset: jax.Array) -> Any:
    return lambda x, y: (x @ y.T + offset) ** degree


def _gaussian(variance: jax.Array) -> Any:
    def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
        product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        square = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None] - 2 * product
        return jnp.exp(-jnp.maximum(square, 0) / jnp.maximum(2 * variance, EPSILON))

    return kernel


@traced
class SlicedWasserstein(_Style):
    """See `sliced_wasserstein` and `histogram`."""

    layer: str
    statistic: str
    directions: Any = leaf(rank=2)
    target: Any = leaf(rank=2)  # projected and sorted
    positions: Any = leaf(rank=1, default=None)

    def __call__(self, activations: Activations, image: jax.Array) -> jax.Array:
        f = self.features(activations)
        f = f if self.statistic == "histogram" else f @ self.directions
        return jnp.mean(jnp.square(jnp.sort(f, 0) - _quantiles(self.target, f.shape[0])))

    def channels(self) -> int:
        return int(np.shape(self.directions)[-2])

    def name(self) -> str:
        return f"{self.layer}:{self.statistic}"


def _quantiles(ordered: jax.Array, count: int) -> jax.Array:
    """`[m, d]` sorted along the first axis to `[count, d]`: its quantiles at (i + ½) / count, linearly interpolated."""
    m = ordered.shape[0]
    if m == count:
        return ordered
    place = np.clip((np.arange(count) + 0.5) * m / count - 0.5, 0, m - 1)
    low = np.floor(place).astype(np.int32)
    part = (place - low).astype(np.float32)[:, None]
    return ordered[low] * (1 - part) + ordered[np.minimum(low + 1, m - 1)] * part


def sliced_wasserstein(
    layer: str, activation: Any, key: jax.Array, directions: int | None = None, positions: Any = None
) -> SlicedWasserstein:
    """mean (sort(F v) − sort(F̂ v))² over random unit directions v: 0 only where the distributions agree.

    The directions belong to the loss and stay the same from step to step, so that a line search sees one function.
    Images of different size are compared by quantiles.

    Args:
        layer, activation, positions: see `gram`.
        key: of the random directions.
        directions: how many; as many as channels if None.

    Raises:
        InputError: for less than one direction; against a model, as `gram`.

    Source:
        Heitz, Vanhoey, Chambon & Belcour, A Sliced Wasserstein Loss for Neural Texture Synthesis (2021), equation 4.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(sliced_wasserstein("a", a + 3, jax.random.key(0))({"a": a}, None))
        9.0
    """
    f = _given(activation)
    channels = f.shape[-1]
    count = channels if directions is None else directions
    if count < 1:
        raise InputError(f"a sliced distance takes at least one direction, not {directions!r}")
    v = np.asarray(jax.random.normal(key, (channels, count)))
    v = v / np.linalg.norm(v, axis=0)
    return SlicedWasserstein(layer, "sliced-wasserstein", v, np.sort(f @ v, -2), _places(positions))


def histogram(layer: str, activation: Any, positions: Any = None) -> SlicedWasserstein:
    """mean (sort(F_c) − sort(F̂_c))² over channels c: each channel's histogram, whatever the others do.

    Args:
        layer, activation, positions: see `gram`.

    Source:
        Risser, Wilmot & Barnes, Stable and Controllable Neural Texture Synthesis and Style Transfer Using Histogram
        Losses (2017), with the exact match by sorting in place of binned histograms.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.array([[[0.0], [2.0]]])
        >>> float(histogram("a", a[:, ::-1])({"a": a}, None)), float(histogram("a", a + 1)({"a": a}, None))
        (0.0, 1.0)
    """
    f = _given(activation)
    one_each = np.eye(f.shape[-1], dtype=np.float32)
    return SlicedWasserstein(layer, "histogram", one_each, np.sort(f, -2), _places(positions))
