"""The one gradient step that every method shares."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.objectives import Density, Objective

Array = jax.Array

MOST_SKIPPED = 0.1  # of the steps so far may be dropped before a fit gives up,
_FEW_SKIPPED = 10  # or so many


class Point(NamedTuple):
    """What a fit moves: the approximation and the model's own params."""

    q: Any  # a Family; one with a density where the objective asks for it
    theta: Array  # (p,) unconstrained values of the numpyro.param sites

    def through(self, frame: DensityFamily | None) -> "Point":
        """The same in the model's unconstrained space, if this one is in a frame."""
        return self if frame is None else self._replace(q=self.q.through(frame))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that is needed to continue a fit exactly.

    Parameters
    ----------
    point : Point
        The iterate, in the frame.
    average : Point or None
        The average of the iterates so far, if the algorithm averages; in the frame.
    opt_state : pytree
        State of the optimizer.
    memory : pytree
        What the objective remembers of the step before.
    step : int32 array
        Steps taken.
    key : JAX key
        Noise is a function of this key and the step alone.
    skipped : int32 array
        How many of the steps were dropped because they were not finite.
    frame : DensityFamily or None
        Where coordinates are changed: steps move q in u, with ``z = frame.transform(u)``. It never
        changes in a fit. A frame like the posterior makes all posteriors alike to the optimizer.
    """

    point: Point
    average: Point | None
    opt_state: Any
    memory: Any
    step: Array
    key: Array
    skipped: Array
    frame: DensityFamily | None = None

    @property
    def framed_result(self) -> Point:
        """What the fit would return if it stopped here, in the frame."""
        return self.point if self.average is None else self.average

    @property
    def result(self) -> Point:
        """What the fit would return if it stopped here."""
        return self.framed_result.through(self.frame)


def in_frame(density: Density, frame: DensityFamily | None) -> Density:
    """The density of u that goes with a density of ``z = frame.transform(u)``."""
    if frame is None:
        return density
    log_det = frame.log_det()

    def framed(u: Array, theta: Array) -> tuple[Array, Array]:
        log_prior, log_likelihood = density(frame.transform(u), theta)
        return log_prior + log_det, log_likelihood

    return framed


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """An objective, an optimizer and iterate averaging; hashable, compared by its parts.

    Parameters
    ----------
    objective : Objective
        Gives the loss and its gradient.
    optimizer : optax.GradientTransformation
        Makes a step of a gradient.
    averaging : float or None
        Degree eta of polynomial-decay averaging, in which iterate t has a weight growing like
        t**eta (Shamir and Zhang 2013, eq. 5). None: no averaging.
    skips : bool
        Whether a step that is not finite is dropped, with all it would have changed.
    gives_up : bool
        Whether to stop if that happens too often.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    averaging: float | None = None
    skips: bool = False
    gives_up: bool = True

    def init(self, point: Point, key: Array, frame: DensityFamily | None = None) -> State:
        """State before the first step, at a point in the frame."""
        average = None if self.averaging is None else point
        params: Any = point
        opt_state, memory = self.optimizer.init(params), self.objective.init(point.q)
        zero = jnp.zeros((), jnp.int32)
        return State(point, average, opt_state, memory, zero, key, zero, frame)

    def step(self, state: State, eps: Array, density: Density) -> tuple[State, Array]:
        """One step in the frame, to which `density` belongs; the loss is that before it."""
        after, loss = self.attempt(state, eps, density)
        if not self.skips:
            return after, loss
        ok = jnp.isfinite(loss)
        select = functools.partial(jax.tree.map, functools.partial(jnp.where, ok))
        parts = "point", "average", "opt_state", "memory"
        kept = {name: select(getattr(after, name), getattr(state, name)) for name in parts}
        skipped = state.skipped + ~ok if self.gives_up else state.skipped
        return dataclasses.replace(after, skipped=skipped, **kept), loss

    def attempt(self, state: State, eps: Array, density: Density) -> tuple[State, Array]:
        """The same, whatever comes of it; a loss of NaN tells of what `skips` would drop."""
        before: Any = state.point  # optax's types know no dataclasses
        loss, grads, memory = self.objective.loss_and_grad(
            before.q, before.theta, eps, density, state.memory
        )
        optimizer = optax.with_extra_args_support(self.optimizer)  # some look at the loss
        gradient: Any = Point(*grads)
        if self.skips:
            loss = loss + _zero_of(gradient)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, before, value=loss, memory=state.memory
        )
        point: Any = optax.apply_updates(before, updates)
        step = state.step + 1
        average = self._update_average(state.average, point, step)
        key, skipped, frame = state.key, state.skipped, state.frame
        return State(point, average, opt_state, memory, step, key, skipped, frame), loss

    def goes_on(self, state: State, loss: Array) -> Array:
        """Whether another step makes sense after one with this loss."""
        if not self.gives_up:
            return jnp.asarray(True)
        if not self.skips:
            return jnp.isfinite(loss)
        return self.puts_up_with(state)

    def puts_up_with(self, state: State) -> Array:
        """Whether few enough steps were dropped."""
        return state.skipped <= jnp.maximum(_FEW_SKIPPED, MOST_SKIPPED * state.step)

    def drop(self, state: State) -> State:
        """State after a step that was dropped, from that before it."""
        return dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)

    def _update_average(self, average: Point | None, point: Point, step: Array) -> Point | None:
        if self.averaging is None:
            return None
        weight = (self.averaging + 1) / (step + self.averaging)
        return jax.tree.map(lambda a, x: a + (weight * (x - a)).astype(a.dtype), average, point)


def is_finite(point: Point) -> Array:
    """Whether all numbers of a point are finite."""
    return _zero_of(point) == 0


def _zero_of(point: Point) -> Array:
    """0 if all numbers of a point are finite, else NaN, which 0 times another number is."""
    return functools.reduce(jnp.add, [jnp.sum(0 * x) for x in jax.tree.leaves(point)])


@jax.jit
def result_of(state: State) -> Point:
    """`State.result`, compiled."""
    return state.result
