r"""Estimators of the gradient of the evidence lower bound, as values.

A draw is ``z = transform(eps)`` with parameters phi. All of these have the same expectation,

.. math:: \nabla_\phi\, E_q[\beta \log q(z) - \log p(z)],

and differ in what they do about the first term, and so in their noise. In the following, the *path*
gradient of a vector v in z is its product with the derivative of z in phi.
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_vi_ext.families.base import DensityFamily

Array = jax.Array


class Estimator(abc.ABC):
    """Abstract: how the gradient of the ELBO in q is estimated; hashable, compared by its parts.

    `StickingTheLanding`, `ClosedFormEntropy` and `ScoreIncluded` are the ones that exist. One of
    your own is a frozen dataclass with a method `gradient`, made of JAX functions.

    Examples
    --------
    >>> import numpy as np
    >>> from numpyro_vi_ext.families.gaussian import DiagonalGaussian
    >>> q = DiagonalGaussian.create(np.zeros(1), np.ones(1))  # and p is the same
    >>> eps = jnp.array([[0.5]])
    >>> for estimator in StickingTheLanding(), ClosedFormEntropy(), ScoreIncluded():
    ...     print(estimator.gradient(q, eps, slope=-eps, beta=1.0).params()["mu"])
    [0.]
    [0.5]
    [0.5]
    """

    @abc.abstractmethod
    def gradient(self, q: DensityFamily, eps: Array, slope: Array, beta: float) -> DensityFamily:
        """An estimate from some draws.

        Parameters
        ----------
        q : DensityFamily
            The approximation.
        eps : array, shape (n, d)
            The noise of the draws.
        slope : array, shape (n, d)
            Gradient of log p in z at the draws.
        beta : float
            Weight of the term of log q.

        Returns
        -------
        DensityFamily
            The gradient, as a member of the family: each field is that of the parameter.
        """


@dataclasses.dataclass(frozen=True)
class StickingTheLanding(Estimator):
    r"""The path gradient of :math:`\beta \log q - \log p` (Roeder et al. 2017, equation 8).

    Where q is the posterior it is zero for every draw, so that its noise vanishes on the way there.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 2))
    >>> from numpyro_vi_ext import fit
    >>> approx = fit(model, 1000, inf_kwargs={"estimator": StickingTheLanding()}, random_seed=0,
    ...              progressbar=False)
    >>> print(f"{approx.mean[0]:.3f} {approx.std[0]:.3f}")
    3.000 2.000
    """

    def gradient(self, q: DensityFamily, eps: Array, slope: Array, beta: float) -> DensityFamily:
        return _pull_back(q, eps, beta * over(q.score, eps) - slope)


@dataclasses.dataclass(frozen=True)
class ClosedFormEntropy(Estimator):
    r"""The path gradient of :math:`-\log p`, and the exact one of the entropy.

    The estimator of ADVI (Kucukelbir et al. 2017, eqs. 7 and 8). Less noise than
    `StickingTheLanding` where q is much narrower than the posterior, as early in a fit; its noise
    does not vanish at the end.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> advi = vi.ADVI(lambda: numpyro.sample("x", dist.Normal(3, 2)), random_seed=0,
    ...                estimator=ClosedFormEntropy())
    >>> print(advi.fit(2000, warmup=False, progressbar=False).std.round(1))
    [2.]
    """

    def gradient(self, q: DensityFamily, eps: Array, slope: Array, beta: float) -> DensityFamily:
        entropy = jax.grad(lambda q: -beta * q.entropy())(q)
        return jax.tree.map(jnp.add, _pull_back(q, eps, -slope), entropy)


@dataclasses.dataclass(frozen=True)
class ScoreIncluded(Estimator):
    r"""The whole derivative of :math:`\beta \log q - \log p` at the draws, as plain ADVI takes it.

    The derivative of log q in its parameters at a fixed z, the score, has expectation zero and is
    only noise; it is what `StickingTheLanding` leaves out. Automatic differentiation of a Monte
    Carlo ELBO makes this (Roeder, Wu and Duvenaud 2017, eq. 5), as in NumPyro's ``Trace_ELBO``.
    For a Gaussian q it equals `ClosedFormEntropy` draw by draw.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> advi = vi.ADVI(lambda: numpyro.sample("x", dist.Normal(3, 2)), random_seed=0,
    ...                estimator=ScoreIncluded())
    >>> print(advi.fit(2000, warmup=False, progressbar=False).std.round(1))
    [2.]
    """

    def gradient(self, q: DensityFamily, eps: Array, slope: Array, beta: float) -> DensityFamily:
        def log_q(q: DensityFamily) -> Array:
            return beta * jnp.mean(over(lambda e: q.log_prob(q.transform(e)), eps))

        return jax.tree.map(jnp.add, _pull_back(q, eps, -slope), jax.grad(log_q)(q))


def controlled(
    q: DensityFamily, eps: Array, slope: Array, beta: float, curvature: Array
) -> DensityFamily:
    r"""`ClosedFormEntropy` with a quadratic control variate (Miller et al. 2017, section 3).

    With a rough Hessian C of :math:`-\log p`, the path gradient of
    :math:`\tfrac12 (z - \mu)^\top C (z - \mu)` is subtracted and that of its expectation added.
    Where the posterior is Gaussian and C its precision, the gradient of the location has no noise
    whatever q is, and that of the scale none once q is centred on the posterior; until then its
    noise is odd in eps, so that it cancels within an antithetic pair.

    Parameters
    ----------
    q, eps, slope, beta
        As for `Estimator.gradient`.
    curvature : array, shape (d, d)
        C, symmetric.
    """
    middle = q.transform(jnp.zeros(q.ndim, eps.dtype))
    control = over(lambda e: curvature @ (q.transform(e) - middle), eps)
    exact = jax.grad(lambda q: q.quadratic(curvature) - beta * q.entropy())(q)
    return jax.tree.map(jnp.add, _pull_back(q, eps, -slope - control), exact)


def _pull_back(q: DensityFamily, eps: Array, vectors: Array) -> DensityFamily:
    """The mean of the path gradients of vectors (n, d)."""
    _, back = jax.vjp(lambda q: over(q.transform, eps), q)
    return back(vectors / len(vectors))[0]


def over(fn: Callable[[Array], Any], xs: Array) -> Any:
    """Like ``jax.vmap``, but a single draw is not batched.

    A batch axis of length 1 is not free: on CPU it made a likelihood of 40,000 x 100 five times
    slower.
    """
    if xs.shape[0] > 1:
        return jax.vmap(fn)(xs)
    return jax.tree.map(lambda y: y[None], fn(xs[0]))


def as_estimator(value: Any) -> Estimator | None:
    """Check an estimator; None is whatever the fit finds best.

    Raises
    ------
    TypeError
        If it is no `Estimator`, or cannot be hashed.
    """
    known = "StickingTheLanding(), ClosedFormEntropy() or ScoreIncluded()"
    if inspect.isclass(value) and issubclass(value, Estimator):
        name = value.__name__
        raise TypeError(f"estimator must be an instance, got the class {name}; call it: {name}()")
    if not isinstance(value, Estimator | None):
        raise TypeError(f"estimator must be {known}, got {value!r} of type {type(value).__name__}")
    try:
        hash(value)  # it is part of what compiled steps are found by
    except TypeError:
        raise TypeError(
            f"estimator must be hashable, such as {known} or a frozen dataclass, got an instance "
            f"of {type(value).__name__}"
        ) from None
    return value
