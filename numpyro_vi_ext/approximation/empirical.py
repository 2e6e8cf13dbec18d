"""Draws of a sampler, or particles, as an approximation."""

from collections.abc import Mapping
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import traces
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation import diagnosing
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.approximation.results import Approximation, check_approx
from numpyro_vi_ext.checks import as_count, as_number
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.model import Model, Target, as_model
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.start import find_start, start_sigma_vector
from numpyro_vi_ext.verdict import Verdict


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
    jitter : float, optional
        Standard deviation of the particles around their start, in unconstrained space; default 1.
    random_seed : int, JAX key or None
        For the particles.
    start, start_sigma, init_strategy
        For the particles, as for `MeanField`; `start_sigma` goes before `jitter`.

    Raises
    ------
    TypeError
        If neither or both of `trace` and `size` are given, or an argument that is for the other
        one; if `trace` is something else, or a value in it is not made of real numbers.
    KeyError
        If the trace lacks a latent site, or `start` or `start_sigma` names an unknown one.
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
        jitter: float | None = None,
        random_seed: Seed = None,
        start: Mapping[str, Any] | None = None,
        start_sigma: Mapping[str, Any] | None = None,
        init_strategy: Any = None,
    ) -> None:
        if (trace is None) == (size is None):
            got = "neither" if size is None else "both"
            raise TypeError(f"Empirical needs either a trace or a size, got {got}")
        self.model: Model = as_model(model, model_args, model_kwargs)
        self.target: Target = self.model.target
        key = as_key(random_seed)
        if trace is not None:
            particles = {"jitter": jitter, "start": start, "start_sigma": start_sigma}
            _check_not_given("a trace", {**particles, "init_strategy": init_strategy})
            found = traces.read_trace(trace, self.target.layout, group_by_chain)
            theta = self.target.initial_params(key)
            rows = traces.unconstrain_rows(self.target, theta, found.values)
            told = f"{found.chains} chains of {found.draws:,d} draws"
            self.facts: Facts = Facts(status="finished", message=told, method="trace")
        else:
            _check_not_given("particles", {"group_by_chain": group_by_chain})
            size = as_count(size, "size", 1)
            spread = 1.0 if jitter is None else as_number(jitter, "jitter", 0)
            z, theta = find_start(self.target, key, start, init_strategy)
            sigma = start_sigma_vector(self.target.layout, start_sigma, spread)
            noise = jax.random.normal(jax.random.fold_in(key, 1), (size, z.size), z.dtype)
            rows, self.facts = z + jnp.asarray(sigma, z.dtype) * noise, Facts()
        self.point: Point = Point(Histogram(rows), theta)

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

        Returns
        -------
        Empirical
            Unfitted, with `size` rows.

        Raises
        ------
        TypeError, ValueError
            If an argument is of a wrong type, or `size` less than 1.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist
        >>> import numpyro_vi_ext as vi
        >>> approx = vi.MeanField(lambda: numpyro.sample("x", dist.Normal(3, 1)))
        >>> Empirical.from_approx(approx, 50)
        Empirical(sites=[x], ndim=1, rows=50, status='initialized')
        """
        check_approx(approx, f"{cls.__name__}.from_approx starts from")
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

        Parameters and errors are those of `sample_node`.

        Returns
        -------
        JAX array, or a list, tuple or dict of those like `node`
            With a leading axis as long as there are rows.
        """
        return self._over_rows(self.point.q.histogram, node, more_replacements, block_size)

    def _diagnose(self, draws: int, key: jax.Array) -> Verdict:
        return diagnosing.diagnose_rows(self, draws)

    def _resample(self, draws: int, key: jax.Array) -> NoReturn:
        raise TypeError(
            "importance=True needs the density of q, and an Empirical has none: its rows count "
            "equally"
        )

    def _size(self) -> str:
        size = f"rows={len(self.histogram)}"
        return f"{size}, steps={self.steps}" if self.steps else size


def _check_not_given(what: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise TypeError(f"{given} cannot be applied to {what}")
