"""Importance weights of draws from q: Pareto smoothed, judged, and resampled by.

The weight of a draw z is p(x, z) / q(z). Smoothing replaces the largest weights by the quantiles of
a generalised Pareto distribution fitted to them, whose shape k-hat tells how far the weights can be
relied on (Vehtari, Simpson, Gelman, Yao and Gabry 2024).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import evaluate, io_arviz
from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.model import Target

Array = jax.Array

MOST = 0.7  # k-hat from which on weights are not relied on, however many there are
LEAST_DRAWS = 100  # for a tail of which a shape can be told
_LEAST_ROUNDING = 1e-3  # breaks ties, of which ArviZ makes no tail; it moves no estimate
_POOL = 10  # draws to choose one from
_LEAST_POOL = 2500  # from here on the threshold is 0.7


class Weights(NamedTuple):
    """Importance weights of S draws from q."""

    log_weights: np.ndarray  # (S,) log p(x, z) - log q(z), as they are
    smoothed: np.ndarray  # (S,) sum to one
    khat: float
    rounding: float  # of the log densities, in nats

    @property
    def threshold(self) -> float:
        """From this k-hat on the weights are not to be relied on."""
        return khat_threshold(len(self.smoothed))

    @property
    def lost(self) -> int:
        """Draws at which log p is NaN, or infinite: of weight zero."""
        return int(np.sum(~np.isfinite(self.log_weights)))


class Resampled(NamedTuple):
    """Draws from q chosen by their smoothed weights."""

    keys: Array  # (draws,) of the chosen ones
    weights: Weights  # of all that there were to choose from


def khat_threshold(draws: int) -> float:
    """``min(1 - 1 / log10(S), 0.7)`` for S draws (Vehtari et al. 2024, section 3.2.4).

    Examples
    --------
    >>> khat_threshold(100), khat_threshold(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / float(np.log10(draws)), MOST)


def find_weights(target: Target, point: Point, key: Array, draws: int) -> Weights:
    """Weights of the draws that `evaluate.draw_unconstrained` has with this key.

    Parameters
    ----------
    target, point
        The model on its full data, and q, which has a density.
    key : JAX key
        For the draws.
    draws : int
        S, at least `LEAST_DRAWS`.
    """
    log_weights = evaluate.log_weights(target, point, key, draws)
    return smooth(log_weights, _rounding(target, point))


def smooth(log_weights: np.ndarray, rounding: float = 0.0) -> Weights:
    """Pareto smoothed weights.

    Where q is the posterior, log weights differ by rounding only, and many are equal. So each gets
    noise of the size of rounding, at least a thousandth: then k-hat is that of a bounded
    distribution, about -1, and not undefined.

    Parameters
    ----------
    log_weights : array, shape (S,)
        S at least `LEAST_DRAWS`. What is not finite gets weight zero.
    rounding : float
        Of a log weight.
    """
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, len(log_weights))
    is_finite = np.isfinite(log_weights)
    shaken = np.where(is_finite, log_weights, -np.inf) + max(rounding, _LEAST_ROUNDING) * noise
    if is_finite.sum() < len(log_weights) / 2:  # no tail to speak of
        weights = np.exp(shaken - shaken.max()) if is_finite.any() else np.ones_like(shaken)
        return Weights(log_weights, weights / weights.sum(), np.inf, rounding)
    smoothed, khat = io_arviz.smooth_weights(shaken)
    return Weights(log_weights, np.exp(smoothed), khat, rounding)


def resample(target: Target, point: Point, key: Array, draws: int) -> Resampled:
    """Choose draws from q by their weights, in random order.

    By systematic resampling (Carpenter, Clifford and Fearnhead 1999): a draw of weight w comes
    ``draws * w`` times, up or down to the next whole number. So expectations are those of the
    weighted draws, and none comes twice unless its weight is more than one part in `draws`.
    """
    check_weighable(target)
    pool = max(_POOL * draws, _LEAST_POOL)
    weights = find_weights(target, point, key, pool)
    entropy = np.asarray(jax.random.key_data(jax.random.fold_in(key, 1)))
    chosen = systematic(weights.smoothed, draws, np.random.default_rng(entropy))
    return Resampled(jax.random.split(key, pool)[chosen], weights)


def systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices chosen in proportion to the weights, shape (count,), in random order."""
    at = (rng.uniform() + np.arange(count)) / max(count, 1)
    edges = np.cumsum(weights)
    chosen = np.searchsorted(edges / edges[-1], at, side="right")
    return rng.permutation(np.minimum(chosen, len(weights) - 1))


def check_weighable(target: Target) -> None:
    """Raise ValueError if the log density cannot be had, or is another one at each look."""
    target.check_data("importance weights need")
    if target.program.is_random:
        raise ValueError(RANDOM)


RANDOM = (
    "the model draws a subsample inside, so its log density is another one at each draw, and "
    "importance weights would be those of the subsamples: leave subsample_size out of the plate, "
    "and pass a vi.Minibatch for fitting"
)


def _rounding(target: Target, point: Point) -> float:
    """Size of the last digit of the log density."""
    z = jnp.asarray(point.q.mean())
    terms = target.evaluate(z, point.theta, jax.random.key(0)).site_log_prob.values()
    size = sum(float(np.abs(np.sum(np.asarray(term, float)))) for term in terms)
    return float(np.finfo(z.dtype).eps) * size
