"""MAP-Elites: elites get better, are what was scored, and paint what their genomes say."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks.evolution import CPPN, Direct

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["direct", "cppn"])
def test_elites(toy, encoding):
    found = attacks.map_elites(KEY, toy, encoding=encoding, generations=30, population=20)
    assert found.image.shape == (5, 12, 10, 3)
    assert found.history.shape == (31, 5)
    assert (np.diff(found.history, axis=0) >= 0).all()
    assert (found.history[-1] > found.history[0]).any()
    assert found.evaluations == 31 * 20
    assert found.finite.all()
    assert not found.dead.any()
    np.testing.assert_allclose(found.image * 255, np.rint(found.image * 255), atol=1e-4)
    logits = np.asarray(toy.activations(found.image, ["logits"])["logits"], np.float64)
    share = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
    np.testing.assert_allclose(np.diag(share), found.probability, rtol=1e-4)


@pytest.mark.slow
def test_progress_changes_nothing_and_some_classes_suffice(toy, compilations):
    """The loop is the same in one call and in many; another key, rate or class does not compile again."""
    told, other = [], jax.random.key(1)
    whole = attacks.map_elites(KEY, toy, [3, 1], generations=30, population=10)
    with compilations() as seen:
        parts = attacks.map_elites(
            KEY, toy, [3, 1], generations=30, population=10, on=joi.Resources(progress=lambda *args: told.append(args))
        )
        attacks.map_elites(other, toy, [0, 2], generations=30, population=10, mutation_rate=0.3)
    assert seen.count == 0
    np.testing.assert_array_equal(whole.image, parts.image)
    np.testing.assert_array_equal(whole.history, parts.history)
    assert whole.label.tolist() == [3, 1]
    assert len(told) == 20
    assert told[-1] == (30, 30, pytest.approx(1 - whole.probability.mean()))


@pytest.mark.slow
def test_challengers_that_are_not_finite_never_win(cliff):
    """Half of all random images are too dark in some color."""
    found = attacks.map_elites(KEY, cliff, generations=10, population=20)
    assert found.finite.all()
    assert (np.diff(found.history, axis=0) >= 0).all()
    np.testing.assert_allclose(found.probability, found.history[-1])
    told = []
    nothing = attacks.map_elites(
        KEY,
        dataclasses.replace(cliff, params=np.float32(2)),
        [2, 0],
        generations=2,
        population=4,
        on=joi.Resources(progress=lambda *args: told.append(args)),
    )
    assert nothing.finite.tolist() == [False, False]
    assert np.isnan(nothing.probability).all()
    assert np.isnan(nothing.history).all()
    assert told[-1] == (2, 2, 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_probabilities_are_refused(probable, precision):
    with pytest.raises(joi.InputError, match="are probabilities"):
        attacks.map_elites(KEY, probable[precision], 0)


@pytest.mark.slow
def test_mutation_changes_as_much_as_asked_for():
    direct, cppn = Direct((8, 8, 3)), CPPN((8, 8, 3))
    genome = direct.init(KEY)
    changed = np.asarray(direct.mutate(KEY, genome, 0.1)) != np.asarray(genome)
    assert 0.03 < changed.mean() < 0.2
    image = np.asarray(cppn.decode(cppn.init(KEY)))
    assert image.shape == (8, 8, 3)
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.01


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"encoding": "neat"}, "direct, cppn"),
        ({"generations": 0}, "generations"),
        ({"mutation_rate": 2}, "mutation_rate"),
        ({"classes": 5}, "class 5 does not exist"),
    ],
)
def test_mistakes(toy, change, hint):
    with pytest.raises(joi.InputError, match=hint):
        attacks.map_elites(KEY, toy, **change)
