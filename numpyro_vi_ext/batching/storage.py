"""Data on their way to the device: what a batch is cut from, and batches themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from numpyro_vi_ext.batching.total_size import spread
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.errors import warn

Array = jax.Array


def as_array(data: Any) -> np.ndarray | Array:
    """The data as they came, if they are numbers at all."""
    if isinstance(data, Tracer):
        raise TypeError(
            "data must be known when the Minibatch is made, got a value that JAX is tracing: make "
            "the Minibatch outside of the model and of compiled functions"
        )
    if np.ma.isMaskedArray(data) and np.ma.is_masked(data):
        raise TypeError(
            "data must have no missing values, got a masked array; fill them in, or pass the mask "
            "as data of its own"
        )
    is_key = isinstance(data, jax.Array) and jnp.issubdtype(data.dtype, jax.dtypes.prng_key)
    try:
        array = data if isinstance(data, jax.Array) and not is_key else np.asarray(data)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"data must be an array of numbers, got {type(data).__name__}: {error}"
        ) from None
    if kind_of(array.dtype) == "other":
        raise TypeError(
            f"data must be an array of numbers, got {type(data).__name__} of dtype {array.dtype}; "
            "convert it first, for example with .astype(float), or encode its categories as ints"
        )
    if array.ndim == 0:
        raise ValueError(f"data must have at least one axis, got the single value {array}")
    return array


def kind_of(dtype: Any) -> str:
    """One word for a dtype: what can stand for it are those of the same word."""
    kinds = {"bool": np.bool_, "integer": jnp.integer, "float": jnp.floating}
    kinds["complex"] = jnp.complexfloating
    found = [name for name, kind in kinds.items() if jnp.issubdtype(dtype, kind)]
    return found[0] if found and dtype.kind != "m" else "other"  # NumPy's durations are integers


def as_dtype(forced: Any, given: Any) -> np.dtype:
    """Type to store data of the type `given` in."""
    if forced is None:
        native = given.newbyteorder("=")  # a file may have the other one, JAX has not
        forced = float if kind_of(given) == "float" else jax.dtypes.canonicalize_dtype(native)
    try:
        is_python = isinstance(forced, type) and forced in (bool, int, float, complex)
        dtype = np.dtype(jnp.result_type(forced) if is_python else jnp.dtype(forced))
    except TypeError:
        dtype = np.dtype(object)
    if kind_of(dtype) == "other":
        raise TypeError(f"dtype must be a type of numbers, such as 'float32', got {forced!r}")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"dtype must be one that JAX is set up for, got {dtype}: set jax_enable_x64, or ask "
            f"for {jax.dtypes.canonicalize_dtype(dtype)}"
        )
    return dtype


def as_stored(array: np.ndarray | Array, dtype: np.dtype) -> Array:
    """Put the data on the device, as a copy unless they are there already."""
    if array.size == 0:
        raise ValueError(f"data must not be empty, got an array of shape {array.shape}")
    _warn_of_nan(array)
    if isinstance(array, jax.Array) and array.dtype == dtype:
        return array
    return jax.device_put(as_copy(array, dtype))  # may be that very memory: nobody else has it


def as_copy(array: np.ndarray | Array, dtype: np.dtype) -> np.ndarray:
    """A copy of the data, which are not empty, in a type that they fit."""
    copy = np.empty(array.shape, dtype)
    copy_into(copy, array)
    return copy


def copy_into(copy: np.ndarray, array: np.ndarray | Array) -> None:
    """Copy data, which are not empty, into an array of their shape and a type that they fit."""
    given, dtype = np.asarray(array), copy.dtype
    fits = True
    if kind_of(dtype) == "integer" and given.dtype != dtype:
        info = jnp.iinfo(dtype)
        fits = bool(given.min() >= info.min and given.max() <= info.max)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            np.copyto(copy, given, casting="unsafe")
    except FloatingPointError:
        fits = False
    if not fits:
        raise ValueError(
            f"data must fit the type {dtype}, got values from {given.min()} to {given.max()}; "
            "rescale or recode them, or pass another dtype (64 bits need jax_enable_x64)"
        )


def _warn_of_nan(array: np.ndarray | Array) -> None:
    if kind_of(array.dtype) not in ("float", "complex"):
        return
    xp = jnp if isinstance(array, jax.Array) else np
    count = int(xp.isnan(array).sum())
    if count:
        warn(
            f"data of shape {array.shape} have {count:,d} NaN: every batch with one of them "
            "has a log density of NaN. Leave these rows out, fill them in, or mask them",
        )


def kept_slices(in_memory_size: Any, ndim: int) -> tuple[slice, ...]:
    """Read `in_memory_size` as one slice per axis."""
    is_list = isinstance(in_memory_size, list | tuple)
    entries = spread(in_memory_size, ndim, "in_memory_size") if is_list else (in_memory_size,)
    kept = []
    for entry in entries:
        if entry is None or isinstance(entry, slice):
            kept.append(entry or slice(None))
            continue
        try:
            kept.append(slice(as_count(entry, "in_memory_size", 1)))
        except TypeError:
            raise TypeError(
                "in_memory_size must be None, an int, a slice, or a list with an int, a slice, "
                f"None or one Ellipsis per leading axis; got {entry!r} of type "
                f"{type(entry).__name__}"
            ) from None
    return tuple(kept)


def as_leaf(leaf: Any, name: str) -> jax.Array | None:
    """A leaf of a model's arguments as a JAX array (a copy) if it is data, else None."""
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, float | np.generic):
        return jnp.asarray(leaf) if isinstance(leaf, float | np.inexact) else None
    if not (hasattr(leaf, "shape") and hasattr(leaf, "__array__")):
        return None
    if not isinstance(getattr(leaf, "dtype", None), np.dtype) or np.ma.isMaskedArray(leaf):
        return None  # a table, say, or a dtype of another library
    if leaf.dtype == object:
        raise TypeError(
            f"model argument {name!r} is an array of object dtype; expected numbers. Convert it "
            "first, for example with .astype(float), or by encoding its categories as integers."
        )
    if not (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool):
        return None
    # copied by NumPy: JAX may take an array that it has seen for unchanged
    with np.errstate(over="ignore"):
        array = np.array(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    if array.dtype.kind in "iu" and not np.array_equal(array, leaf):
        return None  # too large for JAX's integers: only NumPy can compute with them
    return jnp.array(array)
