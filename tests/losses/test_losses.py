"""Losses against NumPy transcriptions of their formulas, and their gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi

RNG = np.random.default_rng(0)
ACTS = {"map": RNG.normal(size=(5, 4, 6)).astype(np.float32), "logits": RNG.normal(size=7).astype(np.float32)}
IMAGE = RNG.uniform(size=(8, 9, 3)).astype(np.float32)
VECTOR = RNG.normal(size=6).astype(np.float32)


def lucid_direction(a, v, power):
    """`optvis.objectives._dot_cossim`, transcribed."""
    dot = (a * v).sum(-1)
    cos = dot / (1e-4 + np.sqrt((a * a).sum(-1))) / (1e-4 + np.sqrt((v * v).sum()))
    return np.mean(dot * np.maximum(0.1, cos) ** power)


def tv(x, beta):
    total = 0.0
    for c in range(x.shape[2]):
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                dy = x[i + 1, j, c] - x[i, j, c] if i + 1 < x.shape[0] else 0.0
                dx = x[i, j + 1, c] - x[i, j, c] if j + 1 < x.shape[1] else 0.0
                total += (dx * dx + dy * dy) ** (beta / 2)
    return total


LOSSES = {
    "channel": (joi.losses.channel("map", 2), lambda a, x: a["map"][..., 2].mean()),
    "channel of a vector": (joi.losses.channel("logits", 2), lambda a, x: a["logits"][2]),
    "unit": (joi.losses.unit("map", 2, (4, 1)), lambda a, x: a["map"][4, 1, 2]),
    "center unit": (joi.losses.unit("map", 2), lambda a, x: a["map"][2, 2, 2]),
    "unit of a vector": (joi.losses.unit("logits", 6), lambda a, x: a["logits"][6]),
    "layer": (joi.losses.layer("map"), lambda a, x: (a["map"] ** 2).mean()),
    "dot": (joi.losses.direction("map", VECTOR), lambda a, x: (a["map"] @ VECTOR).mean()),
    "dot times cosine": (joi.losses.direction("map", VECTOR, 2), lambda a, x: lucid_direction(a["map"], VECTOR, 2)),
    "logit": (joi.losses.class_logit(3), lambda a, x: a["logits"][3]),
    "log-probability": (
        joi.losses.class_log_probability(3),
        lambda a, x: a["logits"][3] - np.log(np.exp(a["logits"]).sum()),
    ),
    "probability": (
        joi.losses.class_probability(3),
        lambda a, x: np.exp(a["logits"][3]) / np.exp(a["logits"]).sum(),
    ),
    "l2": (joi.losses.l2_decay(), lambda a, x: ((x - 0.5) ** 2).sum()),
    "alpha": (joi.losses.alpha_norm(6), lambda a, x: (np.abs(x - 0.5) ** 6).sum()),
    "alpha 1": (joi.losses.alpha_norm(1, 0.25), lambda a, x: np.abs(x - 0.25).sum()),
    "pixel norm": (joi.losses.pixel_norm(6), lambda a, x: (((x - 0.5) ** 2).sum(-1) ** 3).sum()),
    "pixel norm 1": (joi.losses.pixel_norm(1, 0.25), lambda a, x: np.sqrt(((x - 0.25) ** 2).sum(-1)).sum()),
    "tv": (joi.losses.total_variation(), lambda a, x: tv(x, 2)),
    "tv 1": (joi.losses.total_variation(1), lambda a, x: tv(x, 1)),
    "tv 2.5": (joi.losses.total_variation(2.5), lambda a, x: tv(x, 2.5)),
    "tv l1": (
        joi.losses.total_variation_l1(),
        lambda a, x: np.abs(np.diff(x, axis=0)).sum() + np.abs(np.diff(x, axis=1)).sum(),
    ),
    "sum": (
        -joi.losses.channel("map", 2) + 2 * (joi.losses.class_logit(3) - joi.losses.l2_decay() / 4),
        lambda a, x: -a["map"][..., 2].mean() + 2 * (a["logits"][3] - ((x - 0.5) ** 2).sum() / 4),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value(name):
    loss, expected = LOSSES[name]
    # Both sides sum a few hundred float32 numbers, in different orders.
    np.testing.assert_allclose(loss(ACTS, IMAGE), expected(ACTS, IMAGE), rtol=2e-5)
    np.testing.assert_allclose(jax.jit(lambda one: one(ACTS, IMAGE))(loss), expected(ACTS, IMAGE), rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    """Directional derivatives by central differences in float64."""
    loss, _ = LOSSES[name]
    with jax.enable_x64():
        acts, image = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (ACTS, IMAGE))
        gradient = jax.grad(lambda both: loss(*both))((acts, image))
        for seed in range(3):
            rng = np.random.default_rng(seed)
            step = jax.tree.map(lambda x, rng=rng: jnp.asarray(rng.normal(size=x.shape)), (acts, image))
            h = 1e-6
            moved = [jax.tree.map(lambda x, d, s=s: x + s * d, (acts, image), step) for s in (h, -h)]
            difference = (loss(*moved[0]) - loss(*moved[1])) / (2 * h)
            slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
            np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [joi.losses.total_variation(1), joi.losses.alpha_norm(1), joi.losses.alpha_norm(0.5)])
def test_gradient_is_finite_where_the_power_is_not_smooth(loss):
    flat = jnp.full((4, 4, 3), 0.5)
    assert float(loss({}, flat)) == 0
    assert bool((jax.grad(lambda x: loss({}, x))(flat) == 0).all())


def test_direction_at_a_dead_position_has_a_finite_gradient():
    loss = joi.losses.direction("map", VECTOR, 2)
    gradient = jax.grad(lambda a: loss({"map": a}, None))(jnp.zeros((2, 2, 6)))
    assert bool(jnp.isfinite(gradient).all())


def test_taps_and_names():
    loss = -joi.losses.channel("map", [2, 4]) + 1e-3 * joi.losses.total_variation() + joi.losses.class_logit(1)
    assert loss.taps == ("map", "logits")
    assert joi.losses.names(loss) == ("map:2+class:1", "map:4+class:1")
    assert joi.losses.names(joi.losses.unit("map", 1, (2, 3))) == ("map:1@2,3",)
    assert joi.losses.names(joi.losses.layer("map")) == ("map",)
    assert joi.losses.names(joi.losses.l2_decay()) == ("image",)
    assert joi.losses.names(-joi.losses.class_logit(1)) == joi.losses.names(5 * joi.losses.class_logit(1))


def test_sum_of_many():
    losses = [joi.losses.channel("map", k) for k in range(3)]
    np.testing.assert_allclose(sum(losses)(ACTS, IMAGE), ACTS["map"][..., :3].mean((0, 1)).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "hint"),
    [
        (joi.losses.channel("mop", 0), "nearest: map"),
        (joi.losses.channel("map", 6), "channel 6 does not exist: layer map has 6"),
        (joi.losses.channel("map", -1), "channel -1"),
        (joi.losses.unit("map", 1, (5, 0)), "row 5"),
        (joi.losses.unit("map", 1, (0, 4)), "column 4"),
        (joi.losses.unit("logits", 1, (0, 0)), "no positions"),
        (joi.losses.unit("map", 1, (1, 2, 3)), "row, column"),
        (joi.losses.class_logit([1, 7]), "class 7"),
        (joi.losses.direction("map", np.ones(5)), "length 5"),
        (-joi.losses.layer("map") + joi.losses.layer("nowhere"), "nowhere"),
    ],
)
def test_check_names_the_mistake(loss, hint):
    with pytest.raises(joi.InputError, match=hint):
        loss.check({tap: a.shape for tap, a in ACTS.items()})
