"""Evaluating the model and q at many draws, in compiled blocks of bounded memory."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.model import Target
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.rerun import Outcome, Rerun
from numpyro_vi_ext.tracing import Evaluation, Program

Array = jax.Array


class ElboEstimate(NamedTuple):
    """A Monte Carlo estimate of the evidence lower bound, in nats."""

    elbo: float
    se: float


def draw(target: Target, point: Point, key: Array) -> dict[str, Array]:
    """Site values (latent and deterministic) of one draw from q."""
    return _in_order(target, evaluate_draw(target.program, point, target.inputs, key).values)


def draw_many(target: Target, point: Point, key: Array, draws: int) -> dict[str, Array]:
    """Site values of `draws` draws, each of shape (draws, *site shape)."""
    return _in_order(target, _values(target.program, draws)(point, target.inputs, key))


def draw_unconstrained(point: Point, key: Array, draws: int) -> Array:
    """The flat unconstrained vectors behind `draw_many`, shape (draws, ndim)."""
    return _unconstrained(draws)(point, key)


def log_weights(target: Target, point: Point, key: Array, draws: int) -> np.ndarray:
    """Log p(x, z) - log q(z) at the draws of `draw_unconstrained` with this key, shape (draws,)."""
    return np.asarray(_elbo_terms(target.program, draws)(point, target.inputs, key), float)


def estimate_elbo(target: Target, point: Point, key: Array, n_mc: int) -> ElboEstimate:
    """Mean of log p(x, z) - log q(z) over draws from q, and its standard error."""
    return mean_and_error(log_weights(target, point, key, n_mc))


def mean_and_error(terms: np.ndarray) -> ElboEstimate:
    """Mean and standard error of terms of the ELBO."""
    if not np.isfinite(terms).all():
        return ElboEstimate(float(terms.mean()), np.nan)
    se = terms.std(ddof=1) / np.sqrt(len(terms)) if len(terms) > 1 else np.nan
    return ElboEstimate(float(terms.mean()), float(se))


def log_densities(target: Target, theta: Array, rows: Array) -> np.ndarray:
    """Log p(x, z) at rows of shape (n, ndim), shape (n,)."""
    return np.asarray(_at_rows(target.program, False)(rows, theta, target.inputs), float)


def scores(target: Target, theta: Array, rows: Array) -> np.ndarray:
    """Gradient of log p(x, z) in z at rows of shape (n, ndim), shape (n, ndim)."""
    return np.asarray(_at_rows(target.program, True)(rows, theta, target.inputs))


def observed_values(target: Target, point: Point) -> dict[str, np.ndarray]:
    """Values of the observed sites; those left out that are a random part of the data."""
    z = jnp.asarray(point.q.mean())
    first, second = (target.evaluate(z, point.theta, jax.random.key(i)).observed for i in range(2))
    kept = {k for k, v in first.items() if np.array_equal(v, second[k], equal_nan=True)}
    return {name: np.asarray(value) for name, value in target.known(first).items() if name in kept}


def evaluate_draw(program: Program, point: Point, inputs: Inputs, key: Array) -> Evaluation:
    """The model at one draw from q; for use inside compiled code."""
    _, model_key = jax.random.split(key)
    data, constants = inputs
    z = draw_point(point, key)
    return program.evaluate.apply(constants, z, point.theta, model_key, data)


def draw_point(point: Point, key: Array) -> Array:
    """The flat unconstrained vector behind `evaluate_draw`."""
    noise_key, _ = jax.random.split(key)
    return point.q.draw(noise_key)


def rerun_draw(
    program: Program, rerun: Rerun, point: Point, inputs: Inputs, more: Any, key: Array
) -> Outcome:
    """The model elsewhere at one draw from q; for use inside compiled code.

    Parameters
    ----------
    program, point, inputs, key
        As for `evaluate_draw`.
    rerun : Rerun
        Of the model elsewhere, and
    more : tuple
        its ``Elsewhere.inputs``.
    """
    data, constants, latents = more
    found = evaluate_draw(program, point, inputs, key)
    given = {site.name: found.values[site.name] for site in program.layout.latents}
    _, model_key = jax.random.split(key)
    return rerun.evaluate.apply(constants, ({**given, **latents}, found.params), model_key, data)


def over_draws(
    one: Callable[[Array], Any], key: Array, draws: int, block_size: int | None = None
) -> Any:
    """``one(key)`` for as many keys as there are draws, stacked; for use inside compiled code.

    Parameters
    ----------
    one : callable
        What to compute for one draw.
    key : JAX key, or array of as many as there are draws
        One is split into one per draw, so that the result does not depend on the blocks.
    draws : int
        How many.
    block_size : int, optional
        Draws evaluated at once. By default so many that a block of what is computed for them
        is of bounded size.
    """
    return in_blocks(one, key if key.shape else jax.random.split(key, draws), block_size)


def _in_order(target: Target, values: dict[str, Array]) -> dict[str, Array]:
    """Latent sites, then deterministic ones, each in trace order (JAX sorts dicts by key)."""
    names = (*(s.name for s in target.layout.latents), *target.layout.deterministics)
    return target.known({name: values[name] for name in names})


def _elbo_term(program: Program, point: Any, inputs: Inputs, key: Array) -> Array:
    _, model_key = jax.random.split(key)
    z = draw_point(point, key)
    log_prior, log_likelihood = program.densities(inputs, model_key, z, point.theta)
    return log_prior + log_likelihood - point.q.log_prob(z)


@functools.lru_cache(maxsize=32)
def _values(program: Program, draws: int) -> Any:
    def many(point: Point, inputs: Inputs, key: Array) -> Any:
        return over_draws(lambda k: evaluate_draw(program, point, inputs, k).values, key, draws)

    return jax.jit(many)


@functools.lru_cache(maxsize=32)
def _unconstrained(draws: int) -> Any:
    return jax.jit(lambda point, key: over_draws(functools.partial(draw_point, point), key, draws))


@functools.lru_cache(maxsize=32)
def _elbo_terms(program: Program, draws: int) -> Any:
    def many(point: Point, inputs: Inputs, key: Array) -> Any:
        return over_draws(functools.partial(_elbo_term, program, point, inputs), key, draws)

    return jax.jit(many)


@functools.lru_cache(maxsize=32)
def _at_rows(program: Program, gradient: bool) -> Any:
    def many(rows: Array, theta: Array, inputs: Inputs) -> Any:
        def one(row_and_key: tuple[Array, Array]) -> Any:
            def log_density(z: Array) -> Array:
                log_prior, log_likelihood = program.densities(inputs, key, z, theta)
                return log_prior + log_likelihood

            row, key = row_and_key
            return (jax.grad(log_density) if gradient else log_density)(row)

        return in_blocks(one, (rows, jax.random.split(jax.random.key(0), len(rows))))

    return jax.jit(many)
