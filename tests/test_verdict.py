"""The verdict on planted cases, and how it looks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from targets import linear_regression

import numpyro_vi_ext as vi
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.model import Model


@functools.cache
def fitted(model, method="advi"):
    return fit(model, method=method)


def fit(model, n=4000, method="advi", **options):
    """A fit of whose motion nothing is known, so that what it looks like has the word."""
    approx = vi.fit(model, n, method, random_seed=0, progressbar=False, **options)
    return approx.at(approx.point, approx.facts._replace(motion=""))


def said(verdict):
    return " ".join(verdict.advice)


def correlated():
    cov = jnp.array([[1.0, 0.96], [0.96, 1.0]])
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), cov))


def funnel():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))


def skewed():
    numpyro.sample("rate", dist.Gamma(10.0, 1.0).expand([10]).to_event(1))


def mixture(means, sd, weights):
    """One site of two modes, and one that has nothing to do with it."""

    def model():
        components = dist.Normal(jnp.array(means), sd)
        numpyro.sample(
            "x", dist.MixtureSameFamily(dist.Categorical(jnp.array(weights)), components)
        )
        numpyro.sample("other", dist.Normal(0, 1).expand([3]).to_event(1))

    return model


# -- planted cases


@pytest.mark.parametrize("kind", [vi.MeanField, vi.FullRank])
def test_exact_posterior(kind):
    def model():
        numpyro.sample("a", dist.Normal(1, 2))
        numpyro.sample("b", dist.Normal(0, 1).expand([2, 3]).to_event(2))

    approx = kind(model, start_sigma={"a": 2.0, "b": 1.0})
    for seed in range(3):
        verdict = approx.at(approx.point, Facts(status="finished")).diagnose(random_seed=seed)
        assert verdict.ok
        assert verdict.headline == "good"
        assert verdict.khat < 0.1
        assert verdict.elbo == pytest.approx(0, abs=1e-4)
        assert verdict.elbo_se < 1e-5
        assert verdict.effective == pytest.approx(4000, rel=1e-3)
        assert verdict.advice == ("Nothing speaks against it.",)
        assert np.abs(verdict.sites["mean_shift"]).max() < 0.01


def test_exact_posterior_of_data():
    target = linear_regression()
    approx = fit(target.model, method="fullrank_advi", model_args=target.args)
    verdict = approx.diagnose(random_seed=0)
    assert verdict.ok
    assert verdict.elbo == pytest.approx(target.log_evidence, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_mild_skew_is_usable(seed):
    """Gammas of shape 10 in log space: q is right but for 3 % of the sds."""
    verdict = fitted(skewed).diagnose(random_seed=seed)
    assert verdict.ok
    assert 0.2 < verdict.khat < verdict.khat_threshold == 0.7
    assert 1.0 < verdict.sites.loc["rate", "sd_ratio"] < 1.12


def test_what_smoothed_draws_are_for():
    """A probit-like regression: below the threshold, but sds move by more than a tenth."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = rng.uniform(size=200) < 1 / (1 + np.exp(-X @ np.array([1, -1, 0.5, 0, 2])))

    def model():
        w = numpyro.sample("w", dist.Normal(0, 3).expand([5]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y.astype(float))

    verdict = fit(model).diagnose(random_seed=0)
    assert verdict.ok
    assert verdict.headline == "usable"
    assert "Take smoothed draws, approx.sample(1000, importance=True): they move" in said(verdict)
    assert "The posterior is correlated at w" in said(verdict)
    assert "take full rank (method='fullrank_advi')" in said(verdict)


def test_correlation_asks_for_full_rank():
    verdict = fitted(correlated).diagnose(random_seed=1)
    assert not verdict.ok
    assert verdict.advice[0].startswith("The posterior is correlated at x[0] and x[1]: take full")
    assert "vi.to_nuts" in said(verdict)
    full = fitted(correlated, "fullrank_advi").diagnose(random_seed=1)
    assert full.ok
    assert full.khat < 0.3


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_funnel_is_not_to_be_trusted(method):
    verdict = fitted(funnel, method).diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.headline == "not to be trusted"
    assert verdict.khat > verdict.khat_threshold
    assert verdict.sites.index[0] == "v"
    assert re.search(
        r"The spread of x\[\d\] changes with v \(and 8 more\): a funnel", said(verdict)
    )
    assert "Reparameterise (non-centred, as with LocScaleReparam)" in said(verdict)
    assert "full rank" not in said(verdict)
    assert "With k-hat this high, the table shows directions only. Run NUTS" in said(verdict)


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_two_modes_under_one_gaussian(method):
    """k-hat is at its best, for q is wider than the posterior everywhere."""
    verdict = fit(mixture([-1.5, 1.5], 0.7, [0.5, 0.5]), method=method).diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.khat < 0.5
    assert "Two humps at x, which one Gaussian covers" in said(verdict)


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_the_mode_that_q_does_not_know(method):
    """k-hat is at its best, for the weights of all draws are equal: only a look beyond tells."""
    model = mixture([-4.0, 4.0], 1.0, [0.3, 0.7])
    verdict = fit(model, method=method, start={"x": 4.0}).diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.khat < 0.5
    found = re.search(r"none, (\d+) of its sds off at x: (\S+) times that at its", said(verdict))
    assert int(found[1]) == 8
    assert float(found[2]) == pytest.approx(3 / 7, rel=0.5)
    assert "another mode, or a long tail, of which k-hat knows nothing" in said(verdict)


def test_the_limit_of_the_look_beyond():
    """A second mode that differs in many coordinates is not found: documented."""

    def model():
        means = jnp.stack([jnp.zeros(20), jnp.full(20, 8.0)])
        components = dist.Normal(means, 1).to_event(1)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), components))

    assert fit(model, start={"x": 0.0}).diagnose(random_seed=0).ok


@pytest.mark.parametrize(
    ("optima", "ok", "words"),
    [
        ((-10.0, -10.3, -10.1), True, "Nothing speaks"),
        (
            (-10.0, -12.0, -10.1),
            False,
            "1 of 3 restarts ended 2.0 nats or more lower: perhaps modes",
        ),
        ((-10.0, -12.0, -10.1), False, "one with some 12 % of the mass"),
        ((-10.0, -80.0, -90.0), True, "2 of 3 restarts ended 70.0 nats or more lower: some"),
        ((-np.inf, -np.inf), False, "None of the restarts came to a finite ELBO."),
    ],
)
def test_restarts_that_ended_elsewhere(optima, ok, words):
    approx = exact(optima=optima)
    verdict = approx.diagnose(random_seed=0)
    assert verdict.ok is ok
    assert words in said(verdict)


def exact(**facts):
    approx = vi.MeanField(lambda: numpyro.sample("x", dist.Normal(0, 1)), start_sigma={"x": 1.0})
    return approx.at(approx.point, Facts(**{"status": "finished", "step": 100, **facts}))


@pytest.mark.parametrize(("motion", "known"), [("moving", True), ("settled", False), ("", None)])
def test_motion_is_that_of_the_fit(motion, known):
    verdict = exact(motion=motion).diagnose(random_seed=0)
    assert verdict.still_moving is known
    assert verdict.ok is (known is not True)
    assert ("run more steps (refine, or a larger n)" in said(verdict)) is (known is True)


def test_too_few_steps():
    approx = fit(skewed, 30)
    verdict = approx.at(approx.point, approx.facts._replace(motion="moving")).diagnose()
    assert not verdict.ok
    assert verdict.advice[0].startswith("The fit ended while it was still moving")
    assert verdict.khat < verdict.khat_threshold or "Then diagnose again" in said(verdict)
    assert "NUTS" not in said(verdict)  # what is wrong with q may pass


def test_a_fit_that_was_interrupted():
    verdict = exact(motion="moving", status="interrupted").diagnose(random_seed=0)
    assert "It was interrupted while it was still moving" in said(verdict)


def test_a_mean_that_is_not_at_its_optimum():
    """Whatever the fit says of itself: the ELBO would rise."""
    approx = vi.MeanField(
        lambda: numpyro.sample("x", dist.Normal(0, 1)), start={"x": 0.6}, start_sigma={"x": 1.0}
    )
    verdict = approx.at(approx.point, Facts(status="finished")).diagnose(random_seed=0)
    assert verdict.khat < 0.5
    assert not verdict.ok
    assert "The ELBO rises if q's mean moves at x: run more steps." in said(verdict)
    assert verdict.sites.loc["x", "mean_shift"] == pytest.approx(-0.6, abs=0.05)


def test_a_fit_on_its_way_has_no_other_mode():
    """Far from its optimum q misses everything, which says nothing of modes."""
    approx = vi.MeanField(
        lambda: numpyro.sample("x", dist.Normal(0, 1)), start={"x": 9.0}, start_sigma={"x": 1.0}
    )
    verdict = approx.at(approx.point, Facts(status="finished")).diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.advice[0] == "The ELBO rises if q's mean moves at x: run more steps."
    assert "another mode" not in said(verdict)


def test_nothing_fitted_yet():
    verdict = vi.MeanField(funnel).diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.advice[0] == "Nothing has been fitted yet."


@pytest.mark.parametrize("kind", [vi.MeanField, vi.Empirical])
def test_nothing_to_judge(kind):
    approx = fit(lambda: numpyro.sample("x", dist.Normal(0, 1).expand([0]).to_event(1)), 10)
    verdict = kind.from_approx(approx).diagnose(random_seed=0)
    assert verdict.ok
    assert verdict.advice == ("The model has no latent numbers: q is exact.",)
    assert verdict.sites.empty


def test_steps_that_were_dropped():
    few, many = exact(skipped=2), exact(skipped=20)
    assert few.diagnose(random_seed=0).ok
    assert not many.diagnose(random_seed=0).ok
    assert "2 of its steps were dropped" in said(few.diagnose(random_seed=0))


def test_heavy_tails():
    """A Gamma of shape 3 in log space falls off more slowly than any Gaussian."""
    verdict = fit(lambda: numpyro.sample("rate", dist.Gamma(3.0, 1.0))).diagnose(random_seed=0)
    assert not verdict.ok
    assert "Most weights are of one size, so the bulk of q is right" in said(verdict)


def test_no_shape_to_name():
    """Far too narrow in many dimensions, by equal parts."""
    approx = vi.MeanField(
        lambda: numpyro.sample("x", dist.Normal(0, 1).expand([30]).to_event(1)),
        start_sigma={"x": 0.6},
    )
    verdict = approx.at(approx.point, Facts(status="finished")).diagnose(random_seed=0)
    assert not verdict.ok
    assert "Few draws have most of the weight, so the table shows directions only" in said(verdict)


def test_minibatches_are_judged_on_the_full_data():
    """The weights are those of the log density of all rows, each counted once."""
    y = np.random.default_rng(0).normal(2, 1, size=1000).astype(np.float32)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    part = fit(model, 500, model_args=(vi.Minibatch(y, batch_size=50),))
    whole = part.with_model(Model(model, y))
    found, expected = (a.diagnose(random_seed=0) for a in (part, whole))
    assert found.khat == pytest.approx(expected.khat, abs=1e-6)
    assert found.elbo == pytest.approx(expected.elbo, abs=1e-3)
    exact_fit = vi.FullRank(model, model_args=(y,), start={"mu": float(y.mean())})
    exact_fit = exact_fit.from_approx(
        vi.Empirical({"mu": y.mean() + np.array([-1, 1]) / np.sqrt(1000)}, model=part.model)
    )
    verdict = exact_fit.at(exact_fit.point, Facts(status="finished")).diagnose(random_seed=0)
    assert verdict.ok
    assert verdict.khat < 0.3


def test_a_model_that_subsamples_has_no_khat():
    y = np.linspace(-1, 1, 50, dtype=np.float32)

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 50, subsample_size=5):
            numpyro.sample("y", dist.Normal(mu, 1), obs=numpyro.subsample(jnp.array(y), 0))

    verdict = fit(model, 200).diagnose(random_seed=0)
    assert verdict.khat is None
    assert not verdict.ok
    assert len(verdict.sites) == 0
    assert "The model draws a subsample inside, so there is no k-hat" in said(verdict)
    assert "mean moves by" not in str(verdict)


def test_draws_without_a_log_density():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("edge", jnp.where(x < -1.0, -jnp.inf, 0.0))

    approx = vi.MeanField(model, start_sigma={"x": 1.0})
    verdict = approx.at(approx.point, Facts(status="finished")).diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.elbo == -np.inf
    assert re.search(r"The log density is not finite at 1\d % of the draws", said(verdict))


def test_rounding_is_said():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("large", 1e7 + 0 * x)

    approx = vi.MeanField(model, start_sigma={"x": 1.0})
    verdict = approx.at(approx.point, Facts(status="finished")).diagnose(random_seed=0)
    assert "Log densities of this size are rounded to 1 nats" in said(verdict)
    assert "jax_enable_x64" in said(verdict)


# -- rows


def rows(values, model, **facts):
    approx = vi.Empirical({"x": values}, model=model)
    return approx.at(approx.point, Facts(**{"status": "finished", "method": "trace", **facts}))


def standard(ndim):
    return lambda: numpyro.sample("x", dist.Normal(0, 1).expand([ndim]).to_event(1))


def test_draws_of_the_posterior_as_rows():
    values = np.random.default_rng(0).normal(size=(2000, 3))
    verdict = rows(values, standard(3)).diagnose()
    assert verdict.ok
    assert verdict.headline == "good"
    assert verdict.khat is verdict.khat_threshold is verdict.elbo is verdict.elbo_se is None
    assert verdict.draws == 2000
    assert verdict.effective == pytest.approx(2000, rel=0.2)
    assert verdict.sites.loc["x", "sd_ratio"] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: 0.5 * x, "The rows are too close together: their variance is 0.2"),
        (lambda x: 2 * x, "The rows are too far apart: their variance is 4"),
        (lambda x: x + 1, "The rows sit on one side: at x[2] by about -1"),
        (lambda x: x[:1], "A single row has no spread"),
        (lambda x: np.repeat(x[:50], 40, axis=0), "effective draws at x"),
        (lambda x: np.repeat(x[:50], 40, axis=0), "Only 50 of 2,000 rows differ."),
        (lambda x: x[:20], "20 rows in 3 dimensions: means and sds are all to read off"),
    ],
)
def test_rows_that_are_not_those_of_the_posterior(change, words):
    values = np.random.default_rng(4).normal(size=(2000, 3))
    values -= values.mean(0)
    values[:, 2] += 0.02
    verdict = rows(change(values), standard(3)).diagnose()
    assert words in said(verdict)
    assert not verdict.ok


def test_collapsed_particles():
    approx = fit(standard(50), 300, method="svgd")
    verdict = approx.diagnose()
    assert not verdict.ok
    assert "too close together" in said(verdict)
    assert verdict.sites.loc["x", "sd_ratio"] > 2
    assert verdict.effective == 100


def test_at_most_so_many_rows_are_looked_at():
    """Every second row is far off: with half as many, none of these is seen."""
    values = np.zeros((400, 1))
    values[::2, 0] = np.random.default_rng(0).normal(size=200)
    values[1::2, 0] = 1e3
    found = [
        rows(values, standard(1)).diagnose(draws).sites["mean_shift"].iloc[0]
        for draws in (200, 400)
    ]
    assert abs(found[0]) < 1e-3 * abs(found[1])


def test_few_of_many_rows_raise_no_false_alarm():
    """The error of their mean score is that of 100 rows, a tenth, and not of 40,000."""
    values = 5 * np.random.default_rng(1).normal(size=(40_000, 1))
    verdict = rows(values, standard(1)).diagnose(100)
    assert verdict.draws == 100
    assert abs(verdict.sites["mean_shift"].iloc[0]) > 0.5  # noise, which is not to be told
    assert "sit on one side" not in said(verdict)


# -- how it looks


def wide_model():
    for i in range(12):
        numpyro.sample(f"site_{'long_' * 9}{i}", dist.Normal(0, 1 + i))


@pytest.mark.parametrize("model", [funnel, wide_model, correlated])
def test_text_fits_a_terminal(model):
    approx = vi.MeanField(model, start_sigma=None)
    verdict = approx.at(approx.point, Facts(status="finished", step=12_345)).diagnose(random_seed=0)
    lines = str(verdict).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 30
    assert re.fullmatch("MeanField, 12,345 steps: (not to be trusted|usable)", lines[0])
    assert str(verdict) == repr(verdict)


def test_table_shows_the_worst_sites():
    verdict = vi.MeanField(wide_model).diagnose(random_seed=0)
    assert len(verdict.sites) == 12
    shown = [line for line in str(verdict).splitlines() if " sd " in line and "site_" in line]
    assert len(shown) == 8
    assert "and 4 sites that are off less" in str(verdict)
    off = np.maximum(np.abs(verdict.sites["mean_shift"]), np.abs(np.log(verdict.sites["sd_ratio"])))
    assert (np.diff(off) <= 0).all()


def test_entries_are_named_by_their_index():
    def model():
        loc = np.zeros((2, 3))
        numpyro.sample("w", dist.Normal(loc, 1).to_event(2))
        numpyro.sample("empty", dist.Normal(np.zeros(0), 1).to_event(1))

    approx = vi.MeanField(
        model, start={"w": np.array([[0, 0, 0], [0, 0, 0.9]])}, start_sigma={"w": 1.0}
    )
    verdict = approx.diagnose(random_seed=0)
    assert list(verdict.sites.index) == ["w"]
    assert verdict.sites.loc["w", "entry"] == "[1, 2]"
    assert "w[1, 2]" in str(verdict)


def test_html():
    def model():
        numpyro.sample("a<b", dist.Normal(0, 1))

    text = vi.MeanField(model).diagnose(random_seed=0)._repr_html_()
    assert "a&lt;b" in text
    assert "a<b" not in text
    assert "<li>Nothing has been fitted yet.</li>" in text
    for tag in ("table", "ul", "p", "tr", "td", "li"):
        assert text.count(f"<{tag}") - text.count(f"<{tag}h") == text.count(f"</{tag}>")


# -- the call


def test_seeds_and_fresh_draws():
    approx = fitted(skewed)
    first, second, other = (approx.diagnose(500, random_seed=seed) for seed in (1, 1, 2))
    assert first.khat == second.khat != other.khat
    assert first.draws == 500
    assert first.khat_threshold == pytest.approx(1 - 1 / np.log10(500))
    assert approx.diagnose(500).khat != approx.diagnose(500).khat
    assert approx.diagnose(500, random_seed=jax.random.key(1)).khat == first.khat


@pytest.mark.parametrize(
    ("draws", "error", "words"),
    [(99, ValueError, "draws must be at least 100"), (1e3, TypeError, "draws must be an integer")],
)
def test_wrong_numbers_of_draws(draws, error, words):
    with pytest.raises(error, match=words):
        vi.MeanField(skewed).diagnose(draws)


def test_a_second_verdict_compiles_nothing():
    traced = []

    def model(y):
        traced.append(1)
        numpyro.sample("x", dist.Normal(y, 1))

    vi.MeanField(model, model_args=(1.0,)).diagnose(random_seed=0)
    count = len(traced)
    vi.MeanField(model, model_args=(2.0,)).diagnose(random_seed=1)
    assert len(traced) == count


def test_a_posterior_that_single_precision_cannot_resolve():
    """At 1e5 float32 numbers are 0.0078 apart; the posterior's sd is 0.001."""
    y = 1e5 + 0.01 * np.random.default_rng(0).normal(size=100)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1e6))
        numpyro.sample("y", dist.Normal(mu, 0.01), obs=y)

    approx = vi.fit(model, model_args=(y,), random_seed=0, progressbar=False)
    verdict = approx.diagnose(random_seed=0)
    assert not verdict.ok
    assert "Neighbouring numbers at mu are 7.3 of its sds apart" in said(verdict)
    assert np.isfinite(verdict.sites.to_numpy()[:, 1:].astype(float)).all()
