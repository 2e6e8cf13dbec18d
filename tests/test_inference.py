"""`fit` and the inference objects: options, seeds, continuation, errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from targets import normal_mean

import numpyro_vi_ext as vi
from numpyro_vi_ext import chunk, training

Y = np.array([2.0, 3.0, 4.5])
SGD = vi.sgd(1e-2)


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1).expand([3]).to_event(1), obs=y)


def scale_model():
    s = numpyro.sample("s", dist.HalfNormal(3).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(1, 2))
    numpyro.factor("f", -jnp.sum((s - 1) ** 2))


def mixture():
    weights, components = dist.Categorical(jnp.array([0.2, 0.8])), jnp.array([-0.3, 0.5])
    numpyro.sample("x", dist.MixtureSameFamily(weights, dist.Normal(components, 0.1)))


def flat_model():
    """The loss is 0.5 (theta - 1)^2 minus the entropy, whatever the draw."""
    numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    theta = numpyro.param("theta", jnp.array(3.0))
    numpyro.factor("f", -0.5 * (theta - 1) ** 2)


def fit(n=300, fn=model, args=(Y,), **options):
    return vi.fit(fn, n, model_args=args, progressbar=False, **({"random_seed": 0} | options))


def advi(fn=model, args=(Y,), **options):
    return vi.ADVI(fn, model_args=args, **({"random_seed": 0} | options))


def same(a, b):
    """Whether two approximations are the same, bit for bit."""
    equal = [np.array_equal(a.params[name], b.params[name]) for name in a.params]
    return all(equal) and np.array_equal(a.hist, b.hist)


class Record:
    """A callback that keeps what it is given."""

    def __init__(self, every=1):
        self.every = every
        self.approx, self.losses, self.steps = [], [], []

    def __call__(self, approx, losses, i):
        self.approx.append(approx)
        self.losses.append(losses)
        self.steps.append(i)


# --- method -------------------------------------------------------------------------------------


def test_method_by_name_class_and_instance_is_the_same():
    expected = fit()
    assert type(expected) is vi.MeanField
    assert same(fit(method="ADVI"), expected)
    assert same(fit(method=vi.ADVI), expected)
    assert same(vi.fit(None, 300, method=advi(), progressbar=False), expected)
    instance = advi()
    result = vi.fit(model, 300, method=instance, progressbar=False)
    assert same(result, expected)
    assert result is instance.approx
    assert same(vi.fit(method=advi(), n=300, progressbar=False), expected)
    assert type(fit(0, method="FullRank_ADVI")) is vi.FullRank
    assert type(fit(0, method=vi.FullRankADVI)) is vi.FullRank


def test_klqp_as_instance():
    approx = vi.fit(None, 300, vi.KLqp(vi.MeanField(model, model_args=(Y,))), progressbar=False)
    assert type(approx) is vi.MeanField
    assert len(approx.hist) == 300


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"method": "advy"},
            KeyError,
            r"'advy' is unknown; the methods are \['advi', 'asvgd', 'fullrank",
        ),
        ({"method": 3}, TypeError, "an Inference instance or an Inference class, got int"),
        ({"method": vi.MeanField}, TypeError, "an Inference instance or an Inference class, got"),
        ({"n": -1}, ValueError, "n must be at least 0, got -1"),
        ({"n": 2**31}, ValueError, "n must be at most 2,146,435,072, got 2,147,483,648"),
        ({"n": 10.0}, TypeError, "n must be an integer, got 1"),
        ({"n": True}, TypeError, "n must be an integer, got True"),
        ({"inf_kwargs": {"foo": 1}}, TypeError, r"unknown options \['foo'\]; this method takes"),
        ({"inf_kwargs": {"model_args": 1}}, TypeError, r"\['model_args'\] are given twice"),
        ({"inf_kwargs": [1]}, TypeError, "inf_kwargs must be a dict, got list"),
        ({"model_args": Y}, TypeError, "model_args must be a tuple, got ndarray"),
        ({"model_kwargs": [1]}, TypeError, "model_kwargs must be a dict, got list"),
        ({"start": np.zeros(3)}, TypeError, "start must be a dict .*, got ndarray"),
        ({"start_sigma": np.zeros(3)}, TypeError, "start_sigma must be a dict .*, got ndarray"),
        ({"callbacks": print}, TypeError, "callbacks must be a list of callables, got <built-in"),
        ({"callbacks": 3}, TypeError, "callbacks must be a list of callables, got 3"),
        ({"callbacks": [3]}, TypeError, "callbacks must be callable, got int: 3"),
        (
            {"callbacks": [vi.CheckLossConvergence]},
            TypeError,
            r"got the class CheckLossConvergence: make one, as CheckLossConvergence\(\)",
        ),
        ({"callbacks": [Record(0)]}, ValueError, r"every of the callback .* at least 1, got 0"),
        (
            {"callbacks": [Record(1.5)]},
            TypeError,
            "every of the callback .* must be an integer, got",
        ),
        ({"obj_optimizer": "adam"}, TypeError, "obj_optimizer must be an optax transformation"),
        ({"obj_n_mc": 0}, ValueError, "obj_n_mc must be at least 1, got 0"),
        ({"obj_n_mc": 1.0}, TypeError, "obj_n_mc must be an integer, got 1"),
        (
            {"total_grad_norm_constraint": 0},
            ValueError,
            "total_grad_norm_constraint must be greater than 0 and finite, got 0",
        ),
        (
            {"total_grad_norm_constraint": -1},
            ValueError,
            "constraint must be greater than 0 and finite, got -1",
        ),
        (
            {"total_grad_norm_constraint": np.nan},
            ValueError,
            "constraint must be greater than 0 and finite, got nan",
        ),
        (
            {"total_grad_norm_constraint": np.inf},
            ValueError,
            "constraint must be greater than 0 and finite, got inf",
        ),
        ({"total_grad_norm_constraint": "1"}, TypeError, "constraint must be a number, got '1'"),
        (
            {"random_seed": "one"},
            TypeError,
            "random_seed must be None, an int or a JAX key, got str",
        ),
        (
            {"random_seed": 1.5},
            TypeError,
            "random_seed must be None, an int or a JAX key, got float",
        ),
        (
            {"start": {"nu": 1}},
            KeyError,
            r"start names \['nu'\], but the latent sites are \['mu'\]",
        ),
        ({"start_sigma": {"nu": 1}}, KeyError, r"start_sigma names \['nu'\], but the latent"),
        ({"start": {"mu": [1, 2]}}, ValueError, r"start\['mu'\] has shape \(2,\)"),
        ({"start_sigma": {"mu": 0}}, ValueError, r"start_sigma\['mu'\] must be positive"),
        (
            {"more_replacements": {"q": Y}},
            KeyError,
            r"has no argument 'q'; its arguments are \['y'",
        ),
    ],
)
def test_bad_input(options, error, text):
    arguments = {"model": model, "n": 10, "model_args": (Y,), "progressbar": False} | options
    with pytest.raises(error, match=text):
        vi.fit(**arguments)


def test_without_a_model():
    with pytest.raises(TypeError, match="must be a NumPyro callable or a Model, got NoneType"):
        vi.fit(n=10)


@pytest.mark.parametrize(
    "option",
    [
        {"model_args": (Y,)},
        {"model_kwargs": {"y": Y}},
        {"random_seed": 0},
        {"start": {"mu": 0.0}},
        {"start_sigma": {"mu": 1.0}},
        {"inf_kwargs": {"init_strategy": numpyro.infer.init_to_median}},
    ],
)
def test_options_that_an_instance_cannot_take(option):
    name = next(iter(option.get("inf_kwargs", option)))
    with pytest.raises(
        TypeError, match=rf"\['{name}'\] cannot be applied to an Inference instance"
    ):
        vi.fit(None, 10, method=advi(), **option)


def test_instance_with_another_model():
    with pytest.raises(ValueError, match="has a model of its own"):
        vi.fit(scale_model, 10, method=advi())


def test_inference_itself_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        fit(method=vi.Inference)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"beta": -0.5}, ValueError, "beta must be at least 0 and finite, got -0.5"),
        ({"beta": np.nan}, ValueError, "beta must be at least 0 and finite, got nan"),
        ({"beta": np.inf}, ValueError, "beta must be at least 0 and finite, got inf"),
        ({"beta": "1"}, TypeError, "beta must be a number, got '1'"),
        (
            {"approx": model},
            TypeError,
            r"an approximation with a density, such as MeanField\(model\) .*, got function",
        ),
    ],
)
def test_bad_input_of_klqp(options, error, text):
    with pytest.raises(error, match=text):
        vi.KLqp(**{"approx": vi.MeanField(model, model_args=(Y,)), **options})


def test_refine_before_fit():
    with pytest.raises(TypeError, match=re.escape("refine continues a fit: call .fit(n) first")):
        advi().refine(10)


@pytest.mark.parametrize("n", [-1, 2.5, 2**31 - 2**20])
def test_bad_n_of_refine(n):
    inference = advi()
    inference.fit(10, progressbar=False)
    with pytest.raises((ValueError, TypeError), match="n must be"):
        inference.refine(n)
    assert len(inference.hist) == 10


@pytest.mark.parametrize(
    "bad",
    [
        {"n": -1},
        {"callbacks": [3]},
        {"obj_optimizer": optax.GradientTransformation(lambda p: 1 / 0, lambda *a: a)},
        {"more_replacements": {"q": 1}},
    ],
)
def test_a_refused_fit_changes_nothing(bad):
    inference = advi()
    before = inference.fit(20, progressbar=False)
    with pytest.raises((ValueError, TypeError, KeyError, ZeroDivisionError)):
        inference.fit(**{"n": 10, **bad})
    assert inference.approx is before
    assert len(inference.hist) == 20
    assert same(inference.refine(10, progressbar=False), fit(30))


# --- before, between and after fits -------------------------------------------------------------


def test_approx_before_the_first_step():
    """The mixture starts at its prior mean, -0.3 * 0.2 + 0.5 * 0.8, with softplus(0)."""
    inference = vi.ADVI(mixture)
    np.testing.assert_allclose(inference.approx.mean, [0.34], rtol=1e-6)
    np.testing.assert_allclose(inference.approx.std, [np.log(2)], rtol=1e-6)
    assert inference.approx.status == "initialized"
    assert inference.approx.hist.shape == inference.hist.shape == (0,)
    assert repr(inference).startswith("ADVI(approx=MeanField(sites=[x]")


def test_n_0_only_initialises():
    inference = advi()
    before = inference.approx
    for n in (0, np.int64(0)):
        approx = inference.fit(n, progressbar=False)
        assert same(approx, before)
        assert approx.hist.shape == (0,)
        assert approx.steps == 0
        assert approx.status == "finished"
        assert approx.message == "Initialization only"
    assert same(inference.refine(50, progressbar=False), inference.approx)
    assert inference.approx.steps == 50


def test_numpy_integers():
    options = {"obj_n_mc": np.int32(2), "random_seed": np.int64(0)}
    assert same(fit(np.int64(20), **options), fit(20, obj_n_mc=2))


def test_second_fit_goes_on_from_q_with_a_fresh_optimizer():
    """By hand: after the first fit the velocity is large, and must not be carried over."""
    rate, momentum = 0.05, 0.9
    inference = vi.ADVI(flat_model, random_seed=0)
    record = Record()
    optimizer = vi.momentum(rate, momentum)
    first = inference.fit(10, obj_optimizer=optimizer, progressbar=False)
    second = inference.fit(7, obj_optimizer=optimizer, callbacks=[record], progressbar=False)
    theta = 3.0
    for n in (10, 7):
        velocity = 0.0
        for _ in range(n):
            velocity = momentum * velocity - rate * (theta - 1)
            theta += velocity
    np.testing.assert_allclose(second.model_params["theta"], theta, rtol=1e-5)
    assert record.steps == list(range(1, 8))
    assert [len(x) for x in record.losses] == record.steps
    assert len(record.approx[-1].hist) == len(second.hist) == len(inference.hist) == 17
    assert len(first.hist) == 10
    assert np.array_equal(inference.hist[:10], first.hist)
    assert (first.steps, second.steps) == (10, 7)


def test_second_fit_has_fresh_noise_and_may_have_another_optimizer():
    inference = advi()
    a = inference.fit(50, obj_optimizer=vi.sgd(0.0), progressbar=False)
    b = inference.fit(50, obj_optimizer=vi.sgd(0.0), progressbar=False)
    assert np.array_equal(a.mean, b.mean)
    assert not np.isin(b.hist[50:], a.hist).any()
    assert inference.fit(50, obj_optimizer=SGD, progressbar=False).mean != b.mean


def test_second_fit_sees_a_changed_global():
    offset = {"value": 0.0}

    def shifted(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu + offset["value"], 1), obs=y)

    inference = vi.ADVI(shifted, model_args=(1.0,), random_seed=0)
    before = inference.fit(2000, progressbar=False)
    offset["value"] = 5.0
    after = inference.fit(2000, progressbar=False)
    assert abs(before.mean[0] - 0.99) < 0.1
    assert abs(after.mean[0] + 3.96) < 0.1
    np.testing.assert_allclose(before.elbo(random_seed=0).elbo, -3.24, atol=0.05)  # its own model


def test_approximations_are_values():
    inference = advi()
    initial = inference.approx
    first = inference.fit(30, progressbar=False)
    kept = {name: value.copy() for name, value in first.params.items()}
    text, hist = repr(first), first.hist
    inference.refine(30, progressbar=False)
    inference.fit(30, obj_optimizer=SGD, progressbar=False)
    assert all(np.array_equal(first.params[name], kept[name]) for name in kept)
    assert np.array_equal(first.hist, hist)
    assert repr(first) == text
    assert initial.hist.shape == (0,)
    assert len(inference.approx.hist) == 90


# --- refine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [vi.ADVI, vi.FullRankADVI])
@pytest.mark.parametrize("parts", [(600, 400), (1, 1, 998), (127, 1, 1, 128, 743), (999, 0, 1)])
def test_refine_is_a_longer_fit_bit_for_bit(method, parts):
    whole = method(model, model_args=(Y,), random_seed=3)
    expected = whole.fit(1000, progressbar=False)
    inference = method(model, model_args=(Y,), random_seed=3)
    inference.fit(parts[0], progressbar=False)
    for n in parts[1:]:
        approx = inference.refine(n, progressbar=False)
    assert same(approx, expected)
    assert approx.steps == 1000
    assert np.array_equal(inference.hist, whole.hist)
    for ours, theirs in zip(
        *(jax.tree.leaves(x._run.state) for x in (inference, whole)), strict=True
    ):
        assert jnp.array_equal(ours, theirs)


def test_refine_after_a_second_fit():
    inference, whole = advi(), advi()
    for x in (inference, whole):
        x.fit(30, progressbar=False)
    whole.fit(70, obj_optimizer=SGD, progressbar=False)
    inference.fit(50, obj_optimizer=SGD, progressbar=False)
    inference.refine(20, progressbar=False)
    assert same(inference.approx, whole.approx)


@pytest.mark.parametrize("setting", [(1, 1e-9, 2**17), (5, 10.0, 50), (1000, 1e-9, 7)])
def test_chunk_length_changes_nothing(monkeypatch, setting):
    expected = fit(1000)
    for name, value in zip(("_FIRST_CHUNK", "_CHUNK_SECONDS", "MAX_STEPS"), setting, strict=True):
        monkeypatch.setattr(training, name, value)
    record = Record(every=33)
    inference = advi()
    inference.fit(600, progressbar=False, callbacks=[record])
    assert same(inference.refine(400, progressbar=False), expected)
    assert record.steps == list(range(33, 1000, 33))


def test_snapshots_per_chunk_change_nothing(monkeypatch):
    expected = Record(every=7)
    options = {"obj_optimizer": optax.adam(1e-2)}
    fit(400, callbacks=[expected], **options)
    monkeypatch.setattr(chunk, "_SNAPSHOTS", 3)
    chunk._chunk.cache_clear()
    record = Record(every=7)
    fit(400, callbacks=[record], **options)
    chunk._chunk.cache_clear()
    assert record.steps == expected.steps
    assert all(same(a, b) for a, b in zip(record.approx, expected.approx, strict=True))


def test_callbacks_see_what_fit_would_return():
    record = Record()
    fit(200, callbacks=[record])
    for i in (1, 2, 128, 137, 200):
        expected = fit(i)
        assert same(record.approx[i - 1], expected)
        assert record.approx[i - 1].steps == expected.steps == i
        assert record.approx[i - 1].status == "running"
    raw = Record()
    fit(200, callbacks=[raw], obj_optimizer=SGD)
    assert same(raw.approx[136], fit(137, obj_optimizer=SGD))


def test_callbacks_change_nothing():
    assert same(fit(500, callbacks=[Record(), Record(7)]), fit(500))


# --- losses -------------------------------------------------------------------------------------


def test_hist_is_the_loss_before_each_update():
    """SGD by hand, on a loss without noise."""
    rate, n = 0.01, 40
    inference = vi.ADVI(flat_model, random_seed=0)
    record = Record()
    start = inference.approx
    approx = inference.fit(n, obj_optimizer=vi.sgd(rate), callbacks=[record], progressbar=False)
    theta = 1 + 2 * (1 - rate) ** np.arange(n + 1)  # after k updates
    entropy = [x.entropy() for x in (start, *record.approx)]
    np.testing.assert_allclose(
        approx.hist, 0.5 * (theta[:-1] - 1) ** 2 - np.array(entropy[:-1]), atol=1e-5
    )
    seen = [x.model_params["theta"] for x in record.approx]
    np.testing.assert_allclose(seen, theta[1:], rtol=1e-5)
    assert isinstance(inference.hist, np.ndarray)
    assert inference.hist.ndim == 1
    assert np.array_equal(inference.hist, approx.hist)
    for i, (losses, x) in enumerate(zip(record.losses, record.approx, strict=True), start=1):
        assert np.array_equal(losses, approx.hist[:i])
        assert np.array_equal(x.hist, approx.hist[:i])


def test_without_score():
    record = Record(10)
    inference = advi()
    approx = inference.fit(50, score=False, callbacks=[record], progressbar=False)
    assert record.losses == [None] * 5
    assert approx.hist.shape == inference.hist.shape == (0,)
    assert np.array_equal(approx.mean, fit(50).mean)
    assert np.array_equal(inference.refine(10, progressbar=False).mean, fit(60).mean)
    assert len(inference.fit(10, score=True, progressbar=False).hist) == 10


def test_score_is_on_by_default():
    assert len(fit(5, score=None).hist) == len(fit(5, score=True).hist) == 5
    assert len(fit(5, score=np.False_).hist) == 0


# --- seeds --------------------------------------------------------------------------------------


def test_seeds():
    seeds = (0, np.int64(0), jax.random.key(0), jax.random.PRNGKey(0))
    expected = fit(50)
    assert all(same(fit(50, random_seed=seed), expected) for seed in seeds)
    assert not same(fit(50, random_seed=1), expected)
    assert not np.isin(fit(50, random_seed=1).hist, expected.hist).any()
    assert not same(fit(50, random_seed=None), fit(50, random_seed=None))


def test_seed_covers_drawn_starting_points():
    """The Cauchy site has no mean, so its start is made of draws."""

    def heavy():
        numpyro.sample("x", dist.Cauchy(0, 1).expand([3]).to_event(1))

    options = {"fn": heavy, "args": ()}
    assert np.array_equal(fit(0, **options).mean, fit(0, **options).mean)
    assert not np.array_equal(fit(0, **options).mean, fit(0, random_seed=1, **options).mean)


def test_start_and_start_sigma():
    options = {"start": {"s": [0.5, 2.0]}, "start_sigma": {"s": [0.1, 0.2], "x": 3.0}}
    for method in ("advi", "fullrank_advi"):
        approx = fit(0, scale_model, (), method=method, **options)
        np.testing.assert_allclose(approx.mean, [np.log(0.5), np.log(2), 1], rtol=1e-6)
        np.testing.assert_allclose(approx.std, [0.1, 0.2, 3], rtol=1e-5)
    default = fit(0, scale_model, (), start={"x": 4.0})
    assert default.mean[2] == 4
    np.testing.assert_allclose(default.std, np.log(2), rtol=1e-6)


def test_inf_kwargs():
    strategy = {"init_strategy": numpyro.infer.init_to_value(values={"mu": 7.0})}
    assert fit(0, inf_kwargs=strategy).mean == 7
    assert fit(0, inf_kwargs={"start": {"mu": 6.0}}).mean == 6
    assert fit(0, inf_kwargs={}).mean == 0


# --- objective and optimizer --------------------------------------------------------------------


@pytest.mark.parametrize("n_mc", [1, 16])
def test_obj_n_mc_divides_the_variance_of_the_loss(n_mc):
    """At the exact posterior the loss is constant + mean(eps^2) / 2, of variance 1 / (2 n_mc)."""
    target = normal_mean()
    start, sd = {"mu": target.mean[0]}, {"mu": np.sqrt(target.cov[0, 0])}
    n = 20_000
    options = {"start": start, "start_sigma": sd, "obj_optimizer": vi.sgd(0.0)}
    hist = fit(n, target.model, target.args, obj_n_mc=n_mc, **options).hist
    expected = 0.5 / n_mc
    kurtosis = 3 + 12 / n_mc  # of a mean of n_mc chi-squares
    assert abs(hist.var() - expected) < 5 * expected * np.sqrt((kurtosis - 1) / n)
    assert abs(hist.mean() + target.log_evidence) < 5 * np.sqrt(expected / n) + 1e-3


def parameters(approx):
    return np.concatenate([approx.params["mu"], approx.params["rho"]])


def test_total_grad_norm_constraint():
    """With sgd every step is the gradient times the rate, so its length shows the constraint."""
    rate, bound = 0.01, 2.0
    steps = {}
    for constraint in (None, bound, 1e6):
        record = Record()
        options = {"obj_optimizer": vi.sgd(rate), "total_grad_norm_constraint": constraint}
        fit(60, start={"mu": 30.0}, callbacks=[record], **options)
        path = np.array([parameters(x) for x in record.approx])
        steps[constraint] = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps[None][:20].min() > 5 * rate * bound
    np.testing.assert_allclose(steps[bound], rate * bound, rtol=1e-3)
    np.testing.assert_allclose(steps[1e6], steps[None], rtol=1e-3)


def test_total_grad_norm_constraint_leaves_short_gradients_alone():
    options = {"start": {"mu": 3.0}, "obj_optimizer": SGD}
    expected = fit(100, **options)
    constrained = fit(100, total_grad_norm_constraint=1e4, **options)
    np.testing.assert_allclose(parameters(constrained), parameters(expected), rtol=1e-4)


def test_total_grad_norm_constraint_with_the_default_optimizer():
    approx = fit(2000, total_grad_norm_constraint=5.0)
    np.testing.assert_allclose(approx.mean, [Y.sum() / 3.01], rtol=0.02)


def test_optimizers_of_all_kinds_are_the_same_sgd():
    expected = fit(100, obj_optimizer=SGD)
    assert same(fit(100, obj_optimizer=vi.sgd(1e-2)), expected)
    assert same(fit(100, obj_optimizer=optax.sgd(1e-2)), expected)
    by_numpyro = fit(100, obj_optimizer=numpyro.optim.SGD(1e-2))
    np.testing.assert_allclose(by_numpyro.hist, expected.hist, rtol=1e-4)
    np.testing.assert_allclose(by_numpyro.mean, expected.mean, rtol=1e-5)


def test_a_bare_factory_has_its_default_rate():
    assert same(fit(100, obj_optimizer=vi.sgd), fit(100, obj_optimizer=vi.sgd(1e-3)))


def test_numpyro_optimizer_fits():
    approx = fit(3000, obj_optimizer=numpyro.optim.Adam(1e-2))
    np.testing.assert_allclose(approx.mean, [Y.sum() / 3.01], atol=0.05)


def test_only_the_default_optimizer_averages():
    record = Record()
    approx = fit(5, obj_optimizer=vi.sgd(1e-2), callbacks=[record])
    inference = advi()
    inference.fit(5, obj_optimizer=vi.sgd(1e-2), progressbar=False)
    assert inference._run.state.average is None
    assert same(record.approx[-1], approx)
    inference.fit(5, progressbar=False)
    assert inference._run.state.average is not None


# --- models -------------------------------------------------------------------------------------


def test_more_replacements():
    other = Y + 2
    expected = fit(50, args=(other,))
    approx = fit(50, more_replacements={"y": other})
    assert same(approx, expected)
    np.testing.assert_allclose(approx.model.named_data["y"], other)
    longer = np.concatenate([Y, Y])

    def any_length(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu, 1).expand([y.shape[0]]).to_event(1), obs=y)

    replaced = fit(50, any_length, more_replacements={"y": longer})
    assert same(replaced, fit(50, any_length, (longer,)))


def test_more_replacements_in_a_second_fit():
    inference = advi()
    before = inference.fit(500, progressbar=False)
    after = inference.fit(3000, more_replacements={"y": Y + 5}, progressbar=False)
    np.testing.assert_allclose(after.mean, [(Y + 5).sum() / 3.01], rtol=0.01)
    np.testing.assert_allclose(before.model.named_data["y"], Y)


def test_model_params_reach_their_optimum():
    """Independent z_i ~ N(0, 1), y_i ~ N(theta + z_i, s): y_i ~ N(theta, 1 + s^2) on the margin."""
    y = np.array([-3.0, 1.0, 2.0, 6.0, 9.0])

    def with_params(y):
        theta = numpyro.param("theta", 0.0)
        s = numpyro.param("s", 0.5, constraint=dist.constraints.positive)
        with numpyro.plate("rows", 5):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(theta + z, s), obs=y)

    approx = fit(10_000, with_params, (y,))
    params = approx.model_params
    variance = np.mean((y - y.mean()) ** 2)
    np.testing.assert_allclose(params["theta"], y.mean(), atol=0.05)
    np.testing.assert_allclose(params["s"], np.sqrt(variance - 1), rtol=0.01)
    evidence = -2.5 * (np.log(2 * np.pi * variance) + 1)
    elbo, se = approx.elbo(1000, random_seed=0)
    assert abs(elbo - evidence) < 4 * se + 0.01
    assert set(params) == {"theta", "s"}


def subsampled_model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", 40, subsample_size=10):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(mu, 1), obs=batch)


def test_subsampled_plate_is_unbiased():
    y = 2 + np.random.default_rng(0).normal(size=40)
    precision = 40 + 0.01
    mean, sd = y.sum() / precision, 1 / np.sqrt(precision)
    exact = -(
        np.sum(-0.5 * (y - mean) ** 2 - 0.5 * sd**2 - 0.5 * np.log(2 * np.pi))
        + dist.Normal(0, 10).log_prob(mean)
        - 0.5 * sd**2 / 100
        + 0.5 * np.log(2 * np.pi * np.e * sd**2)
    )
    options = {"start": {"mu": mean}, "start_sigma": {"mu": sd}, "obj_optimizer": vi.sgd(0.0)}
    hist = fit(5000, subsampled_model, (y,), **options).hist
    assert len(np.unique(hist.round(3))) > 1000  # other rows every step
    assert abs(hist.mean() - exact) < 5 * hist.std() / np.sqrt(len(hist))
    approx = fit(5000, subsampled_model, (y,))
    assert abs(approx.mean[0] - mean) < 0.25 * sd
    np.testing.assert_allclose(approx.std, sd, rtol=0.05)


def test_dimension_0_site():
    def empty_model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("z", dist.Normal(0, 1).expand([0]).to_event(1))
        numpyro.sample("y", dist.Normal(mu, 1).expand([3]).to_event(1), obs=y)

    approx = fit(300, empty_model)
    assert approx.ndim == 1
    np.testing.assert_allclose(approx.mean, fit(300).mean, rtol=1e-5)
    assert approx.sample_dict(4, random_seed=0)["z"].shape == (4, 0)


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_nothing_but_a_dimension_0_site(method):
    def nothing():
        numpyro.sample("z", dist.Normal(0, 1).expand([0]).to_event(1))
        numpyro.sample("y", dist.Normal(0, 1), obs=1.0)

    approx = fit(20, nothing, (), method=method)
    np.testing.assert_allclose(approx.hist, -dist.Normal(0, 1).log_prob(1.0), rtol=1e-6)
    assert approx.cov.shape == (0, 0)


def test_partial_and_kwargs():
    expected = fit(50)
    bound = functools.partial(model, y=Y)
    assert same(vi.fit(bound, 50, random_seed=0, progressbar=False), expected)
    options = {"random_seed": 0, "progressbar": False}
    assert same(vi.fit(model, 50, model_kwargs={"y": Y}, **options), expected)
    assert same(vi.fit(vi.Model(model, Y), 50, **options), expected)
