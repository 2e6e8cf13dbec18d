"""Whether a fit still moves: what it says, when ``n="auto"`` stops, and restarts."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext import convergence
from numpyro_vi_ext.approximation.base import Facts

Y = jnp.array([2.0, 3.0, 4.0])
QUIET = {"progressbar": False, "random_seed": 0}


def normal(y):
    """Posterior of mu: precision 1 / 100 + 3, mean 9 / precision."""
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def modes():
    """Two modes, 0.3 of the mass at -5 and 0.7 at 5."""
    parts = dist.Normal(jnp.array([-5.0, 5.0]), 1.0)
    weights = dist.Categorical(jnp.array([0.3, 0.7]))
    numpyro.sample("x", dist.MixtureSameFamily(weights, parts))


def far():
    numpyro.sample("near", dist.Normal(0, 1))
    numpyro.sample("far", dist.Normal(0, 1e4))
    numpyro.factor("there", -0.5 * 1e-2 * (numpyro.sample("x", dist.Normal(0, 1e4)) - 500) ** 2)


# -- what is said of a finished fit


def test_a_settled_fit_says_nothing():
    approx = vi.fit(normal, 3000, model_args=(Y,), **QUIET)
    assert (approx.status, approx.facts.motion) == ("finished", "settled")
    assert "moving" not in approx.message


def test_a_fit_on_its_way_says_how_fast():
    approx = vi.fit(far, 2000, obj_optimizer=None, warmup=False, **QUIET)
    assert approx.facts.motion == "moving"
    assert approx.message.startswith("Finished [100%]: Average Loss = ")
    assert "The fit was still moving: the " in approx.message
    assert "while the steps doubled for the last time. Refine it, or fit with n='auto'." in (
        approx.message
    )


def test_the_fastest_site_is_named():
    approx = vi.fit(far, 2000, warmup=False, **QUIET)
    assert "of 'near'" not in approx.message  # which stands where it has to, from the start


def test_of_a_very_short_fit_nothing_is_known():
    assert vi.fit(normal, 200, model_args=(Y,), **QUIET).facts.motion == ""
    assert vi.fit(normal, 0, model_args=(Y,), **QUIET).facts.motion == ""


def test_with_an_explicit_optimizer_the_losses_decide():
    options = {"model_args": (Y,), "start": {"mu": 1000.0}, **QUIET}
    slow = vi.fit(normal, 3000, obj_optimizer=vi.adam(0.01), **options)
    assert "its loss was falling" in slow.message
    assert slow.facts.motion == "moving"
    there = vi.fit(normal, 3000, obj_optimizer=vi.adam(0.01), model_args=(Y,), **QUIET)
    assert there.facts.motion == "settled"


def test_refine_goes_on_watching():
    inference = vi.ADVI(normal, model_args=(Y,), random_seed=0)
    assert inference.fit(150, progressbar=False).facts.motion == ""
    assert inference.refine(3000, progressbar=False).facts.motion == "settled"


def test_marks_are_forgotten_when_a_fit_is_rewound():
    class Stop:
        every = 1000

        def __call__(self, approx, losses, i):
            if i == 2000:
                raise StopIteration("enough")

    inference = vi.ADVI(normal, model_args=(Y,), random_seed=0)
    approx = inference.fit(20_000, callbacks=[Stop()], progressbar=False)
    assert approx.steps == 2000
    whole = vi.ADVI(normal, model_args=(Y,), random_seed=0)
    whole.fit(2000, progressbar=False)
    one, other = inference.refine(3000, progressbar=False), whole.refine(3000, progressbar=False)
    np.testing.assert_array_equal(one.mean, other.mean)
    assert one.facts.motion == other.facts.motion == "settled"


# -- n="auto"


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_auto_stops_when_done(method):
    approx = vi.fit(normal, "auto", method, model_args=(Y,), **QUIET)
    assert approx.status == "converged"
    assert convergence.LEAST_STEPS <= approx.steps < 5000
    assert approx.message == (
        f"Converged at {approx.steps:,d}: nothing in it moved by more than 0.1 sd while the steps "
        "doubled"
    )
    precision = 3.01
    assert abs(approx.mean[0] - 9 / precision) < 0.01 * precision**-0.5
    assert approx.std[0] == pytest.approx(precision**-0.5, rel=0.01)
    assert approx.hist.size == approx.steps


def test_auto_has_an_end():
    approx = vi.fit(far, "auto", warmup=False, max_steps=1500, **QUIET)
    assert (approx.status, approx.steps) == ("finished", 1500)
    assert "still moving" in approx.message


def test_auto_with_an_explicit_optimizer():
    options = {"model_args": (Y,), "obj_optimizer": vi.adam(0.01), **QUIET}
    approx = vi.fit(normal, "auto", **options)
    assert (approx.status, approx.message.split(": ")[1]) == ("converged", "its loss is flat")


def test_auto_of_particles():
    approx = vi.fit(normal, "auto", "svgd", model_args=(Y,), **QUIET)
    assert approx.status == "converged"
    assert approx.mean[0] == pytest.approx(9 / 3.01, abs=0.01)


def test_auto_is_the_same_as_that_many_steps():
    auto = vi.fit(normal, "auto", model_args=(Y,), **QUIET)
    steps = vi.fit(normal, auto.steps, model_args=(Y,), **QUIET)
    np.testing.assert_array_equal(auto.mean, steps.mean)
    np.testing.assert_array_equal(auto.hist, steps.hist)


def test_wrong_steps():
    with pytest.raises(ValueError, match="n must be a number of steps or 'auto', got 'enough'"):
        vi.fit(normal, "enough", model_args=(Y,), **QUIET)
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        vi.fit(normal, "auto", model_args=(Y,), max_steps=0, **QUIET)


# -- restarts


@pytest.mark.parametrize("options", [{}, {"warmup": False}, {"obj_optimizer": vi.adam(0.01)}])
def test_restarts_find_the_larger_mode(options):
    """From a start at the smaller one, of ELBO log 0.3; the larger one has log 0.7."""
    start = {"x": -1.0}
    alone = vi.fit(modes, 4000, start=start, **options, **QUIET)
    assert alone.mean[0] == pytest.approx(-5, abs=0.2)
    best = vi.fit(modes, 4000, start=start, restarts=8, **options, **QUIET)
    assert best.mean[0] == pytest.approx(5, abs=0.2)
    optima = np.array(best.facts.optima)
    assert optima.shape == (8,)
    assert optima.max() == pytest.approx(np.log(0.7), abs=0.15)
    assert optima.min() < np.log(0.3) + 0.15  # there, or on its way there
    assert best.facts.warmup.startswith("the best of 8 starts; ")


def test_restarts_go_on_exactly():
    whole = vi.ADVI(modes, random_seed=1)
    whole.fit(1000, restarts=3, progressbar=False)
    parts = vi.ADVI(modes, random_seed=1)
    parts.fit(600, restarts=3, progressbar=False)
    parts.refine(400, progressbar=False)
    np.testing.assert_array_equal(whole.approx.mean, parts.approx.mean)
    np.testing.assert_array_equal(whole.hist, parts.hist)


def test_restarts_have_callbacks_and_a_history():
    tracker = vi.Tracker(every=100, mean=lambda approx: approx.mean)
    approx = vi.fit(modes, 500, restarts=3, callbacks=[tracker], **QUIET)
    assert approx.hist.size == 500
    assert len(tracker["mean"]) == 5


def test_a_start_that_fails_is_not_taken():
    """Below zero the density is not a number."""

    def model():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", jnp.where(x > 0, -0.5 * (x - 3) ** 2, jnp.nan))

    options = {"restarts": 6, "warmup": False, "start": {"x": 1.5}, "start_sigma": {"x": 0.01}}
    approx = vi.fit(model, 1000, on_nonfinite="skip", **options, **QUIET)
    assert np.isneginf(approx.facts.optima).any()
    assert approx.mean[0] == pytest.approx(3, abs=0.3)


def test_restarts_are_compared_with_the_params_they_came_to():
    """The ELBO at the initial params would be some -5,000."""

    def model(y):
        scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        x = numpyro.sample("x", dist.Normal(0, scale))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    options = {"model_args": (np.float32(100),), "restarts": 2, **QUIET}
    approx = vi.fit(model, 10, obj_optimizer=vi.adam(0.5), **options)
    assert min(approx.facts.optima) > -200


def test_restarts_keep_the_shape_of_q():
    inference = vi.FullRankADVI(modes, random_seed=0)
    wide = inference.approx.at(vi.FullRank(modes, start_sigma={"x": 7.0}).point, Facts())
    inference = vi.KLqp(wide, random_seed=0)
    approx = inference.fit(1, restarts=3, obj_optimizer=vi.sgd(0.0), progressbar=False)
    assert approx.std[0] == pytest.approx(7.0)


def test_auto_needs_losses_where_it_goes_by_them():
    options = {"model_args": (Y,), "obj_optimizer": vi.adam, "score": False, **QUIET}
    with pytest.raises(ValueError, match=r"n='auto' goes by the losses .* needs score=True"):
        vi.fit(normal, "auto", **options)


def test_without_an_entropy_there_is_nothing_to_compare_starts_by():
    flat = vi.KLqp(vi.MeanField(normal, model_args=(Y,)), beta=0, random_seed=0)
    assert flat.fit(10, progressbar=False).facts.warmup == ""
    with pytest.raises(ValueError, match="a warm-up cannot be applied to 'klqp'"):
        flat.fit(10, warmup=True)
    with pytest.raises(ValueError, match="restarts cannot be applied to 'klqp'"):
        flat.fit(10, restarts=2)


def test_without_an_entropy_there_is_no_frame():
    done = vi.ADVI(normal, model_args=(Y,), random_seed=0)
    settled = done.fit("auto", progressbar=False)
    for beta, framed in ((1, True), (0, False)):
        again = vi.KLqp(settled, beta=beta, random_seed=0)
        again.fit(10, progressbar=False)
        assert (again._run.state.frame is not None) is framed


def test_wrong_restarts():
    for wrong, error in ((0, ValueError), (2.5, TypeError), ("8", TypeError)):
        with pytest.raises(error, match="restarts must be"):
            vi.fit(normal, 100, model_args=(Y,), restarts=wrong, **QUIET)
    with pytest.raises(ValueError, match="restarts cannot be applied to 'svgd'"):
        vi.fit(normal, 100, "svgd", model_args=(Y,), restarts=2, **QUIET)
    stream = vi.Stream(lambda: iter([np.asarray(Y)] * 100), total_size=3)
    with pytest.raises(ValueError, match="restarts need data that can be read again"):
        vi.fit(normal, 100, model_args=(stream,), restarts=2, **QUIET)
