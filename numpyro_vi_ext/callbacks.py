"""Callbacks: what a fit calls while it runs.

A callback is any callable ``cb(approx, losses, i)``: the approximation after step ``i`` (counted
from 1), and the losses of this fit so far, or None where losses are not recorded. Raising
``StopIteration(message)`` ends the fit gracefully. Two attributes, both optional, are read by the
fit: with an integer ``every`` the callback is called only at steps that are multiples of it, and
with ``also_first = True`` also at step 1.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from numpyro_vi_ext.checks import as_count, as_number, as_positive
from numpyro_vi_ext.errors import Converged
from numpyro_vi_ext.plateau import REL_TOL, Plateau

_EPSILON = 1e-6  # PyMC's; keeps the relative difference finite at 0

_DIFFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "relative": lambda new, old: (np.abs(new - old) + _EPSILON) / (np.abs(old) + _EPSILON),
    "absolute": lambda new, old: np.abs(new - old),
}


class CheckParametersConvergence:
    r"""Stop when the variational parameters hardly move from one check to the next.

    With :math:`\phi` all variational parameters in one vector (both ``mu`` and ``rho`` of a
    mean-field Gaussian) and :math:`\phi'` those ``every`` steps before, stop if
    :math:`\|\delta\| <` ``tolerance``, where

    .. math:: \delta = \frac{|\phi - \phi'| + 10^{-6}}{|\phi'| + 10^{-6}}
        \;\text{(relative)} \quad\text{or}\quad \delta = |\phi - \phi'| \;\text{(absolute)}.

    This is PyMC's rule, step for step: the very first call only stores the parameters, so a fit
    stops at step ``every`` at the earliest (2 if ``every`` is 1). The memory outlives a fit, unless
    the number of parameters changes.

    Parameters
    ----------
    every : int
        Steps between two checks, >= 1.
    tolerance : float
        Bound on the norm of the difference, > 0.
    diff : str
        ``"relative"`` or ``"absolute"``.
    ord : int, float or str
        Order of the vector norm, as in ``numpy.linalg.norm``.

    Raises
    ------
    KeyError
        If `diff` is another.
    TypeError, ValueError
        If another argument is of a wrong type or out of its range, by name.

    Notes
    -----
    Iterates are noisy, so the tolerance is weighed against the learning rate as much as against the
    distance to the optimum: a small rate meets it early, a large one never. Nor is the relative
    rule ever met while a parameter stays at exactly 0. `CheckLossConvergence` avoids both.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> check = CheckParametersConvergence(every=10, diff="absolute")
    >>> q = SimpleNamespace(params={"mu": np.zeros(2), "rho": np.ones(2)})
    >>> check(q, None, 1)
    >>> check(q, None, 10)
    Traceback (most recent call last):
    numpyro_vi_ext.errors.Converged: Convergence achieved at 10
    """

    also_first: bool = True  # a fit calls it at step 1 too, for something to compare with

    def __init__(
        self, every: int = 100, tolerance: float = 1e-3, diff: str = "relative", ord: float = np.inf
    ) -> None:
        self.every: int = as_count(every, "every", 1)
        self.tolerance: float = as_positive(tolerance, "tolerance")  # no norm is below 0
        if diff not in _DIFFERENCES:
            raise KeyError(f"diff must be one of {sorted(_DIFFERENCES)}, got {diff!r}")
        try:
            np.linalg.norm(np.ones(2), ord)  # type: ignore
        except (TypeError, ValueError) as error:
            raise ValueError(f"ord must be the order of a vector norm, got {ord!r}") from error
        self.diff = diff
        self.ord = ord
        self._previous: np.ndarray | None = None

    def __call__(self, approx: Any, losses: np.ndarray | None, i: int) -> None:
        """Store the parameters, and compare them with the last ones where a check is due."""
        if self._previous is not None and i % self.every:
            return
        params = approx.params
        current = np.concatenate([np.asarray(params[name]).ravel() for name in sorted(params)])
        previous, self._previous = self._previous, current
        if previous is None or previous.shape != current.shape:
            return
        delta = _DIFFERENCES[self.diff](current, previous)
        norm = np.linalg.norm(delta, self.ord) if delta.size else 0.0  # type: ignore
        if norm < self.tolerance:
            raise Converged(f"Convergence achieved at {i}")


class CheckLossConvergence:
    r"""Stop when hardly any fall of the loss can be left, as far as its noise lets one see.

    Over the last part of the T steps taken, the losses are fitted by

    .. math:: \ell(t) = a + b\, (T / t)^p + \text{noise},

    with p = 1, or with p = 2 where that fits clearly better, so that b is the fall still to come if
    the loss goes on like that. One that falls faster than the curve has less, one that falls slower
    more: up to 1.7 times b between 1/t and 1/t^2, two to three times b like t^-0.5. The loss is
    flat if :math:`\max(b, 0) + 1.5\,\mathrm{se}(b)`, with the standard error of p = 1, is below a
    tolerance: the largest of ``rel_tol`` times the fall so far, what float32 resolves, and, from
    step 1,000 on, 0.07 standard deviations of a single loss. One of the windows from T/1.4, T/2 and
    T/4 has to say so, and none that the loss rises. The fit stops when the loss has been flat while
    the steps grew by 4 %.

    Parameters
    ----------
    rel_tol : float
        Fraction of the fall so far that is not worth more steps, >= 0.
    min_steps : int
        No check before this step, >= 1; nor is there one before step 100.
    every : int
        Steps between two checks at least, >= 1; they are never closer than 2 % of the steps taken,
        and losses are read in pages of 100.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of its range, by name; TypeError in a fit that
        records no losses.

    Notes
    -----
    It knows only the loss. A flat loss says that the optimizer makes no visible progress; it says
    nothing about the posterior, and parameters that hardly matter to the loss may still move: after
    99 % of the fall a mean may be several standard deviations off. It does not stop while a loss
    among those compared is not finite, and starts afresh when the step falls back, as in a new fit.
    Outliers are clipped. `numpyro_vi_ext.plateau.Losses` has the details; an open proposal for
    pymc-extras (733) compares blocks at two horizons instead.

    Examples
    --------
    >>> losses = 100 * np.exp(-np.arange(20_000) / 500)
    >>> losses += np.random.default_rng(0).normal(size=losses.size)
    >>> check = CheckLossConvergence()
    >>> for i in range(1, losses.size + 1):
    ...     check(None, losses[:i], i)
    Traceback (most recent call last):
    numpyro_vi_ext.errors.Converged: Loss convergence achieved at 3600
    """

    def __init__(self, rel_tol: float = REL_TOL, min_steps: int = 200, every: int = 100) -> None:
        self.rel_tol: float = as_number(rel_tol, "rel_tol", 0)
        self.min_steps: int = as_count(min_steps, "min_steps", 1)
        self.every: int = as_count(every, "every", 1)
        self._last_step = 0
        self._plateau = Plateau(self.rel_tol, self.min_steps)

    def __call__(self, approx: Any, losses: np.ndarray | None, i: int) -> None:
        """Look at the losses up to step ``i`` where a check is due."""
        if losses is None:
            raise TypeError(
                "CheckLossConvergence needs losses, got None: fit with score=True, or if the "
                "method has no loss, use CheckParametersConvergence"
            )
        if i <= self._last_step:
            self._plateau = Plateau(self.rel_tol, self.min_steps)
        self._last_step = i
        if i % self.every == 0 and self._plateau.reached(np.asarray(losses)[:i]):
            raise Converged(f"Loss convergence achieved at {i}")


class Tracker:
    """Record values during a fit, for instance the path of a parameter.

    Parameters
    ----------
    every : int
        Record at multiples of this number of steps only, >= 1.
    **functions : callables
        What to record by name: functions of nothing, ``(approx)`` or ``(approx, losses, i)``, as
        their parameters without default tell. A function of ``*args`` gets all three, one without
        a readable signature (some builtins) nothing.

    Attributes
    ----------
    hist : dict of str to list
        What was recorded; ``tracker["name"]`` is ``tracker.hist["name"]``.
    steps : list of int
        The steps at which it was recorded.

    Raises
    ------
    TypeError
        If `every` is not an int, or a function takes something else.
    ValueError
        If `every` is less than 1, or there is no function.
    KeyError
        From ``tracker["name"]``, if nothing is recorded under that name.

    Notes
    -----
    An error in a function surfaces as it is, and nothing is then recorded for that step.

    Examples
    --------
    >>> tracker = Tracker(q=lambda approx: approx, loss=lambda q, losses, i: losses[-1])
    >>> tracker.record("q", [3.0], 1)
    >>> tracker, tracker["loss"], tracker.steps
    (Tracker(q, loss; every=1, 1 recorded), [3.0], [1])
    >>> tracker.clear()
    >>> tracker.hist
    {'q': [], 'loss': []}
    """

    def __init__(self, every: int = 1, **functions: Callable[..., Any]) -> None:
        self.every: int = as_count(every, "every", 1)
        if not functions:
            raise ValueError("Tracker needs a function to record, as in Tracker(mean=function)")
        self._functions = {name: (f, _n_arguments(name, f)) for name, f in functions.items()}
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded; lists handed out before are left as they are."""
        self.hist: dict[str, list[Any]] = {name: [] for name in self._functions}
        self.steps: list[int] = []

    def record(self, approx: Any, losses: np.ndarray | None, i: int) -> None:
        """Call every function and record what they return, as a fit does.

        Parameters
        ----------
        approx : Approximation
            That of the step.
        losses : array, shape (i,), or None
            Those so far.
        i : int
            The step, from 1.
        """
        arguments = (approx, losses, i)
        # All values before the first append: an error in between must not misalign the lists.
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
