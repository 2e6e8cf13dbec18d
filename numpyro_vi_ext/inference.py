"""The PyMC-named methods as objects that are fitted and continued. Thin wiring."""

import abc
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from numpyro_vi_ext.algorithm import Algorithm, Point
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.approximation.gaussian import DensityApproximation, FullRank, MeanField
from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.checks import as_count, as_number
from numpyro_vi_ext.chunk import chunk_for
from numpyro_vi_ext.defaults import choose_optimizer
from numpyro_vi_ext.diagnostics import explain_non_finite
from numpyro_vi_ext.dispatch import Callbacks
from numpyro_vi_ext.objectives import Elbo
from numpyro_vi_ext.seeds import Seed, as_key, describe_key
from numpyro_vi_ext.training import MOST_STEPS, Run, train


class Inference(abc.ABC):
    """An approximation being fitted; can be fitted, and continued, any number of times."""

    method: ClassVar[str]  # its name in `fit`, and among the facts of an approximation
    _approx: Approximation
    _objective: Elbo
    _key: jax.Array
    _seed: int | str  # what makes the key
    _run: Run | None
    _past: tuple[np.ndarray, ...]  # losses of the fits before the present one
    _callbacks: Callbacks
    _busy: bool = False

    @abc.abstractmethod
    def __init__(self, start: Any, **options: Any) -> None: ...

    def _begin(self, approx: Approximation, objective: Elbo, random_seed: Seed) -> None:
        self._approx, self._objective = approx, objective
        self._key, self._run, self._past = as_key(random_seed), None, ()
        self._seed = describe_key(self._key)
        self._callbacks = Callbacks(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(approx={self._approx!r})"

    @property
    def approx(self) -> Approximation:
        """The current approximation; inside a callback, that of the callback's step."""
        return self._approx

    @property
    def hist(self) -> np.ndarray:
        """Losses over all fits and refines, one per step taken, 1-D."""
        return np.concatenate([np.zeros(0), *self._losses()])

    def fit(
        self,
        n: int = 10_000,
        *,
        score: bool | None = None,
        callbacks: Sequence[Callable[..., Any]] | None = None,
        progressbar: bool = True,
        obj_optimizer: Any = None,
        obj_n_mc: int = 1,
        total_grad_norm_constraint: float | None = None,
        more_replacements: Mapping[str, Any] | None = None,
    ) -> Approximation:
        """Fit from the current approximation, with a fresh optimizer and step count.

        Parameters and errors are those of `numpyro_vi_ext.fit`.

        Returns
        -------
        Approximation
            Also available as ``.approx``.
        """
        self._check_idle()
        n = _as_steps(n, 0)
        objective = dataclasses.replace(self._objective, n_mc=as_count(obj_n_mc, "obj_n_mc", 1))
        algorithm = Algorithm(
            objective, *choose_optimizer(obj_optimizer, total_grad_norm_constraint)
        )
        checked = Callbacks(() if callbacks is None else callbacks)
        if not isinstance(more_replacements, Mapping | None):
            got = type(more_replacements).__name__
            raise TypeError(f"more_replacements must be a dict of model arguments, got {got}")
        model = self._approx.model
        if more_replacements:
            model = model.replace(**more_replacements)
        # Looked at again even if it is the same model: what it closes over may have changed.
        approx = self._approx.with_model(model)
        past = self._losses()
        state = algorithm.init(approx.point, jax.random.fold_in(self._key, len(past)))
        chunk = chunk_for(approx.target.program, algorithm, approx.point)
        run = Run(chunk, approx.target.inputs, state, score is None or bool(score))
        # Nothing above changed this object, so that a refused call leaves it as it was.
        self._approx, self._callbacks, self._past, self._run = approx, checked, past, run
        return self._train(run, n, progressbar)

    def refine(self, n: int, *, progressbar: bool = True) -> Approximation:
        """Continue the last fit exactly, as if it had been `n` steps longer.

        Parameters
        ----------
        n : int
            More steps. Optimizer state, noise, callbacks and the step count go on.
        progressbar : bool
            Whether to show progress.

        Raises
        ------
        TypeError
            Before the first ``fit``.
        """
        self._check_idle()
        if self._run is None:
            raise TypeError("refine continues a fit: call .fit(n) first")
        return self._train(self._run, _as_steps(n, self._run.step), progressbar)

    def _check_idle(self) -> None:
        if self._busy:
            raise RuntimeError("this inference object is being fitted already; use another one")

    def _train(self, run: Run, n: int, progressbar: bool) -> Approximation:
        callbacks, start = self._callbacks, self._approx

        def hook(step: int, point: Point) -> None:
            if not callbacks.due(step):
                return
            losses = run.history.view(step) if run.score else None
            self._approx = self._at(start, point, "running", "", step, losses)
            callbacks(self._approx, losses, step)

        self._busy = True
        try:
            train(
                run,
                n,
                hook=hook if callbacks else None,
                every=callbacks.every,
                at_first=callbacks.at_first,
                progressbar=progressbar,
            )
        finally:
            self._busy = False
            status = "stopped" if run.status == "non-finite" else run.status
            losses = run.history.view()
            result = run.state.result
            self._approx = self._at(start, result, status, run.message, run.step, losses)
        if run.status == "non-finite":
            error = explain_non_finite(run, self._approx)
            self._approx = self._at(start, result, status, str(error), run.step, losses)
            error.approx = self._approx
            raise error
        return self._approx

    def _at(
        self,
        approx: Approximation,
        point: Point,
        status: str,
        message: str,
        step: int,
        losses: np.ndarray | None,
    ) -> Approximation:
        past = self._past if losses is None else (*self._past, losses)
        facts = Facts(past, status, message, step, self.method, self._seed)
        return approx.at(point, facts)

    def _losses(self) -> tuple[np.ndarray, ...]:
        return self._past if self._run is None else (*self._past, self._run.history.view())


class ADVI(Inference):
    """Mean-field automatic differentiation variational inference (Kucukelbir et al. 2017).

    Parameters are those of `MeanField`.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> advi = ADVI(model, random_seed=0)
    >>> advi.approx
    MeanField(sites=[x], ndim=1, steps=0, status='initialized')
    >>> advi.fit(500, progressbar=False).mean.round(3)
    array([3.], dtype=float32)
    """

    method = "advi"

    def __init__(self, model: Any, **options: Any) -> None:
        self._begin(*_gaussian_start(MeanField, model, options))


class FullRankADVI(Inference):
    """ADVI with a dense covariance.

    Parameters are those of `MeanField`.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model():
    ...     cov = jnp.array([[1.0, 0.8], [0.8, 1.0]])
    ...     numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), cov))
    >>> advi = FullRankADVI(model, random_seed=0)
    >>> print(f"{advi.fit(progressbar=False).cov[0, 1]:.2f}")
    0.80
    """

    method = "fullrank_advi"

    def __init__(self, model: Any, **options: Any) -> None:
        self._begin(*_gaussian_start(FullRank, model, options))


class KLqp(Inference):
    r"""Fit any approximation with a density, starting from where it stands.

    The loss is :math:`-E_q[\log p(x | z)] + \beta\, KL(q \| p(z))`, the prior's log Jacobians
    included; beta = 1 gives the negative ELBO.

    Parameters
    ----------
    approx : Approximation
        For example ``MeanField(model)``, the result of a fit, or ``FullRank.from_approx`` of
        another one. It is not changed, and must have a density.
    beta : float
        Weight of the Kullback-Leibler part, not negative.
    random_seed : int, JAX key or None
        For the noise.

    Raises
    ------
    TypeError
        If `approx` is not an approximation with a density, or `beta` not a number.
    ValueError
        If `beta` is negative or not finite.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     x = numpyro.sample("x", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(x, 1), obs=4.0)
    >>> flat = KLqp(MeanField(model), beta=0.25, random_seed=0)  # precision 1 + 1 / 0.25
    >>> print(f"{flat.fit(progressbar=False).std[0]:.3f}")
    0.447
    """

    method = "klqp"

    def __init__(
        self, approx: Approximation, beta: float = 1.0, *, random_seed: Seed = None
    ) -> None:
        if not isinstance(approx, DensityApproximation):
            raise TypeError(
                "KLqp fits an approximation with a density, such as MeanField(model) or "
                f"FullRank.from_approx(...), got {type(approx).__name__}"
            )
        self._begin(approx, Elbo(beta=as_number(beta, "beta", 0)), random_seed)


def _gaussian_start(
    kind: type[MeanField | FullRank], model: Any, options: dict[str, Any]
) -> tuple[Approximation, Elbo, jax.Array]:
    """The unfitted approximation, its objective and the key for its noise."""
    known = [name for name in inspect.signature(kind).parameters if name != "model"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"unknown options {unknown}; this method takes {known}")
    key = as_key(options.pop("random_seed", None))
    return kind(model, random_seed=key, **options), Elbo(), key


def _as_steps(n: Any, done: int) -> int:
    """Check a number of steps to take after the `done` ones."""
    n = as_count(n, "n", 0)
    if done + n > MOST_STEPS:
        raise ValueError(
            f"n must be at most {MOST_STEPS - done:,d}, got {n:,d}: one fit with all its refines "
            f"has at most {MOST_STEPS:,d} steps; call .fit again for more"
        )
    return n
