"""When an image counts as adversarial: each criterion on logits, with and without a target."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_input.attacks import criteria

LOGITS = np.log(np.float32([0.1, 0.6, 0.25, 0.05]))


@pytest.mark.parametrize(
    ("criterion", "label", "target", "met"),
    [
        (criteria.misclassified(), 0, 0, True),
        (criteria.misclassified(), 1, 1, False),
        (criteria.target(), 0, 1, True),
        (criteria.target(), 0, 2, False),
        (criteria.confidence(0.59), 0, 0, True),
        (criteria.confidence(0.61), 0, 0, False),
        (criteria.confidence(0.2), 1, 1, False),  # sure of the true class
        (criteria.confidence(0.59), 0, 1, True),
        (criteria.confidence(0.2), 0, 2, False),  # sure of a third class
        (criteria.top_k(1), 2, 2, True),
        (criteria.top_k(2), 2, 2, False),
        (criteria.top_k(2), 0, 0, True),
        (criteria.top_k(3), 0, 0, False),
        (criteria.top_k(2), 0, 2, True),
        (criteria.top_k(1), 0, 2, False),
    ],
)
def test_criteria_on_logits(criterion, label, target, met):
    """Without a target the target is the label."""
    assert bool(criterion(jnp.asarray(LOGITS), label, target)) == met
