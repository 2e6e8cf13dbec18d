"""Checks of user input."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_vi_ext.checks import as_count, as_number
from numpyro_vi_ext.errors import DiscreteLatentError, NonFiniteError


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2), jnp.array(2)])
def test_count(value):
    count = as_count(value, "n", 2)
    assert count == 2
    assert type(count) is int


@pytest.mark.parametrize("value", [2.0, "2", None, True, np.True_, np.array([1, 2]), np.float64(2)])
def test_count_of_a_wrong_type(value):
    expected = f"n must be an integer, got {value!r} of type {type(value).__name__}"
    with pytest.raises(TypeError, match=re.escape(expected)):
        as_count(value, "n", 0)


def test_count_too_small():
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        as_count(0, "draws", 1)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_number(value):
    number = as_number(value, "beta", 2)
    assert number == 2.0
    assert type(number) is float


@pytest.mark.parametrize("value", ["2", None, True, [1.0], 1j])
def test_number_of_a_wrong_type(value):
    with pytest.raises(TypeError, match=r"beta must be a number, got .* of type"):
        as_number(value, "beta", 0)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, -np.inf])
def test_number_out_of_range(value):
    with pytest.raises(ValueError, match=f"beta must be at least 0 and finite, got {value}"):
        as_number(value, "beta", 0)


def test_errors_carry_what_they_name():
    discrete = DiscreteLatentError(("k", "c"))
    assert discrete.sites == ("k", "c")
    assert "'k', 'c'" in str(discrete)
    bad = NonFiniteError("text", step=3, sites=("x",), approx="q")
    assert (str(bad), bad.step, bad.sites, bad.approx) == ("text", 3, ("x",), "q")
    assert isinstance(bad, FloatingPointError)
