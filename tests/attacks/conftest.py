"""Networks whose adversarial examples are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.projections import NORMS

SHAPES = ((4, 5, 3), (8, 8, 1), (1, 7, 3))
DUAL = {"l1": lambda w: np.abs(w).max(), "l2": lambda w: np.sqrt((w**2).sum()), "linf": lambda w: np.abs(w).sum()}


def halfspace_apply(params, image, taps):
    score = jnp.einsum("nhwc,hwc->n", image - 0.5, params["w"]) - params["b"]
    return {"logits": jnp.stack([-score / 2, score / 2], -1)}


class Halfspace:
    """Two classes parted by a hyperplane, images near it, and their distances to it in closed form."""

    def __init__(self, shape, n=8, seed=0):
        rng = np.random.default_rng(seed)
        w = rng.normal(size=shape).astype(np.float32)
        images = rng.uniform(0.45, 0.55, (8, *shape)).astype(np.float32)
        score = np.einsum("nhwc,hwc->n", images.astype(np.float64) - 0.5, w)
        # Bring each image to a gap that no norm's optimum leaves the box for: at most 0.25 of the largest weight.
        wanted = rng.uniform(0.1, 0.25, 8) * np.abs(w).max() * np.where(np.arange(8) % 2, 1, -1)
        images = (images + ((wanted - score) / (w**2).sum())[:, None, None, None] * w).astype(np.float32)[:n]
        self.gap = np.abs(np.einsum("nhwc,hwc->n", images.astype(np.float64) - 0.5, w))
        self.images, self.labels = images, (np.arange(8) % 2)[:n].astype(np.int32)
        params = {"w": jnp.asarray(w), "b": jnp.float32(0)}
        self.model = joi.from_function(halfspace_apply, params, image_shape=shape, taps=("logits",), name="halfspace")
        self.optimum = {p: self.gap / DUAL[p](w) for p in NORMS}


@pytest.fixture(scope="session")
def halfspace():
    return Halfspace


@pytest.fixture(scope="session")
def flat(toy):
    """The toy network, its gradient hidden."""
    return dataclasses.replace(toy, apply=lambda params, x, taps: toy.apply(params, jax.lax.stop_gradient(x), taps))


@pytest.fixture(scope="session")
def probable(toy):
    """The toy network with a softmax at its end, in float32 and in bfloat16."""

    def apply(params, image, taps):
        out = toy.apply(params, image, taps)
        return {tap: jax.nn.softmax(a) if tap == "logits" else a for tap, a in out.items()}

    model = dataclasses.replace(toy, apply=apply)
    return {"float32": model, "bfloat16": joi.models.model.in_dtype(model, "bfloat16")}


@pytest.fixture(scope="session")
def cliff():
    """Three classes: the logs of what the mean colors have above 0.49; not finite below."""
    return joi.from_function(
        lambda level, x, taps: {"logits": jnp.log(x.mean((1, 2)) - level)},
        jnp.float32(0.49),
        image_shape=(6, 6, 3),
        taps=("logits",),
        name="cliff",
    )


@pytest.fixture(scope="session")
def toy_batch(toy):
    """Eight images and the classes that the toy network gives them."""
    images = np.asarray(jax.random.uniform(jax.random.key(5), (8, 12, 10, 3)), np.float32)
    labels = np.asarray(toy.activations(images, ["logits"])["logits"].argmax(-1), np.int32)
    return images, labels
