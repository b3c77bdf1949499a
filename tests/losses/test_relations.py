"""Losses among starts against Lucid's sums written out, and what they do in `minimize`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
STARTS = 6
MAPS = RNG.normal(size=(STARTS, 5, 4, 3)).astype(np.float32)


def among_starts(loss, maps=MAPS):
    return np.asarray(jax.vmap(loss, axis_name="starts")({"map": maps}, maps))


def lucid_diversity(maps):
    """`optvis.objectives.diversity`, transcribed: the sum over all ordered pairs by the number of images."""
    grams = [f.T @ f for f in maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float64)]
    grams = [g / np.linalg.norm(g) for g in grams]
    pairs = [(a * b).sum() for i, a in enumerate(grams) for j, b in enumerate(grams) if i != j]
    return sum(pairs) / len(maps)


def lucid_alignment(maps, decay):
    """`optvis.objectives.alignment`, transcribed, without its minus sign."""
    total = 0.0
    for d in (1, 2, 3, 4):
        for i in range(len(maps) - d):
            total += ((maps[i] - maps[i + d]) ** 2).mean() / decay**d
    return total


def test_diversity_is_lucids():
    values = among_starts(joi.losses.diversity("map"))
    assert values.shape == (STARTS,)
    np.testing.assert_allclose(values.sum() * (STARTS - 1) / STARTS, lucid_diversity(MAPS), rtol=1e-5)


@pytest.mark.parametrize("starts", [2, STARTS])
def test_alignment_is_lucids(starts):
    values = among_starts(joi.losses.alignment("map", 3.0), MAPS[:starts])
    np.testing.assert_allclose(values.sum(), lucid_alignment(MAPS[:starts], 3.0), rtol=1e-5)


def test_interpolation_leads_from_one_to_the_other():
    first, second = joi.losses.channel("map", 0), 2 * joi.losses.channel("map", 1)
    t = np.arange(STARTS) / (STARTS - 1)
    expected = (1 - t) * MAPS[..., 0].mean((1, 2)) + t * 2 * MAPS[..., 1].mean((1, 2))
    np.testing.assert_allclose(among_starts(joi.losses.interpolation(first, second)), expected, rtol=1e-4, atol=1e-6)


def test_caricature_and_shortfall():
    """dot · max(0.1, cos)^p over the whole map, as Lucid's `dot_compare` but divided by the picture's norm."""
    there, own = MAPS[0], MAPS[0] + MAPS[1]
    dot = (there * own).sum()
    cosine = dot / np.linalg.norm(there) / np.linalg.norm(own)
    value = joi.losses.caricature("map", there, 2.0)({"map": own}, None)
    np.testing.assert_allclose(value, dot / np.linalg.norm(there) * cosine**2, rtol=1e-5)
    short = joi.losses.shortfall("map", 1, (2, 3))({"map": own}, None)
    np.testing.assert_allclose(short, own.max() - own[2, 3, 1], rtol=1e-6)
    no_gradient = jax.grad(lambda a: joi.losses.caricature("map", there)({"map": a}, None))(np.zeros_like(there))
    assert bool(jnp.isfinite(no_gradient).all())


def test_a_caricature_that_looks_elsewhere_keeps_a_slope():
    """Below a cosine of 0.1 the factor is 0.1: what points away is worth a tenth, and still draws the image there."""
    there = np.array([[[1.0, 0.0]]])
    loss = joi.losses.caricature("map", there)
    for cosine, factor in ((-0.5, 0.1), (0.05, 0.1), (0.5, 0.5)):
        own = 2 * np.array([[[cosine, np.sqrt(1 - cosine**2)]]])
        np.testing.assert_allclose(loss({"map": own}, None), 2 * cosine * factor, rtol=1e-4)
    slope = jax.grad(lambda a: loss({"map": a}, None))(np.array([[[0.0, 1.0]]]))
    np.testing.assert_allclose(slope, [[[0.1, 0.0]]], rtol=1e-4, atol=1e-6)


def solve(loss, model, **kw):
    options = {"image": joi.images.pixels(sd=0.1), "optimizer": joi.optimizers.adam(0.05), "steps": 12, "starts": 3}
    return joi.minimize(loss, model, **{**options, "key": KEY, **kw})


@pytest.mark.slow
def test_diversity_makes_the_starts_of_each_target_differ(toy):
    """Two targets in one program, each with the starts of its own; the same alone, whatever the others are."""
    channels = -joi.losses.channel("second", [1, 3])
    diverse = channels + 10 * joi.losses.diversity("second")

    def alike(solution, target):
        maps = toy.apply(toy.params, solution.image[3 * target : 3 * target + 3], ("second",))["second"]
        return lucid_diversity(np.asarray(maps))

    rule = joi.optimizers.sgd(1.0)  # a longer step would blow rounding up
    plain, other = solve(channels, toy, optimizer=rule), solve(diverse, toy, optimizer=rule)
    assert alike(other, 0) < alike(plain, 0) - 0.02
    assert alike(other, 1) < alike(plain, 1) - 0.02
    # Each target's starts in a chunk of their own. What another chunk shape rounds, further steps would blow up.
    two = {"optimizer": rule, "steps": 2}
    split = solve(diverse, toy, on=joi.Resources(chunk=3), **two)
    np.testing.assert_allclose(split.image, solve(diverse, toy, **two).image, atol=1e-4)


def test_interpolation_ends_are_the_targets_alone(toy):
    ends = [-joi.losses.channel("second", channel) for channel in (1, 3)]
    between = solve(joi.losses.interpolation(*ends), toy, steps=3)
    assert between.names[0] == "second:1~second:3"
    names = {"second:1": ends[0], "second:3": ends[1]}
    for lane, end in zip((0, 2), names.values(), strict=True):
        initial = np.asarray(solve(joi.losses.interpolation(*ends), toy, steps=3, snapshots=(0,)).snapshots[0])
        alone = solve(end, toy, steps=3, initial=initial)
        np.testing.assert_allclose(between.image[lane], alone.image[lane], atol=1e-4)  # rounding


@pytest.mark.slow
def test_shared_levels_stay_one_for_all_starts_of_a_target(toy):
    image = joi.images.pyramid(levels=3, shared_levels=2)
    s = solve(-joi.losses.channel("second", [1, 3]), toy, image=image, starts=2)
    own, *shared = (np.asarray(layer).reshape(2, 2, *layer.shape[1:]) for layer in s.theta)
    assert np.ptp(own, axis=1).max() > 0.1
    for layer in shared:
        np.testing.assert_allclose(np.ptp(layer, axis=1), 0, atol=1e-6)
        assert np.abs(layer[0] - layer[1]).max() > 0.1  # the targets do not share them
    assert bool((s.loss[:, -1] < s.loss[:, 0]).all())


@pytest.mark.parametrize(
    ("loss", "kw", "hint"),
    [
        (joi.losses.diversity("second"), {"starts": 1}, "at least 2 starts"),
        (joi.losses.diversity("second"), {"on": joi.Resources(chunk=2)}, "raise chunk from 2 to 3"),
        (joi.losses.diversity("second"), {"optimizer": joi.optimizers.lbfgs()}, "line search"),
        (joi.losses.alignment("secnd"), {}, "nearest: second"),
        (joi.losses.caricature("second", np.ones((2, 2, 2))), {}, "same size"),
        (
            joi.losses.channel("second", 1),
            {"image": joi.images.pyramid(shared_levels=1), "on": joi.Resources(chunk=4)},
            "to 6",
        ),
        (
            joi.losses.channel("second", 1),
            {"optimizer": joi.optimizers.lbfgs(), "watch": joi.Watch(milestone=joi.losses.shortfall("second", 1))},
            "milestone",
        ),
        (
            joi.losses.channel("second", 1),
            {"watch": joi.Watch(milestone=joi.losses.shortfall("second", 8))},
            "channel 8",
        ),
    ],
)
def test_mistakes(toy, loss, kw, hint):
    with pytest.raises(joi.InputError, match=hint):
        solve(loss, toy, **kw)


def test_builders_refuse():
    with pytest.raises(joi.InputError, match="a loss is built from"):
        joi.losses.interpolation(joi.losses.channel("map", 0), "map:1")
    with pytest.raises(joi.InputError, match="nothing to overdo"):
        joi.losses.caricature("map", np.zeros((2, 2, 2))).check({"map": (2, 2, 2)})
