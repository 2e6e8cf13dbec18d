"""What the steps of a fit see of the data, and how much each site counts."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import numpyro_vi_ext as vi
from numpyro_vi_ext.feeding import Feed

N = 6
Y = np.random.default_rng(0).normal(2, 1, N).astype(np.float32)
X = np.random.default_rng(1).normal(size=(N, 2)).astype(np.float32)

ROWS = 2000
RNG = np.random.default_rng(3)
LONG_X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
LONG_Y = (LONG_X @ np.array([1.0, -2.0]) + RNG.normal(size=ROWS)).astype(np.float32)


def regression(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def in_a_plate(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def as_an_event(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ b, 1).to_event(1), obs=y)


def a_factor(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.factor("fit", -jnp.sum((y - X @ b) ** 2))


def masked(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.handlers.mask(mask=X[:, 0] > 0):
        numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def in_a_subsampled_plate(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", N, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def scaled_by_hand(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.handlers.scale(scale=N / len(y)):
        numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def a_mean(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.factor("fit", -N * jnp.mean((y - X @ b) ** 2))


def two_sites(X, y):
    """One of the sites does not depend on the batch."""
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.sample("whole", dist.Normal(b[0], 1), obs=jnp.array([1.0, 2.0]))
    numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def within_control_flow(X, y):
    """Through scan, vmap and jit."""
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    means = jax.jit(jax.vmap(lambda row: row @ b))(X)
    total, _ = jax.lax.scan(lambda c, x: (c - (x[0] - x[1]) ** 2, None), 0.0, (y, means))
    numpyro.factor("fit", total)


MODELS = [
    regression,
    in_a_plate,
    as_an_event,
    a_factor,
    masked,
    two_sites,
    within_control_flow,
    in_a_subsampled_plate,
    scaled_by_hand,
    a_mean,
]


def fed_of(model, *args, total_size=None):
    bound = vi.Model(model, *args)
    return bound.fed(bound.target, (np.zeros(bound.ndim), jnp.zeros(0)), total_size)


def joint(fed, data):
    """Scaled log density and its gradient for given batches."""
    inputs = tuple(jnp.asarray(x, jnp.float32) for x in data), fed.inputs[1]

    def density(z):
        key, theta = jax.random.key(0), jnp.zeros(0)
        return sum(fed.program.densities(inputs, key, z, theta, fed.feed.scales))

    return jax.value_and_grad(density)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_mean_over_all_batches_is_the_full_density(model):
    """Enumerated: all pairs of rows, with replacement, and the gradient too."""
    X_mb, y_mb = vi.Minibatch(X, Y, batch_size=2)
    fed = fed_of(model, X_mb, y_mb)
    z = jnp.array([0.7, -0.4])
    pairs = [list(rows) for rows in itertools.product(range(N), repeat=2)]
    values, grads = zip(*(joint(fed, (X[rows], Y[rows]))(z) for rows in pairs), strict=True)
    bound = vi.Model(model, X, Y)
    expected, gradient = jax.value_and_grad(bound.log_density)(z)
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-5)
    np.testing.assert_allclose(np.mean(grads, axis=0), gradient, rtol=1e-4)


def table(R):
    a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("R", dist.Normal(a, 1), obs=R)


def test_two_axes():
    R = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    fed = fed_of(table, vi.Minibatch(R, batch_size=[2, 2]))
    assert fed.feed.scales == (("R", 3.0),)
    rows, columns = itertools.product(range(4), repeat=2), itertools.product(range(3), repeat=2)
    cuts = [R[np.ix_(i, j)] for i, j in itertools.product([*rows], [*columns])]
    values = [joint(fed, (cut,))(jnp.array([0.5]))[0] for cut in cuts]
    expected = vi.Model(table, R).log_density(jnp.array([0.5]))
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-5)


def test_steps_see_the_rows_of_their_plans():
    """In any block, and the same rows of all arrays that share them."""
    X_mb, y_mb = vi.Minibatch(np.arange(50.0), np.arange(50), batch_size=4)
    feed = Feed((X_mb.plan, None, y_mb.plan))
    data = X_mb.shared, jnp.ones(3), y_mb.shared
    drawn = feed.draw(data, 8, 4)
    assert len(drawn) == 1  # drawn once for both
    for i in range(4):
        x, whole, y = feed.take(data, drawn, i)
        np.testing.assert_array_equal(x, X_mb.plan.take(X_mb.shared, 8 + i))
        np.testing.assert_array_equal(x, y)
        assert whole is data[1]


def gradients(sampling, steps=200):
    """Of the scaled log density at one point, for the batches of many steps."""
    X_mb, y_mb = vi.Minibatch(LONG_X[:40], LONG_Y[:40], batch_size=20, sampling=sampling)
    fed = fed_of(regression, X_mb, y_mb)
    data, _ = fed.inputs
    drawn = fed.feed.draw(data, 0, steps)

    def gradient(i):
        batch = fed.feed.take(data, drawn, i)
        return joint(fed, batch)(jnp.array([0.5, 0.5]))[1]

    return np.asarray(jax.jit(jax.vmap(gradient))(jnp.arange(steps)))


def test_gradients_without_replacement_vary_less():
    """Half of the rows at a time: their variance is that with replacement times (N - B)/(N - 1)."""
    iid, epoch = (gradients(sampling).var(axis=0) for sampling in ("iid", "epoch"))
    np.testing.assert_allclose(epoch / iid, 20 / 39, rtol=0.35)


def test_without_a_minibatch_nothing_is_cut_or_scaled():
    assert fed_of(regression, X, Y).feed == Feed()


# -- what is refused, or warned of


def local(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        e = numpyro.sample("e", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(X @ b + e, 1), obs=y)


def local_in_a_subsampled_plate(X, y):
    with numpyro.plate("rows", N, subsample_size=len(y)):
        e = numpyro.sample("e", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(e, 1), obs=y)


def prior_of_the_batch(X, y):
    b = numpyro.sample("b", dist.Normal(X.mean(), 1))
    numpyro.sample("y", dist.Normal(b, 1), obs=y)


def process(X, y):
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    cov = jnp.exp(-jnp.sum((X[:, None] - X[None]) ** 2, -1) / scale) + jnp.eye(len(y))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(y)), cov), obs=y)


def series(X, y):
    a = numpyro.sample("a", dist.Normal(0, 1))

    def step(before, now):
        numpyro.sample("y", dist.Normal(a * before, 1), obs=now)
        return now, None

    scan(step, 0.0, y)


def needs_values(X, y):
    groups = len(np.unique(y))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([groups]).to_event(1))
    numpyro.sample("y", dist.Normal(b[0], 1), obs=y)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (local, r"an entry for each row cannot .* \{'e': \(\(3,\), \(6,\)\)\}. Marginalise them"),
        (local_in_a_subsampled_plate, "an entry for each row cannot be fitted in minibatches"),
        (prior_of_the_batch, "the prior of the latent site 'b' depends on a batch"),
        (process, "the log density of the site 'y' is not a sum over the rows"),
        (series, "the log density of the site 'y' is not a sum over the rows"),
        (needs_values, r"the model needs the values of \['y'\] in Python"),
    ],
)
def test_refused(model, text):
    X_mb, y_mb = vi.Minibatch(X, Y, batch_size=2)
    with pytest.raises(ValueError, match=text):
        vi.fit(model, 2, model_args=(X_mb, y_mb), progressbar=False)


@pytest.mark.parametrize("options", [{"random_seed": 1}, {"batch_size": 3}, {"sampling": "epoch"}])
def test_rows_that_do_not_belong_together(options):
    X_mb = vi.Minibatch(X, batch_size=2)
    y_mb = vi.Minibatch(Y, **{"batch_size": 2, **options})
    if "batch_size" in options:
        y_mb = vi.Minibatch(Y, batch_size=[(2, 7)])
    with pytest.raises(ValueError, match=r"'y' depends on \['X', 'y'\], whose rows .* Pair them"):
        fed_of(regression, X_mb, y_mb)


def test_equal_seeds_and_lengths_belong_together():
    fed = fed_of(regression, vi.Minibatch(X, batch_size=2), vi.Minibatch(Y, batch_size=2))
    assert fed.feed.scales == (("y", 3.0),)


def test_batch_beside_full_data():
    with pytest.raises(ValueError, match="y") as found:
        fed_of(regression, vi.Minibatch(X, batch_size=2), Y)
    assert any("Arrays that belong together" in note for note in found.value.__notes__)


@pytest.mark.parametrize("kind", ["Minibatch", "Part"])
def test_batches_among_what_a_model_reads(kind):
    batch = vi.Minibatch(np.ones(10), batch_size=3)
    if kind == "Part":
        batch = vi.Stream([{"y": np.ones(3)}] * 3, total_size=9)["y"]

    def model():
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0, 1)), 1), obs=batch)

    with pytest.raises(TypeError) as caught:
        vi.fit(model, 10, progressbar=False)
    text = f"The model reads {batch!r} from outside of its arguments, where it has no values."
    assert [note.startswith(text) for note in caught.value.__notes__].count(True) == 1


def test_minibatch_of_several_arrays_is_no_argument():
    with pytest.raises(TypeError, match="'X' is a Minibatch of 2 arrays; unpack it"):
        vi.Model(regression, vi.Minibatch(X, Y, batch_size=2), Y)


def twice(X, y):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.handlers.scale(scale=3.0):
        numpyro.sample("y", dist.Normal(b, 1), obs=y)


def test_constant_scale_like_that_of_the_minibatch_is_warned_of():
    X_mb, y_mb = vi.Minibatch(X, Y, batch_size=2)
    with pytest.warns(UserWarning, match="'y' is multiplied by 3 in the model, and again by 3 = N"):
        fed_of(twice, X_mb, y_mb)


# -- total_size


def test_total_size_scales_without_a_minibatch():
    assert fed_of(regression, X, Y, total_size={"y": 60}).feed.scales == (("y", 10.0),)


def test_total_size_goes_before_the_minibatch():
    X_mb, y_mb = vi.Minibatch(X, Y, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fed_of(regression, X_mb, y_mb, total_size={"y": N}).feed.scales == (("y", 3.0),)
    with pytest.warns(UserWarning, match="'y' counts 6 times, its batches 3 times"):
        assert fed_of(regression, X_mb, y_mb, total_size={"y": 12}).feed.scales == (("y", 6.0),)


def test_bad_total_size():
    with pytest.raises(KeyError, match=r"'b', but the observed sites are \['y'\]"):
        vi.fit(regression, 1, model_args=(X, Y), total_size={"b": 5}, progressbar=False)
    with pytest.raises(TypeError, match="must be a dict from observed site to its total size"):
        vi.fit(regression, 1, model_args=(X, Y), total_size=5, progressbar=False)


# -- fits


def minibatch():
    return vi.Minibatch(LONG_X, LONG_Y, batch_size=100).parts


def exact():
    """Posterior mean and sds of `regression`, in which the noise has sd 1."""
    precision = LONG_X.T @ LONG_X + np.eye(2) / 9
    cov = np.linalg.inv(precision)
    return cov @ LONG_X.T @ LONG_Y, np.sqrt(np.diag(cov))


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_posterior_is_that_of_the_full_data(method):
    """One draw and one batch of 100 rows a step leave noise in the sd: four draws, and 5 %."""
    mean, sd = exact()
    approx = vi.fit(
        regression,
        20_000,
        method,
        model_args=minibatch(),
        obj_n_mc=4,
        random_seed=0,
        progressbar=False,
    )
    assert np.abs((approx.mean - mean) / sd).max() < 0.2
    np.testing.assert_allclose(approx.std, sd, rtol=0.05)


@pytest.mark.parametrize(
    ("method", "options", "low", "high"),
    [
        ("svgd", {"inf_kwargs": {"n_particles": 50}}, 0.7, 2.0),
        pytest.param("asvgd", {}, 0.7, 1.2, marks=pytest.mark.slow),
    ],
)
def test_stein_methods_take_minibatches(method, options, low, high):
    """The noise of the batches widens particles, which are not averaged."""
    mean, sd = exact()
    rate = {"obj_optimizer": vi.adam(1e-3)} if method == "svgd" else {}
    start = {"b": mean}
    approx = vi.fit(
        regression,
        3000,
        method,
        model_args=minibatch(),
        random_seed=0,
        start=start,
        start_sigma={"b": 0.05},
        progressbar=False,
        **options,
        **rate,
    )
    assert np.abs((approx.mean - mean) / sd).max() < 1
    assert low < (approx.std / sd).min()
    assert (approx.std / sd).max() < high


def test_everything_after_the_fit_is_about_the_full_data():
    approx = vi.fit(regression, 300, model_args=minibatch(), random_seed=0, progressbar=False)
    full = vi.fit(regression, 0, model_args=(LONG_X, LONG_Y), progressbar=False)
    same = full.at(approx.point, approx.facts)
    assert approx.elbo(100, random_seed=1) == same.elbo(100, random_seed=1)
    assert approx.sample_node("y").shape == (ROWS,)
    assert approx.sample_posterior_predictive(3)["posterior_predictive"]["y"].shape[-1] == ROWS
    data = approx.to_arviz(3, log_likelihood=True, random_seed=0)
    assert data["log_likelihood"]["y"].shape == (1, 3, ROWS)
    np.testing.assert_array_equal(data["observed_data"]["y"], LONG_Y)
    few = approx.sample_node("y", more_replacements={"X": LONG_X[:7], "y": LONG_Y[:7]})
    np.testing.assert_array_equal(few, LONG_Y[:7])


def test_refine_goes_on_with_the_rows():
    whole = vi.fit(regression, 100, model_args=minibatch(), random_seed=0, progressbar=False)
    inference = vi.ADVI(regression, model_args=minibatch(), random_seed=0)
    inference.fit(60, progressbar=False)
    approx = inference.refine(40, progressbar=False)
    np.testing.assert_array_equal(approx.mean, whole.mean)
    np.testing.assert_array_equal(approx.hist, whole.hist)


def test_next_fit_sees_what_is_stored_by_then():
    X_mb, y_mb = minibatch()
    inference = vi.ADVI(regression, model_args=(X_mb, y_mb), random_seed=0)
    inference.fit(10, progressbar=False)
    X_mb.set_value(LONG_X[:1000])
    y_mb.set_value(LONG_Y[:1000])
    assert inference.fit(10, progressbar=False).sample_node("y").shape == (1000,)


def test_full_data_may_be_replaced_by_a_minibatch():
    X_mb, y_mb = minibatch()
    expected = vi.fit(regression, 50, model_args=(X_mb, y_mb), random_seed=0, progressbar=False)
    approx = vi.fit(
        regression,
        50,
        model_args=(LONG_X, LONG_Y),
        random_seed=0,
        progressbar=False,
        more_replacements={"X": X_mb, "y": y_mb},
    )
    np.testing.assert_array_equal(approx.hist, expected.hist)


def test_second_fit_traces_nothing():
    calls = []

    def counted(X, y):
        calls.append(1)
        regression(X, y)

    for i in range(2):
        X_mb, y_mb = vi.Minibatch(LONG_X + i, LONG_Y, batch_size=100)
        vi.fit(counted, 20, model_args=(X_mb, y_mb), random_seed=i, progressbar=False)
        if not i:
            first = len(calls)
    assert len(calls) == first


# -- found by attack: what depends on the number of rows, and what only looks like a sum


def scales_of(model, *args):
    return dict(fed_of(model, *args).feed.scales)


def counts_rows(y):
    rate = numpyro.sample("rate", dist.LogNormal(0, 3))
    numpyro.factor("count", len(y) * jnp.log(rate))
    numpyro.factor("total", -rate * y.sum())


def test_terms_that_depend_on_the_number_of_rows_only():
    """The log density of exponential waiting times, written as two factors."""
    y_mb = vi.Minibatch(np.abs(LONG_Y), batch_size=100)
    assert scales_of(counts_rows, y_mb) == {"count": 20.0, "total": 20.0}


def prior_of_the_number_of_rows(X, y):
    w = numpyro.sample("w", dist.Normal(0, 1 / len(y) ** 0.5).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w, 1), obs=y)


def sum_and_penalty(X, y):
    b = numpyro.sample("b", dist.Normal(0, 100).expand([2]).to_event(1))
    numpyro.factor("f", -0.5 * jnp.sum((y - X @ b) ** 2) - 0.5 * jnp.sum(b**2))


def process_in_time(X, y):
    """Sorted inputs, of which only neighbours are correlated."""
    scale = numpyro.sample("scale", dist.LogNormal(1, 0.5))
    t = X[:, 0]
    cov = jnp.exp(-0.5 * ((t[:, None] - t) / scale) ** 2) + 0.01 * jnp.eye(len(y))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(y)), cov), obs=y)


def centred_rows(X, y):
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(b * (X[:, 1] - X[:, 1].mean()), 1), obs=y)


def param_per_row(X, y):
    e = numpyro.param("e", jnp.zeros(len(y)))
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(b + e, 1), obs=y)


SORTED = np.column_stack([np.arange(1000.0), np.repeat([0.0, 1.0], 500)])


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 10])
@pytest.mark.parametrize(
    ("model", "text"),
    [
        (prior_of_the_number_of_rows, "the prior of the latent site 'w' depends on a batch"),
        (sum_and_penalty, "'f' is not a sum over the rows"),
        (process_in_time, "'y' is not a sum over the rows"),
        (centred_rows, "'y' is not a sum over the rows"),
        (param_per_row, "or params, with an entry for each row cannot be fitted"),
    ],
)
def test_refused_whatever_the_rows(model, text, batch_size):
    parts = vi.Minibatch(SORTED, LONG_Y[:1000] + 10, batch_size=batch_size).parts
    with pytest.raises(ValueError, match=text):
        fed_of(model, *parts)


def test_local_latents_with_batches_as_long_as_the_data():
    with pytest.raises(ValueError, match="an entry for each row cannot be fitted in minibatches"):
        fed_of(local, *vi.Minibatch(X, Y, batch_size=N).parts)


def subsampled_columns(R):
    a = numpyro.sample("a", dist.Normal(0, 1))
    columns = numpyro.plate("columns", 20, subsample_size=5, dim=-1)
    with columns as i, numpyro.plate("rows", len(R), dim=-2):
        numpyro.sample("R", dist.Normal(a, 1), obs=R[:, i])


def test_a_plate_over_another_axis_of_the_same_sizes_takes_nothing_away():
    R = np.random.default_rng(0).normal(size=(20, 20))
    assert scales_of(subsampled_columns, vi.Minibatch(R, batch_size=5)) == {"R": 4.0}


def dropout(X, y):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    kept = jax.random.bernoulli(numpyro.prng_key(), 0.5, X.shape)
    numpyro.sample("y", dist.Normal((X * kept) @ b, 1), obs=y)


def large_counts(X, y):
    rate = numpyro.sample("rate", dist.LogNormal(13, 1))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


def test_not_refused():
    """A model with a randomness of its own, and counts whose log densities cancel in float32."""
    assert scales_of(dropout, *minibatch()) == {"y": 20.0}
    counts = np.random.default_rng(0).poisson(1e6, ROWS)
    parts = vi.Minibatch(LONG_X, counts, batch_size=100).parts
    assert scales_of(large_counts, *parts) == {"y": 20.0}
