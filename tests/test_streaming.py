"""Batches from outside memory: what a Stream takes, what a fit does with it, and where it ends."""

import copy
import itertools
import os
import pickle
import signal
import threading
import time
import traceback
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext.batching.prefetch import Reader

N, B = 2000, 100
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0]) + RNG.normal(size=N)).astype(np.float32)


def regression(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    mean = numpyro.deterministic("mean", X @ b)
    numpyro.deterministic("square", b**2)
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def dicts():
    """A function that makes generators, with other rows together in each epoch."""
    seeds = itertools.count()

    def batches():
        rows = np.random.default_rng(next(seeds)).permutation(N)
        for some in rows.reshape(-1, B):
            yield {"X": X[some].astype(float), "y": Y[some]}

    return batches


def ordered():
    """The same rows together in each epoch."""
    return ({"X": X[i : i + B], "y": Y[i : i + B]} for i in range(0, N, B))


def first_five():
    return itertools.islice(ordered(), 5)


def stream_of(source=ordered, **options):
    return vi.Stream(source, **{"total_size": N, **options})


def advi(stream=None, model=regression):
    stream = stream_of() if stream is None else stream
    return vi.ADVI(model, model_args=(stream["X"], stream["y"]), random_seed=0)


def fit(n, stream=None, **options):
    return advi(stream).fit(n, **{"progressbar": False, **options})


def same(a, b):
    return np.array_equal(a.hist, b.hist) and np.array_equal(a.mean, b.mean)


def reading():
    return [t for t in threading.enumerate() if t.name == "numpyro_vi_ext.Stream"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert reading() == []


# -- sources


class Loader:
    """Like that of another library: it can be iterated over again, and yields its own tensors."""

    class Tensor:
        def __init__(self, array):
            self._array = array

        def numpy(self):
            return self._array

    def __iter__(self):
        for batch in ordered():
            yield [self.Tensor(batch["X"]), self.Tensor(batch["y"])]


class OnDisk:
    """Random access to batches of a file."""

    def __init__(self, path):
        self._data = np.memmap(path, np.float64, "r").reshape(N, 3)

    def __len__(self):
        return N // B

    def __getitem__(self, i):
        rows = self._data[i * B : (i + 1) * B]
        return rows[:, :2], rows[:, 2]


def memmap(tmp_path):
    np.column_stack([X, Y]).astype(float).tofile(tmp_path / "rows.bin")
    return OnDisk(tmp_path / "rows.bin")


def parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    dataset = pytest.importorskip("pyarrow.dataset")
    for i in range(4):
        some = slice(i * N // 4, (i + 1) * N // 4)
        columns = {"a": X[some, 0], "b": X[some, 1], "y": Y[some]}
        pq.write_table(pa.table(columns), tmp_path / f"{i}.parquet")

    def batches():
        for part in dataset.dataset(tmp_path).to_batches(batch_size=B):
            table = {name: part[name].to_numpy() for name in ("a", "b", "y")}
            yield np.column_stack([table["a"], table["b"]]), table["y"]

    return batches


def grain(tmp_path):
    grain = pytest.importorskip("grain.python")

    class Rows:
        def __len__(self):
            return N

        def __getitem__(self, i):
            return X[i], Y[i]

    sampler = grain.IndexSampler(N, shard_options=grain.NoSharding(), num_epochs=1)
    return grain.DataLoader(
        data_source=Rows(), sampler=sampler, operations=[grain.Batch(B, drop_remainder=True)]
    )


@pytest.mark.parametrize("make", [memmap, parquet, grain, lambda _: Loader()])
def test_sources_give_the_same_fit(make, tmp_path):
    stream = stream_of(make(tmp_path))
    X_part, y_part = stream
    assert (X_part, y_part) == (stream[0], stream[1])
    args = (X_part, y_part)
    approx = vi.fit(regression, 50, model_args=args, random_seed=0, progressbar=False)
    assert same(approx, fit(50))


@pytest.mark.parametrize(
    "make", [lambda: [*ordered()], lambda: lambda: [*ordered()], lambda: itertools.cycle(ordered())]
)
def test_sources_of_plain_python(make):
    assert same(fit(50, stream_of(make())), fit(50))


def mean_only(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_bare_arrays():
    stream = vi.Stream([Y[i : i + B] for i in range(0, N, B)], total_size=N, name="rows")
    assert repr(stream) == "Stream('rows': (100,), 100 of 2,000 rows)"
    assert (stream.shape, stream.ndim, stream.dtype) == ((B,), 1, np.float32)
    approx = vi.fit(mean_only, model_args=(stream,), random_seed=0, progressbar=False)
    assert approx.mean == pytest.approx(Y.sum() / (N + 0.01), abs=0.005)
    with pytest.raises(KeyError, match="no part 'y'; they are single arrays: pass the Stream"):
        stream["y"]


def test_parts():
    stream = stream_of(dicts())
    assert repr(stream) == "Stream({'X': (100, 2), 'y': (100,)}, 100 of 2,000 rows)"
    part = stream["X"]
    assert repr(part).endswith("['X']")
    assert (part.shape, part.ndim, part.dtype, part.total_size) == ((B, 2), 2, np.float32, N)
    with pytest.raises(KeyError, match=r"no part 'z'; there are \['X', 'y'\]"):
        stream["z"]
    with pytest.raises(TypeError, match=r"can be unpacked; take parts by their keys"):
        _, _ = stream
    with pytest.raises(TypeError, match="has no values of its own"):
        np.asarray(part)
    with pytest.raises(TypeError, match=r"'X' is a Stream with the parts .* in stream\['X'\]"):
        vi.Model(regression, stream)


# -- fits


def test_posterior_is_that_of_the_full_data():
    """As for minibatches: four draws a step, and 5 %."""
    cov = np.linalg.inv(X.T @ X + np.eye(2) / 9)
    approx = fit(20_000, stream_of(dicts()), obj_n_mc=4)
    sd = np.sqrt(np.diag(cov))
    assert np.abs((approx.mean - cov @ X.T @ Y) / sd).max() < 0.2
    np.testing.assert_allclose(approx.std, sd, rtol=0.05)


def test_each_step_sees_the_batch_whose_turn_it_is():
    """A single particle goes down the gradient, which is computed by hand beside it."""
    stream, seen = stream_of(), []
    vi.fit(
        regression,
        45,
        "svgd",
        model_args=(stream["X"], stream["y"]),
        inf_kwargs={"n_particles": 1, "jitter": 0},
        callbacks=[lambda q, losses, i: seen.append(q.mean)],
        obj_optimizer=vi.sgd(1e-5),
        progressbar=False,
    )
    b = np.zeros(2)
    for step, found in enumerate(seen):
        some = slice(step % 20 * B, (step % 20 + 1) * B)
        b = b + 1e-5 * (N / B * X[some].T @ (Y[some] - X[some] @ b) - b / 9)
        np.testing.assert_allclose(found, b, atol=1e-5)


@pytest.mark.parametrize("lengths", [(60, 40), (1, 99), (7, 20, 73)])
def test_refine_goes_on_where_the_stream_stood(lengths):
    inference = advi(stream_of(dicts()))
    inference.fit(lengths[0], progressbar=False)
    for n in lengths[1:]:
        inference.refine(n, progressbar=False)
    assert same(inference.approx, fit(100, stream_of(dicts())))


def test_refine_of_an_iterator():
    inference = advi(stream_of(itertools.cycle(ordered())))
    inference.fit(33, progressbar=False)
    assert same(inference.refine(67, progressbar=False), fit(100))


def test_stop_by_a_callback_loses_no_batch():
    def stop(approx, losses, i):
        if i == 33:
            raise StopIteration

    inference = advi(stream_of(itertools.chain(ordered(), ordered(), ordered())))
    assert inference.fit(100, callbacks=[stop], progressbar=False).steps == 33
    inference.refine(20, progressbar=False)
    assert same(inference.approx, fit(53))


def test_a_second_fit_begins_the_source_again():
    """With as many batches as there are epochs begun."""
    begun = []

    def source():
        begun.append(1)
        return ordered()

    inference = advi(stream_of(source))
    assert len(begun) == 1
    inference.fit(10, progressbar=False)
    assert len(begun) == 1  # the first batch was not lost
    inference.fit(10, progressbar=False)
    assert len(begun) == 2


def test_an_iterator_ends_the_fit_and_a_second_fit_goes_on():
    inference = advi(stream_of(ordered()))
    first = inference.fit(15, progressbar=False)
    assert (first.status, first.steps) == ("finished", 15)
    second = inference.fit(15, progressbar=False)
    assert (second.status, second.steps) == ("finished", 5)
    assert second.message == "The data of a Stream ended after 5 steps"
    assert len(inference.hist) == 20
    assert inference.refine(5, progressbar=False).steps == 5


def test_messages_at_the_end_of_a_stream(caplog):
    with caplog.at_level("INFO", "numpyro_vi_ext"):
        fit(80, stream_of(ordered()))
    assert "The data of a Stream ended after 20 steps" in caplog.text
    assert "Finished at 20 [25%]: Average Loss" in caplog.text


def test_refine_says_where_an_iterator_was_read_on():
    stream = stream_of(ordered())
    first, second = advi(stream), advi(stream)
    first.fit(5, progressbar=False)
    second.fit(5, progressbar=False)
    before = first.approx.message
    with pytest.raises(ValueError, match=r"was read on by another fit since, .* call \.fit"):
        first.refine(5, progressbar=False)
    assert (first.approx.steps, first.approx.message) == (5, before)
    assert before
    assert first.fit(5, progressbar=False).steps == 5


def test_a_stream_of_equal_shape_compiles_and_traces_nothing():
    calls = []

    def counted(X, y):
        calls.append(1)
        regression(X, y)

    advi(stream_of(), counted).fit(20, progressbar=False)
    first = len(calls)
    advi(stream_of(), counted).fit(30, progressbar=False)
    assert len(calls) == first > 0


def test_two_streams_for_two_sites():
    def model(a, b):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("a", dist.Normal(mu, 1), obs=a)
        numpyro.sample("b", dist.Normal(mu, 1), obs=b)

    a = vi.Stream(lambda: ({"a": Y[i : i + 10]} for i in range(0, N, 10)), total_size=N)
    b = vi.Stream(iter([Y[:50]] * 7), total_size=500)
    bound = vi.Model(model, a["a"], b)
    fed = bound.fed(bound.target, (np.zeros(1), jnp.zeros(0)))
    assert fed.feed.scales == (("a", 200.0), ("b", 10.0))
    inference = vi.ADVI(bound, random_seed=0)
    assert inference.fit(20, progressbar=False).steps == 7  # where the shorter one ends


def test_full_data_may_be_replaced_by_a_stream():
    stream = stream_of()
    options = {"more_replacements": {"X": stream["X"], "y": stream["y"]}}
    whole = vi.ADVI(regression, model_args=(X, Y), random_seed=0)
    np.testing.assert_allclose(whole.fit(30, progressbar=False, **options).hist, fit(30).hist)


def test_no_steps_read_nothing_more():
    stream = stream_of(ordered())
    fit(0, stream)
    assert fit(50, stream).steps == 20


# -- what is refused


@pytest.mark.parametrize(
    ("source", "options", "error", "text"),
    [
        (ordered, {"total_size": None}, TypeError, "must be given: .* counts N / B times, and a"),
        (ordered, {"total_size": 1e7}, TypeError, "total_size must be an integer, got 1000000"),
        (ordered, {"total_size": 0}, ValueError, "total_size must be at least 1"),
        (ordered, {"total_size": 99}, ValueError, "got 99 for batches of 100 rows"),
        (ordered, {"prefetch": 0}, ValueError, "prefetch must be at least 1"),
        (ordered, {"name": 3}, TypeError, "name must be a string"),
        (X, {}, TypeError, "source must give batches one after the other, got a ndarray: cut it"),
        ({"X": X}, {}, TypeError, "one after the other, got a dict"),
        (3, {}, TypeError, "source must be an iterable of batches, or a function .* got 3"),
        (lambda: 3, {}, TypeError, "must return an iterable of batches, .* got int"),
        ([], {}, ValueError, "yields no batches"),
        (iter([]), {}, ValueError, "yields no batches: .* an iterator that was used before"),
        ([{}], {}, ValueError, "at least one array, got an empty dict"),
        (["text"], {}, TypeError, "data must be an array of numbers, got str"),
        ([np.array([None, 1])], {}, TypeError, "data must be an array of numbers"),
        ([[1.0, 2.0]], {}, ValueError, "data must have at least one axis"),
        ([(X, Y[:5])], {}, ValueError, "same number of rows, .* {0: \\(2000, 2\\), 1: \\(5,\\)}"),
        ([(X[:0], Y[:0])], {}, ValueError, "same number of rows, at least one"),
    ],
)
def test_bad_arguments(source, options, error, text):
    with pytest.raises(error, match=text):
        vi.Stream(source, **{"total_size": N, **options})


def batch(rows=B, **changed):
    return {"X": X[:rows], "y": Y[:rows], **changed}


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (
            batch(7),
            ValueError,
            r"expected \(100, 2\), .* got \(7, 2\) in its part 'X'. .*drop_last",
        ),
        (batch(y=Y[:B].astype(int)), TypeError, "expected float32, .* got int64 in its part 'y'"),
        (batch(z=Y[:B]), ValueError, r"same keys: expected .*\['X', 'y'\], .* \['X', 'y', 'z'\]"),
        ((X[:B], Y[:B]), ValueError, r"got a sequence with the keys \[0, 1\]"),
    ],
)
def test_batches_unlike_the_first(bad, error, text):
    inference = advi(stream_of(lambda: itertools.chain(first_five(), [bad], [*ordered()][5:])))
    with pytest.raises(error, match=text) as found:
        inference.fit(40, progressbar=False)
    assert any("batch 5 of the source" in note for note in found.value.__notes__)
    assert (inference.approx.steps, inference.approx.status) == (5, "stopped")
    assert same(inference.approx, fit(5))
    assert same(inference.refine(10, progressbar=False), fit(15))  # goes on behind it


def test_wide_integers_must_fit():
    stream = vi.Stream(iter([np.arange(4), np.arange(4) + 2**40]), total_size=8)
    with pytest.raises(ValueError, match="must fit the type int32"):
        vi.fit(mean_only, 2, model_args=(stream,), progressbar=False)


def local(X, y):
    with numpyro.plate("rows", len(y)):
        e = numpyro.sample("e", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(e, 1), obs=y)


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


def needs_values(X, y):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([len(np.unique(y))]).to_event(1))
    numpyro.sample("y", dist.Normal(b[0], 1), obs=y)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (local, r"an entry for each row cannot .* \{'e': \(\(8,\), \(16,\)\)\}. Marginalise"),
        (local_in_a_subsampled_plate, "an entry for each row cannot be fitted in minibatches"),
        (prior_of_the_batch, "the prior of the latent site 'b' depends on a batch"),
        (process, "the log density of the site 'y' is not a sum over the rows"),
        (needs_values, r"the model needs the values of \['y'\] in Python"),
    ],
)
def test_refused_models(model, text):
    with pytest.raises(ValueError, match=text):
        advi(model=model).fit(2, progressbar=False)


def test_a_model_for_one_number_of_rows():
    def model(X, y):
        b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
        with numpyro.plate("rows", B):
            numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)

    with pytest.raises(Exception) as found:  # noqa: PT011
        advi(model=model).fit(2, progressbar=False)
    assert any("it must run with any number of them" in note for note in found.value.__notes__)


@pytest.mark.parametrize(
    "other", [lambda: stream_of()["y"], lambda: vi.Minibatch(Y[:B], batch_size=B)]
)
def test_rows_that_do_not_belong_together(other):
    text = r"'y' depends on \['X', 'y'\], whose rows .* must be parts of one Stream"
    args = (stream_of()["X"], other())
    with pytest.raises(ValueError, match=text):
        vi.fit(regression, 2, model_args=args, progressbar=False)


def test_batch_beside_full_data():
    with pytest.raises(ValueError, match="y") as found:
        vi.fit(regression, 2, model_args=(stream_of()["X"], Y), progressbar=False)
    assert any("must come from the same Stream" in note for note in found.value.__notes__)


def in_a_subsampled_plate(X, y):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", N, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)


def test_what_is_scaled_already_is_not_scaled_again():
    stream = stream_of()
    bound = vi.Model(in_a_subsampled_plate, stream["X"], stream["y"])
    assert bound.fed(bound.target, (np.zeros(2), jnp.zeros(0))).feed.scales == ()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_small_batches(rows):
    source = [{"X": X[i : i + rows], "y": Y[i : i + rows]} for i in range(0, 60, rows)]
    stream = vi.Stream(source, total_size=60)
    bound = vi.Model(regression, stream["X"], stream["y"])
    assert bound.fed(bound.target, (np.zeros(2), jnp.zeros(0))).feed.scales == (("y", 60 / rows),)


# -- after the fit


@pytest.fixture(scope="module")
def fitted():
    return fit(200)


def test_draws_of_latent_sites_need_no_data(fitted):
    assert fitted.sample_dict(3).keys() == {"b", "square"}
    assert fitted.draw(0).keys() == {"b", "square"}
    assert fitted.constrain(fitted.mean).keys() == {"b", "square"}
    assert fitted.model.constrain(fitted.mean).keys() == {"b", "square"}
    groups = fitted.sample(5)
    assert {*groups["posterior"].data_vars} == {"b", "square"}
    for name in ("observed_data", "constant_data"):
        assert not hasattr(groups, name)
    assert fitted.sample_node(lambda s: s["b"] ** 2, size=4).shape == (4, 2)
    assert "b[0]" in fitted.summary(10).index
    with numpyro.handlers.seed(rng_seed=0):
        assert numpyro.handlers.trace(fitted.guide).get_trace()["b"]["value"].shape == (2,)


@pytest.mark.parametrize(
    "use",
    [
        lambda q: q.sample_node("y"),
        lambda q: q.sample_node({"b": "b", "m": lambda s: s["mean"].sum()}),
        lambda q: q.sample_node("b", more_replacements={"X": X}),
        lambda q: q.sample_posterior_predictive(3),
        lambda q: q.sample_posterior_predictive(3, more_replacements={"X": X}),
        lambda q: q.to_arviz(3),
        lambda q: q.sample(3, log_likelihood=True),
        lambda q: q.sample(3, prior=True),
        lambda q: q.elbo(),
        lambda q: q.model.log_density(q.mean),
        lambda q: vi.to_nuts(q),
    ],
)
def test_what_needs_the_data_says_so(fitted, use):
    text = r"need.* the data of the arguments .*'y'\], which come from a Stream: only batches"
    with pytest.raises(ValueError, match=text):
        use(fitted)


def test_data_given_after_the_fit(fitted):
    few = {"X": X[:7], "y": None}
    assert fitted.sample_node("mean", more_replacements=few).shape == (7,)
    found = fitted.sample_posterior_predictive(3, more_replacements=few)
    assert found["predictions"]["y"].shape == (1, 3, 7)
    found = fitted.sample_posterior_predictive(3, model_args=(X[:7],))
    assert found["predictions"]["y"].shape == (1, 3, 7)
    whole = fitted.with_model(fitted.model.replace(X=X, y=Y))
    assert whole.elbo(100, random_seed=0).se > 0
    assert whole.to_arviz(3, log_likelihood=True)["log_likelihood"]["y"].shape == (1, 3, N)


def test_saved_and_copied(fitted, tmp_path):
    fitted.save(tmp_path / "q")
    loaded = vi.load(tmp_path / "q", regression, model_args=(X, Y))
    np.testing.assert_array_equal(loaded.mean, fitted.mean)
    assert same(copy.deepcopy(fitted), fitted)
    assert same(pickle.loads(pickle.dumps(fitted)), fitted)


# -- threads, errors and memory


def test_error_of_the_source():
    def source():
        for i, found in enumerate(ordered()):
            if i == 7:
                raise OSError("the disk is gone")
            yield found

    inference = advi(stream_of(source))
    with pytest.raises(OSError, match="the disk is gone") as found:
        inference.fit(40, progressbar=False)
    assert "raise OSError(" in "".join(traceback.format_tb(found.value.__traceback__))
    assert found.value.__notes__ == ["This was raised by the source of a Stream."]
    assert (inference.approx.steps, inference.approx.status) == (7, "stopped")
    assert same(inference.approx, fit(7))
    assert reading() == []
    with pytest.warns(UserWarning, match="could not go on after it raised an error: it was begun"):
        assert inference.refine(5, progressbar=False).steps == 12


def test_a_sequence_goes_on_after_an_error():
    class Flaky(OnDisk):
        fails = True

        def __getitem__(self, i):
            if i == 7 and self.fails:
                raise OSError("not now")
            return OnDisk.__getitem__(self, i)

    flaky = Flaky.__new__(Flaky)
    flaky._data = np.column_stack([X, Y])
    stream = stream_of(flaky)
    inference = vi.ADVI(regression, model_args=(stream[0], stream[1]), random_seed=0)
    with pytest.raises(OSError, match="not now"):
        inference.fit(20, progressbar=False)
    assert inference.refine(3, progressbar=False).steps == 10


def test_epochs_without_batches_later():
    epochs = iter([[*ordered()], []])
    inference = advi(stream_of(lambda: next(epochs)))
    with pytest.raises(ValueError, match="yields no batches"):
        inference.fit(40, progressbar=False)
    assert inference.approx.steps == 20


def test_error_of_a_callback_ends_the_thread():
    def fail(approx, losses, i):
        if i == 5:
            assert len(reading()) == 1
            raise RuntimeError("mine")

    inference = advi()
    with pytest.raises(RuntimeError, match="mine"):
        inference.fit(50, callbacks=[fail], progressbar=False)
    assert reading() == []
    assert inference.approx.steps == 5
    assert same(inference.refine(15, progressbar=False), fit(20))


def test_interrupt():
    """While the fit waits for a batch."""

    def source():
        for i, found in enumerate(itertools.cycle(ordered())):
            if i == 30:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
            yield found

    fit(30)  # compiled
    inference = advi(stream_of(source()))
    approx = inference.fit(10**6, progressbar=False)
    assert approx.status == "interrupted"
    assert approx.steps <= 30  # fewer if steps were running when the signal came
    assert same(approx, fit(approx.steps))
    assert reading() == []
    assert same(inference.refine(10, progressbar=False), fit(approx.steps + 10))


def test_non_finite_batches_are_blamed_on_their_site():
    bad = batch(y=np.full(B, np.nan, np.float32))
    inference = advi(stream_of(lambda: itertools.chain(first_five(), [bad])))
    with pytest.raises(vi.NonFiniteError, match="step 6: the log density of 'y'") as found:
        inference.fit(40, progressbar=False)
    assert found.value.approx.steps == 5
    assert reading() == []


def test_slow_sources_are_not_waited_for():
    """Steps are taken as batches come, whatever the length of a chunk."""

    def source():
        for found in itertools.cycle(ordered()):
            time.sleep(0.02)
            yield found

    seen = []
    inference = advi(stream_of(source))
    inference.fit(40, callbacks=[lambda *a: seen.append(time.monotonic())], progressbar=False)
    assert len(set(np.round(seen, 2))) > 2
    assert same(inference.approx, fit(40))


def test_reading_ahead_is_bounded():
    made = []

    def source():
        while True:
            array = np.ones(10, np.float32)
            made.append(weakref.ref(array))
            yield array
            del array

    reader = Reader(source, True, 3)
    reader.first()
    for count in (1, 5, 2):
        found = []
        while len(found) < count:
            found += reader.take(count - len(found), lambda: False)
        time.sleep(0.1)
        assert len(made) <= reader.position + max(3, count) + 1
        assert sum(ref() is not None for ref in made) <= 2  # what is kept are copies
    reader.stop()
    before = len(made)
    time.sleep(0.05)
    assert len(made) == before


def test_chunks_are_bounded_in_memory():
    """Batches of 4 MiB: four fill a stack, and as many are read ahead."""
    made = []

    def source():
        while True:
            made.append(1)
            yield np.ones(2**20, np.float32)

    ahead = []
    stream = vi.Stream(source, total_size=2**30)
    vi.fit(
        mean_only,
        60,
        model_args=(stream,),
        callbacks=[lambda approx, losses, i: ahead.append(len(made) - i)],
        obj_optimizer=vi.adam(1e-9),
        progressbar=False,
    )
    assert max(ahead) <= 4 + 4 + 1


def test_memory_does_not_grow_with_refines():
    """Each one has a thread of its own; of what these allocate, the system gets little back."""
    stream = vi.Stream(lambda: iter([np.ones(2**16, np.float32)] * 99), total_size=2**20)
    inference = vi.ADVI(mean_only, model_args=(stream,), random_seed=0)
    inference.fit(200, progressbar=False)
    (reader,) = inference._run.supply._readers.values()
    ring = [x.ctypes.data for x in reader._ring]
    for _ in range(5):
        inference.refine(100, progressbar=False)
    assert [x.ctypes.data for x in reader._ring] == ring
    assert sum(x.nbytes for x in reader._ring) == 2 * 2**24


def test_a_source_that_reuses_its_array():
    approx = fit(40, stream_of(lambda: _reusing(X[:B].copy(), Y[:B].copy())))
    assert same(approx, fit(40))


def _reusing(kept_X, kept_y):
    for found in ordered():
        kept_X[:], kept_y[:] = found["X"], found["y"]
        yield {"X": kept_X, "y": kept_y}


def test_jax_arrays_and_other_methods():
    source = [jax.tree.map(jnp.asarray, found) for found in ordered()]
    assert same(fit(20, stream_of(source)), fit(20))
    for method in ("fullrank_advi", "svgd"):
        stream = stream_of()
        args = (stream["X"], stream["y"])
        approx = vi.fit(regression, 20, method, model_args=args, progressbar=False)
        assert approx.steps == 20
