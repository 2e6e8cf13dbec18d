"""What every family offers, and what those with a density add."""

import abc
import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.curvature import Curvature

Array = jax.Array


class Family(abc.ABC):
    """A distribution over R^d: a frozen dataclass registered as a pytree.

    Its array fields are the variational parameters, so that its gradient is another member of
    the family and optax updates it directly.
    """

    locations: ClassVar[tuple[str, ...]]  # the fields that move q; the others shape it

    @property
    @abc.abstractmethod
    def ndim(self) -> int:
        """Dimension d."""

    @abc.abstractmethod
    def draw(self, key: Array) -> Array:
        """One draw, shape (d,)."""

    def moved(self, shift: Array | np.ndarray) -> Self:
        """The same distribution, moved by `shift` of shape (d,)."""
        q: Any = self
        return dataclasses.replace(q, **{name: getattr(q, name) + shift for name in q.locations})

    @abc.abstractmethod
    def mean(self) -> np.ndarray:
        """Mean, shape (d,)."""

    @abc.abstractmethod
    def std(self) -> np.ndarray:
        """Marginal standard deviations, shape (d,)."""

    @abc.abstractmethod
    def cov(self) -> np.ndarray:
        """Covariance, shape (d, d)."""

    @abc.abstractmethod
    def metric(self) -> np.ndarray:
        """What it tells of the shape of a posterior: covariance (d, d), or only variances (d,)."""

    @abc.abstractmethod
    def params(self) -> dict[str, np.ndarray]:
        """Variational parameters under PyMC's names."""


class DensityFamily(Family):
    """A reparameterised family with a density.

    A draw is ``q.transform(eps)`` with standard normal noise ``eps`` of shape (d,).
    """

    most_dense: ClassVar[int]  # dimensions up to which it gains by a Hessian that is a matrix

    @classmethod
    @abc.abstractmethod
    def create(cls, loc: np.ndarray, sigma: np.ndarray) -> Self:
        """The member with mean `loc` and independent standard deviations `sigma`, both (d,)."""

    @classmethod
    @abc.abstractmethod
    def match(cls, other: Family) -> Self:
        """The member whose moments are those of another distribution, as far as it has them."""

    @classmethod
    @abc.abstractmethod
    def laplace(cls, loc: Array, curvature: Curvature) -> Self:
        """The member nearest to a Gaussian of that mean and precision; inside compiled code."""

    @abc.abstractmethod
    def transform(self, eps: Array) -> Array:
        """One draw, shape (d,), made of standard normal noise of shape (d,)."""

    @abc.abstractmethod
    def through(self, frame: Self) -> Self:
        """The member that this one becomes by ``z = frame.transform(u)``, u distributed like it."""

    @abc.abstractmethod
    def within(self, curvature: Curvature) -> Curvature:
        """A curvature in z, as it is in u with ``z = transform(u)``; in NumPy."""

    @abc.abstractmethod
    def log_det(self) -> Array:
        """Log of the volume into which `transform` turns a unit of volume."""

    @abc.abstractmethod
    def score(self, eps: Array) -> Array:
        """Gradient of log q in z at ``z = transform(eps)``, shape (d,)."""

    @abc.abstractmethod
    def log_prob(self, z: Array) -> Array:
        """Log density at one point z of shape (d,)."""

    @abc.abstractmethod
    def quadratic(self, curvature: Array) -> Array:
        """Half the expectation of ``(z - mean) @ curvature @ (z - mean)``."""

    @abc.abstractmethod
    def entropy(self) -> Array:
        """Differential entropy in nats."""

    def draw(self, key: Array) -> Array:
        return self.transform(jax.random.normal(key, (self.ndim,), jnp.result_type(float)))
