"""Running the model with other arguments, and with latent sites fixed; all compared with NumPy."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer.reparam import LocScaleReparam
from zoo import CASES, GROUPS, X, Y

import numpyro_vi_ext as vi
from numpyro_vi_ext import cache, nodes

ZOO = {case.name: case for case in CASES}
X_TEST = np.random.default_rng(7).normal(size=(4, 2))


@pytest.fixture(autouse=True, scope="module")
def no_programs_left_behind():
    """Caches keep many of the programs made here, which other tests count."""
    yield
    nodes._entries.clear()
    nodes._at_draws.cache_clear()
    cache._entries.clear()


def approximation(fn, /, *args, **kwargs):
    return vi.MeanField(fn, model_args=args, model_kwargs=kwargs, random_seed=1)


def of_zoo(name):
    case = ZOO[name]
    return approximation(case.fn, *case.args, **case.kwargs)


def regression(X, y=None, power=1, offset=0.0):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    mean = numpyro.deterministic("mean", X @ w**power + offset)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


@pytest.fixture(scope="module")
def approx():
    return approximation(regression, X, Y)


def evaluate(approx, node, replaced, size=5):
    return approx.sample_node(node, size, more_replacements=replaced, random_seed=3)


def draws_of(approx, name="w", size=5):
    return np.asarray(approx.sample_dict(size, random_seed=3)[name])


def assert_close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# -- arguments


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, np.ndarray.tolist, pd.DataFrame])
def test_new_rows_in_any_container(approx, make):
    assert_close(evaluate(approx, "mean", {"X": make(X_TEST)}), draws_of(approx) @ X_TEST.T)


def test_whole_numbers_and_other_dtypes(approx):
    whole = np.array([[1, 2], [3, 4]])
    for given in (whole, whole.astype(np.float16), whole.tolist()):
        assert_close(evaluate(approx, "mean", {"X": given}), draws_of(approx) @ whole.T)


def test_numbers_in_place_of_numbers(approx):
    """A float is data; an int is static, and another one is another program."""
    w = draws_of(approx)
    assert_close(evaluate(approx, "mean", {"offset": 2}), w @ X.T + 2)
    assert_close(evaluate(approx, "mean", {"offset": np.arange(7.0)}), w @ X.T + np.arange(7.0))
    assert_close(evaluate(approx, "mean", {"power": 2}), w**2 @ X.T)
    assert_close(evaluate(approx, "mean", {"power": 3, "X": X_TEST}), w**3 @ X_TEST.T)
    assert_close(evaluate(approx, "mean", {}), w @ X.T)
    assert_close(evaluate(approx, "mean", None), w @ X.T)
    assert_close(evaluate(approx, "mean", types.MappingProxyType({"power": 2})), w**2 @ X.T)


def test_observed_data_may_be_others_or_none(approx):
    assert_close(evaluate(approx, "y", {"y": Y + 2}), np.tile(Y + 2, (5, 1)))
    assert_close(evaluate(approx, "y", {"X": X_TEST, "y": Y[:4]}), np.tile(Y[:4], (5, 1)))
    # Rows that have no data yet keep those of the fit as long as nobody asks for them.
    assert_close(evaluate(approx, "mean", {"X": X_TEST}), draws_of(approx) @ X_TEST.T)
    # Without data the site is drawn: standard normal around the mean, on the scale of sd.
    node = {"y": "y", "mean": "mean", "sd": "sd"}
    found = evaluate(approx, node, {"X": X_TEST, "y": None}, 2000)
    z = (np.asarray(found["y"]) - found["mean"]) / np.asarray(found["sd"])[:, None]
    assert z.shape == (2000, 4)
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(2000)
    assert np.abs(z.var(0) - 1).max() < 4 * np.sqrt(2 / 2000)


def test_discrete_likelihood_without_data():
    """P(y = 0) = E[exp(-rate)] over the very draws of the rate; four standard errors."""

    def counts(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 0.3))
        rate = numpyro.deterministic("rate", jnp.exp(a * x))
        numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)

    approx = approximation(counts, np.ones(3), np.array([1, 0, 2]))
    x = np.linspace(-1, 1, 5)
    found = evaluate(approx, ["y", "rate"], {"x": x, "y": None}, 4000)
    y, rate = map(np.asarray, found)
    assert y.shape == (4000, 5)
    assert np.issubdtype(y.dtype, np.integer)
    chance = np.exp(-rate).mean(0)
    assert np.abs((y == 0).mean(0) - chance).max() < 4 * np.sqrt(0.25 / 4000)
    assert np.abs(y.mean(0) - rate.mean(0)).max() < 4 * np.sqrt(y.var() / 4000)


# -- ways of calling and wrapping


CONDITIONED = handlers.condition(regression, data={"sd": 0.5})
WRAPPED = {
    "positional": (regression, (X, Y), {}, "w"),
    "keyword": (regression, (), {"y": Y, "X": X}, "w"),
    "partial": (functools.partial(regression, y=Y), (X,), {}, "w"),
    "partial of all": (functools.partial(regression, X, Y, offset=0.0), (), {}, "w"),
    "condition": (CONDITIONED, (X,), {"y": Y}, "w"),
    "scale of condition": (handlers.scale(CONDITIONED, scale=3.0), (X, Y), {}, "w"),
    "mask": (handlers.mask(regression, mask=False), (X, Y), {}, "w"),
    "scope": (handlers.scope(regression, "deep", divider="/"), (X, Y), {}, "deep/w"),
    "reparam": (handlers.reparam(regression, config={"w": LocScaleReparam(0)}), (X, Y), {}, "w"),
    "block": (handlers.block(regression, hide=["sd"]), (X, Y), {}, "w"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_however_the_model_is_wrapped_and_called(kind):
    fn, args, kwargs, latent = WRAPPED[kind]
    approx = approximation(fn, *args, **kwargs)
    mean = f"{latent[:-1]}mean"
    found = evaluate(approx, mean, {"X": X_TEST, "offset": 1.0})
    assert_close(found, draws_of(approx, latent) @ X_TEST.T + 1)


def test_keyword_arguments_of_any_name():
    """Names that no other call has used so far may come with ``**options``."""

    def model(X, **options):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        scale = options.get("scale", 1.0)
        numpyro.deterministic("mean", scale * X @ w)
        numpyro.sample("y", dist.Normal(X @ w, 1).to_event(1), obs=options["y"])

    approx = approximation(model, X, y=Y)
    w = draws_of(approx)
    assert_close(evaluate(approx, "mean", {"X": X_TEST}), w @ X_TEST.T)
    assert_close(evaluate(approx, "mean", {"y": Y + 1, "scale": 3.0}), 3 * w @ X.T)
    # A latent site is one here, and no such argument.
    assert_close(evaluate(approx, "mean", {"w": [1.0, 2.0]}), np.tile(X @ [1.0, 2.0], (5, 1)))


def test_positional_arguments_of_any_number():
    approx = of_zoo("variadic")
    assert_close(
        evaluate(approx, "y", {"arrays": (X[:3], Y[:3], {"sd": 2.0})}), np.tile(Y[:3], (5, 1))
    )
    approx = of_zoo("decorated")  # a wrapper that takes *args: so it says, and so it is called
    assert_close(evaluate(approx, "y", {"args": (Y + 1,)}), np.tile(Y + 1, (5, 1)))


def test_arguments_that_are_nested():
    """They are replaced as a whole, whatever is in them."""
    approx = of_zoo("pytrees")
    data = {"z": Y[:3], "X": [X[:3], None], "n": 2}
    assert_close(evaluate(approx, "y", {"data": data}), np.tile(Y[:3], (5, 1)))
    scales = (2.0, (1.0, {"deep": 0.5}))  # of the likelihood of y: 1.5 in place of 4
    y = evaluate(approx, "y", {"scales": scales, "data": {**data, "z": None}, "w": 0.0}, 4000)
    assert np.asarray(y).std() == pytest.approx(1.5, abs=4 * 1.5 / np.sqrt(2 * 12_000))


def test_tables_and_series_stay_what_they_are():
    """For a model that takes them as such."""

    def model(table, group, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
        mean = w[group.cat.codes.to_numpy()] * table["x"].to_numpy()
        numpyro.deterministic("mean", mean)
        numpyro.sample("y", dist.Normal(mean, 1).to_event(1), obs=y)

    table, group = pd.DataFrame({"x": [1.0, 2.0, 3.0]}), pd.Series(list("abc"), dtype="category")
    approx = approximation(model, table, group, np.ones(3))
    w = draws_of(approx)
    assert_close(evaluate(approx, "mean", {"table": table * 2}), 2 * w * [1, 2, 3])
    replaced = {"table": table[:2], "group": group[:2][::-1], "y": np.ones(2)}
    assert_close(evaluate(approx, "mean", replaced), w[:, [1, 0]] * [1, 2])


def test_numeric_series_stays_one():
    def model(x):
        w = numpyro.sample("w", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(w, 1).to_event(0), obs=jnp.asarray(x.to_numpy()))

    approx = approximation(model, pd.Series([1.0, 2.0]))
    assert_close(evaluate(approx, "y", {"x": pd.Series([3.0])}), np.full((5, 1), 3.0))


def test_argument_whose_values_the_model_needs():
    """Group numbers, of which it counts the different ones."""
    approx = of_zoo("counts_its_groups")
    node = lambda s: s["effect"][np.array([2, 0, 1])]  # noqa: E731
    found = evaluate(approx, node, {"idx": np.array([0, 1, 2, 2]), "y": np.ones(4)})
    assert_close(found, draws_of(approx, "effect")[:, [2, 0, 1]])
    with pytest.raises(ValueError, match=r"'effect' has shape \(3,\).*but \(4,\) at the new"):
        evaluate(approx, "effect", {"idx": np.append(GROUPS, 3), "y": np.ones(8)})


# -- params


def with_params(x, y=None):
    slope = numpyro.param("slope", 1.0)
    scale = numpyro.param("scale", jnp.ones(2), constraint=constraints.positive)
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.deterministic("mean", slope * x + z)
    numpyro.deterministic("scales", scale)
    numpyro.sample("y", dist.Normal(slope * x + z, scale[0]).to_event(1), obs=y)


def test_fitted_params_are_used():
    """Those of the model keep the values of the fit, not their initial ones."""
    x = np.linspace(-1, 1, 20)
    options = {"model_args": (x, 3 * x + 0.5), "random_seed": 0, "progressbar": False}
    approx = vi.fit(with_params, 2000, **options)
    slope, scale = approx.model_params["slope"], approx.model_params["scale"]
    assert slope == pytest.approx(3, abs=0.3)
    assert scale[0] < 0.5
    found = evaluate(approx, ["mean", "scales"], {"x": np.array([10.0, 20.0])})
    assert_close(found[0], slope * np.array([10.0, 20.0]) + draws_of(approx, "z")[:, None])
    assert_close(found[1], np.tile(scale, (5, 1)))
    with pytest.raises(KeyError, match=r"nor a latent site \(\['z'\]\); it is a param"):
        evaluate(approx, "mean", {"slope": 1.0})


# -- latent sites


def test_latent_sites_at_a_value(approx):
    """What follows from them follows; the others are the draws they would have been."""
    w, sd = draws_of(approx), draws_of(approx, "sd")
    node = ["w", "mean", "sd"]
    for value in ([1.0, -2.0], np.array([1, -2]), jnp.array([1.0, -2.0])):
        found = evaluate(approx, node, {"w": value})
        assert_close(found[0], np.tile([1.0, -2.0], (5, 1)))
        assert_close(found[1], np.tile(X @ [1.0, -2.0], (5, 1)))
        assert_close(found[2], sd)
    found = evaluate(approx, node, {"w": 3})
    assert_close(found[1], np.tile(X @ [3.0, 3.0], (5, 1)))
    found = evaluate(approx, node, {"sd": 0.25})
    assert_close(found[0], w)
    assert_close(found[2], np.full(5, 0.25))
    found = evaluate(approx, node, {"sd": 0.25, "w": [0.5, 0.0], "X": X_TEST, "power": 2})
    assert_close(found[1], np.tile(X_TEST @ [0.25, 0.0], (5, 1)))
    assert_close(found[2], np.full(5, 0.25))


@pytest.mark.slow
def test_priors_of_fixed_sites_do_not_matter_but_what_hangs_on_them_does():
    """eight schools: the effects are latent of their own; decentred, they follow from mu, tau."""
    theta = draws_of(centred := of_zoo("eight_schools_centred"), "theta")
    assert_close(evaluate(centred, "theta", {"mu": 100.0}), theta)
    decentred = of_zoo("eight_schools_non_centred")
    z, tau = draws_of(decentred, "theta_decentered"), draws_of(decentred, "tau")[:, None]
    assert_close(evaluate(decentred, "theta", {"mu": 100.0}), 100 + tau * z)
    with pytest.raises(KeyError, match=r"'theta', which is neither.*it is a deterministic site"):
        evaluate(decentred, "theta", {"theta": 1.0})


def test_argument_and_site_of_one_name_is_the_argument():
    def model(x, y):
        numpyro.sample("x", dist.Normal(0, 1))
        numpyro.deterministic("argument", jnp.asarray(x))
        numpyro.sample("y", dist.Normal(0, 1), obs=y)

    found = evaluate(approximation(model, 1.0, 2.0), ["x", "argument"], {"x": 5.0})
    assert_close(found[1], np.full(5, 5.0))
    assert len(np.unique(found[0])) == 5


# -- a site for each row


def local(n, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(n)):
        theta = numpyro.sample("theta", dist.Normal(mu, 1))
        numpyro.deterministic("double", 2 * theta)
        numpyro.sample("y", dist.Normal(theta, n), obs=y)


def test_nothing_is_known_of_new_rows_unless_they_are_given():
    approx = approximation(local, np.ones(7), Y)
    for n in (np.ones(3), np.ones(9)):
        expected = rf"'theta' has shape \(7,\).*but \({len(n)},\) at the new arguments.*give the"
        for replaced in ({"n": n}, {"n": n, "y": None}, {"n": n, "y": n}, {"n": n, "mu": 0.0}):
            with pytest.raises(ValueError, match=expected) as error:
                evaluate(approx, "mu", replaced)
            assert "This happened when the model was run at other" in str(error.value.__notes__)
    replaced = {"n": np.ones(3), "y": None, "theta": [1.0, 2.0, 3.0]}
    assert_close(evaluate(approx, "double", replaced), np.tile([2.0, 4.0, 6.0], (5, 1)))
    with pytest.raises(ValueError, match=r"'theta' has shape \(2,\).*but \(3,\)"):
        evaluate(approx, "double", {**replaced, "theta": [1.0, 2.0]})
    # The same number of rows is as known as before.
    found = evaluate(approx, "double", {"n": 2 * np.ones(7)})
    assert_close(found, 2 * draws_of(approx, "theta"))


# -- what is refused


@pytest.mark.parametrize(
    ("replaced", "error", "text"),
    [
        ({"Z": X}, KeyError, r"'Z'.*\['X', 'offset', 'power', 'y'\].*\['w', 'sd'\]\)"),
        ({"mean": 1.0}, KeyError, "'mean'.*it is a deterministic site"),
        ({1: X}, KeyError, "names 1, which is neither an argument"),
        ({"X": X[0]}, ValueError, r"\['X'\] has shape \(2,\).*had shape \(7, 2\).*must stay 2"),
        ({"X": X[None]}, ValueError, r"\['X'\] has shape \(1, 7, 2\).*must stay 2"),
        ({"X": 1.0}, ValueError, r"\['X'\] has shape \(\).*must stay 2"),
        ({"X": [[1.0, 2.0], [3.0]]}, ValueError, r"\['X'\] is a list that is no array"),
        ({"X": [["a", "b"]]}, TypeError, r"\['X'\] must be numeric, got a list of dtype"),
        ({"X": pd.DataFrame({"a": ["u"]})}, TypeError, r"\['X'\] must be numeric, got a DataFrame"),
        ({"y": Y[:, None]}, ValueError, r"\['y'\] has shape \(7, 1\).*must stay 1"),
        ({"w": [1.0, 2.0, 3.0]}, ValueError, r"\['w'\] has shape \(3,\).*site has shape \(2,\)"),
        ({"sd": [1.0, 2.0]}, ValueError, r"\['sd'\] has shape \(2,\).*site has shape \(\)"),
        ({"w": "x"}, TypeError, r"\['w'\] must be numeric, got str"),
        ({"w": None}, TypeError, r"\['w'\] must be numeric, got NoneType"),
        ({"w": 1j}, TypeError, r"\['w'\] must be numeric, got complex"),
        ([("X", X)], TypeError, "must be a dict from argument or latent site to value, got list"),
        ("X", TypeError, "must be a dict from argument or latent site to value, got str"),
        (3, TypeError, "must be a dict from argument or latent site to value, got int"),
        ((), TypeError, "must be a dict from argument or latent site to value, got tuple"),
    ],
)
def test_bad_replacements(approx, replaced, error, text):
    with pytest.raises(error, match=text):
        evaluate(approx, "mean", replaced)


def test_observed_site_that_is_no_argument():
    """Its data are in the model, or in a handler around it."""
    approx = approximation(handlers.condition(regression, data={"y": Y}), X)
    assert_close(evaluate(approx, "y", {"X": X + 1}), np.tile(Y, (5, 1)))

    def closes_over():
        numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("given", dist.Normal(0, 1), obs=jnp.asarray(Y))

    with pytest.raises(KeyError, match=r"'given'.*it is an observed site, whose data are an arg"):
        evaluate(approximation(closes_over), "x", {"given": Y})


def test_errors_of_the_model_say_that_it_ran_elsewhere(approx):
    with pytest.raises(TypeError, match="contracting dim") as error:
        evaluate(approx, "mean", {"X": X[:, :1]})
    assert "run at other arguments" in str(error.value.__notes__)
    with pytest.raises(KeyError, match="no site 'b'; its sites are"):  # the flag takes it away
        evaluate(of_zoo("keywords_only"), "b", {"use_intercept": False})


def test_nothing_is_left_behind(approx):
    """Neither the approximation nor the values passed in are changed."""
    before, model = approx.sample_dict(3, random_seed=0), approx.model
    given = {"X": X_TEST.copy(), "w": np.ones(2)}
    evaluate(approx, "mean", given)
    np.testing.assert_array_equal(given["X"], X_TEST)
    np.testing.assert_array_equal(given["w"], np.ones(2))
    assert approx.model is model
    jax.tree.map(np.testing.assert_array_equal, before, approx.sample_dict(3, random_seed=0))
    # An array changed in place since is read as it is now.
    given["X"][:] = 2.0
    assert_close(evaluate(approx, "mean", given), np.full((5, 4), 4.0))
