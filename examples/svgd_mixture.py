"""SVGD on a posterior with two modes, against ADVI and NUTS.

The model is the mixture of the quickstart. A thousand particles find both modes, where one Gaussian
settles on one. But how many of them end up in which follows from where they started: the modes are
so far apart that hardly any particle moves from one to the other. Two starts show that.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from scipy.stats import gaussian_kde

import numpyro_vi_ext as vi

WEIGHTS, MEANS, SD = np.array([0.2, 0.8]), np.array([-0.3, 0.5]), 0.1


def model():
    components = dist.Normal(MEANS, SD)
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), components))


def density(x):
    return WEIGHTS @ np.exp(dist.Normal(MEANS, SD).log_prob(x[:, None])).T


def run_nuts(draws, chains=8):
    options = {"chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(model), num_warmup=1000, num_samples=draws, num_chains=chains, **options)
    mcmc.run(jax.random.key(0))
    return np.asarray(mcmc.get_samples()["x"])


def run_svgd(n, n_particles, jitter):
    """The particles as they start, and the fit."""
    options = {
        "inf_kwargs": {"n_particles": n_particles, "jitter": jitter},
        "obj_optimizer": vi.sgd(learning_rate=0.01),
        "random_seed": 0,
        "progressbar": False,
    }
    start = vi.fit(model, 0, method="svgd", **options)
    return start.histogram[:, 0], vi.fit(model, n, method="svgd", **options)


def share(x):
    """Part of the draws that belong to the smaller mode."""
    grid = np.linspace(*MEANS, 1000)
    return np.mean(x < grid[np.argmin(density(grid))])


def print_row(name, x):
    print(f"{name:28} mean {x.mean():6.3f}, sd {x.std():.3f}, {share(x):.2f} in the smaller mode")


def draw(draws, path):
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    grid = np.linspace(-1.0, 1.2, 400)
    for name, x in draws.items():
        smooth = gaussian_kde(x, 0.03 / x.std())  # the same bandwidth for all
        ax.plot(grid, smooth(grid), label=name)
    ax.plot(grid, density(grid), "k:", label="exact")
    ax.set(xlabel="x", ylabel="density", ylim=(0, None))
    ax.legend(loc="upper left")
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("svgd_mixture_output"))
    parser.add_argument("--quick", action="store_true", help="few steps, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    n, n_particles, steps = (30, 200, 500) if arguments.quick else (300, 1000, 10_000)

    advi = vi.fit(model, steps, random_seed=0, progressbar=False)
    draws = {
        "NUTS": run_nuts(steps),
        "ADVI": np.asarray(advi.sample_dict(10_000, random_seed=1)["x"]),
    }
    for name, x in draws.items():
        print_row(name, x)
    for jitter in (1.0, 0.25):
        start, approx = run_svgd(n, n_particles, jitter)
        name = f"SVGD, jitter {jitter:g}"
        print_row(f"{name}, start", start)
        print_row(f"{name}, {n} steps", approx.histogram[:, 0])
        draws[name] = np.asarray(approx.sample_node("x", size=2000, random_seed=1))
    print(f"{approx}; a draw of x**2: {approx.sample_node(lambda site: site['x'] ** 2):.3f}")
    mean, square = WEIGHTS @ MEANS, WEIGHTS @ (SD**2 + MEANS**2)
    sd = (square - mean**2) ** 0.5
    print(f"{'exact':28} mean {mean:6.3f}, sd {sd:.3f}, {WEIGHTS[0]:.2f} in the smaller mode")
    draw(draws, arguments.output / "svgd_mixture.png")


if __name__ == "__main__":
    main()
