"""Callbacks: PyMC's rules, the plateau of a noisy loss, and what a tracker records."""

import time
from functools import partial
from itertools import accumulate
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_vi_ext.callbacks import (
    CheckLossConvergence,
    CheckParametersConvergence,
    Tracker,
)

N_SEEDS = 50


def first_stop(callback, calls):
    """Step and message of the first stop over (approx, losses, i), or None."""
    for approx, losses, i in calls:
        try:
            callback(approx, losses, i)
        except StopIteration as stop:
            return i, str(stop)
    return None


# CheckParametersConvergence


def pymc_stop(walk, every, tolerance, diff, ord):
    """PyMC's rule for a fit over the rows of ``walk``; return the step at which it stops."""
    prev = None
    for i, current in enumerate(walk, 1):
        if prev is None:
            prev = current
            continue
        if i % every or i < every:
            continue
        difference = np.abs(current - prev)
        if diff == "relative":
            difference = (difference + 1e-6) / (np.abs(prev) + 1e-6)
        prev = current
        if np.linalg.norm(difference, ord) < tolerance:
            return i
    return None


def as_q(row):
    """A q with the parameters of one row, in two arrays of which one is a matrix."""
    return SimpleNamespace(params={"rho": jnp.asarray(row[2:]).reshape(2, 1), "mu": row[:2]})


def fit_calls(walk, callback, as_fit=True):
    """What a fit calls: every step, or those that it takes ``every`` and ``also_first`` to ask."""
    for i, row in enumerate(walk, 1):
        if not as_fit or i % callback.every == 0 or (i == 1 and callback.also_first):
            yield as_q(row), None, i


@pytest.mark.parametrize("as_fit", [True, False])
@pytest.mark.parametrize("ord", [np.inf, 2])
@pytest.mark.parametrize("diff", ["relative", "absolute"])
def test_parameters_convergence_is_pymc_s_rule(diff, ord, as_fit):
    stops = []
    for seed, every in enumerate([1, 2, 3, 7, 10, 100] * 5):
        rng = np.random.default_rng(seed)
        decay = np.exp(-np.arange(400)[:, None] / rng.uniform(5, 60))
        walk = (rng.normal(size=4) + decay * rng.normal(size=(400, 4))).astype(np.float32)
        expected = pymc_stop(walk, every, 1e-2, diff, ord)
        check = CheckParametersConvergence(every, tolerance=1e-2, diff=diff, ord=ord)
        stop = first_stop(check, fit_calls(walk, check, as_fit))
        assert stop == (expected and (expected, f"Convergence achieved at {expected}"))
        stops.append(expected)
    assert len(set(stops)) > 5  # the walks are not all decided at once, or never


@pytest.mark.parametrize("as_fit", [True, False])
def test_relative_never_stops_at_zero_but_absolute_does(as_fit):
    zeros = np.zeros((400, 4))
    relative = CheckParametersConvergence()
    assert first_stop(relative, fit_calls(zeros, relative, as_fit)) is None
    absolute = CheckParametersConvergence(diff="absolute")
    stop = first_stop(absolute, fit_calls(zeros, absolute, as_fit))
    assert stop == (100, "Convergence achieved at 100")


@pytest.mark.parametrize(("every", "earliest"), [(1, 2), (2, 2), (3, 3)])
def test_earliest_stop(every, earliest):
    check = CheckParametersConvergence(every)
    assert first_stop(check, fit_calls(np.ones((10, 4)), check))[0] == earliest


def test_one_unsettled_parameter_of_any_kind_prevents_stopping():
    for moving in range(4):
        walk = np.ones((50, 4))
        walk[:, moving] += np.arange(50)
        check = CheckParametersConvergence(every=10)
        assert first_stop(check, fit_calls(walk, check)) is None
    walk[:] = np.nan
    assert first_stop(check, fit_calls(walk, check)) is None


def test_memory_outlives_a_fit_but_not_another_size():
    check = CheckParametersConvergence(every=10)
    same = [(as_q(np.ones(4)), None, 10)]
    assert first_stop(check, same) is None
    assert first_stop(check, same) == (10, "Convergence achieved at 10")
    longer = [(SimpleNamespace(params={"mu": np.ones(7)}), None, 10)]
    assert first_stop(check, longer) is None
    assert first_stop(check, longer) == (10, "Convergence achieved at 10")


def test_parameters_that_change_in_place_are_seen():
    q = as_q(np.ones(4))
    q.params["mu"] = mu = np.ones(2)
    check = CheckParametersConvergence(every=1)
    check(q, None, 1)
    mu += 1
    check(q, None, 2)
    with pytest.raises(StopIteration, match="Convergence achieved at 3"):
        check(q, None, 3)


# CheckLossConvergence

T = np.arange(40_000)


def ar1(rng, correlation, size=T.size):
    """AR(1) noise of variance 1."""
    shocks = rng.normal(size=size) * np.sqrt(1 - correlation**2)
    shocks[0] = rng.normal()
    return np.fromiter(accumulate(shocks, lambda x, e: correlation * x + e), float, size)


def loss_stop(losses, **options):
    check = CheckLossConvergence(**options)
    steps = range(check.every, losses.size + 1, check.every)
    stop = first_stop(check, ((None, losses[:i], i) for i in steps))
    assert stop is None or stop[1] == f"Loss convergence achieved at {stop[0]}"
    return stop and stop[0]


# Still improving, visibly. With white noise of sd 1 a loss can be called flat from T near 2,000 on;
# there the window from T/4 sees b = 0.3 * 4e-4 T = 0.24 of the slowest line, standard error
# 1.5 / sqrt(T) = 0.03, where 0.07 count as none. The power law has 8 % left at the last step.
U = T[:16_000]
IMPROVING = {
    "linear": lambda rng: -4e-4 * U + rng.normal(size=U.size),
    "power law": lambda rng: 300 * (1 + U / 100) ** -0.5 + rng.normal(size=U.size),
    "heteroscedastic": lambda rng: (
        -1e-3 * U + (0.5 + 2 * np.sin(U / 3000) ** 2) * rng.normal(size=U.size)
    ),
    "noise in proportion": lambda rng: (
        100 * np.exp(-U / 10_000) * (1 + 0.1 * rng.normal(size=U.size))
    ),
    "correlated": lambda rng: -1e-3 * U + ar1(rng, 0.9, U.size),
    "heavy tails": lambda rng: -1e-3 * U + rng.standard_t(2, size=U.size),
    "rising": lambda rng: 1e-3 * U + rng.normal(size=U.size),
}


@pytest.mark.parametrize("trace", IMPROVING)
def test_no_stop_while_the_loss_changes(trace):
    stops = [loss_stop(IMPROVING[trace](np.random.default_rng(s))) for s in range(N_SEEDS)]
    assert stops == [None] * N_SEEDS


# 99 % of the fall of 100 exp(-t / 500) is done at step 2,300, and 1.25 % counts as none.
PLATEAUS = {
    "white": lambda rng: rng.normal(size=T.size),
    "AR(0.9)": lambda rng: ar1(rng, 0.9),
    "heavy tails": lambda rng: rng.standard_t(2, size=T.size),
}


@pytest.mark.parametrize("noise", PLATEAUS)
def test_stops_on_a_plateau_soon_and_not_before(noise):
    fall = 100 * np.exp(-T / 500)
    stops = [loss_stop(fall + PLATEAUS[noise](np.random.default_rng(s))) for s in range(N_SEEDS)]
    assert None not in stops
    assert min(stops) >= 2_300
    assert np.median(stops) <= 2.6 * 2_300
    assert max(stops) <= 4 * 2_300


@pytest.mark.parametrize("noise", ["white", "heavy tails"])
def test_noise_without_a_fall_stops(noise):
    stops = [loss_stop(PLATEAUS[noise](np.random.default_rng(seed))) for seed in range(N_SEEDS)]
    assert None not in stops
    assert min(stops) > 1_000  # flat at 1,000 at the earliest, and at the next check
    assert np.median(stops) <= 4_000


def test_flat_from_the_start_stops_after_the_least_number_of_steps():
    flat = np.full(20_000, 3.0, dtype=np.float32)
    assert loss_stop(flat) == 300  # flat at 200, and still at the next check
    assert loss_stop(flat, every=30) == 300  # flat at 210, where the losses to 200 are read
    assert loss_stop(flat, min_steps=1) == 200
    assert loss_stop(flat, min_steps=950) == 1100
    assert loss_stop(flat, every=1000) == 2000


def test_rel_tol_is_a_fraction_of_the_fall():
    falling = 1000 * np.exp(-T / 1500)  # no noise: rel_tol alone decides
    stops = [loss_stop(falling, rel_tol=r) for r in (0.1, 1e-2, 1e-3)]
    assert stops[0] < stops[1] < stops[2]
    assert loss_stop(1e6 + falling, rel_tol=0) is not None  # what float32 resolves is left
    for tolerance, stop in zip((0.1, 1e-2, 1e-3), stops, strict=True):
        assert falling[stop] <= tolerance * 1000
        assert loss_stop(1e3 + falling, rel_tol=tolerance) == stop
        assert loss_stop(1e3 * falling, rel_tol=tolerance) == stop


def test_spikes_neither_stop_nor_prevent_stopping():
    rng = np.random.default_rng(0)
    flat, falling = rng.normal(size=T.size), -3e-4 * T + rng.normal(size=T.size)
    spikes = np.where(rng.random(T.size) < 1e-3, 1e6, 0.0)
    assert abs(loss_stop(flat + spikes) - loss_stop(flat)) <= 1_000
    assert loss_stop(falling + spikes) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_stop_while_a_loss_is_not_finite(bad):
    losses = np.zeros(10_000)
    losses[1_000] = bad
    assert loss_stop(losses) == 300  # before it came to that
    # The shortest window, from i / 1.4 on, is clear of it at 1,600.
    assert loss_stop(losses, min_steps=1_001) == 1_700
    losses[50::200] = bad
    assert loss_stop(losses) is None
    losses = np.zeros(10_000)
    losses[:150] = bad  # the loss at the beginning is then that of the third page
    assert loss_stop(losses) == 400


def test_state_restarts_when_the_step_falls_back():
    losses = np.zeros(2_000)
    check = CheckLossConvergence()
    second_fit = [(None, losses[:i], i) for i in range(100, 2_001, 100)]
    for _ in range(3):  # stopped, left half way, and stopped again: always at the same step
        assert first_stop(check, second_fit)[0] == 300
        assert first_stop(check, second_fit[:2]) is None
    # The same step again is a new fit, too.
    check = CheckLossConvergence()
    steps = [200, 200, 300]
    assert first_stop(check, [(None, losses[:i], i) for i in steps])[0] == 300
    assert first_stop(check, [(None, losses[:i], i) for i in [300, 300]]) is None


def test_loss_convergence_at_every_step_is_the_same():
    losses = np.random.default_rng(3).normal(size=12_000)
    check = CheckLossConvergence(every=20)
    stop = first_stop(check, ((None, losses[:i], i) for i in range(1, losses.size)))
    assert stop[0] == loss_stop(losses, every=20)


def test_loss_convergence_needs_losses():
    with pytest.raises(TypeError, match=r"CheckLossConvergence needs losses, got None.*score=True"):
        CheckLossConvergence()(None, None, 1)


# Tracker


class Counter:
    def __init__(self):
        self.n = 0

    def __call__(self):
        self.n += 1
        return self.n

    def double(self, approx, factor=2):
        return approx * factor


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: "nothing", "nothing"),
        (lambda a=1, *, b=2: (a, b), (1, 2)),
        (lambda **options: options, {}),
        (lambda approx: approx, 7),
        (lambda approx, digits=3: (approx, digits), (7, 3)),
        (lambda approx, losses, i: (approx, losses, i), (7, [5.0], 1)),
        (lambda approx, losses, i, extra=0: (approx, i, extra), (7, 1, 0)),
        (lambda *args: args, (7, [5.0], 1)),
        (lambda first, *rest: rest, ([5.0], 1)),
        (partial(lambda approx, k: approx + k, k=1), 8),
        (jax.jit(lambda approx: approx + 1), 8),
        (Counter(), 1),
        (Counter().double, 14),
        (abs, 7),
    ],
)
def test_tracker_goes_by_the_signature(function, expected):
    tracker = Tracker(value=function)
    tracker(7, [5.0], 1)
    assert tracker["value"] == [expected]


def test_tracker_records_builtins_without_signature():
    before = time.time()
    tracker = Tracker(now=time.time)
    tracker.record(None, None, 3)
    assert before <= tracker["now"][0] <= time.time()


@pytest.mark.parametrize("arity", [0, 1, 3])
def test_tracker_lets_errors_surface_and_keeps_lists_aligned(arity):
    def fail(*args):
        raise ZeroDivisionError("the user's own")

    bad = {0: lambda: fail(), 1: lambda a: fail(a), 3: lambda a, b, c: fail(a)}[arity]
    tracker = Tracker(good=lambda: 1, bad=bad)
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        tracker(None, None, 1)
    assert tracker.hist == {"good": [], "bad": []}
    assert tracker.steps == []


def test_tracker_type_errors_of_the_function_surface():
    def wrong(approx):
        return approx + "text"

    with pytest.raises(TypeError, match="unsupported operand"):
        Tracker(x=wrong)(1, None, 1)


def test_tracker_contents():
    tracker = Tracker(every=5, i=lambda approx, losses, i: i, q=lambda approx: approx)
    assert tracker.every == 5
    assert repr(tracker) == "Tracker(i, q; every=5, 0 recorded)"
    for i in (5, 10):
        tracker(f"q{i}", None, i)
    assert tracker.hist == {"i": [5, 10], "q": ["q5", "q10"]}
    assert tracker["i"] is tracker.hist["i"]
    assert tracker.steps == [5, 10]
    assert repr(tracker) == "Tracker(i, q; every=5, 2 recorded)"
    with pytest.raises(KeyError, match="nothing is tracked as 'mean'; known names: i, q"):
        tracker["mean"]
    assert list(tracker.hist) == ["i", "q"]
    kept = tracker["q"]
    tracker.clear()
    assert tracker.hist == {"i": [], "q": []}
    assert tracker.steps == []
    assert kept == ["q5", "q10"]


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: Tracker(), ValueError, "Tracker needs a function"),
        (lambda: Tracker(mean=3.0), TypeError, "Tracker: mean must be a function, got 3.0"),
        (lambda: Tracker(f=lambda a, b: 0), TypeError, r"Tracker: f must take nothing.*\(a, b\)"),
        (lambda: Tracker(f=lambda a, b, c, d: 0), TypeError, "Tracker: f must take nothing"),
        (lambda: Tracker(f=lambda *, k: 0), TypeError, r"Tracker: f must take nothing.*\(\*, k\)"),
        (lambda: Tracker(every=0, f=time.time), ValueError, "every must be at least 1, got 0"),
        (lambda: Tracker(every=time.time), TypeError, "every must be an integer, got <built-in"),
        (lambda: CheckParametersConvergence(every=0), ValueError, "every must be at least 1"),
        (lambda: CheckParametersConvergence(every=1.5), TypeError, "every must be an integer"),
        (lambda: CheckParametersConvergence(every=True), TypeError, "every must be an integer"),
        (
            lambda: CheckParametersConvergence(tolerance=0),
            ValueError,
            "tolerance must be greater",
        ),
        (lambda: CheckParametersConvergence(tolerance=-1), ValueError, "tolerance must be greater"),
        (lambda: CheckParametersConvergence(tolerance=np.nan), ValueError, "tolerance .* got nan"),
        (lambda: CheckParametersConvergence(tolerance="x"), TypeError, "tolerance must be a numb"),
        (
            lambda: CheckParametersConvergence(diff="rel"),
            KeyError,
            r"diff must be one of \['absolute', 'relative'\], got 'rel'",
        ),
        (lambda: CheckParametersConvergence(ord="fro"), ValueError, "ord must be the order .*'fro"),
        (lambda: CheckLossConvergence(min_steps=1e3), TypeError, "min_steps must be an integer"),
        (lambda: CheckLossConvergence(rel_tol=-1), ValueError, "rel_tol must be at least 0"),
        (lambda: CheckLossConvergence(rel_tol=None), TypeError, "rel_tol must be a number"),
        (lambda: CheckLossConvergence(min_steps=0), ValueError, "min_steps must be at least 1"),
        (lambda: CheckLossConvergence(every="9"), TypeError, "every must be an integer, got '9'"),
    ],
)
def test_bad_arguments(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_numpy_integers_are_integers():
    assert Tracker(every=np.int64(3), f=time.time).every == 3
    assert CheckLossConvergence(min_steps=np.int64(50)).min_steps == 50
