"""Which arguments are data, which are part of the program, and how the model gets them."""

import functools
import inspect
import itertools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro import handlers

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.model import Model

pd = pytest.importorskip("pandas", reason="comes with ArviZ's xarray")


def received(value):
    """What a model gets when it is called with `value`, in its first run."""
    seen, number = [], next(NUMBERS)

    def model(value, number=number):
        seen.append(value)
        numpyro.sample("x", dist.Normal(0, 1))

    Model(model, value).latents  # noqa: B018
    return seen[0]


NUMBERS = itertools.count()  # a model of its own for each value
TABLE = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})

DATA = [
    1.5,
    np.float32(1.5),
    np.float64(1.5),
    np.complex64(1.5),
    np.array(3),
    np.array(1.5),
    np.array([1, 2]),
    np.array([1, 2], np.uint8),
    np.array([True, False]),
    np.zeros((0, 2)),
    np.array([1.0 + 2j]),
    jnp.array(3),
    jnp.ones(2),
    jax.random.key(0),
    TABLE["a"],
    pd.Index([1, 2]),
    xr.DataArray([1.0, 2.0], dims="n"),
    np.ones((2, 2)).view(np.matrix) if hasattr(np, "matrix") else np.ones(2),
]

STATIC = [
    3,
    True,
    "text",
    None,
    2j,
    np.int64(3),
    np.True_,
    np.str_("text"),
    TABLE,
    TABLE["b"].astype("category"),
    pd.Series([1, None], dtype="Int64"),
    xr.Dataset({"a": ("n", [1.0])}),
    np.array(["a", "b"]),
    np.array(["2020-01-01"], "datetime64[D]"),
    np.ma.array([1.0, 2.0], mask=[True, False]),
    np.array([(1.0, 2)], dtype=[("a", "f8"), ("b", "i4")]),
    range(3),
    np.float64,
    object(),
    np.sin,
    {1, 2},
]


@pytest.mark.parametrize("value", DATA, ids=lambda v: type(v).__name__)
def test_data_are_inputs_of_compiled_code(value):
    got = received(value)
    assert isinstance(got, jax.core.Tracer)
    assert got.shape == np.shape(value)


@pytest.mark.parametrize("value", STATIC, ids=lambda v: type(v).__name__)
def test_all_else_reaches_the_model_as_it_is(value):
    assert received(value) is value


def test_values_of_data_arrive():
    def model(a, b, c, d):
        numpyro.sample("x", dist.Normal(a + b.sum() + c.sum() + d["k"][0], 1.0))

    values = (0.5, TABLE["a"], xr.DataArray([1, 2]), {"k": (np.float32(0.25),)})
    loc = 0.5 + 3.0 + 3 + 0.25
    np.testing.assert_allclose(
        Model(model, *values).log_density([0.0]), -(loc**2) / 2 - np.log(2 * np.pi) / 2, rtol=1e-6
    )


def test_sparse_matrix_is_not_data():
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.eye(2))
    assert received(matrix) is matrix


def test_registered_containers_are_taken_apart():
    normal = received(dist.Normal(jnp.zeros(2), 1.0))
    assert isinstance(normal.loc, jax.core.Tracer)


def test_integers_too_large_for_jax_stay_in_numpy():
    times = np.array([2**40, 2**40 + 3])
    got = received(times)
    assert isinstance(got, np.ndarray)

    def model(t):
        numpyro.sample("x", dist.Normal((t - t[0]).sum(), 1.0))

    np.testing.assert_allclose(Model(model, times).log_density([0.0]), -4.5 - 0.9189385, rtol=1e-6)
    later = times + np.array([0, 1])
    np.testing.assert_allclose(Model(model, later).log_density([0.0]), -8 - 0.9189385, rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: pd.Series(x), lambda x: {"deep": [x]}])
def test_array_of_object_dtype(wrap):
    def model(y):
        numpyro.sample("x", dist.Normal(0, 1))

    name = r"y\['deep'\]\[0\]" if isinstance(wrap(0), dict) else "y"
    expected = f"model argument .{name}. is an array of object dtype; expected numbers"
    with pytest.raises(TypeError, match=expected):
        Model(model, wrap(np.array([1, None], dtype=object)))


def test_data_are_copied_when_bound():
    y = np.ones(3, np.float32)

    def model(y):
        numpyro.sample("x", dist.Normal(y.sum(), 1.0))

    bound = Model(model, y)
    y[:] = 7
    np.testing.assert_allclose(bound.log_density([0.0]), -4.5 - 0.9189385, rtol=1e-6)
    np.testing.assert_allclose(Model(model, y).log_density([0.0]), -220.5 - 0.9189385, rtol=1e-6)


def test_changed_object_among_the_arguments_is_seen():
    class Config:
        loc = 1.0

    config, table = Config(), pd.DataFrame({"a": [1.0]})
    runs = []

    def model(config, table, link):
        runs.append(1)
        numpyro.sample("x", dist.Normal(link(config.loc) * table["a"][0], 1.0))

    bound = Model(model, config, table, lambda x: x)

    def check(loc, new_runs):
        before = len(runs)
        found = bound.log_density([0.0])
        np.testing.assert_allclose(found, -(loc**2) / 2 - 0.9189385, rtol=1e-6)
        assert (len(runs) > before) == new_runs

    check(1.0, True)
    check(1.0, False)
    config.loc = 2.0
    check(2.0, True)
    table.loc[0, "a"] = 3.0
    check(6.0, True)
    check(6.0, False)


# -- arguments whose values the model needs in Python


def grouped(idx, X, scale=1.0, *, y=None):
    RUNS.append([isinstance(a, jax.core.Tracer) for a in (idx, X, scale, y)])
    with numpyro.plate("group", len(np.unique(idx))):
        effect = numpyro.sample("effect", dist.Normal(0, scale))
    numpyro.sample("y", dist.Normal(effect[idx] + X, 1.0), obs=y)


RUNS: list[list[bool]] = []


def test_only_what_is_needed_in_python_becomes_a_constant():
    idx, X = np.array([0, 1, 1, 3, 3]), np.arange(5.0)

    def check(idx, X, scale, y):
        bound = Model(grouped, idx, X, scale, y=y)
        # as in NumPyro, an index out of range means the last one
        groups = len(np.unique(idx))
        z = np.linspace(-1, 1, groups).astype(np.float32)
        effect = z[np.minimum(idx, groups - 1)]
        expected = dist.Normal(0, scale).log_prob(z).sum()
        expected += dist.Normal(effect + X, 1.0).log_prob(y).sum()
        np.testing.assert_allclose(bound.log_density(z), expected, rtol=1e-5)

    RUNS.clear()
    check(idx, X, 0.5, X)
    assert RUNS[-1] == [False, True, True, True]
    runs = len(RUNS)
    check(idx, X + 1, 1.5, X - 1)
    assert len(RUNS) == runs  # new values of the inputs
    check(np.array([0, 1, 2, 3, 3]), X, 0.5, X)
    assert len(RUNS) > runs  # new values of the constant
    runs = len(RUNS)
    check(idx, X + 2, 0.7, X)
    assert len(RUNS) == runs  # and back


@pytest.mark.parametrize(
    ("use", "value"),
    [
        (lambda v: float(v), 0.5),
        (lambda v: f"{v:.1f}" and v, 0.5),
        (lambda v: {0.5: 0.5}[v], 0.5),
        (lambda v: 0.5 if v in (0.5, 1.0) else 0.0, 0.5),
        (lambda v: v if isinstance(v.tolist(), list) else 0, np.array([0.5])),
        (lambda v: v[np.flatnonzero(v)], np.array([0.0, 0.5])),
        (lambda v: v.to_numpy()[0], pd.Series([0.5])),
        (lambda v: v.rolling(1).sum()[0], pd.Series([0.5])),
        (lambda v: v.sel(n="b").item(), xr.DataArray([0.1, 0.5], coords={"n": ["a", "b"]})),
        (lambda v: np.add.reduce(np.asarray(v)), jnp.array([0.25, 0.25])),
        (lambda v: v.itemset if False else 0.1 * len(range(v.item())), np.array(5)),
    ],
)
def test_needs_in_python_that_numpyro_meets_too(use, value):
    def model(v):
        numpyro.sample("x", dist.Normal(jnp.sum(jnp.asarray(use(v))), 1.0))

    handlers.trace(handlers.seed(model, 0)).get_trace(value)
    np.testing.assert_allclose(
        Model(model, value).log_density([0.0]), -0.125 - 0.9189385, rtol=1e-5
    )


def test_changes_in_place_by_the_model_do_not_reach_the_caller():
    y = np.array([1.0, 2.0])

    def model(y):
        y -= 1.0
        numpyro.sample("x", dist.Normal(jnp.sum(y[y > 0]), 1.0))

    bound = Model(model, y)
    for _ in range(2):
        np.testing.assert_allclose(bound.log_density([0.0]), -0.5 - 0.9189385, rtol=1e-5)
    np.testing.assert_array_equal(y, [1.0, 2.0])


def test_keys_stay_inputs_beside_a_constant():
    def model(idx, key):
        n = len(np.unique(idx))
        numpyro.sample("x", dist.Normal(jax.random.normal(key), 1.0).expand([n]).to_event(1))

    for seed in (0, 1):
        key = jax.random.key(seed)
        found = Model(model, np.array([0, 1]), key).log_density([0.0, 0.0])
        loc = jax.random.normal(key)
        np.testing.assert_allclose(found, -(loc**2) - 2 * 0.9189385, rtol=1e-5)


def test_same_position_may_hold_a_constant_once_and_an_object_then():
    def model(a):
        n = len(np.unique(a)) if hasattr(a, "dtype") else 1
        numpyro.sample("x", dist.Normal(jnp.zeros(n), 1.0).to_event(1))

    assert Model(model, np.array([1, 2])).ndim == 2
    assert Model(model, object()).ndim == 1
    assert Model(model, {"k": np.array([1, 2, 3])}).ndim == 1
    assert Model(model, np.array([3, 4, 5])).ndim == 3


# -- names


class Pair(NamedTuple):
    first: Any
    second: Any


@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        ((1.0, 2.0), {}, ("a", "b")),
        ((1.0,), {"b": 2.0, "d": 3.0}, ("a", "b", "d")),
        ((1.0, 2.0, 3.0, 4.0), {"key": 5.0}, ("a", "b", "c[0]", "c[1]", "key")),
        (({"k": [1.0, 2.0]}, None), {}, ("a['k'][0]", "a['k'][1]")),
        ((Pair(1.0, (2.0,)), 0.0), {}, ("a.first", "a.second[0]", "b")),
    ],
)
def test_names_of_leaves(args, kwargs, names):
    def model(a, b, *c, d=None, **e): ...

    assert Arguments.bind(model, args, kwargs).names == names


def test_names_without_a_signature():
    bound = Arguments.bind(max, (1.0, 2.0), {"key": 3.0})
    assert bound.signature is None or isinstance(bound.signature, inspect.Signature)
    assert bound.names[-1] == "key"


def test_names_behind_handlers_and_decorators():
    def model(a, b): ...

    @functools.wraps(model)
    def passes_on(*args, **kwargs):
        model(*args, **kwargs)

    for fn in (handlers.scale(handlers.seed(model, 0), scale=2.0), passes_on):
        assert Arguments.bind(fn, (1.0,), {"b": 2.0}).names == ("a", "b")


def test_rebuild_gives_back_the_call():
    def model(a, b, c): ...

    args, kwargs = ({"x": np.ones(2), "n": 3}, "text"), {"c": Pair(None, 0.5)}
    bound = Arguments.bind(model, args, kwargs)
    assert [bound.names[i] for i in bound.inputs] == ["a['x']", "c.second"]
    new_args, new_kwargs = bound.rebuilder()([10, 20])
    assert new_args == ({"x": 10, "n": 3}, "text")
    assert new_kwargs == {"c": Pair(None, 20)}


def test_replace_positional_only_and_keywords():
    def model(a, b=1.0, /, c=2.0, *, d=3.0, **rest): ...

    bound = Arguments.bind(model, (0.0, 1.0), {"d": 3.0})
    assert bound.replace({"a": 5.0, "b": 6.0}) == ((5.0, 6.0), {"d": 3.0})
    assert bound.replace({"c": 5.0, "d": 6.0}) == ((0.0, 1.0), {"d": 6.0, "c": 5.0})
    assert bound.replace({"other": 5.0}) == ((0.0, 1.0), {"d": 3.0, "other": 5.0})


def test_no_pandas_is_loaded_by_the_package():
    import subprocess

    code = "import sys, numpyro_vi_ext.arguments; print('pandas' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("False", "True")
