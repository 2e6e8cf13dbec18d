"""Evaluating a *node* under q: a site by name, a function of site values, or several of them."""

import functools
import logging
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.cache import Surroundings
from numpyro_vi_ext.evaluate import evaluate_draw, over_draws, rerun_draw
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.identity import Fingerprint, fingerprint, package_of
from numpyro_vi_ext.model import Target
from numpyro_vi_ext.recording import Inputs, Recorded
from numpyro_vi_ext.rerun import Elsewhere, Rerun
from numpyro_vi_ext.tracing import Program

Array = jax.Array

_log = logging.getLogger("numpyro_vi_ext")
_MOST_NODES = 64


class SiteValues(dict[str, Array]):
    """Values of all sites by name: what a node that is a function gets."""

    def __missing__(self, name: str) -> Array:
        raise KeyError(_no_site(name, self))


jax.tree_util.register_pytree_with_keys(  # so that a jitted function can be a node
    SiteValues,
    lambda values: ([(jax.tree_util.DictKey(k), v) for k, v in values.items()], tuple(values)),
    lambda names, values: SiteValues(zip(names, values, strict=True)),
)


class _Entry(NamedTuple):
    key: tuple[Any, ...]
    surroundings: Surroundings
    recorded: Recorded


_lock = threading.RLock()
_entries: list[_Entry] = []  # the most recently used last


def sample_node(
    target: Target,
    point: Point,
    node: Any,
    key: Array,
    size: int | None,
    elsewhere: Elsewhere | None = None,
    block_size: int | None = None,
) -> Any:
    """Evaluate a node at draws from q.

    Parameters
    ----------
    target, point
        The model and q.
    node : str, callable, or list, tuple or dict of nodes
        What to evaluate.
    key : JAX key
        For the draws.
    size : int or None
        Number of draws; None evaluates one, without the leading axis.
    elsewhere : Elsewhere, optional
        Where to evaluate the model instead.
    block_size : int or None
        Draws evaluated at once.
    """
    recorded, rerun, inputs = _parts(target, node, elsewhere)
    return _at_draws(target.program, rerun, recorded, size, block_size)(point, inputs, key)


def evaluate_over_rows(
    target: Target,
    rows: Array,
    theta: Array,
    node: Any,
    elsewhere: Elsewhere | None = None,
    block_size: int | None = None,
) -> Any:
    """Evaluate a node at flat unconstrained vectors in their order, shape (n, ndim).

    `theta` has the model's own params, unconstrained; the others are those of `sample_node`.
    """
    recorded, rerun, inputs = _parts(target, node, elsewhere)
    return _at_rows(target.program, rerun, recorded, block_size)(rows, theta, inputs)


def _parts(
    target: Target, node: Any, elsewhere: Elsewhere | None
) -> tuple[Recorded, Rerun | None, Any]:
    """The node as a program, what it runs on, and all the arrays they read."""
    if elsewhere is None:
        recorded = record_node(node, target.program, target.program.evaluate.shapes.sites)
        _check_known(recorded, target)
        return recorded, None, (target.inputs, (), recorded.constants)
    rerun = elsewhere.rerun
    recorded = record_node(node, rerun, rerun.shapes.sites)
    return recorded, rerun, (target.inputs, elsewhere.inputs, recorded.constants)


def _check_known(recorded: Recorded, target: Target) -> None:
    """Refuse a node that depends on sites of which only the values for a batch are known."""
    if target.partial:
        (used,) = recorded.used_by(jax.tree.map(lambda x: True, recorded.shapes))
        names = sorted(name for name in target.partial if used[name])
        if names:
            target.check_data(f"the values of the sites {names} need")


def record_node(node: Any, owner: Any, shapes: dict[str, Any]) -> Recorded:
    """The node as a JAX program of the site values; the same one for the same node.

    Nodes are the same if their functions do, and refer to, the same.

    Parameters
    ----------
    node
        As for `sample_node`.
    owner : Program or Rerun
        What computes the site values.
    shapes : dict
        Site -> shape and dtype.

    Raises
    ------
    TypeError
        If a part of the node is neither a name nor callable.
    KeyError
        If a name is not that of a site.
    """
    parts, treedef = jax.tree.flatten(node, is_leaf=lambda x: x is None or callable(x))
    for part in parts:
        _check(part, shapes)
    key = (owner, treedef, *(None if callable(part) else part for part in parts))
    with _lock:
        before = _look(parts)
        for i in reversed(range(len(_entries))):
            if _entries[i].key == key and _entries[i].surroundings.allow(before):
                _entries.append(_entries.pop(i))
                return _entries[-1].recorded
        recorded, surroundings = _record(parts, treedef, shapes, before)
        if surroundings.unknown or any(isinstance(c, Tracer) for c in recorded.constants):
            _log.debug("%r is compiled at every use: cannot compare what it refers to", node)
        else:
            _entries.append(_Entry(key, surroundings, recorded))
            del _entries[:-_MOST_NODES]
        return recorded


def _look(parts: list[Any]) -> Fingerprint:
    """All that the functions among the parts of a node can read."""
    prints = {i: fingerprint(p, package_of(p)) for i, p in enumerate(parts) if callable(p)}
    return {(i, *path): value for i, found in prints.items() for path, value in found.items()}


def _record(
    parts: list[Any], treedef: Any, shapes: dict[str, Any], before: Fingerprint
) -> tuple[Recorded, Surroundings]:
    def record() -> Recorded:
        # Defined anew at each call: JAX would not run the same function a second time.
        def evaluate(values: dict[str, Array]) -> Any:
            found = [_call(part, values) if callable(part) else values[part] for part in parts]
            return jax.tree.unflatten(treedef, found)

        return Recorded(evaluate, shapes)

    try:
        recorded = record()
        between = after = _look(parts)
        if between != before:  # what only the first run changes must be told from what each does
            recorded, after = record(), _look(parts)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        error.add_note(
            "A node that is a function is compiled: it has to compute with jax.numpy, and cannot "
            "ask for values in Python. Other code can use the arrays that sample_dict returns."
        )
        raise
    return recorded, Surroundings(before, between, after)


def _call(function: Any, values: dict[str, Array]) -> Any:
    found = function(SiteValues(values))
    try:
        if found is None:
            raise TypeError
        return jax.tree.map(jnp.asarray, found)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"a node that is a function must return arrays or numbers, but {name} returned "
            f"{found!r} of type {type(found).__name__}"
        ) from None


def _check(part: Any, shapes: dict[str, Any]) -> None:
    if isinstance(part, str):
        if part not in shapes:
            raise KeyError(_no_site(part, shapes))
    elif not callable(part):
        raise TypeError(
            "a node must be the name of a site, a function of the dict of site values, or a list, "
            f"tuple or dict of those; got {part!r} of type {type(part).__name__}"
        )


def _no_site(name: str, known: Any) -> str:
    return f"the model has no site {name!r}; its sites are {sorted(known)}"


def _evaluate(
    program: Program,
    rerun: Rerun | None,
    recorded: Recorded,
    point: Point,
    inputs: tuple[Inputs, Any, tuple[Array, ...]],
    key: Array,
) -> Any:
    """The node at one draw from q; for use inside compiled code."""
    of_model, more, constants = inputs
    if rerun is None:
        values = evaluate_draw(program, point, of_model, key).sites
    else:
        values = rerun_draw(program, rerun, point, of_model, more, key).sites
    return recorded.apply(constants, values)


@functools.lru_cache(maxsize=64)
def _at_draws(
    program: Program,
    rerun: Rerun | None,
    recorded: Recorded,
    size: int | None,
    block_size: int | None,
) -> Any:
    def many(point: Point, inputs: Any, key: Array) -> Any:
        one = functools.partial(_evaluate, program, rerun, recorded, point, inputs)
        values = over_draws(one, key, 1 if size is None else size, block_size)
        return jax.tree.map(lambda x: x[0], values) if size is None else values

    return jax.jit(many)


@functools.lru_cache(maxsize=64)
def _at_rows(
    program: Program, rerun: Rerun | None, recorded: Recorded, block_size: int | None
) -> Any:
    def many(rows: Array, theta: Array, inputs: Any) -> Any:
        def one(row_and_key: tuple[Array, Array]) -> Any:
            row, key = row_and_key
            point = Point(Histogram(row[None]), theta)
            return _evaluate(program, rerun, recorded, point, inputs, key)

        # A key for each row: what the model itself draws must not be the same at all of them.
        return in_blocks(one, (rows, jax.random.split(jax.random.key(0), len(rows))), block_size)

    return jax.jit(many)
