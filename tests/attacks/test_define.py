"""Attacks made of methods: their signatures, and what they refuse."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks import Found
from jaxopt_input.attacks.define import attack, choice, count, flag, number

KEY = jax.random.key(0)


@attack("linf", "l2", budget=True, start="adversarial", draws="start")
def shift(
    problem,
    *,
    times: int = count(2),
    share: jax.Array = number(0.5, high=1.0),
    most: jax.Array = number(None, open_low=True),
    way: str = choice("up", "down"),
    random_start: bool = flag(True),
):
    """Every number a share of ε up or down, so many times; by `most` at most, where it is not 0."""
    reach = times * share * problem.epsilon
    reach = jnp.where(most > 0, jnp.minimum(reach, most), reach)[:, None, None, None]
    return Found(problem.clean + (reach if way == "up" else -reach), steps=times)


def test_an_attack_has_the_signature_and_the_docstring_of_its_method():
    parameters = inspect.signature(shift).parameters
    own = ["epsilon", "norm", "times", "share", "most", "way", "random_start", "start", "options"]
    assert list(parameters) == ["key", "model", "images", "labels", *own]
    assert {name: parameters[name].default for name in own[1:8]} == {
        "norm": "linf", "times": 2, "share": 0.5, "most": None, "way": "up", "random_start": True, "start": None,
    }  # fmt: skip
    assert shift.__doc__.startswith("Every number")
    assert list(inspect.signature(shift.method).parameters) == ["problem", *own[2:7]]


def test_arguments_reach_the_method(toy, toy_batch):
    images = np.clip(toy_batch[0], 0.2, 0.8)
    for given, change in (
        ({}, 0.1),  # twice half of ε
        ({"times": 1}, 0.05),
        ({"share": 0.25}, 0.05),
        ({"most": 0.03}, 0.03),
        ({"way": "down"}, -0.1),
    ):
        result = shift(KEY, toy, images, toy_batch[1], epsilon=0.1, **given)
        raw = np.where(
            result.success[:, None, None, None] & (result.steps == 0)[:, None, None, None], np.nan, result.raw
        )
        # The difference of numbers below 1 is within two of their last bits.
        np.testing.assert_allclose(np.nanmax(np.abs(raw - images - change)), 0, atol=2e-7)
        assert set(result.steps.tolist()) <= {0, given.get("times", 2)}


def test_another_number_does_not_compile_again(toy, toy_batch, compilations):
    shift(KEY, toy, *toy_batch, epsilon=0.1)
    with compilations() as seen:
        shift(KEY, toy, *toy_batch, epsilon=0.2, share=0.1, most=0.3)
    assert seen.count == 0


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ({}, TypeError, r"shift\(\): missing a required argument: 'epsilon'"),
        ({"epsilon": None}, joi.InputError, "give epsilon"),
        ({"epsilon": 0.1, "tmes": 2}, TypeError, "takes no argument tmes"),
        ({"epsilon": 0.1, "times": 0}, joi.InputError, "times must be at least 1"),
        ({"epsilon": 0.1, "share": 2.0}, joi.InputError, "share is a number at least 0 and at most 1"),
        ({"epsilon": 0.1, "share": None}, joi.InputError, "share"),
        ({"epsilon": 0.1, "most": 0.0}, joi.InputError, "most is a number above 0"),
        ({"epsilon": 0.1, "way": "aside"}, joi.InputError, "way is one of up, down"),
        ({"epsilon": 0.1, "norm": "l1"}, joi.InputError, "norm is one of linf, l2"),
        ({"epsilon": 0.1, "target": 0}, joi.InputError, "give them as start"),
        ({"epsilon": 0.1, "restarts": 2, "random_start": False}, joi.InputError, "would be copies"),
    ],
)
def test_mistakes(toy, toy_batch, arguments, error, hint):
    with pytest.raises(error, match=hint):
        shift(KEY, toy, *toy_batch, **arguments)


def test_an_attack_without_a_loss_says_so(toy, toy_batch):
    @attack("l2")
    def lost(problem):
        return Found(problem.gradient(problem.clean)[1])

    with pytest.raises(TypeError, match="no loss of its own"):
        lost(KEY, toy, *toy_batch)


def test_an_argument_needs_a_kind():
    with pytest.raises(joi.InputError, match="mine: give steps a kind"):

        @attack("l2")
        def mine(problem, *, steps=10):
            return Found(problem.clean)


def test_the_librarys_attacks_are_made_so():
    plain = {"autoattack", "universal_attack"}  # several attacks one after another, and one change for all images
    made = {name for name in attacks.__all__ if hasattr(getattr(attacks, name), "method")}
    takes_options = {name for name in attacks.__all__ if callable(f := getattr(attacks, name)) and name != "run"
                     and inspect.isfunction(f) and "options" in inspect.signature(f).parameters}  # fmt: skip
    assert made == takes_options - plain


AUTHORS = {
    "bim": {"steps": 10, "step": None},
    "pgd": {"steps": 40, "step": None, "random_start": True, "sparsity": 0.99},
    "mi_fgsm": {"steps": 10, "step": None, "decay": 1.0},
    "apgd": {"steps": 100},
    "square": {"queries": 5000, "share": 0.8, "rescale": True},
    "fmn": {"steps": 100, "step": 1.0, "gamma": 0.05},
    "ddn": {"steps": 100, "gamma": 0.05, "initial": 1.0},
    "carlini_wagner": {"steps": 1000, "searches": 9, "learning_rate": 0.01, "confidence": 0.0, "c": 0.001},
    "ead": {"steps": 100, "searches": 9, "learning_rate": 0.01, "beta": 0.001, "confidence": 0.0, "c": 0.001},
    "szegedy": {"evaluations": 40, "searches": 12, "c": 0.01},
    "deepfool": {"steps": 50, "overshoot": 0.02, "candidates": 10},
    "fab": {"steps": 100, "candidates": 9, "reach": 0.3},
    "boundary": {"steps": 5000, "around": 0.1, "towards": 0.1},
    "hop_skip_jump": {"steps": 40, "directions": 100},
    "universal": {"rate": 0.8, "epochs": 10, "steps": 10, "overshoot": 0.02, "candidates": 10},
    "autoattack": {"steps": 100, "targets": 9, "queries": 5000},
    "map_elites": {"generations": 200, "population": 1200, "halve_every": 1000},
}


@pytest.mark.parametrize("name", AUTHORS)
def test_what_is_not_said_is_the_published_number(name):
    """What a result is compared with: a change of one of these is a change of the method."""
    parameters = inspect.signature(getattr(attacks, name)).parameters
    assert {argument: parameters[argument].default for argument in AUTHORS[name]} == AUTHORS[name]
