"""From an approximation to NumPyro's own tools: a guide, and a warm start for NUTS."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro import handlers, infer
from numpyro.infer.hmc_util import euclidean_kinetic_energy

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation.base import ApproximationBase
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.families.gaussian import cholesky
from numpyro_vi_ext.model import Target
from numpyro_vi_ext.seeds import Seed, as_key

Array = jax.Array

_LATENT = "_vi_latent"  # the auxiliary site of a guide
_WIDENED = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0)  # spreads of NUTS's starts, tried in this order


def make_guide(target: Target, point: Point) -> Callable[..., None]:
    """A NumPyro guide that draws from q, whatever it is called with.

    The flat vector is an auxiliary site; the latent sites follow from it, each a Delta whose
    log density is that of the transform, so that the log densities of all sites of a trace add
    up to log q in the model's space. Only these sums mean something: that of a site with a batch
    shape is spread evenly over the batch.
    """
    layout = target.layout

    def guide(*args: Any, **kwargs: Any) -> None:
        del args, kwargs
        z: Any = numpyro.sample(_LATENT, _Flat(point.q), infer={"is_auxiliary": True})
        found = target.evaluate(z, point.theta, jax.random.key(0))
        terms = ((layout.site_of(k), k, log_prob) for k, log_prob in found.site_log_prob.items())
        log_dets = {site: log_prob for site, k, log_prob in terms if site != k}
        for name, event_dim in layout.event_dims.items():
            value = found.values[name]
            batch = value.shape[: value.ndim - event_dim]
            share = -log_dets.get(name, jnp.zeros(())) / max(1, math.prod(batch))
            density = jnp.broadcast_to(share, batch)
            numpyro.sample(name, dist.Delta(value, density, event_dim))

    return guide


class _Flat(dist.Distribution):
    """A family as a NumPyro distribution of flat vectors."""

    support: Any = dist.constraints.real_vector
    pytree_data_fields = ("_q",)

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
        if not isinstance(self._q, DensityFamily):
            raise TypeError(
                "the guide of an Empirical approximation has draws but no density: it works in "
                "Predictive, not where a log density is asked for, as in SVI or psis_diagnostic"
            )
        log_prob = self._q.log_prob
        for _ in value.shape[:-1]:
            log_prob = jax.vmap(log_prob)
        return log_prob(value)


def to_nuts(
    approx: ApproximationBase,
    num_chains: int = 1,
    random_seed: Seed = None,
    **nuts_options: Any,
) -> tuple[numpyro.infer.NUTS, dict[str, Array]]:
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
        and for an `Empirical` without enough rows for a covariance. ``adapt_mass_matrix`` is False
        by default: the first windows of a warm-up would replace q's covariance by that of a few
        dozen draws. Where q is in doubt, pass True, and ``num_warmup`` of at least 300. With an
        ``inverse_mass_matrix`` of your own, the defaults of these two are NumPyro's.

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
    TypeError
        If `approx` is not an Approximation, `num_chains` not an int, or ``dense_mass`` neither a
        bool nor a list of tuples.
    ValueError
        If `num_chains` is not positive; if q has no spread at some site, or a singular covariance;
        if the log density is not finite, not even at q's mean; if blocks of ``dense_mass`` overlap;
        if data come from a `Stream`.
    KeyError
        If ``dense_mass`` names an unknown site.

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
    approx.target.check_data("NUTS needs")
    num_chains = as_count(num_chains, "num_chains", 1)
    arguments, fn = approx.model.arguments, approx.model.fn
    if approx.model_params:
        fn = handlers.substitute(fn, data=approx.model_params)
    model = functools.partial(fn, *arguments.args, **arguments.kwargs)
    options: dict[str, Any] = {"kinetic_fn": _kinetic_energy}
    if nuts_options.get("inverse_mass_matrix") is None:
        dense = nuts_options.pop("dense_mass", None)
        options |= {"adapt_mass_matrix": False, **_mass_matrix(approx, dense)}
        nuts_options.pop("inverse_mass_matrix", None)
    z = _starts(approx, as_key(random_seed), num_chains)
    starts = approx.target.layout.split(z if num_chains > 1 else z[0])
    return infer.NUTS(model, **{**options, **nuts_options}), starts


def _kinetic_energy(inverse_mass_matrix: Any, r: Any) -> Array:
    """NumPyro's kinetic energy, infinite where it overflows.

    With a dense mass matrix it can overflow to minus infinity. A chain would move there for sure,
    and never come back.
    """
    energy = euclidean_kinetic_energy(inverse_mass_matrix, r)
    return jnp.where(energy >= 0, energy, jnp.inf)


def _mass_matrix(approx: ApproximationBase, dense: Any) -> dict[str, Any]:
    """NUTS's options for q's covariance: blocks of sites, dense or diagonal."""
    layout, cov = approx.target.layout, approx.cov
    still = layout.sites_at(~(np.diag(cov) > 0))
    if still:
        raise ValueError(f"the approximation has no spread at the sites {list(still)}")
    blocks = _blocks(approx, dense)
    where = {name: np.arange(approx.ndim)[at] for name, (at, _) in approx.ordering.items()}
    matrices: dict[tuple[str, ...], Array] = {}
    for block in blocks:
        index = np.concatenate([where[name] for name in block])
        matrices[block] = jnp.asarray(_regular(block, cov[np.ix_(index, index)]))
    rest = tuple(name for name in where if all(name not in block for block in blocks))
    if rest:
        index = np.concatenate([where[name] for name in rest])
        matrices[rest] = jnp.asarray(np.diag(cov)[index])
    return {"inverse_mass_matrix": matrices, "dense_mass": blocks}


def _blocks(approx: ApproximationBase, dense: Any) -> list[tuple[str, ...]]:
    """The sites that share a dense block, each in the order in which NUTS shall take them."""
    names = tuple(approx.ordering)
    if dense is None:
        dense = approx.point.q.metric().ndim == 2
    if isinstance(dense, bool):
        return [names] if dense else []
    if not isinstance(dense, list) or not all(isinstance(block, tuple | list) for block in dense):
        raise TypeError(
            "dense_mass must be True, False or a list of tuples of site names such as "
            f"[('a', 'b')], got {dense!r}"
        )
    blocks = [tuple(block) for block in dense]
    flat = [name for block in blocks for name in block]
    if unknown := [name for name in flat if name not in names]:
        raise KeyError(f"dense_mass names the unknown sites {unknown}; there are {list(names)}")
    if len(set(flat)) < len(flat):
        raise ValueError(f"dense_mass names a site more than once: {dense}")
    return blocks


def _regular(block: tuple[str, ...], cov: np.ndarray) -> np.ndarray:
    """The covariance of a block, if it is a mass matrix."""
    try:
        cholesky(cov)
    except ValueError:
        raise ValueError(
            f"the covariance of the sites {list(block)} is singular, so it cannot be a dense mass "
            "matrix; pass dense_mass=False"
        ) from None
    return cov


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
            return z
    raise ValueError(
        "the log density is not finite at the mean of the approximation, nor at draws from it"
    )
