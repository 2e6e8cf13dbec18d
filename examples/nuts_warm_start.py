"""NUTS with a warm start from full-rank ADVI, against NUTS from scratch, in gradients.

The model is a logistic regression on scikit-learn's breast cancer data: 569 patients, 30 features,
some of them nearly the same (radius, perimeter, area). NUTS needs the covariance of the posterior
to take long steps; `vi.to_nuts` hands it that of q, and starting points around q, so that a short
warm-up is left to find the step size. Gradients of the log density are counted instead of seconds:
in the fit one a step, in NUTS one a leapfrog step.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, gelman_rubin
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_breast_cancer

import numpyro_vi_ext as vi

CHAINS = 4


def model(X, y=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    with numpyro.plate("feature", X.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0.0, 3.0))
    with numpyro.plate("patient", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ beta), obs=y)


class Run(NamedTuple):
    """What a run of NUTS cost, and what it gave."""

    warmup: int  # gradients
    sampling: int
    fit: int
    ess: float  # of the worst parameter
    rhat: float
    mean: np.ndarray
    sd: np.ndarray

    @property
    def total(self):
        return self.fit + self.warmup + self.sampling


def load_data():
    data = load_breast_cancer()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    return X, data.target.astype(float)


def run_nuts(kernel, num_warmup, draws, *data, init_params=None, fit=0):
    options = {"num_chains": CHAINS, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=draws, **options)
    counted, key = {"extra_fields": ("num_steps",)}, jax.random.key(1)
    mcmc.warmup(key, *data, init_params=init_params, collect_warmup=True, **counted)
    warmup = np.sum(mcmc.get_extra_fields()["num_steps"])
    mcmc.run(key, *data, **counted)
    sampling = np.sum(mcmc.get_extra_fields()["num_steps"])
    samples = mcmc.get_samples(group_by_chain=True)
    values = np.dstack([samples["intercept"], samples["beta"]]).astype(float)
    ess, rhat = effective_sample_size(values).min(), gelman_rubin(values).max()
    moments = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    return Run(int(warmup), int(sampling), fit, ess, rhat, *moments)


def run_all(data, n, rivals, num_warmup, draws):
    """Name -> Run: NUTS as NumPyro starts it, dense or not, and with a warm start."""
    approx = vi.fit(model, n, "fullrank_advi", model_args=data, random_seed=0, progressbar=False)
    print(f"{approx}\nELBO {approx.elbo(random_seed=0).elbo:.2f}\n")
    runs = {}
    for dense, long in rivals:
        name = f"{'dense ' if dense else ''}NUTS, warm-up {long}"
        runs[name] = run_nuts(NUTS(model, dense_mass=dense), long, draws, *data)
    kernel, init_params = vi.to_nuts(approx, num_chains=CHAINS, random_seed=1)
    found = run_nuts(kernel, num_warmup, draws, init_params=init_params, fit=n)
    return {**runs, f"to_nuts, warm-up {num_warmup}": found}


def print_table(runs):
    """Costs, efficiency, and how far the moments are from those of the first run, at most."""
    reference = next(iter(runs.values()))
    print(f"{'':25}{'thousands of gradients':^32}{'effective draws':^31}{'':8}{'difference':^14}")
    names = ("fit", "warm-up", "sampling", "all", "in all", "/1000 sampling", "/1000", "r-hat")
    widths = (6, 8, 9, 9, 8, 16, 7, 8)
    cells = [f"{name:>{width}}" for name, width in zip(names, widths, strict=True)]
    print(f"{'':25}" + "".join(cells) + f"{'mean':>8}{'sd':>6}")
    for name, run in runs.items():
        costs = f"{run.fit / 1e3:6.0f}{run.warmup / 1e3:8.1f}{run.sampling / 1e3:9.1f}"
        sampling, total = (1e3 * run.ess / n for n in (run.sampling, run.total))
        mean = np.abs((run.mean - reference.mean) / reference.sd).max()
        sd = np.abs(run.sd / reference.sd - 1).max()
        print(
            f"{name:25}{costs}{run.total / 1e3:9.1f}{run.ess:8.0f}{sampling:16.1f}{total:7.1f}"
            f"{run.rhat:8.3f}{mean:5.2f} sd{sd:6.0%}"
        )


def draw(runs, path):
    figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    left = np.zeros(len(runs))
    for part in ("fit", "warmup", "sampling"):
        width = np.array([getattr(run, part) / run.ess for run in runs.values()])
        ax.barh(list(runs), width, left=left, label=part.replace("warmup", "warm-up"))
        left += width
    ax.invert_yaxis()
    ax.set(xlabel="gradients for an effective draw of the worst parameter")
    ax.legend()
    figure.savefig(path, dpi=80)
    print(f"\nsaved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("nuts_warm_start_output"))
    parser.add_argument("--quick", action="store_true", help="few steps and draws, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rivals = [(True, 1000), (False, 1000), (True, 100), (False, 100)]
    n, num_warmup, draws = 10_000, 100, 1000
    if arguments.quick:
        rivals, n, num_warmup, draws = [(True, 100)], 2000, 50, 50

    runs = run_all(load_data(), n, rivals, num_warmup, draws)
    print_table(runs)
    draw(runs, arguments.output / "nuts_warm_start.png")


if __name__ == "__main__":
    main()
