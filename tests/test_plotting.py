"""Axes in, axes out; what is drawn, not how it looks."""

import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def with_losses(losses):
    return SimpleNamespace(hist=np.asarray(losses, float))


def tracker_of(steps, **values):
    tracker = vi.Tracker(**dict.fromkeys(values, lambda: None))
    tracker.steps, tracker.hist = list(steps), {k: list(v) for k, v in values.items()}
    return tracker


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# -- plot_loss


def test_axes_out():
    ax = vi.plot_loss(with_losses([3.0, 2.0, 1.0]))
    assert isinstance(ax, plt.Axes)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss (negative ELBO)")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3, 2, 1])
    assert labels(ax) == ["loss"]


def test_axes_in():
    _, axes = plt.subplots(1, 2)
    assert vi.plot_loss(with_losses(np.arange(10.0)), ax=axes[1]) is axes[1]
    assert not axes[0].has_data()


def test_inference_and_approximation():
    def model():
        numpyro.sample("x", dist.Normal(0, 1))

    advi = vi.ADVI(model, random_seed=0)
    approx = advi.fit(300, progressbar=False)
    for fitted in (advi, approx):
        raw = vi.plot_loss(fitted).lines[-1]
        np.testing.assert_array_equal(raw.get_ydata(), approx.hist)


def test_running_mean():
    losses = RNG.normal(size=50)
    ax = vi.plot_loss(with_losses(losses), window=7)
    mean, each = ax.lines
    np.testing.assert_array_equal(mean.get_xdata(), np.arange(7, 51))
    np.testing.assert_allclose(mean.get_ydata(), np.convolve(losses, np.ones(7) / 7, "valid"))
    np.testing.assert_array_equal(each.get_ydata(), losses)
    assert labels(ax) == ["mean of 7", "loss"]


def test_running_mean_is_a_hundredth_of_the_history_by_default():
    assert labels(vi.plot_loss(with_losses(np.ones(1000))))[0] == "mean of 10"
    assert labels(vi.plot_loss(with_losses(np.ones(10)), window=40))[0] == "mean of 10"


def test_running_mean_loses_no_digits_to_huge_losses():
    losses = np.concatenate([np.full(100, 1e15), np.full(300, 1.0)])
    mean = vi.plot_loss(with_losses(losses), window=10).lines[0].get_ydata()
    np.testing.assert_allclose(mean[-200:], 1.0, rtol=1e-12)


def test_huge_first_losses_do_not_flatten_the_rest():
    losses = 50 + RNG.normal(size=1000)
    losses[:50] += 1e6
    ax = vi.plot_loss(with_losses(losses))
    low, high = ax.get_ylim()
    assert 40 < low < 48
    assert 52 < high < 60
    assert f"(first: {losses[0]:,.4g})" in labels(ax)[1]


def test_losses_that_are_not_finite():
    losses = 5 + RNG.normal(size=1000)
    losses[[0, 100, 101, 500]] = np.nan, np.inf, -np.inf, np.nan
    losses[200:300] = np.nan
    ax = vi.plot_loss(with_losses(losses))
    assert np.isfinite(ax.get_ylim()).all()
    mean = ax.lines[0].get_ydata()  # mean[k] is that of losses[k : k + 10]
    expected = np.convolve(losses, np.ones(10) / 10, "valid")
    np.testing.assert_allclose(mean[310:490], expected[310:490])
    assert mean[491] == pytest.approx(losses[491:500].mean())
    assert np.isnan(mean[200:291]).all()
    late = with_losses([1.0, 2.0, *[np.nan] * 98])
    assert np.isfinite(vi.plot_loss(late).get_ylim()).all()


def test_long_histories_draw_few_points():
    losses = RNG.normal(size=500_000)
    losses[250_000:260_000] = np.nan
    ax = vi.plot_loss(with_losses(losses))
    assert ax.lines[0].get_xdata().size <= 4000
    (band,) = ax.collections
    assert len(band.get_paths()[0].vertices) < 10_000
    top = band.get_datalim(ax.transData).y1
    assert 1.3 < top < 2.3  # about the 95 % quantile of a standard normal, 1.64
    assert "90% of the losses" in labels(ax)


def test_constant_losses():
    low, high = vi.plot_loss(with_losses(np.full(100, 7.0))).get_ylim()
    assert low < 7 < high
    low, high = vi.plot_loss(with_losses(np.zeros(100))).get_ylim()
    assert low < 0 < high


def test_two_fits_in_one_picture():
    ax = vi.plot_loss(with_losses(10 + RNG.normal(size=500)))
    vi.plot_loss(with_losses(20 + RNG.normal(size=500)), ax=ax)
    low, high = ax.get_ylim()
    assert low < 8
    assert high > 22
    assert len({line.get_color() for line in ax.lines}) == 2


def test_something_else_than_a_fit_or_a_tracker():
    with pytest.raises(TypeError, match=r"there is no \.hist of losses in approx, got int"):
        vi.plot_loss(3)
    with pytest.raises(TypeError, match="tracker must be a Tracker, got int"):
        vi.plot_tracker(3)


def test_no_losses():
    for losses in ([], [np.nan, np.inf]):
        with pytest.raises(ValueError, match="no losses to plot: fit first, with score=True"):
            vi.plot_loss(with_losses(losses))


def test_bad_window():
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        vi.plot_loss(with_losses([1.0]), window=0)
    with pytest.raises(TypeError, match="window must be an int"):
        vi.plot_loss(with_losses([1.0]), window=0.5)


# -- plot_tracker


def test_panels_and_components():
    steps = [10, 20, 30]
    tracker = tracker_of(steps, a=[1.0, 2.0, 3.0], b=RNG.normal(size=(3, 2, 2)))
    axes = vi.plot_tracker(tracker)
    assert isinstance(axes, np.ndarray)
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), steps)
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), [1, 2, 3])
    assert axes[0].get_legend() is None
    assert labels(axes[1]) == ["0, 0", "0, 1", "1, 0", "1, 1"]
    expected = np.reshape(tracker["b"], (3, 4))[:, 2]
    np.testing.assert_array_equal(axes[1].lines[2].get_ydata(), expected)
    assert [ax.get_xlabel() for ax in axes] == ["", "step"]  # the panels share their steps


def test_tracker_of_a_fit():
    def model():
        numpyro.sample("x", dist.Normal(np.zeros(3), 1).to_event(1))

    tracker = vi.Tracker(every=5, mean=lambda q: q.mean, loss=lambda q, losses, i: losses[-1])
    vi.fit(model, 20, callbacks=[tracker], progressbar=False)
    axes = vi.plot_tracker(tracker)
    assert [len(ax.lines) for ax in axes] == [3, 1]
    np.testing.assert_array_equal(axes[1].lines[0].get_xdata(), [5, 10, 15, 20])


def test_axes_in_for_some_names():
    tracker = tracker_of([1, 2], a=[1, 2], b=[3, 4], c=[5, 6])
    _, given = plt.subplots(1, 2)
    axes = vi.plot_tracker(tracker, ["c", "a"], axes=given)
    assert list(axes) == list(given)
    assert [ax.get_title() for ax in axes] == ["c", "a"]
    np.testing.assert_array_equal(given[0].lines[0].get_ydata(), [5, 6])
    _, one = plt.subplots()
    assert list(vi.plot_tracker(tracker, "b", axes=one)) == [one]


def test_many_components_have_no_legend():
    ax = vi.plot_tracker(tracker_of([1, 2], a=RNG.normal(size=(2, 11))))[0]
    assert len(ax.lines) == 11
    assert ax.get_legend() is None


def test_components_of_dimension_zero():
    ax = vi.plot_tracker(tracker_of([1, 2], a=np.zeros((2, 0))))[0]
    assert len(ax.lines) == 0


def test_steps_of_several_fits_go_on():
    ax = vi.plot_tracker(tracker_of([2, 4, 2, 4, 6, 2], a=np.arange(6)))[0]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2, 4, 6, 8, 10, 12])


def test_long_tracks_draw_few_points():
    ax = vi.plot_tracker(tracker_of(range(1, 50_001), a=np.arange(50_000.0)))[0]
    assert ax.lines[0].get_xdata().size <= 4000


def test_empty_tracker():
    for tracker, names in ((tracker_of([], a=[]), None), (tracker_of([1], a=[1]), [])):
        with pytest.raises(ValueError, match=r"nothing to plot: pass it to fit\(callbacks="):
            vi.plot_tracker(tracker, names)


def test_unknown_name():
    with pytest.raises(KeyError, match="known names: a"):
        vi.plot_tracker(tracker_of([1], a=[1]), ["b"])


def test_wrong_number_of_axes():
    _, axes = plt.subplots(3)
    with pytest.raises(ValueError, match=r"got 3 axes for 2 names: \['a', 'b'\]"):
        vi.plot_tracker(tracker_of([1], a=[1], b=[2]), axes=axes)


@pytest.mark.parametrize("records", [["x", "y"], [{"mu": 1.0}] * 2, [[1.0], [1.0, 2.0]]])
def test_records_that_are_not_numbers(records):
    with pytest.raises(TypeError, match="tracker's 'a' cannot be plotted: expected numbers"):
        vi.plot_tracker(tracker_of([1, 2], a=records))


# -- without matplotlib


@pytest.mark.parametrize(
    "plot",
    [
        lambda: vi.plot_loss(with_losses([1.0])),
        lambda: vi.plot_tracker(tracker_of([1], a=[1])),
    ],
)
def test_without_matplotlib(plot, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "numpyro-vi-ext\[plots\]"'):
        plot()
