"""The Gaussian kinds of approximation."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import numpy as np

from numpyro_vi_ext import evaluate, weights
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation import diagnosing
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.approximation.results import Approximation, check_approx
from numpyro_vi_ext.checks import as_count, as_points
from numpyro_vi_ext.evaluate import ElboEstimate
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.model import Model, Target, as_model
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.start import find_start, start_sigma_vector
from numpyro_vi_ext.verdict import Verdict

Array = jax.Array

_START_SD = float(np.log(2))  # softplus(0)


class DensityApproximation(Approximation):
    """Abstract: an approximation whose q has a density, and how every Gaussian begins."""

    family: ClassVar[type[DensityFamily]]

    def __init__(
        self,
        model: Any,
        *,
        model_args: Any = (),
        model_kwargs: dict[str, Any] | None = None,
        random_seed: Seed = None,
        start: Mapping[str, Any] | None = None,
        start_sigma: Mapping[str, Any] | None = None,
        init_strategy: Any = None,
    ) -> None:
        self.model: Model = as_model(model, model_args, model_kwargs)
        self.target: Target = self.model.target
        found = find_start(self.target, as_key(random_seed), start, init_strategy)
        sigma = start_sigma_vector(self.target.layout, start_sigma, _START_SD)
        given = start or start_sigma or init_strategy
        self.facts: Facts = Facts(origin="start" if given else "")
        self.point: Point = Point(self.family.create(np.asarray(found.z), sigma), found.theta)

    @classmethod
    def from_approx(cls, approx: Approximation) -> Self:
        """Start from the mean and covariance of another approximation, of any kind.

        Where this kind has no covariance, from the standard deviations. Fit it on with
        ``KLqp(FullRank.from_approx(approx)).fit()``.

        Parameters
        ----------
        approx : Approximation
            What to start from; it is left as it is.

        Returns
        -------
        MeanField or FullRank
            Unfitted, of the class that this is called on.

        Raises
        ------
        TypeError
            If `approx` is not an Approximation.
        ValueError
            If it has no spread at some site, or for `FullRank` a singular covariance.
        """
        check_approx(approx, f"{cls.__name__}.from_approx starts from")
        flags = ~(approx.std > 0)
        if flags.any():
            sites = approx.target.layout.sites_at(flags)
            raise ValueError(f"the approximation has no spread at the sites {list(sites)}")
        point = Point(cls.family.match(approx.point.q), approx.point.theta)
        return cls.of(approx.model, approx.target, point, Facts(origin="q"))

    def log_prob(self, z: Any) -> Array:
        """Log density of q at flat unconstrained points.

        Parameters
        ----------
        z : array, shape (..., ndim)

        Returns
        -------
        array, shape (...)
            In nats.

        Raises
        ------
        ValueError
            If the last axis of `z` is not of length `ndim`.
        """
        z = as_points(z, self.ndim)
        log_prob = self.point.q.log_prob
        for _ in z.shape[:-1]:
            log_prob = jax.vmap(log_prob)
        return log_prob(z)

    def entropy(self) -> Array:
        """Differential entropy of q in unconstrained space, in nats, shape ()."""
        return self.point.q.entropy()

    def elbo(self, n_mc: int = 1000, random_seed: Seed = None) -> ElboEstimate:
        """Estimate the evidence lower bound on the full data.

        Parameters
        ----------
        n_mc : int
            Draws.
        random_seed : int, JAX key or None
            None gives fresh draws at each call.

        Returns
        -------
        ElboEstimate
            ``(elbo, se)``: mean of log p(x, z) - log q(z) over the draws and its standard error,
            in nats. Where q is the exact posterior every term is the log evidence, and `se` is
            zero.

        Raises
        ------
        TypeError
            If `n_mc` is not an int.
        ValueError
            If `n_mc` is less than 1, or data come from a `Stream`.
        """
        self.target.check_data("the ELBO needs")
        n_mc, key = as_count(n_mc, "n_mc", 1), as_key(random_seed)
        return evaluate.estimate_elbo(self.target, self.point, key, n_mc)

    def _diagnose(self, draws: int, key: Array) -> Verdict:
        return diagnosing.diagnose_density(self, key, draws)

    def _resample(self, draws: int, key: Array) -> weights.Resampled:
        return weights.resample(self.target, self.point, key, draws)


class MeanField(DensityApproximation):
    """Independent Gaussians over the unconstrained space, unfitted.

    Parameters
    ----------
    model : Model or callable
        A NumPyro model; a callable is bound to `model_args` and `model_kwargs`.
    model_args, model_kwargs : tuple, dict
        The model's arguments.
    random_seed : int, JAX key or None
        For starting points that are drawn.
    start : dict, optional
        Site name -> value in the model's space; the others start at their prior mean where it is
        finite, else at the median of prior draws, else at a uniform draw.
    start_sigma : dict, optional
        Site name -> initial standard deviation in unconstrained space, a scalar or of the site's
        unconstrained shape; default softplus(0) = 0.6931.
    init_strategy : callable, optional
        A NumPyro ``init_to_*`` strategy in place of the default.

    Raises
    ------
    KeyError
        If `start` or `start_sigma` names an unknown site.
    TypeError, ValueError
        If an argument is of a wrong type or value, by name; ValueError also if a latent site is
        discrete (`DiscreteLatentError`), or no point with a finite log density is found.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> MeanField(model).mean, MeanField(model, start_sigma={"x": 0.5}).std
    (array([3.], dtype=float32), array([0.5], dtype=float32))
    >>> exact = MeanField(model, start_sigma={"x": 1.0})
    >>> print(f"{exact.log_prob(np.array([3.0])):.3f} {exact.entropy():.3f}")
    -0.919 1.419
    >>> print("{:.3f} {:.3f}".format(*exact.elbo(100)))
    0.000 0.000
    """

    family: ClassVar[type[DensityFamily]] = DiagonalGaussian


class FullRank(DensityApproximation):
    """A Gaussian with a dense covariance over the unconstrained space, unfitted.

    Parameters and errors are those of `MeanField`, as are start and initial standard deviations.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    >>> FullRank.from_approx(MeanField(model, start_sigma={"x": 2.0})).cov
    array([[4., 0.],
           [0., 4.]], dtype=float32)
    """

    family: ClassVar[type[DensityFamily]] = DenseGaussian
