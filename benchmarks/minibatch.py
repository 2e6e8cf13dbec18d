"""Steps per second in minibatches, against a hand-written loop, NumPyro's plates and PyMC."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from _measure import interleaved, publish, table
from _models import wide_normal, wide_normal_data
from _peers import Peer
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal

import numpyro_vi_ext as vi

BATCH, STEPS = 500, 2000


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

    def log_density(z: jax.Array, batch: jax.Array) -> jax.Array:
        mu, log_sd = jnp.split(z, 2)
        sd = jnp.exp(log_sd)
        prior = jnp.sum(-0.5 * sd**2 + 0.5 * jnp.log(2 / jnp.pi) + log_sd)
        return prior + rows / BATCH * jnp.sum(jax.scipy.stats.norm.logpdf(batch, mu, sd))

    @partial(jax.jit, static_argnums=2)
    def run(key: jax.Array, data: jax.Array, n: int) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            q, state = carry
            for_eps, for_rows = jax.random.split(key)
            batch = data[jax.random.randint(for_rows, (BATCH,), 0, rows)]
            eps = jax.random.normal(for_eps, (200,))
            z, pull_back = jax.vjp(lambda q: q["mu"] + jax.nn.softplus(q["rho"]) * eps, q)
            log_p, grad = jax.value_and_grad(log_density)(z, batch)
            sigma = jax.nn.softplus(q["rho"])
            updates, state = optimizer.update(pull_back(-eps / sigma - grad)[0], state, q)
            return (optax.apply_updates(q, updates), state), -log_p - jnp.sum(jnp.log(sigma))

        q = {"mu": jnp.zeros(200), "rho": jnp.zeros(200)}
        return jax.lax.scan(step, (q, optimizer.init(q)), jax.random.split(key, n))

    return lambda: jax.block_until_ready(run(jax.random.key(0), data, STEPS))


def fit(batch: vi.Minibatch, optimizer: Any = None) -> Any:
    """One fit, without a bar."""
    options = {"obj_optimizer": optimizer, "random_seed": 0, "progressbar": False}
    return vi.fit(wide_normal, STEPS, model_args=(batch,), **options)


def in_memory() -> None:
    """The seed's 40,000 x 100, batches of 500."""
    data = wide_normal_data()
    batch = vi.Minibatch(data, batch_size=BATCH)
    epoch = vi.Minibatch(data, batch_size=BATCH, sampling="epoch")
    stored = jnp.asarray(data)
    svi = SVI(subsampled, AutoDiagonalNormal(subsampled), numpyro.optim.Adam(0.01), Trace_ELBO())

    def numpyro_svi() -> Any:
        return svi.run(jax.random.key(0), STEPS // 10, stored, progress_bar=False)

    candidates = {
        "hand-written scan": hand_written(stored),
        "fit, adam(0.01)": lambda: fit(batch, vi.adam(0.01)),
        "fit, default optimizer": lambda: fit(batch),
        'fit, adam(0.01), sampling="epoch"': lambda: fit(epoch, vi.adam(0.01)),
        "NumPyro SVI, plate(subsample_size)": numpyro_svi,
    }
    missing = []
    try:
        candidates["PyMC 6.3.2, ADVI"] = Peer(Path(__file__).with_name("_pymc_minibatch.py"))
    except RuntimeError as error:
        missing.append(["PyMC", f"not measured: {error}", ""])
    seconds = interleaved(7, candidates)
    seconds["NumPyro SVI, plate(subsample_size)"] *= 10  # a tenth of the steps
    reference = seconds["hand-written scan"]
    rows = [[k, f"{STEPS / s:,.0f}", f"{reference / s:.2f}"] for k, s in seconds.items()]
    publish(
        "minibatch",
        f"40,000 x 100 numbers in batches of {BATCH}, {STEPS:,} steps a run, after compiling.\n\n"
        + table(["loop", "steps/s", "ratio to hand-written"], [*rows, *missing]),
    )


def over_lengths() -> None:
    """Steps per second as the data grow, 10 columns."""
    rng = np.random.default_rng(0)
    candidates = {}
    for rows in (10_000, 100_000, 1_000_000, 10_000_000):
        data = rng.random((rows, 10), np.float32)
        for sampling in ("iid", "epoch"):
            batch = vi.Minibatch(data, batch_size=BATCH, sampling=sampling)
            candidates[f"{rows:,}", sampling] = partial(fit, batch)
    seconds = interleaved(5, candidates)
    rows = [[*k, f"{STEPS / s:,.0f}"] for k, s in seconds.items()]
    publish(
        "minibatch_lengths",
        f"Batches of {BATCH} of N x 10 numbers, {STEPS:,} steps a run, after compiling.\n\n"
        + table(["N", "sampling", "steps/s"], rows),
    )


if __name__ == "__main__":
    in_memory()
    over_lengths()
