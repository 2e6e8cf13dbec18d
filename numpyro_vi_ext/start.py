"""Where a fit begins: prior means, the user's values, or the first point with a finite density."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import infer

from numpyro_vi_ext.cache import Target
from numpyro_vi_ext.layout import Layout, Site
from numpyro_vi_ext.tracing import Evaluation, Start

Array = jax.Array

_TRIES = 100
_RADIUS = 2.0  # as NumPyro's init_to_uniform


def find_start(
    target: Target,
    key: Array,
    values: Mapping[str, Any] | None = None,
    init_strategy: Callable[..., Any] | None = None,
) -> Start:
    """Find a point where the joint log density is finite.

    Tried in this order: the prior mean where it is finite, else the median of prior draws, else a
    uniform draw in unconstrained space (or the given NumPyro strategy instead of all these); the
    user's values on top; then, as long as the density is not finite, uniform draws for the sites
    without a value.

    Parameters
    ----------
    target : Target
        The model and its data.
    key : JAX key
        Makes the result deterministic.
    values : mapping, optional
        Site name -> value in the model's space.
    init_strategy : callable, optional
        One of ``numpyro.infer.init_to_*``.

    Raises
    ------
    KeyError
        If `values` names a site that is not latent.
    TypeError
        If `values` is not a mapping to numbers, or `init_strategy` not callable.
    ValueError
        If a value has a wrong shape, is not finite or outside its support, or no try is finite.
    """
    values = _named_values(target.layout, values, "start")
    start = _prior_point(target, key, init_strategy)
    if values:
        start = start._replace(z=_put_values(target, key, start, values))
    free = np.ones(target.layout.ndim, bool)
    for site in target.layout.latents:
        free[site.slice] = site.name not in values
    return _first_finite(target, key, start, free)


def _named_values(layout: Layout, values: Any, argument: str) -> dict[str, Any]:
    """The dict that was given, all of whose names are latent sites."""
    if not isinstance(values, Mapping | None):
        raise TypeError(
            f"{argument} must be a dict from site name to value, got {type(values).__name__}"
        )
    known = [s.name for s in layout.latents]
    unknown = [name for name in values or {} if name not in known]
    if unknown:
        raise KeyError(f"{argument} names {unknown}, but the latent sites are {known}")
    return dict(values or {})


def _prior_point(target: Target, key: Array, init_strategy: Callable[..., Any] | None) -> Start:
    if init_strategy is not None:
        if not callable(init_strategy):
            raise TypeError(
                "init_strategy must be one of NumPyro's, such as init_to_uniform(radius=1), got "
                f"{type(init_strategy).__name__}"
            )
        return target.program.start_by(init_strategy)(key, target.data)
    start = target.program.start(key, target.data)
    z = np.asarray(start.z)
    if not np.isfinite(z).all():
        median = target.program.start_by(infer.init_to_median)(key, target.data)
        z = np.where(np.isfinite(z), z, median.z)
        z = np.where(np.isfinite(z), z, _uniform(key, z))
    return Start(jnp.asarray(z), start.theta)


def _put_values(target: Target, key: Array, start: Start, values: dict[str, Any]) -> Array:
    """Replace some sites of the starting point by values in the model's space.

    The others keep their place in unconstrained space, where a support that depends on another
    site moves along.
    """
    sites = {s.name: s for s in target.layout.latents}
    given = {k: _site_value(sites[k], value, start.z.dtype) for k, value in values.items()}
    kept = np.ones(target.layout.ndim, bool)
    for name in given:
        kept[sites[name].slice] = False
    z, inside = start.z, {}
    for _ in sites:  # the support of a given site may hang on one that moves along with another
        before, current = z, target.evaluate(z, start.theta, key).values
        latents = {n: jnp.asarray(given.get(n, current[n])) for n in sites}
        moved, inside = target.program.unconstrain(latents, start.theta, key, target.data)
        z = jnp.where(kept, start.z, moved)
        if np.array_equal(before, z, equal_nan=True):
            break
    found = target.evaluate(z, start.theta, key).values
    # a sum to one, say, holds only up to rounding: being found again is enough
    outside = [
        n
        for n, value in given.items()
        if not np.isfinite(z[sites[n].slice]).all()
        or not (inside[n] or np.allclose(found[n], value, rtol=1e-3, atol=1e-5))
    ]
    if outside:
        raise ValueError(f"start is outside the support of the sites {outside}")
    return z


def _site_value(site: Site, given: Any, dtype: Any) -> np.ndarray:
    value = _float_array(given, f"start[{site.name!r}]")
    if not (np.abs(value) <= jnp.finfo(dtype).max).all():
        raise ValueError(f"start[{site.name!r}] must be finite in {dtype}, got {given!r}")
    try:
        return np.broadcast_to(value, site.shape).astype(dtype)
    except ValueError:
        raise ValueError(
            f"start[{site.name!r}] has shape {value.shape}, but the site has shape {site.shape}"
        ) from None


def _first_finite(target: Target, key: Array, start: Start, free: np.ndarray) -> Start:
    point = np.asarray(start.z)
    i = 0
    while True:
        evaluation = target.evaluate(start.z, start.theta, key)
        if _is_finite(evaluation):
            return start
        if not free.any() or i + 1 == _TRIES:
            break
        draw = _uniform(jax.random.fold_in(key, i), point)
        start = start._replace(z=jnp.asarray(np.where(free, draw, point)))
        i += 1
    bad = [name for name, value in evaluation.site_log_prob.items() if not np.isfinite(value)]
    sites = [target.layout.site_of(name) for name in bad]
    others = f", nor at {i} other points tried" if i else ""
    raise ValueError(
        f"the log density is not finite at the start{others}: the sites {sorted(set(sites))} are "
        "not finite there. Check the data and the supports of these sites, or pass start={...} "
        "with values where the density is finite."
    )


def _is_finite(evaluation: Evaluation) -> bool:
    return bool(np.isfinite(evaluation.log_prior) and np.isfinite(evaluation.log_likelihood))


def _uniform(key: Array, like: np.ndarray) -> np.ndarray:
    seed = np.asarray(jax.random.key_data(key)).tolist()
    draw = np.random.default_rng(seed).uniform(-_RADIUS, _RADIUS, like.shape)
    return draw.astype(like.dtype)


def _float_array(value: Any, name: str) -> np.ndarray:
    try:
        if np.asarray(value).dtype.kind in "biuf":
            return np.asarray(value, float)
    except (TypeError, ValueError):  # ragged, or not an array at all
        pass
    raise TypeError(f"{name} must be numeric, got {value!r}")


def start_sigma_vector(
    layout: Layout, start_sigma: Mapping[str, Any] | None, default: float
) -> np.ndarray:
    """Initial standard deviations in unconstrained space, shape (ndim,).

    Raises
    ------
    KeyError
        If a name is not a latent site.
    ValueError
        If a value is not positive and finite, or does not fit the site's unconstrained shape.
    """
    sigma = np.full(layout.ndim, default)
    given = _named_values(layout, start_sigma, "start_sigma")
    for site in layout.latents:
        if site.name not in given:
            continue
        value = _float_array(given[site.name], f"start_sigma[{site.name!r}]")
        if not (np.isfinite(value).all() and (value > 0).all()):
            raise ValueError(f"start_sigma[{site.name!r}] must be positive and finite, got {value}")
        try:
            sigma[site.slice] = np.broadcast_to(value, site.unconstrained_shape).ravel()
        except ValueError:
            raise ValueError(
                f"start_sigma[{site.name!r}] has shape {value.shape}, but the site has "
                f"unconstrained shape {site.unconstrained_shape}"
            ) from None
    return sigma
