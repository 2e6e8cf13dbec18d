"""Fits to many simulated data sets, side by side in one compiled program.

Each data set has a lane of its own: a start, a warm-up, the steps, draws, and the ranks of the true
values among them (Yao et al. 2018, section 3.2).
"""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from numpyro_vi_ext import evaluate, warmup
from numpyro_vi_ext.algorithm import Algorithm, Point, State, in_frame, is_finite
from numpyro_vi_ext.blocks import entries_at_once, in_blocks
from numpyro_vi_ext.objectives import Density
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.simulating import Simulated
from numpyro_vi_ext.tracing import Program, Values

Array = jax.Array

_LANES = 32  # at most: more are hardly faster, and nothing is reported before all of them end
_BLOCK_STEPS, _BLOCK_NUMBERS = 64, 8192  # noise of a lane is drawn for so many at once
_MOST_ROUNDS = 10  # of the ascent
_TRIES, _RADIUS = 20, 2.0  # for a start with a finite density, in unconstrained space


class _Case(NamedTuple):
    """What a lane is about."""

    key: Array
    data: tuple[Array, ...]  # of the arguments that change
    truth: Values


@dataclasses.dataclass(frozen=True)
class Lane:
    """A fit, and the ranks of the true values, as a pure function; hashable.

    Parameters
    ----------
    program : Program
        The model.
    changed : tuple of int
        Positions of the data that each lane has of its own.
    algorithm : Algorithm
        Its steps.
    search : warmup.Search or None
        What warms up; None begins at the plain start.
    draws : int
        From q.
    """

    program: Program
    changed: tuple[int, ...]
    algorithm: Algorithm
    search: Any
    draws: int

    def run(self, start: Point, inputs: Inputs, n: Array, case: _Case) -> tuple[Values, Array]:
        """Ranks, each of the shape of its site; and whether all went well."""
        (data, constants), changed = inputs, dict(zip(self.changed, case.data, strict=True))
        inputs = tuple(changed.get(i, x) for i, x in enumerate(data)), constants
        keys = jax.random.split(case.key, 4)
        density = functools.partial(self.program.densities, inputs, keys[0])
        start = _move_to_finite(density, start, keys[0])
        frame = None
        if self.search is not None:
            frame = _find_frame(self.search, start, inputs, keys[1])
            ndim, dtype = frame.ndim, start.theta.dtype
            unit = type(frame).create(np.zeros(ndim, dtype), np.ones(ndim, dtype))
            start = start._replace(q=unit)
        state = self.algorithm.init(start, keys[2], frame)
        point, ok = self._steps(state, in_frame(density, frame), n)

        def below(key: Array) -> Values:
            values = evaluate.evaluate_draw(self.program, point, inputs, key).values
            return {name: values[name] < true for name, true in case.truth.items()}

        found = evaluate.over_draws(below, keys[3], self.draws)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), found), ok & is_finite(point)

    def _steps(self, state: State, density: Density, n: Array) -> tuple[Point, Array]:
        """The result after `n` steps, and whether all of them went well."""
        frame, objective = state.frame, self.algorithm.objective
        ndim, dtype = state.point.q.ndim, jnp.result_type(float)
        like = jax.eval_shape(lambda key: objective.noise(key, 2, ndim, dtype), state.key)
        size = 2 * max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // max(1, like.size // 2)) // 2)

        def block(index: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
            noise = objective.noise(jax.random.fold_in(state.key, index), size, ndim, dtype)

            def step(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
                after, loss = self.algorithm.step(carry[0], noise[i], density)
                return after, carry[1] & self.algorithm.goes_on(after, loss)

            return jax.lax.fori_loop(0, jnp.minimum(size, n - index * size), step, carry)

        begin = dataclasses.replace(state, frame=None), jnp.asarray(True)
        after, ok = jax.lax.fori_loop(0, (n + size - 1) // size, block, begin)
        return after.framed_result.through(frame), ok


def _move_to_finite(density: Density, start: Point, key: Array) -> Point:
    """Move q to the first of some points with a finite density, if there is one."""
    q = start.q
    where = [getattr(q, name).reshape(-1, q.ndim).mean(0) for name in q.locations]
    middle = jnp.mean(jnp.stack(where), axis=0)
    others = jax.random.uniform(key, (_TRIES, q.ndim), middle.dtype, -_RADIUS, _RADIUS)
    points = jnp.concatenate([middle[None], others])
    fine = in_blocks(lambda z: jnp.isfinite(sum(density(z, start.theta))), points)
    return start._replace(q=q.moved(points[jnp.argmax(fine)] - middle))


class _Best(NamedTuple):
    """The best candidate for a frame so far."""

    q: Any
    elbo: Array

    def or_one_of(self, q: Any, elbos: Array) -> "_Best":
        """The best of stacked candidates (k, l), with ELBOs of this shape, if it is better."""
        elbos = jnp.where(jnp.isfinite(elbos), elbos, -jnp.inf).ravel()
        place = jnp.argmax(elbos)
        here = _Best(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[place], q), elbos[place])
        return jax.tree.map(functools.partial(jnp.where, here.elbo > self.elbo), here, self)


def _find_frame(search: warmup.Search, start: Point, inputs: Inputs, key: Array) -> Any:
    """What `warmup.Warmup.find` finds, in compiled code.

    It is the plain start where nothing is better. A few rounds are made, converged or not; a whole
    Hessian is taken at the end where it is not on the way; and averages are tried whether or not
    the posterior is near a Gaussian.
    """
    theta, (walk, noise) = start.theta, jax.random.split(key)
    effort = search.effort

    def compare(best: _Best, q: Any) -> _Best:
        return best.or_one_of(q, search.elbo(q, theta, inputs, noise, 0))

    def go(z: Array, best: _Best, most: Any, dense: bool) -> tuple[Array, _Best]:
        found = search._round(z, theta, inputs, noise, most, dense=dense)
        return found.z, compare(best, found.q)

    def run_round(carry: tuple[Array, _Best], most: Array) -> tuple[tuple[Array, _Best], None]:
        return go(*carry, most, effort.dense), None

    def average(carry: tuple[Array, _Best, Array]) -> tuple[Array, _Best, Array]:
        i, best, _ = carry
        q, _ = search.average(best.q, theta, inputs, jax.random.fold_in(key, i))
        after = compare(best, q)
        return i + 1, after, after.elbo - best.elbo

    best = compare(
        _Best(start.q, jnp.asarray(-jnp.inf)), jax.tree.map(lambda x: x[None, None], start.q)
    )
    shape, radius = (effort.starts - 1, start.q.ndim), warmup.RADIUS
    around = jax.random.uniform(walk, shape, start.q.mu.dtype, -radius, radius)
    z = start.q.mu + jnp.concatenate([jnp.zeros((1, start.q.ndim), around.dtype), around])
    most = jnp.asarray([*warmup.ROUNDS[:_MOST_ROUNDS], 0], jnp.int32)
    (_, best), _ = jax.lax.scan(run_round, (z, best), most)
    if effort.once and not effort.dense and start.q.ndim <= start.q.most_dense:
        _, best = go(best.q.mu[None], best, jnp.int32(0), True)
    if effort.averages:
        first = jnp.zeros((), jnp.int32), best, jnp.full_like(best.elbo, jnp.inf)
        more = lambda carry: (carry[0] < effort.averages) & (carry[2] >= warmup.LITTLE)  # noqa: E731
        _, best, _ = jax.lax.while_loop(more, average, first)
    return best.q


@functools.lru_cache(maxsize=16)
def _compiled(lane: Lane) -> Any:
    return jax.jit(jax.vmap(lane.run, in_axes=(None, None, None, 0)))


def run_lanes(
    lane: Lane, start: Point, found: Simulated, n: int, key: Array, progressbar: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Ranks of all data sets, and which of them went well, from equal blocks of lanes."""
    count = len(found.finite)
    cases = _Case(jax.random.split(key, count), found.stacks, found.truth)
    shared = start, (found.data, found.program.evaluate.constants), np.int32(n)
    size = min(count, _LANES, entries_at_once(functools.partial(lane.run, *shared), cases))
    size = -(-count // -(-count // size))
    results = []
    with tqdm(total=count, disable=not progressbar, unit="fit") as bar:
        for begin in range(0, count, size):
            rows = np.arange(begin, begin + size) % count
            block = jax.tree.map(operator.itemgetter(rows), cases)  # the last one begins again
            results.append(jax.device_get(_compiled(lane)(*shared, block)))
            bar.update(min(size, count - begin))
    ranks, ok = jax.tree.map(lambda *x: np.concatenate(x)[:count], *results)
    return ranks, ok & found.finite
