"""Log densities of the seed's models, written by hand in JAX: for loops of ours and of peers."""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

Array = jax.Array


def mixture(z: Array) -> Array:
    """The seed's bimodal target, in one dimension."""
    parts = norm.logpdf(z[0], jnp.array([-0.3, 0.5]), 0.1)
    return jax.nn.logsumexp(parts + jnp.log(jnp.array([0.2, 0.8])))


def wide_normal(data: Array, z: Array, count: float = 1.0) -> Array:
    """Means with flat priors and half-normal sds in logs; the likelihood counts `count` times."""
    mu, log_sd = jnp.split(z, 2)
    sd = jnp.exp(log_sd)
    prior = jnp.sum(-0.5 * sd**2 + 0.5 * jnp.log(2 / jnp.pi) + log_sd)
    return prior + count * jnp.sum(norm.logpdf(data, mu, sd))


def softmax_regression(X: Array, y: Array, z: Array) -> Array:
    """Three classes: coefficients with normal priors of sd 100, flat intercepts."""
    beta, intercept = z[:-3].reshape(-1, 3), z[-3:]
    log_p = jax.nn.log_softmax(X @ beta + intercept)
    return jnp.sum(norm.logpdf(beta, 0, 100)) + jnp.sum(
        jnp.take_along_axis(log_p, y[:, None], axis=1)
    )
