"""Approximations as distributions: moments, draws, densities, ELBO. Most of them are unfitted."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import numpyro_vi_ext as vi
from numpyro_vi_ext.families.gaussian import DenseGaussian

LOG_2PI = np.log(2 * np.pi)


def mixed():
    """A scalar, a positive vector and a deterministic site, not in alphabetical order."""
    x = numpyro.sample("x", dist.Normal(1, 2))
    with numpyro.plate("i", 3):
        numpyro.sample("s", dist.HalfNormal(1))
    numpyro.deterministic("a_square", x**2)


def conjugate(y):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    numpyro.sample("y", dist.Normal(mu, 2), obs=y)


Y = np.array([1.0, 4.0, 2.5, 3.0], np.float32)
PRECISION = 1 / 9 + len(Y) / 4  # of the posterior of mu
POSTERIOR = stats.norm(Y.sum() / 4 / PRECISION, PRECISION**-0.5)
LOG_EVIDENCE = stats.multivariate_normal(cov=4 * np.eye(4) + 9).logpdf(Y)


def normal(approx, **params):
    """The same approximation with other variational parameters."""
    q = approx.point.q
    new = type(q)(**{k: jnp.asarray(v, jnp.float32) for k, v in params.items()})
    return approx.at(approx.point._replace(q=new), approx.facts)


def exact_posterior():
    sigma = POSTERIOR.std()
    approx = vi.MeanField(conjugate, model_args=(Y,))
    return normal(approx, mu=[POSTERIOR.mean()], rho=[np.log(np.expm1(sigma))])


def dense():
    """A full-rank q over three normal coordinates, and its mean and Cholesky factor."""

    def model():
        numpyro.sample("x", dist.Normal(jnp.zeros(3), 1).to_event(1))

    mean = np.array([1.0, -2.0, 0.5])
    factor = np.array([[0.8, 0.0, 0.0], [0.5, 1.3, 0.0], [-0.7, 0.2, 0.4]])
    raw = np.tril(factor, -1) + np.diag(np.log(np.expm1(np.diag(factor))))
    return normal(vi.FullRank(model), mu=mean, raw=raw), mean, factor


# -- parameters and moments


def test_ordering_is_trace_order():
    approx = vi.MeanField(mixed)
    assert approx.ordering == {
        "x": (slice(0, 1), ()),
        "s": (slice(1, 4), (3,)),
    }
    assert approx.ndim == 4
    assert list(approx.sample_dict(3)) == ["x", "s", "a_square"]


def test_mean_field_parameters_and_moments():
    approx = vi.MeanField(mixed, start={"x": 3.0, "s": 0.5}, start_sigma={"s": [0.1, 0.2, 0.3]})
    assert {k: v.shape for k, v in approx.params.items()} == {"mu": (4,), "rho": (4,)}
    np.testing.assert_allclose(approx.mean, [3.0, *[np.log(0.5)] * 3], rtol=1e-6)
    sigma = [np.log(2), 0.1, 0.2, 0.3]
    np.testing.assert_allclose(approx.std, sigma, rtol=1e-5)
    np.testing.assert_allclose(np.log1p(np.exp(approx.params["rho"])), approx.std, rtol=1e-5)
    np.testing.assert_allclose(approx.cov, np.diag(np.square(sigma)), rtol=1e-5)


def test_full_rank_parameters_and_moments():
    approx, mean, factor = dense()
    np.testing.assert_allclose(approx.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(approx.cov, factor @ factor.T, rtol=1e-5)
    np.testing.assert_allclose(approx.std, np.sqrt(np.diag(factor @ factor.T)), rtol=1e-5)
    raw = np.asarray(approx.point.q.raw)
    np.testing.assert_array_equal(approx.params["L_tril"], raw[np.tril_indices(3)])


def test_full_rank_starts_like_mean_field():
    options = {"start": {"x": 3.0}, "start_sigma": {"x": 0.25}}
    full_rank, mean_field = vi.FullRank(mixed, **options), vi.MeanField(mixed, **options)
    np.testing.assert_allclose(full_rank.mean, mean_field.mean)
    np.testing.assert_allclose(full_rank.cov, mean_field.cov, rtol=1e-5)


def test_results_are_plain_arrays():
    for approx in (vi.MeanField(mixed), vi.FullRank(mixed)):
        for value in (approx.mean, approx.std, approx.cov, approx.hist, *approx.params.values()):
            assert type(value) is np.ndarray


def test_model_params_are_in_the_models_space():
    def model():
        scale = numpyro.param("scale", 3.0, constraint=dist.constraints.positive)
        numpyro.sample("x", dist.Normal(0, scale))

    approx = vi.MeanField(model)
    np.testing.assert_allclose(approx.model_params["scale"], 3.0, rtol=1e-6)
    assert list(approx.sample_dict(3)) == ["x"]


# -- draws


def test_draws_have_the_moments_of_transformed_gaussians():
    """x ~ N(mu, sd), s ~ log-normal, each component by itself: 4 standard errors."""
    approx = vi.MeanField(mixed, start={"x": 3.0, "s": 0.5}, start_sigma={"x": 2.0, "s": 0.3})
    n = 20_000
    values = {k: np.asarray(v) for k, v in approx.sample_dict(n, random_seed=0).items()}
    assert values["x"].shape == (n,)
    assert values["s"].shape == (n, 3)
    expected = {
        "x": (3.0, 2.0),
        "s": (0.5 * np.exp(0.3**2 / 2), 0.5 * np.sqrt(np.exp(2 * 0.09) - np.exp(0.09))),
        "a_square": (13.0, np.sqrt(4 * 9 * 4 + 2 * 2**4)),
    }
    for name, (mean, sd) in expected.items():
        np.testing.assert_allclose(values[name].mean(axis=0), mean, atol=4 * sd / np.sqrt(n))
        np.testing.assert_allclose(values[name].std(axis=0), sd, rtol=0.06)
    np.testing.assert_allclose(values["a_square"], values["x"] ** 2, rtol=1e-6)


def test_draws_of_a_correlation_matrix():
    """In two dimensions the one correlation is tanh of the one coordinate."""

    def model():
        numpyro.sample("L", dist.LKJCholesky(2, 1.0))

    approx = vi.MeanField(model, start={"L": np.eye(2)}, start_sigma={"L": 0.5})
    correlation = np.asarray(approx.sample_dict(20_000, random_seed=1)["L"][:, 1, 0])
    z = stats.norm(approx.mean[0], 0.5)
    mean = z.expect(np.tanh)
    sd = np.sqrt(z.expect(lambda z: np.tanh(z) ** 2) - mean**2)
    assert correlation.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(20_000))
    assert correlation.std() == pytest.approx(sd, rel=0.03)


def test_full_rank_draws_have_its_covariance():
    approx, mean, factor = dense()
    x = np.asarray(approx.sample_dict(40_000, random_seed=2)["x"])
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), factor @ factor.T, atol=0.05)


def test_seeds():
    approx = vi.MeanField(mixed)
    for sample in (
        lambda seed: approx.sample_dict(3, seed)["x"],
        lambda seed: approx.sample(3, random_seed=seed)["posterior"]["x"].values,
        lambda seed: vi.sample_approx(approx, 3, random_seed=seed)["posterior"]["x"].values,
        lambda seed: np.asarray(approx.elbo(3, seed).elbo),
    ):
        np.testing.assert_array_equal(sample(5), sample(5))
        np.testing.assert_array_equal(sample(5), sample(jax.random.key(5)))
        np.testing.assert_array_equal(sample(5), sample(jax.random.PRNGKey(5)))
        assert not np.array_equal(sample(None), sample(None))
        assert not np.array_equal(sample(5), sample(6))


def test_sample_approx_is_sample():
    approx = vi.MeanField(mixed)
    defaults = (inspect.signature(f).parameters["draws"] for f in (vi.sample_approx, approx.sample))
    assert [p.default for p in defaults] == [100, 500]  # as in PyMC
    values = vi.sample_approx(approx, 3, return_inferencedata=False, include_transformed=True)
    assert values["s__unconstrained"].shape == (3, 3)


@pytest.mark.parametrize("count", [0, np.int32(3), jnp.asarray(3)])
def test_number_of_draws(count):
    values = vi.MeanField(mixed).sample_dict(count)
    n = int(count)
    assert {k: v.shape for k, v in values.items()} == {"x": (n,), "s": (n, 3), "a_square": (n,)}


@pytest.mark.parametrize("function", [lambda a, n: a.sample(n), lambda a, n: a.sample_dict(n)])
def test_bad_number_of_draws(function):
    approx = vi.MeanField(mixed)
    with pytest.raises(ValueError, match="draws must be at least 0, got -1"):
        function(approx, -1)
    for bad in (1.5, 2.0, "3", None, True, (2,)):
        with pytest.raises(TypeError, match="draws must be an int"):
            function(approx, bad)
    with pytest.raises(TypeError, match="random_seed must be None, an int or a JAX key, got str"):
        approx.sample_dict(2, random_seed="one")


# -- draw, the bridge to JAX


def test_draw_is_a_pure_function_of_the_key():
    approx = vi.MeanField(mixed)
    eager = approx.draw(jax.random.key(3))
    assert list(eager) == ["x", "s", "a_square"]
    for values in (jax.jit(approx.draw)(jax.random.key(3)), approx.draw(jax.random.PRNGKey(3))):
        for name, value in eager.items():
            np.testing.assert_allclose(values[name], value, rtol=1e-6)


def test_draw_under_vmap_is_sample_dict():
    approx = vi.MeanField(mixed)
    keys = jax.random.split(jax.random.key(4), 3)
    values = jax.vmap(approx.draw)(keys)
    for name, value in approx.sample_dict(3, jax.random.key(4)).items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5)


def test_gradient_through_draw():
    """d/da of E[a x] over draws is the mean of x."""
    approx = vi.MeanField(mixed)
    keys = jax.random.split(jax.random.key(4), 3)

    def expectation(a):
        return jnp.mean(a * jax.vmap(approx.draw)(keys)["x"])

    x = approx.sample_dict(3, jax.random.key(4))["x"]
    np.testing.assert_allclose(jax.jit(jax.grad(expectation))(2.0), x.mean(), rtol=1e-5)


# -- densities


def test_log_prob_and_entropy_of_mean_field():
    approx = vi.MeanField(mixed, start_sigma={"x": 2.0, "s": 0.3})
    z = np.random.default_rng(0).normal(size=(4, 2, 4))
    expected = stats.norm(approx.mean, approx.std).logpdf(z).sum(axis=-1)
    np.testing.assert_allclose(approx.log_prob(z), expected, rtol=1e-5)
    assert approx.log_prob(z[0, 0]).shape == ()
    entropy = stats.norm(approx.mean, approx.std).entropy().sum()
    np.testing.assert_allclose(approx.entropy(), entropy, rtol=1e-5)


def test_log_prob_and_entropy_of_full_rank():
    approx, mean, factor = dense()
    exact = stats.multivariate_normal(mean, factor @ factor.T)
    z = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(approx.log_prob(z), exact.logpdf(z), rtol=1e-4)
    np.testing.assert_allclose(approx.entropy(), exact.entropy(), rtol=1e-5)


def test_points_that_are_no_numbers():
    approx = vi.MeanField(mixed)
    for function in (approx.log_prob, approx.model.log_density, approx.model.constrain):
        with pytest.raises(TypeError, match="z must be an array of numbers, got 'x'"):
            function("x")


def test_sample_approx_of_something_else():
    with pytest.raises(TypeError, match="sample_approx draws from an Approximation, got int"):
        vi.sample_approx(3)


def test_log_prob_of_a_wrong_shape():
    with pytest.raises(ValueError, match=r"last axis of length ndim = 4, got shape \(3,\)"):
        vi.MeanField(mixed).log_prob(np.zeros(3))
    with pytest.raises(ValueError, match=r"last axis of length ndim = 4, got shape \(\)"):
        vi.MeanField(mixed).log_prob(0.0)


# -- ELBO


def test_elbo_at_the_exact_posterior_is_the_log_evidence():
    elbo, se = exact_posterior().elbo(200, random_seed=0)
    assert elbo == pytest.approx(LOG_EVIDENCE, abs=2e-4)
    assert se < 1e-5  # every draw gives the log evidence


def test_elbo_off_the_posterior():
    """ELBO = log evidence - KL(q || posterior), between two Gaussians."""
    approx = vi.MeanField(conjugate, model_args=(Y,), start={"mu": 1.0}, start_sigma={"mu": 1.5})
    ratio = 1.5**2 / POSTERIOR.var()
    shift = (1.0 - POSTERIOR.mean()) ** 2 / POSTERIOR.var()
    kl = 0.5 * (ratio + shift - 1 - np.log(ratio))
    elbo, se = approx.elbo(20_000, random_seed=0)
    assert 0 < se < 0.1
    assert elbo == pytest.approx(LOG_EVIDENCE - kl, abs=4 * se)
    draws = np.random.default_rng(0).normal(1.0, 1.5, 20_000)
    terms = POSTERIOR.logpdf(draws) - stats.norm(1.0, 1.5).logpdf(draws)
    assert se == pytest.approx(terms.std() / np.sqrt(20_000), rel=0.1)


def test_elbo_counts_jacobians_and_factors():
    """log p(z) of a positive site, against quadrature over log s."""

    def model():
        s = numpyro.sample("s", dist.Exponential(2.0))
        numpyro.factor("f", -3.0 * s)

    approx = vi.MeanField(model, start={"s": 0.7}, start_sigma={"s": 0.4})
    q = stats.norm(np.log(0.7), 0.4)

    def term(z):
        s = np.exp(z)
        return q.pdf(z) * (np.log(2) - 2 * s + z - 3 * s - q.logpdf(z))

    exact = integrate.quad(term, -4, 4)[0]
    elbo, se = approx.elbo(20_000, random_seed=1)
    assert elbo == pytest.approx(exact, abs=4 * se)


def test_elbo_of_one_draw_has_no_standard_error():
    elbo, se = exact_posterior().elbo(1)
    assert np.isfinite(elbo)
    assert np.isnan(se)


def test_bad_n_mc():
    with pytest.raises(ValueError, match="n_mc must be at least 1, got 0"):
        exact_posterior().elbo(0)
    with pytest.raises(TypeError, match="n_mc must be an int"):
        exact_posterior().elbo(10.0)


# -- what it says about itself


def test_repr_before_a_fit():
    text = "MeanField(sites=[x, s], ndim=4, steps=0, status='initialized')"
    assert repr(vi.MeanField(mixed)) == text
    assert repr(vi.FullRank(mixed)) == text.replace("MeanField", "FullRank")


def test_repr_after_a_fit():
    approx = vi.fit(conjugate, 20, model_args=(Y,), random_seed=0, progressbar=False)
    loss = f"{approx.hist.mean():,.5g}"
    assert repr(approx) == (
        f"MeanField(sites=[mu], ndim=1, steps=20, average loss={loss}, status='finished')"
    )
    assert approx.message.startswith("Finished [100%]")


def test_repr_of_many_sites():
    def model():
        for i in range(20):
            numpyro.sample(f"x{i}", dist.Normal(0, 1))

    names = ", ".join(f"x{i}" for i in range(8))
    assert f"sites=[{names}, ... 12 more], ndim=20" in repr(vi.MeanField(model))


def test_an_approximation_is_not_changed_by_later_fits():
    advi = vi.ADVI(conjugate, model_args=(Y,), random_seed=0)
    first = advi.approx
    second = advi.fit(10, progressbar=False, warmup=False)
    mean, hist = second.mean.copy(), second.hist
    third = advi.refine(10, progressbar=False)
    assert (first.steps, second.steps, third.steps) == (0, 10, 20)
    assert first.mean == 0.0
    assert second.mean == mean != third.mean
    assert (first.hist.size, second.hist.size, third.hist.size) == (0, 10, 20)
    np.testing.assert_array_equal(third.hist[:10], hist)


def test_with_model():
    approx = exact_posterior()
    other = approx.with_model(approx.model.replace(y=Y + 1))
    assert other.mean == approx.mean
    assert other.elbo(10, 0).elbo != approx.elbo(10, 0).elbo
    with pytest.raises(ValueError, match=r"stay the same, but \{'mu': \(\(\), \(\)\)\} became"):
        approx.with_model(vi.Model(mixed))
    with pytest.raises(TypeError, match="model must be a NumPyro callable or a Model, got int"):
        approx.with_model(3)


def test_double_precision_follows_jax():
    with jax.enable_x64(True):
        approx = vi.FullRank(mixed)
        assert approx.mean.dtype == np.float64
        assert approx.sample_dict(3, random_seed=0)["s"].dtype == np.float64
        z = np.full(4, 0.3)
        expected = stats.multivariate_normal(approx.mean, approx.cov).logpdf(z)
        assert float(approx.log_prob(z)) == pytest.approx(expected, rel=1e-12)
    assert isinstance(approx.point.q, DenseGaussian)
