"""Into ArviZ, whichever of its two lines is installed."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numpyro_vi_ext.tracing import Layout

UNCONSTRAINED = "__unconstrained"  # what is added to a site's name

Shape = tuple[int, ...]
Axes = Mapping[str, tuple[str | None, ...]]  # variable -> plate of each axis
Names = Mapping[str, Sequence[str | None]]  # variable -> dimension names


def to_inference_data(
    layout: Layout,
    draws: Mapping[str, Any],
    observed: Mapping[str, Any],
    data: Mapping[str, Any],
    losses: np.ndarray,
    attrs: Mapping[str, Any],
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Names | None = None,
) -> Any:
    """Draws, data and losses as the object the installed ArviZ works with.

    Parameters
    ----------
    layout : Layout
        Names the axes.
    draws : dict
        Site name -> draws, shape (draws, *site shape); unconstrained ones with their suffix.
    observed : dict
        Observed site -> its values.
    data : dict
        The model's data arguments; those that hold a site's observed values are left out.
    losses : array, shape (steps,)
        Loss history.
    attrs : dict
        Facts of the fit, for the attributes of the posterior.
    coords, dims : dict, optional
        Win over the names taken from the model's plates.
    """
    axes = {**layout.dims, **_unconstrained_axes(layout)}
    posterior = {name: np.asarray(value)[None] for name, value in draws.items()}
    constant = {k: v for k, v in data.items() if not _is_observed(k, v, observed)}
    steps = np.arange(1, len(losses) + 1)
    groups = {
        "posterior": to_dataset(posterior, axes, coords, dims, leading=("chain", "draw")),
        "observed_data": to_dataset(observed, axes, coords, dims),
        "constant_data": to_dataset(constant, {}, coords, dims),
        "fit_stats": to_dataset({"loss": losses}, {}, {"step": steps}, leading=("step",)),
    }
    groups["posterior"].attrs.update(
        created_at=datetime.datetime.now(datetime.UTC).isoformat(),
        inference_library="numpyro_vi_ext",
        **attrs,
    )
    kept = {k: v for k, v in groups.items() if v.variables or k == "posterior"}
    return _assemble(kept)


def by_site(layout: Layout, flat: np.ndarray) -> Any:
    """A flat unconstrained vector by latent site, as an ``xarray.Dataset``."""
    return to_dataset(layout.split(flat), _unconstrained_axes(layout, suffix=""))


def to_dataset(
    values: Mapping[str, Any],
    axes: Axes,
    coords: Mapping[str, Any] | None = None,
    dims: Names | None = None,
    *,
    leading: tuple[str, ...] = (),
) -> Any:
    """Arrays as an ``xarray.Dataset`` whose dimensions are named after plates.

    Not ArviZ's own converters: they name dimensions for all groups at once, where an observed
    site and an argument of the same name can differ in shape, and warn of a sample of size zero.

    Parameters
    ----------
    values : dict
        Variable -> array.
    axes : dict
        Variable -> name of the plate of each axis, or None.
    coords, dims : dict, optional
        The user's, as ArviZ takes them; names that do not occur are ignored, as ArviZ does.
    leading : tuple of str
        Dimensions that all variables begin with, besides those.

    Raises
    ------
    ValueError
        If `dims` names more axes than a variable has, a coordinate has the wrong length, or a
        variable has the name of a leading dimension.
    """
    import xarray as xr

    values = {name: np.asarray(value) for name, value in values.items()}
    reserved = [name for name in leading if name in values]
    if reserved:
        raise ValueError(
            f"ArviZ has dimensions named {list(leading)}, so no site can be named {reserved[0]!r} "
            "there: rename the site, or use sample_dict"
        )
    inner = {name: value.shape[len(leading) :] for name, value in values.items()}
    named = _name_axes(inner, axes, dims or {}, {*values, *leading})
    variables = {name: ((*leading, *named[name]), value) for name, value in values.items()}
    sizes = {d: n for names, v in variables.values() for d, n in zip(names, v.shape, strict=True)}
    index = {dim: np.arange(size) for dim, size in sizes.items() if dim not in values}
    given = {dim: value for dim, value in (coords or {}).items() if dim in sizes}
    return xr.Dataset(variables, {**index, **given})


def _name_axes(
    shapes: Mapping[str, Shape], axes: Axes, dims: Names, taken: set[str]
) -> dict[str, list[str]]:
    """Name every axis: the user's name, else the plate's, else a default like ArviZ's.

    A plate's name is not used where it means something else already: a variable, another axis of
    the same variable, or an axis of another length.
    """
    sizes: dict[str, int] = {}
    found = {}
    for name, shape in shapes.items():
        asked = dims.get(name, ())
        given = [asked] if isinstance(asked, str) else list(asked)
        if len(given) > len(shape):
            raise ValueError(f"dims[{name!r}] names {given}, but the variable has shape {shape}")
        own: list[str] = []
        for i, size in enumerate(shape):
            plate = axes[name][i] if i < len(axes.get(name, ())) else None
            dim = plate or f"{name}_dim_{i}"
            if dim in taken or dim in own or sizes.get(dim, size) != size:
                dim = f"{name}_dim_{i}"
            while dim in taken:
                dim += "_"
            dim = (given[i] or dim) if i < len(given) else dim
            sizes[dim] = size
            own.append(dim)
        found[name] = own
    return found


def _unconstrained_axes(layout: Layout, suffix: str = UNCONSTRAINED) -> Axes:
    """Plates come first in a shape, so they keep their places where the event shape differs."""
    return {
        s.name + suffix: layout.dims[s.name][: len(s.unconstrained_shape)] for s in layout.latents
    }


def _is_observed(name: str, value: Any, observed: Mapping[str, Any]) -> bool:
    """Whether a data argument is what some site observes; a lone number only if the name fits."""
    return any(
        np.array_equal(value, seen) and (np.size(value) > 1 or name == site)
        for site, seen in observed.items()
    )


def _assemble(groups: dict[str, Any]) -> Any:
    import arviz as az

    if int(az.__version__.partition(".")[0]) < 1:
        return az.InferenceData(**groups)
    import xarray as xr

    def without_slash(dataset: Any) -> Any:  # which a DataTree reserves for paths
        names = {*dataset.variables, *dataset.dims}
        return dataset.rename({n: n.replace("/", ".") for n in names if "/" in n})

    return xr.DataTree.from_dict({name: without_slash(group) for name, group in groups.items()})
