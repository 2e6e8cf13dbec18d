"""What approximations give to ArviZ, and the summary: the same tests on both of its lines."""

import inspect
import re
from importlib.metadata import version

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import log_likelihood
from scipy import stats

import numpyro_vi_ext as vi

IS_ARVIZ_0 = az.__version__.startswith("0.")
RNG = np.random.default_rng(4)
X = RNG.normal(size=(7, 2)).astype(np.float32)
Y = (X @ [1.0, -0.5] + RNG.normal(size=7)).astype(np.float32)
X_NEW = np.array([[2.0, -1.0], [0.5, 3.0], [0.0, 0.0]], np.float32)
SD = 0.5  # of the noise
MU, SIGMA = np.array([0.8, -0.4]), np.array([0.3, 0.2])  # of q
LETTERS = list("abcdefg")
DRAWS = 4000


def regression(X, y=None, sd=SD):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    mean = numpyro.deterministic("mean", X @ w)
    with numpyro.plate("row", len(X)):
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


def at_q(model, *args, **kwargs):
    """q of the weights: normal with moments MU and SIGMA."""
    options = {"start": {"w": MU}, "start_sigma": {"w": SIGMA}}
    return vi.MeanField(model, model_args=args, model_kwargs=kwargs, **options)


def unfitted(model, *args, **kwargs):
    return vi.MeanField(model, model_args=args, model_kwargs=kwargs)


@pytest.fixture(scope="module")
def approx():
    return at_q(regression, X, Y)


@pytest.fixture(scope="module")
def idata(approx):
    """All groups."""
    return approx.to_arviz(
        DRAWS, random_seed=1, predictions={"X": X_NEW}, log_likelihood=True, prior=True
    )


def groups_of(idata):
    return set(idata.groups()) if IS_ARVIZ_0 else set(idata.children)


def variables(idata, group):
    return {str(name): value for name, value in idata[group].data_vars.items()}


def assert_moments(values, mean, sd):
    """Mean and sd of normal draws, within 4.5 standard errors."""
    n = len(values)
    np.testing.assert_allclose((values.mean(axis=0) - mean) / sd, 0, atol=4.5 / np.sqrt(n))
    np.testing.assert_allclose(values.std(axis=0) / sd, 1, atol=4.5 / np.sqrt(2 * n))


# -- groups


BASE = {"posterior", "observed_data", "constant_data", "fit_stats"}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {"posterior_predictive"}),
        ({"posterior_predictive": False}, set()),
        ({"posterior_predictive": False, "log_likelihood": True}, {"log_likelihood"}),
        ({"posterior_predictive": False, "prior": True}, {"prior", "prior_predictive"}),
        (
            {"predictions": {"X": X_NEW}},
            {"posterior_predictive", "predictions", "predictions_constant_data"},
        ),
    ],
)
def test_groups(approx, options, more):
    assert groups_of(approx.to_arviz(3, **options)) == BASE | more


def test_default_number_of_draws():
    parameters = inspect.signature(vi.MeanField.to_arviz).parameters
    assert parameters["draws"].default == 500


def test_dimensions(idata):
    sample = ("chain", "draw")
    expected = {
        "posterior": {"w": (*sample, "w_dim_0"), "mean": (*sample, "mean_dim_0")},
        "posterior_predictive": {"y": (*sample, "row")},
        "predictions": {"y": (*sample, "row"), "mean": (*sample, "mean_dim_0")},
        "log_likelihood": {"y": (*sample, "row")},
        "prior": {"w": (*sample, "w_dim_0"), "mean": (*sample, "mean_dim_0")},
        "prior_predictive": {"y": (*sample, "row")},
        "observed_data": {"y": ("row",)},
        "constant_data": {"X": ("X_dim_0", "X_dim_1")},
        "predictions_constant_data": {"X": ("X_dim_0", "X_dim_1")},
        "fit_stats": {"loss": ("step",)},
    }
    assert groups_of(idata) == expected.keys()
    for group, dims in expected.items():
        assert {name: value.dims for name, value in variables(idata, group).items()} == dims


def test_data(idata):
    np.testing.assert_array_equal(idata["observed_data"]["y"], Y)
    np.testing.assert_array_equal(idata["constant_data"]["X"], X)
    np.testing.assert_array_equal(idata["predictions_constant_data"]["X"], X_NEW)
    assert idata["fit_stats"]["loss"].shape == (0,)


def test_one_seed_one_set_of_draws(approx, idata):
    """All groups belong to the draws that the other methods give with this seed."""
    sample = approx.sample(DRAWS, random_seed=1)
    for name, value in variables(idata, "posterior").items():
        np.testing.assert_array_equal(value, sample["posterior"][name])
    for options in ({}, {"more_replacements": {"X": X_NEW}}):
        other = approx.sample_posterior_predictive(DRAWS, random_seed=1, **options)
        group = "predictions" if options else "posterior_predictive"
        for name, value in variables(idata, group).items():
            np.testing.assert_array_equal(value, other[group][name])
    w = idata["posterior"]["w"].values[0]
    np.testing.assert_allclose(idata["predictions"]["mean"][0], w @ X_NEW.T, rtol=1e-5, atol=1e-6)


def test_fresh_draws_without_a_seed(approx):
    first, second = (approx.to_arviz(2, posterior_predictive=False) for _ in "ab")
    assert not np.array_equal(first["posterior"]["w"], second["posterior"]["w"])


def test_zero_draws(approx):
    idata = approx.to_arviz(0, log_likelihood=True, prior=True, predictions={"X": X_NEW})
    shapes = {
        "posterior": (1, 0, 7),
        "prior": (1, 0, 7),
        "predictions": (1, 0, 3),
    }
    assert {group: idata[group]["mean"].shape for group in shapes} == shapes
    for group in ("posterior_predictive", "log_likelihood", "prior_predictive"):
        assert idata[group]["y"].shape == (1, 0, 7)


def test_include_transformed():
    def model(y):
        s = numpyro.sample("s", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(0, s), obs=y)

    found = unfitted(model, Y).to_arviz(20, include_transformed=True, prior=True)
    posterior = variables(found, "posterior")
    np.testing.assert_allclose(posterior["s__unconstrained"], np.log(posterior["s"]), atol=1e-5)
    for group in ("posterior_predictive", "prior"):
        assert "s__unconstrained" not in variables(found, group)


def test_model_without_data():
    def model():
        numpyro.sample("x", dist.Normal(0, 1))

    idata = unfitted(model).to_arviz(3, log_likelihood=True, prior=True)
    assert groups_of(idata) == {"posterior", "prior", "fit_stats"}


def test_predictions_for_the_original_data(approx):
    idata = approx.to_arviz(3, random_seed=0, predictions={})
    predicted = variables(idata, "posterior_predictive")["y"]
    np.testing.assert_array_equal(idata["predictions"]["y"], predicted)
    np.testing.assert_array_equal(idata["predictions_constant_data"]["X"], X)


def test_predictions_at_a_value_of_a_latent_site(approx):
    idata = approx.to_arviz(3, random_seed=0, predictions={"w": [1.0, 0.0], "X": X_NEW})
    np.testing.assert_allclose(idata["predictions"]["mean"][0], [X_NEW[:, 0]] * 3)
    assert not np.array_equal(idata["posterior"]["w"][0, 0], [1.0, 0.0])


# -- log likelihoods


def test_log_likelihood_is_numpyros(approx, idata):
    values = {"w": approx.sample_dict(DRAWS, random_seed=1)["w"]}
    theirs = log_likelihood(regression, values, X, Y)["y"]
    np.testing.assert_allclose(idata["log_likelihood"]["y"][0], theirs, rtol=1e-5, atol=1e-5)


def test_log_likelihood_is_that_of_the_densities(idata):
    w = idata["posterior"]["w"].values[0].astype(float)
    expected = stats.norm(w @ X.T, SD).logpdf(Y)
    np.testing.assert_allclose(idata["log_likelihood"]["y"][0], expected, rtol=1e-4, atol=1e-4)


def test_log_likelihood_is_not_scaled(approx):
    plain = approx.to_arviz(5, random_seed=0, log_likelihood=True)["log_likelihood"]["y"]
    scaled = at_q(handlers.scale(regression, scale=20.0), X, Y)
    found = scaled.to_arviz(5, random_seed=0, log_likelihood=True)["log_likelihood"]["y"]
    np.testing.assert_allclose(found, plain, rtol=1e-5)


def conjugate(y, sd=1.0):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)


def conjugate_posterior(y, sd):
    precision = 1 / 100 + len(y) / sd**2
    return y.sum() / sd**2 / precision, precision**-0.5


MANY = RNG.normal(3, 1, size=30).astype(np.float32)


def at_posterior(sd):
    mean, spread = conjugate_posterior(MANY, sd)
    options = {"start": {"mu": mean}, "start_sigma": {"mu": spread}}
    return vi.MeanField(conjugate, model_args=(MANY, sd), **options)


def exact_loo(sd):
    rest = [conjugate_posterior(np.delete(MANY, i), sd) for i in range(len(MANY))]
    parts = [stats.norm(m, np.hypot(s, sd)).logpdf(y) for (m, s), y in zip(rest, MANY, strict=True)]
    return float(np.sum(parts))


def elpd(result):
    return float(result["elpd_loo"] if IS_ARVIZ_0 else result.elpd)


def test_loo_against_leaving_each_datum_out():
    found = az.loo(at_posterior(1.0).to_arviz(4000, random_seed=0, log_likelihood=True))
    assert elpd(found) == pytest.approx(exact_loo(1.0), abs=0.03)


# 2026-11: pandas 3.1 deprecates how ArviZ 0.23 calls it.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values is deprecated")
def test_compare():
    objects = {
        f"sd {sd}": at_posterior(sd).to_arviz(2000, random_seed=0, log_likelihood=True)
        for sd in (3.0, 1.0)
    }
    table = az.compare(objects)
    assert list(table.index) == ["sd 1.0", "sd 3.0"]
    difference = abs(float(table["elpd_diff"].iloc[1]))
    exact = exact_loo(1.0) - exact_loo(3.0)
    assert difference == pytest.approx(exact, abs=0.1 if IS_ARVIZ_0 else 1.0)  # 1.x rounds


# -- the prior


def test_prior(approx, idata):
    """Moments in closed form; of the prior, not of q."""
    prior, predictive = variables(idata, "prior"), variables(idata, "prior_predictive")
    w, y = prior["w"].values[0], predictive["y"].values[0]
    assert_moments(w, np.zeros(2), np.ones(2))
    assert_moments(y, np.zeros(7), np.sqrt((X**2).sum(axis=1) + SD**2))
    np.testing.assert_allclose(prior["mean"][0], w @ X.T, rtol=1e-5, atol=1e-6)
    assert_moments(y - w @ X.T, np.zeros(7), np.full(7, SD))
    of_q = (idata["posterior"]["w"].values[0] - MU) / SIGMA
    assert abs(np.corrcoef(w.ravel(), of_q.ravel())[0, 1]) < 4.5 / np.sqrt(w.size)


def test_prior_of_other_models():
    """Hierarchies, params as they are fitted, and all rows of a subsampled plate."""

    def model(y):
        shift = numpyro.param("shift", 4.0)
        tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.2))
        with numpyro.plate("row", 7, subsample_size=2):
            y = numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", dist.Normal(shift, tau), obs=y)

    approx = vi.fit(
        model, 200, model_args=(Y,), obj_optimizer=vi.adam(0.01), random_seed=0, progressbar=False
    )
    shift = float(approx.model_params["shift"])
    assert abs(shift - 4.0) > 0.5
    idata = approx.to_arviz(DRAWS, random_seed=0, prior=True)
    tau, y = idata["prior"]["tau"].values[0], idata["prior_predictive"]["y"].values[0]
    assert y.shape == (DRAWS, 7)
    assert_moments(np.log(tau), 0.0, 0.2)
    assert_moments((y - shift) / tau[:, None], np.zeros(7), np.ones(7))


def test_prior_seeds(approx):
    first, second, third = (
        approx.to_arviz(3, random_seed=seed, prior=True, posterior_predictive=False)["prior"]["w"]
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_improper_prior():
    def model(y):
        level = numpyro.sample("level", dist.Normal(0, 1))
        with numpyro.plate("i", 2):
            numpyro.sample("rate", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.sample("y", dist.Normal(level, 1), obs=y)

    approx = unfitted(model, Y)
    match = "the site 'rate' cannot be drawn: NumPyro has no draws of its distribution, ImproperUni"
    with pytest.raises(ValueError, match=match):
        approx.to_arviz(3, prior=True)
    assert "posterior_predictive" in groups_of(approx.to_arviz(3, log_likelihood=True))


# -- coordinates and dimensions


def test_coords_and_dims_reach_all_groups(approx):
    idata = approx.to_arviz(
        3,
        log_likelihood=True,
        prior=True,
        coords={"row": LETTERS, "feature": ["u", "v"]},
        dims={"w": ["feature"], "mean": ["row"], "X": ["row", "feature"]},
    )
    assert groups_of(idata) == BASE | {
        "posterior_predictive", "log_likelihood", "prior", "prior_predictive"
    }  # fmt: skip
    for group in groups_of(idata) - {"fit_stats"}:
        assert list(idata[group]["row"].values) == LETTERS, group
    for group in ("posterior", "prior", "constant_data"):
        assert list(idata[group]["feature"].values) == ["u", "v"]
    assert idata["prior"]["mean"].dims == ("chain", "draw", "row")
    assert idata["constant_data"]["X"].dims == ("row", "feature")


def test_coords_of_another_length_are_left_out_of_predictions(approx):
    """New data are other rows, and often more or fewer; what still fits is kept."""
    options = {
        "coords": {"row": LETTERS, "feature": ["u", "v"]},
        "dims": {"X": ["row", "feature"], "mean": ["row"]},
    }
    idata = approx.to_arviz(3, predictions={"X": X_NEW}, **options)
    assert list(idata["posterior_predictive"]["row"].values) == LETTERS
    for group in ("predictions", "predictions_constant_data"):
        assert list(idata[group]["row"].values) == [0, 1, 2]
    assert idata["predictions"]["mean"].dims == ("chain", "draw", "row")
    assert list(idata["predictions_constant_data"]["feature"].values) == ["u", "v"]
    same_length = approx.to_arviz(3, predictions={"X": X + 1}, **options)
    assert list(same_length["predictions"]["row"].values) == LETTERS


# -- attributes: how the fit came about


def test_attributes():
    approx = vi.fit(
        regression, 50, "fullrank_advi", model_args=(X, Y), random_seed=3, progressbar=False
    )
    idata = approx.to_arviz(2, log_likelihood=True, prior=True, predictions={"X": X_NEW})
    predictive = approx.sample_posterior_predictive(2)
    for one in (idata, approx.sample(2), predictive):
        for group in groups_of(one):
            attrs = dict(one[group].attrs)
            created = attrs.pop("created_at")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", created)
            assert attrs == {
                "inference_library": "numpyro_vi_ext",
                "inference_library_version": version("numpyro-vi-ext"),
                "numpyro_version": version("numpyro"),
                "jax_version": version("jax"),
                "approximation": "FullRank",
                "method": "fullrank_advi",
                "status": "finished",
                "message": approx.message,
                "steps": 50,
                "seed": 3,
                "warmup": approx.facts.warmup,
                "motion": "",
                "skipped": 0,
            }
    assert approx.facts.warmup.startswith("warm-up: ELBO ")
    loss = idata["fit_stats"]["loss"]
    np.testing.assert_array_equal(loss, approx.hist)
    assert loss.shape == (50,)


@pytest.mark.parametrize("seed", [11, np.int64(11), 0, 2**32 - 1, jax.random.key(11), None])
def test_recorded_seed_reproduces_the_fit(seed):
    options = {"model_args": (X, Y), "progressbar": False}
    approx = vi.fit(regression, 30, random_seed=seed, **options)
    recorded = approx.sample(1)["posterior"].attrs["seed"]
    assert type(recorded) is int
    if isinstance(seed, int):
        assert recorded == seed
    again = vi.fit(regression, 30, random_seed=recorded, **options)
    np.testing.assert_array_equal(again.hist, approx.hist)
    np.testing.assert_array_equal(again.mean, approx.mean)


def test_recorded_seeds_without_seed_differ():
    seeds = {
        vi.ADVI(regression, model_args=(X, Y)).fit(1, progressbar=False).facts.seed for _ in "abc"
    }
    assert len(seeds) == 3


def test_recorded_key_reproduces_the_fit():
    """A key that no int makes is recorded by its data."""
    options = {"model_args": (X, Y), "progressbar": False}
    approx = vi.fit(regression, 30, random_seed=jax.random.split(jax.random.key(1))[0], **options)
    recorded = approx.sample(1)["posterior"].attrs["seed"]
    words = re.fullmatch(r"key data \[(\d+), (\d+)\]", recorded).groups()
    key = jax.random.wrap_key_data(jnp.array([int(word) for word in words], jnp.uint32))
    again = vi.fit(regression, 30, random_seed=key, **options)
    np.testing.assert_array_equal(again.hist, approx.hist)


def test_status_of_a_stopped_fit():
    def stop(approx, losses, i):
        if i == 20:
            raise StopIteration("enough")

    approx = vi.fit(
        regression, 100, model_args=(X, Y), callbacks=[stop], random_seed=0, progressbar=False
    )
    attrs = approx.to_arviz(1)["posterior"].attrs
    assert (attrs["status"], attrs["steps"]) == ("stopped", 20)
    assert approx.to_arviz(1)["fit_stats"]["loss"].shape == (20,)


def test_attributes_without_a_fit(approx):
    attrs = approx.to_arviz(1)["posterior"].attrs
    assert (attrs["status"], attrs["steps"], attrs["method"]) == ("initialized", 0, "")
    empirical = vi.Empirical({"w": np.zeros((5, 2))}, model=regression, model_args=(X, Y))
    attrs = empirical.to_arviz(1)["posterior"].attrs
    assert (attrs["approximation"], attrs["method"]) == ("Empirical", "trace")


# -- files


def through_a_file(idata, path):
    pytest.importorskip("h5netcdf")  # or no file can hold groups
    if IS_ARVIZ_0:
        idata.to_netcdf(str(path))
        return az.from_netcdf(str(path))
    idata.to_netcdf(path, engine="h5netcdf")
    return xr.open_datatree(path, engine="h5netcdf")


def assert_same(one, other):
    assert groups_of(one) == groups_of(other)
    for group in groups_of(one):
        assert dict(one[group].attrs) == dict(other[group].attrs)
        found, expected = variables(one, group), variables(other, group)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dims == value.dims
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
            for coord in value.coords:
                np.testing.assert_array_equal(found[name][coord], value[coord])


def test_netcdf(tmp_path):
    approx = vi.fit(regression, 20, model_args=(X, Y), random_seed=3, progressbar=False)
    idata = approx.to_arviz(
        10,
        log_likelihood=True,
        prior=True,
        predictions={"X": X_NEW},
        include_transformed=True,
        coords={"row": LETTERS},
    )
    assert_same(through_a_file(idata, tmp_path / "a.nc"), idata)


def test_netcdf_of_unusual_models(tmp_path):
    def model(data, *, flag, scale):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("none", dist.Normal(jnp.zeros(0), 1).to_event(1))
        numpyro.deterministic("pair", {"first": mu > 0, "second": (mu * 3).astype(int)})
        numpyro.sample("y", dist.Normal(mu, scale), obs=data["y"][0])

    inner = unfitted(model, {"y": [Y, None], "mask": Y > 0}, flag=True, scale=2.0)
    for approx, draws in ((inner, 4), (inner, 0)):
        idata = approx.to_arviz(draws, log_likelihood=True, prior=True)
        assert_same(through_a_file(idata, tmp_path / f"{draws}.nc"), idata)


def test_netcdf_of_names_with_slashes(tmp_path):
    scoped = unfitted(handlers.scope(regression, "deep"), X, Y)
    idata = scoped.to_arviz(3, log_likelihood=True, prior=True)
    slash = "/" if IS_ARVIZ_0 else "."  # a DataTree keeps slashes for paths
    for group, names in {
        "posterior": ["w", "mean"],
        "posterior_predictive": ["y"],
        "log_likelihood": ["y"],
        "prior": ["w", "mean"],
        "observed_data": ["y"],
    }.items():
        assert list(variables(idata, group)) == [f"deep{slash}{name}" for name in names]
    if not IS_ARVIZ_0:  # netCDF, too, keeps slashes for paths
        assert_same(through_a_file(idata, tmp_path / "a.nc"), idata)


# -- ArviZ's own functions on all groups

ON_BOTH = ["plot_forest", "plot_trace"]
ON_ONE = ["plot_posterior"] if IS_ARVIZ_0 else ["plot_dist", "plot_prior_posterior"]


@pytest.fixture(scope="module")
def small():
    """Posterior, predictions and all else of an exact posterior."""
    return at_posterior(1.0).to_arviz(300, random_seed=0, log_likelihood=True, prior=True)


# 2026-11: matplotlib 3.11 deprecates how ArviZ 0.23 calls it.
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
@pytest.mark.parametrize("plot", [*ON_BOTH, *ON_ONE])
def test_plots_of_the_posterior(small, plot):
    getattr(az, plot)(small, var_names=["mu"])
    assert plt.gcf().axes
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
def test_plot_pair(idata):
    az.plot_pair(idata, var_names=["w"])
    assert plt.gcf().axes
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
@pytest.mark.parametrize("group", ["posterior", "prior"])
def test_plots_of_predictions(idata, group):
    """Of all variables of the group, that is of the observed sites."""
    if IS_ARVIZ_0:
        az.plot_ppc(idata, group=group, num_pp_samples=10, random_seed=0)
    else:
        az.plot_ppc_dist(idata, group=f"{group}_predictive", num_samples=10)
    assert len(plt.gcf().axes) == 1
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
def test_plots_of_predictions_alone(approx):
    idata = approx.sample_posterior_predictive(20, random_seed=0)
    if IS_ARVIZ_0:
        az.plot_ppc(idata, kind="scatter", num_pp_samples=5, random_seed=0)
    else:
        az.plot_ppc_dist(idata, var_names=["y"], num_samples=10)  # not the mean as well
    assert len(plt.gcf().axes) == 1
    plt.close("all")


def test_loo_pit(small):
    az.loo_pit(small, y="y") if IS_ARVIZ_0 else az.loo_pit(small)


def test_arviz_summary(small):
    table = az.summary(small, var_names=["mu"], kind="stats")
    mean, _ = conjugate_posterior(MANY, 1.0)
    assert float(table["mean"].iloc[0]) == pytest.approx(mean, abs=0.1)


# -- bad input


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"draws": -1}, ValueError, "draws must be at least 0, got -1"),
        ({"draws": "3"}, TypeError, "draws must be an integer, got '3'"),
        ({"random_seed": 1.5}, TypeError, "random_seed must be None, an int or a JAX key"),
        ({"predictions": [X_NEW]}, TypeError, "predictions must be a dict .*got list"),
        ({"predictions": X_NEW}, TypeError, "predictions must be a dict .*got ndarray"),
        ({"predictions": True}, TypeError, "predictions must be a dict .*got bool"),
        ({"predictions": {"Z": X}}, KeyError, "'Z', which is neither an argument"),
        ({"coords": 3}, TypeError, "coords must be a dict, got int"),
        ({"coords": {"row": 3}}, TypeError, r"coords\['row'\] must be labels, got 3"),
        ({"coords": {"row": "abcdefg"}}, TypeError, r"coords\['row'\] must be labels, got 'abc"),
        ({"coords": {"row": [1, 2]}}, ValueError, "conflicting sizes for dimension 'row'"),
        ({"dims": ["w"]}, TypeError, "dims must be a dict, got list"),
        ({"dims": {"w": 3}}, TypeError, r"dims\['w'\] must be a list of names, got 3"),
        ({"dims": {"w": ["a", "b"]}}, ValueError, r"dims\['w'\] names \['a', 'b'\], but"),
        ({"log_lik": True}, TypeError, "unexpected keyword argument 'log_lik'"),
    ],
    ids=str,
)
def test_bad_input_of_to_arviz(approx, options, error, match):
    with pytest.raises(error, match=match):
        approx.to_arviz(**{"draws": 2, **options})


def test_bad_coords_and_dims_of_sample(approx):
    with pytest.raises(TypeError, match="coords must be a dict, got list"):
        approx.sample(2, coords=[LETTERS])
    with pytest.raises(TypeError, match=r"dims\['w'\] must be a list of names, got None"):
        approx.sample(2, dims={"w": None})


# -- summary


def half_normal():
    numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("i", 2):
        numpyro.sample("t", dist.HalfNormal(1))


def at_log_normal():
    """Positive sites whose log is normal under q."""
    start, sigma = {"s": 0.5, "t": [1.0, 2.0]}, {"s": 0.3, "t": [0.2, 0.6]}
    return vi.MeanField(half_normal, start=start, start_sigma=sigma)


LAWS = stats.lognorm(s=np.array([0.3, 0.2, 0.6]), scale=np.array([0.5, 1.0, 2.0]))


def test_summary_of_a_log_normal_q():
    """Within 4.5 standard errors of moments and quantiles."""
    n = 20_000
    table = at_log_normal().summary(n, random_seed=0, quantiles=(0.05, 0.5, 0.9))
    assert list(table.index) == ["s", "t[0]", "t[1]"]
    assert list(table.columns) == ["mean", "sd", "5%", "50%", "90%"]
    mean, variance, _, kurtosis = LAWS.stats("mvsk")
    sd = np.sqrt(variance)
    assert np.all(np.abs(table["mean"] - mean) < 4.5 * sd / np.sqrt(n))
    assert np.all(np.abs(table["sd"] / sd - 1) < 4.5 * np.sqrt((kurtosis + 2) / 4 / n))
    for q in (0.05, 0.5, 0.9):
        exact = LAWS.ppf(q)
        error = np.sqrt(q * (1 - q) / n) / LAWS.pdf(exact)
        assert np.all(np.abs(table[f"{100 * q:g}%"] - exact) < 4.5 * error)


def test_summary_of_a_fit():
    def model():
        numpyro.sample("s", dist.LogNormal(0.2, 0.4))

    approx = vi.fit(model, 3000, random_seed=0, progressbar=False)
    table = approx.summary(random_seed=1)
    exact = stats.lognorm(s=0.4, scale=np.exp(0.2))
    expected = [exact.mean(), exact.std(), *exact.ppf([0.05, 0.5, 0.95])]
    np.testing.assert_allclose(table.loc["s"], expected, rtol=0.05)


def various(y):
    with numpyro.plate("row", 2, dim=-2), numpyro.plate("column", 3, dim=-1):
        z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.deterministic("count", jnp.floor(3 * z).astype(int))
    numpyro.deterministic("positive", z[0] > 0)
    numpyro.deterministic("constant", 3.0)
    numpyro.sample("none", dist.Normal(jnp.zeros(0), 1).to_event(1))
    numpyro.sample("b", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("y", dist.Normal(z.sum(), 1), obs=y)


def test_summary_is_that_of_the_draws():
    """Row by row, also of integers, booleans and sites without elements: NumPy's formulas."""
    approx = unfitted(various, Y)
    table = approx.summary(200, random_seed=0, quantiles=[0.25, 1])
    draws = {k: np.asarray(v, float) for k, v in approx.sample_dict(200, random_seed=0).items()}
    assert list(draws) == ["z", "none", "b", "count", "positive", "constant"]
    values = np.concatenate([value.reshape(200, -1) for value in draws.values()], axis=1)
    expected = [
        values.mean(axis=0),
        values.std(axis=0, ddof=1),
        np.quantile(values, 0.25, axis=0),
        values.max(axis=0),
    ]
    assert list(table.columns) == ["mean", "sd", "25%", "100%"]
    found = table.to_numpy(float)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-4, atol=1e-6)


def test_summary_has_the_rows_of_arviz():
    approx = unfitted(various, Y)
    names = ["z", "b", "count", "constant"]  # neither empty nor boolean: that is too much for it
    theirs = az.summary(approx.sample(50, random_seed=0), var_names=names, kind="stats")
    assert list(approx.summary(50, var_names=names).index) == list(theirs.index)


def test_summary_says_what_it_is():
    """No diagnostics of MCMC, which say nothing about draws that are independent anyway."""
    approx = at_log_normal()
    table = approx.summary(1500)
    assert table.columns.name == "MeanField (VI), 1,500 draws"
    assert "MeanField (VI), 1,500 draws" in str(table)
    assert not {"r_hat", "ess_bulk", "ess_tail", "mcse_mean"} & set(table.columns)
    assert table.attrs["inference_library"] == "numpyro_vi_ext"
    assert table.attrs["approximation"] == "MeanField"
    assert "4,000 draws" in approx.summary().columns.name


def test_summary_seeds():
    approx = at_log_normal()
    first, second = approx.summary(50, random_seed=1), approx.summary(50, random_seed=1)
    assert first.equals(second)
    assert not first.equals(approx.summary(50, random_seed=2))
    assert not approx.summary(50).equals(approx.summary(50))


@pytest.mark.parametrize("names", [["t", "s"], ("t", "s"), np.array(["t", "s"])])
def test_summary_of_some_sites(names):
    approx = at_log_normal()
    table = approx.summary(50, random_seed=0, var_names=names)
    assert list(table.index) == ["t[0]", "t[1]", "s"]
    assert table.loc["s"].equals(approx.summary(50, random_seed=0).loc["s"])


def test_summary_of_one_site():
    assert list(at_log_normal().summary(50, var_names="t").index) == ["t[0]", "t[1]"]


@pytest.mark.parametrize("names", [[], ["none"]])
def test_summary_of_nothing(names):
    table = unfitted(various, Y).summary(50, var_names=names)
    assert table.shape == (0, 5)
    assert list(table.columns) == ["mean", "sd", "5%", "50%", "95%"]
    assert table.columns.name == "MeanField (VI), 50 draws"


def test_summary_without_quantiles():
    assert list(at_log_normal().summary(50, quantiles=()).columns) == ["mean", "sd"]


def test_summary_of_names_with_slashes():
    approx = vi.MeanField(handlers.scope(half_normal, "deep"))
    assert list(approx.summary(50).index) == ["deep/s", "deep/t[0]", "deep/t[1]"]
    assert list(approx.summary(50, var_names=["deep/s"]).index) == ["deep/s"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"draws": 1}, ValueError, "draws must be at least 2, got 1"),
        ({"draws": 10.0}, TypeError, "draws must be an integer, got 10.0"),
        ({"random_seed": "a"}, TypeError, "random_seed must be None, an int or a JAX key"),
        ({"quantiles": [0.5, 1.5]}, ValueError, r"quantiles must be between 0 and 1, got \[1.5\]"),
        ({"quantiles": [-0.1]}, ValueError, r"quantiles must be between 0 and 1, got \[-0.1\]"),
        ({"quantiles": [np.nan]}, ValueError, r"quantiles must be between 0 and 1, got \[nan\]"),
        ({"quantiles": 0.5}, TypeError, "quantiles must be a list of numbers, got 0.5"),
        ({"quantiles": "abc"}, TypeError, "quantiles must be a list of numbers, got 'abc'"),
        ({"quantiles": ["5%"]}, TypeError, r"quantiles must be a list of numbers, got \['5%'\]"),
        ({"quantiles": None}, TypeError, "quantiles must be a list of numbers, got None"),
        ({"var_names": ["q", "s"]}, KeyError, r"no sites \['q'\] to summarise; .*\['s', 't'\]"),
        ({"var_names": "q"}, KeyError, r"no sites \['q'\] to summarise"),
        ({"var_names": 3}, TypeError, "var_names must be a list of site names, got 3"),
        ({"var_names": [3]}, KeyError, r"no sites \[3\] to summarise"),
        ({"hdi_prob": 0.9}, TypeError, "unexpected keyword argument 'hdi_prob'"),
    ],
    ids=str,
)
def test_bad_input_of_summary(options, error, match):
    with pytest.raises(error, match=match):
        at_log_normal().summary(**{"draws": 10, **options})
