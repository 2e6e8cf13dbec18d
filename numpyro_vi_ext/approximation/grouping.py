"""An approximation's draws, data and facts, put into the groups that ArviZ knows."""

import functools
from importlib.metadata import version
from typing import Any

import jax

from numpyro_vi_ext import evaluate, io_arviz, predict
from numpyro_vi_ext.approximation.draws import ApproximationDraws
from numpyro_vi_ext.io_arviz import Groups
from numpyro_vi_ext.model import Model

Array = jax.Array
Values = dict[str, Array]


def posterior(
    approx: ApproximationDraws, draws: int, key: Array, include_transformed: bool = False
) -> Values:
    """Draws of latent and deterministic sites, and of the unconstrained values if asked for."""
    values = evaluate.draw_many(approx.target, approx.point, key, draws)
    if include_transformed:
        z = evaluate.draw_unconstrained(approx.point, key, draws)
        split = approx.target.layout.split(z).items()
        values |= {name + io_arviz.UNCONSTRAINED: value for name, value in split}
    return values


def add_posterior(groups: Groups, approx: ApproximationDraws, values: Values) -> None:
    """Add these draws, the data, and the losses."""
    layout = approx.target.layout
    axes = {**layout.dims, **io_arviz.unconstrained_axes(layout)}
    groups.add_draws("posterior", values, axes)
    add_data(groups, approx)
    groups.add_losses(approx.hist)


def add_data(groups: Groups, approx: ApproximationDraws) -> None:
    """Add the data of observed sites, and the other data arguments of the model."""
    observed = evaluate.observed_values(approx.target, approx.point)
    groups.add_data("observed_data", observed, approx.target.layout.dims)
    data = io_arviz.constant_data(approx.model.named_data, observed)
    groups.add_data("constant_data", data)


def add_predictive(
    groups: Groups,
    approx: ApproximationDraws,
    model: Model,
    latents: Values,
    key: Array,
    draws: int,
    group: str | None = None,
    block_size: int | None = None,
) -> Values:
    """Add draws of what the model would produce at its arguments, and return them.

    `latents` has values that stand in for those of q. The group is ``predictions`` if an argument
    is new, else ``posterior_predictive``. The first has the new data beside it. In the second those
    deterministic sites are left out that are the same in a posterior beside it: ArviZ 1's plots
    take all variables there for predictions.
    """
    is_new = predict.is_new(approx.model, model, approx.target)
    group = group or ("predictions" if is_new else "posterior_predictive")
    where = approx.elsewhere(model, latents, "predict" if is_new else "replicate")
    values = predict.predict(approx.target, approx.point, where, key, draws, block_size)
    rerun = where.rerun
    known = {*rerun.shapes.computed} - {*rerun.random}
    if group == "predictions" or "posterior" not in groups:
        known = set()
    groups.add_draws(group, {k: v for k, v in values.items() if k not in known}, rerun.dims)
    if group == "predictions":
        observed = evaluate.observed_values(approx.target, approx.point)
        if is_new:
            target, point = approx.target, approx.point
            predict.warn_of_closed_over_data(target, point, where, model, observed)
        data = io_arviz.constant_data(model.named_data, observed)
        groups.add_data("predictions_constant_data", data)
    return values


def add_log_likelihood(groups: Groups, approx: ApproximationDraws, key: Array, draws: int) -> None:
    """Add the log likelihood of each datum at the draws that `posterior` has with this key."""
    where = approx.elsewhere(approx.model, {}, "weigh")
    values = predict.log_likelihood(approx.target, approx.point, where, key, draws)
    groups.add_draws("log_likelihood", values, where.rerun.dims)


def add_prior(groups: Groups, approx: ApproximationDraws, key: Array, draws: int) -> None:
    """Add draws from the prior, and of the observed sites under it."""
    where = approx.elsewhere(approx.model, {}, "replicate", prior=True)
    values = predict.predict_prior(approx.target, approx.point, where, key, draws)
    observed, axes = approx.target.layout.observed, where.rerun.dims
    of_data = {name: value for name, value in values.items() if name in observed}
    others = {name: value for name, value in values.items() if name not in observed}
    groups.add_draws("prior", others, axes)
    groups.add_draws("prior_predictive", of_data, axes)


def attributes(approx: ApproximationDraws) -> dict[str, Any]:
    """How the fit came about, in values that a file can hold."""
    facts = approx.facts
    return {
        **_libraries(),
        "approximation": type(approx).__name__,
        "method": facts.method,
        "status": facts.status,
        "message": facts.message,
        "steps": facts.step,
        "seed": facts.seed,
        "warmup": facts.warmup,
        "motion": facts.motion,
        "skipped": facts.skipped,
    }


@functools.cache
def _libraries() -> dict[str, str]:
    return {
        "inference_library": "numpyro_vi_ext",
        "inference_library_version": version("numpyro-vi-ext"),
        "numpyro_version": version("numpyro"),
        "jax_version": version("jax"),
    }
