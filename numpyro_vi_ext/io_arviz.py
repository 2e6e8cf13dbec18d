"""Into ArviZ, whichever of its two lines is installed."""

import warnings
from typing import Any

import jax
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.model import Target
from numpyro_vi_ext.tracing import Layout

UNCONSTRAINED = "__unconstrained"


def to_inference_data(
    target: Target,
    point: Point,
    values: dict[str, Any],
    data: dict[str, np.ndarray],
    losses: np.ndarray,
    attrs: dict[str, Any],
    *,
    coords: dict[str, Any] | None = None,
    dims: dict[str, list[str]] | None = None,
) -> Any:
    """Draws and data as the object the installed ArviZ works with.

    Parameters
    ----------
    target, point : Target, Point
        The model, and the approximation of its posterior.
    values : dict
        Site name -> draws, shape (draws, *site shape).
    data : dict
        The model's data arguments.
    losses : array
        Loss history.
    attrs : dict
        Facts of the fit, for the attributes of the posterior.
    coords, dims : dict, optional
        Win over the names taken from the model's plates.
    """
    layout = target.layout
    observed = target.evaluate(point.q.mean(), point.theta, jax.random.key(0)).observed
    observed = {name: np.asarray(value) for name, value in observed.items()}
    constant = _constants(data, observed)
    groups = {
        "posterior": {name: np.asarray(value)[None] for name, value in values.items()},
        "observed_data": observed,
        "constant_data": constant,
    }
    named = {**{k: _dim_names(k, v) for k, v in layout.dims.items()}, **(dims or {})}
    import arviz as az

    filled = {group: data for group, data in groups.items() if data}
    known = {k: v for k, v in named.items() if any(k in data for data in filled.values())}
    if hasattr(az, "InferenceData"):  # ArviZ before 1.0
        idata = az.from_dict(**filled, coords=coords, dims=known)
    else:
        idata = az.from_dict(filled, coords=coords, dims=known)
    idata["posterior"].attrs.update(inference_library="numpyro_vi_ext", **attrs)
    return _add_losses(idata, losses)


def to_dataset(layout: Layout, flat: np.ndarray) -> Any:
    """A flat unconstrained vector by site, as an ``xarray.Dataset``."""
    import xarray as xr

    data = {}
    for site in layout.latents:
        same = site.unconstrained_shape == site.shape
        plates = layout.dims[site.name] if same else (None,) * len(site.unconstrained_shape)
        value = flat[site.slice].reshape(site.unconstrained_shape)
        data[site.name] = (_dim_names(site.name, plates), value)
    return xr.Dataset(data)


def unconstrained(target: Target, theta: jax.Array, values: dict[str, Any]) -> dict[str, Any]:
    """Draws of the latent sites in unconstrained space, under names of their own."""
    latents = {s.name: values[s.name] for s in target.layout.latents}
    key = jax.random.key(0)
    flat = jax.vmap(lambda v: target.program.unconstrain(v, theta, key, target.data)[0])(latents)
    return {name + UNCONSTRAINED: value for name, value in target.layout.split(flat).items()}


def _dim_names(name: str, plates: tuple[str | None, ...]) -> list[str]:
    return [plate or f"{name}_dim_{i}" for i, plate in enumerate(plates)]


def _constants(data: dict[str, np.ndarray], observed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's data arguments, those left out that are some site's observed values."""
    return {
        name: value
        for name, value in data.items()
        if not any(np.array_equal(value, seen) for seen in observed.values())
    }


def _add_losses(idata: Any, losses: np.ndarray) -> Any:
    import xarray as xr

    stats = xr.Dataset({"loss": ("step", losses)}, coords={"step": np.arange(1, len(losses) + 1)})
    if not hasattr(idata, "add_groups"):
        idata["fit_stats"] = xr.DataTree(stats)
        return idata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.x warns of groups it has no name for
        idata.add_groups({"fit_stats": stats}, warn_on_custom_groups=False)
    return idata
