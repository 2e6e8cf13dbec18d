"""Looking for another mode where no draw of q ever comes.

Weights of draws from q say nothing about places that q does not know. So points are pushed out from
q's centre, along one random coordinate or a few, much further than its draws go, and the posterior
is evaluated there.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import evaluate
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.model import Target

Array = jax.Array

_NEAREST, _FURTHEST = 6.0, 60.0  # how far points are pushed, in sds of q; nearer, draws see it
_MOST_NUMBERS = 2**23  # that all points may fill
_DENSE = -2.0  # log density against the centre's, from which on a point counts as found


class Peak(NamedTuple):
    """The densest point that was found."""

    coordinate: int  # that changed most, in sds
    distance: float  # in sds of q, along that coordinate
    log_ratio: float  # its log density, less that of the centre it was pushed from


def look_beyond(target: Target, point: Point, key: Array, count: int) -> Peak | None:
    """Look at points far from q; None if the posterior has next to no density at any of them.

    In one dimension another mode is found if it is within some 60 sds and not much narrower than
    q; in two or three dimensions if it is near; in more, if it differs in one or two coordinates.

    Parameters
    ----------
    target, point
        The model on its full data, and q, which has a density.
    key : JAX key
        For the directions.
    count : int
        Number of points.
    """
    count = min(count, max(1, _MOST_NUMBERS // point.q.ndim))
    centres, pushed = _push(point.q, key, count)
    both = evaluate.log_densities(target, point.theta, jnp.concatenate([centres, pushed]))
    rise = both[count:] - both[:count]
    rise = np.where(np.isfinite(rise), rise, -np.inf)
    best = int(np.argmax(rise))
    if rise[best] < _DENSE:
        return None
    moved = np.abs(np.asarray(pushed[best] - centres[best])) / point.q.std()
    coordinate = int(np.argmax(moved))
    return Peak(coordinate, float(moved[coordinate]), float(rise[best]))


@functools.partial(jax.jit, static_argnums=2)
def _push(q: Any, key: Array, count: int) -> tuple[Array, Array]:
    """Draws of q with some coordinates at their centre, and with the same ones far out.

    One coordinate in every other draw, two or all in the rest.
    """
    of_draw, of_number, of_order, of_direction, of_distance = jax.random.split(key, 5)
    shape = (count, q.ndim)
    numbers = jnp.array([1, 1, 2, q.ndim])[jax.random.randint(of_number, (count,), 0, 4)]
    rank = jnp.argsort(jax.random.uniform(of_order, shape), axis=1)
    moved = rank < numbers[:, None]
    centres = jnp.where(moved, 0.0, jax.random.normal(of_draw, shape, float))
    direction = jnp.where(moved, jax.random.normal(of_direction, shape, float), 0.0)
    direction /= jnp.linalg.norm(direction, axis=1, keepdims=True)
    log_distance = jax.random.uniform(of_distance, (count, 1))
    distance = _NEAREST * (_FURTHEST / _NEAREST) ** log_distance
    transform = jax.vmap(q.transform)
    return transform(centres), transform(centres + distance * direction)
