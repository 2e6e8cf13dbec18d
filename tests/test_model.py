"""Any NumPyro model as a flat log density, compared with NumPyro's own functions."""

import contextlib
import functools
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zoo
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import biject_to, constraints
from numpyro.infer import init_to_uniform
from numpyro.infer.util import constrain_fn, potential_energy
from scipy import stats

from numpyro_vi_ext.errors import DiscreteLatentError
from numpyro_vi_ext.model import Model, as_model

POINTS = 3
PRECISIONS = {"float32": (1e-5, 2e-5), "float64": (1e-12, 1e-12)}
# Kinds of arithmetic, not only of calling: these run in double precision too.
EXACT = (
    "mixture",
    "eight_schools_centred",
    "eight_schools_non_centred",
    "regression_with_factor",
    "supports",
    "support_from_a_latent",
    "improper",
    "scalars_and_matrices",
    "params",
    "subsampling",
    "pytrees",
    "counts_its_groups",
    "state_space",
    "jax_inside",
)
RUNS_IN = [(case, "float32") for case in zoo.CASES]
RUNS_IN += [(case, "float64") for case in zoo.CASES if case.name in EXACT]


def precision(name):
    """JAX's own switch for this thread and block only."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(name == "float64")
    return jax.experimental.enable_x64(name == "float64")


def unconstrained_shapes(case):
    """Shapes of the latent sites in unconstrained space, from a NumPyro trace."""

    def run(key):
        model = handlers.substitute(handlers.seed(case.fn, key), substitute_fn=init_to_uniform)
        trace = handlers.trace(model).get_trace(*case.args, **case.kwargs)
        sites = {name: trace[name] for name in case.latents}
        return {
            k: biject_to(s["fn"].support).inv(jnp.asarray(s["value"])) for k, s in sites.items()
        }

    return {name: x.shape for name, x in jax.eval_shape(run, jax.random.key(0)).items()}


def random_points(case):
    """Unconstrained values by site, and the same in one matrix, sites in trace order."""
    rng, shapes = np.random.default_rng(3), unconstrained_shapes(case)
    dtype = jnp.result_type(float)
    sites = {k: rng.normal(size=(POINTS, *shapes[k])).astype(dtype) for k in case.latents}
    flat = [x.reshape(POINTS, int(np.prod(x.shape[1:]))) for x in sites.values()]
    return sites, np.concatenate(flat, axis=1)


def numpyro_answers(case, key, sites):
    """Potential energy, and all values in the model's space."""
    # copies, as JAX 0.10 mixes up constants of both precisions
    args = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, case.args)
    call = (handlers.seed(case.fn, key), args, case.kwargs)

    def answers(site):
        return potential_energy(*call, site), constrain_fn(*call, site, return_deterministic=True)

    return jax.jit(jax.vmap(answers))(sites)


@pytest.mark.parametrize(("case", "name"), RUNS_IN, ids=lambda v: getattr(v, "name", v))
def test_agrees_with_numpyro(case, name):
    rtol, atol = PRECISIONS[name]
    key = jax.random.key(4)
    with precision(name):
        model = Model(case.fn, *case.args, **case.kwargs)
        sites, z = random_points(case)
        assert model.latents == tuple(case.latents)
        assert model.ndim == z.shape[1]

        energy, expected = numpyro_answers(case, key, sites)
        ours = model.log_density(z, random_seed=key)
        assert ours.dtype == z.dtype
        np.testing.assert_allclose(ours, -energy, rtol=rtol, atol=10 * atol)

        values = model.constrain(z, random_seed=key)
        assert {k: values[k].shape[1:] for k in case.latents} == case.latents
        arrays = {k: v for k, v in expected.items() if not isinstance(v, dict)}
        assert arrays.keys() == {k for k in values if "." not in k}
        for site, value in arrays.items():
            np.testing.assert_allclose(values[site], value, rtol=rtol, atol=atol, err_msg=site)

        if name == "float32":
            one = {k: v[1] for k, v in values.items()}
            back = model.unconstrain(one, random_seed=key)
            np.testing.assert_allclose(back, z[1], rtol=1e-3, atol=1e-3)


def test_every_kind_of_model_is_in_the_zoo():
    assert len({case.name for case in zoo.CASES}) == len(zoo.CASES) > 35


def test_log_density_takes_any_leading_axes_and_transformations():
    model = Model(zoo.simple, zoo.Y)
    z = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    log_density = jax.jit(model.log_density)
    one_by_one = [[log_density(point) for point in row] for row in z]
    np.testing.assert_allclose(model.log_density(z), one_by_one, rtol=1e-6)
    assert model.log_density(z[:0]).shape == (0, 3)
    assert {k: v.shape for k, v in model.constrain(z).items()} == {"mu": (2, 3), "sd": (2, 3)}
    seeded = handlers.seed(zoo.simple, 0)

    def energy(z):
        return potential_energy(seeded, (zoo.Y,), {}, {"mu": z[0], "sd": z[1]})

    gradient = jax.jit(jax.grad(model.log_density))(z[0, 0])
    np.testing.assert_allclose(gradient, -jax.jit(jax.grad(energy))(z[0, 0]), rtol=1e-5)
    mapped = jax.vmap(model.log_density)(z[0])
    np.testing.assert_allclose(mapped, one_by_one[0], rtol=1e-6)


def test_first_use_may_be_inside_other_compiled_code():
    data = np.arange(3.0)

    def model(y):
        x = numpyro.sample("x", dist.Normal(jnp.sum(data), 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    def density(x, y):
        return -((x - 3) ** 2) / 2 - (y - x) ** 2 / 2 - np.log(2 * np.pi)

    inside = jax.jit(lambda z, y: Model(model, y).log_density(z))
    for z, y in ((0.5, 1.5), (1.0, 2.0)):
        np.testing.assert_allclose(inside(np.array([z]), y), density(z, y), rtol=1e-6)
        outside = Model(model, jnp.float32(y)).log_density([z])
        np.testing.assert_allclose(outside, density(z, y), rtol=1e-6)
    bound = Model(zoo.gaussian_process, zoo.X)
    inside = jax.jit(bound.log_density)([0.3])
    np.testing.assert_allclose(bound.log_density([0.3]), inside, rtol=1e-5)


def test_closed_form():
    def model(y):
        rate = numpyro.sample("rate", dist.Exponential(2.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    z = 0.3  # log rate: 2 e^-2r, Jacobian r, Poisson(3)
    rate = np.exp(z)
    expected = np.log(2) - 2 * rate + z + 3 * z - rate - np.log(6)
    bound = Model(model, np.array(3))
    np.testing.assert_allclose(bound.log_density(np.array([z])), expected, rtol=1e-6)
    np.testing.assert_allclose(bound.constrain(np.array([z]))["rate"], rate, rtol=1e-6)


def test_deterministic_pytree_has_a_name_per_leaf():
    values = Model(zoo.jax_inside, zoo.Y).constrain(np.array([0.5]))
    np.testing.assert_allclose(values["pair.first"], 0.5)
    np.testing.assert_allclose(values["pair.second.0"], 0.5)
    np.testing.assert_allclose(values["pair.second.1"], [1.0, 1.0])


# -- params


def evaluate_at(model, z, theta):
    target = model.target
    return target.evaluate(jnp.asarray(z), jnp.asarray(theta), jax.random.key(0))


def test_params_move_with_theta():
    z, theta = np.float32([0.3]), np.float32([0.1, 1.0, -2.0, 0.4, 0.7, -0.3])
    found = evaluate_at(Model(zoo.params, zoo.Y), z, theta)
    names = sorted(["centre", "drawn", "sd", "weights"])
    assert sorted(found.params) == names
    simplex = biject_to(constraints.simplex)
    expected = {"centre": theta[0], "drawn": theta[1:3], "sd": np.exp(theta[3:5])}
    expected["weights"] = simplex(theta[5:])
    for name in names:
        np.testing.assert_allclose(found.params[name], expected[name], rtol=1e-6)
    unconstrained = {"z": z[0], **expected, "sd": theta[3:5], "weights": theta[5:]}
    seeded = handlers.seed(zoo.params, 0)
    fixed = {k: jnp.asarray(v) for k, v in expected.items()}
    seeded = handlers.substitute(seeded, data=fixed)
    energy = potential_energy(seeded, (zoo.Y,), {}, {"z": unconstrained["z"]})
    np.testing.assert_allclose(found.log_prior + found.log_likelihood, -energy, rtol=1e-5)


def test_param_starts_as_numpyro_starts_it():
    key = jax.random.key(5)
    trace = handlers.trace(handlers.seed(zoo.params, key)).get_trace(zoo.Y)
    model = Model(zoo.params, zoo.Y)
    theta = model.target.initial_params(key)
    params = evaluate_at(model, [0.0], theta).params
    for name, value in params.items():
        np.testing.assert_allclose(value, trace[name]["value"], rtol=1e-6)


def test_param_whose_constraint_depends_on_data():
    def model(y):
        top = numpyro.param("top", 0.5, constraint=constraints.interval(0.0, y.max()))
        numpyro.sample("x", dist.Normal(top, 1))

    bound = Model(model, np.float32([1.0, 4.0]))
    theta = bound.target.initial_params(jax.random.key(0))
    found = evaluate_at(bound, [1.0], [0.0])
    np.testing.assert_allclose(found.params["top"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(found.log_prior, -0.5 - 0.5 * np.log(2 * np.pi), rtol=1e-6)
    np.testing.assert_allclose(theta, np.log(0.5 / 3.5), rtol=1e-5)


def test_param_in_a_subsampled_plate_keeps_its_full_size():
    def model():
        with numpyro.plate("n", 6, subsample_size=2):
            shift = numpyro.param("shift", jnp.arange(6.0), event_dim=0)
            numpyro.factor("f", shift)
        numpyro.sample("x", dist.Normal(0, 1))

    bound, key = Model(model), jax.random.key(1)
    theta = bound.target.initial_params(key)
    np.testing.assert_allclose(theta, np.arange(6.0))
    seeded = handlers.seed(model, key)
    energy = jax.jit(lambda x: potential_energy(seeded, (), {}, {"x": x}))(0.0)
    np.testing.assert_allclose(bound.log_density([0.0], random_seed=key), -energy, rtol=1e-6)


def test_param_may_be_a_pytree():
    def model():
        net = numpyro.param("net", {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)})
        numpyro.sample("x", dist.Normal((net["w"] @ jnp.ones(2) + net["b"]).sum(), 1))

    found = evaluate_at(Model(model), [4.0], np.r_[np.zeros(2), np.ones(4)].astype(np.float32))
    np.testing.assert_allclose(found.log_prior, -0.5 * np.log(2 * np.pi), rtol=1e-6)


# -- subsampling


def test_subsample_follows_the_seed():
    model = Model(zoo.subsampling, zoo.X, zoo.Y)
    z = np.float32([0.4, -0.2])
    found = {float(model.log_density(z, random_seed=seed)) for seed in range(10)}
    assert len(found) > 3
    assert model.log_density(z) == model.log_density(z, random_seed=0)
    assert len({float(model.log_density(z, random_seed=None)) for _ in range(10)}) > 3


# -- what is retraced


class Counted:
    """A model that counts its runs; another name makes it another model."""

    def __init__(self, name):
        self.name, self.runs = name, 0

    def __call__(self, X, y=None, *, prior_sd=1.0, degree=1, names=None):
        self.runs += 1
        w = numpyro.sample("w", dist.Normal(0, prior_sd).expand([X.shape[1], degree]).to_event(2))
        numpyro.sample("y", dist.Normal((X @ w).sum(-1), 1.0), obs=y)


def test_new_data_of_the_same_shapes_trace_nothing():
    counted, rng = Counted("data"), np.random.default_rng(0)

    def density(**kwargs):
        X, y = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=5)
        z = rng.normal(size=2).astype(np.float32)
        ours = Model(counted, X, y, **kwargs).log_density(z)
        sd = kwargs.get("prior_sd", 1.0)
        prior = dist.Normal(0, sd).log_prob(z).sum()
        expected = prior + dist.Normal(X @ z, 1.0).log_prob(y).sum()
        np.testing.assert_allclose(ours, expected, rtol=1e-5)

    density()
    runs = counted.runs
    for _ in range(3):
        density()
    assert counted.runs == runs
    for sd in (0.5, 2.0, np.float64(3.0)):
        density(prior_sd=sd)
    one_more = counted.runs
    assert one_more <= 3 * runs  # a float that is given, in two types
    density(prior_sd=0.7)
    assert counted.runs == one_more


def test_what_is_not_data_traces_anew():
    counted, X, y = Counted("static"), np.ones((5, 2), np.float32), np.ones(5, np.float32)

    def runs(*args, **kwargs):
        before = counted.runs
        Model(counted, *args, **kwargs).latents  # noqa: B018
        return counted.runs - before

    assert runs(X, y)
    assert not runs(X, y)
    assert runs(X[:3], y[:3])  # a shape
    assert runs(X, y.astype(int))  # a dtype
    assert runs(X, y, degree=2)  # an int
    assert runs(X, y, names=["a", "b"])  # a string
    assert not runs(X, y, names=["a", "b"])
    assert runs(X, y, names=["a", "c"])
    assert runs(X)
    assert not runs(X, y)


def test_settings_of_jax_trace_anew():
    counted, X = Counted("settings"), np.ones((5, 2), np.float32)
    Model(counted, X, X[:, 0]).latents  # noqa: B018
    runs = counted.runs
    with jax.default_matmul_precision("highest"):
        target = Model(counted, X, X[:, 0]).target
        assert counted.runs == 2 * runs
        key = jax.random.key(0)
        text = str(jax.make_jaxpr(target.evaluate)(jnp.zeros(2), jnp.zeros(0), key))
        assert "HIGHEST" in text
    with precision("float64"):
        assert Model(counted, X, X[:, 0]).log_density(np.zeros(2)).dtype == np.float64
    assert Model(counted, X, X[:, 0]).log_density(np.zeros(2)).dtype == np.float32
    assert counted.runs == 3 * runs


OBSERVED = {
    "normal": dist.Normal(0.0, 1.0),
    "event": dist.Normal(0.0, 1.0).expand([3]).to_event(1),
    "student": dist.StudentT(3.0),
    "matrix": dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)),
    "masked": dist.Normal(0.0, 1.0).expand([3]).mask(jnp.array([True, False, True])),
}


@pytest.mark.parametrize("name", OBSERVED)
def test_real_values_are_not_looked_at_at_each_evaluation(name):
    """NumPyro asks of each number whether it is one; the density is the same without."""
    fn = OBSERVED[name]

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", fn, obs=y + 0 * x)

    y = jnp.array([0.5, -1.0, 2.0])
    bound = Model(model, y)
    assert "inf:f32" not in str(jax.make_jaxpr(bound.log_density)(jnp.zeros(1)))
    expected = dist.Normal(0, 1).log_prob(0.3) + fn.log_prob(y).sum()
    np.testing.assert_allclose(bound.log_density(jnp.array([0.3])), expected, rtol=1e-6)
    assert fn._validate_args  # the user's own object is as it was
    for wrong in (jnp.nan, jnp.inf):
        assert not np.isfinite(Model(model, y.at[0].set(wrong)).log_density(jnp.zeros(1)))


def test_data_outside_of_a_support_have_no_density():
    def model(y):
        top = numpyro.sample("top", dist.LogNormal(0, 1))
        numpyro.sample("y", dist.Uniform(0, top), obs=y)

    bound = Model(model, 2.0)
    assert np.isneginf(bound.log_density(jnp.zeros(1)))
    assert np.isfinite(bound.log_density(jnp.ones(1)))


def test_switching_validation_off_traces_anew():
    def model(y):
        rate = numpyro.sample("rate", dist.LogNormal(0, 1))
        numpyro.sample("y", dist.Exponential(rate), obs=y)

    bound = Model(model, -1.0)
    assert np.isneginf(bound.log_density(jnp.zeros(1)))
    with numpyro.validation_enabled(False):
        assert np.isfinite(bound.log_density(jnp.zeros(1)))
    assert np.isneginf(bound.log_density(jnp.zeros(1)))


def test_old_target_keeps_the_values_it_was_traced_with():
    data = np.ones(3, np.float32)

    def model():
        numpyro.sample("x", dist.Normal(jnp.sum(data), 1.0))

    bound = Model(model)
    old = bound.target
    data[:] = 2
    key, z, theta = jax.random.key(0), jnp.zeros(1), jnp.zeros(0)
    assert old.evaluate(z, theta, key).log_prior == pytest.approx(-4.5 - 0.918939, rel=1e-5)
    assert bound.log_density(z) == pytest.approx(-18 - 0.918939, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_array_changed_in_place_is_seen_by_all_afterwards(dtype):
    data = np.ones(3, dtype)

    def as_argument(y):
        numpyro.sample("x", dist.Normal(jnp.sum(y), 1.0))

    def inside():
        numpyro.sample("x", dist.Normal(jax.jit(lambda: jnp.sum(jnp.asarray(data)))(), 1.0))

    targets = [Model(as_argument, data).target, Model(inside).target]  # kept alive
    data[:] = 2
    for bound in (Model(as_argument, data), Model(inside)):
        np.testing.assert_allclose(bound.log_density([0.0]), -18 - 0.9189385, rtol=1e-6)
    np.testing.assert_array_equal(jnp.asarray(data), 2)
    key, z, theta = jax.random.key(0), jnp.zeros(1), jnp.zeros(0)
    for old in targets:
        np.testing.assert_allclose(
            old.evaluate(z, theta, key).log_prior, -4.5 - 0.9189385, rtol=1e-6
        )


def test_many_models_keep_their_own_programs():
    def make(loc):
        return lambda: numpyro.sample("x", dist.Normal(loc, 1.0))

    locs = np.linspace(-2, 2, 70)
    models = [Model(make(loc)) for loc in locs]
    for _ in range(2):
        found = [m.target.layout.ndim for m in models]
        assert found == [1] * 70
    np.testing.assert_allclose(
        [m.log_density([0.0]) for m in models[-3:]], -(locs[-3:] ** 2) / 2 - 0.918939, rtol=1e-5
    )


# -- naming and replacing arguments


def test_repr_names_the_data():
    assert repr(Model(zoo.keywords_only, X=zoo.X, y=zoo.Y)) == "Model(keywords_only, X, y)"
    assert repr(Model(zoo.eight_schools, zoo.ERRORS)) == "Model(eight_schools, sigma)"


def test_named_data():
    data = Model(zoo.pytrees, *zoo.CASES[[c.name for c in zoo.CASES].index("pytrees")].args)
    assert list(data.named_data) == [
        "data['X'][0]",
        "data['z']",
        "priors.loc",
        "scales[0]",
        "scales[1][0]",
        "scales[1][1]['deep']",
    ]
    np.testing.assert_array_equal(data.named_data["data['z']"], zoo.Y.astype(np.float32))


def shifted(X, y, shift=0.0, *, scale=1.0):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x * X + shift, scale), obs=y)


def shifted_density(X, y, shift, scale):
    x = 0.5
    likelihood = dist.Normal(x * X + shift, scale).log_prob(y).sum()
    return dist.Normal(0, 1).log_prob(x) + likelihood


@pytest.mark.parametrize(
    "model",
    [
        Model(shifted, zoo.Y, zoo.Y + 1, 0.5, scale=2.0),
        Model(shifted, X=zoo.Y, y=zoo.Y + 1, shift=0.5, scale=2.0),
        Model(functools.partial(shifted, zoo.Y, scale=2.0), zoo.Y + 1, shift=0.5),
        Model(functools.partial(functools.partial(shifted, zoo.Y, zoo.Y), scale=2.0), shift=0.5),
        Model(handlers.scale(shifted, scale=1.0), zoo.Y, zoo.Y + 1, 0.5, scale=2.0),
        Model(shifted, zoo.Y, zoo.Y + 1),
    ],
    ids=["positional", "keyword", "partial", "nested partial", "handler", "defaults"],
)
def test_replace(model):
    before = model.log_density([0.5])
    given = {"X": 2 * zoo.Y[:4], "y": zoo.Y[:4], "shift": -0.3, "scale": 0.7}
    new = model.replace(**given)
    np.testing.assert_allclose(new.log_density([0.5]), shifted_density(**given), rtol=1e-5)
    np.testing.assert_allclose(model.log_density([0.5]), before)
    only_y = model.replace(y=zoo.Y - 2)
    np.testing.assert_allclose(only_y.named_data["y"], zoo.Y - 2)


def test_replace_a_bound_method_s_argument():
    model = Model(zoo.Regression(zoo._linear, 1.0).model, zoo.X, y=zoo.Y)
    np.testing.assert_allclose(model.replace(X=2 * zoo.X).named_data["X"], 2 * zoo.X)


def test_replace_variadic_arguments():
    model = Model(zoo.variadic, zoo.X, zoo.Y, {"sd": 0.5})
    new = model.replace(arrays=(2 * zoo.X, zoo.Y, {"sd": 0.1}))
    assert list(new.named_data) == ["arrays[0]", "arrays[1]", "arrays[2]['sd']"]
    np.testing.assert_allclose(new.named_data["arrays[0]"], 2 * zoo.X)


def test_replace_of_an_unknown_name():
    expected = r"the model has no argument 'Z'; its arguments are \['X', 'scale', .*'y'\]"
    with pytest.raises(KeyError, match=expected):
        Model(shifted, zoo.Y, zoo.Y).replace(Z=1.0)


# -- bad input


def test_missing_argument():
    expected = (
        r"the model shifted\(X, y, .*\) cannot be called with model_args of length 1 and "
        r"model_kwargs \['scale'\]: missing a required argument: 'y'"
    )
    with pytest.raises(TypeError, match=expected):
        Model(shifted, zoo.Y, scale=1.0)


def test_unknown_keyword():
    with pytest.raises(TypeError, match=r"cannot be called .* unexpected keyword argument 'Y'"):
        Model(shifted, zoo.Y, zoo.Y, Y=zoo.Y)


def test_argument_missing_behind_a_handler():
    with pytest.raises(TypeError, match=r"the model simple\(y=None\) cannot be called"):
        Model(handlers.scale(zoo.simple, scale=2.0), zoo.Y, zoo.Y)


def test_argument_missing_behind_a_decorator():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        Model(zoo._supplies_data(zoo.regression_with_factor)).latents  # noqa: B018


def test_no_callable():
    with pytest.raises(TypeError, match="model must be a NumPyro callable or a Model, got list"):
        as_model([1.0])
    with pytest.raises(TypeError, match="the model is bound to its arguments already"):
        Model(Model(zoo.simple), zoo.Y)  # type: ignore[arg-type]


def test_model_args_of_a_wrong_type():
    with pytest.raises(TypeError, match=r"model_args must be a tuple, got ndarray; .*\(x,\)"):
        as_model(zoo.simple, zoo.Y)
    with pytest.raises(TypeError, match="model_kwargs must be a dict, got list"):
        as_model(zoo.simple, (), ["y"])


def test_arguments_for_a_bound_model():
    bound = Model(zoo.simple)
    assert as_model(bound) is bound
    for given in ({"model_args": (zoo.Y,)}, {"model_kwargs": {"y": zoo.Y}}):
        with pytest.raises(TypeError, match="the model is bound to its arguments already"):
            as_model(bound, **given)


def test_no_latent_site():
    def model(x, y):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)
        numpyro.sample("y", dist.Normal(0, 1), obs=y)

    with pytest.raises(ValueError, match=r"no latent sites.*observed sites are \['x', 'y'\]"):
        Model(model, 1.0, 2.0).latents  # noqa: B018


def test_discrete_latent_sites():
    def model():
        p = numpyro.sample("p", dist.Beta(1, 1))
        numpyro.sample("k", dist.Bernoulli(p))
        numpyro.sample("c", dist.Categorical(jnp.ones(3) / 3))

    with pytest.raises(
        DiscreteLatentError, match=r"'k', 'c'\. Marginalise .*config_enumerate"
    ) as e:
        Model(model).latents  # noqa: B018
    assert e.value.sites == ("k", "c")
    assert isinstance(e.value, ValueError)


@pytest.mark.parametrize("second", ["sample", "deterministic"])
def test_duplicate_site_names(second):
    def model():
        numpyro.sample("x", dist.Normal(0, 1))
        if second == "sample":
            numpyro.sample("x", dist.Normal(0, 1))
        else:
            numpyro.deterministic("x", jnp.ones(()))

    with pytest.raises(ValueError, match="two sites of the model are named 'x'"):
        Model(model).latents  # noqa: B018


def test_mutable_state():
    def model():
        state = numpyro.primitives.mutable("state", {"n": 0})
        state["n"] += 1
        numpyro.sample("x", dist.Normal(0, 1))

    with pytest.raises(ValueError, match=r"mutable state, which is not supported: \['state'\]"):
        Model(model).latents  # noqa: B018


@pytest.mark.parametrize("z", [0.0, np.zeros(3), np.zeros((2, 1)), np.zeros(0)])
def test_point_of_a_wrong_length(z):
    shape = re.escape(str(np.shape(z)))
    model = Model(zoo.simple, zoo.Y)
    for evaluate in (model.log_density, model.constrain):
        with pytest.raises(ValueError, match=f"length ndim = 2, got shape {shape}"):
            evaluate(z)


def test_unconstrain_needs_every_site_in_its_shape():
    model = Model(zoo.returns_early, zoo.X, y=zoo.Y)
    with pytest.raises(KeyError, match=r"values are missing for the latent sites \['sd'\]"):
        model.unconstrain({"w": [0.0, 1.0]})
    with pytest.raises(ValueError, match=r"site 'w' has shape \(3,\), expected \(2,\)"):
        model.unconstrain({"w": np.zeros(3), "sd": 1.0})
    found = model.unconstrain({"w": [0.0, 1.0], "sd": 1.0, "y": "ignored"})
    np.testing.assert_allclose(found, [0.0, 1.0, 0.0])


class OwnError(Exception):
    pass


@pytest.mark.parametrize("error", [OwnError("own"), AssertionError("own"), ValueError("own")])
def test_errors_of_the_model_come_through(error):
    def model(X):
        raise error

    with pytest.raises(type(error), match=r"^own\b"):
        Model(model, zoo.X).latents  # noqa: B018


def test_branch_on_a_latent_value_is_an_error_of_jax():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        if x > 0:
            numpyro.sample("y", dist.Normal(x, 1), obs=y)

    with pytest.raises(jax.errors.TracerBoolConversionError):
        Model(model, zoo.Y).latents  # noqa: B018


def test_prints_and_side_effects_inside_the_model_are_allowed(capfd):
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        jax.debug.print("x = {}", x)

    Model(model).log_density([0.5]).block_until_ready()
    jax.effects_barrier()
    assert "x = 0.5" in capfd.readouterr().out


def test_package_may_be_imported_where_numpyro_is_put_off():
    """As ArviZ 1.x does; a submodule imported first would then be loaded twice."""
    code = """
        import importlib.util, sys
        spec = importlib.util.find_spec("numpyro")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        numpyro = sys.modules["numpyro"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(numpyro)
        import numpyro_vi_ext
        from numpyro import handlers, infer, primitives
        assert handlers.Messenger is primitives.Messenger
        assert handlers.trace is infer.util.trace
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)


def test_no_scan_site_is_lost_in_a_nested_model():
    def model(y):
        with contextlib.ExitStack():
            level = numpyro.sample("level", dist.HalfNormal(1))

            def step(carry, value):
                move = numpyro.sample("move", dist.Gamma(2.0, level))
                numpyro.sample("obs", dist.Normal(carry + move, 1), obs=value)
                return carry + move, carry

            scan(step, 0.0, y)

    bound = Model(model, zoo.Y)
    assert bound.latents == ("level", "move")
    z = np.random.default_rng(1).normal(size=8).astype(np.float32)
    seeded = handlers.seed(model, 0)
    energy = potential_energy(seeded, (zoo.Y,), {}, {"level": z[0], "move": jnp.asarray(z[1:])})
    np.testing.assert_allclose(bound.log_density(z), -energy, rtol=1e-5)


@pytest.mark.parametrize("prefixes", [("a",), ("inner", "outer")])
def test_log_jacobians_within_a_scope_belong_to_the_prior(prefixes):
    """A half-normal has log sd = z and prior density 2 phi(sd) sd, whatever it is called."""

    def model(y):
        sd = numpyro.sample("sd", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(0, sd), obs=y)

    scoped = model
    for prefix in prefixes:
        scoped = handlers.scope(scoped, prefix)
    target, z = Model(scoped, 0.7).target, 0.4
    found = target.evaluate(jnp.array([z]), jnp.zeros(0), jax.random.key(0))
    sd = np.exp(z)
    assert float(found.log_prior) == pytest.approx(stats.halfnorm.logpdf(sd) + z, rel=1e-5)
    assert float(found.log_likelihood) == pytest.approx(stats.norm(0, sd).logpdf(0.7), rel=1e-5)
    (name,) = (site.name for site in target.layout.latents)
    assert {target.layout.site_of(k) for k in found.site_log_prob} - {name} == set(
        target.layout.observed
    )
