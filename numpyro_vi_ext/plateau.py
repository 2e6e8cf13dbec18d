"""Whether the loss of a fit still falls by an amount that matters. NumPy only."""

import math
from typing import NamedTuple

import numpy as np

REL_TOL = 0.0125  # of the fall so far: an improvement that counts as none

_PAGE, _RUN = 100, 10  # losses that are clipped together, and that make one mean
_BLOCKS, _LEAST_BLOCKS = 16, 8  # at most and at least, into which a window is cut
_WINDOWS = (1.4, 2.0, 4.0)  # the last step over the first
_NOISE_TOL = 0.07  # standard deviations of a single loss: an improvement that counts as none ...
_NOISE_KNOWN = 1000  # ... from this step on
_RESOLUTION = 1.2e-7  # of float32, of the loss: an improvement that counts as none
_Z, _Z_CLEAR = 1.5, 2.0  # standard errors on the safe side; those of a clear trend
_FASTER = 2.0  # noise variances: how much better a fall like 1/t**2 has to fit than one like 1/t
_NEXT_CHECK, _HOLD = 1.02, 1.04  # ratios of steps: from check to check, and of a plateau


class Trend(NamedTuple):
    """What a window of losses says about the improvement to come.

    Parameters
    ----------
    ahead : float
        The improvement that is left, if the loss goes on falling as it does; negative if it rises.
    error : float
        Its standard error; of a steep fall, the larger one of a fall like 1/t in this noise.
    tolerance : float
        An improvement that counts as none.
    """

    ahead: float
    error: float
    tolerance: float

    @property
    def is_flat(self) -> bool:
        """Whether hardly any improvement can be left."""
        return max(self.ahead, 0.0) + _Z * self.error <= self.tolerance

    @property
    def is_falling(self) -> bool:
        """Whether an improvement that counts is left beyond doubt."""
        return self.ahead - _Z_CLEAR * self.error > self.tolerance

    @property
    def is_rising(self) -> bool:
        """Whether the loss goes up beyond doubt."""
        return -self.ahead - _Z_CLEAR * self.error > self.tolerance


class Losses:
    r"""The losses of a fit in condensed form, and the trend at their end.

    Losses are read once, in pages of 100: those further than three interquartile ranges outside the
    quartiles of their page are clipped, and means of 10 are kept. Over a window that ends at the
    last step T, these are averaged in up to 16 blocks of equal length, and

    .. math:: \ell(t) = a + b\, (T / t)^p + \text{noise}

    is fitted by least squares, with p = 1, or with p = 2 where the sum of squares is then less by
    two variances of a block. If the loss goes on like that, b is the improvement ahead; if it falls
    like :math:`t^{-q}`, b is about q / p times what is left over the shortest window, and further
    from what is left over longer ones. The noise of a block is estimated from the differences of
    neighbours (von Neumann 1941), which neither the trend nor much of a correlation enters. The
    error of b is that of p = 1 in this noise: that a fall was steep does not make what is left of
    it better known.

    An improvement counts as none below ``rel_tol`` times the fall so far, what float32 resolves,
    or, from step 1,000 on, 0.07 standard deviations of a single loss. Windows begin at T/1.4, T/2
    and T/4: short ones forget a fast fall soon, long ones see through more noise.

    Parameters
    ----------
    rel_tol
        Fraction of the fall from the first losses that counts as none, >= 0.

    Notes
    -----
    The last, incomplete page is not looked at. A trend reads at most three quarters of the means; a
    caller who asks at steps that grow by a fixed ratio pays O(1) per step.

    Examples
    --------
    >>> t = np.arange(1, 10_001)
    >>> losses = Losses()
    >>> losses.update(1000 / t)
    >>> [round(trend.ahead, 3) for trend in losses.trends()]
    [0.1, 0.1, 0.1]
    >>> losses.is_flat()  # 0.1 to come after 182, the first ten in the median
    True
    """

    def __init__(self, rel_tol: float = REL_TOL) -> None:
        self.rel_tol = rel_tol
        self.steps: int = 0  # read so far
        self._start: float | None = None  # the loss at the beginning
        self._means, self._variances = np.zeros(0), np.zeros(0)  # of runs; grown by doubling

    def update(self, losses: np.ndarray) -> None:
        """Read on in the losses of all steps so far, shape (steps,)."""
        count = (len(losses) - self.steps) // _PAGE
        if count <= 0:
            return
        end = self.steps + count * _PAGE
        pages = np.asarray(losses[self.steps : end], dtype=float).reshape(count, _PAGE)
        if self._start is None:
            first = pages[np.isfinite(pages)][:_RUN]
            self._start = float(np.median(first)) if first.size else None
        runs = _clip(pages).reshape(-1, _RUN)
        begin, size = self.steps // _RUN, end // _RUN
        if size > len(self._means):
            room = np.full(max(size, 2 * len(self._means)) - len(self._means), np.nan)
            self._means = np.concatenate([self._means, room])
            self._variances = np.concatenate([self._variances, room])
        self._means[begin:size] = runs.mean(axis=1)
        self._variances[begin:size] = runs.var(axis=1, ddof=1)
        self.steps = end

    def trends(self) -> list[Trend]:
        """Return the trends over the windows that are long enough, the shortest first.

        A window with a loss that is not finite has no trend, nor have those longer than it.
        """
        found = []
        for ratio in _WINDOWS:
            n = self.steps // _RUN
            window = n - round(n / ratio)
            if window < _LEAST_BLOCKS:
                continue
            trend = self._trend(window)
            if trend is None:
                break
            found.append(trend)
        return found

    def is_flat(self) -> bool:
        """Whether over some window hardly any improvement can be left, and over none it rises."""
        trends = self.trends()
        return any(t.is_flat for t in trends) and not any(t.is_rising for t in trends)

    def is_falling(self) -> bool:
        """Whether over every window an improvement that counts is left beyond doubt."""
        trends = self.trends()
        return bool(trends) and all(t.is_falling for t in trends)

    def _trend(self, window: int) -> Trend | None:
        """Fit a + b (T / t)^p over the last runs, `window` of them at most."""
        n = self.steps // _RUN
        length = -(-window // _BLOCKS)
        blocks = window // length
        used = slice(n - blocks * length, n)
        y = self._means[used].reshape(blocks, length).mean(axis=1)
        if self._start is None or not np.isfinite(y).all():
            return None
        ratio = n / (n - length * (np.arange(blocks)[::-1] + 0.5))
        line, faster = _Line.fit(ratio, y), _Line.fit(ratio**2, y)
        spread = line.spread  # of p = 1, whichever is taken
        if line.misfit - faster.misfit > _FASTER * faster.noise:
            line = faster
        error = math.sqrt(line.noise / spread)
        fall = max(self._start - y[-blocks // 4 :].mean(), 0.0)
        noise = math.sqrt(self._variances[used].mean())
        least = _RESOLUTION * abs(y.mean())
        if self.steps >= _NOISE_KNOWN:
            least = max(least, _NOISE_TOL * noise)
        return Trend(line.slope, error, max(self.rel_tol * fall, least))


class _Line(NamedTuple):
    """A straight line through values y at x, by least squares."""

    slope: float
    spread: float  # sum of squares of x about its mean
    misfit: float  # of the residuals
    noise: float  # variance of a residual, from the differences of neighbours

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray) -> "_Line":
        x, y = x - x.mean(), y - y.mean()
        spread = float(x @ x)
        slope = float(x @ y) / spread
        residual = y - slope * x
        noise = float(np.mean(np.diff(residual) ** 2)) / 2
        return cls(slope, spread, float(residual @ residual), noise)


def _clip(pages: np.ndarray) -> np.ndarray:
    """Clip outliers page by page, shape (pages, 100); a page that is not finite becomes NaN."""
    finite = np.isfinite(pages).all(axis=1, keepdims=True)
    pages = np.where(finite, pages, 0.0)
    lower, upper = np.partition(pages, (24, 74), axis=1)[:, [24, 74], None].swapaxes(0, 1)
    reach = 3 * (upper - lower)
    return np.where(finite, np.clip(pages, lower - reach, upper + reach), np.nan)


class Plateau:
    """Whether a fit has reached the plateau of its loss, and stayed there.

    The loss has to be flat (`Losses.is_flat`) at every check while the steps grow by 4 %.
    Checks are 2 % of the steps apart, so that all of them together cost O(1) per step.

    Parameters
    ----------
    rel_tol
        See `Losses`.
    min_steps
        No check before this step.

    Examples
    --------
    >>> plateau = Plateau()
    >>> losses = np.exp(-np.arange(2000) / 50)
    >>> [step for step in range(100, 2000, 100) if plateau.reached(losses[:step])][0]
    500
    """

    def __init__(self, rel_tol: float = REL_TOL, min_steps: int = 200) -> None:
        self.losses: Losses = Losses(rel_tol)
        self.min_steps = min_steps
        self._next_check = 0.0
        self._flat_since: int | None = None  # the first check of the present plateau

    def reached(self, losses: np.ndarray) -> bool:
        """Say so from the losses of all steps so far; at a step without a check, False."""
        if len(losses) < max(self.min_steps, self._next_check):
            return False
        self.losses.update(losses)
        now = self.losses.steps
        self._next_check = _NEXT_CHECK * now
        if not self.losses.is_flat():
            self._flat_since = None
            return False
        if self._flat_since is None:
            self._flat_since = now
        return now >= _HOLD * self._flat_since
