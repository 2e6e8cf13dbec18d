"""Stein methods: particles (SVGD) and amortised (ASVGD), through the public names."""

import logging
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import numpyro_vi_ext as vi

QUIET = {"progressbar": False}
MEAN, COV = np.array([1.0, -1.0]), np.array([[1.0, 0.6], [0.6, 1.0]])


def gaussian():
    numpyro.sample("x", dist.MultivariateNormal(jnp.array(MEAN), jnp.array(COV)))


def far(mean, sd):
    """A start at 0, not at the mean of a prior."""

    def model():
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.factor("f", dist.Normal(mean, sd).log_prob(x))

    return model


def mixture():
    weights, components = dist.Categorical(jnp.array([0.2, 0.8])), jnp.array([-0.3, 0.5])
    numpyro.sample("x", dist.MixtureSameFamily(weights, dist.Normal(components, 0.1)))


def standard(d):
    def model():
        numpyro.sample("x", dist.Normal(0, 1).expand([d]).to_event(1))

    return model


Y = np.array([2.0, 3.0, 4.5])


def regression(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.deterministic("twice", 2 * mu)
    numpyro.sample("y", dist.Normal(mu, 1).expand([len(y)]).to_event(1), obs=y)


def svgd(model=gaussian, n_particles=30, **options):
    return vi.SVGD(model, n_particles, **({"random_seed": 0} | options))


def same(a, b):
    return all(np.array_equal(a.params[name], b.params[name]) for name in a.params)


def gaussian_score(x):
    return -(x - MEAN) @ np.linalg.inv(COV)


def loop_phi(x, score, temperature=1.0, h=None):
    """PyMC's rbf with the median heuristic, pair by pair, in double precision."""
    x, score = np.asarray(x, float), np.asarray(score, float) / temperature
    n = len(x)
    if h is None:
        squares = [((a - b) ** 2).sum() for a in x for b in x]
        h = 0.5 * np.median(squares) / np.log(n + 1)
    phi = np.zeros_like(x)
    for i in range(n):
        for j in range(n):
            k = np.exp(-((x[i] - x[j]) ** 2).sum() / (2 * h))
            phi[i] += (k * score[j] + k * (x[i] - x[j]) / h) / n
    return phi, h


def loop_ksd(x, score, h):
    x, score = np.asarray(x, float), np.asarray(score, float)
    n, d = x.shape
    total = 0.0
    for i in range(n):
        for j in range(n):
            r = x[i] - x[j]
            k = np.exp(-(r @ r) / (2 * h))
            cross = (score[i] - score[j]) @ r / h + d / h - r @ r / h**2
            total += k * (score[i] @ score[j] + cross)
    return total / n**2


# --- one step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_one_step_is_pymcs(temperature):
    inference = svgd(temperature=temperature)
    before = inference.approx.histogram
    after = inference.fit(1, obj_optimizer=vi.sgd(0.1), **QUIET).histogram
    phi, _ = loop_phi(before, gaussian_score(before), temperature)
    np.testing.assert_allclose(after - before, 0.1 * phi, rtol=1e-4, atol=2e-6)


def test_one_step_with_other_kernels():
    def kernel(x, y):
        return jnp.exp(-jnp.sum((x - y) ** 2))

    for given, h in ((vi.rbf(0.5), 0.5), (kernel, 0.5), (vi.rbf(lambda x: 1.0 + 0 * x[0, 0]), 1.0)):
        inference = svgd(kernel=given)
        before = inference.approx.histogram
        after = inference.fit(1, obj_optimizer=vi.sgd(0.1), **QUIET).histogram
        phi, _ = loop_phi(before, gaussian_score(before), h=h)
        np.testing.assert_allclose(after - before, 0.1 * phi, rtol=1e-4, atol=2e-6)


def test_the_log_jacobian_is_part_of_the_target():
    """In unconstrained space, u = log x, an Exponential(2) has the score 1 - 2 exp(u)."""
    inference = svgd(lambda: numpyro.sample("x", dist.Exponential(2.0)))
    before = inference.approx.histogram
    after = inference.fit(1, obj_optimizer=vi.sgd(0.01), **QUIET).histogram
    phi, _ = loop_phi(before, 1 - 2 * np.exp(before.astype(float)))
    np.testing.assert_allclose(after - before, 0.01 * phi, rtol=1e-3, atol=2e-6)


def test_the_norm_of_the_gradient_is_bounded():
    """The norm over all particles together."""
    inference = svgd()
    before = inference.approx.histogram
    options = {"obj_optimizer": vi.sgd(1.0), "total_grad_norm_constraint": 0.5}
    after = inference.fit(1, **options, **QUIET).histogram
    phi, _ = loop_phi(before, gaussian_score(before))
    assert np.linalg.norm(phi) > 1
    expected = 0.5 * phi / np.linalg.norm(phi)
    np.testing.assert_allclose(after - before, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_asvgd_pulls_the_mean_of_the_directions_back():
    """The mean mu moves by the mean of phi over the draws, which sgd shows."""
    h, n = 0.8, 200
    q = vi.MeanField(standard(1), start={"x": [2.0]})
    inference = vi.ASVGD(approx=q, kernel=vi.rbf(h), random_seed=1)
    moves = []
    for _ in range(20):
        before = inference.approx.params["mu"]
        inference.fit(1, obj_optimizer=vi.sgd(1e-3), obj_n_mc=n, **QUIET)
        moves.append(inference.approx.params["mu"] - before)
    # For draws of N(m, s^2) and the score -x: the mean over pairs of k(x, y) (-y), in closed form.
    s2 = np.log(2) ** 2
    expected = -2.0 * np.sqrt(h / (h + 2 * s2))
    error = 3 * s2**0.5 / np.sqrt(n * 20)
    np.testing.assert_allclose(np.mean(moves) / 1e-3, expected, atol=error)


# --- fit, refine, fit again ---------------------------------------------------------------------


def test_a_second_fit_goes_on_from_the_particles():
    inference, tracker = svgd(), vi.Tracker(x=lambda q: q.histogram, step=lambda q, losses, i: i)
    first = inference.fit(100, callbacks=[tracker], **QUIET)
    second = inference.fit(400, obj_optimizer=vi.adamax(0.1), callbacks=[tracker], **QUIET)
    assert len(tracker["x"]) == 500
    assert tracker["step"] == [*range(1, 101), *range(1, 401)]
    np.testing.assert_array_equal(tracker["x"][99], first.histogram)
    np.testing.assert_array_equal(tracker["x"][-1], second.histogram)
    # The first step of adamax is the learning rate, in the direction of phi.
    phi, _ = loop_phi(first.histogram, gaussian_score(first.histogram))
    clear = np.abs(phi) > 1e-3
    moved = tracker["x"][100] - first.histogram
    np.testing.assert_allclose(moved[clear], 0.1 * np.sign(phi)[clear], rtol=1e-3)
    assert (first.steps, second.steps) == (100, 400)


@pytest.mark.parametrize("n", [40, 300])  # from 257 on something is remembered of the last step
def test_refine_is_a_longer_fit_bit_for_bit(n):
    whole = svgd(n_particles=n).fit(100, score=True, **QUIET)
    for parts in ((60, 40), (1, 98, 1)):
        inference = svgd(n_particles=n)
        inference.fit(parts[0], score=True, **QUIET)
        for part in parts[1:]:
            inference.refine(part, **QUIET)
        assert same(inference.approx, whole)
        assert np.array_equal(inference.hist, whole.hist)
        assert inference.approx.steps == 100


@pytest.mark.slow
def test_refine_of_asvgd_is_bit_for_bit():
    whole = vi.ASVGD(gaussian, random_seed=0).fit(50, obj_n_mc=300, **QUIET)
    inference = vi.ASVGD(gaussian, random_seed=0)
    inference.fit(20, obj_n_mc=300, **QUIET)
    assert same(inference.refine(30, **QUIET), whole)


def test_callbacks_do_not_change_the_particles():
    tracker = vi.Tracker(every=7, x=lambda q: q.histogram)
    watched = svgd(n_particles=300).fit(50, callbacks=[tracker], **QUIET)
    assert same(watched, svgd(n_particles=300).fit(50, **QUIET))
    assert same(vi.Empirical.from_approx(watched, 5, random_seed=0), watched) is False
    np.testing.assert_array_equal(tracker["x"][1], svgd(n_particles=300).fit(14, **QUIET).histogram)


def test_seeds_make_the_particles():
    """Initial ones and fitted ones."""
    starts = [svgd(random_seed=seed).approx.histogram for seed in (0, 0, 1)]
    assert np.array_equal(starts[0], starts[1])
    assert not np.isin(starts[0], starts[2]).any()
    assert same(svgd(random_seed=3).fit(9, **QUIET), svgd(random_seed=3).fit(9, **QUIET))
    key = vi.fit(gaussian, 9, "svgd", random_seed=jax.random.key(3), **QUIET)
    assert same(key, vi.fit(gaussian, 9, "svgd", random_seed=3, **QUIET))
    fresh = [svgd(random_seed=None).approx.histogram for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_particles_start_where_they_are_told():
    n = 4000
    x = svgd(n_particles=n, jitter=0.1, start={"x": [5.0, -5.0]}).approx.histogram
    np.testing.assert_allclose(x.mean(0), [5, -5], atol=4 * 0.1 / np.sqrt(n))
    np.testing.assert_allclose(x.std(0), 0.1, rtol=4 / np.sqrt(2 * n))
    x = svgd(n_particles=n, start_sigma={"x": [1.0, 3.0]}).approx.histogram
    np.testing.assert_allclose(x.std(0), [1, 3], rtol=4 / np.sqrt(2 * n))
    x = svgd(n_particles=7, jitter=0, start={"x": [5.0, -5.0]}).approx.histogram
    np.testing.assert_array_equal(x, np.tile(np.float32([5, -5]), (7, 1)))


def test_method_by_name_class_and_instance():
    expected = svgd().fit(20, **QUIET)
    options = {"random_seed": 0, "inf_kwargs": {"n_particles": 30}, **QUIET}
    assert type(expected) is vi.Empirical
    for method in ("svgd", "SVGD", "Svgd", vi.SVGD):
        assert same(vi.fit(gaussian, 20, method, **options), expected)
    assert same(vi.fit(None, 20, svgd(), **QUIET), expected)
    found = [vi.fit(gaussian, 9, m, random_seed=0, **QUIET) for m in ("ASVGD", vi.ASVGD)]
    assert same(*found)
    assert type(found[0]) is vi.FullRank
    assert repr(expected) == "Empirical(sites=[x], ndim=2, rows=30, steps=20, status='finished')"
    assert np.shape(vi.fit(gaussian, 0, "svgd", **QUIET).histogram) == (100, 2)


# --- losses, callbacks, the bar -----------------------------------------------------------------


def test_without_a_loss():
    seen = []
    inference = svgd()
    approx = inference.fit(20, callbacks=[lambda q, losses, i: seen.append((losses, i))], **QUIET)
    assert seen == [(None, i) for i in range(1, 21)]
    assert inference.hist.shape == approx.hist.shape == (0,)
    assert approx.message == "Finished [100%]"
    with pytest.raises(ValueError, match="no losses to plot: fit first, with score=True"):
        vi.plot_loss(approx)
    text = "CheckLossConvergence needs losses, got None: fit with score=True"
    with pytest.raises(TypeError, match=text):
        svgd().fit(10, callbacks=[vi.CheckLossConvergence(every=1)], **QUIET)


@pytest.mark.slow  # compared at the last digits, which are those of optimised code
def test_score_is_the_discrepancy_at_the_particles_before_the_step():
    inference, tracker = svgd(temperature=2.0), vi.Tracker(x=lambda q: q.histogram)
    start = inference.approx.histogram
    losses = []
    record = [tracker, lambda q, hist, i: losses.append(hist.copy())]
    inference.fit(3, score=True, obj_optimizer=vi.sgd(0.1), callbacks=record, **QUIET)
    for x, value in zip([start, *tracker["x"]], inference.hist, strict=False):
        score = gaussian_score(x.astype(float)) / 2
        np.testing.assert_allclose(value, loop_ksd(x, score, loop_phi(x, score)[1]), rtol=1e-4)
    assert [len(x) for x in losses] == [1, 2, 3]
    plain = svgd(temperature=2.0).fit(3, obj_optimizer=vi.sgd(0.1), **QUIET)
    assert same(plain, inference.approx)  # and it changes nothing


def test_the_bar_shows_the_norm_of_phi(capsys):
    inference = svgd()
    x = inference.approx.histogram
    phi, _ = loop_phi(x, gaussian_score(x))
    inference.fit(1)
    text = capsys.readouterr().err
    found = float(re.search(r"Norm of phi = ([\d.e+-]+)", text)[1])
    np.testing.assert_allclose(found, np.sqrt((phi**2).sum(1).mean()), rtol=1e-3)
    assert "Finished [100%]" in text
    svgd().fit(5, score=True)
    assert "Average Loss = " in capsys.readouterr().err
    svgd().fit(5, progressbar=False)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_convergence_by_parameters():
    check = vi.CheckParametersConvergence(every=10, tolerance=1e-2, diff="absolute")
    approx = svgd().fit(3000, callbacks=[check], **QUIET)
    assert approx.status == "converged"
    assert approx.message.startswith(f"Convergence achieved at {approx.steps}")
    assert approx.steps < 3000
    assert same(approx, svgd().fit(approx.steps, **QUIET))


@pytest.mark.parametrize("n", [30, 300])
def test_stopping_and_going_on(n):
    def stop(approx, losses, i):
        if i == 7:
            raise StopIteration("enough")

    inference = svgd(n_particles=n)
    approx = inference.fit(20, callbacks=[stop], **QUIET)
    assert (approx.status, approx.steps) == ("stopped", 7)
    assert approx.message.startswith("enough")
    assert same(inference.refine(13, **QUIET), svgd(n_particles=n).fit(20, **QUIET))


def test_interrupt(caplog):
    def press(approx, losses, i):
        if i == 5:
            signal.raise_signal(signal.SIGINT)

    with caplog.at_level(logging.INFO, "numpyro_vi_ext"):
        approx = svgd().fit(100, callbacks=[press], **QUIET)
    assert (approx.status, approx.steps) == ("interrupted", 5)
    assert "Interrupted at 5 [5%]" in caplog.text
    assert same(approx, svgd().fit(5, **QUIET))


# --- answers ------------------------------------------------------------------------------------


def test_correlated_gaussian():
    """The fixed point of 200 particles has the exact mean; its spread is a little small."""
    approx = svgd(n_particles=200).fit(1500, **QUIET)
    np.testing.assert_allclose(approx.mean, MEAN, atol=0.02)
    np.testing.assert_allclose(approx.std, 1, atol=0.08)
    np.testing.assert_allclose(approx.cov[0, 1], 0.6, atol=0.1)
    assert approx.message == "Finished [100%]"  # nothing to warn of


@pytest.mark.parametrize(
    ("mean", "sd", "steps"),
    [
        (10, 1, 1000),
        (0, 1e-3, 2000),
        pytest.param(10, 1e-3, 2000, marks=pytest.mark.slow),
        pytest.param(1000, 1, 10_000, marks=pytest.mark.slow),
    ],
)
def test_the_default_optimizer_gets_there(mean, sd, steps):
    approx = svgd(far(mean, sd), 100).fit(steps, **QUIET)
    np.testing.assert_allclose(approx.mean, mean, atol=0.1 * sd)
    np.testing.assert_allclose(approx.std, sd, rtol=0.1)


@pytest.mark.slow
def test_temperature_widens():
    """The variance of a tempered Gaussian is T times as large."""
    approx = svgd(far(0, 1), 200, temperature=4.0).fit(1500, **QUIET)
    np.testing.assert_allclose(approx.std, 2, rtol=0.08)


def test_mixture():
    """Proportions are those of the starting particles' basins, as SVGD goes; modes are exact."""
    options = {"random_seed": 0, "obj_optimizer": vi.sgd(learning_rate=0.01), **QUIET}
    approx = vi.fit(mixture, 300, method="svgd", inf_kwargs={"n_particles": 1000}, **options)
    x = approx.histogram.ravel()
    density = stats.gaussian_kde(x, 0.15)
    for mode, low, high in ((-0.3, -1, 0.1), (0.5, 0.1, 1)):
        grid = np.linspace(low, high, 500)
        np.testing.assert_allclose(grid[density(grid).argmax()], mode, atol=0.05)
    assert 0.1 < np.mean(x < 0.1) < 0.4
    assert np.mean((np.abs(x + 0.3) < 0.3) | (np.abs(x - 0.5) < 0.3)) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [vi.imq, lambda x, y: jnp.exp(-2 * jnp.sum((x - y) ** 2))])
def test_other_kernels_get_there_too(kernel):
    approx = svgd(far(3, 1), 100, kernel=kernel).fit(1500, **QUIET)
    np.testing.assert_allclose(approx.mean, 3, atol=0.05)
    np.testing.assert_allclose(approx.std, 1, atol=0.15)


def test_one_particle_finds_the_mode():
    approx = svgd(n_particles=1).fit(1500, **QUIET)
    np.testing.assert_allclose(approx.histogram, MEAN[None], atol=0.01)


def test_equal_particles_stay_together():
    approx = svgd(n_particles=8, jitter=0, start={"x": [4.0, 4.0]}).fit(1500, **QUIET)
    np.testing.assert_allclose(approx.histogram, np.tile(MEAN, (8, 1)), atol=0.01)
    assert "too close together" in approx.message


def test_collapse_is_told(caplog):
    with caplog.at_level(logging.INFO, "numpyro_vi_ext"):
        approx = svgd(standard(100), 50).fit(500, **QUIET)
    assert (approx.std**2).mean() < 0.1  # of 1
    text = "too close together: their variance, averaged over 100 dimensions, is "
    assert text in approx.message
    assert text in caplog.text
    assert "more particles, or method='advi' or 'fullrank_advi'" in approx.message
    # What it says is the variance, as the target is a standard normal.
    said = float(re.search(r"dimensions, is ([\d.e-]+) of", approx.message)[1])
    np.testing.assert_allclose(said, (approx.std**2).mean(), rtol=0.1)


@pytest.mark.slow
def test_params_of_the_model_are_optimised():
    """The noise of N(m, s), m given its prior: the maximum of the marginal likelihood is near."""
    y = np.random.default_rng(0).normal(3, 2, size=400)

    def model(y):
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        m = numpyro.sample("m", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(m, s).expand([400]).to_event(1), obs=y)

    for approx in (
        svgd(model, 50, model_args=(y,)).fit(3000, **QUIET),
        vi.ASVGD(model, model_args=(y,), random_seed=0).fit(3000, obj_n_mc=20, **QUIET),
    ):
        np.testing.assert_allclose(approx.model_params["s"], y.std(ddof=1), rtol=0.01)
        np.testing.assert_allclose(approx.mean, y.mean(), atol=0.02)


@pytest.mark.slow
def test_subsampling_inside_the_model():
    """100 of 1000 rows at each step, new ones each time."""
    y = np.random.default_rng(0).normal(3, 1, size=1000)

    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 10))
        with numpyro.plate("rows", 1000, subsample_size=100):
            numpyro.sample("y", dist.Normal(m, 1), obs=numpyro.subsample(y, 0))

    optimizer = vi.adam(lambda t: 0.1 / (1 + t / 30))
    approx = svgd(model, model_args=(y,)).fit(3000, obj_optimizer=optimizer, **QUIET)
    np.testing.assert_allclose(approx.mean, y.mean(), atol=0.03)  # sd of the posterior 0.032
    assert 0.015 < approx.std < 0.06


# --- amortised ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [pytest.param(vi.rbf, marks=pytest.mark.slow), vi.imq])
def test_asvgd_recovers_a_correlated_gaussian(kernel):
    approx = vi.ASVGD(gaussian, kernel=kernel, random_seed=0).fit(2000, obj_n_mc=100, **QUIET)
    np.testing.assert_allclose(approx.mean, MEAN, atol=0.05)
    np.testing.assert_allclose(approx.std, 1, atol=0.1)  # a bit small for few draws a step
    np.testing.assert_allclose(approx.cov[0, 1], 0.6, atol=0.1)
    assert approx.hist.shape == (0,)


def test_asvgd_starts_from_any_density():
    for q in (vi.MeanField(gaussian), vi.FullRank(gaussian)):
        inference = vi.ASVGD(gaussian, q, random_seed=0)
        assert inference.approx is q
    approx = inference.fit(9, obj_n_mc=50, **QUIET)
    assert type(approx) is vi.FullRank
    assert same(vi.ASVGD(gaussian).approx, vi.FullRank(gaussian))
    options = {"random_seed": 0, "obj_n_mc": 50, **QUIET}
    assert same(vi.fit(None, 9, "asvgd", inf_kwargs={"approx": q}, **options), approx)


@pytest.mark.slow
def test_asvgd_draws_500_unless_told():
    def fit(**options):
        return vi.ASVGD(gaussian, random_seed=0).fit(5, **options, **QUIET)

    assert same(fit(), fit(obj_n_mc=500))
    assert not same(fit(), fit(obj_n_mc=499))
    assert len(fit(obj_n_mc=1, score=True).hist) == 5


@pytest.mark.slow
def test_temperature_of_asvgd():
    q = vi.MeanField(far(0, 1))
    approx = vi.ASVGD(approx=q, temperature=4.0, random_seed=0).fit(2000, obj_n_mc=100, **QUIET)
    np.testing.assert_allclose(approx.std, 2, rtol=0.08)


# --- bad input, bad numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_particles": 0}, ValueError, "n_particles must be at least 1, got 0"),
        ({"n_particles": -3}, ValueError, "n_particles must be at least 1, got -3"),
        ({"n_particles": 10.0}, TypeError, "n_particles must be an integer, got 10.0 of type flo"),
        ({"n_particles": True}, TypeError, "n_particles must be an integer, got True"),
        ({"jitter": -0.1}, ValueError, "jitter must be at least 0 and finite, got -0.1"),
        ({"jitter": np.nan}, ValueError, "jitter must be at least 0 and finite, got nan"),
        ({"jitter": "1"}, TypeError, "jitter must be a number, got '1' of type str"),
        ({"temperature": -1}, ValueError, "temperature must be greater than 0 and finite, got -1"),
        ({"temperature": 0}, ValueError, "temperature must be greater than 0 and finite, got 0"),
        ({"temperature": np.inf}, ValueError, "temperature must be greater than 0 and finite"),
        ({"temperature": "1"}, TypeError, "temperature must be a number, got '1' of type str"),
        (
            {"kernel": lambda x, y: x - y},
            ValueError,
            r"kernel must give one real number for two points of shape \(2,\), got .*\(2,\)",
        ),
        ({"kernel": "rbf"}, TypeError, "kernel must be rbf, imq, one of these called"),
        ({"start": {"x": [np.nan, 0]}}, ValueError, r"start\['x'\] must be finite"),
        ({"start": {"x": [np.inf, 0]}}, ValueError, r"start\['x'\] must be finite"),
        ({"start": {"z": 0}}, KeyError, r"start names \['z'\], but the latent sites are \['x'\]"),
        ({"start_sigma": {"x": 0}}, ValueError, r"start_sigma\['x'\] must be positive"),
        ({"random_seed": 0.5}, TypeError, "random_seed must be None, an int or a JAX key"),
        ({"particles": 3}, TypeError, "unexpected keyword argument 'particles'"),
    ],
)
def test_bad_input_of_svgd(options, error, text):
    with pytest.raises(error, match=text):
        vi.SVGD(gaussian, **options)
    given = dict(options)
    top = {k: given.pop(k) for k in ("start", "start_sigma", "random_seed") if k in given}
    with pytest.raises(error, match=text):
        vi.fit(gaussian, 10, "svgd", inf_kwargs=given, **top, **QUIET)


def test_obj_n_mc_cannot_be_applied_to_particles():
    text = "obj_n_mc cannot be applied to particles: each step uses all of them, as many as n_part"
    for n_mc in (1, 10):
        with pytest.raises(TypeError, match=text):
            vi.fit(gaussian, 10, "svgd", obj_n_mc=n_mc, **QUIET)
    inference = svgd()
    with pytest.raises(TypeError, match=text):
        inference.fit(10, obj_n_mc=10, **QUIET)
    assert same(inference.fit(5, **QUIET), svgd().fit(5, **QUIET))


def test_bad_input_of_asvgd():
    particles, q = vi.Empirical(size=5, model=gaussian), vi.MeanField(gaussian)
    for approx in (particles, svgd().approx, gaussian):
        with pytest.raises(TypeError, match=r"ASVGD fits an approximation with a density, .* got "):
            vi.ASVGD(approx=approx)
    with pytest.raises(TypeError, match=r"\['start'\] cannot be applied to an approx that is giv"):
        vi.ASVGD(approx=q, start={"x": [0.0, 0.0]})
    with pytest.raises(ValueError, match="the approx has a model of its own"):
        vi.ASVGD(mixture, q)
    with pytest.raises(TypeError, match=r"unknown options \['n_particles'\]; this method takes"):
        vi.ASVGD(gaussian, n_particles=10)
    with pytest.raises(ValueError, match="temperature must be greater than 0 and finite, got 0"):
        vi.ASVGD(gaussian, temperature=0)
    with pytest.raises(ValueError, match="kernel must give one real number"):
        vi.ASVGD(gaussian, kernel=lambda x, y: x)
    with pytest.raises(ValueError, match="obj_n_mc must be at least 1, got 0"):
        vi.ASVGD(gaussian).fit(5, obj_n_mc=0, **QUIET)


def undefined(low):
    """The density of b is NaN, and so is its gradient, below a bound."""
    numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.factor("edge", jnp.sqrt(b - low))


def test_nan_names_the_site_and_counts_the_points():
    low = -1.0
    inference = svgd(undefined, 200, model_args=(low,))
    start = inference.approx.histogram
    below = (start[:, 1] < low).sum()
    assert 10 < below < 60
    text = (
        f"NaN or infinity at step 1: the log density of 'edge' is not finite at {below} of the 200 "
        "points where the model was evaluated. The approximation after 0 steps is kept as .approx"
    )
    with pytest.raises(vi.NonFiniteError, match=re.escape(text)) as caught:
        inference.fit(10, **QUIET)
    assert caught.value.sites == ("edge",)
    assert caught.value.step == 1
    assert caught.value.approx is inference.approx
    np.testing.assert_array_equal(inference.approx.histogram, start)


def test_nan_later_keeps_the_last_finite_particles():
    """All start inside; those that a large step throws over the edge are the trouble."""
    inference = svgd(undefined, 20, model_args=(-1.0,), jitter=0.01, start={"a": 0.0, "b": 2.0})
    with pytest.raises(vi.NonFiniteError, match=r"log density of 'edge' .* of the 20 points") as e:
        inference.fit(50, obj_optimizer=vi.sgd(3.0), **QUIET)
    steps = e.value.step - 1
    assert steps >= 1
    kept = e.value.approx
    assert kept.steps == steps
    assert np.isfinite(kept.histogram).all()
    again = svgd(undefined, 20, model_args=(-1.0,), jitter=0.01, start={"a": 0.0, "b": 2.0})
    assert same(again.fit(steps, obj_optimizer=vi.sgd(3.0), **QUIET), kept)


# --- nothing is traced or compiled again --------------------------------------------------------

calls = []


def counted(x, y):
    calls.append(None)
    w = numpyro.sample("w", dist.Normal(0, 3))
    numpyro.sample("y", dist.Normal(w * x, 1).to_event(1), obs=y)


@pytest.mark.parametrize("method", ["svgd", pytest.param("asvgd", marks=pytest.mark.slow)])
def test_a_second_fit_traces_and_compiles_nothing(method):
    names, active = [], [True]

    def listener(event, duration, **info):
        if active and event.endswith("backend_compile_duration"):
            names.append(info.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listener)

    def fit(n, seed):
        x, y = np.random.default_rng(seed).normal(size=(2, 11)).astype(np.float32)
        options = {"obj_optimizer": vi.adam(0.1), "model_args": (x, y), "random_seed": seed}
        approx = vi.fit(counted, n, method, **options, **QUIET)
        return approx, (x @ y) / (x @ x + 1 / 9)

    fit(10, 0)
    fit(30, 1)
    calls.clear()
    names.clear()
    approx, expected = fit(500, 2)
    assert calls == []
    assert names == []
    assert abs(approx.mean[0] - expected) < 0.1
    active.clear()


def test_kernels_and_temperatures_are_recognised():
    def fit(**options):
        x = np.ones(11, np.float32)
        vi.SVGD(counted, 20, model_args=(x, x), random_seed=0, **options).fit(3, **QUIET)

    fit(kernel=vi.rbf(0.5))
    fit(kernel=vi.imq, temperature=2)
    calls.clear()
    fit(kernel=vi.rbf(np.float64(0.5)))
    fit(kernel=vi.imq(), temperature=2.0)
    assert calls == []


# --- what the result can do ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return svgd(regression, 200, model_args=(Y,)).fit(1000, **QUIET)


def test_draws_of_the_result(fitted):
    posterior = fitted.sample(50, random_seed=0)["posterior"]
    assert np.isin(posterior["mu"].values, fitted.histogram).all()
    np.testing.assert_allclose(posterior["twice"].values, 2 * posterior["mu"].values)
    np.testing.assert_allclose(fitted.mean, 300 / 301 * Y.mean(), atol=0.02)
    found = fitted.sample_node(["mu", lambda s: s["twice"] - s["mu"]], 20, random_seed=1)
    np.testing.assert_allclose(*found, rtol=1e-5)
    at_mean = fitted.sample_node("mu", deterministic=True)
    np.testing.assert_allclose(at_mean, fitted.mean[0], rtol=1e-6)


def test_predictions_of_the_result(fitted):
    found = fitted.sample_posterior_predictive(4000, random_seed=0, return_inferencedata=False)
    sd = np.sqrt(1 + fitted.std[0] ** 2)
    np.testing.assert_allclose(found["y"].mean(0), fitted.mean[0], atol=5 * sd / np.sqrt(4000))
    np.testing.assert_allclose(found["y"].std(0), sd, rtol=5 / np.sqrt(8000))


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "q.npz")
    loaded = vi.load(tmp_path / "q.npz", regression, model_args=(Y,))
    assert type(loaded) is vi.Empirical
    assert same(loaded, fitted)
    assert loaded.message == fitted.message
    assert loaded.steps == 1000


@pytest.mark.slow
def test_bridges_from_the_result(fitted):
    kernel, init = vi.to_nuts(fitted, 2, random_seed=0)
    mcmc = numpyro.infer.MCMC(
        kernel, num_warmup=100, num_samples=400, num_chains=2, progress_bar=False,
        chain_method="vectorized",
    )  # fmt: skip
    mcmc.run(jax.random.key(0), init_params=init)
    np.testing.assert_allclose(mcmc.get_samples()["mu"].mean(), fitted.mean[0], atol=0.15)
    q = vi.FullRank.from_approx(fitted)
    np.testing.assert_allclose(q.mean, fitted.mean, rtol=1e-4)
    np.testing.assert_allclose(q.std, fitted.std, rtol=1e-3)
    assert type(vi.ASVGD(approx=q).fit(3, **QUIET)) is vi.FullRank


@pytest.mark.slow
def test_in_double_precision():
    """With a bandwidth that is given."""
    with jax.enable_x64(True):
        inference = svgd(kernel=vi.rbf(0.5))
        before = inference.approx.histogram
        after = inference.fit(1, obj_optimizer=vi.sgd(0.1), **QUIET).histogram
        phi, _ = loop_phi(before, gaussian_score(before), h=0.5)
        assert before.dtype == after.dtype == np.float64
        np.testing.assert_allclose(after - before, 0.1 * phi, rtol=1e-9, atol=1e-12)
        approx = vi.ASVGD(gaussian, kernel=vi.rbf(1.0), random_seed=0).fit(5, **QUIET)
        assert approx.mean.dtype == np.float64


# -- found by attack


def test_double_precision_with_the_median():
    with jax.enable_x64(True):
        approx = vi.SVGD(normal_at_3, 20, random_seed=0).fit(200, progressbar=False)
        assert approx.mean.dtype == np.float64
        assert approx.mean[0] == pytest.approx(3, abs=0.01)


def test_equal_particles_climb_together():
    svgd = vi.SVGD(normal_at_3, 100, jitter=0, start={"x": 0.1}, random_seed=0)
    approx = svgd.fit(200, obj_optimizer=vi.sgd(0.1), progressbar=False)
    np.testing.assert_allclose(approx.histogram, 3, rtol=1e-5)


def normal_at_3():
    numpyro.sample("x", dist.Normal(3, 1))


def undefined_on_the_left():
    """A log density that is NaN where its gradient is finite."""
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("f", jnp.where(x > -0.5, 0.0, jnp.nan))


def test_density_that_is_not_finite_though_its_gradient_is():
    svgd = vi.SVGD(undefined_on_the_left, 100, random_seed=0, start={"x": 1.0})
    with pytest.raises(vi.NonFiniteError, match=r"'f' is not finite at \d+ of the 100 points"):
        svgd.fit(100, progressbar=False)


def test_negative_bandwidth_stops_the_fit():
    svgd = vi.SVGD(normal_at_3, 20, kernel=vi.rbf(lambda x: -1.0), random_seed=0)
    with pytest.raises(vi.NonFiniteError, match=r"bandwidth .which must be positive"):
        svgd.fit(5, progressbar=False)


def test_collapse_of_amortised_draws_is_told():
    def many():
        numpyro.sample("x", dist.Normal(0, 1).expand([50]).to_event(1))

    approx = vi.ASVGD(many, random_seed=0).fit(500, obj_n_mc=50, progressbar=False)
    assert "The 50 draws of a step are too close together" in approx.message


def test_a_single_particle_is_not_said_to_have_collapsed():
    approx = vi.SVGD(normal_at_3, 1, random_seed=0).fit(100, progressbar=False)
    assert approx.message == "Finished [100%]"
