"""Minibatches: 40,000 x 100 numbers, a full fit that is stopped, and one in minibatches.

The model is not changed for minibatches: an argument is. A picture is saved as PNG; `--output` says
where.
"""

import argparse
import logging
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_vi_ext as vi

BATCH = 500


def model(data):
    columns = data.shape[1]
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), (columns,)))
    sd = numpyro.sample("sd", dist.HalfNormal(1).expand([columns]).to_event(1))
    numpyro.sample("likelihood", dist.Normal(mu, sd), obs=data)


def simulate(rows, columns=100):
    rng = np.random.default_rng(0)
    data = rng.random((rows, columns))
    data *= rng.integers(1, 10, columns)
    data += rng.random(columns) * 10
    return data


def stop_after_10(approx, losses, i):
    if i % 10 == 0:
        raise StopIteration("I was slow, sorry")


def timed(fit):
    began = time.perf_counter()
    approx = fit()
    seconds = time.perf_counter() - began
    print(f"{approx.steps:,d} steps in {seconds:.1f} s, compiling included: {approx}")
    return approx


def draw(approx, path):
    figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    vi.plot_loss(approx, ax=ax)
    ax.set_title(f"losses of a fit in minibatches of {BATCH}, on the scale of the full data")
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("minibatch_output"))
    parser.add_argument("--quick", action="store_true", help="few rows and steps, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("numpyro_vi_ext").setLevel(logging.INFO)
    rows, n = (2000, 1000) if arguments.quick else (40_000, 10_000)
    data = simulate(rows)

    print("full data")
    options = {"random_seed": 0, "progressbar": False}
    timed(lambda: vi.fit(model, n, model_args=(data,), callbacks=[stop_after_10], **options))

    X = vi.Minibatch(data, batch_size=BATCH)
    print(f"\nin minibatches: {X}")
    approx = timed(lambda: vi.fit(model, n, model_args=(X,), **options))
    error = (approx.sample_dict(2000, random_seed=0)["mu"].mean(0) - data.mean(0)) / (
        data.std(0) / np.sqrt(rows)
    )
    print(f"means of the columns: off by at most {np.abs(error).max():.2f} posterior sd")
    observed = approx.sample_node("likelihood")
    print(f"under the approximation an observed site is the full data again: {observed.shape}")
    draw(approx, arguments.output / "minibatch.png")

    wide = np.random.default_rng(1).normal(size=(10, 20, 30, 40, 50))
    print("\nbatches along several axes of an array of shape (10, 20, 30, 40, 50)")
    for batch_size in ([2, ..., 10], [2, None, 20], [2, None, 20, ..., 10]):
        print(f"{batch_size!s:28} {vi.Minibatch(wide, batch_size=batch_size).eval().shape}")


if __name__ == "__main__":
    main()
