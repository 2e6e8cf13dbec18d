"""How often a batch is contained in the full data, by what is said of each axis."""

import math
from collections.abc import Sequence
from typing import Any

from numpyro_vi_ext.checks import as_count

_FORMS = "an int, or a list or tuple with an int, None or one Ellipsis per leading axis"


def scale_factor(total_size: Any, shape: Sequence[int], site: str) -> float:
    """How many times the log density of a batch counts: the product of N / B over its axes.

    Parameters
    ----------
    total_size : int, list, tuple or None
        Lengths N of the full data. An int is that of the first axis, or the number of values that
        a scalar stands for. A list has one entry per leading axis: an int, None for an axis that
        is not scaled, or once an Ellipsis for any number of such axes; axes beyond a short list
        are not scaled. None scales nothing.
    shape : sequence of int
        Lengths B of the batch.
    site : str
        Whose batch it is, for the messages.

    Returns
    -------
    float
        At least 1.

    Raises
    ------
    TypeError
        If `total_size`, or an entry of it, is of another type.
    ValueError
        If a length is not positive or smaller than that of the batch, if the list is empty or
        longer than the shape or has two Ellipses, or if a scaled axis of the batch is empty.

    Notes
    -----
    The grammar is that of ``total_size`` of PyMC3's and PyMC's observed variables. In place of a
    silent factor for 0, for an empty list or for a negative length there is an error here.

    Examples
    --------
    >>> scale_factor(10, (5, 4), "y"), scale_factor([10, ..., 8], (5, 3, 4), "y")
    (2.0, 4.0)
    """
    if total_size is None:
        return 1.0
    name, shape = f"total_size of the site {site!r}", tuple(shape)
    if isinstance(total_size, list | tuple):
        if not total_size:
            raise ValueError(
                f"{name} must be {_FORMS}; got the empty {total_size!r}, which says nothing: leave "
                "it out, or pass None"
            )
        entries = spread(total_size, len(shape), name)
    else:
        shape = shape or (1,)  # a scalar is one value of N
        entries = (total_size, *[None] * (len(shape) - 1))
    factors = [
        _axis_factor(total, batch, f"{name}, axis {axis},", total_size)
        for axis, (total, batch) in enumerate(zip(entries, shape, strict=True))
        if total is not None
    ]
    return math.prod(factors, start=1.0)


def spread(entries: Sequence[Any], ndim: int, name: str) -> tuple[Any, ...]:
    """One entry per axis, from a list that may be short or leave axes to one Ellipsis.

    Parameters
    ----------
    entries : sequence
        What is said of the leading axes, and behind an Ellipsis of the trailing ones.
    ndim : int
        Number of axes.
    name : str
        What the list is, for the messages.

    Returns
    -------
    tuple
        Of length `ndim`; None for the axes of which nothing is said.

    Raises
    ------
    ValueError
        If there are two Ellipses, or more other entries than axes.

    Examples
    --------
    >>> spread([2, None, 20, ..., 10], 6, "batch_size"), spread([2], 3, "batch_size")
    ((2, None, 20, None, None, 10), (2, None, None))
    """
    gaps = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    if len(gaps) > 1:
        raise ValueError(f"{name} must have at most one Ellipsis, got {entries!r}")
    missing = ndim - (len(entries) - len(gaps))
    if missing < 0:
        raise ValueError(
            f"{name} must have at most one entry per axis, of which there are {ndim}; got "
            f"{len(entries) - len(gaps)} in {entries!r}"
        )
    gap = gaps[0] if gaps else len(entries)
    return (*entries[:gap], *[None] * missing, *entries[gap + 1 :])


def _axis_factor(total: Any, batch: int, name: str, given: Any) -> float:
    """N / B of one axis."""
    try:
        count = as_count(total, name, 1)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number; got {total!r} of type {type(total).__name__} in "
            f"{given!r}. Expected {_FORMS}"
        ) from None
    except ValueError:
        raise ValueError(
            f"{name} must be at least 1, got {total!r}; None leaves an axis as it is"
        ) from None
    if batch == 0:
        raise ValueError(f"{name} is {count}, but that axis of the batch is empty")
    if count < batch:
        raise ValueError(
            f"{name} must be the length of the full data, at least the {batch} of the batch; got "
            f"{count}"
        )
    return count / batch
