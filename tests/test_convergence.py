"""Whether a result still moves: planted paths, and averages as a fit makes them."""

import itertools
import math

import numpy as np
import pytest

from numpyro_vi_ext.convergence import Motion, kept, motion, next_mark

MARKS = [next_mark(0)]
while MARKS[-1] < 10_000:
    MARKS.append(next_mark(MARKS[-1]))


def path(loc, scale=lambda t: np.ones(1), steps=MARKS):
    return [(s, np.atleast_1d(loc(s)), np.atleast_1d(scale(s))) for s in steps]


def test_marks_are_a_grid_that_doubles_in_four():
    assert MARKS[:5] == [64, 77, 91, 108, 128]
    assert MARKS[::4] == [64 * 2**k for k in range(len(MARKS[::4]))]
    for before, after in itertools.pairwise(MARKS):
        assert {next_mark(s) for s in range(before, after)} == {after}
    assert next_mark(-5) == 64
    assert next_mark(2**31 - 1) == 2**31  # no rounding at powers of two
    assert next_mark(2**31) > 2**31


def test_at_rest():
    assert motion(path(lambda t: 3.0)) == Motion(True, 0.0, 0, False)
    assert motion(path(lambda t: 3.0, steps=[*MARKS, 11_000])).settled  # any last step


def test_speed_is_that_of_the_last_doubling_and_has_a_place():
    scale = lambda t: np.array([1.0, 10.0, 1.0])  # noqa: E731
    trail = path(lambda t: np.array([0.0, 8 * math.log2(t), 0.5 * math.log2(t)]), scale)
    found = motion(trail)
    assert (found.where, found.of_scale, found.settled) == (1, False, False)
    assert found.speed == pytest.approx(0.8, abs=1e-3)
    trail = path(lambda t: np.zeros(2), lambda t: np.array([1.0, t**0.1]))
    found = motion(trail)
    assert (found.where, found.of_scale, found.settled) == (1, True, False)
    assert found.speed == pytest.approx(0.1 * math.log(2), abs=1e-3)


@pytest.mark.parametrize(
    ("span", "settled"), [(0.09, True), (0.11, False), (-0.09, True), (-0.11, False)]
)
def test_a_mean_may_span_the_tolerance(span, settled):
    # A detour at one mark in the last half, back at the end.
    trail = path(lambda t: 5.0 + span * 2 * (t == MARKS[-2]), lambda t: 2 * np.ones(1))
    found = motion(trail)
    assert found.settled is settled
    assert found.speed == 0
    assert motion(trail, tolerance=0.2).settled
    assert not motion(trail, tolerance=0.05).settled


def test_a_log_scale_may_span_half_of_it():
    for size, settled in ((0.045, True), (0.055, False)):
        trail = path(lambda t: 0.0, lambda t, size=size: np.exp(size * (t == MARKS[-2])))
        assert motion(trail).settled is settled


def test_what_happened_before_the_last_doubling_counts_on_the_average():
    jump = path(
        lambda t: float(t <= MARKS[-1] / 2 - 1)
    )  # the mark at T / 2 is within the last half
    assert motion(jump).speed == 0
    assert not motion(jump).settled
    assert motion(path(lambda t: float(t < MARKS[-1] / 4 - 1))).settled
    # Creeping like t^-1/2: the error at the end is 0.25 when the last doubling moved 0.1.
    creep = path(lambda t: 0.24 * math.sqrt(MARKS[-1] / t))
    assert motion(creep).speed < 0.1
    assert not motion(creep).settled


def test_not_settled_without_enough_steps_or_marks():
    assert not motion(path(lambda t: 0.0, steps=[m for m in MARKS if m < 1000])).settled
    assert motion(path(lambda t: 0.0, steps=[m for m in MARKS if m < 1100])).settled
    for trail in ([], path(lambda t: 0.0, steps=[5]), path(lambda t: 0.0, steps=[6000, 9000])):
        assert motion(trail) == Motion(False, math.inf, -1, False)
    half = motion(path(lambda t: 0.0, steps=[4000, 8000]))  # a speed, but nothing from before
    assert half == Motion(False, 0.0, 0, False)


def test_what_is_not_finite_is_not_settled():
    for bad in (math.nan, math.inf):
        found = motion(path(lambda t, bad=bad: np.array([0.0, bad if t > 7000 else 0.0]),
                            lambda t: np.ones(2)))  # fmt: skip
        assert (found.settled, found.speed, found.where) == (False, math.inf, 1)
    assert not motion(path(lambda t: 0.0, lambda t: np.zeros(1))).settled


def test_no_coordinates_are_at_rest():
    nothing = lambda t: np.zeros(0)  # noqa: E731
    assert motion(path(nothing, nothing)) == Motion(True, 0.0, -1, False)
    assert not motion(path(nothing, nothing, steps=[100, 200, 400])).settled


def test_a_falling_loss_is_not_settled():
    trail, last = path(lambda t: 0.0), MARKS[-1]
    assert not motion(trail, -1.0 * np.arange(last)).settled
    assert motion(trail, np.zeros(last)).settled
    assert motion(trail, np.random.default_rng(0).normal(size=last)).settled
    assert motion(trail, 1000 * np.exp(-np.arange(last) / 300)).settled


def test_kept_is_enough():
    rng = np.random.default_rng(1)
    trail, whole = [], []
    for step in MARKS:
        mark = (step, rng.normal(size=3), np.exp(0.1 * rng.normal(size=3)))
        whole.append(mark)
        trail = kept([*trail, mark])
        assert motion(trail) == motion(whole)
        assert len(trail) <= 10
    assert kept([]) == []


def averages(iterates):
    """Polynomial-decay averages of degree 8 at the marks, by the recursion of a fit."""
    average, trail = np.zeros(iterates.shape[1]), []
    for t, x in enumerate(iterates, 1):
        average = average + 9 / (t + 8) * (x - average)
        if t in MARKS:
            trail.append((t, average, np.ones(average.size)))
    return trail


def test_the_error_of_noisy_averages_is_within_the_tolerance():
    """Noise of many sizes: of those called settled, all but a few are right."""
    rng, right = np.random.default_rng(2), []
    for size in np.repeat([0.5, 1.0, 1.5, 2.0, 3.0], 10):
        trail = averages(size * rng.normal(size=(MARKS[-1], 2)))
        for k in range(len(trail)):
            if motion(trail[: k + 1]).settled:
                right.append(np.abs(trail[k][1]).max() < 0.1)
                break
    assert len(right) > 20
    assert np.mean(right) >= 0.95
