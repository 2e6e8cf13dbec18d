"""Callbacks: what a fit calls while it runs.

A callback is any callable ``cb(approx, losses, i)``: the approximation after step ``i`` (counted
from 1), and the losses of this fit so far, or None where losses are not recorded. Raising
``StopIteration(message)`` ends the fit gracefully. Two attributes, both optional, are read by the
fit: with an integer ``every`` the callback is called only at steps that are multiples of it, and
with ``also_first = True`` also at step 1.
"""

import inspect
import numbers
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_EPSILON = 1e-6  # PyMC's; keeps the relative difference finite at 0

_DIFFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "relative": lambda new, old: (np.abs(new - old) + _EPSILON) / (np.abs(old) + _EPSILON),
    "absolute": lambda new, old: np.abs(new - old),
}


def _positive_int(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an int, or say which argument is not an int of at least ``minimum``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def _real(name: str, value: Any) -> float:
    """Return ``value`` as a float, or say which argument is not a number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    return float(value)


class CheckParametersConvergence:
    r"""Stop when the variational parameters hardly move from one check to the next.

    Every ``every`` steps, with :math:`\phi` all variational parameters in one vector (for a
    mean-field Gaussian both ``mu`` and ``rho``) and :math:`\phi'` those of the check before,
    the fit stops if :math:`\|\delta\| <` ``tolerance``, where

    .. math:: \delta = \frac{|\phi - \phi'| + 10^{-6}}{|\phi'| + 10^{-6}}
        \;\text{(relative)} \quad\text{or}\quad \delta = |\phi - \phi'| \;\text{(absolute)}.

    The very first call only stores the parameters, so a fit stops at step ``every`` at the
    earliest (at step 2 with ``every=1``). The memory is not cleared between fits, except when the
    number of parameters changes. This is PyMC's rule, step for step.

    Parameters
    ----------
    every
        Steps between two checks.
    tolerance
        Bound on the norm of the difference, > 0.
    diff
        ``"relative"`` or ``"absolute"``.
    ord
        Order of the vector norm, as in :func:`numpy.linalg.norm`.

    Raises
    ------
    KeyError
        For an unknown ``diff``.
    TypeError, ValueError
        For ``every``, ``tolerance`` or ``ord`` of the wrong type or out of range.
    StopIteration
        When called, at convergence.

    Notes
    -----
    The parameters of a stochastic fit are noisy, so the rule compares the tolerance with the
    learning rate as much as with the distance to the optimum: a small learning rate meets it
    early, a large one never. The relative rule never holds while some parameter is 0 and stays
    there, since its difference is then 1. :class:`CheckLossConvergence` is free of both faults.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> check = CheckParametersConvergence(every=10, diff="absolute")
    >>> q = SimpleNamespace(params={"mu": np.zeros(2), "rho": np.ones(2)})
    >>> for i in (1, 10):
    ...     check(q, None, i)
    Traceback (most recent call last):
    StopIteration: Convergence achieved at 10
    """

    also_first: bool = True  # or the first check had nothing to compare with

    def __init__(
        self,
        every: int = 100,
        tolerance: float = 1e-3,
        diff: str = "relative",
        ord: float | str = np.inf,
    ) -> None:
        self.every = _positive_int("every", every)
        self.tolerance = _real("tolerance", tolerance)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be > 0, got {tolerance!r}")
        if diff not in _DIFFERENCES:
            raise KeyError(f"diff must be one of {sorted(_DIFFERENCES)}, got {diff!r}")
        try:
            np.linalg.norm(np.ones(2), ord)  # type: ignore[call-overload]
        except (TypeError, ValueError) as error:
            raise ValueError(f"ord must be the order of a vector norm, got {ord!r}") from error
        self.diff = diff
        self.ord = ord
        self._previous: np.ndarray | None = None

    def __call__(self, approx: Any, losses: npt.ArrayLike | None, i: int) -> None:
        """Store the parameters, and compare them with the last ones where a check is due."""
        if self._previous is not None and i % self.every:
            return
        # ``concatenate`` copies, so the memory cannot follow arrays that change in place.
        current = np.concatenate([np.ravel(approx.params[name]) for name in sorted(approx.params)])
        previous, self._previous = self._previous, current
        if previous is None or previous.shape != current.shape:
            return
        delta = _DIFFERENCES[self.diff](current, previous)
        norm = np.linalg.norm(delta, self.ord) if delta.size else 0.0  # type: ignore[call-overload]
        if norm < self.tolerance:
            raise StopIteration(f"Convergence achieved at {i}")

    def __repr__(self) -> str:
        return (
            f"CheckParametersConvergence(every={self.every}, tolerance={self.tolerance}, "
            f"diff={self.diff!r}, ord={self.ord!r})"
        )


class CheckLossConvergence:
    r"""Stop when the loss has stopped falling, as far as its noise lets one see.

    At step :math:`i` the mean losses of the last :math:`h` steps and of the :math:`h` steps before
    are compared, for two horizons :math:`h = w` and :math:`2w` with :math:`w = \max(` ``window``
    :math:`, \lfloor i/8 \rfloor)`. The loss is on a plateau at horizon :math:`h` if it fell by

    .. math:: \bar\ell_{old} - \bar\ell_{new} \;\le\; \max(s_h,\; \text{rel\_tol} \cdot R)

    and has not risen by more than three times as much. :math:`R` is the fall from the median of the
    first ``window`` losses to the latest mean. :math:`s_h` is the standard error of the difference:
    both blocks are cut into :math:`k \le 32` runs, and half the mean squared difference between
    successive run means (von Neumann) is the variance of a run mean. That is unbiased for
    independent losses, insensitive to a trend, and grows as it should for correlated losses.
    Losses beyond Tukey's far-out fences, three times the interquartile range outside the
    quartiles of their block, are moved to the fence. The fit stops once both horizons have been
    flat, check after check, for :math:`w` steps.

    Parameters
    ----------
    window
        Smallest horizon in steps, at least 2.
    rel_tol
        Falls below this fraction of the total fall count as none, >= 0.
    min_steps
        No check before this step; ``4 * window`` (the default) is the least that a check needs.
    every
        Steps between two checks.

    Raises
    ------
    TypeError
        For arguments of the wrong type; when called, if losses are not recorded.
    ValueError
        For arguments out of range.
    StopIteration
        When called, at convergence.

    Notes
    -----
    This looks at the loss and at nothing else. A flat loss says that the optimizer makes no more
    visible progress; it says nothing about how well q fits the posterior, and a parameter that
    hardly matters to the loss may still be moving. A non-finite loss among those compared prevents
    stopping, and so does a rising loss. The state depends only on the losses and steps seen, and
    starts afresh when the step falls back, as it does in a new fit.

    Two horizons, each against its own noise, follow an open proposal for pymc-extras (no. 733).
    Source of the variance: von Neumann (1941), Distribution of the ratio of the mean square
    successive difference to the variance, Annals of Mathematical Statistics 12.

    Examples
    --------
    >>> losses = 100 * np.exp(-np.arange(20_000) / 500)
    >>> losses += np.random.default_rng(0).normal(size=losses.size)
    >>> check = CheckLossConvergence()
    >>> for i in range(1, losses.size + 1):
    ...     check(None, losses[:i], i)
    Traceback (most recent call last):
    StopIteration: Loss convergence achieved at 7000
    """

    def __init__(
        self,
        window: int = 1000,
        rel_tol: float = 3e-4,
        min_steps: int | None = None,
        every: int = 100,
    ) -> None:
        self.window = _positive_int("window", window, minimum=2)
        self.rel_tol = _real("rel_tol", rel_tol)
        if not self.rel_tol >= 0:
            raise ValueError(f"rel_tol must be >= 0, got {rel_tol!r}")
        needed = 4 * self.window
        self.min_steps = needed if min_steps is None else _positive_int("min_steps", min_steps)
        self.every = _positive_int("every", every)
        self._last = 0  # the last step seen
        self._flat_since: int | None = None  # the first check of the present plateau

    def __call__(self, approx: Any, losses: npt.ArrayLike | None, i: int) -> None:
        """Look at the losses up to step ``i`` where a check is due."""
        if losses is None:
            raise TypeError(
                "CheckLossConvergence needs the losses, got None: fit with score=True and a method "
                "that has a loss, or use CheckParametersConvergence"
            )
        if i <= self._last:
            self._flat_since = None
        self._last = i
        if i % self.every or i < max(self.min_steps, 4 * self.window):
            return
        horizon = max(self.window, i // 8)
        if not self._is_flat(np.asarray(losses)[:i], horizon):
            self._flat_since = None
        elif self._flat_since is None:
            self._flat_since = i
        elif i - self._flat_since >= horizon:
            raise StopIteration(f"Loss convergence achieved at {i}")

    def _is_flat(self, losses: np.ndarray, horizon: int) -> bool:
        """Whether the losses are finite and on a plateau at ``horizon`` and twice that."""
        recent = losses[-4 * horizon :].astype(float)
        if not np.isfinite(recent).all():
            return False
        first = losses[: self.window].astype(float)
        first = first[np.isfinite(first)]
        start = np.median(first) if first.size else -np.inf
        for h in (horizon, 2 * horizon):
            old, new, noise = _compare_blocks(recent[-2 * h :].reshape(2, h))
            threshold = max(noise, self.rel_tol * max(start - new, 0.0))
            # Falling is judged strictly; a rise has to be clear of the noise, for a flat loss
            # would rise by more than one standard error in one check out of six.
            if not -3 * threshold <= old - new <= threshold:
                return False
        return True

    def __repr__(self) -> str:
        return (
            f"CheckLossConvergence(window={self.window}, rel_tol={self.rel_tol}, "
            f"min_steps={self.min_steps}, every={self.every})"
        )


def _compare_blocks(blocks: np.ndarray) -> tuple[float, float, float]:
    """Return the means of two adjacent blocks, shape (2, h), and their difference's error."""
    lower, upper = np.quantile(blocks, [0.25, 0.75], axis=1, keepdims=True)
    reach = 3 * (upper - lower)
    blocks = np.clip(blocks, lower - reach, upper + reach)
    old, new = blocks.mean(axis=1)
    k = min(32, blocks.shape[1])
    length = blocks.shape[1] // k
    # Drop the oldest few of each block, so that k runs of one length fill the rest.
    runs = blocks[:, -k * length :].reshape(2 * k, length).mean(axis=1)
    # A run mean has variance mean(diff**2) / 2, a block mean that over k, their difference twice.
    return old, new, float(np.sqrt(np.mean(np.diff(runs) ** 2) / k))


class Tracker:
    """Record values during a fit, for instance the path of a parameter.

    Parameters
    ----------
    every
        Record at multiples of this number of steps only.
    **functions
        What to record under each name. A function takes nothing, ``(approx)`` or
        ``(approx, losses, i)``. Its signature decides: the parameters without default count, with
        ``*args`` it gets all three, and without a readable signature (some builtins) nothing.

    Attributes
    ----------
    hist : dict of str to list
        What was recorded, by name; ``tracker["name"]`` is ``tracker.hist["name"]``.
    steps : list of int
        The steps at which it was recorded.

    Raises
    ------
    TypeError
        For something that cannot be called, or cannot be called with 0, 1 or 3 arguments.
    ValueError
        Without functions, or for ``every`` below 1.

    Notes
    -----
    Errors of the functions surface as they are, and nothing is then recorded for that step.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> tracker = Tracker(mean=lambda approx: approx.mean, loss=lambda approx, losses, i: losses[-1])
    >>> tracker(SimpleNamespace(mean=0.5), np.array([3.0]), 1)
    >>> tracker["mean"], tracker.steps
    ([0.5], [1])
    >>> tracker
    Tracker(mean, loss; every=1, 1 recorded)
    """

    def __init__(self, every: int = 1, **functions: Callable[..., Any]) -> None:
        self.every = _positive_int("every", every)
        if not functions:
            raise ValueError("Tracker needs a function to record, as in Tracker(mean=function)")
        self._functions = {
            name: (function, _n_arguments(name, function)) for name, function in functions.items()
        }
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded; lists handed out before are left as they are."""
        self.hist: dict[str, list[Any]] = {name: [] for name in self._functions}
        self.steps: list[int] = []

    def record(self, approx: Any, losses: npt.ArrayLike | None, i: int) -> None:
        """Call every function and record what they return."""
        arguments = (approx, losses, i)
        # First all values, then all lists: an error in between would leave lists of unequal length.
        values = {name: f(*arguments[:n]) for name, (f, n) in self._functions.items()}
        for name, value in values.items():
            self.hist[name].append(value)
        self.steps.append(i)

    __call__ = record

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values recorded under ``name``."""
        if name not in self.hist:
            raise KeyError(f"nothing is tracked as {name!r}; known names: {', '.join(self.hist)}")
        return self.hist[name]

    def __repr__(self) -> str:
        return f"Tracker({', '.join(self.hist)}; every={self.every}, {len(self.steps)} recorded)"


def _n_arguments(name: str, function: Any) -> int:
    """Return how many of (approx, losses, i) a function of a Tracker takes."""
    if not callable(function):
        raise TypeError(f"Tracker: {name} must be a function, got {function!r}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # builtins such as time.time
        return 0
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 3
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(required) not in (0, 1, 3) or any(p.kind is p.KEYWORD_ONLY for p in required):
        raise TypeError(
            f"Tracker: {name} must take nothing, (approx) or (approx, losses, i), "
            f"got {function!r} with {inspect.signature(function)}"
        )
    return len(required)
