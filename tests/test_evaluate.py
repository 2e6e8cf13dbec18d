"""Draws in blocks of bounded memory, and what they cost in compiling."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext import blocks, evaluate

Y = np.array([1.0, 4.0, 2.5, 3.0], np.float32)


def model(y):
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 3).to_event(1))
    numpyro.deterministic("long", mu[0] * jnp.ones(6))
    numpyro.sample("y", dist.Normal(mu.sum(), 2), obs=y)


@pytest.fixture
def approx():
    return vi.MeanField(model, model_args=(Y,))


@pytest.fixture
def fresh_cache():
    evaluate._values.cache_clear()
    evaluate._elbo_terms.cache_clear()
    yield
    evaluate._values.cache_clear()
    evaluate._elbo_terms.cache_clear()


def block_sizes(monkeypatch):
    sizes = []
    original = jax.vmap

    def spy(function):
        mapped = original(function)

        def call(keys):
            sizes.append(keys.size)
            return mapped(keys)

        return call

    monkeypatch.setattr(jax, "vmap", spy)
    return sizes


def test_blocks_bound_memory_and_change_nothing(approx, fresh_cache, monkeypatch):
    sizes = block_sizes(monkeypatch)
    draws, elbo = approx.sample_dict(10, random_seed=0), approx.elbo(10, random_seed=0)
    evaluate._values.cache_clear()
    evaluate._elbo_terms.cache_clear()
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 28)
    for name, value in approx.sample_dict(10, random_seed=0).items():
        np.testing.assert_allclose(value, draws[name], rtol=1e-6)
    np.testing.assert_allclose(approx.elbo(10, random_seed=0), elbo, rtol=1e-5)
    # A draw has 2 + 6 numbers in its sites, and an array of 6 on the way: two draws per block. A
    # term of the ELBO is one number, the largest array on its way one of 4; "long" is not needed.
    assert sizes == [10, 10, 2, 5]


def test_a_draw_larger_than_a_block(approx, fresh_cache, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 3)
    sizes = block_sizes(monkeypatch)
    assert approx.sample_dict(3)["long"].shape == (3, 6)
    assert sizes == [1]


def test_same_number_of_draws_compiles_once(approx, fresh_cache):
    traced = []

    def counted(y):
        traced.append(1)
        model(y)

    first = vi.MeanField(counted, model_args=(Y,))
    first.sample_dict(10)
    first.elbo(10)
    count = len(traced)
    other = vi.MeanField(counted, model_args=(Y + 1,), start_sigma={"mu": 0.2})
    other.sample_dict(10)
    assert len(traced) == count
    compiled = evaluate._values(first.target.program, 10)
    assert compiled is evaluate._values(other.target.program, 10)
    assert compiled._cache_size() == 1


def test_unconstrained_draws_are_those_behind_the_draws(approx):
    z = evaluate.draw_unconstrained(approx.point, jax.random.key(0), 10)
    np.testing.assert_allclose(z, approx.sample_dict(10, random_seed=0)["mu"], rtol=1e-6)


def test_new_data_are_used(approx):
    """Data are inputs of what is compiled, not part of it."""
    shifted = vi.MeanField(model, model_args=(Y + 100,))
    assert shifted.elbo(10, 0).elbo < approx.elbo(10, 0).elbo - 1000


def test_observed_values_leave_random_ones_out():
    def subsampled(y):
        numpyro.sample("fixed", dist.Normal(0, 1), obs=jnp.array([1.0, 2.0]))
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 1000, subsample_size=2):
            numpyro.sample("y", dist.Normal(mu, 1), obs=numpyro.subsample(y, event_dim=0))

    approx = vi.MeanField(subsampled, model_args=(jnp.arange(1000.0),))
    assert list(evaluate.observed_values(approx.target, approx.point)) == ["fixed"]


def test_subsampled_models_draw_new_rows_for_every_term(fresh_cache):
    """The ELBO of a subsampled model is unbiased: it agrees with that on all rows."""

    def subsampled(y, size):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 50, subsample_size=size):
            numpyro.sample("y", dist.Normal(mu, 1), obs=numpyro.subsample(y, event_dim=0))

    y = jnp.linspace(-1.0, 2.0, 50)
    full, part = (
        vi.MeanField(subsampled, model_args=(y, size), start_sigma={"mu": 0.05}).elbo(4000, 0)
        for size in (50, 10)
    )
    assert part.se > 2 * full.se
    assert part.elbo == pytest.approx(full.elbo, abs=4 * part.se)


# -- points that q would give


def params_model(y):
    scale = numpyro.param("scale", 2.0, constraint=dist.constraints.positive)
    x = numpyro.sample("x", dist.LogNormal(0, 1))
    numpyro.deterministic("scaled", scale * x)
    numpyro.sample("y", dist.Normal(x, scale), obs=y)


def test_constrain_uses_the_fitted_params():
    """By NumPy: x = exp(z); ``model.constrain`` has the initial params, ``constrain`` ours."""
    fitted = vi.fit(params_model, 300, model_args=(Y,), random_seed=0, progressbar=False)
    scale = float(fitted.model_params["scale"])
    assert abs(scale - 2.0) > 0.1
    z = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3, 1)
    for found, factor in ((fitted.constrain(z), scale), (fitted.model.constrain(z), 2.0)):
        assert set(found) == {"x", "scaled"}
        np.testing.assert_allclose(found["x"], np.exp(z[..., 0]), rtol=1e-5)
        np.testing.assert_allclose(found["scaled"], factor * np.exp(z[..., 0]), rtol=1e-5)


def test_constrain_inside_the_users_own_jit_vmap_and_grad():
    approx = vi.MeanField(params_model, model_args=(Y,))
    z = jnp.array([[0.3], [-0.2]])
    assert approx.constrain(z[0])["x"].shape == ()
    np.testing.assert_allclose(
        jax.jit(lambda z: approx.constrain(z)["x"])(z), np.exp([0.3, -0.2]), rtol=1e-5
    )
    np.testing.assert_allclose(
        jax.vmap(lambda z: approx.constrain(z)["x"])(z), np.exp([0.3, -0.2]), rtol=1e-5
    )
    gradient = jax.grad(lambda z: approx.constrain(z)["scaled"])(z[0])
    np.testing.assert_allclose(gradient, [2.0 * np.exp(0.3)], rtol=1e-5)


@pytest.mark.parametrize("z", [np.zeros(3), np.zeros((1, 0)), 0.5], ids=["long", "short", "scalar"])
def test_constrain_of_a_wrong_shape(z):
    approx = vi.MeanField(params_model, model_args=(Y,))
    with pytest.raises(ValueError, match=r"last axis of length ndim = 1, got shape"):
        approx.constrain(z)
