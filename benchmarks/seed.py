"""The seed's workloads in this package, by hand, and in the other packages that can do them.

In all of them a step takes one draw, and the optimizer is Adam at a rate of 0.01, for particles
gradient descent. Peers of whichever kind may fail; the table then says so.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _bars
import _densities
import jax
import minibatch
import particles
from _measure import PAGE, Run, number, publish, rates, table
from _models import (
    hand_written,
    iris_data,
    mixture,
    softmax_regression,
    svi_loop,
    wide_normal,
    wide_normal_data,
)
from _peers import Attempt, Peer, numbers_file

import numpyro_vi_ext as vi

PICTURE = PAGE.parent / "images" / "benchmarks.png"
BY_HAND = "hand-written JAX"
COLUMNS = ("vi", BY_HAND, "NumPyro", "PyMC", "pymc-extras", "blackjax")
Loops = dict[str, tuple[Run, int]]
Found = dict[str, float | str]


def peer(script: str, *arguments: object) -> Attempt:
    return Attempt(lambda: Peer(script, *arguments))


def pymc_loops(name: str, path: Path, few: int) -> Loops:
    """ADVI in PyMC and in pymc-extras, whose loops are in Python."""
    packages = {"PyMC": "pymc", "pymc-extras": "pymc-extras"}
    return {k: (peer("_pymc_advi.py", p, name, path, few), few) for k, p in packages.items()}


def advi(name: str, density: Any, ndim: int, model: Any, steps: int, few: int, *data: Any) -> Loops:
    """Mean-field ADVI on all of the data; `few` steps a run in the slower loops."""
    key, arrays = jax.random.key(0), [jax.numpy.asarray(x) for x in data]
    loop, bound = hand_written(density, ndim), vi.Model(model, *arrays)
    options = {"obj_optimizer": vi.adam(0.01), "random_seed": 0, "progressbar": False}
    with numbers_file(*data) as path:
        peers = pymc_loops(name, path, few)
        blackjax = peer("_blackjax_loop.py", name, path, steps)
    return {
        "vi": (lambda: vi.fit(bound, steps, **options), steps),
        BY_HAND: (lambda: loop(key, steps, *arrays), steps),
        "NumPyro": (Attempt(lambda: svi_loop(model, steps, *arrays)), steps),
        **peers,
        "blackjax": (blackjax, steps),
    }


def on_mixture() -> Loops:
    return advi("mixture", _densities.mixture, 1, mixture, 200_000, 5000)


def full_batch() -> Loops:
    data = wide_normal_data()
    return advi("full", _densities.wide_normal, 200, wide_normal, 200, 20, data)


def in_batches() -> Loops:
    """Batches of 500."""
    data, steps, few = wide_normal_data(), minibatch.STEPS, minibatch.FEW
    batch = vi.Minibatch(data, batch_size=minibatch.BATCH)
    stored = jax.numpy.asarray(data)
    svi = Attempt(lambda: svi_loop(minibatch.subsampled, few, stored))
    with numbers_file(data) as path:
        peers = pymc_loops("minibatch", path, few)
    return {
        "vi": (partial(minibatch.fit, batch, vi.adam(0.01)), steps),
        BY_HAND: (minibatch.hand_written(stored), steps),
        "NumPyro": (svi, few),
        **peers,
    }


def svgd(n: int = 1000, steps: int = 300, few: int = 20) -> Loops:
    """Particles; by hand with the bandwidth given, the others look for the median."""
    with numbers_file() as path:
        blackjax = peer("_blackjax_loop.py", "svgd", path, few, n)
    return {
        "vi": (partial(particles.fit_mixture, n, steps), steps),
        BY_HAND: (particles.hand_written(n, steps), steps),
        "NumPyro": (Attempt(lambda: particles.einstein_svgd(n, few)), few),
        "PyMC": (peer("_pymc_svgd.py", "mixture", n, few), few),
        "blackjax": (blackjax, few),
    }


def on_iris() -> Loops:
    X, _, y, _ = iris_data()
    X = X.astype("float32")
    return advi("iris", _densities.softmax_regression, 15, softmax_regression, 100_000, 5000, X, y)


WORKLOADS: dict[str, Callable[[], Loops]] = {
    "mixture, ADVI": on_mixture,
    "40,000 x 100, all rows": full_batch,
    "40,000 x 100, batches of 500": in_batches,
    "mixture, SVGD, 1,000 particles": svgd,
    "Iris, ADVI": on_iris,
}


def cell(rate: float | str, reference: float) -> str:
    """Steps per second and the ratio, or what is the matter."""
    return rate if isinstance(rate, str) else f"{number(rate)} ({number(rate / reference)})"


def rows_of(found: dict[str, Found]) -> list[list[str]]:
    return [
        [name, *(cell(rate.get(column, "-"), rate[BY_HAND]) for column in COLUMNS)]
        for name, rate in found.items()
    ]


def peers(rounds: int = 5) -> None:
    """Measure all, workload by workload; the table and its picture."""
    found = {name: rates(rounds, make()) for name, make in WORKLOADS.items()}
    _bars.draw(PICTURE, found, [c for c in COLUMNS if c != BY_HAND], BY_HAND)
    publish(
        "peers",
        "Steps per second after compiling, and in brackets the ratio to the hand-written loop.\n\n"
        + table(["workload", *COLUMNS], rows_of(found))
        + "\n\n![Ratios to hand-written JAX, workload by workload](images/benchmarks.png)",
        peers=("pymc", "pymc-extras", "blackjax"),
    )


if __name__ == "__main__":
    peers()
