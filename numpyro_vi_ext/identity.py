"""What a model depends on besides its arguments: closures, globals, attributes.

A compiled program may be used again only while everything that the model reads is unchanged.
`fingerprint` walks a function the way the interpreter would look names up (defaults, closure
cells, the globals its code names, attributes of objects) and returns a flat dict from the path of
every value met to something that compares equal exactly when the value is the same. Comparing
two such dicts tells what changed.
"""

import dis
import functools
import hashlib
import pickle
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

Path = tuple[Any, ...]
Fingerprint = dict[Path, Any]

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.generic, np.dtype)
_LIBRARY_PATHS = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_LONG = 1000  # a longer list of values is hashed as one


class Same:
    """Equal only to a wrapper of the very same object, which it keeps alive."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.obj is other.obj

    def __hash__(self) -> int:
        return id(self.obj)

    def __repr__(self) -> str:
        return f"Same({self.obj!r})"


def fingerprint(obj: Any) -> Fingerprint:
    """Describe everything that calling `obj` can read.

    Parameters
    ----------
    obj : object
        A model function, or any value (used for static model arguments as well).

    Returns
    -------
    dict
        Path (names and indices from `obj` down) to a comparable description. A part that cannot
        be described compares unequal to everything, so that the caller starts afresh.
    """
    found: Fingerprint = {}
    pending: list[tuple[Path, Any]] = [((), obj)]
    seen: dict[int, Path] = {}
    alive: list[Any] = []  # temporaries must outlive the walk, or their ids could be reused
    package = (getattr(innermost(obj), "__module__", None) or "").partition(".")[0]
    while pending:
        path, value = pending.pop()
        if isinstance(value, _ATOMS):
            found[path] = (type(value), repr(value))
        elif id(value) in seen:
            found[path] = ("seen", seen[id(value)])
        else:
            seen[id(value)] = path
            alive.append(value)
            found[path], parts = _describe(value, package)
            pending.extend(((*path, name), part) for name, part in parts)
    return found


def changed_paths(before: Fingerprint, after: Fingerprint) -> frozenset[Path]:
    """Paths whose description differs between two fingerprints of the same object."""
    return frozenset(p for p in {*before, *after} if before.get(p) != after.get(p))


def without(found: Fingerprint, paths: frozenset[Path]) -> Fingerprint:
    """Leave out the given paths and everything below them."""
    if not paths:
        return found
    return {
        path: value
        for path, value in found.items()
        if not any(path[:k] in paths for k in range(len(path) + 1))
    }


def innermost(obj: Any) -> Any:
    """Unwrap partials, methods and NumPyro handlers down to the plain function."""
    while True:
        if isinstance(obj, functools.partial):
            obj = obj.func
        elif isinstance(obj, types.MethodType):
            obj = obj.__func__
        elif not isinstance(obj, types.FunctionType) and callable(getattr(obj, "fn", None)):
            obj = obj.fn
        else:
            return obj


Parts = Iterator[tuple[Any, Any]]


def _describe(value: Any, package: str) -> tuple[Any, Parts]:
    """One value: its own description, and its named parts still to be walked."""
    if isinstance(value, jax.Array):
        return Same(value), iter(())  # immutable: the same object is the same value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return (value.shape, value.dtype.str, _digest(value)), iter(())
    if isinstance(value, np.ndarray | list | tuple):
        if len(value) > _LONG:
            return _pickled(value), iter(())
        return (type(value), np.shape(value) if isinstance(value, np.ndarray) else len(value)), iter(
            enumerate(value)
        )
    if isinstance(value, dict):
        return (dict, len(value)), ((_label(k), v) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return (type(value), len(value), frozenset(map(_label, value))), iter(())
    if isinstance(value, types.CodeType | types.BuiltinFunctionType | property):
        return Same(value), iter(())
    if isinstance(value, types.ModuleType) or _is_library(value, package):
        return Same(value), iter(())
    if isinstance(value, types.FunctionType):
        return value.__code__, _function_parts(value)
    if isinstance(value, type):
        return Same(value), _class_parts(value)
    return _describe_instance(value)


def _describe_instance(value: Any) -> tuple[Any, Parts]:
    """An object: its class and attributes; failing those its pickle; failing that, nothing."""
    if isinstance(value, types.MethodType):
        return "method", iter([("self", value.__self__), ("func", value.__func__)])
    if isinstance(value, functools.partial):
        parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
        return "partial", iter(parts.items())
    attributes = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and not name.startswith("__"):
                attributes[name] = getattr(value, name)
    if "__wrapped__" in attributes or hasattr(value, "__wrapped__"):
        attributes["__wrapped__"] = value.__wrapped__  # a jitted or decorated function
        return Same(value), iter(attributes.items())
    if attributes and type(value).__reduce__ is object.__reduce__:
        return ("instance", len(attributes)), iter([("class", type(value)), *attributes.items()])
    return _pickled(value), iter(())


def _function_parts(fn: types.FunctionType) -> Parts:
    """Defaults, closure, and what the code's own names stand for."""
    yield "defaults", fn.__defaults__
    yield "kwdefaults", fn.__kwdefaults__
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield ("closure", name), cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            yield ("closure", name), Ellipsis
    for names in _global_chains(fn.__code__):
        value = fn.__globals__.get(names[0], Ellipsis)
        for name in names[1:]:  # module.submodule.attribute
            if not isinstance(value, types.ModuleType):
                break
            value = getattr(value, name, Ellipsis)
        yield ("global", *names), value


@functools.lru_cache(maxsize=1024)
def _global_chains(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Dotted names that start at a global, in this code and the functions defined inside it."""
    chains: list[list[str]] = []
    chain: list[str] | None = None
    for op in dis.get_instructions(code):
        if op.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            chain = [op.argval]
            chains.append(chain)
        elif op.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain is not None:
            chain.append(op.argval)
        elif op.opname != "CACHE":
            chain = None
    found = {tuple(c) for c in chains}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found.update(_global_chains(const))
    return tuple(sorted(found))


def _class_parts(cls: type) -> Parts:
    for base in cls.__bases__:
        yield ("base", base.__name__), base
    for name, value in vars(cls).items():
        if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"):
            continue
        yield name, value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _is_library(value: Any, package: str) -> bool:
    """Functions and classes of installed packages, other than the model's own, do not change."""
    if not isinstance(value, types.FunctionType | type):
        return False
    top = (getattr(value, "__module__", None) or "").partition(".")[0]
    if top in sys.stdlib_module_names or top in ("jax", "numpyro"):
        return True
    return top != package and _is_installed(top)


@functools.lru_cache(maxsize=512)
def _is_installed(top: str) -> bool:
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return file.startswith(_LIBRARY_PATHS)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8), digest_size=16).digest()


def _label(key: Any) -> Any:
    return key if isinstance(key, _ATOMS) else Same(key)


def _pickled(value: Any) -> Any:
    try:
        return type(value), hashlib.blake2b(pickle.dumps(value), digest_size=16).digest()
    except Exception:  # whatever refuses to be pickled cannot be compared either
        return Same(object())
