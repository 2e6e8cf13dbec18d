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
        inner = _inner(operation)
        if inner:
            total += operation.params.get("length", 1) * sum(map(numbers_moved, inner))
        else:
            arrays = (*operation.invars, *operation.outvars)
            total += sum(getattr(x.aval, "size", 0) for x in arrays)
    return total


def _inner(operation: Any) -> list[Any]:
    """The programs that an operation runs, such as the body of a loop."""
    is_program = lambda x: hasattr(x, "eqns")  # noqa: E731
    return [*filter(is_program, jax.tree.leaves(operation.params, is_leaf=is_program))]
