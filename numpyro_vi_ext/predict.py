"""Drawing what the model would produce, and weighing what it was given."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.evaluate import Elsewhere, over_draws, rerun_draw
from numpyro_vi_ext.identity import fingerprint
from numpyro_vi_ext.model import Model, Target
from numpyro_vi_ext.rerun import Rerun
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
    rerun = elsewhere.again.rerun
    z = jnp.asarray(point.q.mean())
    params = target.evaluate(z, point.theta, key).params
    values = _prior(rerun, draws)(elsewhere.again.inputs, params, key)
    return {name: values[name] for name in rerun.dims if name in values}


def is_new(before: Model, after: Model) -> bool:
    """Whether an argument has another value than before; one that is None does not count."""
    old, new = (_by_name(model) for model in (before, after))
    return any(name not in old or value != old[name] for name, value in new.items())


def warn_of_closed_over_data(model: Model, target: Target, observed: Mapping[str, Any]) -> None:
    """Warn of observed data that are no argument, so that new arguments do not replace them.

    `observed` has the data of the observed sites.
    """
    data = model.named_data.values()
    names = [
        name
        for name in target.program.closed_over
        if name in observed and not any(np.array_equal(observed[name], x) for x in data)
    ]
    if names:
        warnings.warn(
            f"the model closes over the observed data of {names}, so new predictions are "
            "impossible there as far as these data, or their length, enter the model: what is "
            "returned are draws from the distribution that the model gives the site at the new "
            "arguments. Make the data an argument of the model, such as y=None.",
            stacklevel=4,
        )


def _by_name(model: Model) -> dict[str, Any]:
    arguments = model.arguments
    return {
        name: fingerprint(np.asarray(leaf) if _is_array(leaf) else leaf)
        for name, leaf in zip(arguments.names, arguments.leaves, strict=True)
    }


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _outcomes(
    target: Target,
    point: Point,
    elsewhere: Elsewhere,
    key: Array,
    draws: int,
    fields: tuple[str, ...],
    block_size: int | None = None,
) -> Values:
    rerun = elsewhere.again.rerun
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
        data, constants = inputs

        def one(key: Array) -> Values:
            outcome = rerun.evaluate.apply(constants, ({}, params), key, data)
            return {**outcome.drawn, **outcome.computed}

        return over_draws(one, key, draws)

    return jax.jit(many)
