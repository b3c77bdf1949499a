"""Attacks under `jax.jit` and `jax.vmap`, and under JAX's own switches: the same results, of the same dtypes."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks.run import content

KEY = jax.random.key(0)
# Rounding alone: XLA fuses a program differently when it is part of another one.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def apply(params, image, taps):
    return {"logits": image.mean((1, 2)) @ params}


@pytest.fixture(scope="module")
def linear():
    params = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    return joi.from_function(apply, params, image_shape=(6, 5, 3), taps=("logits",), name="linear")


@pytest.fixture(scope="module")
def batch(linear):
    images = np.random.default_rng(1).uniform(0.3, 0.7, (4, 6, 5, 3)).astype(np.float32)
    return images, np.asarray(linear.activations(images, ["logits"])["logits"]).argmax(-1).astype(np.int32)


def same(inside, outside):
    """Two results agree in every leaf."""
    assert jax.tree.structure(inside) == jax.tree.structure(outside)
    for (path, a), b in zip(jax.tree.leaves_with_path(inside), jax.tree.leaves(outside), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_allclose(a, b, **CLOSE, err_msg=jax.tree_util.keystr(path))


CASES = [
    ("pgd", {"epsilon": [0.01, 0.05], "steps": 3, "restarts": 2, "target": "random"}),
    ("pgd", {"epsilon": 2.0, "norm": "l1", "steps": 3, "rounded": True, "stop": False}),
    ("fab", {"norm": "l2", "steps": 3, "restarts": 2}),
    ("square", {"epsilon": 0.05, "queries": 5}),
    pytest.param("autoattack", {"epsilon": [0.01, 0.03], "steps": 4, "queries": 5}, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_result_inside_jit_is_that_outside(linear, batch, name, options):
    images, labels = batch
    attack = functools.partial(getattr(attacks, name), labels=labels, **options)
    outside = attack(KEY, linear, images)
    inside = jax.jit(lambda key, x: attack(key, linear, x))(KEY, images)
    if name == "autoattack":  # all images go through all stages there, and lanes that are done cost nothing
        assert jnp.array_equal(inside.history["stage"], outside.history["stage"])
        np.testing.assert_allclose(inside.image, outside.image, **CLOSE)
        return
    same(inside, outside)
    assert float(inside.accuracy["clean"]) == outside.accuracy["clean"]
    np.testing.assert_allclose(inside.robust_accuracy([0.02]), outside.robust_accuracy([0.02]), atol=1e-6)
    np.testing.assert_allclose(inside.success_by_starts(), outside.success_by_starts(), atol=1e-6)


def test_more_lanes_than_a_chunk_run_one_chunk_after_another(linear, batch):
    images, labels = batch
    attack = functools.partial(attacks.pgd, labels=labels, epsilon=0.03, steps=3, restarts=2)
    inside = jax.jit(lambda x: attack(KEY, linear, x, on=joi.Resources(chunk=3)))(images)
    same(inside, attack(KEY, linear, images))


@pytest.mark.slow
def test_vmap_over_keys_parameters_and_images(linear, batch):
    images, labels = batch

    def attack(key, params, images):
        model = joi.Model(linear.apply, params, linear.info)
        return attacks.pgd(key, model, images, labels, epsilon=0.03, steps=3, stop=False)

    keys = jax.random.split(KEY, 2)
    params = jnp.stack([linear.params, linear.params[:, ::-1]])
    both = jnp.stack([images, 1 - images])
    mapped = jax.vmap(attack)(keys, params, both)
    for n in range(2):
        same(jax.tree.map(lambda x, n=n: x[n], mapped), attack(keys[n], params[n], np.asarray(both[n])))
    by_epsilon = jax.vmap(lambda e: attacks.bim(KEY, linear, images, labels, epsilon=e, steps=3, step=e / 4).image)
    budgets = jnp.array([0.01, 0.05])
    several = attacks.bim(KEY, linear, images, labels, epsilon=budgets, steps=3).image
    np.testing.assert_allclose(by_epsilon(budgets), several, **CLOSE)


@pytest.mark.slow
def test_other_attacks_under_jit(linear, batch):
    images, _ = batch
    search = functools.partial(attacks.universal, epsilon=0.05, epochs=2)
    same(jax.jit(lambda x: search(KEY, linear, x))(images), search(KEY, linear, images))
    evolve = functools.partial(attacks.map_elites, generations=3, population=8)
    inside = jax.jit(lambda key: evolve(key, linear))(KEY)
    np.testing.assert_allclose(inside.image, evolve(KEY, linear).image, **CLOSE)


def test_content_tells_images_apart_and_not_their_last_bits(batch):
    images, _ = batch
    levels = np.rint(images * 255).astype(np.float32) / 255
    other = levels.copy()
    other[:, 2, 3, 1] += 1 / 255
    moved = np.roll(levels, 1, 2)
    ids = np.asarray(content(jnp.concatenate([levels, other, moved])))
    assert len(set(ids.tolist())) == 12
    np.testing.assert_array_equal(content(levels * np.float32(1 + 1e-6)), ids[:4])
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda x: content(x[None])[0]))(levels), ids[:4])


TRACED = """
import jax, numpy as np
import jaxopt_input as joi
from test_transformations import apply
w = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
model = joi.from_function(apply, w, image_shape=(6, 5, 3), taps=("logits",))
x, y = np.full((2, 6, 5, 3), 0.5, np.float32), np.array([0, 1], np.int32)
A, noise = joi.attacks, joi.transforms.noise(0.1)
CASES = [
    (A.pgd, {"epsilon": 1.0, "norm": "l2", "steps": 2, "restarts": 2, "rounded": True, "target": "random"}),
    (A.pgd, {"epsilon": 0.1, "steps": 2, "loss": "dlr", "transform": noise, "samples": 2, "target": "least-likely"}),
    (A.pgd, {"epsilon": [1.0, 2.0], "norm": "l1", "steps": 2, "loss": "carlini_wagner", "rounded": True}),
    (A.bim, {"epsilon": 0.1}), (A.fgsm, {"epsilon": 0.1}), (A.mi_fgsm, {"epsilon": 0.1}),
    (A.apgd, {"epsilon": 0.1, "steps": 2}), (A.apgd, {"epsilon": 1.0, "steps": 2, "norm": "l2", "loss": "dlr"}),
    (A.apgd, {"epsilon": 2.0, "steps": 2, "norm": "l1"}),
    (A.apgd, {"epsilon": 2.0, "steps": 2, "norm": "l1", "start": x}),
    (A.square, {"epsilon": 0.1, "queries": 2}), (A.square, {"epsilon": 0.1, "queries": 2, "norm": "l2"}),
    *((A.fmn, {"steps": 2, "norm": norm}) for norm in ("l0", "l1", "l2", "linf")), (A.ddn, {"steps": 2}),
    (A.carlini_wagner, {"steps": 2}), (A.ead, {"steps": 2}), (A.ead, {"steps": 2, "decision": "en"}),
    (A.szegedy, {"evaluations": 2}), (A.szegedy, {"evaluations": 2, "rounded": True}),
    (A.deepfool, {}), (A.deepfool, {"norm": "linf"}), (A.fab, {"steps": 2}), (A.fab, {"steps": 2, "norm": "l2"}),
    (A.boundary, {"steps": 2}), (A.boundary, {"steps": 2, "start": 1 - x, "target": [2, 2]}),
    (A.hop_skip_jump, {"steps": 2, "directions": 2}), (A.universal_attack, {"epsilon": 0.1}),
    (A.autoattack, {"epsilon": 0.1, "steps": 2, "queries": 2}),
]
RUNS = [(f.__name__, lambda k, f=f, o=o: f(k, model, x, y, **o)) for f, o in CASES] + [
    ("universal", lambda k: A.universal(k, model, x, epsilon=0.1)),
    ("direct", lambda k: A.map_elites(k, model, generations=2, population=4)),
    ("cppn", lambda k: A.map_elites(k, model, generations=2, population=4, encoding="cppn")),
]
for name, call in RUNS:
    out = jax.eval_shape(call, jax.random.key(0))
    wrong = {str(v.dtype) for v in jax.tree.leaves(out) if hasattr(v, "dtype")} - {"float32", "int32", "bool"}
    assert not wrong - ({"int64"} if name in ("direct", "cppn") else set()), (name, wrong)
print("fine")
"""
RUN = """
import jax, numpy as np
import jaxopt_input as joi
from test_transformations import apply
model = joi.from_function(apply, np.eye(3, 5, dtype=np.float32), image_shape=(6, 5, 3), taps=("logits",))
x = np.full((2, 6, 5, 3), 0.5, np.float32) + np.float32([0.05, 0, 0])
for name, options in (("pgd", {"epsilon": 0.1, "steps": 6}), ("apgd", {"epsilon": 0.1, "steps": 6})):
    result = getattr(joi.attacks, name)(jax.random.key(0), model, x, 0, **options)
    assert result.success.all() and np.isinf(result.history["loss"]).any()
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "script"),
    [
        ({"JAX_ENABLE_X64": "1", "JAX_NUMPY_RANK_PROMOTION": "raise"}, TRACED),  # what these tell is told by tracing
        ({"JAX_DEBUG_NANS": "1"}, RUN),
    ],
)
def test_switches_of_jax(switch, script):
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **switch, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-1500:]
    assert "fine" in done.stdout


@pytest.mark.slow
def test_vmap_alone_compiles_few_programs(toy, toy_batch, compilations):
    """One for the logits, one for all lanes, and little else: operation by operation they were over a hundred."""
    images, labels = toy_batch
    keys = jax.random.split(jax.random.key(3), 2)
    with compilations() as seen:
        jax.vmap(lambda key: attacks.fgsm(key, toy, images, labels, epsilon=0.013))(keys)
    assert 0 < seen.count < 30
