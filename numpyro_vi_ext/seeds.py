"""One rule for ``random_seed`` everywhere: None, an int, or a JAX key."""

import operator
import secrets

import jax
import jax.numpy as jnp
import numpy as np

Seed = int | jax.Array | None


def as_key(random_seed: Seed) -> jax.Array:
    """Make a typed JAX key.

    Parameters
    ----------
    random_seed : int, JAX key or None
        None gives a fresh key at every call.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> as_key(0) == jax.random.key(0)
    Array(True, dtype=bool)
    """
    if random_seed is None:
        return jax.random.key(secrets.randbits(32))
    if isinstance(random_seed, jax.Array) and jnp.issubdtype(
        random_seed.dtype, jax.dtypes.prng_key
    ):
        if random_seed.shape:
            raise TypeError(f"random_seed must be a single key, got shape {random_seed.shape}")
        return random_seed
    if isinstance(random_seed, jax.Array | np.ndarray) and random_seed.ndim:
        return _wrap(random_seed)
    try:
        if isinstance(random_seed, bool):
            raise TypeError
        return jax.random.key(operator.index(random_seed))
    except TypeError:
        raise TypeError(
            f"random_seed must be None, an int or a JAX key, got {type(random_seed).__name__}"
        ) from None
    except OverflowError:
        raise ValueError(f"random_seed must fit in 64 bits, got {random_seed}") from None


def describe_key(key: jax.Array) -> int | str:
    """The int that makes this key, or else what the key is made of.

    Examples
    --------
    >>> describe_key(as_key(42)), describe_key(jax.random.split(as_key(42))[0])
    (42, 'key data [1832780943, 270669613]')
    """
    *words, last = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return f"key data {[*words, last]}" if any(words) else last


def _wrap(data: jax.Array | np.ndarray) -> jax.Array:
    """Make a typed key of the older form, an array of raw key data."""
    expected = jax.random.key_data(jax.random.key(0))
    if data.dtype != expected.dtype or data.shape != expected.shape:
        raise TypeError(
            "random_seed must be None, an int or a JAX key (raw keys have shape "
            f"{expected.shape} and dtype {expected.dtype}), got an array of shape {data.shape} "
            f"and dtype {data.dtype}"
        )
    return jax.random.wrap_key_data(jnp.asarray(data))
