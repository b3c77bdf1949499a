"""What combines targets: signs, weights, sums, ways from one to another; and the losses that they become."""

import jax
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine.target import expand, label, objective, shortfall


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first:3", ["first:3"]),
        ("-first:3", ["-first:3"]),
        ("0.5*first:3", ["0.5*first:3"]),
        ("first:1+second:2", ["first:1+second:2"]),
        ("first:1 + -2*class:polar bear", ["first:1+-2*class:2"]),
        ("first:1@center~second:2", ["first:1@6,5~second:2"]),
        ("class:*+first:0", [f"class:{n}+first:0" for n in range(5)]),
        ("-first", ["-first"]),
    ],
)
def test_expand(toy, text, expected):
    wanted = expand(text, toy)
    assert [str(one) for one in wanted] == expected
    assert [one for name in expected for one in expand(name, toy)] == wanted  # a canonical name denotes its target


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("first:1+frist:2", "nearest: first"),
        ("first:1~second:2~first:3", "one ~"),
        ("0*first:1", "weight of 0"),
        ("first:1+", "layer"),
        ("first:1+second:8", "channel 8 does not exist"),
    ],
)
def test_mistakes(toy, text, hint):
    with pytest.raises(joi.InputError, match=hint):
        expand(text, toy)


def test_objectives_are_the_weighted_sums(toy):
    image = jax.random.uniform(jax.random.key(0), (12, 10, 3))
    acts = {tap: a[0] for tap, a in toy.apply(toy.params, image[None], ("first", "second", "logits")).items()}
    first, second, logits = (np.asarray(acts[tap], np.float64) for tap in ("first", "second", "logits"))
    probability = np.exp(logits[2]) / np.exp(logits).sum()
    cases = {
        ("first:1+-2*second:2", "default"): -(first[..., 1].mean() - 2 * second[..., 2].mean()),
        ("-first:1@0,4", "default"): first[0, 4, 1],
        ("0.5*second", "default"): -0.5 * (second**2).mean(),
        ("class:2", "logit"): -logits[2],
        ("class:2", "probability"): -probability,
        ("class:2", "log-probability"): -np.log(probability),
        ("class:2", "default"): -(logits[2] + np.log(probability)),
    }
    for (text, kind), expected in cases.items():
        loss = objective(expand(text, toy), kind)
        single = jax.tree.map(lambda leaf: leaf[0] if np.ndim(leaf) else leaf, loss)
        np.testing.assert_allclose(single(acts, image), expected, rtol=1e-4)
    with pytest.raises(joi.InputError, match="nearest: probability"):
        objective(expand("class:2", toy), "probabilty")


def test_labels_and_shortfalls(toy):
    assert label(expand("-class:2+first:1~class:0", toy)[0], toy) == "polar bear, ant"
    assert label(expand("first:1", toy)[0], toy) is None
    assert label("class:2", toy) is None  # a name is no parsed target
    assert shortfall(expand("first:*@1,1", toy)) is not None
    for text in ("-class:2", "first", "class:1+class:2"):
        assert shortfall(expand(text, toy)) is None


@pytest.mark.slow
def test_joint_negative_and_ordinary_targets_together(toy):
    wanted = ["first:1+second:2", "-second:1", "second:1", "first:1~second:2"]
    s = joi.visualize(toy, wanted, starts=2, steps=12, transform=None, key=jax.random.key(1))
    assert s.names == tuple(name for name in wanted for _ in range(2))
    acts = toy.apply(toy.params, s.image, ("second",))["second"][..., 1].mean((1, 2))
    assert float(acts[2:4].max()) < float(acts[4:6].min())  # the least of it and the most
