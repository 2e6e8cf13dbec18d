"""Importance weights: k-hat, smoothing, resampling, and what they repair."""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special

import numpyro_vi_ext as vi
from numpyro_vi_ext import evaluate, weights

SHAPE, NDIM = 10.0, 10


def skewed():
    """Ten independent gammas: in log space mildly skewed, with known mean and sd."""
    numpyro.sample("rate", dist.Gamma(SHAPE, 1.0).expand([NDIM]).to_event(1))


def exact_log_sd():
    return np.sqrt(special.polygamma(1, SHAPE))


def narrow():
    numpyro.sample("x", dist.Normal(0, 1))


@pytest.fixture(scope="module")
def approx():
    return vi.fit(skewed, 5000, random_seed=0, progressbar=False)


# -- k-hat


@pytest.mark.parametrize(("draws", "expected"), [(100, 0.5), (1000, 2 / 3), (10_000, 0.7)])
def test_threshold_depends_on_the_number_of_draws(draws, expected):
    assert weights.khat_threshold(draws) == pytest.approx(expected)


def test_khat_of_a_pareto_tail_is_its_shape():
    """Weights u ** -k have a Pareto tail of shape k."""
    rng = np.random.default_rng(0)
    for k in (0.3, 0.6, 1.0):
        found = weights.smooth(-k * np.log(rng.uniform(size=100_000)))
        assert found.khat == pytest.approx(k, abs=0.1)
        assert found.smoothed.sum() == pytest.approx(1)


def test_khat_is_that_of_numpyro(approx):
    if importlib.util.find_spec("numpyro.infer.calibration") is None:
        pytest.skip("NumPyro has no psis_diagnostic")
    from numpyro.infer import psis_diagnostic

    theirs = [
        psis_diagnostic(jax.random.key(i), {}, skewed, approx.guide, num_particles=4000)
        for i in range(8)
    ]
    ours = [
        weights.find_weights(approx.target, approx.point, jax.random.key(i), 4000).khat
        for i in range(8)
    ]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.1)


@pytest.mark.parametrize("log_weights", [np.zeros(500), 0.0078 * (np.arange(500) % 3)])
def test_equal_weights_up_to_rounding_have_a_low_khat(log_weights):
    found = weights.smooth(log_weights, rounding=0.0078)
    assert found.khat < 0
    assert found.smoothed.max() < 1.1 / 500


def test_draws_of_no_density_get_no_weight():
    log_weights = np.random.default_rng(0).normal(size=1000)
    log_weights[::10], log_weights[1::10] = np.nan, -np.inf
    found = weights.smooth(log_weights)
    assert found.lost == 200
    assert found.smoothed[::10].max() == found.smoothed[1::10].max() == 0
    assert np.isfinite(found.khat)


@pytest.mark.parametrize("part", [0.9, 1.0])
def test_few_finite_weights_are_never_trusted(part):
    log_weights = np.where(np.arange(1000) < 1000 * part, -np.inf, 0.0)
    found = weights.smooth(log_weights)
    assert found.khat == np.inf
    assert found.smoothed.sum() == pytest.approx(1)


def test_log_weights_by_hand():
    approx = vi.MeanField(narrow, start_sigma={"x": 0.5})
    key = jax.random.key(3)
    z = np.asarray(evaluate.draw_unconstrained(approx.point, key, 200), float)[:, 0]
    by_hand = -(z**2) / 2 + (z / 0.5) ** 2 / 2 + np.log(0.5)
    found = evaluate.log_weights(approx.target, approx.point, key, 200)
    np.testing.assert_allclose(found, by_hand, atol=1e-5)


# -- resampling


def test_systematic_resampling_counts():
    w = np.array([0.5, 0.25, 0.125, 0.125])
    for seed in range(5):
        counts = np.bincount(weights.systematic(w, 8, np.random.default_rng(seed)), minlength=4)
        assert counts.tolist() == [4, 2, 1, 1]
    uneven = np.array([0.3, 0.7])
    counts = np.bincount(weights.systematic(uneven, 5, np.random.default_rng(0)), minlength=2)
    assert counts[0] in (1, 2)


def test_order_of_resampled_draws_is_random():
    chosen = weights.systematic(np.full(1000, 1e-3), 500, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 500
    assert abs(np.corrcoef(chosen, np.arange(500))[0, 1]) < 0.15


def test_smoothed_draws_repair_the_standard_deviation(approx):
    """q's sd is 3 % short; smoothed draws are right up to Monte Carlo error (exact moments)."""
    found = []
    for importance in (False, True):
        sds = [
            np.log(approx.sample_dict(2000, seed, importance=importance)["rate"]).std(0)
            for seed in range(4)
        ]
        found.append(np.mean(sds) / exact_log_sd() - 1)
    plain, smoothed = found
    assert plain == pytest.approx(-0.027, abs=0.006)
    assert abs(smoothed) < 0.009


def test_same_seed_same_smoothed_draws_everywhere(approx):
    options = {"random_seed": 1, "importance": True}
    values = approx.sample_dict(50, **options)["rate"]
    for idata in (approx.sample(50, **options), approx.to_arviz(50, **options)):
        np.testing.assert_allclose(idata["posterior"]["rate"][0], values, rtol=1e-6)
    as_dict = approx.sample(50, return_inferencedata=False, include_transformed=True, **options)
    np.testing.assert_allclose(as_dict["rate"], values, rtol=1e-6)
    np.testing.assert_allclose(np.exp(as_dict["rate__unconstrained"]), values, rtol=1e-5)
    other = approx.sample_dict(50, random_seed=2, importance=True)["rate"]
    assert not np.array_equal(values, other)


def test_all_groups_are_of_the_same_smoothed_draws():
    y = np.array([0.5, 1.5, 2.0], np.float32)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1e-3 + 0 * mu), obs=y)

    approx = vi.MeanField(model, model_args=(y,), start_sigma={"mu": 0.5}, start={"mu": 1.0})
    with pytest.warns(UserWarning, match="k-hat"):
        idata = approx.to_arviz(20, importance=True, log_likelihood=True, prior=True, random_seed=0)
    mu = idata["posterior"]["mu"].to_numpy()[0]
    predicted = idata["posterior_predictive"]["y"].to_numpy()[0]
    np.testing.assert_allclose(predicted, np.repeat(mu[:, None], 3, 1), atol=0.01)
    by_hand = dist.Normal(mu[:, None], 1e-3).log_prob(y)
    np.testing.assert_allclose(idata["log_likelihood"]["y"][0], by_hand, rtol=1e-3)
    assert idata["prior"]["mu"].to_numpy().std() > 0.5


def test_attributes_say_how_the_draws_were_chosen(approx):
    attrs = approx.sample(50, importance=True, random_seed=0)["posterior"].attrs
    assert attrs["draws_by"] == "smoothed importance resampling from 2,500 draws"
    assert attrs["khat"] < attrs["khat_threshold"] == 0.7
    assert "khat" not in approx.sample(50, random_seed=0)["posterior"].attrs


def test_none_to_choose(approx):
    assert approx.sample_dict(0, importance=True)["rate"].shape == (0, NDIM)


def test_a_high_khat_is_warned_of():
    approx = vi.MeanField(narrow, start_sigma={"x": 0.1})
    text = r"k-hat of the importance weights is .*, not below 0\.70"
    for draw in (approx.sample, approx.to_arviz, approx.sample_dict):
        with pytest.warns(UserWarning, match=text) as caught:
            draw(100, importance=True, random_seed=0)
        assert caught[0].filename == __file__


def test_no_warning_below_the_threshold(approx):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        approx.sample(100, importance=True, random_seed=0)


# -- where there are no weights


def test_rows_have_no_weights():
    approx = vi.Empirical({"x": np.zeros(3)}, model=narrow)
    with pytest.raises(TypeError, match="importance=True needs the density of q"):
        approx.sample(10, importance=True)


def test_a_stream_has_no_full_data():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    batches = [np.ones(5, np.float32)] * 3
    stream = vi.Stream(batches, total_size=15)
    approx = vi.fit(model, 10, model_args=(stream,), random_seed=0, progressbar=False)
    with pytest.raises(ValueError, match="importance weights need the data of the arguments"):
        approx.sample(10, importance=True)
    with pytest.raises(ValueError, match="a verdict needs the data of the arguments"):
        approx.diagnose()


def subsampled(y, size):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("row", len(y), subsample_size=size):
        numpyro.sample("y", dist.Normal(mu, 1), obs=numpyro.subsample(jnp.asarray(y), event_dim=0))


def test_a_model_that_subsamples_has_no_weights():
    y = np.linspace(-1, 1, 50, dtype=np.float32)
    approx = vi.MeanField(subsampled, model_args=(y, 5))
    with pytest.raises(ValueError, match="the model draws a subsample inside, so its log density"):
        approx.sample(10, importance=True)
