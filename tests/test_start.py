"""Where a fit begins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zoo
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer import (
    init_to_feasible,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)

from numpyro_vi_ext.model import Model
from numpyro_vi_ext.start import find_start, start_sigma_vector


def start_of(model, values=None, *, seed=0, strategy=None):
    """The start in the model's space, by site."""
    model = model if isinstance(model, Model) else Model(model)
    found = find_start(model.target, jax.random.key(seed), values, strategy)
    assert found.z.shape == (model.ndim,)
    assert found.z.dtype == jnp.result_type(float)
    assert np.isfinite(model.log_density(found.z))
    return {k: np.asarray(v) for k, v in model.constrain(found.z).items()}


# -- the default


def test_prior_mean_of_the_quick_start_s_mixture():
    np.testing.assert_allclose(start_of(zoo.mixture)["w"], 0.2 * -0.3 + 0.8 * 0.5, rtol=1e-6)


def test_prior_means():
    def model():
        rate = numpyro.sample("rate", dist.Gamma(6.0, 2.0))
        numpyro.sample("x", dist.Normal(rate, 1.0).expand([2]).to_event(1))
        numpyro.sample("p", dist.Beta(1.0, 3.0))
        numpyro.sample("w", dist.Dirichlet(jnp.array([1.0, 2.0, 7.0])))
        with numpyro.plate("n", 3):
            numpyro.sample("u", dist.Uniform(2.0, 6.0))

    found = start_of(model)
    expected = {"rate": 3.0, "x": [3.0, 3.0], "p": 0.25, "w": [0.1, 0.2, 0.7], "u": [4.0] * 3}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_median_where_there_is_no_mean():
    def model():
        numpyro.sample("a", dist.Cauchy(50.0, 0.1))
        numpyro.sample("b", dist.HalfCauchy(jnp.full(2000, 3.0)).to_event(1))
        numpyro.sample("d", dist.Normal(-4.0, 1.0))

    found = start_of(model)
    # of 15 draws: within about 4 standard errors, pi / 2 * scale / sqrt(15) each
    np.testing.assert_allclose(found["a"], 50.0, atol=0.17)
    np.testing.assert_allclose(np.median(found["b"]), 3.0, rtol=0.1)
    np.testing.assert_allclose(found["d"], -4.0)


def test_only_the_elements_without_a_mean_take_the_median():
    def model():
        alpha = jnp.array([0.5, 3.0, 1.0, 5.0])
        numpyro.sample("x", dist.Pareto(2.0, alpha).to_event(1))

    found = start_of(model)["x"]
    np.testing.assert_allclose(found[[1, 3]], [3.0, 2.5], rtol=1e-6)
    assert (found > 2).all()


def test_mean_below_a_site_without_one():
    def model():
        tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
        numpyro.sample("theta", dist.Normal(2.0, tau))
        numpyro.sample("below", dist.Uniform(0.0, tau))

    found = start_of(model)
    np.testing.assert_allclose(found["theta"], 2.0)
    assert 0 < found["below"] < found["tau"]


def test_mean_on_the_edge_of_the_support():
    def model():
        numpyro.sample("x", EdgeOfSupport())

    assert start_of(model)["x"] > 0


class EdgeOfSupport(dist.Exponential):
    mean = 0.0  # type: ignore[assignment]


def test_improper_sites_are_uniform_in_unconstrained_space():
    def model():
        numpyro.sample("x", dist.ImproperUniform(constraints.positive, (500,), ()))
        numpyro.factor("proper", 0.0)

    z = np.log(start_of(model)["x"])
    assert -2 < z.min() < -1.8
    assert 1.8 < z.max() < 2
    assert abs(z.mean()) < 4 * (4 / np.sqrt(12)) / np.sqrt(500)


def test_sites_of_a_scan():
    def model():
        def step(state, _):
            state = numpyro.sample("x", dist.Normal(state + 1.0, 1.0))
            return state, state

        scan(step, 0.0, None, length=4)

    np.testing.assert_allclose(start_of(model)["x"], [1.0, 2.0, 3.0, 4.0])


SPECIAL = (
    "eight_schools_centred",
    "eight_schools_non_centred",
    "support_from_a_latent",
    "zero_sum",
    "improper",
    "sites_without_elements",
    "nested_plates",
    "params",
    "subsampling",
    "masked",
    "blocked",
    "lifted",
    "partly_observed",
    "state_space",
)


@pytest.mark.parametrize("name", SPECIAL)
def test_models_of_every_kind_have_a_start(name):
    case = next(case for case in zoo.CASES if case.name == name)
    model = Model(case.fn, *case.args, **case.kwargs)
    found = start_of(model)
    for name, shape in case.latents.items():
        assert found[name].shape == shape


def random_start_model():
    numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("y", dist.Cauchy(0.0, 1.0))
    numpyro.factor("proper", 0.0)


@pytest.mark.parametrize("strategy", [None, init_to_sample, init_to_uniform])
def test_start_is_a_function_of_the_seed(strategy):
    def model():
        if strategy is None:
            numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("y", dist.Cauchy(0.0, 1.0))

    first = [start_of(model, seed=seed, strategy=strategy) for seed in (0, 1, 0)]
    for name in first[0]:
        assert first[0][name] == first[2][name] != first[1][name]


# -- the user's values


def test_values_in_the_model_s_space_on_top_of_the_default():
    def model():
        numpyro.sample("a", dist.Normal(2.0, 1.0))
        numpyro.sample("b", dist.Gamma(4.0, 2.0))
        numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("m", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))

    given = {"b": 0.25, "w": [0.2, 0.3, 0.5], "m": np.arange(6.0).reshape(2, 3)}
    found = start_of(model, given)
    for name, value in {**given, "a": 2.0}.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(start_of(model, {"m": 3})["m"], np.full((2, 3), 3.0))
    np.testing.assert_allclose(start_of(model, {"m": [1, 2, 3]})["m"], [[1, 2, 3]] * 2)
    assert start_of(model, {})["a"] == 2.0


def interval_chain():
    a = numpyro.sample("a", dist.Uniform(0.0, 10.0))
    b = numpyro.sample("b", dist.Uniform(0.0, a))
    c = numpyro.sample("c", dist.Uniform(b, 2 * b))
    numpyro.sample("d", dist.Uniform(c, 10 * c))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [5.0, 2.5, 3.75, 20.625]),
        ({"a": 8.0}, [8.0, 4.0, 6.0, 33.0]),
        ({"a": 1.0}, [1.0, 0.5, 0.75, 4.125]),
        ({"a": 1.0, "b": 0.9}, [1.0, 0.9, 1.35, 7.425]),
        ({"a": 1.0, "c": 0.6}, [1.0, 0.5, 0.6, 3.3]),
        ({"a": 1.0, "d": 0.8}, [1.0, 0.5, 0.75, 0.8]),
        ({"d": 5.0, "a": 8.0}, None),
        ({"c": 2.6, "d": 3.0}, [5.0, 2.5, 2.6, 3.0]),
    ],
)
def test_supports_that_depend_on_other_sites(given, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"outside the support of the sites \['d'\]"):
            start_of(interval_chain, given)
        return
    found = start_of(interval_chain, given)
    np.testing.assert_allclose([found[k] for k in "abcd"], expected, rtol=1e-5)


def test_values_hold_to_rounding():
    def model():
        numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))

    given = np.array([0.33333, 0.33333, 0.33333])  # as one would type it
    assert not constraints.simplex(given)
    np.testing.assert_allclose(start_of(model, {"w": given})["w"], given, rtol=1e-4)


def test_a_given_site_stays_where_it_is_put_while_others_are_tried():
    def model():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.factor("bad", jnp.where(a > 0.5, 0.0, -jnp.inf))

    found = start_of(model, {"b": 1.25})
    assert found["b"] == 1.25
    assert found["a"] > 0.5


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"z": 1.0}, KeyError, r"start names \['z'\], but the latent sites are \['mu', 'sd'\]"),
        ({"y": 1.0}, KeyError, r"start names \['y'\], but the latent sites are"),
        ({2: 1.0}, KeyError, r"start names \[2\]"),
        ({"mu": [1.0, 2.0]}, ValueError, r"start\['mu'\] has shape \(2,\), but the site .* \(\)"),
        ({"mu": np.nan}, ValueError, r"start\['mu'\] must be finite in float32, got nan"),
        ({"sd": np.inf}, ValueError, r"start\['sd'\] must be finite in float32, got inf"),
        ({"sd": -1.0}, ValueError, r"start is outside the support of the sites \['sd'\]"),
        ({"sd": 0.0}, ValueError, r"start is outside the support of the sites \['sd'\]"),
        ({"mu": 1e300}, ValueError, r"start\['mu'\] must be finite in float32, got 1e\+300"),
        ({"mu": "a"}, TypeError, r"start\['mu'\] must be numeric, got 'a'"),
        ({"mu": "1.5"}, TypeError, r"start\['mu'\] must be numeric, got '1.5'"),
        ({"mu": None}, TypeError, r"start\['mu'\] must be numeric, got None"),
        ({"mu": {"a": 1}}, TypeError, r"start\['mu'\] must be numeric"),
        ({"mu": [1.0, [2.0]]}, TypeError, r"start\['mu'\] must be numeric"),
        ({"mu": 1j}, TypeError, r"start\['mu'\] must be numeric"),
        ([1.0, 2.0], TypeError, "start must be a dict from site name to value, got list"),
        (1.0, TypeError, "start must be a dict from site name to value, got float"),
    ],
)
def test_bad_values(values, error, text):
    with pytest.raises(error, match=text):
        start_of(Model(zoo.simple, zoo.Y), values)


@pytest.mark.parametrize("value", [[0.5, 0.2, 0.2], [0.5, 0.6, -0.1], [1.0, 0.0, 0.0]])
def test_values_outside_a_simplex(value):
    def model():
        numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))

    with pytest.raises(ValueError, match=r"outside the support of the sites \['w'\]"):
        start_of(model, {"w": value, "x": 0.0})


# -- strategies


@pytest.mark.parametrize(
    "strategy",
    [
        init_to_mean,
        init_to_mean(),
        init_to_median(num_samples=5),
        init_to_sample,
        init_to_uniform,
        init_to_uniform(radius=0.1),
        init_to_feasible(),
        functools.partial(init_to_value, values={"mu": 0.5}),
        lambda site: 0.25 if site["name"] == "mu" else init_to_feasible(site),
    ],
)
def test_numpyro_s_strategies(strategy):
    model = Model(zoo.simple, zoo.Y)
    found = start_of(model, strategy=strategy)
    assert found["sd"] > 0
    given = start_of(model, {"mu": 7.0}, strategy=strategy)
    np.testing.assert_allclose([given["mu"], given["sd"]], [7.0, found["sd"]], rtol=1e-6)


def test_strategies_do_what_they_say():
    model = Model(zoo.simple, zoo.Y)
    assert start_of(model, strategy=init_to_value(values={"mu": 0.5, "sd": 2.0})) == {
        "mu": 0.5,
        "sd": 2.0,
    }
    assert start_of(model, strategy=init_to_value(values={"mu": 1.5, "sd": 2.0}))["mu"] == 1.5
    assert start_of(model, strategy=init_to_feasible) == {"mu": 0.0, "sd": 1.0}
    assert abs(start_of(model, strategy=init_to_uniform(radius=0.1))["mu"]) < 0.1


def test_strategy_of_a_wrong_type():
    with pytest.raises(TypeError, match=r"init_strategy must be one of NumPyro's.* got str"):
        start_of(Model(zoo.simple, zoo.Y), strategy="mean")


def test_second_start_traces_nothing():
    runs = []

    def model(y):
        runs.append(1)
        mu = numpyro.sample("mu", dist.Cauchy(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    for strategy in (None, init_to_uniform(radius=0.5)):
        start_of(Model(model, np.zeros(3)), {"mu": 1.0}, strategy=strategy)
        before = len(runs)
        for value in (1.0, 2.0):
            start_of(Model(model, np.full(3, value)), {"mu": value}, strategy=strategy)
        assert len(runs) == before


# -- not finite


def test_model_that_is_not_finite_at_its_prior_mean():
    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        numpyro.factor("inside", jnp.where((x > 0.5).all(), 0.0, -jnp.inf))

    found = [start_of(model, seed=seed)["x"] for seed in (0, 0, 1)]
    assert all((x > 0.5).all() for x in found)
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["factor", "obs", "prior"])
def test_model_that_is_never_finite(bad, where):
    def model(bad):
        x = numpyro.sample("fine", dist.Normal(0.0, 1.0))
        if where == "factor":
            numpyro.factor("culprit", x + bad)
        elif where == "obs":
            numpyro.sample("culprit", dist.Normal(x, 1.0, validate_args=False), obs=bad)
        else:
            numpyro.sample("culprit", Never(bad))

    text = r"not finite at the start, nor at 99 other points tried: the sites \['culprit'\]"
    with pytest.raises(ValueError, match=text):
        start_of(Model(model, bad))


class Never(dist.Gamma):
    def __init__(self, bad):
        self.bad = bad
        dist.Gamma.__init__(self, 1.0, 1.0)

    def log_prob(self, value, intermediates=None):
        return value + self.bad


def test_every_site_given_where_the_density_is_not_finite():
    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("inside", jnp.where(x > 0, 0.0, -jnp.inf))

    with pytest.raises(ValueError, match=r"at the start: the sites \['inside'\] are not finite"):
        start_of(model, {"x": -1.0})


# -- start_sigma


def sigma(values, default=0.7):
    layout = Model(zoo.supports).target.layout
    return layout.split(start_sigma_vector(layout, values, default))


def test_start_sigma():
    given = {"unit": 0.1, "ordered": 0.2, "positive": [[1.0, 2.0], [3.0, 4.0]], "simplex": [3, 4]}
    found = sigma(given)
    for name, value in found.items():
        expected = np.broadcast_to(given.get(name, 0.7), value.shape)
        np.testing.assert_allclose(value, expected, err_msg=name)
    for nothing in (None, {}):
        assert all((v == 0.7).all() for v in sigma(nothing).values())


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"z": 1.0}, KeyError, r"start_sigma names \['z'\], but the latent sites are \['simplex',"),
        ({"simplex": [1.0] * 3}, ValueError, r"has shape \(3,\), .* unconstrained shape \(2,\)"),
        ({"unit": 0.0}, ValueError, r"start_sigma\['unit'\] must be positive and finite, got 0"),
        ({"unit": -1.0}, ValueError, r"start_sigma\['unit'\] must be positive and finite, got -1"),
        ({"unit": np.nan}, ValueError, "must be positive and finite, got nan"),
        ({"unit": np.inf}, ValueError, "must be positive and finite, got inf"),
        ({"ordered": [1.0, 1.0, 1.0, -1.0]}, ValueError, "must be positive and finite"),
        ({"unit": "wide"}, TypeError, r"start_sigma\['unit'\] must be numeric, got 'wide'"),
        (0.1, TypeError, "start_sigma must be a dict from site name to value, got float"),
    ],
)
def test_bad_start_sigma(values, error, text):
    with pytest.raises(error, match=text):
        sigma(values)
