"""Every family with every setting of the objective, against exact posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from targets import linear_regression, multivariate_normal_mean, normal_mean

import numpyro_vi_ext as vi
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.objectives import Elbo

TARGETS = {
    "normal mean": normal_mean,
    "2 dimensions": functools.partial(multivariate_normal_mean, 2),
    "10 dimensions": functools.partial(multivariate_normal_mean, 10),
    "50 dimensions": functools.partial(multivariate_normal_mean, 50),
    "regression": linear_regression,
}
# (target, draws per step) -> bounds on the error of the mean, in posterior sds, and of the sd.
# The larger ones are for mean-field on correlated targets: its gradient stays noisy at the
# optimum, more so the worse the conditioning (the squared ratio of the posterior scales is 13 in
# 10 dimensions, and 70 in 50), and one draw per step leaves more of that than eight.
TOLERANCES = {
    ("normal mean", 1): (0.01, 0.002),
    ("normal mean", 8): (0.01, 0.002),
    ("2 dimensions", 1): (0.05, 0.02),
    ("2 dimensions", 8): (0.05, 0.01),
    ("10 dimensions", 1): (0.15, 0.025),
    ("10 dimensions", 8): (0.08, 0.015),
    ("50 dimensions", 8): (0.20, 0.02),
    ("regression", 1): (0.05, 0.02),
    ("regression", 8): (0.05, 0.01),
}
each_setting = pytest.mark.parametrize(("name", "n_mc"), TOLERANCES, ids=lambda v: str(v))


@functools.cache
def target_of(name):
    return TARGETS[name]()


@functools.cache
def fitted(name, method, n_mc):
    target = target_of(name)
    return vi.fit(
        target.model,
        method=method,
        model_args=target.args,
        obj_n_mc=n_mc,
        random_seed=1,
        progressbar=False,
    )


@each_setting
def test_mean_field_finds_the_conditional_sds(name, n_mc):
    target, approx = target_of(name), fitted(name, "advi", n_mc)
    mean_bound, sd_bound = TOLERANCES[name, n_mc]
    optimum = 1 / np.sqrt(np.diag(np.linalg.inv(target.cov)))
    error = (approx.mean - target.mean) / np.sqrt(np.diag(target.cov))
    assert np.abs(error).max() < mean_bound
    np.testing.assert_allclose(approx.std, optimum, rtol=sd_bound)
    assert approx.status == "finished"
    assert len(approx.hist) == 10_000


@each_setting
def test_full_rank_finds_the_posterior(name, n_mc):
    target, approx = target_of(name), fitted(name, "fullrank_advi", n_mc)
    sd = np.sqrt(np.diag(target.cov))
    assert np.abs((approx.mean - target.mean) / sd).max() < 0.05
    np.testing.assert_allclose(approx.std, sd, rtol=0.02)
    np.testing.assert_allclose(
        approx.cov / np.outer(sd, sd), target.cov / np.outer(sd, sd), atol=0.03
    )


@each_setting
def test_elbo_of_full_rank_is_the_log_evidence(name, n_mc):
    target, approx = target_of(name), fitted(name, "fullrank_advi", n_mc)
    elbo, se = approx.elbo(2000, random_seed=0)
    assert abs(elbo - target.log_evidence) < 4 * se + 0.01


@pytest.mark.parametrize("name", ["normal mean", "2 dimensions", "regression"])
def test_losses_end_at_minus_the_log_evidence(name):
    last = fitted(name, "fullrank_advi", 8).hist[-1000:]
    evidence = target_of(name).log_evidence
    assert abs(last.mean() + evidence) < 4 * last.std() / np.sqrt(len(last)) + 0.02


@pytest.mark.parametrize("name", ["2 dimensions", "10 dimensions", "regression"])
def test_elbo_of_mean_field_falls_short_by_the_divergence(name):
    target, approx = target_of(name), fitted(name, "advi", 8)
    precision = np.linalg.inv(target.cov)
    divergence = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert divergence > 0.1
    elbo, se = approx.elbo(20_000, random_seed=0)
    assert abs(elbo - (target.log_evidence - divergence)) < 4 * se + 0.01


def inverse_softplus(x):
    return np.log(np.expm1(x))


def dense(mean, cov):
    tril = np.linalg.cholesky(cov)
    raw = np.tril(tril, -1) + np.diag(inverse_softplus(np.diag(tril)))
    return DenseGaussian(jnp.array(mean, float), jnp.array(raw, float))


def diagonal(mean, cov):
    rho = inverse_softplus(np.sqrt(np.diag(cov)))
    return DiagonalGaussian(jnp.array(mean, float), jnp.array(rho, float))


FAMILIES = {"MeanField": diagonal, "FullRank": dense}
each_family = pytest.mark.parametrize("family", FAMILIES)


def density_of(target):
    """Return (z, theta) -> (log prior, log likelihood), as the objective wants it."""
    bound = vi.Model(target.model, *target.args).target
    return functools.partial(bound.program.densities, bound.inputs, jax.random.key(0))


def as_vector(q):
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(q)])


@pytest.mark.parametrize(("name", "n_mc"), [("2 dimensions", 8), ("regression", 1)])
def test_gradient_vanishes_at_the_posterior_for_every_draw(name, n_mc):
    target = target_of(name)
    q, objective = dense(target.mean, target.cov), Elbo(n_mc=n_mc)
    eps = jax.random.normal(jax.random.key(0), (100, n_mc, len(target.mean)))
    density = density_of(target)

    def gradient(eps):
        return as_vector(objective.loss_and_grad(q, jnp.zeros(0), eps, density)[1][0])

    # Away from the posterior a gradient is of the size of the score, 1 / sd.
    scale = 1 / np.sqrt(np.diag(target.cov)).min()
    assert np.abs(jax.jit(jax.vmap(gradient))(eps)).max() < 1e-4 * scale


def test_gradient_vanishes_at_an_independent_posterior_in_the_mean_field_family():
    target = target_of("normal mean")
    q = diagonal(target.mean, target.cov)
    eps = jax.random.normal(jax.random.key(0), (100, 1, 1))
    density = density_of(target)

    def gradient(eps):
        return as_vector(Elbo().loss_and_grad(q, jnp.zeros(0), eps, density)[1][0])

    assert (
        np.abs(jax.jit(jax.vmap(gradient))(eps)).max() < 2e-3
    )  # cancelling terms are of the size n * 80


@each_family
@pytest.mark.parametrize("n_mc", [1, 4])
def test_gradient_is_unbiased(family, n_mc):
    """Draw by draw it is not that of the reparameterised -ELBO; on average it is."""
    target = target_of("regression")
    d, draws = len(target.mean), 40_000
    q = FAMILIES[family](target.mean + 0.3, 2 * target.cov)
    density = density_of(target)
    objective = Elbo(n_mc=n_mc)

    def ours(eps):
        loss, (grad, _), _ = objective.loss_and_grad(q, jnp.zeros(0), eps, density)
        return loss, as_vector(grad)

    def plain(q, eps):
        z = jax.vmap(q.transform)(eps)
        log_p = jax.vmap(lambda z: sum(density(z, jnp.zeros(0))))(z)
        return jnp.mean(jax.vmap(q.log_prob)(z) - log_p)

    eps = jax.random.normal(jax.random.key(1), (draws // n_mc, n_mc, d))
    losses, grads = map(np.asarray, jax.jit(jax.vmap(ours))(eps))
    expected, reference = jax.jit(jax.vmap(jax.value_and_grad(plain), (None, 0)))(q, eps)
    reference = np.asarray(jax.vmap(as_vector)(reference))
    for a, b in ((losses[:, None], np.asarray(expected)[:, None]), (grads, reference)):
        difference = a - b
        se = difference.std(axis=0) / np.sqrt(len(difference))
        assert np.all(np.abs(difference.mean(axis=0)) <= 4.5 * se + 1e-5)
    assert np.abs(grads.mean(axis=0)).max() > 1  # there was something to compare


@each_family
def test_loss_is_minus_the_elbo(family):
    """The expected loss for a Gaussian posterior is in closed form: -log Z + KL(q || p)."""
    target = target_of("regression")
    mean, cov = target.mean + 0.1, 1.5 * target.cov
    q = FAMILIES[family](mean, cov)
    cov = q.cov()
    eps = jax.random.normal(jax.random.key(2), (2000, 8, 3))
    density = density_of(target)

    def loss(eps):
        return Elbo(n_mc=8).loss_and_grad(q, jnp.zeros(0), eps, density)[0]

    losses = jax.jit(jax.vmap(loss))(eps)
    precision = np.linalg.inv(target.cov)
    shift = mean - target.mean
    divergence = 0.5 * (
        np.trace(precision @ cov)
        + shift @ precision @ shift
        - 3
        - np.linalg.slogdet(precision @ cov)[1]
    )
    se = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - (divergence - target.log_evidence)) < 4 * se + 1e-3


# --- beta ---------------------------------------------------------------------------------------

Y = np.array([2.0, 3.5, 4.0, 2.5])
PRIOR_MEAN, PRIOR_SD = 1.0, 0.5


def weighted_model(y):
    mu = numpyro.sample("mu", dist.Normal(PRIOR_MEAN, PRIOR_SD))
    numpyro.sample("y", dist.Normal(mu, 1).expand([len(Y)]).to_event(1), obs=y)


def expected_loss(beta, mean, sd):
    """-E[log p(y | mu)] + beta KL(q || prior), by hand."""
    log_likelihood = stats.norm.logpdf(Y, mean, 1).sum() - len(Y) * sd**2 / 2
    ratio = sd**2 / PRIOR_SD**2
    divergence = 0.5 * (ratio + (mean - PRIOR_MEAN) ** 2 / PRIOR_SD**2 - 1 - np.log(ratio))
    return -log_likelihood + beta * divergence


def beta_fit(beta, n, **options):
    start = vi.MeanField(weighted_model, model_args=(Y,))
    return vi.KLqp(start, beta=beta, random_seed=0).fit(n, progressbar=False, **options)


@pytest.mark.parametrize("beta", [0.5, 1, 2.0])
def test_beta_weighs_the_divergence(beta):
    approx = beta_fit(beta, 10_000)
    precision = len(Y) / beta + 1 / PRIOR_SD**2
    mean = (Y.sum() / beta + PRIOR_MEAN / PRIOR_SD**2) / precision
    assert abs(approx.mean[0] - mean) * np.sqrt(precision) < 0.01
    np.testing.assert_allclose(approx.std, 1 / np.sqrt(precision), rtol=0.005)


def test_beta_0_is_maximum_likelihood():
    approx = beta_fit(0, 10_000)
    assert abs(approx.mean[0] - Y.mean()) < 0.002
    assert approx.std[0] < 0.01  # nothing keeps q from shrinking to a point


@pytest.mark.parametrize("beta", [0, 0.5, 2.0])
def test_loss_with_beta(beta):
    losses = beta_fit(beta, 4000, obj_optimizer=vi.sgd(0.0), obj_n_mc=8).hist
    se = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - expected_loss(beta, PRIOR_MEAN, np.log(2))) < 4 * se


# --- families -----------------------------------------------------------------------------------

COV = np.array([[2.0, 0.6, -0.3], [0.6, 0.5, 0.1], [-0.3, 0.1, 0.04]]) + 0.3 * np.eye(3)
MEAN = np.array([1.0, -2.0, 30.0])


@each_family
def test_family_agrees_with_scipy(family):
    cov = COV if family == "FullRank" else np.diag(np.diag(COV))
    q, exact = FAMILIES[family](MEAN, COV), stats.multivariate_normal(MEAN, cov)
    points = exact.rvs(20, random_state=0)
    np.testing.assert_allclose(jax.vmap(q.log_prob)(points), exact.logpdf(points), rtol=1e-5)
    np.testing.assert_allclose(q.entropy(), exact.entropy(), rtol=1e-6)
    np.testing.assert_allclose(q.mean(), MEAN, rtol=1e-6)
    np.testing.assert_allclose(q.std(), np.sqrt(np.diag(cov)), rtol=1e-5)
    np.testing.assert_allclose(q.cov(), cov, atol=1e-5)
    assert q.ndim == 3


@each_family
def test_transform_draws_from_the_family(family):
    q = FAMILIES[family](MEAN, COV)
    n = 100_000
    z = np.asarray(jax.vmap(q.transform)(jax.random.normal(jax.random.key(0), (n, 3))), float)
    np.testing.assert_allclose(z.mean(axis=0), MEAN, atol=4.5 * np.sqrt(2.3 / n))
    se = np.sqrt((q.cov() ** 2 + np.outer(q.std(), q.std()) ** 2) / n)
    assert np.all(np.abs(np.cov(z.T) - q.cov()) < 4.5 * se)


@each_family
def test_score_is_the_gradient_of_log_prob(family):
    q = FAMILIES[family](MEAN, COV)
    eps = jax.random.normal(jax.random.key(0), (10, 3))
    expected = jax.vmap(lambda e: jax.grad(q.log_prob)(q.transform(e)))(eps)
    np.testing.assert_allclose(jax.vmap(q.score)(eps), expected, rtol=1e-3, atol=1e-3)


def test_params_of_mean_field():
    params = diagonal(MEAN, COV).params()
    assert set(params) == {"mu", "rho"}
    np.testing.assert_allclose(params["mu"], MEAN, rtol=1e-6)
    np.testing.assert_allclose(np.log1p(np.exp(params["rho"])), np.sqrt(np.diag(COV)), rtol=1e-5)


def test_params_of_full_rank_pack_the_lower_triangle_row_by_row():
    q = dense(MEAN, COV)
    params = q.params()
    assert set(params) == {"mu", "L_tril"}
    assert params["L_tril"].shape == (6,)
    tril = np.zeros((3, 3))
    tril[np.tril_indices(3)] = params["L_tril"]
    tril[np.diag_indices(3)] = np.log1p(np.exp(np.diag(tril)))
    np.testing.assert_allclose(tril @ tril.T, COV, atol=1e-5)
    np.testing.assert_allclose(params["L_tril"][1], np.linalg.cholesky(COV)[1, 0], rtol=1e-5)


@pytest.mark.parametrize("family", [DiagonalGaussian, DenseGaussian])
@pytest.mark.parametrize("sigma", [1e-4, 0.7, 500.0])
def test_create_sets_mean_and_sds(family, sigma):
    q = family.create(np.array([1.0, 2.0], np.float32), np.array([sigma, 1.0]))
    np.testing.assert_allclose(q.mean(), [1, 2])
    np.testing.assert_allclose(q.std(), [sigma, 1], rtol=1e-4)
    np.testing.assert_allclose(q.cov(), np.diag([sigma**2, 1]), rtol=2e-4)
    assert {x.dtype for x in jax.tree.leaves(q)} == {jnp.dtype("float32")}


def test_nothing_above_the_diagonal_moves():
    """L is kept dense; its upper triangle must stay empty whatever the optimizer does."""
    raw = fitted("10 dimensions", "fullrank_advi", 1).point.q.raw
    assert np.all(np.triu(raw, 1) == 0)
    assert np.all(np.tril(np.asarray(raw), -1)[1:, 0] != 0)


@pytest.mark.slow
def test_full_rank_in_many_dimensions():
    ndim = 200
    factor = np.random.default_rng(0).normal(size=(ndim, 2 * ndim)) / np.sqrt(2 * ndim)
    precision = factor @ factor.T
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))

    def model(precision):
        mean = jnp.zeros(len(precision))
        numpyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))

    approx = vi.fit(
        model,
        method="fullrank_advi",
        model_args=(precision.astype(np.float32),),
        random_seed=0,
        progressbar=False,
    )
    assert np.abs(approx.mean / sd).max() < 0.05
    assert np.abs(approx.std / sd - 1).max() < 0.02
