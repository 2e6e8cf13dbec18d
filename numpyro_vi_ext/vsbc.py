"""The front door of calibration over the prior: `vsbc`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from numpyro_vi_ext.ascent import search_for
from numpyro_vi_ext.calibration import Calibration, calibrate
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.feeding import Fed, Feed
from numpyro_vi_ext.fitting import _inference, _merge
from numpyro_vi_ext.inference import Inference, _as_skips, _as_steps
from numpyro_vi_ext.lanes import Lane, run_lanes
from numpyro_vi_ext.model import as_model
from numpyro_vi_ext.preparation import Setup
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.simulating import Simulated, simulate

Array = jax.Array

_LEAST = 10  # data sets and draws
_FAILED = 0.1  # of the data sets may fail
_BASES = 10  # data sets that are tried for the start that all have in common


def vsbc(
    model: Any,
    n: int = 10_000,
    method: str | type[Inference] = "advi",
    *,
    model_args: Any = (),
    model_kwargs: dict[str, Any] | None = None,
    simulations: int = 100,
    draws: int = 1000,
    observed: Mapping[str, str] | None = None,
    var_names: Sequence[str] | None = None,
    random_seed: Seed = None,
    progressbar: bool = True,
    inf_kwargs: Mapping[str, Any] | None = None,
    obj_optimizer: Any = None,
    obj_n_mc: int | None = None,
    total_grad_norm_constraint: float | None = None,
    warmup: bool | str = "auto",
    on_nonfinite: str = "stop",
) -> Calibration:
    r"""Check a method on a model over its prior, by simulation-based calibration.

    Values :math:`\theta_j` are drawn from the prior and data sets from the model at them; each is
    fitted, and :math:`p_j = \Pr_q(\theta < \theta_j)` noted. Where posterior means are right on
    average the histogram of p is symmetric; it is flat where q is the posterior. No data set
    compiles anything of its own, and many are fitted side by side.

    Parameters
    ----------
    model : Model or callable
        A NumPyro model, bound to data of the right shapes and dtypes; the values of those that
        are observed do not matter.
    n : int
        Steps of each fit.
    method : str or Inference class
        As in `fit`.
    model_args, model_kwargs : tuple, dict
        The model's arguments.
    simulations : int
        Data sets, at least 10.
    draws : int
        Draws from q for each, at least 10.
    observed : dict, optional
        Observed site -> the argument that is its data. Found out by default: the argument with the
        data's values, of several the one with the name of the site.
    var_names : sequence of str, optional
        Latent or deterministic sites to look at; default all latent ones.
    random_seed : int, JAX key or None
        Makes everything reproducible on the same machine.
    progressbar : bool
        Whether to show progress.
    inf_kwargs, obj_optimizer, obj_n_mc, total_grad_norm_constraint, warmup, on_nonfinite
        As in `fit`. The start is the same for all data sets, but where its density is not finite.

    Returns
    -------
    Calibration
        Prints as a table with a verdict for each site; `plot_vsbc` draws it.

    Raises
    ------
    KeyError, TypeError
        As `fit`; and if `observed` or `var_names` names something unknown.
    ValueError
        If the data are no arguments of the model, a prior is improper, or data cannot be simulated
        for another reason, which is named; if more than 10 % of the data sets fail.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational
    inference, ICML, section 3.2.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> result = vsbc(model, 500, model_args=(jnp.zeros(5),), random_seed=0, progressbar=False)
    >>> result.sites["mu"].verdict, result.probabilities["mu"].shape
    ('calibrated', (100,))
    """
    simulations = as_count(simulations, "simulations", _LEAST)
    draws, n = as_count(draws, "draws", _LEAST), _as_steps(n, 0)
    prior_key, base_key, key = jax.random.split(as_key(random_seed), 3)
    bound = as_model(model, model_args, model_kwargs)
    found = simulate(bound, observed, var_names, prior_key, simulations)
    inference = _base(found, method, _merge({"random_seed": base_key}, inf_kwargs))
    setup = _setup(found, inference, base_key, obj_n_mc)
    setup = setup._replace(obj_optimizer=obj_optimizer, max_norm=total_grad_norm_constraint)
    setup = setup._replace(skips=_as_skips(on_nonfinite))
    warm = inference._warms_up(warmup, obj_optimizer)
    lane = _lane(setup, found, warm, draws)
    ranks, ok = run_lanes(lane, setup.point, found, n, key, progressbar)
    return _judge(ranks, ok, found, draws, f"{inference.method}, {n:,d} steps")


def _judge(
    ranks: dict[str, np.ndarray], ok: np.ndarray, found: Simulated, draws: int, about: str
) -> Calibration:
    """Test what is left without the data sets that failed, if these are few."""
    failed = int((~ok).sum())
    if failed > _FAILED * len(ok):
        wild = int((~found.finite).sum())
        raise ValueError(
            f"{failed} of {len(ok)} data sets failed, more than {_FAILED:.0%}, so that the others "
            f"would say little: {wild} have values that are not finite, and {failed - wild} a "
            "density or a fit that is not. Are the priors so wide that such data come of them? Try "
            "narrower ones, or on_nonfinite='skip'"
        )
    return calibrate({name: ranks[name][ok] for name in found.truth}, draws, failed, about)


def _base(found: Simulated, method: Any, options: dict[str, Any]) -> Inference:
    """The method on one of the data sets: what all fits have in common."""
    if isinstance(method, Inference):
        raise TypeError(
            "method must be a name or an Inference class for vsbc: an Inference instance belongs "
            "to one data set"
        )
    first, *others = np.flatnonzero(found.finite)[:_BASES] if found.finite.any() else [0]
    try:
        return _inference(found.model(first), method, options)
    except ValueError as error:  # perhaps because the density is not finite there
        for i in others:
            try:
                return _inference(found.model(i), method, options)
            except ValueError:
                continue
        raise error


def _setup(found: Simulated, inference: Inference, key: Array, obj_n_mc: int | None) -> Setup:
    """How each fit begins; with the parts that only a method knows."""
    target, point = inference.approx.target, inference.approx.point
    fed = Fed(found.program, Feed(), (found.data, target.program.evaluate.constants))
    objective = inference._objective.configure(obj_n_mc, inference._objective.is_scored)
    return Setup(fed=fed, point=point, key=key, objective=objective, default=inference._default)


def _lane(setup: Setup, found: Simulated, warm: bool, draws: int) -> Lane:
    family = type(setup.point.q)
    objective: Any = setup.objective  # an Elbo, where there is a warm-up
    search = search_for(setup.fed, objective, family) if warm else None
    return Lane(found.program, found.changed, setup.algorithm(warm), search, draws)
