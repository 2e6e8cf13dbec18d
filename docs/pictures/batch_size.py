"""Measure what docs/how-to-choose.md says of batch sizes: a regression on 40,000 x 10 numbers.

For each batch size: the noise of the gradient at the posterior mean, in units of the pull back
from one posterior standard deviation away, and the error of the fit after equal processor time.
Compiling and the warm-up are not counted. ``python docs/pictures/batch_size.py`` takes minutes.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_vi_ext as vi

ROWS, COLUMNS, NOISE = 40_000, 10, 2.0
SIZES = (10, 50, 100, 500, 2_000, 10_000, ROWS)
SECONDS = (0.5, 2.0, 8.0)
SEEDS = 3

rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
y = (X @ rng.normal(size=COLUMNS) + NOISE * rng.normal(size=ROWS)).astype(np.float32)
PRECISION = (X.T.astype(float) @ X) / NOISE**2 + np.eye(COLUMNS) / 100
MEAN = np.linalg.solve(PRECISION, X.T.astype(float) @ y / NOISE**2)
SD = np.sqrt(np.diag(np.linalg.inv(PRECISION)))


def model(X, y):
    """Regression with known noise, so that the posterior is known exactly."""
    w = numpyro.sample("w", dist.Normal(0, 10).expand([COLUMNS]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X @ w, NOISE), obs=y)


def data(size: int):
    """The arguments of the model: all rows, or batches of them."""
    return (X, y) if size == ROWS else vi.Minibatch(X, y, batch_size=size)


@jax.jit
def gradient(rows):
    """Of the log likelihood of some rows, scaled to all, at the posterior mean, times the sds."""
    X_b, y_b = jnp.asarray(X)[rows], jnp.asarray(y)[rows]
    residual = y_b - X_b @ jnp.asarray(MEAN, jnp.float32)
    return ROWS / len(rows) * (X_b.T @ residual) / NOISE**2 * jnp.asarray(SD, jnp.float32)


def noise(size: int) -> float:
    """Root mean square over 200 batches and all coordinates."""
    if size == ROWS:
        return 0.0
    found = [gradient(rng.integers(0, ROWS, size)) for _ in range(200)]
    return float(np.sqrt(np.mean(np.square(found))))


def fit(size: int, seed: int):
    """An inference object whose programs are compiled, after its warm-up and one step."""
    for n in (10, 1):
        advi = vi.ADVI(model, model_args=tuple(data(size)), random_seed=seed)
        advi.fit(n, progressbar=False)
    return advi


def errors(size: int, seed: int) -> tuple[float, list[float]]:
    """Steps a second, the error of the worst mean at each of SECONDS, and of the worst sd."""
    advi, spent, found, chunk = fit(size, seed), 0.0, [], 16
    for until in SECONDS:
        while spent < until:
            began = time.process_time()
            advi.refine(chunk, progressbar=False)
            took = time.process_time() - began
            spent += took
            chunk = max(1, int(chunk * min(2.0, 0.1 * until / took)))
        found.append(float(np.max(np.abs(advi.approx.mean - MEAN) / SD)))
    of_sd = float(np.max(np.abs(advi.approx.std / SD - 1)))
    return len(advi.hist) / spent, [*found, of_sd]


def measure() -> None:
    """Print one line of a table for each batch size."""
    print("batch", "noise", "steps/s", *SECONDS, "sd", sep=" | ")
    for size in SIZES:
        rates, found = zip(*(errors(size, seed) for seed in range(SEEDS)), strict=True)
        means = np.mean(found, axis=0)
        line = [f"{size:,d}", f"{noise(size):.1f}", f"{np.median(rates):,.0f}"]
        print(*line, *(f"{error:.2g}" for error in means), sep=" | ", flush=True)


def compare(steps: int = 20_000, size: int = 500) -> None:
    """Print what other options change after the same number of steps: worst mean, worst sd."""
    for sampling, draws in (("iid", 1), ("iid", 10), ("epoch", 1), ("epoch", 10)):
        found = []
        for seed in range(SEEDS):
            batch = vi.Minibatch(X, y, batch_size=size, sampling=sampling, random_seed=seed)
            options = {"obj_n_mc": draws, "random_seed": seed, "progressbar": False}
            approx = vi.fit(model, steps, model_args=tuple(batch), **options)
            off = np.abs(approx.mean - MEAN) / SD, np.abs(approx.std / SD - 1)
            found.append(np.max(off, axis=1))
        print(sampling, draws, *(f"{error:.2g}" for error in np.mean(found, axis=0)), sep=" | ")


if __name__ == "__main__":
    measure()
    compare()
