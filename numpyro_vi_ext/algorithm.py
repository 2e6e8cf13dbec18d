"""The one gradient step that every method shares."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from numpyro_vi_ext.objectives import Density, Objective

Array = jax.Array


class Point(NamedTuple):
    """What a fit moves: the approximation and the model's own params."""

    q: Any  # a Family; one with a density where the objective asks for it
    theta: Array  # (p,) unconstrained values of the numpyro.param sites


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that is needed to continue a fit exactly.

    Parameters
    ----------
    point : Point
        The iterate.
    average : Point or None
        The average of the iterates so far, if the algorithm averages.
    opt_state : pytree
        State of the optimizer.
    memory : pytree
        What the objective remembers of the step before.
    step : int32 array
        Steps taken.
    key : JAX key
        Noise is a function of this key and the step alone.
    """

    point: Point
    average: Point | None
    opt_state: Any
    memory: Any
    step: Array
    key: Array

    @property
    def result(self) -> Point:
        """What the fit would return if it stopped here."""
        return self.point if self.average is None else self.average


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
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    averaging: float | None = None

    def init(self, point: Point, key: Array) -> State:
        """State before the first step."""
        average = None if self.averaging is None else point
        params: Any = point
        opt_state, memory = self.optimizer.init(params), self.objective.init(point.q)
        return State(point, average, opt_state, memory, jnp.zeros((), jnp.int32), key)

    def step(self, state: State, eps: Array, density: Density) -> tuple[State, Array]:
        """One step; the loss is that at the point before it."""
        before: Any = state.point  # optax's types know no dataclasses
        loss, grads, memory = self.objective.loss_and_grad(
            before.q, before.theta, eps, density, state.memory
        )
        optimizer = optax.with_extra_args_support(self.optimizer)  # some look at the loss
        gradient: Any = Point(*grads)
        updates, opt_state = optimizer.update(gradient, state.opt_state, before, value=loss)
        point: Any = optax.apply_updates(before, updates)
        step = state.step + 1
        average = self._update_average(state.average, point, step)
        return State(point, average, opt_state, memory, step, state.key), loss

    def _update_average(self, average: Point | None, point: Point, step: Array) -> Point | None:
        if self.averaging is None:
            return None
        weight = (self.averaging + 1) / (step + self.averaging)
        return jax.tree.map(lambda a, x: a + (weight * (x - a)).astype(a.dtype), average, point)
