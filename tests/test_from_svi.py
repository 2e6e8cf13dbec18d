"""The page for people from NumPyro's SVI: its code runs, and what it says is so."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from test_from_pymc import read_rows, run

import numpyro_vi_ext as vi

pytestmark = pytest.mark.compiles

PAGE = (Path(__file__).parents[1] / "docs" / "from-svi.md").read_text("utf-8")
ROWS = read_rows(PAGE)
FITTED = "value.steps == 10_000 and value.facts.warmup == ''"
CHECKS = {  # code of a line -> what must be true of its value
    "vi.fit(model, **data)": "type(value) is vi.MeanField and value.facts.warmup",
    'vi.fit(model, method="fullrank_advi", **data)': "type(value) is vi.FullRank",
    'vi.fit(model, inf_kwargs={"init_strategy": numpyro.infer.init_to_uniform}, **data)': FITTED,
    'vi.fit(model, start_sigma={"a": 0.1, "w": 0.1, "sd": 0.1}, **data)': FITTED,
    "vi.fit(model, obj_optimizer=numpyro.optim.Adam(0.01), **data)": FITTED,
    "vi.fit(model, obj_n_mc=10, **data)": "value.steps == 10_000",
    'vi.fit(model, on_nonfinite="skip", **data)': "value.facts.skipped == 0",
    "advi.refine(100)": "np.array_equal(value.hist, fit_200.hist)",
    "approx.hist": "value.shape == (10_000,)",
    "approx.params": "set(value) == {'mu', 'L_tril'}",
    "approx.sample_dict(1000)": "value['mean'].shape == (1000, 200)",
    "approx.summary(quantiles=[0.05, 0.5, 0.95])": "value.shape == (204, 5)",
    "approx.mean, approx.cov": "value[1].shape == (4, 4)",
    "approx.elbo(1000)": "abs(value.elbo + approx.hist[-1000:].mean()) < 0.2 and value.se < 0.1",
    "approx.diagnose()": "value.khat < 0.7",
    "approx.sample_posterior_predictive(1000)": (
        "value['posterior_predictive']['y'].shape == (1, 1000, 200)"
    ),
}


@pytest.fixture(scope="module")
def names():
    names = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)), names)
    for name, n in (("advi", 100), ("fit_200", 200)):
        names[name] = vi.ADVI(names["model"], random_seed=0, **names["data"])
        names[name].fit(n, warmup=False)
    return names


def test_all_lines_are_checked():
    assert len(ROWS) == len(CHECKS) == 16
    assert {row.code for row in ROWS} == {(code,) for code in CHECKS}
    assert not any(row.error for row in ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row.code[0][:60] for row in ROWS])
def test_line_of_the_table(row, names):
    value = run(row.code, names)
    assert eval(CHECKS[row.code[0]], {**names, "value": value})


def spread(X, y):
    """Standard deviations of the coefficients of a regression with flat priors."""
    Z = np.column_stack([np.ones(len(X)), X])
    residuals = y - Z @ np.linalg.lstsq(Z, y, rcond=None)[0]
    return np.sqrt(np.diag(np.linalg.inv(Z.T @ Z)) * np.sum(residuals**2) / (len(X) - 3))


@pytest.mark.slow
def test_the_same_fit_both_ways(names):
    sd = spread(names["X"], names["y"])
    posterior = names["guide"].get_posterior(names["result"].params)
    ours, theirs = names["approx"].std[:3], np.sqrt(np.diag(posterior.covariance_matrix))[:3]
    np.testing.assert_allclose(ours, sd, rtol=0.04)
    np.testing.assert_allclose(theirs, sd, rtol=0.3)
    assert np.abs(ours / sd - 1).max() < np.abs(theirs / sd - 1).max()
    assert round(float(ours[0]), 3) == 0.036
    assert abs(theirs[0] - 0.042) < 0.004
    assert names["draws"]["w"].shape == (1000, 2)
    assert names["new"].shape == (1, 1000, 2)
    assert names["predictive"](jax.random.key(0), names["X_new"])["y"].shape == (1000, 2)


def scaled(X, y):
    a = numpyro.sample("a", dist.Normal(0, 10))
    w = numpyro.sample("w", dist.Normal(0, 10_000).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(a + X @ w, sd).to_event(1), obs=y)


@pytest.mark.slow
def test_units_do_not_matter(names):
    X, y, approx = names["X"] / 1000, names["y"], names["approx"]
    ours = vi.fit(scaled, method="fullrank_advi", model_args=(X, y), random_seed=0)
    units = np.array([1, 1000, 1000, 1])
    assert np.abs((ours.mean / units - approx.mean) / approx.std).max() < 0.1
    np.testing.assert_allclose(ours.std / units, approx.std, rtol=0.05)
    guide = AutoMultivariateNormal(scaled)
    svi = SVI(scaled, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
    result = svi.run(jax.random.key(0), 10_000, X, y=y, progress_bar=False)
    theirs = guide.get_posterior(result.params).mean
    assert np.abs((theirs / units - approx.mean) / approx.std).max() > 3


@pytest.mark.slow
def test_predictive_gives_data_back_and_we_do_not(names):
    model, X, y = names["model"], names["X"], names["y"]
    theirs = Predictive(model, guide=names["approx"].guide, params={}, num_samples=2)
    np.testing.assert_allclose(theirs(jax.random.key(0), X, y=y)["y"][0], y, rtol=1e-6)
    ours = names["approx"].sample_posterior_predictive(2)["posterior_predictive"]["y"]
    assert not np.isclose(ours, y).all()


@pytest.mark.slow
def test_a_second_fit_compiles_nothing(names, compiled):
    X, y = names["X"] + 1, names["y"] + 1
    others = {"model_args": (X,), "model_kwargs": {"y": y}}
    vi.fit(names["model"], method="fullrank_advi", random_seed=1, **others)
    assert compiled == []
    names["svi"].run(jax.random.key(1), 10_000, X, y=y, progress_bar=False)
    assert any("scan" in name for name in compiled)


@pytest.mark.slow
def test_own_guide(names):
    gap = names["elbo"] - names["own_elbo"]
    assert 0.8 < gap < 1.6
    own = names["own_approx"]
    assert own.histogram.shape == (2000, 4)
    assert own.diagnose().headline == "good"
    assert own.diagnose().khat is None
    ratio = own.std[1:3] / names["approx"].std[1:3]
    assert ((ratio > 0.27) & (ratio < 0.4)).all(), ratio
    assert abs(own.std[0] / names["approx"].std[0] - 1) < 0.2
    flow = names["flow_approx"]
    assert np.abs((flow.mean - names["approx"].mean) / names["approx"].std).max() < 0.5
    assert (flow.std[:3] / names["approx"].std[:3] > 0.7).all()


@pytest.mark.slow
def test_our_guide(names):
    assert abs(names["guide_elbo"] - names["elbo"]) < 0.05
    assert set(names["centre"]) == {"a", "w", "sd"}
    mean = names["near"].get_posterior(names["near_result"].params).mean
    assert np.abs((mean - names["approx"].mean) / names["approx"].std).max() < 0.5


def test_what_stays_with_svi():
    def discrete():
        numpyro.sample("k", dist.Bernoulli(0.5))

    def local(y):
        with numpyro.plate("row", y.shape[0]):
            e = numpyro.sample("e", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(e, 1), obs=y)

    with pytest.raises(vi.DiscreteLatentError):
        vi.fit(discrete)
    with pytest.raises(ValueError, match="with an entry for each row"):
        vi.fit(local, model_args=(vi.Minibatch(np.ones(100), batch_size=10),))


@pytest.mark.slow
def test_networks_in_the_model():
    from jax.example_libraries import stax

    def model(x, y):
        net = numpyro.module("net", stax.Dense(1), input_shape=(1,))
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(net(x)[:, 0] + z, 1).to_event(1), obs=y)

    x = jnp.linspace(-1, 1, 50)[:, None]
    approx = vi.fit(model, model_args=(x, 3 * x[:, 0]))
    weight, _ = approx.model_params["net$params"]
    np.testing.assert_allclose(weight, 3, atol=0.01)
