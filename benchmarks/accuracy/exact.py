"""Moments and best Gaussians that are known in closed form, or up to one integral. NumPy only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from models import Case
from scipy.optimize import minimize

Array = np.ndarray


class Moments(NamedTuple):
    """Of a posterior, or of a Gaussian fitted to it, in unconstrained space."""

    mean: Array
    cov: Array

    @property
    def sd(self) -> Array:
        return np.sqrt(np.diag(self.cov))


class Regression(NamedTuple):
    """A linear regression: its design with the intercept first, and its priors."""

    D: Array
    y: Array
    precision: Array  # of the coefficients a priori, zero where flat
    log_prior: Callable[[Array], Array]  # of u = log sigma, up to a constant


def inverse(P: Array) -> Array:
    """Of a precision whose coordinates may have any scale."""
    scale = np.sqrt(np.diag(P))
    return np.linalg.inv(P / np.outer(scale, scale)) / np.outer(scale, scale)


# -- Gaussian posteriors


def gaussian(case: Case) -> Moments:
    """Moments of a posterior that is Gaussian."""
    if case.name == "corr_gauss200":
        mean, L = case.args
        return Moments(mean, L @ L.T)
    if case.name == "far_intercept":
        X, y, sigma = case.args
        D = np.column_stack([np.ones(len(y)), X])
        cov = inverse(D.T @ D / sigma**2)
        return Moments(cov @ D.T @ y / sigma**2, cov)
    y, prior_sd = case.args
    variance = 1 / (len(y) / 2.0**2 + 1 / prior_sd**2)
    return Moments(np.array([variance * y.sum() / 2.0**2]), np.array([[variance]]))


def gaussian_optima(truth: Moments) -> dict[str, Moments]:
    """The best Gaussians: with independent coordinates, each keeps its conditional variance."""
    diagonal = np.diag(1 / np.diag(inverse(truth.cov)))
    return {"advi": Moments(truth.mean, diagonal), "fullrank_advi": truth}


# -- linear regressions


def regression(case: Case) -> Regression:
    X, y = case.args
    D = np.column_stack([np.ones(len(y)), X])
    if case.name == "ar2":
        precision = np.array([1 / 10.0**2, 1 / 0.5**2, 1 / 0.5**2])
        return Regression(D, y, precision, lambda u: u - 0.5 * np.exp(2 * u) / 2.0**2)
    return Regression(D, y, np.zeros(D.shape[1]), lambda u: u - np.log1p(np.exp(2 * u) / 5.0**2))


def given_scale(case: Regression, u: float) -> tuple[Moments, float]:
    """The coefficients where log sigma is `u`, and its log density up to a constant."""
    tau = np.exp(-2 * u)
    P = tau * case.D.T @ case.D + np.diag(case.precision)
    scale = np.sqrt(np.diag(P))
    cov = inverse(P)
    mean = tau * cov @ (case.D.T @ case.y)
    mean = mean + cov @ (tau * case.D.T @ (case.y - case.D @ mean) - case.precision * mean)
    square = tau * np.sum((case.y - case.D @ mean) ** 2) + np.sum(case.precision * mean**2)
    logdet = 2 * np.log(scale).sum() + np.linalg.slogdet(P / np.outer(scale, scale))[1]
    marginal = -len(case.y) * u - 0.5 * square - 0.5 * logdet + case.log_prior(u)
    return Moments(mean, cov), float(marginal)


def linear(case: Regression, points: int = 401) -> Moments:
    """Moments of coefficients and log sigma: Gaussian given sigma, and one integral over it."""
    n = len(case.y)
    mean, _ = given_scale(case, np.log(np.std(case.y)))[0]
    centre = 0.5 * np.log(np.mean((case.y - case.D @ mean) ** 2))
    grid = centre + np.linspace(-14, 14, points) / np.sqrt(2 * n)
    parts, marginals = zip(*(given_scale(case, u) for u in grid), strict=True)
    weights = np.exp(np.array(marginals) - max(marginals))
    weights /= weights.sum()
    rows = np.array([[*part.mean, u] for part, u in zip(parts, grid, strict=True)])
    mean = weights @ rows
    cov = (rows - mean).T @ (weights[:, None] * (rows - mean))
    cov[:-1, :-1] += np.einsum("i,ijk", weights, np.array([part.cov for part in parts]))
    return Moments(mean, cov)


def linear_optima(case: Regression) -> dict[str, Moments]:
    """The best Gaussians where the coefficients have flat priors.

    Both have the least-squares estimate as their mean, tau = E[1 / sigma^2] times D'D (or its
    diagonal) as the coefficients' precision, and no correlation with log sigma: the posterior is
    symmetric around the estimate. What is left is the mean and sd of log sigma.
    """
    n, p = case.D.shape
    least, _ = given_scale(case, 0.0)
    rss = np.sum((case.y - case.D @ least.mean) ** 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def minus_elbo(x: Array) -> float:
        a, log_b = x
        b = np.exp(log_b)
        prior = weights @ case.log_prior(a + b * nodes) / weights.sum()
        expected = -(n - p) * a - p * b**2 - 0.5 * rss * np.exp(-2 * a + 2 * b**2)
        return -(expected + prior + log_b)

    begin = [0.5 * np.log(rss / n), -0.5 * np.log(2 * n)]
    options: dict[str, Any] = {"xatol": 1e-10, "fatol": 1e-10, "maxiter": 10_000}
    a, log_b = minimize(minus_elbo, begin, method="Nelder-Mead", options=options).x
    tau = np.exp(-2 * a + 2 * np.exp(2 * log_b))
    gram = tau * case.D.T @ case.D
    found = {"advi": np.diag(1 / np.diag(gram)), "fullrank_advi": inverse(gram)}
    return {
        method: Moments(np.append(least.mean, a), _beside(cov, np.exp(2 * log_b)))
        for method, cov in found.items()
    }


def _beside(cov: Array, variance: float) -> Array:
    """A covariance with one more coordinate, uncorrelated."""
    whole = np.zeros((len(cov) + 1, len(cov) + 1))
    whole[:-1, :-1], whole[-1, -1] = cov, variance
    return whole
