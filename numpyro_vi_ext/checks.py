"""Checks of user input that several modules share."""

import operator
from typing import Any


def as_count(value: Any, name: str, least: int) -> int:
    """A whole number of at least `least`; NumPy integers are welcome.

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If it is smaller than `least`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}: {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count
