"""One rule for seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_vi_ext.seeds import as_key


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@pytest.mark.parametrize(
    "seed",
    [
        3,
        np.int64(3),
        np.uint8(3),
        np.array(3),
        jnp.array(3),
        jax.random.key(3),
        jax.random.PRNGKey(3),
        np.asarray(jax.random.PRNGKey(3)),
    ],
    ids=lambda seed: f"{type(seed).__name__}{np.shape(seed)}",
)
def test_same_seed_in_every_form(seed):
    key = as_key(seed)
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert key.shape == ()
    assert data(key) == data(jax.random.key(3))


def test_no_seed_is_a_fresh_one():
    assert len({data(as_key(None)) for _ in range(20)}) == 20


def test_no_global_random_state_is_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    as_key(None)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_negative_seed():
    assert data(as_key(-1)) == data(jax.random.key(-1))


def test_key_of_another_kind_is_kept():
    key = jax.random.key(0, impl="rbg")
    assert as_key(key) is key


@pytest.mark.parametrize("seed", [1.0, "1", (1,), [1, 2], True, np.random.default_rng(0), {}])
def test_wrong_type(seed):
    expected = f"random_seed must be None, an int or a JAX key, got {type(seed).__name__}"
    with pytest.raises(TypeError, match=expected):
        as_key(seed)


@pytest.mark.parametrize(
    "seed",
    [
        jnp.ones(2),
        np.array([1, 2]),
        jnp.zeros(3, jnp.uint32),
        jnp.zeros((2, 2), jnp.uint32),
        jnp.zeros(0, jnp.uint32),
        jnp.array([1.5]),
    ],
    ids=str,
)
def test_array_that_is_no_key(seed):
    with pytest.raises(TypeError, match=r"raw keys have shape \(2,\) and dtype uint32\), got an"):
        as_key(seed)


def test_several_keys():
    with pytest.raises(TypeError, match=r"random_seed must be a single key, got shape \(3,\)"):
        as_key(jax.random.split(jax.random.key(0), 3))


def test_too_large():
    with pytest.raises(
        ValueError, match="random_seed must fit in 64 bits, got 1180591620717411303"
    ):
        as_key(2**70)
