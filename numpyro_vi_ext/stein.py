r"""Stein objectives: particles, or draws of any q, move along the direction of a kernel.

The direction phi at n points (`numpyro_vi_ext.kernels`) is taken for the target
:math:`p(x)^{1/T}`, so that a temperature T > 1 flattens it (Liu and Wang 2016, algorithm 1; the
temperature is PyMC's). What the optimizer gets as a gradient is minus that direction.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.kernels import Kernel
from numpyro_vi_ext.objectives import Density, Objective

Array = jax.Array

COLLAPSED = 0.5  # particles whose variance is below this part of what it should be


class Memory(NamedTuple):
    """From step to step."""

    bandwidth: Any  # what the kernel's bandwidth remembers
    spread: Array  # (d,) variances of the points over those of the target, see `spread_of`


class Stein(Objective):
    """Abstract: what the two objectives below share."""

    kernel: Kernel
    temperature: float
    score: bool

    is_scored: ClassVar[bool] = False
    label: ClassVar[str] = "Norm of phi"
    broken: ClassVar[str] = (
        "the direction of the kernel is not finite, though the log density is: its gradient, the "
        "bandwidth (which must be positive) or the kernel (which must be differentiable also "
        "where both points are equal) is not"
    )

    def _direction(
        self, x: Array, theta: Array, density: Density, memory: Memory
    ) -> tuple[Array, Array, Array, Memory]:
        """Value, direction at the points x (n, d), gradient in `theta`, and what to remember."""

        def log_p(z: Array, theta: Array) -> Array:
            log_prior, log_likelihood = density(z, theta)
            return log_prior + log_likelihood

        log_density, grads = in_blocks(lambda z: jax.value_and_grad(log_p, (0, 1))(z, theta), x)
        scores = grads[0] / self.temperature
        bandwidth, remembered = self.kernel.bandwidth.choose(x, memory.bandwidth)
        phi = self.kernel.direction(x, scores, bandwidth)
        if self.score:
            value = self.kernel.discrepancy(x, scores, bandwidth)
        else:
            value = jnp.sqrt(jnp.mean(jnp.sum(phi**2, axis=1)))
        value = jnp.where(jnp.all(jnp.isfinite(log_density)), value, jnp.nan)
        new = Memory(remembered, spread_of(x, scores))
        return value, phi, -jnp.mean(grads[1], axis=0), new

    def _init(self, x: Array) -> Memory:
        return Memory(self.kernel.bandwidth.init(x), jnp.full(x.shape[1], jnp.nan, x.dtype))


@dataclasses.dataclass(frozen=True)
class ParticleStein(Stein):
    """Each particle moves along the direction at its own place.

    Parameters
    ----------
    kernel : Kernel
        Gives the direction.
    temperature : float
        T.
    score : bool
        Whether the value of a step is the kernelised Stein discrepancy, which costs about as much
        as the direction, rather than the root mean square of the norms of phi.
    """

    kernel: Kernel
    temperature: float = 1.0
    score: bool = False

    def configure(self, n_mc: Any, score: bool) -> Self:
        if n_mc is not None:
            raise TypeError(
                "obj_n_mc cannot be applied to particles: each step uses all of them, as many as "
                f"n_particles says, and draws nothing; got obj_n_mc={n_mc!r}"
            )
        return dataclasses.replace(self, score=score)

    def noise(self, key: Array, steps: int, ndim: int, dtype: Any) -> Array:
        return jnp.zeros((steps, 0), dtype)

    def points(self, q: Histogram, eps: Array) -> Array:
        return q.histogram

    def init(self, q: Histogram) -> Memory:
        return self._init(q.histogram)

    def loss_and_grad(
        self, q: Histogram, theta: Array, eps: Array, density: Density, memory: Memory
    ) -> tuple[Array, tuple[Histogram, Array], Memory]:
        value, phi, grad_theta, new = self._direction(q.histogram, theta, density, memory)
        return value, (Histogram(-phi), grad_theta), new

    def remark(self, q: Histogram, memory: Memory) -> str:
        n = len(q.histogram)
        if n == 1 or not _is_collapsed(memory):  # a single one finds the mode
            return ""
        return (
            f"The {n:,d} particles are too close together: {_told(memory)} Either they have not "
            "spread yet (fit more steps), or the variance has collapsed, as it does with few "
            "particles in many dimensions: take a wider kernel (kernel=vi.imq), more particles, or "
            "method='advi' or 'fullrank_advi'."
        )


@dataclasses.dataclass(frozen=True)
class AmortizedStein(Stein):
    """The parameters of q move such that its draws move along the direction, on average.

    The gradient is that of the draws, minus phi, pulled back through the reparameterisation and
    averaged over the draws (Feng, Wang and Liu 2017, eq. 7; PyMC takes the sum).

    Parameters
    ----------
    kernel, temperature, score
        As for `ParticleStein`.
    n_mc : int
        Draws per step.
    """

    kernel: Kernel
    temperature: float = 1.0
    score: bool = False
    n_mc: int = 500

    def configure(self, n_mc: Any, score: bool) -> Self:
        n_mc = self.n_mc if n_mc is None else as_count(n_mc, "obj_n_mc", 1)
        return dataclasses.replace(self, n_mc=n_mc, score=score)

    def noise(self, key: Array, steps: int, ndim: int, dtype: Any) -> Array:
        return jax.random.normal(key, (steps, self.n_mc, ndim), dtype)

    def points(self, q: DensityFamily, eps: Array) -> Array:
        return jax.vmap(q.transform)(eps)

    def init(self, q: DensityFamily) -> Memory:
        return self._init(jnp.zeros((self.n_mc, q.ndim), float))

    def loss_and_grad(
        self, q: DensityFamily, theta: Array, eps: Array, density: Density, memory: Memory
    ) -> tuple[Array, tuple[DensityFamily, Array], Memory]:
        x, pull_back = jax.vjp(lambda q: self.points(q, eps), q)
        value, phi, grad_theta, new = self._direction(x, theta, density, memory)
        return value, (pull_back(-phi / self.n_mc)[0], grad_theta), new

    def remark(self, q: DensityFamily, memory: Memory) -> str:
        if self.n_mc == 1 or not _is_collapsed(memory):
            return ""
        return (
            f"The {self.n_mc:,d} draws of a step are too close together: {_told(memory)} Either q "
            "has not spread yet (fit more steps), or the variance has collapsed, as it does with "
            "few draws in many dimensions: take a wider kernel (kernel=vi.imq), more of them "
            "(obj_n_mc), or method='advi' or 'fullrank_advi'."
        )


def spread_of(x: Array, scores: Array) -> Array:
    r"""Variances of points over those that the target would have, shape (d,).

    For draws of the target :math:`-E[s_k(x)\, (x_k - E x_k)] = 1` (Stein's identity). For a
    Gaussian target and points with any other covariance it is the diagonal of that covariance
    times the target's precision.
    """
    return -jnp.mean(scores * (x - jnp.mean(x, axis=0)), axis=0)


def _is_collapsed(memory: Memory) -> bool:
    return mean_spread(memory.spread) < COLLAPSED  # nan before the first step


def _told(memory: Memory) -> str:
    return (
        f"their variance, averaged over {memory.spread.size:,d} dimensions, is "
        f"{mean_spread(memory.spread):.2g} of that of a Gaussian fitted to the target."
    )


def mean_spread(spread: Any) -> float:
    """Mean over dimensions, of which one that is too wide must not make up for others."""
    return float(np.mean(np.clip(spread, 0, 1)))
