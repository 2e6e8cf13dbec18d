"""From a NUTS trace to an approximation: evaluate what was never declared in the model.

The model is the mixture of the quickstart, without deterministic sites. `vi.Empirical` makes an
approximation of the draws of NUTS; x**2 and sin(x) are evaluated under it, and under ADVI.
Pictures are saved as PNG; `--output` says where.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from scipy.stats import gaussian_kde

import numpyro_vi_ext as vi

WEIGHTS, MEANS, SD = np.array([0.2, 0.8]), np.array([-0.3, 0.5]), 0.1
NODES = {"x": "x", "x**2": lambda site: site["x"] ** 2, "sin(x)": lambda site: jnp.sin(site["x"])}


def model():
    components = dist.Normal(MEANS, SD)
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), components))


def density(x):
    return WEIGHTS @ np.exp(dist.Normal(MEANS, SD).log_prob(x[:, None])).T


def run_nuts(draws, chains=8):
    options = {"chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(model), num_warmup=1000, num_samples=draws, num_chains=chains, **options)
    mcmc.run(jax.random.key(0))
    return mcmc


def print_moments(values):
    """Mean and standard deviation of each node, beside the exact ones by quadrature."""
    grid = np.linspace(-1.5, 1.5, 20_001)
    weights = density(grid) * (grid[1] - grid[0])
    exact = {"x": grid, "x**2": grid**2, "sin(x)": np.sin(grid)}
    print(f"{'':8}" + "".join(f"{name:>18}" for name in (*values, "exact")))
    for node, on_grid in exact.items():
        mean = weights @ on_grid
        pairs = [(np.mean(v[node]), np.std(v[node])) for v in values.values()]
        pairs.append((mean, np.sqrt(weights @ (on_grid - mean) ** 2)))
        print(f"{node:8}" + "".join(f"{m:9.3f} +-{s:6.3f}" for m, s in pairs))


def draw(values, path):
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    for ax, node in zip(axes, NODES, strict=True):
        low, high = (f([f(v[node]) for v in values.values()]) for f in (np.min, np.max))
        grid = np.linspace(low, high, 400)
        for name, v in values.items():
            draws = np.asarray(v[node])
            smooth = gaussian_kde(draws, 0.03 / draws.std())  # the same bandwidth for both
            ax.plot(grid, smooth(grid), label=name)
        ax.set(xlabel=node, ylabel="density", ylim=(0, None))
    grid = np.linspace(*axes[0].get_xlim(), 400)
    axes[0].plot(grid, density(grid), "k:", label="exact")
    axes[0].legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("trace_to_empirical_output"))
    parser.add_argument("--quick", action="store_true", help="few steps and draws, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    n, draws, size = (1000, 200, 1000) if arguments.quick else (10_000, 5000, 20_000)

    mcmc = run_nuts(draws)
    trace_approx = vi.Empirical(mcmc, model=model)
    print(trace_approx)
    rows = trace_approx.evaluate_over_trace(NODES["x**2"])  # every draw of NUTS, in order
    print(f"x**2 over the trace: shape {rows.shape}, mean {rows.mean():.3f}")
    print(f"one draw of x**2: {trace_approx.sample_node(NODES['x**2']):.4f}")
    print(f"another:          {trace_approx.sample_node(NODES['x**2']):.4f}")

    advi = vi.fit(model, n, random_seed=0, progressbar=False)
    values = {
        "NUTS": trace_approx.sample_node(NODES, size=size, random_seed=2),
        "ADVI": advi.sample_node(NODES, size=size, random_seed=2),
    }
    print_moments(values)
    draw(values, arguments.output / "trace_to_empirical.png")


if __name__ == "__main__":
    main()
