"""Changes of coordinates: what families become in a frame, and what steps see of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_vi_ext.algorithm import Algorithm, Point, in_frame
from numpyro_vi_ext.curvature import whiten
from numpyro_vi_ext.defaults import framed_default
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.objectives import Elbo

EPS = np.finfo(np.float32).eps
RNG = np.random.default_rng(0)
MEAN, SHIFT = np.array([1.0, -2.0, 30.0]), np.array([-5.0, 0.1, 7.0])


def inverse_softplus(x):
    return x + np.log(-np.expm1(-x))


def dense(mean, factor):
    raw = np.tril(factor, -1) + np.diag(inverse_softplus(np.diag(factor)))
    return DenseGaussian(jnp.array(mean, jnp.float32), jnp.array(raw, jnp.float32))


def diagonal(mean, factor):
    rho = inverse_softplus(np.diag(factor))
    return DiagonalGaussian(jnp.array(mean, jnp.float32), jnp.array(rho, jnp.float32))


FAMILIES = {"MeanField": diagonal, "FullRank": dense}
each_family = pytest.mark.parametrize("family", FAMILIES)


def factors(family):
    """Two triangular factors, of scales from 1e-2 to 1e3."""
    for scales in ([0.01, 1.0, 1000.0], [2.0, 0.5, 0.1]):
        factor = np.tril(RNG.normal(size=(3, 3)), -1) + np.diag([1.0, 0.7, 2.0])
        yield np.diag(scales) @ (factor if family == "FullRank" else np.diag(np.diag(factor)))


@each_family
def test_through_has_the_moments_of_the_affine_map(family):
    A, L = factors(family)
    frame, q = FAMILIES[family](SHIFT, A), FAMILIES[family](MEAN, L)
    found = q.through(frame)
    assert type(found) is type(q)
    sd = np.sqrt(np.diag(A @ L @ L.T @ A.T))
    mean_size = np.abs(SHIFT) + np.abs(A) @ np.abs(MEAN)
    assert np.all(np.abs(found.mean() - (SHIFT + A @ MEAN)) < 10 * EPS * mean_size)
    error = (found.cov() - A @ L @ L.T @ A.T) / np.outer(sd, sd)
    size = (np.abs(A) @ np.abs(L)) ** 2
    assert np.abs(error).max() < 20 * EPS * (size.sum(1) / sd**2).max()


@each_family
def test_through_maps_each_draw_and_density(family):
    A, L = factors(family)
    frame, q = FAMILIES[family](SHIFT, A), FAMILIES[family](MEAN, L)
    outer, eps = q.through(frame), jax.random.normal(jax.random.key(0), (50, 3))
    u = jax.vmap(q.transform)(eps)
    z = jax.vmap(frame.transform)(u)
    size = np.abs(SHIFT) + np.abs(A) @ (np.abs(MEAN) + np.abs(L) @ np.abs(eps).max(0))
    assert np.all(np.abs(jax.vmap(outer.transform)(eps) - z) < 10 * EPS * size)
    # change of variables, at the noise itself, so that nothing is lost in solving for it
    log_q = -0.5 * np.sum(np.asarray(eps, float) ** 2 + np.log(2 * np.pi), 1)
    log_det = np.linalg.slogdet(A @ L)[1]
    np.testing.assert_allclose(outer.log_det(), log_det, rtol=20 * EPS)
    np.testing.assert_allclose(q.log_det() + frame.log_det(), log_det, rtol=20 * EPS)
    tight = 20 * EPS * (1 + (size / np.diag(np.abs(A @ L))).max()) * np.abs(eps).max()
    np.testing.assert_allclose(jax.vmap(outer.log_prob)(z), log_q - log_det, atol=10 * tight)
    np.testing.assert_allclose(
        jax.vmap(q.log_prob)(u) - frame.log_det(), log_q - log_det, atol=10 * tight
    )
    np.testing.assert_allclose(outer.entropy(), q.entropy() + frame.log_det(), rtol=20 * EPS)


@each_family
def test_the_standard_member_becomes_the_frame(family):
    """Up to the rounding of log(1 + exp(rho)) at small scales."""
    A, _ = factors(family)
    frame = FAMILIES[family](SHIFT, A)
    unit = type(frame).create(np.zeros(3, np.float32), np.ones(3))
    found = unit.through(frame)
    np.testing.assert_array_equal(found.mean(), frame.mean())
    np.testing.assert_allclose(found.std(), frame.std(), rtol=20 * EPS)


@pytest.mark.parametrize("family", [DiagonalGaussian, DenseGaussian])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_laplace_from_a_dense_precision(family, scale):
    factor = RNG.normal(size=(4, 8))
    precision = factor @ factor.T / scale**2
    q = family.laplace(jnp.arange(4.0), whiten(jnp.array(precision, jnp.float32)))
    np.testing.assert_array_equal(q.mean(), np.arange(4))
    bound = 50 * EPS * np.linalg.cond(precision)
    if family is DiagonalGaussian:
        np.testing.assert_allclose(q.std(), np.diag(precision) ** -0.5, rtol=100 * EPS)
    else:
        cov = np.linalg.inv(precision)
        np.testing.assert_allclose(q.cov(), cov, atol=bound * np.diag(cov).max())
        assert np.all(np.triu(q.raw, 1) == 0)
        assert np.all(np.diag(q.scale_tril) > 0)


@pytest.mark.parametrize("family", [DiagonalGaussian, DenseGaussian])
def test_laplace_from_a_diagonal(family):
    q = family.laplace(jnp.arange(3.0), whiten(jnp.array([4.0, 1e-6, 1e6])))
    np.testing.assert_allclose(q.std(), [0.5, 1e3, 1e-3], rtol=50 * EPS)
    np.testing.assert_allclose(q.cov(), np.diag([0.25, 1e6, 1e-6]), rtol=100 * EPS)


# --- what steps see -----------------------------------------------------------------------------


def density(z, theta):
    return -jnp.sum((z - 1) ** 2) + theta[0], -jnp.sum(z**4) / 10 + z[0] * z[1]


@each_family
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_loss_in_a_frame_is_the_loss(family, beta):
    """At the same draws: the log determinant moves from the entropy into the prior."""
    A, _ = factors(family)
    frame = FAMILIES[family](0.1 * SHIFT, np.clip(A, -2, 2))
    q = FAMILIES[family](np.zeros(3), np.diag([0.5, 1.0, 2.0]))
    eps, theta = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([2.0])
    objective = Elbo(beta=beta, n_mc=4)

    def outside(q):
        return objective.loss_and_grad(q.through(frame), theta, eps, density)[0]

    inside, (_, grad_theta), _ = objective.loss_and_grad(q, theta, eps, in_frame(density, frame))
    assert float(inside) == pytest.approx(float(outside(q)), rel=50 * float(EPS))
    assert float(grad_theta[0]) == pytest.approx(-beta, rel=10 * float(EPS))
    assert in_frame(density, None) is density


@each_family
def test_a_step_moves_in_the_frame_and_its_result_is_outside(family):
    A, _ = factors(family)
    frame = FAMILIES[family](SHIFT, np.clip(A, -2, 2))
    unit = type(frame).create(jnp.zeros(3), jnp.ones(3))
    algorithm = Algorithm(Elbo(), framed_default(), 8.0)
    state = algorithm.init(Point(unit, jnp.zeros(1)), jax.random.key(0), frame)
    np.testing.assert_allclose(state.result.q.mean(), SHIFT, rtol=EPS)
    after, _ = algorithm.step(state, jnp.ones((1, 3)), in_frame(density, frame))
    moved = after.point.q.mean()
    assert np.abs(moved).min() > 0
    factor = np.asarray(
        jax.vmap(frame.transform)(jnp.eye(3)) - frame.transform(jnp.zeros(3)), float
    ).T
    size = np.abs(SHIFT) + np.abs(factor) @ np.abs(moved)
    assert np.all(np.abs(after.result.q.mean() - (SHIFT + factor @ moved)) < 10 * EPS * size)
    assert after.frame is frame
    without = dataclasses.replace(after, frame=None)
    np.testing.assert_array_equal(without.result.q.mean(), moved)
