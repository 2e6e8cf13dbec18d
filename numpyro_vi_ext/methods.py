"""The methods under PyMC's names: pairs of an approximation and an objective."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from numpyro_vi_ext.approximation.empirical import Empirical
from numpyro_vi_ext.approximation.gaussian import DensityApproximation, FullRank, MeanField
from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.checks import as_count, as_number, as_positive
from numpyro_vi_ext.defaults import PARTICLES, WARMED
from numpyro_vi_ext.estimators import Estimator, as_estimator
from numpyro_vi_ext.inference import Inference, check_same_model
from numpyro_vi_ext.kernels import Kernel, as_kernel, rbf
from numpyro_vi_ext.objectives import Elbo
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.stein import AmortizedStein, ParticleStein


class ADVI(Inference):
    """Mean-field automatic differentiation variational inference (Kucukelbir et al. 2017).

    Parameters
    ----------
    model : Model or callable
        A NumPyro model, as for `MeanField`.
    estimator : Estimator, optional
        How the gradient is estimated: `StickingTheLanding`, `ClosedFormEntropy` or `ScoreIncluded`,
        called. Default: the first, or what a warm-up found less noisy (Miller et al. 2017).
    **options
        Of `MeanField`.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `MeanField`; TypeError also for a wrong `estimator` and an unknown option.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> advi = ADVI(model, random_seed=0)
    >>> advi.approx
    MeanField(sites=[x], ndim=1, steps=0, status='initialized')
    >>> advi.fit(500, progressbar=False).mean.round(3)
    array([3.], dtype=float32)
    """

    method = "advi"
    _default = WARMED

    def __init__(self, model: Any, *, estimator: Estimator | None = None, **options: Any) -> None:
        objective = Elbo(estimator=as_estimator(estimator))
        key = as_key(options.pop("random_seed", None))
        approx = _unfitted(MeanField, model, key, options, "estimator")
        self._begin(approx, objective, key)


class FullRankADVI(Inference):
    """ADVI with a dense covariance.

    Parameters and errors are those of `ADVI`.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model():
    ...     cov = jnp.array([[1.0, 0.8], [0.8, 1.0]])
    ...     numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), cov))
    >>> advi = FullRankADVI(model, random_seed=0)
    >>> print(f"{advi.fit(progressbar=False).cov[0, 1]:.2f}")
    0.80
    """

    method = "fullrank_advi"
    _default = WARMED

    def __init__(self, model: Any, *, estimator: Estimator | None = None, **options: Any) -> None:
        objective = Elbo(estimator=as_estimator(estimator))
        key = as_key(options.pop("random_seed", None))
        approx = _unfitted(FullRank, model, key, options, "estimator")
        self._begin(approx, objective, key)


class KLqp(Inference):
    r"""Fit any approximation with a density, starting from where it stands.

    The loss is :math:`-E_q[\log p(x | z)] + \beta\, KL(q \| p(z))`, the prior's log Jacobians
    included; beta = 1 gives the negative ELBO, another what a beta-VAE has (Higgins et al. 2017).

    Parameters
    ----------
    approx : Approximation
        For example ``MeanField(model)``, the result of a fit, or ``FullRank.from_approx`` of
        another one. It is not changed, and must have a density.
    beta : float
        Weight of the Kullback-Leibler part, not negative. With 0, q shrinks to a point: there is no
        warm-up then, no frame and no restarts.
    estimator : Estimator, optional
        As for `ADVI`.
    random_seed : int, JAX key or None
        For the noise.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or value, by name; `approx` must have a density.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     x = numpyro.sample("x", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(x, 1), obs=4.0)
    >>> flat = KLqp(MeanField(model), beta=0.25, random_seed=0)  # precision 1 + 1 / 0.25
    >>> print(f"{flat.fit(progressbar=False).std[0]:.3f}")
    0.447
    """

    method = "klqp"
    _default = WARMED

    def __init__(
        self,
        approx: Approximation,
        beta: float = 1.0,
        estimator: Estimator | None = None,
        *,
        random_seed: Seed = None,
    ) -> None:
        _check_density(approx, "KLqp")
        objective = Elbo(beta=as_number(beta, "beta", 0), estimator=as_estimator(estimator))
        if objective.beta == 0:  # q shrinks to a point: there is no ELBO to compare starts by
            self._default = self._default._replace(framed=None)
        self._begin(approx, objective, random_seed)


class SVGD(Inference):
    r"""Stein variational gradient descent (Liu and Wang 2016): particles that repel each other.

    Each step moves all particles along

    .. math:: \phi(x_i) = \frac{1}{n} \sum_j k(x_j, x_i) \frac{\nabla \log p(x_j)}{T}
        + \nabla_{x_j} k(x_j, x_i),

    and the optimizer gets minus that as a gradient. There is no loss: ``hist`` stays empty, unless
    ``fit(score=True)`` records the kernelised Stein discrepancy of each step, which costs about as
    much again. The result is an `Empirical`. In many dimensions the particles' variance collapses
    unless there are many of them (Ba et al. 2022); the ``message`` of a fit says so.

    Parameters
    ----------
    model : Model or callable
        A NumPyro model; a callable is bound to `model_args` and `model_kwargs`.
    n_particles : int
        Number of particles n. A step costs of the order of n^2 d operations.
    jitter : float
        Standard deviation of the particles around their start, in unconstrained space.
    temperature : float
        T > 0; above 1 the particles spread wider than the posterior.
    kernel : callable
        `rbf` or `imq`, bare or called, or a function ``k(x, y)`` of two points of shape (ndim,) in
        unconstrained space, which JAX can differentiate, also where x equals y.
    model_args, model_kwargs : tuple, dict
        The model's arguments.
    random_seed : int, JAX key or None
        For the particles.
    start, start_sigma, init_strategy
        For the particles, as for `MeanField`; `start_sigma` goes before `jitter`.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `MeanField`; TypeError and ValueError for other arguments as well, by name.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> svgd = SVGD(model, n_particles=200, random_seed=0)
    >>> approx = svgd.fit(500, progressbar=False)
    >>> approx
    Empirical(sites=[x], ndim=1, rows=200, steps=500, status='finished')
    >>> print(f"{approx.mean[0]:.2f} {approx.std[0]:.1f}")
    3.00 1.0
    """

    method = "svgd"
    _default = PARTICLES

    def __init__(
        self,
        model: Any,
        n_particles: int = 100,
        jitter: float = 1.0,
        temperature: float = 1.0,
        kernel: Kernel | Callable[..., Any] = rbf,
        *,
        model_args: Any = (),
        model_kwargs: dict[str, Any] | None = None,
        random_seed: Seed = None,
        start: Mapping[str, Any] | None = None,
        start_sigma: Mapping[str, Any] | None = None,
        init_strategy: Any = None,
    ) -> None:
        temperature, key = as_positive(temperature, "temperature"), as_key(random_seed)
        approx = Empirical(
            size=as_count(n_particles, "n_particles", 1),
            jitter=as_number(jitter, "jitter", 0),
            model=model,
            model_args=model_args,
            model_kwargs=model_kwargs,
            random_seed=key,
            start=start,
            start_sigma=start_sigma,
            init_strategy=init_strategy,
        )
        objective = ParticleStein(as_kernel(kernel, approx.ndim), temperature)
        self._begin(approx, objective, key)


class ASVGD(Inference):
    """Amortised SVGD (Feng, Wang and Liu 2017): the direction of particles moves any q.

    Each step draws particles from q, 500 unless ``fit(obj_n_mc=...)`` says otherwise, and changes
    q such that they move along the direction of `SVGD`. NumPyro's ``einstein`` means *annealed*
    SVGD by the same letters, which is something else. There is no loss, as for `SVGD`.

    Parameters
    ----------
    model : Model or callable, optional
        A NumPyro model, as for `SVGD`; if `approx` is given, its model or None.
    approx : Approximation, optional
        What to begin with; must have a density. Default: ``FullRank(model)``.
    temperature, kernel
        As for `SVGD`.
    **options
        Of `FullRank`: `model_args`, `model_kwargs`, `start`, `start_sigma`, `init_strategy`; and
        `random_seed`, which goes with an `approx` as well.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `FullRank`, and for a wrong argument, by name; TypeError also if `approx` has no density
        or is given with options of a new one, ValueError if it has another model.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model():
    ...     cov = jnp.array([[1.0, 0.8], [0.8, 1.0]])
    ...     numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), cov))
    >>> approx = ASVGD(model, random_seed=0).fit(2000, obj_n_mc=100, progressbar=False)
    >>> print(f"{approx.cov[0, 1] / approx.std.prod():.1f}")
    0.8
    """

    method = "asvgd"

    def __init__(
        self,
        model: Any = None,
        approx: Approximation | None = None,
        temperature: float = 1.0,
        kernel: Kernel | Callable[..., Any] = rbf,
        **options: Any,
    ) -> None:
        temperature = as_positive(temperature, "temperature")
        key = as_key(options.pop("random_seed", None))
        if approx is None:
            approx = _unfitted(FullRank, model, key, options)
        elif options:
            raise TypeError(f"{sorted(options)} cannot be applied to an approx that is given")
        _check_density(approx, "ASVGD")
        check_same_model(model, approx.model, "approx")
        self._begin(approx, AmortizedStein(as_kernel(kernel, approx.ndim), temperature), key)


def _check_density(approx: Any, method: str) -> None:
    if not isinstance(approx, DensityApproximation):
        raise TypeError(
            f"{method} fits an approximation with a density, such as MeanField(model) or "
            f"FullRank.from_approx(...), got {type(approx).__name__}"
        )


def _unfitted(
    kind: type[MeanField | FullRank], model: Any, key: jax.Array, options: dict[str, Any], *own: str
) -> Approximation:
    """The approximation that a method begins with; `own` are options of the method itself."""
    known = [*own, *(name for name in inspect.signature(kind).parameters if name != "model")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"unknown options {unknown}; this method takes {known}")
    return kind(model, random_seed=key, **options)
