"""What happens before the first step: the frame a warm-up finds, and when there is one."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import zoo
from jax.experimental.ode import odeint
from numpyro.distributions import constraints
from targets import linear_regression, multivariate_normal_mean, normal_mean

import numpyro_vi_ext as vi
from numpyro_vi_ext import algorithm, effort, training
from numpyro_vi_ext.objectives import Elbo

CASES = {case.name: case for case in zoo.CASES}
KINDS = {"advi": vi.ADVI, "fullrank_advi": vi.FullRankADVI}
each_method = pytest.mark.parametrize("method", KINDS)
still = functools.partial(vi.sgd, 0.0)  # makes steps that do not move


def warm(model, method="advi", *, args=(), kwargs=None, **options):
    """What steps begin with: q right after a warm-up."""
    options = {"random_seed": 0, "progressbar": False, "warmup": True} | options
    return vi.fit(
        model, 1, method, model_args=args, model_kwargs=kwargs, obj_optimizer=still(), **options
    )


def same(a, b):
    """Whether two approximations are the same, bit for bit."""
    equal = [np.array_equal(a.params[name], b.params[name]) for name in a.params]
    return all(equal) and np.array_equal(a.hist, b.hist)


# --- what it finds ------------------------------------------------------------------------------

GAUSSIANS = {
    "eight sds from the start": normal_mean,
    "correlated": functools.partial(multivariate_normal_mean, 10),
    "regression": linear_regression,
}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("eight sds from the start", "advi"),
        ("correlated", "fullrank_advi"),
        *(
            pytest.param(name, method, marks=pytest.mark.slow)
            for name, method in [
                ("eight sds from the start", "fullrank_advi"),
                ("correlated", "advi"),
                ("regression", "advi"),
                ("regression", "fullrank_advi"),
            ]
        ),
    ],
)
def test_on_gaussian_posteriors_it_ends_at_the_optimum(name, method):
    """The gradient there is below 1e-2 in whitened coordinates, so below 1e-2 sqrt(d) sds.

    A Hessian is constant, and as exact as float32 makes it.
    """
    target = GAUSSIANS[name]()
    approx = warm(target.model, method, args=target.args)
    sd = np.sqrt(np.diag(target.cov))
    bound = 1e-2 * np.sqrt(len(sd)) + 1e-6 * np.abs(target.mean / sd).max()
    assert np.abs((approx.mean - target.mean) / sd).max() < bound
    precision = np.linalg.inv(target.cov)
    if method == "advi":
        np.testing.assert_allclose(approx.std, np.diag(precision) ** -0.5, rtol=1e-3)
    else:
        error = (approx.cov - target.cov) / np.outer(sd, sd)
        assert np.abs(error).max() < 1e-5 * np.linalg.cond(precision)


SCALES = 10.0 ** np.arange(-4.0, 5)


def flat(scales):
    """Flat priors, and a likelihood of these scales, thousands of which the start is away."""
    with numpyro.plate("scales", len(scales)):
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("likelihood", -0.5 * jnp.sum(((x - 3 * scales) / scales) ** 2))


@pytest.mark.parametrize("method", [pytest.param("advi", marks=pytest.mark.slow), "fullrank_advi"])
def test_far_starts_flat_priors_and_scales_from_1e_4_to_1e4(method):
    approx = warm(flat, method, args=(jnp.array(SCALES),))
    assert np.abs((approx.mean - 3 * SCALES) / SCALES).max() < 0.05
    np.testing.assert_allclose(approx.std, SCALES, rtol=1e-3)


def unscaled(X, y):
    with numpyro.plate("columns", X.shape[1]):
        b = numpyro.sample("b", dist.ImproperUniform(constraints.real, (), ()))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(5.0))
    numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)


def test_a_start_ten_million_times_the_noise_away():
    """The scale of the noise has to grow by that factor, and to shrink again, in 33 rounds."""
    rng = np.random.default_rng(0)
    X = 5 + rng.normal(size=(200, 8))
    y = X @ np.arange(1.0, 9.0) + rng.normal(size=200)
    units = np.logspace(-3, 7, 8)
    approx = warm(unscaled, "fullrank_advi", args=(X * units, y))
    exact, residual, *_ = np.linalg.lstsq(X, y)
    sd = np.sqrt(residual / 192 * np.diag(np.linalg.inv(X.T @ X)))
    assert np.abs((approx.mean[:8] * units - exact) / sd).max() < 0.1


def test_the_fit_after_it_stays_at_the_optimum():
    approx = vi.fit(flat, 500, model_args=(jnp.array(SCALES),), random_seed=1, progressbar=False)
    assert approx.facts.warmup
    assert np.abs((approx.mean - 3 * SCALES) / SCALES).max() < 0.05
    np.testing.assert_allclose(approx.std, SCALES, rtol=0.02)


def funnel():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))


def without_mode(y):
    """Its density has no bound, where tau is small and all of theta equal."""
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    theta = numpyro.sample("theta", dist.Normal(0, tau).expand([5]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, 1).to_event(1), obs=y)


HARD = {
    "eight schools": (zoo.eight_schools, (zoo.ERRORS, zoo.EFFECTS)),
    "funnel": (funnel, ()),
    "no mode": (without_mode, (jnp.array([0.1, -0.2, 0.3, 0.0, 0.1]),)),
}


REST = ("funnel", "no mode")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("eight schools", "advi"),
        *(
            pytest.param(name, method, marks=pytest.mark.slow)
            for name, method in [
                ("eight schools", "fullrank_advi"),
                *itertools.product(REST, KINDS),
            ]
        ),
    ],
)
def test_it_is_never_worse_than_the_plain_start(name, method):
    model, args = HARD[name]
    found = warm(model, method, args=args)
    plain = warm(model, method, args=args, warmup=False)
    assert plain.facts.warmup == ""
    (elbo, se), (least, least_se) = (q.elbo(4000, random_seed=0) for q in (found, plain))
    assert np.isfinite(elbo)
    assert elbo > least - 4 * np.hypot(se, least_se)


def wall(y):
    """Its log density is NaN from 4 on, which is far from the posterior, N(1, 0.1)."""
    x = numpyro.sample("x", dist.Normal(0, 10).expand([2]).to_event(1))
    numpyro.factor("wall", jnp.where(jnp.any(x > 4), jnp.nan, 0.0))
    numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)


def test_regions_without_a_finite_density():
    approx = warm(wall, args=(jnp.ones(2),))
    np.testing.assert_allclose(approx.mean, 1, atol=0.1 * 0.02)
    np.testing.assert_allclose(approx.std, 0.1, rtol=1e-3)


def decay(t, y):
    rate = numpyro.sample("rate", dist.LogNormal(0, 0.5))
    x = odeint(lambda x, t, rate: -rate * x, 1.0, t, rate)
    numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)


def decay_in_closed_form(t, y):
    rate = numpyro.sample("rate", dist.LogNormal(0, 0.5))
    numpyro.sample("y", dist.Normal(jnp.exp(-rate * t), 0.1).to_event(1), obs=y)


@pytest.mark.slow
def test_a_solver_that_has_a_rule_for_reverse_mode_only():
    t = jnp.linspace(0.0, 2.0, 5)
    args = t, jnp.exp(-0.7 * t)
    found, exact = warm(decay, args=args), warm(decay_in_closed_form, args=args)
    np.testing.assert_allclose(found.mean, exact.mean, atol=0.02 * exact.std[0])
    np.testing.assert_allclose(found.std, exact.std, rtol=0.01)


@pytest.mark.parametrize(
    "name",
    [
        "params",
        "subsampling",
        "sites_without_elements",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("improper", "zero_sum", "supports")),
    ],
)
def test_models_of_other_kinds(name):
    case = CASES[name]
    options = {"args": case.args, "kwargs": case.kwargs}
    found, plain = warm(case.fn, **options), warm(case.fn, warmup=False, **options)
    assert " iterations and " in found.facts.warmup
    (elbo, se), (least, least_se) = (q.elbo(2000, random_seed=0) for q in (found, plain))
    assert elbo > least - 4 * np.hypot(se, least_se)
    for name, value in plain.model_params.items():
        np.testing.assert_array_equal(found.model_params[name], value)  # they are not warmed up


def nothing():
    numpyro.sample("none", dist.HalfNormal(jnp.ones(0)).to_event(1))


@each_method
def test_no_dimensions(method):
    approx = vi.fit(nothing, 10, method, random_seed=0, progressbar=False)
    assert approx.mean.shape == (0,)
    assert approx.hist.shape == (10,)


# --- batches ------------------------------------------------------------------------------------

ROWS = 80.0 + np.random.default_rng(0).normal(size=5000).astype(np.float32)


def mean_of(y):
    mu = numpyro.sample("mu", dist.Normal(0, 100))
    with numpyro.plate("rows", len(ROWS), subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_tiny_batches():
    """A batch of ten rows knows little: the ascent is on a thousand of them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 5)).astype(np.float32)
    y = X @ np.arange(5.0) + rng.normal(size=20_000)
    batch = vi.Minibatch(X, y.astype(np.float32), batch_size=10)
    approx = warm(rows_of_columns, args=(*batch,))
    exact = np.linalg.lstsq(X, y)[0]
    assert np.abs(approx.mean - exact).max() * np.sqrt(1000) < 4
    np.testing.assert_allclose(
        approx.std, 20_000**-0.5, rtol=0.15
    )  # 3 sd of a mean of 1,000 squares


def rows_of_columns(X, y):
    w = numpyro.sample("w", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(X @ w, 1), obs=y)


@pytest.mark.parametrize("kind", ["Minibatch", "Stream"])
def test_batches(kind):
    """It climbs on a thousand rows, of a Stream on the first batch; the sd is that of all rows."""

    def batches():
        return ({"y": ROWS[i : i + 500]} for i in range(0, 5000, 500))

    if kind == "Minibatch":
        approx = warm(mean_of, args=(vi.Minibatch(ROWS, batch_size=500),))
        error = (approx.mean[0] - ROWS.mean()) * np.sqrt(1000)
        assert abs(error) < 4
    else:
        approx = warm(rows_of_a_stream, args=(vi.Stream(batches, total_size=len(ROWS))["y"],))
        error = (approx.mean[0] - ROWS[:500].mean()) * np.sqrt(5000)
        assert abs(error) < 0.05
    assert " iterations and " in approx.facts.warmup
    np.testing.assert_allclose(approx.std, 5000**-0.5, rtol=1e-3)


def rows_of_a_stream(y):
    mu = numpyro.sample("mu", dist.Normal(0, 100))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


# --- when there is one --------------------------------------------------------------------------


def small(y):
    x = numpyro.sample("x", dist.Normal(0, 10).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)


Y = np.array([30.0, -20.0])


def fit(n=2, method="advi", *, seed=0, **options):
    options = {"random_seed": seed, "progressbar": False, "model_args": (Y,)} | options
    return vi.fit(small, n, method, **options)


SOMETHING_GIVEN = [
    {"start": {"x": Y}},
    {"start_sigma": {"x": 0.1}},
    {"inf_kwargs": {"init_strategy": numpyro.infer.init_to_uniform}},
    {"obj_optimizer": vi.adam(1e-2)},
]


@pytest.mark.parametrize("options", SOMETHING_GIVEN, ids=lambda o: next(iter(o)))
def test_auto_leaves_alone_what_the_user_chose(options):
    assert fit(**options).facts.warmup == ""
    assert same(fit(**options), fit(warmup="auto", **options))
    assert same(fit(**options), fit(warmup=False, **options))
    forced = fit(warmup=True, **options)
    assert " iterations and " in forced.facts.warmup
    np.testing.assert_allclose(forced.mean, Y, atol=0.1)


@each_method
def test_auto_warms_up_where_nothing_was_said(method):
    warmed, plain = fit(method=method), fit(method=method, warmup=False)
    assert same(warmed, fit(method=method, warmup="auto"))
    np.testing.assert_allclose(warmed.mean, Y, atol=0.1)
    np.testing.assert_allclose(plain.mean, 0, atol=2 * 1.1)  # two steps of about 1
    text = warmed.facts.warmup
    after = r"after \d+ iterations and \d+ averages"
    assert re.fullmatch(rf"warm-up: ELBO \S+ \(plain start: \S+\) {after}", text)
    assert plain.facts.warmup == ""


def test_the_sentence_has_the_elbo():
    """Exactly: the posterior is nearly N(y, 0.1), so that the ELBO is the log evidence."""
    text = fit().facts.warmup
    evidence = -0.5 * np.sum(Y**2 / 100.01 + np.log(2 * np.pi * 100.01))
    assert float(text.split("ELBO ")[1].split()[0].replace(",", "")) == pytest.approx(
        evidence, abs=0.2
    )  # 32 pairs of draws: the noise of half a chi-squared
    q = fit(0).point.q  # the plain start, at 0
    plain = -0.5 * np.sum((Y**2 + q.std() ** 2) / 0.01) + 2 * np.log(10)
    assert float(text.split("plain start: ")[1].split(")")[0].replace(",", "")) == pytest.approx(
        plain, rel=0.05
    )


def kinked():
    """Second derivatives say nothing here, so that a candidate has sd 1, or a very large one."""
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("f", -2 * jnp.abs(x))


def test_nothing_better_than_the_plain_start():
    """By hand: -ELBO is 2 sd sqrt(2 / pi) - log sd up to a constant, 1.60 for 1, 1.47 for log 2."""
    approx = warm(kinked, start={"x": 0.0})
    text = "warm-up: nothing better than the plain start (ELBO "
    assert approx.facts.warmup.startswith(text)
    elbo = -2 * np.log(2) * np.sqrt(2 / np.pi) + np.log(np.log(2)) + 0.5 * np.log(2 * np.pi * np.e)
    assert float(approx.facts.warmup[len(text) : -1]) == pytest.approx(elbo, abs=0.5)
    assert approx.mean == 0
    np.testing.assert_allclose(approx.std, np.log(2), rtol=1e-6)


def test_auto_goes_on_from_what_was_fitted():
    inference = vi.ADVI(small, model_args=(Y,), random_seed=0)
    first = inference.fit(2, progressbar=False)
    second = inference.fit(2, progressbar=False)
    assert " iterations and " in first.facts.warmup
    assert second.facts.warmup == ""
    again = inference.fit(2, warmup=True, progressbar=False)
    assert " iterations and " in again.facts.warmup
    other = vi.KLqp(vi.FullRank.from_approx(first), random_seed=0).fit(1, progressbar=False)
    assert other.facts.warmup == ""
    np.testing.assert_allclose(other.mean, first.mean, atol=0.5 * first.std[0])


@pytest.mark.parametrize("method", ["svgd", "asvgd"])
def test_stein_methods_have_none(method):
    assert fit(1, method, obj_n_mc=10 if method == "asvgd" else None).facts.warmup == ""
    with pytest.raises(ValueError, match=f"a warm-up cannot be applied to '{method}'"):
        fit(1, method, warmup=True)


@pytest.mark.parametrize("wrong", ["yes", None, "True", 1, 0, np.True_])
def test_wrong_values_of_warmup(wrong):
    with pytest.raises(ValueError, match="warmup must be True, False or 'auto', got"):
        fit(warmup=wrong)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_a_control_variate_is_found_for_any_beta(beta):
    """With it the gradient has no noise, for q stays at the optimum to all digits."""
    target = multivariate_normal_mean(2)
    approx = vi.MeanField(target.model, model_args=target.args)
    found = vi.KLqp(approx, beta, random_seed=0).fit(300, progressbar=False)
    (prior_sd, rows), scale_tril = (2.0, len(target.args[0])), np.asarray(target.args[1])
    likelihood = rows * np.linalg.inv(scale_tril @ scale_tril.T)
    precision = likelihood / beta + np.eye(2) / prior_sd**2
    np.testing.assert_allclose(found.std, np.diag(precision) ** -0.5, rtol=1e-4)
    mean = np.linalg.solve(precision, likelihood @ np.asarray(target.args[0]).mean(0) / beta)
    np.testing.assert_allclose(found.mean, mean, atol=1e-3)


# --- continuation -------------------------------------------------------------------------------


@each_method
def test_refine_continues_exactly(method):
    def start():
        return KINDS[method](small, model_args=(Y,), random_seed=3)

    whole = start().fit(1000, progressbar=False)
    assert whole.facts.warmup
    parts = start()
    parts.fit(600, progressbar=False)
    assert same(parts.refine(400, progressbar=False), whole)
    late = start()
    plain = late.fit(0, progressbar=False)
    np.testing.assert_allclose(plain.std, np.log(2), rtol=1e-6)
    assert plain.facts.warmup == ""
    refined = late.refine(1000, progressbar=False)
    assert same(refined, whole)
    assert refined.facts.warmup == whole.facts.warmup


def test_callbacks_see_what_a_fit_of_that_length_returns():
    seen = {}
    whole = fit(30, callbacks=[lambda q, losses, i: seen.setdefault(i, q)])
    for n in (1, 7, 30):
        short = fit(n)
        np.testing.assert_allclose(seen[n].mean, short.mean, rtol=1e-6)
        np.testing.assert_allclose(seen[n].std, short.std, rtol=1e-6)
    assert seen[7].facts.warmup == whole.facts.warmup


@pytest.mark.parametrize("model", [small, zoo.eight_schools], ids=["gaussian", "not"])
def test_a_second_fit_compiles_nothing(model, compiled):
    args = [(Y,), (Y + 1,), (2 * Y,)]
    if model is zoo.eight_schools:
        args = [(zoo.ERRORS, shift + zoo.EFFECTS) for shift in range(3)]
    for seed in range(2):
        vi.fit(model, 100, model_args=args[seed], random_seed=seed, progressbar=False)
    compiled.clear()
    approx = vi.fit(model, 1000, model_args=args[2], random_seed=2, progressbar=False)
    assert approx.facts.warmup
    assert compiled == []


# --- antithetic noise ---------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7, 128])
@pytest.mark.parametrize("n_mc", [1, 3])
def test_every_second_step_has_the_opposite_noise(steps, n_mc):
    eps = np.asarray(Elbo(n_mc=n_mc).noise(jax.random.key(0), steps, 5, np.float32))
    assert eps.shape == (steps, n_mc, 5)
    np.testing.assert_array_equal(eps[1::2], -eps[: steps - steps % 2 : 2])
    firsts = eps[::2].ravel()
    assert len(np.unique(firsts)) == firsts.size  # nothing else is repeated
    longer = Elbo(n_mc=n_mc).noise(jax.random.key(0), 2 * -(-steps // 2), 5, np.float32)
    np.testing.assert_array_equal(longer[:steps], eps)


def line():
    """Log density -x: its loss is x itself, up to the entropy."""
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("f", -x)


def test_results_do_not_depend_on_chunks(monkeypatch):
    """Chunks of odd length cut pairs in two."""
    results = []
    for first, seconds in ((1, 0.1), (3, 1e-9), (7, 0.01)):
        monkeypatch.setattr(training, "_FIRST_CHUNK", first)
        monkeypatch.setattr(training, "_CHUNK_SECONDS", seconds)
        inference = vi.ADVI(line, random_seed=0)
        inference.fit(201, obj_optimizer=still(), progressbar=False)
        results.append(inference.refine(100, progressbar=False))
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    losses = results[0].hist[:300]
    pairs = losses[::2] + losses[1::2]
    np.testing.assert_allclose(pairs, pairs[0], atol=1e-5)  # x is opposite around its mean
    assert losses[::2].std() == pytest.approx(np.log(2), rel=0.25)  # 150 draws: 4 times 6 %


# --- steps that are not finite ------------------------------------------------------------------


def broken(limit):
    """A standard normal that is NaN beyond a limit."""
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("limit", jnp.where(x > limit, jnp.nan, 0.0))


def skipping(limit, n=400, model=broken, **options):
    inference = vi.ADVI(model, model_args=(limit,), start_sigma={"x": 1.0}, random_seed=0)
    options = {"obj_optimizer": vi.sgd(0.01), "on_nonfinite": "skip"} | options
    return inference, lambda: inference.fit(n, progressbar=False, **options)


def by_hand(inference, limit, n, rate=0.01):
    """The same steps in NumPy, up to the noise, which is that of the fit."""
    run = inference._run
    size = run.chunk._block
    eps = np.concatenate([run.chunk._noise(run.state, i)[:, 0, 0] for i in range(-(-n // size))])
    mu, rho, skipped = 0.0, np.log(np.expm1(1.0)), []
    for i, e in enumerate(eps[:n].astype(float)):
        s = np.log1p(np.exp(rho))
        z = mu + s * e
        if z > limit:
            skipped.append(i)
            continue
        slope = z - e / s  # of -log p + log q
        mu, rho = mu - rate * slope, rho - rate * slope * e * -np.expm1(-s)
    return mu, np.log1p(np.exp(rho)), skipped


def test_steps_that_are_not_finite_are_dropped():
    inference, run = skipping(2.0)
    approx = run()
    mu, sigma, skipped = by_hand(inference, 2.0, 400)
    assert 3 < len(skipped) < 40
    assert approx.facts.skipped == len(skipped)
    assert approx.status == "finished"
    assert list(np.flatnonzero(~np.isfinite(approx.hist))) == skipped
    assert approx.mean[0] == pytest.approx(mu, abs=1e-4)
    assert approx.std[0] == pytest.approx(sigma, abs=1e-4)


def test_averages_optimizers_and_continuation_skip_as_well():
    results = []
    for n in (400, 150):
        inference, run = skipping(2.0, n, obj_optimizer=None)
        approx = run()
        results.append(approx if n == 400 else inference.refine(250, progressbar=False))
    assert np.isfinite(results[0].mean).all()
    assert results[0].facts.skipped > 0
    assert results[0].facts.skipped == results[1].facts.skipped
    np.testing.assert_array_equal(results[0].mean, results[1].mean)
    np.testing.assert_array_equal(results[0].std, results[1].std)


def steep(limit):
    """A standard normal whose gradient alone is NaN beyond a limit: infinity times 0."""
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("limit", jnp.sqrt(jnp.maximum(limit - x, 0)) * 0)


def test_a_gradient_that_is_not_finite_is_dropped_as_well():
    """Also where the optimizer takes no more than its sign, which would hide it."""
    signs = optax.chain(optax.scale_by_sign(), optax.scale(-1e-6))
    inference, run = skipping(2.0, model=steep, obj_optimizer=signs)
    approx = run()
    skipped = by_hand(inference, 2.0, 400, rate=0.0)[2]
    assert list(np.flatnonzero(~np.isfinite(approx.hist))) == skipped
    assert approx.facts.skipped == len(skipped)
    assert abs(approx.mean[0]) < 1e-3


@pytest.mark.parametrize("every", [1, 7])
def test_callbacks_see_dropped_steps_stand_still(every):
    tracker = vi.Tracker(mean=lambda approx: approx.mean[0], every=every)
    creeping = optax.stateless_with_tree_map(lambda g, p: jnp.full_like(p, 1e-4) + 0 * g)
    options = {"obj_optimizer": creeping}
    tracked = skipping(2.0, callbacks=[tracker], **options)[1]()
    alone = skipping(2.0, **options)[1]()
    np.testing.assert_array_equal(tracked.mean, alone.mean)
    np.testing.assert_array_equal(tracked.hist, alone.hist)
    stands = np.diff(tracker["mean"]) == 0
    steps = zip(tracker.steps[:-1], tracker.steps[1:], strict=True)
    dropped = [np.isnan(alone.hist[a:b]).all() for a, b in steps]
    assert any(dropped) == (every == 1)
    np.testing.assert_array_equal(stands, dropped)


def test_without_bad_steps_skipping_changes_nothing():
    results = [skipping(99.0, on_nonfinite=how)[1]() for how in ("stop", "skip")]
    np.testing.assert_allclose(results[0].mean, results[1].mean, atol=1e-6)
    np.testing.assert_allclose(results[0].hist, results[1].hist, rtol=1e-5)
    assert [q.facts.skipped for q in results] == [0, 0]


def test_by_default_the_first_one_stops():
    inference, run = skipping(2.0, on_nonfinite="stop")
    with pytest.raises(vi.NonFiniteError) as caught:
        run()
    first = by_hand(inference, 2.0, 400)[2][0]
    assert caught.value.step == first + 1
    assert inference.approx.steps == first


@pytest.mark.parametrize(("limit", "n"), [(0.0, 400), (1.1, 3000)])
def test_too_many_are_given_up_on(limit, n):
    """After ten of the first hundred steps, or a tenth of more."""
    inference, run = skipping(limit, n, obj_optimizer=still())
    with pytest.raises(vi.NonFiniteError) as caught:
        run()
    skipped = by_hand(inference, limit, n, rate=0.0)[2]
    counts = 1 + np.arange(len(skipped))
    allowed = np.maximum(10, algorithm.MOST_SKIPPED * (1 + np.array(skipped)))
    last = skipped[np.flatnonzero(counts > allowed)[0]]
    assert caught.value.step == last + 1
    assert caught.value.approx.facts.skipped == np.searchsorted(skipped, last)
    assert np.isfinite(caught.value.approx.mean).all()
    assert inference.approx.steps == last


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_sites_are_named_where_the_gradient_alone_goes_bad(how):
    with pytest.raises(vi.NonFiniteError, match="parameters of 'x' non-finite") as caught:
        skipping(-10.0, model=steep, on_nonfinite=how)[1]()
    assert caught.value.sites == ("x",)


@pytest.mark.parametrize("wrong", ["ignore", None, True, 3])
def test_wrong_values_of_on_nonfinite(wrong):
    with pytest.raises(ValueError, match="on_nonfinite must be 'stop' or 'skip', got"):
        fit(on_nonfinite=wrong)


def test_l_bfgs_takes_over_where_newtons_steps_are_short(monkeypatch):
    """From this start they lead to a place 5 sds off, and nowhere from there."""
    monkeypatch.setattr(effort, "SEVERAL", 1.0)  # one start
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(50, 100)) * rng.integers(1, 10, 100) / 3
    y = (noise + rng.random(100) * 20).astype(np.float32)

    def model(y):
        flat = dist.ImproperUniform(dist.constraints.real, (), (y.shape[1],))
        mu = numpyro.sample("mu", flat)
        sd = numpyro.sample("sd", dist.HalfNormal(1).expand([y.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)

    approx = vi.fit(model, 1, model_args=(y,), obj_optimizer=vi.sgd(0.0), warmup=True,
                    random_seed=0, progressbar=False)  # fmt: skip
    error = (approx.mean[:100] - y.mean(axis=0)) / approx.std[:100]
    assert np.abs(error).max() < 0.2
