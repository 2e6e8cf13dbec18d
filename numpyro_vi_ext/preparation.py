"""How a fit begins: its optimizer, its frame, and the state before the first step."""

import dataclasses
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Algorithm, Point, State
from numpyro_vi_ext.ascent import search_for
from numpyro_vi_ext.batching.supply import Supply
from numpyro_vi_ext.chunk import NEVER, Chunk, chunk_for
from numpyro_vi_ext.curvature import Curvature
from numpyro_vi_ext.defaults import Default, choose_optimizer
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.feeding import Fed
from numpyro_vi_ext.objectives import Objective
from numpyro_vi_ext.run import Prepared, Run
from numpyro_vi_ext.warmup import (
    HELD_OUT,
    ROWS,
    ROWS_PER_DIMENSION,
    Found,
    Report,
    Warmup,
)
from numpyro_vi_ext.watch import Watch

Array = jax.Array

PILOT_STEPS = 1000  # of each of several starts, before the best is taken
_PIECE = 100  # of them between two looks at Ctrl-C


class Place(NamedTuple):
    """A known frame to begin in.

    Parameters
    ----------
    frame : DensityFamily or None
        None for no frame at all.
    q : DensityFamily or None
        Where q begins in it; None is a standard normal, so that it begins as the frame.
    curvature : Curvature or None
        In the frame, for the estimator `controlled`.
    """

    frame: DensityFamily | None = None
    q: DensityFamily | None = None
    curvature: Curvature | None = None


class Setup(NamedTuple):
    """What is fixed when a fit is asked for.

    Parameters
    ----------
    fed : Fed
        The model as steps see it.
    point : Point
        Where the approximation stands.
    key : JAX key
        For all that is random in the fit.
    objective : Objective
        What it descends on.
    default : Default
        What is used if the user names no optimizer.
    obj_optimizer, max_norm
        What the user says.
    skips : bool
        Whether steps that are not finite are dropped.
    warmup : bool
        Whether to look for a frame first.
    restarts : int
        How many starts to try, of which the best is taken.
    place : Place
        Where to begin if there is no warm-up.
    """

    fed: Fed
    point: Point
    key: Array
    objective: Objective
    default: Default
    obj_optimizer: Any = None
    max_norm: Any = None
    skips: bool = False
    warmup: bool = False
    restarts: int = 1
    place: Place = Place()

    def run(self, score: bool, until_settled: bool) -> Run:
        """The fit before its first step."""
        supply = Supply(self.fed.inputs, self.fed.origins)
        chunk, state = self._begin(self.point, self.place)
        by_result = state.average is not None or not self.objective.is_scored
        if until_settled and not (score or by_result):
            raise ValueError("n='auto' goes by the losses of this fit: it needs score=True")
        watch = Watch(self.fed.program.layout, by_result)
        run = Run(chunk, state, supply, score, watch)
        if self.warmup or self.restarts > 1:
            run.pending = lambda report: self._prepare(supply, report)
        return run

    def algorithm(self, framed: bool) -> Algorithm:
        """The steps, in a frame or not."""
        default = self.default.in_frame if framed else self.default
        noisy = self.fed.is_noisy
        optimizer = choose_optimizer(self.obj_optimizer, self.max_norm, default, noisy)
        return Algorithm(self.objective, *optimizer, self.skips)

    def _begin(self, point: Point, place: Place) -> tuple[Chunk, State]:
        """Compiled steps, and the state before the first."""
        frame, q, curvature = place
        if frame is not None and q is None:
            zeros = np.zeros(frame.ndim, jnp.result_type(point.theta))
            q = type(frame).create(zeros, np.ones(frame.ndim))
        if q is not None:
            point = point._replace(q=q)
        algorithm = self.algorithm(frame is not None)
        state = algorithm.init(point, self.key, frame)
        if curvature is not None:
            state = dataclasses.replace(state, memory=curvature)
        return chunk_for(self.fed, algorithm, point), state

    def _prepare(self, supply: Supply, report: Report) -> Prepared | None:
        """Begin after a warm-up, from the best of several starts; None if interrupted."""
        objective: Any = self.objective  # an Elbo, for only such defaults have frames
        groups, size = self._groups(supply, report)
        search = search_for(self.fed, objective, type(self.point.q), size)
        key = jax.random.fold_in(self.key, NEVER - 1)
        warmup = Warmup(search, self.point.theta, supply.inputs, key, groups, report)
        founds = self._founds(warmup)
        if founds is None:
            return None
        begun = [self._begin_at(found) for found in founds]
        if self.restarts == 1:
            return Prepared(*begun[0], founds[0].sentence)
        optima = self._try(begun, warmup)
        if optima is None:
            return None
        best = int(np.argmax(optima))
        sentence = f"the best of {self.restarts} starts; {founds[best].sentence}"
        return Prepared(*begun[best], sentence, tuple(map(float, optima)))

    def _groups(self, supply: Supply, report: Report) -> tuple[range, int]:
        """On which groups of steps a warm-up compares, and how many steps are in each."""
        if not self.fed.is_noisy:
            return range(1), 1
        rows, size = self.fed.batch_rows, 1
        if rows and not any(self.fed.origins):  # nobody should have to wait for a Stream
            size = -(-max(ROWS, ROWS_PER_DIMENSION * self.point.q.ndim) // rows)
        end = supply.peek((1 + HELD_OUT) * size, lambda: report("Waiting for data"))
        return range(1, 1 + HELD_OUT)[: max(end // size - 1, 0)] or range(1), size

    def _founds(self, warmup: Warmup) -> list[Found] | None:
        """Where each of the fits may begin."""
        if self.warmup:
            return warmup.find(self.point.q, self.restarts)
        q, mean = self.point.q, self.point.q.mean()
        shifts = warmup.starts(mean, self.restarts) - mean
        return [Found(q.moved(shift)) for shift in shifts]

    def _begin_at(self, found: Found) -> tuple[Chunk, State]:
        if not self.warmup:
            return self._begin(self.point._replace(q=found.q), Place())
        if not found.is_better and self.restarts == 1:
            return self._begin(self.point, Place())
        objective: Any = self.objective
        curvature = None if objective.estimator is not None else found.curvature
        if curvature is not None:
            beta = objective.beta
            scaled = Curvature(beta * curvature.precision, curvature.root / np.sqrt(beta))
            curvature = jax.tree.map(jnp.asarray, scaled)
        return self._begin(self.point, Place(found.q, None, curvature))

    def _try(self, begun: list[tuple[Chunk, State]], warmup: Warmup) -> np.ndarray | None:
        """ELBO of each start after `PILOT_STEPS`, all of them side by side."""
        chunk, inputs = begun[0][0], warmup.inputs
        # some may have a curvature and others not: all do without
        states = [dataclasses.replace(state, memory=None) for _, state in begun]
        shared = {name: getattr(states[0], name) for name in ("key", "step", "skipped")}
        state = jax.tree.map(lambda *x: jnp.stack(x), *states)
        state = dataclasses.replace(state, **shared)
        for end in range(_PIECE, PILOT_STEPS + 1, _PIECE):
            if warmup.report(f"Starts side by side, step {end}"):
                return None
            state = chunk.side_by_side(state, inputs, end)
        q, thetas = jax.device_get(_out_of_frames(state.framed_result, state.frame))
        found = []
        for i, theta in enumerate(thetas):  # each with the params of the model that it came to
            place = operator.itemgetter((slice(i, i + 1), None))
            found.append(warmup._replace(theta=theta).elbo(jax.tree.map(place, q))[0, 0])
        return np.array(found)


@jax.jit
def _out_of_frames(point: Point, frame: DensityFamily | None) -> Point:
    """Several points out of their frames."""
    return jax.vmap(Point.through)(point, frame)
