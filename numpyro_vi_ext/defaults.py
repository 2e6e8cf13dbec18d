"""The optimizer of a fit: the user's, or the one that is used when the user names none."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from numpyro_vi_ext.checks import as_positive
from numpyro_vi_ext.optimizers import as_transformation, total_norm_constraint


class ByRoleState(NamedTuple):
    """Steps taken, int32."""

    count: jax.Array


@functools.cache
def gaussian_default() -> optax.GradientTransformation:
    r"""Adam with one decaying rate for the location and another for everything else.

    Adam's betas are (0.9, 0.99). After t steps the location moves by at most about
    :math:`(1 + t/1000)^{-1.5}` per step, so it can travel thousands of units and still settle,
    and the scale parameters by :math:`0.02 (1 + t/2000)^{-0.75}`; the entries of a d x d factor by
    :math:`\min(1, 50/d)` times that. Rates depend on the step alone,
    so that a fit can be continued. Meant for averaged iterates (`GAUSSIAN`).
    """
    return optax.chain(optax.scale_by_adam(b1=0.9, b2=0.99), _scale_by_role(_plain_rates))


@functools.cache
def framed_default() -> optax.GradientTransformation:
    r"""The same in a frame like the posterior, where the fit begins near its end.

    After t steps all parameters move by about :math:`0.1 (1 + t/500)^{-0.75}` standard deviations
    per step at most; the entries of a d x d factor by :math:`\min(1, 5/d)` times that, for
    the noise of single draws makes larger steps unstable.
    """
    adam = optax.scale_by_adam(b1=0.9, b2=0.99, eps=1.0)
    return optax.chain(_newton(), adam, _scale_by_role(_framed_rates))


@functools.cache
def particle_default() -> optax.GradientTransformation:
    """Rprop (Riedmiller and Braun 1993), for particles moved by gradients without noise.

    Each coordinate of each particle has a step size of its own, 0.1 at first and 1 at most, that
    grows by a factor of 1.2 while its gradient keeps its sign, and is halved when the sign changes.
    Only signs count, so neither the scale of the posterior nor that of its gradients does:
    particles travel far and settle exactly, and there is no schedule.
    """
    return optax.rprop(0.1, min_step_size=1e-9, max_step_size=1.0)


@functools.cache
def noisy_particle_default() -> optax.GradientTransformation:
    r"""Adam with rate :math:`0.5 (1 + t/300)^{-1.5}` after t steps, for gradients with noise.

    Signs that change by chance would stop Rprop where it stands. Particles are not averaged, so
    the rate has to fall until the noise no longer moves them; they travel by 300 units at most.
    """
    return optax.adam(lambda t: 0.5 * (1 + t / 300) ** -1.5, b1=0.9, b2=0.999)


class Default(NamedTuple):
    """What is used when the user names no optimizer."""

    optimizer: Callable[[], optax.GradientTransformation]
    noisy: Callable[[], optax.GradientTransformation]  # if steps see a random part of the data
    averaging: float | None  # the degree of averaging of the iterates
    framed: Callable[[], optax.GradientTransformation] | None = None  # in a frame, if there may be

    @property
    def in_frame(self) -> "Default":
        """What is used in a frame."""
        make = self.framed or self.optimizer
        return self._replace(optimizer=make, noisy=make, averaging=4.0)


GAUSSIAN = Default(gaussian_default, gaussian_default, 8.0)
WARMED = GAUSSIAN._replace(framed=framed_default)
PARTICLES = Default(particle_default, noisy_particle_default, None)


def choose_optimizer(
    obj_optimizer: Any, max_norm: Any, default: Default, is_noisy: bool
) -> tuple[Any, float | None]:
    """The transformation, and the degree of averaging that goes with it.

    Parameters
    ----------
    obj_optimizer : transformation, factory or None
        The user's; None is the default.
    max_norm : float or None
        Upper bound on the norm of the gradient.
    default : Default
        Of the method.
    is_noisy : bool
        Whether steps see a random part of the data.
    """
    if obj_optimizer is None:
        make = default.noisy if is_noisy else default.optimizer
        optimizer, averaging = make(), default.averaging
    else:
        optimizer, averaging = as_transformation(obj_optimizer), None
    if max_norm is None:
        return optimizer, averaging
    max_norm = as_positive(max_norm, "total_grad_norm_constraint")
    return _constrained(max_norm, optimizer), averaging


class Rates(NamedTuple):
    """Learning rates after t steps."""

    location: jax.Array
    other: jax.Array
    matrix: float  # the dimension beyond which the entries of a triangular factor are slower


def _plain_rates(t: jax.Array) -> Rates:
    return Rates((1 + t / 1000) ** -1.5, 0.02 * (1 + t / 2000) ** -0.75, 50.0)


def _framed_rates(t: jax.Array) -> Rates:
    rate = 0.1 * (1 + t / 500) ** -0.75
    return Rates(rate, rate, 5.0)


def _scale_by_role(rates_at: Callable[[jax.Array], Rates]) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        del params
        return ByRoleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        rates = rates_at(state.count.astype(jnp.result_type(float)))

        def scale(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            is_location = getattr(path[-1], "name", None) in updates.q.locations
            rate = rates.location if is_location else rates.other
            if x.ndim == 2:  # the noise of its entries adds up along each row
                rate = rate * (rates.matrix / max(rates.matrix, x.shape[0]))
            return (-rate * x).astype(x.dtype)

        return jax.tree_util.tree_map_with_path(scale, updates), ByRoleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def _newton() -> optax.GradientTransformationExtraArgs:
    """Turn the gradient of the location into Newton's direction, where a curvature is known."""

    def update(updates: Any, state: Any, params: Any = None, **known: Any) -> Any:
        del params
        memory = known["memory"]
        if memory is None:
            return updates, state
        moved = {x: memory.solve(getattr(updates.q, x)) for x in updates.q.locations}
        return updates._replace(q=dataclasses.replace(updates.q, **moved)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@functools.lru_cache(maxsize=64)  # one object per pair, for it is part of the key of compiled steps
def _constrained(max_norm: float, optimizer: optax.GradientTransformation) -> Any:
    return optax.chain(total_norm_constraint(max_norm), optimizer)
