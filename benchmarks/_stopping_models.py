"""Small models whose fits end at very different steps; data of fixed seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_vi_ext as vi


class Case(NamedTuple):
    """A model with its arguments, and the options of the fit."""

    name: str
    model: Callable[..., Any]
    args: tuple[Any, ...]
    method: str = "advi"


def normal(y: Any) -> None:
    """A mean with a conjugate prior, eight prior standard deviations off."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)


def linear(X: Any, y: Any) -> None:
    """Linear regression with unknown noise."""
    b = numpyro.sample("b", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(5.0))
    numpyro.sample("y", dist.Normal(X @ b, s).to_event(1), obs=y)


def logistic(X: Any, y: Any) -> None:
    """Logistic regression."""
    b = numpyro.sample("b", dist.Normal(0, 3).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def poisson(X: Any, y: Any) -> None:
    """Poisson regression."""
    b = numpyro.sample("b", dist.Normal(0, 3).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Poisson(jnp.exp(X @ b)).to_event(1), obs=y)


def eight_schools(sigma: Any, y: Any) -> None:
    """Non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(mu + tau * z, sigma).to_event(1), obs=y)


def skewed(y: Any) -> None:
    """Shape and rate of a gamma, and a lognormal scale that hardly enters."""
    a = numpyro.sample("a", dist.Gamma(1.0, 0.1))
    b = numpyro.sample("b", dist.Gamma(1.0, 0.1))
    w = numpyro.sample("w", dist.LogNormal(0.0, 1.5))
    numpyro.sample("y", dist.Gamma(a, b).expand(y.shape).to_event(1), obs=y)
    numpyro.sample("n", dist.Poisson(w), obs=jnp.array(3))


def hierarchical(group: Any, y: Any) -> None:
    """Centred group means."""
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5))
    with numpyro.plate("groups", 20):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
    numpyro.sample("y", dist.Normal(theta[group], sigma).to_event(1), obs=y)


def autoregressive(y: Any) -> None:
    """AR(2) with a level."""
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
    c = numpyro.sample("c", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(2))
    mean = c + a[0] * y[1:-1] + a[1] * y[:-2]
    numpyro.sample("y", dist.Normal(mean, s).to_event(1), obs=y[2:])


def gaussian(precision: Any) -> None:
    """A correlated Gaussian whose mean is not at the start."""
    d = precision.shape[0]
    at = 3.0 * jnp.sin(jnp.arange(d))
    numpyro.sample("z", dist.MultivariateNormal(at, precision_matrix=precision))


def robust(X: Any, y: Any) -> None:
    """Student-t regression."""
    b = numpyro.sample("b", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(5))
    nu = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
    numpyro.sample("y", dist.StudentT(nu, X @ b, s).to_event(1), obs=y)


def wide(y: Any) -> None:
    """Means with flat priors and standard deviations, on scales of many units."""
    d = y.shape[1]
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), (d,)))
    sd = numpyro.sample("sd", dist.HalfNormal(5.0).expand([d]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sd).to_event(1), obs=y)


def _correlated(rows: int, columns: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rows, 1))
    X = 0.7 * common + 0.7 * rng.normal(size=(rows, columns))
    X[:, 0] = 1
    return X.astype(np.float32)


def _series() -> np.ndarray:
    rng, y = np.random.default_rng(8), np.zeros(200)
    for t in range(2, 200):
        y[t] = 1 + 0.5 * y[t - 1] + 0.3 * y[t - 2] + 0.5 * rng.normal()
    return y.astype(np.float32)


def _precision(d: int) -> np.ndarray:
    rng = np.random.default_rng(9)
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return ((Q * np.geomspace(0.3, 30, d)) @ Q.T).astype(np.float32)


def cases() -> list[Case]:
    """The models in the order of the table."""
    rng = np.random.default_rng(1)
    X, W, P = _correlated(100, 6, 2), _correlated(200, 8, 3), _correlated(150, 4, 4)
    b = np.array([2.0, -1.0, 0.5, 1.0, 0.0, 3.0])
    y = X @ b + rng.normal(size=100)
    coin = rng.random(200) < 1 / (1 + np.exp(-(W @ np.linspace(-1, 1, 8))))
    count = rng.poisson(np.exp(P @ np.array([1.0, 0.3, -0.3, 0.5])))
    group = np.repeat(np.arange(20), 10)
    grouped = rng.normal(3, 2, 20)[group] + rng.normal(size=200)
    sigma = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    effect = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    columns = rng.normal(size=(500, 20)) * np.geomspace(0.5, 5, 20) + np.linspace(-30, 30, 20)
    as32 = lambda *arrays: tuple(jnp.asarray(a, jnp.float32) for a in arrays)  # noqa: E731
    X_mb, y_mb = vi.Minibatch(np.tile(W, (10, 1)), np.tile(coin * 1.0, 10), batch_size=50)
    groups = jnp.asarray(group)
    return [
        Case("conjugate normal", normal, as32(80 + rng.normal(size=20))),
        Case("linear, correlated", linear, as32(X, y)),
        Case("linear, full rank", linear, as32(X, y), "fullrank_advi"),
        Case("logistic", logistic, as32(W, coin)),
        Case("logistic, minibatch", logistic, (X_mb, y_mb)),
        Case("Poisson", poisson, as32(P, count)),
        Case("eight schools", eight_schools, as32(sigma, effect)),
        Case("skewed", skewed, as32(rng.gamma(3.0, 0.5, 40))),
        Case("hierarchical", hierarchical, (groups, *as32(grouped))),
        Case("AR(2)", autoregressive, as32(_series())),
        Case("Gaussian, d = 50", gaussian, as32(_precision(50))),
        Case("Gaussian, full rank", gaussian, as32(_precision(20)), "fullrank_advi"),
        Case("Student-t", robust, as32(X, y + rng.standard_t(2, 100))),
        Case("wide", wide, as32(columns)),
    ]
