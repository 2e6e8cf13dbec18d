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
from numpyro_vi_ext.identity import Fingerprint, Unknown, fingerprint, package_of
from numpyro_vi_ext.layout import Layout
from numpyro_vi_ext.tracing import Evaluation, Program

Array = jax.Array
Inputs = tuple[tuple[Array, ...], tuple[Array, ...]]  # argument data, closed-over arrays

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
    """

    program: Program
    data: tuple[Array, ...]

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
        self.unknown = tuple(path for path, value in after.items() if isinstance(value, Unknown))
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


class _Entry(NamedTuple):
    surroundings: Surroundings
    fixed: frozenset[int]
    program_key: Any
    program: Program


_log = logging.getLogger("numpyro_vi_ext")
_lock = threading.RLock()
_entries: list[_Entry] = []  # the most recently used last


def find_target(fn: Callable[..., Any], arguments: Arguments) -> Target:
    """The traced model, from the cache if nothing that it reads has changed."""
    with _lock:
        look = functools.partial(fingerprint, fn, package_of(fn))
        before = look()
        for i in reversed(range(len(_entries))):
            entry = _entries[i]
            if entry.surroundings.allow(before):
                fixed = arguments.with_fixed(entry.fixed)
                if entry.program_key == fixed.program_key():
                    _entries.append(_entries.pop(i))
                    return Target(entry.program, fixed.data)
        fixed, program, between = _trace(fn, arguments, look)
        surroundings = Surroundings(before, between, look())
        if surroundings.unknown or not fixed.is_comparable():
            what = surroundings.unknown or "a static argument"
            _log.debug("%r is traced at every use: cannot compare %s", fn, what)
        else:
            _entries.append(_Entry(surroundings, fixed.fixed, fixed.program_key(), program))
            del _entries[:-_CACHE_SIZE]
        return Target(program, fixed.data)


def _trace(
    fn: Callable[..., Any], arguments: Arguments, look: Callable[[], Fingerprint]
) -> tuple[Arguments, Program, Fingerprint]:
    """Trace with as many data as inputs as the model allows.

    A model that fails on an input, because it asks for its value or for something that only the
    object passed in can do, gets that argument as a constant. Also returned: what the model read
    between its two runs.
    """

    def attempt(fixed: frozenset[int]) -> tuple[Arguments, Program, Fingerprint]:
        bound = arguments.with_fixed(fixed)
        program = Program(fn, bound.rebuilder(), bound.data)
        between = look()
        _ = program.evaluate  # the second run
        return bound, program, between

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
