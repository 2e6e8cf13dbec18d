r"""A start and a scale before the first step.

From several points, ascent on the log density by Newton's method or L-BFGS, in rounds. Each round
takes the Hessian :math:`H` where it stands; that whitens the coordinates of the ascent, and gives a
candidate: the member of the family nearest to a Gaussian of precision :math:`|H|` there. Along the
path the candidate of the largest ELBO is taken, as in Pathfinder (Zhang et al. 2022), so that an
ascent that runs into the neck of a funnel, where there is no mode, does no harm.

From there, unless the posterior is near a Gaussian, steps with averages over q: at the optimum of a
Gaussian q its precision is the average Hessian, and the average slope is zero (Opper and Archambeau
2009, eqs. 5 and 6). They go on for as long as the ELBO rises. What is found becomes the *frame* in
whose coordinates the fit makes its steps; if nothing beats the plain start, there is none.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from numpyro_vi_ext.ascent import Round, Search
from numpyro_vi_ext.curvature import Curvature
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.recording import Inputs

Array = jax.Array
Report = Callable[[str], bool]  # is told what is going on; says whether to give up

HELD_OUT = 4  # groups of batches on which candidates are compared, where steps see batches
ROWS, ROWS_PER_DIMENSION = 1000, 10  # in a group, at least
RADIUS = 2.0  # of the others around it, in unconstrained space
ROUNDS = (8, 16, 32, 64, *[128] * 96)  # most iterations in each where a Hessian is a diagonal
LEAST, PATIENCE = 24, 8  # rounds after which, and without a better candidate, an ascent ends
_LESS_NOISE = 0.25  # of the variance of gradients, which makes a control variate worth its cost
_GAUSSIAN = 0.01  # of it, where the posterior is near a Gaussian
LITTLE = 0.01  # nats: no gain


class Found(NamedTuple):
    """What a warm-up came to, from one start or the best of several."""

    q: DensityFamily
    elbo: float = np.nan  # in nats
    plain: float = np.nan  # of the plain start
    iterations: int = 0  # of the ascent that led there
    averages: int = 0  # steps after it
    hessian: Curvature | None = None  # of minus the log density, where that is known
    curvature: Curvature | None = None  # the same in the frame, for the estimator `controlled`

    @property
    def is_better(self) -> bool:
        """Than the plain start."""
        return self.elbo > self.plain

    @property
    def sentence(self) -> str:
        """The same in words."""
        if np.isnan(self.elbo):
            return "no warm-up"
        if not self.is_better:
            return f"warm-up: nothing better than the plain start (ELBO {self.plain:,.5g})"
        return (
            f"warm-up: ELBO {self.elbo:,.5g} (plain start: {self.plain:,.5g}) after "
            f"{self.iterations} iterations and {self.averages} averages"
        )


class Warmup(NamedTuple):
    """A search for a frame, with all that it needs.

    Parameters
    ----------
    search : Search
        Of the model as steps see it.
    theta : array, shape (p,)
        The model's params, which stay as they are.
    inputs : Inputs
        Data of the first group of steps, and of the others at which candidates are compared.
    key : JAX key
        For starts and draws.
    groups : range
        Whose data candidates are compared on.
    report : callable
        See `Report`.
    """

    search: Search
    theta: Array
    inputs: Inputs
    key: Array
    groups: range
    report: Report

    def find(self, plain: DensityFamily, lanes: int = 1) -> list[Found] | None:
        """What to begin with in each of the fits that are to run side by side; None if given up.

        One fit takes the best candidate of several starts, several take one start each.
        """
        founds = self._climb(plain, self.search.effort.starts if lanes == 1 else lanes)
        if founds is not None and lanes == 1:
            founds = [max(founds, key=lambda found: found.elbo)]
        settled = [self._settle(found) for found in founds or ()]
        return None if founds is None or None in settled else settled  # type: ignore

    def elbo(self, q: DensityFamily) -> np.ndarray:
        """ELBO of stacked candidates (k, m), the mean over the data of several groups."""
        search, key = self.search, jax.random.fold_in(self.key, 1)
        found = [search.elbo(q, self.theta, self.inputs, key, group) for group in self.groups]
        mean = np.mean(np.asarray(found, float), axis=0)
        return np.where(np.isfinite(mean), mean, -np.inf)

    def starts(self, z: np.ndarray, count: int) -> np.ndarray:
        """Points to begin with, the first of which is `z`; shape (count, d)."""
        seed = np.asarray(jax.random.key_data(self.key)).tolist()
        around = np.random.default_rng(seed).uniform(-RADIUS, RADIUS, (count - 1, z.size))
        return np.concatenate([z[None], z + around]).astype(z.dtype)

    def _climb(self, plain: DensityFamily, count: int) -> list[Found] | None:
        """The best candidate on the way up from each start."""
        plain = jax.tree.map(np.asarray, plain)
        z = self.starts(plain.mean(), count)
        copies = jax.tree.map(lambda x: np.broadcast_to(x, (count, 2, *x.shape)), plain)
        elbo = float(self.elbo(copies)[0, 0])
        best, done, latest = [Found(plain, elbo, elbo)] * count, np.zeros(count, int), 0
        dense = self.search.effort.dense
        for i, most in enumerate(ROUNDS):
            if self.report(f"Warm-up, round {i + 1}"):
                return None
            candidates, hessians, z, iterations, is_short = self._round(z, most, dense)
            elbos = self.elbo(candidates)
            for lane, found in enumerate(best):
                place = lane, elbos[lane].argmax()
                hessian = jax.tree.map(operator.itemgetter(lane), hessians)
                if elbos[place] > found.elbo:
                    q = jax.tree.map(operator.itemgetter(place), candidates)
                    best[lane] = Found(q, elbos[place], elbo, int(done[lane]), hessian=hessian)
                    latest = i if elbos[place] - found.elbo > LITTLE else latest
                elif i == 0:
                    best[lane] = found._replace(hessian=hessian)
            done += iterations
            # To compile L-BFGS takes as long as many rounds of a model that is quick.
            gives_way = is_short.all() and not (count > 1 and iterations.any())
            dense = self.search.effort.dense and not gives_way
            is_over = not (iterations.any() or gives_way)
            if is_over or i - latest >= (PATIENCE if i >= LEAST else LEAST):
                break
        return best

    def _settle(self, found: Found) -> Found | None:
        """Go on from a candidate by averages over q, where the posterior is no Gaussian."""
        if found.hessian is not None and found.hessian.precision.ndim == 1:
            densified = self._densify(found)
            if densified is None or densified.hessian is found.hessian:
                return densified
            found = densified
        found, is_gaussian = self._control(found)
        for i in range(0 if is_gaussian else self.search.effort.averages):
            if self.report(f"Warm-up, average {i + 1}"):
                return None
            key = jax.random.fold_in(self.key, 3 + i)
            averaged = self.search.average(found.q, self.theta, self.inputs, key)
            candidates, hessian = jax.device_get(averaged)
            elbos = self.elbo(candidates)
            place = np.unravel_index(elbos.argmax(), elbos.shape)
            if not elbos[place] > found.elbo:
                break
            gain = elbos[place] - found.elbo
            q = jax.tree.map(operator.itemgetter(place), candidates)
            found = found._replace(q=q, elbo=elbos[place], averages=i + 1, hessian=hessian)
            found, _ = self._control(found)
            if gain < LITTLE:
                break
        return found

    def _densify(self, found: Found) -> Found | None:
        """The candidate by a whole Hessian, where only a diagonal was taken on the way."""
        fits = found.q.ndim <= found.q.most_dense and self.search.effort.once
        if not found.is_better or not fits:
            return found
        if self.report("Warm-up, Hessian"):
            return None
        candidates, hessians, *_ = self._round(found.q.mean()[None], 0, True)
        elbo, hessian = self.elbo(candidates)[0, 0], jax.tree.map(operator.itemgetter(0), hessians)
        if elbo > found.elbo:
            found = found._replace(
                q=jax.tree.map(operator.itemgetter((0, 0)), candidates), elbo=elbo
            )
        return found._replace(hessian=hessian)

    def _round(self, z: Any, most: int, dense: bool) -> Round:
        found = self.search.round(z, self.theta, self.inputs, self.key, most, dense)
        return jax.device_get(found)

    def _control(self, found: Found) -> tuple[Found, bool]:
        """With the curvature, if it helps; and whether the posterior is near a Gaussian.

        It helps if a quadratic with it explains most of the slopes at draws from q that an identity
        does not explain, as `StickingTheLanding` has it.
        """
        known: Curvature = found.hessian  # type: ignore
        curvature = found.q.within(known)
        drawn = self.search.slopes(found.q, self.theta, self.inputs, self.key)
        eps, slopes = (np.asarray(x, float) for x in drawn)
        explained = (0.0, eps, eps @ np.asarray(curvature.precision, float))
        total, usual, less = (np.var(slopes + x, axis=0).sum() for x in explained)
        if not less < _LESS_NOISE * usual:
            curvature = None
        return found._replace(curvature=curvature), bool(less < _GAUSSIAN * total)
