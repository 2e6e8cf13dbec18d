"""Drawing what the model would produce, and weighing what it was given."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.errors import warn
from numpyro_vi_ext.evaluate import over_draws, rerun_draw
from numpyro_vi_ext.identity import fingerprint
from numpyro_vi_ext.model import Model, Target
from numpyro_vi_ext.rerun import Elsewhere, Rerun
from numpyro_vi_ext.tracing import Program, Values

Array = jax.Array


def predict(
    target: Target,
    point: Point,
    elsewhere: Elsewhere,
    key: Array,
    draws: int,
    block_size: int | None = None,
) -> Values:
    """Draws of the sites that q has no values for, observed ones included, and what follows.

    Parameters
    ----------
    target, point
        The model and q.
    elsewhere : Elsewhere
        Where to draw; its rerun is one that predicts.
    key : JAX key
        The draws of q are those of `evaluate.draw_many` with the same key.
    draws : int
        How many.
    block_size : int or None
        Draws evaluated at once.

    Returns
    -------
    dict
        Site name -> array of shape (draws, *site shape), in trace order, deterministic sites last.
    """
    fields = ("drawn", "computed")
    return _outcomes(target, point, elsewhere, key, draws, fields, block_size)


def log_likelihood(
    target: Target, point: Point, elsewhere: Elsewhere, key: Array, draws: int
) -> Values:
    """Log density of each datum at draws from q, unscaled.

    Parameters as for `predict`, but with a rerun that does not predict.

    Returns
    -------
    dict
        Observed site -> array of shape (draws, *batch shape).
    """
    return _outcomes(target, point, elsewhere, key, draws, ("log_likelihood",))


def predict_prior(
    target: Target, point: Point, elsewhere: Elsewhere, key: Array, draws: int
) -> Values:
    """Draws of all sites from the prior.

    Parameters as for `predict`; the rerun is given no latent site.
    """
    z = jnp.asarray(point.q.mean())
    params = target.evaluate(z, point.theta, key).params
    return draw_prior(elsewhere, params, key, draws)


def draw_prior(elsewhere: Elsewhere, params: Values, key: Array, draws: int) -> Values:
    """As `predict_prior`, with the values of the param sites given."""
    rerun = elsewhere.rerun
    values = _prior(rerun, draws)(elsewhere.inputs, params, key)
    return {name: values[name] for name in rerun.dims if name in values}


def is_new(before: Model, after: Model, target: Target) -> bool:
    """Whether an argument has another value than before, or is left out.

    Data of observed sites may be left out, or be None: they are drawn. `target` is that of
    `before`.
    """
    if after is before:
        return False
    old, new = (
        dict(zip(m.arguments.names, m.arguments.leaves, strict=True)) for m in (before, after)
    )
    if any(name not in old or not _equal(value, old[name]) for name, value in new.items()):
        return True
    left_out = old.keys() - new.keys()
    return bool(left_out and left_out & _data_besides_observed(before, target))


def warn_of_closed_over_data(
    target: Target, point: Point, elsewhere: Elsewhere, model: Model, observed: Mapping[str, Any]
) -> None:
    """Warn of observed data that are no argument, so that new arguments do not replace them.

    A single number is not taken for data: it may be part of the model, such as a soft constraint.

    Parameters
    ----------
    target, point, elsewhere
        As for `predict`.
    model : Model
        Bound to the new arguments.
    observed : dict
        Data of the observed sites at the arguments of the fit.
    """
    if not elsewhere.rerun.closed_over or _may_hold_data(model):
        return
    aside = _outcomes(target, point, elsewhere, jax.random.key(0), 1, ("observed",))
    data = {name: np.asarray(aside[name])[0] for name in elsewhere.rerun.closed_over}
    passed = [*model.named_data.values(), *_lists(model)]
    names = [
        name
        for name, value in data.items()
        if value.size > 1
        and np.array_equal(value, observed.get(name, value), equal_nan=True)
        and not any(np.array_equal(value, x) for x in passed)
    ]
    if names:
        warn(
            f"the model closes over the observed data of {names}, so new predictions are "
            "impossible there as far as these data, or their length, enter the model: what is "
            "returned are draws from the distribution that the model gives the site at the new "
            "arguments. Make the data an argument of the model, such as y=None.",
        )


def _equal(leaf: Any, other: Any) -> bool:
    return leaf is other or fingerprint(_plain(leaf)) == fingerprint(_plain(other))


def _plain(leaf: Any) -> Any:
    """A JAX array, which `fingerprint` knows by identity only, as one that it knows by content."""
    is_array = isinstance(leaf, jax.Array)
    is_key = is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(leaf) if is_array and not is_key else leaf


def _data_besides_observed(model: Model, target: Target) -> set[str]:
    """Names of data arguments that are no data of an observed site, as far as can be told."""
    arguments, evaluate = model.arguments, target.program.evaluate
    flags = jax.tree.map(lambda x: False, evaluate.shapes)
    flags = flags._replace(observed=dict.fromkeys(flags.observed, True))
    *_, used = evaluate.used_by(flags)
    if len(used) != len(arguments.inputs):  # some are part of the program
        return set()
    names = [arguments.names[i] for i in arguments.inputs]
    return {name for name, is_observed in zip(names, used, strict=True) if not is_observed}


def _may_hold_data(model: Model) -> bool:
    """Whether an argument, such as a table, may hold data that cannot be compared here."""
    arguments = model.arguments
    leaves = zip(arguments.leaves, arguments.is_data, strict=True)
    return any(not is_data and hasattr(leaf, "__array__") for leaf, is_data in leaves)


def _lists(model: Model) -> list[Any]:
    """Arguments that are lists of numbers, or numbers, as arrays."""
    found = []
    for value in model.arguments.by_name.values():
        try:
            found.append(np.asarray(value, float))
        except (TypeError, ValueError):  # something else
            continue
    return found


def _outcomes(
    target: Target,
    point: Point,
    elsewhere: Elsewhere,
    key: Array,
    draws: int,
    fields: tuple[str, ...],
    block_size: int | None = None,
) -> Values:
    rerun = elsewhere.rerun
    many = _at_draws(target.program, rerun, draws, fields, block_size)
    values = many(point, target.inputs, elsewhere.inputs, key)
    return {name: values[name] for name in rerun.dims if name in values}


@functools.lru_cache(maxsize=32)
def _at_draws(
    program: Program, rerun: Rerun, draws: int, fields: tuple[str, ...], block_size: int | None
) -> Any:
    def many(point: Point, inputs: Any, more: Any, key: Array) -> Values:
        def one(key: Array) -> Values:
            outcome = rerun_draw(program, rerun, point, inputs, more, key)
            return {k: v for field in fields for k, v in getattr(outcome, field).items()}

        return over_draws(one, key, draws, block_size)

    return jax.jit(many)


@functools.lru_cache(maxsize=32)
def _prior(rerun: Rerun, draws: int) -> Any:
    def many(inputs: Any, params: Values, key: Array) -> Values:
        data, constants, latents = inputs

        def one(key: Array) -> Values:
            outcome = rerun.evaluate.apply(constants, (latents, params), key, data)
            return {**outcome.drawn, **outcome.computed}

        return over_draws(one, key, draws)

    return jax.jit(many)
