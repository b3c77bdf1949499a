"""What does not fit is refused before anything is compiled, with an `InputError` that says what would."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_input as joi
from jaxopt_input import images, optimizers, projections, transforms
from jaxopt_input.engine.solution import Solution

KEY, NAN, INF = jax.random.key(0), float("nan"), float("inf")
MODEL = joi.from_function(
    lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3), image_shape=(4, 4, 3), taps=("logits",)
)


def run(**options):
    options = {"image": images.pixels(), "transform": None, "steps": 1, "key": KEY} | options
    return joi.minimize(-joi.losses.class_logit([0, 2]), MODEL, **options)


@pytest.fixture(scope="module")
def solution():
    return run(starts=2)


def function(apply):
    return joi.from_function(apply, 0.0, image_shape=(4, 4, 3), taps=("logits",))


class Own(images.Parameterization):
    def init(self, key, batch):
        return jax.random.uniform(key, (batch, *self.bound()))

    def decode(self, theta):
        return theta


class IgnoresBatch(Own):
    def init(self, key, batch):
        return jax.random.uniform(key, (1, *self.bound()))


class OneColor(Own):
    def decode(self, theta):
        return theta[..., :1]


class OfIntegers(Own):
    def init(self, key, batch):
        return jnp.zeros((batch, *self.bound()), jnp.int32)


class OfText(Own):
    def init(self, key, batch):
        return "noise"


class NoDecode(images.Parameterization):
    init = Own.init


class NoInit(images.Parameterization):
    decode = Own.decode


PHOTO = np.full((4, 4, 3), 0.5, np.float32)
REFUSED = {
    "projection to truth values": (lambda: run(projection=lambda t: t > 0), "of type float32, not bool"),
    "projection to complex": (lambda: run(projection=lambda t: t * 1j), "of type float32, not complex64"),
    "projection to text": (lambda: run(projection=lambda t: "x"), "returns θ itself"),
    "init ignores batch": (lambda: run(image=IgnoresBatch()), "leading axis of 2"),
    "init of integers": (lambda: run(image=OfIntegers()), "float32"),
    "init of text": (lambda: run(image=OfText()), "float32"),
    "decode of another shape": (lambda: run(image=OneColor()), r"\(2, 4, 4, 3\)"),
    "no init": (lambda: run(image=NoInit()), "does not define init"),
    "no decode": (lambda: run(image=NoDecode()), "does not define decode"),
    "initial without encode": (lambda: run(image=Own(), initial=PHOTO), "does not define encode"),
    "ball of another shape": (lambda: run(projection=projections.ball("l2", 1.0, np.zeros((3, 3, 3)))), "reference"),
    "ball of pyramids": (lambda: run(image="pyramid", projection=projections.ball("l2", 1.0, PHOTO)), "no single"),
    "jitter of text": (lambda: transforms.jitter("x"), "must be a whole number"),
    "jitter NaN": (lambda: transforms.jitter(NAN), "must be a whole number"),
    "pad inf": (lambda: transforms.pad(INF), "must be a whole number"),
    "pad of NaN": (lambda: transforms.pad(2, NAN), "gray of pad"),
    "pad of text": (lambda: transforms.pad(2, "x"), "gray of pad"),
    "crop None": (lambda: transforms.crop(None), "must be a whole number"),
    "scale of text": (lambda: transforms.scale("ab"), "sequence of at least one number"),
    "scale of one": (lambda: transforms.scale(1.1), "sequence of at least one number"),
    "scale NaN": (lambda: transforms.scale([1, NAN]), "finite"),
    "scale inf": (lambda: transforms.scale([INF]), "finite"),
    "rotate one": (lambda: transforms.rotate(5), "sequence of at least one number"),
    "rotate inf": (lambda: transforms.rotate([INF]), "finite"),
    "rotate by text": (lambda: transforms.rotate(["x"]), "finite"),
    "noise of text": (lambda: transforms.noise("x"), "finite"),
    "noise inf": (lambda: transforms.noise(INF), "finite"),
    "fourier sd text": (lambda: images.fourier(sd="x"), "standard deviation"),
    "fourier sd negative": (lambda: images.fourier(sd=-1), "at least 0"),
    "fourier decay": (lambda: images.fourier(decay=NAN), "decay"),
    "fourier shape": (lambda: images.fourier("abc"), "image shape"),
    "pixels sd": (lambda: images.pixels(sd=NAN), "standard deviation"),
    "pyramid sd": (lambda: images.pyramid(sd=INF), "standard deviation"),
    "pyramid levels": (lambda: images.pyramid(levels=INF), "levels"),
    "cppn layers": (lambda: images.cppn(layers=NAN), "layers"),
    "cppn units": (lambda: images.cppn(units="x"), "units"),
    "maco contrast": (lambda: images.maco(contrast=INF), "contrast"),
    "maco magnitude": (lambda: images.maco(magnitude="x"), "magnitude"),
    "box NaN": (lambda: projections.box(NAN, 1.0), "lower ≤ upper"),
    "box of targets": (lambda: projections.box([0.0, 0.1], [1.0, 1.0, 1.0]), "target axes"),
    "ball radius": (lambda: projections.ball("l2", INF, PHOTO), "radius must be finite"),
    "ball reference": (lambda: projections.ball("l2", 1.0, PHOTO * NAN), "reference of a ball must be finite"),
    "sphere center": (lambda: projections.sphere(1.0, NAN), "center must be finite"),
    "pixel ball": (lambda: projections.pixel_ball(NAN), "radius must be finite"),
    "adam inf": (lambda: optimizers.adam(INF), "learning_rate must be finite"),
    "adam b1": (lambda: optimizers.adam(0.1, b1=NAN), "b1 must be finite"),
    "yosinski": (lambda: optimizers.yosinski(desired_progress=INF), "desired_progress must be finite"),
    "lbfgs": (lambda: optimizers.lbfgs("x"), "memory of lbfgs"),
    "schedule of text": (lambda: optimizers.adam(lambda c: "x"), "one number for a step"),
    "schedule of complex": (lambda: optimizers.adam(lambda c: c * 1j), "one number for a step"),
    "transform to complex": (lambda: run(transform=lambda key, x: x * 1j), "real numbers"),
    "transform to integers": (lambda: run(transform=lambda key, x: x.astype(jnp.int32)), "real numbers"),
    "transform to text": (lambda: run(transform=lambda key, x: "x"), "returns a view"),
    "visualize nothing": (lambda: joi.visualize(MODEL, None), "a target is a text"),
    "visualize numbers": (lambda: joi.visualize(MODEL, [3]), "a target is a text"),
    "from_function of bare logits": (lambda: function(lambda p, x, taps: x.mean((1, 2))), "should return a dictionary"),
    "from_function of a tuple": (
        lambda: function(lambda p, x, taps: {"logits": (x.mean((1, 2)), 1)}),
        "is of type tuple: it should be one array",
    ),
    "from_function of a nested mapping": (
        lambda: function(lambda p, x, taps: {"logits": {"z": x.mean((1, 2))}}),
        "is of type dict: it should be one array",
    ),
    "load nothing": (lambda: joi.load(None), "a model is a name"),
    "load a number": (lambda: joi.load(3), "a model is a name"),
    "a device twice": (lambda: joi.Resources(devices=jax.devices()[:1] * 2), "given once"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, monkeypatch):
    call, says = REFUSED[name]
    monkeypatch.setattr("jaxopt_input.engine.loop.begin", None)  # nothing is compiled
    with pytest.raises(joi.InputError, match=says):
        call()


REFUSED_OF_SOLUTIONS = {
    "best of text": (lambda s: s.best("x"), "whole number"),
    "best of none": (lambda s: s.best(0), "at least 1"),
    "concat of a number": (lambda s: Solution.concat([s, 3]), "not 3"),
    "concat of one": (lambda s: Solution.concat(s), "sequence of solutions"),
    "take what is not there": (lambda s: s.take([9]), "indices below 4"),
    "take text": (lambda s: s.take("x"), "indices below 4"),
    "take fractions": (lambda s: s.take([0.5]), "indices below 4"),
    "take a short mask": (lambda s: s.take([True]), "mask of 4"),
}


@pytest.mark.parametrize("name", REFUSED_OF_SOLUTIONS)
def test_refused_of_solutions(name, solution):
    call, says = REFUSED_OF_SOLUTIONS[name]
    with pytest.raises(joi.InputError, match=says):
        call(solution)


def test_take_of_none_and_of_a_slice(solution):
    assert isinstance(solution, Solution)
    none = solution.take([])
    assert (len(none), none.targets, none.image.shape, none.to_table()) == (0, (), (0, 4, 4, 3), [])
    assert solution.take(slice(2)).start.tolist() == [0, 1]
    assert solution.take(slice(None, None, -1)).names == solution.names[::-1]


def test_what_fits_is_taken(solution):
    joi.minimize(-joi.losses.class_logit(0), MODEL, image=Own(), transform=None, steps=1, key=KEY)
    run(projection=projections.box(-INF, 1.0), optimizer=optimizers.adam(optax.constant_schedule(1)))
    assert len(Solution.concat(s for s in (solution, solution))) == 8
