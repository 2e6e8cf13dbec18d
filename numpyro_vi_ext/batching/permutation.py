"""Indices of a step: drawn with replacement, or positions of a random permutation."""

import functools
import math

import jax
import jax.numpy as jnp

Array = jax.Array

# Measured in 400,000 epochs of 5 to 8 rows: pairs of positions are uniform, with 16 they are not.
_ROUNDS = 24


# Compiled for its sizes, with the key as an input: another seed compiles nothing.
@functools.partial(jax.jit, static_argnums=(2, 3))
def with_replacement(key: Array, step: Array, length: int, size: int) -> Array:
    """Independent positions of ``range(length)``, shape (size,)."""
    return jax.random.randint(jax.random.fold_in(key, step), (size,), 0, length, jnp.int32)


@functools.partial(jax.jit, static_argnums=(2, 3))
def without_replacement(key: Array, step: Array, length: int, size: int) -> Array:
    """Consecutive positions of the permutation of the step's epoch, shape (size,)."""
    per_epoch = length // size
    key = jax.random.fold_in(key, step // per_epoch)
    keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)
    positions = step % per_epoch * size + jnp.arange(size, dtype=jnp.int32)
    return _permute(keys, positions, length)


def _permute(keys: Array, positions: Array, length: int) -> Array:
    """Where a keyed pseudorandom permutation of ``range(length)`` takes these positions.

    Evaluated point by point, so that a batch does not pay for the rows it leaves out: a Feistel
    network on the pairs of ``range(rows) x range(columns)``, of which there are at least `length`,
    walked along its cycles until it comes back to ``range(length)`` (the generalised Feistel
    cipher of Black and Rogaway 2002, Ciphers with arbitrary finite domains, CT-RSA). For shuffling
    data by such bijections, and tests of them, see Mitchell et al. 2021, Bandwidth-optimal random
    shuffling for GPUs, arXiv:2106.06161.

    Parameters
    ----------
    keys : array of uint32, shape (_ROUNDS,)
        One key per round; even in number.
    positions : array of int32
        Within ``range(length)``.
    """
    # Were both numbers odd, every round would be an even permutation, and so would the whole.
    rows = (math.isqrt(length - 1) + 2) // 2 * 2
    columns = -(-length // rows)

    def encipher(x: Array) -> Array:
        left, right = x // columns, x % columns
        for even, odd in keys.reshape(-1, 2):
            left = (left + _hash(right ^ even) % rows) % rows
            right = (right + _hash(left ^ odd) % columns) % columns
        return left * columns + right

    def walk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, outside = state
        x = jnp.where(outside, encipher(x), x)
        return x, x >= length

    start = positions.astype(jnp.uint32)
    found, _ = jax.lax.while_loop(lambda s: s[1].any(), walk, (start, jnp.full(start.shape, True)))
    return found.astype(jnp.int32)


def _hash(x: Array) -> Array:
    """Mix 32 bits, with the finaliser of MurmurHash3 (Appleby, public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
