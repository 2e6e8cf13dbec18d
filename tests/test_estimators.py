"""Estimators of the gradient: what they agree on exactly, and where each is without noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext.curvature import Curvature
from numpyro_vi_ext.estimators import controlled
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.objectives import Elbo

EPS = np.finfo(np.float32).eps
PRECISION = np.array([[3.0, -1.2, 0.4], [-1.2, 1.5, 0.3], [0.4, 0.3, 0.8]])
MEAN = np.array([1.0, -2.0, 0.5])


def inverse_softplus(x):
    return np.log(np.expm1(x))


def dense(mean, cov):
    tril = np.linalg.cholesky(cov)
    raw = np.tril(tril, -1) + np.diag(inverse_softplus(np.diag(tril)))
    return DenseGaussian(jnp.array(mean, jnp.float32), jnp.array(raw, jnp.float32))


def diagonal(mean, cov):
    rho = inverse_softplus(np.sqrt(np.diag(cov)))
    return DiagonalGaussian(jnp.array(mean, jnp.float32), jnp.array(rho, jnp.float32))


FAMILIES = {"MeanField": diagonal, "FullRank": dense}
ESTIMATORS = [vi.StickingTheLanding(), vi.ClosedFormEntropy(), vi.ScoreIncluded()]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def gaussian(precision, mean=MEAN):
    """Log density up to a constant."""
    precision, mean = jnp.array(precision, jnp.float32), jnp.array(mean, jnp.float32)
    return lambda z: -0.5 * (z - mean) @ precision @ (z - mean)


def bent(z):
    """A log density with third and fourth powers and products; its moments are polynomials."""
    along = jnp.sum(jnp.arange(1.0, 1.0 + z.size) * z)
    return -(along**4) / 20 + 0.3 * along * z[0] ** 2 - 0.4 * jnp.sum(z**2) + 0.5 * z[0]


def vector(q):
    """Parameters that there are: nothing above the diagonal of a dense factor."""
    leaves = (x[jnp.tril_indices(len(x))] if x.ndim == 2 else x for x in jax.tree.leaves(q))
    return jnp.concatenate(list(leaves))


def gradients(estimate, q, eps, log_p, beta=1.0):
    """One gradient for each group of draws, eps of shape (groups, n, d), as vectors."""

    def one(eps):
        slope = jax.vmap(lambda e: jax.grad(log_p)(q.transform(e)))(eps)
        return vector(estimate(q, eps, slope, beta))

    return np.asarray(jax.jit(jax.vmap(one))(eps), float)


def hermite(ndim, degree=12):
    """Nodes (k, ndim) and weights: exact means of polynomials of degree below 2 * `degree`."""
    points, weights = np.polynomial.hermite_e.hermegauss(degree)
    grid = np.stack(np.meshgrid(*[points] * ndim), -1).reshape(-1, ndim)
    product = np.prod(np.stack(np.meshgrid(*[weights] * ndim), -1).reshape(-1, ndim), -1)
    return jnp.array(grid, jnp.float32), product / product.sum()


# --- expectation --------------------------------------------------------------------------------


def expected(q, log_p, beta, nodes, weights):
    """Gradient of E[-log p] - beta H by quadrature, H as the log determinant of the covariance."""

    def objective(q):
        log_ps = jax.vmap(lambda e: log_p(q.transform(e)))(nodes)
        columns = jax.vmap(q.transform)(jnp.eye(q.ndim)) - q.transform(jnp.zeros(q.ndim))
        return -jnp.array(weights, jnp.float32) @ log_ps - beta * jnp.linalg.slogdet(columns)[1]

    return np.asarray(vector(jax.grad(objective)(q)), float)


def controls(ndim):
    """Symmetric matrices: none, a good guess, an indefinite one, a large one."""
    full = np.array([[1.0, -2.0], [-2.0, 0.5]])[:ndim, :ndim]
    for matrix in (0 * full, np.eye(ndim), full, 30 * full):
        yield functools.partial(controlled, curvature=jnp.array(matrix, jnp.float32))


@each_family
@pytest.mark.parametrize(("ndim", "beta"), [(1, 1.0), (2, 0.3)])
def test_all_agree_in_expectation(family, ndim, beta):
    """Not by chance: all integrands are polynomials in the noise, which the quadrature sums."""
    mean, cov = np.array([0.4, -0.7]), np.array([[0.6, 0.35], [0.35, 0.9]])
    q = FAMILIES[family](mean[:ndim], cov[:ndim, :ndim])
    nodes, weights = hermite(ndim)
    exact = expected(q, bent, beta, nodes, weights)
    assert np.abs(exact).max() > 0.1
    for estimate in (*(e.gradient for e in ESTIMATORS), *controls(ndim)):
        found = gradients(estimate, q, nodes[:, None], bent, beta)
        # What is summed is rounded in float32, after some twenty operations.
        rounding = 20 * EPS * (weights @ np.abs(found) + np.abs(exact) + 1)
        assert np.all(np.abs(weights @ found - exact) < rounding)


def test_expectation_of_a_quartic_is_that_by_hand():
    """E[z**4] = mu**4 + 6 mu**2 s**2 + 3 s**4, and the entropy is log s."""
    mu, s, beta = 0.4, 0.8, 0.7
    q = diagonal(np.array([mu]), np.array([[s**2]]))
    nodes, weights = hermite(1)
    by_hand = np.array(
        [4 * mu**3 + 12 * mu * s**2, (12 * mu**2 * s + 12 * s**3 - beta / s) * -np.expm1(-s)]
    )
    for estimate in (*(e.gradient for e in ESTIMATORS), *controls(1)):
        found = gradients(estimate, q, nodes[:, None], lambda z: -jnp.sum(z**4), beta)
        rounding = 20 * EPS * (weights @ np.abs(found) + 10)
        assert np.all(np.abs(weights @ found - by_hand) < rounding)


@each_family
def test_several_draws_are_averaged(family):
    n = 3
    q = FAMILIES[family](MEAN + 0.3, np.linalg.inv(PRECISION))
    eps = jax.random.normal(jax.random.key(0), (3, n, 3))
    control = functools.partial(controlled, curvature=jnp.array(PRECISION + 1, jnp.float32))
    for estimate in (*(e.gradient for e in ESTIMATORS), control):
        together = gradients(estimate, q, eps, bent)
        alone = gradients(estimate, q, eps.reshape(-1, 1, 3), bent).reshape(3, n, -1)
        rounding = 50 * EPS * (1 + np.abs(alone).max(axis=(1, 2), keepdims=True)[:, 0])
        assert np.all(np.abs(together - alone.mean(axis=1)) < rounding)
        assert np.abs(alone.std(axis=1)).max() > 0.1


@pytest.mark.parametrize(("family", "beta"), [("MeanField", 1.0), ("FullRank", 2.5)])
def test_score_included_is_the_derivative_of_the_plain_objective(family, beta):
    q = FAMILIES[family](MEAN, 2 * np.linalg.inv(PRECISION))
    eps = jax.random.normal(jax.random.key(1), (20, 4, 3))

    def plain(q, eps):
        z = jax.vmap(q.transform)(eps)
        return jnp.mean(beta * jax.vmap(q.log_prob)(z) - jax.vmap(bent)(z))

    exact = np.asarray(jax.vmap(lambda e: vector(jax.grad(plain)(q, e)))(eps), float)
    found = gradients(vi.ScoreIncluded().gradient, q, eps, bent, beta)
    np.testing.assert_allclose(found, exact, atol=50 * EPS * np.abs(exact).max())
    # log q at a draw of a Gaussian is that of the noise minus a log determinant: no score is left.
    closed = gradients(vi.ClosedFormEntropy().gradient, q, eps, bent, beta)
    np.testing.assert_allclose(found, closed, atol=50 * EPS * np.abs(exact).max())


# --- noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "precision", "beta"),
    [("MeanField", np.diag(np.diag(PRECISION)), 1.0), ("FullRank", PRECISION, 0.4)],
)
def test_sticking_the_landing_is_zero_at_the_posterior_for_every_draw(family, precision, beta):
    q = FAMILIES[family](MEAN, np.linalg.inv(precision) * beta)
    eps = jax.random.normal(jax.random.key(2), (500, 1, 3))
    found = gradients(vi.StickingTheLanding().gradient, q, eps, gaussian(precision), beta)
    # Slope and score cancel: z is rounded to EPS |z|, which the precision turns into slope; the
    # score loses as much in a triangular solve. A derivative in a scale has another factor eps.
    z = np.abs(np.asarray(jax.vmap(q.transform)(eps[:, 0]), float))
    slope = (z + np.abs(MEAN)) @ np.abs(precision)
    bound = 8 * EPS * slope.max() * max(1.0, np.abs(eps).max())
    assert np.abs(found).max() < bound
    for other in (vi.ClosedFormEntropy(), vi.ScoreIncluded()):
        noisy = gradients(other.gradient, q, eps, gaussian(precision), beta)
        assert noisy.std(axis=0).min() > 100 * bound


def gradient_by_hand(family, q, precision, mean, beta):
    """Of E[-log p] - beta H for a Gaussian p, in NumPy."""
    mu, shift = np.asarray(q.mu, float), precision @ (np.asarray(q.mu, float) - mean)
    if family == "MeanField":
        sigma = np.log1p(np.exp(np.asarray(q.rho, float)))
        scale = (np.diag(precision) * sigma - beta / sigma) * -np.expm1(-sigma)
        return np.concatenate([shift, scale])
    L = np.asarray(q.scale_tril, float)
    grad = precision @ L - beta * np.linalg.inv(L).T
    grad[np.diag_indices(len(mu))] *= -np.expm1(-np.diag(L))
    return np.concatenate([shift, grad[np.tril_indices(len(mu))]])


@pytest.mark.parametrize(("family", "beta"), [("MeanField", 1.0), ("FullRank", 3.0)])
def test_controlled_is_exact_where_the_posterior_is_gaussian(family, beta):
    """The location's gradient for every draw, and that of the scale for every antithetic pair.

    What is left in the scale is the slope at the mean times eps, so that for a q which is centred
    on the posterior there is nothing left.
    """
    control = functools.partial(controlled, curvature=jnp.array(PRECISION, jnp.float32))
    eps = jax.random.normal(jax.random.key(3), (200, 1, 3))
    pairs = jnp.concatenate([eps, -eps], axis=1)
    for shift in (0.0, 5.0):
        q = FAMILIES[family](MEAN + shift, 4 * np.eye(3) + 1)
        exact = gradient_by_hand(family, q, PRECISION, MEAN, beta)
        z = np.abs(np.asarray(jax.vmap(q.transform)(eps[:, 0]), float))
        slope = (z + np.abs(MEAN)) @ np.abs(PRECISION)
        bound = 8 * EPS * (slope.max() * max(1.0, np.abs(eps).max()) + np.abs(exact).max())
        single = gradients(control, q, eps, gaussian(PRECISION), beta)
        assert np.abs(single - exact)[:, :3].max() < bound
        both = gradients(control, q, pairs, gaussian(PRECISION), beta)
        assert np.abs(both - exact).max() < bound
        left = single[:, 3:].std(axis=0)
        assert left.max() < bound if shift == 0 else left.min() > 0.1
        noisy = gradients(vi.StickingTheLanding().gradient, q, pairs, gaussian(PRECISION), beta)
        assert noisy.std(axis=0).max() > 1


# --- what a family adds -------------------------------------------------------------------------


@each_family
def test_quadratic_is_half_the_trace(family):
    rng = np.random.default_rng(0)
    cov = np.cov(rng.normal(size=(3, 10)))
    matrix = rng.normal(size=(3, 3))
    matrix += matrix.T
    q = FAMILIES[family](MEAN, cov)
    sigma = cov if family == "FullRank" else np.diag(np.diag(cov))
    exact = 0.5 * np.trace(matrix @ sigma)
    found = q.quadratic(jnp.array(matrix, jnp.float32))
    size = np.sum(np.abs(matrix) * np.outer(*2 * [np.sqrt(np.diag(cov))]))
    assert abs(float(found) - exact) < 10 * EPS * size


@each_family
def test_log_det_is_that_of_the_map(family):
    cov = np.array([[2.0, 0.6, -0.3], [0.6, 0.5, 0.1], [-0.3, 0.1, 1e-4]]) + 0.2 * np.eye(3)
    q = FAMILIES[family](MEAN, cov)
    sigma = cov if family == "FullRank" else np.diag(np.diag(cov))
    np.testing.assert_allclose(q.log_det(), 0.5 * np.linalg.slogdet(sigma)[1], atol=20 * EPS)
    jacobian = jax.jacobian(q.transform)(jnp.ones(3))
    np.testing.assert_allclose(q.log_det(), jnp.linalg.slogdet(jacobian)[1], atol=20 * EPS)


# --- the objective that uses them ---------------------------------------------------------------


def test_the_objective_uses_its_estimator_and_else_what_it_remembers():
    q = dense(MEAN, np.eye(3))
    eps = jax.random.normal(jax.random.key(4), (2, 3))
    precision = jnp.array(PRECISION, jnp.float32)
    root = jnp.linalg.inv(jnp.linalg.cholesky(precision)).T
    memory = Curvature(precision, root)

    def density(z, theta):
        return gaussian(PRECISION)(z), 2 * bent(z)

    def weighted(z):
        return 0.5 * gaussian(PRECISION)(z) + 2 * bent(z)

    def of(estimator, memory):
        objective = Elbo(0.5, 2, estimator)

        @jax.jit
        def run(memory):
            _, (grad, _), kept = objective.loss_and_grad(q, jnp.zeros(0), eps, density, memory)
            return vector(grad), kept

        grad, kept = run(memory)
        assert jax.tree.all(jax.tree.map(lambda a, b: jnp.all(a == b), kept, memory))
        return np.asarray(grad)

    control = functools.partial(controlled, curvature=precision)
    plain = vi.StickingTheLanding().gradient
    for given, memory_given, estimate in (
        (None, None, plain),
        (None, memory, control),
        *((e, m, e.gradient) for e in ESTIMATORS for m in (None, memory)),
    ):
        exact = gradients(estimate, q, eps[None], weighted, 0.5)[0]
        np.testing.assert_allclose(of(given, memory_given), exact, atol=50 * EPS * abs(exact).max())


# --- what users say -----------------------------------------------------------------------------


def model():
    numpyro.sample("x", dist.Normal(3, 2).expand([2]).to_event(1))


AT_POSTERIOR = {"start": {"x": np.full(2, 3.0)}, "start_sigma": {"x": 2.0}}


def fit(estimator, method="advi", **options):
    options = {"obj_optimizer": vi.sgd(0.1), "random_seed": 0, **AT_POSTERIOR, **options}
    inf_kwargs = {} if estimator is None else {"estimator": estimator}
    return vi.fit(model, 50, method, inf_kwargs=inf_kwargs, progressbar=False, **options)


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_fit_uses_the_estimator(method):
    """From the posterior, sticking the landing does not move, and the others do."""
    moved = [np.abs(fit(e, method).mean - 3).max() for e in (None, *ESTIMATORS)]
    assert moved[0] == moved[1] < 50 * 0.1 * 8 * EPS * 3  # fifty steps of nothing but rounding
    assert min(moved[2:]) > 1e-3


def test_klqp_takes_an_estimator():
    def moved(*estimator, **options):
        begin = vi.MeanField(model, **AT_POSTERIOR)
        method = vi.KLqp(begin, 1.0, *estimator, random_seed=0, **options)
        return np.abs(method.fit(50, obj_optimizer=vi.sgd(0.1), progressbar=False).mean - 3).max()

    assert moved() < 1e-5
    assert moved(vi.ClosedFormEntropy()) == moved(estimator=vi.ClosedFormEntropy()) > 1e-3


@dataclasses.dataclass(frozen=True)
class Nothing(vi.Estimator):
    """One of the user's own."""

    factor: float = 0.0

    def gradient(self, q, eps, slope, beta):
        return jax.tree.map(lambda x: self.factor * jnp.ones_like(x), q)


def test_an_estimator_of_ones_own():
    assert np.all(fit(Nothing()).mean == 3)
    np.testing.assert_allclose(fit(Nothing(0.5)).mean, 3 - 50 * 0.1 * 0.5, rtol=1e-4)


@pytest.mark.parametrize(
    "make", [vi.ADVI, vi.FullRankADVI, lambda m, **o: vi.KLqp(vi.MeanField(m), **o)]
)
def test_wrong_estimators(make):
    three = r"StickingTheLanding\(\), ClosedFormEntropy\(\) or ScoreIncluded\(\)"
    for wrong in ("sticking", 1.0, Elbo()):
        with pytest.raises(
            TypeError, match=rf"estimator must be {three}, got .*{type(wrong).__name__}"
        ):
            make(model, estimator=wrong)
    with pytest.raises(TypeError, match=r"the class ScoreIncluded; call it: ScoreIncluded\(\)"):
        make(model, estimator=vi.ScoreIncluded)
    with pytest.raises(
        TypeError, match=r"estimator must be hashable, .* got an instance of Mutable"
    ):
        make(model, estimator=Mutable())


@dataclasses.dataclass
class Mutable(vi.Estimator):
    def gradient(self, q, eps, slope, beta):
        return q


def test_methods_without_one_say_so():
    for method in ("svgd", "asvgd"):
        with pytest.raises(TypeError, match="estimator"):
            fit(vi.ClosedFormEntropy(), method)


def test_unknown_options_list_the_estimator():
    with pytest.raises(
        TypeError, match=r"unknown options \['estimate'\].*'estimator', 'model_args'"
    ):
        vi.ADVI(model, estimate=None)


def test_estimators_are_values():
    assert vi.StickingTheLanding() == vi.StickingTheLanding()
    assert len({vi.StickingTheLanding(), vi.ClosedFormEntropy(), vi.ScoreIncluded()}) == 3
    with pytest.raises(TypeError, match="abstract"):
        vi.Estimator()
