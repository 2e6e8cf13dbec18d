"""The data of the models: what scikit-learn ships, or drawn with a seed. All float64."""

import numpy as np
from sklearn import datasets

Array = np.ndarray


def _rng(name: str) -> np.random.Generator:
    """A generator for each data set, so that a new one changes none of the others."""
    return np.random.default_rng(list(name.encode()))


def stretch(X: Array) -> Array:
    """Factors from 1/1000 to 10,000, one for each column."""
    return 10.0 ** np.linspace(-3, 4, X.shape[1])


def standardised(X: Array) -> Array:
    return (X - X.mean(0)) / X.std(0)


# -- linear regressions


def far_intercept(n: int = 100) -> tuple[Array, Array, float]:
    """An intercept of 500 known to within 3, slopes around 0.01 known to within 0.01."""
    rng = _rng("far_intercept")
    X = 300 * rng.standard_normal((n, 4))
    return X, 500 + X @ (0.01 * rng.standard_normal(4)) + 30 * rng.standard_normal(n), 30.0


def diabetes() -> tuple[Array, Array]:
    return datasets.load_diabetes(scaled=False, return_X_y=True)


def california(n: int = 2000) -> tuple[Array, Array]:
    """Like the census blocks of California: eight predictors, from 0.1 to 1,000, off centre."""
    rng = _rng("california")
    z = rng.standard_normal((n, 8))
    latitude = 35.6 + 2.1 * z[:, 6]
    rooms = 5.4 + 1.2 * z[:, 2]
    columns = [
        3.9 * np.exp(0.4 * z[:, 0]),  # income
        28.6 + 12.6 * z[:, 1],  # age of the houses
        rooms,
        0.2 * rooms + 0.05 * z[:, 3],  # bedrooms go with rooms
        1100 * np.exp(0.7 * z[:, 4]),  # population
        3 * np.exp(0.25 * z[:, 5]),  # occupants
        latitude,
        -119.6 - 0.87 * (latitude - 35.6) + 0.8 * z[:, 7],  # the coast runs to the north-west
    ]
    X = np.stack(columns, axis=1)
    beta = np.array([0.44, 0.009, -0.1, 0.6, -1e-5, -0.004, -0.42, -0.43])
    return X, X @ beta - 36.9 + 0.7 * rng.standard_normal(n)


def wine() -> tuple[Array, Array]:
    """The alcohol of the wines, in per cent, against what else was measured."""
    X, _ = datasets.load_wine(return_X_y=True)
    return X[:, 1:], X[:, 0]


def ar2(n: int = 200) -> tuple[Array, Array]:
    """Two lags and what follows, around a level of 10."""
    rng = _rng("ar2")
    y = np.full(n + 50, 10.0)
    for t in range(2, len(y)):
        y[t] = 2 + 0.5 * y[t - 1] + 0.3 * y[t - 2] + rng.standard_normal()
    y = y[50:]
    return np.stack([y[1:-1], y[:-2]], axis=1), y[2:]


# -- other regressions


def breast_cancer() -> tuple[Array, Array]:
    X, y = datasets.load_breast_cancer(return_X_y=True)
    return standardised(X), y.astype(float)


def iris() -> tuple[Array, Array]:
    return datasets.load_iris(return_X_y=True)


def counts(name: str, n: int = 200, concentration: float | None = None) -> tuple[Array, Array]:
    """Counts around exp(2 + X beta); overdispersed if there is a concentration."""
    rng = _rng(name)
    X = rng.standard_normal((n, 4))
    rate = np.exp(2 + X @ np.array([0.5, -0.3, 0.2, 0.0]))
    if concentration is not None:
        rate = rate * rng.gamma(concentration, 1 / concentration, n)
    return X, rng.poisson(rate).astype(float)


def sparse(n: int = 100, p: int = 20) -> tuple[Array, Array]:
    """Three of the predictors matter."""
    rng = _rng("horseshoe")
    X = rng.standard_normal((n, p))
    beta = np.zeros(p)
    beta[:3] = 2.0, -1.0, 0.5
    return X, X @ beta + rng.standard_normal(n)


# -- groups, series, curves


def eight_schools() -> tuple[Array, Array]:
    y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
    return np.array(y), np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def radon(groups: int = 80, n: int = 900) -> tuple[Array, Array, Array]:
    """Houses in counties, some with many and some with few; a floor in one house of six."""
    rng = _rng("radon")
    county = np.concatenate([np.arange(groups), rng.integers(0, groups, n - groups) ** 2 // groups])
    floor = (rng.random(n) < 1 / 6).astype(float)
    level = 1.5 + 0.35 * rng.standard_normal(groups)
    return county, floor, level[county] - 0.7 * floor + 0.75 * rng.standard_normal(n)


def curve(n: int = 50) -> tuple[Array, Array]:
    """A smooth curve with noise, as a Gaussian process might be."""
    rng = _rng("gp")
    x = np.sort(rng.uniform(0, 10, n))
    return x, np.sin(x) + 0.5 * np.cos(2.3 * x) + 0.3 * rng.standard_normal(n)


def garch(n: int = 400) -> Array:
    rng = _rng("garch11")
    y, variance = np.zeros(n), 1.0
    for t in range(n):
        if t:
            variance = 0.2 + 0.25 * y[t - 1] ** 2 + 0.6 * variance
        y[t] = np.sqrt(variance) * rng.standard_normal()
    return y


def correlated(d: int = 200) -> tuple[Array, Array]:
    """Mean and Cholesky factor of a normal whose variances span a factor of 100 in all directions.

    The mean is some standard deviations away from zero.
    """
    rng = _rng("corr_gauss200")
    axes, _ = np.linalg.qr(rng.standard_normal((d, d)))
    cov = (axes * 10.0 ** np.linspace(-1, 1, d)) @ axes.T
    return 3 * rng.standard_normal(d), np.linalg.cholesky(cov)


def far_normal(n: int = 100) -> tuple[Array, float]:
    """A mean eight prior standard deviations away, 400 posterior ones."""
    return 80 + 2 * _rng("far_normal").standard_normal(n), 10.0


def conjugate(n: int = 20) -> tuple[Array, float]:
    return 3 + 2 * _rng("conjugate").standard_normal(n), 10.0
