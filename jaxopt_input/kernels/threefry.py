"""JAX's default random numbers, the same bits, as one short kernel for each draw.

On a CPU, JAX lowers the rounds of Threefry as loops over small arrays. XLA compiles each operation of their bodies as a
kernel of its own, about ten for each draw, and a draw of several axes takes a second. Most of the time that `minimize`
took to compile a small network went there. Written out, the rounds fuse into one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend import random as extend

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
UNSIGNED = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}


@jax.jit
def threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds: two words for each pair of counts.

    Args:
        key: `[2]` uint32.
        high, low: uint32 of equal shapes, the two words of each count.

    Returns:
        Two arrays of that shape, uint32.

    Source:
        Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011), section 3.

    Example:
        >>> zero = jnp.zeros((), jnp.uint32)
        >>> [hex(word) for word in threefry(jnp.zeros(2, jnp.uint32), zero, zero)]
        ['0x6b200159', '0x99ba4efe']
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY))
    x, y = high + keys[0], low + keys[1]
    for block in range(5):
        for turn in ROTATIONS[block % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(turn)) | (y >> jnp.uint32(32 - turn)))
        x, y = x + keys[(block + 1) % 3], y + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return x, y


def _words(key: jax.Array, shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Two words for each element of a shape, flat: the indices of an array of several axes take XLA a second."""
    low = jax.lax.iota(jnp.uint32, math.prod(shape))
    return threefry(key, jnp.zeros_like(low), low)


def _split(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    return jnp.stack(_words(key, shape), axis=-1).reshape(*shape, 2)


def _bits(key: jax.Array, width: int, shape: Sequence[int]) -> jax.Array:
    x, y = _words(key, shape)
    word = UNSIGNED[width]
    bits = x.astype(word) << word(32) | y.astype(word) if width == 64 else (x ^ y).astype(word)
    return bits.reshape(shape)


def _fold_in(key: jax.Array, data: jax.Array | int) -> jax.Array:
    low = jnp.asarray(data, jnp.uint32)
    return jnp.stack(threefry(key, jnp.zeros_like(low), low))


def _seed(seed: jax.Array) -> jax.Array:
    high = seed >> 32 if jnp.iinfo(seed.dtype).bits == 64 else jnp.zeros_like(seed)
    return jnp.stack([high, seed]).astype(jnp.uint32)


WRITTEN_OUT = extend.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="threefry2x32_written_out",
    tag="fry",
)


def written_out(key: jax.Array) -> jax.Array:
    """A key of JAX's default kind whose draws compile fast, and are those of the key itself; any other key as it is.

    Example:
        >>> key = jax.random.key(3)
        >>> bool((jax.random.normal(written_out(key), (2, 3)) == jax.random.normal(key, (2, 3))).all())
        True
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=WRITTEN_OUT)
