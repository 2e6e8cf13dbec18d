"""Pictures of a fit: matplotlib axes in, axes out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.calibration import Calibration, SiteCheck, check_calibration
from numpyro_vi_ext.callbacks import Tracker
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.verdict import shorten

_POINTS = 2000  # more than a picture can show across its width
_COLUMNS, _LINES = 4, 20  # of panels in a row; of entries of a site, besides the one off most
_NAMED_LINES = 10  # with more lines in a panel than this, none gets a name


def plot_loss(approx: Approximation, *, window: int | None = None, ax: Any = None) -> Any:
    """Plot the loss history with its running mean.

    The limits of the loss axis hold the losses after the first tenth of the steps, so that large
    first losses do not flatten the rest. Of a long history, the middle 90 % of the losses in each
    of many short runs of steps is drawn.

    Parameters
    ----------
    approx : Approximation or Inference
        Anything with a ``.hist``. Losses that are not finite are left out.
    window : int, optional
        Steps in the running mean; default a hundredth of the history, at least 1.
    ax : matplotlib Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        If `approx` has no ``.hist``.
    ValueError
        If no finite losses were recorded, or `window` is less than 1.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> ax = plot_loss(SimpleNamespace(hist=1 / np.arange(1, 200)), window=20)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('step', 'loss (negative ELBO)')
    """
    if not hasattr(approx, "hist"):
        raise TypeError(f"there is no .hist of losses in approx, got {type(approx).__name__}")
    losses = np.asarray(approx.hist, float)
    losses = np.where(np.isfinite(losses), losses, np.nan)
    if np.isnan(losses).all():
        raise ValueError("there are no losses to plot: fit first, with score=True")
    window = max(1, losses.size // 100) if window is None else as_count(window, "window", 1)
    window = min(window, losses.size)
    if ax is None:
        ax = _pyplot().subplots(figsize=(8, 4), layout="constrained")[1]
        ax.xaxis.get_major_locator().set_params(integer=True)
    low, high = _limits(losses)
    if ax.has_data():  # another fit is drawn here already
        low, high = min(low, ax.get_ylim()[0]), max(high, ax.get_ylim()[1])
    note = f" (first: {losses[0]:,.4g})" if losses[0] > high else ""
    steps = np.arange(1, losses.size + 1)
    mean = _thinned(steps[window - 1 :], _running_mean(losses, window))
    line = ax.plot(*mean, linewidth=1.5, label=f"mean of {window:,d}")[0]
    if window == 1 and line.get_xdata().size == losses.size:
        line.set_label(f"loss{note}")
    else:
        _draw_each(ax, steps, losses, line.get_color(), note)
    ax.set(xlabel="step", ylabel="loss (negative ELBO)", ylim=(low, high))
    ax.legend(loc="upper right")
    return ax


def plot_tracker(
    tracker: Tracker, names: Sequence[str] | None = None, *, axes: Any = None
) -> np.ndarray:
    """Plot what a tracker recorded, one panel per name, every component a line.

    Parameters
    ----------
    tracker : Tracker
        With at least one record. Where it was used in several fits, their steps are added up.
    names : sequence of str, optional
        Which functions; default all.
    axes : sequence of matplotlib Axes, optional
        One per name; default a new figure with one row per name.

    Returns
    -------
    array of matplotlib Axes

    Raises
    ------
    KeyError
        For an unknown name.
    TypeError
        If `tracker` is none, or what was recorded is not numbers, or arrays of one shape.
    ValueError
        If nothing was recorded, or the number of axes is not that of the names.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> tracker = Tracker(rate=lambda approx, losses, i: 1 / i)
    >>> for i in range(1, 50):
    ...     tracker.record(None, None, i)  # as a fit with callbacks=[tracker] does
    >>> plot_tracker(tracker).shape
    (1,)
    """
    if not isinstance(tracker, Tracker):
        raise TypeError(f"tracker must be a Tracker, got {type(tracker).__name__}")
    names = list(tracker.hist) if names is None else [names] if isinstance(names, str) else names
    values = {name: _numbers(name, tracker[name]) for name in names}
    if not tracker.steps or not values:
        raise ValueError("the tracker has nothing to plot: pass it to fit(callbacks=[tracker])")
    steps = _counted_on(np.asarray(tracker.steps))
    own_rows = axes is None
    if own_rows:
        figure = _pyplot().figure(figsize=(8, 2.5 * len(values)), layout="constrained")
        axes = figure.subplots(len(values), 1, sharex=True)
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != len(values):
        raise ValueError(f"got {len(axes)} axes for {len(values)} names: {list(values)}")
    for ax, (name, value) in zip(axes, values.items(), strict=True):
        _draw_components(ax, steps, value)
        ax.set_title(name)
        if not own_rows or ax is axes[-1]:
            ax.set_xlabel("step")
    return axes


def plot_vsbc(
    result: Calibration, names: Sequence[str] | None = None, *, axes: Any = None
) -> np.ndarray:
    """Plot histograms of calibration probabilities, one panel per site.

    A panel has bars for the entry that is off most, and lines for other entries. The band holds
    95 % of the bars if q is the posterior.

    Parameters
    ----------
    result : Calibration
        From `vsbc`.
    names : sequence of str, optional
        Which sites; default all.
    axes : sequence of matplotlib Axes, optional
        One per site; default a new figure with at most four in a row.

    Returns
    -------
    array of matplotlib Axes

    Raises
    ------
    KeyError
        For an unknown name.
    TypeError
        If `result` is none of `vsbc`.
    ValueError
        If the number of axes is not that of the names.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from numpyro_vi_ext.calibration import calibrate
    >>> ranks = np.random.default_rng(0).integers(0, 101, size=200)
    >>> result = calibrate({"mu": ranks}, draws=100, failed=0, about="")  # as vsbc does
    >>> plot_vsbc(result).shape
    (1,)
    """
    sites = check_calibration(result).sites
    names = list(sites) if names is None else [names] if isinstance(names, str) else [*names]
    unknown = [name for name in names if name not in sites]
    if unknown or not names:
        raise KeyError(f"names has {unknown}, but the sites of the calibration are {[*sites]}")
    if axes is None:
        axes = _panels(len(names))
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != len(names):
        raise ValueError(f"got {len(axes)} axes for {len(names)} names: {names}")
    for ax, name in zip(axes, names, strict=True):
        _draw_probabilities(ax, result.probabilities[name], sites[name])
        label = shorten(name + sites[name].entry)
        ax.set_title(f"{label}\n{sites[name].verdict}", fontsize="medium")
        ax.set_xlabel("share of draws below the truth")
    return axes


def _panels(number: int) -> list[Any]:
    columns = min(number, _COLUMNS)
    rows = math.ceil(number / columns)
    figure = _pyplot().figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, i + 1) for i in range(number)]


def _draw_probabilities(ax: Any, probabilities: np.ndarray, site: SiteCheck) -> None:
    """The band of a flat histogram, lines, and the bars of the entry that `site` is about."""
    count = len(probabilities)
    bins = max(4, min(20, count // 10))
    edges = np.linspace(0.0, 1.0, bins + 1)
    room = 1.96 * math.sqrt(count / bins * (1 - 1 / bins))
    ax.axhspan(max(0.0, count / bins - room), count / bins + room, color="0.9", zorder=0)
    ax.axhline(count / bins, color="0.6", linewidth=0.8, zorder=0.5)
    shape = probabilities.shape[1:]
    for index in list(np.ndindex(shape))[:_LINES] if shape else ():
        counts, _ = np.histogram(probabilities[:, *index], edges)
        ax.stairs(counts, edges, color="0.5", linewidth=0.6, alpha=0.6, zorder=2)
    worst = tuple(int(i) for i in site.entry.strip("[]").split(",") if i)
    counts, _ = np.histogram(probabilities[:, *worst], edges)
    color = "C0" if site.verdict == "calibrated" else "C3"
    ax.stairs(counts, edges, fill=True, color=color, alpha=0.6, zorder=1)
    ax.axvline(0.5, color="0.4", linewidth=0.8, linestyle=":", zorder=3)
    ax.set_xlim(0, 1)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means of the numbers among `window` successive values, NaN left out."""
    known = np.isfinite(values)
    centre = np.nanmedian(values)  # summing differences from it loses no digits
    sums = np.concatenate([np.zeros(1), np.cumsum(np.where(known, values - centre, 0.0))])
    counts = np.concatenate([np.zeros(1), np.cumsum(known)])
    count = counts[window:] - counts[:-window]
    total = sums[window:] - sums[:-window]
    return centre + np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _limits(losses: np.ndarray) -> tuple[float, float]:
    """Where nearly all losses after the first tenth of the steps lie, and some room."""
    late = losses[losses.size // 10 :]
    late = losses if np.isnan(late).all() else late
    low, high = np.nanquantile(late, [0.01, 0.99])
    room = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + 2 * room


def _draw_each(ax: Any, steps: np.ndarray, losses: np.ndarray, color: str, note: str) -> None:
    """Every loss; of a long history, what holds most of each of `_POINTS` runs of steps."""
    length = losses.size // _POINTS
    look = {"color": color, "alpha": 0.3, "linewidth": 0.5, "zorder": 1}
    if length < 3:
        ax.plot(steps, losses, label=f"loss{note}", **look)
        return
    runs = losses[: losses.size // length * length].reshape(-1, length)
    runs = np.where(np.isnan(runs).all(axis=1, keepdims=True), 0.0, runs)
    middle = steps[length // 2 :: length][: len(runs)]
    low, high = np.nanquantile(runs, [0.05, 0.95], axis=1)
    ax.fill_between(middle, low, high, label=f"90% of the losses{note}", **look)


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    every = max(1, len(steps) // _POINTS)
    return steps[::every], values[::every]


def _numbers(name: str, recorded: list[Any]) -> np.ndarray:
    """Records as an array of shape (records, components) of floats, with the names of lines."""
    try:
        return np.asarray([np.asarray(value, float) for value in recorded])
    except (TypeError, ValueError):
        raise TypeError(
            f"the tracker's {name!r} cannot be plotted: expected numbers, or arrays of one shape"
        ) from None


def _counted_on(steps: np.ndarray) -> np.ndarray:
    """Steps that start again at 1 with every new fit, counted on over the fits."""
    starts = np.concatenate([[False], np.diff(steps) <= 0])
    before = np.concatenate([[0], steps[:-1]])
    return steps + np.cumsum(np.where(starts, before, 0))


def _draw_components(ax: Any, steps: np.ndarray, values: np.ndarray) -> None:
    shape = values.shape[1:]
    number = math.prod(shape)
    steps, flat = _thinned(steps, values.reshape(len(values), number))
    crowded = number > _NAMED_LINES
    lines = ax.plot(steps, flat, linewidth=0.5 if crowded else 1.0, alpha=0.5 if crowded else 1.0)
    if not crowded and number > 1:
        indices = [", ".join(map(str, index)) for index in np.ndindex(shape)]
        ax.legend(lines, indices, loc="upper right", fontsize="small", ncols=min(number, 5))


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError('plots need matplotlib: pip install "numpyro-vi-ext[plots]"') from None
    return plt
