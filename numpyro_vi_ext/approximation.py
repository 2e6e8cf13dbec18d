"""What a fit returns: an approximating distribution bound to its model."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import evaluate, io_arviz
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.evaluate import ElboEstimate
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.model import Model, Target, as_model
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.start import find_start, start_sigma_vector

Array = jax.Array

_START_SD = float(np.log(2))  # softplus(0)
_AVERAGE_WINDOW = 1000


class Facts(NamedTuple):
    """How an approximation came about."""

    losses: tuple[np.ndarray, ...] = ()  # one array per fit
    status: str = "initialized"
    message: str = ""
    step: int = 0  # of the last fit
    method: str = ""


class Approximation(abc.ABC):
    """A distribution q over the latent sites of a model: a value, never changed by later fits.

    Everything "flat" is a vector over the unconstrained space, sites in trace order
    (see `ordering`).
    """

    model: Model
    target: Target
    point: Point
    _facts: Facts

    def at(self, point: Point, facts: Facts) -> Self:
        """The same kind of approximation of the same model, with other values."""
        new = object.__new__(type(self))
        new.model, new.target, new.point, new._facts = self.model, self.target, point, facts
        return new

    def with_model(self, model: Model) -> Self:
        """The same q for another model with the same latent sites, or other arguments.

        Raises
        ------
        ValueError
            If the latent sites differ.
        """
        new = self.at(self.point, self._facts)
        new.model, new.target = model, model.target
        if new.target.layout.latents != self.target.layout.latents:
            raise ValueError(
                f"the latent sites must stay the same: {self.target.layout.latents} became "
                f"{new.target.layout.latents}"
            )
        return new

    def __repr__(self) -> str:
        facts, sites = self._facts, ", ".join(self.ordering)
        text = f"{type(self).__name__}(sites=[{sites}], ndim={self.ndim}, steps={self.steps}"
        losses = self.hist[-_AVERAGE_WINDOW:]
        if losses.size:
            text += f", average loss={losses.mean():,.5g}"
        return f"{text}, status={facts.status!r})"

    # -- variational parameters and moments, in unconstrained space

    @property
    def ndim(self) -> int:
        """Dimension of the unconstrained space."""
        return self.point.q.ndim

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Variational parameters by name.

        MeanField: ``mu`` and ``rho``, both (ndim,), with sd = softplus(rho). FullRank: ``mu`` and
        ``L_tril``, the lower triangle of the Cholesky factor row by row, its diagonal before the
        softplus.
        """
        return self.point.q.params()

    @property
    def mean(self) -> np.ndarray:
        """Flat mean, shape (ndim,)."""
        return self.point.q.mean()

    @property
    def std(self) -> np.ndarray:
        """Flat standard deviations, shape (ndim,)."""
        return self.point.q.std()

    @property
    def cov(self) -> np.ndarray:
        """Flat covariance, shape (ndim, ndim)."""
        return self.point.q.cov()

    @property
    def ordering(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        """Site name -> (slice of the flat vector, unconstrained shape)."""
        return {s.name: (s.slice, s.unconstrained_shape) for s in self.target.layout.latents}

    @property
    def mean_data(self) -> Any:
        """Mean by site in unconstrained space, an ``xarray.Dataset``."""
        return io_arviz.to_dataset(self.target.layout, self.mean)

    @property
    def std_data(self) -> Any:
        """Standard deviation by site in unconstrained space, an ``xarray.Dataset``."""
        return io_arviz.to_dataset(self.target.layout, self.std)

    @property
    def model_params(self) -> dict[str, Any]:
        """Point estimates of the model's ``numpyro.param`` sites, in the model's space."""
        key = jax.random.key(0)
        params = self.target.evaluate(self.point.q.mean(), self.point.theta, key).params
        return jax.tree.map(np.asarray, params)

    # -- how it came about

    @property
    def hist(self) -> np.ndarray:
        """Losses (negative ELBO, full-data scale), one per step up to this approximation."""
        return np.concatenate([np.zeros(0), *self._facts.losses])

    @property
    def steps(self) -> int:
        """Step of the fit that made this approximation; 0 before the first one."""
        return self._facts.step

    @property
    def status(self) -> str:
        """How the fit ended.

        One of "finished", "converged", "stopped" (by a callback) and "interrupted"; "initialized"
        before the first step and "running" inside callbacks.
        """
        return self._facts.status

    @property
    def message(self) -> str:
        """The status in words."""
        return self._facts.message

    # -- draws

    def sample_dict(self, draws: int = 500, random_seed: Seed = None) -> dict[str, Array]:
        """Draws of the latent and deterministic sites, in the model's space.

        Parameters
        ----------
        draws : int
            How many.
        random_seed : int, JAX key or None
            None gives fresh draws at each call.

        Returns
        -------
        dict
            Site name -> array of shape (draws, *site shape).

        Raises
        ------
        ValueError
            If `draws` is negative.
        """
        return evaluate.draw_many(self.target, self.point, as_key(random_seed), as_count(draws, "draws", 0))

    def draw(self, key: Array) -> dict[str, Array]:
        """Site values of one draw: a pure JAX function of the key.

        It works inside ``jit``, ``vmap`` and ``grad``.
        """
        return evaluate.draw(self.target, self.point, key)

    def sample(
        self,
        draws: int = 500,
        *,
        random_seed: Seed = None,
        return_inferencedata: bool = True,
        include_transformed: bool = False,
        **to_arviz: Any,
    ) -> Any:
        """Draw from q, ready for ArviZ.

        Parameters
        ----------
        draws : int
            How many.
        random_seed : int, JAX key or None
            None gives fresh draws at each call.
        return_inferencedata : bool
            False returns a dict of NumPy arrays of shape (draws, *site shape).
        include_transformed : bool
            Whether to add the unconstrained values, as ``<site>__unconstrained``.
        **to_arviz
            ``coords`` and ``dims``, as ArviZ takes them.

        Returns
        -------
        InferenceData, DataTree or dict
            What the installed ArviZ works with: group ``posterior`` with one chain,
            ``observed_data``, ``constant_data``, and the losses in ``fit_stats``.

        Raises
        ------
        TypeError
            For an unknown keyword.
        """
        values = self.sample_dict(draws, random_seed)
        if include_transformed:
            values = {**values, **io_arviz.unconstrained(self.target, self.point.theta, values)}
        if not return_inferencedata:
            return {name: np.asarray(value) for name, value in values.items()}
        data, attrs = self.model.named_data, {"method": type(self).__name__, "status": self.status}
        return io_arviz.to_inference_data(
            self.target, self.point, values, data, self.hist, attrs, **to_arviz
        )

    # -- densities

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
        return evaluate.estimate_elbo(self.target, self.point, as_key(random_seed), as_count(n_mc, "n_mc", 1))


class MeanField(Approximation):
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
        self.target = self.model.target
        begin = (random_seed, start, start_sigma, init_strategy)
        self.point, self._facts = _gaussian(DiagonalGaussian, self.target, *begin), Facts()


class FullRank(Approximation):
    """A Gaussian with a dense covariance over the unconstrained space, unfitted.

    Parameters, start and initial standard deviations are those of `MeanField`.
    """

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
        self.target = self.model.target
        begin = (random_seed, start, start_sigma, init_strategy)
        self.point, self._facts = _gaussian(DenseGaussian, self.target, *begin), Facts()


def sample_approx(approx: Approximation, draws: int = 100, **options: Any) -> Any:
    """Draw from an approximation: the same as ``approx.sample(draws, **options)``."""
    return approx.sample(draws, **options)


def _gaussian(
    family: type[DensityFamily],
    target: Target,
    random_seed: Seed,
    start: Mapping[str, Any] | None,
    start_sigma: Mapping[str, Any] | None,
    init_strategy: Any,
) -> Point:
    found = find_start(target, as_key(random_seed), start, init_strategy)
    sigma = start_sigma_vector(target.layout, start_sigma, _START_SD)
    return Point(family.create(np.asarray(found.z), sigma), found.theta)
