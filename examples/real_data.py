"""Linear regression on real data: mean-field and full-rank ADVI against NUTS.

The data are scikit-learn's diabetes data: ten measurements of 442 patients, and how far the
disease progressed in a year. Some of the measurements (s1 to s5) are strongly correlated. A
mean-field approximation cannot express that: its standard deviations come out far too small there,
and its means approach theirs slowly. Full-rank ADVI agrees with NUTS.
"""

import argparse
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_diabetes

import numpyro_vi_ext as vi


def model(X, y=None):
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("feature", X.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("patient", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def load_data():
    data = load_diabetes()
    X = data.data / data.data.std(axis=0)
    y = (data.target - data.target.mean()) / data.target.std()
    return X, y, data.feature_names


def fit_advi(method, X, y, n, draws):
    approx = vi.fit(model, n, method, model_args=(X,), model_kwargs={"y": y}, random_seed=0)
    elbo, error = approx.elbo(random_seed=1)
    print(f"{approx}\nELBO {elbo:.2f} (standard error {error:.2f})")
    return approx.sample_dict(draws, random_seed=2)


def run_nuts(X, y, draws):
    mcmc = MCMC(NUTS(model), num_warmup=500, num_samples=draws, progress_bar=False)
    mcmc.run(jax.random.key(3), X, y=y)
    return mcmc.get_samples()


def timed(name, function, *arguments):
    start = time.perf_counter()
    samples = jax.block_until_ready(function(*arguments))
    print(f"{name}: {time.perf_counter() - start:.1f} s, compiling included")
    return samples


def summarise(samples):
    """Mean and standard deviation of each coefficient, sigma last: two arrays."""
    values = np.column_stack([samples["beta"], samples["sigma"]])
    return values.mean(axis=0), values.std(axis=0)


def print_table(names, summaries):
    print("\n" + " " * 6 + "".join(f"{method:>20}" for method in summaries))
    print(" " * 6 + f"{'mean':>12}{'sd':>8}" * len(summaries))
    for i, name in enumerate(names):
        cells = [f"{mean[i]:12.3f}{sd[i]:8.3f}" for mean, sd in summaries.values()]
        print(f"{name:6}" + "".join(cells))


def draw(names, summaries, path):
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    places = np.arange(len(names))
    for i, (method, (mean, sd)) in enumerate(summaries.items()):
        ax.errorbar(places + 0.2 * (i - 1), mean, 2 * sd, fmt="o", markersize=3, label=method)
    ax.axhline(0.0, color="0.8", zorder=0)
    ax.set(ylabel="coefficient, mean and 2 sd", xticks=places, xticklabels=names)
    ax.legend()
    figure.savefig(path, dpi=80)
    print(f"\nsaved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"))
    parser.add_argument("--quick", action="store_true", help="few steps and draws, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    n, draws = (1000, 200) if arguments.quick else (20_000, 4000)

    X, y, features = load_data()
    summaries = {
        "NUTS": summarise(timed("NUTS", run_nuts, X, y, draws)),
        "full-rank ADVI": summarise(
            timed("full-rank ADVI", fit_advi, "fullrank_advi", X, y, n, draws)
        ),
        "mean-field ADVI": summarise(timed("mean-field ADVI", fit_advi, "advi", X, y, n, draws)),
    }
    names = [*features, "sigma"]
    print_table(names, summaries)
    draw(names, summaries, arguments.output / "real_data.png")


if __name__ == "__main__":
    main()
