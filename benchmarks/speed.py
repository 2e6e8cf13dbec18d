"""Steps per second against hand-written loops and NumPyro's SVI, in one run, interleaved."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from _densities import mixture as mixture_log_density
from _densities import wide_normal as wide_normal_log_density
from _measure import Run, fresh, interleaved, publish, rate_rows, rates, run_chosen, table
from _models import correlated, hand_written, mixture, wide_normal, wide_normal_data
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal

import numpyro_vi_ext as vi


def publish_rates(section: str, text: str, steps: int, rounds: int, runs: dict[str, Run]) -> None:
    """Rates, and ratios to the hand-written loop."""
    found = rates(rounds, {name: (run, steps) for name, run in runs.items()})
    rows = rate_rows(found, "hand-written scan")
    publish(section, text + "\n\n" + table(["loop", "steps/s", "ratio to hand-written"], rows))


def with_bar_hidden(fit: object) -> object:
    """Run with the progress bar on, its text thrown away."""
    with contextlib.redirect_stderr(io.StringIO()):
        return fit()


def mixture_steady(steps: int = 500_000) -> None:
    """Progress bar and a convergence check every 100 steps that never stops the fit."""
    loop = hand_written(mixture_log_density, 1)
    svi = SVI(mixture, AutoDiagonalNormal(mixture), numpyro.optim.Adam(0.01), Trace_ELBO())
    key = jax.random.key(0)

    def ours(**options: object) -> None:
        vi.fit(mixture, steps, random_seed=0, **options)

    def checked(**options: object) -> None:
        check = vi.CheckParametersConvergence(every=100, tolerance=1e-30)
        with_bar_hidden(lambda: ours(callbacks=[check], **options))

    publish_rates(
        "mixture",
        f"The seed's mixture, {steps:,} steps a run, after compiling.",
        steps,
        5,
        {
            "hand-written scan": lambda: loop(key, steps),
            "fit, bar and check, default optimizer": checked,
            "fit, bar and check, adam(0.01)": lambda: checked(obj_optimizer=vi.adam(0.01)),
            "fit, no bar, no callback": lambda: ours(progressbar=False),
            "NumPyro SVI.run, no bar": lambda: svi.run(key, steps, progress_bar=False),
        },
    )


def second_fit_and_callbacks() -> None:
    """Latency of a second fit, and the rate of a plain Python callback at every step."""

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", numpyro.distributions.Normal(0, 10))
        numpyro.sample("y", numpyro.distributions.Normal(mu, 1), obs=y)

    rng = np.random.default_rng(0)
    calls = 0

    def count(approx: object, losses: object, i: int) -> None:
        nonlocal calls
        calls += 1

    def refit() -> None:
        seed = int(rng.integers(1_000_000))
        vi.fit(model, model_args=(rng.normal(size=50),), random_seed=seed, progressbar=False)

    steps = 200_000
    seconds = interleaved(
        7,
        {
            "refit": refit,
            "callback": lambda: vi.fit(mixture, steps, callbacks=[count], progressbar=False),
        },
    )
    rows = [
        ["second fit of 10,000 steps, new data and seed", f"{1000 * seconds['refit']:.1f} ms"],
        ["Python callback at every step", f"{steps / seconds['callback']:,.0f} calls/s"],
    ]
    publish("latency", table(["", "median"], rows))


def full_batch(steps: int = 400) -> None:
    """40,000 x 100 data, all of it at every step."""
    data = jnp.asarray(wide_normal_data())
    loop = hand_written(wide_normal_log_density, 200)
    svi = SVI(wide_normal, AutoDiagonalNormal(wide_normal), numpyro.optim.Adam(0.01), Trace_ELBO())
    key, bound = jax.random.key(0), vi.Model(wide_normal, data)
    options = {"obj_optimizer": vi.adam(0.01), "progressbar": False, "random_seed": 0}
    publish_rates(
        "full batch",
        f"40,000 x 100, {steps} steps a run, after compiling.",
        steps,
        7,
        {
            "hand-written scan": lambda: loop(key, steps, data),
            "fit": lambda: vi.fit(bound, steps, **options),
            "NumPyro SVI.run": lambda: svi.run(key, steps, data, progress_bar=False),
        },
    )


def batch_axis() -> None:
    """What it costs to give a single draw a batch axis of length one."""
    data, z = jnp.asarray(wide_normal_data()), jnp.zeros(200)
    one = jax.value_and_grad(wide_normal_log_density, 1)
    alone, batched = jax.jit(one), jax.jit(jax.vmap(one, (None, 0)))
    seconds = interleaved(
        15,
        {
            "a draw of shape (200,)": lambda: alone(data, z),
            "a batch of one, (1, 200)": lambda: batched(data, z[None]),
        },
    )
    rows = [[name, f"{1000 * s:.1f} ms"] for name, s in seconds.items()]
    publish("batch axis", table(["gradient of the log density, 40,000 x 100", "median"], rows))


def full_rank(ndim: int = 500, steps: int = 500) -> None:
    """A dense Gaussian fitted by a dense Gaussian."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(ndim, 2 * ndim)) / np.sqrt(2 * ndim)
    precision = jnp.asarray(factor @ factor.T, jnp.float32)

    def log_density(precision: jax.Array, z: jax.Array) -> jax.Array:
        return -0.5 * z @ precision @ z

    loop, key = hand_written(log_density, ndim, full_rank=True, rate=1e-3), jax.random.key(0)
    bound = vi.Model(correlated, precision)
    options = {"obj_optimizer": vi.adam(1e-3), "progressbar": False, "random_seed": 0}
    publish_rates(
        "full rank",
        f"Full rank in {ndim} dimensions, {steps} steps a run, after compiling.",
        steps,
        5,
        {
            "hand-written scan": lambda: loop(key, steps, precision),
            "fit": lambda: vi.fit(bound, steps, "fullrank_advi", **options),
        },
    )


FIRST_FIT = """
import time, jax, numpyro, numpyro_vi_ext as vi
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from _models import mixture
jax.block_until_ready(jax.numpy.zeros(1) + 1)
began = time.perf_counter()
if {ours}:
    vi.fit(mixture, random_seed=0, progressbar=False)
else:
    svi = SVI(mixture, AutoDiagonalNormal(mixture), numpyro.optim.Adam(0.01), Trace_ELBO())
    svi.run(jax.random.key(0), 10_000, progress_bar=False)
print(time.perf_counter() - began)
"""


def first_fit() -> None:
    """Compile and fit in a fresh process."""

    def seconds(ours: bool) -> float:
        return float(fresh(FIRST_FIT.format(ours=ours)))

    pairs = sorted((seconds(True), seconds(False)) for _ in range(7))
    ours, theirs = (float(np.median([p[i] for p in pairs])) for i in (0, 1))
    rows = [
        ["fit, 10,000 steps, compile included", f"{ours:.2f} s", f"{theirs / ours:.2f}"],
        ["NumPyro SVI.run, the same", f"{theirs:.2f} s", "1.00"],
    ]
    publish("first fit", table(["fresh process", "median", "times faster than NumPyro"], rows))


def sample_dict(draws: int = 100_000) -> None:
    """Draws of a regression with a deterministic site."""

    def model(x: jax.Array, y: jax.Array) -> None:
        normal = numpyro.distributions.Normal
        w = numpyro.sample("w", normal(0, 10).expand([x.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", numpyro.distributions.HalfNormal(5))
        numpyro.deterministic("variance", sigma**2)
        numpyro.sample("y", normal(x @ w, sigma), obs=y)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(442, 11))
    approx = vi.fit(model, model_args=(x, x.sum(1)), random_seed=0, progressbar=False)
    seconds = interleaved(7, {"d": lambda: approx.sample_dict(draws)})
    publish("draws", table(["", "median"], [[f"sample_dict({draws:,})", f"{seconds['d']:.3f} s"]]))


if __name__ == "__main__":
    run_chosen(
        mixture_steady,
        second_fit_and_callbacks,
        first_fit,
        full_batch,
        batch_axis,
        full_rank,
        sample_dict,
    )
