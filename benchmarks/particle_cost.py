"""SVGD: what a step costs against n and d, and what memory it takes."""

import json
import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import PAGE, fresh, interleaved, publish, run_chosen, table

import numpyro_vi_ext as vi

PICTURE = PAGE.parent / "images" / "particles.png"
RATE = 0.01
Times = dict[tuple[int, int], float]  # seconds a step, by n and d


def normal(d: int) -> None:
    """A standard normal."""
    numpyro.sample("z", dist.Normal(0, 1).expand([d]).to_event(1))


def step_times(sizes: list[tuple[int, int]], rounds: int = 3) -> Times:
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


def draw(by_n: list[tuple[int, int]], by_d: list[tuple[int, int]], times: Times) -> None:
    """Two panels of measured times, with the law beside them."""
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
    draw(by_n, by_d, times)
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
from particle_cost import RATE, normal
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
    run_chosen(particle_cost, particle_memory)
