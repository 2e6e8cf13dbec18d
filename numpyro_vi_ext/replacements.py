"""What stands in for a model's arguments, and for its latent sites, when it is run again."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.layout import Site
from numpyro_vi_ext.model import Model, Target


def split_replacements(
    model: Model, target: Target, replacements: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell replaced arguments from replaced latent sites.

    Parameters
    ----------
    model, target
        The model in question.
    replacements : mapping, optional
        Argument or latent site -> value. A name that is both is the argument.

    Returns
    -------
    arguments : dict
        Argument -> value; what comes for an array is an array.
    latents : dict
        Latent site -> value in the model's space.

    Raises
    ------
    KeyError
        If a name is neither.
    TypeError
        If `replacements` is not a mapping, or a value not numeric that has to be.
    ValueError
        If what comes for an array is none, or has another number of axes; if a latent's value has
        not the shape of its site, with the arguments as they were.
    """
    if not isinstance(replacements, Mapping | None):
        raise TypeError(
            "more_replacements must be a dict from argument or latent site to value, got "
            f"{type(replacements).__name__}"
        )
    known, passed = model.arguments.known, model.arguments.by_name
    sites = {s.name: s for s in target.layout.latents}
    arguments, latents = {}, {}
    for name, value in (replacements or {}).items():
        if name in known or (model.arguments.takes_any and name not in sites):
            arguments[name] = _argument(name, value, passed.get(name))
        elif name in sites:
            latents[name] = value
        else:
            raise KeyError(
                f"more_replacements names {name!r}, which is neither an argument of the model "
                f"({sorted(known)}) nor a latent site ({[*sites]}){_what_it_is(target, name)}"
            )
    fits = {name: _latent(sites[name], v, not arguments) for name, v in latents.items()}
    return arguments, fits


def _argument(name: str, value: Any, before: Any) -> Any:
    if value is None or not _is_array(before):
        return value
    if not isinstance(value, jax.Array | np.ndarray | type(before)):  # a list, say, or a table
        value = _as_array(name, value, before.dtype)
    if value.ndim != before.ndim:
        raise ValueError(
            f"more_replacements[{name!r}] has shape {value.shape}, but the argument had shape "
            f"{before.shape}: the number of axes must stay {before.ndim}"
        )
    return value


def _is_array(value: Any) -> bool:
    return isinstance(getattr(value, "dtype", None), np.dtype) and np.ndim(value) > 0


def _as_array(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    got = type(value).__name__
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        raise ValueError(f"more_replacements[{name!r}] is a {got} that is no array") from None
    if jnp.issubdtype(dtype, np.number) and array.dtype.kind not in "biuf":
        raise TypeError(
            f"more_replacements[{name!r}] must be numeric, got a {got} of dtype {array.dtype}"
        )
    return array


def _latent(site: Site, value: Any, same_arguments: bool) -> jax.Array:
    try:
        value = jnp.asarray(value, jnp.result_type(float))
    except (TypeError, ValueError):
        got = type(value).__name__
        raise TypeError(f"more_replacements[{site.name!r}] must be numeric, got {got}") from None
    try:
        return jnp.broadcast_to(value, site.shape)
    except ValueError:
        if not same_arguments:  # with other arguments the site may have another shape
            return value
        raise ValueError(
            f"more_replacements[{site.name!r}] has shape {value.shape}, but the site has shape "
            f"{site.shape}"
        ) from None


def _what_it_is(target: Target, name: str) -> str:
    layout = target.layout
    if name in layout.observed:
        return "; it is an observed site, whose data are an argument or part of the model"
    if name in layout.deterministics:
        return "; it is a deterministic site, which follows from the others"
    return "; it is a param of the model, and keeps its value" if name in layout.params else ""
