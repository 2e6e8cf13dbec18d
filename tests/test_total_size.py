"""How often a batch counts."""

import math
import re

import numpy as np
import pytest

from numpyro_vi_ext.batching.total_size import scale_factor, spread


@pytest.mark.parametrize(
    ("total_size", "shape", "pairs"),
    [
        (None, (5, 4), []),
        (10, (5, 4), [(10, 5)]),
        (np.int64(10), (5, 4), [(10, 5)]),
        ([10, 8], (5, 4), [(10, 5), (8, 4)]),
        ((10, np.uint8(8)), (5, 4), [(10, 5), (8, 4)]),
        ([10, None], (5, 4), [(10, 5)]),
        ([10, ...], (5, 4), [(10, 5)]),
        ([..., 8], (5, 4), [(8, 4)]),
        ([None, ...], (5, 4), []),
        ([...], (5, 4), []),
        ([10, ..., 8], (5, 4), [(10, 5), (8, 4)]),  # the Ellipsis may stand for nothing
        ((10, None, 30, ..., 50), (2, 3, 4, 5, 6), [(10, 2), (30, 4), (50, 6)]),
        ((10, ..., 50), (2, 3, 4, 5, 6), [(10, 2), (50, 6)]),
        ((10, None, 30), (2, 3, 4, 5, 6), [(10, 2), (30, 4)]),  # short: trailing axes unscaled
        ([10], (5, 4), [(10, 5)]),
        (7, (), [(7, 1)]),  # a scalar is one value of seven
        (5, (5,), [(5, 5)]),
    ],
)
def test_factor(total_size, shape, pairs):
    factor = scale_factor(total_size, shape, "y")
    assert type(factor) is float
    assert factor == pytest.approx(math.prod(total / batch for total, batch in pairs), rel=1e-15)


@pytest.mark.parametrize(
    ("total_size", "shape", "text"),
    [
        (0, (5,), "axis 0, must be at least 1, got 0; None leaves an axis as it is"),
        (-10, (5,), "axis 0, must be at least 1, got -10"),
        ([10, -8], (5, 4), "axis 1, must be at least 1, got -8"),
        ((), (5,), "got the empty (), which says nothing: leave it out, or pass None"),
        (4, (5,), "must be the length of the full data, at least the 5 of the batch; got 4"),
        ([10, 3], (5, 4), "axis 1, must be the length of the full data, at least the 4"),
        ([10, 8, 6], (5, 4), "at most one entry per axis, of which there are 2; got 3 in [10, 8"),
        ([10, ..., 8, 6], (5, 4), "at most one entry per axis, of which there are 2; got 3"),
        ([10], (), "at most one entry per axis, of which there are 0; got 1 in [10]"),
        ([..., 10, ...], (5, 4), "must have at most one Ellipsis, got [Ellipsis, 10, Ellipsis]"),
        (10, (0, 4), "axis 0, is 10, but that axis of the batch is empty"),
    ],
)
def test_wrong_value(total_size, shape, text):
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        scale_factor(total_size, shape, "y")
    assert str(caught.value).startswith("total_size of the site 'y'")


@pytest.mark.parametrize(
    ("total_size", "got"),
    [
        (10.0, "got 10.0 of type float in 10.0"),
        ("10", "got '10' of type str in '10'"),
        (True, "got True of type bool in True"),
        ([10, "foo"], "got 'foo' of type str in [10, 'foo']"),
        ([10.5], "got 10.5 of type float in [10.5]"),
        ([False], "got False of type bool in [False]"),
        (..., "got Ellipsis of type ellipsis"),
        ({"y": 10}, "of type dict"),
        (np.array([10, 8]), "of type ndarray"),
    ],
)
def test_wrong_type(total_size, got):
    with pytest.raises(TypeError, match=re.escape(got)) as caught:
        scale_factor(total_size, (5, 4), "y")
    text = str(caught.value)
    assert text.startswith("total_size of the site 'y', axis ")
    assert text.endswith(
        "Expected an int, or a list or tuple with an int, None or one Ellipsis per leading axis"
    )


@pytest.mark.parametrize(
    ("entries", "ndim", "expected"),
    [
        ([], 2, (None, None)),
        ([1, ...], 1, (1,)),
        ([..., 1], 3, (None, None, 1)),
        ((1, None, 2), 4, (1, None, 2, None)),
    ],
)
def test_spread(entries, ndim, expected):
    assert spread(entries, ndim, "entries") == expected
