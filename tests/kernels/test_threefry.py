"""The written-out Threefry gives JAX's own bits, whatever is drawn, and compiles in a fraction of the time."""

import jax
import numpy as np
import pytest

from jaxopt_input.kernels.threefry import WRITTEN_OUT, written_out

DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 4)),
    "bits of one": lambda key: jax.random.bits(key),
    "bits of 8": lambda key: jax.random.bits(key, (3, 4), "uint8"),
    "bits of 16": lambda key: jax.random.bits(key, (3, 4), "uint16"),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
    "normal": lambda key: jax.random.normal(key, (2, 3, 5)),
    "randint": lambda key: jax.random.randint(key, (5,), -3, 11),
    "permutation": lambda key: jax.random.permutation(key, 20),
    "choice": lambda key: jax.random.choice(key, 10, (4,), replace=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_bits_are_those_of_jax(draw):
    key = jax.random.key(5)
    np.testing.assert_array_equal(draw(written_out(key)), draw(key))
    keys = jax.random.split(key, 3)
    np.testing.assert_array_equal(jax.vmap(draw)(written_out(keys)), jax.vmap(draw)(keys))


@pytest.mark.parametrize("seed", [0, -5, 2**31 - 1])
def test_seeds_give_the_same_keys(seed):
    ours, theirs = jax.random.key(seed, impl=WRITTEN_OUT), jax.random.key(seed)
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


def test_with_64_bits():
    with jax.enable_x64(True):
        for draw in (lambda key: jax.random.bits(key, (3,), "uint64"), lambda key: jax.random.normal(key, (3,))):
            np.testing.assert_array_equal(draw(written_out(jax.random.key(5))), draw(jax.random.key(5)))
        ours, theirs = jax.random.key(2**40 + 7, impl=WRITTEN_OUT), jax.random.key(2**40 + 7)
        np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


def test_other_kinds_of_keys_are_left_as_they_are():
    for key in (jax.random.key(5, impl="rbg"), written_out(jax.random.key(5))):
        assert written_out(key) is key


def test_a_draw_is_one_loop_free_kernel():
    """XLA:CPU compiles JAX's own form as loops with a dozen kernels."""
    draw = jax.jit(lambda key: jax.random.bits(key, (3, 4)))
    program = draw.lower(written_out(jax.random.key(0))).compile().as_text()
    assert "while(" not in program
    assert program.count(" fusion(") <= 2
