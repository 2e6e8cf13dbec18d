"""The loop: callbacks, interrupts, messages, history, and what happens when numbers go bad."""

import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext.chunk import NEVER
from numpyro_vi_ext.dispatch import Callbacks
from numpyro_vi_ext.errors import Converged
from numpyro_vi_ext.history import History

Y = np.array([2.0, 3.0, 4.5])
LOGGER = "numpyro_vi_ext"


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1).expand([3]).to_event(1), obs=y)


def advi():
    return vi.ADVI(model, model_args=(Y,), random_seed=0)


def fit(n=300, **options):
    return advi().fit(n, **({"progressbar": False} | options))


def same(a, b):
    """Whether two approximations are the same, bit for bit."""
    equal = [np.array_equal(a.params[name], b.params[name]) for name in a.params]
    return all(equal) and np.array_equal(a.hist, b.hist)


class Steps:
    """A callback that notes the steps, and raises at one of them."""

    def __init__(self, every=1, stop=None, error=StopIteration, log=None):
        self.every, self.stop, self.error = every, stop, error
        self.steps = [] if log is None else log

    def __call__(self, approx, losses, i):
        self.steps.append(i)
        if i == self.stop:
            raise self.error


# --- which callbacks are called when ------------------------------------------------------------


def test_a_callback_is_called_after_every_step_in_order():
    steps = []
    fit(300, callbacks=[lambda approx, losses, i: steps.append(i)])
    assert steps == list(range(1, 301))
    assert {type(i) for i in steps} == {int}


@pytest.mark.parametrize("everys", [(1,), (7,), (10, 4), (100, 1), (6, 10, 15), (400,), (10**12,)])
def test_every(everys):
    callbacks = [Steps(every) for every in everys]
    fit(300, callbacks=callbacks)
    for every, callback in zip(everys, callbacks, strict=True):
        assert callback.steps == list(range(every, 301, every))


def test_callbacks_of_one_step_are_called_in_the_order_given():
    log = []
    fit(6, callbacks=[lambda *a: log.append("a"), Steps(2, log=log), lambda *a: log.append("c")])
    assert log == ["a", "c", "a", 2, "c", "a", "c", "a", 4, "c", "a", "c", "a", 6, "c"]


def test_also_first():
    callback, other = Steps(50), Steps(20)
    callback.also_first = True
    inference = advi()
    inference.fit(120, callbacks=[callback, other], progressbar=False)
    assert callback.steps == [1, 50, 100]
    assert other.steps == [20, 40, 60, 80, 100, 120]
    inference.refine(30, progressbar=False)
    assert callback.steps == [1, 50, 100, 150]
    assert same(inference.approx, fit(150))


def test_refine_goes_on_with_the_callbacks():
    inference, callback = advi(), Steps(3)
    inference.fit(10, callbacks=[callback], progressbar=False)
    inference.refine(7, progressbar=False)
    assert callback.steps == [3, 6, 9, 12, 15]
    inference.fit(7, progressbar=False)  # a new fit has its own
    assert callback.steps == [3, 6, 9, 12, 15]


def test_no_callbacks():
    for none in (None, [], ()):
        assert same(fit(10, callbacks=none), fit(10))
    assert not Callbacks(())
    assert Callbacks(()).every == NEVER


def test_an_iterator_of_callbacks():
    callback = Steps()
    fit(3, callbacks=iter([callback]))
    assert callback.steps == [1, 2, 3]


def test_losses_given_to_callbacks():
    seen = []
    approx = fit(300, callbacks=[lambda approx, losses, i: seen.append((losses, i))])
    for losses, i in seen:
        assert losses.shape == (i,)
        assert np.array_equal(losses, approx.hist[:i])
    with pytest.raises(ValueError, match="read-only"):
        seen[0][0][0] = 7.0


def test_inference_shows_the_step_of_the_callback():
    inference, seen = advi(), []

    def callback(approx, losses, i):
        seen.append(inference.approx is approx and len(inference.approx.hist) == i)

    inference.fit(50, callbacks=[callback], progressbar=False)
    assert seen == [True] * 50


def test_a_fit_inside_a_callback():
    inner = []
    outer = fit(4, callbacks=[lambda *_: inner.append(fit(30))])
    assert same(outer, fit(4))
    assert all(same(x, fit(30)) for x in inner)


# --- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 2, 16, 17, 100, 128, 129, 250, 300])
def test_stop_iteration_keeps_that_step(stop):
    inference = advi()
    before, after = Steps(), Steps()
    callbacks = [before, Steps(stop=stop), after]
    approx = inference.fit(300, callbacks=callbacks, progressbar=False)
    assert same(approx, fit(stop))
    assert approx.steps == stop
    assert approx.status == "stopped"
    assert inference.hist.shape == (stop,)
    assert before.steps == list(range(1, stop + 1))
    assert after.steps == list(range(1, stop))


def test_refine_after_a_stop_is_exact():
    inference = advi()
    inference.fit(300, callbacks=[Steps(stop=99)], progressbar=False)
    assert same(inference.refine(201, progressbar=False), fit(300))
    assert inference.approx.status == "finished"


def test_convergence_is_a_status_of_its_own():
    def callback(approx, losses, i):
        if i == 20:
            raise Converged("Convergence achieved at 20")

    approx = fit(callbacks=[callback])
    assert (approx.status, approx.message) == ("converged", "Convergence achieved at 20")


@pytest.mark.parametrize("error", [RuntimeError, GeneratorExit, SystemExit, FloatingPointError])
def test_another_exception_propagates_and_nothing_is_lost(error):
    inference = advi()
    first = inference.fit(20, progressbar=False)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        inference.fit(300, callbacks=[Steps(stop=130, error=error)], progressbar=False)
    assert signal.getsignal(signal.SIGINT) is handler
    expected = advi()
    expected.fit(20, progressbar=False)
    assert same(inference.approx, expected.fit(130, progressbar=False))
    assert inference.approx.status == "stopped"
    assert len(inference.hist) == 150
    assert np.array_equal(inference.hist[:20], first.hist)
    assert same(inference.refine(20, progressbar=False), expected.refine(20, progressbar=False))


@pytest.mark.parametrize("stop", [1, 77, 300])
def test_keyboard_interrupt_from_a_callback(stop):
    inference, after = advi(), Steps()
    callbacks = [Steps(stop=stop, error=KeyboardInterrupt), after]
    approx = inference.fit(300, callbacks=callbacks, progressbar=False)
    assert same(approx, fit(stop))
    assert approx.status == "interrupted"
    assert after.steps == list(range(1, stop))


def in_main_thread():
    return threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_during_a_callback(times):
    """Once: the callback is finished first. Twice: it is broken off. Both end at that step."""
    assert in_main_thread()
    ended = []

    def callback(approx, losses, i):
        if i == 5:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        ended.append(i)

    callback.every = 5
    handler = signal.getsignal(signal.SIGINT)
    approx = fit(callbacks=[callback])
    assert approx.status == "interrupted"
    assert same(approx, fit(5))
    assert ended == ([5] if times == 1 else [])
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_after_the_last_step_is_too_late_to_interrupt():
    assert in_main_thread()

    def callback(approx, losses, i):
        if i == 30:
            signal.raise_signal(signal.SIGINT)

    assert fit(30, callbacks=[callback]).status == "finished"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_outside_callbacks(monkeypatch, times):
    """It arrives between two chunks, in our own Python code; nothing computed is lost."""
    assert in_main_thread()
    inference = advi()
    average = History.average
    pending = [signal.SIGINT] * times

    def interrupting(self):
        while pending:
            signal.raise_signal(pending.pop())
        return average(self)

    with monkeypatch.context() as patch:
        patch.setattr(History, "average", interrupting)
        patch.setattr("numpyro_vi_ext.training.report", lambda *args: None)  # averages as well
        approx = inference.fit(10**6, progressbar=False)
    assert approx.status == "interrupted"
    assert 0 < approx.steps < 10**6
    assert same(approx, fit(approx.steps))
    assert same(inference.refine(10, progressbar=False), fit(approx.steps + 10))


SUBPROCESS = """
import json, signal, sys, time
import jax.numpy as jnp, numpyro, numpyro.distributions as dist
import numpyro_vi_ext as vi

def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)

def mine(signum, frame):
    raise AssertionError("the user's handler must rest during a fit")

def going(approx, losses, i):
    global began
    if i == {every}:
        print("going", flush=True)
    {body}

going.every = {every}
signal.signal(signal.SIGINT, mine)
advi = vi.ADVI(model, model_args=(2.0,), random_seed=0)
approx = advi.fit({n}, callbacks=[going], progressbar=False)
ended = time.time()
restored = signal.getsignal(signal.SIGINT) is mine
again = advi.refine(5, progressbar=False)
print(json.dumps(dict(status=approx.status, steps=approx.steps, hist=len(approx.hist),
      restored=restored, ended=ended, message=approx.message, again=again.steps)))
"""


@pytest.mark.parametrize(
    ("every", "body", "n"), [(100_000, "pass", 10**9), (1, "time.sleep(0.05)", 10**6)]
)
def test_a_real_ctrl_c(every, body, n):
    """In a fast fit of 1e9 steps, and in one with a slow callback."""
    script = textwrap.dedent(SUBPROCESS).format(every=every, body=body, n=n)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(vi.__file__)),
    )
    try:
        assert process.stdout.readline() == "going\n"
        time.sleep(0.2)
        sent = time.time()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["status"] == "interrupted"
    assert result["restored"] is True
    assert 0 < result["steps"] == result["hist"] < n
    assert result["again"] == result["steps"] + 5
    assert re.match(r"Interrupted at [\d,]+ \[\d+%\]: ", result["message"])
    assert result["ended"] - sent < 20  # a tenth of a second or so, on a machine at rest


def test_fit_in_another_thread():
    found = []
    inference, callback = advi(), Steps()

    def work():
        found.append(inference.fit(300, callbacks=[callback], progressbar=False))

    thread = threading.Thread(target=work)
    handler = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert same(found[0], fit(300))
    assert callback.steps == list(range(1, 301))
    assert signal.getsignal(signal.SIGINT) is handler


# --- messages -----------------------------------------------------------------------------------


def messages(caplog, n, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER):
        approx = fit(n, **options)
    assert {r.name for r in caplog.records} == {LOGGER}
    assert {r.levelno for r in caplog.records} == {logging.INFO}
    return caplog.messages, approx


def test_message_of_a_finished_fit(caplog):
    found, approx = messages(caplog, 1500)
    average = approx.hist[-1000:].mean()
    assert found == [f"Finished [100%]: Average Loss = {average:,.5g}"]
    assert approx.message == found[0]
    found, approx = messages(caplog, 10)
    assert found == [f"Finished [100%]: Average Loss = {approx.hist.mean():,.5g}"]


def test_message_of_a_short_fit(caplog):
    found, approx = messages(caplog, 9)
    assert found == [f"Finished [100%]: Loss = {approx.hist[-1]:,.5g}"]
    assert messages(caplog, 0)[0] == ["Initialization only"]


def test_message_without_losses(caplog):
    assert messages(caplog, 20, score=False)[0] == ["Finished [100%]"]


def test_message_of_a_stop(caplog):
    error = StopIteration("I was slow, sorry")
    found, approx = messages(caplog, 10_000, callbacks=[Steps(stop=10, error=error)])
    average = f"{approx.hist.mean():,.5g}"
    assert found == ["I was slow, sorry", f"Interrupted at 10 [0%]: Average Loss = {average}"]
    assert approx.message == "I was slow, sorry"
    found, approx = messages(caplog, 3000, callbacks=[Steps(stop=1500)])
    average = f"{approx.hist[-1000:].mean():,.5g}"
    assert found == [f"Interrupted at 1,500 [50%]: Average Loss = {average}"]
    assert approx.message == found[0]
    found, approx = messages(caplog, 9, callbacks=[Steps(stop=3)])
    assert found == [f"Interrupted at 3 [33%]: Loss = {approx.hist[-1]:,.5g}"]


def test_message_of_ctrl_c(caplog):
    callback = Steps(stop=100, error=KeyboardInterrupt("not shown"))
    found, approx = messages(caplog, 400, callbacks=[callback])
    assert found == [f"Interrupted at 100 [25%]: Average Loss = {approx.hist.mean():,.5g}"]


def test_message_of_refine(caplog):
    inference = advi()
    inference.fit(100, progressbar=False)
    with caplog.at_level(logging.INFO, LOGGER):
        inference.refine(0, progressbar=False)
        inference.refine(900, progressbar=False)
    average = [f"{inference.hist[:n].mean():,.5g}" for n in (100, 1000)]
    assert caplog.messages[1] == f"Finished [100%]: Average Loss = {average[1]}"
    assert "Initialization" not in caplog.messages[0]


def test_no_progress_bar_means_no_output(capfd):
    fit(300, callbacks=[Steps(stop=200)])
    fit(0)
    assert capfd.readouterr() == ("", "")


def test_progress_bar(capfd):
    fit(1000, progressbar=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"Average Loss = [\d.,]+: 100%.*1000/1000", err.split("\r")[-1])
    fit(1000, progressbar=True, callbacks=[Steps(stop=400)])
    assert "40%" in capfd.readouterr().err.split("\r")[-1]


# --- history ------------------------------------------------------------------------------------


def test_history_grows_and_keeps_what_it_handed_out():
    history, all_losses, views = History(), np.zeros(0), []
    rng = np.random.default_rng(0)
    for size in (0, 3, 1, 100, 7, 0, 1000):
        new = rng.normal(size=size).astype(np.float32)
        history.extend(new)
        all_losses = np.concatenate([all_losses, new])
        views.append((len(history), history.view()))
        assert np.array_equal(history.view(), all_losses)
    history.cut(50)
    for size in (5, 4995):
        history.extend(np.full(size, np.float32(9)))
    assert len(history) == 5050
    assert np.array_equal(history.view(50), all_losses[:50])
    for size, view in views:
        assert np.array_equal(view, all_losses[:size])
        assert not view.flags.writeable
    history.cut(10**6)
    assert len(history) == 5050


def test_history_average():
    history = History()
    assert np.isnan(history.average())
    history.extend(np.arange(3000, dtype=np.float32))
    assert history.average() == 2499.5
    history.extend(np.array([np.nan, 1.0], np.float32))
    np.testing.assert_allclose(history.average(), (np.arange(2002, 3000).sum() + 1) / 999)


def test_many_steps_are_not_allocated_in_advance():
    fit(10)
    tracemalloc.start()
    try:
        approx = fit(2 * 10**9, callbacks=[Steps(stop=10_000)])
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert len(approx.hist) == 10_000


# --- numbers gone bad ---------------------------------------------------------------------------

START, RATE = 5.02, 0.05
BAD_STEP = 102  # the location is 5.02 - 0.05 k after k steps, so that of step 102 is below 0


def falling_model():
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("other", dist.Normal(0, 1))
    numpyro.factor("drift", -x)
    numpyro.factor("trap", 0 * jnp.log(x))


def falling():
    """Without the divergence (beta = 0) the drift of the location is exactly -1 per unit rate."""
    start = vi.MeanField(falling_model, start={"x": START}, start_sigma={"x": 1e-3})
    return vi.KLqp(start, beta=0, random_seed=0)


def test_nan_in_the_likelihood():
    inference = falling()
    pattern = f"NaN or infinity at step {BAD_STEP}: the log density of 'trap' is not finite"
    with pytest.raises(vi.NonFiniteError, match=pattern) as caught:
        inference.fit(10_000, obj_optimizer=vi.sgd(RATE), progressbar=False)
    error = caught.value
    assert isinstance(error, FloatingPointError)
    assert (error.step, error.sites) == (BAD_STEP, ("trap",))
    approx = error.approx
    assert approx is inference.approx
    assert (approx.steps, approx.status) == (BAD_STEP - 1, "stopped")
    assert approx.message == str(error)
    assert "learning rate" in str(error)
    assert len(approx.hist) == len(inference.hist) == BAD_STEP - 1
    assert np.isfinite(approx.hist).all()
    exact = falling().fit(BAD_STEP - 1, obj_optimizer=vi.sgd(RATE), progressbar=False)
    assert same(approx, exact)
    np.testing.assert_allclose(approx.mean[0], START - RATE * (BAD_STEP - 1), atol=1e-4)
    assert np.isfinite(approx.sample_dict(5, random_seed=0)["x"]).all()


def test_nan_is_found_at_the_same_step_one_by_one():
    inference = falling()
    inference.fit(1, obj_optimizer=vi.sgd(RATE), progressbar=False)
    for _ in range(BAD_STEP - 2):
        inference.refine(1, progressbar=False)
    with pytest.raises(vi.NonFiniteError) as caught:
        inference.refine(1, progressbar=False)
    assert caught.value.step == BAD_STEP
    assert len(inference.hist) == BAD_STEP - 1
    with pytest.raises(vi.NonFiniteError, match=f"at step {BAD_STEP}"):  # and again, and again
        inference.refine(50, progressbar=False)


def test_infinite_loss_with_finite_gradients():
    """Nothing becomes NaN here, so only the loss itself tells."""

    def cliff():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("drift", -x)
        numpyro.factor("cliff", jnp.where(x < 0, -jnp.inf, 0.0))

    start = vi.MeanField(cliff, start={"x": START}, start_sigma={"x": 1e-3})
    inference = vi.KLqp(start, beta=0, random_seed=0)
    with pytest.raises(vi.NonFiniteError, match="log density of 'cliff' is not finite") as caught:
        inference.fit(10_000, obj_optimizer=vi.sgd(RATE), progressbar=False)
    assert caught.value.step == BAD_STEP
    assert len(inference.hist) == inference.approx.steps == BAD_STEP - 1


@pytest.mark.parametrize("every", [1, 10, 101, 102])
def test_nan_with_callbacks(every):
    inference, callback = falling(), Steps(every)
    with pytest.raises(vi.NonFiniteError) as caught:
        inference.fit(300, obj_optimizer=vi.sgd(RATE), callbacks=[callback], progressbar=False)
    assert caught.value.step == BAD_STEP
    assert callback.steps == list(range(every, BAD_STEP, every))
    assert len(inference.hist) == BAD_STEP - 1


def test_a_stop_before_the_nan():
    callbacks = [Steps(stop=60)]
    options = {"obj_optimizer": vi.sgd(RATE), "progressbar": False}
    approx = falling().fit(300, callbacks=callbacks, **options)
    assert approx.status == "stopped"
    assert same(approx, falling().fit(60, **options))


def test_nan_without_score():
    inference = falling()
    with pytest.raises(vi.NonFiniteError, match=f"at step {BAD_STEP}"):
        inference.fit(300, obj_optimizer=vi.sgd(RATE), score=False, progressbar=False)
    assert inference.approx.steps == BAD_STEP - 1
    assert len(inference.hist) == 0


def test_nan_at_the_end_of_a_finished_fit_does_not_matter():
    approx = falling().fit(BAD_STEP - 1, obj_optimizer=vi.sgd(RATE), progressbar=False)
    assert approx.status == "finished"
    assert np.isfinite(approx.mean).all()


@pytest.mark.parametrize("method", [vi.ADVI, vi.FullRankADVI])
def test_learning_rate_nan(method, caplog):
    inference, callback = method(model, model_args=(Y,), random_seed=0), Steps()
    initial = inference.approx
    with (
        caplog.at_level(logging.INFO, LOGGER),
        pytest.raises(vi.NonFiniteError, match="at step 1: the update made the variational param"),
    ):
        inference.fit(100, obj_optimizer=vi.sgd(np.nan), callbacks=[callback], progressbar=False)
    approx = inference.approx
    assert same(approx, initial)
    assert callback.steps == []
    assert approx.hist.shape == (0,)
    assert approx.steps == 0
    assert caplog.messages == []
    assert inference.fit(10, progressbar=False).status == "finished"


def test_the_sites_whose_parameters_went_bad_are_named():
    def two():
        numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        # finite value, infinite gradient once b is negative
        numpyro.factor("f", jnp.where(b > 0, 0.0, jnp.sqrt(jnp.maximum(b, 0.0))))

    start = vi.MeanField(two, start={"b": 3.0}, start_sigma={"b": 0.01})
    inference = vi.KLqp(start, random_seed=0)
    with pytest.raises(vi.NonFiniteError, match="variational parameters of 'b' non-finite") as c:
        inference.fit(10_000, obj_optimizer=vi.sgd(1e-3), progressbar=False)
    assert c.value.sites == ("b",)
    assert np.isfinite(inference.approx.mean).all()
    assert len(inference.hist) == inference.approx.steps == c.value.step - 1


def test_nan_in_the_models_own_params():
    def with_param():
        numpyro.sample("z", dist.Normal(0, 1))
        w = numpyro.param("w", jnp.array(0.0))
        numpyro.factor("f", jnp.sqrt(jnp.abs(w)))  # 0 with an infinite slope

    with pytest.raises(vi.NonFiniteError, match="step 1: the update made the model's own params"):
        vi.ADVI(with_param, random_seed=0).fit(10, obj_optimizer=vi.sgd(0.1), progressbar=False)


def test_one_site_named_once():
    """Both the log density and the Jacobian of a site go bad here."""

    def steep():
        numpyro.sample("s", dist.LogNormal(0, 0.01))

    with pytest.raises(vi.NonFiniteError) as caught:
        vi.ADVI(steep, random_seed=0).fit(100, obj_optimizer=vi.sgd(10.0), progressbar=False)
    assert caught.value.sites == ("s",)


@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("", 1),
        ("logging.basicConfig(level='ERROR')", 1),
        ("logging.basicConfig(level='INFO')", 2),
        ("logging.getLogger('numpyro_vi_ext').setLevel('ERROR')", 0),
    ],
)
def test_closing_line_is_shown_where_logging_does_not_show_it(setup, shown):
    code = (
        f"import logging; {setup}\n"
        "import numpyro, numpyro.distributions as dist, numpyro_vi_ext as vi\n"
        "model = lambda: numpyro.sample('x', dist.Normal())\n"
        "vi.fit(model, 20, random_seed=0)\n"
        "vi.fit(model, 20, random_seed=0, progressbar=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("Finished [100%]: Average Loss = ") == shown
    assert done.stdout == ""


def test_a_kept_result_does_not_keep_the_others():
    def model():
        numpyro.sample("x", dist.Normal(0, 1).expand([50]).to_event(1))

    tracker = vi.Tracker(every=50, mean=lambda approx: approx.mean)
    vi.fit(model, 500, callbacks=[tracker], random_seed=0, progressbar=False)
    for mean in tracker["mean"]:
        owner = mean if mean.base is None else mean.base
        assert owner.nbytes == mean.nbytes


def test_fitting_from_a_callback_of_the_same_object_is_refused():
    advi = vi.ADVI(lambda: numpyro.sample("x", dist.Normal()), random_seed=0)
    with pytest.raises(RuntimeError, match="is being fitted already"):
        advi.fit(5, callbacks=[lambda approx, losses, i: advi.fit(3)], progressbar=False)
    assert len(advi.hist) == advi.approx.steps == 1
    assert len(advi.fit(5, progressbar=False).hist) == 6  # and it can be fitted again


def test_errors_can_be_pickled():
    discrete = pickle.loads(pickle.dumps(vi.DiscreteLatentError(("a", "b"))))
    assert discrete.sites == ("a", "b")
    error = vi.NonFiniteError("bad", step=3, sites=("x",), approx=object())
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.step, copied.sites, copied.approx) == ("bad", 3, ("x",), None)


def test_bad_rows_of_a_subsampled_plate_are_named():
    def model(y):
        x = numpyro.sample("x", dist.Normal())
        with numpyro.plate("rows", 40, subsample_size=2):
            numpyro.sample("y", dist.Normal(x, 1), obs=numpyro.subsample(y, event_dim=0))

    y = np.zeros(40)
    y[7] = np.nan
    start = {"x": 0.0}
    with pytest.raises(vi.NonFiniteError) as caught:
        vi.fit(model, model_args=(y,), start=start, random_seed=3, progressbar=False)
    assert caught.value.sites == ("y",)
