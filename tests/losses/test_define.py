"""Builders made of formulas: targets, checks, names, signatures."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import losses, targets

RNG = np.random.default_rng(0)
ACTS = {"map": RNG.normal(size=(5, 4, 6)).astype(np.float32), "logits": RNG.normal(size=7).astype(np.float32)}
IMAGE = RNG.uniform(size=(8, 9, 3)).astype(np.float32)
SHAPES = {layer: activation.shape for layer, activation in ACTS.items()}


@losses.of_layer("{layer}:top-{share}", share=losses.number)
def top_share(activation, share):
    """The mean of the largest activations."""
    flat = activation.ravel()
    return jnp.mean(jnp.where(flat >= jnp.quantile(flat, 1 - share), flat, 0.0))


@losses.of_layer("{layer}:{channel}", channel=losses.index)
def peak(activation, channel):
    return activation[..., channel].max()


def test_three_lines_make_a_loss_with_a_target_axis(toy):
    solution = joi.minimize(
        -top_share("second", [0.1, 0.5]), toy, image=joi.images.pixels(), steps=2, starts=2, key=jax.random.key(0)
    )
    assert solution.loss.shape == (4, 3)
    assert solution.names == ("second:top-0.1",) * 2 + ("second:top-0.5",) * 2


def test_each_target_has_its_value():
    lanes = np.array([0, 1])
    values = targets.vmap_lanes(lambda one, image: one(ACTS, image), peak("map", [2, 5]), lanes)(np.stack([IMAGE] * 2))
    np.testing.assert_array_equal(values, ACTS["map"].max((0, 1))[[2, 5]])


def test_the_formula_is_the_bare_function():
    assert float(peak.formula(ACTS["map"], 3)) == float(peak("map", 3)(ACTS, IMAGE)) == ACTS["map"][..., 3].max()


PICTURE = RNG.normal(size=(3, 7, 6)).astype(np.float32)
SAME = RNG.normal(size=(5, 4, 6)).astype(np.float32)
LIBRARY = [
    *(build("map", 2) for build in (losses.channel, losses.channel_square, losses.unit, losses.shortfall)),
    *(losses.unit("map", 2, (4, 1)), losses.shortfall("map", 2, (4, 1)), losses.layer("map"), losses.layer_mean("map")),
    *(losses.direction("map", SAME[0, 0], 2.0), losses.guided("map", PICTURE[0])),
    *(build(3) for build in (losses.class_logit, losses.class_log_probability, losses.class_probability)),
    *(build(3) for build in (losses.cross_entropy, losses.margin, losses.dlr, losses.carlini_wagner)),
    *(losses.targeted_dlr(3, 1), losses.carlini_wagner(3, 0.5, targeted=True)),
    *(build("map", SAME) for build in (losses.content, losses.feature_distance, losses.caricature)),
    *(build("map", PICTURE) for build in (losses.gram, losses.mean, losses.covariance, losses.batch_norm_statistics)),
    *(build("map", PICTURE) for build in (losses.wasserstein_gaussian, losses.histogram)),
    *(losses.mmd("map", PICTURE, kernel) for kernel in ("linear", "polynomial", "gaussian")),
    losses.sliced_wasserstein("map", PICTURE, jax.random.key(0), positions=[1, 2, 3]),
    *(losses.l2_decay(), losses.alpha_norm(), losses.pixel_norm(), losses.total_variation(1)),
    losses.total_variation_l1(),
]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LIBRARY, ids=lambda loss: loss.definition.formula.__name__)
def test_each_loss_of_the_library_is_its_formula(loss):
    """Of the activation or image that it reads and of its arguments, and nothing else."""
    build = getattr(losses, loss.definition.formula.__name__)
    read = jnp.asarray(ACTS[loss.taps[0]] if loss.taps else IMAGE)
    value = build.formula(read, *loss.arguments.values(), **dict(loss.options))
    assert float(value) == float(losses.resolve(loss, SHAPES, IMAGE.shape)(ACTS, IMAGE))
    assert ("layer" in inspect.signature(build).parameters) == (loss.taps == ("map",))
    assert "Example:" in build.__doc__


def test_a_builder_has_the_signature_and_the_docstring_of_its_formula():
    assert list(inspect.signature(top_share).parameters) == ["layer", "share"]
    assert inspect.getdoc(top_share) == "The mean of the largest activations."
    assert top_share.__name__ == "top_share"
    assert top_share.__module__ == __name__
    assert peak(layer="map", channel=3).name() == peak("map", 3).name() == "map:3"
    with pytest.raises(TypeError, match=r"peak\(\): missing a required argument: 'channel'"):
        peak("map")


def test_siblings_for_several_layers_for_the_image_and_for_the_logits():
    @losses.of_layers("{layers}:{channel}", channel=losses.index)
    def both(activations, channel):
        return sum(activation[..., channel].sum() for activation in activations)

    @losses.of_image(level=losses.number)
    def above(image, level):
        return jnp.maximum(image - level, 0).sum()

    @losses.of_logits("class:{label}", label=losses.index, classes=3)
    def square(logits, label):
        return logits[label] ** 2

    loss = both(["map", "logits"], 2) + above(0.5) + square(1)
    expected = ACTS["map"][..., 2].sum() + ACTS["logits"][2] + np.maximum(IMAGE - 0.5, 0).sum() + ACTS["logits"][1] ** 2
    np.testing.assert_allclose(loss(ACTS, IMAGE), expected, rtol=1e-5)  # float32 sums in another order
    assert loss.taps == ("map", "logits")
    assert loss.name() == "map,logits:2+class:1"
    with pytest.raises(joi.InputError, match="channel 6 does not exist: layer map has 6"):
        both(["map", "logits"], 6).check(SHAPES)
    with pytest.raises(joi.InputError, match="at least 3 classes, the model has 2"):
        square(1).check({"logits": (2,)})


def test_static_options_optional_arguments_and_preparation():
    def prepare(picture, positions=None, *, kind="mean"):
        return {"statistic": np.mean(picture, (-3, -2)), "positions": positions, "kind": kind}

    @losses.of_layer("{layer}:{kind}@{positions}", prepare=prepare, statistic=losses.vector, positions=losses.array(1))
    def distance(activation, statistic, positions=None, *, kind):
        """How far channels are."""
        flat = activation.reshape(-1, activation.shape[-1])
        flat = flat if positions is None else flat[positions.astype(int)]
        return jnp.square((flat.mean(0) if kind == "mean" else flat.max(0)) - statistic).sum()

    picture = RNG.normal(size=(3, 3, 6)).astype(np.float32)
    mean, most = distance("map", picture), distance("map", picture, kind="max")
    assert list(inspect.signature(distance).parameters) == ["layer", "picture", "positions", "kind"]
    assert jax.tree.structure(mean) != jax.tree.structure(most)
    assert mean.name() == "map:mean@"
    expected = np.square(ACTS["map"].max((0, 1)) - picture.mean((0, 1))).sum()
    np.testing.assert_allclose(most(ACTS, IMAGE), expected, rtol=1e-5)  # float32 against float32 in another order
    two = distance("map", np.stack([picture, picture]), positions=np.array([[0, 1], [2, 3]]))
    assert targets.count(two) == 2
    assert len(two.arguments["statistic"]) == 2
    with pytest.raises(joi.InputError, match="hashable"):
        distance("map", picture, kind=["mean"])


def test_a_traced_weight_is_taken_and_a_traced_target_is_refused():
    def name(loss):
        return losses.names(losses.resolve(loss, SHAPES, IMAGE.shape))

    assert jax.eval_shape(lambda w: [jnp.zeros(len(name(w * peak("map", 1))[0]))], jnp.float32(2))[0].shape == (5,)
    with pytest.raises(joi.InputError, match="cannot be traced"):
        jax.eval_shape(lambda channel: name(peak("map", channel)), jnp.int32(1))


def test_two_formulas_of_equal_fields_have_other_structures():
    def make(sign):
        @losses.of_layer("{layer}:{channel}", channel=losses.index)
        def signed(activation, channel):
            return sign * activation[..., channel].mean()

        return signed

    once, again = make(1), make(-1)
    assert jax.tree.structure(once("map", 1)) == jax.tree.structure(once("map", 2))
    assert jax.tree.structure(once("map", 1)) != jax.tree.structure(again("map", 1))


@pytest.mark.parametrize(
    ("define", "hint"),
    [
        (lambda: losses.of_layer("{layer}")(lambda activation, share: share), "share=losses.number"),
        (lambda: losses.of_layer("{layer}", share=losses.number)(lambda activation: 1.0), "no argument 'share'"),
        (lambda: losses.of_layer("{layer}", share=float)(lambda activation, share: share), "share has a kind"),
        (lambda: losses.of_layer("{nothing}")(lambda activation: 1.0), "mentions nothing"),
        (lambda: losses.of_layer("{layer:8}")(lambda activation: 1.0), "bare names"),
        (lambda: losses.of_layer("{layer}")(lambda: 1.0), "first argument"),
        (lambda: losses.of_layer("{layer}")("mean"), "a function of arrays"),
    ],
)
def test_mistakes_in_a_definition(define, hint):
    with pytest.raises(joi.InputError, match=hint):
        define()


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (lambda: peak(3, 3), "the name of a layer first, not 3"),
        (lambda: peak("map", 1.5), "channel must be an integer"),
        (lambda: peak("map", np.array([], int)), "channel has an empty target axis"),
        (lambda: peak("map", 99), "channel 99 does not exist: layer map has 6"),
        (lambda: peak("mop", 1), "nearest: map"),
        (lambda: top_share("map", np.nan), "share must be finite"),
        (lambda: np.inf * peak("map", 1), "weight or exponent of a loss must be finite"),
        (lambda: losses.direction("map", np.ones(5)), "of length 5 for layer map"),
        (lambda: losses.of_layer("{layer}")(lambda activation: activation.mean((0, 1)))("map"), r"shape \(6,\)"),
        (lambda: losses.of_layer("{layer}")(lambda activation: jnp.argmax(activation))("map"), "int32"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(build, hint):
    with pytest.raises(joi.InputError, match=hint):
        losses.resolve(build(), SHAPES, IMAGE.shape)
