"""The model run again gives what the traced program gives, wherever both can run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import transforms
from numpyro.infer.reparam import LocScaleReparam
from zoo import CASES, Y

import numpyro_vi_ext as vi
from numpyro_vi_ext import cache, nodes, rerun

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True, scope="module")
def no_programs_left_behind():
    """Caches keep many of the programs made here, which other tests count."""
    yield
    nodes._entries.clear()
    nodes._at_draws.cache_clear()
    cache._entries.clear()


def everything(sites):
    return dict(sites)


def approximation(fn, /, *args, **kwargs):
    return vi.MeanField(fn, model_args=args, model_kwargs=kwargs, random_seed=1)


def both(approx, **replaced):
    """All sites at one draw: by the traced program, and by the model run again.

    Without `replaced`, the first latent site is replaced by the value it has anyway.
    """
    first = approx.target.layout.latents[0].name

    @jax.jit  # the two in one program, which takes half the time to compile
    def evaluate(key):
        found = approx.sample_node(everything, random_seed=key)
        more = replaced or {first: found[first]}
        return found, approx.sample_node(everything, random_seed=key, more_replacements=more)

    return evaluate(jax.random.key(3))


def assert_same(found, again, names=None):
    assert found.keys() == again.keys()
    for name in found if names is None else names:
        assert found[name].dtype == again[name].dtype
        np.testing.assert_allclose(again[name], found[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.slow
@each_case
def test_rerun_gives_what_the_program_gives(case):
    """All sites, deterministic and observed ones as well, for every kind of model.

    A subsampled plate is the only one to differ: run again, it runs over all its rows.
    """
    found, again = both(approximation(case.fn, *case.args, **case.kwargs))
    assert {name: found[name].shape for name in case.latents} == case.latents
    if case.name == "subsampling":
        assert found["y"].shape == (3,)
        np.testing.assert_allclose(again["y"], Y, rtol=1e-6)
    assert_same(found, again, [n for n in found if case.name != "subsampling" or n != "y"])


# -- sites in a scan, whose values have a time axis that NumPyro adds


def in_plate(make):
    def draw(level):
        with numpyro.plate("series", 3):
            return numpyro.sample("x", make(level))

    return draw


def drawn(make):
    return lambda level: numpyro.sample("x", make(level))


def exponential(level):
    return dist.TransformedDistribution(dist.Normal(level, 1), transforms.ExpTransform())


def decentred(level):
    draw = handlers.reparam(drawn(lambda m: dist.Normal(m, 0.5)), config={"x": LocScaleReparam(0)})
    return draw(level)


SCANNED = {
    "no input": (drawn(lambda level: dist.HalfNormal(1)), ()),
    "event": (drawn(lambda level: dist.Normal(0, 1).expand([2]).to_event(1)), (2,)),
    "batch": (drawn(lambda level: dist.Normal(level, 1).expand([2])), (2,)),
    "multivariate": (drawn(lambda m: dist.MultivariateNormal(m * jnp.ones(2), jnp.eye(2))), (2,)),
    "transformed": (drawn(exponential), ()),
    "plate": (in_plate(lambda level: dist.Normal(level, 1)), (3,)),
    "plate of simplices": (in_plate(lambda level: dist.Dirichlet(jnp.ones(2))), (3, 2)),
    "reparameterised": (decentred, ()),
}


def scanned(draw, y, scale=1.0):
    drift = numpyro.sample("drift", dist.Normal(0, 1))

    def step(level, y_t):
        x = draw(level)
        numpyro.sample("y", dist.Normal(scale * x.sum(), 1), obs=y_t)
        return level + drift + 0.1 * x.sum(), None

    numpyro.deterministic("end", scan(step, jnp.zeros(()), y)[0])


@pytest.mark.parametrize("kind", SCANNED)
def test_sites_of_a_scan_keep_their_time_axis(kind):
    draw, shape = SCANNED[kind]
    approx = approximation(functools.partial(scanned, draw), Y)
    found, again = both(approx)
    assert found["x"].shape == (len(Y), *shape)
    assert_same(found, again)
    # What replaces the whole series is followed: the recursion by a loop in NumPy.
    (name,) = (s.name for s in approx.target.layout.latents if s.name != "drift")
    if name != "x" or kind == "plate of simplices":
        return
    fixed = np.random.default_rng(0).uniform(0.1, 1.0, size=found["x"].shape)
    again = both(approx, x=fixed)[1]
    level = 0.0
    for x_t in fixed:
        level += found["drift"] + 0.1 * x_t.sum()
    np.testing.assert_allclose(again["x"], fixed, rtol=1e-6)
    np.testing.assert_allclose(again["end"], level, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "error"), [(9, ValueError), (5, RuntimeError)], ids=["longer", "shorter"]
)
def test_series_of_another_length(length, error):
    """The shorter one is refused by NumPyro itself."""
    approx = approximation(functools.partial(scanned, SCANNED["batch"][0]), Y)
    with pytest.raises(error, match=r"site '?x'?.*7") as raised:
        approx.sample_node("end", more_replacements={"y": np.zeros(length)})
    assert "run at other arguments" in "".join(raised.value.__notes__)


# -- randomness


def noisy(X, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.deterministic("noise", jax.random.normal(numpyro.prng_key(), (3,)))
    b = numpyro.sample("b", dist.Normal(a, 1))
    numpyro.deterministic("late", jax.random.normal(numpyro.prng_key()))
    numpyro.sample("y", dist.Normal(b * X, 1).to_event(1), obs=y)


def test_randomness_of_the_model_itself_is_that_of_the_program():
    """Replaced sites and arguments take nothing from the stream of keys."""
    approx = approximation(noisy, Y, Y)
    node = ["noise", "late"]
    found = approx.sample_node(node, 4, random_seed=3)
    for replaced in ({"a": 0.5}, {"b": 0.5, "X": Y[:3], "y": Y[:3]}):
        again = approx.sample_node(node, 4, random_seed=3, more_replacements=replaced)
        for one, other in zip(found, again, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6)
    assert len(np.unique(found[1])) == 4


def test_sites_without_data_are_drawn_afresh_for_each_draw():
    """Standard normal around b X; b, fixed, is known. Four standard errors of 2000 draws."""
    approx = approximation(noisy, Y, Y)
    replaced = {"y": None, "b": 2.0}
    y = approx.sample_node("y", 2000, random_seed=0, more_replacements=replaced)
    z = np.asarray(y) - 2.0 * Y
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(2000)
    assert np.abs(z.var(0) - 1).max() < 4 * np.sqrt(2 / 2000)
    assert np.abs(np.corrcoef(z.T) - np.eye(7)).max() < 4 / np.sqrt(2000)
    again = approx.sample_node("y", 2000, random_seed=0, more_replacements=replaced)
    np.testing.assert_array_equal(y, again)


def test_subsampled_plates_run_over_all_rows_and_unscaled():
    """However they look up their rows: by ``subsample``, or by the index that the plate gives."""

    def model(X, y):
        w = numpyro.sample("w", dist.Normal(0, 1))
        with numpyro.plate("rows", len(X), subsample_size=3) as rows:
            numpyro.deterministic("taken", rows)
            numpyro.deterministic("mean", w * X[rows])
            numpyro.sample("y", dist.Normal(w * X[rows], 1), obs=numpyro.subsample(y, 0))

    approx = approximation(model, Y, Y + 1)
    found, again = both(approx, w=2.0)
    assert found["taken"].shape == (3,)
    np.testing.assert_array_equal(again["taken"], np.arange(7))
    np.testing.assert_allclose(again["mean"], 2.0 * Y, rtol=1e-6)
    np.testing.assert_allclose(again["y"], Y + 1, rtol=1e-6)
    _, again = both(approx, X=Y[:4], y=Y[:4])
    np.testing.assert_allclose(again["y"], Y[:4], rtol=1e-6)


# -- the parts


def given(approx):
    shapes = approx.target.program.evaluate.shapes
    return {s.name: shapes.values[s.name] for s in approx.target.layout.latents}, shapes.params


def simple(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1))
    numpyro.deterministic("mean", w * x)
    with numpyro.plate("rows", len(x)), handlers.scale(scale=5.0):
        numpyro.sample("y", dist.Normal(w * x, 2.0), obs=y)
    numpyro.factor("penalty", -(w**2))


@pytest.mark.parametrize(
    ("mode", "y", "drawn", "observed", "weighed"),
    [
        ("observe", Y, [], ["y"], []),
        ("weigh", Y, [], ["y"], ["y"]),
        ("predict", Y, ["y"], ["y"], []),  # set aside
        ("predict", None, ["y"], [], []),
        ("observe", None, ["y"], [], []),
    ],
)
def test_modes(mode, y, drawn, observed, weighed):
    """What becomes of observed sites; log densities by NumPy, unscaled."""
    approx = approximation(simple, Y, y=Y)
    again = rerun.find_rerun(simple, vi.Model(simple, Y, y=y).arguments, given(approx), mode, {})
    outcome = again.rerun.evaluate(({"w": jnp.float32(0.7)}, {}), jax.random.key(0), again.data)
    assert list(outcome.latents) == ["w"]
    assert list(outcome.computed) == ["mean"]
    assert (list(outcome.drawn), list(outcome.observed)) == (drawn, observed)
    assert list(outcome.log_likelihood) == weighed
    assert outcome.sites.keys() == {"w", "mean", "y"}
    assert again.rerun.dims == {"w": (), "mean": (None,), "y": ("rows",)}
    for value in outcome.log_likelihood.values():
        expected = -0.5 * ((Y - 0.7 * Y) / 2) ** 2 - np.log(2 * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    if drawn:
        assert np.abs(np.asarray(outcome.drawn["y"]) - Y).min() > 1e-4


def test_reruns_are_cached_by_what_they_read():
    approx = approximation(simple, Y, y=Y)
    arguments = approx.model.arguments
    first = rerun.find_rerun(simple, arguments, given(approx), "observe", {})
    other_data = vi.Model(simple, Y + 1, y=Y).arguments
    same = rerun.find_rerun(simple, other_data, given(approx), "observe", {})
    assert same.rerun is first.rerun
    assert np.array_equal(same.data[0], np.float32(Y + 1))
    fixed = {"w": jnp.float32(3.0)}  # a value where there was a shape
    found = rerun.find_rerun(simple, arguments, given(approx), "observe", fixed)
    assert found.rerun is first.rerun
    assert found.latents == fixed
    _, params = given(approx)
    shorter = vi.Model(simple, Y[:3], y=Y[:3]).arguments
    for other in (
        rerun.find_rerun(simple, arguments, given(approx), "weigh", {}),
        rerun.find_rerun(simple, arguments, ({}, params), "observe", {}),
        rerun.find_rerun(simple, shorter, given(approx), "observe", {}),
    ):
        assert other.rerun is not first.rerun
    assert approx.target.program is not first.rerun


def test_what_the_rerun_reads_may_change():
    """A global that is another one now is seen: the model is run again."""
    approx = approximation(reads_a_global, Y)
    assert approx.sample_node("shifted", more_replacements={"x": 1.0}) == 1.0
    globals()["SHIFT"] = 2.5
    try:
        assert approx.sample_node("shifted", more_replacements={"x": 1.0}) == 3.5
    finally:
        globals()["SHIFT"] = 0.0


SHIFT = 0.0


def reads_a_global(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.deterministic("shifted", x + SHIFT)
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def test_inputs_of_compiled_code():
    """The data elsewhere, the closed-over arrays and the given values; nothing is baked in."""
    approx = approximation(simple, Y, y=Y)
    fixed = {"w": jnp.float32(1)}
    again = rerun.find_rerun(simple, approx.model.arguments, given(approx), "observe", fixed)
    data, constants, latents = again.inputs
    assert [x.shape for x in data] == [(7,), (7,)]
    assert constants == again.rerun.evaluate.constants
    assert latents == {"w": 1.0}
