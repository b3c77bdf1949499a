"""The target axis: ranks, counting, selection, lanes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import targets
from jaxopt_input.attacks import criteria


def test_every_leaf_is_strongly_typed_and_static_names_are_no_leaves():
    loss = -joi.losses.channel("a", 3) + 2 * joi.losses.direction("b", [1, 2]) + 1e-3 * joi.losses.total_variation(1)
    for leaf in jax.tree.leaves(loss):
        assert isinstance(leaf, np.ndarray | jax.Array)
        assert leaf.dtype in (np.float32, np.int32)
        assert not jax.typeof(leaf).weak_type


def test_losses_of_other_numbers_share_a_structure():
    one = jax.tree.structure(-joi.losses.unit("a", 1, (0, 0)) + joi.losses.l2_decay())
    two = jax.tree.structure(3 * joi.losses.unit("a", 2, (4, 5)) + 0.1 * joi.losses.l2_decay(0.3))
    other = jax.tree.structure(3 * joi.losses.unit("b", 2, (4, 5)) + 0.1 * joi.losses.l2_decay(0.3))
    assert one == two != other


LOSSES, PHOTO = joi.losses, np.full((4, 4, 3), 0.5, np.float32)
KINDS = {
    "losses": [
        *(kind(1) for kind in (LOSSES.class_logit, LOSSES.class_probability, LOSSES.class_log_probability)),
        *(kind(1) for kind in (LOSSES.cross_entropy, LOSSES.margin, LOSSES.dlr, LOSSES.carlini_wagner)),
        LOSSES.targeted_dlr(1, 2),
        *(kind("a", 1) for kind in (LOSSES.channel, LOSSES.channel_square, LOSSES.shortfall, LOSSES.unit)),
        *(kind("a") for kind in (LOSSES.layer, LOSSES.layer_mean, LOSSES.alignment, LOSSES.diversity)),
        *(kind("a", PHOTO) for kind in (LOSSES.caricature, LOSSES.content, LOSSES.feature_distance, LOSSES.guided)),
        *(kind("a", PHOTO) for kind in (LOSSES.gram, LOSSES.mean, LOSSES.covariance, LOSSES.batch_norm_statistics)),
        *(kind("a", PHOTO) for kind in (LOSSES.wasserstein_gaussian, LOSSES.histogram)),
        *(LOSSES.mmd("a", PHOTO, kernel) for kernel in ("linear", "polynomial", "gaussian")),
        LOSSES.sliced_wasserstein("a", PHOTO, jax.random.key(0)),
        LOSSES.interpolation(LOSSES.class_logit(1), LOSSES.class_logit(2)),
        *(kind() for kind in (LOSSES.alpha_norm, LOSSES.pixel_norm, LOSSES.total_variation)),
        LOSSES.total_variation_l1(),
        LOSSES.direction("a", [1.0, 0.0, 0.0]),
    ],
    "projections": [
        joi.projections.box(),
        joi.projections.sphere(1.0),
        joi.projections.pixel_ball(1.0),
        *(joi.projections.ball(norm, 1.0, PHOTO) for norm in ("l1", "l2", "linf")),
    ],
    "transforms": [
        *(joi.transforms.pad(2), joi.transforms.crop(2), joi.transforms.jitter(2), joi.transforms.noise(2.0)),
        *(joi.transforms.rotate([2.0]), joi.transforms.scale([2.0]), joi.transforms.lucid()),
    ],
    "images": [joi.images.by_name(name) for name in ("pixels", "fourier", "pyramid", "cppn", "maco")],
    "optimizers": [
        *(joi.optimizers.optimizer(name) for name in joi.optimizers.NAMES),
        *(joi.optimizers.yosinski(), joi.optimizers.mahendran(0.1), joi.optimizers.averaged(joi.optimizers.adam())),
    ],
    "criteria": [
        *(criteria.misclassified(), criteria.target(), criteria.confidence(0.5)),
        criteria.as_criterion(lambda logits, label, target: logits[0] > 0, targeted=False),
        criteria.as_criterion(lambda logits, label, target: logits[0] < 0, targeted=False),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_never_compare_equal(kind):
    """Otherwise JAX's cache now and then runs the compiled program of another kind."""
    for first, second in itertools.combinations(map(jax.tree.structure, KINDS[kind]), 2):
        assert first != second


@pytest.mark.parametrize(
    ("loss", "count"),
    [
        (lambda: joi.losses.channel("a", 3), 1),
        (lambda: joi.losses.channel("a", [3]), 1),
        (lambda: joi.losses.channel("a", jnp.arange(5)), 5),
        (lambda: joi.losses.unit("a", 3, np.zeros((4, 2), int)), 4),
        (lambda: joi.losses.direction("a", np.ones((6, 8))), 6),
        (lambda: joi.losses.channel("a", 3) * [1.0, 2.0], 2),
        (lambda: joi.losses.channel("a", [1, 2, 3]) + [1e-3, 1e-2, 1e-1] * joi.losses.l2_decay(), 3),
    ],
)
def test_count(loss, count):
    assert targets.count(loss()) == count


def test_leaves_that_disagree_are_an_error():
    with pytest.raises(joi.InputError, match=r"\[2, 3\]"):
        targets.count(joi.losses.channel("a", [1, 2, 3]) + [1e-3, 1e-2] * joi.losses.l2_decay())


@pytest.mark.parametrize(
    "build",
    [
        lambda: joi.losses.channel("a", 1.5),
        lambda: joi.losses.channel("a", [[1]]),
        lambda: joi.losses.channel("a", []),
        lambda: joi.losses.direction("a", 3.0),
        lambda: joi.losses.unit("a", 1, 1),
        lambda: joi.losses.channel("a", 1) + 3,
        lambda: joi.losses.channel("a", 1) * "x",
        lambda: joi.losses.channel("a", 1) * 1j,
    ],
)
def test_mistakes_are_named_when_built(build):
    with pytest.raises(joi.InputError):
        build()


def test_lanes_take_their_targets_leaves():
    loss = joi.losses.channel("a", [2, 0]) * [10.0, 1.0]
    activations = {"a": jnp.arange(12.0).reshape(4, 1, 1, 3)}
    lanes = jnp.array([0, 0, 1, 1])
    values = targets.vmap_lanes(lambda one, a: one(a, None), loss, lanes)(activations)
    np.testing.assert_array_equal(values, [20.0, 50.0, 6.0, 9.0])
