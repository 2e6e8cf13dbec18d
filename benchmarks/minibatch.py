"""Steps per second in minibatches, against a hand-written loop, NumPyro's plates and PyMC."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from _densities import wide_normal as wide_normal_log_density
from _measure import interleaved, publish, rate_rows, rates, run_chosen, table
from _models import svi_loop, wide_normal, wide_normal_data
from _peers import Attempt, Peer, numbers_file

import numpyro_vi_ext as vi

BATCH, STEPS, FEW = 500, 5000, 1000  # steps a run, and in slow loops


def subsampled(data: jax.Array) -> None:
    """The same model with NumPyro's own minibatches."""
    columns = data.shape[1]
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), (columns,)))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0).expand([columns]).to_event(1))
    with numpyro.plate("rows", len(data), subsample_size=BATCH):
        rows = numpyro.subsample(data, event_dim=1)
        numpyro.sample("lik", dist.Normal(mu, sd).to_event(1), obs=rows)


def hand_written(data: jax.Array) -> Any:
    """A jitted scan: rows and noise drawn with a key per step, sticking-the-landing gradient."""
    optimizer, rows = optax.adam(0.01), len(data)

    @partial(jax.jit, static_argnums=2)
    def run(key: jax.Array, data: jax.Array, n: int) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            q, state = carry
            for_eps, for_rows = jax.random.split(key)
            batch = data[jax.random.randint(for_rows, (BATCH,), 0, rows)]
            eps = jax.random.normal(for_eps, (200,))
            z, pull_back = jax.vjp(lambda q: q["mu"] + jax.nn.softplus(q["rho"]) * eps, q)
            log_p, grad = jax.value_and_grad(wide_normal_log_density, 1)(batch, z, rows / BATCH)
            sigma = jax.nn.softplus(q["rho"])
            updates, state = optimizer.update(pull_back(-eps / sigma - grad)[0], state, q)
            return (optax.apply_updates(q, updates), state), -log_p - jnp.sum(jnp.log(sigma))

        q = {"mu": jnp.zeros(200), "rho": jnp.zeros(200)}
        return jax.lax.scan(step, (q, optimizer.init(q)), jax.random.split(key, n))

    return lambda: run(jax.random.key(0), data, STEPS)


def fit(batch: vi.Minibatch, optimizer: Any) -> Any:
    """One fit, without a bar and a warm-up."""
    options = {"obj_optimizer": optimizer, "random_seed": 0, "progressbar": False}
    return vi.fit(wide_normal, STEPS, model_args=(batch,), **options)


def begun(batch: vi.Minibatch, optimizer: Any = None) -> Callable[[], object]:
    """The next steps of a fit that has made its first one."""
    inference = vi.ADVI(wide_normal, model_args=(batch,), random_seed=0)
    inference.fit(1, obj_optimizer=optimizer, progressbar=False)
    return partial(inference.refine, STEPS, progressbar=False)


def in_memory() -> None:
    """The seed's 40,000 x 100, batches of 500."""
    data = wide_normal_data()
    batch = vi.Minibatch(data, batch_size=BATCH)
    epoch = vi.Minibatch(data, batch_size=BATCH, sampling="epoch")
    stored, adam = jnp.asarray(data), vi.adam(0.01)
    candidates = {
        "hand-written scan": hand_written(stored),
        "adam(0.01)": begun(batch, adam),
        "default optimizer": begun(batch),
        'adam(0.01), sampling="epoch"': begun(epoch, adam),
    }
    slow = {"NumPyro SVI, plate(subsample_size)": svi_loop(subsampled, FEW, stored)}
    with numbers_file(data) as path:
        pymc = Attempt(lambda: Peer("_pymc_advi.py", "pymc", "minibatch", path, FEW))
    slow["PyMC, ADVI"] = pymc
    steps = {name: STEPS for name in candidates} | {name: FEW for name in slow}
    found = rates(7, {name: (run, steps[name]) for name, run in (candidates | slow).items()})
    first = interleaved(3, {"default": lambda: begun(batch), "adam": lambda: begun(batch, adam)})
    publish(
        "minibatch",
        f"40,000 x 100 numbers in batches of {BATCH}, {STEPS:,} steps a run, {FEW:,} in NumPyro "
        "and PyMC, after compiling.\n\n"
        + table(["loop", "steps/s", "ratio to hand-written"], rate_rows(found, "hand-written scan"))
        + "\n\nOur steps are those of `refine`. Up to its first step, with the warm-up, a fit by "
        f"default takes {first['default']:.1f} s; with adam(0.01), {1000 * first['adam']:.0f} ms.",
        peers=("pymc",),
    )


def over_lengths() -> None:
    """Steps per second as the data grow, 10 columns."""
    rng = np.random.default_rng(0)
    candidates = {}
    for rows in (10_000, 100_000, 1_000_000, 10_000_000):
        data = rng.random((rows, 10), np.float32)
        for sampling in ("iid", "epoch"):
            batch = vi.Minibatch(data, batch_size=BATCH, sampling=sampling)
            inference = vi.ADVI(wide_normal, model_args=(batch,), random_seed=0)
            inference.fit(10, progressbar=False)  # looks at all rows once, for a start
            refine = partial(inference.refine, STEPS, progressbar=False)
            candidates[f"{rows:,}", sampling] = refine
    seconds = interleaved(5, candidates)
    rows = [[*k, f"{STEPS / s:,.0f}"] for k, s in seconds.items()]
    publish(
        "minibatch_lengths",
        f"Batches of {BATCH} of N x 10 numbers, {STEPS:,} steps of `refine` a run.\n\n"
        + table(["N", "sampling", "steps/s"], rows),
    )


if __name__ == "__main__":
    run_chosen(in_memory, over_lengths)
