r"""Bandwidths of kernels: given, computed by the user, or by the median heuristic.

The median heuristic of Liu and Wang (2016), in PyMC's form, is

.. math:: h = \frac{m}{2 \log(n + 1)}, \qquad m = \mathrm{median}_{ij} \|x_i - x_j\|^2

over all :math:`n^2` pairs of points, the zeros of :math:`i = j` among them. Sorting these takes far
longer than everything else in a step of particles, so the median is looked for by counting: how
many squared distances are below a value tells on which side of it the median is.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.checks import as_positive
from numpyro_vi_ext.identity import Compared

Array = jax.Array

_EXACT_POINTS = 256  # up to so many points the median is exact
_TOLERANCE = 6e-3  # beyond that, the relative width of a bracket that is good enough
_MOVING = 3e-3  # and how far, relatively, the median may move before it is looked for again
_MOST_PASSES = 60
_FEW_DIMENSIONS, _FEW_NUMBERS = 2, 4096  # for which squared distances are exact, and as fast
_PACKED_POINTS = 2**16  # fewer: two counts fit into one 32-bit number
_INT_POINTS = 46_000  # fewer: their square is a 32-bit integer


class Bandwidth(abc.ABC):
    """Abstract: gives the bandwidth at each step, and may remember something from the last one."""

    @abc.abstractmethod
    def init(self, x: Array) -> Any:
        """What it remembers before the first step at points x of shape (n, d)."""

    @abc.abstractmethod
    def choose(self, x: Array, memory: Any) -> tuple[Array, Any]:
        """Bandwidth of the points, and what to remember."""


@dataclasses.dataclass(frozen=True)
class Given(Bandwidth):
    """A function of the points, shape (n, d), to a positive number; or a constant one."""

    function: Callable[[Array], Any]

    def init(self, x: Array) -> Any:
        found = jax.eval_shape(self.function, x)
        if getattr(found, "shape", None) != () or jnp.iscomplexobj(found):
            raise ValueError(
                f"bandwidth must give one real number for points of shape {x.shape}, got {found}"
            )
        return ()

    def choose(self, x: Array, memory: Any) -> tuple[Array, Any]:
        h = jnp.asarray(jax.lax.stop_gradient(self.function(x)), x.dtype)
        return jnp.where(h > 0, h, jnp.nan), memory  # which stops the fit


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same number whatever the points are; equal if the numbers are."""

    value: float

    def __call__(self, x: Array) -> float:
        """The number."""
        return self.value


class LastMedian(NamedTuple):
    """The last median that was found, and the points it belongs to."""

    median: Array
    change: Array  # from the one before, as a factor
    points: Array  # (n, d)


@dataclasses.dataclass(frozen=True)
class MedianHeuristic(Bandwidth):
    """Exact for few points; for more than 256 the median is within 1 % of the exact one.

    It is found anew only once some point has moved so far that it could have changed by more than
    a part of that: no distance changes by more than twice the largest move, nor does the root mean
    square of the two middle ones.
    """

    def init(self, x: Array) -> LastMedian:
        spread = _mean_of_squares(x)
        one, nowhere = jnp.ones((), x.dtype), jnp.full_like(x, jnp.inf)  # so it is looked for
        return LastMedian(spread, one, nowhere)

    def choose(self, x: Array, memory: LastMedian) -> tuple[Array, LastMedian]:
        n, x = x.shape[0], jax.lax.stop_gradient(x)
        spread = _mean_of_squares(x)
        exact, tiny = n <= _EXACT_POINTS, jnp.finfo(x.dtype).tiny
        tolerance = 0.0 if exact else _TOLERANCE

        def look(found: LastMedian) -> LastMedian:
            last = jnp.where(found.median > 0, found.median, spread)
            guess = last * jnp.clip(found.change, 0.5, 2)
            median = median_of_squares(x, guess, tolerance)
            return LastMedian(median, median / jnp.maximum(found.median, tiny), x)

        if exact:
            found = look(memory)
        else:
            moves = x - memory.points
            moves = moves - jnp.mean(moves, axis=0)  # what all have in common changes no distance
            moved = jnp.sqrt(jnp.max(jnp.sum(moves**2, axis=1)))
            near = 4 * moved <= _MOVING * jnp.sqrt(memory.median)
            found = jax.lax.cond(near, lambda found: found, look, memory)
        median = jnp.where(found.median > 0, found.median, spread)  # most of the points coincide
        rounding = 8 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(x), initial=0)
        h = jnp.where(median > rounding**2, median / (2 * math.log(n + 1)), 1.0)  # or all of them
        return h.astype(x.dtype), found


def as_bandwidth(bandwidth: Any) -> Bandwidth:
    """Bring what a user may give to a `Bandwidth`: None, a positive number, or a callable.

    Raises
    ------
    TypeError, ValueError
        If it is anything else.
    """
    if bandwidth is None:
        return MedianHeuristic()
    if callable(bandwidth):
        return Given(Compared.of(bandwidth))
    return Given(Constant(as_positive(bandwidth, "bandwidth")))


def squared_distances(row: Array, x: Array) -> Array:
    """Squared distances of one point (d,) from each of n, shape (n,).

    For many numbers they are made of inner products, and lose digits where distances are small
    against the distance from the origin: centre the points by `centred` before.
    """
    ndim = x.shape[1]
    if ndim <= _FEW_DIMENSIONS:
        return sum(((row[k] - x[:, k]) ** 2 for k in range(ndim)), jnp.zeros(x.shape[0], x.dtype))
    if x.size <= _FEW_NUMBERS:
        return jnp.sum((row - x) ** 2, axis=1)
    products = jnp.matmul(x, row, precision="highest")
    return jnp.maximum(jnp.sum(row**2) + jnp.sum(x**2, axis=1) - 2 * products, 0)


def centred(x: Array) -> Array:
    """The points as `squared_distances` should get them."""
    # Differences need no centring, which compiled code would round one way here, another there.
    is_exact = x.shape[1] <= _FEW_DIMENSIONS or x.size <= _FEW_NUMBERS
    return x if is_exact else x - jnp.mean(x, axis=0)


def _mean_of_squares(x: Array) -> Array:
    """Mean of the squared distances between all pairs."""
    return 2 * jnp.mean(jnp.sum((x - jnp.mean(x, axis=0)) ** 2, axis=1))


class _Search(NamedTuple):
    """A bracket of the median, and the two values to count at next.

    `excess` is a count minus that of a value which has as many below it as the median.
    """

    low: Array
    high: Array
    excess_low: Array
    excess_high: Array
    first: Array
    second: Array
    passes: Array


def median_of_squares(x: Array, guess: Array, tolerance: float) -> Array:
    """Median of the squared distances between all pairs of rows, the zeros of i = j included.

    Parameters
    ----------
    x : array, shape (n, d)
        Points.
    guess : array
        A guess of the median, which saves passes over the pairs.
    tolerance : float
        How far off, relatively, the result may be; 0: not at all.

    Returns
    -------
    array
        Zero if it cannot be told from zero.
    """
    norms = jnp.sum((x - jnp.mean(x, axis=0)) ** 2, axis=1)
    bound = 4.001 * jnp.max(norms)
    # What cannot be told from zero: rounding of a typical point, whatever a few far ones do.
    typical = jnp.exp(jnp.mean(jnp.log(norms + jnp.finfo(x.dtype).tiny)))
    floor = typical * jnp.finfo(x.dtype).eps ** (1 if centred(x) is not x else 2)
    x = centred(x)
    below = jnp.asarray(guess * (1 - _TOLERANCE / 2), x.dtype)
    above = jnp.asarray(guess * (1 + _TOLERANCE / 2), x.dtype)
    n = x.shape[0]
    target = n + 2 * ((n - 1) ** 2 // 4)  # as many are at or below the (lower) middle one
    count = jnp.int32 if n < _INT_POINTS else x.dtype
    zero = jnp.zeros((), x.dtype)
    begin = _Search(
        zero,
        bound,
        jnp.asarray(-target, count),
        jnp.asarray(n * n - target, count),
        below,
        above,
        jnp.zeros((), jnp.int32),
    )

    def unfinished(s: _Search) -> Array:
        narrow = s.high - s.low <= tolerance * s.high
        tiny = s.high <= floor
        return ~(narrow | tiny | (s.excess_high == 0)) & (s.passes < _MOST_PASSES)

    s = jax.lax.while_loop(unfinished, lambda s: _narrow(s, x, target), begin)
    inside = s.low + (s.high - s.low) * _fraction(s).astype(x.dtype)
    middle = jax.lax.cond(s.excess_high == 0, lambda: _middle(x, s.high), lambda: inside)
    return jnp.where(s.high <= floor, zero, middle)


def _narrow(s: _Search, x: Array, target: int) -> _Search:
    """Count at two values, and choose the next two.

    Inside the bracket these surround the value that linear interpolation gives. Where the median
    turns out to be outside of both, which is where a guess is not near, they go on in growing
    steps.
    """
    first, second = _excesses(x, s.first, s.second, target)
    under, over = first >= 0, second < 0
    low = jnp.where(under, s.low, jnp.where(over, s.second, s.first))
    high = jnp.where(under, s.first, jnp.where(over, s.high, s.second))
    excess_low = jnp.where(under, s.excess_low, jnp.where(over, second, first))
    excess_high = jnp.where(under, first, jnp.where(over, s.excess_high, second))
    step, third = s.second - s.first, (high - low) / 3
    near, far = jnp.minimum(4 * step, third), jnp.minimum(16 * step, 2 * third)
    bracket = _Search(low, high, excess_low, excess_high, first, second, s.passes + 1)
    fraction = jnp.clip(_fraction(bracket), 1 / 6, 5 / 6).astype(x.dtype)
    reach = (high - low) / 8
    middle = low + (high - low) * fraction
    return bracket._replace(
        first=jnp.where(under, high - far, jnp.where(over, low + near, middle - reach)),
        second=jnp.where(under, high - near, jnp.where(over, low + far, middle + reach)),
    )


def _fraction(s: _Search) -> Array:
    """Where in its bracket the median is, if the distances are spread evenly there."""
    below, above = -s.excess_low.astype(float), s.excess_high.astype(float)
    return below / jnp.maximum(below + above, 1)


def _excesses(x: Array, first: Array, second: Array, target: int) -> tuple[Array, Array]:
    """How many more than `target` squared distances are at or below two values."""
    n = x.shape[0]
    kind = jnp.int32 if n < _INT_POINTS else x.dtype

    def count(row: Array) -> Any:
        squares = squared_distances(row, x)
        if n >= _PACKED_POINTS:
            return jnp.sum(squares <= first), jnp.sum(squares <= second)
        both = jnp.where(squares <= first, 1, 0) + jnp.where(squares <= second, 2**16, 0)
        total = jnp.sum(both.astype(jnp.uint32))  # one sum, twice as fast as two
        return total & 0xFFFF, total >> 16

    below_first, below_second = in_blocks(count, x)
    one, two = (jnp.sum(c.astype(kind), dtype=kind) for c in (below_first, below_second))
    return one - target, two - target


def _middle(x: Array, value: Array) -> Array:
    """The median, given a value between the two middle ones, or at the lower one."""

    def around(row: Array) -> tuple[Array, Array]:
        squares = squared_distances(row, x)
        is_below = squares <= value
        return (
            jnp.max(jnp.where(is_below, squares, -jnp.inf)),
            jnp.min(jnp.where(is_below, jnp.inf, squares)),
        )

    below, above = in_blocks(around, x)
    lower, upper = jnp.max(below), jnp.min(above)
    return lower if x.shape[0] % 2 else (lower + upper) / 2
