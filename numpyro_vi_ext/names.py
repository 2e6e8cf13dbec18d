"""What the names in a function's code stand for: closure cells, globals, imported modules."""

import dis
import functools
import importlib.util
import sys
import types
from collections.abc import Iterable
from typing import Any


def closure_values(fn: types.FunctionType) -> Iterable[tuple[Any, Any]]:
    """Name and value of each closure cell."""
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield ("closure", name), cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            yield ("closure", name), Ellipsis


def global_values(fn: types.FunctionType) -> Iterable[tuple[Any, Any]]:
    """Name and value of each global and each import in the code, attributes of modules followed.

    The functions defined inside `fn` count as well.
    """
    for level, root, *attributes in _chains(fn.__code__):
        if level is None:
            value = fn.__globals__.get(root, Ellipsis)
        else:
            package = fn.__globals__.get("__package__") or ""
            name = importlib.util.resolve_name("." * level + root, package) if level else root
            value = sys.modules.get(name, Ellipsis)
        for name in attributes:
            if not isinstance(value, types.ModuleType):
                break
            value = getattr(value, name, Ellipsis)
        yield ("global", level, root, *attributes), value


@functools.lru_cache(maxsize=1024)
def _chains(code: types.CodeType) -> tuple[tuple[Any, ...], ...]:
    """Dotted names in the code: (None, global, attribute...) or (level, module, attribute...)."""
    chains: list[list[Any]] = []
    chain: list[Any] | None = None  # the one that an attribute would extend
    imported: list[Any] = []
    loaded: tuple[Any, Any] = (0, None)  # by the last two instructions
    for op in dis.get_instructions(code):
        if op.opname == "EXTENDED_ARG":  # a prefix of the next instruction
            continue
        if op.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            chain = [None, op.argval]
            chains.append(chain)
        elif op.opname == "IMPORT_NAME":
            level, names = loaded
            imported, chain = [level, op.argval], None
            if not names:  # import a.b.c: code may go on from a, or from c under another name
                chains += [imported, [level, op.argval.partition(".")[0]]]
        elif op.opname == "IMPORT_FROM":
            chains.append([*imported, op.argval])
        elif op.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain is not None:
            chain.append(op.argval)
        else:
            chain = None
        loaded = (loaded[1], op.argval)
    found = {tuple(c) for c in chains}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found.update(_chains(const))
    return tuple(sorted(found, key=str))
