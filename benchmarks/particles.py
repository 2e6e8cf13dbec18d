"""SVGD: steps per second against other packages, cost against n and d, memory. Interleaved."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import PAGE, interleaved, publish, table
from _models import mixture, mixture_log_density
from _peers import Peer
from numpyro.contrib import einstein
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import numpyro_vi_ext as vi

Array = jax.Array
Run = Callable[[], object]
HERE = Path(__file__).parent
PICTURE = PAGE.parent / "images" / "particles.png"
RATE = 0.01


def peer(script: str, *arguments: object) -> Peer | str:
    """A peer that has compiled, or why there is none."""
    try:
        return Peer(HERE / script, *arguments)
    except (RuntimeError, OSError) as error:
        return f"not measured, {str(error).splitlines()[-1]}"


def rates(
    ours: str, steps: dict[str, int], candidates: dict[str, Run | str], rounds: int
) -> list[list[str]]:
    """Rows of steps per second, and how much faster `ours` is; peers that failed say why."""
    runs = {name: run for name, run in candidates.items() if not isinstance(run, str)}
    rate = {name: steps[name] / s for name, s in interleaved(rounds, runs).items()}
    rows = []
    for name, run in candidates.items():
        if isinstance(run, str):
            rows.append([f"{name}: {run}", "", ""])
        else:
            digits = ",.1f" if rate[name] < 100 else ",.0f"
            ratio = rate[ours] / rate[name]
            rows.append(
                [name, f"{rate[name]:{digits}}", f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"]
            )
    return rows


def hand_written(n: int, steps: int, h: float = 0.02) -> Run:
    """The update with the bandwidth given, for the mixture only, in a compiled loop."""
    score = jax.vmap(jax.grad(lambda x: mixture_log_density(x[None])))

    def step(i: int, x: Array) -> Array:
        difference = x[:, None] - x
        k = jnp.exp(-(difference**2) / (2 * h))
        return x + RATE * (k @ score(x) + jnp.sum(k * difference, axis=1) / h) / n

    loop = jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))
    x = 0.34 + jax.random.normal(jax.random.key(0), (n,))
    return lambda: jax.block_until_ready(loop(x))


def einstein_svgd(n: int, steps: int) -> Run:
    """NumPyro's own SVGD, in a compiled loop."""
    svgd = einstein.SVGD(
        mixture, numpyro.optim.SGD(RATE), einstein.RBFKernel(), num_stein_particles=n
    )
    state = svgd.init(jax.random.key(0))
    loop = jax.jit(lambda s: jax.lax.fori_loop(0, steps, lambda i, s: svgd.update(s)[0], s))
    return lambda: jax.block_until_ready(loop(state))


FIRST_FIT = """
import time, jax, numpyro_vi_ext as vi
from _models import mixture
jax.block_until_ready(jax.numpy.zeros(1) + 1)
began = time.perf_counter()
vi.fit(mixture, {steps}, "svgd", inf_kwargs={{"n_particles": {n}}}, random_seed=0,
       obj_optimizer=vi.sgd(learning_rate={rate}), progressbar=False)
print(time.perf_counter() - began)
"""


def fresh(code: str) -> str:
    """What a piece of Python prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    return done.stdout


def mixture_particles(n: int = 1000, steps: int = 300, few: int = 30) -> None:
    """The seed's SVGD fit."""

    def fit(**options: object) -> None:
        vi.fit(
            mixture,
            steps,
            "svgd",
            inf_kwargs={"n_particles": n, **options},
            obj_optimizer=vi.sgd(learning_rate=RATE),
            random_seed=0,
            progressbar=False,
        )

    ours = "fit, median heuristic"
    pymc, blackjax = (
        peer("_pymc_svgd.py", "mixture", n, few),
        peer("_blackjax_svgd.py", n, few),
    )
    candidates: dict[str, Run | str] = {
        ours: fit,
        "fit, vi.rbf(0.02)": partial(fit, kernel=vi.rbf(0.02)),
        "hand-written JAX, bandwidth given": hand_written(n, steps),
        "PyMC 6.3.2": pymc,
        "blackjax 1.7.1": blackjax,
        "NumPyro einstein SVGD, RBFKernel": einstein_svgd(n, few),
    }
    long = {ours, "fit, vi.rbf(0.02)", "hand-written JAX, bandwidth given"}
    rows = rates(ours, {c: steps if c in long else few for c in candidates}, candidates, 5)
    for found in (pymc, blackjax):
        if isinstance(found, Peer):
            found.close()
    code = FIRST_FIT.format(n=n, steps=steps, rate=RATE)
    first = float(np.median([float(fresh(code)) for _ in range(3)]))
    compiled = steps / float(rows[0][1].replace(",", ""))
    publish(
        "particles",
        f"{n:,} particles on the seed's mixture, sgd(0.01), after compiling: {steps} steps a run "
        f"for ours and the hand-written loop, from the start on; {few} for the peers.\n\n"
        + table(["loop", "steps/s", "fit is faster by"], rows)
        + f"\n\nOne fit of {steps} steps takes {compiled:.2f} s, the first one of a process "
        f"{first:.2f} s with tracing and compiling.",
    )


def softmax_regression(X: Array, y: Array | None = None) -> None:
    """The seed's model of the Iris data."""
    beta = numpyro.sample("beta", dist.Normal(0, 100).expand([4, 3]).to_event(2))
    flat = dist.ImproperUniform(dist.constraints.real, (), (3,))
    logits = X @ beta + numpyro.sample("intercept", flat)
    numpyro.deterministic("p", jax.nn.softmax(logits))
    numpyro.sample("y", dist.Categorical(logits=logits).to_event(1), obs=y)


def iris_particles(n: int = 500, steps: int = 400, few: int = 40) -> None:
    """The seed's fit of the Iris data, its tracker called at every step."""
    split = train_test_split(*load_iris(return_X_y=True), random_state=0)
    X, X_test, y, y_test = split

    def test_ok(site: dict[str, Array]) -> Array:
        return jnp.mean(jnp.argmax(site["p"], axis=-1) == y_test)

    def train_ok(site: dict[str, Array]) -> Array:
        return jnp.mean(jnp.argmax(site["p"], axis=-1) == y)

    replaced = {"X": X_test}
    tracker = vi.Tracker(
        test=lambda q: q.sample_node(test_ok, more_replacements=replaced, size=100),
        train=lambda q: q.sample_node(train_ok),
    )

    def fit(callbacks: list[object]) -> None:
        svgd = vi.SVGD(
            softmax_regression,
            n_particles=n,
            jitter=1,
            model_args=(X,),
            model_kwargs={"y": y},
            random_seed=0,
        )
        optimizer = vi.adamax(learning_rate=0.1)
        svgd.fit(steps, obj_optimizer=optimizer, callbacks=callbacks, progressbar=False)

    ours = "fit, with the tracker"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "iris.npz"
        np.savez(path, X=X, X_test=X_test, y=y, y_test=y_test)
        pymc = peer("_pymc_svgd.py", "iris", n, few, path)
        candidates: dict[str, Run | str] = {
            ours: lambda: fit([tracker]),
            "fit, without": lambda: fit([]),
            "PyMC 6.3.2, with the tracker": pymc,
        }
        counts = {name: few if name.startswith("PyMC") else steps for name in candidates}
        rows = rates(ours, counts, candidates, 5)
    if isinstance(pymc, Peer):
        pymc.close()
    accuracy = np.mean(tracker["test"][-1])
    publish(
        "iris particles",
        f"{n} particles on the Iris data, adamax(0.1), after compiling: {steps} steps a run for "
        f"ours, {few} for PyMC. The tracker evaluates the test accuracy at 100 draws and the train "
        f"accuracy at one, at every step; the former ends at {accuracy:.2f}.\n\n"
        + table(["loop", "steps/s", "fit is faster by"], rows),
    )


def normal(d: int) -> None:
    """A standard normal."""
    numpyro.sample("z", dist.Normal(0, 1).expand([d]).to_event(1))


def step_times(sizes: list[tuple[int, int]], rounds: int = 3) -> dict[tuple[int, int], float]:
    """Seconds a step takes, for pairs (n, d); the particles start twice too wide."""

    def run(n: int, d: int, steps: int) -> None:
        options = {"n_particles": n, "jitter": 2.0}
        optimizer = vi.sgd(learning_rate=RATE)
        vi.fit(
            vi.Model(normal, d),
            steps,
            "svgd",
            inf_kwargs=options,
            obj_optimizer=optimizer,
            random_seed=0,
            progressbar=False,
        )

    counts = {(n, d): max(10, 10**8 // (n * n)) for n, d in sizes}
    runs = {f"{n} {d}": partial(run, n, d, steps) for (n, d), steps in counts.items()}
    seconds = interleaved(rounds, runs)
    return {(n, d): seconds[f"{n} {d}"] / steps for (n, d), steps in counts.items()}


def particle_cost() -> None:
    """Time of a step against the number of particles and of dimensions."""
    numbers, dimensions = [250, 500, 1000, 2000, 4000, 8000], [1, 2, 5, 10, 20, 50, 100]
    by_n = [(n, 10) for n in numbers]
    by_d = [(2000, d) for d in dimensions]
    times = step_times(list(dict.fromkeys(by_n + by_d)))
    rows = [
        [f"{n:,}", str(d), f"{1000 * s:.3g} ms", f"{1e9 * s / (n * n * d):.2f} ns"]
        for (n, d), s in times.items()
    ]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, sizes, axis, power in zip(axes, (by_n, by_d), (0, 1), (2, 1), strict=True):
        x = np.array([size[axis] for size in sizes])
        y = 1000 * np.array([times[size] for size in sizes])
        ax.loglog(x, y, "o-", label="measured")
        law = "n²" if power == 2 else "d"
        ax.loglog(x, y[-1] * (x / x[-1]) ** power, "k:", label=f"proportional to {law}")
        ax.set_xticks(x, [f"{value:,}" for value in x])
        ax.minorticks_off()
        ax.set_ylabel("ms per step")
        ax.legend()
    axes[0].set(xlabel="particles n, in 10 dimensions")
    axes[1].set(xlabel="dimensions d, 2,000 particles")
    figure.savefig(PICTURE, dpi=80)
    plt.close(figure)
    publish(
        "particle cost",
        "A standard normal, median heuristic, after compiling.\n\n"
        + table(["particles n", "dimensions d", "a step", "divided by n² d"], rows)
        + f"\n\n![Time of a step against n and d](images/{PICTURE.name})",
    )


MEMORY = r"""
import json, re, time
from pathlib import Path
import numpy as np
import numpyro_vi_ext as vi
from numpyro_vi_ext import blocks
from particles import RATE, normal
blocks.BLOCK_NUMBERS = {numbers}

def peak():
    status = Path("/proc/self/status").read_text()  # Linux
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20

before = peak()
svgd = vi.SVGD(vi.Model(normal, {d}), {n}, jitter=2.0, random_seed=0)
options = dict(obj_optimizer=vi.sgd(learning_rate=RATE), progressbar=False)
svgd.fit(1, **options)
began = time.perf_counter()
approx = svgd.fit({steps}, **options)
seconds = (time.perf_counter() - began) / {steps}
np.save("{path}", approx.histogram)
print(json.dumps([before, peak(), seconds]))
"""


def particle_memory(n: int = 20_000, d: int = 10, small: int = 2000) -> None:
    """Peak memory in a fresh process; blocks of rows against all rows at once."""
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count, numbers, steps in (
            ("default", n, 2**22, 10),
            ("all rows at once", small, 2**40, 100),
            ("64 times smaller", small, 2**16, 100),
        ):
            path = Path(folder) / f"{len(rows)}.npy"
            code = MEMORY.format(n=count, d=d, numbers=numbers, steps=steps, path=path)
            before, peak, seconds = json.loads(fresh(code))
            cells = [f"{before:.2f} GiB", f"{peak:.2f} GiB", f"{seconds:.3g} s"]
            rows.append([name, f"{count:,}", *cells])
            found[name] = np.load(path)
    _, whole, blocked = found.values()
    difference = np.abs(whole - blocked).max()
    publish(
        "particle memory",
        f"Fresh processes, {d} dimensions, float32. Peak of the resident memory after importing "
        "everything, and in all.\n\n"
        + table(["blocks", "particles", "imports", "peak", "a step"], rows)
        + f"\n\nAfter 101 steps the {small:,} particles, computed at once or in small blocks, "
        f"differ by at most {difference:.1g}.",
    )


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for measure in (mixture_particles, iris_particles, particle_cost, particle_memory):
        if not chosen or measure.__name__ in chosen:
            measure()
