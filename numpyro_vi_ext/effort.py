"""How thorough a warm-up can be, by what one evaluation of the model costs.

The cost is counted and not timed, so that a fit is the same on a busy machine.
"""

from typing import NamedTuple

WORK = 1e9  # numbers that a round may read and write: half a second of one core
SEVERAL = 3e8  # numbers that the Hessians of several starts may, else there is one start
STARTS = 4  # points to climb from, the first of which is the plain start
DENSE = 256  # dimensions up to which a Hessian is a matrix on the way up
EXACT = 1024  # up to which its diagonal is exact; beyond, it is estimated
PROBES, FEWEST_PROBES = 64, 8  # random directions for that
HESSIANS = 32  # over which a Hessian is averaged
AVERAGES = 10  # steps with averages
PAIRS, FEWEST_PAIRS = 32, 4  # of antithetic draws, from which an ELBO is estimated


class Effort(NamedTuple):
    """What a warm-up takes the time for.

    Parameters
    ----------
    starts : int
        Points to climb from.
    dense : bool
        Whether Hessians are matrices on the way up.
    once : bool
        Whether one is a matrix at the end of the way.
    averages : int
        Steps with averages over q, at most.
    probes : int
        Random directions from which the diagonal of a Hessian is estimated; 0 if it is exact.
    pairs : int
        Antithetic pairs of draws from which an ELBO is estimated.
    """

    starts: int
    dense: bool
    once: bool
    averages: int
    probes: int
    pairs: int


def effort_for(moved: int, ndim: int) -> Effort:
    """The effort for a model that reads and writes so many numbers in one evaluation.

    Examples
    --------
    >>> effort_for(10_000, 20)
    Effort(starts=4, dense=True, once=True, averages=10, probes=0, pairs=32)
    >>> effort_for(10**8, 200)
    Effort(starts=1, dense=False, once=False, averages=0, probes=10, pairs=4)
    """
    most = int(WORK / max(moved, 1))  # evaluations in a round
    products = ndim if ndim <= EXACT else PROBES  # of a Hessian and a vector, likewise
    dense = ndim <= min(DENSE, most)
    return Effort(
        starts=STARTS if STARTS * products * moved <= SEVERAL else 1,
        dense=dense,
        once=ndim <= most,
        averages=AVERAGES if dense and HESSIANS * ndim <= most else 0,
        probes=0 if ndim <= min(EXACT, most) else min(max(most, FEWEST_PROBES), PROBES),
        pairs=min(max(most // 16, FEWEST_PAIRS), PAIRS),
    )
