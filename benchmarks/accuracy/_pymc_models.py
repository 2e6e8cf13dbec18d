"""In the peers' environment: the models in PyMC, under the names of the NumPyro functions.

Sites have the same names, and supports whose unconstrained spaces are the same: the logarithm where
a value is positive.
"""

import numpy as np
import pymc as pm
import pytensor.tensor as pt


def known_noise(X, y, sigma):
    mean = pm.Flat("alpha") + X @ pm.Flat("beta", shape=X.shape[1])
    pm.Normal("y", mean, float(sigma), observed=y)


def linear(X, y):
    mean = pm.Flat("alpha") + X @ pm.Flat("beta", shape=X.shape[1])
    pm.Normal("y", mean, pm.HalfCauchy("sigma", 5.0), observed=y)


def autoregression(lags, y):
    mean = pm.Normal("c", 0, 10) + lags @ pm.Normal("rho", 0, 0.5, shape=2)
    pm.Normal("y", mean, pm.HalfNormal("sigma", 2.0), observed=y)


def logistic(X, y, scale):
    beta = pm.Normal("beta", 0, scale, shape=X.shape[1])
    pm.Bernoulli("y", logit_p=pm.Normal("alpha", 0, 5) + X @ beta, observed=y.astype(int))


def softmax(X, y):
    logits = X @ pm.Normal("beta", 0, 2, shape=(4, 3)) + pm.Normal("alpha", 0, 5, shape=3)
    pm.Categorical("y", logit_p=logits, observed=y)


def log_rate(X):
    return pm.Normal("alpha", 0, 5) + X @ pm.Normal("beta", 0, 2, shape=4)


def poisson(X, y):
    pm.Poisson("y", pt.exp(log_rate(X)), observed=y.astype(int))


def negbin(X, y):
    mean, phi = pt.exp(log_rate(X)), pm.Exponential("phi", 0.1)
    pm.NegativeBinomial("y", mu=mean, alpha=phi, observed=y.astype(int))


def horseshoe(X, y):
    p = X.shape[1]
    tau, lam = pm.HalfCauchy("tau", 0.1), pm.HalfCauchy("lam", 1.0, shape=p)
    beta = pm.Normal("z", 0, 1, shape=p) * lam * tau
    pm.Normal("y", X @ beta, pm.HalfNormal("sigma", 2.0), observed=y)


def schools(y, se):
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5.0)
    pm.Normal("y", mu + tau * pm.Normal("z", 0, 1, shape=8), se, observed=y)


def centred_schools(y, se):
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5.0)
    pm.Normal("y", pm.Normal("theta", mu, tau, shape=8), se, observed=y)


def radon(county, floor, y):
    mu, tau = pm.Normal("mu", 0, 10), pm.HalfNormal("tau", 1.0)
    beta, z = pm.Normal("beta", 0, 10), pm.Normal("z", 0, 1, shape=80)
    mean = mu + tau * z[county] + beta * floor
    pm.Normal("y", mean, pm.HalfNormal("sigma", 5.0), observed=y)


def kernel(x):
    length, amplitude = pm.LogNormal("length", 0.0, 1.0), pm.HalfNormal("amplitude", 2.0)
    K = amplitude**2 * pt.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
    return K, pm.HalfNormal("noise", 1.0)


def gp(x, y):
    K, noise = kernel(x)
    cov = K + (noise**2 + 1e-6) * np.eye(len(x))
    pm.MvNormal("y", np.zeros(len(x)), cov=cov, observed=y)


def latent_gp(x, y):
    K, noise = kernel(x)
    L = pt.linalg.cholesky(K + 1e-4 * np.eye(len(x)))
    pm.Normal("y", L @ pm.Normal("z", 0, 1, shape=len(x)), noise, observed=y)


def normal_mean(y, prior_sd):
    pm.Normal("y", pm.Normal("mu", 0, float(prior_sd)), 2.0, observed=y)


def multivariate(mean, scale_tril):
    pm.MvNormal("z", mean, chol=scale_tril)


REGRESSIONS = [known_noise, linear, autoregression, logistic, softmax, poisson, negbin, horseshoe]
OTHERS = [schools, centred_schools, radon, gp, latent_gp, normal_mean, multivariate]
MODELS = {f.__name__: f for f in (*REGRESSIONS, *OTHERS)}
