"""Evaluating a node under q: shapes, draws, moments, errors, and what it costs to compile."""

import dataclasses
import functools
import logging
import operator
import os
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import numpyro_vi_ext as vi
from numpyro_vi_ext import cache, nodes
from numpyro_vi_ext.families.gaussian import DenseGaussian

X = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
Y = np.linspace(-1.0, 2.0, 7, dtype=np.float32)
START = {"w": [1.0, -0.5], "sd": 0.4}
SIGMA = {"w": [0.2, 0.5], "sd": 0.3}
traced = []  # one entry per run of the model function
evaluated = []  # one per run of a node function that counts


@pytest.fixture(autouse=True, scope="module")
def no_programs_left_behind():
    """Caches keep many of the programs made here, which other tests count."""
    yield
    nodes._entries.clear()
    nodes._at_draws.cache_clear()
    nodes._at_rows.cache_clear()
    cache._entries.clear()


def model(X, y=None):
    traced.append(None)
    w = numpyro.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    mean = numpyro.deterministic("mean", X @ w)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


@pytest.fixture(scope="module")
def approx():
    return vi.MeanField(model, model_args=(X, Y), start=START, start_sigma=SIGMA)


@pytest.fixture(scope="module")
def dense(approx):
    """w and log sd with mean (1, -0.5, log 0.4), and correlated."""
    L = np.array([[0.2, 0, 0], [0.3, 0.4, 0], [-0.1, 0.1, 0.2]])
    full = vi.FullRank(model, model_args=(X, Y), start=START)
    raw = np.where(np.eye(3) > 0, np.log(np.expm1(np.maximum(L, 1e-3))), L)
    q = DenseGaussian(full.point.q.mu, jnp.asarray(raw, jnp.float32))
    np.testing.assert_allclose(
        full.at(full.point._replace(q=q), full.facts).cov, L @ L.T, rtol=1e-4
    )
    return full.at(full.point._replace(q=q), full.facts)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    trace = {"w": rng.normal(size=(20, 2)), "sd": rng.lognormal(size=20)}
    return vi.Empirical(trace, model=model, model_args=(X, Y))


def draws_of(approx, size, seed=0):
    return {name: np.asarray(x) for name, x in approx.sample_dict(size, random_seed=seed).items()}


def assert_close(found, expected):
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# -- what a node may be, and what comes back


def test_structure_and_draws(approx):
    """Each part of the node by NumPy from the draws of `sample_dict` with the same seed."""
    node = {
        "name": "w",
        "parts": [lambda s: s["w"] ** 2, ("sd", lambda s: s["mean"].mean(-1)), []],
        "several": lambda s: {"sum": s["w"].sum(), "pair": (s["sd"], s["y"] - s["mean"])},
        "observed": "y",
    }
    found = approx.sample_node(node, 6, random_seed=0)
    d = draws_of(approx, 6)
    expected = {
        "name": d["w"],
        "parts": [d["w"] ** 2, (d["sd"], d["mean"].mean(1)), []],
        "several": {"sum": d["w"].sum(1), "pair": (d["sd"], Y - d["mean"])},
        "observed": np.tile(Y, (6, 1)),
    }
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(assert_close, found, expected)
    assert len(np.unique(found["name"])) == 12
    one = approx.sample_node(node, random_seed=0)
    first = {name: x[0] for name, x in draws_of(approx, 1).items()}
    assert_close(one["parts"][0], first["w"] ** 2)
    assert_close(one["parts"][1][0], first["sd"])
    assert_close(one["observed"], Y)


@pytest.mark.parametrize("kind", ["approx", "dense", "rows"])
def test_every_family(kind, request):
    approx = request.getfixturevalue(kind)
    d = draws_of(approx, 5, seed=2)
    found = approx.sample_node(["sd", lambda s: s["w"] * s["sd"], "mean"], 5, random_seed=2)
    assert_close(found[0], d["sd"])
    assert_close(found[1], d["w"] * d["sd"][:, None])
    assert_close(found[2], d["w"] @ X.T)


CALLABLES = {
    "lambda": lambda s: s["sd"] * 2,
    "jitted": jax.jit(lambda s: s["sd"] * 2),
    "partial": functools.partial(lambda factor, s: s["sd"] * factor, 2),
    "partial of jitted": functools.partial(jax.jit(lambda factor, s: s["sd"] * factor), 2),
    "class": type("Twice", (), {"__call__": lambda self, s: s["sd"] * 2})(),
    "method": type("Twice", (), {"of": lambda self, s: s["sd"] * 2})().of,
    "tree": lambda s: jax.tree.map(lambda x: 2 * x, s)["sd"],
    "all": lambda s: {name: 2 * value for name, value in s.items()}["sd"],
    "copy": lambda s: 2 * jax.jit(lambda t: t)(s.copy())["sd"],
    "where it is asked for": lambda s: 2 * s.get("sd", s.get("none")),
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_functions_of_every_kind(approx, kind):
    found = approx.sample_node(CALLABLES[kind], 3, random_seed=0)
    assert_close(found, 2 * draws_of(approx, 3)["sd"])


def test_a_getter_and_the_sites_themselves(approx):
    d = draws_of(approx, 3)
    assert_close(approx.sample_node(operator.itemgetter("sd"), 3, random_seed=0), d["sd"])
    found = approx.sample_node(lambda s: s, 3, random_seed=0)
    assert isinstance(found, dict)
    assert found.keys() == {"w", "sd", "mean", "y"}
    assert_close(found["mean"], d["mean"])


def test_the_function_gets_all_sites(approx):
    seen = {}
    approx.sample_node(lambda s: (seen.update({k: v.shape for k, v in s.items()}), s["sd"])[1])
    assert seen == {"w": (2,), "sd": (), "mean": (7,), "y": (7,)}


@pytest.mark.parametrize("value", [3, 2.5, True, np.arange(3), [1.0, (2, np.ones(2))]])
def test_constants_are_repeated(approx, value):
    found = approx.sample_node(lambda s: value, 4)
    jax.tree.map(lambda x, v: assert_close(x, np.tile(v, (4,) + (1,) * np.ndim(v))), found, value)
    one = approx.sample_node(lambda s: value)
    jax.tree.map(assert_close, one, value)
    leaf = jax.tree.leaves(value)[0]
    assert jax.tree.leaves(found)[0].dtype == jnp.asarray(leaf).dtype


# -- sizes and seeds


@pytest.mark.parametrize("size", [1, 5, np.int64(5), np.int32(1), np.array(2), 0])
def test_size_is_a_leading_axis(approx, size):
    found = approx.sample_node({"w": "w", "mean": "mean", "sd": lambda s: s["sd"]}, size)
    shapes = jax.tree.map(lambda x: x.shape, found)
    assert shapes == {"w": (size, 2), "mean": (size, 7), "sd": (size,)}


def test_without_size_there_is_no_axis(approx):
    assert approx.sample_node("w").shape == (2,)
    assert approx.sample_node(lambda s: s["sd"]).shape == ()


@pytest.mark.parametrize(
    ("size", "error", "text"),
    [
        ((3,), TypeError, r"size must be a scalar.*got \(3,\)"),
        ((2, 3), TypeError, r"size must be a scalar.*got \(2, 3\)"),
        ([3], TypeError, r"size must be a scalar.*got \[3\]"),
        (np.array([3]), TypeError, "size must be a scalar"),
        (-1, ValueError, "size must be at least 0, got -1"),
        (3.0, TypeError, "size must be an integer, got 3.0 of type float"),
        (np.float32(3), TypeError, "size must be an integer.*of type float32"),
        (True, TypeError, "size must be an integer, got True of type bool"),
        ("3", TypeError, "size must be an integer, got '3' of type str"),
    ],
)
def test_bad_size(approx, size, error, text):
    with pytest.raises(error, match=text):
        approx.sample_node("w", size)


@pytest.mark.parametrize(
    ("block_size", "error", "text"),
    [
        (0, ValueError, "block_size must be at least 1, got 0"),
        (-3, ValueError, "block_size must be at least 1, got -3"),
        (2.0, TypeError, "block_size must be an integer, got 2.0"),
        (True, TypeError, "block_size must be an integer, got True"),
        ((2,), TypeError, r"block_size must be an integer, got \(2,\)"),
    ],
)
def test_bad_block_size(approx, rows, block_size, error, text):
    with pytest.raises(error, match=text):
        approx.sample_node("w", 3, block_size=block_size)
    with pytest.raises(error, match=text):
        rows.evaluate_over_trace("w", block_size=block_size)


def test_seeds(approx):
    """Fresh values at each call without, the same ones with: an int, or the key it stands for."""
    fresh = [float(approx.sample_node("sd")) for _ in range(5)]
    assert len(set(fresh)) == 5
    assert len(np.unique([approx.sample_node("sd", 4) for _ in range(3)])) == 12
    seeded = [
        approx.sample_node("sd", 4, random_seed=s) for s in (7, np.int64(7), jax.random.key(7))
    ]
    for other in seeded[1:]:
        np.testing.assert_array_equal(other, seeded[0])
    assert not np.isin(approx.sample_node("sd", 4, random_seed=8), seeded[0]).any()
    with pytest.raises(TypeError, match="random_seed must be None, an int or a JAX key"):
        approx.sample_node("sd", random_seed="a")


# -- at q's mean


@pytest.mark.parametrize("kind", ["approx", "dense", "rows"])
def test_deterministic(kind, request):
    """The transform of q's mean: for Empirical the mean of log sd over the rows, not of sd."""
    approx = request.getfixturevalue(kind)
    w, sd = START["w"], START["sd"]
    if kind == "rows":
        w, sd = approx.histogram[:, :2].mean(0), np.exp(approx.histogram[:, 2].mean())
    node = ["w", "sd", lambda s: s["mean"] * s["sd"]]
    expected = [np.asarray(w), sd, X @ w * sd]
    jax.tree.map(assert_close, approx.sample_node(node, deterministic=True), expected)
    found = approx.sample_node(node, 3, deterministic=True, random_seed=1)
    jax.tree.map(lambda x, v: assert_close(x, np.stack([v] * 3)), found, expected)
    replaced = {"X": 2 * X[:2], "sd": 3.0}
    found = approx.sample_node(node, 2, deterministic=True, more_replacements=replaced)
    assert_close(found[2], np.tile(6 * X[:2] @ w, (2, 1)))
    assert approx.sample_node("w", 0, deterministic=True).shape == (0, 2)


# -- moments


def test_moments_by_quadrature(approx):
    """f = log(1 + sd), sd lognormal, and exp(-(w0 + w1)^2), a sum of normals."""
    n = 20_000
    node = [lambda s: jnp.log1p(s["sd"]), lambda s: jnp.exp(-(s["w"].sum() ** 2))]
    found = approx.sample_node(node, n, random_seed=4)
    z = stats.norm(np.log(0.4), 0.3)
    total = stats.norm(0.5, np.hypot(0.2, 0.5))
    for values, law, f in (
        (found[0], z, lambda v: np.log1p(np.exp(v))),
        (found[1], total, lambda v: np.exp(-(v**2))),
    ):
        at = law.mean() - 12 * law.std(), law.mean() + 12 * law.std()
        m1, m2, m4 = (
            integrate.quad(lambda v: g(f(v)) * law.pdf(v), *at, limit=200)[0]  # noqa: B023
            for g in (lambda x: x, lambda x: x**2, lambda x: x**4)
        )
        variance = m2 - m1**2
        assert np.mean(values) == pytest.approx(m1, abs=4 * np.sqrt(variance / n))
        assert np.mean(values**2) == pytest.approx(m2, abs=4 * np.sqrt((m4 - m2**2) / n))


def test_joint_moments_of_a_correlated_q(dense):
    """E[w0 w1] and E[w0 sd] of a Gaussian and a lognormal: both known exactly.

    cov(w0, w1) = 0.06, cov(w0, log sd) = -0.02, var(log sd) = 0.06, so that
    E[w0 sd] = (1 - 0.02) E[sd] with E[sd] = 0.4 exp(0.03).
    """
    n = 20_000
    node = lambda s: jnp.stack([s["w"][0] * s["w"][1], s["w"][0] * s["sd"]])  # noqa: E731
    values = np.asarray(dense.sample_node(node, n, random_seed=5), float)
    expected = [1.0 * -0.5 + 0.06, 0.98 * 0.4 * np.exp(0.03)]
    assert (np.abs(values.mean(0) - expected) < 4 * values.std(0) / np.sqrt(n)).all()


# -- every row of an Empirical


def test_evaluate_over_trace(rows):
    """Rows in order, by NumPy; in blocks or not, elsewhere or not."""
    w, sd = rows.histogram[:, :2], np.exp(rows.histogram[:, 2])
    node = {"w": "w", "product": lambda s: s["w"][0] * s["sd"], "mean": ["mean"], "y": "y"}
    for block_size in (None, 1, 7, 100):
        found = rows.evaluate_over_trace(node, block_size=block_size)
        assert_close(found["w"], w)
        assert_close(found["product"], w[:, 0] * sd)
        assert_close(found["mean"][0], w @ X.T)
        assert_close(found["y"], np.tile(Y, (20, 1)))
    found = rows.evaluate_over_trace(node, more_replacements={"X": 2 * X[:3], "sd": 0.5})
    assert_close(found["product"], w[:, 0] * 0.5)
    assert_close(found["mean"][0], 2 * w @ X[:3].T)
    with pytest.raises(KeyError, match="no site 'typo'"):
        rows.evaluate_over_trace("typo")


def test_what_the_model_draws_differs_from_row_to_row():
    """600 equal rows, y without data: standard normal draws, independent of each other."""
    trace = {"w": np.zeros((600, 2)), "sd": np.ones(600)}
    approx = vi.Empirical(trace, model=model, model_args=(X, Y))
    y = np.asarray(approx.evaluate_over_trace("y", more_replacements={"y": None}))
    assert y.shape == (600, 7)
    assert stats.kstest(y.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(y)) == y.size
    again = approx.evaluate_over_trace("y", more_replacements={"y": None})
    np.testing.assert_array_equal(y, again)


# -- what is refused

_SITES = r"the model has no site 'typo'; its sites are \['mean', 'sd', 'w', 'y'\]"


@pytest.mark.parametrize(
    "node",
    ["typo", ["w", {"a": "typo"}], lambda s: s["typo"], jax.jit(lambda s: s["typo"])],
    ids=["name", "nested", "function", "jitted"],
)
def test_unknown_site(approx, node):
    with pytest.raises(KeyError, match=_SITES):
        approx.sample_node(node)
    with pytest.raises(KeyError, match=_SITES):
        approx.sample_node(node, more_replacements={"sd": 1.0})


@pytest.mark.parametrize(
    ("node", "got"),
    [
        (None, "None of type NoneType"),
        (3, "3 of type int"),
        (["w", None], "None of type NoneType"),
        ({"a": ("w", [2.5])}, "2.5 of type float"),
        (b"w", "b'w' of type bytes"),
        ({"w"}, r"\{'w'\} of type set"),
        (np.ones(2), r"array\(.*\) of type ndarray"),
    ],
)
def test_neither_name_nor_function(approx, node, got):
    with pytest.raises(
        TypeError, match=f"a node must be the name of a site, a function.*got {got}"
    ):
        approx.sample_node(node)


@pytest.mark.parametrize(
    "value", [None, "w", object(), lambda s: s["w"]], ids=lambda v: type(v).__name__
)
def test_functions_must_return_arrays(approx, value):
    def unfinished(sites):
        return value

    text = (
        f"must return arrays or numbers, but unfinished returned .* of type {type(value).__name__}"
    )
    with pytest.raises(TypeError, match=text):
        approx.sample_node(unfinished, 3)


def test_own_errors_of_the_function_surface(approx):
    class Mine(Exception):
        pass

    raised = Mine("as it is")

    def fails(sites):
        raise raised

    with pytest.raises(Mine) as error:
        approx.sample_node(fails)
    assert error.value is raised
    with pytest.raises(ZeroDivisionError):
        approx.sample_node(["w", lambda s: 1 / 0])
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        approx.sample_node(lambda: 1.0)
    # And leave nothing behind.
    assert approx.sample_node("w", 2).shape == (2, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda s: np.log(s["sd"]),
        lambda s: np.asarray(s["w"]),
        lambda s: float(s["sd"]),
        lambda s: 1.0 if s["sd"] > 0 else 0.0,
        lambda s: s["w"][s["w"] > 0],
        lambda s: s["sd"].item(),
        lambda s: stats.norm.cdf(s["sd"]),
    ],
    ids=["numpy", "asarray", "float", "if", "mask", "item", "scipy"],
)
def test_functions_that_are_not_jax(approx, function):
    with pytest.raises((jax.errors.JAXTypeError, jax.errors.JAXIndexError, TypeError)) as error:
        approx.sample_node(function)
    assert "has to compute with jax.numpy" in str(error.value.__notes__)


# -- what is compiled, and when


def count(f):
    """The function, with its calls counted; equal to another one of an equal function."""

    def counted(sites):
        evaluated.append(None)
        return f(sites)

    return counted


def quiet(compiled, function):
    """Call, and make sure that nothing was traced or compiled."""
    for names in (traced, evaluated, compiled):
        names.clear()
    value = function()
    assert (traced, evaluated, compiled) == ([], [], [])
    return value


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("replaced", [None, "latent", "arguments"])
def test_repeated_calls_compile_nothing(compiled, size, replaced):
    """With the same function, and with an equal one made anew; data and q may be others."""

    def call(approx, node, shift=0.0):
        new = {"latent": {"sd": 1.0 + shift}, "arguments": {"X": X[:3] + shift, "y": None}}
        more = new.get(replaced)
        return np.asarray(approx.sample_node(node, size, more_replacements=more, random_seed=None))

    scale = np.array([1.0, size or 0.5])  # a node that no other case has used
    make = lambda: count(lambda s: s["w"] * scale)  # noqa: E731
    one, other = (
        vi.MeanField(model, model_args=(data, Y), start_sigma={"w": 0.1}) for data in (X, X + 1)
    )
    node = make()
    call(one, node)
    assert evaluated
    quiet(compiled, lambda: call(one, node))
    quiet(compiled, lambda: call(one, make()))
    quiet(compiled, lambda: call(other, make(), shift=0.5))
    values = [quiet(compiled, lambda: call(one, make())) for _ in range(3)]
    assert len(np.unique(values)) == np.size(values)


def test_names_and_structures_compile_once(approx, rows, compiled):
    node = lambda: {"a": "w", "b": [operator.itemgetter("sd"), lambda s: s["mean"].sum()]}  # noqa: E731
    approx.sample_node(node(), 3)
    approx.sample_node("w", 3)
    approx.sample_node(node(), deterministic=True)
    rows.evaluate_over_trace(node())
    quiet(compiled, lambda: approx.sample_node(node(), 3))
    quiet(compiled, lambda: approx.sample_node("w", 3))
    quiet(compiled, lambda: approx.sample_node(node(), deterministic=True, random_seed=1))
    quiet(compiled, lambda: rows.evaluate_over_trace(node()))


@pytest.mark.slow
def test_within_a_tracker(compiled):
    """A fit that evaluates nodes at every tenth step compiles nothing the second time."""
    X_test = X[:3] + 1

    def tracker():
        return vi.Tracker(
            every=10,
            norm=lambda approx: approx.sample_node(count(lambda s: (s["w"] ** 2).sum()), 20).mean(),
            test=lambda approx: approx.sample_node("mean", more_replacements={"X": X_test}),
        )

    def fit(seed, n=60):
        t = tracker()
        options = {"callbacks": [t], "random_seed": seed, "progressbar": False}
        approx = vi.fit(model, n, model_args=(X + seed, Y), **options)
        return t, approx

    fit(0)
    t, approx = quiet(compiled, lambda: fit(1, 100))
    assert len(t["norm"]) == len(t["test"]) == 10
    assert len(np.unique(t["norm"])) == 10
    # What was tracked last is an estimate under the q that the fit returned.
    w = approx.sample_node("w", 4000, random_seed=0)
    norm = (np.asarray(w) ** 2).sum(1)
    assert t["norm"][-1] == pytest.approx(norm.mean(), abs=4 * norm.std() / np.sqrt(20))


FACTOR = 2.0


def test_changes_of_what_a_function_refers_to_are_seen(approx):
    """A closed-over value, a global, an array changed in place, an attribute, a default."""
    factor, array, attribute = 2.0, np.array([1.0, 2.0]), functools.partial(lambda k, s: k, 0)
    attribute.k = 2.0

    def make(default=2.0):
        return lambda s, d=default: jnp.stack(
            [
                s["sd"] * factor,
                s["sd"] * FACTOR,
                s["sd"] * array[1],
                s["sd"] * attribute.k,
                s["sd"] * d,
            ]
        )

    sd = draws_of(approx, 1)["sd"][0]
    node = make()
    assert_close(approx.sample_node(node, random_seed=0), np.full(5, 2 * sd))
    factor = 3.0
    assert_close(approx.sample_node(node, random_seed=0), sd * np.array([3, 2, 2, 2, 2]))
    globals()["FACTOR"] = 4.0
    try:
        assert_close(approx.sample_node(node, random_seed=0), sd * np.array([3, 4, 2, 2, 2]))
        array[1] = 5.0
        assert_close(approx.sample_node(node, random_seed=0), sd * np.array([3, 4, 5, 2, 2]))
        attribute.k = 6.0
        assert_close(approx.sample_node(node, random_seed=0), sd * np.array([3, 4, 5, 6, 2]))
        node = make(7.0)
        assert_close(approx.sample_node(node, random_seed=0), sd * np.array([3, 4, 5, 6, 7]))
    finally:
        globals()["FACTOR"] = 2.0


def test_array_in_place_of_another_is_seen_over_the_rows_too(rows):
    array = np.ones(2, np.float32)
    node = lambda s: s["w"] * array  # noqa: E731
    w = rows.histogram[:, :2]
    assert_close(rows.evaluate_over_trace(node), w)
    array[:] = [2.0, 3.0]
    assert_close(rows.evaluate_over_trace(node), w * [2, 3])


def test_functions_that_count_or_remember_compile_once(approx, compiled):
    """What every run changes is no change, nor is what only the first one sets."""

    class Remembers:
        def __init__(self):
            self.calls, self.first = 0, None

        def __call__(self, sites):
            self.calls += 1
            self.first = sites["w"].shape if self.first is None else self.first
            return sites["w"].sum()

    node = Remembers()
    approx.sample_node(node, 3)
    calls = node.calls
    assert 1 <= calls <= 2
    for _ in range(3):
        quiet(compiled, lambda: approx.sample_node(node, 3))
    assert node.calls == calls
    # Run for something else in between, it has counted on; that is no change either.
    approx.sample_node(node, 3, more_replacements={"sd": 1.0})
    assert node.calls > calls
    quiet(compiled, lambda: approx.sample_node(node, 3))
    quiet(compiled, lambda: approx.sample_node(node, 3, more_replacements={"sd": 1.0}))


class Uncomparable:
    def __reduce_ex__(self, protocol):
        raise TypeError("not this one")

    factor = 2.0


@pytest.mark.parametrize("kind", ["generator", "lock", "object"])
def test_what_cannot_be_compared_works(approx, kind, caplog):
    lock, thing, numbers = threading.Lock(), Uncomparable(), iter(float(i) for i in range(2, 9))

    def generator(sites):
        return sites["sd"] * next(numbers)

    def locked(sites):
        with lock:
            return 2 * sites["sd"]

    def with_object(sites):
        return thing.factor * sites["sd"]

    node = {"generator": generator, "lock": locked, "object": with_object}[kind]
    sd = draws_of(approx, 4)["sd"]
    with caplog.at_level(logging.DEBUG, "numpyro_vi_ext"):
        first = approx.sample_node(node, 4, random_seed=0)
        thing.factor = 5.0  # a change that cannot be told
        again = approx.sample_node(node, 4, random_seed=0)
    if kind == "generator":
        factors = [first[0] / sd[0], again[0] / sd[0]]
        assert factors[1] > factors[0] >= 2
    else:
        assert_close(first, 2 * sd)
        assert_close(again, sd * (5 if kind == "object" else 2))
    assert ("compiled at every use" in caplog.text) == (kind != "lock")


def test_recorded_nodes_are_bounded_in_number(approx):
    for i in range(nodes._MOST_NODES + 20):
        nodes.record_node(
            lambda s, i=i: i * s["sd"], approx, approx.target.program.evaluate.shapes.sites
        )
    assert len(nodes._entries) == nodes._MOST_NODES


def test_threads_share_a_node(approx):
    """Eight threads at once, each with its own seed, get what one after the other gets."""
    node = lambda s: s["w"] @ jnp.array([1.0, 2.0])  # noqa: E731
    found = {}

    def work(seed):
        found[seed] = [approx.sample_node(node, 3, random_seed=seed) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, values in found.items():
        for value in values:
            assert_close(value, draws_of(approx, 3, seed)["w"] @ [1, 2])
    assert len(found) == 8


# -- memory


def thousand_rows(y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    x = jnp.linspace(-1, 1, 1000)
    numpyro.deterministic("curve", w[0] + w[1] * x + w[2] * jnp.sin(3 * x))
    numpyro.sample("y", dist.Normal(w.sum(), 1), obs=y)


@pytest.mark.parametrize("replaced", [None, {"y": Y[:2]}], ids=["there", "elsewhere"])
@pytest.mark.parametrize("summary", [jnp.mean, jnp.median])
def test_memory_of_a_million_draws_is_bounded(summary, replaced):
    """4 GB if all curves were kept at once; compiled for blocks of 2**22 numbers: 16 MB each.

    What the compiled program needs besides its arguments and its result of 4 MB, as XLA says. The
    mean XLA takes as it goes along, but for the median all of a curve must be there.
    """
    approx = vi.MeanField(thousand_rows, model_args=(Y,))
    node = lambda s: summary(s["curve"])  # noqa: E731
    where = approx._where(replaced)
    recorded, rerun, inputs = nodes._parts(approx.target, node, where)

    def memory(block_size):
        many = nodes._at_draws(approx.target.program, rerun, recorded, 1_000_000, block_size)
        found = many.lower(approx.point, inputs, jax.random.key(0)).compile().memory_analysis()
        assert found.output_size_in_bytes == pytest.approx(4e6, rel=0.1)
        return found.temp_size_in_bytes

    assert memory(None) < 150e6
    assert memory(10) < 50e6  # the keys of a million draws, twice, and their order


@pytest.mark.parametrize("replaced", [None, {"y": Y[:2]}], ids=["there", "elsewhere"])
def test_blocks_change_no_numbers(replaced):
    approx = vi.MeanField(thousand_rows, model_args=(Y,), start_sigma={"w": 0.5})
    node = [lambda s: s["curve"].mean(), "w"]
    options = {"random_seed": 0, "more_replacements": replaced}
    whole = approx.sample_node(node, 20, **options)
    w = draws_of(approx, 20)["w"]
    x = np.linspace(-1, 1, 1000)
    assert_close(whole[0], w[:, 0] + w[:, 1] * x.mean() + w[:, 2] * np.sin(3 * x).mean())
    for block_size in (1, np.int64(7)):
        found = approx.sample_node(node, 20, block_size=block_size, **options)
        jax.tree.map(assert_close, found, whole)


# -- inside the user's own compiled code


def test_inside_jit_and_vmap(approx):
    key = jax.random.key(5)
    node = {"w": "w", "f": lambda s: s["mean"].sum()}
    outside = approx.sample_node(node, 3, random_seed=key)
    inside = jax.jit(lambda key: approx.sample_node(node, 3, random_seed=key))(key)
    jax.tree.map(assert_close, inside, outside)
    keys = jax.random.split(key, 4)
    one = functools.partial(approx.sample_node, node)
    mapped = jax.jit(jax.vmap(lambda k: one(random_seed=k)))(keys)
    jax.tree.map(assert_close, mapped["w"], jnp.stack([one(random_seed=k)["w"] for k in keys]))


@pytest.mark.slow
def test_first_use_inside_jit_leaves_nothing_there():
    """A model, a node and a rerun that are first traced inside: all the same outside later."""

    def fresh(x, y):
        z = numpyro.sample("z", dist.LogNormal(0, 1))
        numpyro.deterministic("zx", z * x)
        numpyro.sample("y", dist.Normal(z, 1), obs=y)

    scale = np.array([1.0, 3.0])
    node = lambda s: s["zx"] * scale  # noqa: E731

    def call(key, x=None, approx=None):
        more = None if x is None else {"x": x}
        return approx.sample_node(node, random_seed=key, more_replacements=more)

    key = jax.random.key(0)
    for x in (None, np.array([5.0, 6.0], np.float32), jnp.array([5.0, 7.0])):
        approx = vi.MeanField(fresh, model_args=(X[0], Y))
        inside = jax.jit(functools.partial(call, x=x, approx=approx))(key)
        z = approx.sample_dict(1, random_seed=key)["z"]
        assert_close(inside, z * (X[0] if x is None else np.asarray(x)) * scale)
        assert_close(call(key, x, approx), inside)
        cache._entries.clear()
        nodes._entries.clear()


def test_new_arguments_and_values_may_be_traced(approx):
    """Compiled over test data, and differentiated in them and in a fixed latent: mean = X w."""
    d = draws_of(approx, 1)

    @jax.jit
    def mean(X_test):
        return approx.sample_node("mean", random_seed=0, more_replacements={"X": X_test})

    assert_close(mean(X[:3] + 1), (X[:3] + 1) @ d["w"][0])
    assert_close(jax.jacobian(mean)(X[:1])[0, 0], d["w"][0])

    def fixed(w):
        return approx.sample_node("mean", random_seed=0, more_replacements={"w": w})

    assert_close(jax.jacobian(fixed)(jnp.ones(2)), X)
    many = jax.vmap(fixed)(jnp.eye(2))
    assert_close(many, X.T)


@pytest.mark.slow
def test_functions_may_close_over_traced_values(approx):
    """The gradient of E[(w0 - a)^2] in a over given draws, by NumPy; nothing traced is kept."""

    def risk(a):
        return approx.sample_node(lambda s: (s["w"][0] - a) ** 2, 50, random_seed=0).mean()

    w = draws_of(approx, 50)["w"][:, 0]
    before = len(nodes._entries)
    for a in (0.3, 0.7):
        value, gradient = jax.jit(jax.value_and_grad(risk))(a)
        assert_close(value, ((w - a) ** 2).mean())
        assert_close(gradient, -2 * (w - a).mean())
    assert len(nodes._entries) == before
    assert_close(risk(0.3), ((w - 0.3) ** 2).mean())


def test_draw_inside_jit_vmap_and_grad(approx):
    key = jax.random.key(1)
    w = approx.draw(key)["w"]
    assert_close(jax.jit(approx.draw)(key)["w"], w)
    assert_close(jax.jit(jax.vmap(approx.draw))(key[None])["w"][0], w)
    gradient = jax.jit(jax.grad(lambda a: (a * approx.draw(key)["w"]).sum()))(2.0)
    assert_close(gradient, w.sum())


def test_gradient_in_q(approx):
    """d E[w0^2] / d mu0 over given draws is 2 E[w0]: q may be a traced value too."""

    def second_moment(mu):
        point = approx.point._replace(q=dataclasses.replace(approx.point.q, mu=mu))
        return (
            approx.at(point, approx.facts)
            .sample_node(lambda s: s["w"][0] ** 2, 50, random_seed=0)
            .mean()
        )

    gradient = jax.grad(second_moment)(approx.point.q.mu)
    assert_close(gradient, [2 * draws_of(approx, 50)["w"][:, 0].mean(), 0, 0])


# -- double precision

DOUBLE = """
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
import numpyro_vi_ext as vi

def model(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    scale = numpyro.param("scale", 1.0)
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    mean = numpyro.deterministic("mean", x @ w * scale)
    numpyro.sample("y", dist.Normal(mean, sd).to_event(1), obs=y)

def check(found, expected=None):
    for value in jax.tree.leaves(found):
        assert value.dtype == np.float64, (value.dtype, found)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-13)

rng = np.random.default_rng(0)
x, x_test = rng.normal(size=(5, 2)), rng.normal(size=(3, 2))
everything = lambda s: dict(s)
trace = {"w": rng.normal(size=(9, 2)), "sd": rng.lognormal(size=9)}
options = {"model": model, "model_args": (x, x[:, 0])}
mean_field, full_rank = (kind(**options, start={"sd": 0.3}) for kind in (vi.MeanField, vi.FullRank))
rows = vi.Empirical(trace, **options)
for approx in (mean_field, full_rank, rows):
    check(approx.sample_node(everything, 4, more_replacements={"x": x_test, "y": None}))
    w = np.asarray(approx.sample_dict(4, random_seed=0)["w"])
    elsewhere = approx.sample_node("mean", 4, more_replacements={"x": x_test}, random_seed=0)
    check(elsewhere, w @ x_test.T)
check(mean_field.sample_node(everything))
check(mean_field.sample_node("mean", more_replacements={"w": [0.1, 0.2]}), x @ [0.1, 0.2])
for value in (np.float32([0.5, 0.25]), jnp.array([1, 2])):
    check(mean_field.sample_node("mean", more_replacements={"w": value}), x @ value)
check(full_rank.constrain(full_rank.mean))
check(full_rank.draw(0))
check(rows.evaluate_over_trace("mean", more_replacements={"x": x_test}), trace["w"] @ x_test.T)
check(rows.sample_node("sd", deterministic=True), np.exp(np.log(trace["sd"]).mean()))
print("all double")
"""


@pytest.mark.slow
def test_double_precision_follows_jax():
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::FutureWarning",
            "-c",
            textwrap.dedent(DOUBLE),
        ],
        cwd=os.path.dirname(os.path.dirname(vi.__file__)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout == "all double\n", done.stderr
