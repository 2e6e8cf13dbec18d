"""Evaluating the model and q at many draws, in compiled blocks of bounded memory."""

import functools
import math
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
    return _in_order(target, _one_draw(target.program, point, target.inputs, key))


def draw_many(target: Target, point: Point, key: Array, draws: int) -> dict[str, Array]:
    """Site values of `draws` draws, each of shape (draws, *site shape)."""
    keys = jax.random.split(key, draws)
    return _in_order(target, _draws(target.program, draws)(point, target.inputs, keys))


def draw_unconstrained(point: Point, key: Array, draws: int) -> Array:
    """The flat unconstrained vectors behind `draw_many`, shape (draws, ndim)."""
    return jax.vmap(functools.partial(_one_point, point))(jax.random.split(key, draws))


def estimate_elbo(target: Target, point: Point, key: Array, n_mc: int) -> ElboEstimate:
    """Mean of log p(x, z) - log q(z) over draws from q, and its standard error."""
    keys = jax.random.split(key, n_mc)
    terms = np.asarray(_elbo_terms(target.program, n_mc)(point, target.inputs, keys), float)
    se = terms.std(ddof=1) / np.sqrt(n_mc) if n_mc > 1 else np.nan
    return ElboEstimate(float(terms.mean()), float(se))


def observed_values(target: Target, point: Point) -> dict[str, np.ndarray]:
    """Values of the observed sites; those left out that are a random part of the data."""
    z = jnp.asarray(point.q.mean())
    first, second = (target.evaluate(z, point.theta, jax.random.key(i)).observed for i in range(2))
    kept = {k for k, v in first.items() if np.array_equal(v, second[k], equal_nan=True)}
    return {name: np.asarray(value) for name, value in first.items() if name in kept}


def _in_order(target: Target, values: dict[str, Array]) -> dict[str, Array]:
    """Latent sites, then deterministic ones, each in trace order (JAX sorts dicts by key)."""
    names = (*(s.name for s in target.layout.latents), *target.layout.deterministics)
    return {name: values[name] for name in names}


def _one_point(point: Point, key: Array) -> Array:
    noise_key, _ = jax.random.split(key)
    return point.q.draw(noise_key)


def _one_draw(program: Program, point: Point, inputs: Inputs, key: Array) -> dict[str, Array]:
    _, model_key = jax.random.split(key)
    data, constants = inputs
    z = _one_point(point, key)
    return program.evaluate.apply(constants, z, point.theta, model_key, data).values


def _elbo_term(program: Program, point: Point, inputs: Inputs, key: Array) -> Array:
    _, model_key = jax.random.split(key)
    z = _one_point(point, key)
    log_prior, log_likelihood = program.densities(inputs, model_key, z, point.theta)
    return log_prior + log_likelihood - point.q.log_prob(z)


@functools.lru_cache(maxsize=32)
def _draws(program: Program, draws: int) -> Any:
    numbers = sum(np.prod(v.shape, dtype=int) for v in program.evaluate.shapes.values.values())
    return _mapped(functools.partial(_one_draw, program), draws, int(numbers))


@functools.lru_cache(maxsize=32)
def _elbo_terms(program: Program, draws: int) -> Any:
    shapes = program.evaluate.shapes
    # a factor may fill as many numbers as the data have
    arrays = (*shapes.values.values(), *shapes.observed.values(), *program.data_shapes)
    numbers = sum(np.prod(v.shape, dtype=int) for v in arrays)
    return _mapped(functools.partial(_elbo_term, program), draws, int(numbers))


def _mapped(one: Any, draws: int, numbers: int) -> Any:
    """Compile ``one(point, inputs, key)`` over many keys, in equal blocks of bounded size."""
    blocks = max(1, math.ceil(draws / max(1, _BLOCK_NUMBERS // max(1, numbers))))
    size = math.ceil(draws / blocks)

    def many(point: Point, inputs: Inputs, keys: Array) -> Any:
        vectorised = jax.vmap(lambda key: one(point, inputs, key))
        if blocks == 1:
            return vectorised(keys)
        padded = keys[jnp.arange(blocks * size) % draws].reshape(blocks, size)
        # Not lax.map(batch_size=...), which fails for arrays of size zero (JAX 0.10 to 0.12).
        values = jax.lax.map(vectorised, padded)
        return jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[:draws], values)

    return jax.jit(many)
