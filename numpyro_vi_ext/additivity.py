"""What becomes of log densities when rows are put together: tried in numbers on few rows.

A minibatch stands for the full data only if the log density of a site is a sum over rows. Whether
it is cannot be read off a program, so it is tried: two halves of some rows have log densities that
add up to that of all, or that average to it (a mean over rows, or a sum that the model itself
multiplies by N over the number of rows), or are the same (nothing depends on rows), or none of
these (a Gaussian process, a time series).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.batching.plans import Stream
from numpyro_vi_ext.cache import find_traced
from numpyro_vi_ext.tracing import Program

Array = jax.Array

_MOST_ROWS = 8  # of each half: few, so that what does not add up is a large part of the sum
_SHIFTS = (0.3, -0.1, 0.5, -0.4)  # of z, where the model is tried
_TOLERANCE = 1e-4  # relative, of differences between log densities at two of these points
_RULES: dict[str, Callable[..., Any]] = {
    "adds": lambda one, other: one + other,
    "averages": lambda one, other: (one + other) / 2,
    "stays": lambda one, other: one,
}

Kinds = dict[str, frozenset[str]]


class Trial(NamedTuple):
    """What was found for the rows of one stream.

    Parameters
    ----------
    kinds : dict
        Name of a term of the log density -> all of "adds", "averages" and "stays" that it may be;
        none if it is none of them.
    shapes : pair of dicts
        Latent site or param -> shape, with some rows and with twice as many.
    """

    kinds: Kinds
    shapes: tuple[dict[str, Any], dict[str, Any]]


def try_rows(
    fn: Callable[..., Any], arguments: Arguments, stream: Stream, z: Array, theta: Array
) -> Trial:
    """Run the model on few rows of a stream, and on twice as many.

    Parameters
    ----------
    fn, arguments
        The model, and what it is called with.
    stream : tuple
        Identity of the rows in question.
    z, theta : array
        Near where to evaluate the model.
    """
    half = min(_MOST_ROWS, stream[1] // 2)
    if half == 0:
        return Trial({}, ({}, {}))
    few, many = (_trace(fn, _at_rows(arguments, stream, np.arange(k * half))) for k in (1, 2))
    shapes = _shapes(few.program), _shapes(many.program)
    if shapes[0] != shapes[1]:
        return Trial({}, shapes)
    random = {name for name, uses in many.program.terms_use.items() if uses[2]}  # its own draws
    found: dict[str, set[str]] = {}
    for rows in _choices(stream[1], half):
        parts = ((few, rows[:half]), (few, rows[half:]), (many, rows))
        values = (run.log_probs(_at_rows(arguments, stream, r), z, theta) for run, r in parts)
        for name, (one, other, both) in _by_name(*values):
            kinds = found.setdefault(name, set(_RULES))
            if name not in random:
                kinds &= _consistent(one, other, both)
    return Trial({name: frozenset(kinds) for name, kinds in found.items()}, shapes)


def _choices(length: int, half: int) -> Iterator[np.ndarray]:
    """Rows to try: neighbours, far ones in their order, and any; the first half goes together."""
    yield np.arange(2 * half)
    yield np.linspace(0, length - 1, 2 * half).astype(np.int64)
    yield np.random.default_rng(0).choice(length, 2 * half, replace=False, shuffle=False)


def _consistent(one: np.ndarray, other: np.ndarray, both: np.ndarray) -> set[str]:
    """What a term may be, by its values at the points of z."""
    finite = np.isfinite(one) & np.isfinite(other) & np.isfinite(both)
    if finite.sum() < 2:
        return set(_RULES)  # nothing can be told; the fit itself will say what is not finite
    one, other, both = one[finite], other[finite], both[finite]
    sizes = np.abs(one) + np.abs(other) + np.abs(both)
    rounding = 16 * float(jnp.finfo(jnp.result_type(float)).eps) * sizes.max()
    return {kind for kind, rule in _RULES.items() if _holds(rule, one, other, both, rounding)}


def _holds(rule: Any, one: np.ndarray, other: np.ndarray, both: np.ndarray, rounding: float) -> Any:
    """Whether a rule holds for most differences between two points, in which constants cancel."""
    held = []
    for i, j in itertools.combinations(range(len(one)), 2):
        a, b, c = one[i] - one[j], other[i] - other[j], both[i] - both[j]
        room = _TOLERANCE * (abs(a) + abs(b) + abs(c)) + rounding
        held.append(abs(rule(a, b) - c) <= room)
    return sum(held) > len(held) / 2


class _Run(NamedTuple):
    """The model traced for a number of rows, whichever these are."""

    program: Program
    fixed: frozenset[int]  # arguments that are part of the program

    def log_probs(self, arguments: Arguments, z: Array, theta: Array) -> dict[str, np.ndarray]:
        """Its terms at a few points around z, each of shape (points,)."""
        data, key = arguments.with_fixed(self.fixed).data, jax.random.key(0)
        pattern = jnp.cos(jnp.arange(z.size))  # rows may be independent where all of z is alike
        points = [z + shift * pattern for shift in _SHIFTS]
        found = [self.program.evaluate(point, theta, key, data).site_log_prob for point in points]
        return jax.tree.map(lambda *values: np.array(values), *jax.device_get(found))


def _trace(fn: Callable[..., Any], arguments: Arguments) -> _Run:
    try:
        program, bound = find_traced(fn, arguments, Program, (Program,))
    except Exception as error:
        error.add_note(
            "The model was tried with other numbers of rows than a batch has: it must run with any "
            "number of them, as in plate('rows', len(y))."
        )
        raise
    return _Run(program, bound.fixed)


def _at_rows(arguments: Arguments, stream: Stream, rows: np.ndarray) -> Arguments:
    """These rows in place of a batch; other cut axes as in the first step."""
    leaves = tuple(
        leaf if plan is None else plan.at_rows(leaf, stream, rows)
        for leaf, plan in zip(arguments.leaves, arguments.plans, strict=True)
    )
    return dataclasses.replace(arguments, leaves=leaves)


def _by_name(*values: dict[str, np.ndarray]) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    for name in values[0]:
        yield name, tuple(v[name] for v in values)


def _shapes(program: Program) -> dict[str, Any]:
    shapes: dict[str, Any] = {site.name: site.shape for site in program.layout.latents}
    params = program.evaluate.shapes.params
    return shapes | {n: jax.tree.map(lambda x: x.shape, value) for n, value in params.items()}
