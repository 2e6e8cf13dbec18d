"""``jax.vmap`` in blocks of bounded memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from numpyro_vi_ext.programs import operations

BLOCK_NUMBERS = 2**22  # numbers that one block may fill

_LAPACK = frozenset(
    "cholesky eig eigh geqrf householder_product lu qr schur svd triangular_solve".split()
)


def in_blocks(one: Callable[[Any], Any], xs: Any, block_size: int | None = None) -> Any:
    """Like ``jax.vmap(one)(xs)``, in equal blocks; for use inside compiled code.

    Parameters
    ----------
    one : callable
        What to compute for one entry.
    xs : pytree of arrays
        Entries along the leading axis.
    block_size : int, optional
        Entries computed at once. By default so many that a block of what is computed for them
        fills at most `BLOCK_NUMBERS` numbers.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    if block_size is None:
        block_size = entries_at_once(one, xs)
    blocks = max(1, math.ceil(count / block_size))
    size = math.ceil(count / blocks)
    vectorised = jax.vmap(one)
    if blocks == 1:
        return vectorised(xs)
    # The first ones again fill the last block. Not lax.map(batch_size=...), which fails for
    # arrays of size zero (JAX 0.10 to 0.12).
    order = jnp.arange(blocks * size) % count
    padded = jax.tree.map(lambda x: x[order].reshape(blocks, size, *x.shape[1:]), xs)
    values = jax.lax.map(vectorised, padded)
    return jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[:count], values)


def entries_at_once(one: Callable[[Any], Any], xs: Any) -> int:
    """How many entries, at least 1, fill `BLOCK_NUMBERS` numbers together; as for `in_blocks`.

    Just 1 where a matrix is decomposed on a CPU: JAX (0.10) shares a batch of decompositions out
    over threads of the pool that they run in, and two batches at a time can wait for each other
    forever.
    """
    example = jax.tree.map(lambda x: jax.typeof(x).update(shape=x.shape[1:]), xs)
    names = {operation.primitive.name for operation in operations(_needed(one, example))}
    if jax.default_backend() == "cpu" and names & _LAPACK:
        return 1
    return max(1, BLOCK_NUMBERS // _numbers(one, example))


def _numbers(one: Callable[[Any], Any], example: Any) -> int:
    """Numbers in the results of one call, and in the largest array on the way to them."""
    needed = _needed(one, example)
    sizes = [_size(x) for operation in operations(needed) for x in operation.outvars]
    return max(1, sum(map(_size, needed.outvars)) + max([0, *sizes]))


def _needed(one: Callable[[Any], Any], example: Any) -> Any:
    """The JAX program of one call, without what its results do not need."""
    closed = jax.make_jaxpr(one)(example)
    return partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _size(var: Any) -> int:
    return math.prod(getattr(var.aval, "shape", ()))
