"""The measures against their definitions, and a data set of known coherence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.methods.directions.recipe import (
    class_entropy,
    compare_directions,
    pair_similarity,
    random_sets,
    shown_rows,
    summarize,
)


@pytest.fixture(scope="module")
def colors(linear, tmp_path_factory):
    """12 images per class, each of its class's color in another brightness."""
    folder, rng = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for channel, name in enumerate(linear.info.labels):
        (folder / name).mkdir()
        for n in range(12):
            image = np.zeros((6, 6, 3))
            image[..., channel] = rng.uniform(0.5, 1)
            joi.data.save_png(folder / name / f"{n:02}.png", image)
    return joi.data.load(str(folder), linear)


def test_class_entropy_is_that_of_the_shares():
    labels = np.random.default_rng(0).integers(0, 4, (50, 7))
    for entropy, row in zip(class_entropy(labels), labels, strict=True):
        share = np.unique(row, return_counts=True)[1] / 7
        np.testing.assert_allclose(entropy, -(share * np.log2(share)).sum(), atol=1e-12)


def test_pair_similarity_is_the_mean_of_all_pairs():
    features = np.random.default_rng(0).normal(size=(5, 6, 3))
    features[2, 1] = 0
    for similarity, rows in zip(pair_similarity(features), features, strict=True):
        lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
        cosines = [rows[a] @ rows[b] / lengths[a] / lengths[b] for a, b in itertools.combinations(range(6), 2)]
        np.testing.assert_allclose(similarity, np.mean(cosines), atol=1e-12)


def test_intervals_have_the_width_of_the_standard_error():
    """The percentile interval of 400 normal numbers is ±1.96 σ/√n; 2000 resamples leave 3 % at an end."""
    rng = np.random.default_rng(0)
    measured = {
        group: {"entropy": rng.normal(mean, 1, 400), "similarity": None}
        for group, mean in (("units", 3), ("directions", 1), ("random", 0))
    }
    intervals = summarize(jax.random.key(0), measured)
    for group, values in measured.items():
        interval = intervals[group]["entropy"]
        error = values["entropy"].std() / 20
        np.testing.assert_allclose(interval.mean, values["entropy"].mean())
        np.testing.assert_allclose(
            [interval.low - interval.mean, interval.high - interval.mean], [-1.96 * error, 1.96 * error], rtol=0.15
        )
        np.testing.assert_allclose(interval.high - interval.low, 2 * 1.96 * error, rtol=0.1)
        assert intervals[group]["similarity"] is None
    difference = intervals["units - directions"]["entropy"]
    np.testing.assert_allclose(
        difference.mean, intervals["units"]["entropy"].mean - intervals["directions"]["entropy"].mean
    )
    errors = [measured[group]["entropy"].std() / 20 for group in ("units", "directions")]
    np.testing.assert_allclose(difference.high - difference.low, 2 * 1.96 * np.hypot(*errors), rtol=0.1)


def test_random_sets():
    """No image twice in a set, and every image as often as any other: 2000 of 10 leave ±4 standard errors of 0.01."""
    sets = random_sets(jax.random.key(0), 2000, 4, 10)
    assert all(len(set(row)) == 4 for row in sets.tolist())
    np.testing.assert_allclose(np.bincount(sets.ravel()) / 2000, 0.4, atol=0.045)
    np.testing.assert_array_equal(sets, random_sets(jax.random.key(0), 2000, 4, 10))
    assert (sets != random_sets(jax.random.key(1), 2000, 4, 10)).any()


def test_pure_colors(linear, colors):
    """Each unit's images are of one class; random sets of 4 of 36 images in 3 classes have 1.28 bits on average."""
    comparison = compare_directions(linear, colors, "logits", directions=6, k=4, key=jax.random.key(0))
    assert comparison.names[:3] == ("logits:0", "logits:1", "logits:2")
    assert comparison.units == 3
    assert comparison.silent == ()
    assert {name: len(sets) for name, sets in comparison.sets.items()} == {"units": 3, "directions": 6, "random": 256}
    for channel, chosen in enumerate(comparison.sets["units"]):
        first = 12 * colors.classes.index(linear.info.labels[channel])
        assert set(chosen.tolist()) <= set(range(first, first + 12))
    entropy = {group: measures["entropy"] for group, measures in comparison.coherence.items()}
    assert entropy["units"] == (0, 0, 0)
    assert 1.15 < entropy["random"].mean < 1.4
    similarity = comparison.coherence["units"]["similarity"]
    assert similarity.low > 0.9
    assert abs(comparison.coherence["random"]["similarity"].mean) < 0.1
    again = compare_directions(linear, colors, "logits", directions=6, k=4, key=jax.random.key(0))
    assert again.coherence == comparison.coherence
    np.testing.assert_array_equal(again.vectors, comparison.vectors)


def test_silent_units_have_no_set(toy, tmp_path):
    rng = np.random.default_rng(0)
    for n in range(9):
        joi.data.save_png(tmp_path / f"{n}.png", rng.random((12, 10, 3)))
    data = joi.data.load(str(tmp_path), toy)
    comparison = compare_directions(toy, data, "second", directions=2, k=3, key=jax.random.key(0))
    assert "second:7" in comparison.silent
    assert len(comparison.sets["units"]) == 8 - len(comparison.silent)
    assert comparison.coherence["units"]["entropy"] is None  # no labels
    assert comparison.coherence["units"]["similarity"] is not None
    units, directions = shown_rows(comparison, 20)
    assert 7 not in units
    assert directions == [8, 9]


@pytest.mark.parametrize(
    ("layer", "options", "hint"),
    [
        ("logitz", {}, "nearest: logits"),
        ("logits", {"k": 1}, "at least 2"),
        ("logits", {"k": 37}, "from 1 to the 36 images"),
        ("logits", {"directions": 0}, "at least 1"),
        ("logits", {"units": range(4)}, "channel 3 does not exist"),
        ("logits", {"embedding": "blok"}, "unknown layer 'blok'"),
    ],
)
def test_mistakes(linear, colors, layer, options, hint):
    with pytest.raises(joi.InputError, match=hint):
        compare_directions(linear, colors, layer, key=jax.random.key(0), **options)


def test_a_constant_layer_and_one_without_channels(colors):
    model = joi.from_function(
        lambda p, x, taps: {tap: {"constant": x[:, 0, 0] * 0 + p, "number": x[:, 0, 0, 0]}[tap] for tap in taps},
        jnp.ones(3), image_shape=(6, 6, 3), taps=("constant", "number"),
    )  # fmt: skip
    with pytest.raises(joi.InputError, match="constants"):
        compare_directions(model, colors, "constant", directions=2, k=2, key=jax.random.key(0))
    with pytest.raises(joi.InputError, match="no channels"):
        compare_directions(model, colors, "number", key=jax.random.key(0))
