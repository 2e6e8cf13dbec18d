"""SVGD: steps per second against other packages, interleaved."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from _densities import mixture as mixture_log_density
from _measure import Run, fresh, publish, rate_rows, rates, run_chosen, table
from _models import iris_data, mixture, softmax_regression
from _peers import Attempt, Peer, numbers_file
from numpyro.contrib import einstein

import numpyro_vi_ext as vi

Array = jax.Array
RATE = 0.01


def hand_written(n: int, steps: int, h: float = 0.02) -> Run:
    """The update with the bandwidth given, for the mixture only, in a compiled loop."""
    score = jax.vmap(jax.grad(lambda x: mixture_log_density(x[None])))

    def step(i: int, x: Array) -> Array:
        difference = x[:, None] - x
        k = jnp.exp(-(difference**2) / (2 * h))
        return x + RATE * (k @ score(x) + jnp.sum(k * difference, axis=1) / h) / n

    loop = jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))
    x = 0.34 + jax.random.normal(jax.random.key(0), (n,))
    return lambda: loop(x)


def einstein_svgd(n: int, steps: int) -> Run:
    """NumPyro's own SVGD, in a compiled loop."""
    svgd = einstein.SVGD(
        mixture, numpyro.optim.SGD(RATE), einstein.RBFKernel(), num_stein_particles=n
    )
    state = svgd.init(jax.random.key(0))
    loop = jax.jit(lambda s: jax.lax.fori_loop(0, steps, lambda i, s: svgd.update(s)[0], s))
    return lambda: loop(state)


FIRST_FIT = """
import time, jax
from particles import fit_mixture
jax.block_until_ready(jax.numpy.zeros(1) + 1)
began = time.perf_counter()
fit_mixture({n}, {steps})
print(time.perf_counter() - began)
"""


def fit_mixture(n: int, steps: int, score: bool = False, **options: object) -> None:
    """The seed's SVGD fit."""
    vi.fit(
        mixture,
        steps,
        "svgd",
        inf_kwargs={"n_particles": n, **options},
        obj_optimizer=vi.sgd(learning_rate=RATE),
        score=score,
        random_seed=0,
        progressbar=False,
    )


def by_sorting(x: Array) -> Array:
    """The bandwidth of the median heuristic, its median found by sorting all pairs."""
    squares = jnp.sum((x[:, None] - x) ** 2, axis=-1)
    return jnp.median(squares) / (2 * jnp.log(len(x) + 1))


def mixture_particles(n: int = 1000, steps: int = 300, few: int = 30) -> None:
    """The seed's SVGD fit, ours and others'."""
    fit, ours = partial(fit_mixture, n, steps), "fit, median heuristic"
    sorting = vi.rbf(by_sorting)
    with numbers_file() as path:
        loops: dict[str, tuple[Run, int]] = {
            ours: (fit, steps),
            "fit, vi.rbf(0.02)": (partial(fit, kernel=vi.rbf(0.02)), steps),
            "fit, median heuristic, score=True": (partial(fit, score=True), steps),
            "fit, the median by sorting": (partial(fit_mixture, n, few, kernel=sorting), few),
            "hand-written JAX, bandwidth given": (hand_written(n, steps), steps),
            "PyMC": (Attempt(lambda: Peer("_pymc_svgd.py", "mixture", n, few)), few),
            "blackjax": (Attempt(lambda: Peer("_blackjax_loop.py", "svgd", path, few, n)), few),
            "NumPyro einstein SVGD, RBFKernel": (Attempt(lambda: einstein_svgd(n, few)), few),
        }
    found = rates(5, loops)
    code = FIRST_FIT.format(n=n, steps=steps)
    first = float(np.median([float(fresh(code)) for _ in range(3)]))
    publish(
        "particles",
        f"{n:,} particles on the seed's mixture, sgd(0.01), after compiling: {steps} steps a run "
        f"for ours and the hand-written loop, from the start on; {few} for the peers.\n\n"
        + table(["loop", "steps/s", "fit is faster by"], rate_rows(found, ours, inverse=True))
        + f"\n\nOne fit of {steps} steps takes {steps / found[ours]:.2f} s, the first one of a "
        f"process {first:.2f} s with tracing and compiling.",
        peers=("pymc", "blackjax"),
    )


def accuracies(split: list[np.ndarray]) -> vi.Tracker:
    """The accuracy on test data at 100 draws, on train data at one."""
    _, X_test, y, y_test = split

    def test_ok(site: dict[str, Array]) -> Array:
        return jnp.mean(jnp.argmax(site["p"], axis=-1) == y_test)

    def train_ok(site: dict[str, Array]) -> Array:
        return jnp.mean(jnp.argmax(site["p"], axis=-1) == y)

    replaced = {"X": X_test}
    return vi.Tracker(
        test=lambda q: q.sample_node(test_ok, more_replacements=replaced, size=100),
        train=lambda q: q.sample_node(train_ok),
    )


def iris_particles(n: int = 500, steps: int = 400, few: int = 40) -> None:
    """The seed's fit of the Iris data, its tracker called at every step."""
    X, X_test, y, y_test = split = iris_data()
    tracker, ours = accuracies(split), "fit, with the tracker"

    def fit(callbacks: list[object]) -> None:
        data = {"model_args": (X,), "model_kwargs": {"y": y}}
        svgd = vi.SVGD(softmax_regression, n_particles=n, jitter=1, random_seed=0, **data)
        optimizer = vi.adamax(learning_rate=0.1)
        svgd.fit(steps, obj_optimizer=optimizer, callbacks=callbacks, progressbar=False)

    with numbers_file(X=X, X_test=X_test, y=y, y_test=y_test) as path:
        pymc = Attempt(lambda: Peer("_pymc_svgd.py", "iris", n, few, path))
    loops: dict[str, tuple[Run, int]] = {
        ours: (lambda: fit([tracker]), steps),
        "fit, without": (lambda: fit([]), steps),
        "PyMC, with the tracker": (pymc, few),
    }
    found = rates(5, loops)
    accuracy = np.mean(tracker["test"][-1])
    publish(
        "iris particles",
        f"{n} particles on the Iris data, adamax(0.1), after compiling: {steps} steps a run for "
        f"ours, {few} for PyMC. The tracker evaluates the test accuracy at 100 draws and the train "
        f"accuracy at one, at every step; the former ends at {accuracy:.2f}.\n\n"
        + table(["loop", "steps/s", "fit is faster by"], rate_rows(found, ours, inverse=True)),
        peers=("pymc",),
    )


if __name__ == "__main__":
    run_chosen(mixture_particles, iris_particles)
