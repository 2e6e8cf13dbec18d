"""The best Gaussian of a family for any posterior, by a method that shares nothing with a fit.

The ELBO is averaged over fixed points, antithetic and with the covariance of a standard normal, so
that a Gaussian posterior has its exact optimum; L-BFGS then finds the maximum in double precision.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from exact import Moments
from scipy.optimize import minimize
from scipy.stats import norm, qmc

Array = np.ndarray


def points(d: int, n: int) -> Array:
    """About 2n points like draws of a standard normal: mean zero, covariance one, symmetric."""
    uniform = qmc.Sobol(d, seed=0).random(n)
    eps = norm.ppf(np.clip(uniform, 1e-12, 1 - 1e-12))
    L = np.linalg.cholesky(eps.T @ eps / n)
    eps = np.linalg.solve(L, eps.T).T
    return np.concatenate([eps, -eps])


def best(log_density: Callable[[Any], Any], guess: Moments, dense: bool, n: int) -> Moments:
    """The Gaussian with the largest ELBO.

    Parameters
    ----------
    log_density : callable
        Of points, shape (rows, d).
    guess : Moments
        Where to begin; also what the coordinates are measured in.
    dense : bool
        Whether the coordinates may be correlated.
    n : int
        Half the number of points.
    """
    d, eps = len(guess.mean), jnp.asarray(points(len(guess.mean), n))
    base = np.linalg.cholesky(guess.cov) if dense else np.diag(guess.sd)
    below = np.tril_indices(d, -1)

    def unpack(x: Any) -> tuple[Any, Any]:
        L = jnp.diag(jnp.exp(x[d : 2 * d]))
        return x[:d], L.at[below].set(x[2 * d :]) if dense else L

    def minus_elbo(x: Any) -> Any:
        m, L = unpack(x)
        z = guess.mean + (m + eps @ L.T) @ base.T
        return -jnp.mean(log_density(z)) - jnp.sum(x[d : 2 * d])

    value_and_grad = jax.jit(jax.value_and_grad(minus_elbo))
    begin = np.zeros(2 * d + (len(below[0]) if dense else 0))
    begin[d : 2 * d] = -0.5  # inside the posterior rather than around it

    def both(x: Array) -> tuple[float, Array]:
        value, grad = value_and_grad(x)
        return float(value), np.asarray(grad)

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-6, "maxcor": 30}
    found = minimize(both, begin, jac=True, method="L-BFGS-B", options=options)
    m, L = (np.asarray(part) for part in unpack(jnp.asarray(found.x)))
    return Moments(guess.mean + base @ m, base @ L @ L.T @ base.T)
