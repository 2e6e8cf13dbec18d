"""From an approximation to NumPyro's own tools: a guide, and a warm start for NUTS."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.infer import NUTS

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation.base import ApproximationBase
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.model import Target
from numpyro_vi_ext.seeds import Seed, as_key

Array = jax.Array

_LATENT = "_vi_latent"  # the auxiliary site of a guide
_WIDENED = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0)  # spreads of NUTS's starts, tried in this order


def make_guide(target: Target, point: Point) -> Callable[..., None]:
    """A NumPyro guide that draws from q, whatever it is called with.

    The flat vector is an auxiliary site; the latent sites follow from it, each a Delta whose
    log density is that of the transform, so that the log densities of all sites of a trace add
    up to log q in the model's space.
    """

    def guide(*args: Any, **kwargs: Any) -> None:
        del args, kwargs
        z: Any = numpyro.sample(_LATENT, _Flat(point.q), infer={"is_auxiliary": True})
        found = target.evaluate(z, point.theta, jax.random.key(0))
        for site in target.layout.latents:
            value = found.values[site.name]
            log_det = found.site_log_prob.get(f"_{site.name}_log_det", jnp.zeros(()))
            delta = dist.Delta(value, log_density=-log_det, event_dim=value.ndim)
            numpyro.sample(site.name, delta)

    return guide


class _Flat(dist.Distribution):
    """A family as a NumPyro distribution of flat vectors."""

    support: Any = dist.constraints.real_vector

    def __init__(self, q: Any) -> None:
        self._q = q
        dist.Distribution.__init__(self, event_shape=(q.ndim,))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        keys = jax.random.split(key, sample_shape) if sample_shape else key
        draw = self._q.draw
        for _ in sample_shape:
            draw = jax.vmap(draw)
        return draw(keys)

    def log_prob(self, value: Array) -> Array:
        log_prob = self._q.log_prob
        for _ in value.shape[:-1]:
            log_prob = jax.vmap(log_prob)
        return log_prob(value)


def to_nuts(
    approx: ApproximationBase,
    num_chains: int = 1,
    random_seed: Seed = None,
    **nuts_options: Any,
) -> tuple[NUTS, dict[str, Array]]:
    """A NumPyro NUTS kernel that starts where q is, with q's covariance as inverse mass matrix.

    Parameters
    ----------
    approx : Approximation
        Of any kind. The kernel's model is bound to its arguments, and to its estimates of the
        ``numpyro.param`` sites.
    num_chains : int
        Number of starting positions.
    random_seed : int, JAX key or None
        For the starting positions.
    **nuts_options
        Of ``numpyro.infer.NUTS``. ``dense_mass`` is True by default, but False for a `MeanField`
        and for an `Empirical` without enough rows for a covariance.

    Returns
    -------
    kernel : NUTS
        Ready for ``MCMC(kernel, ..., num_chains=num_chains)``.
    init_params : dict
        For ``run(key, init_params=init_params)``: site -> unconstrained values, with a leading
        axis of length `num_chains` if that is more than 1. They are draws from q, twice as far
        from its mean, so that r-hat can tell chains that have not mixed; nearer where the log
        density is not finite so far out.

    Raises
    ------
    TypeError, ValueError
        If `approx` is not an Approximation, or `num_chains` not a positive int.

    Examples
    --------
    >>> import jax, numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> approx = vi.fit(model, 500, random_seed=0, progressbar=False)
    >>> kernel, init_params = vi.to_nuts(approx, num_chains=2, random_seed=1)
    >>> mcmc = numpyro.infer.MCMC(kernel, num_warmup=100, num_samples=500, num_chains=2,
    ...                           chain_method="vectorized", progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=init_params)
    >>> mcmc.get_samples()["x"].shape
    (1000,)
    """
    if not isinstance(approx, ApproximationBase):
        raise TypeError(f"to_nuts starts from an Approximation, got {type(approx).__name__}")
    num_chains = as_count(num_chains, "num_chains", 1)
    arguments, fn = approx.model.arguments, approx.model.fn
    if approx.model_params:
        fn = handlers.substitute(fn, data=approx.model_params)
    model = functools.partial(fn, *arguments.args, **arguments.kwargs)
    if "inverse_mass_matrix" not in nuts_options:
        nuts_options |= _mass_matrix(approx, nuts_options.get("dense_mass"))
    z = _starts(approx, as_key(random_seed), num_chains)
    starts = approx.target.layout.split(z if num_chains > 1 else z[0])
    return NUTS(model, **nuts_options), starts


def _mass_matrix(approx: ApproximationBase, dense: Any) -> dict[str, Any]:
    """NUTS's options for q's covariance: blocks of sites, dense or diagonal."""
    names = tuple(approx.ordering)
    still = [s.name for s in approx.target.layout.latents if not (approx.std[s.slice] > 0).all()]
    if still:
        raise ValueError(f"the approximation has no spread at the sites {still}")
    if dense is None:
        dense = approx.point.q.metric().ndim == 2
    blocks = [names] if dense is True else dense or []
    rest = tuple(name for name in names if all(name not in block for block in blocks))
    where = {name: np.arange(approx.ndim)[at] for name, (at, _) in approx.ordering.items()}
    matrices: dict[tuple[str, ...], Array] = {}
    for block in blocks:
        index = np.concatenate([where[name] for name in block])
        matrices[block] = jnp.asarray(approx.cov[np.ix_(index, index)])
    if rest:
        index = np.concatenate([where[name] for name in rest])
        matrices[rest] = jnp.asarray(approx.std[index] ** 2)
    return {"inverse_mass_matrix": matrices, "dense_mass": blocks}


def _starts(approx: ApproximationBase, key: Array, count: int) -> Array:
    """Draws from q, widened as far as the log density stays finite."""
    target, point = approx.target, approx.point
    draws = jax.vmap(point.q.draw)(jax.random.split(key, count))
    mean, z = jnp.asarray(point.q.mean()), draws
    bad = np.ones(count, bool)
    for scale in _WIDENED:
        z = jnp.where(bad[:, None], mean + scale * (draws - mean), z)
        found = target.evaluate_all(z, point.theta, key)
        bad = ~np.isfinite(np.asarray(found.log_prior + found.log_likelihood))
        if not bad.any():
            break
    return z
