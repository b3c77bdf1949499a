"""Style and inversion losses: identities between them, closed forms, gradients, and an independent transcription."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import losses

KEY = jax.random.key(0)
BUILDERS = {
    "gram": losses.gram,
    "mean": losses.mean,
    "covariance": losses.covariance,
    "batch-norm": losses.batch_norm_statistics,
    "wasserstein": losses.wasserstein_gaussian,
    "mmd linear": lambda layer, a, **kw: losses.mmd(layer, a, "linear", **kw),
    "mmd polynomial": lambda layer, a, **kw: losses.mmd(layer, a, "polynomial", offset=0.5, **kw),
    "mmd cubic": lambda layer, a, **kw: losses.mmd(layer, a, "polynomial", degree=3, offset=0.5, **kw),
    "mmd gaussian": lambda layer, a, **kw: losses.mmd(layer, a, "gaussian", **kw),
    "sliced": lambda layer, a, **kw: losses.sliced_wasserstein(layer, a, KEY, 7, **kw),
    "histogram": losses.histogram,
}


def features(seed, shape=(6, 5, 4), scale=1.0):
    return scale * np.maximum(np.random.default_rng(seed).standard_normal(shape), -0.2).astype(np.float32)


def value(loss, activation):
    return float(loss({"a": jnp.asarray(activation)}, None))


@pytest.mark.parametrize("name", BUILDERS)
def test_zero_for_itself_and_unchanged_by_permuting_positions(name):
    a, b = features(0), features(1, scale=1.5) + 0.3
    loss = BUILDERS[name]("a", b)
    # float32 sums; the root in the Wasserstein distance loses digits at zero, pairs cancel to a small part of each.
    rounding = 1e-3 if name == "wasserstein" else 1e-4 if name == "mmd gaussian" else 1e-5
    assert abs(value(loss, b)) < rounding * value(loss, a)
    order = np.random.default_rng(2).permutation(30)
    permuted = a.reshape(30, 4)[order].reshape(5, 6, 4)
    np.testing.assert_allclose(value(loss, permuted), value(loss, a), rtol=rounding)
    style_permuted = BUILDERS[name]("a", b.reshape(30, 4)[order].reshape(6, 5, 4))
    np.testing.assert_allclose(value(style_permuted, a), value(loss, a), rtol=rounding)


def test_identities_between_kernels_and_statistics():
    a, b = features(0), features(1, scale=1.5) + 0.3
    channels = a.shape[-1]
    quadratic = value(losses.mmd("a", b, "polynomial"), a)
    np.testing.assert_allclose(quadratic / (4 * channels**2), value(losses.gram("a", b), a), rtol=1e-5)
    linear = value(losses.mmd("a", b, "linear"), a)
    np.testing.assert_allclose(linear, np.square(a.mean((0, 1)) - b.mean((0, 1))).sum(), rtol=1e-5)
    np.testing.assert_allclose(linear / channels, value(losses.mean("a", b), a), rtol=1e-5)
    # (xᵀy + c)² = (xᵀy)² + 2c xᵀy + c²
    shifted = value(losses.mmd("a", b, "polynomial", offset=0.7), a)
    np.testing.assert_allclose(shifted, quadratic + 2 * 0.7 * linear, rtol=1e-5)
    cubic = losses.mmd("a", b, "polynomial", degree=1, offset=0.7)
    np.testing.assert_allclose(value(cubic, a), linear, rtol=1e-4)  # by pairs, where large terms cancel


def numpy_transcription(name, x, y):
    """Straight from the formulas, in float64, with loops where a formula has pairs."""
    x, y = (np.asarray(f, np.float64).reshape(-1, f.shape[-1]) for f in (x, y))
    n = x.shape[1]
    if name == "gram":
        return ((x.T @ x / len(x) - y.T @ y / len(y)) ** 2).sum() / (4 * n**2)
    if name == "mean":
        return ((x.mean(0) - y.mean(0)) ** 2).mean()
    if name == "covariance":
        return ((np.cov(x.T, bias=True) - np.cov(y.T, bias=True)) ** 2).sum() / n**2
    if name == "batch-norm":
        return ((x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2).sum() / n
    if name == "wasserstein":
        a, b = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
        cross = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()  # tr (ab)^½, another way than ours
        return (((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * cross) / n
    if name == "histogram":
        levels = (np.arange(len(x)) + 0.5) / len(x)
        quantiles = np.quantile(y, levels, axis=0, method="hazen")
        return ((np.sort(x, 0) - quantiles) ** 2).mean()

    def kernel(u, v):
        if name == "mmd gaussian":
            spread = np.mean([((p - q) ** 2).sum() for p in x for q in y])
            return np.array([[np.exp(-((p - q) ** 2).sum() / (2 * spread)) for q in v] for p in u])
        degree, offset = {"mmd linear": (1, 0), "mmd polynomial": (2, 0.5), "mmd cubic": (3, 0.5)}[name]
        return np.array([[(p @ q + offset) ** degree for q in v] for p in u])

    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - {"sliced"}))
@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 4, 4)])
def test_against_a_transcription_also_for_another_size(name, shape):
    a, b = features(0, (4, 4, 4)), features(1, shape, 1.5) + 0.3
    # float32 against float64, and the small terms under the roots of batch-norm
    np.testing.assert_allclose(value(BUILDERS[name]("a", b), a), numpy_transcription(name, a, b), rtol=2e-4)


def test_wasserstein_of_fewer_positions_than_channels():
    """Singular covariances, as in deep layers: no digits are lost to roots of eigenvalues that are all rounding."""
    a, b = features(0, (4, 4, 100)), features(1, (3, 5, 100), 1.5) + 0.3
    loss = losses.wasserstein_gaussian("a", b)
    np.testing.assert_allclose(value(loss, a), numpy_transcription("wasserstein", a, b), rtol=2e-5)
    assert np.isfinite(jax.grad(lambda x: loss({"a": x}, None))(jnp.asarray(b))).all()


def test_sliced_distance_in_one_dimension_is_the_histogram():
    a, b = features(0, (5, 5, 1)), features(1, (5, 5, 1)) + 1
    sliced = losses.sliced_wasserstein("a", b, KEY, 3)  # every direction is ±1
    np.testing.assert_allclose(value(sliced, a), value(losses.histogram("a", b), a), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_gradient_against_finite_differences(name):
    """In float64, central differences of 1e-6 along a random direction; σ² of the Gaussian kernel is held fixed."""
    with jax.enable_x64(True):
        a, b, d = (np.random.default_rng(k).standard_normal((3, 4, 3)) for k in (0, 1, 2))  # no two values are equal
        loss = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), BUILDERS[name]("a", b))

        def f(x):
            return loss({"a": x}, None)

        slope = float(jnp.vdot(jax.grad(f)(a), d))
        h = 1e-6
        if name == "mmd gaussian":
            x, y = (jnp.asarray(v.reshape(-1, 3)) for v in (a, b))
            sigma = jnp.mean(jnp.sum((x[:, None] - y[None]) ** 2, -1))

            def f(x):
                x = x.reshape(-1, 3)

                def k(u, v):
                    return jnp.exp(-jnp.sum((u[:, None] - v[None]) ** 2, -1) / (2 * sigma)).mean()

                return k(x, x) + k(y, y) - 2 * k(x, y)

        difference = float((f(a + h * d) - f(a - h * d)) / (2 * h))
    np.testing.assert_allclose(slope, difference, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_gradients_are_finite_at_dead_channels():
    dead = features(0)
    dead[..., 1] = 0
    for name, build in BUILDERS.items():
        gradient = jax.grad(lambda x, build=build: build("a", features(1))({"a": x}, None))(jnp.asarray(dead))
        assert np.isfinite(gradient).all(), name


@pytest.mark.slow
def test_pairs_of_a_large_map_are_taken_block_by_block():
    a, b = features(0, (8, 8, 4)), features(1, (6, 11, 4)) + 0.3  # 64 and 66 positions: 4 blocks of 16
    loss = losses.mmd("a", b, "polynomial", degree=3, samples=16)
    (x, y) = (f.reshape(-1, 4)[losses.style._dealt(f.size // 4, 4, 16)].reshape(4, 1, 16, 4) for f in (a, b))
    each = [value(losses.mmd("a", y[k], "polynomial", degree=3), x[k]) for k in range(4)]
    np.testing.assert_allclose(value(loss, a), np.mean(each), rtol=1e-5)
    assert abs(value(loss, b)) < 1e-5 * value(loss, a)  # an image and itself are dealt alike
    gradient = jax.grad(lambda x: losses.mmd("a", b, samples=16)({"a": x}, None))(jnp.asarray(a))
    assert (np.abs(gradient).max(-1) > 0).all()  # every position takes part
    many = losses.mmd("a", features(2, (90, 70, 4)), samples=16)  # as many of the style's positions as of the image's
    assert many.arguments["features"].shape == (6300, 4)
    blocks = jax.make_jaxpr(lambda x: many({"a": x}, None))(jnp.asarray(a))
    assert max(v.aval.size for e in blocks.jaxpr.eqns for v in e.outvars) <= 6300 * 4
    few = losses.mmd("a", b[:1, :2], "gaussian", samples=16)  # fewer positions than blocks
    assert np.isfinite(value(few, a))


def test_blocks_are_dealt_over_the_whole_map():
    """A ramp to the right and a ramp to the left have the same values: blocks of neighbors would see two textures."""

    def cubic(a, b, **kw):
        return value(losses.mmd("a", b, "polynomial", degree=3, offset=1.0, **kw), a)

    ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32, 1)
    neighbors = ramp.reshape(4, 8, 32, 1)
    undealt = np.mean([cubic(x, y) for x, y in zip(neighbors, neighbors[::-1], strict=True)])
    assert undealt > 1
    assert abs(cubic(ramp[::-1, ::-1], ramp, samples=256)) < 0.01 * undealt  # blocks of 256 differ by chance


@pytest.mark.parametrize("name", BUILDERS)
def test_positions_are_those_of_the_masks(name):
    a, b, inside = features(0), features(1, scale=1.5) + 0.3, np.arange(3, 21, 2)
    masked = BUILDERS[name]("a", b, positions=inside)
    alone = BUILDERS[name]("a", b)
    np.testing.assert_allclose(value(masked, a), value(alone, a.reshape(1, 30, 4)[:, inside]), rtol=1e-5)
    with pytest.raises(joi.InputError, match="position 20 does not exist"):
        BUILDERS[name]("a", b, positions=[20]).check({"a": (4, 5, 4)})


def test_feature_distance_and_content():
    a, b = features(0), features(1)
    expected = np.square(a - b).sum() / np.square(b).sum()
    np.testing.assert_allclose(value(losses.feature_distance("a", b), a), expected, rtol=1e-5)
    region = np.zeros((6, 5, 1))
    region[:2] = 1
    expected = np.square(a - b)[:2].sum() / np.square(b)[:2].sum()
    np.testing.assert_allclose(value(losses.feature_distance("a", b, region), a), expected, rtol=1e-5)
    np.testing.assert_allclose(value(losses.content("a", b), a), np.square(a - b).mean(), rtol=1e-5)
    vector = losses.feature_distance("a", np.ones(3))
    assert float(vector({"a": jnp.zeros(3)}, None)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.mmd("a", features(0), "rbf"), "one of linear, polynomial, gaussian"),
        (lambda: losses.mmd("a", features(0), degree=0), "degree ≥ 1"),
        (lambda: losses.sliced_wasserstein("a", features(0), KEY, 0), "number of directions must be at least 1"),
        (lambda: losses.feature_distance("a", np.zeros((2, 2, 3))), "nothing to invert"),
        (lambda: losses.feature_distance("a", features(0), np.ones((3, 3, 3))), "do not fit"),
        (lambda: losses.gram("a", features(0)).check({"a": (3, 3, 5)}), "style of 4 channels for layer a, which has 5"),
        (lambda: losses.gram("b", features(0)).check({"a": (3, 3, 4)}), "unknown layer 'b'"),
        (lambda: losses.content("a", features(0)).check({"a": (3, 3, 4)}), "image of the size that is optimized"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(joi.InputError, match=message):
        call()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["gram", "mean", "covariance", "batch-norm", "mmd gaussian", "sliced", "histogram"])
def test_gradient_against_pytorch(name):
    """An independent transcription in another framework: value and gradient to 1e-4."""
    import torch

    a, b = (np.random.default_rng(k).standard_normal((6, 6, 8)).astype(np.float32) for k in (0, 1))  # no two are equal
    loss = BUILDERS[name]("a", b)
    mine, gradient = jax.value_and_grad(lambda x: loss({"a": x}, None))(jnp.asarray(a))
    leaf = torch.from_numpy(a).requires_grad_()
    x, y = leaf.reshape(-1, 8), torch.from_numpy(b).reshape(-1, 8)

    def centered(f):
        f = f - f.mean(0)
        return f.T @ f / len(f)

    def k(u, v, sigma):
        return torch.exp(-(torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist") ** 2) / (2 * sigma)).mean()

    if name == "gram":
        theirs = ((x.T @ x / 36 - y.T @ y / 36) ** 2).sum() / (4 * 64)
    elif name == "mean":
        theirs = ((x.mean(0) - y.mean(0)) ** 2).mean()
    elif name == "covariance":
        theirs = ((centered(x) - centered(y)) ** 2).mean()
    elif name == "batch-norm":
        spread = (x.var(0, correction=0) + 1e-5).sqrt() - (y.var(0, correction=0) + 1e-5).sqrt()
        theirs = ((x.mean(0) - y.mean(0)) ** 2 + spread**2).mean()
    elif name == "mmd gaussian":
        sigma = (torch.cdist(x, y) ** 2).mean().detach()
        z = x + 0  # cdist of a tensor with itself has a NaN gradient where the distance is zero
        pairs = ((x[:, None] - z[None]) ** 2).sum(-1)
        theirs = torch.exp(-pairs / (2 * sigma)).mean() + k(y, y, sigma) - 2 * k(x, y, sigma)
    else:  # the histogram is the sliced distance along the axes
        v = torch.from_numpy(np.array(loss.arguments["directions"])) if name == "sliced" else torch.eye(8)
        theirs = (((x @ v).sort(0).values - (y @ v).sort(0).values) ** 2).mean()
    theirs.backward()
    np.testing.assert_allclose(mine, theirs.item(), rtol=1e-4)
    difference = np.linalg.norm(gradient - leaf.grad.numpy()) / np.linalg.norm(leaf.grad.numpy())
    assert difference < 1e-4
