"""Patches against what units see, and the images of several targets at once."""

import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine.target import expand
from jaxopt_input.methods.exemplars.beside import beside_targets, patch, show
from jaxopt_input.methods.exemplars.recipe import basis, rank
from jaxopt_input.models.receptive import ReceptiveField, receptive_field


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 12, 10, 3), np.uint8)


@pytest.fixture(scope="module")
def dataset(images, toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n, image in enumerate(images):
        joi.data.save_png(folder / f"{n:02}.png", image)
    return joi.data.load(str(folder), toy)


def test_a_patch_is_all_that_its_unit_sees(toy, images):
    """With the patch in its place and noise around it, the unit answers the same."""
    field = receptive_field(toy, "second")
    image = images[0].astype(np.float32) / 255
    active = np.asarray(toy.apply(toy.params, image[None], ("second",))["second"])[0, 2:-2, 2:-2].sum(-1)
    row, column = np.add(np.unravel_index(active.argmax(), active.shape), 2).tolist()
    cut = patch(image, (row, column), field)
    assert cut.shape == (5, 5, 3)
    other = np.random.default_rng(1).random(image.shape, np.float32)
    other[row - 2 : row + 3, column - 2 : column + 3] = cut
    both = np.asarray(toy.apply(toy.params, np.stack([image, other]), ("second",))["second"])
    np.testing.assert_allclose(both[1, row, column], both[0, row, column], atol=1e-6)
    assert both[0, row, column].max() > 0
    assert np.abs(both[1] - both[0]).max() > 1e-3


def test_patches_stay_inside_the_image():
    image = np.arange(12).reshape(4, 3, 1)
    field = ReceptiveField(size=(2, 7), stride=(1, 1), offset=(-1, -3))
    assert patch(image, (0, 0), field)[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert patch(image, (4, 2), field)[..., 0].tolist() == [[6, 7, 8], [9, 10, 11]]


def test_show(toy, dataset, images):
    ranking = rank(toy, dataset, {"first": basis(8)}, k=2)["first"]
    field = receptive_field(toy, "first")
    for row, ends in zip([3, 0], show(dataset, ranking, [3, 0], field), strict=True):
        for end, exemplars in zip(ranking, ends, strict=True):
            for n, exemplar in enumerate(exemplars):
                assert exemplar.index == end.index[row, n]
                assert exemplar.name.endswith(f"{exemplar.index:02}.png")
                assert (exemplar.label, exemplar.value) == (-1, end.value[row, n])
                cut = patch(images[exemplar.index], exemplar.position, field)
                np.testing.assert_array_equal(exemplar.picture, cut)


def test_beside_targets(toy, dataset, images):
    """Layers, channels and classes in one pass, each with the images of its channel."""
    texts = ("class:dog", "first:2@center", "-first:2", "second:*")
    targets = [target for text in texts for target in expand(text, toy)]
    beside = beside_targets(toy, dataset, targets, k=2)
    assert set(beside.ends) == {("logits", 3), ("first", 2), *(("second", n) for n in range(8))}
    logits = np.asarray(toy.apply(toy.params, images.astype(np.float32) / 255, ("logits",))["logits"])[:, 3]
    largest, smallest = beside.ends["logits", 3]
    assert (largest[0].index, smallest[0].index) == (logits.argmax(), logits.argmin())
    assert largest[0].picture.shape == (12, 10, 3)
    assert beside.ends["first", 2][0][0].picture.shape == (3, 3, 3)
    assert beside.ends["second", 1][0][0].picture.shape == (5, 5, 3)


@pytest.mark.parametrize("text", ["first", "first:1+first:2", "first:1~first:2"])
def test_beside_targets_without_one_number_per_image(toy, dataset, text):
    with pytest.raises(joi.InputError, match="no data can be shown beside first"):
        beside_targets(toy, dataset, expand(text, toy))
