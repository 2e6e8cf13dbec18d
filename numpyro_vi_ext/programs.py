"""JAX programs as they are recorded: their operations, and what these cost; counted, not timed."""

from collections.abc import Iterator
from typing import Any

import jax


def operations(program: Any) -> Iterator[Any]:
    """All operations of a JAX program, at any depth."""
    for operation in program.eqns:
        yield operation
        for inner in _inner(operation):
            yield from operations(inner)


def numbers_moved(program: Any) -> int:
    """Numbers that the operations of a JAX program read and write; in a scan, in all its turns."""
    total = 0
    for operation in program.eqns:
        arrays = (*operation.invars, *operation.outvars)
        own = sum(getattr(x.aval, "size", 0) for x in arrays)
        inside = operation.params.get("length", 1) * sum(map(numbers_moved, _inner(operation)))
        total += max(own, inside)  # a scatter, too, holds a program: how two numbers are combined
    return total


def _inner(operation: Any) -> list[Any]:
    """The programs that an operation runs, such as the body of a loop."""
    parts = jax.tree.leaves(operation.params, is_leaf=_is_program)
    return [part for part in parts if _is_program(part)]


def _is_program(part: Any) -> bool:
    return hasattr(part, "eqns")  # a Jaxpr, closed or not
