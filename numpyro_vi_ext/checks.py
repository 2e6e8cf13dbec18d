"""Checks of user input that several modules share."""

import math
import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp


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
        raise TypeError(
            f"{name} must be an integer, got {value!r} of type {type(value).__name__}"
        ) from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return count


def as_number(value: Any, name: str, least: float) -> float:
    """A finite real number of at least `least`.

    Raises
    ------
    TypeError
        If `value` is not a number.
    ValueError
        If it is smaller than `least`, or not finite.
    """
    number = _as_real(value, name)
    if not (number >= least and math.isfinite(number)):
        raise ValueError(f"{name} must be at least {least} and finite, got {value!r}")
    return number


def as_positive(value: Any, name: str) -> float:
    """A finite real number greater than 0.

    Raises
    ------
    TypeError
        If `value` is not a number.
    ValueError
        If it is not positive, or not finite.
    """
    number = _as_real(value, name)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be greater than 0 and finite, got {value!r}")
    return number


def as_points(z: Any, ndim: int) -> jax.Array:
    """Flat unconstrained points, shape (..., ndim).

    Raises
    ------
    TypeError
        If they are not numbers.
    ValueError
        If the last axis is not of length `ndim`.
    """
    try:
        points = jnp.asarray(z, jnp.result_type(float))
    except (TypeError, ValueError) as error:
        raise TypeError(f"z must be an array of numbers, got {z!r}") from error
    if points.shape[-1:] != (ndim,):
        raise ValueError(
            f"z must have a last axis of length ndim = {ndim}, got shape {points.shape}"
        )
    return points


def _as_real(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    return float(value)
