"""Streaming rankings against a NumPy transcription that sees the whole set at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.methods.exemplars.recipe import basis, random_directions, rank

COUNT = 23


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """8-bit images of various contrast; the last two are the same."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (COUNT, 12, 10, 3)) * rng.uniform(0.2, 1, (COUNT, 1, 1, 1))
    noise[-1] = noise[-2]
    return noise.astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(images, toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n, image in enumerate(images):
        joi.data.save_png(folder / f"{n:02}.png", image)
    return joi.data.load(str(folder), toy)


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_agrees_with_a_sort_of_all_scores(toy, dataset, images, pool):
    """Three layers in one pass, the last batch padded. Scores to 1e-5, the rounding of a product of 8 channels."""
    shapes = toy.layers()
    probes = {
        layer: np.concatenate([basis(shape[-1]), random_directions(jax.random.key(1), 5, shape[-1])])
        for layer, shape in shapes.items()
    }
    seen = []
    found = rank(
        toy, dataset, probes, k=4, pool=pool, on=joi.Resources(chunk=8, progress=lambda *done: seen.append(done))
    )
    assert seen == [(8, COUNT), (16, COUNT), (COUNT, COUNT)]
    activations = toy.apply(toy.params, images.astype(np.float32) / 255, tuple(shapes))
    for layer, vectors in probes.items():
        flat = np.asarray(activations[layer]).reshape(COUNT, -1, shapes[layer][-1])
        flat = flat.mean(1, keepdims=True) if pool == "mean" else flat
        products = np.einsum("npc,dc->ndp", flat, vectors)
        scores = products.max(-1).T
        for end, sign in ((found[layer].largest, -1), (found[layer].smallest, 1)):
            order = np.argsort(sign * scores, axis=1, kind="stable")[:, :4]
            np.testing.assert_allclose(end.value, np.take_along_axis(scores, order, 1), atol=1e-5)
            chosen = np.take_along_axis(scores, end.index, 1)  # by value: rounding may swap equal scores
            np.testing.assert_allclose(end.value, chosen, atol=1e-5)
            if pool == "mean" or len(shapes[layer]) == 1:
                assert end.position.shape == (len(vectors), 4, 0)
                continue
            place = np.ravel_multi_index(np.moveaxis(end.position, -1, 0), shapes[layer][:-1])
            there = products[end.index, np.arange(len(vectors))[:, None], place]
            np.testing.assert_allclose(there, end.value, atol=1e-5)


def test_earlier_images_win_ties(toy, dataset):
    """Channel 7 is dead, so all 23 images tie; the last two images are the same."""
    found = rank(toy, dataset, {"second": basis(8)}, k=COUNT, on=joi.Resources(chunk=5))["second"]
    np.testing.assert_array_equal(found.largest.index[7], np.arange(COUNT))
    np.testing.assert_array_equal(found.smallest.index[7], np.arange(COUNT))
    for end in found:
        for order in end.index.tolist():
            assert sorted(order) == list(range(COUNT))  # each image once
            assert order.index(COUNT - 2) < order.index(COUNT - 1)


def test_the_batch_makes_no_difference(toy, dataset):
    """To rounding: XLA may order the sums of another batch size differently."""
    probe = {"first": random_directions(jax.random.key(2), 3, 8)}
    one, other = (rank(toy, dataset, probe, k=3, on=joi.Resources(chunk=batch))["first"] for batch in (4, None))
    np.testing.assert_array_equal(one.largest.index, other.largest.index)
    np.testing.assert_allclose(one.largest.value, other.largest.value, rtol=1e-5)


def test_other_data_do_not_recompile(toy, dataset, compilations):
    def run(key, part):
        probe = {"first": random_directions(jax.random.key(key), 3, 8)}
        return rank(toy, dataset.select(part), probe, k=3, on=joi.Resources(chunk=4))

    run(0, range(9))
    with compilations() as counted:
        run(0, range(2, 20))
    assert counted.count == 0


def test_images_that_are_not_finite_are_passed_over(dataset, images):
    mean = images.reshape(COUNT, -1).mean(1) / 255
    cut = float(np.median(mean))
    model = joi.from_function(
        lambda p, x, taps: {"a": jnp.sqrt(x.mean((1, 2, 3)) - p)[:, None]}, cut, image_shape=(12, 10, 3), taps=("a",)
    )
    found = rank(model, dataset, {"a": basis(1)}, k=5, on=joi.Resources(chunk=4))["a"]
    assert (mean[found.largest.index] >= cut - 1e-6).all()
    assert (mean[found.smallest.index] >= cut - 1e-6).all()
    with pytest.raises(joi.InputError, match="finite for fewer than 20"):
        rank(model, dataset, {"a": basis(1)}, k=20)


def test_random_directions_are_even():
    """Unit vectors whose second moment is the identity over the dimension, to 4 standard errors of about 1/√4000."""
    vectors = random_directions(jax.random.key(0), 4000, 6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors.T @ vectors / 4000, np.eye(6) / 6, atol=0.02)
    assert np.abs(random_directions(jax.random.key(1), 1, 6) - vectors[:1]).max() > 0.1


@pytest.mark.parametrize(
    ("probes", "options", "hint"),
    [
        ({"frist": basis(8)}, {}, "nearest: first"),
        ({"first": basis(7)}, {}, r"\[directions, 8\]"),
        ({"first": basis(8)[:0]}, {}, r"shape \(0, 8\)"),
        ({}, {}, "no layer"),
        ({"first": basis(8)}, {"k": 24}, "from 1 to the 23 images"),
        ({"first": basis(8)}, {"k": 0}, "from 1"),
        ({"first": basis(8)}, {"pool": "sum"}, "known: max, mean"),
    ],
)
def test_mistakes(toy, dataset, probes, options, hint):
    with pytest.raises(joi.InputError, match=hint):
        rank(toy, dataset, probes, **options)


def test_mistakes_of_the_set_and_the_layer(toy, dataset):
    with pytest.raises(joi.InputError, match="is empty"):
        rank(toy, dataset.select([]), {"first": basis(8)}, k=1)
    number = joi.from_function(lambda p, x, taps: {"a": x.mean((1, 2, 3))}, 0.0, image_shape=(12, 10, 3), taps=("a",))
    with pytest.raises(joi.InputError, match="no channels"):
        rank(number, dataset, {"a": basis(1)})
    with pytest.raises(joi.InputError, match="channel 8 does not exist"):
        basis(8, [8])
