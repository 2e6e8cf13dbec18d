"""Whether the result of a fit has come to rest, in posterior standard deviations. NumPy only.

The question is stricter by far than that of `plateau`: a loss is flat in the mean of a direction
long before that mean is known.
"""

import math
from typing import NamedTuple

import numpy as np

from numpyro_vi_ext.plateau import Losses

TOLERANCE = 0.1  # standard deviations a mean may move and still count as settled
FIRST_MARK = 64  # of the geometric grid
LEAST_STEPS = 1000  # no fit is called settled before

_MARKS_PER_DOUBLING = (
    4  # averages of degree 4 at two such marks share 0.84**5 = 0.42 of their weight
)

# (step, loc, scale) of what the fit would return there; loc and scale have shape (d,)
Mark = tuple[int, np.ndarray, np.ndarray]


class Motion(NamedTuple):
    """How much the result of a fit still moves.

    Parameters
    ----------
    settled : bool
        Whether it has come to rest.
    speed : float
        The most that a mean moved in its standard deviations, or a log standard deviation, while
        the number of steps doubled for the last time; infinite before there are marks to compare.
    where : int
        Index of that coordinate in the flat vector; -1 if there is none.
    of_scale : bool
        Whether it is the standard deviation that moved there, not the mean.
    """

    settled: bool
    speed: float
    where: int
    of_scale: bool


def next_mark(step: int) -> int:
    """Return the first step of the grid after `step`: 64, 77, 91, 108, 128, ..., doubling in four.

    Examples
    --------
    >>> next_mark(0), next_mark(64), next_mark(127), next_mark(10_000)
    (64, 77, 128, 11586)
    """
    k = 0
    if step >= FIRST_MARK:
        k = math.floor(_MARKS_PER_DOUBLING * math.log2(step / FIRST_MARK))  # one too low at worst
    while _mark(k) <= step:
        k += 1
    return _mark(k)


def _mark(k: int) -> int:
    return math.ceil(FIRST_MARK * 2 ** (k / _MARKS_PER_DOUBLING))


def kept(trail: list[Mark]) -> list[Mark]:
    """Return the end of a trail that `motion` looks at: back to a quarter of the steps.

    Examples
    --------
    >>> [step for step, _, _ in kept([(s, np.zeros(1), np.ones(1)) for s in (10, 20, 40, 81)])]
    [20, 40, 81]
    """
    return trail[_before(trail, 4) :]


def motion(
    trail: list[Mark], losses: Losses | np.ndarray | None = None, tolerance: float = TOLERANCE
) -> Motion:
    r"""Say whether the result of a fit has come to rest.

    Let :math:`m_t` and :math:`s_t` be mean and standard deviation of q as the fit would have
    returned them at step t, and T the last step. It is *settled* if for every coordinate

    - :math:`m_t` spans at most ``tolerance`` :math:`s_T`, and :math:`\log s_t` at most half of
      ``tolerance``, over the marks from T/2 to T;
    - the mean of :math:`m_t` over the marks from T/2 to T differs from that over the marks from
      T/4 to T/2 by at most ``tolerance`` :math:`s_T`;

    and if the losses are not falling beyond doubt (`Losses.is_falling`), and T is at least 1,000.

    Parameters
    ----------
    trail : list of (step, loc, scale)
        At the steps given by `next_mark`, in order, and at the last step whatever it is; the end
        that `kept` returns is enough.
    losses : Losses or array of shape (steps,), optional
        Of the steps so far.
    tolerance : float
        In standard deviations.

    Notes
    -----
    Averages of degree 4, those in a frame, cover the last fifth of the steps or so. Those at T/2
    and T share 3 % of their weight, so that the span of all from T/2 to T is at least about the
    Monte Carlo error of the last one.
    The error of a direction that creeps towards its optimum like :math:`t^{-1/2}` is 2.4 times what
    it moved from T/2 to T: the second condition looks further back. Comparing averages over
    stretches of the iterates is the idea of Dhaka et al. (2020), Robust, accurate stochastic
    optimization for variational inference; a tolerance in units of the approximation that of
    Welandawe et al. (2022).

    Examples
    --------
    >>> trail, step = [], next_mark(0)
    >>> while step < 5000:
    ...     trail.append((step, np.array([500 / step, 1.0]), np.array([1.0, 2.0])))
    ...     step = next_mark(step)
    >>> motion(trail)
    Motion(settled=False, speed=0.102..., where=0, of_scale=False)
    >>> motion(trail, tolerance=0.2).settled
    True
    """
    half, quarter = _before(trail, 2), _before(trail, 4)
    if not (trail and _is_before(trail[half], trail, 2)):
        return Motion(False, math.inf, -1, False)
    last, loc, sd = trail[-1]
    if not loc.size:
        return Motion(last >= LEAST_STEPS, 0.0, -1, False)
    with np.errstate(all="ignore"):  # a scale of 0 makes NaN, which is never settled
        late = np.stack([loc for _, loc, _ in trail[half:]]) / sd
        log_scale = np.log(np.stack([scale for _, _, scale in trail[half:]]))
        spans = np.ptp(late, axis=0).max(), 2 * np.ptp(log_scale, axis=0).max()
        early = np.mean([loc for _, loc, _ in trail[quarter:half]] or [math.inf], axis=0) / sd
        shift = np.abs(late.mean(axis=0) - early).max()
        moved = np.abs([late[-1] - late[0], log_scale[-1] - log_scale[0]])
    moved = np.where(np.isnan(moved), math.inf, moved)
    of_scale, where = np.unravel_index(moved.argmax(), moved.shape)
    still = max(*spans, shift) <= tolerance and _is_before(trail[quarter], trail, 4)
    settled = still and last >= LEAST_STEPS and not _falls(losses)
    return Motion(bool(settled), float(moved.max()), int(where), bool(of_scale))


def _before(trail: list[Mark], ratio: int) -> int:
    """Return the index of the last mark up to 1/ratio of the last step; 0 if there is none."""
    return max(0, sum(_is_before(mark, trail, ratio) for mark in trail) - 1)


def _is_before(mark: Mark, trail: list[Mark], ratio: int) -> bool:
    return mark[0] <= trail[-1][0] / ratio + 1  # + 1: marks are rounded up


def _falls(losses: Losses | np.ndarray | None) -> bool:
    if losses is None:
        return False
    if not isinstance(losses, Losses):
        values, losses = losses, Losses()
        losses.update(values)
    return losses.is_falling()
