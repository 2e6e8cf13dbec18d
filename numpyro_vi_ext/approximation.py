"""The kinds of approximation."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import evaluate, saving, traces
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation_arviz import Approximation
from numpyro_vi_ext.approximation_base import Facts
from numpyro_vi_ext.checks import as_count, as_number
from numpyro_vi_ext.evaluate import ElboEstimate
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.model import as_model
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.start import find_start, start_sigma_vector

__all__ = [
    "Approximation",
    "DensityApproximation",
    "Empirical",
    "Facts",
    "FullRank",
    "MeanField",
    "load",
    "sample_approx",
]

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
        self.model = as_model(model, model_args, model_kwargs)
        self.target, self.facts = self.model.target, Facts()
        found = find_start(self.target, as_key(random_seed), start, init_strategy)
        sigma = start_sigma_vector(self.target.layout, start_sigma, _START_SD)
        self.point = Point(self.family.create(np.asarray(found.z), sigma), found.theta)

    @classmethod
    def from_approx(cls, approx: Approximation) -> Self:
        """Start from the mean and covariance of another approximation, of any kind.

        Where this kind has no covariance, from the standard deviations. Fit it on with
        ``KLqp(FullRank.from_approx(approx)).fit()``.

        Raises
        ------
        TypeError
            If `approx` is not an Approximation.
        ValueError
            If it has no spread at some site, or for `FullRank` a singular covariance.
        """
        _check_approx(approx, cls.__name__)
        flags = ~(approx.std > 0)
        if flags.any():
            sites = approx.target.layout.sites_at(flags)
            raise ValueError(f"the approximation has no spread at the sites {list(sites)}")
        point = Point(cls.family.match(approx.point.q), approx.point.theta)
        return cls.of(approx.model, approx.target, point, Facts())

    def log_prob(self, z: Any) -> Array:
        """Log density of q at flat unconstrained points.

        Parameters
        ----------
        z : array, shape (..., ndim)

        Returns
        -------
        array, shape (...)
        """
        z = jnp.asarray(z, jnp.result_type(float))
        if z.shape[-1:] != (self.ndim,):
            raise ValueError(f"z must have a last axis of length {self.ndim}, got shape {z.shape}")
        log_prob = self.point.q.log_prob
        for _ in z.shape[:-1]:
            log_prob = jax.vmap(log_prob)
        return log_prob(z)

    def entropy(self) -> Array:
        """Differential entropy of q in unconstrained space, in nats."""
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
            ``(elbo, se)``: mean of log p(x, z) - log q(z) over the draws and its standard error.
            Where q is the exact posterior every term is the log evidence, and `se` is zero.
        """
        n_mc, key = as_count(n_mc, "n_mc", 1), as_key(random_seed)
        return evaluate.estimate_elbo(self.target, self.point, key, n_mc)


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
        Site name -> initial standard deviation in unconstrained space; default softplus(0).
    init_strategy : callable, optional
        A NumPyro ``init_to_*`` strategy in place of the default.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> MeanField(model).mean, MeanField(model, start_sigma={"x": 0.5}).std
    (array([3.], dtype=float32), array([0.5], dtype=float32))
    """

    family = DiagonalGaussian


class FullRank(DensityApproximation):
    """A Gaussian with a dense covariance over the unconstrained space, unfitted.

    Parameters, start and initial standard deviations are those of `MeanField`.
    """

    family = DenseGaussian


class Empirical(Approximation):
    """The draws of a sampler, or particles, as an approximation: each row equally likely.

    A draw is a row picked at random, with replacement. There is no density, so neither
    ``log_prob`` nor ``elbo``. Moments are those of the rows, the covariance with 1/n.

    Parameters
    ----------
    trace : MCMC, dict, InferenceData or DataTree, optional
        Draws of all latent sites, in the model's space: a NumPyro ``MCMC`` object that has run, a
        dict of arrays, or an ArviZ object with a posterior. Sites are found by name, others are
        ignored; rows are kept chain by chain, draws in order.
    size : int, optional
        Number of particles, instead of a trace.
    model : Model or callable
        A NumPyro model; a callable is bound to `model_args` and `model_kwargs`.
    model_args, model_kwargs : tuple, dict
        The model's arguments.
    group_by_chain : bool, optional
        Whether the arrays of a dict begin with axes (chain, draw) rather than (draw,). By default
        their shapes tell.
    jitter : float
        Standard deviation of the particles around their start, in unconstrained space.
    random_seed : int, JAX key or None
        For the particles.
    start, start_sigma, init_strategy
        For the particles, as for `MeanField`; `start_sigma` goes before `jitter`.

    Raises
    ------
    TypeError
        If neither or both of `trace` and `size` are given, or `trace` is something else.
    KeyError
        If the trace lacks a latent site.
    ValueError
        If the MCMC object has not run, or a shape does not fit; if a value is NaN, infinite or
        outside of its site's support, with the number of such draws.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("scale", dist.HalfNormal(1))
    >>> approx = Empirical({"scale": np.array([0.5, 1.0, 2.0])}, model=model)
    >>> approx
    Empirical(sites=[scale], ndim=1, rows=3, status='finished')
    >>> approx.evaluate_over_trace(lambda s: s["scale"] ** 2)
    Array([0.25, 1.  , 4.  ], dtype=float32)
    """

    family = Histogram

    def __init__(
        self,
        trace: Any = None,
        size: int | None = None,
        *,
        model: Any,
        model_args: Any = (),
        model_kwargs: dict[str, Any] | None = None,
        group_by_chain: bool | None = None,
        jitter: float = 1.0,
        random_seed: Seed = None,
        start: Mapping[str, Any] | None = None,
        start_sigma: Mapping[str, Any] | None = None,
        init_strategy: Any = None,
    ) -> None:
        if (trace is None) == (size is None):
            raise TypeError("Empirical needs either a trace or a size")
        self.model = as_model(model, model_args, model_kwargs)
        self.target, key = self.model.target, as_key(random_seed)
        if trace is not None:
            found = traces.read_trace(trace, self.target.layout, group_by_chain)
            theta = self.target.initial_params(key)
            rows = traces.unconstrain_rows(self.target, theta, found.values)
            told = f"{found.chains} chains of {found.draws:,d} draws"
            self.facts = Facts(status="finished", message=told, method="trace")
        else:
            size = as_count(size, "size", 1)
            spread = as_number(jitter, "jitter", 0)
            z, theta = find_start(self.target, key, start, init_strategy)
            sigma = start_sigma_vector(self.target.layout, start_sigma, spread)
            noise = jax.random.normal(jax.random.fold_in(key, 1), (size, z.size), z.dtype)
            rows, self.facts = z + jnp.asarray(sigma, z.dtype) * noise, Facts()
        self.point = Point(Histogram(rows), theta)

    @classmethod
    def from_approx(
        cls, approx: Approximation, size: int = 100, *, random_seed: Seed = None
    ) -> Self:
        """Particles drawn from another approximation, of any kind.

        Parameters
        ----------
        approx : Approximation
            What to draw from.
        size : int
            Number of particles.
        random_seed : int, JAX key or None
            None gives others at each call.
        """
        _check_approx(approx, cls.__name__)
        size, key = as_count(size, "size", 1), as_key(random_seed)
        point = Point(Histogram.match(approx.point.q, key, size), approx.point.theta)
        return cls.of(approx.model, approx.target, point, Facts())

    @property
    def histogram(self) -> np.ndarray:
        """The rows in unconstrained space, shape (rows, ndim)."""
        return np.asarray(self.point.q.histogram)

    def evaluate_over_trace(
        self,
        node: Any,
        *,
        more_replacements: Mapping[str, Any] | None = None,
        block_size: int | None = None,
    ) -> Any:
        """Evaluate a node at every row, in order: `sample_node` without picking rows at random.

        Parameters and errors are those of `sample_node`; the leading axis has a length of as many
        rows as there are.
        """
        return self._over_rows(self.point.q.histogram, node, more_replacements, block_size)

    def _size(self) -> str:
        size = f"rows={len(self.histogram)}"
        return f"{size}, steps={self.steps}" if self.steps else size


_KINDS: dict[str, type[DensityApproximation] | type[Empirical]] = {
    kind.__name__: kind for kind in (MeanField, FullRank, Empirical)
}


def load(
    path: str | os.PathLike[str],
    model: Any,
    *,
    model_args: Any = (),
    model_kwargs: dict[str, Any] | None = None,
) -> Approximation:
    """Load an approximation that was saved with ``approx.save(path)``.

    Nothing in the file is executed. With the same version of JAX and the same precision, equal
    seeds give equal draws as before.

    Parameters
    ----------
    path : str or path
        The file.
    model, model_args, model_kwargs
        The model it was fitted to, bound to its arguments; a file does not have it.

    Returns
    -------
    Approximation
        Of the kind that was saved, with its history and status.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is damaged, is something else, was written by a later version of this package,
        or belongs to a model with other latent sites.

    Examples
    --------
    >>> import tempfile, numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> approx = vi.fit(model, 500, random_seed=0, progressbar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     approx.save(f"{folder}/fit.npz")
    ...     vi.load(f"{folder}/fit.npz", model)
    MeanField(sites=[x], ndim=1, steps=500, average loss=..., status='finished')
    """
    saved, bound = saving.read(path), as_model(model, model_args, model_kwargs)
    kind = _KINDS.get(saved.header["kind"])
    if kind is None:
        raise ValueError(f"{os.fspath(path)!r} has an unknown kind {saved.header['kind']!r}")
    target = bound.target
    theta = target.program.start.shapes.theta
    point = saved.point(kind.family, target.layout, theta)
    facts = Facts(losses=(saved.losses,), **saved.header["facts"])
    return kind.of(bound, target, point, facts)


def sample_approx(approx: Approximation, draws: int = 100, **options: Any) -> Any:
    """Draw from an approximation: the same as ``approx.sample(draws, **options)``."""
    return approx.sample(draws, **options)


def _check_approx(approx: Any, what: str) -> None:
    if not isinstance(approx, Approximation):
        raise TypeError(
            f"{what}.from_approx starts from an Approximation, got {type(approx).__name__}"
        )
