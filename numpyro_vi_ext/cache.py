"""Traced models, kept for as long as nothing that they read has changed."""

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.batching.minibatch import Minibatch
from numpyro_vi_ext.batching.streaming import Part, Stream
from numpyro_vi_ext.checks import as_points
from numpyro_vi_ext.errors import only_batches
from numpyro_vi_ext.identity import Fingerprint, Path, Same, Unknown, fingerprint, package_of
from numpyro_vi_ext.layout import Layout
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.tracing import Evaluation, Program

Array = jax.Array

_CACHE_SIZE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A traced model and the data it is evaluated on.

    Parameters
    ----------
    program : Program
        Pure functions of flat arrays.
    data : tuple of arrays
        Values of the model's data arguments.
    streamed : tuple of str
        For each of them, its name if only its first batch is at hand, else "".
    """

    program: Program
    data: tuple[Array, ...]
    streamed: tuple[str, ...] = ()

    @functools.cached_property
    def partial(self) -> frozenset[str]:
        """Deterministic and observed sites of which only the values for a batch are known."""
        if not any(self.streamed):
            return frozenset()
        return self.program.sites_of_data(tuple(map(bool, self.streamed)))

    def known(self, values: dict[str, Array]) -> dict[str, Array]:
        """Values of sites, without those that would be values for one batch."""
        return {name: value for name, value in values.items() if name not in self.partial}

    def check_data(self, what: str) -> None:
        """Raise the error of `only_batches` if there are no more data than a batch."""
        if any(self.streamed):
            raise only_batches(what, filter(None, self.streamed))

    @property
    def layout(self) -> Layout:
        """Sites and their places."""
        return self.program.layout

    @property
    def inputs(self) -> Inputs:
        """All that compiled code reads besides q."""
        return self.data, self.program.evaluate.constants

    def initial_params(self, key: Array) -> Array:
        """Unconstrained values at which the model starts its param sites, flat."""
        shape = self.program.start.shapes.theta
        return self.program.start(key, self.data).theta if shape.size else jnp.zeros(0, shape.dtype)

    def evaluate(self, z: Array, theta: Array, key: Array) -> Evaluation:
        """Evaluate the model at one point ``z`` of shape (ndim,)."""
        return self.program.evaluate(z, theta, key, self.data)

    def evaluate_all(self, z: Any, theta: Array, key: Array) -> Evaluation:
        """Evaluate the model at points of shape (..., ndim), vectorised.

        Raises
        ------
        TypeError, ValueError
            If they are not numbers, or the last axis is not of length `ndim`.
        """
        z = as_points(z, self.layout.ndim)
        evaluate = self.evaluate
        for _ in z.shape[:-1]:
            evaluate = jax.vmap(evaluate, (0, None, None))
        return evaluate(z, theta, key)


class Surroundings:
    """What a model read when it was traced, in all states that leave the traced program valid.

    A model may itself change what it reads. What its second run leaves as it is (an attribute set
    once, a filled cache) may be in the state before or after; what every run changes (a counter, a
    log of calls) is not looked at.

    Parameters
    ----------
    before, between, after : dict
        Fingerprints of the model before the first of two runs, between them, and after.
    """

    def __init__(self, before: Fingerprint, between: Fingerprint, after: Fingerprint) -> None:
        self.unknown: tuple[Path, ...] = tuple(
            path for path, value in after.items() if isinstance(value, Unknown)
        )
        self._restless = frozenset(
            path for path in {*between, *after} if between.get(path) != after.get(path)
        )
        before, after = self._settled(before), self._settled(after)
        self._states = {path: (before.get(path), after.get(path)) for path in {*before, *after}}

    def allow(self, now: Fingerprint) -> bool:
        """Whether the model would read the same as then."""
        root = self._states.get(())
        if root is not None and now[()] not in root:
            return False  # another function
        now = self._settled(now)
        return now.keys() <= self._states.keys() and all(
            now.get(path) in states for path, states in self._states.items()
        )

    def _settled(self, found: Fingerprint) -> Fingerprint:
        """Leave out the restless paths and everything below them."""
        if not self._restless:
            return found
        return {
            path: value
            for path, value in found.items()
            if not any(path[:k] in self._restless for k in range(len(path) + 1))
        }


# (fn, rebuild, data) -> a model that was run once, and runs for the second time when its property
# `evaluate` is first read
Maker = Callable[[Callable[..., Any], Callable[..., Any], tuple[Array, ...]], Any]


class _Entry(NamedTuple):
    surroundings: Surroundings
    fixed: frozenset[int]
    key: tuple[Any, ...]
    traced: Any


_log = logging.getLogger("numpyro_vi_ext")
_lock = threading.RLock()
_entries: list[_Entry] = []  # the most recently used last


def find_target(fn: Callable[..., Any], arguments: Arguments) -> Target:
    """The model laid out and traced, from the cache if nothing that it reads has changed."""
    try:
        program, bound = find_traced(fn, arguments, Program, (Program,))
    except Exception as error:
        names = [arguments.names[i] for i in sorted(arguments.streamed)]
        if names:
            error.add_note(
                f"The model was run with one batch of {names}, which come from a Stream. What "
                "belongs to the same rows must come from the same Stream: model_args="
                "(stream['X'], stream['y'])."
            )
        raise
    streamed = tuple(bound.names[i] if i in bound.streamed else "" for i in bound.inputs)
    return Target(program, bound.data, streamed)


def find_traced(
    fn: Callable[..., Any], arguments: Arguments, make: Maker, kind: tuple[Any, ...]
) -> tuple[Any, Arguments]:
    """What `make` makes of the model, and the arguments with what it took as constants fixed.

    Parameters
    ----------
    fn : callable
        The model.
    arguments : Arguments
        What it is called with.
    make : callable
        ``(fn, rebuild, data)`` -> a `Program`, or something like it.
    kind : tuple
        Tells what different makers make apart.
    """
    with _lock:
        look = functools.partial(fingerprint, fn, package_of(fn))
        before = look()
        for i in reversed(range(len(_entries))):
            entry = _entries[i]
            if entry.key[: len(kind)] == kind and entry.surroundings.allow(before):
                bound = arguments.with_fixed(entry.fixed)
                if entry.key == (*kind, bound.program_key()):
                    _entries.append(_entries.pop(i))
                    return entry.traced, bound
        try:
            bound, traced, between = _trace(fn, arguments, make, look)
        except Exception as error:
            _blame_batches(error, before)
            raise
        surroundings = Surroundings(before, between, look())
        if surroundings.unknown or not bound.is_comparable():
            what = surroundings.unknown or "a static argument"
            _log.debug("%r is traced at every use: cannot compare %s", fn, what)
        else:
            key = (*kind, bound.program_key())
            _entries.append(_Entry(surroundings, bound.fixed, key, traced))
            del _entries[:-_CACHE_SIZE]
        return traced, bound


def _blame_batches(error: Exception, read: Fingerprint) -> None:
    """Say so where the model found batches that it cannot have the values of."""
    for found in read.values():
        if isinstance(found, Same) and isinstance(found.obj, Minibatch | Part | Stream):
            error.add_note(
                f"The model reads {found.obj!r} from outside of its arguments, where it has no "
                "values. Make it an argument, as in model_args=(X_mb,)."
            )


def _trace(
    fn: Callable[..., Any], arguments: Arguments, make: Maker, look: Callable[[], Fingerprint]
) -> tuple[Arguments, Any, Fingerprint]:
    """Trace with as many data as inputs as the model allows.

    A model that fails on an input, because it asks for its value or for something that only the
    object passed in can do, gets that argument as a constant. Also returned: what the model read
    between its two runs.
    """

    def attempt(fixed: frozenset[int]) -> tuple[Arguments, Any, Fingerprint]:
        bound = arguments.with_fixed(fixed)
        traced = make(fn, bound.rebuilder(), bound.data)
        between = look()
        _ = traced.evaluate  # the second run
        return bound, traced, between

    inputs = frozenset(arguments.inputs)
    try:
        return attempt(frozenset())
    except Exception:
        if not inputs:
            raise
    found = attempt(inputs)  # if even this fails, with the error that NumPyro would give
    for i in sorted(inputs):  # give back, one by one, what need not be a constant
        try:
            found = attempt(found[0].fixed - {i})
        except Exception:
            continue
    return found
