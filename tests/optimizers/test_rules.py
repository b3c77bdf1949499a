"""Yosinski's rule against a direct transcription of his formulas to NumPy, in the units of his toolbox."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.optimizers import rules

SHAPE = (14, 11, 3)
# The numbers of the four presets; learning rates suit the toy objective below.
SETTINGS = [
    {"learning_rate": 100.0, "desired_progress": 2.0, "blur_sigma": 0.5, "blur_every": 4, "norm_percentile": 50},
    {"learning_rate": 40.0, "decay": 0.3, "norm_percentile": 20},
    {"learning_rate": 40.0, "decay": 1e-4, "blur_sigma": 1.0, "blur_every": 4},
    {"learning_rate": 1e8, "desired_progress": 2.0, "blur_sigma": 0.5, "blur_every": 4, "contribution_percentile": 90},
]


def blur(plane, sigma):
    """scipy.ndimage.gaussian_filter, written out: kernel cut at int(4 σ + .5), mirrored at the border."""
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (reach, reach)
        padded = np.pad(plane, widths, mode="symmetric")
        plane = np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), axis, padded)
    return plane


def transcribed(x, gradient_of, steps, learning_rate, desired_progress=0, decay=0, blur_sigma=0, blur_every=0,
                norm_percentile=0, contribution_percentile=0):  # fmt: skip
    """The loop of his toolbox: x in 0 to 255 around the mean 127.5, colors last; the iterates after each clipping."""
    found = []
    for i in range(steps + 1):
        x = np.minimum(255.0, np.maximum(0.0, x + 127.5)) - 127.5
        found.append(x)
        g = gradient_of(x)
        rate = min(learning_rate, desired_progress / np.linalg.norm(g) ** 2) if desired_progress else learning_rate
        x = (x + rate * g) * (1 - decay)
        if blur_every and i % blur_every == 0:
            x = np.stack([blur(x[..., c], blur_sigma) for c in range(x.shape[-1])], -1)
        if norm_percentile:
            norm = np.linalg.norm(x, axis=-1)
            x = x * (norm >= np.percentile(norm, norm_percentile))[..., None]
        if contribution_percentile:
            benefit = abs((g * -x).sum(-1))
            x = x * (benefit >= np.percentile(benefit, contribution_percentile))[..., None]
    return found


@pytest.mark.parametrize("settings", SETTINGS)
def test_ten_steps_of_the_toolbox(settings):
    """A quadratic objective through `minimize`: ten updates to 1e-5 of the norm (float32 against float64)."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(np.prod(SHAPE), 4)) / 40
    start = np.clip(127.5 + rng.normal(0, 10, SHAPE), 0, 255) / 255

    def apply(params, image, taps):
        x = 255 * image.reshape(len(image), -1) - 127.5
        projected = jnp.matmul(x, params, precision="highest")
        return {"logits": projected + 0.01 * projected**2}

    model = joi.from_function(apply, jnp.asarray(direction, jnp.float32), image_shape=SHAPE, taps=("logits",))
    s = joi.minimize(-joi.losses.class_logit(2), model, image=joi.images.pixels(), steps=10, snapshots=range(11),
                     optimizer=joi.optimizers.yosinski(**settings), initial=start.astype(np.float32),
                     key=jax.random.key(0))  # fmt: skip

    def gradient_of(x):
        d = direction[:, 2]
        return ((1 + 0.02 * (x.ravel() @ d)) * d).reshape(SHAPE)

    expected = transcribed(255 * start.astype(np.float32).astype(np.float64) - 127.5, gradient_of, 10, **settings)
    for ours, theirs in zip(s.snapshots[:, 0], expected, strict=True):
        error = np.linalg.norm(255 * np.asarray(ours, np.float64) - 127.5 - theirs)
        assert error <= 1e-5 * np.linalg.norm(theirs)
    assert np.linalg.norm(expected[-1] - expected[0]) > 10  # they have moved
    assert not np.allclose(expected[-1], expected[-2], atol=0.1)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0])
def test_blur(sigma):
    image = np.random.default_rng(1).normal(size=(9, 6, 2)).astype(np.float32)
    expected = np.stack([blur(image[..., c].astype(np.float64), sigma) for c in range(2)], -1)
    np.testing.assert_allclose(rules.gaussian_blur(image, sigma), expected, atol=1e-6)  # rounding


def test_other_numbers_do_not_recompile(toy, compilations):
    def solve(rate, sigma, percentile):
        rule = joi.optimizers.yosinski(rate, blur_sigma=sigma, norm_percentile=percentile)
        return joi.minimize(-joi.losses.unit("second", 1), toy, image=joi.images.pixels(), optimizer=rule, steps=3,
                            key=jax.random.key(0))  # fmt: skip

    solve(100.0, 0.5, 10)
    with compilations() as seen:
        solve(50.0, 1.0, 20)
    assert seen.count == 0


@pytest.mark.parametrize(
    "mistake",
    [{"blur_sigma": 3.0}, {"decay": 2.0}, {"norm_percentile": 101}, {"blur_sigma": 1.0, "blur_every": 0},
     {"learning_rate": 0.0}, {"mean": 127.0}],
)  # fmt: skip
def test_mistakes(mistake):
    with pytest.raises(joi.InputError):
        joi.optimizers.yosinski(**mistake)


@pytest.mark.parametrize("least", [0.5, 4.0])
def test_the_rate_is_larger_where_the_first_gradient_is_small(least):
    """A gradient of norm 1 moves an image by the rate, or by `least` times it; the factor is the start's."""
    gradients = [np.eye(1, 12, 3).reshape(2, 2, 3) * size for size in (0.0, 1.0, 3.0)]
    rule = rules.yosinski(2.0, least_gradient=least)
    image = jnp.full((2, 2, 3), 0.5)
    state = rule.init(image)
    moved = []
    for gradient in gradients:
        update, state = rule.update(jnp.asarray(-255 * gradient, jnp.float32), state, image)
        moved.append(float(255 * np.abs(update).sum()))
    np.testing.assert_allclose(moved, [0.0, 2 * max(1, least), 6 * max(1, least)], rtol=1e-4)  # of a difference to 0.5


def test_only_pixels(toy):
    with pytest.raises(joi.InputError, match="pixels"):
        joi.minimize(-joi.losses.unit("second", 1), toy, optimizer=joi.optimizers.yosinski(), steps=1,
                     key=jax.random.key(0))  # fmt: skip
