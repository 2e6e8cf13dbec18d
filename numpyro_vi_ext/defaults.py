"""The optimizer used when the user names none."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

AVERAGING_DEGREE = 8.0


class ByRoleState(NamedTuple):
    """Steps taken, int32."""

    count: jax.Array


@functools.cache
def gaussian_default() -> optax.GradientTransformation:
    r"""Adam with one decaying rate for the location and another for everything else.

    Adam's betas are (0.9, 0.99). After t steps the location moves by at most about
    :math:`(1 + t/1000)^{-1.5}` per step, so it can travel thousands of units and still settle,
    and the scale parameters by :math:`0.02 (1 + t/2000)^{-0.75}`. Rates depend on the step alone,
    so that a fit can be continued. Meant for averaged iterates (`AVERAGING_DEGREE`).
    """
    return optax.chain(optax.scale_by_adam(b1=0.9, b2=0.99), _scale_by_role())


def _scale_by_role() -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        del params
        return ByRoleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        t = state.count.astype(jnp.result_type(float))
        location, other = (1 + t / 1000) ** -1.5, 0.02 * (1 + t / 2000) ** -0.75

        def scale(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            is_location = getattr(path[-1], "name", None) in updates.q.locations
            return (-(location if is_location else other) * x).astype(x.dtype)

        return jax.tree_util.tree_map_with_path(scale, updates), ByRoleState(state.count + 1)

    return optax.GradientTransformation(init, update)
