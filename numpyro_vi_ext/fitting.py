"""The front door: `fit`, and the names of its methods."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.inference import Inference, check_same_model
from numpyro_vi_ext.methods import ADVI, ASVGD, SVGD, FullRankADVI
from numpyro_vi_ext.seeds import Seed

METHODS: dict[str, type[Inference]] = {
    kind.method: kind for kind in (ADVI, FullRankADVI, SVGD, ASVGD)
}


def fit(
    model: Any = None,
    n: int | str = 10_000,
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
    obj_n_mc: int | None = None,
    total_grad_norm_constraint: float | None = None,
    more_replacements: Mapping[str, Any] | None = None,
    total_size: Mapping[str, Any] | None = None,
    warmup: bool | str = "auto",
    restarts: int = 1,
    max_steps: int = 100_000,
    on_nonfinite: str = "stop",
) -> Approximation:
    r"""Fit an approximation of the posterior of a NumPyro model.

    Minimises the negative evidence lower bound
    :math:`L(q) = -E_q[\log p(x, z)] - H(q)` over the family of the method.

    Parameters
    ----------
    model : callable or Model
        A NumPyro model, unchanged, or a `Model`; None if `method` is an `Inference` instance.
    n : int or "auto"
        Steps; 0 only initialises. "auto" goes on until the fit has come to rest, for `max_steps` at
        most: until neither a mean, in standard deviations, nor a standard deviation still moves
        while the steps double, nor the loss falls; with an explicit optimizer, whose iterates are
        not averaged, until the loss is flat.
    method : str, Inference instance or Inference class
        "advi", "fullrank_advi", "svgd" or "asvgd", in any case; an instance goes on from where it
        stands.
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
        More arguments of the inference class, such as ``n_particles`` of `SVGD`.
    callbacks : list of callables, optional
        Each is called as ``callback(approx, losses, i)`` after step i = 1, 2, ..., or after the
        multiples of its attribute ``every``, with the approximation of that step and the losses
        so far (None where they are not recorded). Raising StopIteration stops the fit; the step
        counts.
    progressbar : bool
        Whether to show progress.
    score : bool, optional
        Whether to record losses; by default where the method has one. For Stein methods, which
        have none, the losses are then kernelised Stein discrepancies.
    obj_optimizer : optimizer, optional
        An optax transformation, a NumPyro optimizer, or one of this package's factories, called
        or bare. Default: Adam with a decaying rate and averaged iterates; for "svgd" Rprop, not
        averaged. An explicit optimizer is used as it is, without averaging.
    obj_n_mc : int, optional
        Monte Carlo draws per step, vectorised: 1 by default, 500 for "asvgd". Cannot be applied to
        "svgd", which uses its particles.
    total_grad_norm_constraint : float, optional
        Upper bound on the L2 norm of the gradient; none by default.
    more_replacements : dict, optional
        Model argument -> value to fit with instead, such as a `Minibatch`.
    total_size : dict, optional
        Observed site -> size of the full data of which the model sees a part, an int or a list as
        long as the site has axes. Not needed with a `Minibatch`, whose size is known.
    warmup : bool or "auto"
        Whether to look for a start and a scale before the first step, which makes the fit a matter
        of neither. "auto" does if neither an optimizer nor a start is given and nothing is fitted
        yet. Not for Stein methods.
    restarts : int
        How many starts to try side by side, for 1,000 steps each, in one compiled program; the fit
        then goes the way of the one with the largest ELBO. Not for Stein methods or a `Stream`.
    max_steps : int
        For ``n="auto"``.
    on_nonfinite : str
        What to do at a step that is not finite: "stop" with an error, or "skip" the step. More than
        a tenth of the steps, and more than ten, are too many to skip.

    Returns
    -------
    Approximation
        Non-convergence never raises: see its ``status`` and ``message``.

    Raises
    ------
    KeyError
        Unknown method, site in `start`, `start_sigma` or `total_size`, or argument in
        `more_replacements`.
    TypeError, ValueError
        Anything else of a wrong type or value, by name; ValueError as well if the log density is
        not finite at the start, nor at 99 other points.
    DiscreteLatentError
        If a latent site is discrete.
    NonFiniteError
        If a loss or a parameter becomes NaN or infinite; the error has the last finite ``.approx``.
    RuntimeError
        If `method` is an instance that is being fitted, as in a callback of its own.

    Warns
    -----
    UserWarning
        If batches seem to be scaled twice, by the model and by N / B, or otherwise than
        `total_size` says.

    References
    ----------
    Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), Automatic differentiation variational
    inference, JMLR 18. The other methods have theirs: `SVGD`, `ASVGD`.

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
        "model_args": model_args,
        "model_kwargs": model_kwargs,
        "random_seed": random_seed,
        "start": start,
        "start_sigma": start_sigma,
    }
    given = _merge({k: v for k, v in options.items() if _says_something(v)}, inf_kwargs)
    return _inference(model, method, given).fit(
        n,
        score=score,
        callbacks=callbacks,
        progressbar=progressbar,
        obj_optimizer=obj_optimizer,
        obj_n_mc=obj_n_mc,
        total_grad_norm_constraint=total_grad_norm_constraint,
        more_replacements=more_replacements,
        total_size=total_size,
        warmup=warmup,
        restarts=restarts,
        max_steps=max_steps,
        on_nonfinite=on_nonfinite,
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
    check_same_model(model, method.approx.model, "Inference instance")
    if options:
        raise TypeError(
            f"{sorted(options)} cannot be applied to an Inference instance; pass them when making "
            "it, or pass its class"
        )
    return method


def _says_something(option: Any) -> bool:
    """Whether an option is more than its default: None, or a container with nothing in it."""
    return option is not None and not (isinstance(option, tuple | list | Mapping) and not option)


def _merge(options: dict[str, Any], inf_kwargs: Any) -> dict[str, Any]:
    if not isinstance(inf_kwargs, Mapping | None):
        raise TypeError(f"inf_kwargs must be a dict, got {type(inf_kwargs).__name__}")
    twice = sorted(set(options) & set(inf_kwargs or ()))
    if twice:
        raise TypeError(f"{twice} are given twice: as arguments of fit and in inf_kwargs")
    return {**options, **(inf_kwargs or {})}
