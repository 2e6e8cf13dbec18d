"""Into ArviZ: the same tests on both of its lines."""

import arviz as az
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import scope

import numpyro_vi_ext as vi
from numpyro_vi_ext.io_arviz import to_dataset

IS_ARVIZ_0 = az.__version__.startswith("0.")
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
LETTERS = list("abcdefgh")


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("doubled", 2 * theta)
        numpyro.sample("effect", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module")
def approx():
    return vi.fit(schools, 60, model_args=(SIGMA,), model_kwargs={"y": EFFECTS}, progressbar=False)


@pytest.fixture(scope="module")
def idata(approx):
    return approx.sample(40, random_seed=0)


def unfitted(model, *args, **kwargs):
    return vi.MeanField(model, model_args=args, model_kwargs=kwargs)


def groups_of(idata):
    return set(idata.groups()) if IS_ARVIZ_0 else set(idata.children)


# -- what is in it


def test_object_is_what_the_installed_arviz_works_with(idata):
    kind = az.InferenceData if IS_ARVIZ_0 else az.convert_to_datatree({"x": np.zeros((1, 2)) + 1.0})
    assert isinstance(idata, kind if IS_ARVIZ_0 else type(kind))
    assert groups_of(idata) == {"posterior", "observed_data", "constant_data", "fit_stats"}


def test_plates_name_the_dimensions_of_all_sites(idata):
    posterior = idata["posterior"]
    assert list(posterior.data_vars) == ["mu", "tau", "theta", "doubled"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["theta"].dims == ("chain", "draw", "school")
    assert posterior["doubled"].dims == ("chain", "draw", "school")
    assert dict(posterior.sizes) == {"chain": 1, "draw": 40, "school": 8}
    assert idata["observed_data"]["effect"].dims == ("school",)
    np.testing.assert_array_equal(posterior["school"], np.arange(8))


def test_draws_are_those_of_sample_dict(approx, idata):
    values = approx.sample_dict(40, random_seed=0)
    for name, value in values.items():
        np.testing.assert_array_equal(idata["posterior"][name].values[0], value)


def test_data_are_kept_once(idata):
    np.testing.assert_array_equal(idata["observed_data"]["effect"], EFFECTS)
    np.testing.assert_array_equal(idata["constant_data"]["sigma"], SIGMA)
    assert list(idata["constant_data"].data_vars) == ["sigma"]  # y is the observed effect


def test_losses_and_attributes(approx, idata):
    loss = idata["fit_stats"]["loss"]
    assert loss.dims == ("step",)
    np.testing.assert_array_equal(loss, approx.hist)
    np.testing.assert_array_equal(loss["step"], np.arange(1, 61))
    attrs = idata["posterior"].attrs
    assert attrs["inference_library"] == "numpyro_vi_ext"
    facts = {"approximation": "MeanField", "status": "finished", "steps": 60}
    assert facts.items() <= attrs.items()
    assert "created_at" in attrs


def test_constant_data_that_resemble_observed_data():
    def model(scale, zeros, y, rate):
        numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(zeros, scale), obs=y)
        numpyro.sample("n", dist.Poisson(rate), obs=2.0)

    zeros = np.zeros(3)
    idata = unfitted(model, 2.0, zeros, zeros, 2.0).sample(2)
    # a lone number is dropped only under the observed site's own name, an array under any
    assert set(idata["constant_data"].data_vars) == {"scale", "rate"}
    assert set(idata["observed_data"].data_vars) == {"y", "n"}


def test_subsampled_observations_are_left_out():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 100, subsample_size=5):
            batch = numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", dist.Normal(mu, 1), obs=batch)

    idata = unfitted(model, jnp.arange(100.0)).sample(3)
    assert groups_of(idata) == {"posterior", "constant_data", "fit_stats"}
    assert idata["constant_data"]["y"].shape == (100,)


def test_groups_without_content_are_left_out_but_losses_are_always_there():
    def model():
        numpyro.sample("x", dist.Normal(0, 1))

    idata = unfitted(model).sample(3)
    assert groups_of(idata) == {"posterior", "fit_stats"}
    assert idata["fit_stats"]["loss"].shape == (0,)


def test_params_of_the_model_are_not_in_the_posterior():
    def model():
        loc = numpyro.param("loc", jnp.zeros(2))
        numpyro.sample("x", dist.Normal(loc, 1).to_event(1))

    approx = unfitted(model)
    assert list(approx.sample(3)["posterior"].data_vars) == ["x"]
    assert list(approx.model_params) == ["loc"]


# -- shapes and options


def test_zero_draws(approx):
    posterior = approx.sample(0)["posterior"]
    assert posterior["theta"].shape == (1, 0, 8)


def test_site_of_dimension_zero():
    def model():
        numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("empty", dist.Normal(jnp.zeros(0), 1).to_event(1))

    approx = unfitted(model)
    posterior = approx.sample(3, include_transformed=True)["posterior"]
    for name in ("empty", "empty__unconstrained"):
        assert posterior[name].dims == ("chain", "draw", f"{name}_dim_0")
        assert posterior[name].shape == (1, 3, 0)
    assert approx.mean_data["empty"].shape == (0,)


def test_include_transformed(approx):
    posterior = approx.sample(40, random_seed=0, include_transformed=True)["posterior"]
    np.testing.assert_allclose(posterior["tau__unconstrained"], np.log(posterior["tau"]), atol=1e-5)
    assert posterior["theta__unconstrained"].dims == ("chain", "draw", "school")


def test_transformed_values_survive_where_the_transform_saturates():
    def model():
        numpyro.sample("p", dist.Beta(1, 1))

    approx = vi.MeanField(model, start_sigma={"p": 100.0})
    values = approx.sample(200, random_seed=0, include_transformed=True, return_inferencedata=False)
    assert np.isfinite(values["p__unconstrained"]).all()
    assert values["p__unconstrained"].std() > 50


def test_transformed_keep_plate_dims_where_the_event_shape_differs():
    def model():
        with numpyro.plate("group", 4):
            numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))

    approx = unfitted(model)
    posterior = approx.sample(2, include_transformed=True)["posterior"]
    assert posterior["w"].dims == ("chain", "draw", "group", "w_dim_1")
    transformed = posterior["w__unconstrained"]
    assert transformed.dims == ("chain", "draw", "group", "w__unconstrained_dim_1")
    assert transformed.shape == (1, 2, 4, 2)
    assert approx.mean_data["w"].dims == ("group", "w_dim_1")


def test_dict_instead(approx):
    values = approx.sample(5, return_inferencedata=False)
    assert {name: type(value) for name, value in values.items()} == dict.fromkeys(
        ["mu", "tau", "theta", "doubled"], np.ndarray
    )
    assert values["theta"].shape == (5, 8)
    with pytest.raises(TypeError, match=r"\['coords'\] cannot be applied with return_inference"):
        approx.sample(5, return_inferencedata=False, coords={"school": LETTERS})


def test_coords_and_dims_of_the_user_win(approx):
    idata = approx.sample(
        5,
        coords={"school": LETTERS, "place": LETTERS, "unused": [1, 2]},
        dims={"theta": ["place"], "sigma": "school", "unknown": ["unused"]},
    )
    posterior = idata["posterior"]
    assert posterior["theta"].dims == ("chain", "draw", "place")
    assert posterior["doubled"].dims == ("chain", "draw", "school")
    assert list(posterior["school"].values) == LETTERS
    assert list(idata["constant_data"]["sigma"]["school"].values) == LETTERS
    assert list(idata["observed_data"]["school"].values) == LETTERS
    assert "unused" not in posterior.coords


def test_dims_of_only_the_first_axes(approx):
    def model():
        numpyro.sample("x", dist.Normal(jnp.zeros((2, 3)), 1).to_event(2))

    posterior = unfitted(model).sample(2, dims={"x": ["row"]})["posterior"]
    assert posterior["x"].dims == ("chain", "draw", "row", "x_dim_1")


def test_bad_coords_and_dims(approx):
    with pytest.raises(ValueError, match=r"dims\['mu'\] names \['school'\], but .* shape \(\)"):
        approx.sample(5, dims={"mu": ["school"]})
    with pytest.raises(ValueError, match="conflicting sizes for dimension 'school'"):
        approx.sample(5, coords={"school": LETTERS[:3]})
    with pytest.raises(TypeError, match="unexpected keyword argument 'cords'"):
        approx.sample(5, cords={})


# -- names that are in use already


def test_plate_named_like_a_variable():
    data = to_dataset({"a": np.zeros(3), "b": np.zeros(3)}, {"a": ("b",), "b": ("b",)})
    assert data["a"].dims == ("a_dim_0",)
    assert data["b"].dims == ("b_dim_0",)


def test_default_name_that_is_a_variable():
    data = to_dataset({"x": np.zeros(3), "x_dim_0": np.zeros(())}, {})
    assert data["x"].dims == ("x_dim_0_",)
    assert data["x_dim_0"].dims == ()


def test_plate_named_like_another_dimension_of_the_sample():
    values = {"x": np.zeros((1, 5, 3))}
    data = to_dataset(values, {"x": ("draw",)}, leading=("chain", "draw"))
    assert data["x"].dims == ("chain", "draw", "x_dim_0")


def test_site_named_like_a_dimension_of_the_sample():
    def model():
        numpyro.sample("draw", dist.Normal(0, 1))

    approx = unfitted(model)
    with pytest.raises(ValueError, match="no site can be named 'draw' there: rename the site, or"):
        approx.sample(3)
    assert approx.sample_dict(3)["draw"].shape == (3,)


def test_plate_twice_in_one_variable():
    data = to_dataset({"x": np.zeros((3, 3))}, {"x": ("i", "i")})
    assert data["x"].dims == ("i", "x_dim_1")


def test_plate_of_two_sizes():
    data = to_dataset({"x": np.zeros(3), "y": np.zeros(4)}, {"x": ("i",), "y": ("i",)})
    assert data["x"].dims == ("i",)
    assert data["y"].dims == ("y_dim_0",)


def test_slash_in_a_name():
    def inner():
        with numpyro.plate("i", 2):
            numpyro.sample("x", dist.Normal(0, 1))

    posterior = unfitted(scope(inner, "block")).sample(3)["posterior"]
    slash = "/" if IS_ARVIZ_0 else "."  # a DataTree keeps slashes for paths
    assert list(posterior.data_vars) == [f"block{slash}x"]
    assert posterior[f"block{slash}x"].dims[2].replace(".", "/") == "block/i"


# -- moments


def test_mean_data_and_std_data(approx):
    for data, flat in ((approx.mean_data, approx.mean), (approx.std_data, approx.std)):
        assert list(data.data_vars) == ["mu", "tau", "theta"]
        assert data["theta"].dims == ("school",)
        np.testing.assert_array_equal(data["mu"], flat[0])
        np.testing.assert_array_equal(data["tau"], flat[1])
        np.testing.assert_array_equal(data["theta"], flat[2:])


# -- ArviZ's own functions, under the names of the installed line


def test_summary(idata, approx):
    summary = az.summary(idata, kind="stats")
    assert list(summary.index)[:3] == ["mu", "tau", "theta[0]"]
    assert len(summary) == 2 + 8 + 8
    draws = approx.sample_dict(40, random_seed=0)
    assert float(summary["mean"]["mu"]) == pytest.approx(float(draws["mu"].mean()), abs=0.06)
    assert len(az.summary(idata)) == 18  # with its diagnostics, meaningless for independent draws


# 2026-11: matplotlib 3.11 deprecates how ArviZ 0.23 calls it.
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
@pytest.mark.parametrize(
    "plot",
    ["plot_trace", "plot_posterior", "plot_forest"] if IS_ARVIZ_0 else ["plot_dist", "plot_trace"],
)
def test_plots(idata, plot):
    getattr(az, plot)(idata, var_names=["mu", "doubled"])
    figure = plt.gcf()
    assert len(figure.axes) >= 1
    plt.close("all")
