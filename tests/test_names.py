"""Every registry holds exactly the names that help texts list."""

import importlib
import subprocess
import sys

import pytest

from jaxopt_input import names, networks

HOMES = {
    "PARAMETERIZATIONS": "images:BY_NAME",
    "TRANSFORMS": "transforms:BY_NAME",
    "BALLS": "projections:NORMS",
    "VISUALIZE_PRESETS": "methods.visualize.settings:PRESETS",
    "POWER_REGULARIZERS": "methods.visualize.settings:_POWERS",
    "IMAGE_REGULARIZERS": "methods.visualize.settings:_OF_IMAGE",
    "LAYER_REGULARIZERS": "methods.visualize.settings:_OF_LAYER",
    "DREAM_PRESETS": "methods.dream.settings:PRESETS",
    "NORMALIZATIONS": "methods.dream.normalize:NAMES",
    "INVERT_PRESETS": "methods.invert.settings:PRESETS",
    "STYLE_PRESETS": "methods.style.settings:PRESETS",
    "STYLE_LOSSES": "methods.style.terms:STATISTICS",
    "ATTACKS": "attacks.methods:METHODS",
    "ATTACK_LOSSES": "attacks.objectives:OBJECTIVES",
    "NORMS": "attacks.result:NORMS",
    "AUTOATTACK_STAGES": "attacks.autoattack:STAGES",
    "ENCODINGS": "attacks.evolution:ENCODINGS",
    "FOOLING_STARTS": "attacks.fooling:DEVIATION",
    "FITS": "data:FITS",
    "ANIMATIONS": "draw.animation:FORMATS",
    "PRECISIONS": "runs.options:PRECISIONS",
    "BENCH_TASKS": "methods.bench.recipe:TASKS",
}
ELSEWHERE = {
    "OPTIMIZERS",
    "CLASS_OBJECTIVES",
    "REGULARIZERS",
    "BUNDLED",
    "STYLE_COLORS",
    "STYLE_STARTS",
    "DEVICES",
    "DTYPES",
    "POOLS",
}


def registry(home):
    module, attribute = home.split(":")
    return getattr(importlib.import_module(f"jaxopt_input.{module}"), attribute)


@pytest.mark.parametrize("name", HOMES)
def test_a_registry_holds_what_help_lists(name):
    assert tuple(registry(HOMES[name])) == getattr(names, name)


def test_registries_with_a_name_apart():
    """L-BFGS has no factory, and the default objective no builder."""
    assert (*registry("optimizers.named:FACTORIES"), "lbfgs") == names.OPTIMIZERS
    assert ("default", *registry("engine.target:CLASS_OBJECTIVES")) == names.CLASS_OBJECTIVES


def test_the_networks_that_come_with_the_package():
    assert {name for name, entry in networks.entries().items() if entry.bundled} == set(names.BUNDLED)


def test_every_tuple_of_names_is_compared():
    tuples = {name for name, value in vars(names).items() if name.isupper() and isinstance(value, tuple)}
    assert tuples == {*HOMES} | ELSEWHERE


def test_names_need_no_jax():
    code = "import sys, jaxopt_input.names; assert not {'jax', 'numpy', 'optax'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listed():
    assert names.listed(("a",)) == "a"
    assert names.listed(("a", "b", "c"), "and") == "a, b and c"
