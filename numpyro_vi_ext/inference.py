"""The front door: `fit` and the PyMC-named methods. Thin wiring; the work is done below."""

import abc
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from numpyro_vi_ext.algorithm import Algorithm, Point
from numpyro_vi_ext.approximation import Approximation, Facts, FullRank, MeanField
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.chunk import chunk_for
from numpyro_vi_ext.defaults import AVERAGING_DEGREE, gaussian_default
from numpyro_vi_ext.diagnostics import explain_non_finite
from numpyro_vi_ext.dispatch import Callbacks
from numpyro_vi_ext.objectives import Elbo
from numpyro_vi_ext.optimizers import as_transformation, total_norm_constraint
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.training import Run, train


class Inference(abc.ABC):
    """An approximation being fitted; can be fitted, and continued, any number of times."""

    _approx: Approximation
    _objective: Elbo
    _key: jax.Array
    _run: Run | None
    _past: tuple[np.ndarray, ...]  # losses of the fits before the present one
    _callbacks: Callbacks

    def _begin(self, approx: Approximation, objective: Elbo, random_seed: Seed) -> None:
        self._approx, self._objective = approx, objective
        self._key, self._run, self._past = as_key(random_seed), None, ()
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
        n = as_count(n, "n", 0)
        objective = Elbo(self._objective.beta, as_count(obj_n_mc, "obj_n_mc", 1))
        optimizer, averaging = _optimizer(obj_optimizer, total_grad_norm_constraint)
        checked = Callbacks(callbacks or ())
        approx = self._approx
        if more_replacements:
            approx = approx.with_model(approx.model.replace(**more_replacements))
        algorithm = Algorithm(objective, optimizer, averaging)
        self._past = self._losses()
        self._callbacks = checked
        key = jax.random.fold_in(self._key, len(self._past))
        state = algorithm.init(approx.point, key)
        target = approx.target
        self._run = Run(
            chunk_for(target.program, algorithm, approx.point), target.inputs, state, score is not False
        )
        self._approx = approx
        return self._train(self._run, n, progressbar)

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
        if self._run is None:
            raise TypeError("refine continues a fit: call .fit(n) first")
        return self._train(self._run, as_count(n, "n", 0), progressbar)

    def _train(self, run: Run, n: int, progressbar: bool) -> Approximation:
        callbacks, start = self._callbacks, self._approx

        def hook(step: int, point: Point) -> None:
            losses = run.history.view(step) if run.score else None
            self._approx = self._at(start, point, "running", "", step, losses)
            callbacks(self._approx, losses, step)

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
        return approx.at(point, Facts(past, status, message, step))

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

    def __init__(self, model: Any, **options: Any) -> None:
        self._begin(*_gaussian_start(MeanField, model, options))


class FullRankADVI(Inference):
    """ADVI with a dense covariance.

    Parameters are those of `MeanField`.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        self._begin(*_gaussian_start(FullRank, model, options))


class KLqp(Inference):
    r"""Fit any approximation with a density, starting from where it stands.

    The loss is :math:`-E_q[\log p(x | z)] + \beta\, KL(q \| p(z))`, the prior's log Jacobians
    included; beta = 1 gives the negative ELBO.

    Parameters
    ----------
    approx : Approximation
        For example ``MeanField(model)``, or the result of a fit. It is not changed.
    beta : float
        Weight of the Kullback-Leibler part, not negative.
    random_seed : int, JAX key or None
        For the noise.

    Raises
    ------
    TypeError
        If `approx` is not an Approximation.
    ValueError
        If `beta` is negative or not finite.
    """

    def __init__(self, approx: Approximation, beta: float = 1.0, *, random_seed: Seed = None) -> None:
        if not isinstance(approx, Approximation):
            raise TypeError(
                f"KLqp fits an Approximation such as MeanField(model), got {type(approx).__name__}"
            )
        if not (np.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be finite and not negative, got {beta}")
        self._begin(approx, Elbo(beta=float(beta)), random_seed)


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


@functools.lru_cache(maxsize=64)
def _constrained(max_norm: float, optimizer: optax.GradientTransformation) -> Any:
    return optax.chain(total_norm_constraint(max_norm), optimizer)


def _optimizer(obj_optimizer: Any, max_norm: float | None) -> tuple[Any, float | None]:
    """The transformation, and the degree of averaging that goes with it."""
    if obj_optimizer is None:
        optimizer, averaging = gaussian_default(), AVERAGING_DEGREE
    else:
        optimizer, averaging = as_transformation(obj_optimizer), None
    return optimizer if max_norm is None else _constrained(max_norm, optimizer), averaging


METHODS: dict[str, type[Inference]] = {"advi": ADVI, "fullrank_advi": FullRankADVI}


def fit(
    model: Any,
    n: int = 10_000,
    method: str | Inference | type[Inference] = "advi",
    *,
    model_args: Any = (),
    model_kwargs: dict[str, Any] | None = None,
    random_seed: Seed = None,
    start: Mapping[str, Any] | None = None,
    start_sigma: Mapping[str, Any] | None = None,
    inf_kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callable[..., Any]] | None = None,
    progressbar: bool = True,
    score: bool | None = None,
    obj_optimizer: Any = None,
    obj_n_mc: int = 1,
    total_grad_norm_constraint: float | None = None,
    more_replacements: Mapping[str, Any] | None = None,
) -> Approximation:
    r"""Fit an approximation of the posterior of a NumPyro model.

    Minimises the negative evidence lower bound
    :math:`L(q) = -E_q[\log p(x, z)] - H(q)` over the family of the method.

    Parameters
    ----------
    model : callable or Model
        A NumPyro model, unchanged, or a `Model`; None if `method` is an `Inference` instance.
    n : int
        Steps; 0 only initialises.
    method : str, Inference instance or Inference class
        "advi" or "fullrank_advi", in any case; an instance goes on from where it stands.
    model_args, model_kwargs : tuple, dict
        The model's arguments.
    random_seed : int, JAX key or None
        Makes everything the fit does reproducible on the same machine.
    start : dict, optional
        Site name -> initial value in the model's own space. The others start at the prior mean
        where it is finite, else at the median of prior draws, else at a uniform draw.
    start_sigma : dict, optional
        Site name -> initial standard deviation in unconstrained space, a scalar or of the site's
        unconstrained shape. Default softplus(0) = 0.6931.
    inf_kwargs : dict, optional
        More arguments of the inference class, such as ``init_strategy``.
    callbacks : list of callables, optional
        Each is called as ``callback(approx, losses, i)`` after step i = 1, 2, ..., or after the
        multiples of its attribute ``every``, with the approximation of that step and the losses
        so far. Raising StopIteration stops the fit; the step counts.
    progressbar : bool
        Whether to show progress.
    score : bool, optional
        Whether to record losses. Default True.
    obj_optimizer : optional
        An optax transformation, a NumPyro optimizer, or one of this package's factories, called
        or bare. Default: Adam with a decaying rate and averaged iterates; an explicit optimizer
        is used as it is, without averaging.
    obj_n_mc : int
        Monte Carlo draws per step, vectorised.
    total_grad_norm_constraint : float, optional
        Upper bound on the L2 norm of the gradient.
    more_replacements : dict, optional
        Model argument -> value to fit with instead.

    Returns
    -------
    Approximation
        Non-convergence never raises: see its ``status`` and ``message``.

    Raises
    ------
    KeyError
        Unknown method, site in `start` or `start_sigma`, or argument in `more_replacements`.
    TypeError, ValueError
        Anything else of a wrong type or value, by name.
    NonFiniteError
        If a loss or a parameter becomes NaN or infinite; the error has the last finite ``.approx``.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 10))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> approx = fit(model, model_args=(jnp.array([2.0, 3.0, 4.0]),), random_seed=0,
    ...              progressbar=False)
    >>> print(f"{approx.mean[0]:.3f} {approx.std[0]:.3f} {approx.status}")
    2.990 0.576 finished
    """
    options = {
        "model_args": model_args or None,
        "model_kwargs": model_kwargs,
        "random_seed": random_seed,
        "start": start,
        "start_sigma": start_sigma,
    }
    given = {name: value for name, value in options.items() if value is not None}
    given |= dict(inf_kwargs or {})
    return _inference(model, method, given).fit(
        n,
        score=score,
        callbacks=callbacks,
        progressbar=progressbar,
        obj_optimizer=obj_optimizer,
        obj_n_mc=obj_n_mc,
        total_grad_norm_constraint=total_grad_norm_constraint,
        more_replacements=more_replacements,
    )


def _inference(model: Any, method: Any, options: dict[str, Any]) -> Inference:
    """Make the inference object that `method` stands for."""
    if isinstance(method, str):
        if method.lower() not in METHODS:
            raise KeyError(f"method {method!r} is unknown; the methods are {sorted(METHODS)}")
        method = METHODS[method.lower()]
    if inspect.isclass(method) and issubclass(method, Inference):
        return method(model, **options)
    if not isinstance(method, Inference):
        raise TypeError(
            f"method must be one of {sorted(METHODS)}, an Inference instance or an Inference "
            f"class, got {type(method).__name__}"
        )
    bound = method.approx.model
    if model is not None and model is not bound and model is not bound.fn:
        raise ValueError("the Inference instance has a model of its own; pass None or that model")
    if options:
        raise TypeError(
            f"{sorted(options)} cannot be applied to an Inference instance; pass them when making it"
        )
    return method
