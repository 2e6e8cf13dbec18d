"""Steps per second and memory with data in a file, against the same data in memory."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import interleaved, publish, table

import numpyro_vi_ext as vi

ROWS, COLUMNS, BATCH, STEPS = 10_000_000, 10, 4096, 5000
BLOCK = (BATCH, COLUMNS + 1)


def logistic(X: jax.Array, y: jax.Array) -> None:
    """Logistic regression."""
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([COLUMNS]).to_event(1))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Bernoulli(logits=X @ weights), obs=y)


def write(path: Path) -> None:
    """Rows of X and y."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(ROWS // 500_000):
            X = rng.normal(size=(500_000, COLUMNS))
            y = rng.uniform(size=len(X)) < 1 / (1 + np.exp(-X @ np.linspace(-1, 1, COLUMNS)))
            np.column_stack([X, y]).astype(np.float32).tofile(file)


def batches(path: Path, how: str) -> Any:
    """A function that makes an epoch of batches, in random order."""
    rng = np.random.default_rng(1)
    whole = np.memmap(path, np.float32, "r").reshape(ROWS, COLUMNS + 1)

    def epoch() -> Iterator[dict[str, np.ndarray]]:
        for i in rng.permutation(ROWS // BATCH):
            if how == "mapped once":
                rows = whole[i * BATCH : (i + 1) * BATCH]
            else:
                offset = int(i) * BATCH * (COLUMNS + 1) * 4
                rows = np.memmap(path, np.float32, "r", offset=offset, shape=BLOCK)
            yield {"X": rows[:, :-1], "y": rows[:, -1]}

    return epoch


def runner(X: Any, y: Any, steps: int = STEPS) -> Any:
    """Steps of a fit, each call going on where the last one stood."""
    inference = vi.ADVI(logistic, model_args=(X, y), random_seed=0)
    inference.fit(steps, progressbar=False)
    return lambda: inference.refine(steps, progressbar=False)


def parts(path: Path, how: str) -> Any:
    """The arguments of the model."""
    stream = vi.Stream(batches(path, how), total_size=ROWS)
    return stream["X"], stream["y"]


def rate(path: Path) -> str:
    """Steps per second."""
    data = np.fromfile(path, np.float32).reshape(ROWS, COLUMNS + 1)
    X, y = data[:, :-1], data[:, -1]
    candidates = {
        "Minibatch, in memory": runner(*vi.Minibatch(X, y, batch_size=BATCH)),
        "Stream, the file mapped once": runner(*parts(path, "mapped once")),
        "Stream, the file mapped for each batch": runner(*parts(path, "mapped anew")),
    }
    del data, X, y
    seconds = interleaved(7, candidates)
    reference = seconds["Minibatch, in memory"]
    rows = [[k, f"{STEPS / s:,.0f}", f"{reference / s:.2f}"] for k, s in seconds.items()]
    return table(["", "steps/s", "ratio to Minibatch"], rows)


def memory(path: Path) -> str:
    """Growth of resident memory, each in a process of its own."""
    rows = []
    for name in ("Minibatch of 5,000 rows, for comparison", "Stream of the file"):
        command = [sys.executable, __file__, str(path), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        growth = json.loads(done.stdout)
        rows.append([name, *(f"{x:,.0f} MB" for x in growth)])
    return table(["growth of resident memory", "first 5,000 steps", "next 20,000", "peak"], rows)


def resident(field: str = "VmRSS") -> float:
    """Resident memory in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) / 1000 for x in status if x.startswith(field))


def report_memory(path: Path, name: str) -> None:
    """What `memory` runs."""
    before = resident()
    if name.startswith("Stream"):
        args = parts(path, "mapped anew")
    else:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(5000, COLUMNS))
        args = vi.Minibatch(X, X[:, 0] > 0, batch_size=BATCH)
    go_on = runner(*args)
    after = resident()
    for _ in range(4):
        go_on()
    print(json.dumps([after - before, resident() - after, resident("VmHWM") - before]))


def streaming() -> None:
    """Publish both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.bin"
        write(path)
        publish(
            "streaming",
            f"Logistic regression on {ROWS:,} x {COLUMNS} numbers in batches of {BATCH:,}, "
            f"{STEPS:,} steps a run, after compiling.\n\n{rate(path)}\n\n{memory(path)}",
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        report_memory(Path(sys.argv[1]), sys.argv[2])
    else:
        streaming()
