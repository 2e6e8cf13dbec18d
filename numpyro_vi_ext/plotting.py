"""Pictures of a fit: matplotlib axes in, axes out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numpyro_vi_ext.approximation import Approximation
from numpyro_vi_ext.callbacks import Tracker
from numpyro_vi_ext.checks import as_count


def plot_loss(approx: Approximation, *, window: int | None = None, ax: Any = None) -> Any:
    """Plot the loss history with its running mean.

    Parameters
    ----------
    approx : Approximation or Inference
        Anything with a ``.hist``.
    window : int, optional
        Steps in the running mean; default a hundredth of the history, at least 1.
    ax : matplotlib Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If no losses were recorded, or `window` is less than 1.
    ImportError
        If matplotlib is not installed.
    """
    losses = np.asarray(approx.hist, float)
    if losses.size == 0:
        raise ValueError("there are no losses to plot: fit first, with score=True")
    window = max(1, losses.size // 100) if window is None else as_count(window, "window", 1)
    window = min(window, losses.size)
    sums = np.cumsum(np.concatenate([np.zeros(1), losses]))
    mean = (sums[window:] - sums[:-window]) / window
    ax = _axes(ax)
    steps = np.arange(1, losses.size + 1)
    ax.plot(steps, losses, color="C0", alpha=0.3, linewidth=0.5, label="loss")
    ax.plot(steps[window - 1 :], mean, color="C0", label=f"mean of {window}")
    low, high = np.quantile(losses[losses.size // 10 :], [0.0, 0.999])
    ax.set_ylim(low - 0.05 * (high - low), high + 0.5 * (high - low) + 1e-12)
    ax.set(xlabel="step", ylabel="loss (negative ELBO)")
    ax.legend(loc="upper right")
    return ax


def plot_tracker(
    tracker: Tracker, names: Sequence[str] | None = None, *, axes: Any = None
) -> np.ndarray:
    """Plot what a tracker recorded, one panel per name, every component a line.

    Parameters
    ----------
    tracker : Tracker
        With at least one record.
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
    ValueError
        If nothing was recorded, or the number of axes is not that of the names.
    ImportError
        If matplotlib is not installed.
    """
    names = list(tracker.hist) if names is None else list(names)
    values = {name: np.asarray(tracker[name], float) for name in names}
    if not all(v.size for v in values.values()):
        raise ValueError("the tracker has recorded nothing: pass it to fit(callbacks=[tracker])")
    if axes is None:
        _, axes = _pyplot().subplots(
            len(names), 1, sharex=True, squeeze=False, figsize=(8, 2.5 * len(names))
        )
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != len(names):
        raise ValueError(f"got {len(axes)} axes for {len(names)} names: {names}")
    for ax, (name, value) in zip(axes, values.items(), strict=True):
        ax.plot(tracker.steps, value.reshape(len(value), -1))
        ax.set_title(name)
    axes[-1].set_xlabel("step")
    return axes


def _axes(ax: Any) -> Any:
    return _pyplot().subplots(figsize=(8, 4))[1] if ax is None else ax


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            'plots need matplotlib: pip install "numpyro-vi-ext[plots]"'
        ) from None
    return plt
