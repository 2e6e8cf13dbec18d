"""What a fit descends on: (q, noise, target) -> (loss, gradient of q), and the first: the ELBO."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.curvature import Curvature
from numpyro_vi_ext.estimators import Estimator, StickingTheLanding, controlled, over
from numpyro_vi_ext.families.base import DensityFamily, Family

Array = jax.Array
Density = Callable[[Array, Array], tuple[Array, Array]]  # (z, theta) -> (log prior, log likelihood)


class Objective(abc.ABC):
    """Abstract: what a step needs; hashable, compared by its parts."""

    is_scored: ClassVar[bool]  # whether its values are recorded unless the user says otherwise
    label: ClassVar[str]  # what its values are where they are not recorded
    broken: ClassVar[str]  # what is wrong if a value is not finite, though log densities are

    @abc.abstractmethod
    def configure(self, n_mc: Any, score: bool) -> Self:
        """With the user's draws per step, None if there was no word of it, and scored or not."""

    @abc.abstractmethod
    def noise(self, key: Array, steps: int, ndim: int, dtype: Any) -> Array:
        """Standard normal noise for a block of steps, the steps along the leading axis."""

    @abc.abstractmethod
    def points(self, q: Any, eps: Array) -> Array:
        """The points, shape (n, d), at which the model is evaluated in a step."""

    @abc.abstractmethod
    def init(self, q: Any) -> Any:
        """What it remembers from step to step, before the first one: a pytree."""

    @abc.abstractmethod
    def loss_and_grad(
        self, q: Any, theta: Array, eps: Array, density: Density, memory: Any
    ) -> tuple[Array, tuple[Family, Array], Any]:
        """Loss, its gradient in q and in the model's params `theta`, and what to remember."""

    @abc.abstractmethod
    def remark(self, q: Any, memory: Any) -> str:
        """What a user should know of the result of a fit; empty if there is nothing to say."""


@dataclasses.dataclass(frozen=True)
class Elbo(Objective):
    r"""The negative evidence lower bound, with the entropy in closed form.

    .. math:: L(q) = -E_q[\log p(x | z) + \beta \log p(z)] - \beta H(q)

    The expectation is the mean over `n_mc` draws; its gradient is that of the estimator. The loss
    value carries no noise of log q.

    Parameters
    ----------
    beta : float
        Weight of the Kullback-Leibler part.
    n_mc : int
        Draws per step.
    estimator : Estimator or None
        None is `StickingTheLanding`; or, if a curvature of minus the log density is remembered,
        which is in the coordinates of q, the estimator `controlled` by it.
    """

    beta: float = 1.0
    n_mc: int = 1
    estimator: Estimator | None = None

    is_scored: ClassVar[bool] = True
    label: ClassVar[str] = "Loss"
    broken: ClassVar[str] = "the loss is not finite at a draw from the approximation"

    def configure(self, n_mc: Any, score: bool) -> Self:
        del score  # it costs nothing
        n_mc = self.n_mc if n_mc is None else as_count(n_mc, "obj_n_mc", 1)
        return dataclasses.replace(self, n_mc=n_mc)

    def noise(self, key: Array, steps: int, ndim: int, dtype: Any) -> Array:
        """Standard normal noise for a block of steps, shape (steps, n_mc, ndim).

        Every second step has the noise of the step before with the other sign: what is odd in it,
        and that is most of the noise of the location, cancels within two steps.
        """
        pairs = -(-steps // 2)
        eps = jax.random.normal(key, (pairs, self.n_mc, ndim), dtype)
        return jnp.stack([eps, -eps], axis=1).reshape(2 * pairs, self.n_mc, ndim)[:steps]

    def points(self, q: DensityFamily, eps: Array) -> Array:
        return over(q.transform, eps)

    def init(self, q: DensityFamily) -> None:
        return None

    def remark(self, q: DensityFamily, memory: Curvature | None) -> str:
        return ""

    def loss_and_grad(
        self,
        q: DensityFamily,
        theta: Array,
        eps: Array,
        density: Density,
        memory: Curvature | None = None,
    ) -> tuple[Array, tuple[DensityFamily, Array], Curvature | None]:
        """Loss, and its gradient in q and in the model's params `theta`.

        Parameters
        ----------
        q : DensityFamily
            The approximation.
        theta : array, shape (p,)
            Unconstrained values of the model's param sites.
        eps : array, shape (n_mc, ndim)
            Standard normal noise.
        density : callable
            ``(z, theta) -> (log prior, log likelihood)`` at one point.
        memory : Curvature or None
            Of minus the weighted log density, in the coordinates of q; it stays as it is.
        """

        def weighted(z: Array, theta: Array) -> Array:
            log_prior, log_likelihood = density(z, theta)
            return log_likelihood + self.beta * log_prior

        value_and_grad = jax.value_and_grad(weighted, argnums=(0, 1))
        log_p, (slope, grad_theta) = over(lambda z: value_and_grad(z, theta), self.points(q, eps))
        grad = self._gradient(q, eps, slope, memory)
        loss = -jnp.mean(log_p) - self.beta * q.entropy()
        return loss, (grad, -jnp.mean(grad_theta, axis=0)), memory

    def _gradient(
        self, q: DensityFamily, eps: Array, slope: Array, curvature: Curvature | None
    ) -> DensityFamily:
        if self.estimator is None and curvature is not None:
            return controlled(q, eps, slope, self.beta, curvature.precision)
        estimator = self.estimator or StickingTheLanding()
        return estimator.gradient(q, eps, slope, self.beta)
