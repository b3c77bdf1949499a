"""The frame of every attack: mistakes, targets, criteria, restarts, rounding, masking, compilations, independence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input import attacks
from jaxopt_input.attacks import criteria, geometry

KEY = jax.random.key(0)
EIGHT = joi.Resources(chunk=8)
EPSILON = 0.02


def small_pgd(model, images, labels, *, key=KEY, epsilon=EPSILON, **options):
    return attacks.pgd(key, model, images, labels, epsilon=epsilon, steps=5, **options)


def test_another_budget_label_or_key_does_not_recompile(toy, toy_batch, compilations):
    images, labels = toy_batch
    small_pgd(toy, images, labels, key=jax.random.key(2), criterion=criteria.confidence(0.3), on=EIGHT)
    with compilations() as seen:
        small_pgd(toy, images, (labels + 1) % 5, epsilon=0.3, key=jax.random.key(1), step=0.01,
                  criterion=criteria.confidence(0.9), on=EIGHT)  # fmt: skip
    assert seen.count == 0


@pytest.mark.slow
def test_one_result_does_not_depend_on_the_others(toy, toy_batch):
    images, labels = toy_batch
    together = small_pgd(toy, images, labels, stop=False, on=EIGHT)
    assert together.success.any()
    order = [5, 2]
    apart = small_pgd(toy, images[order], labels[order], stop=False, on=EIGHT)
    np.testing.assert_allclose(apart.image, together.image[order], atol=1e-6)
    np.testing.assert_array_equal(apart.success, together.success[order])


def test_budgets_are_lanes(toy, toy_batch):
    images, labels = toy_batch
    many = small_pgd(toy, images, labels, epsilon=[0.01, 0.02, 0.04], on=EIGHT)
    assert many.image.shape == (3, *images.shape)
    assert many.accuracy["robust"].shape == (3,)
    one = small_pgd(toy, images, labels, on=EIGHT)
    np.testing.assert_allclose(many.image[1], one.image, atol=1e-6)
    each = np.where(np.arange(8) < 4, 0.01, 0.04)
    mixed = small_pgd(toy, images, labels, epsilon=each[None], on=EIGHT)
    assert mixed.image.shape == (1, *images.shape)
    np.testing.assert_allclose(mixed.image[0, :4], many.image[0, :4], atol=1e-6)
    np.testing.assert_allclose(mixed.image[0, 4:], many.image[2, 4:], atol=1e-6)
    assert (many.success[0] <= many.success[2]).all()


METHODS = ("fgsm", "bim", "pgd", "mi_fgsm", "apgd", "square", "autoattack", "universal", "universal_attack")


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_in_levels_is_refused(toy, toy_batch, name):
    images, labels = toy_batch
    labels = () if name == "universal" else (labels,)
    for epsilon, meant in ((8, "8/255"), (1.0, "1/255")):
        with pytest.raises(joi.InputError, match=meant):
            getattr(attacks, name)(KEY, toy, images, *labels, epsilon=epsilon)
    if name not in ("universal", "universal_attack"):
        with pytest.raises(joi.InputError, match="16/255"):
            getattr(attacks, name)(KEY, toy, images, *labels, epsilon=[0.1, 16])


def test_a_step_in_levels_is_refused(toy, toy_batch):
    with pytest.raises(joi.InputError, match="2/255"):
        attacks.pgd(KEY, toy, *toy_batch, epsilon=8 / 255, step=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_budget_among_others_is_the_clean_accuracy(toy, toy_batch, name, norm):
    images, labels = toy_batch
    labels = np.where(np.arange(8) < 2, (labels + 1) % 5, labels)
    steps = {"queries" if name == "square" else "steps": 3}
    result = getattr(attacks, name)(KEY, toy, images, labels, epsilon=[0, 0.9], norm=norm, **steps, on=EIGHT)
    assert result.accuracy["robust"][0] == result.accuracy["clean"] == 6 / 8
    np.testing.assert_array_equal(result.image[0], images)
    assert result.finite.all()
    assert result.at_budget(0).tally()["found"] == 0
    with pytest.raises(joi.InputError, match="positive"):
        attacks.pgd(KEY, toy, images, labels, epsilon=0)


def test_logits_that_depend_on_the_batch_are_told():
    def net(params, image, taps):
        return {"logits": (image - image.mean(0, keepdims=True)).mean((1, 2)) @ params}

    model = joi.from_function(net, jnp.eye(3), image_shape=(4, 4, 3), taps=("logits",))
    images = np.asarray(jax.random.uniform(KEY, (3, 4, 4, 3)), np.float32)
    with pytest.warns(attacks.GradientMaskingWarning, match="rest of its batch"):
        result = attacks.fgsm(KEY, model, images, [0, 1, 2], epsilon=0.1)
    assert "rest of its batch" in result.warnings[0]


def masked_net(params, image, taps):
    logits = image.mean((1, 2)) @ params
    return {"logits": jnp.where(jnp.arange(5) == 4, -jnp.inf, logits)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "deepfool", "ddn", "fab", "carlini_wagner", "autoattack"])
def test_a_class_may_be_masked(name):
    """A logit of −inf is never the largest; the others say what an image is, before and after."""
    weights = jax.random.normal(jax.random.key(1), (3, 5))
    model = joi.from_function(masked_net, weights, image_shape=(4, 4, 3), taps=("logits",))
    images = np.asarray(jax.random.uniform(jax.random.key(2), (8, 4, 4, 3)), np.float32)
    labels = np.asarray(model.activations(images, ["logits"])["logits"].argmax(-1), np.int32)
    options = {"epsilon": 0.5} if name in ("pgd", "autoattack") else {}
    result = getattr(attacks, name)(KEY, model, images, labels, steps=30, on=EIGHT, **options)
    assert result.accuracy["clean"] == 1
    assert result.finite.all()
    assert result.success.sum() >= 6
    assert (result.prediction != 4).all()


def test_restarts_are_lanes_and_the_best_is_kept(toy, toy_batch):
    images, labels = toy_batch
    result = small_pgd(toy, images, labels, epsilon=0.012, restarts=4, on=EIGHT)
    assert result.success_of_start.shape == (4, 8)
    np.testing.assert_array_equal(result.success, result.success_of_start.any(0))
    shares = result.success_by_starts()
    assert shares.shape == (4,)
    assert (np.diff(shares) >= 0).all()
    assert shares[-1] == result.success.mean()
    one = small_pgd(toy, images, labels, epsilon=0.012, on=EIGHT)
    np.testing.assert_array_equal(one.success, result.success_of_start[0])
    assert (result.forwards == 4).all()  # each restart is judged once


@pytest.mark.parametrize("nearest", range(4))
def test_of_several_successes_the_nearest_is_kept(toy, toy_batch, nearest):
    images, labels = toy_batch
    lengths = np.roll([0.05, 0.2, 0.3, 0.4], nearest)

    def away(problem, numbers):
        """A success in each restart, at a distance that the restart alone decides."""
        distance = numbers["lengths"][problem.lanes.restart.astype(int)][:, None, None, None]
        image = jnp.clip(problem.clean + jnp.where(problem.clean > 0.5, -distance, distance), 0, 1)
        none = jnp.zeros(len(image), jnp.int32)
        return attacks.Found(image, none, none, none)

    def always(logits, label, target):
        return logits[0] > -jnp.inf

    result = attacks.run(away, KEY, toy, images, labels, norm="linf", numbers={"lengths": lengths}, restarts=4,
                         stop=False, criterion=always, on=EIGHT)  # fmt: skip
    np.testing.assert_allclose(result.distance["linf"], 0.05, rtol=1e-5)


def test_further_restarts_bring_a_minimum_norm_attack_no_farther(toy, toy_batch):
    images, labels = toy_batch
    one = attacks.fab(KEY, toy, images, labels, steps=20, on=EIGHT)
    four = attacks.fab(KEY, toy, images, labels, steps=20, restarts=4, on=EIGHT)
    assert one.success.any()
    assert (four.distance["linf"] <= one.distance["linf"]).all()


def test_what_is_done_is_left_alone(toy, toy_batch):
    images, labels = toy_batch
    wrong = labels.copy()
    wrong[:3] = (labels[:3] + 1) % 5
    result = small_pgd(toy, images, wrong, on=EIGHT)
    assert result.success[:3].all()
    np.testing.assert_array_equal(result.image[:3], images[:3])
    assert (result.steps[:3] == 0).all()
    assert (result.gradients[:3] == 0).all()
    assert all((d[:3] == 0).all() for d in result.distance.values())
    assert result.accuracy["clean"] == 5 / 8
    # An image is done at its first success: more steps change nothing of it.
    longer = attacks.pgd(KEY, toy, images, labels, epsilon=EPSILON, steps=8, on=EIGHT)
    early = small_pgd(toy, images, labels, on=EIGHT)
    at_once = early.steps < 5
    assert at_once.any()
    np.testing.assert_allclose(longer.image[at_once], early.image[at_once], atol=1e-6)
    loss = early.history["loss"]
    assert np.isinf(loss[at_once]).any()


def test_failures_have_no_distance(toy, toy_batch):
    images, labels = toy_batch
    result = small_pgd(toy, images, labels, epsilon=1e-4, on=EIGHT)
    assert not result.success.any()
    assert all(np.isinf(d).all() for d in result.distance.values())
    assert 0 < np.abs(result.image - images).max() <= 1e-4 + 1e-6
    assert result.accuracy["robust"] == 1


@pytest.mark.slow
def test_targets(toy, toy_batch):
    images, labels = toy_batch
    reached = small_pgd(toy, images, labels, epsilon=0.3, target=(labels + 2) % 5, on=EIGHT)
    assert reached.success.mean() >= 0.5
    np.testing.assert_array_equal(reached.prediction[reached.success], reached.target[reached.success])
    random = small_pgd(toy, images, labels, target="random", on=EIGHT)
    assert (random.target != labels).all()
    assert len(set(random.target - labels)) > 1
    np.testing.assert_array_equal(
        small_pgd(toy, images[3:5], labels[3:5], target="random", on=EIGHT).target, random.target[3:5]
    )
    least = small_pgd(toy, images, labels, target="least-likely", on=EIGHT)
    logits = np.asarray(toy.activations(images, ["logits"])["logits"])
    np.testing.assert_array_equal(least.target, logits.argmin(-1))
    named = small_pgd(toy, images[:1], [0], target="polar bear", on=EIGHT)
    assert named.target.tolist() == [2]


def stand_still(problem, numbers):
    return attacks.Found(problem.clean)


def test_random_targets_are_any_other_class_as_likely(linear):
    """Of 600 images each of the two other classes is the target of 300, with a standard deviation of 12."""
    images = np.random.default_rng(0).uniform(0.1, 0.9, (600, 6, 6, 3)).astype(np.float32)
    labels = np.arange(600) % 3
    away = (attacks.run(stand_still, KEY, linear, images, labels, target="random").target - labels) % 3
    assert (away > 0).all()
    for label in range(3):
        assert 70 < (away[labels == label] == 1).sum() < 130  # of 200, five standard deviations either way


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_beyond_the_budget_nothing_is_a_success(linear, norm):
    """A method that leaves the ball has no success there, whatever the network says."""

    def leave(problem, numbers):
        return attacks.Found(jnp.ones_like(problem.clean))

    image = np.full((1, 6, 6, 3), 0.5, np.float32) + np.float32([0.01, 0, 0])
    distance = geometry.norm(1 - image, norm)
    result = attacks.run(leave, KEY, linear, image, [0], norm=norm, epsilon=distance * np.float32([[0.9], [1.1]]),
                         criterion=lambda z, label, target: z[0] > 0.9)  # fmt: skip
    assert result.success.tolist() == [[False], [True]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("criterion", "holds"),
    [
        (criteria.confidence(0.3), lambda z, y: np.exp(z - np.logaddexp.reduce(z)).max() >= 0.3 - 1e-5),
        (criteria.top_k(2), lambda z, y: (z > z[y]).sum() >= 2),
        (lambda z, label, target: z[label] < z.max() - 0.1, lambda z, y: z[y] < z.max() - 0.1 + 1e-5),
    ],
)
def test_criteria(toy, toy_batch, criterion, holds):
    images, labels = toy_batch
    result = small_pgd(toy, images, labels, epsilon=0.2, criterion=criterion, on=EIGHT)
    assert result.success.any()
    logits = np.asarray(toy.activations(result.image, ["logits"])["logits"], np.float64)
    for n in np.flatnonzero(result.success):
        assert holds(logits[n], labels[n])


def test_rounded(toy, toy_batch):
    images, labels = toy_batch
    images = np.floor(images * 255) / np.float32(255)
    result = small_pgd(toy, images, labels, epsilon=3.5 / 255, rounded=True, on=EIGHT)
    assert result.success.any()
    np.testing.assert_allclose(result.image * 255, np.rint(result.image * 255), atol=1e-4)
    assert np.abs(result.image - images).max() <= 3 / 255 + 1e-6  # 3.5 levels hold whole ones
    assert np.abs(result.raw * 255 - np.rint(result.raw * 255)).max() > 0.1
    again = np.asarray(toy.activations(result.image, ["logits"])["logits"]).argmax(-1)
    np.testing.assert_array_equal(again != labels, result.success)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 3.7 / 255), ("l2", 0.25), ("l1", 3.0)])
def test_rounding_within_a_budget_costs_few_successes(toy, toy_batch, norm, epsilon):
    """The search judges what the result is: of the finds of a search without rounding at most one is lost."""
    images, labels = toy_batch
    images = np.rint(images * 255).astype(np.float32) / 255
    options = {"epsilon": epsilon, "norm": norm, "steps": 20, "on": EIGHT}
    plain = attacks.pgd(KEY, toy, images, labels, **options)
    rounded = attacks.pgd(KEY, toy, images, labels, rounded=True, **options)
    assert plain.success.sum() >= 3
    assert rounded.success.sum() >= plain.success.sum() - 1
    levels = np.rint(rounded.image * 255)
    np.testing.assert_array_equal(rounded.image, levels.astype(np.float32) / 255)  # the very numbers of a PNG
    changed = (levels != np.rint(images * 255)).reshape(8, -1).sum(1)
    np.testing.assert_array_equal(rounded.distance["l0"][rounded.success], changed[rounded.success])
    assert (geometry.norm(rounded.image - images, norm) <= epsilon * (1 + 1e-5)).all()


@pytest.mark.slow
def test_expectation_over_transformations(toy, toy_batch):
    images, labels = toy_batch
    drawn = joi.transforms.noise(0.05)
    plain = small_pgd(toy, images, labels, stop=False, on=EIGHT)
    result = small_pgd(toy, images, labels, transform=drawn, samples=4, stop=False, on=EIGHT)
    assert np.abs(result.image - plain.image).max() > 0
    assert np.abs(result.image - images).max() <= EPSILON + 1e-6
    again = small_pgd(toy, images[2:4], labels[2:4], transform=drawn, samples=4, stop=False, on=EIGHT)
    np.testing.assert_allclose(again.image, result.image[2:4], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pgd", "apgd", "ddn", "deepfool"])
def test_success_under_a_random_transform_is_no_luck(toy, toy_batch, method):
    """Finds hold for the mean logits of fresh draws; the search does not end at the first draw that happens to."""
    images, labels = toy_batch
    drawn = joi.transforms.noise(0.1)
    options = {"epsilon": 0.1} if method in ("pgd", "apgd") else {}
    result = getattr(attacks, method)(KEY, toy, images, labels, transform=drawn, steps=30, on=EIGHT, **options)
    assert result.success.sum() >= 6
    for n in np.flatnonzero(result.success):
        views = jax.vmap(drawn, (0, None))(jax.random.split(jax.random.key(7), 256), result.image[n])
        mean = np.asarray(toy.activations(views, ["logits"])["logits"]).mean(0)
        lead = np.delete(mean, labels[n]).max() - mean[labels[n]]
        assert lead > -0.02  # the means of 32 and of 256 draws differ by about a tenth of a draw's spread of 0.1


def broken_apply(params, image, taps):
    """Fine at images up to 0.6, no number where any is larger."""
    return {"logits": jnp.where(image.max() > params, jnp.nan, 1.0) * image.mean((1, 2))}


def test_numbers_that_are_not_finite_are_no_success(toy):
    model = joi.from_function(broken_apply, 0.6, image_shape=(4, 4, 3), taps=("logits",))
    image = np.full((1, 4, 4, 3), 0.5, np.float32)
    image[..., 0] = 0.55
    result = attacks.pgd(KEY, model, image, [0], epsilon=0.2, steps=3, random_start=False, stop=False,
                         criterion=lambda z, y, t: z[1] > 9)  # fmt: skip
    assert not result.success[0]
    assert not result.finite[0]
    np.testing.assert_array_equal(result.image, image)
    assert result.accuracy == {"clean": 1.0, "robust": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: attacks.fgsm(KEY, m, x, y, epsilon=None), "this attack works within a budget: give epsilon"),
        (lambda m, x, y: attacks.square(KEY, m, x, y, epsilon=None), "this attack works within a budget"),
        (lambda m, x, y: attacks.bim(KEY, m, x, y, epsilon=0.1, restarts=2), "2 restarts would be copies"),
        (lambda m, x, y: attacks.ddn(KEY, m, x, y, restarts=2), "2 restarts would be copies"),
        (lambda m, x, y: small_pgd(m, x, y, criterion=criteria.top_k(5)), "top_k takes less than the 5 classes"),
        (lambda m, x, y: small_pgd(m, x, y, criterion=lambda z, y, t: z > 0), "one truth value"),
        (lambda m, x, y: attacks.deepfool(KEY, m, x, y, criterion=criteria.confidence(0.9)), "no further than"),
        (lambda m, x, y: attacks.ead(KEY, m, x, y, criterion=criteria.top_k(2)), "ead goes no further than"),
        (
            lambda m, x, y: small_pgd(m, x, y, loss="carlini_wagner", criterion=criteria.confidence(0.9)),
            "the loss carlini_wagner goes no further than",
        ),
        (lambda m, x, y: small_pgd(m, x, y.astype(np.int64) + 2**32), "label must be from"),
        (lambda m, x, y: small_pgd(m, x, y, epsilon=[[0.1], [0.1, 0.2]]), "epsilon is a number, or an array of them"),
        (lambda m, x, y: attacks.boundary(KEY, m, x, y, target=(y + 1) % 5), "give them as start"),
        (lambda m, x, y: attacks.run(print, KEY, m, x, y, norm="l7"), "norm is one of"),
        (lambda m, x, y: attacks.autoattack(KEY, m, x, y, epsilon=0.1, norm="l1"), "norm is one of linf, l2"),
    ],
)
def test_more_mistakes(toy, toy_batch, call, message):
    with pytest.raises(joi.InputError, match=message):
        call(toy, *toy_batch)


def softmax_apply(params, image, taps):
    return {"logits": jax.nn.softmax(image.mean((1, 2)) @ params)}


def scaled_apply(params, image, taps):
    return {"logits": image.mean((1, 2)) @ params}


def random_apply(params, image, taps):
    draw = jax.pure_callback(
        lambda n: np.random.normal(size=(len(n), 3)).astype(np.float32),  # noqa: NPY002  (a network that is random)
        jax.ShapeDtypeStruct((image.shape[0], 3), jnp.float32),
        jax.lax.stop_gradient(image),
    )
    return {"logits": image.mean((1, 2)) @ params + draw}


def model_of(apply, scale=1.0):
    return joi.from_function(apply, scale * jnp.eye(3), image_shape=(4, 4, 3), taps=("logits",), name="masked")


IMAGE = np.full((2, 4, 4, 3), 0.5, np.float32) + np.float32([0.2, 0.1, 0])


@pytest.mark.slow
def test_signs_of_gradient_masking():
    with pytest.warns(attacks.GradientMaskingWarning, match="zero at 2 of 2 images"):
        result = small_pgd(model_of(scaled_apply, 1e4), IMAGE, [0, 0])
    assert any("saturate" in text for text in result.warnings)
    with pytest.warns(attacks.GradientMaskingWarning, match="is random"):
        small_pgd(model_of(random_apply), IMAGE, [0, 0])
    assert small_pgd(model_of(scaled_apply), IMAGE, [0, 0]).warnings == ()


def test_gradients_that_float32_can_hardly_hold_still_point():
    # exp(-80) is 2e-35: the squares of such a gradient are zero in float32.
    result = attacks.pgd(KEY, model_of(scaled_apply, 800.0), IMAGE, [0, 0], epsilon=2.0, norm="l2", random_start=False)
    assert result.success.all()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"labels": [0, 5]}, "label 5 does not exist"),
        ({"labels": [0, -1]}, "label -1 does not exist"),
        ({"labels": [0.0, 1.0]}, "label must be an integer"),
        ({"labels": [0, 1, 2]}, "2 images need 2 labels, not 3"),
        ({"images": 2 * IMAGE}, r"\[0, 1\]"),
        ({"images": (255 * IMAGE).astype(np.uint8)}, "divide 8-bit images by 255"),
        ({"images": IMAGE[0]}, r"\[N, H, W, 3\]"),
        ({"images": IMAGE[..., :1]}, r"\[N, H, W, 3\]"),
        ({"epsilon": 0.0}, "positive"),
        ({"epsilon": [0.1, -0.1]}, "positive"),
        ({"epsilon": "8/255"}, "positive number"),
        ({"epsilon": np.ones((1, 3))}, r"\[E, 2\]"),
        ({"target": 0}, "the target of image 0 is its label, 0"),
        ({"target": 3}, "target 3 does not exist"),
        ({"target": "wolf"}, "no class labels"),
        ({"target": [1, 2, 0]}, "need 2 targets"),
        ({"criterion": 3}, "a criterion"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"samples": 2}, "give one"),
        ({"norm": "l7"}, "norm is one of"),
        ({"loss": "dlrr"}, "nearest: dlr"),
        ({"loss": "dlr", "target": [1, 2], "labels": [0, 0]}, "4 classes"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step": -0.1}, "step is a number above 0"),
        ({"start": IMAGE[:1]}, "one start per image"),
        ({"key": 3}, "key must be a JAX key"),
        ({"model": model_of(softmax_apply)}, "are probabilities"),
    ],
)
def test_mistakes(change, hint, compilations):
    given = {"key": KEY, "model": model_of(scaled_apply), "images": IMAGE, "labels": [0, 0], "epsilon": 0.1, **change}
    with pytest.raises(joi.InputError, match=hint) as raised:
        attacks.pgd(given.pop("key"), given.pop("model"), given.pop("images"), given.pop("labels"), **given)
    assert "\n" not in str(raised.value)


def test_too_few_classes():
    model = joi.from_function(
        lambda p, x, taps: {"logits": x.mean((1, 2, 3))[:, None] * p},
        jnp.ones(2),
        image_shape=(4, 4, 3),
        taps=("logits",),
    )
    with pytest.raises(joi.InputError, match="3 classes"):
        small_pgd(model, IMAGE, [0, 0], loss="dlr")


@pytest.mark.parametrize("model", ["tin100", None])
def test_what_is_no_model_is_said(model):
    with pytest.raises(joi.InputError, match=r"joi\.load"):
        attacks.pgd(KEY, model, np.zeros((1, 4, 4, 3), np.float32), [0], epsilon=EPSILON)


@pytest.mark.parametrize("transform", ["jiter", 3])
def test_what_is_no_transform_is_said(toy, toy_batch, transform):
    with pytest.raises(joi.InputError, match="transform"):
        small_pgd(toy, *toy_batch, transform=transform)


@pytest.mark.slow
def test_a_transform_has_a_name(toy, toy_batch):
    by_name = small_pgd(toy, *toy_batch, transform="jitter")
    plain = small_pgd(toy, *toy_batch, transform=joi.transforms.by_name("jitter"))
    np.testing.assert_array_equal(by_name.image, plain.image)
