"""The trend at the end of a loss: exact fits, its error, and what is read when."""

import numpy as np
import pytest

from numpyro_vi_ext.plateau import Losses, Plateau, Trend

T = np.arange(1, 8001)
MIDDLES = T - 0.5  # a loss is averaged around them as if it were there


def losses_of(values, **options):
    losses = Losses(**options)
    losses.update(np.asarray(values))
    return losses


def test_the_excess_of_1_over_t_is_found_exactly():
    # Means of 1/t over blocks are not exactly 1 / the middle of the block: hence the tolerance,
    # for blocks of 380 from step 2,300 on: (380 / 2490)**2 / 12 = 0.2 % in the first.
    for trend in losses_of(5 + 1000 / MIDDLES).trends():
        assert trend.ahead == pytest.approx(1000 / 8000, rel=4e-3)
        assert trend.error < 1e-3


def by_polyfit(values, p):
    """Slope over (T / t)^p, and its error: the last 600 of 800 means of ten, in 15 blocks of 38."""
    blocks = values[2300:].reshape(15, 380).mean(axis=1)  # nothing to clip
    x = 8000 / (2300 + 380 * (np.arange(15) + 0.5))
    slope, _ = np.polyfit(x**p, blocks, 1)
    noise = np.diff(blocks - slope * x**p)
    return slope, np.sqrt(np.mean(noise**2) / 2 / np.sum((x - x.mean()) ** 2))


# In a noise of 1,000 the steep fall cannot be told from one like 1/t.
@pytest.mark.parametrize(("q", "noise", "p"), [(1, 1.0, 1), (2, 1.0, 2), (2, 1000.0, 1)])
def test_the_fit_is_that_of_numpy_polyfit(q, noise, p):
    values = noise * np.random.default_rng(0).normal(size=8000) + 10 * (T / 8000) ** -float(q)
    trend = losses_of(values).trends()[-1]
    assert trend[:2] == pytest.approx(by_polyfit(values, p), rel=1e-6)


def test_the_excess_of_1_over_t_squared_is_found_exactly():
    # (500 / 2550)**2 / 4, of the first block: a mean of 1/t^2 is above that at the middle.
    excess = [trend.ahead for trend in losses_of(5 + (T / 8000) ** -2.0).trends()]
    assert excess == pytest.approx([1, 1, 1], rel=0.01)


@pytest.mark.parametrize(("q", "p"), [(0.5, 1), (3.0, 2)])
def test_other_powers_q_have_q_over_p_times_their_excess_over_the_shortest_window(q, p):
    short = losses_of((T / 8000) ** -q).trends()[0]
    assert 0.9 * q / p < short.ahead < 1.25 * q / p


def test_a_line_and_an_exponential():
    line = losses_of(-T / 8000).trends()
    assert 0 < line[-1].ahead < line[0].ahead < 1  # still convex in 1/t: less than what is left
    # (E[u] E[1/u] - 1) / Var[1/u] for u uniform from 2300 / 8000 to 1
    assert line[-1].ahead == pytest.approx(0.304, abs=0.01)
    exponential = losses_of(np.exp(-T / 800)).trends()
    assert all(trend.ahead > np.exp(-10) for trend in exponential)


@pytest.mark.parametrize("noise", ["white", "heteroscedastic"])
def test_the_standard_error_is_that_over_many_traces(noise):
    rng, t = np.random.default_rng(0), T[:4000]
    sd = 1.0 if noise == "white" else 2 - t / 4000
    found = np.array(
        [
            [trend[:2] for trend in losses_of(sd * rng.normal(size=4000)).trends()]
            for _ in range(400)
        ]
    )
    # The sd of a variance from 400 draws is 7 %; noise that shrinks is a little more than it seems.
    ratio = np.mean(found[..., 1] ** 2, axis=0) / np.var(found[..., 0], axis=0)
    assert ratio == pytest.approx(np.ones(3), abs=0.2 if noise == "white" else 0.5)


def test_the_tolerance_is_the_largest_of_three():
    rng = np.random.default_rng(1)
    fall = np.where(T <= 10, 50.0, 0.0)
    assert losses_of(fall).trends()[0].tolerance == pytest.approx(0.625)  # 1.25 %
    assert losses_of(fall, rel_tol=0.1).trends()[0].tolerance == pytest.approx(5)
    noise = 3 * rng.normal(size=8000)
    assert losses_of(noise, rel_tol=0).trends()[2].tolerance == pytest.approx(0.21, rel=0.05)
    assert losses_of(noise[:900], rel_tol=0).trends()[2].tolerance < 1e-6  # not from so few
    assert losses_of(1e7 + 0 * T).trends()[0].tolerance == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("trend", "flat", "falling", "rising"),
    [
        (Trend(0.0, 0.1, 0.2), True, False, False),
        (Trend(0.1, 0.1, 0.2), False, False, False),
        (Trend(-1.0, 0.1, 0.2), True, False, True),
        (Trend(1.0, 0.1, 0.2), False, True, False),
        (Trend(1.0, 0.5, 0.2), False, False, False),
        (Trend(0.0, 0.0, 0.0), True, False, False),
    ],
)
def test_verdicts_of_a_trend(trend, flat, falling, rising):
    assert (trend.is_flat, trend.is_falling, trend.is_rising) == (flat, falling, rising)


def test_verdicts_of_losses():
    assert losses_of(0 * T).is_flat()
    assert not losses_of(0 * T).is_falling()
    assert losses_of(-1.0 * T).is_falling()
    assert not losses_of(-1.0 * T).is_flat()
    assert not losses_of(1.0 * T).is_flat()  # it rises
    assert not losses_of(1.0 * T).is_falling()
    for empty in (Losses(), losses_of(T[:99])):
        assert empty.trends() == []
        assert not empty.is_flat()
        assert not empty.is_falling()


def test_reading_in_parts_is_reading_at_once():
    values = np.random.default_rng(2).normal(size=8000)
    parts = Losses()
    for end in [1, 99, 100, 101, 350, 350, 4321, 7999, 8000]:
        parts.update(values[:end])
        assert parts.steps == end // 100 * 100
        assert parts.trends() == losses_of(values[:end]).trends()


def test_outliers_are_clipped():
    values = np.random.default_rng(3).normal(size=8000)
    spiked = values.copy()
    spiked[::500] = 1e9
    for clean, dirty in zip(losses_of(values).trends(), losses_of(spiked).trends(), strict=True):
        assert dirty.ahead == pytest.approx(clean.ahead, abs=2 * clean.error)


def test_windows_with_a_loss_that_is_not_finite_say_nothing():
    values = np.zeros(8000)
    values[5000] = np.nan  # between 8000 / 2 and 8000 / 1.4
    losses = losses_of(values)
    assert len(losses.trends()) == 1
    assert losses.is_flat()
    values[7950] = np.inf
    assert losses_of(values).trends() == []
    assert not losses_of(values).is_flat()
    assert losses_of(np.full(500, np.nan)).trends() == []


def test_plateau_has_to_last_and_begins_anew():
    plateau, values = Plateau(min_steps=4000), np.zeros(9000)
    values[4100:4200] = 1e5 * np.arange(100)  # flat at 4,000, rising at 4,100 and after
    assert [plateau.reached(values[:i]) for i in (3900, 4000, 4001, 4100, 4200)] == [False] * 5
    later = [i for i in range(4300, 9001, 100) if plateau.reached(values[:i])]
    since = next(i for i in range(4200, 9001, 100) if losses_of(values[:i]).is_flat())
    assert later[0] >= 1.04 * since > 1.04 * 4200


def test_checks_are_two_percent_apart(monkeypatch):
    looks, look = [], Losses.is_flat
    monkeypatch.setattr(Losses, "is_flat", lambda self: looks.append(self.steps) and look(self))
    plateau, values = Plateau(), np.zeros(100_000)
    for i in range(100, 100_001, 100):
        plateau.reached(values[:i])
    assert looks[:4] == [200, 300, 400, 500]
    assert np.all(np.diff(looks) >= 0.02 * np.array(looks[:-1]))
    assert len(looks) < 250
