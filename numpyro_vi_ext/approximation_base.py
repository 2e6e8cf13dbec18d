"""What all approximations share: a distribution q bound to its model."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import evaluate, io_arviz
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.evaluate import ElboEstimate
from numpyro_vi_ext.model import Model, Target
from numpyro_vi_ext.seeds import Seed, as_key

Array = jax.Array

_AVERAGE_WINDOW = 1000
_SHOWN_SITES = 8


class Facts(NamedTuple):
    """How an approximation came about."""

    losses: tuple[np.ndarray, ...] = ()  # one array per fit
    status: str = "initialized"
    message: str = ""
    step: int = 0  # of the last fit


class Approximation(abc.ABC):
    """A distribution q over the latent sites of a model: a value, never changed by later fits.

    Everything "flat" is a vector over the unconstrained space, sites in trace order
    (see `ordering`).
    """

    model: Model
    target: Target
    point: Point
    _facts: Facts

    @abc.abstractmethod
    def __init__(self, model: Any, **options: Any) -> None: ...

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
        before, after = (
            {s.name: (s.shape, s.unconstrained_shape) for s in target.layout.latents}
            for target in (self.target, new.target)
        )
        if new.target.layout.latents != self.target.layout.latents:
            raise ValueError(
                "the latent sites, with their shapes in the model's and in unconstrained space, "
                f"must stay the same, but {before} became {after}"
            )
        return new

    def __repr__(self) -> str:
        names = list(self.ordering)
        more = [f"... {len(names) - _SHOWN_SITES} more"] if len(names) > _SHOWN_SITES else []
        sites = ", ".join(names[:_SHOWN_SITES] + more)
        text = f"{type(self).__name__}(sites=[{sites}], ndim={self.ndim}, steps={self.steps}"
        losses = self.hist[-_AVERAGE_WINDOW:]
        if losses.size:
            text += f", average loss={losses.mean():,.5g}"
        return f"{text}, status={self.status!r})"

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
        return io_arviz.by_site(self.target.layout, self.mean)

    @property
    def std_data(self) -> Any:
        """Standard deviation by site in unconstrained space, an ``xarray.Dataset``."""
        return io_arviz.by_site(self.target.layout, self.std)

    @property
    def model_params(self) -> dict[str, Any]:
        """Point estimates of the model's ``numpyro.param`` sites, in the model's space."""
        z, key = jnp.asarray(self.point.q.mean()), jax.random.key(0)
        params = self.target.evaluate(z, self.point.theta, key).params
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
            Site name -> array of shape ``(draws, *site shape)``.

        Raises
        ------
        TypeError, ValueError
            If `draws` is not an int, or negative.
        """
        draws, key = as_count(draws, "draws", 0), as_key(random_seed)
        return evaluate.draw_many(self.target, self.point, key, draws)

    def draw(self, key: Seed) -> dict[str, Array]:
        """Site values of one draw: a pure JAX function of the key.

        It works inside ``jit``, ``vmap`` and ``grad``.
        """
        return evaluate.draw(self.target, self.point, as_key(key))

    def sample(
        self,
        draws: int = 500,
        *,
        random_seed: Seed = None,
        return_inferencedata: bool = True,
        include_transformed: bool = False,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str | None]] | None = None,
    ) -> Any:
        """Draw from q, ready for ArviZ.

        Parameters
        ----------
        draws, random_seed
            As in `sample_dict`.
        return_inferencedata : bool
            False returns a dict of NumPy arrays of shape ``(draws, *site shape)``.
        include_transformed : bool
            Whether to add the unconstrained values, as ``<site>__unconstrained``.
        coords, dims : dict, optional
            Dimension -> labels, and site -> names of its dimensions, as ArviZ takes them.
            Dimensions are otherwise named after the model's plates.

        Returns
        -------
        InferenceData, DataTree or dict
            What the installed ArviZ works with: group ``posterior`` with one chain,
            ``observed_data``, ``constant_data`` (the model's data arguments), and ``fit_stats``
            with the losses (variable ``loss``, dimension ``step``). In a DataTree, a slash in a
            name becomes a dot.

        Raises
        ------
        ValueError
            If `coords` or `dims` do not fit the shapes.
        """
        given = {name: x for name, x in (("coords", coords), ("dims", dims)) if x is not None}
        if given and not return_inferencedata:
            raise TypeError(f"{[*given]} cannot be applied with return_inferencedata=False")
        draws, key = as_count(draws, "draws", 0), as_key(random_seed)
        values = evaluate.draw_many(self.target, self.point, key, draws)
        if include_transformed:
            z = evaluate.draw_unconstrained(self.point, key, draws)
            split = self.target.layout.split(z).items()
            values |= {name + io_arviz.UNCONSTRAINED: value for name, value in split}
        if not return_inferencedata:
            return {name: np.asarray(value) for name, value in values.items()}
        observed = evaluate.observed_values(self.target, self.point)
        attrs = {"approximation": type(self).__name__, "status": self.status, "steps": self.steps}
        return io_arviz.to_inference_data(
            self.target.layout, values, observed, self.model.named_data, self.hist, attrs, **given
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
        n_mc, key = as_count(n_mc, "n_mc", 1), as_key(random_seed)
        return evaluate.estimate_elbo(self.target, self.point, key, n_mc)
