"""Into ArviZ, whichever of its two lines is installed."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from numpyro_vi_ext.tracing import Layout

UNCONSTRAINED = "__unconstrained"  # what is added to a site's name

Shape = tuple[int, ...]
Axes = Mapping[str, tuple[str | None, ...]]  # variable -> plate of each axis
Names = Mapping[str, Sequence[str | None]]  # variable -> dimension names


class Groups:
    """Collects what becomes one object of the installed ArviZ.

    Parameters
    ----------
    coords, dims : dict, optional
        The user's, as ArviZ takes them; they win over names taken from the model's plates.

    Raises
    ------
    TypeError
        If these are something else.
    """

    def __init__(self, coords: Mapping[str, Any] | None = None, dims: Names | None = None) -> None:
        _check_mapping("coords", coords, "labels", _is_list)
        _check_mapping("dims", dims, "a list of names", lambda x: isinstance(x, str) or _is_list(x))
        self._coords, self._dims = coords, dims
        self._datasets: dict[str, Any] = {}

    def __contains__(self, group: str) -> bool:
        return group in self._datasets

    def add_draws(self, group: str, values: Mapping[str, Any], axes: Axes) -> None:
        """Add draws of sites, each of shape (draws, *site shape), as one chain.

        `axes` has the plate of each axis of a site.
        """
        one_chain = {name: np.asarray(value)[None] for name, value in values.items()}
        self._add(group, one_chain, axes, leading=("chain", "draw"))

    def add_data(self, group: str, values: Mapping[str, Any], axes: Axes | None = None) -> None:
        """Add arrays as they are."""
        self._add(group, values, axes or {})

    def add_losses(self, losses: np.ndarray) -> None:
        """Add the loss history, in group ``fit_stats``."""
        steps = {"step": np.arange(1, len(losses) + 1)}
        values = {"loss": losses}
        self._datasets["fit_stats"] = to_dataset(values, {}, steps, leading=("step",))

    def assemble(self, attrs: Mapping[str, Any]) -> Any:
        """The object, with these facts among the attributes of each group."""
        now = datetime.datetime.now(datetime.UTC).isoformat()
        for dataset in self._datasets.values():
            dataset.attrs.update(created_at=now, **attrs)
        kept = {k: v for k, v in self._datasets.items() if v.variables or k == "posterior"}
        return _assemble(kept, {"created_at": now, **attrs})

    def _add(
        self, group: str, values: Mapping[str, Any], axes: Axes, leading: tuple[str, ...] = ()
    ) -> None:
        lenient = group.startswith("predictions")  # of other data, with other labels
        self._datasets[group] = to_dataset(
            values, axes, self._coords, self._dims, leading=leading, lenient=lenient
        )


def constant_data(data: Mapping[str, Any], observed: Mapping[str, Any]) -> dict[str, Any]:
    """Data arguments that do not hold the values of an observed site."""
    return {k: v for k, v in data.items() if not _is_observed(k, v, observed)}


def by_site(layout: Layout, flat: np.ndarray) -> Any:
    """A flat unconstrained vector by latent site, as an ``xarray.Dataset``."""
    return to_dataset(layout.split(flat), unconstrained_axes(layout, suffix=""))


def summarise(
    values: Mapping[str, Any],
    axes: Axes,
    quantiles: Sequence[float],
    var_names: Sequence[str] | None,
) -> Any:
    """Mean, sd and quantiles over draws, a row per number, as a ``pandas.DataFrame``.

    Parameters
    ----------
    values : dict
        Site name -> draws, shape (draws, *site shape).
    axes : dict
        Variable -> plate of each axis.
    quantiles : sequence of float
        Between 0 and 1.
    var_names : list of str or None
        The sites to show.
    """
    import pandas as pd

    names = _site_names(var_names, values)
    arrays = {name: np.asarray(values[name]) for name in names}
    shown = {k: x if x.dtype.kind == "f" else x.astype(float) for k, x in arrays.items() if x.size}
    labels = {f"{100 * q:g}%": q for q in _as_quantiles(quantiles)}
    if not shown:
        return pd.DataFrame(columns=["mean", "sd", *labels], dtype=float)
    one_chain = {name: value[None] for name, value in shown.items()}
    dataset = to_dataset(one_chain, axes, leading=("chain", "draw"))
    table = _arviz().summary(dataset, kind="stats", round_to="none")[["mean", "sd"]]
    for label, q in labels.items():
        table[label] = np.concatenate(
            [np.quantile(value, q, axis=0).ravel() for value in shown.values()]
        )
    return table


def smooth_weights(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto smoothed log weights that sum to one, and their k-hat, by ArviZ.

    `log_weights` has shape (n,), n at least 25, with no ties in its largest fifth.
    """
    az = _arviz()
    with np.errstate(all="ignore"):  # both overflow, on the way to finite numbers
        if _is_old(az):
            smoothed, khat = az.psislw(log_weights.copy())
        else:
            from arviz_stats.base import array_stats  # pyright: ignore

            smoothed, khat = array_stats.psislw(-log_weights)  # wants log likelihoods, as for LOO
    return np.asarray(smoothed), float(khat)


def to_dataset(
    values: Mapping[str, Any],
    axes: Axes,
    coords: Mapping[str, Any] | None = None,
    dims: Names | None = None,
    *,
    leading: tuple[str, ...] = (),
    lenient: bool = False,
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
    lenient : bool
        Whether to leave out `coords` of another length, rather than to refuse them.

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
    given = {
        dim: value
        for dim, value in (coords or {}).items()
        if dim in sizes and not (lenient and len(value) != sizes[dim])
    }
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


def unconstrained_axes(layout: Layout, suffix: str = UNCONSTRAINED) -> Axes:
    """Plates come first in a shape, so they keep their places where the event shape differs."""
    return {
        s.name + suffix: layout.dims[s.name][: len(s.unconstrained_shape)] for s in layout.latents
    }


def _check_mapping(name: str, given: Any, what: str, is_valid: Callable[[Any], bool]) -> None:
    if not isinstance(given, Mapping | None):
        raise TypeError(f"{name} must be a dict, got {type(given).__name__}")
    for key, value in (given or {}).items():
        if not is_valid(value):
            raise TypeError(f"{name}[{key!r}] must be {what}, got {value!r}")


def _is_list(value: Any) -> bool:
    return np.ndim(value) == 1


def _site_names(var_names: Any, known: Mapping[str, Any]) -> list[str]:
    if var_names is None:
        return [*known]
    names = [var_names] if isinstance(var_names, str) else var_names
    if not _is_list(names):
        raise TypeError(f"var_names must be a list of site names, got {var_names!r}")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise KeyError(f"there are no sites {unknown} to summarise; there are {[*known]}")
    return [*names]


def _as_quantiles(quantiles: Any) -> list[float]:
    if not _is_list(quantiles) or np.asarray(quantiles).dtype.kind not in "iuf":
        raise TypeError(f"quantiles must be a list of numbers, got {quantiles!r}")
    outside = [q for q in quantiles if not 0 <= q <= 1]
    if outside:
        raise ValueError(f"quantiles must be between 0 and 1, got {outside}")
    return [float(q) for q in quantiles]


def _is_observed(name: str, value: Any, observed: Mapping[str, Any]) -> bool:
    """Whether a data argument is what some site observes; a lone number only if the name fits."""
    return any(
        np.array_equal(value, seen) and (np.size(value) > 1 or name == site)
        for site, seen in observed.items()
    )


def _assemble(groups: dict[str, Any], attrs: dict[str, Any]) -> Any:
    az = _arviz()
    if _is_old(az):
        return az.InferenceData(attrs=attrs, **groups)
    import xarray as xr

    def without_slash(dataset: Any) -> Any:  # which a DataTree reserves for paths
        names = {*dataset.variables, *dataset.dims}
        return dataset.rename({n: n.replace("/", ".") for n in names if "/" in n})

    tree = xr.DataTree.from_dict({name: without_slash(group) for name, group in groups.items()})
    tree.attrs.update(attrs)
    return tree


def _arviz() -> Any:
    """ArviZ of either line, which have different types; loaded at its first use."""
    import arviz

    return arviz


def _is_old(az: Any) -> bool:
    """Whether the line of ArviZ is that before 1.0."""
    return int(az.__version__.partition(".")[0]) < 1
