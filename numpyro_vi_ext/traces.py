"""Draws of a sampler, whatever holds them, as rows of flat unconstrained vectors."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import infer  # in this form: see arguments

from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.layout import Layout, Site
from numpyro_vi_ext.model import Target
from numpyro_vi_ext.tracing import Program, Values

Array = jax.Array

_HOLDERS = (
    "a NumPyro MCMC object that has run, a dict of arrays, or an ArviZ object with a posterior"
)


class Trace(NamedTuple):
    """Draws of the latent sites in the model's space, chain after chain."""

    values: dict[str, np.ndarray]  # site name -> (chains * draws, *site shape)
    chains: int
    draws: int


def read_trace(trace: Any, layout: Layout, group_by_chain: bool | None) -> Trace:
    """Take the latent sites out of whatever holds the draws.

    Parameters
    ----------
    trace : MCMC, mapping, InferenceData or DataTree
        Values in the model's space by name; other names are ignored.
    layout : Layout
        Which sites there must be.
    group_by_chain : bool or None
        Whether the arrays begin with (chain, draw) or with (draw,); None tells by their shapes.

    Raises
    ------
    TypeError
        If `trace` is none of these, or a value is not made of real numbers.
    KeyError
        If a latent site is missing.
    ValueError
        If there are no draws, a shape is wrong, or a value is not finite.
    """
    arrays = _arrays(trace)
    missing = [s.name for s in layout.latents if s.name not in arrays]
    if missing:
        raise KeyError(
            f"the trace has no values of the latent sites {missing}; it has {list(arrays)}"
        )
    leads, values = {}, {}
    for site in layout.latents:
        values[site.name] = value = _real_array(site.name, arrays[site.name])
        leads[site.name] = _leading(site, value, group_by_chain)
    if len(set(leads.values())) > 1:
        raise ValueError(f"the sites of the trace differ in their numbers of draws: {leads}")
    *chains, draws = next(iter(leads.values()))
    chains = chains[0] if chains else 1
    if chains * draws == 0:
        raise ValueError("the trace has no draws")
    rows = {s.name: values[s.name].reshape(chains * draws, *s.shape) for s in layout.latents}
    for name, value in rows.items():
        bad = ~np.isfinite(value.reshape(len(value), -1)).all(1)
        _refuse(name, bad, "NaN or infinite")
    return Trace(rows, chains, draws)


def unconstrain_rows(target: Target, theta: Array, values: dict[str, np.ndarray]) -> Array:
    """Flat unconstrained vectors of rows of latent values, shape (rows, ndim).

    Each row is taken to the unconstrained space by itself, for a support may depend on other
    sites.

    Parameters
    ----------
    target : Target
        The model.
    theta : array
        The model's own params, unconstrained.
    values : dict
        Site name -> array of shape (rows, *site shape), in the model's space.

    Raises
    ------
    ValueError
        If a value is outside the support of its site.
    """
    unconstrain, evaluate = target.program.unconstrain, target.program.evaluate
    constants = (unconstrain.constants, evaluate.constants)
    z, inside = _unconstrain(target.program)(values, theta, target.data, constants)
    for name, flags in inside.items():
        _refuse(name, ~np.asarray(flags), "outside the support")
    return z


@functools.lru_cache(maxsize=16)
def _unconstrain(program: Program) -> Any:
    def many(values: Values, theta: Array, data: Any, constants: Any) -> Any:
        key = jax.random.key(0)

        def one(row: Values) -> Any:
            z, inside = program.unconstrain.apply(constants[0], row, theta, key, data)
            found = program.evaluate.apply(constants[1], z, theta, key, data).values
            # A sum to one, say, holds only up to rounding: being found again is enough.
            return z, {
                s.name: jnp.isfinite(z[s.slice]).all()
                & (inside[s.name] | jnp.allclose(found[s.name], row[s.name], 1e-3, 1e-5))
                for s in program.layout.latents
            }

        return in_blocks(one, values)

    return jax.jit(many)


def _arrays(trace: Any) -> Mapping[str, Any]:
    """Name -> array, leading axes as they come."""
    if isinstance(trace, infer.MCMC):
        return _mcmc_draws(trace)
    # A posterior that is given by itself may have a variable of the name "posterior".
    holder: Any
    for holder in (getattr(trace, "posterior", None), trace):
        if getattr(holder, "data_vars", None):  # of ArviZ, 0.x or 1.x, or a dataset by itself
            return _Renamed({str(k): _draws_first(v) for k, v in holder.data_vars.items()})
        if isinstance(holder, Mapping):
            _check_ungrouped(holder)
            return holder
    raise TypeError(f"trace must be {_HOLDERS}, got {type(trace).__name__}")


def _mcmc_draws(mcmc: infer.MCMC) -> Mapping[str, Any]:
    """Draws by chain, of an MCMC object that has made some."""
    try:
        draws = mcmc.get_samples(group_by_chain=True)
    except (AssertionError, TypeError):  # the latter where Python skips assertions
        draws = {}
    if not any(np.any(x) for x in jax.tree.leaves(draws)):  # a warm-up alone leaves zeros
        raise ValueError("the MCMC object has no draws yet: call mcmc.run(key, ...) first")
    if not isinstance(draws, Mapping):
        raise TypeError(
            "the MCMC object has draws without names, for its kernel was made of a potential_fn; "
            "pass a dict from site name to array"
        )
    return draws


def _check_ungrouped(holder: Mapping[Any, Any]) -> None:
    groups = [name for name, value in holder.items() if hasattr(value, "data_vars")]
    if groups:
        raise ValueError(f"the trace has no posterior, only the groups {groups}")


class _Renamed(dict[str, Any]):
    """Variables of a DataTree, in whose names a dot stands for the slash of a scoped site."""

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or str(name).replace("/", ".") in self.keys()

    def __missing__(self, name: str) -> Any:
        return self[name.replace("/", ".")]


def _draws_first(array: Any) -> Any:
    # "sample" is what az.extract makes of the other two; beside them it is a plate of the model.
    leading = [dim for dim in ("chain", "draw") if dim in array.dims] or ["sample"]
    return array.transpose(*leading, ..., missing_dims="ignore").values


def _real_array(name: str, given: Any) -> np.ndarray:
    try:
        value = np.asarray(given)
        if value.dtype.kind in "biuf" or jnp.issubdtype(value.dtype, jnp.floating):
            with np.errstate(over="ignore"):  # an overflow is refused as infinite
                return value.astype(jnp.result_type(float), copy=False)
        what = f"an array of dtype {value.dtype}"
    except (TypeError, ValueError):  # ragged, or not an array at all
        what = f"{type(given).__name__} that is no array"
    raise TypeError(f"the trace must have real numbers at the site {name!r}, got {what}")


def _leading(site: Site, value: np.ndarray, group_by_chain: bool | None) -> tuple[int, ...]:
    """The axes before those of the site: (draws,) or (chains, draws)."""
    count = value.ndim - len(site.shape)
    allowed = (1, 2) if group_by_chain is None else (1 + bool(group_by_chain),)
    if count not in allowed or value.shape[count:] != site.shape:
        layouts = {1: "(draws, *shape)", 2: "(chains, draws, *shape)"}
        raise ValueError(
            f"the trace has an array of shape {value.shape} for the site {site.name!r} of shape "
            f"{site.shape}; expected {' or '.join(layouts[n] for n in allowed)}"
        )
    return value.shape[:count]


def _refuse(name: str, bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise ValueError(
            f"the trace is {what} at the site {name!r} in {bad.sum():,d} of {len(bad):,d} draws; "
            "drop these draws, or look into the sampler"
        )
