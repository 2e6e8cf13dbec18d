"""What is done with a fit: draws, nodes, traces. Interleaved; PyMC in a process of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import interleaved, publish, run_chosen, table
from _models import mixture
from _peers import Attempt, Peer
from numpyro import handlers

import numpyro_vi_ext as vi

DRAWS = 10_000


def wide(y: jax.Array) -> None:
    """200 dimensions, two deterministic sites."""
    x = numpyro.sample("x", dist.Normal(0, 1).expand([150]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1).expand([50]).to_event(1))
    numpyro.deterministic("total", x.sum() + s.sum())
    numpyro.deterministic("scaled", x[:50] * s)
    numpyro.sample("y", dist.Normal(x[:50], s).to_event(1), obs=y)


def hand_written_draws(mu: Any, sigma: Any, y: jax.Array) -> Any:
    """The same model function under ``vmap`` and ``jit``; the results as NumPy arrays."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        z = mu + sigma * jax.random.normal(key, (200,))
        values = {"x": z[:150], "s": jnp.exp(z[150:])}
        trace = handlers.trace(handlers.substitute(wide, data=values)).get_trace(y)
        return {name: trace[name]["value"] for name in ("x", "s", "total", "scaled")}

    many = jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, DRAWS)))
    return lambda: {k: np.asarray(v) for k, v in many(jax.random.key(0)).items()}


def sample() -> None:
    """Draws into an ArviZ object."""
    y = jnp.ones(50)
    approx = vi.fit(wide, 500, model_args=(y,), random_seed=0, progressbar=False)
    candidates = {
        "hand-written vmap and jit, to NumPy": hand_written_draws(approx.mean, approx.std, y),
        f"sample({DRAWS:,}), to ArviZ": lambda: approx.sample(DRAWS),
        f"sample_dict({DRAWS:,})": lambda: approx.sample_dict(DRAWS),
    }
    quick = interleaved(15, candidates)
    reference = next(iter(quick.values()))
    rows = [[k, f"{1000 * s:.1f} ms", f"{reference / s:.2f}"] for k, s in quick.items()]
    ours = candidates[list(candidates)[1]]
    pymc = Attempt(lambda: Peer("_pymc_sample.py"))
    both = interleaved(3, {"ours": ours, "PyMC": pymc})
    pymc.close()
    if pymc.failure:
        rows.append(["PyMC, approx.sample", pymc.failure, "-"])
    else:
        seconds = both["PyMC"]
        cells = [f"{1000 * seconds:,.0f} ms", f"{reference / seconds:.4f}"]
        rows.append(["PyMC, approx.sample", *cells])
        rows.append(["sample against PyMC, in one run", "", f"{seconds / both['ours']:,.0f} times"])
    publish("sample", table(["", "median", "ratio to hand-written"], rows), peers=("pymc",))


def nodes(calls: int = 10_000) -> None:
    """One call of sample_node after the other, as a Tracker makes them."""
    approx = vi.fit(mixture, 500, random_seed=0, progressbar=False)
    name = next(iter(approx.ordering))

    def square(site: dict[str, jax.Array]) -> jax.Array:
        return site[name] ** 2

    def sine(site: dict[str, jax.Array]) -> jax.Array:
        return jnp.sin(site[name])

    def repeated(node: Any, **options: Any) -> Any:
        def run() -> None:
            for _ in range(calls):
                found = approx.sample_node(node, **options)
            jax.block_until_ready(found)

        return run

    seconds = interleaved(
        5,
        {
            "by name": repeated(name),
            "a function": repeated(square),
            "a function with jnp.sin": repeated(sine),
            "a function, size=100": repeated(square, size=100),
            "a function, the latent replaced": repeated(square, more_replacements={name: 0.5}),
        },
    )
    rows = [[name, f"{calls / s:,.0f}"] for name, s in seconds.items()]
    publish("nodes", table(["sample_node", "calls/s"], rows))


def empirical() -> None:
    """Four chains of 25,000 draws of 20 parameters, half of them positive."""

    def model() -> None:
        numpyro.sample("x", dist.Normal(0, 1).expand([10]).to_event(1))
        numpyro.sample("s", dist.HalfNormal(1).expand([10]).to_event(1))

    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 25_000, 20)).astype(np.float32)
    trace = {"x": x[..., :10], "s": np.abs(x[..., 10:])}
    seconds = interleaved(7, {"trace": lambda: vi.Empirical(trace, model=model)})
    rows = [["Empirical, 4 x 25,000 draws of 20 parameters", f"{seconds['trace']:.3f} s"]]
    publish("empirical", table(["", "median"], rows))


if __name__ == "__main__":
    run_chosen(sample, nodes, empirical)
