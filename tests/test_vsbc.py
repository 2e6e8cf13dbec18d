"""Calibration over the prior: against exact posteriors, single fits, and SciPy's statistics."""

import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import numpyro_vi_ext as vi
from numpyro_vi_ext.calibration import _corrected, _reach, _spread, _symmetry, calibrate
from numpyro_vi_ext.simulating import simulate

calls = []  # of model functions


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def normal(y):
    calls.append(None)
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def rates(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.deterministic("sum", w.sum())
    numpyro.sample("counts", dist.Poisson(jnp.exp(X @ w)), obs=y)


X = np.random.default_rng(0).normal(size=(8, 2))
COUNTS = np.zeros(8, int)


def vsbc(model, n=600, method="advi", **options):
    """Without warm-up, to compile less, unless the test says otherwise."""
    options = {"random_seed": 0, "progressbar": False, "simulations": 40, "warmup": False} | options
    return vi.vsbc(model, n, method, **options)


def simulated(model, simulations=40, seed=0):
    """The data sets that `vsbc` fits."""
    return simulate(model, None, None, jax.random.split(jax.random.key(seed), 3)[0], simulations)


# -- what it finds


@pytest.fixture(scope="module")
def exact():
    return vsbc(normal, 500, model_args=(np.zeros(4),), simulations=200, warmup="auto")


def test_probabilities_are_those_of_the_exact_posterior(exact):
    found = simulated(vi.Model(normal, np.zeros(4)), 200)
    mean, sd = np.asarray(found.stacks[0]).sum(1) / 5, 5**-0.5
    p = stats.norm.cdf((np.asarray(found.truth["mu"]) - mean) / sd)
    error = np.sqrt(p * (1 - p) / 1000) + 0.01  # of draws, and of the fit
    assert (np.abs(exact.probabilities["mu"] - p) < 4 * error).all()


def test_an_exact_posterior_is_calibrated(exact):
    assert exact.ok
    assert exact.sites["mu"].verdict == "calibrated"
    assert stats.kstest(exact.probabilities["mu"], "uniform").pvalue > 0.05
    assert (exact.simulations, exact.failed, exact.draws) == (200, 0, 1000)


@pytest.mark.parametrize(("start", "side"), [(0.7, "right"), (-0.7, "left")])
def test_means_that_are_off_have_a_side(start, side):
    options = {"inf_kwargs": {"start": {"mu": start}}, "obj_optimizer": vi.sgd}
    result = vsbc(normal, 0, model_args=(np.zeros(4),), simulations=100, **options)
    assert result.sites["mu"].verdict == f"biased to the {side}"
    assert not result.ok


@pytest.mark.parametrize(("sigma", "word"), [(0.1, "narrow"), (5.0, "wide")])
def test_spreads_that_are_off_have_a_word(sigma, word):
    options = {"inf_kwargs": {"start_sigma": {"mu": sigma}}, "obj_optimizer": vi.sgd}
    result = vsbc(normal, 0, model_args=(np.zeros(4),), simulations=200, **options)
    assert result.sites["mu"].verdict == f"unbiased, too {word}"


@pytest.mark.slow
def test_a_mean_field_is_too_narrow_where_the_posterior_is_correlated():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x.sum(), 0.3), obs=y)

    options = {"model_args": (0.0,), "simulations": 100}
    assert vsbc(model, 1000, **options).sites["x"].verdict == "unbiased, too narrow"
    assert vsbc(model, 1000, "fullrank_advi", **options).ok


@pytest.mark.slow
def test_the_spread_of_groups_is_biased():
    # Yao et al. 2018, section 4.3, find log tau of a centred hierarchical model biased
    def model(y):
        tau = numpyro.sample("tau", dist.LogNormal(0, 1))
        with numpyro.plate("groups", 8):
            theta = numpyro.sample("theta", dist.Normal(0, tau))
            numpyro.sample("y", dist.Normal(theta, 2), obs=y)

    result = vsbc(model, 3000, model_args=(np.zeros(8),), simulations=300, warmup="auto")
    assert result.sites["tau"].verdict.startswith("biased")
    assert result.sites["theta"].verdict != "biased"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_lanes_agree_with_single_fits(method):
    model = vi.Model(rates, X, COUNTS)
    result = vsbc(model, 1000, method, simulations=10, warmup="auto")
    found = simulated(model, 10)
    for i in range(10):
        approx = vi.fit(found.model(i), 1000, method, random_seed=i, progressbar=False)
        p = np.mean(approx.sample_dict(1000, random_seed=i)["w"] < found.truth["w"][i], axis=0)
        np.testing.assert_allclose(result.probabilities["w"][i], p, atol=0.1)


def test_lanes_without_warm_up_agree_with_single_fits():
    model, options = vi.Model(normal, np.zeros(4)), {"obj_optimizer": vi.adam(0.02), "obj_n_mc": 4}
    result = vsbc(model, 600, simulations=10, **options)
    found = simulated(model, 10)
    for i in range(10):
        approx = vi.fit(found.model(i), 600, random_seed=i, progressbar=False, **options)
        p = np.mean(approx.sample_dict(1000, random_seed=i)["mu"] < found.truth["mu"][i])
        assert abs(result.probabilities["mu"][i] - p) < 0.1


@pytest.mark.parametrize("method", ["svgd", pytest.param(vi.ASVGD, marks=pytest.mark.slow)])
def test_other_methods(method):
    inf_kwargs = {"n_particles": 50} if method == "svgd" else {}
    obj_n_mc = None if method == "svgd" else 50
    options = {"inf_kwargs": inf_kwargs, "obj_n_mc": obj_n_mc, "simulations": 60}
    result = vsbc(normal, 300, method, model_args=(np.zeros(4),), **options)
    assert result.ok
    found = simulated(vi.Model(normal, np.zeros(4)), 60)
    mean = np.asarray(found.stacks[0]).sum(1) / 5
    p = stats.norm.cdf((np.asarray(found.truth["mu"]) - mean) * 5**0.5)
    assert np.abs(result.probabilities["mu"] - p).mean() < 0.06


# -- how it runs


def test_neither_traces_nor_programs_grow_with_the_data_sets():
    counts = []
    for simulations in (10, 30):
        calls.clear()
        vsbc(normal, 20, model_args=(np.zeros(9),), simulations=simulations)
        counts.append(len(calls))
    assert counts[0] <= 4
    assert counts[1] <= counts[0]


def test_a_second_call_compiles_nothing():
    names, active = [], [True]

    def listener(event, duration, **info):
        if active and event.endswith("backend_compile_duration"):
            names.append(info.get("fun_name"))

    vsbc(normal, 20, model_args=(np.zeros(7),), random_seed=1)
    jax.monitoring.register_event_duration_secs_listener(listener)
    calls.clear()
    vsbc(normal, 40, model_args=(np.ones(7),), random_seed=2)
    active.clear()
    assert names == []
    assert calls == []


def test_the_seed_makes_it_reproducible():
    options = {"model_args": (np.zeros(4),), "simulations": 12}
    a, b, c = (vsbc(normal, 50, random_seed=s, **options).ranks["mu"] for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.slow
def test_blocks_of_lanes_do_not_matter(monkeypatch):
    from numpyro_vi_ext import lanes

    options = {"model_args": (np.zeros(4),), "simulations": 13}
    whole = vsbc(normal, 50, **options).ranks["mu"]
    monkeypatch.setattr(lanes, "_LANES", 5)
    assert np.abs(vsbc(normal, 50, **options).ranks["mu"] - whole).max() <= 2  # of 1,000: rounding


def test_the_bar_counts_fits(capfd):
    vsbc(normal, 1, model_args=(np.zeros(4),), simulations=10, progressbar=True)
    assert "10/10" in capfd.readouterr().err
    vsbc(normal, 1, model_args=(np.zeros(4),), simulations=10)
    assert capfd.readouterr().err == ""


def test_only_what_is_asked_for_is_looked_at():
    result = vsbc(rates, 50, model_args=(X,), model_kwargs={"y": COUNTS}, var_names=["sum"])
    assert result.param_names == ("sum",)
    assert result.ranks["sum"].shape == (40,)


# -- where the data go


def test_data_of_another_dtype_and_in_a_dict():
    def model(batch):
        p = numpyro.sample("p", dist.Beta(2, 2))
        numpyro.sample("y", dist.Bernoulli(p), obs=batch["y"])

    batch = {"y": np.zeros(30, bool), "name": "coin"}  # draws are integers
    assert vsbc(model, model_args=(batch,), simulations=60).ok


def test_two_sites_with_the_same_placeholder():
    def model(a, b):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("first", dist.Normal(mu, 1), obs=a)
        numpyro.sample("second", dist.Normal(mu + 3, 0.1), obs=b)

    assert vsbc(model, model_args=(np.zeros(3), np.zeros(3))).ok


def test_a_start_with_an_infinite_density_is_left():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Uniform(x - 0.5, x + 0.5), obs=y)

    with pytest.raises(ValueError, match=r"of 40 data sets failed, more than 10%"):
        vsbc(model, model_args=(np.zeros(2),))

    def shifted(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.TruncatedNormal(x, 1, low=-5), obs=y)

    options = {"inf_kwargs": {"start": {"x": 1e15}}, "obj_optimizer": vi.adam(0.1)}
    assert vsbc(shifted, model_args=(0.0,), **options).failed == 0


def wild(y, scale):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.LogNormal(scale * x, 1), obs=y)  # 0 or infinite far out


def test_what_fails_is_counted():
    result = vsbc(wild, 200, model_args=(1.0, 50.0), simulations=100)
    assert 0 < result.failed <= 10
    assert result.simulations == 100 - result.failed
    assert f"{result.failed} left out: their density or their fit was not finite" in repr(result)


def test_too_many_that_fail_are_refused():
    with pytest.raises(ValueError, match=r"data sets failed, more than 10%, .*narrower ones"):
        vsbc(wild, 20, model_args=(1.0, 150.0), simulations=100)


# -- what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"simulations": 9}, ValueError, "simulations must be at least 10"),
        ({"draws": 1.5}, TypeError, "draws must be an integer"),
        ({"n": -1}, ValueError, "n must be at least 0"),
        ({"method": "nuts"}, KeyError, "method 'nuts' is unknown"),
        ({"observed": ["y"]}, TypeError, "observed must be a dict from observed site to argument"),
        ({"observed": {"z": "y"}}, KeyError, r"observed names \['z'\], but the observed sites"),
        ({"observed": {"y": "z"}}, KeyError, r"observed names the arguments \['z'\], but those"),
        ({"var_names": ["nu"]}, KeyError, r"var_names names \['nu'\], but latent and"),
        ({"warmup": 3}, ValueError, "warmup must be True, False or 'auto'"),
        ({"on_nonfinite": "go"}, ValueError, "on_nonfinite must be 'stop' or 'skip'"),
        ({"inf_kwargs": {"random_seed": 1}}, TypeError, "are given twice"),
        ({"model_args": (vi.Minibatch(np.zeros(9), batch_size=2),)}, ValueError, "to minibatches"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        vi.vsbc(normal, **({"model_args": (np.zeros(4),), "progressbar": False} | options))


def test_an_instance_is_refused():
    advi = vi.ADVI(normal, model_args=(np.zeros(4),))
    with pytest.raises(TypeError, match="belongs to one data set"):
        vsbc(normal, method=advi, model_args=(np.zeros(4),))


def refused(model, *args, error=ValueError, **options):
    with pytest.raises(error) as caught:
        vsbc(model, model_args=args, **options)
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_improper_priors_are_named():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    text = refused(model, np.zeros(4))
    assert "'mu' cannot be drawn" in text
    assert "every prior has to be a proper one" in text


def test_closed_over_data_are_refused():
    def model():
        normal(np.zeros(4))

    assert "'y' come from no argument that holds data" in refused(model)
    assert "an int, a list or a table counts" in refused(normal, 3)


def test_data_that_are_computed_inside_are_refused():
    def model(y):
        normal(jnp.log(y))

    assert "are computed from ['y'], and not equal to none of them" in refused(model, np.ones(3))


def test_an_argument_that_is_not_the_data_is_refused():
    def model(X, y):
        normal(y + 0 * X)

    args = np.ones(3), np.zeros(3)
    assert "not equal to 'X'" in refused(model, *args, observed={"y": "X"})
    assert vsbc(model, model_args=args, observed={"y": "y"}).ok


def test_one_argument_for_two_sites_is_refused():
    def model(a):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("first", dist.Normal(mu, 1), obs=a)
        numpyro.sample("second", dist.Normal(mu, 1), obs=a)

    assert "one argument cannot hold the data of two sites" in refused(model, np.zeros(3))


def test_arguments_that_cannot_be_told_apart_are_refused():
    def model(a, b):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.maximum(a, b))

    text = refused(model, np.zeros(3), np.zeros(3))
    assert "may come from ['a', 'b']: say which, as in observed={'y': 'a'}" in text


def test_values_needed_in_python_are_refused():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1 if float(y[0]) == 0 else 2), obs=y)

    assert "come from no argument that holds data" in refused(model, np.zeros(3))


def test_sites_drawn_given_the_data_are_refused():
    def centred(y):
        mu = numpyro.sample("mu", dist.Normal(y.mean(), 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    assert "['mu', 'y'] cannot be drawn without the data" in refused(centred, np.zeros(3))

    def series(y):
        phi = numpyro.sample("phi", dist.Normal(0, 0.3))
        numpyro.sample("y", dist.Normal(phi * jnp.append(0.0, y[:-1]), 1).to_event(1), obs=y)

    assert "['y'] cannot be drawn without the data" in refused(series, np.zeros(3))


def test_models_that_are_more_or_less_than_prior_and_likelihood_are_refused():
    def unobserved(y):
        numpyro.sample("mu", dist.Normal(0, 1))

    def with_factor(y):
        normal(y)
        numpyro.factor("penalty", -1.0)

    def with_param(y):
        sd = numpyro.param("sd", 1.0, constraint=dist.constraints.positive)
        mu = numpyro.sample("mu", dist.Normal(0, sd))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    def subsampled(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 4, subsample_size=2):
            numpyro.sample("y", dist.Normal(mu, 1), obs=numpyro.subsample(y, event_dim=0))

    assert "no observed sites" in refused(unobserved, np.zeros(4))
    assert "from the factors ['penalty']" in refused(with_factor, np.zeros(4))
    assert "the params ['sd'] have no prior" in refused(with_param, np.zeros(4))
    assert "draws a subsample inside" in refused(subsampled, np.zeros(4))


# -- statistics, words and pictures


def test_the_symmetry_statistic_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for draws in (4, 1000):
        ranks = rng.integers(0, draws + 1, 50)
        expected = stats.ks_2samp(ranks, draws - ranks, method="asymp").statistic
        assert _symmetry(ranks, draws)[0] == pytest.approx(expected)


def test_the_walk_by_counting_all_of_them():
    walks = np.cumsum(list(itertools.product([-1, 1], repeat=9)), axis=1)
    for distance in range(11):
        expected = np.mean(np.abs(walks).max(1) >= distance)
        assert _reach(9, distance) == pytest.approx(expected)


def test_p_values_are_right_where_numpyros_are_too_small():
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 1001, (2000, 100))
    ours = np.mean([_symmetry(r, 1000)[1] < 0.05 for r in ranks])
    spread = np.mean([_spread(r, 1000) < 0.05 for r in ranks])
    scipys = [stats.ks_2samp(r, 1000 - r, method="asymp").pvalue < 0.05 for r in ranks]
    assert 0.025 < ours < 0.06
    assert 0.035 < spread < 0.065
    assert np.mean(scipys) > 0.09


def test_correction_for_many_tests():
    found = _corrected(np.array([0.01, 0.04, 0.03, 0.5]))
    np.testing.assert_allclose(found, [0.04, 0.09, 0.09, 0.5])


def test_many_entries_are_not_many_alarms():
    rng = np.random.default_rng(0)
    ranks = {"x": rng.integers(0, 1001, (100, 20, 10)), "none": np.zeros((100, 0), int)}
    result = calibrate(ranks, 1000, 0, "test")
    assert (result.ks_pvalues["x"] < 0.05).any()
    assert result.ok
    ranks["x"][:, 3, 7] //= 2
    result = calibrate(ranks, 1000, 0, "test")
    assert result.sites["x"].entry == "[3, 7]"
    assert result.sites["x"].verdict == "biased to the right"


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    ranks = {f"site{i}_{'x' * 60}": rng.integers(0, 1001, 100) for i in range(50)}
    ranks |= {"low": rng.integers(500, 1001, 100), "w": rng.integers(400, 600, (100, 3))}
    return calibrate(ranks, 1000, 3, "fullrank_advi, 10,000 steps")


def test_sites_without_entries_print():
    empty = calibrate({"none": np.zeros((100, 0), int)}, 1000, 0, "advi")
    assert empty.sites == {}
    assert "none" not in repr(empty)


def test_it_prints_as_a_table(table):
    lines = repr(table).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == (
        "fullrank_advi, 10,000 steps: 103 data sets from the prior, 1,000 draws each"
    )
    assert lines[1] == "3 left out: their density or their fit was not finite"
    row = next(line.split(maxsplit=4) for line in lines if line.startswith("  low"))
    assert row[3:] == ["<0.001", "biased to the left"]
    assert "and 12 sites with larger p-values" in repr(table)
    assert "too low" in repr(table)
    assert "posterior sds too" in repr(table)
    assert "too high" not in repr(table)


def test_one_panel_for_each_site(table, tmp_path):
    axes = vi.plot_vsbc(table, ["low", "w"])
    assert [ax.get_title() for ax in axes] == [
        "low\nbiased to the left",
        f"w{table.sites['w'].entry}\nunbiased, too wide",
    ]
    bars = [p for p in axes[0].patches if p.get_fill() and hasattr(p, "get_data")]
    counts = bars[0].get_data().values
    assert counts.sum() == 100
    assert counts[:4].sum() == 0  # all p are in the right half
    assert len(vi.plot_vsbc(table)) == 52
    axes[0].figure.savefig(tmp_path / "vsbc.png")
    assert (tmp_path / "vsbc.png").stat().st_size > 5000


def test_axes_in(table):
    _, axes = plt.subplots(1, 2)
    assert vi.plot_vsbc(table, "low", axes=axes[1])[0] is axes[1]
    assert not axes[0].has_data()


def test_plots_that_are_refused(table):
    with pytest.raises(KeyError, match=r"names has \['nu'\], but the sites of the calibration"):
        vi.plot_vsbc(table, ["nu"])
    with pytest.raises(ValueError, match="got 1 axes for 2 names"):
        vi.plot_vsbc(table, ["low", "w"], axes=plt.subplots()[1])
    with pytest.raises(TypeError, match="expected the result of vsbc, got dict"):
        vi.plot_vsbc({})


def test_fields_are_those_of_numpyro(exact):
    calibration = pytest.importorskip("numpyro.infer.calibration")  # since NumPyro 0.22
    result = calibration.vsbc_diagnostic(
        jax.random.PRNGKey(0),
        normal,
        numpyro.infer.autoguide.AutoNormal(normal),
        numpyro.optim.Adam(0.05),
        numpyro.infer.Trace_ELBO(),
        None,
        observed_sites=["y"],
        num_simulations=10,
        num_svi_steps=10,
    )
    for name in result._fields:
        ours, theirs = getattr(exact, name), getattr(result, name)
        assert type(ours) is type(theirs)
        if isinstance(theirs, dict):
            assert ours.keys() == theirs.keys()
            assert np.ndim(ours["mu"]) == np.ndim(theirs["mu"])
