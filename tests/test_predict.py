"""Predictions, for the original data and for new ones: the same tests on both lines of ArviZ."""

import threading
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer import Predictive
from numpyro.infer.reparam import LocScaleReparam
from scipy import stats

import numpyro_vi_ext as vi

IS_ARVIZ_0 = az.__version__.startswith("0.")
RNG = np.random.default_rng(8)
X = RNG.normal(size=(7, 2)).astype(np.float32)
Y = (X @ [1.0, -0.5] + RNG.normal(size=7)).astype(np.float32)
X_NEW = np.array([[2.0, -1.0], [0.5, 3.0], [0.0, 0.0]], np.float32)
SD = 0.5  # of the noise
MU, SIGMA = np.array([0.8, -0.4]), np.array([0.3, 0.2])  # of q
DRAWS = 4000


def regression(X, y=None, offset=None, flip=False):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    mean = X @ w * (-1 if flip else 1) + (0.0 if offset is None else offset)
    numpyro.deterministic("mean", mean)
    with numpyro.plate("row", len(X)):
        numpyro.sample("y", dist.Normal(mean, SD), obs=y)


def at_q(model, *args, **kwargs):
    """q of the weights: normal with moments MU and SIGMA."""
    options = {"start": {"w": MU}, "start_sigma": {"w": SIGMA}}
    return vi.MeanField(model, model_args=args, model_kwargs=kwargs, **options)


def unfitted(model, *args, **kwargs):
    return vi.MeanField(model, model_args=args, model_kwargs=kwargs)


@pytest.fixture(scope="module")
def approx():
    return at_q(regression, X, Y)


def groups_of(idata):
    return set(idata.groups()) if IS_ARVIZ_0 else set(idata.children)


def variables(idata, group):
    return {str(name): value.values for name, value in idata[group].data_vars.items()}


def assert_mean(values, mean, sd):
    """The mean of independent draws, within 4.5 standard errors in each of a few components."""
    n = len(values)
    np.testing.assert_allclose(values.mean(axis=0), mean, atol=4.5 * np.max(sd) / np.sqrt(n))


def assert_predictive_moments(y, x):
    """Those of a linear regression under a normal q: closed form."""
    mean, variance = x @ MU, x**2 @ SIGMA**2 + SD**2
    assert_mean(y, mean, np.sqrt(variance))
    # the variance of a normal sample's variance is 2 / n of its square
    np.testing.assert_allclose(y.var(axis=0) / variance, 1, atol=4.5 * np.sqrt(2 / len(y)))
    cov = x @ np.diag(SIGMA**2) @ x.T + SD**2 * np.eye(len(x))
    atol = 4.5 * variance.max() * np.sqrt(2 / len(y))
    np.testing.assert_allclose(np.cov(y.T), cov, atol=atol)


# -- which data, and which groups


def test_original_data(approx):
    idata = approx.sample_posterior_predictive(DRAWS, random_seed=0)
    assert groups_of(idata) == {"posterior_predictive", "observed_data", "constant_data"}
    y = idata["posterior_predictive"]["y"]
    assert y.dims == ("chain", "draw", "row")
    assert_predictive_moments(y.values[0], X)
    np.testing.assert_array_equal(idata["observed_data"]["y"], Y)
    assert list(variables(idata, "constant_data")) == ["X"]
    np.testing.assert_array_equal(idata["constant_data"]["X"], X)
    assert idata["posterior_predictive"].attrs["approximation"] == "MeanField"


def test_new_data(approx):
    idata = approx.sample_posterior_predictive(DRAWS, more_replacements={"X": X_NEW}, random_seed=1)
    assert groups_of(idata) == {"predictions", "predictions_constant_data"}
    y = idata["predictions"]["y"]
    assert y.dims == ("chain", "draw", "row")
    assert_predictive_moments(y.values[0], X_NEW)
    assert list(variables(idata, "predictions_constant_data")) == ["X"]
    np.testing.assert_array_equal(idata["predictions_constant_data"]["X"], X_NEW)


def test_same_law_as_numpyros_predictive(approx):
    """Given the same draws of the latent sites."""
    values = {"w": approx.sample_dict(DRAWS, random_seed=2)["w"]}
    theirs = Predictive(regression, values)(jax.random.key(3), X_NEW)
    ours = approx.sample_posterior_predictive(
        DRAWS, model_args=(X_NEW,), random_seed=2, return_inferencedata=False
    )
    np.testing.assert_allclose(ours["mean"], theirs["mean"], rtol=1e-5, atol=1e-6)
    noise = {k: np.asarray(v["y"] - v["mean"]).ravel() for k, v in (("o", ours), ("t", theirs))}
    assert stats.ks_2samp(noise["o"], noise["t"]).pvalue > 0.01
    assert stats.kstest(noise["o"] / SD, "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise["o"], noise["t"])[0, 1]) < 0.05


BY_POSITION = ((X, Y), {})
WAYS = [
    {"more_replacements": {"X": X_NEW}},  # the data have another length, and are not looked at
    {"more_replacements": {"X": X_NEW, "y": None}},
    {"model_args": (X_NEW,)},
    {"model_args": [X_NEW]},
    {"model_args": (X_NEW, None)},
    {"model_args": (X_NEW,), "model_kwargs": {"y": None}},
    {"model_kwargs": {"X": X_NEW}},
    {"model_args": (X,), "more_replacements": {"X": X_NEW}},
]


@pytest.fixture(scope="module")
def expected_elsewhere(approx):
    return approx.sample_posterior_predictive(5, random_seed=4, model_args=(X_NEW,))["predictions"]


@pytest.mark.parametrize(
    ("fitted_with", "options"),
    [(BY_POSITION, way) for way in WAYS]
    + [(((X,), {"y": Y}), way) for way in WAYS[:3]]
    + [(((), {"X": X, "y": Y}), way) for way in WAYS[:3]],
    ids=str,
)
def test_ways_to_give_new_data(expected_elsewhere, fitted_with, options):
    """The same seed gives the same predictions, however the arguments are given."""
    args, kwargs = fitted_with
    predictions = at_q(regression, *args, **kwargs).sample_posterior_predictive(
        5, random_seed=4, **options
    )["predictions"]
    np.testing.assert_array_equal(predictions["y"], expected_elsewhere["y"])
    assert predictions["y"].shape == (1, 5, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"more_replacements": {}},
        {"more_replacements": {"X": X.copy()}},
        {"more_replacements": {"X": jnp.asarray(X)}},
        {"more_replacements": {"X": X.astype(float)}},  # the same in the model's precision
        {"more_replacements": {"X": X.tolist()}},
        {"more_replacements": {"y": None}},
        {"more_replacements": {"y": Y}},
        {"more_replacements": {"offset": None}},
        {"more_replacements": {"w": MU}},
        {"model_args": (X,)},
        {"model_args": (X, Y)},
        {"model_kwargs": {"X": X, "y": None}},
    ],
    ids=str,
)
def test_what_is_not_new(approx, options):
    idata = approx.sample_posterior_predictive(3, **options)
    assert groups_of(idata) == {"posterior_predictive", "observed_data", "constant_data"}
    assert idata["posterior_predictive"]["y"].shape == (1, 3, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"more_replacements": {"X": X + 1}},
        {"more_replacements": {"X": X[::-1]}},
        {"more_replacements": {"offset": np.full(7, 2.0, np.float32)}},
        {"more_replacements": {"flip": True}},
        {"more_replacements": {"offset": None}},
        {"model_args": (X, Y)},  # the offset is left out
    ],
    ids=str,
)
def test_what_is_new(options):
    approx = at_q(regression, X, Y, offset=np.ones(7, np.float32))
    values = approx.sample_posterior_predictive(3, random_seed=0, **options)
    assert groups_of(values) == {"predictions", "predictions_constant_data"}
    w = np.asarray(approx.sample_dict(3, random_seed=0)["w"])
    given = {**dict(zip(("X", "y"), options.get("model_args", ()), strict=False))}
    given |= options.get("more_replacements", {})
    offset = given.get("offset", 0.0 if "model_args" in options else 1.0)
    sign = -1 if given.get("flip") else 1
    expected = sign * w @ given.get("X", X).T + (0.0 if offset is None else offset)
    np.testing.assert_allclose(values["predictions"]["mean"][0], expected, rtol=1e-5, atol=1e-6)


def test_transformed_data_may_be_left_out():
    """What feeds the data of an observed site is told by what depends on it, not by its value."""

    def model(X, counts=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        obs = None if counts is None else jnp.log(counts)
        numpyro.sample("log_count", dist.Normal(X @ w, SD), obs=obs)

    approx = at_q(model, X, np.exp(Y))
    idata = approx.sample_posterior_predictive(3, more_replacements={"counts": None})
    assert groups_of(idata) == {"posterior_predictive", "observed_data", "constant_data"}


def test_static_argument_that_cannot_be_compared():
    def model(X, lock, y=None):
        assert lock is not None
        regression(X, y)

    approx = at_q(model, X, threading.Lock(), Y)
    assert "posterior_predictive" in groups_of(approx.sample_posterior_predictive(3))
    for same in ({"y": None}, {"X": X}):
        idata = approx.sample_posterior_predictive(3, more_replacements=same)
        assert "posterior_predictive" in groups_of(idata)
    new = approx.sample_posterior_predictive(3, more_replacements={"lock": threading.Lock()})
    assert "predictions" in groups_of(new)


# -- draws


def test_draws_of_the_latent_sites_are_those_of_sample_dict(approx):
    for seed in (7, jax.random.key(7), jax.random.PRNGKey(7)):
        w = np.asarray(approx.sample_dict(20, random_seed=7)["w"])
        found = approx.sample_posterior_predictive(
            20, more_replacements={"X": X_NEW}, random_seed=seed
        )["predictions"]["mean"]
        np.testing.assert_allclose(found.values[0], w @ X_NEW.T, rtol=1e-5, atol=1e-6)


def test_fresh_draws_without_a_seed(approx):
    first, second = (approx.sample_posterior_predictive(2)["posterior_predictive"] for _ in "ab")
    assert not np.array_equal(first["y"], second["y"])


def test_noise_differs_between_rows_and_draws(approx):
    values = approx.sample_posterior_predictive(50, random_seed=0, return_inferencedata=False)
    noise = values["y"] - values["mean"]
    assert len(np.unique(noise)) == noise.size


def test_dict_instead(approx):
    values = approx.sample_posterior_predictive(5, random_seed=0, return_inferencedata=False)
    assert {k: (type(v), v.shape) for k, v in values.items()} == {
        "y": (np.ndarray, (5, 7)),
        "mean": (np.ndarray, (5, 7)),
    }
    idata = approx.sample_posterior_predictive(5, random_seed=0)
    np.testing.assert_array_equal(idata["posterior_predictive"]["y"][0], values["y"])


def test_default_number_of_draws(approx):
    assert approx.sample_posterior_predictive()["posterior_predictive"].sizes["draw"] == 500


def test_zero_draws(approx):
    for replacements, shape in ((None, (1, 0, 7)), ({"X": X_NEW}, (1, 0, 3))):
        idata = approx.sample_posterior_predictive(0, more_replacements=replacements)
        group = "predictions" if replacements else "posterior_predictive"
        assert idata[group]["y"].shape == shape
    values = approx.sample_posterior_predictive(0, return_inferencedata=False)
    assert {k: v.shape for k, v in values.items()} == {"y": (0, 7), "mean": (0, 7)}


@pytest.mark.parametrize("block_size", [1, 3, np.int64(1000)])
def test_blocks_change_nothing(approx, block_size):
    options = {"more_replacements": {"X": X_NEW}, "return_inferencedata": False, "random_seed": 0}
    whole = approx.sample_posterior_predictive(10, **options)
    blocks = approx.sample_posterior_predictive(10, block_size=block_size, **options)
    for name, value in whole.items():
        np.testing.assert_allclose(blocks[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [vi.FullRank, vi.Empirical])
def test_other_kinds_of_approximations(kind):
    source = {"w": np.random.default_rng(0).normal(MU, SIGMA, (DRAWS, 2))}
    extra = {"trace": source} if kind is vi.Empirical else {
        "start": {"w": MU}, "start_sigma": {"w": SIGMA}
    }  # fmt: skip
    approx = kind(model=regression, model_args=(X, Y), **extra)
    idata = approx.sample_posterior_predictive(DRAWS, more_replacements={"X": X_NEW}, random_seed=0)
    assert_predictive_moments(idata["predictions"]["y"].values[0], X_NEW)
    rows = approx.sample_dict(DRAWS, random_seed=0)["w"] @ X_NEW.T
    np.testing.assert_allclose(idata["predictions"]["mean"][0], rows, rtol=1e-5, atol=1e-6)


def test_second_call_traces_nothing():
    traced = []

    def counted(X, y=None):
        traced.append(1)
        regression(X, y)

    approx = at_q(counted, X, Y)
    approx.sample_posterior_predictive(5, more_replacements={"X": X_NEW})
    count = len(traced)
    other = at_q(counted, X + 1, Y)
    other.sample_posterior_predictive(5, more_replacements={"X": X_NEW + 1})
    assert len(traced) == count


# -- deterministic sites


def test_deterministic_sites(approx):
    """At the arguments, and at the values of latent sites, that are given."""
    for options, x in (({}, X), ({"more_replacements": {"X": X_NEW}}, X_NEW)):
        idata = approx.sample_posterior_predictive(3, random_seed=0, **options)
        group = "predictions" if options else "posterior_predictive"
        assert list(variables(idata, group)) == ["y", "mean"]
        w = np.asarray(approx.sample_dict(3, random_seed=0)["w"])
        np.testing.assert_allclose(idata[group]["mean"][0], w @ x.T, rtol=1e-5, atol=1e-6)
    fixed = approx.sample_posterior_predictive(3, more_replacements={"w": MU})
    mean = fixed["posterior_predictive"]["mean"]
    np.testing.assert_allclose(mean[0], np.tile(X @ MU, (3, 1)), rtol=1e-5)


def test_deterministic_sites_that_follow_from_observed_ones():
    """They belong to the predictions; beside a posterior, which has them, the others do not.

    ArviZ's plots of predictions take all variables of the group for predicted data.
    """

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.deterministic("double", 2 * mu)
        y = numpyro.sample("y", dist.Normal(mu, 1).expand([4]).to_event(1), obs=y)
        numpyro.deterministic("largest", y.max())

    approx = unfitted(model, Y[:4])
    alone = approx.sample_posterior_predictive(6, random_seed=0)
    beside = approx.to_arviz(6, random_seed=0)
    for idata, names in ((alone, ["y", "double", "largest"]), (beside, ["y", "largest"])):
        found = variables(idata, "posterior_predictive")
        assert list(found) == names
        np.testing.assert_array_equal(found["largest"], found["y"].max(axis=-1))


def test_deterministic_sites_in_a_scan():
    def model(y=None, length=4):
        drift = numpyro.sample("drift", dist.Normal(0, 1))

        def step(state, y_t):
            state = numpyro.deterministic("state", 0.5 * state + drift)
            numpyro.sample("y", dist.Normal(state, 1), obs=y_t)
            return state, None

        scan(step, 0.0, y, length=length)

    approx = unfitted(model, Y[:4])
    drift = np.asarray(approx.sample_dict(5, random_seed=0)["drift"])
    found = variables(approx.to_arviz(5, random_seed=0), "posterior_predictive")
    assert list(found) == ["y"]  # the states follow from the drift
    new = approx.sample_posterior_predictive(5, model_args=(None, 6), random_seed=0)
    weights = 2 * (1 - 0.5 ** np.arange(1, 7))  # a geometric sum
    np.testing.assert_allclose(new["predictions"]["state"][0], drift[:, None] * weights, rtol=1e-5)


# -- observed sites of all kinds: predictions and log likelihoods against scipy


class Law:
    """Conditional law of one observed site, given draws of the latent ones."""

    def __init__(self, frozen, seen=True):
        self.frozen, self.seen = frozen, seen

    def check_predictions(self, values):
        mean, variance = (np.broadcast_to(m, values.shape) for m in self.frozen.stats("mv"))
        n = len(values)
        error = (values - mean).mean(axis=0)
        assert np.all(np.abs(error) < 4.5 * np.sqrt(variance.mean(axis=0) / n)), error
        kurtosis = 3 + np.max(np.abs(self.frozen.stats("k")))
        ratio = ((values - mean) ** 2 / variance).mean(axis=0)
        np.testing.assert_allclose(ratio, 1, atol=4.5 * np.sqrt(kurtosis / n))

    def check_log_likelihood(self, values, data):
        log = self.frozen.logpmf if hasattr(self.frozen.dist, "pmf") else self.frozen.logpdf
        expected = np.where(self.seen, log(data), 0.0)
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=2e-4)


COUNTS = RNG.poisson(3.0, size=7)
FLAGS = RNG.random(7) < 0.5
SEEN = np.array([True, True, False, True, False, True, True])
TABLE = RNG.normal(size=(3, 2)).astype(np.float32)


def normal(y, plate=True):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    with numpyro.plate("row", 7):
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)


def normal_law(z):
    return Law(stats.norm(z["mu"][:, None], z["sd"][:, None]))


def poisson(y):
    rate = numpyro.sample("rate", dist.Gamma(3, 1))
    numpyro.sample("y", dist.Poisson(rate).expand([7]), obs=y)


def bernoulli(y):
    logit = numpyro.sample("logit", dist.Normal(0, 1))
    with numpyro.plate("row", 7):
        numpyro.sample("y", dist.Bernoulli(logits=logit), obs=y)


def binomial(y, n):
    p = numpyro.sample("p", dist.Beta(2, 2))
    numpyro.sample("y", dist.Binomial(n, p).expand([7]), obs=y)


def two_sites(y, counts):
    mu = numpyro.sample("mu", dist.Normal(0, 0.5))
    with numpyro.plate("row", 7):
        numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)
        numpyro.sample("counts", dist.Poisson(jnp.exp(mu)), obs=counts)


def nested(y):
    with numpyro.plate("rows", 3, dim=-2):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("columns", 2, dim=-1):
            numpyro.sample("y", dist.StudentT(9.0, a, 0.5), obs=y)


def masked(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("row", 7), handlers.mask(mask=SEEN):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def with_factors(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.factor("one", -(mu**2))
    with numpyro.plate("row", 7):
        numpyro.factor("many", -mu * jnp.ones(7))
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def with_factors_in_plates_and_masks(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("row", 7):
        numpyro.factor("many", -mu)
        with handlers.mask(mask=SEEN):
            numpyro.factor("some", -mu)
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def with_params(y):
    scale = numpyro.param("scale", 0.7, constraint=constraints.positive)
    shift = numpyro.param("shift", jnp.arange(7.0))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("row", 7):
        numpyro.sample("y", dist.Normal(mu + shift, scale), obs=y)


def subsampled(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("row", len(X), subsample_size=3):
        rows = numpyro.subsample(X, event_dim=1)
        obs = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(rows @ w, SD), obs=obs)


def subsampled_by_index(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("row", len(X), subsample_size=3) as index:
        obs = None if y is None else y[index]
        numpyro.sample("y", dist.Normal(X[index] @ w, SD), obs=obs)


def batch_from_outside(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("row", 700, subsample_size=len(X)):
        numpyro.sample("y", dist.Normal(X @ w, SD), obs=y)


def linear_law(z):
    return Law(stats.norm(z["w"] @ X.T, SD))


def wider_than_its_distribution(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def mu_law(z):
    return Law(stats.norm(z["mu"][:, None] * np.ones(7), 1.5))


def state_space(y):
    drift = numpyro.sample("drift", dist.Normal(0, 1))

    def step(state, y_t):
        state = numpyro.sample("x", dist.Normal(0.9 * state + drift, 0.5))
        numpyro.sample("y", dist.Normal(state, 1.5), obs=y_t)
        return state, None

    scan(step, jnp.zeros(()), y)


def noise_in_a_scan(y):
    sd = numpyro.sample("sd", dist.HalfNormal(1))

    def step(carry, y_t):
        numpyro.sample("y", dist.Normal(0.0, sd), obs=y_t)
        return carry, None

    scan(step, 0.0, y)


def autoregressive(y):
    rho = numpyro.sample("rho", dist.Normal(0, 0.5))

    def step(before, y_t):
        y_t = numpyro.sample("y", dist.Normal(rho * before, 0.7), obs=y_t)
        return y_t, None

    scan(step, 0.0, y)


def hierarchical(y):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("row", 7):
        theta = numpyro.sample("theta", dist.Normal(0, tau))
        numpyro.sample("y", dist.Normal(theta, 1.5), obs=y)


non_centred = handlers.reparam(hierarchical, config={"theta": LocScaleReparam(0)})
conditioned = handlers.condition(lambda: normal(None), data={"y": Y})

KINDS = {
    "plate": (normal, (Y,), {"y": (Y, normal_law)}),
    "poisson": (
        poisson,
        (COUNTS,),
        {"y": (COUNTS, lambda z: Law(stats.poisson(z["rate"][:, None] * np.ones(7))))},
    ),
    "bernoulli": (
        bernoulli,
        (FLAGS,),
        {"y": (FLAGS, lambda z: Law(stats.bernoulli(1 / (1 + np.exp(-z["logit"][:, None])))))},
    ),
    "binomial": (
        binomial,
        (COUNTS, 12),
        {"y": (COUNTS, lambda z: Law(stats.binom(12, z["p"][:, None])))},
    ),
    "two_sites": (
        two_sites,
        (Y, COUNTS),
        {
            "y": (Y, lambda z: Law(stats.norm(z["mu"][:, None], 2.0))),
            "counts": (COUNTS, lambda z: Law(stats.poisson(np.exp(z["mu"][:, None])))),
        },
    ),
    "nested_plates": (nested, (TABLE,), {"y": (TABLE, lambda z: Law(stats.t(9, z["a"], 0.5)))}),
    "masked": (
        masked,
        (Y,),
        {"y": (Y, lambda z: Law(stats.norm(z["mu"][:, None] * np.ones(7), 1.5), SEEN))},
    ),
    "mask_false": (
        handlers.mask(normal, mask=False),
        (Y,),
        {"y": (Y, lambda z: Law(normal_law(z).frozen, np.zeros(7, bool)))},
    ),
    "scaled": (handlers.scale(normal, scale=3.0), (Y,), {"y": (Y, normal_law)}),
    "conditioned": (conditioned, (), {"y": (Y, normal_law)}),
    "scaled_and_conditioned": (handlers.scale(conditioned, scale=0.5), (), {"y": (Y, normal_law)}),
    "factors": (with_factors, (Y,), {"y": (Y, mu_law)}),
    "factors_in_plates": (with_factors_in_plates_and_masks, (Y,), {"y": (Y, mu_law)}),
    "params": (
        with_params,
        (Y,),
        {"y": (Y, lambda z: Law(stats.norm(z["mu"][:, None] + np.arange(7), 0.7)))},
    ),
    "subsampled": (subsampled, (X, Y), {"y": (Y, linear_law)}),
    "subsampled_by_index": (subsampled_by_index, (X, Y), {"y": (Y, linear_law)}),
    "batch_from_outside": (batch_from_outside, (X, Y), {"y": (Y, linear_law)}),
    "wider_than_its_distribution": (wider_than_its_distribution, (Y,), {"y": (Y, mu_law)}),
    "scan": (state_space, (Y,), {"y": (Y, lambda z: Law(stats.norm(z["x"], 1.5)))}),
    "noise_in_a_scan": (
        noise_in_a_scan,
        (Y,),
        {"y": (Y, lambda z: Law(stats.norm(0.0, z["sd"][:, None] * np.ones(7))))},
    ),
    "autoregressive": (  # each is drawn given the data before it
        autoregressive,
        (Y,),
        {"y": (Y, lambda z: Law(stats.norm(z["rho"][:, None] * np.r_[0, Y[:-1]], 0.7)))},
    ),
    "non_centred": (
        non_centred,
        (Y,),
        {"y": (Y, lambda z: Law(stats.norm(z["theta"], 1.5)))},
    ),
    "scoped": (
        handlers.scope(normal, "deep"),
        (Y,),
        {"deep/y": (Y, lambda z: normal_law({k[5:]: v for k, v in z.items()}))},
    ),
}


# The others take as long, and are slow tests: most of that is compiling.
QUICK = {"plate", "two_sites", "nested_plates", "masked"}


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS],
)
def test_observed_sites_of_all_kinds(name):
    """Of all rows, unscaled, and nothing but the observed sites."""
    model, args, sites = KINDS[name]
    approx = unfitted(model, *args)
    z = {k: np.asarray(v, float) for k, v in approx.sample_dict(DRAWS, random_seed=3).items()}
    idata = approx.to_arviz(DRAWS, random_seed=3, log_likelihood=True)
    separator = "/" if IS_ARVIZ_0 else "."  # a DataTree keeps slashes for paths
    names = {site.replace("/", separator): site for site in sites}
    predicted = variables(idata, "posterior_predictive")
    weighed = variables(idata, "log_likelihood")
    assert predicted.keys() == weighed.keys() == names.keys()
    for shown, site in names.items():
        data, law = sites[site]
        assert predicted[shown].shape == (1, DRAWS, *data.shape)
        law(z).check_predictions(predicted[shown][0])
        law(z).check_log_likelihood(weighed[shown][0], data)


def test_site_with_event_axes():
    """The log density of a vector is one number."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 3):
            numpyro.sample("y", dist.Normal(mu, 1.5).expand([2]).to_event(1), obs=y)

    approx = unfitted(model, TABLE)
    mu = np.asarray(approx.sample_dict(DRAWS, random_seed=0)["mu"])[:, None, None]
    idata = approx.to_arviz(DRAWS, random_seed=0, log_likelihood=True)
    y, log = idata["posterior_predictive"]["y"], idata["log_likelihood"]["y"]
    assert y.dims == ("chain", "draw", "row", "y_dim_1")
    assert log.dims == ("chain", "draw", "row")
    Law(stats.norm(mu * np.ones((3, 2)), 1.5)).check_predictions(y.values[0])
    expected = stats.norm(mu, 1.5).logpdf(TABLE).sum(axis=-1)
    np.testing.assert_allclose(log[0], expected, rtol=1e-4)


def test_correlated_site():
    cov = np.array([[1.0, 0.6], [0.6, 0.8]])

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 1).to_event(1))
        numpyro.sample("y", dist.MultivariateNormal(mu, cov), obs=y)

    approx = unfitted(model, TABLE)  # three rows, though there is no plate
    mu = np.asarray(approx.sample_dict(DRAWS, random_seed=0)["mu"])
    idata = approx.to_arviz(DRAWS, random_seed=0, log_likelihood=True)
    noise = idata["posterior_predictive"]["y"].values[0] - mu[:, None]
    assert noise.shape == (DRAWS, 3, 2)
    np.testing.assert_allclose(np.cov(noise[:, 1].T), cov, atol=4.5 * np.sqrt(2 / DRAWS))
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 1, 0])[0, 1]) < 4.5 / np.sqrt(DRAWS)
    expected = stats.multivariate_normal(cov=cov).logpdf(TABLE[None] - mu[:, None])
    np.testing.assert_allclose(idata["log_likelihood"]["y"][0], expected, rtol=1e-4)


def test_categorical_site():
    classes = np.array([0, 2, 1, 2])

    def model(y=None):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("row", 4):
            numpyro.sample("y", dist.Categorical(p), obs=y)

    approx = unfitted(model, classes)
    p = np.asarray(approx.sample_dict(DRAWS, random_seed=0)["p"])
    for options in ({}, {"more_replacements": {"y": None}}):
        values = approx.sample_posterior_predictive(
            DRAWS, random_seed=0, return_inferencedata=False, **options
        )
        assert np.issubdtype(values["y"].dtype, np.integer)
        found = values["y"][..., None] == np.arange(3)
        assert_mean(found - p[:, None], 0.0, 0.5)
    log = approx.to_arviz(DRAWS, random_seed=0, log_likelihood=True)["log_likelihood"]["y"]
    np.testing.assert_allclose(log[0], np.log(p[:, classes]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # compared at the last digits, which are those of optimised code
def test_partly_observed_site():
    """With obs_mask: what was seen is drawn again; what was not is a latent site."""

    def model(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 7):
            numpyro.sample("y", dist.Normal(mu, 1.5), obs=y, obs_mask=seen)

    approx = unfitted(model, np.where(SEEN, Y, 0), SEEN)
    z = approx.sample_dict(DRAWS, random_seed=0)
    idata = approx.to_arviz(DRAWS, random_seed=0, log_likelihood=True)
    found = variables(idata, "posterior_predictive")
    assert list(found) == ["y_observed", "y"]
    mu_law(z).check_predictions(found["y_observed"][0])
    np.testing.assert_array_equal(found["y"][0][:, ~SEEN], z["y_unobserved"][:, ~SEEN])
    np.testing.assert_array_equal(found["y"][..., SEEN], found["y_observed"][..., SEEN])
    log = idata["log_likelihood"]["y_observed"].values[0]
    expected = np.where(SEEN, stats.norm(np.asarray(z["mu"])[:, None], 1.5).logpdf(Y), 0)
    np.testing.assert_allclose(log, expected, rtol=1e-4, atol=1e-5)


def test_observed_value_that_feeds_later_sites():
    """It is drawn as well, and what follows, follows from the draw."""

    def model(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        x = numpyro.sample("x", dist.Normal(1.0, 0.5).expand([7]), obs=x)
        numpyro.sample("y", dist.Normal(slope * x, 0.1), obs=y)

    approx = unfitted(model, Y, Y)
    slope = np.asarray(approx.sample_dict(DRAWS, random_seed=0)["slope"])[:, None]
    for options in ({}, {"more_replacements": {"y": None}}):
        found = approx.sample_posterior_predictive(
            DRAWS, random_seed=0, return_inferencedata=False, **options
        )
        Law(stats.norm(np.ones((DRAWS, 7)), 0.5)).check_predictions(found["x"])
        Law(stats.norm(slope * found["x"], 0.1)).check_predictions(found["y"])


def test_forecast_of_a_time_series():
    """By NumPyro's idiom: data that are shorter than the scan, after which it draws."""

    def model(y, future=0):
        rho = numpyro.sample("rho", dist.Normal(0.5, 0.1))

        def step(before, _):
            y_t = numpyro.sample("y", dist.Normal(rho * before, 0.3))
            return y_t, y_t

        with handlers.condition(data={"y": y}):
            _, path = scan(step, 2.0, None, length=len(y) + future)
        if future:
            numpyro.deterministic("forecast", path[-future:])

    approx = unfitted(model, Y)
    rho = np.asarray(approx.sample_dict(DRAWS, random_seed=0)["rho"])
    found = approx.sample_posterior_predictive(
        DRAWS, random_seed=0, more_replacements={"future": 2}, return_inferencedata=False
    )["forecast"]
    first = stats.norm(rho * Y[-1], 0.3)
    second = stats.norm(rho**2 * Y[-1], 0.3 * np.sqrt(1 + rho**2))
    for law, values in ((first, found[:, 0]), (second, found[:, 1])):
        Law(law).check_predictions(values)


def test_scan_without_data_runs_freely():
    def model(y=None):
        rho = numpyro.sample("rho", dist.Normal(0.5, 0.1))

        def step(before, y_t):
            y_t = numpyro.sample("y", dist.Normal(rho * before, 0.3), obs=y_t)
            return y_t, None

        scan(step, 2.0, y, length=7)

    approx = unfitted(model, Y)
    rho = np.asarray(approx.sample_dict(DRAWS, random_seed=0)["rho"])[:, None]
    found = approx.sample_posterior_predictive(
        DRAWS, random_seed=0, more_replacements={"y": None}, return_inferencedata=False
    )["y"]
    steps = np.arange(1, 8)
    variance = 0.3**2 * (1 - rho ** (2 * steps)) / (1 - rho**2)
    Law(stats.norm(2.0 * rho**steps, np.sqrt(variance))).check_predictions(found)


# -- subsampled plates at new arguments


@pytest.mark.parametrize("model", [subsampled, subsampled_by_index, batch_from_outside])
@pytest.mark.parametrize("rows", [1, 2, 3, 12])
def test_subsampled_plates_at_new_arguments(model, rows):
    """Also with fewer rows than a batch, and with a batch of a single row from outside."""
    new = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    approx = at_q(model, X, Y)
    y = approx.sample_posterior_predictive(
        1000, more_replacements={"X": new, "y": None}, random_seed=0, return_inferencedata=False
    )["y"]
    assert y.shape == (1000, rows)
    w = np.asarray(approx.sample_dict(1000, random_seed=0)["w"])
    Law(stats.norm(w @ new.T, SD)).check_predictions(y)


def test_subsampled_plate_without_data_has_all_rows():
    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 7, subsample_size=3):
            obs = None if y is None else numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", dist.Normal(mu, 1), obs=obs)

    approx = unfitted(model, Y)
    for replacements in (None, {"y": None}):
        idata = approx.sample_posterior_predictive(2, more_replacements=replacements)
        assert idata["posterior_predictive"]["y"].shape == (1, 2, 7)


# -- shapes that follow the data


def test_distribution_without_axes_takes_the_shape_of_the_data_only_where_they_belong():
    def model(X, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal((X @ w).mean(), SD), obs=y)

    approx = at_q(model, X, Y)
    assert approx.sample_posterior_predictive(3)["posterior_predictive"]["y"].shape == (1, 3, 7)
    new = approx.sample_posterior_predictive(3, more_replacements={"X": X_NEW})
    assert new["predictions"]["y"].shape == (1, 3)  # the seven data are not of these rows


def test_one_new_row_is_one_prediction(approx):
    new = approx.sample_posterior_predictive(3, more_replacements={"X": X_NEW[:1]})
    assert new["predictions"]["y"].shape == (1, 3, 1)


# -- the model elsewhere


def test_site_that_is_new_there_is_drawn_from_its_prior():
    def model(X, y=None, noisy=False):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        shift = numpyro.sample("shift", dist.Normal(5, 0.1)) if noisy else 0.0
        numpyro.sample("y", dist.Normal(X @ w + shift, SD), obs=y)

    values = at_q(model, X, Y).sample_posterior_predictive(
        DRAWS, more_replacements={"noisy": True}, random_seed=0, return_inferencedata=False
    )
    assert list(values) == ["shift", "y"]
    Law(stats.norm(5 * np.ones(DRAWS), 0.1)).check_predictions(values["shift"])
    assert_mean(values["y"] - values["shift"][:, None], X @ MU, 1.0)


def test_model_without_observed_sites():
    def model():
        numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))

    approx = at_q(model)
    assert groups_of(approx.sample_posterior_predictive(3)) == set()
    assert approx.sample_posterior_predictive(3, return_inferencedata=False) == {}


def grouped(idx, X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("row", len(X)):
        effect = numpyro.sample("effect", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(X @ w + effect, SD), obs=y)


def test_local_latent_site_with_another_number_of_rows():
    approx = unfitted(grouped, np.arange(7), X, Y)
    match = r"the latent site 'effect' has shape \(7,\) .*but \(3,\) at the new arguments"
    for options in (
        {"more_replacements": {"X": X_NEW}},
        {"model_args": (np.arange(3), X_NEW)},
        {"model_kwargs": {"X": X_NEW, "idx": np.arange(3)}},
    ):
        with pytest.raises(ValueError, match=match):
            approx.sample_posterior_predictive(3, **options)
    with pytest.raises(ValueError, match=match):
        approx.to_arviz(3, predictions={"X": X_NEW})
    given = approx.sample_posterior_predictive(
        3, more_replacements={"X": X_NEW, "effect": np.zeros(3)}
    )
    assert given["predictions"]["y"].shape == (1, 3, 3)


def test_local_latent_site_in_a_subsampled_plate():
    """It has values for a batch, which one is not known."""

    def model(y):
        with numpyro.plate("row", 7, subsample_size=3):
            effect = numpyro.sample("effect", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(effect, 1), obs=numpyro.subsample(y, event_dim=0))

    match = r"the latent site 'effect' has shape \(3,\) .*but \(7,\)"
    with pytest.raises(ValueError, match=match):
        unfitted(model, Y).sample_posterior_predictive(3)


def test_error_of_the_model_at_new_arguments():
    note = "This happened when the model was run at other arguments."
    approx = at_q(regression, X, Y)
    for options in (
        {"more_replacements": {"X": X[:, :1]}},
        {"model_args": (X[:, :1],)},
        {"model_kwargs": {"X": X[:, :1]}},
    ):
        with pytest.raises(TypeError, match="contracting dimensions") as caught:
            approx.sample_posterior_predictive(3, **options)
        assert note in caught.value.__notes__

    def checked(X, y=None):
        if len(X) != 7:
            raise RuntimeError("seven rows, please")
        regression(X, y)

    with pytest.raises(RuntimeError, match="seven rows, please") as caught:
        at_q(checked, X, Y).to_arviz(3, predictions={"X": X_NEW})
    assert note in caught.value.__notes__


def test_site_that_cannot_be_drawn():
    def model(y, extra=False):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        if extra:
            numpyro.sample("free", dist.ImproperUniform(constraints.positive, (3,), ()))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    match = "the site 'free' cannot be drawn: NumPyro has no draws of its distribution, Improper"
    with pytest.raises(ValueError, match=match):
        unfitted(model, Y).sample_posterior_predictive(3, more_replacements={"extra": True})


# -- models that close over their data


def closing_over(y):
    def model(X, scale=1.0):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ w, SD * scale), obs=y)

    return model


CLOSES = r"the model closes over the observed data of \['y'\], so new predictions are impossible"


def test_closed_over_data_at_new_arguments():
    approx = at_q(closing_over(Y), X)
    with pytest.warns(UserWarning, match=CLOSES):
        idata = approx.sample_posterior_predictive(DRAWS, model_args=(X_NEW,), random_seed=0)
    assert_predictive_moments(idata["predictions"]["y"].values[0], X_NEW)  # as the warning says


@pytest.mark.parametrize(
    "call",
    [
        lambda approx: approx.sample_posterior_predictive(3, model_args=(X_NEW,)),
        lambda approx: approx.to_arviz(3, predictions={"X": X_NEW}),
    ],
)
def test_warning_points_at_the_users_line(call):
    with pytest.warns(UserWarning, match=CLOSES) as record:
        call(at_q(closing_over(Y), X))
    place = [(w.filename, w.lineno) for w in record]
    assert place == [(__file__, call.__code__.co_firstlineno)]


@pytest.mark.parametrize("y", [Y, jnp.asarray(Y), Y.tolist()], ids=["numpy", "jax", "list"])
def test_closed_over_data_of_any_type(y):
    def model(X):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ w, SD), obs=jnp.asarray(y))

    with pytest.warns(UserWarning, match=CLOSES):
        at_q(model, X).sample_posterior_predictive(3, more_replacements={"X": X + 1})


def test_closed_over_data_of_other_kinds():
    conditioned = handlers.condition(regression, data={"y": Y})

    def subsampling(X):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("row", 7, subsample_size=3):
            obs = numpyro.subsample(Y, event_dim=0)
            numpyro.sample("y", dist.Normal(numpyro.subsample(X, event_dim=1) @ w, SD), obs=obs)

    for model in (conditioned, subsampling):
        with pytest.warns(UserWarning, match=CLOSES):
            at_q(model, X).sample_posterior_predictive(3, more_replacements={"X": X + 1})


def test_one_of_two_sites_closes_over_its_data():
    def model(X, z=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ w, SD), obs=Y)
        numpyro.sample("z", dist.Normal(X @ w, SD), obs=z)

    with pytest.warns(UserWarning, match=CLOSES):
        at_q(model, X, Y + 1).sample_posterior_predictive(3, more_replacements={"X": X + 1})


def test_closed_over_data_where_nothing_is_new():
    """The default filter of the tests makes any warning an error."""
    approx = at_q(closing_over(Y), X)
    approx.sample_posterior_predictive(3)
    approx.sample_posterior_predictive(3, more_replacements={"X": X.copy()})
    approx.sample_posterior_predictive(3, more_replacements={"w": MU})
    approx.to_arviz(3, predictions={"X": X.copy()}, log_likelihood=True, prior=True)
    approx.to_arviz(3, predictions={})


class Table:
    """Like a data frame: an object that is no data to JAX, but can be made an array."""

    def __init__(self, **columns):
        self.columns = columns

    def __getitem__(self, name):
        return self.columns[name]

    def __array__(self, dtype=None, copy=None):
        return np.stack(list(self.columns.values()))


def takes_numpy(X, y=None):
    """Needs the values of y in Python, which makes them part of the program."""
    groups = None if y is None else np.unique(y) if isinstance(y, np.ndarray) else 1 / 0
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    scale = SD if groups is None else SD * len(groups)
    numpyro.sample("y", dist.Normal(X @ w, scale), obs=y)


def takes_table(table, scale=1.0):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    X = jnp.stack([table["a"], table["b"]], axis=-1)
    numpyro.sample("y", dist.Normal(X @ w, SD * scale), obs=table["y"])


def takes_list(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    obs = None if y is None else jnp.asarray(y)
    numpyro.sample("y", dist.Bernoulli(logits=X @ w), obs=obs)


def takes_number(X, n, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Binomial(n, logits=(X @ w).sum()), obs=y)


def soft_constraint(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("sum_to_zero", dist.Normal(w.sum(), 0.01), obs=0.0)
    numpyro.sample("y", dist.Normal(X @ w, SD), obs=y)


TABLE_7 = Table(a=X[:, 0], b=X[:, 1], y=Y)
TABLE_3 = Table(a=X_NEW[:, 0], b=X_NEW[:, 1], y=Y[:3])
PASSED = {
    "argument": (regression, (X, Y), {"X": X_NEW}),
    "argument, of the same length": (regression, (X, Y), {"X": X + 1}),
    "argument, both replaced": (regression, (X, Y), {"X": X_NEW, "y": Y[:3]}),
    "used in Python": (takes_numpy, (X, Y), {"X": X + 1}),
    "used in Python, left out": (takes_numpy, (X, Y), {"X": X_NEW, "y": None}),
    "used in Python, replaced": (takes_numpy, (X, Y), {"X": X_NEW, "y": Y[:3]}),
    "table": (takes_table, (TABLE_7,), {"table": TABLE_3}),
    "table that stays": (takes_table, (TABLE_7,), {"scale": 2.0}),
    "list of ints": (takes_list, (X, [0, 1, 1, 0, 1, 0, 0]), {"X": X + 1}),
    "list of ints, left out": (takes_list, (X, [0, 1, 1, 0, 1, 0, 0]), {"X": X + 1, "y": None}),
    "number": (takes_number, (X, 9, 4), {"n": 12}),
    "part of the model": (soft_constraint, (X, Y), {"X": X_NEW}),
}


@pytest.mark.parametrize("name", PASSED)
def test_no_warning_if_the_data_are_an_argument(name):
    model, args, replacements = PASSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idata = at_q(model, *args).sample_posterior_predictive(3, more_replacements=replacements)
    assert "predictions" in groups_of(idata)


# -- bad input


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"draws": -1}, ValueError, "draws must be at least 0, got -1"),
        ({"draws": 2.0}, TypeError, "draws must be an integer, got 2.0"),
        ({"draws": None}, TypeError, "draws must be an integer, got None"),
        ({"random_seed": "a"}, TypeError, "random_seed must be None, an int or a JAX key, got str"),
        ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        ({"block_size": 2.5}, TypeError, "block_size must be an integer, got 2.5"),
        ({"model_args": X}, TypeError, r"model_args must be a tuple, got ndarray.*\(x,\)"),
        ({"model_args": 0}, TypeError, "model_args must be a tuple, got int"),
        ({"model_args": "X"}, TypeError, "model_args must be a tuple, got str"),
        ({"model_kwargs": [X]}, TypeError, "model_kwargs must be a dict, got list"),
        ({"model_kwargs": False}, TypeError, "model_kwargs must be a dict, got bool"),
        ({"model_args": ()}, TypeError, "cannot be called .* missing a required argument: 'X'"),
        ({"model_kwargs": {}}, TypeError, "cannot be called .* missing a required argument: 'X'"),
        ({"model_kwargs": {"Z": X}}, TypeError, "cannot be called with .*'Z'"),
        ({"more_replacements": [X]}, TypeError, "more_replacements must be a dict .*got list"),
        ({"more_replacements": {"Z": X}}, KeyError, "names 'Z', which is neither an arg"),
        ({"more_replacements": {"X": X[0]}}, ValueError, "number of axes must stay 2"),
        ({"more_replacements": {"w": "a"}}, TypeError, r"\['w'\] must be numeric, got str"),
        ({"more_replacements": {"w": np.ones(3)}}, ValueError, r"shape \(3,\), but the site has"),
        ({"draw": 3}, TypeError, "unexpected keyword argument 'draw'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(approx, options, error, match):
    with pytest.raises(error, match=match):
        approx.sample_posterior_predictive(**options)
