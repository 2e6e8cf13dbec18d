"""Evaluating a *node* under q: a site by name, a function of site values, or several of them."""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.evaluate import Elsewhere, evaluate_draw, in_blocks, over_draws, rerun_draw
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.identity import Unknown, fingerprint, package_of
from numpyro_vi_ext.model import Inputs, Target
from numpyro_vi_ext.rerun import Rerun
from numpyro_vi_ext.tracing import Program, Recorded

Array = jax.Array

_log = logging.getLogger("numpyro_vi_ext")
_MOST_NODES = 128
_nodes: dict[Any, Recorded] = {}  # the most recently used last


class SiteValues(dict[str, Array]):
    """Values of all sites by name: what a node that is a function gets."""

    def __missing__(self, name: str) -> Array:
        raise KeyError(_no_site(name, self))


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
        return recorded, None, (target.inputs, (), recorded.constants)
    rerun = elsewhere.again.rerun
    recorded = record_node(node, rerun, rerun.shapes.sites)
    return recorded, rerun, (target.inputs, elsewhere.inputs, recorded.constants)


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
    prints = [tuple(fingerprint(p, package_of(p)).items()) if callable(p) else p for p in parts]
    key = (owner, treedef, *prints)
    recorded = _nodes.pop(key, None) or _record(parts, treedef, shapes)
    if any(isinstance(value, Unknown) for p in prints if type(p) is tuple for _, value in p):
        _log.debug("%r is compiled at every use: cannot compare what it refers to", node)
        return recorded
    _nodes[key] = recorded
    while len(_nodes) > _MOST_NODES:
        _nodes.pop(next(iter(_nodes)))
    return recorded


def _record(parts: list[Any], treedef: Any, shapes: dict[str, Any]) -> Recorded:
    def evaluate(values: dict[str, Array]) -> Any:
        found = [part(SiteValues(values)) if callable(part) else values[part] for part in parts]
        return jax.tree.map(jnp.asarray, jax.tree.unflatten(treedef, found))

    try:
        return Recorded(evaluate, shapes)
    except jax.errors.JAXTypeError as error:
        error.add_note(
            "A node that is a function is compiled: it has to compute with jax.numpy, and cannot "
            "ask for values in Python. Other code can use the arrays that sample_dict returns."
        )
        raise


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
        def one(row: Array) -> Any:
            point = Point(Histogram(row[None]), theta)
            return _evaluate(program, rerun, recorded, point, inputs, jax.random.key(0))

        return in_blocks(one, rows, block_size)

    return jax.jit(many)
