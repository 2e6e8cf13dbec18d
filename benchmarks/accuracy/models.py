"""Models with known answers, from which the defaults of a fit are tuned.

Each case is a plain NumPyro function and what makes its arguments. What is known of each posterior
is in ``references.json``, which ``references.py`` writes.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import data
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

Array = jax.Array


class Rescaled(NamedTuple):
    """A posterior that is another case's, each unconstrained coordinate times a factor."""

    of: str
    factors: np.ndarray


class Case:
    """A model, its data, and what may be expected of a Gaussian.

    Parameters
    ----------
    model : callable
    make : callable
        Makes the model's arguments.
    near_gaussian : bool
        Whether the posterior in unconstrained space is near enough to a Gaussian that a good fit
        has its means within 0.1 posterior standard deviations.
    exact : str
        How the moments are known: "gaussian", "linear" (a linear regression with flat or Gaussian
        priors and an unknown scale: one integral), or "" where they come from a long run of NUTS.
    rescaled : callable, optional
        Makes the `Rescaled` that says whose posterior it is.
    draw_from : str
        A case with the same posterior that NUTS can sample better, "" for itself.
    """

    def __init__(
        self,
        model: Callable[..., None],
        make: Callable[[], tuple[Any, ...]],
        near_gaussian: bool = True,
        exact: str = "",
        rescaled: Callable[[], Rescaled] | None = None,
        draw_from: str = "",
    ) -> None:
        self.model, self._make, self._rescaled = model, make, rescaled
        self.near_gaussian, self.exact, self.draw_from = near_gaussian, exact, draw_from
        self.name = ""  # its key in CASES

    @cached_property
    def args(self) -> tuple[Any, ...]:
        return self._make()

    @cached_property
    def rescaled(self) -> Rescaled | None:
        return None if self._rescaled is None else self._rescaled()


# -- linear regressions


def flat(name: str, *shape: int) -> Array:
    """A site with a flat prior."""
    return numpyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), shape))


def known_noise(X: Array, y: Array, sigma: float) -> None:
    mean = flat("alpha") + X @ flat("beta", X.shape[1])
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def linear(X: Array, y: Array) -> None:
    """Everything as it came, and a scale that does not know what the outcome is measured in."""
    mean = flat("alpha") + X @ flat("beta", X.shape[1])
    sigma = numpyro.sample("sigma", dist.HalfCauchy(5.0))
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def autoregression(lags: Array, y: Array) -> None:
    c = numpyro.sample("c", dist.Normal(0, 10))
    rho = numpyro.sample("rho", dist.Normal(0, 0.5).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(c + lags @ rho, sigma), obs=y)


# -- other regressions


def logistic(X: Array, y: Array, scale: Array) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0, 5))
    beta = numpyro.sample("beta", dist.Normal(0, scale).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=alpha + X @ beta), obs=y)


def softmax(X: Array, y: Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([4, 3]).to_event(2))
    alpha = numpyro.sample("alpha", dist.Normal(0, 5).expand([3]).to_event(1))
    numpyro.sample("y", dist.Categorical(logits=X @ beta + alpha), obs=y)


def log_rate(X: Array) -> Array:
    alpha = numpyro.sample("alpha", dist.Normal(0, 5))
    return alpha + X @ numpyro.sample("beta", dist.Normal(0, 2).expand([4]).to_event(1))


def poisson(X: Array, y: Array) -> None:
    numpyro.sample("y", dist.Poisson(jnp.exp(log_rate(X))), obs=y)


def negbin(X: Array, y: Array) -> None:
    mean = jnp.exp(log_rate(X))
    phi = numpyro.sample("phi", dist.Exponential(0.1))
    numpyro.sample("y", dist.NegativeBinomial2(mean, phi), obs=y)


def horseshoe(X: Array, y: Array) -> None:
    p = X.shape[1]
    tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
    lam = numpyro.sample("lam", dist.HalfCauchy(1.0).expand([p]).to_event(1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([p]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(X @ (z * lam * tau), sigma), obs=y)


# -- groups


def schools(y: Array, se: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(mu + tau * z, se), obs=y)


def centred_schools(y: Array, se: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, se), obs=y)


def radon(county: Array, floor: Array, y: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    beta = numpyro.sample("beta", dist.Normal(0, 10))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([80]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
    numpyro.sample("y", dist.Normal(mu + tau * z[county] + beta * floor, sigma), obs=y)


# -- curves and series


def kernel(x: Array) -> tuple[Array, Array]:
    """Covariance of a curve without noise, and the scale of the noise."""
    length = numpyro.sample("length", dist.LogNormal(0.0, 1.0))
    amplitude = numpyro.sample("amplitude", dist.HalfNormal(2.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    distance = (x[:, None] - x) / length
    return amplitude**2 * jnp.exp(-0.5 * distance**2), noise


def gp(x: Array, y: Array) -> None:
    K, noise = kernel(x)
    K = K + (noise**2 + 1e-6) * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), K), obs=y)


def latent_gp(x: Array, y: Array) -> None:
    K, noise = kernel(x)
    z = numpyro.sample("z", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    f = jnp.linalg.cholesky(K + 1e-4 * jnp.eye(len(x))) @ z  # enough for single precision
    numpyro.sample("y", dist.Normal(f, noise), obs=y)


def garch11(y: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    omega = numpyro.sample("omega", dist.HalfNormal(1.0))
    # alpha + beta and alpha's share of it: NumPyro's guides take supports as they are at the start
    persistence = numpyro.sample("persistence", dist.Uniform(0, 1))
    share = numpyro.sample("share", dist.Uniform(0, 1))
    alpha, beta = persistence * share, persistence * (1 - share)

    def step(variance: Array, before: Array) -> tuple[Array, Array]:
        variance = omega + alpha * (before - mu) ** 2 + beta * variance
        return variance, variance

    first = jnp.var(y)
    _, later = jax.lax.scan(step, first, y[:-1])
    sd = jnp.sqrt(jnp.concatenate([first[None], later]))
    numpyro.sample("y", dist.Normal(mu, sd), obs=y)


# -- normals


def normal_mean(y: Array, prior_sd: float) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, prior_sd))
    numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)


def multivariate(mean: Array, scale_tril: Array) -> None:
    numpyro.sample("z", dist.MultivariateNormal(mean, scale_tril=scale_tril))


# -- the cases


def stretched(make: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
    """A regression's arguments with its columns in other units, and its priors with them."""

    def made() -> tuple[Any, ...]:
        X, y, *scale = make()
        factors = data.stretch(X)
        return X * factors, y, *(s / factors for s in scale)

    return made


def unstretched(of: str, after: int) -> Callable[[], Rescaled]:
    """What stretching does to a posterior of an intercept, slopes, and `after` more sites."""

    def made() -> Rescaled:
        factors = 1 / data.stretch(CASES[of].args[0])
        return Rescaled(of, np.concatenate([[1.0], factors, np.ones(after)]))

    return made


def breast_cancer() -> tuple[Any, ...]:
    X, y = data.breast_cancer()
    return X, y, np.ones(X.shape[1])


CASES = {
    "conjugate": Case(normal_mean, data.conjugate, exact="gaussian"),
    "far_normal": Case(normal_mean, data.far_normal, exact="gaussian"),
    "far_intercept": Case(known_noise, data.far_intercept, exact="gaussian"),
    "corr_gauss200": Case(multivariate, data.correlated, exact="gaussian"),
    "diabetes": Case(linear, data.diabetes, exact="linear"),
    "california": Case(linear, data.california, exact="linear"),
    "wine": Case(linear, data.wine, exact="linear"),
    "ar2": Case(autoregression, data.ar2, exact="linear"),
    "breast_cancer": Case(logistic, breast_cancer),
    "poisson": Case(poisson, lambda: data.counts("poisson")),
    "negbin": Case(negbin, lambda: data.counts("negbin", concentration=3.0)),
    "softmax_iris": Case(softmax, data.iris),
    "eight_schools": Case(schools, data.eight_schools),
    "radon": Case(radon, data.radon),
    "gp": Case(gp, data.curve),
    "gp_latent": Case(latent_gp, data.curve, near_gaussian=False),
    "garch11": Case(garch11, lambda: (data.garch(),), near_gaussian=False),
    "horseshoe": Case(horseshoe, data.sparse, near_gaussian=False),
    "funnel": Case(
        centred_schools, data.eight_schools, near_gaussian=False, draw_from="eight_schools"
    ),
}
for _name, _after in (("diabetes", 1), ("california", 1), ("wine", 1), ("breast_cancer", 0)):
    _case = CASES[_name]
    CASES[f"{_name}_rescaled"] = Case(
        _case.model,
        stretched(_case._make),
        exact=_case.exact,
        rescaled=unstretched(_name, _after),
    )
for _name, _case in CASES.items():
    _case.name = _name
