"""One rule for ``random_seed`` everywhere: None, an int, or a JAX key."""

import operator
import secrets

import jax
import jax.numpy as jnp

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
    if isinstance(random_seed, jax.Array) and random_seed.size > 1:
        return jax.random.wrap_key_data(random_seed)  # the older form: raw key data
    if isinstance(random_seed, jax.Array) and jnp.issubdtype(random_seed.dtype, jax.dtypes.prng_key):
        return random_seed
    try:
        return jax.random.key(operator.index(random_seed))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"random_seed must be None, an int or a JAX key, got {type(random_seed).__name__}"
        ) from None
