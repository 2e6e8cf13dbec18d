"""Draws of samplers, whatever holds them, become rows of an Empirical in the right order."""

import types

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
import zoo
from numpyro.distributions import biject_to
from numpyro.infer import MCMC, NUTS, Predictive

import numpyro_vi_ext as vi
from numpyro_vi_ext.traces import unconstrain_rows

pytestmark = pytest.mark.compiles

RNG = np.random.default_rng(3)
CHAINS, DRAWS = 4, 15
CASE = {case.name: case for case in zoo.CASES}


def model(y=None):
    """Sites in another order than that of the alphabet, which is NUTS's."""
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    with numpyro.plate("i", 3):
        effect = numpyro.sample("effect", dist.Normal(0, scale))
        numpyro.deterministic("doubled", 2 * effect)
        numpyro.sample("y", dist.Normal(effect, 1), obs=y)


Y = np.array([0.5, -1.0, 2.0])


def run_mcmc(fn, *args, chains=1, draws=DRAWS, **kwargs):
    mcmc = MCMC(
        NUTS(fn),
        num_warmup=50,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), *args, **kwargs)
    return mcmc


@pytest.fixture(scope="module")
def mcmc():
    return run_mcmc(model, Y, chains=CHAINS)


def empirical(trace, **options):
    return vi.Empirical(trace, model=model, model_args=(Y,), **options)


def grouped():
    """Draws by chain, made up: every number in them is another."""
    effect = RNG.normal(size=(CHAINS, DRAWS, 3)).astype(np.float32)
    return {"effect": effect, "scale": RNG.gamma(2.0, size=(CHAINS, DRAWS)).astype(np.float32)}


def dataset(draws):
    dims = {"effect": ("chain", "draw", "i"), "scale": ("chain", "draw")}
    return xr.Dataset({name: (dims[name], draws[name]) for name in dims})


def expected_rows(draws):
    """Written down by hand: log scale, then effects; chain after chain."""
    rows = [
        [np.log(draws["scale"][c, i]), *draws["effect"][c, i]]
        for c in range(CHAINS)
        for i in range(DRAWS)
    ]
    return np.array(rows, np.float32)


def assert_round_trip(approx, draws):
    """The rows, taken to the model's space by the model, are the draws."""
    assert np.isfinite(approx.histogram).all()
    back = approx.constrain(approx.histogram)
    for name in approx.model.latents:
        flat = np.asarray(draws[name])
        np.testing.assert_allclose(back[name], flat, rtol=1e-5, atol=2e-6, err_msg=name)


# -- NumPyro's MCMC


def test_one_chain():
    mcmc = run_mcmc(model, Y)
    draws = mcmc.get_samples()
    assert list(draws) != ["scale", "effect"]  # NUTS goes by the alphabet
    approx = empirical(mcmc)
    assert approx.model.latents == ("scale", "effect")
    expected = np.column_stack([np.log(draws["scale"]), draws["effect"]])
    np.testing.assert_allclose(approx.histogram, expected, rtol=1e-6)
    assert approx.message == f"1 chains of {DRAWS} draws"
    assert_round_trip(approx, draws)


def test_four_chains(mcmc):
    draws = mcmc.get_samples(group_by_chain=True)
    approx = empirical(mcmc)
    np.testing.assert_allclose(approx.histogram, expected_rows(jax.device_get(draws)), rtol=1e-6)
    assert (approx.status, approx.message) == ("finished", f"4 chains of {DRAWS} draws")
    assert_round_trip(approx, mcmc.get_samples())


def test_keyword_arguments_of_the_model(mcmc):
    approx = vi.Empirical(mcmc, model=model, model_kwargs={"y": Y})
    np.testing.assert_array_equal(approx.histogram, empirical(mcmc).histogram)
    bound = vi.Empirical(mcmc, model=vi.Model(model, Y))
    np.testing.assert_array_equal(approx.histogram, bound.histogram)


def test_mcmc_that_has_not_run():
    mcmc = MCMC(NUTS(model), num_warmup=5, num_samples=5, progress_bar=False)
    with pytest.raises(ValueError, match=r"no draws yet: call mcmc\.run\(key, \.\.\.\) first"):
        empirical(mcmc)


@pytest.mark.slow
def test_mcmc_that_has_only_been_warmed_up():
    """NumPyro then gives zeros, which a model over real sites would take for draws."""

    def real():
        numpyro.sample("x", dist.Normal(3, 1))

    mcmc = MCMC(NUTS(real), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.warmup(jax.random.key(0))
    with pytest.raises(ValueError, match=r"the MCMC object has no draws yet"):
        vi.Empirical(mcmc, model=real)
    mcmc.run(jax.random.key(1))
    approx = vi.Empirical(mcmc, model=real)
    np.testing.assert_array_equal(approx.histogram[:, 0], mcmc.get_samples()["x"])


def test_mcmc_without_site_names():
    kernel = NUTS(potential_fn=lambda z: 0.5 * jnp.sum(z**2))
    mcmc = MCMC(kernel, num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), init_params=jnp.ones(2))
    with pytest.raises(TypeError, match=r"draws without names.* pass a dict from site name"):
        empirical(mcmc)


# -- dicts


@pytest.mark.parametrize("group_by_chain", [None, True])
def test_dict_by_chain(group_by_chain):
    draws = grouped()
    approx = empirical(draws, group_by_chain=group_by_chain)
    np.testing.assert_allclose(approx.histogram, expected_rows(draws), rtol=1e-6)
    assert approx.message == f"4 chains of {DRAWS} draws"


@pytest.mark.parametrize("group_by_chain", [None, False])
def test_flat_dict(group_by_chain):
    draws = grouped()
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    approx = empirical(flat, group_by_chain=group_by_chain)
    np.testing.assert_allclose(approx.histogram, expected_rows(draws), rtol=1e-6)
    assert approx.message == f"1 chains of {CHAINS * DRAWS} draws"


@pytest.mark.parametrize("convert", [jnp.asarray, np.float64, np.float16, lambda x: x.tolist()])
def test_arrays_of_any_kind(convert):
    draws = grouped()
    approx = empirical({name: convert(value) for name, value in draws.items()})
    assert approx.histogram.dtype == np.float32
    half = convert is np.float16
    expected = expected_rows({k: np.float16(v) if half else v for k, v in draws.items()})
    np.testing.assert_allclose(approx.histogram, expected, rtol=2e-3 if half else 1e-6)


def test_integers_and_bfloat16():
    draws = {"scale": np.array([1, 2, 4]), "effect": jnp.ones((3, 3), jnp.bfloat16)}
    expected = np.column_stack([np.log([1, 2, 4]), np.ones((3, 3))])
    np.testing.assert_allclose(empirical(draws).histogram, expected, rtol=1e-6)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        draws = {name: np.float64(value) / 3 for name, value in grouped().items()}
        approx = empirical(draws)
        assert approx.histogram.dtype == np.float64
        effect = draws["effect"].reshape(-1, 3)
        np.testing.assert_array_equal(approx.histogram[:, 1:], effect)
        scale = np.log(draws["scale"]).ravel()
        np.testing.assert_allclose(approx.histogram[:, 0], scale, rtol=1e-14)


def test_other_sites_are_ignored():
    draws = grouped()
    more = {"doubled": np.zeros((2, 7)), "y": "text", 3: None, "log_likelihood": np.full(9, np.nan)}
    np.testing.assert_array_equal(
        empirical({**more, **draws}).histogram, empirical(draws).histogram
    )


def test_input_is_not_changed_nor_kept():
    draws = grouped()
    before = {name: value.copy() for name, value in draws.items()}
    approx = empirical(draws)
    rows = approx.histogram.copy()
    for name, value in draws.items():
        np.testing.assert_array_equal(value, before[name])
        value[...] = 99.0
    np.testing.assert_array_equal(approx.histogram, rows)
    with pytest.raises(ValueError, match="read-only"):
        approx.histogram[0] = 1.0


# -- ArviZ and xarray


HOLDERS = {
    "tree": lambda posterior: xr.DataTree.from_dict(
        {"posterior": posterior, "prior": xr.Dataset()}
    ),
    "branch": lambda posterior: xr.DataTree.from_dict({"posterior": posterior})["posterior"],
    "duck": lambda posterior: types.SimpleNamespace(posterior=posterior),
    "duck_of_dict": lambda posterior: types.SimpleNamespace(
        posterior={name: array.values for name, array in posterior.items()}
    ),
    "dataset": lambda posterior: posterior,
    "draws_before_chains": lambda posterior: posterior.transpose("draw", "chain", ...),
    "draws_last": lambda posterior: posterior.transpose(..., "draw", "chain"),
    "stacked": lambda posterior: posterior.stack(sample=("chain", "draw")),
    "float64": lambda posterior: posterior.astype(float),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_xarray(holder):
    draws = grouped()
    posterior = dataset(draws).assign(doubled=2 * dataset(draws)["effect"])
    approx = empirical(HOLDERS[holder](posterior))
    np.testing.assert_allclose(approx.histogram, expected_rows(draws), rtol=1e-6)


def test_one_chain_of_a_dataset():
    draws = grouped()
    approx = empirical(dataset(draws).isel(chain=2))
    rows = expected_rows(draws)[2 * DRAWS : 3 * DRAWS]
    np.testing.assert_allclose(approx.histogram, rows, rtol=1e-6)
    assert approx.message == f"1 chains of {DRAWS} draws"


@pytest.mark.slow
def test_what_arviz_makes_of_numpyro(mcmc):
    """InferenceData or DataTree, as the installed ArviZ has it, with all its groups."""
    found = az.from_numpyro(mcmc)
    assert "observed_data" in [str(name).strip("/") for name in getattr(found, "children", found)]
    np.testing.assert_array_equal(empirical(found).histogram, empirical(mcmc).histogram)
    extracted = az.extract(found)  # stacked along "sample"
    np.testing.assert_array_equal(empirical(extracted).histogram, empirical(mcmc).histogram)


def test_what_we_make_for_arviz():
    approx = vi.MeanField(model, model_args=(Y,))
    found = approx.sample(20, random_seed=1)
    assert_round_trip(empirical(found), approx.sample_dict(20, random_seed=1))


def test_a_plate_that_is_called_sample():
    def plated():
        with numpyro.plate("sample", 2, dim=-1), numpyro.plate("row", 2, dim=-2):
            numpyro.sample("x", dist.Normal(0, 1))

    values = RNG.normal(size=(3, 5, 2, 2)).astype(np.float32)
    trace = xr.Dataset({"x": (("chain", "draw", "row", "sample"), values)})
    rows = vi.Empirical(trace, model=plated).histogram
    np.testing.assert_array_equal(rows, values.reshape(15, 4))


def test_a_site_that_is_called_posterior():
    def named():
        numpyro.sample("posterior", dist.Normal(0, 1))

    values = RNG.normal(size=(2, 4)).astype(np.float32)
    for trace in (
        {"posterior": values},
        xr.Dataset({"posterior": (("chain", "draw"), values)}),
        xr.DataTree.from_dict(
            {"posterior": xr.Dataset({"posterior": (("chain", "draw"), values)})}
        ),
    ):
        rows = vi.Empirical(trace, model=named).histogram
        np.testing.assert_array_equal(rows[:, 0], values.ravel())


@pytest.mark.parametrize("slash", ["/", "."])
def test_scoped_names(slash):
    """A DataTree cannot have "deep/mu" and has "deep.mu"."""
    mu, sd = RNG.normal(size=(2, 6)), RNG.gamma(2.0, size=(2, 6))
    values = {f"deep{slash}mu": mu, f"deep{slash}sd": sd}
    trace = xr.Dataset({name: (("chain", "draw"), value) for name, value in values.items()})
    if slash == ".":
        trace = xr.DataTree.from_dict({"posterior": trace})
    approx = vi.Empirical(trace, model=CASE["scoped"].fn, model_args=(zoo.Y,))
    expected = np.column_stack([mu.ravel(), np.log(sd).ravel()])
    np.testing.assert_allclose(approx.histogram, expected, rtol=1e-5)


def test_scoped_names_there_and_back():
    approx = vi.MeanField(CASE["scoped"].fn, model_args=(zoo.Y,))
    found = approx.sample(10, random_seed=0)  # of the installed ArviZ
    again = vi.Empirical(found, model=approx.model)
    assert_round_trip(again, approx.sample_dict(10, random_seed=0))


# -- supports


@pytest.fixture(scope="module")
def of_supports():
    """Draws of the sites with all kinds of supports."""
    return jax.device_get(Predictive(CASE["supports"].fn, num_samples=400)(jax.random.key(0)))


@pytest.mark.slow
def test_every_support_against_numpyro_s_own_transforms(of_supports):
    fn, draws = CASE["supports"].fn, of_supports
    approx = vi.Empirical(draws, model=fn)
    assert_round_trip(approx, draws)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        fn()
    for name, (where, _) in approx.ordering.items():
        inverse = biject_to(trace[name]["fn"].support).inv
        expected = np.asarray(jax.vmap(inverse)(draws[name])).reshape(400, -1)
        np.testing.assert_allclose(
            approx.histogram[:, where], expected, rtol=1e-4, atol=1e-4, err_msg=name
        )


FROM_THE_PRIOR = [
    "support_from_a_latent",
    "zero_sum",
    "sites_without_elements",
    "nested_plates",
    "state_space",
    "partly_observed",
    "lifted",
    "params",
    "subsampling",
    "eight_schools_non_centred",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_THE_PRIOR)
def test_draws_from_the_prior(name):
    case = CASE[name]
    predictive = Predictive(case.fn, num_samples=100)
    draws = predictive(jax.random.key(2), *case.args, **case.kwargs)
    approx = vi.Empirical(
        draws, model=case.fn, model_args=case.args, model_kwargs=case.kwargs, random_seed=0
    )
    assert approx.model.latents == tuple(case.latents)
    assert_round_trip(approx, draws)


@pytest.mark.slow
def test_improper_priors():
    case = CASE["improper"]
    mcmc = run_mcmc(case.fn, *case.args, chains=2)
    approx = vi.Empirical(mcmc, model=case.fn, model_args=case.args)
    assert_round_trip(approx, mcmc.get_samples())


def test_a_support_that_depends_on_another_site_is_that_of_the_row():
    def nested():
        top = numpyro.sample("top", dist.LogNormal(0, 1))
        numpyro.sample("x", dist.Uniform(0, top))

    top, x = np.array([1.0, 10.0, 4.0]), np.array([0.5, 9.0, 1.0])
    rows = vi.Empirical({"top": top, "x": x}, model=nested).histogram
    odds = (x / top) / (1 - x / top)
    np.testing.assert_allclose(rows, np.column_stack([np.log(top), np.log(odds)]), rtol=1e-5)
    # 9 is below the greatest of the tops, but not below its own
    with pytest.raises(ValueError, match="outside the support at the site 'x' in 1 of 3 draws"):
        vi.Empirical({"top": top, "x": x[[1, 0, 2]]}, model=nested)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("simplex", lambda: dist.Dirichlet(jnp.ones(2000))),
        ("sparse simplex", lambda: dist.Dirichlet(jnp.full(10, 0.1))),
        ("correlation", lambda: dist.LKJCholesky(12, 1.0)),
        ("zero sum", lambda: dist.ZeroSumNormal(100.0, (40,))),
        ("covariance", lambda: dist.Wishart(8, scale_matrix=jnp.eye(4))),
        ("far from zero", lambda: dist.LeftTruncatedDistribution(dist.Normal(0, 1), 1000.0)),
    ],
)
def test_rounding_is_not_taken_for_being_outside(name, prior):
    """Sums to one, and the like, hold only nearly in single precision."""

    def one():
        numpyro.sample("x", prior())

    draws = Predictive(one, num_samples=200)(jax.random.key(1))
    if name == "far from zero":
        draws = {"x": 1000.0 + jax.random.exponential(jax.random.key(0), (200,))}
    approx = vi.Empirical(draws, model=one)
    back = approx.constrain(approx.histogram)["x"]
    if name == "simplex":  # as a sampler would give it, for it goes through the transform
        assert not jax.vmap(lambda x: prior().support(x).all())(back).all()
        again = vi.Empirical({"x": back}, model=one)
        np.testing.assert_allclose(again.constrain(again.histogram)["x"], back, atol=1e-5)
    scale = max(1.0, float(np.abs(draws["x"]).max()))
    np.testing.assert_allclose(back, draws["x"], rtol=1e-4, atol=1e-5 * scale)


def test_many_rows_go_in_blocks(monkeypatch):
    """The same rows as one by one, whatever the size of a block."""
    draws = grouped()
    rows = empirical(draws).histogram
    monkeypatch.setattr("numpyro_vi_ext.blocks.BLOCK_NUMBERS", 50)

    def fresh(y):  # another function: what was compiled for `model` is not used again
        return model(y)

    target = vi.Model(fresh, Y).target
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    in_blocks = unconstrain_rows(target, jnp.zeros(0), flat)
    np.testing.assert_allclose(in_blocks, rows, rtol=1e-6)


# -- refused


def test_missing_sites():
    draws = grouped()
    with pytest.raises(KeyError, match=r"no values of the latent sites \['effect'\]; it has"):
        empirical({"scale": draws["scale"], 3: None, "other": 1})
    with pytest.raises(KeyError, match=r"\['scale', 'effect'\]; it has \['x'\]"):
        empirical(xr.Dataset({"x": (("chain", "draw"), draws["scale"])}))


@pytest.mark.parametrize("kind", [xr.DataTree.from_dict, dict])
def test_no_posterior(kind):
    with pytest.raises(ValueError, match=r"no posterior, only the groups \['prior'\]"):
        empirical(kind({"prior": dataset(grouped())}))


def test_trace_of_another_model():
    draws = grouped()
    with pytest.raises(ValueError, match=r"array of shape \(4, 15, 2\) for the site 'effect' of"):
        empirical({**draws, "effect": draws["effect"][..., :2]})
    text = r"\(4, 15, 1\) for the site 'scale' of shape \(\); expected \(draws, \*shape\) or \(chai"
    with pytest.raises(ValueError, match=text):
        empirical({**draws, "scale": draws["scale"][..., None]})
    with pytest.raises(ValueError, match=r"array of shape \(\) for the site 'scale'"):
        empirical({**draws, "scale": 1.0})


def test_group_by_chain_against_the_shapes():
    draws = grouped()
    flat = {name: value[0] for name, value in draws.items()}
    text = r"\(15,\) for the site 'scale' of shape \(\); expected \(chains, draws, \*shape\)$"
    with pytest.raises(ValueError, match=text):
        empirical(flat, group_by_chain=True)
    text = r"\(4, 15\) for the site 'scale' of shape \(\); expected \(draws, \*shape\)$"
    with pytest.raises(ValueError, match=text):
        empirical(draws, group_by_chain=False)


@pytest.mark.parametrize("shape", [(0,), (4, 0), (0, 5)])
def test_no_draws(shape):
    with pytest.raises(ValueError, match="the trace has no draws"):
        empirical({"scale": np.zeros(shape), "effect": np.zeros((*shape, 3))})


def test_different_numbers_of_draws():
    draws = grouped()
    text = r"differ in their numbers of draws: \{'scale': \(4, 14\), 'effect': \(4, 15\)\}"
    with pytest.raises(ValueError, match=text):
        empirical({**draws, "scale": draws["scale"][:, 1:]})
    with pytest.raises(ValueError, match=r"\{'scale': \(60,\), 'effect': \(4, 15\)\}"):
        empirical({**draws, "scale": draws["scale"].ravel()})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite(bad):
    """1e300 is not, in single precision."""
    draws = {name: np.float64(value) for name, value in grouped().items()}
    draws["effect"][1, 3, 2] = draws["effect"][1, 3, 0] = draws["effect"][2, 0, 1] = bad
    text = "NaN or infinite at the site 'effect' in 2 of 60 draws; drop these draws"
    with pytest.raises(ValueError, match=text):
        empirical(draws)


@pytest.mark.parametrize("bad", [0.0, -1.0, -1e-6])
def test_values_outside_the_support(bad):
    draws = grouped()
    draws["scale"][0, :3] = bad
    with pytest.raises(ValueError, match="outside the support at the site 'scale' in 3 of 60 dra"):
        empirical(draws)


OUTSIDE = {
    "simplex": [0.2, 0.2, 0.2],
    "ordered": [0.0, 2.0, 1.0, 3.0],
    "corr_cholesky": [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]],
    "positive": [[1, 1], [1, -2]],
    "interval": [0.0, 2.5, 0.0],
    "unit": 1.5,
    "above": 2.0,
    "circular": 4.0,
    "lower": [-1.0, 0.5, -1.0],
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_support_is_checked(name, of_supports):
    fn = CASE["supports"].fn
    draws = {site: value[:5] for site, value in of_supports.items()}
    value = draws[name].copy()
    value[3] = OUTSIDE[name]
    with pytest.raises(ValueError, match=f"outside the support at the site '{name}' in 1 of 5 dra"):
        vi.Empirical({**draws, name: value}, model=fn)


@pytest.mark.parametrize("trace", ["trace.nc", [1.0, 2.0], np.zeros((5, 4)), 3.0, model])
def test_wrong_types(trace):
    text = f"trace must be a NumPyro MCMC object that has run.*, got {type(trace).__name__}"
    with pytest.raises(TypeError, match=text):
        empirical(trace)


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (np.array(["a", "b"]), "an array of dtype <U1"),
        (np.array([1.0, None]), "an array of dtype object"),
        (np.array([1.0, 2.0j]), "an array of dtype complex128"),
        ([[1.0], [2.0, 3.0]], "list that is no array"),
    ],
)
def test_values_that_are_not_numbers(bad, got):
    text = f"the trace must have real numbers at the site 'scale', got {got}"
    with pytest.raises(TypeError, match=text):
        empirical({"scale": bad, "effect": np.zeros((2, 3))})
