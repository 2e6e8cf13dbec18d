"""What smoothed draws are worth: error of means and sds, in exact posterior sds, with and without.

The posteriors are known: independent gammas, and regressions with two coefficients on a grid.
"""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import publish, table
from scipy import special

import numpyro_vi_ext as vi

DRAWS, SEEDS = 2000, range(5)
GRID = np.linspace(-12, 12, 601)


def gammas(shape, ndim):
    def model():
        numpyro.sample("rate", dist.Gamma(shape, 1.0).expand([ndim]).to_event(1))

    mean, sd = special.digamma(shape), np.sqrt(special.polygamma(1, shape))
    return model, lambda draws: np.log(draws["rate"]), mean, sd


def regression(likelihood, y):
    """Two coefficients, normal priors of sd 2."""
    x = np.stack([np.ones(len(y)), np.linspace(-1.0, 1.0, len(y))], axis=1)

    def model():
        w = numpyro.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
        numpyro.sample("y", likelihood(x @ w), obs=y)

    points = np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1).reshape(-1, 2)
    log_p = np.asarray(likelihood(points @ x.T).log_prob(y), float).sum(1)
    log_p -= (points**2).sum(1) / 8
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = p @ points
    return model, lambda draws: draws["w"], mean, np.sqrt(p @ (points - mean) ** 2)


CASES = {
    "10 gammas of shape 10, in logs": gammas(10.0, 10),
    "5 gammas of shape 3, in logs": gammas(3.0, 5),
    "logistic regression, 8 data": regression(
        lambda eta: dist.Bernoulli(logits=eta), np.array([0, 0, 0, 1, 0, 1, 1, 1.0])
    ),
    "Poisson regression, 6 data": regression(
        lambda eta: dist.Poisson(np.e**eta), np.array([0, 1, 0, 2, 1, 3.0])
    ),
}


def errors(approx, value, mean, sd, importance):
    """Largest errors of mean and sd, of the averages over seeds."""
    draws = [
        np.asarray(value(approx.sample_dict(DRAWS, seed, importance=importance)), float)
        for seed in SEEDS
    ]
    means, sds = (np.mean([f(x, 0) for x in draws], 0) for f in (np.mean, np.std))
    return np.abs((means - mean) / sd).max(), np.abs(sds / sd - 1).max()


def row(name, method, model, *exact):
    approx = vi.fit(model, 10_000, method, random_seed=0, progressbar=False)
    khat = np.mean([approx.diagnose(20_000, random_seed=s).khat for s in SEEDS])
    (m, s), (m_smooth, s_smooth) = (errors(approx, *exact, i) for i in (False, True))
    sds = [f"{100 * s:.1f} %", f"{100 * s_smooth:.1f} %"]
    return [name, method, f"{khat:.2f}", f"{m:.3f}", f"{m_smooth:.3f}", *sds]


def main():
    warnings.simplefilter("ignore", UserWarning)  # a high k-hat is in the table
    methods = ("advi", "fullrank_advi")
    rows = [row(name, method, *case) for name, case in CASES.items() for method in methods]
    header = ["posterior", "method", "k-hat", "mean off, sds", "smoothed", "sd off", "smoothed"]
    publish("importance", table(header, rows))


if __name__ == "__main__":
    main()
