"""Results are values: pytrees of which images can be taken, and that can be put together again."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks import AttackResult

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def results(toy, toy_batch):
    images, labels = toy_batch
    options = {"steps": 3, "restarts": 2, "on": joi.Resources(chunk=8)}
    several = attacks.pgd(KEY, toy, images, labels, epsilon=[0.01, 0.03], **options)
    each = attacks.pgd(KEY, toy, images, labels, epsilon=np.linspace(0.01, 0.03, 8)[None], target="random", **options)
    return several, each


@pytest.mark.parametrize("which", [0, 1])
def test_parts_joined_are_the_whole(results, which):
    result = results[which]
    whole = AttackResult.concat([result.take(slice(0, 3)), result.take([3, 4]), result.take(np.arange(8) > 4)])
    assert jax.tree.structure(whole) == jax.tree.structure(result)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(result), strict=True):
        np.testing.assert_array_equal(a, b)
    part = result.take([6, 1])
    np.testing.assert_array_equal(part.image, result.image[:, [6, 1]])
    np.testing.assert_array_equal(part.success_of_start, result.success_of_start[:, :, [6, 1]])
    np.testing.assert_array_equal(part.label, result.label[[6, 1]])
    np.testing.assert_array_equal(part.accuracy["robust"], result.take(slice(None)).take([6, 1]).accuracy["robust"])


def test_a_result_is_a_line(results):
    several, each = results
    assert repr(several) == (
        "AttackResult(8 images (12, 10, 3), linf, epsilon 2.55/255 7.65/255; misled of those classified rightly: "
        f"{several.success[0].sum()} of 8, {several.success[1].sum()} of 8)"
    )
    assert len(repr(each)) < 300
    shown = []
    jax.jit(lambda result: shown.append(repr(result)))(several)
    assert shown == ["AttackResult(8 images (12, 10, 3), linf, traced)"]


def test_budgets_stacked_are_the_whole(results):
    several, _ = results
    parts = [several.at_budget(n) for n in range(2)]
    assert [float(part.epsilon) for part in parts] == several.epsilon.tolist()
    again = AttackResult.stack(parts, several.epsilon)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(several), strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_are_pytrees(results):
    several, each = results
    leaves = jax.tree.leaves(several)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert {leaf.dtype.name for leaf in leaves} == {"float32", "int32", "bool"}
    inside = jax.jit(lambda result: dataclasses.replace(result, image=1 - result.image))(several)
    assert inside.norm == "linf"
    np.testing.assert_array_equal(inside.image, 1 - several.image)
    with pytest.raises(ValueError, match="None"):
        jax.tree.map(lambda a, b: a, several, each)  # one has targets


def test_what_does_not_fit_is_refused(results):
    several, each = results
    with pytest.raises(joi.InputError, match="cannot be concatenated"):
        AttackResult.concat([several, each])
    with pytest.raises(joi.InputError, match="cannot be concatenated"):
        AttackResult.concat([several, dataclasses.replace(several, epsilon=several.epsilon * 2)])
    with pytest.raises(joi.InputError, match="no result"):
        AttackResult.concat([])
