"""The compiled parts of a warm-up."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.curvature import Curvature, curvature, diagonal_curvature, whiten
from numpyro_vi_ext.effort import HESSIANS, PAIRS, Effort, effort_for
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.feeding import Fed, Feed
from numpyro_vi_ext.objectives import Elbo
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.tracing import Program

Array = jax.Array

CANDIDATES = (4, 2)  # that `Search.average` gives
_SHORT = 0.25  # of Newton's step, below which it was a bad guess
_GAIN = 1.0  # nats, of a quadratic: too little to be missed
_TOLERANCE = 1e-2  # on each coordinate of the gradient, where the whitened Hessian is about 1


class Round(NamedTuple):
    """One round from each of k points: the candidates there, and where it led."""

    q: DensityFamily  # (k, 2): by the whole Hessian, and by its diagonal
    found: Curvature  # (k, d, d) or (k, d) of minus the log density there
    z: Array  # (k, d)
    iterations: Array  # (k,)
    is_short: Array  # (k,): whether Newton's step, if it was one, was none or short, not at the top


class Search:
    """The compiled parts of a warm-up, for models and data of one shape.

    Where steps see batches, it looks at groups of them: group i is those of `batches` steps.
    """

    def __init__(
        self, fed: Fed, objective: Elbo, family: type[DensityFamily], batches: int
    ) -> None:
        self._program, self._feed, self._batches = fed.program, fed.feed, batches
        self.effort: Effort = effort_for(
            batches * fed.program.evaluate.moved, fed.program.layout.ndim
        )
        self._objective, self._family = objective, family
        self._round = jax.jit(self._run_rounds, static_argnames="dense")
        self._elbo = jax.jit(self._estimate)
        self._slopes = jax.jit(self._slopes_at)
        self._average = jax.jit(self._candidates)

    def round(
        self, z: Any, theta: Array, inputs: Inputs, key: Array, most: int, dense: bool
    ) -> Round:
        """A round from each of the points (k, d).

        One step of Newton's method if `dense`, else at most so many iterations of L-BFGS.
        """
        return self._round(z, theta, inputs, key, np.int32(most), dense=dense)

    def elbo(self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array, group: int) -> Array:
        """ELBO of stacked candidates (k, m) on the data of one group."""
        return self._elbo(q, theta, inputs, key, np.int32(group))

    def slopes(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[Array, Array]:
        """Noise of draws from q, and gradients of the log density there in it; both (n, d)."""
        return self._slopes(q, theta, inputs, key)

    def average(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[DensityFamily, Curvature]:
        """Candidates by the Hessian averaged over q, with steps of several lengths; and that."""
        return self._average(q, theta, inputs, key)

    def _candidates(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[DensityFamily, Curvature]:
        log_density = self._log_density(inputs, theta, key, 0)
        eps = _pairs(key, HESSIANS // 2, q.ndim)
        middle = q.transform(jnp.zeros(q.ndim, eps.dtype))

        def at(total: Any, e: Array) -> tuple[Any, None]:
            z = q.transform(e)
            hessian = curvature(lambda x: -log_density(x), z)
            found = jax.grad(log_density)(z), hessian
            return jax.tree.map(jnp.add, total, found), None

        zero = jnp.zeros_like(middle), jnp.zeros((q.ndim, q.ndim), eps.dtype)
        total, _ = jax.lax.scan(at, zero, eps)
        slope, hessian = jax.tree.map(lambda x: x / HESSIANS, total)
        found = whiten(hessian)
        lengths = 0.5 ** jnp.arange(1.0 * math.prod(CANDIDATES)).reshape(CANDIDATES)
        direction = found.solve(slope)
        base: Any = self._family.laplace(middle, found)

        def at_length(t: Array) -> DensityFamily:
            moved = {name: getattr(base, name) + t * direction for name in base.locations}
            return dataclasses.replace(base, **moved)

        return jax.vmap(jax.vmap(at_length))(lengths), found

    def _log_density(self, inputs: Inputs, theta: Array, key: Array, group: Any) -> Any:
        """What q is to be proportional to, on the data of a group."""
        data, constants = inputs
        beta, scales = self._objective.beta, self._feed.scales
        steps = group * self._batches + jnp.arange(self._batches)

        def at_step(z: Array, step: Array) -> Array:
            model_key, batch = jax.random.fold_in(key, step), self._feed.at_step(data, step)
            inputs = batch, constants
            found = self._program.densities(inputs, model_key, z, theta, scales=scales)
            return found[0] + found[1] / beta

        if self._batches == 1:
            return lambda z: at_step(z, steps[0])
        return lambda z: jnp.mean(in_blocks(lambda step: at_step(z, step), steps))

    def _run_rounds(
        self, z: Array, theta: Array, inputs: Inputs, key: Array, most: Array, dense: bool
    ) -> Round:
        log_density = self._log_density(inputs, theta, key, 0)
        # one after the other: see `entries_at_once` about decompositions side by side
        return jax.lax.map(functools.partial(self._run_round, log_density, key, most, dense), z)

    def _run_round(self, log_density: Any, key: Array, most: Array, dense: bool, z: Array) -> Round:
        minus, probes = lambda x: -log_density(x), self.effort.probes
        hessian = curvature(minus, z) if dense else diagonal_curvature(minus, z, key, probes)
        found = whiten(hessian)
        alone = whiten(jnp.diag(hessian)) if dense else found
        both = [self._family.laplace(z, x) for x in (found, alone)]
        q = jax.tree.map(lambda *x: jnp.stack(x), *both)
        whitened = lambda u: log_density(z + found.unwhiten(u))  # noqa: E731
        u, steps, is_short = _newton(whitened, z) if dense else _climb(whitened, z, most)
        return Round(q, found, z + found.unwhiten(u), steps, is_short)

    def _estimate(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array, group: Array
    ) -> Array:
        log_density = self._log_density(inputs, theta, key, group)
        ndim = q.mu.shape[-1]  # type: ignore
        eps = _pairs(key, self.effort.pairs, ndim)

        def one(q: DensityFamily) -> Array:
            return jnp.mean(in_blocks(lambda e: log_density(q.transform(e)), eps)) + q.entropy()

        k, m = q.mu.shape[:2]  # type: ignore
        flat = jax.tree.map(lambda x: x.reshape(k * m, *x.shape[2:]), q)
        return jax.lax.map(one, flat).reshape(k, m)

    def _slopes_at(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[Array, Array]:
        log_density = self._log_density(inputs, theta, key, 0)
        eps = _pairs(key, PAIRS, q.ndim)
        return eps, in_blocks(jax.grad(lambda e: log_density(q.transform(e))), eps)


def _pairs(key: Array, count: int, ndim: int) -> Array:
    """Antithetic pairs of standard normal noise, (2 * count, ndim)."""
    eps = jax.random.normal(key, (count, ndim), jnp.result_type(float))
    return jnp.concatenate([eps, -eps])


@functools.lru_cache(maxsize=16)
def _search(
    program: Program,
    feed: Feed,
    objective: Elbo,
    family: type[DensityFamily],
    batches: int,
    inputs: Any,
) -> Search:
    shapes, treedef = inputs
    fed = Fed(program, feed, jax.tree.unflatten(treedef, shapes))
    return Search(fed, objective, family, batches)


def search_for(fed: Fed, objective: Elbo, family: type[DensityFamily], batches: int = 1) -> Search:
    """The compiled parts of a warm-up, shared between fits."""
    leaves, treedef = jax.tree.flatten(fed.inputs)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    return _search(fed.program, fed.feed, objective, family, batches, (shapes, treedef))


def _newton(fn: Callable[[Array], Array], like: Array) -> tuple[Array, Array, Array]:
    """Where a step of Newton's method from 0 comes to, of the best of several lengths.

    The Hessian is about the identity there. Also returned: 1 if it led anywhere, else 0; and
    whether a quadratic promised more than so short a step can have brought.
    """
    value, slope = jax.value_and_grad(fn)(jnp.zeros_like(like))
    lengths = 2.0 ** jnp.arange(1.0, -9.0, -1.0)
    values = in_blocks(lambda t: fn(t * slope), lengths)
    best = jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))
    u = lengths[best] * slope
    led = (values[best] > value) & (jnp.max(jnp.abs(slope), initial=0.0) > _TOLERANCE)
    promised = slope @ slope / 2 > _GAIN + 8 * jnp.finfo(slope.dtype).eps * jnp.abs(value)
    is_short = promised & ~(led & (lengths[best] >= _SHORT))
    return jnp.where(led, u, 0.0), led.astype(jnp.int32), is_short


def _climb(fn: Callable[[Array], Array], like: Array, most: Array) -> tuple[Array, Array, Array]:
    """Where L-BFGS with backtracking comes to from 0 (Liu and Nocedal 1989); as for `_newton`."""

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
    return jnp.where(better, last, u), jnp.where(better, iterations, 0), jnp.asarray(False)
