"""Logistic regression on data that need not fit into memory: 10 million rows in a file.

The rows are read in batches of 4,096, on a thread that runs ahead of the steps. What is in memory
is a few batches at a time, whatever the number of rows: compare the resident memory that is printed
with the size of the file.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_vi_ext as vi

BATCH, COLUMNS = 4096, 10
WEIGHTS = np.linspace(-1.0, 1.0, COLUMNS)


def model(X, y=None):
    with numpyro.plate("column", X.shape[1]):
        weights = numpyro.sample("weights", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ weights), obs=y)


def write(path, rows):
    """Write X and, as the last column, y: row by row, in an order that means nothing."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for begin in range(0, rows, 100 * BATCH):
            X = rng.normal(size=(min(100 * BATCH, rows - begin), COLUMNS))
            y = rng.uniform(size=len(X)) < 1 / (1 + np.exp(-X @ WEIGHTS))
            np.column_stack([X, y]).astype(np.float32).tofile(file)


class Batches:
    """A function of nothing: each call is an epoch, with the batches in another order.

    The rows that do not fill a batch are left out: all batches of a stream have one shape.
    """

    def __init__(self, path, rows):
        self._path, self._count = path, rows // BATCH
        self._rng = np.random.default_rng(1)

    def __call__(self):
        shape = (BATCH, COLUMNS + 1)
        for i in self._rng.permutation(self._count):
            offset = int(i) * np.prod(shape) * 4
            # Opened anew each time: what is mapped and was read counts as resident memory.
            rows = np.memmap(self._path, np.float32, "r", offset=int(offset), shape=shape)
            yield {"X": rows[:, :-1], "y": rows[:, -1]}


def resident():
    """Resident memory of this process in MB, and the most it ever was; NaN outside of Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return np.nan, np.nan
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(fields[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))


def fit(path, rows, steps):
    stream = vi.Stream(Batches(path, rows), total_size=rows)
    print(stream)
    before, start = resident()[0], time.perf_counter()
    args = {"model_args": (stream["X"],), "model_kwargs": {"y": stream["y"]}}
    approx = vi.fit(model, steps, **args, random_seed=0, progressbar=sys.stderr.isatty())
    seconds = time.perf_counter() - start
    print(f"{steps:,d} steps in {seconds:.1f} s, compiling included: {approx.message}")
    now, peak = resident()
    print(f"file {os.path.getsize(path) / 1e6:,.0f} MB; resident memory before the fit")
    print(f"{before:,.0f} MB, after it {now:,.0f} MB, at most {peak:,.0f} MB")
    return approx


def report(approx):
    draws = approx.sample_dict(4000, random_seed=1)["weights"]
    print("weight    true     mean       sd")
    for i, true in enumerate(WEIGHTS):
        print(f"{i:6d} {true:7.3f} {draws[:, i].mean():8.4f} {draws[:, i].std():8.5f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out_of_core_output"))
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    data = arguments.output / f"rows_{arguments.rows}.bin"
    if not data.exists():
        write(data, arguments.rows)
    report(fit(data, arguments.rows, arguments.steps))
