"""The arguments a model is bound to: which are data, which are part of the program."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.identity import fingerprint


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Positional and keyword arguments of one model call, leaf by leaf.

    Data leaves (anything with a shape and a numeric dtype, and Python or NumPy floats) are inputs
    of compiled code; all others, and the data leaves listed in `fixed`, are part of the program.

    Parameters
    ----------
    signature : inspect.Signature or None
        Signature of the model, which names the arguments.
    args, kwargs : tuple, dict
        What the model is called with.
    leaves : tuple
        Flattened ``(args, kwargs)``; data leaves are JAX arrays.
    names : tuple of str
        One readable name per leaf, such as ``X`` or ``batch['y']``.
    treedef : jax.tree_util.PyTreeDef
        How to rebuild ``(args, kwargs)`` from the leaves.
    is_data : tuple of bool
        Which leaves are data.
    fixed : frozenset of int
        Positions of data leaves whose values the model needs in Python.
    """

    signature: inspect.Signature | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    treedef: Any
    is_data: tuple[bool, ...]
    fixed: frozenset[int] = frozenset()

    @classmethod
    def bind(cls, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Arguments":
        """Take the arguments apart; the data are copied to the device here and only here."""
        signature = signature_of(fn)
        paths, treedef = jax.tree_util.tree_flatten_with_path((tuple(args), dict(kwargs)))
        names = tuple(_leaf_name(path, signature) for path, _ in paths)
        is_data = tuple(_is_data(leaf, name) for (_, leaf), name in zip(paths, names, strict=True))
        leaves = tuple(
            jnp.array(_numeric(leaf)) if data and not isinstance(leaf, jax.Array) else leaf
            for (_, leaf), data in zip(paths, is_data, strict=True)
        )
        return cls(signature, tuple(args), dict(kwargs), leaves, names, treedef, is_data)

    @property
    def inputs(self) -> list[int]:
        """Positions of the leaves that are inputs of compiled code."""
        return [i for i, data in enumerate(self.is_data) if data and i not in self.fixed]

    @property
    def data(self) -> tuple[jax.Array, ...]:
        """Values of those leaves."""
        return tuple(self.leaves[i] for i in self.inputs)

    def fix(self, positions: Sequence[int]) -> "Arguments":
        """Make data leaves part of the program."""
        return dataclasses.replace(self, fixed=self.fixed | frozenset(positions))

    def rebuild(self, data: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's ``(args, kwargs)`` with `data` in place of the input leaves."""
        leaves = [np.asarray(x) if i in self.fixed else x for i, x in enumerate(self.leaves)]
        for i, value in zip(self.inputs, data, strict=True):
            leaves[i] = value
        return jax.tree.unflatten(self.treedef, leaves)

    def program_key(self) -> tuple[Any, ...]:
        """Comparable description of all that is not an input, and of the inputs' types."""
        inputs = set(self.inputs)
        parts = [
            (x.shape, x.dtype, x.weak_type)
            if i in inputs
            else fingerprint(np.asarray(x) if i in self.fixed else x)
            for i, x in enumerate(self.leaves)
        ]
        return (jax.config.jax_enable_x64, self.treedef, tuple(parts))

    def replace(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` with some arguments replaced by name.

        Raises
        ------
        KeyError
            If the model has no argument of that name.
        """
        known = list(self.signature.parameters) if self.signature else list(self.kwargs)
        takes_any = self.signature is not None and any(
            p.kind is inspect.Parameter.VAR_KEYWORD for p in self.signature.parameters.values()
        )
        args, kwargs = list(self.args), dict(self.kwargs)
        for name, value in values.items():
            if name not in known and name not in kwargs and not takes_any:
                raise KeyError(
                    f"more_replacements names {name!r}, but the model's arguments are "
                    f"{sorted({*known, *kwargs})}"
                )
            position = known.index(name) if name in known else len(args)
            if name not in kwargs and position < len(args):
                args[position] = value
            else:
                kwargs[name] = value
        return tuple(args), kwargs


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Signature of the function under NumPyro's handlers, or None if it has none."""
    while not inspect.isroutine(fn) and callable(getattr(fn, "fn", None)):
        fn = fn.fn  # type: ignore[attr-defined]
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        return None


def check_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Fail early, and by name, when the model cannot be called with these arguments.

    Raises
    ------
    TypeError
        If an argument is missing or unknown.
    """
    signature = signature_of(fn)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"the model {getattr(fn, '__name__', type(fn).__name__)}{signature} cannot be called "
            f"with model_args of length {len(args)} and model_kwargs {sorted(kwargs)}: {error}"
        ) from None


def _leaf_name(path: tuple[Any, ...], signature: inspect.Signature | None) -> str:
    where, *rest = path
    if where.idx == 1:  # keyword arguments
        return f"{rest[0].key}{jax.tree_util.keystr(tuple(rest[1:]))}"
    position, tail = rest[0].idx, jax.tree_util.keystr(tuple(rest[1:]))
    for i, p in enumerate(signature.parameters.values() if signature else ()):
        if p.kind is inspect.Parameter.VAR_POSITIONAL:
            return f"{p.name}[{position - i}]{tail}"
        if i == position:
            return f"{p.name}{tail}"
    return f"model_args[{position}]{tail}"


def _is_data(leaf: Any, name: str) -> bool:
    if isinstance(leaf, jax.Array | float):
        return True
    if isinstance(leaf, np.generic):
        return isinstance(leaf, np.inexact)
    if not hasattr(leaf, "shape") or not isinstance(getattr(leaf, "dtype", None), np.dtype):
        return False
    if leaf.dtype == object:
        raise TypeError(
            f"model argument {name!r} is an array of object dtype; expected numbers. Convert it "
            "first, for example with .astype(float), or by encoding its categories as integers."
        )
    return jax.dtypes.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool


def _numeric(leaf: Any) -> Any:
    """Foreign arrays (a pandas Series, say) become NumPy arrays; all else is left alone."""
    if isinstance(leaf, jax.Array | np.ndarray) or not hasattr(leaf, "__array__"):
        return leaf
    return np.asarray(leaf) if hasattr(leaf, "dtype") else leaf
