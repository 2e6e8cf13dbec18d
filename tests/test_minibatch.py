"""Index streams, and the object that stands for a batch."""

import copy
import functools
import gc
import math
import pickle
import re
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from numpyro_vi_ext.batching.minibatch import Minibatch
from numpyro_vi_ext.batching.plans import Cut, Plan

if hasattr(jax, "enable_x64"):
    from jax import enable_x64
else:
    from jax.experimental import enable_x64

BOTH = pytest.mark.parametrize("sampling", ["iid", "epoch"])


def plan_of(batch_size, ndim=1, seed=42, sampling="iid"):
    return Plan.create(batch_size, ndim, seed, sampling)


def outer(plan, stored, step):
    """The batch by NumPy's own outer indexing."""
    positions = [plan.indices(axis, n, step) for axis, n in enumerate(stored.shape)]
    whole = [np.arange(n) if p is None else p for p, n in zip(positions, stored.shape, strict=True)]
    return stored[np.ix_(*map(np.asarray, whole))]


def many_steps(plan, lengths, steps):
    return [None if x is None else np.asarray(x) for x in plan.block_indices(lengths, 0, steps)]


# Which positions a step sees


@pytest.mark.parametrize(
    ("batch_size", "shape", "sampling"),
    [
        (3, (7,), "iid"),
        ([3, 4], (7, 9), "iid"),
        ([3, 4], (7, 9), "epoch"),
        ([None, 4], (7, 9), "iid"),
        ([3, ..., 4], (7, 2, 3, 9), "iid"),
        (None, (7, 2), "iid"),
    ],
)
def test_take_is_an_outer_product(batch_size, shape, sampling):
    plan = plan_of(batch_size, len(shape), sampling=sampling)
    stored = np.arange(np.prod(shape)).reshape(shape)
    for step in (0, 1, 17):
        batch = plan.take(jnp.asarray(stored), step)
        np.testing.assert_array_equal(batch, outer(plan, stored, step))
        assert batch.shape == plan.shape(shape)


def test_many_steps_are_one_trace():
    plan, traces = plan_of([3, 2], 2), []

    @jax.jit
    def take(stored, step):
        traces.append(step)
        return plan.take(stored, step)

    stored = jnp.arange(63).reshape(7, 9)
    batches = [np.asarray(take(stored, step)) for step in range(20)]
    assert len(traces) == 1
    np.testing.assert_array_equal(batches[13], plan.take(stored, 13))
    assert len({b.tobytes() for b in batches}) == 20


@BOTH
def test_block_is_its_steps(sampling):
    plan = plan_of([3, None, 3], 3, sampling=sampling)
    stored = jnp.arange(200.0).reshape(10, 2, 10)
    for start in (0, 2):
        rows, whole, columns = plan.block_indices(stored.shape, start, 5)
        assert whole is None
        assert rows.shape == (5, 3)
        assert rows.dtype == columns.dtype == jnp.int32
        for i in range(5):
            np.testing.assert_array_equal(rows[i], plan.indices(0, 10, start + i))
            np.testing.assert_array_equal(columns[i], plan.indices(2, 10, start + i))
        gathered = plan.gather(stored, (rows[4], None, columns[4]))
        np.testing.assert_array_equal(gathered, plan.take(stored, start + 4))


@BOTH
def test_stream_knows_no_chunks_and_no_settings(sampling):
    plan = plan_of(4, sampling=sampling)
    expected = many_steps(plan, (10,), 12)[0]
    in_loop = jax.lax.fori_loop(
        0, 12, lambda i, out: out.at[i].set(plan.indices(0, 10, i)), jnp.zeros((12, 4), jnp.int32)
    )
    np.testing.assert_array_equal(in_loop, expected)
    with enable_x64(True):
        wide = many_steps(plan, (10,), 12)[0]
    assert wide.dtype == np.int32
    np.testing.assert_array_equal(wide, expected)


def test_stream_does_not_follow_the_default_generator():
    plan = plan_of(4)
    expected = plan.indices(0, 10, 3)
    with jax.default_prng_impl("rbg"):  # under which vmap changes what is drawn
        np.testing.assert_array_equal(plan.indices(0, 10, 3), expected)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        # (batch_size, seed of the object, axis)
        (([4, 4], 42, 0), ([4, 4], 42, 1), False),
        (([(4, 7), (4, 7)], 42, 0), ([(4, 7), (4, 7)], 42, 1), True),
        (([(4, 7), (4, 8)], 42, 0), ([(4, 7), (4, 8)], 42, 1), False),
        (([4, (4, 42)], 42, 0), ([4, (4, 42)], 42, 1), False),
        ((4, 42, 0), ([4, 4], 42, 0), True),
        ((4, 42, 0), (4, 43, 0), False),
        (([(4, 7), 4], 42, 0), ([(4, 7), 4], 43, 0), True),
        (([(4, 7), 4], 42, 1), ([(4, 7), 4], 43, 1), False),
        ((4, -1, 0), (4, 2**64 - 1, 0), True),
        ((4, 1, 0), (4, 1 + 2**32, 0), False),
    ],
)
def test_what_a_stream_depends_on(one, other, equal):
    for sampling in ("iid", "epoch"):
        (a, i), (b, j) = ((plan_of(size, 2, seed, sampling), k) for size, seed, k in (one, other))
        assert (a.stream(i, 12) == b.stream(j, 12)) == equal
        if sampling == "iid":  # one function draws for both
            found = many_steps(a, (12, 12), 20)[i], many_steps(b, (12, 12), 20)[j]
            assert np.array_equal(*found) == equal


def test_length_and_size_make_another_stream():
    short, long = plan_of(5).indices(0, 50, 0), plan_of(5).indices(0, 100, 0)
    assert not np.array_equal(short, long // 2)  # which one set of uniform numbers would give
    assert not np.array_equal(plan_of(6).indices(0, 100, 0)[:5], long)
    assert plan_of(5).stream(0, 50) != plan_of(5, sampling="epoch").stream(0, 50)
    assert plan_of(5).stream(3, 50) is None
    assert plan_of(5).indices(3, 50, 0) is None


def test_iid_is_uniform_and_with_replacement():
    rows = many_steps(plan_of(50), (20,), 2000)[0]
    assert stats.chisquare(np.bincount(rows.ravel(), minlength=20)).pvalue > 0.01
    pairs = np.bincount(rows[:, 0] * 20 + rows[:, 1], minlength=400)  # in one batch
    assert stats.chisquare(pairs).pvalue > 0.01
    pairs = np.bincount(rows[:-1, 0] * 20 + rows[1:, 0], minlength=400)  # in consecutive ones
    assert stats.chisquare(pairs).pvalue > 0.01


def test_rows_and_columns_are_independent():
    rows, columns = many_steps(plan_of([1, 1], 2), (8, 8), 8000)
    pairs = np.bincount((rows * 8 + columns).ravel(), minlength=64)
    assert stats.chisquare(pairs).pvalue > 0.01


@pytest.mark.parametrize("length", [1, 97, 10_007])
def test_epoch_is_a_permutation(length):
    epochs = many_steps(plan_of(length, sampling="epoch"), (length,), 4)[0]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(length))
    if length > 16:
        assert len({epoch.tobytes() for epoch in epochs}) == 4


@pytest.mark.parametrize(("length", "size"), [(12, 4), (1001, 10)])
def test_epoch_sees_each_row_once(length, size):
    per_epoch = length // size
    steps = many_steps(plan_of(size, sampling="epoch"), (length,), 3 * per_epoch)[0]
    epochs = steps.reshape(3, -1)
    assert [len(np.unique(epoch)) for epoch in epochs] == [per_epoch * size] * 3
    left_out = [frozenset(range(length)) - set(epoch.tolist()) for epoch in epochs]
    assert [len(rows) for rows in left_out] == [length % size] * 3
    assert length % size == 0 or len(set(left_out)) == 3


def test_epoch_covers_long_data():
    length, size = 10_000_000, 1000
    plan = plan_of(size, sampling="epoch")
    found = many_steps(plan, (length,), 200)[0]
    assert found.min() >= 0
    assert found.max() < length
    assert len(np.unique(found)) == 200 * size
    # The largest of n uniform positions, and their mean.
    assert found.max() > length * (1 - 1e-4)
    assert abs(found.mean() / length - 0.5) < 4 / np.sqrt(12 * found.size)


@pytest.mark.parametrize("length", [2, 3, 7])  # 7 are taken from 4 x 2, odd x odd would not do
def test_every_permutation_is_as_likely(length):
    epochs = many_steps(plan_of(length, sampling="epoch"), (length,), 30_000)[0]
    code = epochs.astype(int) @ length ** np.arange(length)
    counts = np.unique(code, return_counts=True)[1]
    counts = np.pad(counts, (0, math.factorial(length) - len(counts)))
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("length", [8, 31])
def test_pairs_of_positions_are_uniform(length):
    epochs = many_steps(plan_of(length, sampling="epoch"), (length,), 20_000)[0]
    for i, j in ((0, 1), (0, length - 1), (2, 5)):
        counts = np.zeros((length, length), int)
        np.add.at(counts, (epochs[:, i], epochs[:, j]), 1)
        assert not counts.diagonal().any()
        assert stats.chisquare(counts[~np.eye(length, dtype=bool)]).pvalue > 0.003


def test_neighbours_in_long_data_are_far_apart():
    epochs = many_steps(plan_of(500, sampling="epoch"), (40_000,), 400)[0]  # five epochs
    gaps = np.abs(np.diff(epochs.astype(float), axis=1)).ravel() / 40_000
    assert stats.kstest(gaps, lambda x: 1 - (1 - x) ** 2).pvalue > 0.01  # of two uniform numbers
    means = epochs.mean(1) / 40_000
    assert means.std() == pytest.approx(1 / np.sqrt(12 * 500), rel=4 / np.sqrt(2 * 400))


def test_without_replacement_varies_less():
    values = np.random.default_rng(0).normal(size=20)
    sd = {
        sampling: values[many_steps(plan_of(15, sampling=sampling), (20,), 4000)[0]].mean(1).std()
        for sampling in ("iid", "epoch")
    }
    expected = values.std() / np.sqrt(15)
    assert sd["iid"] == pytest.approx(expected, rel=4 / np.sqrt(2 * 4000))
    finite = np.sqrt((20 - 15) / (20 - 1))  # Cochran 1977, equation 2.8
    assert sd["epoch"] == pytest.approx(expected * finite, rel=4 / np.sqrt(2 * 4000))


@BOTH
def test_cost_does_not_depend_on_length(sampling):
    plan = plan_of(8, sampling=sampling)
    programs = [
        jax.make_jaxpr(functools.partial(plan.indices, 0, length))(0) for length in (1000, 10**9)
    ]
    sizes = [
        {v.aval.size for eqn in p.jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "size")}
        for p in programs
    ]
    assert sizes[0] == sizes[1]
    assert max(sizes[0]) <= 100


def test_axis_beyond_int32():
    with pytest.raises(ValueError, match=r"axis 0 must be shorter than 2\*\*31 to be cut, got 2,1"):
        plan_of(8).indices(0, 2**31, 0)


# What a plan is


def test_plan_is_a_value():
    plan = plan_of([(10, 7), None, 5], 4, sampling="epoch")
    assert plan == Plan((Cut(10, 7, True), None, Cut(5, 42, False)), "epoch")
    assert hash(plan) == hash(pickle.loads(pickle.dumps(plan)))
    assert plan_of(10, 3) == plan_of([10, None, ...], 3) == plan_of(np.int64(10), 1)
    assert plan_of(10) != plan_of([(10, 42)])
    assert plan.scale((20, 3, 10, 2)) == (2.0, 1.0, 2.0, 1.0)


LONG, WIDE = (10, 20, 30, 40, 50), (30, 10, 40, 10, 50)


@pytest.mark.parametrize(
    ("batch_size", "shape", "expected"),
    [
        ([2, ..., 10], LONG, (2, 20, 30, 40, 10)),
        ([2, None, 20], LONG, (2, 20, 20, 40, 50)),
        ([2, None, 20, ..., 10], LONG, (2, 20, 20, 40, 10)),
        (20, WIDE, (20, 10, 40, 10, 50)),
        ([(10, 42), (4, 42)], WIDE, (10, 4, 40, 10, 50)),
        ([(10, 42), None, (4, 42)], WIDE, (10, 10, 4, 10, 50)),
        ([(10, 42), ..., (4, 42)], WIDE, (10, 10, 40, 10, 4)),
        ([(10, 42), None, ..., (4, 42)], WIDE, (10, 10, 40, 10, 4)),
        ([10, None, ..., (4, 42)], WIDE, (10, 10, 40, 10, 4)),
        (None, (3, 4), (3, 4)),
        ([], (3, 4), (3, 4)),
        ([...], (3, 4), (3, 4)),
        ((np.int32(2), np.uint8(3)), (3, 4), (2, 3)),
        ([None, (np.int64(3), np.int64(1))], (3, 4), (3, 3)),
        (10, (3, 4), (10, 4)),  # with replacement, a batch may be larger than the data
    ],
)
def test_shapes(batch_size, shape, expected):
    # broadcast, so that five axes of data cost nothing before they are stored
    minibatch = Minibatch(np.broadcast_to(np.int8(1), shape), batch_size=batch_size)
    assert minibatch.shape == expected
    assert minibatch.ndim == len(shape)
    assert minibatch.total_size == shape
    assert jax.eval_shape(minibatch.plan.take, minibatch.shared, 0).shape == expected


def test_default_batch():
    assert Minibatch(np.zeros((1000, 2))).shape == (128, 2)


@pytest.mark.parametrize("wrong", ["10", 10.0, True, {10}, ..., np.array([10, 10])])
def test_batch_size_of_a_wrong_type(wrong):
    text = "batch_size must be an int, None, or a list with an int, a pair (size, seed) of ints,"
    with pytest.raises(TypeError, match=re.escape(text)) as caught:
        Minibatch(np.zeros((30, 30)), batch_size=wrong)
    assert str(caught.value).endswith(f"got {wrong!r} of type {type(wrong).__name__}")


@pytest.mark.parametrize(
    "wrong", [(10, 1, 2), (10,), (10, 1.0), (10, None), ("a", 1), "a", 10.0, [10, 1], (True, 1)]
)
def test_entry_of_batch_size_of_a_wrong_type(wrong):
    text = f"got {wrong!r} of type {type(wrong).__name__} in [{wrong!r}, 10]"
    with pytest.raises(TypeError, match=re.escape(text)):
        Minibatch(np.zeros((30, 30)), batch_size=[wrong, 10])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ([..., 10, ...], "batch_size must have at most one Ellipsis, got [Ellipsis, 10, Ellipsis]"),
        ([1, 2, 3], "batch_size must have at most one entry per axis, of which there are 2; got 3"),
        (0, "batch_size must be at least 1, got 0"),
        ([10, -2], "batch_size must be at least 1, got -2"),
        ([(0, 42)], "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_batch_size(wrong, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        Minibatch(np.zeros((30, 30)), batch_size=wrong)


def test_batch_size_by_position():
    for wrong in (500, [2, ..., 10], [2, None], np.int64(3)):
        with pytest.raises(
            TypeError, match=r"further arguments must be arrays, got .*; batch_size is"
        ):
            Minibatch(np.zeros((30, 30, 30)), wrong)
    with pytest.raises(ValueError, match=r"lengths \(30, 2\) \(batch_size is given by name\)"):
        Minibatch(np.zeros((30, 30)), [10, 10])


def test_epoch_larger_than_the_data():
    text = "at most the length of the data with sampling='epoch', which draws without replacement"
    with pytest.raises(ValueError, match=f"{text}; got 31 for axis 1 of length 30"):
        Minibatch(np.zeros((40, 30)), batch_size=[31, 31], sampling="epoch")
    minibatch = Minibatch(np.zeros(30), batch_size=20, sampling="epoch")
    with pytest.raises(ValueError, match="got 20 for axis 0 of length 10"):
        minibatch.set_value(np.zeros(10))
    assert minibatch.total_size == (30,)


# What is stored


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (jnp.bfloat16, np.float32),
        (np.int64, np.int32),
        (np.uint8, np.uint8),
        (bool, bool),
        (np.complex128, np.complex64),
        (">f8", np.float32),
        (">i4", np.int32),
    ],
)
def test_types(given, stored):
    minibatch = Minibatch(np.ones((4, 2), given), batch_size=2)
    assert minibatch.dtype == minibatch.shared.dtype == minibatch.eval().dtype == stored
    assert isinstance(minibatch.shared, jax.Array)


@pytest.mark.parametrize(
    ("dtype", "stored"), [("int32", "int32"), ("float16", "float16"), (float, "float32")]
)
def test_forced_type(dtype, stored):
    data = np.random.default_rng(0).laplace(size=(100, 100))
    minibatch = Minibatch(data, batch_size=[(10, 42), (10, 42)], dtype=dtype)
    assert str(minibatch.dtype) == stored
    np.testing.assert_array_equal(minibatch.shared, data.astype(stored))
    minibatch.set_value(data + 5)
    np.testing.assert_array_equal(minibatch.shared, (data + 5).astype(stored))


def test_double_precision():
    with enable_x64(True):
        minibatch = Minibatch(np.full(3, 1e300), np.full(3, 2**40), batch_size=2)
        assert [part.dtype for part in minibatch] == ["float64", "int64"]
        assert Minibatch(np.ones(3), dtype="float64").dtype == "float64"
    text = "dtype must be one that JAX is set up for, got float64: set jax_enable_x64, or ask for"
    with pytest.raises(ValueError, match=f"{text} float32"):
        Minibatch(np.ones(3), dtype="float64")


@pytest.mark.parametrize("dtype", ["words", "U3", object, "datetime64[s]", 3])
def test_type_that_is_none_of_numbers(dtype):
    with pytest.raises(TypeError, match=r"dtype must be a type of numbers, such as 'float32', got"):
        Minibatch(np.ones(3), dtype=dtype)


@pytest.mark.parametrize(
    ("data", "dtype", "text"),
    [
        ([0, 2**31], None, "the type int32, got values from 0 to 2147483648"),
        ([0.0, 1e300], None, "the type float32, got values from 0.0 to 1e+300"),
        ([0, 300], "uint8", "the type uint8, got values from 0 to 300"),
        ([-1.0, 300.0], "uint8", "the type uint8, got values from -1.0 to 300.0"),
    ],
)
def test_data_that_do_not_fit(data, dtype, text):
    with pytest.raises(ValueError, match=re.escape(f"data must fit {text}")):
        Minibatch(np.array(data), dtype=dtype)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (np.array([1, "a", None], object), "got ndarray of dtype object; convert it first"),
        (np.array(["a", "b"]), "got ndarray of dtype <U1"),
        (pd.Series(["a", "b"]), "got Series of dtype"),
        (pd.DataFrame({"a": [1], "b": ["x"]}), "got DataFrame of dtype object"),
        (np.array(["2020-01-01"], "datetime64[D]"), "of dtype datetime64[D]"),
        (np.array([1], "timedelta64[D]"), "of dtype timedelta64[D]"),
        ([[1], [1, 2]], "got list: "),
        (None, "got NoneType of dtype object"),
        ((x for x in [1]), "got generator of dtype object"),
        (jax.random.split(jax.random.key(0), 3), "data must be an array of numbers, got "),
        (Minibatch(np.ones(3)), "got Minibatch: a Minibatch has no values of its own"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "no missing values, got a masked array"),
    ],
    ids=lambda x: None,
)
def test_data_that_are_no_numbers(data, text):
    with pytest.raises(TypeError, match=re.escape(text)):
        Minibatch(data)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_data(shape):
    with pytest.raises(ValueError, match=re.escape(f"data must not be empty, got an array {'of'}")):
        Minibatch(np.zeros(shape))


def test_single_value():
    with pytest.raises(ValueError, match=r"at least one axis, got the single value 1\.5"):
        Minibatch(1.5)


def test_traced_data():
    @jax.jit
    def model(x):
        return Minibatch(x).shape

    with pytest.raises(TypeError, match="got a value that JAX is tracing: make the Minibatch out"):
        model(jnp.ones(3))


@pytest.mark.parametrize("make", [np.array, jnp.array])
def test_nan_is_warned_of_once(make):
    data = np.ones((5, 3))
    data[[0, 1], 1] = np.nan
    with pytest.warns(
        UserWarning, match=re.escape("data of shape (5, 3) have 2 NaN: every")
    ) as caught:
        minibatch = Minibatch(make(data), batch_size=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    minibatch.eval()
    with pytest.warns(UserWarning, match="have 15 NaN"):
        minibatch.set_value(data * np.nan)
    Minibatch(np.full(3, np.inf))  # as a bound it may be meant


def test_nan_has_no_integer():
    with (
        pytest.warns(UserWarning, match="1 NaN"),
        pytest.raises(ValueError, match="must fit the type int32, got values from nan to nan"),
    ):
        Minibatch(np.array([1.0, np.nan]), dtype="int32")


def test_pandas():
    frame = pd.DataFrame({"a": np.arange(6.0), "b": np.arange(6)})
    X, y = Minibatch(frame, frame["b"], batch_size=3)
    np.testing.assert_array_equal(X.shared, frame.to_numpy())
    assert (X.dtype, y.dtype) == ("float32", "int32")


def test_data_are_copied_unless_they_cannot_change():
    buffer = np.zeros(64 + 16, np.float32)
    start = -(buffer.ctypes.data // 4) % 16  # where JAX would share the memory: at 64 bytes
    data = buffer[start : start + 64]
    minibatch = Minibatch(data, batch_size=8)
    data[:] = 1
    assert not minibatch.eval().any()
    on_device = jnp.zeros(64)
    assert Minibatch(on_device).shared is on_device


def test_nothing_is_held_after_it_is_gone():
    minibatch = Minibatch(np.zeros(5), update_shared_f=lambda: np.zeros(5))
    minibatch.eval()
    gone = weakref.ref(minibatch)
    gc.disable()
    try:
        del minibatch
        assert gone() is None  # at once: large data must not wait for the garbage collector
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("in_memory_size", "index"),
    [
        (None, np.s_[:]),
        (4, np.s_[:4]),
        (np.int64(4), np.s_[:4]),
        (slice(1, 9, 2), np.s_[1:9:2]),
        ([4, 3], np.s_[:4, :3]),
        ([None, slice(2, None)], np.s_[:, 2:]),
        ([4, ..., 2], np.s_[:4, :, :2]),
        ((slice(None), 2), np.s_[:, :2]),
        ([..., None, 2], np.s_[:, :, :2]),
        (100, np.s_[:]),
    ],
)
def test_in_memory_size(in_memory_size, index):
    data = np.arange(10 * 5 * 6).reshape(10, 5, 6)
    for given in (data, jnp.asarray(data)):
        minibatch = Minibatch(given, batch_size=2, in_memory_size=in_memory_size)
        np.testing.assert_array_equal(minibatch.shared, data[index])
    minibatch.set_value(data + 1)
    np.testing.assert_array_equal(minibatch.shared, data[index] + 1)


def test_a_part_of_a_file(tmp_path):
    np.save(tmp_path / "data.npy", np.arange(100.0))
    data = np.load(tmp_path / "data.npy", mmap_mode="r")
    minibatch = Minibatch(data, batch_size=2, in_memory_size=10)
    np.testing.assert_array_equal(minibatch.shared, np.arange(10.0))


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ("10", TypeError, "in_memory_size must be None, an int, a slice, or a list with an int"),
        (10.0, TypeError, "got 10.0 of type float"),
        ([True], TypeError, "got True of type bool"),
        ([..., 1, ...], ValueError, "in_memory_size must have at most one Ellipsis"),
        ([1, 1, 1], ValueError, "in_memory_size must have at most one entry per axis"),
        (0, ValueError, "in_memory_size must be at least 1, got 0"),
        ([3, -1], ValueError, "in_memory_size must be at least 1, got -1"),
        (slice(5, 5), ValueError, "data must not be empty, got an array of shape (0, 3)"),
    ],
)
def test_wrong_in_memory_size(wrong, error, text):
    with pytest.raises(error, match=re.escape(text)):
        Minibatch(np.zeros((9, 3)), in_memory_size=wrong)


# Other data


def test_set_value():
    minibatch = Minibatch(np.zeros((100, 3)), batch_size=10)
    before, plan = minibatch.shared, minibatch.plan
    minibatch.set_value(np.ones((60, 3)))
    assert minibatch.total_size == (60, 3)
    assert minibatch.scale == (6.0, 1.0)
    assert minibatch.plan == plan
    assert minibatch.eval().all()
    assert before.shape == (100, 3)
    assert not before.any()


def test_set_value_of_another_length_where_it_is_cut():
    minibatch = Minibatch(np.zeros((10, 10, 2)), batch_size=[3, 3])
    minibatch.set_value(np.ones((12, 14, 2)))
    assert minibatch.shape == (3, 3, 2)
    whole = Minibatch(np.zeros(10), batch_size=None)
    whole.set_value(np.ones(12))
    assert whole.shape == (12,)


@pytest.mark.parametrize("shape", [(100, 4), (100,), (100, 3, 1), (3,)])
def test_set_value_of_another_shape(shape):
    minibatch = Minibatch(np.zeros((100, 3)), batch_size=[10])
    text = "set_value must get data like those of shape (100, 3), of which the first axis and those"
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        minibatch.set_value(np.zeros(shape))
    assert str(caught.value).endswith(f"got shape {shape}")


def test_set_value_of_another_kind():
    text = "set_value must get integer data, to be stored as uint8, got float64; convert them, or"
    minibatch = Minibatch(np.zeros(9, np.uint8), batch_size=3)
    with pytest.raises(TypeError, match=text):
        minibatch.set_value(np.ones(9))
    minibatch.set_value(np.ones(9, np.int64))
    assert minibatch.dtype == np.uint8
    with pytest.raises(ValueError, match="data must fit the type uint8"):
        minibatch.set_value(np.full(9, 256))
    with pytest.raises(TypeError, match="set_value must get float data, to be stored as float32"):
        Minibatch(np.zeros(9)).set_value(np.zeros(9, bool))
    with pytest.raises(TypeError, match="set_value must get 1 arrays, got 2"):
        minibatch.set_value(np.ones(9), np.ones(9))


def test_update_shared():
    fresh = iter([np.full(20, 1.0), np.full(30, 2.0)])
    minibatch = Minibatch(np.zeros(10), batch_size=4, update_shared_f=lambda: next(fresh))
    minibatch.update_shared()
    np.testing.assert_array_equal(minibatch.shared, np.full(20, 1.0))
    minibatch.update_shared()
    np.testing.assert_array_equal(minibatch.shared, np.full(30, 2.0))
    with pytest.raises(StopIteration):
        minibatch.update_shared()


def test_update_shared_without_a_function():
    text = r"update_shared needs the function that returns new data: give it as .*update_shared_f="
    with pytest.raises(NotImplementedError, match=text):
        Minibatch(np.zeros(10)).update_shared()


# Batches by hand


@BOTH
def test_eval_is_fresh(sampling):
    data = np.arange(40)
    minibatch = Minibatch(data, batch_size=5, sampling=sampling)
    batches = [minibatch.eval() for _ in range(4)]
    for step, batch in enumerate(batches):
        assert type(batch) is np.ndarray
        np.testing.assert_array_equal(batch, outer(minibatch.plan, data, step))
    assert len({b.tobytes() for b in batches}) == 4
    batches[0][:] = 0  # the caller's own
    again = Minibatch(data, batch_size=5, sampling=sampling)
    np.testing.assert_array_equal(again.eval(), outer(minibatch.plan, data, 0))


def test_random_seed():
    data = np.arange(1000)

    def first(seed):
        return Minibatch(data, batch_size=50, random_seed=seed).eval().tolist()

    assert first(42) == Minibatch(data, batch_size=50).eval().tolist()
    assert first(np.int64(7)) == first(7) != first(42)
    assert first(None) != first(None)
    key = jax.random.key(7)
    assert first(key) == first(jax.random.key(7)) != first(jax.random.key(8))
    assert first(jax.random.key(7, impl="rbg")) == first(jax.random.key(7, impl="rbg"))
    with pytest.raises(TypeError, match="random_seed must be None, an int or a JAX key, got str"):
        first("7")
    with pytest.raises(
        ValueError, match="random_seed must fit in 64 bits, got 1844674407370955161"
    ):
        first(2**64)


def test_copies_and_pickles():
    minibatch = Minibatch(np.arange(10.0), batch_size=3, name="y")
    minibatch.eval()
    for other in (copy.deepcopy(minibatch), pickle.loads(pickle.dumps(minibatch))):
        assert repr(other) == repr(minibatch)
        np.testing.assert_array_equal(other.shared, minibatch.shared)
    second = pickle.loads(pickle.dumps(minibatch)).eval()
    np.testing.assert_array_equal(minibatch.eval(), second)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sampling": "shuffle"}, ValueError, "sampling must be one of ('iid', 'epoch'), got 'sh"),
        ({"sampling": None}, ValueError, "sampling must be one of ('iid', 'epoch'), got None"),
        ({"update_shared_f": 3}, TypeError, "update_shared_f must be a function of nothing, got 3"),
        ({"name": 3}, TypeError, "name must be a string, got 3 of type int"),
    ],
)
def test_wrong_option(options, error, text):
    with pytest.raises(error, match=re.escape(text)):
        Minibatch(np.zeros(10), **options)


# Several arrays


@BOTH
def test_arrays_share_their_rows(sampling):
    X, y = np.arange(120.0).reshape(40, 3), np.arange(40)
    minibatch = Minibatch(X, y, y > 20, batch_size=8, sampling=sampling, random_seed=None)
    X_mb, y_mb, z_mb = minibatch
    assert len(minibatch) == 3
    assert minibatch[1] is y_mb
    assert minibatch[-1] is z_mb is minibatch.parts[2]
    assert X_mb.plan.stream(0, 40) == y_mb.plan.stream(0, 40)
    for _ in range(3):
        rows = y_mb.eval()
        np.testing.assert_array_equal(X_mb.eval(), X[rows])
        np.testing.assert_array_equal(z_mb.eval(), rows > 20)
    X_batch, y_batch, z_batch = minibatch.eval()
    np.testing.assert_array_equal(X_batch, X[y_batch])
    np.testing.assert_array_equal(z_batch, y_batch > 20)


def test_separate_objects_are_aligned():
    X, y = np.arange(120.0).reshape(40, 3), np.arange(40)
    one, other = Minibatch(X, batch_size=8), Minibatch(y, batch_size=[8])
    np.testing.assert_array_equal(one.eval(), X[other.eval()])


def test_error_tells_which_array():
    with pytest.raises(TypeError, match="dtype object") as caught:
        Minibatch(np.zeros(3), np.zeros(3, object))
    assert caught.value.__notes__ == ["This is about array 1 of the 2 of this Minibatch."]


def test_options_reach_every_array():
    X, y = np.arange(120.0).reshape(40, 3), np.arange(40)
    X_mb, y_mb = Minibatch(
        X, y, batch_size=[(8, 3)], dtype="float16", in_memory_size=20, name="batch"
    )
    assert (X_mb.name, y_mb.name) == ("batch[0]", "batch[1]")
    assert X_mb.dtype == y_mb.dtype == np.float16
    assert X_mb.total_size == (20, 3)
    assert X_mb.plan == y_mb.plan == Plan((Cut(8, 3, True),))


def test_arrays_of_unequal_lengths():
    text = (
        "the arrays of one Minibatch share their rows and must be of equal length, got the length"
    )
    with pytest.raises(ValueError, match=re.escape(text) + r"s \(40, 39\)"):
        Minibatch(np.zeros((40, 2)), np.zeros(39), batch_size=8)
    minibatch = Minibatch(np.zeros((40, 2)), np.zeros(40), batch_size=8)
    with pytest.raises(ValueError, match=re.escape(text) + r"s \(50, 49\)"):
        minibatch.set_value(np.zeros((50, 2)), np.zeros(49))
    assert [part.total_size[0] for part in minibatch] == [40, 40]
    minibatch.set_value(np.zeros((50, 2)), np.zeros(50))
    assert [part.total_size[0] for part in minibatch] == [50, 50]
    with pytest.raises(TypeError, match="set_value must get 2 arrays, got 1"):
        minibatch.set_value(np.zeros((50, 2)))


def test_arrays_are_updated_together():
    def data(n=40):
        return np.full((n, 2), float(n)), np.full(n, n)

    joint = Minibatch(*data(), batch_size=8, update_shared_f=lambda: data(50))
    X_mb, y_mb = joint
    joint = None  # what is left after unpacking in one line
    y_mb.update_shared()
    assert (X_mb.total_size, y_mb.total_size) == ((50, 2), (50,))
    assert X_mb.eval().min() == 50.0
    single = Minibatch(*data(), update_shared_f=lambda: np.zeros(3))
    with pytest.raises(TypeError, match="must return a tuple of 2 arrays, got ndarray"):
        single.update_shared()


@pytest.mark.parametrize(
    "name", ["shape", "ndim", "total_size", "dtype", "shared", "plan", "scale"]
)
def test_several_arrays_have_no_single_attributes(name):
    minibatch = Minibatch(np.zeros(40), np.zeros(40))
    text = "this Minibatch holds 2 arrays, each with a shape and data of its own: unpack it, as in"
    with pytest.raises(AttributeError, match=text):
        getattr(minibatch, name)
    assert not hasattr(minibatch, name)


def test_one_array_has_no_parts_to_unpack():
    minibatch = Minibatch(np.zeros(40))
    assert minibatch.parts == (minibatch,)
    for use in (iter, len, lambda m: m[0], list):
        with pytest.raises(TypeError, match="a Minibatch of one array has no parts to unpack, ind"):
            use(minibatch)


def test_a_batch_is_not_frozen_into_an_array():
    minibatch = Minibatch(np.zeros(40))
    for use in (np.asarray, np.array, np.log, jnp.asarray, lambda m: np.ones(40) * m):
        with pytest.raises(
            TypeError, match=r"take \.eval\(\) for a batch and \.shared for the full"
        ):
            use(minibatch)
    with pytest.raises(TypeError):
        minibatch * 2


@pytest.mark.parametrize(
    ("minibatch", "text"),
    [
        (
            Minibatch(np.zeros((40_000, 100)), batch_size=500),
            "Minibatch(500 of 40,000 rows, shape=(500, 100), float32)",
        ),
        (
            Minibatch(np.zeros((30, 2, 20), int), batch_size=[10, ..., 5], sampling="epoch"),
            "Minibatch(10 of 30 rows, 5 of 20 along axis 2, shape=(10, 2, 5), int32, "
            "sampling='epoch')",
        ),
        (
            Minibatch(np.zeros((30, 20), bool), batch_size=[None, 5], name="X"),
            "Minibatch('X': all 30 rows, 5 of 20 along axis 1, shape=(30, 5), bool)",
        ),
        (
            Minibatch(np.zeros(3), batch_size=None),
            "Minibatch(all 3 rows, shape=(3,), float32)",
        ),
        (
            Minibatch(np.zeros(3), np.zeros(3, int), batch_size=2),
            "Minibatch(Minibatch(2 of 3 rows, shape=(2,), float32), "
            "Minibatch(2 of 3 rows, shape=(2,), int32))",
        ),
    ],
    ids=["rows", "epoch", "named", "whole", "several"],
)
def test_repr(minibatch, text):
    assert repr(minibatch) == text


def test_scale_undoes_the_cut():
    minibatch = Minibatch(np.zeros((100, 3, 50)), batch_size=[20, None, 10])
    assert minibatch.scale == (5.0, 1.0, 5.0)
    assert np.prod(minibatch.scale) * np.prod(minibatch.shape) == np.prod(minibatch.total_size)


def test_no_warning_in_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Minibatch(np.zeros((50, 3)), np.zeros(50, np.int64), batch_size=4).eval()
