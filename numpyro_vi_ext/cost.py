"""What a JAX program costs, counted and not timed: the same on every machine."""

from typing import Any


def numbers_moved(jaxpr: Any) -> int:
    """Numbers that the operations of a JAX program read and write; in a scan, in all its turns."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [x for part in eqn.params.values() for x in _programs(part)]
        if inner:
            total += eqn.params.get("length", 1) * sum(map(numbers_moved, inner))
        else:
            total += sum(getattr(x.aval, "size", 0) for x in (*eqn.invars, *eqn.outvars))
    return total


def _programs(part: Any) -> list[Any]:
    parts = part if isinstance(part, tuple | list) else (part,)
    return [getattr(x, "jaxpr", x) for x in parts if hasattr(x, "eqns")]
