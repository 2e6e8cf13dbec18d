"""Gaussian families, side by side: they differ in how the scale is written."""

import dataclasses
import math
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from numpyro_vi_ext.curvature import Curvature
from numpyro_vi_ext.families.base import DensityFamily, Family

Array = jax.Array

_LOG_2PI = math.log(2 * math.pi)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiagonalGaussian(DensityFamily):
    """``z = mu + sigma * eps`` with ``sigma = softplus(rho)``.

    Parameters
    ----------
    mu, rho : array, shape (d,)
        Mean and unconstrained scale (Kucukelbir et al. 2017, section 2.4; the softplus is that of
        Blundell et al. 2015).
    """

    mu: Array
    rho: Array

    locations: ClassVar[tuple[str, ...]] = ("mu",)

    @classmethod
    def create(cls, loc: np.ndarray, sigma: np.ndarray) -> Self:
        return cls(jnp.asarray(loc), jnp.asarray(_inverse_softplus(sigma), jnp.result_type(loc)))

    @classmethod
    def match(cls, other: Family) -> Self:
        return cls.create(other.mean(), other.std())

    @classmethod
    def laplace(cls, loc: Array, curvature: Curvature) -> Self:
        return cls(loc, _inverse_softplus_jax(jax.lax.rsqrt(curvature.diagonal)))

    @property
    def ndim(self) -> int:
        return self.mu.shape[0]

    def transform(self, eps: Array) -> Array:
        return self.mu + jax.nn.softplus(self.rho) * eps

    def through(self, frame: Self) -> Self:
        unit = jax.nn.softplus(frame.rho)
        sigma = unit * jax.nn.softplus(self.rho)
        return type(self)(frame.mu + unit * self.mu, _inverse_softplus_jax(sigma))

    def within(self, curvature: Curvature) -> Curvature:
        sd = self.std()
        return Curvature(sd[:, None] * curvature.precision * sd, curvature.root / sd[:, None])

    def log_det(self) -> Array:
        return jnp.sum(jnp.log(jax.nn.softplus(self.rho)))

    def score(self, eps: Array) -> Array:
        return -eps / jax.nn.softplus(self.rho)

    def log_prob(self, z: Array) -> Array:
        eps = (z - self.mu) / jax.nn.softplus(self.rho)
        return -0.5 * jnp.sum(eps**2 + _LOG_2PI) - self.log_det()

    def quadratic(self, curvature: Array) -> Array:
        return 0.5 * jnp.sum(jnp.diag(curvature) * jax.nn.softplus(self.rho) ** 2)

    def entropy(self) -> Array:
        return 0.5 * self.ndim * (1 + _LOG_2PI) + self.log_det()

    def mean(self) -> np.ndarray:
        return np.asarray(self.mu)

    def std(self) -> np.ndarray:
        return _softplus(np.asarray(self.rho))

    def cov(self) -> np.ndarray:
        return np.diag(self.std() ** 2)

    def metric(self) -> np.ndarray:
        return self.std() ** 2

    def params(self) -> dict[str, np.ndarray]:
        return {"mu": np.asarray(self.mu), "rho": np.asarray(self.rho)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseGaussian(DensityFamily):
    """``z = mu + L eps`` with L lower triangular, its diagonal passed through softplus.

    Parameters
    ----------
    mu : array, shape (d,)
        Mean.
    raw : array, shape (d, d)
        L below the diagonal, and its diagonal before the softplus; above the diagonal it is zero
        and receives no gradient. Kept dense because packing it costs more than the arithmetic.
    """

    mu: Array
    raw: Array

    locations: ClassVar[tuple[str, ...]] = ("mu",)

    @classmethod
    def create(cls, loc: np.ndarray, sigma: np.ndarray) -> Self:
        raw = np.diag(_inverse_softplus(sigma))
        return cls(jnp.asarray(loc), jnp.asarray(raw, jnp.result_type(loc)))

    @classmethod
    def match(cls, other: Family) -> Self:
        if isinstance(other, cls):
            return other  # exactly, where the covariance would be rounded
        loc, factor = other.mean(), cholesky(other.cov())
        raw = np.tril(factor, -1) + np.diag(_inverse_softplus(np.diag(factor)))
        return cls(jnp.asarray(loc), jnp.asarray(raw, jnp.result_type(loc)))

    @classmethod
    def laplace(cls, loc: Array, curvature: Curvature) -> Self:
        root = curvature.root
        root = jnp.diag(root) if root.ndim == 1 else root
        upper = jnp.linalg.qr(root.T, mode="r")  # root @ root.T = upper.T @ upper
        factor = upper.T * jnp.where(jnp.diag(upper) < 0, -1, 1)
        return cls(loc, _raw(factor))

    @property
    def ndim(self) -> int:
        return self.mu.shape[0]

    @property
    def scale_tril(self) -> Array:
        """The Cholesky factor L of the covariance, shape (d, d)."""
        diagonal = jnp.diag(self.raw)
        return jnp.tril(self.raw, -1) + jnp.diag(jax.nn.softplus(diagonal))

    def transform(self, eps: Array) -> Array:
        return self.mu + self.scale_tril @ eps

    def through(self, frame: Self) -> Self:
        unit = frame.scale_tril
        return type(self)(frame.mu + unit @ self.mu, _raw(unit @ self.scale_tril))

    def within(self, curvature: Curvature) -> Curvature:
        factor = self._scale_tril_numpy()
        root = np.linalg.solve(factor, curvature.root)
        return Curvature(factor.T @ curvature.precision @ factor, root)

    def log_det(self) -> Array:
        return jnp.sum(jnp.log(jax.nn.softplus(jnp.diag(self.raw))))

    def score(self, eps: Array) -> Array:
        return -solve_triangular(self.scale_tril, eps, trans="T", lower=True)

    def log_prob(self, z: Array) -> Array:
        eps = solve_triangular(self.scale_tril, z - self.mu, lower=True)
        return -0.5 * jnp.sum(eps**2 + _LOG_2PI) - self.log_det()

    def quadratic(self, curvature: Array) -> Array:
        factor = self.scale_tril
        return 0.5 * jnp.sum(factor * (curvature @ factor))

    def entropy(self) -> Array:
        return 0.5 * self.ndim * (1 + _LOG_2PI) + self.log_det()

    def mean(self) -> np.ndarray:
        return np.asarray(self.mu)

    def std(self) -> np.ndarray:
        return np.sqrt(np.sum(self._scale_tril_numpy() ** 2, axis=1))

    def cov(self) -> np.ndarray:
        scale_tril = self._scale_tril_numpy()
        return scale_tril @ scale_tril.T

    def metric(self) -> np.ndarray:
        return self.cov()

    def params(self) -> dict[str, np.ndarray]:
        raw = np.asarray(self.raw)
        return {"mu": np.asarray(self.mu), "L_tril": raw[np.tril_indices(self.ndim)]}

    def _scale_tril_numpy(self) -> np.ndarray:
        raw = np.asarray(self.raw)
        return np.tril(raw, -1) + np.diag(_softplus(np.diag(raw)))


def cholesky(cov: np.ndarray) -> np.ndarray:
    """Cholesky factor, in double precision, of a covariance matrix that has one.

    Raises
    ------
    ValueError
        If the matrix is singular, up to the rounding of its entries.
    """
    variances = np.diag(cov).astype(float)
    try:
        factor = np.linalg.cholesky(cov.astype(float))
        unexplained = np.diag(factor) ** 2 / variances  # by the coordinates before it
        if unexplained.size == 0 or unexplained.min() > len(cov) * np.finfo(cov.dtype).eps:
            return factor
    except np.linalg.LinAlgError:
        pass
    raise ValueError(
        f"the covariance, of {len(cov)} dimensions, is singular: a full-rank Gaussian needs more "
        "rows than dimensions, none of which follows from the others. A mean-field Gaussian does "
        "not: MeanField.from_approx"
    )


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.zeros((), x.dtype))


def _raw(scale_tril: Array) -> Array:
    """The parameters of a triangular factor, its diagonal before the softplus."""
    diagonal = _inverse_softplus_jax(jnp.diag(scale_tril))
    return jnp.tril(scale_tril, -1) + jnp.diag(diagonal)


def _inverse_softplus_jax(sigma: Array) -> Array:
    """As `_inverse_softplus`, inside compiled code."""
    return sigma + jnp.log(-jnp.expm1(-sigma))


def _inverse_softplus(sigma: np.ndarray) -> np.ndarray:
    """Solve softplus(x) = sigma without overflow for large sigma: sigma + log(1 - exp(-sigma))."""
    sigma = np.asarray(sigma, float)
    return sigma + np.log(-np.expm1(-sigma))
