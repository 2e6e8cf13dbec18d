"""The sites of a model and their places in one flat unconstrained vector."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import distributions as dist
from numpyro.infer.util import helpful_support_errors

from numpyro_vi_ext.errors import DiscreteLatentError

Array = jax.Array


class Site(NamedTuple):
    """Where one latent site lives in the flat unconstrained vector."""

    name: str
    slice: slice
    unconstrained_shape: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Sites of a model and their place in the flat vectors.

    Parameters
    ----------
    latents : tuple of Site
        In trace order.
    dims : dict
        Site name -> plate name (or None) of each axis of its value; all kinds of sites.
    event_dims : dict
        Latent site -> number of event dimensions of its value.
    observed : tuple of str
        Observed sites, factors left out.
    deterministics : tuple of str
        Deterministic sites.
    params : tuple of str
        ``numpyro.param`` sites.
    subsampled : frozenset of str
        Sample sites that stand in a subsampled plate.
    scaled : dict
        Name of a sample site -> constant that the user multiplies its log density by.
    """

    latents: tuple[Site, ...]
    dims: dict[str, tuple[str | None, ...]]
    event_dims: dict[str, int]
    observed: tuple[str, ...]
    deterministics: tuple[str, ...]
    params: tuple[str, ...]
    subsampled: frozenset[str]
    scaled: dict[str, float]

    @property
    def ndim(self) -> int:
        """Length of the flat unconstrained vector."""
        return sum(math.prod(s.unconstrained_shape) for s in self.latents)

    def split(self, z: Any) -> dict[str, Any]:
        """Cut a flat vector ``(..., ndim)`` into unconstrained site values."""
        return {
            s.name: z[..., s.slice].reshape(z.shape[:-1] + s.unconstrained_shape)
            for s in self.latents
        }

    def site_of(self, name: str) -> str:
        """The latent site that a log density term belongs to; other names as they are.

        The log Jacobian of ``x`` is ``_x_log_det``; within ``scope``, of ``a/x``,
        ``a/_a/x_log_det``.
        """
        for site in self.latents:
            tail = f"_{site.name}_log_det"
            if name.endswith(tail) and site.name.startswith(name.removesuffix(tail)):
                return site.name
        return name

    def sites_at(self, flags: np.ndarray) -> tuple[str, ...]:
        """Names of the sites with any true entry in a flat boolean vector."""
        return tuple(s.name for s in self.latents if np.any(flags[s.slice]))


def lay_out(trace: dict[str, Any]) -> tuple[Layout, Array]:
    """Place the latent sites of a trace in one flat vector, and fill it with their values.

    Raises
    ------
    ValueError
        If there is no latent site, or mutable state.
    DiscreteLatentError
        If a latent site is discrete.
    """
    expected = ("latent", "discrete", "observed", "deterministic", "param", "mutable")
    kinds: dict[str, list[str]] = {kind: [] for kind in expected}
    for name, site in trace.items():
        kinds.setdefault(_kind(site), []).append(name)
    _check_kinds(kinds)
    dtype = jnp.result_type(float)
    sites, pieces, offset = [], [jnp.zeros(0, dtype)], 0
    for name in kinds["latent"]:
        value = jnp.asarray(trace[name]["value"])
        with helpful_support_errors(trace[name]):
            unconstrained = dist.biject_to(trace[name]["fn"].support).inv(value)
        end = offset + unconstrained.size
        sites.append(Site(name, slice(offset, end), unconstrained.shape, value.shape))
        pieces.append(jnp.ravel(unconstrained).astype(dtype))
        offset = end
    computed = deterministic_values(trace)
    dims = {n: axis_plates(trace[n]) for n in (*kinds["latent"], *kinds["observed"])}
    dims |= {n: axis_plates(trace[site], value) for n, (site, value) in computed.items()}
    event_dims = {name: trace[name]["fn"].event_dim for name in kinds["latent"]}
    observed, params = tuple(kinds["observed"]), tuple(kinds["param"])
    samples = {name: site for name, site in trace.items() if site["type"] == "sample"}
    plates = {name: _subsampled_plates(site, trace) for name, site in samples.items()}
    layout = Layout(
        tuple(sites),
        dims,
        event_dims,
        observed,
        tuple(computed),
        params,
        frozenset(name for name, sizes in plates.items() if sizes),
        _constant_scales(samples, plates),
    )
    return layout, jnp.concatenate(pieces)


def deterministic_values(trace: dict[str, Any]) -> dict[str, tuple[str, Array]]:
    """Name -> (site, array) of the deterministic sites; a pytree ``s`` has a ``s.key`` per leaf."""
    found = {}
    for site in (name for name in trace if trace[name]["type"] == "deterministic"):
        for path, value in jax.tree_util.tree_leaves_with_path(trace[site]["value"]):
            tail = jax.tree_util.keystr(path, simple=True, separator=".")
            found[f"{site}.{tail}" if path else site] = (site, jnp.asarray(value))
    return found


def ravel_params(trace: dict[str, Any], names: tuple[str, ...]) -> tuple[Array, Callable[..., Any]]:
    """Unconstrained values of the param sites as one vector, and the way back."""
    dtype = jnp.result_type(float)

    def unconstrain(site: dict[str, Any]) -> Any:
        value = jax.tree.map(lambda x: jnp.asarray(x, dtype), site["value"])
        constraint = _constraint(site)
        return (
            value if constraint is dist.constraints.real else dist.biject_to(constraint).inv(value)
        )

    theta, unravel = ravel_pytree({name: unconstrain(trace[name]) for name in names})
    return theta.astype(dtype), unravel


def constrain_param(site: dict[str, Any], value: Any) -> Any:
    """Value of a param site in the model's space; one without constraint may be any pytree."""
    constraint = _constraint(site)
    return value if constraint is dist.constraints.real else dist.biject_to(constraint)(value)


def is_factor(fn: Any) -> bool:
    """Whether it is the distribution of a ``numpyro.factor``, also in a plate or under a mask."""
    return isinstance(innermost(fn), dist.Unit)


def innermost(fn: Any) -> Any:
    """What a distribution is when plates and masks are taken off."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _constraint(site: dict[str, Any]) -> Any:
    return site["kwargs"].get("constraint", dist.constraints.real)


def _kind(site: dict[str, Any]) -> str:
    if site["type"] != "sample":
        return site["type"]
    if site["is_observed"]:
        return "factor" if is_factor(site["fn"]) else "observed"
    return "discrete" if site["fn"].support.is_discrete else "latent"


def _check_kinds(kinds: dict[str, list[str]]) -> None:
    if kinds["discrete"]:
        raise DiscreteLatentError(tuple(kinds["discrete"]))
    if kinds["mutable"]:
        raise ValueError(
            f"the model has mutable state, which is not supported: {kinds['mutable']}; make it an "
            "argument of the model or a numpyro.param"
        )
    if not kinds["latent"]:
        raise ValueError(
            "the model has no latent sites, so there is nothing to infer; its observed sites are "
            f"{kinds['observed']}. Is a value passed for a site that should be latent?"
        )


def _subsampled_plates(site: dict[str, Any], trace: dict[str, Any]) -> tuple[Any, ...]:
    """Size and subsample size of each subsampled plate that a site stands in."""
    frames = [f for f in site["cond_indep_stack"] if trace.get(f.name, site)["type"] == "plate"]
    sizes = ((trace[frame.name]["args"][0], frame.size) for frame in frames)
    return tuple((size, part) for size, part in sizes if size != part)


def _constant_scales(samples: dict[str, Any], plates: dict[str, Any]) -> dict[str, float]:
    """What ``handlers.scale`` multiplies log densities by, where it is a constant."""
    found = {}
    for name, site in samples.items():
        if isinstance(site["scale"], int | float | np.generic):
            factor = site["scale"] / math.prod(size / part for size, part in plates[name])
            if not math.isclose(factor, 1.0):
                found[name] = float(factor)
    return found


def axis_plates(site: dict[str, Any], value: Any = None) -> tuple[str | None, ...]:
    """Name of the plate that each axis of the site's value runs over, if any."""
    shape = jnp.shape(site["value"] if value is None else value)
    event_dim = site["fn"].event_dim if site["type"] == "sample" else 0
    names: list[str | None] = [None] * len(shape)
    for frame in site["cond_indep_stack"]:
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)
