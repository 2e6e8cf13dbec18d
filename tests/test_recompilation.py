"""What is traced and compiled, and when: a second fit of the same model compiles nothing."""

import gc

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext import chunk, training
from numpyro_vi_ext.tracing import Program

calls = []  # of the model function, that is, how often it was traced


def regression(X, y):
    calls.append(None)
    w = numpyro.sample("w", dist.Normal(0, 3).expand([X.shape[1]]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    numpyro.deterministic("first", w[0])
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ w, sd), obs=y)


def data(seed, rows=6):
    rng = np.random.default_rng(seed)
    return jnp.array(rng.normal(size=(rows, 2))), jnp.array(rng.normal(size=rows))


def fit(n=200, *, seed=0, rows=6, **options):
    options = {"random_seed": seed, "progressbar": False} | options
    return vi.fit(regression, n, model_args=data(seed, rows), **options)


class Nothing:
    every = 30

    def __call__(self, approx, losses, i):
        assert np.isfinite(approx.mean).all()


def test_the_model_is_traced_as_often_whatever_the_fit_looks_like(monkeypatch):
    calls.clear()
    fit(rows=11)
    expected = len(calls)
    assert 1 <= expected <= 4  # it is run for its layout and for its density
    for rows, first, seconds in ((12, 1, 1e-9), (13, 7, 0.01)):  # new shapes are traced afresh
        monkeypatch.setattr(training, "_FIRST_CHUNK", first)
        monkeypatch.setattr(training, "_CHUNK_SECONDS", seconds)
        calls.clear()
        inference = vi.ADVI(regression, model_args=data(0, rows), random_seed=0)
        callbacks = [Nothing(), vi.Tracker(every=7, mean=lambda q: q.mean)]
        inference.fit(50, callbacks=callbacks, progressbar=False)
        inference.refine(33, progressbar=False)
        inference.fit(20, progressbar=False)
        inference.approx.sample_dict(3)
        assert len(calls) == expected


def test_a_second_fit_compiles_nothing(compiled):
    fit(score=False, callbacks=[Nothing()])
    fit(300, seed=1, callbacks=[Nothing()])
    calls.clear()
    compiled.clear()
    approx = fit(5000, seed=2, callbacks=[Nothing()])
    assert calls == []
    assert compiled == []
    # And yet it is a fit of the new data.
    X, y = (np.asarray(x) for x in data(2))
    assert np.abs(approx.mean[:2] - np.linalg.solve(X.T @ X, X.T @ y)).max() < 0.5


def test_fit_of_data_in_another_container_compiles_nothing(compiled):
    fit(10)
    calls.clear()
    compiled.clear()
    arguments = tuple(np.asarray(x) for x in data(3))
    vi.fit(regression, 10, model_args=arguments, random_seed=3, progressbar=False)
    assert calls == []
    assert compiled == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: vi.adam(1e-2),
        lambda: vi.adam(learning_rate=0.01),
        lambda: vi.momentum(1e-3, 0.5),
        lambda: vi.sgd,
    ],
    ids=["adam", "adam by name", "momentum", "bare"],
)
def test_our_optimizers_are_recognised(make, compiled):
    fit(10, obj_optimizer=make())
    compiled.clear()
    calls.clear()
    fit(10, seed=1, obj_optimizer=make())
    assert compiled == []
    assert calls == []


def test_the_norm_constraint_is_recognised(compiled):
    options = {"obj_optimizer": vi.sgd(1e-2), "total_grad_norm_constraint": 3}
    fit(10, **options)
    compiled.clear()
    fit(10, seed=1, **(options | {"total_grad_norm_constraint": np.float64(3)}))
    assert compiled == []


def test_refine_and_fits_in_a_row_compile_nothing(compiled):
    inference = vi.FullRankADVI(regression, model_args=data(0), random_seed=0)
    inference.fit(10, progressbar=False)
    inference.refine(1, progressbar=False)
    calls.clear()
    compiled.clear()
    inference.refine(1000, progressbar=False)
    inference.fit(1000, progressbar=False)
    inference.refine(7, progressbar=False)
    assert calls == []
    assert compiled == []


def test_other_shapes_and_settings_compile_once_more(compiled):
    fit(10)
    calls.clear()
    compiled.clear()
    fit(10, rows=7)
    assert calls
    assert compiled
    calls.clear()
    compiled.clear()
    fit(10, obj_n_mc=3)
    assert calls == []  # another program around the same traced model
    assert compiled


def test_compiled_chunks_are_bounded_in_number():
    for _ in range(40):
        fit(0, obj_optimizer=optax.adam(1e-2))
    gc.collect()
    alive = [x for x in gc.get_objects() if type(x) is chunk.Chunk]
    limit = chunk._chunk.cache_parameters()["maxsize"]
    assert len(alive) <= limit <= 64


def test_traced_models_are_bounded_in_number():
    def alive():
        gc.collect()
        return sum(type(x) is Program for x in gc.get_objects())

    before = alive()  # other caches, of compiled draws and the like, may hold some
    for i in range(200):
        vi.Model(lambda i=i: numpyro.sample("x", dist.Normal(i, 1))).target  # noqa: B018
    assert alive() - before < 90
