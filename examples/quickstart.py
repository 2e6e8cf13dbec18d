"""A first tour: fit a model, look at the result, judge convergence, watch a fit, compare with NUTS.

The model is a mixture of two Gaussians, so that the posterior is known and a single Gaussian
cannot match it. The pictures are saved as PNG; `--output` says where.
"""

import argparse
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import numpyro_vi_ext as vi

WEIGHTS = np.array([0.2, 0.8])
MEANS = np.array([-0.3, 0.5])
SDS = np.array([0.1, 0.1])


def model():
    components = dist.Normal(MEANS, SDS)
    x = numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), components))
    numpyro.deterministic("x2", x**2)
    numpyro.deterministic("sin_x", jnp.sin(x))


def fit_and_sample(n, output):
    print("\n1. Mean-field ADVI, all defaults")
    approx = vi.fit(model, n, random_seed=1)
    print(approx)
    idata = approx.sample(1000, random_seed=2)
    print(az.summary(idata, kind="stats"))
    # ArviZ 1 has given plot_posterior the name plot_dist.
    plot = az.plot_posterior if az.__version__.startswith("0.") else az.plot_dist
    plot(idata)
    save(plt.gcf(), output / "posterior.png")


def check_convergence(n, output):
    print("\n2. Stopping when the parameters hardly move")
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for diff, ax in zip(("relative", "absolute"), axes, strict=True):
        check = vi.CheckParametersConvergence(diff=diff)
        approx = vi.fit(model, n, random_seed=1, callbacks=[check])
        print(f"{diff}: {approx.message}, mean {approx.mean}, std {approx.std}")
        vi.plot_loss(approx, ax=ax)  # approx.hist is the array of losses
        ax.set_title(f"{diff}: {approx.status} after {approx.steps} steps")
    save(figure, output / "convergence.png")


def track(n, output):
    print("\n3. The object: watching parameters, continuing a fit")
    advi = vi.ADVI(model, random_seed=3)
    print(advi.approx)
    print(f"params {advi.approx.params}, mean {advi.approx.mean}, std {advi.approx.std}")
    tracker = vi.Tracker(
        mean=lambda: advi.approx.mean,  # functions of nothing, of (approx),
        std=lambda approx: approx.std,  # or of (approx, losses, i)
    )
    advi.fit(2 * n, callbacks=[tracker])
    draw_track(advi, tracker, output / "track.png")
    approx = advi.refine(10 * n)  # goes on where fit stopped, with the same callbacks
    print(f"after refine: mean {approx.mean}, std {approx.std}, {len(advi.hist):,d} losses")
    draw_track(advi, tracker, output / "track_refined.png")
    return approx


def draw_track(advi, tracker, path):
    figure, axes = plt.subplot_mosaic(
        [["mean", "std"], ["loss", "loss"]], figsize=(10, 6), layout="constrained"
    )
    vi.plot_tracker(tracker, axes=[axes["mean"], axes["std"]])
    vi.plot_loss(advi, ax=axes["loss"])
    save(figure, path)


def compare_with_nuts(approx, draws, output):
    print("\n4. Against NUTS")
    options = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(model), num_warmup=1000, num_samples=draws // 4, **options)
    mcmc.run(jax.random.key(2))
    samples = {
        "NUTS": np.asarray(mcmc.get_samples()["x"]),
        "ADVI": np.asarray(approx.sample_dict(draws, random_seed=4)["x"]),
    }
    grid = np.linspace(-0.8, 1.0, 300)
    density = WEIGHTS @ np.exp(dist.Normal(MEANS, SDS).log_prob(grid[:, None])).T
    figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    ax.plot(grid, density, "k:", label="exact")
    for name, x in samples.items():
        ax.hist(x, bins=grid[::3], density=True, histtype="step", label=name)
        print(f"{name:5}: mean {x.mean():.3f}, sd {x.std():.3f}, {np.mean(x > 0.1):.0%} above 0.1")
    mean, square = WEIGHTS @ MEANS, WEIGHTS @ (SDS**2 + MEANS**2)
    print(f"exact: mean {mean:.3f}, sd {(square - mean**2) ** 0.5:.3f}, {WEIGHTS[1]:.0%} above 0.1")
    ax.set(xlabel="x", ylabel="density")
    ax.legend()
    save(figure, output / "comparison.png")


def save(figure, path):
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"))
    parser.add_argument("--quick", action="store_true", help="few steps and draws, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    n, draws = (1000, 1000) if arguments.quick else (10_000, 50_000)

    fit_and_sample(n, arguments.output)
    check_convergence(n, arguments.output)
    approx = track(n, arguments.output)
    compare_with_nuts(approx, draws, arguments.output)


if __name__ == "__main__":
    main()
