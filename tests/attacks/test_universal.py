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
    assert done[0] == 0
    assert done[-1] == pytest.approx(found.fooled.mean())
    assert done[-1] >= 0.5


@pytest.mark.parametrize(
    ("change", "hint"), [({"epsilon": 0}, "above 0"), ({"norm": "l0"}, "norm"), ({"rate": 2}, "1")]
)
def test_mistakes(toy, toy_batch, change, hint):
    with pytest.raises(joi.InputError, match=hint):
        attacks.universal(KEY, toy, toy_batch[0], **change)
