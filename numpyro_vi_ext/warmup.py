r"""A start and a scale before the first step.

From several points at once, quasi-Newton ascent on the log density, in rounds. Each round first
takes the Hessian :math:`H` where it stands; that whitens the coordinates of the ascent, and gives a
candidate: the member of the family nearest to a Gaussian of precision :math:`|H|` there. Along the
path the candidate of the largest ELBO is taken, as in Pathfinder (Zhang et al. 2022), so that an
ascent that runs into the neck of a funnel, where there is no mode, does no harm. It becomes the
*frame* in whose coordinates the steps are made; if none beats the plain start, there is none.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.curvature import Curvature, curvature, whiten
from numpyro_vi_ext.estimators import StickingTheLanding, controlled
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.feeding import Fed, Feed
from numpyro_vi_ext.model import Inputs
from numpyro_vi_ext.objectives import Elbo
from numpyro_vi_ext.tracing import Program

Array = jax.Array

STARTS = 4  # points to climb from, the first of which is the plain start
_RADIUS = 2.0  # of the others around it, in unconstrained space
_ROUNDS = (8, 16, 32, 64, 128, 128)  # most iterations in each
_HESSIANS = 16  # pairs of antithetic draws, over which it is averaged
_AVERAGES = 10  # times at most,
_LITTLE = 0.01  # or until the ELBO gains no more than that, in nats
_PAIRS = 32  # of antithetic draws, from which an ELBO is estimated
HELD_OUT = 4  # batches on which candidates are compared, where steps see batches
_TOLERANCE = 1e-2  # on each coordinate of the gradient, where the whitened Hessian is about 1
_LESS_NOISE = 0.25  # of the variance of gradients, which makes a control variate worth its cost
_GAUSSIAN = 0.01  # of it, where the posterior is near a Gaussian
_NO_NOISE = 1e-6  # variance per dimension that is not worth comparing
_DENSE = 256  # dimensions up to which the Hessian whitens as a matrix
_MOST_DENSE = 2048  # the same, once, for the scale of a dense family


class Found(NamedTuple):
    """What a warm-up came to."""

    frame: DensityFamily | None  # None where nothing was better than the plain start
    elbo: float  # of the best candidate, in nats
    plain: float  # of the plain start
    iterations: int  # of the ascent that led there
    hessian: Array | None = None  # of minus the log density there

    @property
    def sentence(self) -> str:
        """The same in words."""
        if self.frame is None:
            return f"warm-up found nothing better than the plain start (ELBO {self.plain:,.5g})"
        return (
            f"warm-up: {self.iterations} quasi-Newton iterations from the best of the starts, "
            f"ELBO {self.elbo:,.5g} (plain start: {self.plain:,.5g})"
        )


class _Round(NamedTuple):
    """One round from one point: the candidates there, and where it led."""

    q: DensityFamily  # by the whole Hessian and by its diagonal, stacked
    hessian: Array  # of minus the log density there, or its diagonal
    z: Array
    iterations: Array


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

    def round(self, z: Array, theta: Array, inputs: Inputs, key: Array, most: int) -> _Round:
        """A round of at most so many iterations from each of the points (k, d)."""
        dense = z.shape[1] <= _DENSE
        return self._round(z, theta, inputs, key, np.int32(most), dense=dense)

    def elbo(
        self, q: DensityFamily, theta: Array, inputs: Inputs, key: Array, steps: range
    ) -> np.ndarray:
        """ELBO of stacked candidates (k, 2), the mean over the data of these steps."""
        found = [self._elbo(q, theta, inputs, key, np.int32(step)) for step in steps]
        mean = np.mean(np.asarray(found, float), axis=0)
        return np.where(np.isfinite(mean), mean, -np.inf)

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
        lengths = 0.5 ** jnp.arange(2.0 * STARTS).reshape(STARTS, 2)
        direction = found.solve(slope)
        laplace = functools.partial(self._family.laplace, curvature=found)
        return jax.vmap(jax.vmap(lambda t: laplace(middle + t * direction)))(lengths), hessian

    def curvature(
        self, found: Found, theta: Array, inputs: Inputs, key: Array
    ) -> tuple[Curvature | None, bool]:
        """What the estimator `controlled` needs, in the frame, if that makes for less noise.

        And whether the posterior is near a Gaussian, as that noise tells.
        """
        hessian = found.hessian
        if hessian is None or hessian.ndim == 1:
            return None, True
        matrix, usual, less = self._noise(found.frame, hessian, theta, inputs, key)
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
        variances = [sum(jnp.sum(jnp.var(x, 0)) for x in jax.tree.leaves(g)) for g in gradients]
        return found, variances[0], variances[1] + _NO_NOISE * ndim

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
    ) -> _Round:
        log_density = self._log_density(inputs, theta, key, 0)
        return jax.vmap(functools.partial(self._run_round, log_density, key, most, dense))(z)

    def _run_round(
        self, log_density: Any, key: Array, most: Array, dense: bool, z: Array
    ) -> _Round:
        hessian = curvature(lambda x: -log_density(x), z, key, dense)
        found = whiten(hessian)
        alone = whiten(jnp.diag(hessian)) if dense else found
        both = [self._family.laplace(z, x) for x in (found, alone)]
        q = jax.tree.map(lambda *x: jnp.stack(x), *both)
        u, iterations = _climb(lambda u: log_density(z + found.unwhiten(u)), z, most)
        return _Round(q, hessian, z + found.unwhiten(u), iterations)

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


def find_frames(
    search: Search,
    start: Point,
    inputs: Inputs,
    key: Array,
    steps: range,
    report: Callable[[str], bool],
    lanes: int = 1,
) -> list[Found] | None:
    """A frame for each of the fits that are to run side by side; None if given up.

    Parameters
    ----------
    search : Search
        Of the model as steps see it.
    start : Point
        The plain start.
    inputs : Inputs
        Data of the first step, and of the others at which candidates are compared.
    key : JAX key
        For starts and draws.
    steps : range
        Whose data the candidates are compared on.
    report : callable
        Told what is going on; whether to give up.
    lanes : int
        One fit takes the best candidate of all starts, several take one start each.
    """
    theta, (walk, noise) = start.theta, jax.random.split(key)
    z = search.starts(start.q.mu, walk, max(lanes, STARTS))
    plain = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(z), 2, *x.shape)), start.q)
    plain_elbo = float(search.elbo(plain, theta, inputs, noise, steps)[0, 0])
    best = [Found(None, -np.inf, plain_elbo, 0)] * len(z)
    done = np.zeros(len(z), int)
    for i, most in enumerate((*_ROUNDS, 0)):
        if report(f"Warm-up, round {i + 1}"):
            return None
        here, hessian, z, iterations = search.round(z, theta, inputs, noise, most)
        elbos = search.elbo(here, theta, inputs, noise, steps)
        for lane in np.flatnonzero(elbos.max(1) > [max(f.elbo, plain_elbo) for f in best]):
            place = lane, elbos[lane].argmax()
            frame = jax.tree.map(operator.itemgetter(place), here)
            elbo, climbed = float(elbos[place]), int(done[lane])
            best[lane] = Found(frame, elbo, plain_elbo, climbed, hessian[lane])
        done += np.asarray(iterations)
        if not np.any(iterations):
            break
    return best if lanes > 1 else [max(best, key=lambda found: found.elbo)]


def settle(
    search: Search,
    found: Found,
    theta: Array,
    inputs: Inputs,
    key: Array,
    steps: range,
    report: Callable[[str], bool],
) -> tuple[Found, Curvature | None] | None:
    """Go on from the best candidate by averages over q, where the posterior is no Gaussian.

    At the optimum of a Gaussian q, its precision is the Hessian averaged over q, and the average
    slope is zero (Opper and Archambeau 2009, eqs. 5 and 6); steps of Newton's method lead there, as
    long as the ELBO rises.

    Returns
    -------
    found : Found
    curvature : Curvature or None
        In its frame, for the estimator `controlled`.
    """
    _, noise = jax.random.split(key)
    curvature, is_gaussian = search.curvature(found, theta, inputs, noise)
    for i in range(0 if is_gaussian else _AVERAGES):
        if report(f"Warm-up, average {i + 1}"):
            return None
        q, hessian = search.average(found.frame, theta, inputs, jax.random.fold_in(key, i))
        elbos = search.elbo(q, theta, inputs, noise, steps)
        place = np.unravel_index(elbos.argmax(), elbos.shape)
        gain = elbos[place] - found.elbo
        if not gain > 0:
            break
        frame = jax.tree.map(operator.itemgetter(place), q)
        found = found._replace(frame=frame, elbo=float(elbos[place]), hessian=hessian)
        curvature, _ = search.curvature(found, theta, inputs, noise)
        if gain < _LITTLE:
            break
    return found, curvature


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
