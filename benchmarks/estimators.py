"""Noise of the gradient by estimator, at the start of a fit, half-way and at the optimum.

In coordinates in which the optimum of the family is standard normal, so that figures of different
models can be compared: a variance is the trace of the covariance of one draw's gradient there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from _measure import publish, table
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam

import numpyro_vi_ext as vi
from numpyro_vi_ext.algorithm import in_frame
from numpyro_vi_ext.curvature import curvature, whiten
from numpyro_vi_ext.estimators import controlled

STEPS, DRAWS, MIDDLE = 20_000, 20_000, 64
ESTIMATORS = {
    "sticking the landing": vi.StickingTheLanding(),
    "closed-form entropy": vi.ClosedFormEntropy(),
    "score included": vi.ScoreIncluded(),
}
PLACES = {"start": 0.0, "half-way": 0.5, "optimum": 1.0}


class Case(NamedTuple):
    """A model and the method that fits it."""

    name: str
    method: str
    model: Callable[..., Any]
    args: tuple[Any, ...]


def correlated(precision: jax.Array) -> None:
    """A Gaussian of mean 3."""
    mean = jnp.full(len(precision), 3.0)
    numpyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))


def logistic(X: jax.Array, y: jax.Array) -> None:
    """Logistic regression, priors of sd 2."""
    w = numpyro.sample("w", dist.Normal(0, 2).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ w).to_event(1), obs=y)


def schools(sigma: jax.Array, y: jax.Array) -> None:
    """Eight schools."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def cases() -> list[Case]:
    """Two Gaussian posteriors and two that are not."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(10, 20))
    precision = jnp.array(factor @ factor.T, jnp.float32)
    X = rng.normal(size=(100, 10))
    y = rng.random(100) < 1 / (1 + np.exp(-X @ rng.normal(size=10)))
    effects = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    non_centred = handlers.reparam(schools, config={"theta": LocScaleReparam(0)})
    return [
        Case("Gaussian in 10 dimensions, correlated", "advi", correlated, (precision,)),
        Case("the same", "fullrank_advi", correlated, (precision,)),
        Case("logistic regression, 100 x 10", "advi", logistic, (X, y.astype(float))),
        Case("eight schools, non-centred", "advi", non_centred, effects[::-1]),
    ]


def vector(q: Any) -> jax.Array:
    """The parameters of q as one vector; above the diagonal of a factor there are none."""
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(q)])


def variances(case: Case) -> list[list[str]]:
    """A row for each place."""
    options = {"model_args": case.args, "random_seed": 0, "progressbar": False}
    start = vi.fit(case.model, 0, case.method, **options).point
    frame = vi.fit(case.model, STEPS, case.method, **options).point.q
    target = vi.Model(case.model, *case.args).target
    key = jax.random.key(0)

    def density(z: jax.Array, theta: jax.Array) -> Any:
        return target.program.densities(target.inputs, key, z, theta)

    def log_p(u: jax.Array) -> jax.Array:
        return sum(in_frame(density, frame)(u, start.theta))

    unit = type(frame).create(np.zeros(frame.ndim, np.float32), np.ones(frame.ndim))
    noise = jax.random.normal(key, (2 * MIDDLE, frame.ndim))
    hessians = jax.lax.map(lambda u: curvature(lambda x: -log_p(x), u, key, True), noise)
    matrix = whiten(hessians.mean(0)).precision
    # The start in the frame: mean and sds of the plain start, as they look from there.
    loc = frame.transform(jnp.zeros(frame.ndim))
    axes = np.asarray(jax.vmap(frame.transform)(jnp.eye(frame.ndim)) - loc).T
    mean = np.linalg.solve(axes, np.asarray(start.q.mean() - loc))
    sigma = np.sqrt(np.diag(np.linalg.solve(axes, np.linalg.solve(axes, start.q.cov()).T)))
    rows = []
    for place, done in PLACES.items():
        at = sigma ** (1 - done)  # half-way in the logarithm
        q = unit if done == 1 else type(unit).create(np.float32((1 - done) * mean), at)
        estimates = [x.gradient for x in ESTIMATORS.values()]
        estimates.append(partial(controlled, curvature=matrix))
        found = [digits(variance(estimate, q, log_p)) for estimate in estimates]
        rows.append([f"{case.name}, {case.method}" if place == "start" else "", place, *found])
    return rows


def digits(x: float) -> str:
    """Three of them."""
    return f"{float(f'{x:.3g}'):,g}"


def variance(estimate: Callable[..., Any], q: Any, log_p: Callable[..., Any]) -> float:
    """Trace of the covariance of the mean over an antithetic pair, times two."""

    @jax.jit
    def one(eps: jax.Array) -> jax.Array:
        pair = jnp.stack([eps, -eps])
        slope = jax.vmap(lambda e: jax.grad(log_p)(q.transform(e)))(pair)
        return vector(estimate(q, pair, slope, beta=1.0))

    eps = jax.random.normal(jax.random.key(1), (DRAWS // 2, q.ndim))
    total = float(2 * jnp.sum(jnp.var(jax.lax.map(one, eps, batch_size=1000), axis=0)))
    return total if total > 1e-6 else 0.0  # what rounding makes


def main() -> None:
    """Measure all, and write the table."""
    rows = [row for case in cases() for row in variances(case)]
    header = ["model, method", "where", *ESTIMATORS, "controlled"]
    text = (
        "Variance of a draw's gradient, over antithetic pairs, in coordinates in which the optimum "
        f"is standard normal; {DRAWS:,} draws.\n\n"
    )
    publish("estimators", text + table(header, rows))


if __name__ == "__main__":
    main()
