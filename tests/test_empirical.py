"""Empirical approximations, and approximations that start from others."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zoo
from numpyro.infer import init_to_value
from scipy import stats

import numpyro_vi_ext as vi
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.families.gaussian import cholesky

RNG = np.random.default_rng(7)
N = 12
DRAWS = {
    "scale": RNG.gamma(2.0, size=N).astype(np.float32),
    "effect": RNG.normal(size=(N, 3)).astype(np.float32),
}
Y = np.array([0.5, -1.0, 2.0])
X = np.array([1.0, 2.0, -1.0])


def model(x, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    with numpyro.plate("i", 3):
        effect = numpyro.sample("effect", dist.Normal(0, scale))
    mean = numpyro.deterministic("mean", effect[: len(x)] * x)
    numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def of_draws(draws=DRAWS):
    return vi.Empirical(draws, model=model, model_args=(X, Y))


def particles(size=100, **options):
    return vi.Empirical(size=size, model=model, model_args=(X, Y), **options)


def of_rows(rows):
    """An Empirical with these rows: its model's sites are unconstrained."""
    rows = np.asarray(rows, np.float32)

    def flat():
        with numpyro.plate("i", rows.shape[1]):
            numpyro.sample("z", dist.Normal(0, 1))

    return vi.Empirical({"z": rows}, model=flat)


# -- rows


def test_histogram():
    approx = of_draws()
    expected = np.column_stack([np.log(DRAWS["scale"]), DRAWS["effect"]])
    np.testing.assert_allclose(approx.histogram, expected, rtol=1e-6)
    assert list(approx.params) == ["histogram"]
    np.testing.assert_array_equal(approx.params["histogram"], approx.histogram)
    assert approx.ordering == {"scale": (slice(0, 1), ()), "effect": (slice(1, 4), (3,))}
    assert approx.ndim == 4


def test_evaluate_over_trace():
    """Every row, in order; NumPy on the draws says the same."""
    approx = of_draws()
    scale, effect = DRAWS["scale"], DRAWS["effect"]
    node = {
        "site": "scale",
        "deterministic": "mean",
        "function": lambda s: jnp.log(s["scale"]) + s["effect"].sum(),
        "observed": ("y", lambda s: s["y"] - s["mean"]),
    }
    found = approx.evaluate_over_trace(node)
    np.testing.assert_allclose(found["site"], scale, rtol=1e-6)
    np.testing.assert_allclose(found["deterministic"], effect * X, rtol=1e-6)
    np.testing.assert_allclose(found["function"], np.log(scale) + effect.sum(1), rtol=1e-5)
    data, residual = found["observed"]
    np.testing.assert_array_equal(data, np.tile(np.float32(Y), (N, 1)))
    np.testing.assert_allclose(residual, Y - effect * X, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block_size", [None, 1, 5, 100])
def test_evaluate_over_trace_elsewhere(block_size):
    new = np.array([3.0, -2.0])
    found = of_draws().evaluate_over_trace(
        "mean", more_replacements={"x": new, "y": None}, block_size=block_size
    )
    np.testing.assert_allclose(found, DRAWS["effect"][:, :2] * new, rtol=1e-6)
    fixed = of_draws().evaluate_over_trace(
        ["scale", "effect"], more_replacements={"effect": np.arange(3.0)}, block_size=block_size
    )
    np.testing.assert_allclose(fixed[0], DRAWS["scale"], rtol=1e-6)
    np.testing.assert_array_equal(fixed[1], np.tile(np.arange(3.0), (N, 1)))


def test_evaluate_over_trace_refuses():
    with pytest.raises(KeyError, match="the model has no site 'nothing'"):
        of_draws().evaluate_over_trace("nothing")
    with pytest.raises(KeyError, match="nothing"):
        of_draws().evaluate_over_trace("mean", more_replacements={"nothing": 1.0})
    with pytest.raises(TypeError, match="a node must be the name of a site"):
        of_draws().evaluate_over_trace(3)
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        of_draws().evaluate_over_trace("mean", block_size=0)


def test_evaluate_at_the_mean():
    """The row mean in unconstrained space: the geometric mean of a positive site."""
    found = of_draws().sample_node(["scale", "effect"], deterministic=True)
    np.testing.assert_allclose(found[0], stats.gmean(DRAWS["scale"]), rtol=1e-5)
    np.testing.assert_allclose(found[1], DRAWS["effect"].mean(0), rtol=1e-5, atol=1e-7)


# -- draws


def test_draws_are_rows_each_equally_likely():
    approx, draws = of_draws(), 60_000
    found = jax.device_get(approx.sample_dict(draws, random_seed=3))
    picked = np.argmin(np.abs(found["scale"][:, None] - DRAWS["scale"]), axis=1)
    np.testing.assert_allclose(found["scale"], DRAWS["scale"][picked], rtol=1e-6)
    # The sites of a draw are those of one row.
    np.testing.assert_allclose(found["effect"], DRAWS["effect"][picked], rtol=1e-6)
    counts = np.bincount(picked, minlength=N)
    chi_square = ((counts - draws / N) ** 2 / (draws / N)).sum()
    assert stats.chi2(N - 1).ppf(1e-4) < chi_square < stats.chi2(N - 1).ppf(1 - 1e-4)
    # Draws do not depend on each other: pairs in a row are uniform as well.
    pairs = np.bincount(picked[::2] * N + picked[1::2], minlength=N * N)
    expected = draws / 2 / N**2
    assert ((pairs - expected) ** 2 / expected).sum() < stats.chi2(N * N - 1).ppf(1 - 1e-4)


def test_draws_are_put_back():
    rows = np.arange(5.0)[:, None]
    found = np.asarray(of_rows(rows).sample_dict(2000, random_seed=0)["z"]).reshape(400, 5)
    distinct = np.array([len(set(draws)) for draws in found])
    expected = 5 * (1 - (4 / 5) ** 5)  # of 5 draws from 5 rows
    assert distinct.mean() == pytest.approx(expected, abs=4 * distinct.std() / np.sqrt(400))


def test_seeds():
    approx = of_draws()
    for sample in (
        lambda seed: approx.sample_dict(6, seed)["effect"],
        lambda seed: approx.sample(6, random_seed=seed)["posterior"]["effect"].values,
        lambda seed: approx.sample_node("scale", 6, random_seed=seed),
    ):
        np.testing.assert_array_equal(sample(5), sample(5))
        assert not np.array_equal(sample(5), sample(6))
        assert not np.array_equal(sample(None), sample(None))


def test_sample():
    found = of_draws().sample(9, random_seed=0)
    assert found["posterior"]["effect"].dims == ("chain", "draw", "i")
    values = found["posterior"]["effect"].values[0]
    assert all(row.tolist() in DRAWS["effect"].tolist() for row in values)
    expected = of_draws().sample_dict(9, random_seed=0)
    np.testing.assert_array_equal(values, expected["effect"])
    np.testing.assert_array_equal(found["posterior"]["mean"].values[0], expected["mean"])
    np.testing.assert_allclose(expected["mean"], expected["effect"] * X, rtol=1e-6)


def test_draw_inside_compiled_code():
    approx = of_draws()
    keys = jax.random.split(jax.random.key(1), 4)
    found = jax.jit(jax.vmap(approx.draw))(keys)["scale"]
    assert np.isclose(np.asarray(found)[:, None], DRAWS["scale"], rtol=1e-6).any(1).all()


# -- moments


def test_moments():
    rows = of_draws().histogram.astype(float)
    approx = of_draws()
    np.testing.assert_allclose(approx.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(approx.std, rows.std(0), rtol=1e-6)
    np.testing.assert_allclose(approx.cov, np.cov(rows.T, bias=True), rtol=1e-6)
    assert {x.dtype for x in (approx.mean, approx.std, approx.cov)} == {np.dtype(np.float32)}
    assert float(approx.mean_data["scale"]) == approx.mean[0]
    np.testing.assert_array_equal(approx.std_data["effect"], approx.std[1:])


def test_moments_of_a_million_rows_far_from_zero():
    """Sums in single precision would be off in the first digits."""
    rows = (3e6 + 0.1 + RNG.normal(size=(10**6, 2)) @ [[2.0, 1.0], [0.0, 1.0]]).astype("f")
    q, exact = Histogram(jnp.asarray(rows)), rows.astype(float)
    np.testing.assert_allclose(q.mean(), exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(q.std(), exact.std(0), rtol=1e-6)
    np.testing.assert_allclose(q.cov(), np.cov(exact.T, bias=True), rtol=1e-5)
    np.testing.assert_allclose(np.diag(q.cov()), q.std() ** 2, rtol=1e-5)


def test_moments_of_one_row():
    approx = of_rows([[1.0, 2.0]])
    np.testing.assert_array_equal(approx.mean, [1.0, 2.0])
    np.testing.assert_array_equal(approx.std, [0.0, 0.0])
    np.testing.assert_array_equal(approx.cov, np.zeros((2, 2)))


def test_no_density():
    approx = of_draws()
    for name in ("log_prob", "elbo", "entropy"):
        assert not hasattr(approx, name)
    with pytest.raises(TypeError, match=r"with a density.* got Empirical"):
        vi.KLqp(approx)


def test_repr():
    text = "Empirical(sites=[scale, effect], ndim=4, rows=12, status='finished')"
    assert repr(of_draws()) == text
    text = "Empirical(sites=[scale, effect], ndim=4, rows=100, status='initialized')"
    assert repr(particles()) == text
    approx = of_draws()
    assert (approx.steps, approx.hist.size) == (0, 0)
    assert approx.message == "1 chains of 12 draws"


# -- particles


def test_particles_around_the_start():
    start = {"scale": 2.0, "effect": np.array([1.0, -3.0, 0.5])}
    approx = particles(20_000, start=start, jitter=0.3, random_seed=1)
    assert approx.histogram.shape == (20_000, 4)
    assert approx.histogram.dtype == np.float32
    centre = [np.log(2.0), 1.0, -3.0, 0.5]
    np.testing.assert_allclose(approx.mean, centre, atol=4 * 0.3 / np.sqrt(20_000))
    np.testing.assert_allclose(approx.std, 0.3, rtol=4 / np.sqrt(2 * 20_000))
    correlation = np.corrcoef(approx.histogram.T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(20_000)
    assert stats.kstest((approx.histogram[:, 2] + 3) / 0.3, "norm").pvalue > 1e-3


def test_default_jitter_is_one():
    approx = particles(20_000, random_seed=1)
    np.testing.assert_allclose(approx.std, 1.0, rtol=4 / np.sqrt(2 * 20_000))
    same = particles(20_000, random_seed=1, jitter=1)
    np.testing.assert_array_equal(approx.histogram, same.histogram)
    default = vi.MeanField(model, model_args=(X, Y)).mean  # the prior means
    np.testing.assert_allclose(approx.mean, default, atol=4 / np.sqrt(20_000))


def test_start_sigma_goes_before_jitter():
    approx = particles(20_000, jitter=0.5, start_sigma={"effect": [0.1, 1.0, 2.0]}, random_seed=0)
    np.testing.assert_allclose(approx.std, [0.5, 0.1, 1.0, 2.0], rtol=4 / np.sqrt(2 * 20_000))


def test_no_jitter():
    start = {"scale": 2.0}
    approx = particles(5, jitter=0, start=start)
    expected = vi.MeanField(model, model_args=(X, Y), start=start).mean
    np.testing.assert_array_equal(approx.histogram, np.tile(expected, (5, 1)))


def test_particles_from_a_strategy():
    strategy = init_to_value(values={"scale": 3.0, "effect": jnp.ones(3)})
    approx = particles(2, jitter=0, init_strategy=strategy)
    np.testing.assert_allclose(approx.histogram[0], [np.log(3.0), 1, 1, 1], rtol=1e-6)


def test_seeds_of_particles():
    first = particles(8, random_seed=4).histogram
    np.testing.assert_array_equal(first, particles(8, random_seed=4).histogram)
    np.testing.assert_array_equal(first, particles(8, random_seed=jax.random.key(4)).histogram)
    assert not np.isin(first, particles(8, random_seed=5).histogram).any()
    assert not np.isin(particles(8).histogram, particles(8).histogram).any()
    assert len(np.unique(first)) == first.size


@pytest.mark.parametrize("size", [1, np.int32(3)])
def test_number_of_particles(size):
    assert particles(size).histogram.shape == (int(size), 4)


def test_particles_in_double_precision():
    with jax.enable_x64(True):
        approx = particles(3)
        assert approx.histogram.dtype == np.float64
        assert approx.cov.dtype == np.float64
        assert approx.sample_dict(2)["scale"].dtype == np.float64


# -- refused


def test_neither_or_both():
    with pytest.raises(TypeError, match="either a trace or a size, got neither"):
        vi.Empirical(model=model, model_args=(X, Y))
    with pytest.raises(TypeError, match="either a trace or a size, got both"):
        vi.Empirical(DRAWS, 10, model=model, model_args=(X, Y))


def test_bad_sizes():
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
            particles(size)
    for size in (2.0, "3", True):
        with pytest.raises(TypeError, match="size must be an integer"):
            particles(size)


def test_bad_jitter():
    for jitter in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="jitter must be at least 0 and finite"):
            particles(jitter=jitter)
    for jitter in ("1", True, [1.0]):
        with pytest.raises(TypeError, match="jitter must be a number"):
            particles(jitter=jitter)


def test_bad_starts():
    with pytest.raises(KeyError, match="start names"):
        particles(start={"mean": 1.0})
    with pytest.raises(KeyError, match="start_sigma names"):
        particles(start_sigma={"nothing": 1.0})
    with pytest.raises(ValueError, match="start_sigma"):
        particles(start_sigma={"scale": -1.0})


def test_options_of_the_other_kind():
    """Nothing is ignored."""
    options = {"jitter": 0.5, "start": {"scale": 1.0}, "start_sigma": {"scale": 1.0}}
    for name, value in options.items():
        with pytest.raises(TypeError, match=rf"\['{name}'\] cannot be applied to a trace"):
            vi.Empirical(DRAWS, model=model, model_args=(X, Y), **{name: value})
    with pytest.raises(TypeError, match=r"\['init_strategy'\] cannot be applied to a trace"):
        vi.Empirical(DRAWS, model=model, model_args=(X, Y), init_strategy=init_to_value(values={}))
    with pytest.raises(TypeError, match=r"\['group_by_chain'\] cannot be applied to particles"):
        particles(group_by_chain=False)


# -- from one kind to another

COV = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, -0.3], [0.0, -0.3, 0.5]])
MEAN = np.array([1.0, -2.0, 0.5])


def correlated():
    """A normal posterior whose covariance and evidence are known; the prior mean is far away."""
    x = numpyro.sample("x", dist.Normal(0, 10).expand([3]).to_event(1))
    numpyro.factor("likelihood", dist.MultivariateNormal(jnp.asarray(MEAN), COV).log_prob(x))


PRECISION = np.linalg.inv(COV) + np.eye(3) / 100
POSTERIOR_COV = np.linalg.inv(PRECISION)
POSTERIOR_MEAN = POSTERIOR_COV @ np.linalg.inv(COV) @ MEAN
LOG_EVIDENCE = stats.multivariate_normal(cov=COV + 100 * np.eye(3)).logpdf(MEAN)


def normal_rows(n=500):
    return RNG.multivariate_normal(MEAN, COV, size=n)


def full_rank():
    return vi.FullRank.from_approx(of_rows(normal_rows()))


def test_full_rank_from_mean_field():
    mean_field = vi.MeanField(model, model_args=(X, Y), start_sigma={"scale": 0.1, "effect": 3.0})
    approx = vi.FullRank.from_approx(mean_field)
    assert type(approx) is vi.FullRank
    np.testing.assert_array_equal(approx.mean, mean_field.mean)
    np.testing.assert_allclose(approx.cov, np.diag([0.01, 9.0, 9.0, 9.0]), rtol=1e-6)
    z = RNG.normal(size=(5, 4))
    np.testing.assert_allclose(approx.log_prob(z), mean_field.log_prob(z), rtol=1e-5)
    assert (approx.steps, approx.status, approx.hist.size) == (0, "initialized", 0)
    assert approx.model is mean_field.model


def test_mean_field_from_full_rank_keeps_standard_deviations():
    dense = full_rank()
    approx = vi.MeanField.from_approx(dense)
    np.testing.assert_array_equal(approx.mean, dense.mean)
    np.testing.assert_allclose(approx.std, dense.std, rtol=1e-6)
    np.testing.assert_allclose(approx.cov, np.diag(np.diag(dense.cov)), rtol=1e-6)


def test_full_rank_from_itself():
    dense = full_rank()
    approx = vi.FullRank.from_approx(dense)
    np.testing.assert_array_equal(approx.mean, dense.mean)
    np.testing.assert_allclose(approx.cov, dense.cov, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [5, 500])
def test_gaussians_from_rows(n):
    """By moments: 1/n, as for the rows themselves."""
    rows = np.float32(normal_rows(n)).astype(float)
    approx = of_rows(rows)
    dense = vi.FullRank.from_approx(approx)
    np.testing.assert_allclose(dense.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dense.cov, np.cov(rows.T, bias=True), rtol=1e-5, atol=1e-6)
    diagonal = vi.MeanField.from_approx(approx)
    np.testing.assert_allclose(diagonal.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(diagonal.std, rows.std(0), rtol=1e-6)


@pytest.mark.slow  # compared at the last digits, which are those of optimised code
def test_empirical_from_a_gaussian():
    dense = full_rank()
    approx = vi.Empirical.from_approx(dense, 20_000, random_seed=3)
    assert repr(approx) == "Empirical(sites=[z], ndim=3, rows=20000, status='initialized')"
    rows = approx.histogram
    sds = np.sqrt(np.diag(dense.cov))
    assert (np.abs(rows.mean(0) - dense.mean) < 4 * sds / np.sqrt(20_000)).all()
    np.testing.assert_allclose(np.cov(rows.T), dense.cov, atol=0.05)
    whitened = np.linalg.solve(np.linalg.cholesky(dense.cov), (rows - dense.mean).T)
    for column in whitened:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    same = vi.Empirical.from_approx(dense, 20_000, random_seed=3)
    np.testing.assert_array_equal(same.histogram, rows)
    other = vi.Empirical.from_approx(dense, 20_000, random_seed=4)
    assert not np.isin(other.histogram[:100], rows).any()
    assert len(vi.Empirical.from_approx(dense).histogram) == 100


def test_empirical_from_rows():
    rows = np.arange(4.0)[:, None]
    found = vi.Empirical.from_approx(of_rows(rows), 4000, random_seed=0).histogram
    counts = np.bincount(found[:, 0].astype(int), minlength=4)
    assert counts.sum() == 4000
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


def test_a_fit_goes_on_from_a_warm_start():
    mean_field = vi.fit(correlated, 3000, random_seed=0, progressbar=False)
    # The best that mean-field can do: KL(q || posterior) between two Gaussians.
    gap = 0.5 * np.log(np.linalg.det(POSTERIOR_COV) * np.prod(np.diag(PRECISION)))
    assert gap > 0.5
    assert mean_field.elbo(4000, 0).elbo == pytest.approx(LOG_EVIDENCE - gap, abs=0.1)
    start = vi.FullRank.from_approx(mean_field)
    inference = vi.KLqp(start, random_seed=1)
    np.testing.assert_array_equal(inference.approx.mean, mean_field.mean)
    approx = inference.fit(3000, progressbar=False)
    # It begins where mean-field ended, not at the start of a new fit, and ends at the posterior.
    cold = vi.KLqp(vi.FullRank(correlated), random_seed=1)
    cold.fit(50, warmup=False, progressbar=False)
    assert approx.hist[:20].mean() == pytest.approx(gap - LOG_EVIDENCE, abs=0.7)
    assert cold.hist[:20].mean() > gap - LOG_EVIDENCE + 5
    assert approx.elbo(4000, 0).elbo == pytest.approx(LOG_EVIDENCE, abs=0.01)
    np.testing.assert_allclose(approx.mean, POSTERIOR_MEAN, atol=0.05)
    np.testing.assert_allclose(approx.cov, POSTERIOR_COV, atol=0.05)
    np.testing.assert_array_equal(start.mean, mean_field.mean)  # not changed by the fit


def test_gaussian_from_a_sampler_is_a_warm_start():
    rows = RNG.multivariate_normal(POSTERIOR_MEAN, POSTERIOR_COV, size=4000)
    dense = vi.FullRank.from_approx(vi.Empirical({"x": rows}, model=correlated))
    exact = stats.multivariate_normal(POSTERIOR_MEAN, POSTERIOR_COV)
    np.testing.assert_allclose(dense.log_prob(rows[:5]), exact.logpdf(rows[:5]), atol=0.2)
    assert dense.elbo(1000, 0).elbo == pytest.approx(LOG_EVIDENCE, abs=0.01)


def test_params_of_the_model_are_carried_along():
    approx = vi.fit(zoo.params, 200, model_args=(zoo.Y,), random_seed=0, progressbar=False)
    before = approx.model_params
    assert not np.allclose(before["centre"], 0.3, atol=1e-3)  # they have been fitted
    for other in (
        vi.FullRank.from_approx(approx),
        vi.MeanField.from_approx(approx),
        vi.Empirical.from_approx(approx, 10),
        vi.FullRank.from_approx(vi.Empirical.from_approx(approx, 10)),
    ):
        assert other.model_params.keys() == before.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(other.model_params[name], value)


def test_params_of_the_model_for_a_trace():
    """Those at which the model starts; the seed decides where that is random."""
    draws = {"z": np.arange(3.0)}
    options = {"model": zoo.params, "model_args": (zoo.Y,)}
    first, same, other = (vi.Empirical(draws, **options, random_seed=s) for s in (1, 1, 2))
    assert float(first.model_params["centre"]) == pytest.approx(0.3)
    np.testing.assert_array_equal(first.model_params["drawn"], same.model_params["drawn"])
    assert not np.array_equal(first.model_params["drawn"], other.model_params["drawn"])


# -- refused


@pytest.mark.parametrize("kind", [vi.MeanField, vi.FullRank, vi.Empirical])
def test_not_an_approximation(kind):
    for bad, name in ((model, "function"), (DRAWS, "dict"), (None, "NoneType"), (vi.ADVI, "")):
        text = f"{kind.__name__}.from_approx starts from an Approximation, got {name}"
        with pytest.raises(TypeError, match=text):
            kind.from_approx(bad)


@pytest.mark.parametrize("kind", [vi.MeanField, vi.FullRank])
def test_no_spread(kind):
    equal = particles(6, jitter=0)
    with pytest.raises(ValueError, match=r"no spread at the sites \['scale', 'effect'\]"):
        kind.from_approx(equal)
    one = of_draws({name: value[:1] for name, value in DRAWS.items()})
    with pytest.raises(ValueError, match="no spread"):
        kind.from_approx(one)
    effect = DRAWS["effect"].copy()
    effect[:, 1] = 3.0
    with pytest.raises(ValueError, match=r"no spread at the sites \['effect'\]"):
        kind.from_approx(of_draws({**DRAWS, "effect": effect}))


@pytest.mark.parametrize("case", ["few rows", "as many rows", "dependent", "repeated"])
def test_singular_covariance(case):
    rows = RNG.normal(size=(50, 4))
    if case == "dependent":
        rows[:, 3] = 2 * rows[:, 1] - rows[:, 0]
    rows = {"few rows": rows[:3], "as many rows": rows[:4], "repeated": rows[[0, 1, 2] * 9]}.get(
        case, rows
    )
    with pytest.raises(
        ValueError, match=r"of 4 dimensions, is singular: .* MeanField\.from_approx"
    ):
        vi.FullRank.from_approx(of_rows(rows))
    diagonal = vi.MeanField.from_approx(of_rows(rows))
    np.testing.assert_allclose(diagonal.std, np.float32(rows).std(0), rtol=1e-5)


def test_enough_rows_are_enough():
    dense = vi.FullRank.from_approx(of_rows(RNG.normal(size=(5, 4))))
    assert np.isfinite(dense.log_prob(np.zeros(4)))


def test_cholesky_of_scales_far_apart():
    """What is singular does not depend on the units of the coordinates."""
    units = np.array([1e-6, 1.0, 1e6])
    cov = COV * np.outer(units, units)
    factor = cholesky(cov.astype(np.float32))
    np.testing.assert_allclose(factor @ factor.T, cov, rtol=1e-5, atol=1e-12)
    indefinite = np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="is singular"):
        cholesky(indefinite)


def test_bad_sizes_for_from_approx():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        vi.Empirical.from_approx(of_draws(), 0)
    with pytest.raises(TypeError, match="size must be an integer"):
        vi.Empirical.from_approx(of_draws(), 1.5)
