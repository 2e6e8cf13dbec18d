"""From an approximation to NumPyro's own tools: a guide, a warm start of NUTS, single draws."""

import functools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.hmc_util import euclidean_kinetic_energy
from numpyro.infer.util import log_density
from scipy import stats
from targets import linear_regression
from zoo import CASES

import numpyro_vi_ext as vi
from numpyro_vi_ext.approximation import bridges

pytestmark = pytest.mark.compiles

ZOO = {case.name: case for case in CASES}
KEY = jax.random.key(0)


def softplus_inverse(sigma):
    return np.log(np.expm1(sigma))


def with_params(approx, **params):
    """The same approximation with other variational parameters."""
    q = type(approx.point.q)(**{k: jnp.asarray(v, float) for k, v in params.items()})
    return approx.at(approx.point._replace(q=q), approx.facts)


def gaussian(kind, model, mean, cov, **options):
    """An approximation with this mean and covariance; the diagonal of it for a MeanField."""
    mean, cov = np.asarray(mean, float), np.asarray(cov, float)
    if kind is vi.MeanField:
        sigma = np.sqrt(np.diag(cov))
        return with_params(kind(model, **options), mu=mean, rho=softplus_inverse(sigma))
    factor = np.linalg.cholesky(cov)
    raw = np.tril(factor, -1) + np.diag(softplus_inverse(np.diag(factor)))
    return with_params(kind(model, **options), mu=mean, raw=raw)


def random_cov(d, seed=0):
    root = np.random.default_rng(seed).normal(size=(d, 2 * d))
    return root @ root.T / (2 * d)


def log_prob_of(trace):
    """Sum of the log densities of all sample sites, by the distributions in the trace."""
    sites = (site for site in trace.values() if site["type"] == "sample")
    return sum(float(jnp.sum(site["fn"].log_prob(site["value"]))) for site in sites)


def run_guide(approx, seed=0):
    return handlers.trace(handlers.seed(approx.guide, seed)).get_trace()


# -- the guide in Predictive


def regression(x, y=None):
    """Sites not in alphabetical order, one of them constrained, and a deterministic one."""
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    with numpyro.plate("rows", len(x)):
        mean = numpyro.deterministic("mean", x @ w)
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


X = np.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.1]], np.float32)
Y = np.array([0.7, 1.2, 0.1], np.float32)
X_NEW = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0], [2.0, 1.0]], np.float32)
BOUND = {"model_args": (X,), "model_kwargs": {"y": Y}}


def check_predictive(approx, mean_w, cov_w, mean_sd, mean_square_sd, n=20_000):
    """Moments at new rows against those that follow from the moments of the latent sites."""
    predictive = Predictive(regression, guide=approx.guide, params={}, num_samples=n)
    found = {k: np.asarray(v, float) for k, v in predictive(KEY, X_NEW).items()}
    assert {k: v.shape for k, v in found.items()} == {"mean": (n, 4), "y": (n, 4)}
    variance = np.einsum("ij,jk,ik->i", X_NEW, cov_w, X_NEW)
    tolerance = 4 / np.sqrt(n)
    np.testing.assert_allclose(found["mean"].var(0), variance, rtol=0.06, atol=1e-6)
    total = variance + mean_square_sd
    np.testing.assert_allclose(found["y"].var(0), total, rtol=0.06)
    atol = tolerance * np.sqrt(total).max()
    np.testing.assert_allclose(found["y"].mean(0), X_NEW @ mean_w, atol=atol)
    of_guide = Predictive(approx.guide, params={}, num_samples=n)(KEY)
    assert of_guide["w"].shape == (n, 2)
    np.testing.assert_allclose(of_guide["sd"].mean(), mean_sd, rtol=tolerance)


@pytest.mark.parametrize("kind", [vi.MeanField, vi.FullRank])
def test_predictive_with_a_gaussian_guide(kind):
    """The positive site is log-normal."""
    mean, cov = np.array([0.5, -1.0, -0.4]), 0.1 * random_cov(3)
    approx = gaussian(kind, regression, mean, cov, **BOUND)
    mu, s2 = mean[2], cov[2, 2]
    cov_w = approx.cov[:2, :2]
    moments = np.exp(mu + s2 / 2), np.exp(2 * mu + 2 * s2)
    check_predictive(approx, mean[:2], cov_w, *moments)


def test_predictive_with_an_empirical_guide():
    rng = np.random.default_rng(1)
    rows = {
        "w": rng.normal(size=(200, 2)) @ [[1.0, 0.4], [0.0, 0.5]],
        "sd": rng.gamma(3.0, 0.2, 200),
    }
    approx = vi.Empirical(rows, model=regression, **BOUND)
    cov_w, sd = np.cov(rows["w"].T, ddof=0), rows["sd"]
    check_predictive(approx, rows["w"].mean(0), cov_w, sd.mean(), (sd**2).mean())


@pytest.mark.slow
def test_predictive_agrees_with_the_approximations_own():
    """The same model, of all supports: the same distribution of each site."""
    case = ZOO["supports"]
    approx = vi.FullRank(case.fn, start_sigma=dict.fromkeys(case.latents, 0.4))
    ours = approx.sample_dict(10_000, random_seed=0)
    theirs = Predictive(approx.guide, params={}, num_samples=10_000)(KEY)
    for name in case.latents:
        expected, found = (np.asarray(v[name], float) for v in (ours, theirs))
        atol = 5 * expected.std(0).max() * np.sqrt(2 / 10_000) + 1e-6
        np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=atol, err_msg=name)
        np.testing.assert_allclose(found.std(0), expected.std(0), rtol=0.1, atol=1e-6)


def shifted(y=None):
    shift = numpyro.param("shift", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    z = numpyro.sample("z", dist.Normal(0, 1))
    with numpyro.plate("rows", 5):
        numpyro.sample("y", dist.Normal(z + shift, scale), obs=y)


def test_predictive_with_the_models_params():
    """Marginally, y is normal with mean mu + shift and variance sigma^2 + scale^2."""
    y = np.array([9.0, 10.0, 11.0, 10.5, 9.5], np.float32)
    approx = vi.fit(shifted, 2000, model_args=(y,), random_seed=0, progressbar=False)
    params = approx.model_params
    assert params["shift"] > 2
    predictive = Predictive(shifted, guide=approx.guide, params=params, num_samples=20_000)
    found = np.asarray(predictive(KEY)["y"], float)
    sd = np.hypot(approx.std[0], params["scale"])
    expected = approx.mean[0] + params["shift"]
    np.testing.assert_allclose(found.mean(0), expected, atol=4 * sd / np.sqrt(20_000))
    np.testing.assert_allclose(found.std(0), sd, rtol=0.03)


def test_the_guide_ignores_its_arguments_and_names_no_params():
    approx = vi.MeanField(shifted, model_args=(np.zeros(5),))
    trace = handlers.trace(handlers.seed(approx.guide, 0)).get_trace(1, "two", y=3)
    assert {name: site["type"] for name, site in trace.items()} == {
        "_vi_latent": "sample",
        "z": "sample",
    }


# -- its log density


def test_log_density_of_a_positive_site_is_log_normal():
    def model():
        numpyro.sample("s", dist.HalfNormal(1))

    approx = gaussian(vi.MeanField, model, [-0.7], [[0.3**2]])
    for seed in range(5):
        trace = run_guide(approx, seed)
        expected = stats.lognorm(0.3, scale=np.exp(-0.7)).logpdf(float(trace["s"]["value"]))
        assert log_prob_of(trace) == pytest.approx(expected, abs=1e-5)


def test_log_density_of_correlated_sites_is_a_multivariate_log_normal():
    def model():
        numpyro.sample("b", dist.Gamma(2.0, jnp.ones(2)).to_event(1))
        with numpyro.plate("rows", 3):
            numpyro.sample("a", dist.HalfNormal(1))

    mean, cov = np.linspace(-1, 1, 5), random_cov(5)
    trace = run_guide(gaussian(vi.FullRank, model, mean, cov))
    z = np.log(np.concatenate([trace["b"]["value"], trace["a"]["value"]]).astype(float))
    expected = stats.multivariate_normal(mean, cov).logpdf(z) - z.sum()
    assert log_prob_of(trace) == pytest.approx(expected, abs=1e-4)
    assert (trace["a"]["fn"].batch_shape, trace["b"]["fn"].batch_shape) == ((3,), ())


# Models that neither scale nor mask their latent sites, nor draw anything themselves.
QUICK = {
    "eight_schools_centred",
    "nested_plates",
    "params",
    "partly_observed",
    "subsampling",
    "scaled",
}
PLAIN = [
    *("eight_schools_centred", "eight_schools_non_centred", "supports", "support_from_a_latent"),
    *("zero_sum", "improper", "scalars_and_matrices", "sites_without_elements", "nested_plates"),
    *("params", "reparameterised_transform", "lifted", "scoped", "partly_observed", "state_space"),
]


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLAIN],
)
def test_log_density_follows_from_the_change_of_variables(name):
    """NumPyro's log density in the model's space is ours minus the log Jacobian: so is log q."""
    case = ZOO[name]
    approx = narrow(case)
    trace = run_guide(approx, 3)
    z = trace["_vi_latent"]["value"]
    values = {site: trace[site]["value"] for site in case.latents}
    assert {site: value.shape for site, value in values.items()} == case.latents
    constrained, _ = log_density(
        handlers.seed(case.fn, 0), case.args, case.kwargs, {**approx.model_params, **values}
    )
    unconstrained = approx.target.evaluate(z, approx.point.theta, KEY)
    log_jacobian = unconstrained.log_prior + unconstrained.log_likelihood - constrained
    expected = float(approx.log_prob(z) - log_jacobian)
    assert log_prob_of(trace) == pytest.approx(expected, rel=1e-4, abs=2e-3)


def narrow(case):
    """An approximation near its start, so that Monte Carlo errors are small."""
    options = {"model_args": case.args, "model_kwargs": case.kwargs, "random_seed": 0}
    return vi.FullRank(case.fn, start_sigma=dict.fromkeys(case.latents, 0.05), **options)


# -- the guide in SVI


def svi_elbo(case, approx, loss):
    svi = SVI(case.fn, approx.guide, numpyro.optim.Adam(0.1), loss)
    params = approx.model_params or None
    state = svi.init(KEY, *case.args, init_params=params, **case.kwargs)
    return -float(svi.evaluate(state, *case.args, **case.kwargs))


SCALED = ["scaled", "masked", "wrapped_twice", "handlers_inside", "regression_with_factor"]


def check_elbo(name, loss, n=1000):
    case = ZOO[name]
    approx = narrow(case)
    expected, error = approx.elbo(n, random_seed=1)
    found = svi_elbo(case, approx, loss(num_particles=n))
    assert found == pytest.approx(expected, rel=1e-4, abs=4 * np.sqrt(2) * error + 1e-3)


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in (*PLAIN, *SCALED, "subsampling")
    ],
)
def test_svi_evaluates_to_the_elbo(name):
    check_elbo(name, Trace_ELBO)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["supports", "nested_plates", "scalars_and_matrices", "params", "subsampling"]
)
def test_svi_evaluates_to_the_elbo_by_divergences_of_sites(name):
    check_elbo(name, TraceMeanField_ELBO)


def test_svi_moves_nothing_of_the_guide():
    """Only the model's own params have gradients."""
    case = ZOO["params"]
    approx = narrow(case)
    svi = SVI(case.fn, approx.guide, numpyro.optim.Adam(0.1), Trace_ELBO())
    result = svi.run(KEY, 3, *case.args, progress_bar=False)
    assert set(result.params) == {"centre", "sd", "weights", "drawn"}


# -- Pareto k-hat

needs_psis = pytest.mark.skipif(
    not hasattr(numpyro.infer, "psis_diagnostic"), reason="NumPyro is older than psis_diagnostic"
)


def khat(approx, args=(), **options):
    return numpyro.infer.psis_diagnostic(
        jax.random.key(1), {}, approx.model.fn, approx.guide, *args, **options
    )


def khat_by_arviz(log_weights):
    return float(az.psislw(log_weights)[1])


@needs_psis
def test_khat_of_an_exact_posterior_is_small():
    exact = linear_regression()
    approx = gaussian(vi.FullRank, exact.model, exact.mean, exact.cov, model_args=exact.args)
    assert khat(approx, exact.args) < 0.2


@needs_psis
@pytest.mark.parametrize("variance", [0.4, 0.6])
def test_khat_of_a_narrow_approximation(variance):
    """Of a normal with sd 1 by one of this variance, log-normal Jacobian included: 1 - variance."""

    def model():
        numpyro.sample("s", dist.LogNormal(0, 1))

    approx, n = gaussian(vi.MeanField, model, [0.0], [[variance]]), 40_000
    found = khat(approx, num_particles=n)
    z = approx.mean + approx.std * np.random.default_rng(0).normal(size=(n, 1))
    log_weights = np.asarray(vi.Model(model).log_density(z) - approx.log_prob(z), float)
    assert found == pytest.approx(1 - variance, abs=0.2)
    if az.__version__.startswith("0."):  # ArviZ 1.x has no function of weights alone
        assert found == pytest.approx(khat_by_arviz(log_weights), abs=0.15)


# -- the guide as a NumPyro program


def test_the_distribution_of_the_flat_vector_in_batches():
    mean, cov = np.array([1.0, -2.0]), random_cov(2)
    approx = gaussian(
        vi.FullRank, lambda: numpyro.sample("x", dist.Normal(jnp.zeros(2), 1)), mean, cov
    )
    flat = run_guide(approx)["_vi_latent"]["fn"]
    draws = flat.sample(KEY, (3, 4000))
    assert draws.shape == (3, 4000, 2)
    np.testing.assert_allclose(draws.mean(1), np.tile(mean, (3, 1)), atol=0.1)
    assert np.unique(draws[..., 0]).size > 11_900
    expected = stats.multivariate_normal(mean, cov).logpdf(draws[:, :5])
    np.testing.assert_allclose(flat.log_prob(draws[:, :5]), expected, atol=1e-4)


def test_a_trace_of_the_guide_may_leave_compiled_code():
    approx = vi.MeanField(regression, **BOUND)

    @jax.jit
    def traced(key):
        trace = handlers.trace(handlers.seed(approx.guide, key)).get_trace()
        return trace["_vi_latent"]["fn"], trace["_vi_latent"]["value"]

    flat, z = traced(KEY)
    np.testing.assert_allclose(flat.log_prob(z), approx.log_prob(z), rtol=1e-5)


def test_the_guide_of_draws_has_no_density():
    y = np.zeros(5)
    approx = vi.Empirical({"z": np.arange(3.0)}, model=shifted, model_args=(y,))
    svi = SVI(shifted, approx.guide, numpyro.optim.Adam(0.1), Trace_ELBO())
    state = svi.init(KEY, y)
    with pytest.raises(TypeError, match=r"Empirical approximation has draws but no density: it wo"):
        svi.evaluate(state, y)


def test_a_guide_keeps_the_values_it_was_made_with():
    """A later fit of the same inference object changes nothing of it."""
    advi = vi.ADVI(shifted, model_args=(np.full(5, 9.0),), random_seed=0)
    guide, before = advi.approx.guide, np.asarray(advi.approx.mean)
    advi.fit(500, progressbar=False)
    z = [handlers.trace(handlers.seed(guide, s)).get_trace()["z"]["value"] for s in range(500)]
    assert np.mean(z) == pytest.approx(before[0], abs=4 * np.log(2) / np.sqrt(500))


# -- NUTS: the result


def run_nuts(kernel, init, num_chains=1, warmup=200, draws=1000, seed=0, **options):
    options = {"num_chains": num_chains, "chain_method": "vectorized", **options}
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=draws, progress_bar=False, **options)
    mcmc.run(jax.random.key(seed), init_params=init, extra_fields=("num_steps", "diverging"))
    return mcmc


@pytest.mark.slow
@pytest.mark.parametrize("num_chains", [1, 4])
def test_nuts_finds_the_exact_posterior(num_chains):
    """A fit of few steps is off; the chains are not."""
    exact = linear_regression()
    approx = vi.fit(
        exact.model, 300, "fullrank_advi", model_args=exact.args, random_seed=0, progressbar=False
    )
    kernel, init = vi.to_nuts(approx, num_chains, random_seed=1)
    assert init["w"].shape == ((3,) if num_chains == 1 else (num_chains, 3))
    draws = np.asarray(run_nuts(kernel, init, num_chains).get_samples()["w"], float)
    assert draws.shape == (1000 * num_chains, 3)
    sd = np.sqrt(np.diag(exact.cov))
    np.testing.assert_allclose(draws.mean(0), exact.mean, atol=5 * sd.max() / np.sqrt(300))
    np.testing.assert_allclose(np.cov(draws.T), exact.cov, rtol=0.3, atol=0.1 * exact.cov.max())


@pytest.mark.slow
def test_nuts_runs_chains_one_after_the_other_and_again():
    """NumPyro writes into the dict of mass matrices that it is given."""
    approx = vi.FullRank(out_of_order)
    kernel, init = vi.to_nuts(approx, 2, random_seed=1, dense_mass=[("c", "b")])
    mcmc = run_nuts(kernel, init, 2, warmup=20, draws=50, chain_method="sequential")
    first = mcmc.get_samples()["a"]
    mcmc.run(jax.random.key(0), init_params=init)
    np.testing.assert_array_equal(mcmc.get_samples()["a"], first)


def test_nuts_with_the_models_params_at_their_estimates():
    """Given shift and scale, z is normal with known moments."""
    y = np.array([3.0, 4.0, 5.0, 4.5, 3.5], np.float32)
    approx = vi.fit(shifted, 1000, model_args=(y,), random_seed=0, progressbar=False)
    shift, scale = (float(approx.model_params[name]) for name in ("shift", "scale"))
    draws = np.asarray(run_nuts(*vi.to_nuts(approx, random_seed=0), draws=4000).get_samples()["z"])
    precision = 1 + 5 / scale**2
    mean = (y - shift).sum() / scale**2 / precision
    assert shift > 1
    assert draws.mean() == pytest.approx(mean, abs=5 * precision**-0.5 / np.sqrt(1000))
    assert draws.std() == pytest.approx(precision**-0.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supports", "nested_plates", "state_space", "params", "improper"])
def test_nuts_starts_for_models_of_all_kinds(name):
    case = ZOO[name]
    fn, latents = case.fn, case.latents
    if name == "supports":  # NumPyro warns of circular sites, whoever starts there
        fn = handlers.condition(fn, data={"circular": 0.3})
        latents = {site: shape for site, shape in latents.items() if site != "circular"}
    approx = vi.FullRank(fn, model_args=case.args, model_kwargs=case.kwargs, random_seed=0)
    mcmc = run_nuts(*vi.to_nuts(approx, 2, random_seed=0), 2, warmup=20, draws=20)
    samples = mcmc.get_samples()
    assert {site: samples[site].shape[1:] for site in latents} == latents
    assert np.isfinite(mcmc.last_state.potential_energy).all()


@pytest.mark.slow
def test_no_chain_is_lost_to_an_overflow():
    """With NumPyro's own kinetic energy some of these 64 chains go to 1e15 and stay there."""
    case = ZOO["eight_schools_non_centred"]
    options = {"model_args": case.args, "model_kwargs": case.kwargs}
    method = "fullrank_advi"
    approx = vi.fit(case.fn, 4000, method, random_seed=0, progressbar=False, **options)
    kernel, init = vi.to_nuts(approx, 64, random_seed=3)
    mcmc = run_nuts(kernel, init, 64, warmup=50, draws=50)
    tau = np.asarray(mcmc.get_samples(group_by_chain=True)["tau"])
    assert np.median(tau, axis=1).max() < 100
    diverging = mcmc.get_extra_fields(group_by_chain=True)["diverging"]
    assert np.mean(diverging, axis=1).max() < 0.5


def test_kinetic_energy_overflows_upwards():
    """Partial sums below minus the largest float."""
    r, v = np.array([1.0, 1.0, 1.0, 1.0]), np.array([-2.0, -2.0, 3.0, 3.0])
    cov = np.outer(v, v) / (r @ v) + np.eye(4) - np.outer(r, r) / (r @ r)
    for scale in np.logspace(0, 25, 200):
        momentum = {"a": jnp.asarray(r[:2] * scale), "b": jnp.asarray(r[2:] * scale)}
        found = float(bridges._kinetic_energy({("a", "b"): jnp.asarray(cov)}, momentum))
        if scale < 1e18:
            assert found == pytest.approx(0.5 * scale**2 * (r @ v), rel=1e-4)
        assert found > 0


# -- NUTS: the mass matrix


def out_of_order():
    """Trace order is not alphabetical; sites of several shapes."""
    numpyro.sample("b", dist.Normal(jnp.zeros(2), 1).to_event(1))
    numpyro.sample("a", dist.HalfNormal(1))
    numpyro.sample("c", dist.Normal(0, 1).expand([2, 2]))


SITES = ["b", "b", "a", "c", "c", "c", "c"]  # of the coordinates of the flat vector
COV = random_cov(7, seed=4) * np.outer(np.logspace(-2, 1, 7), np.logspace(-2, 1, 7))


def energy_in_warmup(kernel, init, momentum):
    """Kinetic energy by the mass matrix that the kernel holds when it starts to warm up."""
    state = kernel.init(KEY, 50, init, (), {})
    return float(euclidean_kinetic_energy(state.adapt_state.inverse_mass_matrix, momentum))


@pytest.mark.parametrize(
    ("dense_mass", "blocks"),
    [
        (True, [["b", "a", "c"]]),
        (False, []),
        ([("b", "a")], [["b", "a"]]),
        ([("c", "b")], [["c", "b"]]),
        ([["a", "c"], ["b"]], [["a", "c"], ["b"]]),
        ([("c",)], [["c"]]),
        ([], []),
        (None, [["b", "a", "c"]]),
    ],
)
def test_the_mass_matrix_is_the_covariance_by_site(dense_mass, blocks):
    """Twice the kinetic energy is r' C r, where C keeps the blocks and the diagonal."""
    approx = gaussian(vi.FullRank, out_of_order, np.zeros(7), COV)
    kernel, init = vi.to_nuts(approx, random_seed=0, dense_mass=dense_mass)
    block_of = {name: i for i, block in enumerate(blocks) for name in block}
    of = np.array([block_of.get(name, -1 - i) for i, name in enumerate(SITES)])
    expected_cov = np.where(of[:, None] == of, COV, 0)
    for seed in range(3):
        r = np.random.default_rng(seed).normal(size=7) / np.sqrt(np.diag(COV))
        momentum = {"b": r[:2], "a": r[2], "c": r[3:].reshape(2, 2)}
        momentum = {name: jnp.asarray(value) for name, value in momentum.items()}
        expected = 0.5 * r @ expected_cov @ r
        assert energy_in_warmup(kernel, init, momentum) == pytest.approx(expected, rel=1e-4)


def test_a_mean_field_gives_a_diagonal():
    approx = gaussian(vi.MeanField, out_of_order, np.zeros(7), np.diag(np.diag(COV)))
    kernel, init = vi.to_nuts(approx, random_seed=0)
    (matrix,) = kernel.init(KEY, 50, init, (), {}).adapt_state.inverse_mass_matrix.values()
    np.testing.assert_allclose(matrix, np.diag(COV), rtol=1e-5)


@pytest.mark.parametrize(("rows", "ndim"), [(70, 2), (69, 1)])
def test_draws_give_a_covariance_if_there_are_enough(rows, ndim):
    """Ten rows per dimension."""
    rng = np.random.default_rng(0)
    trace = {"b": rng.normal(size=(rows, 2)), "a": rng.gamma(2, size=rows)}
    trace["c"] = rng.normal(size=(rows, 2, 2))
    approx = vi.Empirical(trace, model=out_of_order)
    kernel, init = vi.to_nuts(approx, 3, random_seed=0)
    (matrix,) = kernel._inverse_mass_matrix.values()
    z = np.column_stack([trace["b"], np.log(trace["a"]), trace["c"].reshape(rows, 4)])
    expected = np.cov(z.T, ddof=0) if ndim == 2 else z.var(0)
    np.testing.assert_allclose(matrix, expected, atol=1e-5)
    assert {name: value.shape for name, value in init.items()} == {
        "b": (3, 2),
        "a": (3,),
        "c": (3, 2, 2),
    }


SCALES = np.logspace(-2, 2, 7)


def badly_scaled():
    numpyro.sample("b", dist.Normal(jnp.zeros(2), jnp.asarray(SCALES[:2])).to_event(1))
    numpyro.sample("a", dist.Normal(0, SCALES[2]))
    numpyro.sample("c", dist.Normal(jnp.zeros((2, 2)), jnp.asarray(SCALES[3:].reshape(2, 2))))


def test_a_right_mass_matrix_spares_steps():
    """Scales from 0.01 to 100: without the right matrix a trajectory takes hundreds of steps."""
    approx = gaussian(vi.FullRank, badly_scaled, np.zeros(7), np.diag(SCALES**2))
    kernel, init = vi.to_nuts(approx, random_seed=0)
    mcmc = run_nuts(kernel, init, warmup=50, draws=500)
    assert np.mean(mcmc.get_extra_fields()["num_steps"]) < 10
    (matrix,) = mcmc.last_state.adapt_state.inverse_mass_matrix.values()
    np.testing.assert_allclose(matrix, np.diag(SCALES**2), rtol=1e-5)  # kept during the warm-up
    draws = mcmc.get_samples()
    np.testing.assert_allclose(draws["b"].std(0), SCALES[:2], rtol=0.3)
    np.testing.assert_allclose(draws["c"].std(0).ravel(), SCALES[3:], rtol=0.3)


# -- NUTS: options


def test_options_of_nuts_pass_through():
    approx = gaussian(vi.FullRank, out_of_order, np.zeros(7), COV)
    options = {"target_accept_prob": 0.95, "max_tree_depth": 3, "adapt_mass_matrix": True}
    kernel, init = vi.to_nuts(approx, random_seed=0, **options)
    mcmc = run_nuts(kernel, init, warmup=300, draws=300)
    assert max(mcmc.get_extra_fields()["num_steps"]) <= 7
    assert float(mcmc.last_state.mean_accept_prob) == pytest.approx(0.95, abs=0.04)
    (matrix,) = mcmc.last_state.adapt_state.inverse_mass_matrix.values()
    assert not np.allclose(matrix, COV, rtol=0.01)


@pytest.mark.parametrize(("dense_mass", "adapted"), [(False, np.ones(7)), (True, np.eye(7))])
def test_a_matrix_of_the_users_own_goes_before_that_of_q(dense_mass, adapted):
    approx = gaussian(vi.FullRank, out_of_order, np.zeros(7), COV)
    own = {"inverse_mass_matrix": 2.0 * jnp.asarray(adapted), "dense_mass": dense_mass}
    kernel, init = vi.to_nuts(approx, random_seed=0, **own)
    (matrix,) = kernel.init(KEY, 50, init, (), {}).adapt_state.inverse_mass_matrix.values()
    np.testing.assert_array_equal(matrix, 2.0 * adapted)
    assert kernel._adapt_mass_matrix is NUTS(out_of_order)._adapt_mass_matrix is True
    assert vi.to_nuts(approx, inverse_mass_matrix=jnp.ones(7))[0]._dense_mass is False


def test_no_matrix_of_the_users_own_is_that_of_q():
    approx = gaussian(vi.FullRank, out_of_order, np.zeros(7), COV)
    kernel, _ = vi.to_nuts(approx, inverse_mass_matrix=None)
    (matrix,) = kernel._inverse_mass_matrix.values()
    np.testing.assert_allclose(matrix, COV, rtol=1e-4, atol=1e-7)


def test_a_kinetic_energy_of_the_users_own():
    kernel, _ = vi.to_nuts(vi.MeanField(out_of_order), kinetic_fn=euclidean_kinetic_energy)
    assert kernel._kinetic_fn is euclidean_kinetic_energy


# -- NUTS: where it starts


def test_starts_are_twice_as_wide_as_q():
    mean = np.linspace(-3, 3, 7)
    approx = gaussian(vi.FullRank, out_of_order, mean, random_cov(7))
    _, init = vi.to_nuts(approx, 4000, random_seed=0)
    z = np.column_stack([init["b"], init["a"], np.reshape(init["c"], (4000, 4))])
    np.testing.assert_allclose(np.cov(z.T), 4 * random_cov(7), atol=0.35)
    np.testing.assert_allclose(z.std(0), 2 * np.sqrt(np.diag(random_cov(7))), rtol=0.05)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.15)


def test_starts_are_seeded():
    approx = vi.MeanField(out_of_order)
    first, again, other, fresh = (
        vi.to_nuts(approx, 2, random_seed=seed)[1]["b"] for seed in (0, 0, 1, None)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(vi.to_nuts(approx, 2)[1]["b"], fresh)


def walled():
    """Impossible left of 0."""
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("wall", jnp.where(x > 0, -0.5 * (x - 1) ** 2, -jnp.inf))


def test_starts_keep_to_where_the_log_density_is_finite():
    approx = gaussian(vi.MeanField, walled, [1.0], [[1.0]], start={"x": 1.0})
    _, init = vi.to_nuts(approx, 2000, random_seed=0)
    x = np.asarray(init["x"])
    assert x.min() > 0
    assert np.isfinite(vi.Model(walled).log_density(x[:, None])).all()
    # Nothing is narrowed on the right, where a fraction P(1 + 2 z > 3) of the draws is.
    assert np.mean(x > 3) == pytest.approx(stats.norm.sf(1), abs=0.035)
    assert len(np.unique(x)) == 2000


def test_nowhere_to_start():
    approx = gaussian(vi.MeanField, walled, [-50.0], [[1e-4]], start={"x": 1.0})
    with pytest.raises(ValueError, match="log density is not finite at the mean of the approximat"):
        vi.to_nuts(approx)


# -- NUTS: errors


@pytest.mark.parametrize(
    ("num_chains", "error", "text"),
    [
        (0, ValueError, "num_chains must be at least 1, got 0"),
        (2.0, TypeError, r"num_chains must be an integer, got 2.0 of type float"),
        (True, TypeError, "num_chains must be an integer, got True"),
    ],
)
def test_number_of_chains_is_a_positive_int(num_chains, error, text):
    with pytest.raises(error, match=text):
        vi.to_nuts(vi.MeanField(out_of_order), num_chains)


def test_number_of_chains_may_be_a_numpy_int():
    _, init = vi.to_nuts(vi.MeanField(out_of_order), np.int64(3))
    assert init["a"].shape == (3,)


@pytest.mark.parametrize("wrong", [out_of_order, vi.ADVI, None])
def test_to_nuts_starts_from_an_approximation(wrong):
    with pytest.raises(TypeError, match="to_nuts starts from an Approximation, got "):
        vi.to_nuts(wrong)


def test_a_site_without_spread():
    trace = {"b": np.ones((20, 2)), "a": np.arange(1.0, 21), "c": np.zeros((20, 2, 2))}
    approx = vi.Empirical(trace, model=out_of_order)
    with pytest.raises(ValueError, match=r"has no spread at the sites \['b', 'c'\]"):
        vi.to_nuts(approx)
    kernel, _ = vi.to_nuts(approx, inverse_mass_matrix=jnp.ones(7))
    assert isinstance(kernel, NUTS)


def test_a_dense_matrix_of_too_few_draws():
    rng = np.random.default_rng(0)
    trace = {"b": rng.normal(size=(5, 2)), "a": rng.gamma(2, size=5)}
    trace["c"] = rng.normal(size=(5, 2, 2))
    approx = vi.Empirical(trace, model=out_of_order)
    with pytest.raises(
        ValueError, match=r"the sites \['b', 'a', 'c'\] is singular, .* dense_mass=F"
    ):
        vi.to_nuts(approx, dense_mass=True)
    kernel, _ = vi.to_nuts(approx, dense_mass=[("b", "a")])
    assert kernel._inverse_mass_matrix["b", "a"].shape == (3, 3)


@pytest.mark.parametrize(
    ("dense_mass", "error", "text"),
    [
        ("yes", TypeError, "dense_mass must be True, False or a list of tuples of site names"),
        (1, TypeError, "dense_mass must be True, False or a list .* got 1"),
        (["a", "b"], TypeError, r"dense_mass must be .* got \['a', 'b'\]"),
        ([("a", "q")], KeyError, r"unknown sites \['q'\]; there are \['b', 'a', 'c'\]"),
        ([("a", "b"), ("b", "c")], ValueError, "names a site more than once"),
    ],
)
def test_bad_dense_mass(dense_mass, error, text):
    with pytest.raises(error, match=text):
        vi.to_nuts(vi.FullRank(out_of_order), dense_mass=dense_mass)


def test_bad_options_of_nuts():
    with pytest.raises(TypeError, match="unexpected keyword argument 'dense'"):
        vi.to_nuts(vi.MeanField(out_of_order), dense=True)


# -- single draws in JAX code


def test_draw_is_a_pure_function_of_the_key():
    approx = vi.FullRank(out_of_order)
    plain, compiled = approx.draw(KEY), jax.jit(approx.draw)(KEY)
    assert list(plain) == ["b", "a", "c"]
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, rtol=1e-5)
        np.testing.assert_array_equal(approx.draw(KEY)[name], value)
    assert not np.array_equal(approx.draw(jax.random.key(1))["b"], plain["b"])


def test_draw_under_vmap_is_a_loop():
    approx = vi.MeanField(regression, **BOUND)
    keys = jax.random.split(KEY, 5)
    together = jax.vmap(approx.draw)(keys)
    assert together["mean"].shape == (5, 3)
    draw = jax.jit(approx.draw)
    for i, key in enumerate(keys):
        for name, value in draw(key).items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-5, atol=1e-6)


def test_draw_inside_compiled_code_that_is_differentiated():
    """The decision that minimises the expected squared loss under q is its mean."""
    approx = gaussian(vi.MeanField, out_of_order, np.arange(7.0), 0.25 * np.eye(7))

    @functools.partial(jax.jit, static_argnums=2)
    def risk(decision, key, n):
        def loss(key):
            return jnp.sum((approx.draw(key)["c"] - decision) ** 2)

        return jnp.mean(jax.vmap(loss)(jax.random.split(key, n)))

    gradient = jax.grad(risk)(jnp.zeros((2, 2)), KEY, 10_000)
    mean = np.arange(3.0, 7).reshape(2, 2)
    np.testing.assert_allclose(gradient, -2 * mean, atol=2 * 4 * 0.5 / 100)
    np.testing.assert_allclose(risk(jnp.asarray(mean), KEY, 10_000), 4 * 0.25, rtol=0.05)


def test_draw_inside_a_scan():
    """A random walk whose drift is drawn anew at each step."""
    approx = gaussian(vi.MeanField, shifted, [0.5], [[0.01]], model_args=(np.zeros(5),))

    def step(position, key):
        position = position + approx.draw(key)["z"]
        return position, position

    end, path = jax.jit(lambda keys: jax.lax.scan(step, 0.0, keys))(jax.random.split(KEY, 400))
    assert path.shape == (400,)
    assert float(end) == pytest.approx(200, abs=4 * 0.1 * 20)
    assert np.std(np.diff(path)) == pytest.approx(0.1, rel=0.15)
