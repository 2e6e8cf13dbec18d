"""The compiled parts of a warm-up."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.curvature import Curvature, curvature, whiten
from numpyro_vi_ext.estimators import StickingTheLanding, controlled
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.feeding import Fed, Feed
from numpyro_vi_ext.model import Inputs
from numpyro_vi_ext.objectives import Elbo
from numpyro_vi_ext.tracing import Program

Array = jax.Array

CANDIDATES = (4, 2)  # that `Search.average` gives
_RADIUS = 2.0  # of starts around the plain one, in unconstrained space
_PAIRS = 32  # of antithetic draws, from which an ELBO, or the noise of gradients, is estimated
_HESSIANS = 16  # pairs, over which the Hessian is averaged
_TOLERANCE = 1e-2  # on each coordinate of the gradient, where the whitened Hessian is about 1
_DENSE = 256  # dimensions up to which a Hessian is a matrix
_LESS_NOISE = 0.25  # of the variance of gradients, which makes a control variate worth its cost
_GAUSSIAN = 0.01  # of it, where the posterior is near a Gaussian
_NO_NOISE = 1e-6  # variance per dimension that is not worth comparing


class Round(NamedTuple):
    """One round from each of k points: the candidates there, and where it led."""

    q: DensityFamily  # (k, 2): by the whole Hessian, and by its diagonal
    hessian: Array  # (k, d, d) of minus the log density there, or (k, d)
    z: Array  # (k, d)
    iterations: Array  # (k,)


class Search:
    """The compiled parts of a warm-up, for models and data of one shape."""

    def __init__(self, fed: Fed, objective: Elbo, family: type[DensityFamily]) -> None:
        self._program, self._feed = fed.program, fed.feed
        self._objective, self._family = objective, family
        self._round = jax.jit(self._run_rounds, static_argnames="dense")
        self._elbo = jax.jit(self._estimate)
        self._noise = jax.jit(self._compare_noise)
        self._average = jax.jit(self._candidates)

    def starts(self, z: Array, key: Array, count: int) -> Array:
        """So many points to climb from, the first of which is `z`; shape (count, d)."""
        shape = (count - 1, *z.shape)
        noise = jax.random.uniform(key, shape, z.dtype, -_RADIUS, _RADIUS)
        return jnp.concatenate([z[None], z + noise])

    def round(self, z: Array, theta: Array, inputs: Inputs, key: Array, most: int) -> Round:
        """A round of at most so many iterations from each of the points (k, d)."""
        dense = z.shape[1] <= _DENSE
        return self._round(z, theta, inputs, key, np.int32(most), dense=dense)

    def elbo(self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array, step: int) -> Array:
        """ELBO of stacked candidates (k, m) on the data of one step."""
        return self._elbo(q, theta, inputs, key, np.int32(step))

    def average(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[DensityFamily, Array]:
        """Candidates by the Hessian averaged over q, with steps of several lengths; the Hessian."""
        return self._average(q, theta, inputs, key)

    def _candidates(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[DensityFamily, Array]:
        log_density = self._log_density(inputs, theta, key, 0)
        eps = jax.random.normal(key, (_HESSIANS, q.ndim), jnp.result_type(float))
        middle = q.transform(jnp.zeros(q.ndim, eps.dtype))

        def at(total: Any, e: Array) -> tuple[Any, None]:
            z = q.transform(e)
            hessian = curvature(lambda x: -log_density(x), z, key, True)
            found = jax.grad(log_density)(z), hessian
            return jax.tree.map(jnp.add, total, found), None

        zero = jnp.zeros_like(middle), jnp.zeros((q.ndim, q.ndim), eps.dtype)
        total, _ = jax.lax.scan(at, zero, jnp.concatenate([eps, -eps]))
        slope, hessian = jax.tree.map(lambda x: x / (2 * _HESSIANS), total)
        found = whiten(hessian)
        lengths = 0.5 ** jnp.arange(1.0 * math.prod(CANDIDATES)).reshape(CANDIDATES)
        direction = found.solve(slope)
        laplace = functools.partial(self._family.laplace, curvature=found)
        return jax.vmap(jax.vmap(lambda t: laplace(middle + t * direction)))(lengths), hessian

    def curvature(
        self, q: DensityFamily, hessian: Any, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[Curvature | None, bool]:
        """What the estimator `controlled` needs, in the frame, if that makes for less noise.

        And whether the posterior is near a Gaussian, as that noise tells.
        """
        matrix, usual, less = self._noise(q, hessian, theta, inputs, key)
        helps = less < _LESS_NOISE * usual and self._objective.estimator is None
        return matrix if helps else None, bool(less < _GAUSSIAN * usual)

    def _compare_noise(
        self, frame: DensityFamily, hessian: Array, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[Curvature, Array, Array]:
        """The Hessian in the frame, and variances of the gradient without and with it."""
        log_density = self._log_density(inputs, theta, key, 0)
        ndim = frame.ndim
        middle = frame.transform(jnp.zeros(ndim))
        axes = jax.vmap(lambda e: frame.transform(e) - middle)(jnp.eye(ndim))
        found = whiten(self._objective.beta * axes @ hessian @ axes.T)
        unit = type(frame).create(np.zeros(ndim), np.ones(ndim))

        def both(e: Array) -> tuple[Any, Any]:
            eps = jnp.stack([e, -e])
            slope = jax.vmap(jax.grad(lambda u: log_density(frame.transform(u))))(eps)
            usual = StickingTheLanding().gradient(unit, eps, slope, 1.0)
            return usual, controlled(unit, eps, slope, 1.0, found.precision)

        gradients = in_blocks(both, jax.random.normal(key, (_PAIRS, ndim)))
        usual, less = map(_variance, gradients)
        return found, usual, less + _NO_NOISE * ndim

    def _log_density(self, inputs: Inputs, theta: Array, key: Array, step: Any) -> Any:
        """What q is to be proportional to, on the data of a step."""
        data, constants = inputs
        batch = self._feed.at_step(data, step)
        beta, scales = self._objective.beta, self._feed.scales

        def log_density(z: Array) -> Array:
            model_key = jax.random.fold_in(key, step)
            inputs = batch, constants
            found = self._program.densities(inputs, model_key, z, theta, scales=scales)
            return found[0] + found[1] / beta

        return log_density

    def _run_rounds(
        self, z: Array, theta: Array, inputs: Inputs, key: Array, most: Array, dense: bool
    ) -> Round:
        log_density = self._log_density(inputs, theta, key, 0)
        return jax.vmap(functools.partial(self._run_round, log_density, key, most, dense))(z)

    def _run_round(self, log_density: Any, key: Array, most: Array, dense: bool, z: Array) -> Round:
        hessian = curvature(lambda x: -log_density(x), z, key, dense)
        found = whiten(hessian)
        alone = whiten(jnp.diag(hessian)) if dense else found
        both = [self._family.laplace(z, x) for x in (found, alone)]
        q = jax.tree.map(lambda *x: jnp.stack(x), *both)
        u, iterations = _climb(lambda u: log_density(z + found.unwhiten(u)), z, most)
        return Round(q, hessian, z + found.unwhiten(u), iterations)

    def _estimate(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array, step: Array
    ) -> Array:
        log_density = self._log_density(inputs, theta, key, step)
        shape = (_PAIRS, q.mu.shape[-1])  # type: ignore
        eps = jax.random.normal(key, shape, jnp.result_type(float))
        both = jnp.concatenate([eps, -eps])

        def one(q: DensityFamily) -> Array:
            return jnp.mean(in_blocks(lambda e: log_density(q.transform(e)), both)) + q.entropy()

        return jax.vmap(jax.vmap(one))(q)


@functools.lru_cache(maxsize=16)
def _search(
    program: Program, feed: Feed, objective: Elbo, family: type[DensityFamily], inputs: Any
) -> Search:
    shapes, treedef = inputs
    return Search(Fed(program, feed, jax.tree.unflatten(treedef, shapes)), objective, family)


def search_for(fed: Fed, objective: Elbo, family: type[DensityFamily]) -> Search:
    """The compiled parts of a warm-up, shared between fits."""
    leaves, treedef = jax.tree.flatten(fed.inputs)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    return _search(fed.program, fed.feed, objective, family, (shapes, treedef))


def _variance(gradients: Any) -> Array:
    """Of all parameters together, over draws along the leading axis."""
    return jnp.sum(jnp.stack([jnp.sum(jnp.var(x, axis=0)) for x in jax.tree.leaves(gradients)]))


def _climb(fn: Callable[[Array], Array], like: Array, most: Array) -> tuple[Array, Array]:
    """Where L-BFGS with backtracking comes to from 0 (Liu and Nocedal 1989)."""

    def loss(u: Array) -> Array:
        value = -fn(u)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    search = optax.scale_by_backtracking_linesearch(20, store_grad=True)
    lbfgs = optax.lbfgs(linesearch=search)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def goes_on(carry: Any) -> Array:
        _, _, value, grad, i = carry
        size = jnp.max(jnp.abs(grad), initial=0.0)
        return (i < most) & (size > _TOLERANCE) & jnp.isfinite(size) & jnp.isfinite(value)

    def step(carry: Any) -> Any:
        u, state, value, grad, i = carry
        updates, state = lbfgs.update(grad, state, u, value=value, grad=grad, value_fn=loss)
        u = optax.apply_updates(u, updates)
        return u, state, *value_and_grad(u, state=state), i + 1

    u = jnp.zeros_like(like)
    state = lbfgs.init(u)
    first = (u, state, *value_and_grad(u, state=state), jnp.zeros((), jnp.int32))
    last, _, value, _, iterations = jax.lax.while_loop(goes_on, step, first)
    better = (value < first[2]) & jnp.all(jnp.isfinite(last))
    return jnp.where(better, last, u), jnp.where(better, iterations, 0)
