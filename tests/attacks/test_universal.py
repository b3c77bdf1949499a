"""Universal perturbations: one change for many images, within its budget."""

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks

KEY = jax.random.key(0)


def test_one_change_fools_most(toy, toy_batch):
    images, _ = toy_batch
    found = attacks.universal(KEY, toy, images, epsilon=0.08, rate=0.7, epochs=4)
    assert np.abs(found.perturbation).max() <= 0.08 + 1e-6
    changed = np.clip(images + found.perturbation, 0, 1)
    again = np.asarray(toy.activations(changed, ["logits"])["logits"]).argmax(-1)
    np.testing.assert_array_equal(again, found.prediction)
    np.testing.assert_array_equal(found.fooled, found.prediction != found.clean)
    done = found.rate[np.isfinite(found.rate)]
    assert np.isfinite(found.rate[: len(done)]).all()  # one after each pass, none left out
    assert done[0] == 0
    assert done[-1] == pytest.approx(found.fooled.mean())
    assert done[-1] >= 0.5


@pytest.mark.slow
def test_one_change_for_many_views(toy, toy_batch, compilations):
    """Under a random transform: what it fools it fools in other views as well, where the mean decides."""
    images, _ = toy_batch
    given = {"epsilon": 0.1, "rate": 1.0, "epochs": 3, "transform": joi.transforms.noise(0.1), "samples": 2}
    found = attacks.universal(KEY, toy, images, **given)
    assert np.abs(found.perturbation).max() <= 0.1 + 1e-6
    assert found.fooled.mean() >= 0.5

    def mean(images):
        views = np.random.default_rng(0).normal(images, 0.1, (256, *images.shape)).astype(np.float32)
        logits = np.asarray(toy.activations(views.reshape(-1, *images.shape[1:]), ["logits"])["logits"])
        return logits.reshape(256, len(images), -1).mean(0)

    before, after = mean(images), mean(np.clip(images + found.perturbation, 0, 1))
    assert (before.argmax(-1) == found.clean).mean() >= 7 / 8  # means of 32 and of 256 draws: ties may part
    assert (after.argmax(-1) == found.prediction).mean() >= 7 / 8
    with compilations() as seen:
        again = attacks.universal(KEY, toy, images, **given)
    assert seen.count == 0
    np.testing.assert_array_equal(again.perturbation, found.perturbation)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_probabilities_are_refused(probable, toy_batch, precision):
    with pytest.raises(joi.InputError, match="are probabilities"):
        attacks.universal(KEY, probable[precision], toy_batch[0])


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"epsilon": 0}, "above 0"),
        ({"norm": "l0"}, "norm"),
        ({"rate": 2}, "1"),
        ({"samples": 2}, "give one"),
        ({"samples": 0}, "samples must be at least 1"),
    ],
)
def test_mistakes(toy, toy_batch, change, hint):
    with pytest.raises(joi.InputError, match=hint):
        attacks.universal(KEY, toy, toy_batch[0], **change)


@pytest.mark.slow
def test_one_change_judged_as_an_attack(toy, toy_batch):
    images, labels = toy_batch
    found = attacks.universal(KEY, toy, images, epsilon=0.1, epochs=3)
    result = attacks.universal_attack(KEY, toy, images, labels, epsilon=0.1, epochs=3)
    np.testing.assert_allclose(result.raw - images, np.broadcast_to(found.perturbation, images.shape), atol=1e-6)
    np.testing.assert_array_equal(result.prediction, found.prediction)
    np.testing.assert_array_equal(result.success, found.prediction != labels)
    assert np.abs(result.image - images).max() <= 0.1 + 1e-6
    for options, message in (({"target": 1}, "give no target"), ({"restarts": 2}, "would be copies")):
        with pytest.raises(joi.InputError, match=message):
            attacks.universal_attack(KEY, toy, images, labels, epsilon=0.1, epochs=1, **options)
