"""Models whose posterior and evidence are known exactly: all of them linear and Gaussian."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

NOISE_SD = 0.5  # of the regression


class Target(NamedTuple):
    model: Any
    args: tuple
    mean: np.ndarray  # of the posterior, (d,)
    cov: np.ndarray  # of the posterior, (d, d)
    log_evidence: float


def normal_model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def multivariate_model(y, scale_tril):
    prior = dist.Normal(0.0, 2.0).expand([y.shape[-1]]).to_event(1)
    x = numpyro.sample("x", prior)
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(x, scale_tril=scale_tril), obs=y)


def regression_model(X, y):
    w = numpyro.sample("w", dist.Normal(0.0, 3.0).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w, NOISE_SD).to_event(1), obs=y)


def linear_gaussian(design, noise_cov, prior_sd, y):
    """Posterior mean, posterior covariance and log evidence of y ~ N(design w, noise_cov)."""
    d = design.shape[1]
    solved = np.linalg.solve(noise_cov, design)
    cov = np.linalg.inv(design.T @ solved + np.eye(d) / prior_sd**2)
    total = noise_cov + prior_sd**2 * design @ design.T
    _, log_det = np.linalg.slogdet(2 * np.pi * total)
    return cov @ solved.T @ y, cov, -0.5 * (log_det + y @ np.linalg.solve(total, y))


def normal_mean():
    """Twenty data around 80, eight prior standard deviations from the prior mean."""
    y = 80.0 + np.random.default_rng(1).normal(size=20)
    exact = linear_gaussian(np.ones((20, 1)), np.eye(20), 10.0, y)
    return Target(normal_model, (jnp.array(y),), *exact)


def multivariate_normal_mean(d, n=5, correlation=0.8):
    """Mean of n vectors whose neighbouring coordinates are correlated."""
    coordinates = np.arange(d)
    cov = correlation ** np.abs(coordinates[:, None] - coordinates)
    scale_tril = np.linalg.cholesky(cov)
    rng = np.random.default_rng(d)
    y = rng.normal(size=d) + rng.normal(size=(n, d)) @ scale_tril.T
    exact = linear_gaussian(np.tile(np.eye(d), (n, 1)), np.kron(np.eye(n), cov), 2.0, y.ravel())
    return Target(multivariate_model, (jnp.array(y), jnp.array(scale_tril)), *exact)


def linear_regression():
    """Seven points, an intercept and two correlated slopes, known noise."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=7)
    X = np.stack([np.ones(7), x, 0.6 * x + 0.8 * rng.normal(size=7)], axis=1)
    y = X @ np.array([1.0, -2.0, 0.5]) + NOISE_SD * rng.normal(size=7)
    exact = linear_gaussian(X, NOISE_SD**2 * np.eye(7), 3.0, y)
    return Target(regression_model, (jnp.array(X), jnp.array(y)), *exact)
