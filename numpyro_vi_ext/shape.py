r"""In which way q differs from the posterior, read off its log weights.

For a Gaussian q the Hermite polynomials of its standardised draws e are orthonormal, so that the
products of a log weight with them average to the coefficients of its expansion:
:math:`E_q[\log w\, e_i e_j]` is what is left of the posterior's correlation of i and j,
:math:`E_q[\log w\, e_i (e_j^2 - 1)]` how the spread at j changes with i. No weight enters these
averages but by its logarithm, which no single draw dominates. They hold for k-hat of any size.
"""

from typing import Any, NamedTuple

import numpy as np

MOST_DIMENSIONS = 500  # up to which pairs of coordinates are looked at
_CLIPPED = 0.02  # of the log weights at either end
_SHARE = 0.1  # of the variance of the log weights, from which on something is worth a word
_OFF = 0.15  # sds that a mean is off, from which on it is worth a word
_BINS = 20
_DIP = 1.0  # depth of a valley between two humps, in nats


class Shape(NamedTuple):
    """What was found; each entry is a coordinate of the flat vector, the clearest first."""

    pairs: tuple[tuple[int, int], ...] = ()  # correlated under the posterior, not under q
    funnels: tuple[tuple[int, int], ...] = ()  # (i, j): the spread at j changes with i
    humps: tuple[int, ...] = ()  # where the posterior has two
    off: tuple[int, ...] = ()  # where q's mean is not at its optimum


def find_shape(z: np.ndarray, log_weights: np.ndarray, q: Any) -> Shape:
    """Look at draws of q and their log weights.

    Parameters
    ----------
    z : array, shape (S, d)
        Draws.
    log_weights : array, shape (S,)
        Of these; not finite ones are left out.
    q : Family
        With mean and covariance.
    """
    kept = np.isfinite(log_weights)
    if z.shape[1] > MOST_DIMENSIONS or kept.sum() < len(z) / 2:
        return Shape()
    eps, log_w = _standardise(z[kept], q), log_weights[kept]
    ends = np.quantile(log_w, [_CLIPPED, 1 - _CLIPPED])
    clipped = np.clip(log_w, *ends)
    clipped = clipped - clipped.mean()
    if clipped.std() < 0.05:  # as good as exact
        return Shape()
    squares = (eps**2 - 1) / np.sqrt(2)
    pairs = _clearest(clipped, eps, eps)
    return Shape(
        tuple((i, j) for i, j in pairs if i < j),
        _clearest(clipped, eps, squares),
        _humps(eps, log_w),
        _off(eps, log_w),
    )


def _standardise(z: np.ndarray, q: Any) -> np.ndarray:
    """Draws as standard normal ones, each coordinate as near to its own as can be.

    By the symmetric root of the correlation, so that coordinates keep their names.
    """
    centred = (z - np.asarray(q.mean(), float)) / np.asarray(q.std(), float)
    if q.metric().ndim == 1:  # no correlations
        return centred
    sd = np.asarray(q.std(), float)
    values, vectors = np.linalg.eigh(np.asarray(q.cov(), float) / np.outer(sd, sd))
    return centred @ (vectors / np.sqrt(np.maximum(values, 1e-6))) @ vectors.T


def _clearest(log_w: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[Any, ...]:
    """Pairs (i, j), i != j, with a large average of log w times left_i times right_j.

    Large is what stands out of the noise, among those that together are a tenth of the variance.
    """
    n, d = left.shape
    weighted = left * log_w[:, None]
    averages = weighted.T @ right / n
    errors = np.sqrt((weighted**2).T @ right**2) / n
    np.fill_diagonal(averages, 0.0)
    limit = np.sqrt(2 * np.log(max(d * d, 2))) + 2
    found = np.abs(averages) > limit * errors
    if np.sum(averages[found] ** 2) < _SHARE * log_w.var():
        return ()
    order = np.argsort(-np.abs(averages) * found, axis=None)[: found.sum()]
    return tuple((int(k) // d, int(k) % d) for k in order)


def _off(eps: np.ndarray, log_w: np.ndarray) -> tuple[int, ...]:
    """Coordinates in which the ELBO still rises if q's mean moves: by how many sds, about."""
    products = (log_w - log_w.mean())[:, None] * eps
    rise, error = products.mean(0), products.std(0) / np.sqrt(len(eps))
    size = np.where(np.abs(rise) > 5 * error, np.abs(rise), 0)
    order = np.argsort(-size)
    return tuple(int(i) for i in order if size[i] > _OFF)


def _humps(eps: np.ndarray, log_w: np.ndarray) -> tuple[int, ...]:
    """Coordinates along which the posterior has two humps with a valley between them.

    The factor of a coordinate that would fit best beside the others of q is proportional to
    q_i exp(E[log w | e_i]); its shape is that of the averages over slices of draws.
    """
    n, d = eps.shape
    if n < 10 * _BINS:
        return ()
    order = np.argsort(eps, axis=0)[: n - n % _BINS].reshape(_BINS, -1, d)
    of_bins = log_w[order]
    places = np.take_along_axis(eps, order.reshape(-1, d), 0).reshape(order.shape)
    heights = np.median(of_bins - places**2 / 2, axis=1)  # (bins, d)
    quartiles = np.quantile(of_bins - places**2 / 2, [0.25, 0.75], axis=1)
    error = (quartiles[1] - quartiles[0]) / np.sqrt(order.shape[1])
    left = np.maximum.accumulate(heights, 0)
    right = np.maximum.accumulate(heights[::-1], 0)[::-1]
    depth = np.minimum(left, right) - heights
    limit = _DIP + (np.sqrt(2 * np.log(d * _BINS)) + 1) * error
    clear = np.max(depth - limit, axis=0)
    return tuple(int(i) for i in np.argsort(-clear) if clear[i] > 0)
