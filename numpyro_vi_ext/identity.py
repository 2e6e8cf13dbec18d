"""What a model depends on besides its arguments: closures, globals, attributes.

A compiled program may be used again only while everything that the model reads is unchanged.
`fingerprint` walks a function the way the interpreter would look names up (defaults, closure
cells, the globals its code names, attributes of objects) and returns a flat dict from the path of
every value met to something that compares equal exactly when the value is the same. Functions and
classes of installed packages, other than the model's own, are taken not to change.
"""

import copyreg
import dataclasses
import functools
import hashlib
import io
import os
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path as FilePath
from typing import Any

import jax
import numpy as np
from numpyro import primitives

from numpyro_vi_ext.names import closure_values, global_values

Path = tuple[Any, ...]
Fingerprint = dict[Path, Any]
Parts = Iterable[tuple[Any, Any]]

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.generic, np.dtype)
_LONG = 1000  # a longer container of plain values is hashed as one
_MOST_PARTS = 200_000  # a larger object is not walked to the end
# Told apart by identity alone: they cannot change, or hold nothing that a model can read.
_INERT = (
    jax.Array,
    jax.Device,
    weakref.ref,
    io.IOBase,
    type(threading.Lock()),
    type(threading.RLock()),
    types.CodeType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)


class Same:
    """Equal only to a wrapper of the very same object, which it keeps alive."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj: Any = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.obj is other.obj

    def __hash__(self) -> int:
        return id(self.obj)

    def __repr__(self) -> str:
        return f"Same({self.obj!r})"


class Unknown:
    """Stands for a value that cannot be described; equal to nothing."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A function, equal to another one that does the same: fit to be part of a key.

    Parameters
    ----------
    function : callable
    read : dict
        Fingerprint of the function when this was made.
    """

    function: Callable[..., Any] = dataclasses.field(compare=False)
    read: Fingerprint = dataclasses.field(hash=False)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Compared":
        """The function as it is now: what it closes over may change later."""
        return cls(function, fingerprint(function))

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.function(*args)


def fingerprint(obj: Any, package: str = "") -> Fingerprint:
    """Describe everything that calling `obj` can read.

    Parameters
    ----------
    obj : object
        A model function, or any value (used for static model arguments as well).
    package : str
        An installed package whose functions and classes may change all the same.

    Returns
    -------
    dict
        Path (names and indices from `obj` down) to a comparable description. A part that cannot
        be described is `Unknown`, unequal to everything, so that the caller starts afresh.
    """
    found: Fingerprint = {}
    pending: list[tuple[Path, Any]] = [((), obj)]
    seen: dict[int, Path] = {}
    alive: list[Any] = []  # temporaries must outlive the walk, or their ids could be reused
    while pending:
        path, value = pending.pop()
        if isinstance(value, _ATOMS):
            found[path] = _atom(value)
        elif id(value) in seen:
            found[path] = ("seen", seen[id(value)])
        elif len(found) > _MOST_PARTS:
            return {(): Unknown()}
        else:
            seen[id(value)] = path
            alive.append(value)
            found[path], parts = _describe(value, package)
            pending.extend(((*path, name), part) for name, part in parts)
    return found


def package_of(fn: Any) -> str:
    """The package of the plain function under partials, methods and NumPyro handlers."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            fn = fn.__func__
        elif isinstance(fn, primitives.Messenger) and fn.fn is not None:
            fn = fn.fn
        else:
            return (getattr(fn, "__module__", None) or "").partition(".")[0]


def _describe(value: Any, package: str) -> tuple[Any, Parts]:
    """One value: its own description, and its named parts still to be walked."""
    if isinstance(value, _INERT):
        return Same(value), ()
    if type(value) in (np.ndarray, np.memmap):
        if value.dtype.hasobject:
            return (value.shape, value.dtype), enumerate(value.ravel().tolist())
        flat = np.ascontiguousarray(value).reshape(-1)
        data = flat.view(np.uint8) if value.dtype.itemsize else b""
        return (value.shape, value.dtype, _digest(data)), ()
    if type(value) in (list, tuple, set, frozenset):
        return _describe_values(value, list(value))
    if type(value) in (dict, types.MappingProxyType):
        keys = tuple(map(_label, value))
        description, parts = _describe_values(value, list(value.values()))
        return (description, keys), zip(keys, (part for _, part in parts), strict=False)
    if isinstance(value, types.FunctionType):
        return _describe_function(value, package)
    if isinstance(value, types.ModuleType):
        return Same(value), () if _is_library(value.__name__, package) else _module_parts(value)
    if isinstance(value, type):
        library = _is_library(value.__module__, package)
        return Same(value), () if library else _class_parts(value)
    return _describe_instance(value, package)


def _describe_values(container: Any, values: list[Any]) -> tuple[Any, Parts]:
    """A built-in container; sets in the order in which the model would see them."""
    description = (type(container), len(values))
    if len(values) > _LONG and all(isinstance(v, _ATOMS) for v in values):
        return (*description, _digest(pickle.dumps(values))), ()
    return description, enumerate(values)


def _describe_function(fn: types.FunctionType, package: str) -> tuple[Any, Parts]:
    closure = closure_values(fn)
    if _is_library(fn.__module__ or "", package):
        return Same(fn), closure  # a transformed function, say, closes over the user's own
    parts = [("defaults", fn.__defaults__), ("kwdefaults", fn.__kwdefaults__)]
    return fn.__code__, [*parts, ("attributes", fn.__dict__), *closure, *global_values(fn)]


def _describe_instance(value: Any, package: str) -> tuple[Any, Parts]:
    """An object: what it would be pickled as, taken apart; failing that, nothing is known."""
    kind = type(value)
    if isinstance(value, types.MethodType):
        return "method", [("self", value.__self__), ("func", value.__func__)]
    if isinstance(value, types.BuiltinFunctionType):
        if isinstance(value.__self__, types.ModuleType | None):
            return Same(value), ()
        return ("method", value.__name__), [("self", value.__self__)]
    if isinstance(value, staticmethod | classmethod):
        return kind, [("func", value.__func__)]
    if isinstance(value, property):
        return kind, [("get", value.fget)]
    if kind.__module__.partition(".")[0] == "numpyro_vi_ext":
        return Same(value), ()  # a value: never changed
    if _is_wrapper(value, package):
        attributes = {**getattr(value, "__dict__", {}), "__wrapped__": value.__wrapped__}
        attributes.pop("_jit_info", None)  # settings of jax.jit: they do not change, and are many
        return Same(value), attributes.items()
    try:
        reduce = copyreg.dispatch_table.get(kind)
        reduced: Any = reduce(value) if reduce else value.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of a global
            return Same(value), ()
        make, args, state, items, pairs, *_ = (*reduced, None, None, None)
        items, pairs = list(items or ()), list(pairs or ())
        has_state = state is not None and not (isinstance(state, dict) and not state)
        if not (has_state or items or pairs or any(a is not kind for a in args)):
            return Same(value), [("class", kind)]  # told from its like by identity alone
        return kind, enumerate((kind, make, args, state, items, pairs))
    except Exception:  # whatever refuses to be pickled cannot be compared either
        return Unknown(), ()


def _is_wrapper(value: Any, package: str) -> bool:
    """Whether a library written in C has jitted, cached, or the like, a function."""
    kind = type(value)
    calls = [vars(base).get("__call__") for base in kind.__mro__]
    written_in_python = any(isinstance(call, types.FunctionType) for call in calls)
    if isinstance(value, functools.partial) or written_in_python:
        return False
    return hasattr(value, "__wrapped__") and _is_library(kind.__module__, package)


def _class_parts(cls: type) -> Parts:
    yield from ((("base", base.__name__), base) for base in cls.__bases__)
    for name, value in vars(cls).items():
        special = name.startswith("__") or name == "_abc_impl"
        if not special or callable(value) or isinstance(value, staticmethod | classmethod):
            yield name, value


def _module_parts(module: types.ModuleType) -> Parts:
    return [(k, v) for k, v in vars(module).items() if not k.startswith("__")]


def _is_library(module: Any, package: str) -> bool:
    """Whether a module belongs to an installed package, other than the model's own."""
    if not isinstance(module, str):
        return True  # of a class made in C
    top = module.partition(".")[0]
    if top in ("builtins", "jax", "jaxlib", "numpyro", "numpyro_vi_ext"):
        return True
    return top not in ("__main__", package) and _is_installed(top)


@functools.lru_cache(maxsize=512)
def _is_installed(top: str) -> bool:
    module = sys.modules.get(top)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    known = [place for place in places if place]
    if not known:
        return top in sys.stdlib_module_names
    standard = os.path.dirname(os.__file__)
    return known[0].startswith(standard + os.sep) or bool(
        {"site-packages", "dist-packages"} & set(FilePath(known[0]).parts)
    )


def _atom(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) and len(value) > _LONG:
        return type(value), len(value), _digest(pickle.dumps(value))
    return type(value), value if isinstance(value, int | str | bytes) else repr(value)


def _label(key: Any) -> Any:
    if type(key) is tuple:
        return tuple(map(_label, key))
    return key if isinstance(key, _ATOMS) else Same(key)


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
