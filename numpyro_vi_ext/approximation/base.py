"""What all approximations are: a distribution q bound to its model, and how it came about."""

import abc
import os
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import io_arviz, saving
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.model import Model, Target, as_model

Array = jax.Array

_AVERAGE_WINDOW = 1000
_SHOWN_SITES = 8


class Facts(NamedTuple):
    """How an approximation came about."""

    losses: tuple[np.ndarray, ...] = ()  # one array per fit
    status: str = "initialized"
    message: str = ""
    step: int = 0  # of the last fit
    method: str = ""  # as `fit` calls it
    seed: int | str = ""  # of the inference
    origin: str = ""  # of where the fit began: "start" if given, "q" of another approximation
    warmup: str = ""  # what was done before the first step, in words
    motion: str = ""  # "moving" or "settled" at its end, "" if that is not known
    optima: tuple[float, ...] = ()  # ELBO that each restart came to, in nats
    skipped: int = 0  # steps dropped because they were not finite


class ApproximationBase(abc.ABC):
    """A distribution q over the latent sites of a model: a value, never changed by later fits."""

    model: Model
    target: Target
    point: Point
    facts: Facts

    @abc.abstractmethod
    def __init__(self, model: Any, **options: Any) -> None: ...

    @classmethod
    def of(cls, model: Model, target: Target, point: Point, facts: Facts) -> Self:
        """An approximation made of its parts."""
        new = object.__new__(cls)
        new.model, new.target, new.point, new.facts = model, target, point, facts
        return new

    def at(self, point: Point, facts: Facts) -> Self:
        """The same kind of approximation of the same model, with other values."""
        return self.of(self.model, self.target, point, facts)

    def with_model(self, model: Model) -> Self:
        """The same q for another model with the same latent sites, or other arguments.

        Parameters
        ----------
        model : Model
            Bound to its arguments; or a callable that needs none.

        Returns
        -------
        Approximation
            Of the same kind; this one is left as it is.

        Raises
        ------
        TypeError
            If `model` is neither.
        ValueError
            If the latent sites differ.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist
        >>> import numpyro_vi_ext as vi
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
        >>> approx = vi.MeanField(model, model_args=(2.0,))
        >>> approx.with_model(approx.model.replace(y=5.0)).model.named_data
        {'y': array(5., dtype=float32)}
        """
        model = as_model(model)
        new = self.of(model, model.target, self.point, self.facts)
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
        text = f"{type(self).__name__}(sites=[{sites}], ndim={self.ndim}, {self._size()}"
        losses = self.hist[-_AVERAGE_WINDOW:]
        losses = losses[np.isfinite(losses)]  # steps that are not may have been skipped
        if losses.size:
            text += f", average loss={losses.mean():,.5g}"
        return f"{text}, status={self.status!r})"

    def _size(self) -> str:
        """How much of a fit it was, for the text above."""
        return f"steps={self.steps}"

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
        softplus. Empirical: ``histogram``, (rows, ndim).
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
        """Losses, one per step up to this approximation, shape (steps recorded,).

        The negative ELBO on the full data, in nats; for Stein methods with ``score=True`` the
        kernelised Stein discrepancy.
        """
        return np.concatenate([np.zeros(0), *self.facts.losses])

    @property
    def steps(self) -> int:
        """Step of the fit that made this approximation; 0 before the first one."""
        return self.facts.step

    @property
    def status(self) -> str:
        """How the fit ended.

        One of "finished", "converged", "stopped" (by a callback) and "interrupted"; "initialized"
        before the first step and "running" inside callbacks.
        """
        return self.facts.status

    @property
    def message(self) -> str:
        """The status in words, with what was seen of the fit and what to try."""
        return self.facts.message

    # -- keeping it

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save to one file, without the model: see `numpyro_vi_ext.load`.

        The file is a NumPy ``.npz`` archive of plain arrays, nothing of which is executed when it
        is opened. An existing file is replaced in one piece, or left as it is if that fails.

        Parameters
        ----------
        path : str or path
            Used as it is; no ending is added.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        saving.write(path, type(self).__name__, self.target.layout, self.point, self.facts)

    def __copy__(self) -> Self:
        return self.at(self.point, self.facts)

    def __deepcopy__(self, memo: Any) -> Self:
        return self.at(self.point, self.facts)  # none of its parts ever changes

    def __reduce__(self) -> Any:
        """Pickled by its values and its model, which is traced again on the way back."""
        sites = saving.sites_of(self.target.layout)
        return _restore, (type(self), self.model, sites, jax.device_get(self.point), self.facts)


def _restore(
    kind: type[ApproximationBase], model: Model, sites: list[Any], point: Point, facts: Facts
) -> ApproximationBase:
    target = model.target
    saving.check_sites(sites, target.layout)
    dtype = jnp.result_type(float)  # may be another one than when it was pickled
    point = jax.tree.map(lambda x: jnp.asarray(x, dtype), point)
    return kind.of(model, target, point, facts)
