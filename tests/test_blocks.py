"""``jax.vmap`` in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_vi_ext import blocks


@pytest.mark.parametrize("block_size", [1, 3, 7, 10, 11, 1000, None])
@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_blocks_are_put_together_in_order(count, block_size):
    """Whether the last block is full or not, for results of any structure."""
    xs = (np.arange(count, dtype=np.float32), np.arange(3.0 * count).reshape(count, 3))
    xs = jax.tree.map(jnp.asarray, xs)
    found = blocks.in_blocks(lambda x: {"sum": x[0] + x[1], "none": x[0][None][:0]}, xs, block_size)
    np.testing.assert_allclose(found["sum"], np.asarray(xs[0])[:, None] + np.asarray(xs[1]))
    assert found["none"].shape == (count, 0)


def wide(x):
    return jnp.outer(x, jnp.ones(50)).sum()


@pytest.mark.parametrize(
    ("one", "numbers"),
    [
        (lambda x: x, 2 + 0),  # nothing is computed
        (wide, 1 + 100),
        (jax.jit(wide), 1 + 100),
        (lambda x: jax.lax.scan(lambda c, _: (c + wide(x), None), 0.0, None, 9)[0], 1 + 100),
        (lambda x: jax.lax.map(lambda i: i * wide(x), jnp.ones(5)), 5 + 100),
        (lambda x: jax.lax.cond(x[0] > 0, wide, lambda x: 0.0, x), 1 + 100),
        (lambda x: (wide(x), x[0])[1], 1 + 1),  # what is not used does not count
    ],
    ids=["nothing", "outer", "jit", "scan", "map", "cond", "unused"],
)
def test_numbers_in_the_largest_array_on_the_way(one, numbers):
    """Counted by hand: those of the results, and of the largest array at any depth."""
    assert blocks._numbers(one, jax.ShapeDtypeStruct((2,), jnp.float32)) == numbers


def test_default_blocks_are_as_many_as_fit(monkeypatch):
    """101 numbers each: 3 in 350, 1 in fewer than 202, and never none."""
    seen = []
    original = jax.vmap
    monkeypatch.setattr(
        jax, "vmap", lambda f: lambda x: (seen.append(x.shape[0]), original(f)(x))[1]
    )
    for room, expected in ((350, 3), (101, 1), (10, 1)):
        monkeypatch.setattr(blocks, "BLOCK_NUMBERS", room)
        found = blocks.in_blocks(wide, jnp.ones((9, 2)))
        np.testing.assert_allclose(found, np.full(9, 100.0))
        assert seen.pop() == expected
