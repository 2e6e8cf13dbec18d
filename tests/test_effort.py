"""What a warm-up takes the time for: costs are counted, and little effort still helps."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_vi_ext as vi
from numpyro_vi_ext import effort
from numpyro_vi_ext.programs import numbers_moved


def moved(fn, *args):
    return numbers_moved(jax.make_jaxpr(fn)(*args).jaxpr)


def test_reads_and_writes_are_counted():
    x, A = jnp.ones(10), jnp.ones((5, 10))
    assert moved(lambda x: x + x, x) == 30
    assert moved(lambda A, x: A @ x, A, x) == 50 + 10 + 5
    assert moved(jax.jit(lambda x: x + x), x) == 30


def test_a_scan_counts_all_its_turns():
    def walk(x):
        return jax.lax.scan(lambda c, _: (c * x, None), x, length=7)[0]

    assert moved(walk, jnp.ones(10)) == 7 * 30


def test_a_branch_is_looked_into():
    def either(x):
        return jax.lax.cond(x[0] > 0, lambda x: x + x, lambda x: x * x, x)

    assert moved(either, jnp.ones(10)) >= 60


def test_a_scatter_counts_what_it_scatters():
    def add(x):
        return jnp.zeros(10).at[jnp.arange(1000) % 10].add(x)

    assert moved(add, jnp.ones(1000)) >= 2000


def test_the_more_it_costs_the_less_is_done():
    costs = 10**4, 2 * 10**5, 3 * 10**6, 10**8
    found = [effort.effort_for(moved, 100) for moved in costs]
    assert [e.starts for e in found] == [4, 4, 1, 1]
    assert [e.averages for e in found] == [10, 10, 0, 0]
    assert [e.dense for e in found] == [True, True, True, False]
    assert [e.once for e in found] == [True, True, True, False]
    assert [e.probes for e in found] == [0, 0, 0, 10]
    assert [e.pairs for e in found] == [32, 32, 20, 4]
    many = effort.effort_for(10**4, 5000)
    assert (many.starts, many.dense, many.once, many.probes) == (4, False, True, 64)


def test_a_model_that_costs_much(monkeypatch):
    """One start, a diagonal from eight directions, four pairs of draws: still the optimum."""
    monkeypatch.setattr(effort, "WORK", 1.0)
    monkeypatch.setattr(effort, "SEVERAL", 1.0)
    scales = np.logspace(-3, 3, 7)

    def model(scales):
        with numpyro.plate("scales", len(scales)):
            numpyro.sample("x", dist.Normal(3 * scales, scales))

    approx = vi.fit(model, 1, model_args=(scales,), obj_optimizer=vi.sgd(0.0), warmup=True,
                    random_seed=0, progressbar=False)  # fmt: skip
    assert "0 averages" in approx.facts.warmup
    assert np.abs((approx.mean - 3 * scales) / scales).max() < 0.05
    np.testing.assert_allclose(approx.std, scales, rtol=1e-3)


MEAN, COVARIANCE = jnp.array([10.0, -3.0]), jnp.array([[1.0, 0.9], [0.9, 1.0]])


def correlated(x, y):
    """Two coefficients with a correlated prior."""
    z = numpyro.sample("z", dist.MultivariateNormal(MEAN, COVARIANCE))
    numpyro.sample("y", dist.Normal(x @ z, 1).to_event(1), obs=y)


def test_a_whole_hessian_at_the_end(monkeypatch):
    """As where there are many dimensions."""
    monkeypatch.setattr(effort, "DENSE", 1)
    x = np.random.default_rng(0).normal(size=(3, 2))
    y = np.array([1.0, 2.0, 3.0])
    approx = vi.fit(correlated, 1, "fullrank_advi", model_args=(x, y), obj_optimizer=vi.sgd(0.0),
                    warmup=True, random_seed=0, progressbar=False)  # fmt: skip
    assert "0 averages" in approx.facts.warmup
    precision = np.linalg.inv(COVARIANCE) + x.T @ x
    mean = np.linalg.solve(precision, np.linalg.solve(COVARIANCE, MEAN) + x.T @ y)
    np.testing.assert_allclose(approx.cov, np.linalg.inv(precision), atol=1e-4)
    np.testing.assert_allclose(approx.mean, mean, atol=1e-2)


def test_calibration_with_a_whole_hessian_at_the_end(monkeypatch):
    """Without a step: only that Hessian knows that the posterior is correlated."""
    monkeypatch.setattr(effort, "DENSE", 1)
    nothing = jnp.zeros((1, 2)), jnp.zeros(1)  # the posterior is the prior
    result = vi.vsbc(correlated, 0, "fullrank_advi", model_args=nothing, obj_optimizer=vi.sgd(0.0),
                     warmup=True, simulations=200, random_seed=0, progressbar=False)  # fmt: skip
    assert result.ok


def test_calibration_of_a_model_that_costs_much(monkeypatch):
    monkeypatch.setattr(effort, "WORK", 1.0)
    monkeypatch.setattr(effort, "SEVERAL", 1.0)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    result = vi.vsbc(model, 300, model_args=(jnp.zeros(3),), random_seed=0, progressbar=False)
    assert result.sites["mu"].verdict == "calibrated"
