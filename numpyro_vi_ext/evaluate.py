"""Evaluating the model and q at many draws, in compiled blocks of bounded memory."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.model import Inputs, Target
from numpyro_vi_ext.tracing import Program

Array = jax.Array

_BLOCK_NUMBERS = 2**22  # numbers that one block of draws may fill


class ElboEstimate(NamedTuple):
    """A Monte Carlo estimate of the evidence lower bound, in nats."""

    elbo: float
    se: float


def draw(target: Target, point: Point, key: Array) -> dict[str, Array]:
    """Site values (latent and deterministic) of one draw from q."""
    return _one_draw(target.program, point, target.inputs, key)


def draw_many(target: Target, point: Point, key: Array, draws: int) -> dict[str, Array]:
    """Site values of `draws` draws, each of shape (draws, *site shape)."""
    return _draws(target.program, draws)(point, target.inputs, jax.random.split(key, draws))


def estimate_elbo(target: Target, point: Point, key: Array, n_mc: int) -> ElboEstimate:
    """Mean of log p(x, z) - log q(z) over draws from q, and its standard error."""
    keys = jax.random.split(key, n_mc)
    terms = np.asarray(_elbo_terms(target.program, n_mc)(point, target.inputs, keys), float)
    se = terms.std(ddof=1) / np.sqrt(n_mc) if n_mc > 1 else np.nan
    return ElboEstimate(float(terms.mean()), float(se))


def _one_draw(program: Program, point: Point, inputs: Inputs, key: Array) -> dict[str, Array]:
    noise_key, model_key = jax.random.split(key)
    z = point.q.transform(jax.random.normal(noise_key, (point.q.ndim,), jnp.result_type(float)))
    data, constants = inputs
    return program.evaluate.apply(constants, z, point.theta, model_key, data).values


def _elbo_term(program: Program, point: Point, inputs: Inputs, key: Array) -> Array:
    noise_key, model_key = jax.random.split(key)
    z = point.q.transform(jax.random.normal(noise_key, (point.q.ndim,), jnp.result_type(float)))
    log_prior, log_likelihood = program.densities(inputs, model_key, z, point.theta)
    return log_prior + log_likelihood - point.q.log_prob(z)


@functools.lru_cache(maxsize=32)
def _draws(program: Program, draws: int) -> Any:
    numbers = sum(np.prod(v.shape, dtype=int) for v in program.evaluate.shapes.values.values())
    return _mapped(functools.partial(_one_draw, program), draws, int(numbers))


@functools.lru_cache(maxsize=32)
def _elbo_terms(program: Program, draws: int) -> Any:
    numbers = sum(np.prod(v.shape, dtype=int) for v in program.evaluate.shapes.observed.values())
    return _mapped(functools.partial(_elbo_term, program), draws, int(numbers))


def _mapped(one: Any, draws: int, numbers: int) -> Any:
    """Compile ``one(point, inputs, key)`` over many keys, in blocks of bounded size."""
    block = max(1, min(draws, _BLOCK_NUMBERS // max(1, numbers)))

    def many(point: Point, inputs: Inputs, keys: Array) -> Any:
        return jax.lax.map(lambda key: one(point, inputs, key), keys, batch_size=block)

    return jax.jit(many)
