"""Whether log densities are sums over rows: tried in numbers on few rows.

A minibatch stands for the full data only if the log density of a site is a sum over rows. Whether
it is cannot be read off a program, so it is tried: some rows, cut into two halves, give log
densities that add up, or that average (a mean over rows, or a sum that the model itself multiplies
by N over the number of rows), or neither (a Gaussian process, a time series).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.batching.plans import Stream
from numpyro_vi_ext.cache import find_traced
from numpyro_vi_ext.tracing import Program

Array = jax.Array
Densities = dict[str, float]

_MOST_ROWS = 8  # of each half: few, so that what does not add up is a large part of the sum
_TOLERANCE = 1e-3  # relative
_SHIFT = 0.3


def find_kinds(
    fn: Callable[..., Any], arguments: Arguments, stream: Stream, z: Array, theta: Array
) -> dict[str, str]:
    """What becomes of each term of the log density when rows are put together.

    Parameters
    ----------
    fn, arguments
        The model, and what it is called with.
    stream : tuple
        Identity of the rows in question.
    z, theta : array
        Near where to evaluate the model.

    Returns
    -------
    dict
        Name of the term -> "adds", "averages" or "neither"; empty if there are too few rows.
    """
    length, size = stream[1:3]
    half = min(_MOST_ROWS, size // 2, length // 2)
    if half == 0:
        return {}
    rows = np.linspace(0, length - 1, 2 * half).astype(np.int64)
    subsets = (rows[::2], rows[1::2], rows)
    z = z + _SHIFT * jnp.cos(jnp.arange(z.size))  # rows may be independent where z is zero
    one, other, both = (_log_probs(fn, arguments, stream, r, z, theta) for r in subsets)
    return {name: _kind(one[name], other[name], both[name]) for name in both}


def _kind(one: float, other: float, both: float) -> str:
    room = _TOLERANCE * (abs(one) + abs(other)) + np.finfo(np.float32).tiny
    if not np.isfinite([one, other, both]).all() or abs(one + other - both) <= room:
        return "adds"  # or cannot be told: the fit itself will say what is not finite
    return "averages" if abs((one + other) / 2 - both) <= room else "neither"


def _log_probs(
    fn: Callable[..., Any],
    arguments: Arguments,
    stream: Stream,
    rows: np.ndarray,
    z: Array,
    theta: Array,
) -> Densities:
    """Log densities with these rows in place of a batch; other cut axes as in the first step."""
    leaves = tuple(
        leaf if plan is None else plan.at_rows(leaf, stream, rows)
        for leaf, plan in zip(arguments.leaves, arguments.plans, strict=True)
    )
    some = dataclasses.replace(arguments, leaves=leaves)
    program, bound = find_traced(fn, some, Program, (Program,))
    found = program.evaluate(z, theta, jax.random.key(0), bound.data)
    return {name: float(value) for name, value in found.site_log_prob.items()}
