"""How long it takes to judge a fit, and a method by its calibration over the prior."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import publish, run_chosen, table
from _models import iris_data, softmax_regression, wide_normal, wide_normal_data

import numpyro_vi_ext as vi


def regression(X: jax.Array, y: jax.Array) -> None:
    """Four latents."""
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(X @ w, sd).to_event(1), obs=y)


def regression_data(rows: int = 50) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(rows, 3))
    return X, X.sum(1)


def first_and_later(run: Callable[[], object], later: int = 5) -> list[str]:
    """Seconds of the first call, compiling included, and the median of others."""
    seconds = []
    for _ in range(1 + later):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return [f"{seconds[0]:.2f} s", f"{np.median(seconds[1:]):.2f} s"]


def diagnose() -> None:
    """The verdict on fits of three models."""
    X, _, y, _ = iris_data()
    cases: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "regression, 50 x 3": (regression, regression_data()),
        "Iris, 15 latents": (softmax_regression, (X, y)),
        "40,000 x 100, 200 latents": (wide_normal, (jnp.asarray(wide_normal_data()),)),
    }
    rows = []
    for name, (model, args) in cases.items():
        fixed = {"random_seed": 0, "progressbar": False, "warmup": False}
        approx = vi.fit(model, 100, model_args=args, **fixed)
        rows.append([name, *first_and_later(approx.diagnose, 1)])
    publish("diagnose", table(["diagnose()", "first", "later"], rows))


def vsbc(simulations: int = 100) -> None:
    """The calibration of ADVI on a regression."""
    args = regression_data()

    def run() -> None:
        vi.vsbc(
            regression, model_args=args, simulations=simulations, random_seed=0, progressbar=False
        )

    rows = [[f"vsbc, {simulations} fits of 10,000 steps", *first_and_later(run, 3)]]
    publish("vsbc", table(["a regression with four latents", "first", "later"], rows))


if __name__ == "__main__":
    run_chosen(diagnose, vsbc)
