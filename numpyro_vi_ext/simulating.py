"""Data sets that a model produces under its prior, and where they go among its arguments."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.cache import find_traced
from numpyro_vi_ext.model import Model
from numpyro_vi_ext.predict import draw_prior
from numpyro_vi_ext.rerun import Elsewhere, find_rerun
from numpyro_vi_ext.tracing import Program, Values

Array = jax.Array
Places = dict[str, int]  # observed site -> position of the leaf of the arguments that is its data


class Simulated(NamedTuple):
    """Draws from the prior, and the model with what it produced there as its data."""

    program: Program
    data: tuple[Array, ...]  # its data arguments, those that change included
    changed: tuple[int, ...]  # positions of these among them
    stacks: tuple[Array, ...]  # their values, one data set after the other
    truth: Values  # site -> values that the data were made with, shape (data sets, *site shape)
    finite: np.ndarray  # for each data set, whether all its numbers are
    models: "Rebinder"

    def model(self, i: int) -> Model:
        """The model bound to the i-th data set."""
        return self.models.at([stack[i] for stack in self.stacks])


class Rebinder(NamedTuple):
    """A model of whose arguments some leaves are replaced."""

    model: Model
    positions: tuple[int, ...]

    def at(self, values: Any) -> Model:
        """The model with these values there."""
        arguments = self.model.arguments
        leaves = jax.tree.leaves((arguments.args, arguments.kwargs))
        for position, value in zip(self.positions, values, strict=True):
            leaves[position] = value
        args, kwargs = jax.tree.unflatten(arguments.treedef, leaves)
        return Model(self.model.fn, *args, **kwargs)


def simulate(
    model: Model, observed: Mapping[str, str] | None, names: Any, key: Array, count: int
) -> Simulated:
    """Draw from the prior, and put what the observed sites are there in the place of their data.

    Parameters
    ----------
    model : Model
        Bound to data of the right shapes; their values do not matter.
    observed : mapping, optional
        Observed site -> argument that is its data, where that cannot be told.
    names : sequence of str, optional
        Latent or deterministic sites to keep; default all latent ones.
    key : JAX key
    count : int
        Data sets.

    Raises
    ------
    KeyError
        If a name is unknown.
    TypeError
        If `observed` is not a mapping.
    ValueError
        If the model is not one from whose prior data can be drawn and put in place.
    """
    _check_batches(model.arguments)
    program, bound = find_traced(model.fn, model.arguments, Program, (Program,))
    _check_generative(program)
    names = _known_names(program, names)
    places = _find_places(program, bound, observed)
    where = _find_prior(model)
    _check_independent(where, bound, places, names)
    drawn = draw_prior(where, {}, key, count)
    stacks = {
        site: drawn[site].astype(jnp.promote_types(drawn[site].dtype, bound.leaves[i].dtype))
        for site, i in places.items()
    }
    truth = {name: drawn[name] for name in names}
    latents = {s.name: drawn[s.name] for s in program.layout.latents}
    finite = np.logical_and.reduce([_is_finite(x) for x in (latents | stacks | truth).values()])
    return _put(Rebinder(model, tuple(places.values())), stacks, truth, finite)


def _put(models: Rebinder, stacks: Values, truth: Values, finite: np.ndarray) -> Simulated:
    """Check that the simulated data are the data of the sites that they were drawn for."""
    first = int(np.argmax(finite))
    new = models.at([stack[first] for stack in stacks.values()])
    program, bound = find_traced(new.fn, new.arguments, Program, (Program,))
    fixed = [bound.names[i] for i in models.positions if i not in bound.inputs]
    if fixed:
        raise ValueError(
            f"the model needs the values of {fixed} in Python, for a shape or a condition, so that "
            "simulated data cannot take their place in compiled code: compute what is needed "
            "beforehand and pass it as an argument of its own"
        )
    found = _observed(program, bound.data)
    others = [s for s, x in stacks.items() if not _same(found[s], x[first])]
    if others:
        raise ValueError(
            f"with simulated data in {[bound.names[i] for i in models.positions]} the sites "
            f"{others} have other data than those: one argument cannot hold the data of two sites, "
            "nor what one is computed from"
        )
    changed = tuple(bound.inputs.index(i) for i in models.positions)
    return Simulated(program, bound.data, changed, (*stacks.values(),), truth, finite, models)


def _check_batches(arguments: Arguments) -> None:
    cut = [name for name, plan in zip(arguments.names, arguments.plans, strict=True) if plan]
    if cut:
        raise ValueError(
            f"vsbc cannot be applied to minibatches, but {cut} are a Minibatch or a Stream: pass "
            "arrays, small enough to be fitted in full many times over"
        )


def _check_generative(program: Program) -> None:
    """Refuse models that are more, or less, than a prior and a likelihood that can be drawn."""
    layout = program.layout
    latents = {s.name for s in layout.latents}
    terms = {layout.site_of(name) for name in program.evaluate.shapes.site_log_prob}
    factors = sorted(terms - latents - {*layout.observed})
    if factors:
        raise ValueError(
            f"data cannot be drawn from the factors {factors}: vsbc needs a model all of whose "
            "terms are sample sites"
        )
    if not layout.observed:
        raise ValueError(
            "the model has no observed sites, so there are no data to simulate: pass data of the "
            "right shape, whose values do not matter"
        )
    if layout.params:
        raise ValueError(
            f"the params {[*layout.params]} have no prior from which they could be drawn: make "
            "them sample sites for vsbc"
        )
    if layout.subsampled or program.is_random:
        raise ValueError(
            "vsbc cannot be applied to a model that draws a subsample inside: leave "
            "subsample_size out, so that all rows count"
        )


def _known_names(program: Program, names: Any) -> tuple[str, ...]:
    latents = [s.name for s in program.layout.latents]
    known = [*latents, *program.layout.deterministics]
    names = latents if names is None else [names] if isinstance(names, str) else [*names]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise KeyError(f"var_names names {unknown}, but latent and deterministic sites are {known}")
    return tuple(dict.fromkeys(names))


def _find_places(program: Program, bound: Arguments, given: Mapping[str, str] | None) -> Places:
    """The argument that is the data of each observed site."""
    if not isinstance(given, Mapping | None):
        raise TypeError(
            f"observed must be a dict from observed site to argument, got {type(given).__name__}"
        )
    given, sites = dict(given or {}), program.layout.observed
    unknown = sorted(given.keys() - {*sites})
    if unknown:
        raise KeyError(f"observed names {unknown}, but the observed sites are {[*sites]}")
    data = [name for name, is_data in zip(bound.names, bound.is_data, strict=True) if is_data]
    strange = sorted({*given.values()} - {*data})
    if strange:
        raise KeyError(f"observed names the arguments {strange}, but those with data are {data}")
    values = _observed(program, bound.data)
    none = jax.tree.map(lambda x: False, program.evaluate.shapes)
    places = {}
    for site in sites:
        flags = none._replace(observed={**none.observed, site: True})
        *_, used = program.evaluate.used_by(flags)
        read = [i for i, is_used in zip(bound.inputs, used, strict=True) if is_used]
        fitting = [i for i in read if _same(bound.leaves[i], values[site])]
        places[site] = _choose(site, bound.names, read, fitting, given.get(site))
    return places


def _choose(
    site: str, names: tuple[str, ...], read: list[int], fitting: list[int], given: str | None
) -> int:
    """One of the `fitting` arguments, whose values are the data, of those that the data `read`."""
    if not read:
        raise ValueError(
            f"the data of the site {site!r} come from no argument that holds data, so that "
            "simulated ones cannot take their place: make them an argument of the model, an array "
            "or a float (an int, a list or a table counts as part of the program)"
        )
    wanted = {given} if given else {site}
    best = [i for i in fitting if names[i] in wanted] or ([] if given else fitting)
    if not best:
        wrong = repr(given) if given else "none of them"
        raise ValueError(
            f"the data of the site {site!r} are computed from {[names[i] for i in read]}, and not "
            f"equal to {wrong}: pass them as they are observed, so that simulated data can take "
            "their place"
        )
    if len(best) > 1:
        raise ValueError(
            f"the data of the site {site!r} may come from {[names[i] for i in best]}: say which, "
            f"as in observed={{{site!r}: {names[best[0]]!r}}}"
        )
    return best[0]


def _find_prior(model: Model) -> Elsewhere:
    try:
        return find_rerun(model.fn, model.arguments, ({}, {}), "replicate", {})
    except Exception as error:
        error.add_note(
            "vsbc draws all sites from the prior, so that every prior has to be a proper one."
        )
        raise


def _check_independent(
    where: Elsewhere, bound: Arguments, places: Places, names: tuple[str, ...]
) -> None:
    """Refuse sites that are drawn given the data which are to be replaced."""
    rerun = where.rerun
    none = jax.tree.map(lambda x: False, rerun.shapes)
    replaced = [any(x is bound.leaves[i] for i in places.values()) for x in where.data]
    bad = []
    for field in ("drawn", "computed"):
        for name in getattr(none, field).keys() & {*places, *rerun.shapes.drawn, *names}:
            flags = none._replace(**{field: {**getattr(none, field), name: True}})
            *_, used = rerun.evaluate.used_by(flags)
            bad += [name] if any(map(bool.__and__, used, replaced)) else []
    if bad:
        raise ValueError(
            f"the sites {sorted(bad)} cannot be drawn without the data that are to be simulated, "
            f"{[bound.names[i] for i in places.values()]}: a prior that looks at them, or a time "
            "series in which each value is drawn given the observed one before it"
        )


def _observed(program: Program, data: tuple[Array, ...]) -> Values:
    """Data of the observed sites."""
    shapes = program.start.shapes
    z, theta = (jnp.zeros(x.shape, x.dtype) for x in shapes)
    return program.evaluate(z, theta, jax.random.key(0), data).observed


def _same(x: Array, y: Array) -> bool:
    numbers = np.asarray(x), np.asarray(y)
    return numbers[0].shape == numbers[1].shape and np.array_equal(*numbers, equal_nan=True)


def _is_finite(stack: Array) -> np.ndarray:
    """Whether all numbers along the leading axis are."""
    rows = np.asarray(stack).reshape(len(stack), math.prod(stack.shape[1:]))
    return np.asarray(np.isfinite(rows).all(axis=1))
