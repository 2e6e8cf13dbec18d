"""How a fit begins: its optimizer, its frame, and the state before the first step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro_vi_ext.algorithm import Algorithm, Point, State
from numpyro_vi_ext.batching.supply import Supply
from numpyro_vi_ext.chunk import NEVER, Chunk, chunk_for
from numpyro_vi_ext.defaults import Default, choose_optimizer
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.feeding import Fed
from numpyro_vi_ext.objectives import Objective
from numpyro_vi_ext.training import Prepared, Run
from numpyro_vi_ext.warmup import HELD_OUT, find_frames, search_for, settle

Array = jax.Array


class Plan(NamedTuple):
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
    """

    fed: Fed
    point: Point
    key: Array
    objective: Objective
    default: Default
    obj_optimizer: Any = None
    max_norm: Any = None
    skips: bool = False

    def algorithm(self, framed: bool) -> Algorithm:
        """The steps, in a frame or not."""
        default = self.default.in_frame if framed else self.default
        optimizer, averaging = choose_optimizer(
            self.obj_optimizer, self.max_norm, default, self.fed.is_noisy
        )
        return Algorithm(self.objective, optimizer, averaging, self.skips)

    def begin(self, frame: DensityFamily | None) -> tuple[Chunk, State]:
        """Compiled steps, and the state before the first; in a frame, q begins as the frame."""
        algorithm, point = self.algorithm(frame is not None), self.point
        if frame is not None:
            ndim = frame.ndim
            unit = type(frame).create(jnp.zeros(ndim, point.theta.dtype), jnp.ones(ndim))
            point = point._replace(q=unit)
        return chunk_for(self.fed, algorithm, point), algorithm.init(point, self.key, frame)

    def warm_up(self, supply: Supply, report: Callable[[str], bool]) -> Prepared | None:
        """Begin after a warm-up; None if that was interrupted."""
        search = search_for(self.fed, self.objective, type(self.point.q))
        steps = range(1, 1 + HELD_OUT) if self.fed.is_noisy else range(1)
        end = supply.peek(steps.stop, lambda: report("Waiting for data"))
        steps = steps[: end - steps.start] or range(1)
        key = jax.random.fold_in(self.key, NEVER - 1)
        found = find_frames(search, self.point, supply.inputs, key, steps, report)
        if found is None:
            return None
        if found[0].frame is None:
            return Prepared(*self.begin(None), found[0].sentence)
        settled = settle(search, found[0], self.point.theta, supply.inputs, key, steps, report)
        if settled is None:
            return None
        chunk, state = self.begin(settled[0].frame)
        state = dataclasses.replace(state, memory=settled[1])
        return Prepared(chunk, state, settled[0].sentence)

    def run(self, warmup: bool, frame: DensityFamily | None, score: bool) -> Run:
        """The fit before its first step."""
        supply = Supply(self.fed.inputs, self.fed.origins)
        run = Run(*self.begin(frame), supply=supply, score=score)
        if warmup:
            run.pending = functools.partial(self.warm_up, supply)
        return run
